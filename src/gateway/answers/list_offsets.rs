//! ListOffsets: the end is our high watermark; everything else is a replica's to say, asked with the
//! replica id -2 that makes followers answer. What they say beyond the high watermark is not there
//! yet. For read_committed the bound is a replica's last stable offset, which only a Fetch tells.

use std::collections::{BTreeMap, HashMap};

use bytes::{Bytes, BytesMut};
use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::fetch_request::{FetchPartition, FetchTopic};
use kafka_protocol::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use kafka_protocol::messages::list_offsets_response::{
    ListOffsetsPartitionResponse, ListOffsetsTopicResponse,
};
use kafka_protocol::messages::{
    FetchRequest, ListOffsetsRequest, ListOffsetsResponse, RequestHeader,
};
use kafka_protocol::protocol::StrBytes;

use super::{
    AnswerError, AnswerKind, Ask, Asked, Asker, Gather, Reply, answer_frame, decode_answer,
    request_frame,
};
use crate::gateway::rights::Operation;
use crate::gateway::standing::{Led, Standing, Standings, TopicRef};
use crate::types::{BrokerId, LeaderEpoch, Offset, Uuid};

/// Asks for the end.
const LATEST: i64 = -1;
/// Ask for the start, and for the start of what is on local disks: no bound applies.
const STARTS: [i64; 2] = [-2, -4];
/// The replica id of a consumer that followers answer, too.
const DEBUGGING_CONSUMER: i32 = -2;
/// A Fetch version by name that every broker knows that we can join.
const FETCH_VERSION: i16 = 12;
const READ_COMMITTED: i8 = 1;
/// One more timestamp, -6 (KIP-1023), in the bytes of [`KNOWN`], the newest that the crate knows.
pub(in crate::gateway) const NEWEST: i16 = 11;
const KNOWN: i16 = 10;
/// First version whose answer has leader epochs.
const EPOCH_SINCE: i16 = 4;
const NOT_NOW: ResponseError = ResponseError::NotLeaderOrFollower;

/// What one partition's answer will be made of.
#[derive(Clone, Debug)]
enum Plan {
    Refused(i16),
    /// The offset, bounded by the last stable offset where that is asked for.
    Known {
        end: Offset,
        epoch: LeaderEpoch,
        stable: bool,
    },
    /// What a replica says, if it lies below the bounds.
    Replica {
        bound: Option<Offset>,
        stable: bool,
    },
}

/// What is asked of one broker.
#[derive(Default)]
struct Share {
    offsets: Vec<ListOffsetsTopic>,
    stable: Vec<FetchTopic>,
}

type Answered<T> = HashMap<(StrBytes, i32), T>;

/// Answers a ListOffsets.
pub async fn answer(frame: Bytes, asker: &mut Asker<'_>) -> Result<Reply, AnswerError> {
    let (frame, version) = known(frame);
    let asked = Asked::<ListOffsetsRequest>::decode(frame)?;
    if asked.body.replica_id.0 >= 0 {
        return Ok(super::fetch::impostor("ListOffsets", asked.body.replica_id.0));
    }
    let named = asked.body.topics.iter().flat_map(|topic| {
        let partitions = topic.partitions.iter().map(|partition| partition.partition_index);
        TopicRef::of(&topic.name, Uuid::nil()).each(partitions)
    });
    let standings = Standings::look_up(asker, Operation::Describe, named.collect()).await?;
    let (plans, shares) = plan(&asked.body, asked.version(), standings, asker);
    let mut asks = Vec::new();
    let mut kinds = Vec::new();
    for (broker, share) in shares {
        for (kind, request) in requests(&asked.header, version, &asked.body, share)? {
            let broker = Some(broker);
            asks.push(Ask { broker, answer: AnswerKind::Plain, request });
            kinds.push(kind);
        }
    }
    let finish = move |answers: Vec<Option<BytesMut>>| {
        let mut offsets = Answered::new();
        let mut stable = Answered::new();
        for (kind, frame) in kinds.into_iter().zip(answers) {
            let Some(frame) = frame else { continue };
            match kind {
                Kind::Offsets => read_offsets(frame, asked.version(), &mut offsets)?,
                Kind::Stable => read_stable(frame, &mut stable)?,
            }
        }
        let response = response(&asked.body, plans, &offsets, &stable);
        answer_frame::<ListOffsetsRequest>(&asked.header, &response)
    };
    if asks.is_empty() {
        return Ok(Reply::Answer(finish(Vec::new())?));
    }
    let finish = Box::new(finish);
    Ok(Reply::Gather(Gather { asks, finish }))
}

