//! The pair of clusters that all judges look at: mirrors with every codec, transactions of every fate,
//! compaction holes and headers, and the daemon that leads them.

use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, ensure};

use super::programs::all;
use crate::support::cluster::{Cluster, ClusterSpec};
use crate::support::compare::wait_identical;
use crate::support::daemon::{Daemon, DaemonSpec, SEAT};
use crate::support::dist::default_version;
use crate::support::eventually;
use crate::support::java::Produce;
use crate::support::judge::NewTopic;
use crate::support::judge::produce::plain_batch;
use crate::support::table;
use crate::support::workspace::Workspace;

/// For everything that takes its time and has to happen.
pub const DEADLINE: Duration = Duration::from_secs(90);
/// The mirrors, with how many partitions they have.
pub const TOPICS: [(&str, i32); 3] = [("codecs", 2), ("payments", 2), ("table", 1)];

/// Real replicas of each mirror: not every broker has each.
const REPLICAS: usize = 2;

/// The first load, which is there before anybody reads.
pub const BEFORE: &str = "before";

/// One more mirror, of plain lines of text, for applications.
pub const LINES: &str = "lines";
/// Lines of one load.
const LINES_AT_ONCE: u64 = 100;

/// Line `number` of [`LINES`].
pub fn line(number: u64) -> String {
    format!("line {number}")
}

/// Another release of the destination than tests have, where one is asked for.
pub fn destination_asked_for() -> Option<String> {
    std::env::var("LOCKSTEP_CLIENTS_DESTINATION").ok()
}

/// Source of one broker, destination of two (three in the long form), and the daemon between them.
pub struct Stage {
    pub source: Cluster,
    pub destination: Cluster,
    pub daemon: Daemon,
    lines: u64,
    last_load: String,
}

impl Stage {
    /// Starts all, and waits until what the source has is mirrored and led by the seat; `before` sees
    /// the destination before there is a seat.
    pub fn start(
        workspace: &Workspace,
        before: impl FnOnce(&Cluster) -> Result<()>,
    ) -> Result<Self> {
        let version = destination_asked_for().unwrap_or_else(default_version);
        let brokers = if all() { 3 } else { 2 };
        // Of the same release, so that it says what a stock cluster would have answered.
        let source = ClusterSpec::new("source").version(&version).heap_mb(384);
        let source = source.property("log.cleaner.backoff.ms", 100);
        let source = quick_groups(source).start_in(workspace)?;
        // Each side compacts on its own: here one must not, to be compared.
        let destination = ClusterSpec::new("destination")
            .version(&version)
            .brokers(brokers)
            .heap_mb(384)
            .property("log.cleaner.backoff.ms", 3_600_000);
        let destination = quick_groups(destination).start_in(workspace)?;
        for name in ["codecs", "payments", LINES] {
            source.create_topic(&NewTopic::new(name, 2))?;
        }
        table::compacted(&source, source.dist(), "table")?;
        destination.create_topic(&NewTopic::new("written", 1))?;
        before(&destination)?;
        let mut daemon =
            DaemonSpec::new(&source, &destination, &["codecs", "payments", "table", LINES])
                .line("link.topics", &format!("replication_factor = {REPLICAS}"))
                .start_in(env!("CARGO_BIN_EXE_lockstep"), workspace)?;
        daemon.wait_ready()?;
        let mut stage = Self { source, destination, daemon, lines: 0, last_load: String::new() };
        stage.load(BEFORE, 40)?;
        stage.wait_mirrored()?;
        stage.wait_led()?;
        Ok(stage)
    }

    /// So many times 62 records: each codec, transactions that commit, abort and lie between each other.
    /// The last of each partition has the load's name for its value.
    pub fn load(&mut self, name: &str, times: u64) -> Result<()> {
        self.write_lines()?;
        let to = self.source.bootstrap();
        let codec = |codec: &str| {
            let load = Produce::to(&to, "codecs").count(4 * times).option("compression", codec);
            load.option("flush", 10).option("headers", 3).option("null-values", 7).option("keys", 5)
        };
        let transactions = |mode: &str| {
            let load = Produce::to(&to, "payments").count(20 * times).option("transactions", mode);
            load.option("transactional-id", format!("{name}-{mode}"))
                .option("per-transaction", 5)
                .option("keys", 9)
        };
        let codecs = codec("none").and(codec("gzip")).and(codec("snappy")).and(codec("lz4"));
        let table = Produce::to(&to, "table").count(2 * times).option("keys", 3);
        let load = codecs.and(codec("zstd")).and(transactions("mix"));
        let load = load.and(transactions("interleaved")).and(table);
        load.and(self.marks(name)?).run(self.source.dist())?;
        name.clone_into(&mut self.last_load);
        Ok(())
    }

