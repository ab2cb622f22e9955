//! A mirror is its source to the byte on every replica, whatever the source's log looks like: three
//! stories, each with a pair of clusters of its own.

mod holes;
mod kinds;
mod transactions;

use std::time::Duration;

use anyhow::{Result, ensure};

use crate::support::cluster::Cluster;
use crate::support::compare::{open_leader, wait_identical};
use crate::support::daemon::{Daemon, DaemonSpec, SEAT};
use crate::support::eventually;
use crate::support::java::Produce;
use crate::support::judge::Batch;
use crate::support::workspace::Workspace;

/// Discovery, creation and copying, on a machine that does much else.
const DEADLINE: Duration = Duration::from_secs(90);

/// A daemon that is ready, having found both clusters at once.
fn start_daemon(
    source: &Cluster,
    destination: &Cluster,
    topics: &[&str],
    workspace: &Workspace,
) -> Result<Daemon> {
    let daemon = DaemonSpec::new(source, destination, topics);
    let mut daemon = daemon.start_in(env!("CARGO_BIN_EXE_lockstep"), workspace)?;
    daemon.wait_ready()?;
    // It once asked one broker for the settings of another, and got on only by luck.
    ensure!(!daemon.log_text()?.contains("cannot be reached"), "a live cluster was not reached");
    Ok(daemon)
}

/// Waits until `topic` is mirrored in full, by the same name, onto every real broker.
fn wait_mirrored(source: &Cluster, destination: &Cluster, topic: &str) -> Result<()> {
    wait_identical(source, destination, topic, topic, DEADLINE)?;
    // What was compared is only what the mirror names as its replicas.
    let every_broker = destination.broker_ids();
    eventually(DEADLINE, format!("all replicas of mirror {topic} in sync"), || {
        for (index, found) in destination.any_judge()?.topic(topic)?.partitions {
            let (first, real) = found.replicas.split_first().unwrap_or((&-1, &[]));
            let mut real = real.to_vec();
            real.sort_unstable();
            let all = found.in_sync.len() == found.replicas.len();
            ensure!(*first == SEAT && real == every_broker && all, "{topic}-{index}: {found:?}");
        }
        Ok(())
    })
}

/// All batches of a partition at its leader.
fn batches(cluster: &Cluster, topic: &str, partition: i32) -> Result<Vec<Batch>> {
    open_leader(cluster, topic, partition)?.rest()
}

/// Records that are sent in batches of ten.
fn tens(cluster: &Cluster, topic: &str) -> Produce {
    let load = Produce::to(&cluster.bootstrap(), topic).option("flush", 10);
    // Only a flush ends a batch.
    load.option("producer.linger.ms", 10_000)
}
