//! Fetch of consumers: we hold no log, so they are sent to an in-sync replica that does (KIP-392).
//! One that does not go there is served over its connection: the fetch is relayed where the broker
//! behind it holds everything, else, and for clients too old to be sent anywhere, [`rewritten`].

mod redirects;
mod rewritten;

use std::time::Duration;

use bytes::Bytes;
use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::fetch_request::FetchPartition;
use kafka_protocol::messages::fetch_response::{
    FetchableTopicResponse, LeaderIdAndEpoch, NodeEndpoint, PartitionData,
};
use kafka_protocol::messages::{FetchRequest, FetchResponse};
use kafka_protocol::protocol::StrBytes;

pub use self::redirects::Redirects;
use super::hints::Hints;
use super::{AnswerError, Asked, Asker, Reply};
use crate::gateway::rights::Operation;
use crate::gateway::standing::{Leader, Led, Standing, Standings, TopicRef};
use crate::image::BrokerImage;
use crate::types::BrokerId;

/// First version whose answer can name another replica.
const PREFERRED_REPLICA_SINCE: i16 = 11;
/// First version with fetch sessions (KIP-227).
const SESSIONS_SINCE: i16 = 7;
/// First version that names the asking replica in a structure.
const REPLICA_STATE_SINCE: i16 = 15;
/// First version that says with a refusal who leads.
const HINTS_SINCE: i16 = 16;
/// How often a client is sent away before it is served over its connection.
const SENDS_MAX: u32 = 3;
/// Longest that an answer is held for a client that keeps coming back and cannot be served.
const HOLD_MAX: Duration = Duration::from_millis(500);

/// Answers a Fetch.
pub async fn answer(frame: Bytes, asker: &mut Asker<'_>) -> Result<Reply, AnswerError> {
    let asked = Asked::<FetchRequest>::decode(frame.clone())?;
    let version = asked.version();
    let replica = if version < REPLICA_STATE_SINCE {
        asked.body.replica_id
    } else {
        asked.body.replica_state.replica_id
    };
    if replica.0 >= 0 {
        return Ok(impostor("Fetch", replica.0));
    }
    if version >= SESSIONS_SINCE && asked.body.session_epoch > 0 {
        return in_session(frame, &asked, asker).await;
    }
    let standings = Standings::look_up(asker, Operation::Read, named(&asked.body)).await?;
    if version < PREFERRED_REPLICA_SINCE {
        return serve(frame, asked, standings, asker);
    }
    full(frame, asked, standings, asker)
}

/// The end of a client that calls itself a broker outside the listener that brokers use.
pub fn impostor(request: &str, replica: i32) -> Reply {
    Reply::Close(format!("{request} in the name of broker {replica} from a client"))
}

/// A fetch that goes on with a session can only be one that a follower has opened.
async fn in_session(
    frame: Bytes,
    asked: &Asked<FetchRequest>,
    asker: &mut Asker<'_>,
) -> Result<Reply, AnswerError> {
    if !asker.redirects.relayed.is_empty() {
        let mut keys = named(&asked.body);
        let relayed = asker.redirects.relayed.iter();
        keys.extend(relayed.map(|key| (TopicRef::Id(key.topic), key.partition)));
        let standings = Standings::look_up(asker, Operation::Read, keys).await?;
        let all_led = standings
            .as_slice()
            .iter()
            .all(|standing| standing.led().is_ok_and(|led| holds(asker.backend, led)));
        if all_led {
            return Ok(Reply::Relay(frame));
        }
        // The client starts over with a full fetch, which then says what has changed.
        asker.redirects.relayed.clear();
    }
    asked.answer(&top_level(ResponseError::FetchSessionIdNotFound.code()))
}

fn full(
    frame: Bytes,
    asked: Asked<FetchRequest>,
    mut standings: Standings,
    asker: &mut Asker<'_>,
) -> Result<Reply, AnswerError> {
    let mut straight_back = false;
    for led in standings.led() {
        straight_back |= asker.redirects.tell(led.key, asker.now) > SENDS_MAX;
    }
    if straight_back {
        return serve(frame, asked, standings, asker);
    }
    let relayed = std::mem::take(&mut asker.redirects.relayed);
    // Without topics it only closes a session, which is the follower's if there is one.
    if !relayed.is_empty() && asked.body.topics.is_empty() {
        return Ok(Reply::Relay(frame));
    }
    let response = response(&asked, &mut standings, asker);
    asked.answer(&response)
}

