//! Consumer groups of all clients on mirrors: what they read, commit and find is what the same groups do
//! at the source, with the daemon up, while it is dead, and after it has returned.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use super::programs::{Program, all};
use super::stage::{BEFORE, DEADLINE, Stage};
use crate::support::cluster::Cluster;
use crate::support::eventually;
use crate::support::java::Background;

const TOPICS: &str = "codecs,payments";
const PARTITIONS: &str = "4";
/// What each client's lines of an act begin with.
const SHARE: &[&str] = &["begun", "joined", "read together", "committed"];
const RESUME: &[&str] = &["resumed at", "read since", "by time", "read from that time", "earliest"];
const TAIL: &[&str] = &["at the end", "read at the end"];
/// Loads that come while the daemon is dead, after it has returned, and to those who wait.
const WHILE_DEAD: &str = "while-dead";
const RETURNED: &str = "returned";
const NEW: &str = "new";

/// Two members share the topics, and read each record once.
pub fn together(stage: &Stage, files: &Path) -> Result<Playing> {
    let join = files.join("join-together");
    std::fs::write(&join, "")?;
    Playing::start(stage, &Act::share("together", BEFORE, &join))
}

/// One is in the middle when the daemon dies, another joins it then; and a group begins meanwhile. All
/// read on over its return, each record once.
pub fn over_death(stage: &mut Stage, files: &Path) -> Result<()> {
    let join = files.join("join-middle");
    let act = Act::share("middle", RETURNED, &join);
    let mut middle = Playing::start(stage, &act)?;
    middle.wait_said("begun")?;
    stage.daemon.kill()?;
    stage.wait_real_leaders()?;
    std::fs::write(&join, "")?;
    let late = act.start(&stage.destination, "late")?;
    middle.here.extend(late);
    middle.wait_said("joined")?;
    stage.load(WHILE_DEAD, 1)?;
    stage.daemon.start_again()?;
    stage.daemon.wait_ready()?;
    stage.wait_led()?;
    stage.load(RETURNED, 1)?;
    middle.judge()
}

/// Later members go on where those of [`together`] were; others begin early, late, or at a time.
pub fn resume(stage: &Stage) -> Result<()> {
    let until = stage.last_load().to_owned();
    Playing::start(stage, &Act::new("resume", "together", &until, RESUME))?.judge()
}

/// Groups without offsets that begin at the end wait there for what comes.
pub fn at_the_end(stage: &mut Stage) -> Result<()> {
    let playing = Playing::start(stage, &Act::new("tail", "together", NEW, TAIL))?;
    playing.wait_said("at the end")?;
    stage.load(NEW, 1)?;
    playing.judge()
}

/// What groups do.
struct Act {
    name: &'static str,
    /// Which groups: the same name, the same committed offsets.
    groups: &'static str,
    /// They read to the marks of this load.
    until: String,
    /// The second member joins when this file exists.
    join: PathBuf,
    steps: &'static [&'static str],
}

impl Act {
    fn new(
        name: &'static str,
        groups: &'static str,
        until: &str,
        steps: &'static [&'static str],
    ) -> Self {
        Self { name, groups, until: until.to_owned(), join: PathBuf::new(), steps }
    }

    fn share(groups: &'static str, until: &str, join: &Path) -> Self {
        Self { join: join.to_owned(), ..Self::new("share", groups, until, SHARE) }
    }

    fn start(&self, cluster: &Cluster, groups: &str) -> Result<Vec<Member>> {
        members(cluster.dist().major() >= 4)
            .into_iter()
            .map(|(program, client, more)| {
                let name = format!("{client}-{groups}");
                let mut words = vec![
                    format!("name={name}"),
                    format!("bootstrap={}", cluster.bootstrap()),
                    format!("topics={TOPICS}"),
                    format!("partitions={PARTITIONS}"),
                    format!("act={}", self.name),
                    format!("until={}", self.until),
                    format!("join={}", self.join.display()),
                ];
                words.extend(more.iter().map(|more| (*more).to_owned()));
                let groups = 1 + more.concat().matches(',').count();
                Ok(Member { client, name, groups, process: program.group(&words)? })
            })
            .collect()
    }
}

/// Each client with its protocols, and what only it is told.
fn members(has_848: bool) -> Vec<(Program, &'static str, Vec<&'static str>)> {
    const CLASSIC: &str = "protocol=classic";
    const KIP_848: &str = "protocol=consumer";
    let newest = if has_848 { "protocol=classic,consumer" } else { CLASSIC };
    let mut members = vec![(Program::Java("4.3.1"), "java-4.3.1", vec![newest])];
    if !all() {
        return members;
    }
    let franz = "client=franz-group";
    members.extend([
        (Program::Java("3.9.1"), "java-3.9.1", vec![CLASSIC]),
        (Program::Java("2.8.2"), "java-2.8.2", vec![CLASSIC]),
        (Program::Librdkafka, "librdkafka", vec![CLASSIC]),
        (Program::KafkaPython, "kafka-python", vec![CLASSIC]),
        (Program::Go, "franz-go", vec![CLASSIC, franz]),
        (Program::Go, "sarama", vec![CLASSIC, "client=sarama-group"]),
    ]);
    if has_848 {
        members.push((Program::Librdkafka, "librdkafka-848", vec![KIP_848]));
        members.push((Program::Go, "franz-go-848", vec![KIP_848, franz]));
    }
    members
}

