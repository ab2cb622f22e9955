//! Other people's clients as programs: made ready once beside the Kafka releases, then started. Java is
//! compiled against each release, Go built, Python given an environment of its own.
//!
//! Every reading program takes, as key=value:
//!
//! | key | value |
//! |---|---|
//! | `name` | of the reader, and of its group |
//! | `bootstrap`, `topics` | separated by commas |
//! | `mode` | `assign`; `group`; `consumer`: a group of KIP-848 |
//! | `isolation` | `read_committed` or `read_uncommitted` |
//! | `partitions` | how many partitions have to end with the value "end" |
//! | `pace` | milliseconds to wait after each record |
//! | `client`, `version` | Go only: `franz` or `sarama`; the release that sarama is to speak like |
//!
//! and prints one JSON line for each record. Java and Go programs take several readers, divided by `and`.
//!
//! Group programs take `name` (of the group), `bootstrap`, `topics` and `partitions` too, and
//!
//! | key | value |
//! |---|---|
//! | `protocol` | `classic`, or `consumer` for KIP-848; Java takes both, and adds it to the group's name |
//! | `act` | `share`: one member, then two; `resume`: a later one; `tail`: one that waits at the end |
//! | `until` | the value that is the last to be read in each partition |
//! | `join` | the second member joins when this file exists |
//! | `client` | Go only: `franz-group` or `sarama-group` |
//!
//! and print one line for each step: the group, the step, and what came out, which depends on what is in the
//! topics and not on the cluster.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::support::dist::{Dist, cache};
use crate::support::java::{Background, Outcome, run_sources, start_tool};

const GO_SOURCES: &[&str] = &[
    "go.mod",
    "go.sum",
    "main.go",
    "franz.go",
    "sarama.go",
    "refused.go",
    "groups.go",
    "groups_franz.go",
    "groups_sarama.go",
];
const PYTHON_PACKAGES: &[&str] =
    &["confluent-kafka==2.16.1", "kafka-python[snappy,lz4,zstd]==2.3.3"];
const READ: [(&str, &str); 1] = [("Read.java", include_str!("java/Read.java"))];
const REFUSED: [(&str, &str); 1] = [("Refused.java", include_str!("java/Refused.java"))];
const GROUPS: [(&str, &str); 1] = [("Groups.java", include_str!("java/Groups.java"))];
const COUNT: [(&str, &str); 1] = [("Count.java", include_str!("java/Count.java"))];
/// Release of Kafka Streams and Kafka Connect.
const APPLICATIONS: &str = "4.3.1";
const TOOLS: [(&str, &str); 1] = [("Tools.java", include_str!("java/Tools.java"))];
const TOOLS_DEADLINE: Duration = Duration::from_secs(180);
/// One command of them.
const TOOL_DEADLINE: Duration = Duration::from_secs(30);

/// Whether everything is to be run, not the short form.
pub fn all() -> bool {
    std::env::var("LOCKSTEP_CLIENTS").is_ok_and(|wanted| wanted == "all")
}

/// Whether a part is to be run: all are, or the one that was asked for.
pub fn wanted(part: &str) -> bool {
    std::env::var("LOCKSTEP_CLIENTS_PART").map_or(true, |wanted| wanted == part)
}

/// One of the programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Program {
    /// Kafka's own client of a release.
    Java(&'static str),
    /// confluent-kafka.
    Librdkafka,
    /// kafka-python.
    KafkaPython,
    /// franz-go and sarama.
    Go,
}

impl Program {
    /// Whether one process can have several readers.
    pub fn takes_several(self) -> bool {
        matches!(self, Self::Java(_) | Self::Go)
    }

    /// Whether it can be run. On a machine without Go or Python it is left out, loudly; in CI and in
    /// the long form nothing may be left out.
    pub fn is_there(self) -> bool {
        let needs = match self {
            Self::Java(_) => return true,
            Self::Librdkafka | Self::KafkaPython => ["python3", "-m", "venv", "--help"].as_slice(),
            Self::Go => ["go", "version"].as_slice(),
        };
        let output = Command::new(needs[0]).args(&needs[1..]).output();
        let is_there = output.is_ok_and(|output| output.status.success())
            || all()
            || std::env::var_os("CI").is_some();
        if !is_there {
            eprintln!("{self:?} is left out: {needs:?} does not run");
        }
        is_there
    }

