//! Kafka's own tools: each command gives the answer that it gives without the daemon, or at the source, or
//! the refusal that is written down here. The seat is the only server that they are told of.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

use super::commands::{Expect, Tool, all_tools};
use super::programs::{all, run_tools};
use super::stage::Stage;
use crate::support::cluster::Cluster;
use crate::support::java::{Consume, Produce};
use crate::support::judge::NewTopic;
use crate::support::workspace::Workspace;

/// What a tool did.
#[derive(Clone, Debug, Deserialize)]
pub struct Answer {
    name: String,
    code: i32,
    out: String,
    err: String,
}

type Answers = BTreeMap<String, Answer>;

/// Tools of one release, and what they did where there is no seat.
pub struct Tools {
    version: &'static str,
    files: PathBuf,
    without: Answers,
    /// Ids of the destination's brokers, as tools list them.
    brokers: String,
}

/// Makes a topic of the destination's own, with groups and transactions.
pub fn prepare(destination: &Cluster) -> Result<()> {
    // What the commands change they change back, or find done: each round begins with the same.
    destination.create_topic(&NewTopic::new("own", 0).assignment(vec![vec![1, 2], vec![2, 1]]))?;
    // Moved at a throttle it stays on its way.
    destination.create_topic(&NewTopic::new("slow", 0).assignment(vec![vec![1]]))?;
    let (to, dist) = (destination.bootstrap(), destination.dist());
    let load = |mode: &str| Produce::to(&to, "own").count(20).option("transactions", mode);
    // Left to the producer all of it may go to one partition.
    load("none")
        .option("partition", 0)
        .and(load("none").option("partition", 1))
        .and(load("mix").option("transactional-id", "own"))
        .and(Produce::to(&to, "slow").count(200).option("size", 20_000))
        .run(dist)?;
    Consume::from(&to, &["own"]).option("group", "own-group").run(dist)?;
    let leader = destination.leader("own", 0)?;
    destination.judge(leader)?.delete_records("own", 0, 3)?;
    Ok(())
}

impl Tools {
    /// Runs what needs no seat, before there is one.
    pub fn before(
        version: &'static str,
        destination: &Cluster,
        workspace: &Workspace,
    ) -> Result<Self> {
        let files = workspace.path().join(format!("tools-{version}"));
        std::fs::create_dir_all(&files)?;
        write_files(&files, &OWN_PLANS, &[1, 2])?;
        let brokers = destination.broker_ids().iter().map(i32::to_string).collect::<Vec<_>>();
        let brokers = brokers.join(",");
        let mut tools = Self { version, files, without: Answers::new(), brokers };
        let wanted = |tool: &Tool| matches!(tool.expect, Expect::Same | Expect::SameShape);
        tools.without = tools.run(wanted, "without", &destination.bootstrap(), 1)?;
        Ok(tools)
    }

    /// Runs all with the seat as the only server they know, and judges.
    pub fn judge(&self, stage: &Stage) -> Result<()> {
        for cluster in [&stage.source, &stage.destination] {
            let group =
                Consume::from(&cluster.bootstrap(), &["codecs"]).option("group", "mirrored");
            group.run(cluster.dist())?;
        }
        let as_source = |tool: &Tool| matches!(tool.expect, Expect::AsSource);
        let source = self.run(as_source, "source", &stage.source.bootstrap(), 1)?;
        write_files(&self.files, &MIRROR_PLANS, &stage.real_replicas("codecs", 0)?)?;
        let replica = *stage.real_replicas("payments", 0)?.first().context("a replica")?;
        let seat = stage.daemon.seat_address();
        let with = self.run(|_| true, "with", &seat, replica)?;
        let mut complaints = String::new();
        for tool in self.tools(|_| true) {
            let found =
                with.get(tool.name).with_context(|| format!("{} did not run", tool.name))?;
            let wanted = match tool.expect {
                Expect::Same | Expect::SameShape => self.without.get(tool.name),
                Expect::AsSource => source.get(tool.name),
                Expect::Says(..) => None,
            };
            if let Some(complaint) = complain(tool, wanted, found, &self.brokers) {
                writeln!(complaints, "{} ({}): {complaint}\n", tool.name, self.version)?;
            }
        }
        ensure!(complaints.is_empty(), "tools at {seat}:\n{complaints}");
        // Nothing of theirs got into a mirror, or out of it.
        stage.wait_led()?;
        stage.wait_mirrored()?;
        eprintln!("{} commands of {} did as without the daemon", with.len(), self.version);
        Ok(())
    }

