//! Compares a mirror with its source, batch by batch and on every replica: all bytes but the
//! partition leader epoch.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use super::cluster::Cluster;
use super::eventually::eventually;
use super::judge::{Batch, LogBounds, LogReader};

/// `mirror` is the topic's name at the destination. Fails with the first difference as text. Both
/// sides must be at rest: see [`wait_identical`].
pub fn assert_identical(
    source: &Cluster,
    destination: &Cluster,
    topic: &str,
    mirror: &str,
) -> Result<()> {
    for partition in partitions(source, topic)? {
        for broker in replicas(destination, mirror, partition)? {
            compare_replica(source, destination, topic, mirror, partition, broker)?;
        }
    }
    Ok(())
}

/// Waits until every destination replica has the source's log start and end, then compares.
pub fn wait_identical(
    source: &Cluster,
    destination: &Cluster,
    topic: &str,
    mirror: &str,
    deadline: Duration,
) -> Result<()> {
    let what = format!("mirror {mirror} to reach the end of {topic}");
    eventually(deadline, what, || {
        for partition in partitions(source, topic)? {
            let wanted = source_bounds(source, topic, partition)?;
            for broker in replicas(destination, mirror, partition)? {
                let found = destination.judge(broker)?.bounds(mirror, partition)?;
                same_bounds(wanted, found)
                    .with_context(|| format!("{mirror}-{partition} on broker {broker}"))?;
            }
        }
        Ok(())
    })?;
    assert_identical(source, destination, topic, mirror)
}

/// How many batches the source's leader holds, all partitions together: a comparison of nothing
/// proves nothing.
pub fn count_batches(cluster: &Cluster, topic: &str) -> Result<usize> {
    let mut count = 0;
    for partition in partitions(cluster, topic)? {
        let mut log = open_leader(cluster, topic, partition)?;
        while log.next_batch()?.is_some() {
            count += 1;
        }
    }
    Ok(count)
}

/// The leader's copy of a partition.
pub fn open_leader(cluster: &Cluster, topic: &str, partition: i32) -> Result<LogReader> {
    let leader = cluster.leader(topic, partition)?;
    LogReader::open(cluster.judge(leader)?, topic, partition)
}

fn compare_replica(
    source: &Cluster,
    destination: &Cluster,
    topic: &str,
    mirror: &str,
    partition: i32,
    broker: i32,
) -> Result<()> {
    let mut ours = open_leader(source, topic, partition)?;
    let mut theirs = LogReader::open(destination.judge(broker)?, mirror, partition)?;
    let place = || format!("{mirror}-{partition} on broker {broker} against {topic}-{partition}");
    same_bounds(ours.bounds, theirs.bounds).with_context(place)?;
    loop {
        let pair = (ours.next_batch()?, theirs.next_batch()?);
        match &pair {
            (None, None) => return Ok(()),
            (Some(a), Some(b)) if a.same_but_for_epoch(b) => {}
            (a, b) => bail!("{}: {}", place(), difference(a.as_ref(), b.as_ref())),
        }
    }
}

fn difference(ours: Option<&Batch>, theirs: Option<&Batch>) -> String {
    let at = ours.zip(theirs).and_then(|(ours, theirs)| ours.first_difference(theirs));
    let at = at.map_or_else(String::new, |at| format!(" from byte {at}"));
    let text = |batch: Option<&Batch>| {
        batch.map_or_else(|| "no batch".to_owned(), |batch| format!("{batch:?}"))
    };
    format!("differs{at}\n  source      {}\n  destination {}", text(ours), text(theirs))
}

fn same_bounds(source: LogBounds, destination: LogBounds) -> Result<()> {
    // The last stable offset is left out: while a mirror is led by a seat it is the high watermark.
    ensure!(
        source.log_start_offset == destination.log_start_offset
            && source.high_watermark == destination.high_watermark,
        "source has {}..{}, destination {}..{}",
        source.log_start_offset,
        source.high_watermark,
        destination.log_start_offset,
        destination.high_watermark
    );
    Ok(())
}

fn source_bounds(source: &Cluster, topic: &str, partition: i32) -> Result<LogBounds> {
    let leader = source.leader(topic, partition)?;
    source.judge(leader)?.bounds(topic, partition)
}

fn partitions(cluster: &Cluster, topic: &str) -> Result<Vec<i32>> {
    let topic = cluster.any_judge()?.topic(topic)?;
    Ok(topic.partitions.into_keys().collect())
}

/// The real replicas: a seat has no disk to compare.
fn replicas(cluster: &Cluster, topic: &str, partition: i32) -> Result<Vec<i32>> {
    let real = cluster.broker_ids();
    let found = cluster.any_judge()?.partition(topic, partition)?.replicas;
    let found: Vec<_> = found.into_iter().filter(|id| real.contains(id)).collect();
    ensure!(!found.is_empty(), "{topic}-{partition} has no real replica");
    Ok(found)
}
