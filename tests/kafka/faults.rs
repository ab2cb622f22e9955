//! Under load: the daemon stopped, started, killed and started again, and destination brokers
//! restarted. Nothing is lost, nothing falls back, nothing foreign is ever seen.

use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::support::cluster::Cluster;
use crate::support::compare::wait_identical;
use crate::support::daemon::{Daemon, DaemonSpec, SEAT};
use crate::support::java::{Background, Produce, sent};
use crate::support::judge::NewTopic;
use crate::support::watch::Watch;
use crate::support::workspace::Workspace;
use crate::support::{ClusterSpec, eventually, scenario};

const DEADLINE: Duration = Duration::from_secs(60);
/// The session of a killed broker ends after 9 s; then it starts, catches up and is asked for.
const RETURN_DEADLINE: Duration = Duration::from_secs(120);
const PARTITIONS: i32 = 2;
/// Records that have to pass before a state counts as working.
const PASSED: i64 = 300;

#[test]
fn a_daemon_comes_back_under_load_without_a_gap() {
    scenario("daemon-restarts", |workspace| {
        let mut pair = Pair::start(workspace)?;
        pair.wait_passed()?;
        let code = pair.daemon.stop()?;
        ensure!(code == 0, "the stopped daemon ended with code {code}");
        pair.wait_waiting()?;
        pair.daemon.start_again()?;
        pair.wait_passed()?;
        pair.daemon.kill()?;
        pair.wait_waiting()?;
        pair.daemon.start_again()?;
        pair.wait_passed()?;
        pair.end()
    });
}

#[test]
fn a_destination_broker_returns_to_the_in_sync_replicas_under_load() {
    scenario("broker-restarts", |workspace| {
        let mut pair = Pair::start(workspace)?;
        pair.wait_passed()?;
        pair.destination.stop(2)?;
        pair.wait_in_sync(2, false)?;
        pair.wait_passed()?;
        pair.destination.start_again(2)?;
        pair.wait_in_sync(2, true)?;
        pair.destination.kill(3)?;
        pair.wait_in_sync(3, false)?;
        pair.wait_passed()?;
        pair.destination.start_again(3)?;
        pair.wait_in_sync(3, true)?;
        pair.wait_passed()?;
        pair.end()
    });
}

/// A source of one broker, a destination of three, a daemon, a producer that never rests, and
/// somebody who looks at each copy.
struct Pair {
    source: Cluster,
    destination: Cluster,
    daemon: Daemon,
    load: Background,
    watch: Watch,
}

impl Pair {
    fn start(workspace: &Workspace) -> Result<Self> {
        let source = ClusterSpec::new("source").start_in(workspace)?;
        let destination = ClusterSpec::new("destination").brokers(3).start_in(workspace)?;
        source.create_topic(&NewTopic::new("orders", PARTITIONS))?;
        let load = Produce::to(&source.bootstrap(), "orders")
            .count(0)
            .option("rate", 200)
            .option("size", 500)
            .option("flush", 20)
            .option("compression", "lz4")
            .start(source.dist())?;
        // Little memory: a broker that was away must be fed from another one.
        let mut daemon = DaemonSpec::new(&source, &destination, &["orders"])
            .start_in(env!("CARGO_BIN_EXE_lockstep"), workspace)?;
        daemon.wait_ready()?;
        eventually(DEADLINE, "the mirror", || {
            let leader = destination.leader("orders", PARTITIONS - 1)?;
            ensure!(leader == SEAT, "{leader} leads");
            Ok(())
        })?;
        let watch = Watch::over(&source, &destination)?.topic("orders").seat(&daemon).start()?;
        Ok(Self { source, destination, daemon, load, watch })
    }

    /// Offset up to which consumers at the destination can read, all partitions together.
    fn mirror_end(&self) -> Result<i64> {
        let mut judge = self.destination.any_judge()?;
        (0..PARTITIONS).map(|p| Ok(judge.bounds("orders", p)?.high_watermark)).sum()
    }

    fn source_end(&self) -> Result<i64> {
        let mut judge = self.source.any_judge()?;
        (0..PARTITIONS).map(|p| judge.log_end_offset("orders", p)).sum()
    }

    /// Waits until the mirror has grown well beyond what the source has now.
    fn wait_passed(&mut self) -> Result<()> {
        let wanted = self.source_end()? + PASSED;
        let what = format!("the mirror to reach offset {wanted}; {}", self.daemon.url());
        eventually(RETURN_DEADLINE, what, || {
            let found = self.mirror_end()?;
            ensure!(found >= wanted, "it ends at {found}");
            Ok(())
        })
    }

    /// Waits until a good deal at the source waits to be copied.
    fn wait_waiting(&mut self) -> Result<()> {
        let wanted = self.source_end()? + PASSED;
        eventually(DEADLINE, format!("the source to reach offset {wanted}"), || {
            let found = self.source_end()?;
            ensure!(found >= wanted, "it ends at {found}");
            Ok(())
        })
    }

    fn wait_in_sync(&mut self, broker: i32, is_wanted: bool) -> Result<()> {
        let what = format!("broker {broker} in sync: {is_wanted}");
        eventually(RETURN_DEADLINE, what, || {
            for partition in 0..PARTITIONS {
                let found = self.destination.any_judge()?.partition("orders", partition)?;
                ensure!(found.in_sync.contains(&broker) == is_wanted, "{found:?}");
            }
            Ok(())
        })
    }

    fn end(self) -> Result<()> {
        let Self { source, destination, daemon: _daemon, load, watch } = self;
        let outcome = load.stop()?;
        let acknowledged = sent(&outcome.stdout)?;
        let lost = acknowledged.iter().find(|record| record.offset.is_none());
        ensure!(lost.is_none(), "the source did not take {lost:?}");
        wait_identical(&source, &destination, "orders", "orders", DEADLINE)?;
        let total: usize = acknowledged.len();
        let seen = watch.stop().context("what was seen meanwhile")?;
        ensure!(seen.batches > 100 && seen.unproved == 0, "{seen:?}");
        ensure!(seen.refused > 20 && total > 1_000, "{seen:?}, {total} records sent");
        Ok(())
    }
}
