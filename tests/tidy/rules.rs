//! The rules themselves.

use std::path::Path;

use super::source::SourceFile;

/// What is wrong and where.
pub type Complaint = String;

/// A module uses modules of an earlier row only; modules of one row do not use each other.
const LAYERS: &[&[&str]] = &[
    &["types", "planted"],
    &["wire", "image"],
    &["mirror"],
    &["client", "tail"],
    &["source", "store", "seat"],
    &["gateway"],
    &["link"],
    &["config"],
    &["admin"],
    &["daemon"],
    &["cli"],
    // The map names it beside `cli`; it is the one file that calls it.
    &["main"],
];

const WITHOUT_IO: &[&str] = &["wire", "image", "mirror"];
const IO_NAMES: &[&str] =
    &["tokio", "std::net", "std::fs", "std::thread", "Instant::now", "SystemTime::now"];

/// Lines without tests.
const LONGEST_FILE: usize = 500;

/// Not our words, and ours.
const BANNED_WORDS: &[(&str, &str)] = &[
    ("shadow", "mirror"),
    ("upstream", "source"),
    ("downstream", "destination"),
    ("target", "destination"),
];

/// Other people's names that contain such a word.
const FOREIGN_NAMES: &[&str] =
    &["cfg(target_", "cfg(not(target_", "with_target(", "target: \"", "CARGO_TARGET", "target/"];

const BANNED_ENDINGS: &[&str] = &["Manager", "Helper", "Handler"];

/// The one place where tests may pause between two looks at a condition.
const MAY_SLEEP: &str = "tests/support/eventually.rs";
/// Time is virtual there: a pause is part of what is played, and costs none.
const SIMULATION: &str = "tests/sim/";

const TOP_LEVEL: &[&str] = &[
    "Cargo.toml",
    "Cargo.lock",
    "rust-toolchain.toml",
    "src",
    "benches",
    "tests",
    "docker",
    "config",
    "docs",
    "README.md",
    "LICENSE",
    "CHANGELOG.md",
    "target",
];

fn row(module: &str) -> Option<usize> {
    LAYERS.iter().position(|row| row.contains(&module))
}

/// The layer table against every edge.
pub fn layers(file: &SourceFile) -> Vec<Complaint> {
    let Some(module) = file.module().filter(|module| *module != "lib") else { return Vec::new() };
    let Some(own) = row(module) else {
        return vec![file.complain(1, format!("module {module} is in no layer"))];
    };
    let mut complaints = Vec::new();
    for (line, used) in edges(file) {
        if used == module {
            continue;
        }
        match row(&used) {
            Some(row) if row < own => {}
            Some(_) => {
                complaints.push(file.complain(line, format!("{module} may not use {used}: layers")))
            }
            None => complaints.push(file.complain(line, format!("{used} is in no layer"))),
        }
    }
    complaints
}

/// Top-level modules that the file names, with the line: `crate::name`, `crate::{name, name}`, and
/// in the binary `lockstep::name`.
fn edges(file: &SourceFile) -> Vec<(usize, String)> {
    let mut edges = Vec::new();
    for prefix in ["crate::", "lockstep::"] {
        for (at, _) in file.code.match_indices(prefix) {
            let before = file.code[..at].chars().next_back();
            if before.is_some_and(|c| c.is_alphanumeric() || c == '_') {
                continue;
            }
            let line = file.code[..at].lines().count().max(1);
            let rest = &file.code[at + prefix.len()..];
            edges.extend(first_names(rest).into_iter().map(|name| (line, name)));
        }
    }
    edges
}

/// The first name of a path, or of each path of a group.
fn first_names(path: &str) -> Vec<String> {
    let Some(group) = path.trim_start().strip_prefix('{') else {
        let name = leading_name(path);
        return if name.is_empty() { Vec::new() } else { vec![name] };
    };
    let (mut names, mut depth, mut at_start) = (Vec::new(), 0, true);
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => at_start = true,
            c if depth == 0 && at_start && !c.is_whitespace() => {
                names.push(leading_name(&group[at..]));
                at_start = false;
            }
            _ => {}
        }
    }
    names
}

fn leading_name(text: &str) -> String {
    text.trim_start().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
}

/// Modules of the library that have no layer, and names that it re-exports.
pub fn modules_of_the_library(lib: &SourceFile) -> Vec<Complaint> {
    let mut complaints = Vec::new();
    for (line, code) in lib.all_lines() {
        if code.contains("pub use") {
            complaints.push(lib.complain(line, "re-exports: import from the owner"));
        }
        if let Some(module) = code.trim().strip_prefix("pub mod ").map(leading_name)
            && row(&module).is_none()
        {
            let text = format!("module {module} is in no layer: write a decision record");
            complaints.push(lib.complain(line, text));
        }
    }
    complaints
}

/// Names of I/O and clocks in modules that decide.
pub fn no_io(file: &SourceFile) -> Vec<Complaint> {
    if !file.module().is_some_and(|module| WITHOUT_IO.contains(&module)) {
        return Vec::new();
    }
    let mut complaints = Vec::new();
    for (line, code) in file.code_lines() {
        for name in IO_NAMES.iter().filter(|name| has_word(code, name)) {
            complaints.push(file.complain(line, format!("{name}: no I/O and no clock here")));
        }
    }
    complaints
}