    fn write_lines(&mut self) -> Result<()> {
        let mut judge = self.source.judge(1)?;
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?.as_millis();
        let now = i64::try_from(now)?;
        for first in (self.lines..self.lines + LINES_AT_ONCE).step_by(10) {
            let lines: Vec<_> = (first..first + 10).map(line).collect();
            let lines: Vec<_> = lines.iter().map(String::as_bytes).collect();
            let partition = i32::from(first % 20 == 0);
            let code = judge.produce(LINES, partition, -1, plain_batch(&lines, now))?.error_code;
            ensure!(code == 0, "error {code} for lines");
        }
        self.lines += LINES_AT_ONCE;
        Ok(())
    }

    /// How many lines there are.
    pub fn lines(&self) -> u64 {
        self.lines
    }

    /// Name of the last load.
    pub fn last_load(&self) -> &str {
        &self.last_load
    }

    /// One record with that value in each partition.
    fn marks(&self, value: &str) -> Result<Produce> {
        let places =
            TOPICS.iter().flat_map(|(topic, count)| (0..*count).map(move |at| (topic, at)));
        let mark = |(topic, partition): (&&str, i32)| {
            let load = Produce::to(&self.source.bootstrap(), topic).count(1).option("value", value);
            load.option("partition", partition).option("keys", 1)
        };
        places.map(mark).reduce(Produce::and).context("no topics")
    }

    /// Waits until every replica is the source's equal.
    pub fn wait_mirrored(&self) -> Result<()> {
        for (topic, count) in TOPICS {
            eventually(DEADLINE, format!("mirror {topic}"), || {
                let found = self.destination.any_judge()?.topic(topic)?.partitions.len();
                ensure!(i32::try_from(found)? == count, "{found} of {count} partitions");
                Ok(())
            })?;
            wait_identical(&self.source, &self.destination, topic, topic, DEADLINE)?;
        }
        Ok(())
    }

    /// Waits until the seat leads every mirror, and every replica is in sync.
    pub fn wait_led(&self) -> Result<()> {
        self.wait_leaders("the seat to lead", |leader| leader == SEAT)
    }

    /// Waits until real brokers lead.
    pub fn wait_real_leaders(&self) -> Result<()> {
        self.wait_leaders("real brokers to lead", |leader| leader >= 0 && leader != SEAT)
    }

    /// Kills the daemon and starts it again: real brokers have led in between.
    pub fn lead_anew(&mut self) -> Result<()> {
        self.daemon.kill()?;
        self.wait_real_leaders()?;
        self.load("between", 1)?;
        self.daemon.start_again()?;
        self.daemon.wait_ready()?;
        self.wait_led()?;
        self.wait_mirrored()
    }

    /// Where each copy of each partition of a mirror ends, on every real broker that has one.
    pub fn log_ends(&self, topic: &str) -> Result<Vec<i64>> {
        let mut ends = Vec::new();
        for partition in self.source.any_judge()?.topic(topic)?.partitions.into_keys() {
            for broker in self.real_replicas(topic, partition)? {
                ends.push(self.destination.judge(broker)?.log_end_offset(topic, partition)?);
            }
        }
        Ok(ends)
    }

    /// Real brokers that hold a partition of a mirror, in order of preference.
    pub fn real_replicas(&self, topic: &str, partition: i32) -> Result<Vec<i32>> {
        let replicas = self.destination.any_judge()?.partition(topic, partition)?.replicas;
        let real: Vec<_> = replicas.into_iter().filter(|id| *id != SEAT).collect();
        ensure!(real.len() == REPLICAS, "{topic}-{partition} is on {real:?}");
        Ok(real)
    }

    fn wait_leaders(&self, what: &str, is_right: impl Fn(i32) -> bool) -> Result<()> {
        eventually(DEADLINE, what, || {
            for broker in self.destination.broker_ids() {
                for (topic, _) in TOPICS {
                    let found = self.destination.judge(broker)?.topic(topic)?.partitions;
                    let wrong = found.iter().find(|(_, found)| !is_right(found.leader));
                    ensure!(wrong.is_none(), "broker {broker}: {topic}: {wrong:?}");
                }
            }
            Ok(())
        })
    }
}

/// Members of KIP-848 groups hear of a rebalance with their next heartbeat, 5 s apart by default.
fn quick_groups(cluster: ClusterSpec) -> ClusterSpec {
    cluster
        .property("group.consumer.min.heartbeat.interval.ms", 500)
        .property("group.consumer.heartbeat.interval.ms", 500)
}
