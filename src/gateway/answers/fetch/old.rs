//! Fetch before version 11, whose answer cannot name another replica: the fetch is put to an in-sync
//! replica as version 11, and its answer written back in the client's version (decision 0025). Record
//! bytes are copied as they came; nothing is decoded or converted.

use std::collections::HashMap;

use bytes::{Bytes, BytesMut};
use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::fetch_request::{FetchPartition, FetchTopic};
use kafka_protocol::messages::fetch_response::{FetchableTopicResponse, PartitionData};
use kafka_protocol::messages::{FetchRequest, FetchResponse};
use kafka_protocol::protocol::StrBytes;

use super::{
    AnswerError, Asked, Asker, HOLD_MAX, PREFERRED_REPLICA_SINCE, Reply, duration, empty, replicas,
    top_level,
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
/// Longest wait at one replica while another one holds partitions of the same fetch.
const WAIT_IN_TURN_MS: i32 = 100;
const NOT_NOW: ResponseError = ResponseError::NotLeaderOrFollower;

/// What becomes of one partition.
enum Plan {
    Refused(i16),
    /// Asked of this broker, or answered empty while another one is asked.
    At(BrokerId, Bounds),
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
    let mut plans = Vec::new();
    for partition in asked.body.topics.iter().flat_map(|topic| &topic.partitions) {
        let standing = standings.take();
        let led = standing.led_at(partition.current_leader_epoch);
        plans.push(led.and_then(|led| plan(led, asker)).unwrap_or_else(Plan::Refused));
    }
    let mut brokers: Vec<_> = plans
        .iter()
        .filter_map(|plan| match plan {
            Plan::At(broker, _) => Some(*broker),
            Plan::Refused(_) => None,
        })
        .collect();
    brokers.sort_unstable();
    brokers.dedup();
    if brokers.is_empty() {
        let frame = finish(&asked, &plans, BrokerId(-1), None)?;
        return Ok(Reply::Held(frame, duration(asked.body.max_wait_ms).min(HOLD_MAX)));
    }
    // One replica at a time, in turn: so an answer is never waited for with another in memory.
    let turn = asker.redirects.turn % brokers.len();
    asker.redirects.turn = turn.wrapping_add(1);
    let broker = brokers[turn];
    let fetch = ask(&asked.body, &plans, broker, brokers.len() == 1);
    let request = request_frame(&asked.header, ASKED_WITH, &fetch)?;
    let finish = move |answers: Vec<Option<BytesMut>>| {
        finish(&asked, &plans, broker, answers.into_iter().flatten().next())
    };
    let answer = AnswerKind::Records(duration(fetch.max_wait_ms));
    let asks = vec![Ask { broker: Some(broker), answer, request }];
    Ok(Reply::Gather(Gather { asks, finish: Box::new(finish) }))
}

/// The broker that the connection has anyway, where it is an in-sync replica; else another live one,
/// where it may be asked.
fn plan(led: &Led, asker: &Asker<'_>) -> Result<Plan, i16> {
    let high_watermark = led.partition.high_watermark.ok_or(NOT_NOW.code())?;
    let broker = if led.partition.in_sync.contains(&asker.backend) {
        asker.backend
    } else {
        let aside = asker.aside.ok_or(NOT_NOW.code())?;
        let replicas = replicas(led, "", aside, asker);
        *replicas.first().ok_or(NOT_NOW.code())?
    };
    let (log_start, log_end) = (led.partition.log_start, led.partition.log_end);
    Ok(Plan::At(broker, Bounds { log_start, log_end, high_watermark }))
}

/// The client's fetch of what `broker` holds, without a session: sessions would be the follower's.
fn ask(request: &FetchRequest, plans: &[Plan], broker: BrokerId, alone: bool) -> FetchRequest {
    let mut plans = plans.iter();
    let mut topics = Vec::new();
    for topic in &request.topics {
        let theirs = topic
            .partitions
            .iter()
            .filter(|_| matches!(plans.next(), Some(Plan::At(at, _)) if *at == broker));
        let partitions: Vec<FetchPartition> = theirs
            // The replica may learn of an epoch a moment after us: it is asked without one.
            .map(|partition| partition.clone().with_current_leader_epoch(-1))
            .collect();
        if !partitions.is_empty() {
            let topic = FetchTopic::default().with_topic(topic.topic.clone());
            topics.push(topic.with_partitions(partitions));
        }
    }
    let wait = if alone { request.max_wait_ms } else { request.max_wait_ms.min(WAIT_IN_TURN_MS) };
    FetchRequest::default()
        .with_replica_id((-1).into())
        .with_max_wait_ms(wait)
        .with_min_bytes(request.min_bytes)
        .with_max_bytes(request.max_bytes.min(BYTES_MAX))
        .with_isolation_level(request.isolation_level)
        .with_session_id(0)
        .with_session_epoch(-1)
        .with_topics(topics)
        .with_rack_id(StrBytes::new())
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
        let partitions = topic.partitions.iter().map(|partition| {
            let found = answered.remove(&(topic.topic.0.clone(), partition.partition));
            match plans.next() {
                Some(Plan::At(at, bounds)) if *at == broker => conclude(partition, found, bounds),
                Some(Plan::At(_, bounds)) if was_asked => nothing_yet(partition, bounds),
                Some(Plan::Refused(code)) => empty(partition).with_error_code(*code),
                _ => empty(partition).with_error_code(NOT_NOW.code()),
            }
        });
        FetchableTopicResponse::default()
            .with_topic(topic.topic.clone())
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
