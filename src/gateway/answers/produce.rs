//! Produce: refused. POLICY_VIOLATION is not retriable and clients show its text, so a producer
//! learns at once what it is talking to; a retriable code would cost its whole delivery timeout.

use bytes::Bytes;
use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::produce_response::{
    LeaderIdAndEpoch, NodeEndpoint, PartitionProduceResponse, TopicProduceResponse,
};
use kafka_protocol::messages::{ProduceRequest, ProduceResponse};
use kafka_protocol::protocol::StrBytes;

use super::hints::Hints;
use super::{AnswerError, Asked, Asker, Reply};
use crate::gateway::rights::Operation;
use crate::gateway::standing::{Led, Standing, Standings, TopicRef};

/// First version with a text beside the error code.
const TEXT_SINCE: i16 = 8;
/// First version that names the leader.
const HINTS_SINCE: i16 = 10;

/// Answers a Produce.
pub async fn answer(frame: Bytes, asker: &mut Asker<'_>) -> Result<Reply, AnswerError> {
    let asked = Asked::<ProduceRequest>::decode(frame)?;
    if asked.body.acks == 0 {
        let client = asked.header.client_id.as_deref().unwrap_or("");
        return Ok(Reply::Close(format!(
            "producer {client:?} wants no acknowledgements, so only closing can refuse it"
        )));
    }
    let standings = Standings::look_up(asker, Operation::Write, named(&asked.body)).await?;
    asked.answer(&response(&asked.body, asked.version(), standings, asker))
}

fn named(request: &ProduceRequest) -> Vec<(TopicRef, i32)> {
    let named = request.topic_data.iter().flat_map(|topic| {
        let partitions = topic.partition_data.iter().map(|partition| partition.index);
        TopicRef::of(&topic.name, topic.topic_id).each(partitions)
    });
    named.collect()
}

fn response(
    request: &ProduceRequest,
    version: i16,
    mut standings: Standings,
    asker: &Asker<'_>,
) -> ProduceResponse {
    let mut hints = Hints::new(version >= HINTS_SINCE);
    let mut topics = Vec::new();
    for topic in &request.topic_data {
        let partitions = topic.partition_data.iter().map(|partition| {
            let standing = standings.take();
            let (code, text) = refusal(&standing);
            let leader = hints.leader(code, &standing, asker);
            PartitionProduceResponse::default()
                .with_current_leader(leader.map_or_else(LeaderIdAndEpoch::default, |leader| {
                    LeaderIdAndEpoch::default()
                        .with_leader_id(leader.id.0.into())
                        .with_leader_epoch(leader.epoch.0)
                }))
                .with_index(partition.index)
                .with_error_code(code)
                .with_base_offset(-1)
                .with_log_append_time_ms(-1)
                .with_log_start_offset(-1)
                .with_error_message(text.filter(|_| version >= TEXT_SINCE))
        });
        let answer = TopicProduceResponse::default()
            .with_name(topic.name.clone())
            .with_topic_id(topic.topic_id)
            .with_partition_responses(partitions.collect());
        topics.push(answer);
    }
    let nodes = hints.nodes(asker).into_iter().map(|node| {
        NodeEndpoint::default()
            .with_node_id(node.id.0.into())
            .with_host(StrBytes::from_string(node.host))
            .with_port(node.port.into())
            .with_rack(node.rack.map(StrBytes::from_string))
    });
    ProduceResponse::default()
        .with_responses(topics)
        .with_throttle_time_ms(0)
        .with_node_endpoints(nodes.collect())
}

fn refusal(standing: &Standing) -> (i16, Option<StrBytes>) {
    match standing.led() {
        Err(code) => (code, None),
        Ok(led) => {
            let text = StrBytes::from_string(read_only(led));
            (ResponseError::PolicyViolation.code(), Some(text))
        }
    }
}

fn read_only(led: &Led) -> String {
    format!(
        "topic {} is a mirror of link {} (lockstep): it is read-only until it is promoted",
        led.topic, led.partition.link
    )
}

#[cfg(test)]
mod tests {
    use kafka_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};

    use super::super::testing::{
        MIRROR, MIRROR_ID, OTHER, asker_of, decoded, request, versions_of, world,
    };
    use super::*;

    fn produce(version: i16, acks: i16, topics: &[&'static str]) -> Bytes {
        let topics = topics.iter().map(|name| {
            let partition = PartitionProduceData::default()
                .with_index(0)
                .with_records(Some(Bytes::from_static(b"a batch")));
            let topic = TopicProduceData::default().with_partition_data(vec![partition]);
            if version < 13 {
                topic.with_name(StrBytes::from_static_str(name).into())
            } else {
                topic.with_topic_id(if *name == MIRROR { MIRROR_ID.0 } else { OTHER.0 })
            }
        });
        let body = ProduceRequest::default().with_acks(acks).with_topic_data(topics.collect());
        request(version, &body)
    }

    #[tokio::test]
    async fn a_mirror_is_refused_with_a_text_that_names_the_link() {
        let world = world();
        for version in versions_of::<ProduceRequest>() {
            let reply =
                answer(produce(version, -1, &[MIRROR]), &mut asker_of(&world).asker()).await;
            let response = decoded::<ProduceRequest>(version, reply.unwrap());
            let partition = &response.responses[0].partition_responses[0];
            assert_eq!((partition.error_code, partition.base_offset), (44, -1));
            let text = partition.error_message.as_deref();
            assert_eq!(
                text,
                (version >= 8).then_some(
                    "topic orders is a mirror of link east (lockstep): it is read-only until it is \
                     promoted"
                )
            );
        }
    }

    #[tokio::test]
    async fn topics_of_others_are_refused_one_by_one() {
        let world = world();
        let frame = produce(9, 1, &["plain", MIRROR, "nowhere"]);
        let reply = answer(frame, &mut asker_of(&world).asker()).await.unwrap();
        let response = decoded::<ProduceRequest>(9, reply);
        let topics = response.responses.iter();
        let codes: Vec<_> = topics.map(|t| t.partition_responses[0].error_code).collect();
        assert_eq!(codes, [6, 44, 3]);
    }

    #[tokio::test]
    async fn a_producer_is_told_who_leads_where_its_version_has_words_for_it() {
        let world = world();
        for version in versions_of::<ProduceRequest>() {
            let reply =
                answer(produce(version, -1, &["plain"]), &mut asker_of(&world).asker()).await;
            let response = decoded::<ProduceRequest>(version, reply.unwrap());
            let leader = &response.responses[0].partition_responses[0].current_leader;
            let told = (leader.leader_id.0, leader.leader_epoch, response.node_endpoints.len());
            assert_eq!(told, if version >= 10 { (1, 7, 1) } else { (-1, -1, 0) }, "v{version}");
        }
    }

    #[tokio::test]
    async fn a_producer_that_wants_no_answer_is_cut_off() {
        let world = world();
        let reply = answer(produce(9, 0, &[MIRROR]), &mut asker_of(&world).asker()).await;
        assert!(matches!(reply, Ok(Reply::Close(_))));
    }
}
