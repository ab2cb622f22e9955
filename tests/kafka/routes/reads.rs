//! A consumer that is nobody's client: it fetches where it is told to, and comes straight back.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use kafka_protocol::messages::FetchRequest;
use kafka_protocol::messages::fetch_request::{FetchPartition, FetchTopic};
use kafka_protocol::messages::fetch_response::PartitionData;
use kafka_protocol::protocol::StrBytes;
use uuid::Uuid;

use crate::support::judge::{Batch, Judge};

const READ_DEADLINE: Duration = Duration::from_secs(30);
const BY_ID_SINCE: i16 = 13;
const READ_COMMITTED: i8 = 1;

/// What a whole partition holds: its batches, and the aborted transactions that came with them.
#[derive(Debug, Default)]
pub struct Copy {
    pub batches: Vec<Batch>,
    pub aborted: BTreeSet<(i64, i64)>,
}

impl Copy {
    fn next_offset(&self) -> i64 {
        self.batches.last().map_or(0, Batch::next_offset)
    }

    /// Fails unless the other has the same.
    pub fn expect_same(&self, other: &Self) -> Result<()> {
        let mut both = self.batches.iter().zip(&other.batches);
        let same = both.all(|(a, b)| a.same_but_for_epoch(b));
        let counts = (self.batches.len(), other.batches.len());
        ensure!(same && counts.0 == counts.1, "batches differ: {counts:?}");
        ensure!(self.aborted == other.aborted, "aborted: {:?} {:?}", self.aborted, other.aborted);
        Ok(())
    }
}

/// A topic to fetch from.
#[derive(Clone, Copy, Debug)]
pub struct Topic {
    pub name: &'static str,
    pub id: Uuid,
}

impl Topic {
    /// One answer for these partitions at these offsets, read committed.
    pub fn fetch(
        self,
        judge: &mut Judge,
        version: i16,
        wanted: &[(i32, i64)],
        rack: &str,
    ) -> Result<Vec<PartitionData>> {
        let partitions = wanted.iter().map(|&(partition, offset)| {
            FetchPartition::default()
                .with_partition(partition)
                .with_fetch_offset(offset)
                .with_partition_max_bytes(1500)
        });
        let topic = FetchTopic::default().with_partitions(partitions.collect());
        let topic = if version < BY_ID_SINCE {
            topic.with_topic(StrBytes::from_static_str(self.name).into())
        } else {
            topic.with_topic_id(self.id)
        };
        let request = FetchRequest::default()
            .with_replica_id((-1).into())
            .with_max_wait_ms(500)
            .with_min_bytes(1)
            .with_max_bytes(5000)
            .with_isolation_level(READ_COMMITTED)
            .with_session_epoch(if version >= 7 { 0 } else { -1 })
            .with_rack_id(StrBytes::from_string(rack.to_owned()))
            .with_topics(vec![topic]);
        let answer = judge.ask_at(version, &request)?;
        ensure!(answer.error_code == 0, "v{version}: error {}", answer.error_code);
        Ok(answer.responses.into_iter().flat_map(|topic| topic.partitions).collect())
    }

    /// The replica that a fetch of each partition is sent to.
    pub fn sent_to(
        self,
        judge: &mut Judge,
        partitions: &[i32],
        rack: &str,
    ) -> Result<BTreeMap<i32, i32>> {
        let wanted: Vec<_> = partitions.iter().map(|&partition| (partition, 0)).collect();
        let version = judge.version::<FetchRequest>()?;
        let answer = self.fetch(judge, version, &wanted, rack)?;
        let sent = answer.iter().map(|p| (p.partition_index, p.preferred_read_replica.0));
        Ok(sent.collect())
    }

    /// Reads partitions up to `ends`, at this address only, wherever it is sent.
    pub fn read(
        self,
        judge: &mut Judge,
        version: i16,
        ends: &BTreeMap<i32, i64>,
    ) -> Result<BTreeMap<i32, Copy>> {
        let mut copies: BTreeMap<i32, Copy> =
            ends.keys().map(|&partition| (partition, Copy::default())).collect();
        let start = Instant::now();
        loop {
            let wanted: Vec<_> = copies
                .iter()
                .map(|(&partition, copy)| (partition, copy.next_offset()))
                .filter(|(partition, at)| *at < ends[partition])
                .collect();
            if wanted.is_empty() {
                return Ok(copies);
            }
            ensure!(start.elapsed() < READ_DEADLINE, "v{version}: {wanted:?} of {ends:?}");
            for mut found in self.fetch(judge, version, &wanted, "")? {
                let partition = found.partition_index;
                ensure!(found.error_code == 0, "v{version} {partition}: {}", found.error_code);
                let copy = copies.get_mut(&partition).context("a partition unasked for")?;
                let mut records = found.records.take().unwrap_or_default();
                while let Some(batch) = Batch::take(&mut records)? {
                    copy.batches.push(batch);
                }
                let aborted = found.aborted_transactions.unwrap_or_default();
                copy.aborted.extend(aborted.iter().map(|a| (a.producer_id.0, a.first_offset)));
            }
        }
    }
}