    /// Starts it with readers' arguments.
    pub fn read(self, arguments: &[String]) -> Result<Background> {
        match self {
            Self::Java(version) => run_sources(&jars(version)?, &READ, "Read", arguments),
            Self::Librdkafka => python("read_librdkafka.py", arguments),
            Self::KafkaPython => python("read_kafka_python.py", arguments),
            Self::Go => go(arguments),
        }
    }

    /// Starts it with a group's arguments.
    pub fn group(self, arguments: &[String]) -> Result<Background> {
        match self {
            Self::Java(version) => run_sources(&jars(version)?, &GROUPS, "Groups", arguments),
            Self::Librdkafka => python("groups_librdkafka.py", arguments),
            Self::KafkaPython => python("groups_kafka_python.py", arguments),
            Self::Go => go(arguments),
        }
    }
}

/// Starts a Java program that meets a mirror with producers of every kind.
pub fn java_producers(version: &str, arguments: &[String]) -> Result<Background> {
    run_sources(&jars(version)?, &REFUSED, "Refused", arguments)
}

/// Starts the Kafka Streams application.
pub fn streams(arguments: &[String]) -> Result<Background> {
    run_sources(&Dist::with_applications(APPLICATIONS)?, &COUNT, "Count", arguments)
}

/// Starts a Kafka Connect worker with its property files.
pub fn connect(files: &[String]) -> Result<Background> {
    let dist = Dist::with_applications(APPLICATIONS)?;
    let words: Vec<_> = files.iter().map(String::as_str).collect();
    start_tool(&dist, "org.apache.kafka.connect.cli.ConnectStandalone", &words)
}

/// Runs commands of stock tools, as `Tools.java` reads them, in one JVM.
pub fn run_tools(version: &str, script: &Path) -> Result<Outcome> {
    let deadline = TOOL_DEADLINE.as_millis().to_string();
    let arguments = [script.display().to_string(), deadline];
    run_sources(&jars(version)?, &TOOLS, "Tools", &arguments)?.wait(TOOLS_DEADLINE)?.success()
}

/// Jars of a release: brokers and tools where other tests need them anyway.
fn jars(version: &str) -> Result<Dist> {
    match version {
        "4.3.1" | "3.9.1" => Dist::get(version),
        _ => Dist::clients(version),
    }
}

/// Starts a Python program beside this file.
pub fn python(program: &str, arguments: &[String]) -> Result<Background> {
    let home = ready("clients-python", &PYTHON_PACKAGES.join(" "), |home| {
        run(Command::new("python3").args(["-m", "venv"]).arg(home))?;
        run(Command::new(home.join("bin/pip")).args(["install", "-q"]).args(PYTHON_PACKAGES))
    })?;
    let mut command = Command::new(home.join("bin/python"));
    // Nothing is left behind in the sources.
    command.arg("-B").arg(sources().join("python").join(program)).args(arguments);
    Background::spawn(&command)
}

/// Starts the Go program with these arguments.
pub fn go(arguments: &[String]) -> Result<Background> {
    let mut text = String::new();
    for name in GO_SOURCES {
        text.push_str(&std::fs::read_to_string(sources().join("go").join(name))?);
    }
    let home = ready("clients-go", &text, |home| {
        let mut build = Command::new("go");
        run(build.args(["build", "-o"]).arg(home.join("judge")).current_dir(sources().join("go")))
    })?;
    let mut command = Command::new(home.join("judge"));
    command.args(arguments);
    Background::spawn(&command)
}

fn sources() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients")
}

/// A directory of the cache, made anew when what it was made of has changed.
fn ready(name: &str, made_of: &str, make: impl FnOnce(&Path) -> Result<()>) -> Result<PathBuf> {
    let home = cache()?.join(format!("{name}-{:08x}", crc32c::crc32c(made_of.as_bytes())));
    let complete = home.join(".complete");
    std::fs::create_dir_all(&home)?;
    let lock = File::create(home.join(".lock"))?;
    lock.lock().with_context(|| format!("lock {}", home.display()))?;
    if !complete.exists() {
        make(&home).with_context(|| format!("make {}", home.display()))?;
        File::create(complete)?;
    }
    Ok(home)
}

fn run(command: &mut Command) -> Result<()> {
    let output = command.output().with_context(|| format!("start {command:?}"))?;
    let complaint = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{command:?}: {complaint}");
    Ok(())
}
