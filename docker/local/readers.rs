//! Reads both clusters with Kafka's own consumer and compares what it got.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};

use super::load::{COMPACTED, topics};
use super::support::Cluster;
use super::support::java::Consume;

/// Reads all topics on both sides, read committed; how many records the mirrors gave.
pub fn read_alike(source: &Cluster, destination: &Cluster) -> Result<usize> {
    let whole: Vec<_> = topics().into_iter().filter(|topic| *topic != COMPACTED).collect();
    let theirs = read(source, &whole)?;
    let ours = read(destination, &whole)?;
    ensure!(!ours.is_empty(), "the mirrors gave no record");
    for (theirs, ours) in theirs.iter().zip(&ours) {
        ensure!(theirs == ours, "the source gave\n{theirs}\nwhere the mirror gave\n{ours}");
    }
    let (wanted, found) = (theirs.len(), ours.len());
    ensure!(wanted == found, "the source gave {wanted} records, the mirrors {found}");
    // Each side compacts on its own: what must be the same is the last value of each key.
    let (theirs, ours) = (read(source, &[COMPACTED])?, read(destination, &[COMPACTED])?);
    ensure!(last_values(&theirs) == last_values(&ours), "the last values of {COMPACTED} differ");
    Ok(found + ours.len())
}

fn read(cluster: &Cluster, topics: &[&str]) -> Result<Vec<String>> {
    Consume::from(&cluster.bootstrap(), topics)
        .option("isolation", "read_committed")
        .option("seconds", 120)
        .run(cluster.dist())
}

/// Value by key; keys whose last value is a tombstone are left out, since a tombstone goes sooner or
/// later. A line is "topic partition offset timestamp-type timestamp key value headers".
fn last_values(lines: &[String]) -> BTreeMap<&str, &str> {
    let mut values = BTreeMap::new();
    for line in lines {
        let mut words = line.split(' ').skip(5);
        if let (Some(key), Some(value)) = (words.next(), words.next()) {
            values.insert(key, value);
        }
    }
    values.retain(|_, value| *value != "null");
    values
}
