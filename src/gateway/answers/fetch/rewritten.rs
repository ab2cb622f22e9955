//! Fetches of clients that cannot be sent away, and whose connection's broker does not hold everything
//! or does not know their version: the fetch is put to an in-sync replica as version 11, and its answer
//! written back in the client's version (decisions 0025 and 0029). Record bytes are copied as they
//! came; nothing is decoded or converted.

use std::collections::{BTreeSet, HashMap};

use bytes::{Bytes, BytesMut};
use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::fetch_request::{FetchPartition, FetchTopic};
use kafka_protocol::messages::fetch_response::{FetchableTopicResponse, PartitionData};
use kafka_protocol::messages::{FetchRequest, FetchResponse};
use kafka_protocol::protocol::StrBytes;

use super::{
    AnswerError, Asked, Asker, HOLD_MAX, PREFERRED_REPLICA_SINCE, Reply, duration, empty, holds,
    replicas, top_level,
};
use crate::gateway::answers::{
    AnswerKind, Ask, Gather, answer_frame, decode_answer, request_frame,
};
use crate::gateway::standing::{Led, Standings};
use crate::types::{BrokerId, Offset};

/// First version that asks followers as well as leaders.
const ASKED_WITH: i16 = PREFERRED_REPLICA_SINCE;
/// Most bytes of one answer, which is held in memory; a first batch that is larger comes whole.
const BYTES_MAX: i32 = 4 << 20;
/// Least share of them that a partition gets.
const SHARE_MIN: i32 = 64 << 10;
/// Longest wait at one replica while another one holds partitions of the same fetch.
const WAIT_IN_TURN_MS: i32 = 100;
/// Longest wait while the client has records of other partitions to use up: these clients make one fetch
/// at a time, all of them here, and would read on only after it.
const WAIT_MEANWHILE_MS: i32 = 10;
const NOT_NOW: ResponseError = ResponseError::NotLeaderOrFollower;

/// What becomes of one partition.
enum Plan {
    Refused(i16),
    /// Asked of this broker, or answered empty while another one is asked.
    At(BrokerId, StrBytes, Bounds),
}

impl Plan {
    /// Whether there is something to read from `offset` on.
    fn has_more(&self, offset: i64) -> bool {
        match self {
            Self::At(_, _, bounds) => offset < bounds.high_watermark.0,
            Self::Refused(_) => false,
        }
    }
}

/// Where our copy reaches: what a replica says of offsets within it is checked against it.
#[derive(Clone, Copy)]
struct Bounds {
    log_start: Option<Offset>,
    log_end: Offset,
    high_watermark: Offset,
}

/// Answers a full fetch; `standings` are those of its partitions.
pub fn answer(
    asked: Asked<FetchRequest>,
    mut standings: Standings,
    asker: &mut Asker<'_>,
) -> Result<Reply, AnswerError> {
    let mut brokers = BTreeSet::new();
    let mut plans = Vec::new();
    for partition in partitions(&asked.body) {
        let standing = standings.take();
        let led = standing.led_at(partition.current_leader_epoch);
        let plan = led.and_then(|led| {
            let plan = plan(led, &mut brokers, asker)?;
            let has_more = plan.has_more(partition.fetch_offset);
            asker.redirects.reads(led.key, has_more, asker.now);
            Ok(plan)
        });
        plans.push(plan.unwrap_or_else(Plan::Refused));
    }
    // One replica at a time, in turn: so an answer is never waited for with another in memory.
    let Some(broker) = asker.redirects.turn(&brokers) else {
        let frame = finish(&asked, &plans, BrokerId(-1), None)?;
        return Ok(Reply::Held(frame, duration(asked.body.max_wait_ms).min(HOLD_MAX)));
    };
    let mut wait = asked.body.max_wait_ms;
    if brokers.len() > 1 {
        wait = wait.min(WAIT_IN_TURN_MS);
    }
    if asker.redirects.reads_others(asker.now) {
        wait = wait.min(WAIT_MEANWHILE_MS);
    }
    let fetch = ask(&asked.body, &plans, broker, wait);
    let request = request_frame(&asked.header, ASKED_WITH, &fetch)?;
    let finish = move |answers: Vec<Option<BytesMut>>| {
        finish(&asked, &plans, broker, answers.into_iter().flatten().next())
    };
    let answer = AnswerKind::Records(duration(fetch.max_wait_ms));
    let asks = vec![Ask { broker: Some(broker), answer, request }];
    Ok(Reply::Gather(Gather { asks, finish: Box::new(finish) }))
}

/// The broker that the connection has anyway, where it is an in-sync replica; else another live one,
/// where it may be asked: one of `brokers`, so that they are few, or it is added to them.
fn plan(led: &Led, brokers: &mut BTreeSet<BrokerId>, asker: &Asker<'_>) -> Result<Plan, i16> {
    let high_watermark = led.partition.high_watermark.ok_or(NOT_NOW.code())?;
    let broker = if holds(asker.backend, led) {
        asker.backend
    } else {
        let aside = asker.aside.ok_or(NOT_NOW.code())?;
        let replicas = replicas(led, "", aside, asker);
        let among = replicas.iter().find(|replica| brokers.contains(*replica));
        *among.or(replicas.first()).ok_or(NOT_NOW.code())?
    };
    brokers.insert(broker);
    let (log_start, log_end) = (led.partition.log_start, led.partition.log_end);
    let bounds = Bounds { log_start, log_end, high_watermark };
    Ok(Plan::At(broker, StrBytes::from_string(led.topic.as_str().to_owned()), bounds))
}

