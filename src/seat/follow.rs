//! The seat as a follower of real leaders: learns where their logs start and end and which epochs
//! they have, joins the in-sync replicas, and asks to be elected. Carries no records.

use std::collections::{BTreeMap, HashMap};

use kafka_protocol::messages::elect_leaders_request::TopicPartitions;
use kafka_protocol::messages::fetch_request::{FetchPartition, FetchTopic, ReplicaState};
use kafka_protocol::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use kafka_protocol::messages::offset_for_leader_epoch_request::{
    OffsetForLeaderPartition, OffsetForLeaderTopic,
};
use kafka_protocol::messages::{
    ElectLeadersRequest, FetchRequest, ListOffsetsRequest, OffsetForLeaderEpochRequest,
};
use kafka_protocol::protocol::StrBytes;

use super::error::SeatError;
use super::leader::Adoption;
use crate::client::Connection;
use crate::mirror::lineage::{EpochHistory, EpochStart};
use crate::types::{BrokerEpoch, BrokerId, LeaderEpoch, Offset, PartitionKey, TopicName};

/// Rounds of questions about older epochs: far more than any partition keeps.
const MAX_EPOCHS: usize = 10_000;
const END: i64 = -1;
const START: i64 = -2;
/// `ElectionType.PREFERRED`.
const PREFERRED: i8 = 0;
const ELECTION_TIMEOUT_MS: i32 = 8_000;
/// The first replica leads already.
const ELECTION_NOT_NEEDED: i16 = 84;
const FETCH_WITH_REPLICA_STATE: i16 = 15;

/// A partition whose leader is a real broker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Followed {
    /// The partition.
    pub key: PartitionKey,
    /// Its topic's name.
    pub topic: TopicName,
    /// The leader's epoch.
    pub leader_epoch: LeaderEpoch,
}

/// Who we are towards the leader.
#[derive(Clone, Copy, Debug)]
pub struct FollowerIdentity {
    /// Our broker id.
    pub seat: BrokerId,
    /// Our registration.
    pub epoch: BrokerEpoch,
}

/// What the leader said of one partition: its log, or an error code.
pub type Learned = Result<Adoption, i16>;

/// Asks a leader for the logs of partitions that it leads; in their order.
pub async fn learn(
    leader: &Connection,
    seat: BrokerId,
    partitions: &[Followed],
) -> Result<Vec<Learned>, SeatError> {
    let ends = list_offsets(leader, seat, partitions, END).await?;
    let starts = list_offsets(leader, seat, partitions, START).await?;
    let mut histories = epochs(leader, seat, partitions, &starts).await?;
    let learned = partitions.iter().map(|partition| {
        let offset = |of: &HashMap<PartitionKey, Result<Offset, i16>>| {
            of.get(&partition.key).copied().unwrap_or(Err(-1))
        };
        let (log_end, log_start) = (offset(&ends)?, offset(&starts)?);
        let steps = histories.remove(&partition.key).unwrap_or(Err(-1))?;
        // Steps come newest first and were checked to fall; a leader that tells otherwise is
        // asked again later.
        let history =
            EpochHistory::from_starts(steps.into_iter().rev()).map_err(|_misfit| -1i16)?;
        let (key, leader_epoch) = (partition.key, partition.leader_epoch);
        Ok(Adoption {
            key,
            leader_epoch,
            history,
            log_end,
            log_start,
            high_watermark: None,
            tail: None,
            cut_from: None,
        })
    });
    Ok(learned.collect())
}

fn by_topic(partitions: &[Followed]) -> BTreeMap<&TopicName, Vec<&Followed>> {
    let mut topics: BTreeMap<&TopicName, Vec<&Followed>> = BTreeMap::new();
    for partition in partitions {
        topics.entry(&partition.topic).or_default().push(partition);
    }
    topics
}

fn name_of(topic: &TopicName) -> kafka_protocol::messages::TopicName {
    StrBytes::from_string(topic.as_str().to_owned()).into()
}

async fn list_offsets(
    leader: &Connection,
    seat: BrokerId,
    partitions: &[Followed],
    timestamp: i64,
) -> Result<HashMap<PartitionKey, Result<Offset, i16>>, SeatError> {
    let topics = by_topic(partitions).into_iter().map(|(name, partitions)| {
        let partitions = partitions.iter().map(|partition| {
            ListOffsetsPartition::default()
                .with_partition_index(partition.key.partition)
                .with_current_leader_epoch(partition.leader_epoch.0)
                .with_timestamp(timestamp)
        });
        ListOffsetsTopic::default().with_name(name_of(name)).with_partitions(partitions.collect())
    });
    let request = ListOffsetsRequest::default()
        .with_replica_id(seat.0.into())
        .with_isolation_level(0)
        .with_topics(topics.collect());
    let response = leader.request(&request).await?;
    let mut offsets = HashMap::new();
    for topic in &response.topics {
        for answer in &topic.partitions {
            if let Some(key) = key_of(partitions, topic.name.as_str(), answer.partition_index) {
                let offset = (answer.error_code == 0).then_some(Offset(answer.offset));
                offsets.insert(key, offset.ok_or(answer.error_code));
            }
        }
    }
    Ok(offsets)
}