fn plan(
    request: &ListOffsetsRequest,
    version: i16,
    mut standings: Standings,
    asker: &Asker<'_>,
) -> (Vec<Plan>, BTreeMap<BrokerId, Share>) {
    let committed = request.isolation_level == READ_COMMITTED;
    let mut plans = Vec::new();
    let mut shares = BTreeMap::<BrokerId, Share>::new();
    for topic in &request.topics {
        for partition in &topic.partitions {
            let standing = standings.take();
            let plan = plan_one(partition, &standing, committed).and_then(|(mut plan, led)| {
                if let Plan::Known { epoch, .. } = &mut plan
                    && version < EPOCH_SINCE
                {
                    *epoch = LeaderEpoch::UNKNOWN;
                }
                let (asks_offset, asks_stable) = match plan {
                    Plan::Refused(_) => (false, false),
                    Plan::Known { stable, .. } => (false, stable),
                    Plan::Replica { stable, .. } => (true, stable),
                };
                if asks_offset || asks_stable {
                    let broker = replica_to_ask(led, asker).ok_or(NOT_NOW.code())?;
                    let share = shares.entry(broker).or_default();
                    if asks_offset {
                        share.offsets.push(one_offset(topic, partition));
                    }
                    if asks_stable {
                        share.stable.push(one_stable(topic, partition, led));
                    }
                }
                Ok(plan)
            });
            plans.push(plan.unwrap_or_else(Plan::Refused));
        }
    }
    (plans, shares)
}

fn plan_one<'a>(
    partition: &ListOffsetsPartition,
    standing: &'a Standing,
    committed: bool,
) -> Result<(Plan, &'a Led), i16> {
    let led = standing.led_at(partition.current_leader_epoch)?;
    let high_watermark = led.partition.high_watermark.ok_or(NOT_NOW.code())?;
    let plan = match partition.timestamp {
        LATEST => Plan::Known {
            end: high_watermark,
            epoch: led.partition.leader_epoch,
            stable: committed,
        },
        start if STARTS.contains(&start) => Plan::Replica { bound: None, stable: false },
        _ => Plan::Replica { bound: Some(high_watermark), stable: committed },
    };
    Ok((plan, led))
}

/// A live in-sync replica: the broker that the connection has anyway, where it is one.
pub(super) fn replica_to_ask(led: &Led, asker: &Asker<'_>) -> Option<BrokerId> {
    let in_sync = &led.partition.in_sync;
    if in_sync.contains(&asker.backend) {
        return Some(asker.backend);
    }
    let listener = asker.aside?;
    let image = asker.context.image.borrow();
    asker.live(&image, listener, in_sync).first().map(|broker| broker.id)
}

fn one_offset(topic: &ListOffsetsTopic, partition: &ListOffsetsPartition) -> ListOffsetsTopic {
    // The replica may learn of an epoch a moment after us: it is asked without one.
    let partition = partition.clone().with_current_leader_epoch(-1);
    ListOffsetsTopic::default().with_name(topic.name.clone()).with_partitions(vec![partition])
}

fn one_stable(topic: &ListOffsetsTopic, partition: &ListOffsetsPartition, led: &Led) -> FetchTopic {
    let end = led.partition.high_watermark.unwrap_or(Offset::ZERO);
    let partition = FetchPartition::default()
        .with_partition(partition.partition_index)
        .with_current_leader_epoch(-1)
        .with_fetch_offset(end.0)
        .with_last_fetched_epoch(-1)
        .with_log_start_offset(-1)
        .with_partition_max_bytes(1);
    FetchTopic::default().with_topic(topic.name.clone()).with_partitions(vec![partition])
}

#[derive(Clone, Copy)]
enum Kind {
    Offsets,
    Stable,
}

/// The frame in a version that can be decoded, and the version that it had.
fn known(frame: Bytes) -> (Bytes, i16) {
    let version = frame.get(2..4).map_or(0, |two| i16::from_be_bytes([two[0], two[1]]));
    match version {
        NEWEST => (with_version(&frame, 2, KNOWN), version),
        _ => (frame, version),
    }
}

fn with_version(frame: &[u8], at: usize, version: i16) -> Bytes {
    let mut frame = BytesMut::from(frame);
    frame[at..at + 2].copy_from_slice(&version.to_be_bytes());
    frame.freeze()
}