/// Serves a client that cannot be sent away: over a broker that holds what is asked, if there is one.
fn serve(
    frame: Bytes,
    asked: Asked<FetchRequest>,
    standings: Standings,
    asker: &mut Asker<'_>,
) -> Result<Reply, AnswerError> {
    asker.redirects.relayed.clear();
    let in_sync: Vec<_> = standings.led().map(|led| &led.partition.in_sync[..]).collect();
    if let Some(broker) = asker.better_backend(&asked.body.rack_id, &in_sync) {
        return Ok(Reply::Elsewhere(broker));
    }
    let knows_all = asked.version() >= PREFERRED_REPLICA_SINCE;
    if knows_all && standings.led().all(|led| holds(asker.backend, led)) {
        asker.redirects.relayed = standings.led().map(|led| led.key).collect();
        return Ok(Reply::Relay(frame));
    }
    rewritten::answer(asked, standings, asker)
}

fn named(request: &FetchRequest) -> Vec<(TopicRef, i32)> {
    let named = request.topics.iter().flat_map(|topic| {
        let partitions = topic.partitions.iter().map(|partition| partition.partition);
        TopicRef::of(&topic.topic, topic.topic_id).each(partitions)
    });
    named.collect()
}

fn duration(milliseconds: i32) -> Duration {
    Duration::from_millis(u64::try_from(milliseconds).unwrap_or(0))
}

fn holds(backend: BrokerId, led: &Led) -> bool {
    led.partition.in_sync.contains(&backend)
}

fn top_level(code: i16) -> FetchResponse {
    FetchResponse::default().with_throttle_time_ms(0).with_error_code(code).with_session_id(0)
}

fn response(
    asked: &Asked<FetchRequest>,
    standings: &mut Standings,
    asker: &mut Asker<'_>,
) -> FetchResponse {
    let mut hints = Hints::new(asked.version() >= HINTS_SINCE);
    let mut topics = Vec::new();
    for topic in &asked.body.topics {
        let partitions = topic.partitions.iter().map(|partition| {
            let standing = standings.take();
            redirect(&asked.body.rack_id, partition, &standing, asker).unwrap_or_else(|code| {
                let leader = named_leader(hints.leader(code, &standing, asker));
                empty(partition).with_error_code(code).with_current_leader(leader)
            })
        });
        let answer = FetchableTopicResponse::default()
            .with_topic(topic.topic.clone())
            .with_topic_id(topic.topic_id)
            .with_partitions(partitions.collect());
        topics.push(answer);
    }
    let nodes = hints.nodes(asker).into_iter().map(|node| {
        NodeEndpoint::default()
            .with_node_id(node.id.0.into())
            .with_host(StrBytes::from_string(node.host))
            .with_port(node.port.into())
            .with_rack(node.rack.map(StrBytes::from_string))
    });
    top_level(0).with_responses(topics).with_node_endpoints(nodes.collect())
}

fn named_leader(leader: Option<Leader>) -> LeaderIdAndEpoch {
    leader.map_or_else(LeaderIdAndEpoch::default, |leader| {
        LeaderIdAndEpoch::default()
            .with_leader_id(leader.id.0.into())
            .with_leader_epoch(leader.epoch.0)
    })
}

fn redirect(
    rack: &str,
    partition: &FetchPartition,
    standing: &Standing,
    asker: &mut Asker<'_>,
) -> Result<PartitionData, i16> {
    let led = standing.led_at(partition.current_leader_epoch)?;
    let not_now = ResponseError::NotLeaderOrFollower.code();
    let high_watermark = led.partition.high_watermark.ok_or(not_now)?;
    let replicas = replicas(led, rack, asker.listener, asker);
    let brokers = &asker.context.brokers;
    let first = usize::try_from(asker.connection).unwrap_or(0);
    let replica = asker.redirects.send(led.key, &replicas, brokers, first).ok_or(not_now)?;
    Ok(empty(partition)
        .with_error_code(0)
        .with_high_watermark(high_watermark.0)
        .with_last_stable_offset(high_watermark.0)
        .with_log_start_offset(led.partition.log_start.map_or(-1, |start| start.0))
        .with_preferred_read_replica(replica.0.into()))
}

fn empty(partition: &FetchPartition) -> PartitionData {
    PartitionData::default()
        .with_partition_index(partition.partition)
        .with_high_watermark(-1)
        .with_last_stable_offset(-1)
        .with_log_start_offset(-1)
        .with_aborted_transactions(None)
        .with_preferred_read_replica((-1).into())
        .with_records(Some(Bytes::new()))
}

/// The live in-sync replicas: those in the client's rack where there are any, else all.
fn replicas(led: &Led, rack: &str, listener: &str, asker: &Asker<'_>) -> Vec<BrokerId> {
    let image = asker.context.image.borrow();
    let live = asker.live(&image, listener, &led.partition.in_sync);
    let is_near = |broker: &&&BrokerImage| broker.rack.as_deref() == Some(rack);
    let near: Vec<_> = live.iter().filter(is_near).map(|broker| broker.id).collect();
    if rack.is_empty() || near.is_empty() {
        return live.iter().map(|broker| broker.id).collect();
    }
    near
}

#[cfg(test)]
mod tests;
