//! The main job on real clusters as local processes, step by step; `docker/demo` builds and runs it.
//! Every step says what it is about to show, and fails the whole if it does not hold.

#[path = "local/board.rs"]
mod board;
#[path = "local/load.rs"]
mod load;
#[path = "local/readers.rs"]
mod readers;
#[path = "../tests/support/mod.rs"]
mod support;

use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use board::{Board, Mirror};
use load::Load;
use support::cluster::{Cluster, ClusterSpec};
use support::daemon::{Daemon, DaemonSpec, SEAT};
use support::eventually::eventually;
use support::java::Produce;
use support::workspace::Workspace;

const USAGE: &str = "usage: docker/demo [--quick]
  --quick  about 20 seconds of load instead of 60";

/// How long a mirror may take to be there, or to reach the end of its source.
const PATIENCE: Duration = Duration::from_secs(90);
/// How long the source is produced to while the daemon is dead.
const BACKLOG: Duration = Duration::from_secs(5);
/// Lines of the daemon's log that are shown when a step fails.
const LOG_TAIL: usize = 25;

fn main() -> ExitCode {
    let begin = Instant::now();
    let seconds = match std::env::args().nth(1).as_deref() {
        None => 60,
        Some("--quick") => 20,
        Some(_) => {
            eprintln!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    match Demo::start().and_then(|mut demo| demo.run(Duration::from_secs(seconds))) {
        Ok(()) => {
            println!("\nevery step held; {} s in all", begin.elapsed().as_secs());
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("\nthe demo FAILED: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn about_to(what: &str) {
    println!("\n>> {what}");
}

fn result(what: &str) {
    println!("ok {what}");
}

/// Everything that runs; dropped, it ends, and its files go.
struct Demo {
    daemon: Daemon,
    binary: PathBuf,
    source: Cluster,
    destination: Cluster,
    board: Board,
    _workspace: Workspace,
}

impl Demo {
    fn start() -> Result<Self> {
        let binary = binary()?;
        let workspace = Workspace::new("demo")?;
        about_to("start two Kafka clusters: a source with 1 broker, a destination with 3");
        let source = ClusterSpec::new("source")
            .property("log.cleaner.backoff.ms", 2000)
            .start_in(&workspace)?;
        let destination = ClusterSpec::new("destination").brokers(3).start_in(&workspace)?;
        for cluster in [&source, &destination] {
            let release = cluster.dist().version();
            result(&format!("{} (Kafka {release}) at {}", cluster.name(), cluster.bootstrap()));
        }
        about_to("create topics at the source, none at the destination, and start the daemon");
        load::create_topics(&source)?;
        let topics = load::topics();
        let daemon = DaemonSpec::new(&source, &destination, &topics)
            .start_in(binary.to_str().context("a path that is text")?, &workspace)?;
        let board = Board::new();
        Ok(Self { daemon, binary, source, destination, board, _workspace: workspace })
    }

    fn run(&mut self, load: Duration) -> Result<()> {
        let outcome = self.steps(load);
        if outcome.is_err() {
            let log = self.daemon.log_text().unwrap_or_default();
            let lines: Vec<_> = log.lines().collect();
            let tail = lines.get(lines.len().saturating_sub(LOG_TAIL)..).unwrap_or_default();
            eprintln!("\nthe end of the daemon's log:\n{}", tail.join("\n"));
        }
        outcome
    }

    fn steps(&mut self, load: Duration) -> Result<()> {
        self.daemon.wait_ready()?;
        let count = load::topics().len();
        let created = format!("the destination to have {count} mirrors");
        eventually(PATIENCE, created, || {
            let active = board::mirrors(&self.daemon)?.iter().filter(|m| m.is_active()).count();
            ensure!(active == count, "{active} of {count} mirrors are active");
            Ok(())
        })?;
        result(&format!("the daemon has its seat (broker {SEAT}) and leads {count} mirrors"));
        self.mirror_a_load(load)?;
        self.refuse("while the daemon runs")?;
        self.daemon_dies()?;
        self.daemon_returns(load / 4)
    }

    fn mirror_a_load(&mut self, load: Duration) -> Result<()> {
        let seconds = load.as_secs();
        about_to(&format!(
            "produce for {seconds} s: plain, transactions that commit and abort, compacted, zstd, \
             lz4, gzip"
        ));
        let producers = Load::start(&self.source)?;
        self.watch(load)?;
        let records = producers.stop()?;
        self.catch_up()?;
        result(&format!("{records} records were acknowledged at the source and are mirrored"));
        self.prove_identity()
    }

    fn daemon_dies(&mut self) -> Result<()> {
        about_to("kill the daemon (SIGKILL): real brokers take over, readable and locked");
        let begin = Instant::now();
        self.daemon.kill()?;
        eventually(PATIENCE, "real brokers to lead every mirror", || {
            for (topic, partition) in self.partitions()? {
                let leader = self.destination.leader(topic, partition)?;
                ensure!(leader != SEAT, "the seat leads {topic}-{partition}");
            }
            Ok(())
        })?;
        let seconds = begin.elapsed().as_secs_f64();
        result(&format!("real brokers lead every mirror {seconds:.1} s after the kill"));
        about_to("read the mirrors to the end with Kafka's own consumer, read_committed");
        let records = readers::read_alike(&self.source, &self.destination)?;
        result(&format!("{records} records, the same as at the source at the same offsets"));
        self.refuse("while the daemon is dead")
    }

    fn daemon_returns(&mut self, watch: Duration) -> Result<()> {
        about_to("produce at the source, start the daemon again and watch it catch up");
        let producers = Load::start(&self.source)?;
        std::thread::park_timeout(BACKLOG);
        self.daemon.start_again()?;
        self.daemon.wait_ready()?;
        self.watch(watch)?;
        let records = producers.stop()?;
        self.catch_up()?;
        result(&format!("caught up; {records} more records are mirrored"));
        self.prove_identity()?;
        about_to("stop the daemon (SIGTERM): it hands leadership over first");
        let begin = Instant::now();
        let code = self.daemon.stop()?;
        ensure!(code == 0, "the daemon ended with code {code}");
        let seconds = begin.elapsed().as_secs_f64();
        result(&format!("stopped in {seconds:.1} s; now the clusters and their files go"));
        Ok(())
    }

    fn watch(&mut self, how_long: Duration) -> Result<()> {
        let begin = Instant::now();
        self.board.show_until(&self.daemon, |_| begin.elapsed() >= how_long)
    }

    /// Nothing is produced any more: waits until every replica has the source's end.
    fn catch_up(&mut self) -> Result<()> {
        let begin = Instant::now();
        let level = |mirrors: &[Mirror]| mirrors.iter().all(|m| m.lag_records == Some(0));
        self.board
            .show_until(&self.daemon, |mirrors| level(mirrors) || begin.elapsed() >= PATIENCE)?;
        let partitions = self.partitions()?;
        eventually(PATIENCE, "every replica to have the source's end", || {
            for (topic, partition) in &partitions {
                let leader = self.source.leader(topic, *partition)?;
                let end = self.source.judge(leader)?.bounds(topic, *partition)?.high_watermark;
                for broker in self.destination.broker_ids() {
                    let copy = self.destination.judge(broker)?.bounds(topic, *partition)?;
                    let found = copy.high_watermark;
                    ensure!(found == end, "broker {broker} has {found} of {end} of {topic}");
                }
            }
            Ok(())
        })
    }

    fn prove_identity(&self) -> Result<()> {
        about_to("prove identity: read source and every replica, compare all batches byte by byte");
        let mut verify = Command::new(&self.binary);
        verify.args(["verify", "--config"]).arg(self.daemon.config());
        let status = verify.status().with_context(|| format!("run {}", self.binary.display()))?;
        ensure!(status.success(), "lockstep verify says no: {status}");
        result("byte for byte the same at the same offsets (but for the leader epoch)");
        Ok(())
    }

    fn refuse(&self, when: &str) -> Result<()> {
        about_to(&format!("produce to a mirror {when}: it must be refused"));
        let sent = Produce::to(&self.destination.bootstrap(), load::PLAIN).count(1);
        let sent = sent.attempt(self.destination.dist())?;
        let first = sent.first().context("the producer told nothing")?;
        match (&first.error, &first.message) {
            (Some(error), Some(message)) => result(&format!("refused with {error}: {message}")),
            (Some(error), None) => result(&format!("refused with {error}")),
            (None, _) => bail!("the mirror took a foreign record at offset {:?}", first.offset),
        }
        Ok(())
    }

    fn partitions(&self) -> Result<Vec<(&'static str, i32)>> {
        let mut judge = self.source.any_judge()?;
        let mut partitions = Vec::new();
        for topic in load::topics() {
            let found = judge.topic(topic)?.partitions;
            partitions.extend(found.into_keys().map(|partition| (topic, partition)));
        }
        Ok(partitions)
    }
}

/// The daemon from the same build as this program: `target/PROFILE/examples/demo`.
fn binary() -> Result<PathBuf> {
    let own = std::env::current_exe()?;
    let profile = own.parent().and_then(|examples| examples.parent());
    let binary = profile.context("the directory of the build")?.join("lockstep");
    let advice = "cargo build --release --bin lockstep --example demo";
    ensure!(binary.exists(), "{} is missing; run: {advice}", binary.display());
    Ok(binary)
}
