//! Kafka's own clients and tools as judges: small Java programs, compiled once per release, and
//! any stock main class.

use std::fs::File;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;
use tempfile::TempDir;

use super::dist::Dist;
use super::process::Supervised;

const SOURCES: [(&str, &str); 5] = [
    ("Produce.java", include_str!("java/Produce.java")),
    ("Consume.java", include_str!("java/Consume.java")),
    ("Latency.java", include_str!("java/Latency.java")),
    ("Reset.java", include_str!("java/Reset.java")),
    ("Throughput.java", include_str!("java/Throughput.java")),
];
const CLIENT_DEADLINE: Duration = Duration::from_secs(180);
const STOP_DEADLINE: Duration = Duration::from_secs(30);

/// How a program ended.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Exit code.
    pub code: i32,
    /// What it printed.
    pub stdout: String,
    /// What it complained of.
    pub stderr: String,
}

impl Outcome {
    /// Fails, with everything that was printed, unless the exit code is 0.
    pub fn success(self) -> Result<Self> {
        ensure!(self.code == 0, "exit code {}: {}{}", self.code, self.stderr, self.stdout);
        Ok(self)
    }
}

/// A program that runs beside the test; dropped, it is killed.
#[derive(Debug)]
pub struct Background {
    process: Supervised,
    output: TempDir,
}

impl Background {
    /// Starts it.
    pub fn spawn(program: &Command) -> Result<Self> {
        let output = tempfile::tempdir()?;
        let (out, err) = (output.path().join("out"), output.path().join("err"));
        let process = Supervised::spawn_apart(program, &out, &err)?;
        Ok(Self { process, output })
    }

    /// Whole lines that it has printed so far.
    pub fn lines(&self) -> Result<Vec<String>> {
        let text = self.read("out")?;
        let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
        Ok(whole.lines().map(str::to_owned).collect())
    }

    /// What it has said on standard error so far.
    pub fn complaints(&self) -> Result<String> {
        self.read("err")
    }

    /// Pid of the JVM.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Waits for its own end.
    pub fn wait(mut self, deadline: Duration) -> Result<Outcome> {
        let code = self.process.wait(deadline);
        let code = code.with_context(|| {
            let lines = self.lines().unwrap_or_default();
            let last = lines.last().map_or("nothing", String::as_str);
            format!("it said {last:?} last; {}", self.read("err").unwrap_or_default())
        })?;
        self.outcome(code)
    }

    /// SIGTERM: `Produce` and `Consume` then end in good order.
    pub fn stop(mut self) -> Result<Outcome> {
        let code = self.process.stop(STOP_DEADLINE)?;
        self.outcome(code)
    }

    fn outcome(&self, code: i32) -> Result<Outcome> {
        Ok(Outcome { code, stdout: self.read("out")?, stderr: self.read("err")? })
    }

    fn read(&self, name: &str) -> Result<String> {
        let bytes = std::fs::read(self.output.path().join(name))?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }
}

/// Runs a stock main class, e.g. `kafka.admin.ConfigCommand` or
/// `org.apache.kafka.tools.TopicCommand`, to its end.
pub fn stock_tool(
    dist: &Dist,
    main_class: &str,
    arguments: &[&str],
    deadline: Duration,
) -> Result<Outcome> {
    start_tool(dist, main_class, arguments)?
        .wait(deadline)
        .with_context(|| format!("run {main_class} {arguments:?}"))
}

/// Starts a stock main class and leaves it running.
pub fn start_tool(dist: &Dist, main_class: &str, arguments: &[&str]) -> Result<Background> {
    let mut command = dist.java(&client_options(dist)?, main_class)?;
    command.args(arguments);
    Background::spawn(&command)
}