fn has_word(code: &str, word: &str) -> bool {
    let is_part = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_');
    code.match_indices(word).any(|(at, _)| {
        !is_part(code[..at].chars().next_back()) && !is_part(code[at + word.len()..].chars().next())
    })
}

/// Files that hold more than one idea.
pub fn length(file: &SourceFile) -> Vec<Complaint> {
    let is_test = file.tests_begin == 0;
    let lines = if is_test { file.text.lines().count() } else { file.code_lines().count() };
    if lines <= LONGEST_FILE || is_test && file.path.starts_with("src/") {
        return Vec::new();
    }
    vec![file.complain(lines, format!("{lines} lines; look for two ideas ({LONGEST_FILE})"))]
}

/// Files that do not say what they are.
pub fn begins_with_a_comment(file: &SourceFile) -> Vec<Complaint> {
    if file.text.starts_with("//! ") {
        return Vec::new();
    }
    vec![file.complain(1, "begin with `//!`: what it is and what it is not")]
}

/// Words that are not in the glossary, in code and comments alike.
pub fn words(file: &SourceFile) -> Vec<Complaint> {
    let mut complaints = Vec::new();
    for (at, line) in file.text.lines().enumerate() {
        let mut ours = line.to_owned();
        for foreign in FOREIGN_NAMES {
            ours = ours.replace(foreign, " ");
        }
        for (banned, word) in BANNED_WORDS {
            if split_words(&ours).any(|found| is_form_of(&found, banned)) {
                complaints.push(file.complain(at + 1, format!("{banned}: say {word}")));
            }
        }
    }
    let mut is_anothers = false;
    for (line, code) in file.all_lines() {
        if code.starts_with("impl") {
            // The names in it are those of the trait.
            is_anothers = code.contains(" for ");
        }
        for kind in ["struct ", "enum ", "trait "] {
            let name = code.split_once(kind).map(|(_, rest)| leading_name(rest));
            let ending = BANNED_ENDINGS.iter().find(|end| name.iter().any(|n| n.ends_with(*end)));
            if let Some(ending) = ending {
                complaints.push(file.complain(line, format!("{ending} says nothing: name it")));
            }
        }
        if code.contains("fn get_") && !(is_anothers && code.starts_with(' ')) {
            complaints.push(file.complain(line, "get_: name what it gives"));
        }
    }
    complaints
}

/// Lower-case words of a line: `TargetOffset`, `target_offset` and `target-offset` have two.
fn split_words(line: &str) -> impl Iterator<Item = String> {
    let mut words = vec![String::new()];
    let mut after_lower = false;
    for c in line.chars() {
        if !c.is_alphabetic() || (c.is_uppercase() && after_lower) {
            words.push(String::new());
        }
        if c.is_alphabetic() {
            words.last_mut().unwrap().extend(c.to_lowercase());
        }
        after_lower = c.is_lowercase();
    }
    words.into_iter().filter(|word| !word.is_empty())
}

fn is_form_of(word: &str, banned: &str) -> bool {
    word.strip_prefix(banned).is_some_and(|ending| ["", "s", "ed", "ing"].contains(&ending))
}

/// Tests that wait for time instead of a condition.
pub fn no_sleeps_in_tests(file: &SourceFile) -> Vec<Complaint> {
    if file.path == MAY_SLEEP || file.path.starts_with(SIMULATION) {
        return Vec::new();
    }
    let slept = file.test_lines().filter(|(_, code)| {
        ["sleep", "park_timeout"].iter().any(|name| has_word(code, name)) && code.contains('(')
    });
    slept.map(|(line, _)| file.complain(line, "wait for a condition with a deadline")).collect()
}

/// Tests that do not run.
pub fn no_ignored_tests(file: &SourceFile) -> Vec<Complaint> {
    let ignored = file.all_lines().filter(|(_, code)| code.trim_start().starts_with("#[ignore"));
    ignored.map(|(line, _)| file.complain(line, "make it run or remove it")).collect()
}

/// Visible entries of the project that have no place there.
pub fn top_level(names: &[String]) -> Vec<Complaint> {
    let strange = names.iter().filter(|name| !TOP_LEVEL.contains(&name.as_str()));
    strange.map(|name| format!("{name}: does not belong at the top level")).collect()
}

/// Files of a folder that are no right configuration.
pub fn configurations(folder: &Path) -> Vec<Complaint> {
    let mut complaints = Vec::new();
    let mut files = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "toml") {
            files += 1;
            complaints.extend(lockstep::config::Config::load(&path).err().map(|e| e.to_string()));
        }
    }
    if files == 0 {
        complaints.push(format!("no configuration in {}", folder.display()));
    }
    complaints
}

mod seen_to_fail {
    //! Each rule on bad code, and on good code that looks alike.

    use super::*;

    fn complaints(rule: fn(&SourceFile) -> Vec<Complaint>, path: &str, text: &str) -> usize {
        rule(&SourceFile::new(path, text)).len()
    }

