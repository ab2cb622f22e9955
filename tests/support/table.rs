//! A compacted topic with holes: three segments of few keys, of which the cleaner has done what it can.

use std::time::{Duration, SystemTime};

use anyhow::{Result, ensure};

use super::cluster::Cluster;
use super::compare::open_leader;
use super::dist::Dist;
use super::eventually;
use super::java::Produce;
use super::judge::NewTopic;

/// Records further apart than this are in different segments.
const SEGMENT: Duration = Duration::from_secs(120);
/// Records of a segment.
const RECORDS: usize = 40;
/// Keys of the three segments, each all of those after it.
const KEYS: [u32; 3] = [10, 5, 3];
/// The cleaner keeps one record of each key, and does not touch the last segment.
const LEFT: usize = KEYS[0] as usize + RECORDS;
const DEADLINE: Duration = Duration::from_secs(120);

/// Makes the topic, of one partition, and waits until the cleaner is done with it. The cluster needs a
/// short `log.cleaner.backoff.ms`.
pub fn compacted(cluster: &Cluster, clients: &Dist, name: &str) -> Result<()> {
    let topic = NewTopic::new(name, 1)
        .config("cleanup.policy", "compact")
        .config("segment.bytes", 1 << 20)
        .config("segment.ms", SEGMENT.as_millis())
        .config("min.cleanable.dirty.ratio", 0.01);
    cluster.create_topic(&topic)?;
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let segment = |number: u32| {
        let time = (now + number * 2 * SEGMENT).as_millis();
        let load = Produce::to(&cluster.bootstrap(), name).count(RECORDS as u64);
        load.option("keys", KEYS[number as usize]).option("timestamp", time).option("flush", 10)
    };
    segment(0).and(segment(1)).and(segment(2)).run(clients)?;
    eventually(DEADLINE, format!("holes in {name}"), || {
        let log = open_leader(cluster, name, 0)?.rest()?;
        let left: i32 = log.iter().map(|batch| batch.record_count()).sum();
        ensure!(left as usize == LEFT, "{left} records, not {LEFT}");
        Ok(())
    })
}
