//! Replicas that fall out of the in-sync replicas in ways of their own, and how they come back.

use std::time::Duration;

use anyhow::{Result, ensure};

use crate::support::cluster::Cluster;
use crate::support::compare::wait_identical;
use crate::support::daemon::{DaemonSpec, SEAT};
use crate::support::judge::NewTopic;
use crate::support::judge::admin::{BROKER, TOPIC};
use crate::support::judge::produce::plain_batch;
use crate::support::workspace::Workspace;
use crate::support::{ClusterSpec, eventually, scenario};

const DEADLINE: Duration = Duration::from_secs(60);
const LAG_TIME_MS: i64 = 10_000;
/// The least that 4.x takes.
const SMALL_SEGMENT: usize = 1 << 20;
const SEGMENT: &str = "segment.bytes";

/// A follower marks the partition failed when one append is larger than its segments, and never asks
/// for it again in that leader epoch.
#[test]
fn a_replica_that_marked_its_partition_failed_is_revived() {
    scenario("failed-replica", |workspace| {
        let (source, destination) = clusters(workspace, 3)?;
        let daemon = DaemonSpec::new(&source, &destination, &["large"])
            .line("link.topics", "replication_factor = 2")
            .start_in(env!("CARGO_BIN_EXE_lockstep"), workspace)?;
        fails_and_is_revived(&source, &destination)?;
        let after = destination.any_judge()?.partition("large", 0)?;
        ensure!(after.leader == SEAT && after.replicas.len() == 3, "{after:?}");
        // The third broker lent itself: the seat led throughout, one epoch came.
        ensure!(after.leader_epoch == 1, "{after:?}");
        ensure!(daemon.log_text()?.contains("FOLLOWER_REVIVED"));
        Ok(())
    });
}

/// Where all brokers are replicas, another one leads for a moment.
#[test]
fn a_failed_replica_is_revived_where_no_broker_is_spare() {
    scenario("failed-replica-small", |workspace| {
        let (source, destination) = clusters(workspace, 2)?;
        let _daemon = DaemonSpec::new(&source, &destination, &["large"])
            .line("link.topics", "replication_factor = 2")
            .start_in(env!("CARGO_BIN_EXE_lockstep"), workspace)?;
        fails_and_is_revived(&source, &destination)?;
        eventually(DEADLINE, "the seat in front and leading", || {
            let after = destination.any_judge()?.partition("large", 0)?;
            ensure!(after.leader == SEAT && after.replicas[0] == SEAT, "{after:?}");
            ensure!(after.leader_epoch >= 2, "{after:?}");
            Ok(())
        })
    });
}

fn clusters(workspace: &Workspace, brokers: i32) -> Result<(Cluster, Cluster)> {
    let source = ClusterSpec::new("source").start_in(workspace)?;
    let destination = ClusterSpec::new("destination")
        .brokers(brokers)
        .property("replica.lag.time.max.ms", LAG_TIME_MS)
        .start_in(workspace)?;
    source.create_topic(&NewTopic::new("large", 1).config("max.message.bytes", 4 << 20))?;
    Ok((source, destination))
}

fn fails_and_is_revived(source: &Cluster, destination: &Cluster) -> Result<()> {
    produce(source, 1_000)?;
    wait_identical(source, destination, "large", "large", DEADLINE)?;
    let before = destination.any_judge()?.partition("large", 0)?;
    ensure!(before.leader == SEAT && before.in_sync.len() == 3, "{before:?}");
    let failing = before.replicas[2];
    let mut judge = destination.judge(failing)?;
    let small = SMALL_SEGMENT.to_string();
    judge.alter_config(BROKER, &failing.to_string(), "log.segment.bytes", Some(&small))?;
    // Until the daemon puts it back, the broker's own setting holds there, and only there.
    judge.alter_config(TOPIC, "large", SEGMENT, None)?;
    produce(source, SMALL_SEGMENT * 3 / 2)?;
    eventually(DEADLINE, "a failed partition", || {
        let log = std::fs::read_to_string(&destination.node(failing)?.log_file)?;
        ensure!(
            log.contains("Unexpected error occurred while processing data for partition large-0")
        );
        Ok(())
    })?;
    eventually(DEADLINE, "the failed replica out of sync", || {
        let now = destination.any_judge()?.partition("large", 0)?;
        ensure!(!now.in_sync.contains(&failing), "{now:?}");
        Ok(())
    })?;
    eventually(DEADLINE, "the failed replica in sync again", || {
        let now = destination.any_judge()?.partition("large", 0)?;
        ensure!(now.in_sync.contains(&failing), "{now:?}");
        Ok(())
    })?;
    produce(source, 1_000)?;
    wait_identical(source, destination, "large", "large", DEADLINE)
}

fn produce(source: &Cluster, bytes: usize) -> Result<()> {
    let batch = plain_batch(&[vec![b'x'; bytes].as_slice()], 1_000);
    let answer = source.any_judge()?.produce("large", 0, -1, batch)?;
    ensure!(answer.error_code == 0, "{answer:?}");
    Ok(())
}