    fn tools(&self, wanted: impl Fn(&Tool) -> bool) -> Vec<&'static Tool> {
        let new = !self.version.starts_with('3');
        let of_release = |tool: &&Tool| (new || !tool.since_4) && (all() || !tool.long);
        all_tools().iter().filter(of_release).filter(|tool| wanted(tool)).collect()
    }

    fn run(
        &self,
        wanted: impl Fn(&Tool) -> bool,
        name: &str,
        server: &str,
        replica: i32,
    ) -> Result<Answers> {
        let mut script = String::new();
        for tool in self.tools(wanted) {
            write!(script, "{}\t{}\t{}", tool.name, tool.input, tool.class)?;
            let words = match tool.words.split_once("SERVER") {
                Some((before, after)) => format!("{before} --bootstrap-server {server} {after}"),
                None => format!("--bootstrap-server {server} {}", tool.words),
            };
            let words = words.replace("FILES", &self.files.display().to_string());
            for word in words.replace("REPLICA", &replica.to_string()).split_whitespace() {
                write!(script, "\t{word}")?;
            }
            script.push('\n');
        }
        let path = self.files.join(name);
        std::fs::write(&path, script)?;
        let outcome = run_tools(self.version, &path)?;
        let answers = outcome.stdout.lines().map(|line| {
            let answer: Answer = serde_json::from_str(line).with_context(|| line.to_owned())?;
            Ok((answer.name.clone(), answer))
        });
        let answers = answers.collect::<Result<_>>().context(outcome.stderr.clone())?;
        // What was said is read when a judgement is in doubt.
        std::fs::write(path.with_extension("answers"), &outcome.stdout)?;
        Ok(answers)
    }
}

