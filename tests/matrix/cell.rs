//! One cell of the version matrix: a destination of one release mirrors from a source of another. The
//! same story for all: what is mirrored, then the daemon dies, then a real broker is restarted.

use std::time::Duration;

use anyhow::{Result, ensure};

use crate::support::cluster::{Cluster, ClusterSpec};
use crate::support::compare::wait_identical;
use crate::support::daemon::{Daemon, DaemonSpec, SEAT};
use crate::support::dist::Dist;
use crate::support::eventually;
use crate::support::java::Produce;
use crate::support::judge::produce::plain_batch;
use crate::support::judge::{Judge, NewTopic};
use crate::support::table;
use crate::support::workspace::Workspace;

const DEADLINE: Duration = Duration::from_secs(120);
const TOPICS: [&str; 3] = ["codecs", "payments", "table"];
const POLICY_VIOLATION: i16 = 44;
const NOT_LEADER: i16 = 6;
/// Clients are the newest: what is looked at is brokers.
const CLIENTS: &str = "4.3.1";

/// A pair of releases.
#[derive(Clone, Copy, Debug)]
pub struct Cell {
    pub destination: &'static str,
    pub source: &'static str,
}

struct Pair {
    clients: Dist,
    source: Cluster,
    destination: Cluster,
    daemon: Daemon,
}

impl Cell {
    /// Plays the story; an error says where it failed.
    pub fn play(self, binary: &str, workspace: &Workspace) -> Result<()> {
        let mut pair = self.start(binary, workspace)?;
        pair.wait_all_identical()?;
        pair.wait_led()?;
        pair.refuses_producers()?;

        pair.daemon.kill()?;
        load(&pair.source, "while-dead").run(&pair.clients)?;
        pair.daemon.start_again()?;
        pair.daemon.wait_ready()?;
        pair.wait_led()?;
        pair.wait_all_identical()?;

        pair.destination.stop(2)?;
        load(&pair.source, "without-2").run(&pair.clients)?;
        pair.destination.start_again(2)?;
        pair.destination.wait_ready()?;
        pair.wait_in_sync()?;
        pair.wait_all_identical()?;
        pair.refuses_producers()
    }

    fn start(self, binary: &str, workspace: &Workspace) -> Result<Pair> {
        let clients = Dist::get(CLIENTS)?;
        let source = ClusterSpec::new("source").version(self.source);
        let source = source.property("log.cleaner.backoff.ms", 100).start_in(workspace)?;
        // One controller of its own: restarting a broker must not take the quorum away. Each side
        // compacts on its own, at other moments: here one must not, to be compared.
        let destination = ClusterSpec::new("destination")
            .version(self.destination)
            .brokers(2)
            .separate_controllers(1)
            .heap_mb(384)
            .property("log.cleaner.backoff.ms", 3_600_000)
            .start_in(workspace)?;
        for topic in ["codecs", "payments"] {
            source.create_topic(&NewTopic::new(topic, 2))?;
        }
        table::compacted(&source, &clients, "table")?;
        load(&source, "before").run(&clients)?;
        let mut daemon =
            DaemonSpec::new(&source, &destination, &TOPICS).start_in(binary, workspace)?;
        daemon.wait_ready()?;
        Ok(Pair { clients, source, destination, daemon })
    }
}

impl Pair {
    fn wait_all_identical(&self) -> Result<()> {
        for topic in TOPICS {
            let made = || {
                let wanted = self.source.any_judge()?.topic(topic)?.partitions.len();
                let found = self.destination.any_judge()?.topic(topic)?.partitions.len();
                ensure!(found == wanted, "{found} of {wanted} partitions");
                Ok(())
            };
            eventually(DEADLINE, format!("mirror {topic}"), made)?;
            wait_identical(&self.source, &self.destination, topic, topic, DEADLINE)?;
        }
        Ok(())
    }

    fn each_partition(&self, is_right: impl Fn(i32, &[i32]) -> bool) -> Result<()> {
        for topic in TOPICS {
            eventually(DEADLINE, format!("{topic} to be led and in sync"), || {
                for (index, found) in self.destination.any_judge()?.topic(topic)?.partitions {
                    let is_right = is_right(found.leader, &found.in_sync);
                    ensure!(is_right, "{topic}-{index}: {found:?}");
                }
                Ok(())
            })?;
        }
        Ok(())
    }

    fn wait_led(&self) -> Result<()> {
        self.each_partition(|leader, _| leader == SEAT)
    }

    fn wait_in_sync(&self) -> Result<()> {
        self.each_partition(|_, in_sync| in_sync == [1, 2, SEAT])
    }

    /// With every number of acknowledgements, at the seat and at real brokers.
    fn refuses_producers(&self) -> Result<()> {
        self.wait_led()?;
        let brokers = self.destination.any_judge()?.metadata(Some(&[]))?.brokers;
        for broker in brokers {
            let address = format!("{}:{}", broker.host.as_str(), broker.port);
            let wanted = if broker.node_id.0 == SEAT { POLICY_VIOLATION } else { NOT_LEADER };
            for acks in [1, -1] {
                let batch = plain_batch(&[b"foreign"], 1_700_000_000_000);
                let code =
                    Judge::connect(&address)?.produce("payments", 0, acks, batch)?.error_code;
                ensure!(code == wanted, "{address} answers a producer {code}");
            }
        }
        Ok(())
    }
}

/// All codecs, and transactions of every fate.
fn load(source: &Cluster, name: &str) -> Produce {
    let to = source.bootstrap();
    let codec = |codec: &str| {
        let load = Produce::to(&to, "codecs").count(20).option("compression", codec);
        load.option("flush", 10).option("headers", 3).option("null-values", 7)
    };
    let transactions = |mode: &str| {
        let load = Produce::to(&to, "payments").count(30).option("transactions", mode);
        load.option("transactional-id", format!("{name}-{mode}")).option("per-transaction", 5)
    };
    let codecs = codec("none").and(codec("gzip")).and(codec("snappy")).and(codec("lz4"));
    let transactions = transactions("mix").and(transactions("interleaved"));
    codecs.and(codec("zstd")).and(transactions)
}
