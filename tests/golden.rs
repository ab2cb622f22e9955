//! Golden text tests of the pure decisions in `mirror`: commands and their full expected output, in
//! `tests/golden/*.txt` (the idea is etcd raft's `testdata`).
//!
//! A file is played from top to bottom against one fresh state by the suite that its name begins
//! with: `topic_plan.txt` and `topic_plan_racks.txt` both belong to the suite `topic_plan`.
//!
//! ```text
//! # Lines of a comment, and empty lines, stay as they are.
//! command with its arguments
//! more lines of the same command
//! ----
//! what the command puts out, up to the next empty line
//! ```
//!
//! `LOCKSTEP_BLESS=1 cargo test --test golden` writes what came out into the files: read the
//! difference before you commit it.

// A file that cannot be played fails the test; clippy sees only `#[test]` functions as tests.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "golden/epoch_bump.rs"]
mod epoch_bump;
#[path = "golden/metadata_log.rs"]
mod metadata_log;
#[path = "golden/partition.rs"]
mod partition;
#[path = "golden/strays.rs"]
mod strays;
#[path = "golden/topic_plan.rs"]
mod topic_plan;

use std::fmt::Write as _;
use std::path::Path;

/// One state and what commands do to it.
type Player = Box<dyn FnMut(&str) -> String>;

/// What the files of a suite begin with, and who plays them.
type Suite = (&'static str, fn() -> Player);

const SUITES: [Suite; 4] = [
    ("epoch_bump", || player(epoch_bump::run)),
    ("partition", || player(partition::run)),
    ("strays", || player(strays::run)),
    ("topic_plan", || player(topic_plan::run)),
];

fn player<State: Default + 'static>(run: fn(&mut State, &str) -> String) -> Player {
    let mut state = State::default();
    Box::new(move |command| run(&mut state, command))
}

#[test]
fn golden_files_hold() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let bless = std::env::var_os("LOCKSTEP_BLESS").is_some_and(|value| value == "1");
    let mut paths: Vec<_> =
        std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "txt"));
    paths.sort();
    assert!(!paths.is_empty(), "no golden files in {}", folder.display());
    let failures: Vec<_> = paths.iter().filter_map(|path| check(path, bless)).collect();
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

/// Plays one file; what is wrong with it, if anything.
fn check(path: &Path, bless: bool) -> Option<String> {
    let name = path.file_stem()?.to_str()?;
    let (_, new) = SUITES
        .iter()
        .filter(|(suite, _)| name.starts_with(suite))
        .max_by_key(|(suite, _)| suite.len())
        .unwrap_or_else(|| panic!("{name}.txt belongs to no suite"));
    let expected = std::fs::read_to_string(path).unwrap();
    let actual = play(&expected, new());
    if actual == expected {
        return None;
    }
    if bless {
        std::fs::write(path, actual).unwrap();
        return None;
    }
    Some(difference(path, &expected, &actual))
}

/// The whole text with the outputs replaced by what really comes out.
fn play(text: &str, mut player: Player) -> String {
    let mut played = String::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        played.push_str(line);
        played.push('\n');
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let mut command = line.to_owned();
        for more in lines.by_ref().take_while(|line| *line != "----") {
            write!(command, "\n{more}").unwrap();
            writeln!(played, "{more}").unwrap();
        }
        let output = player(&command);
        assert!(
            !output.trim_end().lines().any(str::is_empty),
            "{command}: an empty line would end the output:\n{output}"
        );
        writeln!(played, "----").unwrap();
        for line in output.trim_end().lines() {
            writeln!(played, "{}", line.trim_end()).unwrap();
        }
        played.push('\n');
        // The old output goes.
        lines.by_ref().take_while(|line| !line.is_empty()).for_each(drop);
    }
    let end = played.trim_end().len();
    played.truncate(end);
    played.push('\n');
    played
}

fn difference(path: &Path, expected: &str, actual: &str) -> String {
    let same = expected.lines().zip(actual.lines()).take_while(|(e, a)| e == a).count();
    let excerpt = |text: &str| {
        let from = same.saturating_sub(4);
        text.lines().skip(from).take(14).map(|line| format!("    {line}\n")).collect::<String>()
    };
    format!(
        "{}:{} differs (LOCKSTEP_BLESS=1 accepts what came out)\n  expected\n{}  came out\n{}",
        path.display(),
        same + 1,
        excerpt(expected),
        excerpt(actual),
    )
}