/// A program with its groups.
struct Member {
    client: &'static str,
    name: String,
    groups: usize,
    process: Background,
}

impl Member {
    /// How many groups have come to that step.
    fn said(&self, step: &str) -> Result<usize> {
        let lines = self.process.lines()?;
        Ok(lines.iter().filter(|line| line.contains(step)).count())
    }

    /// Waits for its end: what it has said, by group and step, without its own name.
    fn told(self) -> Result<Vec<String>> {
        let name = self.name;
        let outcome = self.process.wait(DEADLINE).with_context(|| name.clone())?;
        let said = outcome.success().with_context(|| name.clone())?.stdout;
        let lines = said.lines().filter_map(|line| line.strip_prefix(&name));
        let mut lines: Vec<_> = lines.map(str::to_owned).collect();
        // Groups of one program speak beside each other.
        lines.sort_by_key(|line| line.split(": ").next().unwrap_or_default().to_owned());
        Ok(lines)
    }
}

/// One act under way, at the source and here.
pub struct Playing {
    steps: &'static [&'static str],
    source: Vec<Member>,
    here: Vec<Member>,
}

impl Playing {
    fn start(stage: &Stage, act: &Act) -> Result<Self> {
        let source = act.start(&stage.source, act.groups)?;
        let here = act.start(&stage.destination, act.groups)?;
        Ok(Self { steps: act.steps, source, here })
    }

    /// Waits until all groups are at that step.
    fn wait_said(&self, step: &str) -> Result<()> {
        let step = format!(": {step}: ");
        eventually(DEADLINE, format!("all groups to say {step:?}"), || {
            for member in self.source.iter().chain(&self.here) {
                let said = member.said(&step)?;
                let complaints = member.process.complaints()?;
                ensure!(said == member.groups, "{}: {said} of them; {complaints}", member.name);
            }
            Ok(())
        })
    }

    /// Waits for their end, and compares.
    pub fn judge(self) -> Result<()> {
        let mut complaints = Vec::new();
        let mut wanted = BTreeMap::new();
        for member in self.source {
            let client = member.client;
            match member.told() {
                Ok(told) => drop(wanted.insert(client, told)),
                Err(error) => complaints.push(format!("at the source: {error:#}")),
            }
        }
        for member in self.here {
            let (client, name) = (member.client, member.name.clone());
            let found = member.told().and_then(|found| {
                let wanted = wanted.get(client).context("it failed at the source")?;
                found.iter().for_each(|line| eprintln!("{name}{line}"));
                complain(self.steps, wanted, &found)
            });
            complaints.extend(found.err().map(|error| format!("{name}: {error:#}")));
        }
        ensure!(complaints.is_empty(), "groups:\n{}", complaints.join("\n"));
        Ok(())
    }
}

/// Groups in these lines.
fn groups_of(lines: &[String]) -> Vec<&str> {
    let mut groups: Vec<_> = lines.iter().filter_map(|line| line.split(": ").next()).collect();
    groups.dedup();
    groups
}

/// Each group did all steps, and each came out as at the source.
fn complain(steps: &[&str], wanted: &[String], found: &[String]) -> Result<()> {
    for (side, lines) in [("the source", wanted), ("the mirror", found)] {
        ensure!(!lines.is_empty(), "nothing was said at {side}");
        for group in groups_of(lines) {
            for step in steps {
                let start = format!("{group}: {step}: ");
                let said = lines.iter().filter(|line| line.starts_with(&start)).count();
                ensure!(said == 1, "{step:?} was said {said} times at {side}: {lines:#?}");
            }
        }
    }
    let differing = wanted.iter().zip(found).find(|(wanted, found)| wanted != found);
    ensure!(differing.is_none(), "at the source and here: {differing:#?}");
    ensure!(wanted.len() == found.len(), "{wanted:#?}, {found:#?}");
    Ok(())
}

#[test]
fn a_group_that_differs_is_found() {
    let lines = |end: &str| ["begun: ", end].map(|line| format!("-classic: {line}")).to_vec();
    let steps = &["begun", "committed"];
    let wanted = lines("committed: {codecs-0=7}");
    assert!(complain(steps, &wanted, &wanted).is_ok());
    assert!(complain(steps, &wanted, &lines("committed: {codecs-0=8}")).is_err());
    assert!(complain(steps, &wanted, &lines("begun: ")).is_err());
    assert!(complain(steps, &wanted, &wanted[..1]).is_err());
    assert!(complain(steps, &[], &[]).is_err());
    let twice = [wanted.clone(), wanted.clone()].concat();
    assert!(complain(steps, &wanted, &twice).is_err());
}