fn key_of(partitions: &[Followed], topic: &str, partition: i32) -> Option<PartitionKey> {
    let same =
        |known: &&Followed| known.key.partition == partition && known.topic.as_str() == topic;
    partitions.iter().find(same).map(|known| known.key)
}

/// Epoch starts of one partition, newest first, while they are being asked for.
#[derive(Debug)]
struct Asking {
    steps: Vec<EpochStart>,
    /// Epoch to ask for next, and the epoch whose start that answer gives.
    next: LeaderEpoch,
    newest: Option<LeaderEpoch>,
    log_start: Offset,
}

impl Asking {
    /// The leader said that the largest epoch up to the one asked is `epoch`, and ends at `end`;
    /// whether there are older ones to ask for.
    fn on_answer(&mut self, epoch: LeaderEpoch, end: Offset) -> bool {
        if let Some(newer) = self.newest {
            let start = end.max(self.log_start);
            self.steps.push(EpochStart { epoch: newer, start });
        }
        if epoch < LeaderEpoch(0) || (self.newest.is_some() && end <= self.log_start) {
            self.newest = None;
            return false;
        }
        self.newest = Some(epoch);
        self.next = LeaderEpoch(epoch.0 - 1);
        if self.next < LeaderEpoch(0) {
            // No older epoch can be: this one begins with the log.
            self.steps.push(EpochStart { epoch, start: self.log_start });
            self.newest = None;
            return false;
        }
        true
    }
}

type Histories = HashMap<PartitionKey, Result<Vec<EpochStart>, i16>>;

/// Asks from the current epoch down: the end of an epoch is the start of the next one.
async fn epochs(
    leader: &Connection,
    seat: BrokerId,
    partitions: &[Followed],
    starts: &HashMap<PartitionKey, Result<Offset, i16>>,
) -> Result<Histories, SeatError> {
    let mut asking: HashMap<PartitionKey, Asking> = HashMap::new();
    for partition in partitions {
        if let Some(&Ok(log_start)) = starts.get(&partition.key) {
            let next = partition.leader_epoch;
            let fresh = Asking { steps: Vec::new(), next, newest: None, log_start };
            asking.insert(partition.key, fresh);
        }
    }
    let mut known = Histories::new();
    for _ in 0..MAX_EPOCHS {
        let open: Vec<_> =
            partitions.iter().filter(|p| asking.contains_key(&p.key)).cloned().collect();
        if open.is_empty() {
            return Ok(known);
        }
        for (key, answer) in epoch_ends(leader, seat, &open, &asking).await? {
            let Some(state) = asking.get_mut(&key) else { continue };
            let goes_on = match answer {
                Ok((epoch, end)) => state.on_answer(epoch, end),
                Err(code) => {
                    known.insert(key, Err(code));
                    false
                }
            };
            if !goes_on && let Some(done) = asking.remove(&key) {
                known.entry(key).or_insert(Ok(done.steps));
            }
        }
    }
    Ok(known)
}

type EpochEnd = Result<(LeaderEpoch, Offset), i16>;

async fn epoch_ends(
    leader: &Connection,
    seat: BrokerId,
    open: &[Followed],
    asking: &HashMap<PartitionKey, Asking>,
) -> Result<Vec<(PartitionKey, EpochEnd)>, SeatError> {
    let topics = by_topic(open).into_iter().map(|(name, partitions)| {
        let partitions = partitions.iter().map(|partition| {
            let next = asking.get(&partition.key).map_or(partition.leader_epoch, |a| a.next);
            OffsetForLeaderPartition::default()
                .with_partition(partition.key.partition)
                .with_current_leader_epoch(partition.leader_epoch.0)
                .with_leader_epoch(next.0)
        });
        OffsetForLeaderTopic::default()
            .with_topic(name_of(name))
            .with_partitions(partitions.collect())
    });
    let request = OffsetForLeaderEpochRequest::default()
        .with_replica_id(seat.0.into())
        .with_topics(topics.collect());
    let response = leader.request(&request).await?;
    let mut answers: HashMap<PartitionKey, EpochEnd> = HashMap::new();
    for topic in &response.topics {
        for answer in &topic.partitions {
            if let Some(key) = key_of(open, topic.topic.as_str(), answer.partition) {
                let known = (LeaderEpoch(answer.leader_epoch), Offset(answer.end_offset));
                let answer =
                    if answer.error_code == 0 { Ok(known) } else { Err(answer.error_code) };
                answers.insert(key, answer);
            }
        }
    }
    // A partition that the leader left out must not be asked for ever.
    Ok(open.iter().map(|p| (p.key, answers.remove(&p.key).unwrap_or(Err(-1)))).collect())
}

