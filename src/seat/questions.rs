//! Followers' requests in the words of the leader task, and its answers in the words of the
//! protocol. Decides nothing.

use std::time::Duration;

use kafka_protocol::messages::list_offsets_response::{
    ListOffsetsPartitionResponse, ListOffsetsTopicResponse,
};
use kafka_protocol::messages::offset_for_leader_epoch_response::{
    EpochEndOffset, OffsetForLeaderTopicResult,
};
use kafka_protocol::messages::{
    FetchRequest, ListOffsetsRequest, ListOffsetsResponse, OffsetForLeaderEpochRequest,
    OffsetForLeaderEpochResponse,
};

use super::leader::{
    About, FetchedPartition, FollowerRequest, PartitionAnswer, Question, QuestionAnswer,
};
use crate::image::Image;
use crate::types::{BrokerEpoch, BrokerId, LeaderEpoch, Offset, PartitionKey, TopicId, TopicName};
use crate::wire::fetch_answer;

/// Longest that an answer is held back, whatever the follower asks for: past its
/// `request.timeout.ms` (30 s) all its partitions would back off.
const MAX_WAIT: Duration = Duration::from_secs(5);

/// A Fetch by topic ids.
pub fn fetch(
    request: FetchRequest,
    connection: u64,
    broker: BrokerId,
    broker_epoch: BrokerEpoch,
) -> FollowerRequest {
    let partitions = request.topics.iter().flat_map(|topic| {
        let id = TopicId(topic.topic_id);
        topic.partitions.iter().map(move |asked| FetchedPartition {
            key: PartitionKey { topic: id, partition: asked.partition },
            offset: Offset(asked.fetch_offset),
            last_fetched_epoch: LeaderEpoch(asked.last_fetched_epoch),
            current_leader_epoch: LeaderEpoch(asked.current_leader_epoch),
            max_bytes: size(asked.partition_max_bytes),
        })
    });
    let forgotten = request.forgotten_topics_data.iter().flat_map(|topic| {
        let id = TopicId(topic.topic_id);
        topic.partitions.iter().map(move |&partition| PartitionKey { topic: id, partition })
    });
    let wait = u64::try_from(request.max_wait_ms).unwrap_or(0);
    FollowerRequest {
        connection,
        broker,
        broker_epoch,
        session_id: request.session_id,
        session_epoch: request.session_epoch,
        max_wait: Duration::from_millis(wait).min(MAX_WAIT),
        max_bytes: size(request.max_bytes),
        partitions: partitions.collect(),
        forgotten: forgotten.collect(),
    }
}

fn size(bytes: i32) -> usize {
    usize::try_from(bytes).unwrap_or(0)
}

/// One partition of the answer to a Fetch.
pub fn fetched(answer: PartitionAnswer) -> fetch_answer::FetchedPartition {
    fetch_answer::FetchedPartition {
        topic: answer.key.topic,
        partition: answer.key.partition,
        error: answer.error,
        high_watermark: answer.high_watermark,
        log_start: answer.log_start,
        diverging: answer.diverging,
        records: answer.records,
    }
}

/// ListOffsets, partition by partition; `None` for topics that the destination does not have and
/// for timestamps, which no follower asks for.
pub fn offsets(request: &ListOffsetsRequest, image: &Image) -> Vec<Option<Question>> {
    let questions = request.topics.iter().flat_map(|topic| {
        let id = topic_id(image, topic.name.as_str());
        topic.partitions.iter().map(move |asked| {
            let about = match asked.timestamp {
                -1 => About::End,
                -2 | -4 => About::Start,
                _ => return None,
            };
            Some(Question {
                key: PartitionKey { topic: id?, partition: asked.partition_index },
                current_leader_epoch: LeaderEpoch(asked.current_leader_epoch),
                about,
            })
        })
    });
    questions.collect()
}

/// The answer to ListOffsets.
pub fn offsets_answer(
    request: &ListOffsetsRequest,
    answers: Vec<QuestionAnswer>,
) -> ListOffsetsResponse {
    let mut answers = answers.into_iter();
    let topics = request.topics.iter().map(|topic| {
        let partitions = topic.partitions.iter().zip(&mut answers).map(|(asked, answer)| {
            let response = ListOffsetsPartitionResponse::default()
                .with_partition_index(asked.partition_index)
                .with_timestamp(-1)
                .with_offset(-1)
                .with_leader_epoch(-1);
            match answer {
                Ok(known) => response.with_offset(known.offset.0).with_leader_epoch(known.epoch.0),
                Err(code) => response.with_error_code(code),
            }
        });
        ListOffsetsTopicResponse::default()
            .with_name(topic.name.clone())
            .with_partitions(partitions.collect())
    });
    ListOffsetsResponse::default().with_topics(topics.collect())
}

/// OffsetForLeaderEpoch, partition by partition.
pub fn epochs(request: &OffsetForLeaderEpochRequest, image: &Image) -> Vec<Option<Question>> {
    let questions = request.topics.iter().flat_map(|topic| {
        let id = topic_id(image, topic.topic.as_str());
        topic.partitions.iter().map(move |asked| {
            Some(Question {
                key: PartitionKey { topic: id?, partition: asked.partition },
                current_leader_epoch: LeaderEpoch(asked.current_leader_epoch),
                about: About::Epoch(LeaderEpoch(asked.leader_epoch)),
            })
        })
    });
    questions.collect()
}

/// The answer to OffsetForLeaderEpoch.
pub fn epochs_answer(
    request: &OffsetForLeaderEpochRequest,
    answers: Vec<QuestionAnswer>,
) -> OffsetForLeaderEpochResponse {
    let mut answers = answers.into_iter();
    let topics = request.topics.iter().map(|topic| {
        let partitions = topic.partitions.iter().zip(&mut answers).map(|(asked, answer)| {
            let response = EpochEndOffset::default()
                .with_partition(asked.partition)
                .with_leader_epoch(-1)
                .with_end_offset(-1);
            match answer {
                Ok(known) => {
                    response.with_leader_epoch(known.epoch.0).with_end_offset(known.offset.0)
                }
                Err(code) => response.with_error_code(code),
            }
        });
        OffsetForLeaderTopicResult::default()
            .with_topic(topic.topic.clone())
            .with_partitions(partitions.collect())
    });
    OffsetForLeaderEpochResponse::default().with_topics(topics.collect())
}

fn topic_id(image: &Image, name: &str) -> Option<TopicId> {
    image.topic_named(&TopicName::from(name)).map(|topic| topic.id)
}