/// The client's fetch of what `broker` holds, without a session: sessions would be the follower's.
fn ask(request: &FetchRequest, plans: &[Plan], broker: BrokerId, wait_ms: i32) -> FetchRequest {
    let share = share(request, plans, broker);
    let mut topics = Vec::new();
    for (partition, plan) in partitions(request).zip(plans) {
        let Plan::At(at, name, _) = plan else { continue };
        if *at == broker {
            // Neither epoch: the replica may learn of one a moment after us.
            let partition = FetchPartition::default()
                .with_partition(partition.partition)
                .with_current_leader_epoch(-1)
                .with_fetch_offset(partition.fetch_offset)
                .with_log_start_offset(-1)
                .with_partition_max_bytes(partition.partition_max_bytes.min(share));
            let topic = FetchTopic::default().with_topic(name.clone().into());
            topics.push(topic.with_partitions(vec![partition]));
        }
    }
    FetchRequest::default()
        .with_replica_id((-1).into())
        .with_max_wait_ms(wait_ms)
        .with_min_bytes(request.min_bytes)
        .with_max_bytes(request.max_bytes.min(BYTES_MAX))
        .with_isolation_level(request.isolation_level)
        .with_session_id(0)
        .with_session_epoch(-1)
        .with_topics(topics)
        .with_rack_id(StrBytes::new())
}

/// Bytes for each partition that has something to read: the first ones would take all.
fn share(request: &FetchRequest, plans: &[Plan], broker: BrokerId) -> i32 {
    let has_more = |(partition, plan): &(&FetchPartition, &Plan)| {
        matches!(plan, Plan::At(at, _, _) if *at == broker) && plan.has_more(partition.fetch_offset)
    };
    let count = partitions(request).zip(plans).filter(has_more).count();
    (BYTES_MAX / i32::try_from(count.max(1)).unwrap_or(i32::MAX)).max(SHARE_MIN)
}

fn partitions(request: &FetchRequest) -> impl Iterator<Item = &FetchPartition> {
    request.topics.iter().flat_map(|topic| &topic.partitions)
}

type Answered = HashMap<(StrBytes, i32), PartitionData>;

/// The client's answer, of what the replica said (nothing where it is silent) and of the plans.
fn finish(
    asked: &Asked<FetchRequest>,
    plans: &[Plan],
    broker: BrokerId,
    frame: Option<BytesMut>,
) -> Result<Bytes, AnswerError> {
    let was_asked = broker.0 >= 0;
    let theirs = match frame {
        Some(frame) => decode_answer::<FetchRequest>(frame, ASKED_WITH)?,
        None => top_level(0),
    };
    let throttle_time_ms = theirs.throttle_time_ms;
    let mut answered = Answered::new();
    for topic in theirs.responses {
        for partition in topic.partitions {
            answered.insert((topic.topic.0.clone(), partition.partition_index), partition);
        }
    }
    let mut plans = plans.iter();
    let topics = asked.body.topics.iter().map(|topic| {
        let partitions = topic.partitions.iter().map(|partition| match plans.next() {
            Some(Plan::At(at, name, bounds)) if *at == broker => {
                let found = answered.remove(&(name.clone(), partition.partition));
                conclude(partition, found, bounds)
            }
            Some(Plan::At(_, _, bounds)) if was_asked => nothing_yet(partition, bounds),
            Some(Plan::Refused(code)) => empty(partition).with_error_code(*code),
            _ => empty(partition).with_error_code(NOT_NOW.code()),
        });
        FetchableTopicResponse::default()
            .with_topic(topic.topic.clone())
            .with_topic_id(topic.topic_id)
            .with_partitions(partitions.collect())
    });
    let response: FetchResponse =
        top_level(0).with_throttle_time_ms(throttle_time_ms).with_responses(topics.collect());
    answer_frame::<FetchRequest>(&asked.header, &response)
}

/// A replica's word on one partition. "Out of range" makes a consumer leave its position: it is passed
/// on only where it is so of the copy, and not of a replica that is behind.
fn conclude(
    partition: &FetchPartition,
    found: Option<PartitionData>,
    bounds: &Bounds,
) -> PartitionData {
    let Some(found) = found else { return empty(partition).with_error_code(NOT_NOW.code()) };
    let offset = Offset(partition.fetch_offset);
    let is_ours = bounds.log_start.is_none_or(|start| offset >= start) && offset <= bounds.log_end;
    if found.error_code == ResponseError::OffsetOutOfRange.code() && is_ours {
        return nothing_yet(partition, bounds);
    }
    if found.error_code == ResponseError::UnknownTopicOrPartition.code() {
        // A replica that has not heard of the topic yet will.
        return empty(partition).with_error_code(NOT_NOW.code());
    }
    found.with_preferred_read_replica((-1).into())
}

fn nothing_yet(partition: &FetchPartition, bounds: &Bounds) -> PartitionData {
    empty(partition)
        .with_error_code(0)
        .with_high_watermark(bounds.high_watermark.0)
        .with_last_stable_offset(bounds.high_watermark.0)
        .with_log_start_offset(bounds.log_start.map_or(-1, |start| start.0))
}

#[cfg(test)]
mod tests;
