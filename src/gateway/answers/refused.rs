//! What a mirror, or a broker without disks, cannot do for anyone.

use bytes::Bytes;
use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::alter_replica_log_dirs_response::{
    AlterReplicaLogDirPartitionResult, AlterReplicaLogDirTopicResult,
};
use kafka_protocol::messages::delete_records_response::{
    DeleteRecordsPartitionResult, DeleteRecordsTopicResult,
};
use kafka_protocol::messages::{
    AlterReplicaLogDirsRequest, AlterReplicaLogDirsResponse, DeleteRecordsRequest,
    DeleteRecordsResponse,
};

use super::{AnswerError, Asked, Asker, Reply};
use crate::gateway::rights::Operation;
use crate::gateway::standing::{Standings, TopicRef};
use crate::types::Uuid;

/// Answers a DeleteRecords: a mirror's log start is the source's.
pub async fn delete_records(frame: Bytes, asker: &mut Asker<'_>) -> Result<Reply, AnswerError> {
    let asked = Asked::<DeleteRecordsRequest>::decode(frame)?;
    let named = asked.body.topics.iter().flat_map(|topic| {
        let partitions = topic.partitions.iter().map(|partition| partition.partition_index);
        TopicRef::of(&topic.name, Uuid::nil()).each(partitions)
    });
    let mut standings = Standings::look_up(asker, Operation::Delete, named.collect()).await?;
    let topics = asked.body.topics.iter().map(|topic| {
        let partitions = topic.partitions.iter().map(|partition| {
            let refused = standings.take().led().err();
            let code = refused.unwrap_or(ResponseError::PolicyViolation.code());
            DeleteRecordsPartitionResult::default()
                .with_partition_index(partition.partition_index)
                .with_low_watermark(-1)
                .with_error_code(code)
        });
        DeleteRecordsTopicResult::default()
            .with_name(topic.name.clone())
            .with_partitions(partitions.collect())
    });
    let response =
        DeleteRecordsResponse::default().with_throttle_time_ms(0).with_topics(topics.collect());
    asked.answer(&response)
}

/// Answers an AlterReplicaLogDirs, which tools send by broker id: never relayed, or another broker
/// would move its replicas.
pub fn alter_replica_log_dirs(frame: Bytes, asker: &Asker<'_>) -> Result<Reply, AnswerError> {
    let asked = Asked::<AlterReplicaLogDirsRequest>::decode(frame)?;
    let code = match asker.rights.cluster(Operation::Alter)? {
        true => ResponseError::PolicyViolation.code(),
        false => ResponseError::ClusterAuthorizationFailed.code(),
    };
    let topics = asked.body.dirs.iter().flat_map(|dir| &dir.topics);
    let results = topics.map(|topic| {
        let partitions = topic.partitions.iter().map(|&partition| {
            AlterReplicaLogDirPartitionResult::default()
                .with_partition_index(partition)
                .with_error_code(code)
        });
        AlterReplicaLogDirTopicResult::default()
            .with_topic_name(topic.name.clone())
            .with_partitions(partitions.collect())
    });
    let response = AlterReplicaLogDirsResponse::default()
        .with_throttle_time_ms(0)
        .with_results(results.collect());
    asked.answer(&response)
}

#[cfg(test)]
mod tests {
    use kafka_protocol::messages::alter_replica_log_dirs_request::{
        AlterReplicaLogDir, AlterReplicaLogDirTopic,
    };
    use kafka_protocol::messages::delete_records_request::{
        DeleteRecordsPartition, DeleteRecordsTopic,
    };
    use kafka_protocol::protocol::StrBytes;

    use super::super::testing::{MIRROR, asker_of, decoded, request, versions_of, world};
    use super::*;

    #[tokio::test]
    async fn records_of_a_mirror_are_not_deleted() {
        let world = world();
        for version in versions_of::<DeleteRecordsRequest>() {
            let topics = [MIRROR, "plain"].map(|name| {
                DeleteRecordsTopic::default()
                    .with_name(StrBytes::from_static_str(name).into())
                    .with_partitions(vec![DeleteRecordsPartition::default().with_offset(5)])
            });
            let body = DeleteRecordsRequest::default().with_topics(topics.to_vec());
            let reply =
                delete_records(request(version, &body), &mut asker_of(&world).asker()).await;
            let response = decoded::<DeleteRecordsRequest>(version, reply.unwrap());
            let topics = response.topics.iter();
            let codes: Vec<_> = topics.map(|t| t.partitions[0].error_code).collect();
            assert_eq!(codes, [44, 6]);
        }
    }

    #[test]
    fn replicas_are_not_moved_between_directories() {
        let world = world();
        for version in versions_of::<AlterReplicaLogDirsRequest>() {
            let topic = AlterReplicaLogDirTopic::default().with_partitions(vec![0, 3]);
            let dir = AlterReplicaLogDir::default().with_topics(vec![topic]);
            let body = AlterReplicaLogDirsRequest::default().with_dirs(vec![dir]);
            let reply = alter_replica_log_dirs(request(version, &body), &asker_of(&world).asker());
            let reply = reply.unwrap();
            let response = decoded::<AlterReplicaLogDirsRequest>(version, reply);
            let partitions = response.results[0].partitions.iter();
            let codes: Vec<_> = partitions.map(|p| (p.partition_index, p.error_code)).collect();
            assert_eq!(codes, [(0, 44), (3, 44)]);
        }
    }
}