/// Fetches once at the log ends, as a follower that has everything: the leader takes us into the
/// in-sync replicas. From then on we may be elected at any moment.
pub async fn join(
    leader: &Connection,
    identity: FollowerIdentity,
    ends: &[Adoption],
) -> Result<Vec<(PartitionKey, i16)>, SeatError> {
    let mut topics: BTreeMap<_, Vec<FetchPartition>> = BTreeMap::new();
    for end in ends {
        // The leader knows nothing of a cut that waits for us.
        let log_end = end.cut_from.unwrap_or(end.log_end);
        let last_epoch = end.history.epoch_of(log_end).unwrap_or(LeaderEpoch::UNKNOWN);
        let partition = FetchPartition::default()
            .with_partition(end.key.partition)
            .with_current_leader_epoch(end.leader_epoch.0)
            .with_fetch_offset(log_end.0)
            .with_last_fetched_epoch(last_epoch.0)
            .with_log_start_offset(end.log_start.0)
            .with_partition_max_bytes(1);
        topics.entry(end.key.topic).or_default().push(partition);
    }
    let topics = topics.into_iter().map(|(id, partitions)| {
        FetchTopic::default().with_topic_id(id.0).with_partitions(partitions)
    });
    let state = ReplicaState::default()
        .with_replica_id(identity.seat.0.into())
        .with_replica_epoch(identity.epoch.0);
    let request = FetchRequest::default()
        .with_replica_id((-1).into())
        .with_replica_state(state)
        .with_max_wait_ms(0)
        .with_min_bytes(0)
        .with_max_bytes(1)
        .with_session_epoch(-1)
        .with_topics(topics.collect());
    let version = leader.version::<FetchRequest>().unwrap_or(FETCH_WITH_REPLICA_STATE);
    let response = leader.request_at(version.max(FETCH_WITH_REPLICA_STATE), &request).await?;
    SeatError::check("Fetch as a follower", response.error_code)?;
    let answers = response.responses.iter().flat_map(|topic| {
        let id = crate::types::TopicId(topic.topic_id);
        topic.partitions.iter().map(move |partition| {
            let key = PartitionKey { topic: id, partition: partition.partition_index };
            (key, partition.error_code)
        })
    });
    Ok(answers.collect())
}

/// Asks for an election of the preferred replica, which is the seat that stands first.
pub async fn elect(broker: &Connection, partitions: &[Followed]) -> Result<(), SeatError> {
    let topics = by_topic(partitions).into_iter().map(|(name, partitions)| {
        TopicPartitions::default()
            .with_topic(name_of(name))
            .with_partitions(partitions.iter().map(|p| p.key.partition).collect())
    });
    let request = ElectLeadersRequest::default()
        .with_election_type(PREFERRED)
        .with_topic_partitions(Some(topics.collect()))
        .with_timeout_ms(ELECTION_TIMEOUT_MS);
    let response = broker.request(&request).await?;
    SeatError::check("ElectLeaders", response.error_code)?;
    for topic in &response.replica_election_results {
        for answer in &topic.partition_result {
            if !matches!(answer.error_code, 0 | ELECTION_NOT_NEEDED) {
                tracing::info!(
                    topic = topic.topic.as_str(),
                    partition = answer.partition_id,
                    error_code = answer.error_code,
                    "not elected yet; asking again"
                );
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(log_start: i64, current: i32, answers: &[(i32, i64)]) -> Vec<(i32, i64)> {
        let mut asking = Asking {
            steps: Vec::new(),
            next: LeaderEpoch(current),
            newest: None,
            log_start: Offset(log_start),
        };
        let mut answers = answers.iter();
        loop {
            let &(epoch, end) = answers.next().expect("asked more than expected");
            if !asking.on_answer(LeaderEpoch(epoch), Offset(end)) {
                break;
            }
        }
        assert!(answers.next().is_none(), "asked less than expected");
        asking.steps.iter().rev().map(|step| (step.epoch.0, step.start.0)).collect()
    }

    #[test]
    fn a_history_is_asked_for_from_the_newest_epoch_down() {
        assert_eq!(ask(0, 7, &[(7, 90), (4, 60), (0, 20)]), [(0, 0), (4, 20), (7, 60)]);
    }

    #[test]
    fn a_trimmed_log_ends_the_questions_at_its_start() {
        // Below its first epoch a leader answers the epoch asked for and the first start.
        assert_eq!(ask(50, 7, &[(7, 90), (4, 60), (3, 50)]), [(4, 50), (7, 60)]);
        assert_eq!(ask(50, 7, &[(7, 90), (-1, -1)]), [(7, 50)]);
    }

    #[test]
    fn an_epoch_without_batches_is_passed_over() {
        // The leader's own epoch 7 has none yet: the largest epoch known is 4.
        assert_eq!(ask(0, 7, &[(4, 60), (1, 10), (0, 5)]), [(0, 0), (1, 5), (4, 10)]);
        assert_eq!(ask(0, 3, &[(-1, -1)]), []);
    }
}