    #[test]
    fn layers_on_bad_code() {
        let bad = |path, text| complaints(layers, path, text);
        assert_eq!(bad("src/wire/a.rs", "use crate::mirror::X;"), 1);
        assert_eq!(bad("src/wire/a.rs", "use crate::image::X;"), 1, "the same row");
        assert_eq!(bad("src/seat/a.rs", "use crate::{types::A, source::{B, C}};"), 1);
        assert_eq!(bad("src/tail/a.rs", "let x = crate::admin::f();"), 1, "not only imports");
        assert_eq!(bad("src/strange.rs", ""), 1);
        assert_eq!(bad("src/wire/a.rs", "use crate::nowhere::X;"), 1);
        assert_eq!(bad("src/seat/a.rs", "use crate::{types::A, tail::B};"), 0);
        assert_eq!(bad("src/wire/a.rs", "// use crate::mirror::X;"), 0);
        assert_eq!(bad("src/main.rs", "use lockstep::cli::Cli;"), 0);
        assert_eq!(bad("src/cli/a.rs", "use crate::main::f;"), 1);
    }

    #[test]
    fn library_on_bad_code() {
        let lib = |text| modules_of_the_library(&SourceFile::new("src/lib.rs", text)).len();
        assert_eq!(lib("pub mod utils;"), 1);
        assert_eq!(lib("pub use types::Offset;"), 1);
        assert_eq!(lib("pub mod types;"), 0);
    }

    #[test]
    fn io_on_bad_code() {
        let bad = |path, text| complaints(no_io, path, text);
        assert_eq!(bad("src/mirror/a.rs", "let now = Instant::now();"), 1);
        assert_eq!(bad("src/wire/a.rs", "use tokio::sync::mpsc;"), 1);
        assert_eq!(bad("src/image/a.rs", "use std::net::IpAddr;"), 1);
        assert_eq!(bad("src/image/a.rs", "// tokio\n\"tokio\""), 0);
        assert_eq!(bad("src/tail/a.rs", "use tokio::sync::mpsc;"), 0);
    }

    #[test]
    fn length_on_bad_code() {
        let long = "fn f() {}\n".repeat(LONGEST_FILE + 1);
        assert_eq!(complaints(length, "src/a.rs", &long), 1);
        assert_eq!(complaints(length, "tests/a.rs", &long), 1);
        let tests = format!("#[cfg(test)]\nmod tests {{\n{long}}}\n");
        assert_eq!(complaints(length, "src/a.rs", &tests), 0);
    }

    #[test]
    fn comment_on_bad_code() {
        assert_eq!(complaints(begins_with_a_comment, "src/a.rs", "use a;\n"), 1);
        assert_eq!(complaints(begins_with_a_comment, "src/a.rs", "//! A.\n"), 0);
    }

    #[test]
    fn words_on_bad_code() {
        let bad = |text| complaints(words, "src/a.rs", text);
        assert_eq!(bad("let target_offset = 1;"), 1);
        assert_eq!(bad("struct UpstreamBroker;"), 1);
        assert_eq!(bad("// the downstream cluster"), 1);
        assert_eq!(bad("/// Shadows are"), 1);
        assert_eq!(bad("struct LinkManager;"), 1);
        assert_eq!(bad("fn get_offset() {}"), 1);
        assert_eq!(bad("impl A for B {\n    fn get_x(&self) {}\n}"), 0, "the trait's name");
        assert_eq!(bad("#[cfg(target_os = \"linux\")]"), 0);
        assert_eq!(bad("tracing::info!(target: \"kafka\", x);"), 0);
        assert_eq!(bad("// targeting is another word of ours: no"), 1);
        assert_eq!(bad("let handler = 1; // streams go up"), 0);
    }

    #[test]
    fn sleeps_on_bad_code() {
        let bad = |path, text| complaints(no_sleeps_in_tests, path, text);
        let unit = "fn f() { sleep(a) }\n#[cfg(test)]\nmod tests {\nstd::thread::sleep(a);\n}";
        assert_eq!(bad("src/a.rs", unit), 1);
        assert_eq!(bad("tests/kafka/a.rs", "tokio::time::sleep(a).await;"), 1);
        assert_eq!(bad(MAY_SLEEP, "std::thread::sleep(a);"), 0);
        assert_eq!(bad("tests/sim/a.rs", "tokio::time::sleep(a).await;"), 0);
    }

    #[test]
    fn ignored_tests_on_bad_code() {
        assert_eq!(complaints(no_ignored_tests, "tests/a.rs", "#[ignore = \"slow\"]\n"), 1);
        assert_eq!(complaints(no_ignored_tests, "tests/a.rs", "// #[ignore]\n"), 0);
    }

    #[test]
    fn top_level_on_bad_names() {
        assert_eq!(top_level(&["src".to_owned(), "scripts".to_owned()]).len(), 1);
    }

    #[test]
    fn configurations_on_bad_files() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(configurations(folder.path()).len(), 1, "none at all");
        std::fs::write(folder.path().join("a.toml"), "[daemno]\n").unwrap();
        assert_eq!(configurations(folder.path()).len(), 1);
    }
}