fn requests(
    header: &RequestHeader,
    version: i16,
    request: &ListOffsetsRequest,
    share: Share,
) -> Result<Vec<(Kind, Bytes)>, AnswerError> {
    let mut requests = Vec::new();
    if !share.offsets.is_empty() {
        let offsets =
            request.clone().with_replica_id(DEBUGGING_CONSUMER.into()).with_topics(share.offsets);
        let frame = request_frame(header, header.request_api_version, &offsets)?;
        // After its length and its key. An older version is refused the newest timestamp.
        requests.push((Kind::Offsets, with_version(&frame, 6, version)));
    }
    if !share.stable.is_empty() {
        let fetch = FetchRequest::default()
            .with_replica_id((-1).into())
            .with_max_wait_ms(0)
            .with_min_bytes(0)
            .with_max_bytes(1)
            .with_isolation_level(READ_COMMITTED)
            .with_session_id(0)
            .with_session_epoch(-1)
            .with_topics(share.stable)
            .with_rack_id(StrBytes::new());
        requests.push((Kind::Stable, request_frame(header, FETCH_VERSION, &fetch)?));
    }
    Ok(requests)
}

fn read_offsets(
    frame: BytesMut,
    version: i16,
    into: &mut Answered<ListOffsetsPartitionResponse>,
) -> Result<(), AnswerError> {
    for topic in decode_answer::<ListOffsetsRequest>(frame, version)?.topics {
        for partition in topic.partitions {
            into.insert((topic.name.0.clone(), partition.partition_index), partition);
        }
    }
    Ok(())
}

fn read_stable(frame: BytesMut, into: &mut Answered<Offset>) -> Result<(), AnswerError> {
    for topic in decode_answer::<FetchRequest>(frame, FETCH_VERSION)?.responses {
        for partition in topic.partitions {
            if partition.error_code == 0 && partition.last_stable_offset >= 0 {
                let stable = Offset(partition.last_stable_offset);
                into.insert((topic.topic.0.clone(), partition.partition_index), stable);
            }
        }
    }
    Ok(())
}

fn response(
    request: &ListOffsetsRequest,
    plans: Vec<Plan>,
    offsets: &Answered<ListOffsetsPartitionResponse>,
    stable: &Answered<Offset>,
) -> ListOffsetsResponse {
    let mut plans = plans.into_iter();
    let topics = request.topics.iter().map(|topic| {
        let partitions = topic.partitions.iter().map(|partition| {
            let key = (topic.name.0.clone(), partition.partition_index);
            let plan = plans.next().unwrap_or(Plan::Refused(NOT_NOW.code()));
            let answer = conclude(&plan, offsets.get(&key), stable.get(&key).copied())
                .unwrap_or_else(|code| nothing().with_error_code(code));
            answer.with_partition_index(partition.partition_index)
        });
        ListOffsetsTopicResponse::default()
            .with_name(topic.name.clone())
            .with_partitions(partitions.collect())
    });
    ListOffsetsResponse::default().with_throttle_time_ms(0).with_topics(topics.collect())
}

fn conclude(
    plan: &Plan,
    replica: Option<&ListOffsetsPartitionResponse>,
    last_stable: Option<Offset>,
) -> Result<ListOffsetsPartitionResponse, i16> {
    let bounded = |end: Option<Offset>, stable: bool| match (end, stable) {
        (end, false) => Ok(end),
        (None, true) => last_stable.map(Some).ok_or(NOT_NOW.code()),
        (Some(end), true) => {
            last_stable.map(|last_stable| Some(last_stable.min(end))).ok_or(NOT_NOW.code())
        }
    };
    match *plan {
        Plan::Refused(code) => Err(code),
        Plan::Known { end, epoch, stable } => {
            let end = bounded(Some(end), stable)?.unwrap_or(end);
            Ok(nothing().with_offset(end.0).with_leader_epoch(epoch.0))
        }
        Plan::Replica { bound, stable } => {
            let replica = replica.ok_or(NOT_NOW.code())?;
            // A replica that has not heard of the topic yet will; the client shall come back.
            if replica.error_code == ResponseError::UnknownTopicOrPartition.code() {
                return Err(NOT_NOW.code());
            }
            let bound = bounded(bound, stable)?;
            if bound.is_some_and(|bound| replica.offset >= bound.0) {
                return Ok(nothing());
            }
            Ok(replica.clone())
        }
    }
}

fn nothing() -> ListOffsetsPartitionResponse {
    ListOffsetsPartitionResponse::default()
        .with_error_code(0)
        .with_timestamp(-1)
        .with_offset(-1)
        .with_leader_epoch(-1)
}

#[cfg(test)]
mod tests;
