//! One consumer's fetch for many partitions of one broker: what looks at everything all the time
//! must not ask for each partition alone.

use anyhow::Result;
use kafka_protocol::messages::fetch_request::{FetchPartition, FetchTopic};
use kafka_protocol::messages::fetch_response::PartitionData;
use kafka_protocol::messages::{BrokerId, FetchRequest, TopicName};
use kafka_protocol::protocol::StrBytes;
use uuid::Uuid;

use super::log::{CONSUMER, FETCH_BY_ID, FETCH_BY_NAME};
use super::{Judge, check, text, topic_name};

/// Where to read on.
#[derive(Clone, Debug)]
pub struct Place {
    pub topic: String,
    /// Nil where the release has none.
    pub id: Uuid,
    pub partition: i32,
    pub offset: i64,
    /// Epoch of the batch before `offset`, so that a log that was cut says so; -1 asks for nothing.
    pub last_epoch: i32,
}

impl Judge {
    /// What this broker answers at once for each place, errors and all, with the place's index.
    pub fn fetch_all(
        &mut self,
        places: &[Place],
        max_bytes: i32,
    ) -> Result<Vec<(usize, PartitionData)>> {
        let newest = self.version::<FetchRequest>()?;
        let by_id = newest >= FETCH_BY_ID && places.iter().all(|place| !place.id.is_nil());
        let version = if by_id { newest } else { newest.min(FETCH_BY_NAME) };
        let topics = places.iter().map(|place| {
            let wanted = FetchPartition::default()
                .with_partition(place.partition)
                .with_current_leader_epoch(-1)
                .with_last_fetched_epoch(place.last_epoch)
                .with_log_start_offset(-1)
                .with_fetch_offset(place.offset)
                .with_partition_max_bytes(max_bytes);
            let (name, id) = if by_id {
                (TopicName(StrBytes::default()), place.id)
            } else {
                (topic_name(&place.topic), Uuid::nil())
            };
            FetchTopic::default().with_topic(name).with_topic_id(id).with_partitions(vec![wanted])
        });
        let request = FetchRequest::default()
            .with_replica_id(BrokerId(CONSUMER))
            .with_max_wait_ms(0)
            .with_min_bytes(0)
            .with_max_bytes(max_bytes)
            .with_isolation_level(0)
            .with_session_id(0)
            .with_session_epoch(-1)
            .with_topics(topics.collect())
            .with_rack_id(text(""));
        let answer = self.ask_at(version, &request)?;
        check(answer.error_code, format!("fetch from {}", self.address()), None)?;
        let mut found = Vec::new();
        for topic in answer.responses {
            for partition in topic.partitions {
                let index = places.iter().position(|place| {
                    let same_topic = if by_id {
                        place.id == topic.topic_id
                    } else {
                        topic.topic.0.as_str() == place.topic
                    };
                    same_topic && place.partition == partition.partition_index
                });
                found.extend(index.map(|index| (index, partition)));
            }
        }
        Ok(found)
    }
}
