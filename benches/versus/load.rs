//! The records that are copied: batches of 64 KiB, evenly over the partitions of a topic.

use std::thread;
use std::time::Duration;

use anyhow::{Result, anyhow, ensure};
use bytes::Bytes;

use crate::support::cluster::Cluster;
use crate::support::eventually::eventually;
use crate::support::judge::NewTopic;
use crate::support::judge::produce::plain_batch;

/// Partitions of every topic here.
pub const PARTITIONS: i32 = 10;
/// Bytes of a batch, nearly.
pub const BATCH_BYTES: u64 = 64 << 10;
const RECORD_BYTES: usize = 1012;
const RECORDS: usize = 64;
/// Connections that fill a topic.
const WRITERS: i32 = 2;
const DEADLINE: Duration = Duration::from_secs(60);

/// A filled topic.
pub struct Load {
    /// Its name.
    pub topic: String,
    /// Bytes of its batches.
    pub bytes: u64,
    /// Log end offset of each partition.
    pub end_offset: i64,
}

impl Load {
    /// Mebibytes.
    pub fn mebibytes(&self) -> f64 {
        self.bytes as f64 / f64::from(1 << 20)
    }
}

/// Makes a topic with `bytes` in it, each partition on all of `brokers`, which lead by turns.
pub fn fill(cluster: &Cluster, brokers: &[i32], topic: &str, bytes: u64) -> Result<Load> {
    let replicas = |partition: i32| {
        let mut replicas = brokers.to_vec();
        let first = usize::try_from(partition).unwrap_or(0) % brokers.len().max(1);
        replicas.rotate_left(first);
        replicas
    };
    let assignment = (0..PARTITIONS).map(replicas).collect();
    let new = NewTopic::new(topic, 0).assignment(assignment);
    // Copies are thrown away between rounds: at once.
    let new = new.config("file.delete.delay.ms", 0);
    // The records' timestamps are old: by its own retention the source would lose them meanwhile.
    cluster.create_topic(&new.config("retention.ms", -1))?;
    let batches = (bytes / BATCH_BYTES).div_ceil(u64::try_from(PARTITIONS)?);
    let batch = batch();
    thread::scope(|scope| {
        let write = |writer: i32| {
            let batch = batch.clone();
            move || {
                let mine = (0..PARTITIONS).filter(|partition| partition % WRITERS == writer);
                write(cluster, topic, &mine.collect::<Vec<_>>(), batches, &batch)
            }
        };
        let writers: Vec<_> = (0..WRITERS).map(|writer| scope.spawn(write(writer))).collect();
        writers.into_iter().try_for_each(|writer| {
            writer.join().map_err(|_panicked| anyhow!("a writer has panicked"))?
        })
    })?;
    let end_offset = i64::try_from(batches)? * i64::try_from(RECORDS)?;
    let bytes = batches * u64::try_from(PARTITIONS)? * u64::try_from(batch.len())?;
    Ok(Load { topic: topic.to_owned(), bytes, end_offset })
}

fn write(
    cluster: &Cluster,
    topic: &str,
    partitions: &[i32],
    batches: u64,
    batch: &Bytes,
) -> Result<()> {
    let connect = |partition: &i32| {
        let leader = eventually(DEADLINE, "a leader", || cluster.leader(topic, *partition))?;
        Ok((*partition, cluster.judge(leader)?))
    };
    let mut leaders = partitions.iter().map(connect).collect::<Result<Vec<_>>>()?;
    for _ in 0..batches {
        for (partition, judge) in &mut leaders {
            // A broker that lost its controller for a moment on a busy machine refuses, once.
            eventually(DEADLINE, format!("a write to {topic}-{partition}"), || {
                let answer = judge.produce(topic, *partition, 1, batch.clone())?;
                ensure!(answer.error_code == 0, "error {}", answer.error_code);
                Ok(())
            })?;
        }
    }
    Ok(())
}

fn batch() -> Bytes {
    // Not all alike; a simple generator is random enough for what nobody compresses.
    let mut state = 0x9e37_79b9_u32;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state.to_be_bytes()[0]
    };
    let values: Vec<Vec<u8>> =
        (0..RECORDS).map(|_| (0..RECORD_BYTES).map(|_| next()).collect()).collect();
    let values: Vec<&[u8]> = values.iter().map(Vec::as_slice).collect();
    plain_batch(&values, 1_700_000_000_000)
}