/// A load to produce.
///
/// Options (`option(key, value)`), with their defaults:
///
/// | key | value |
/// |---|---|
/// | `count` 10 | records; 0: until stopped |
/// | `first` 0 | number of the first record; values and keys follow from the number |
/// | `rate` 0 | records a second; 0: as fast as it goes |
/// | `size` 100 | bytes of a value |
/// | `value` | the value of every record; default: from its number |
/// | `partition` -1 | the one partition; -1: the producer chooses |
/// | `keys` 0 | how many different keys; 0: none |
/// | `headers` 0 | headers of each record; names repeat, every third value is null |
/// | `null-values` 0 | every n-th value is null |
/// | `timestamp` `now` | or milliseconds since 1970 of record 0; each record one later; for the future the topic needs `message.timestamp.after.max.ms` (3.6+) |
/// | `compression` `none` | `gzip`, `snappy`, `lz4`, `zstd` |
/// | `acks` `all` | |
/// | `flush` | flush after every n records: more and smaller batches |
/// | `transactions` `none` | `idempotent`, `commit`, `abort`, `mix` (by turns), `interleaved` (two at a time), `open` (the last is never ended) |
/// | `per-transaction` 10 | records of each transaction |
/// | `transactional-id` | prefix; default: from the pid |
/// | `producer.*` | any setting of the Java producer |
#[derive(Clone, Debug)]
pub struct Produce {
    arguments: Vec<String>,
}

/// What became of one record.
#[derive(Clone, Debug, Deserialize)]
pub struct Sent {
    /// Number of the record.
    pub index: i64,
    /// Where it was acknowledged.
    pub partition: Option<i32>,
    /// Where it was acknowledged.
    pub offset: Option<i64>,
    /// `none`, `commit`, `abort`, `open`: what was meant for its transaction.
    pub fate: Option<String>,
    /// Class of the producer's error.
    pub error: Option<String>,
    /// Text of the producer's error.
    pub message: Option<String>,
}

impl Produce {
    /// Records for `topic`.
    pub fn to(bootstrap: &str, topic: &str) -> Self {
        let arguments = vec![format!("bootstrap={bootstrap}"), format!("topic={topic}")];
        Self { arguments }
    }

    /// How many records.
    pub fn count(self, count: u64) -> Self {
        self.option("count", count)
    }

    /// See the table above.
    pub fn option(mut self, key: &str, value: impl ToString) -> Self {
        self.arguments.push(format!("{key}={}", value.to_string()));
        self
    }

    /// Another load after this one, by the same process: a JVM less.
    pub fn and(mut self, next: Self) -> Self {
        self.arguments.push("and".to_owned());
        self.arguments.extend(next.arguments);
        self
    }

    /// Sends all; fails unless all are acknowledged.
    pub fn run(&self, dist: &Dist) -> Result<Vec<Sent>> {
        let outcome = self.start(dist)?.wait(CLIENT_DEADLINE)?;
        outcome.success().and_then(|outcome| sent(&outcome.stdout))
    }

    /// Sends all; what failed is in the answer.
    pub fn attempt(&self, dist: &Dist) -> Result<Vec<Sent>> {
        let outcome = self.start(dist)?.wait(CLIENT_DEADLINE)?;
        let told = sent(&outcome.stdout)?;
        ensure!(outcome.code == 0 || !told.is_empty(), "{}", outcome.stderr);
        Ok(told)
    }

    /// Starts sending and leaves it running; [`sent`] reads its lines.
    pub fn start(&self, dist: &Dist) -> Result<Background> {
        run_program(dist, "Produce", &self.arguments)
    }
}

/// Reads what `Produce` printed.
pub fn sent(stdout: &str) -> Result<Vec<Sent>> {
    let records = stdout.lines().filter(|line| line.starts_with('{'));
    records.map(|line| serde_json::from_str(line).with_context(|| format!("read {line}"))).collect()
}

/// Something to read with the Java consumer.
///
/// Options, with their defaults:
///
/// | key | value |
/// |---|---|
/// | `group` | subscribes in this group and commits at the end; else assigns itself everything |
/// | `isolation` `read_uncommitted` | or `read_committed` |
/// | `from` `beginning` | or `end`; in a group only where nothing is committed |
/// | `count` | stop after so many records; else at the end of assignment time |
/// | `until` `end` | `stopped`: goes on, and prints as it reads, until SIGTERM |
/// | `ask` 0 | until stopped: asks the leaders for the ends, so many milliseconds after the last time, and prints `asked` and how long that took |
/// | `seconds` 60 | when to give up |
/// | `metrics` | names of the consumer's own, separated by commas, that it prints at its end |
/// | `consumer.*` | any setting of the Java consumer |
#[derive(Clone, Debug)]
pub struct Consume {
    arguments: Vec<String>,
}

impl Consume {
    /// Records of `topics`.
    pub fn from(bootstrap: &str, topics: &[&str]) -> Self {
        let arguments =
            vec![format!("bootstrap={bootstrap}"), format!("topics={}", topics.join(","))];
        Self { arguments }
    }