/// Plans that some tools read from files: name, topic, and what follows. `A` and `B` stand for its real
/// replicas.
const OWN_PLANS: [(&str, &str, &str); 5] = [
    ("own-move", "own", r#","replicas":[B,A]"#),
    ("own-back", "own", r#","replicas":[A,B]"#),
    ("slow-move", "slow", r#","replicas":[B]"#),
    ("own-elect", "own", ""),
    ("own-delete", "own", r#","offset":3"#),
];
/// The same of mirrors.
const MIRROR_PLANS: [(&str, &str, &str); 5] = [
    ("mirror-move", "codecs", r#","replicas":[9001,B,A]"#),
    ("mirror-back", "codecs", r#","replicas":[9001,A,B]"#),
    ("mirror-elect", "codecs", ""),
    ("mirror-delete", "codecs", r#","offset":3"#),
    ("mirror-dirs", "codecs", r#","replicas":[9001,A,B],"log_dirs":["/lockstep","any","any"]"#),
];

fn write_files(
    files: &std::path::Path,
    plans: &[(&str, &str, &str)],
    replicas: &[i32],
) -> Result<()> {
    let [a, b] = replicas.try_into().context("two replicas")?;
    for (name, topic, rest) in plans {
        let rest = rest.replace('A', &i32::to_string(&a)).replace('B', &i32::to_string(&b));
        let text =
            format!(r#"{{"version":1,"partitions":[{{"topic":"{topic}","partition":0{rest}}}]}}"#);
        std::fs::write(files.join(format!("{name}.json")), text)?;
    }
    let topics = r#"{"version":1,"topics":[{"topic":"own"}]}"#;
    std::fs::write(files.join("own-topics.json"), topics)?;
    Ok(())
}

/// What is wrong with an answer, where something is.
fn complain(tool: &Tool, wanted: Option<&Answer>, found: &Answer, brokers: &str) -> Option<String> {
    let said = format!("{}{}", found.out, found.err);
    let told = || format!("exit code {}:\n{}", found.code, start_of(&said));
    if let Expect::Says(code, patterns) = tool.expect {
        let is_said = |words: &str| said.contains(&words.replace("BROKERS", brokers));
        let missing = patterns.iter().find(|words| !is_said(words));
        return match missing {
            Some(pattern) => Some(format!("does not say {pattern:?} but {}", told())),
            None => (found.code != code).then(told),
        };
    }
    let Some(wanted) = wanted else { return Some("did not run without the daemon".to_owned()) };
    let (before, after) = (lines(wanted, tool.expect), lines(found, tool.expect));
    if found.code != wanted.code {
        return Some(format!("exit code {} before; now {}", wanted.code, told()));
    }
    let differing = before.iter().zip(&after).find(|(before, after)| before != after);
    if let Some((before, after)) = differing {
        return Some(format!("\n  {before:?}\nhas become\n  {after:?}"));
    }
    (before.len() != after.len()).then(|| format!("{} lines before; now {}", before.len(), told()))
}

fn start_of(text: &str) -> String {
    text.lines().take(12).map(|line| line.chars().take(300).collect::<String>() + "\n").collect()
}

/// What is only there because of the daemon, or of a command that is not run without it.
const OURS: [&str; 7] =
    ["__share_group_state", "codecs", "lines", "payments", "table", "mirrored", "9001"];

fn is_ours(line: &str) -> bool {
    let is_word = |c: char| c.is_alphanumeric() || c == '_' || c == '-';
    let is_ours = |word: &str| OURS.contains(&word) || word.contains("lockstep");
    line.split(|c| !is_word(c)).any(is_ours)
}

/// A line of a log without its time.
fn without_time(line: &str) -> &str {
    let time = "2026-11-26 15:18:26,411 ".len();
    match line.split_at_checked(time) {
        Some((start, rest)) if shape_of(start) == "0-0-0 0:0:0,0 " => rest,
        _ => line,
    }
}

/// Lines of an answer as they can be compared: without what speaks of mirrors and the seat alone, and
/// in no order, since brokers answer in none.
fn lines(answer: &Answer, expect: Expect) -> Vec<String> {
    let shape = expect == Expect::SameShape;
    let all = answer.out.lines().chain(answer.err.lines());
    let mut lines: Vec<_> = all
        .map(without_time)
        // A list of brokers: without the seat it is the one from before.
        .map(|line| line.replace(",9001", "").replace("9001,", ""))
        .filter(|line| expect != Expect::Same || !is_ours(line))
        // Columns are as wide as what stands in them.
        .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
        .map(|line| if shape { shape_of(&line) } else { line })
        .filter(|line| !line.is_empty())
        .collect();
    lines.sort();
    // One head for each group that is described.
    lines.dedup_by(|next, line| next == line && (shape || line.starts_with("GROUP ")));
    lines
}

/// A line with every number made alike.
fn shape_of(line: &str) -> String {
    let mut shape = String::new();
    for c in line.chars() {
        let c = if c.is_ascii_digit() { '0' } else { c };
        if c != '0' || !shape.ends_with(c) {
            shape.push(c);
        }
    }
    shape
}

#[test]
fn an_answer_that_differs_is_found() {
    let answer = |code, out: &str| Answer {
        name: String::new(),
        code,
        out: out.to_owned(),
        err: String::new(),
    };
    let tool = |expect| Tool {
        name: "",
        class: "",
        words: "",
        input: "",
        since_4: false,
        long: false,
        expect,
    };
    let judge = |expect, before: &Answer, after: &Answer| {
        complain(&tool(expect), Some(before), after, "1,2").is_none()
    };
    let before = answer(0, "own:0:10\nown:1:22\nbrokers 1,2\n");
    let after = answer(0, "own:1:22\nown:0:10\ncodecs:0:17\nbrokers 1,2,9001\n");
    assert!(judge(Expect::Same, &before, &after));
    assert!(!judge(Expect::Same, &before, &answer(1, &after.out)));
    assert!(!judge(Expect::Same, &before, &answer(0, "own:0:10\nown:1:23\nbrokers 1,2,9001")));
    assert!(!judge(Expect::Same, &before, &answer(0, "own:0:10\nbrokers 1,2")));
    assert!(!judge(Expect::Same, &before, &answer(0, "own:0:10\nown:1:22\nown:1:22\nbrokers 1,2")));
    let logged = |time: &str| answer(0, &format!("2026-11-26 15:18:26,{time} ERROR it failed"));
    assert!(judge(Expect::Same, &logged("411"), &logged("812")));
    assert!(judge(Expect::SameShape, &answer(0, "offset 7"), &answer(0, "offset 123")));
    assert!(!judge(Expect::SameShape, &answer(0, "offset 7"), &answer(0, "offset -1")));
    assert!(judge(Expect::Says(1, &["a mirror"]), &before, &answer(1, "it is a mirror")));
    assert!(!judge(Expect::Says(1, &["a mirror"]), &before, &answer(0, "it is a mirror")));
    assert!(!judge(Expect::Says(1, &["a mirror"]), &before, &answer(1, "something else")));
    assert!(judge(Expect::Says(0, &["brokers BROKERS"]), &before, &answer(0, "brokers 1,2")));
    assert!(!judge(Expect::Says(0, &["brokers BROKERS"]), &before, &answer(0, "brokers 1")));
}
