//! DescribeProducers: the state is in the replicas' logs, so brokers that hold them are asked; a
//! follower answers as well as a leader.

use std::collections::{BTreeMap, HashMap};

use bytes::{Bytes, BytesMut};
use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::describe_producers_request::TopicRequest;
use kafka_protocol::messages::describe_producers_response::{PartitionResponse, TopicResponse};
use kafka_protocol::messages::{DescribeProducersRequest, DescribeProducersResponse};
use kafka_protocol::protocol::StrBytes;

use super::list_offsets::replica_to_ask;
use super::{
    AnswerError, AnswerKind, Ask, Asked, Asker, Gather, Reply, answer_frame, decode_answer,
    request_frame,
};
use crate::gateway::rights::Operation;
use crate::gateway::standing::{Standings, TopicRef};
use crate::types::{BrokerId, Uuid};

const NOT_NOW: ResponseError = ResponseError::NotLeaderOrFollower;

/// Answers a DescribeProducers.
pub async fn answer(frame: Bytes, asker: &Asker<'_>) -> Result<Reply, AnswerError> {
    let asked = Asked::<DescribeProducersRequest>::decode(frame)?;
    let named = asked.body.topics.iter().flat_map(|topic| {
        let partitions = topic.partition_indexes.iter().copied();
        TopicRef::of(&topic.name, Uuid::nil()).each(partitions)
    });
    let mut standings = Standings::look_up(asker, Operation::Read, named.collect()).await?;
    let mut refused = HashMap::new();
    let mut shares = BTreeMap::<BrokerId, Vec<TopicRequest>>::new();
    for topic in &asked.body.topics {
        for &partition in &topic.partition_indexes {
            let standing = standings.take();
            let holder =
                standing.led().and_then(|led| replica_to_ask(led, asker).ok_or(NOT_NOW.code()));
            match holder {
                Ok(broker) => shares.entry(broker).or_default().push(
                    TopicRequest::default()
                        .with_name(topic.name.clone())
                        .with_partition_indexes(vec![partition]),
                ),
                Err(code) => {
                    refused.insert((topic.name.0.clone(), partition), code);
                }
            }
        }
    }
    let mut asks = Vec::new();
    for (broker, topics) in shares {
        let body = DescribeProducersRequest::default().with_topics(topics);
        let request = request_frame(&asked.header, asked.version(), &body)?;
        asks.push(Ask { broker: Some(broker), answer: AnswerKind::Plain, request });
    }
    let finish = move |answers| finish(&asked, &refused, answers);
    if asks.is_empty() {
        return Ok(Reply::Answer(finish(Vec::new())?));
    }
    Ok(Reply::Gather(Gather { asks, finish: Box::new(finish) }))
}

fn finish(
    asked: &Asked<DescribeProducersRequest>,
    refused: &HashMap<(StrBytes, i32), i16>,
    answers: Vec<Option<BytesMut>>,
) -> Result<Bytes, AnswerError> {
    let mut answered = HashMap::new();
    for frame in answers.into_iter().flatten() {
        let theirs = decode_answer::<DescribeProducersRequest>(frame, asked.version())?;
        for topic in theirs.topics {
            for partition in topic.partitions {
                answered.insert((topic.name.0.clone(), partition.partition_index), partition);
            }
        }
    }
    let topics = asked.body.topics.iter().map(|topic| {
        let partitions = topic.partition_indexes.iter().map(|&partition| {
            let key = (topic.name.0.clone(), partition);
            let code = refused.get(&key).copied().unwrap_or(NOT_NOW.code());
            let silent = PartitionResponse::default()
                .with_partition_index(partition)
                .with_error_code(code)
                .with_error_message(None);
            answered.remove(&key).unwrap_or(silent)
        });
        TopicResponse::default().with_name(topic.name.clone()).with_partitions(partitions.collect())
    });
    let response = DescribeProducersResponse::default().with_topics(topics.collect());
    answer_frame::<DescribeProducersRequest>(&asked.header, &response)
}

#[cfg(test)]
mod tests {
    use kafka_protocol::messages::describe_producers_response::ProducerState;

    use super::super::testing::{MIRROR, asker_of, decoded, finished, request, world};
    use super::*;

    #[tokio::test]
    async fn the_state_comes_from_a_broker_that_holds_the_replica() {
        let world = world();
        let topics = [(MIRROR, vec![0, 1, 3]), ("plain", vec![0])].map(|(name, partitions)| {
            TopicRequest::default()
                .with_name(StrBytes::from_static_str(name).into())
                .with_partition_indexes(partitions)
        });
        let body = DescribeProducersRequest::default().with_topics(topics.to_vec());
        let mut parts = asker_of(&world);
        parts.backend = 2;
        let reply = answer(request(0, &body), &parts.asker()).await.unwrap();
        let Reply::Gather(gather) = reply else { panic!("not gathered") };
        let brokers: Vec<_> = gather.asks.iter().map(|ask| ask.broker.unwrap().0).collect();
        assert_eq!(brokers, [1, 2], "partition 3 is at broker 1 alone");
        let answers = gather.asks.iter().map(|ask| {
            let sent = Asked::<DescribeProducersRequest>::decode(ask.request.slice(4..)).unwrap();
            let topics = sent.body.topics.iter().map(|topic| {
                let partitions = topic.partition_indexes.iter().map(|&partition| {
                    let state =
                        ProducerState::default().with_producer_id(i64::from(partition).into());
                    PartitionResponse::default()
                        .with_partition_index(partition)
                        .with_active_producers(vec![state])
                });
                TopicResponse::default()
                    .with_name(topic.name.clone())
                    .with_partitions(partitions.collect())
            });
            let body = DescribeProducersResponse::default().with_topics(topics.collect());
            let frame = answer_frame::<DescribeProducersRequest>(&sent.header, &body).unwrap();
            Some(BytesMut::from(&frame[4..]))
        });
        let answers = answers.collect();
        let response = decoded::<DescribeProducersRequest>(0, finished(gather.finish, answers));
        let found: Vec<_> = response
            .topics
            .iter()
            .flat_map(|topic| &topic.partitions)
            .map(|p| (p.partition_index, p.error_code, p.active_producers.len()))
            .collect();
        assert_eq!(found, [(0, 0, 1), (1, 0, 1), (3, 0, 1), (0, 6, 0)]);
    }
}