    /// See the table above.
    pub fn option(mut self, key: &str, value: impl ToString) -> Self {
        self.arguments.push(format!("{key}={}", value.to_string()));
        self
    }

    /// Reads to the end. One line per record, sorted by topic, partition and offset: "topic
    /// partition offset timestamp-type timestamp key value headers".
    pub fn run(&self, dist: &Dist) -> Result<Vec<String>> {
        let outcome = self.start(dist)?.wait(CLIENT_DEADLINE)?.success()?;
        Ok(sorted(&outcome.stdout))
    }

    /// Starts reading and leaves it running.
    pub fn start(&self, dist: &Dist) -> Result<Background> {
        run_program(dist, "Consume", &self.arguments)
    }
}

/// What becomes of Java consumers that seek to these offsets of a partition, under each policy of
/// `auto.offset.reset`, at read committed: "policy offset outcome".
pub fn resets(
    dist: &Dist,
    bootstrap: &str,
    (topic, partition): (&str, i32),
    offsets: &[i64],
) -> Result<Vec<String>> {
    let offsets: Vec<_> = offsets.iter().map(i64::to_string).collect();
    let arguments = [
        format!("bootstrap={bootstrap}"),
        format!("topic={topic}"),
        format!("partition={partition}"),
        format!("offsets={}", offsets.join(",")),
    ];
    let outcome = run_program(dist, "Reset", &arguments)?.wait(CLIENT_DEADLINE)?.success()?;
    println!("{}", outcome.stderr);
    Ok(outcome.stdout.lines().map(str::to_owned).collect())
}

/// Lines of `Consume` by topic, partition and offset.
pub fn sorted(stdout: &str) -> Vec<String> {
    let mut lines: Vec<String> = stdout.lines().map(str::to_owned).collect();
    lines.sort_by_cached_key(|line| {
        let mut words = line.split(' ');
        let topic = words.next().unwrap_or_default().to_owned();
        let mut number = || words.next().and_then(|word| word.parse::<i64>().ok());
        (topic, number(), number())
    });
    lines
}

/// Starts one of the programs beside this file and leaves it running.
pub fn run_program(dist: &Dist, main_class: &str, arguments: &[String]) -> Result<Background> {
    run_sources(dist, &SOURCES, main_class, arguments)
}

/// Starts a program of these files (name and text), with this release's jars, and leaves it running.
pub fn run_sources(
    dist: &Dist,
    sources: &[(&str, &str)],
    main_class: &str,
    arguments: &[String],
) -> Result<Background> {
    let mut options = client_options(dist)?;
    options.push("-Xmx384m".to_owned());
    let class_path = format!("{}:{}", compiled(dist, sources)?.display(), dist.class_path()?);
    let mut command = Command::new("java");
    command.args(options).args(["-cp", &class_path, main_class]);
    command.args(arguments);
    Background::spawn(&command)
}

fn client_options(dist: &Dist) -> Result<Vec<String>> {
    let mut options = dist.logging("warn")?;
    options.extend(["-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"].map(str::to_owned));
    Ok(options)
}

/// Directory of the compiled programs; compiles them when nobody has.
fn compiled(dist: &Dist, sources: &[(&str, &str)]) -> Result<PathBuf> {
    let all: String = sources.iter().map(|(_, text)| *text).collect();
    let name = format!("classes-{:08x}", crc32c::crc32c(all.as_bytes()));
    let classes = dist.home().join(&name);
    if classes.exists() {
        return Ok(classes);
    }
    let lock = File::create(dist.home().join(".lock-classes"))?;
    lock.lock().context("lock the compiled programs")?;
    if classes.exists() {
        return Ok(classes);
    }
    let unfinished = dist.home().join(format!("{name}.unfinished"));
    std::fs::create_dir_all(&unfinished)?;
    let mut javac = Command::new("javac");
    javac.args(["-nowarn", "-cp", &dist.class_path()?, "-d"]);
    javac.arg(&unfinished);
    for (name, text) in sources {
        let source = unfinished.join(name);
        std::fs::write(&source, text)?;
        javac.arg(source);
    }
    let output = javac
        .output()
        .context("javac is missing; install a JDK 17, e.g. openjdk-17-jdk-headless")?;
    ensure!(output.status.success(), "javac: {}", String::from_utf8_lossy(&output.stderr));
    std::fs::rename(&unfinished, &classes)?;
    Ok(classes)
}
