//! OffsetForLeaderEpoch (KIP-101, KIP-320): consumers ask it to find out whether their position was
//! truncated. An end that is too low makes them go back, so we answer only from a history that is
//! known as a whole.

use bytes::Bytes;
use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::offset_for_leader_epoch_response::{
    EpochEndOffset, OffsetForLeaderTopicResult,
};
use kafka_protocol::messages::{OffsetForLeaderEpochRequest, OffsetForLeaderEpochResponse};

use super::{AnswerError, Asked, Asker, Reply};
use crate::gateway::rights::Operation;
use crate::gateway::standing::{Led, Standings, TopicRef};
use crate::types::{LeaderEpoch, OffsetAndEpoch, Uuid};

/// Answers an OffsetForLeaderEpoch.
pub async fn answer(frame: Bytes, asker: &mut Asker<'_>) -> Result<Reply, AnswerError> {
    let asked = Asked::<OffsetForLeaderEpochRequest>::decode(frame)?;
    if asked.body.replica_id.0 >= 0 {
        return Ok(super::fetch::impostor("OffsetForLeaderEpoch", asked.body.replica_id.0));
    }
    let named = asked.body.topics.iter().flat_map(|topic| {
        let partitions = topic.partitions.iter().map(|partition| partition.partition);
        TopicRef::of(&topic.topic, Uuid::nil()).each(partitions)
    });
    let standings = Standings::look_up(asker, Operation::Describe, named.collect()).await?;
    asked.answer(&response(&asked.body, standings))
}

fn response(
    request: &OffsetForLeaderEpochRequest,
    mut standings: Standings,
) -> OffsetForLeaderEpochResponse {
    let topics = request.topics.iter().map(|topic| {
        let partitions = topic.partitions.iter().map(|partition| {
            let standing = standings.take();
            let end = standing
                .led_at(partition.current_leader_epoch)
                .and_then(|led| end_of(led, LeaderEpoch(partition.leader_epoch)));
            let answer = EpochEndOffset::default().with_partition(partition.partition);
            match end {
                Ok(end) => answer
                    .with_error_code(0)
                    .with_leader_epoch(end.epoch.0)
                    .with_end_offset(end.offset.0),
                Err(code) => answer.with_error_code(code).with_leader_epoch(-1).with_end_offset(-1),
            }
        });
        OffsetForLeaderTopicResult::default()
            .with_topic(topic.topic.clone())
            .with_partitions(partitions.collect())
    });
    OffsetForLeaderEpochResponse::default().with_throttle_time_ms(0).with_topics(topics.collect())
}

fn end_of(led: &Led, asked: LeaderEpoch) -> Result<OffsetAndEpoch, i16> {
    let partition = &led.partition;
    let (Some(history), Some(high_watermark)) = (&partition.history, partition.high_watermark)
    else {
        return Err(ResponseError::NotLeaderOrFollower.code());
    };
    if let Some(end) = history.end_of(asked, high_watermark) {
        return Ok(end);
    }
    // Older than all that is known: as a stock leader, its end is where the oldest one begins.
    match history.starts().first() {
        Some(oldest) => Ok(OffsetAndEpoch { offset: oldest.start, epoch: asked }),
        None => Err(ResponseError::NotLeaderOrFollower.code()),
    }
}

#[cfg(test)]
mod tests {
    use kafka_protocol::messages::offset_for_leader_epoch_request::{
        OffsetForLeaderPartition, OffsetForLeaderTopic,
    };
    use kafka_protocol::protocol::StrBytes;

    use super::super::testing::{MIRROR, asker_of, decoded, request, versions_of, world};
    use super::*;

    fn ask(version: i16, replica: i32, partition: i32, current: i32, epoch: i32) -> Bytes {
        let partition = OffsetForLeaderPartition::default()
            .with_partition(partition)
            .with_current_leader_epoch(current)
            .with_leader_epoch(epoch);
        let topic = OffsetForLeaderTopic::default()
            .with_topic(StrBytes::from_static_str(MIRROR).into())
            .with_partitions(vec![partition]);
        let body = OffsetForLeaderEpochRequest::default()
            .with_replica_id(replica.into())
            .with_topics(vec![topic]);
        request(version, &body)
    }

    async fn end(version: i16, partition: i32, current: i32, epoch: i32) -> (i16, i32, i64) {
        let world = world();
        let frame = ask(version, -1, partition, current, epoch);
        let reply = answer(frame, &mut asker_of(&world).asker()).await.unwrap();
        let response = decoded::<OffsetForLeaderEpochRequest>(version, reply);
        let end = &response.topics[0].partitions[0];
        (end.error_code, end.leader_epoch, end.end_offset)
    }

    #[tokio::test]
    async fn ends_come_from_our_history_up_to_the_high_watermark() {
        for version in versions_of::<OffsetForLeaderEpochRequest>().filter(|v| *v >= 3) {
            assert_eq!(end(version, 0, 7, 3).await, (0, 3, 40));
            assert_eq!(end(version, 0, 7, 7).await, (0, 7, 90));
            assert_eq!(end(version, 0, -1, 1).await, (0, 1, 10));
        }
    }

    #[tokio::test]
    async fn what_is_not_known_is_a_retriable_error_and_never_an_offset() {
        assert_eq!(end(4, 1, -1, 3).await, (6, -1, -1));
        assert_eq!(end(4, 0, 6, 3).await, (74, -1, -1));
        assert_eq!(end(4, 0, 8, 3).await, (75, -1, -1));
        assert_eq!(end(4, 9, -1, 3).await, (3, -1, -1));
    }

    #[tokio::test]
    async fn a_client_that_poses_as_a_broker_is_cut_off() {
        let world = world();
        let reply = answer(ask(4, 2, 0, 7, 3), &mut asker_of(&world).asker()).await;
        assert!(matches!(reply, Ok(Reply::Close(_))));
    }
}
