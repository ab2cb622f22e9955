//! What a client may do: asked of the broker behind its connection, over that connection and so under
//! its own identity, before anything that it could not learn there is answered here (decision 0026).
//! Knows no rules of its own.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use kafka_protocol::messages::fetch_request::{FetchPartition, FetchTopic, ReplicaState};
use kafka_protocol::messages::metadata_request::MetadataRequestTopic;
use kafka_protocol::messages::{FetchRequest, MetadataRequest, RequestHeader};
use kafka_protocol::protocol::StrBytes;
use tokio::time::Instant;

use super::answers::{AnswerError, decode_answer, request_frame};
use crate::types::{TopicName, Uuid};

/// How long the broker's word on a client holds: so much later a change shows here at the latest.
pub const HOLDS: Duration = Duration::from_secs(5);
/// Topics remembered per connection; more than that and the memory starts anew.
const TOPICS_MAX: usize = 10_000;
/// Has authorized operations of topics and of the cluster (KIP-430); later ones lack the cluster's.
const METADATA_VERSION: i16 = 10;
/// A follower's: every broker that we can join knows it.
const FETCH_VERSION: i16 = 15;
/// `UNKNOWN_TOPIC_ID`: what a broker says to one that may replicate, of a topic that is not there.
const UNKNOWN_TOPIC_ID: i16 = 100;
/// No topic has it.
const NO_TOPIC: Uuid = Uuid::from_u128(0x6c6f_636b_7374_6570_0000_0000_0000_0000);

/// `AclOperation` codes, which are bits of what brokers answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Fetch of a topic.
    Read = 3,
    /// Produce to a topic.
    Write = 4,
    /// Deleting records of a topic.
    Delete = 6,
    /// Changing the cluster.
    Alter = 7,
    /// Seeing that a topic, or the cluster, is there.
    Describe = 8,
}

/// Bits by [`Operation`].
#[derive(Clone, Copy, Debug, Default)]
struct Operations(i32);

impl Operations {
    fn has(self, operation: Operation) -> bool {
        self.0 & (1 << operation as i32) != 0
    }
}

/// What has to be asked before a request can be answered.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Operations on these topics.
    pub topics: BTreeSet<TopicName>,
    /// Operations on the cluster.
    pub cluster: bool,
    /// ClusterAction, which brokers have among themselves.
    pub cluster_action: bool,
}

/// What is known of one client's rights.
#[derive(Debug, Default)]
pub struct Rights {
    topics: HashMap<TopicName, Operations>,
    cluster: Option<Operations>,
    cluster_action: Option<bool>,
    since: Option<Instant>,
    #[cfg(test)]
    unlimited: bool,
}

impl Rights {
    /// Everything is allowed.
    #[cfg(test)]
    pub fn unlimited() -> Self {
        Self { unlimited: true, ..Self::default() }
    }

    /// Forgets what is too old.
    pub fn refresh(&mut self, now: Instant) {
        if self.since.is_some_and(|since| now.duration_since(since) >= HOLDS) {
            self.forget();
        }
    }

    /// Forgets everything: the client may be somebody else now.
    pub fn forget(&mut self) {
        // Not just cleared: thousands of idle connections may have asked for thousands of topics.
        self.topics = HashMap::new();
        (self.cluster, self.cluster_action, self.since) = (None, None, None);
    }

    /// Whether nothing is known.
    pub fn is_empty(&self) -> bool {
        self.since.is_none()
    }

    /// Whether the operation is allowed on a topic; `None`: has to be asked.
    pub fn topic(&self, name: &TopicName, operation: Operation) -> Option<bool> {
        #[cfg(test)]
        if self.unlimited {
            return Some(true);
        }
        Some(self.topics.get(name)?.has(operation))
    }

    /// Whether the operation is allowed on the cluster.
    pub fn cluster(&self, operation: Operation) -> Result<bool, Wanted> {
        #[cfg(test)]
        if self.unlimited {
            return Ok(true);
        }
        let wanted = || Wanted { cluster: true, ..Wanted::default() };
        Ok(self.cluster.ok_or_else(wanted)?.has(operation))
    }

    /// Whether the client may do what brokers do.
    pub fn cluster_action(&self) -> Result<bool, Wanted> {
        #[cfg(test)]
        if self.unlimited {
            return Ok(true);
        }
        self.cluster_action.ok_or_else(|| Wanted { cluster_action: true, ..Wanted::default() })
    }

    /// Takes the broker's answer to [`metadata_request`].
    pub fn take_metadata(&mut self, frame: BytesMut, now: Instant) -> Result<(), AnswerError> {
        let answer = decode_answer::<MetadataRequest>(frame, METADATA_VERSION)?;
        self.since.get_or_insert(now);
        self.cluster = Some(Operations(answer.cluster_authorized_operations.max(0)));
        if self.topics.len() + answer.topics.len() > TOPICS_MAX {
            self.topics = HashMap::new();
        }
        for topic in answer.topics {
            let name = TopicName::from(topic.name.unwrap_or_default().as_str());
            // Of what may not even be seen the field is the smallest number: no bits.
            self.topics.insert(name, Operations(topic.topic_authorized_operations.max(0)));
        }
        Ok(())
    }

    /// Takes the broker's answer to [`replication_request`].
    pub fn take_replication(&mut self, frame: BytesMut, now: Instant) -> Result<(), AnswerError> {
        let answer = decode_answer::<FetchRequest>(frame, FETCH_VERSION)?;
        self.since.get_or_insert(now);
        let mut codes = answer.responses.iter().flat_map(|topic| &topic.partitions);
        let allowed = codes.next().is_some_and(|first| first.error_code == UNKNOWN_TOPIC_ID);
        self.cluster_action = Some(allowed);
        Ok(())
    }
}

/// A request whose answer says what is allowed on these topics, and on the cluster.
pub fn metadata_request(topics: &BTreeSet<TopicName>) -> Result<Bytes, AnswerError> {
    let topics = topics.iter().map(|name| {
        let name = StrBytes::from_string(name.to_string());
        MetadataRequestTopic::default().with_name(Some(name.into()))
    });
    let request = MetadataRequest::default()
        .with_topics(Some(topics.collect()))
        .with_allow_auto_topic_creation(false)
        .with_include_cluster_authorized_operations(true)
        .with_include_topic_authorized_operations(true);
    request_frame(&RequestHeader::default(), METADATA_VERSION, &request)
}

/// A follower's fetch of a topic that is not there: nobody without ClusterAction learns that it is
/// not, and nothing comes of it.
pub fn replication_request(seat: i32) -> Result<Bytes, AnswerError> {
    let state = ReplicaState::default().with_replica_id(seat.into()).with_replica_epoch(-1);
    let partition = FetchPartition::default().with_current_leader_epoch(-1);
    let topic = FetchTopic::default().with_topic_id(NO_TOPIC).with_partitions(vec![partition]);
    let request = FetchRequest::default()
        .with_replica_state(state)
        .with_session_epoch(-1)
        .with_topics(vec![topic]);
    request_frame(&RequestHeader::default(), FETCH_VERSION, &request)
}

#[cfg(test)]
mod tests {
    use kafka_protocol::messages::fetch_response::{FetchableTopicResponse, PartitionData};
    use kafka_protocol::messages::metadata_response::MetadataResponseTopic;
    use kafka_protocol::messages::{FetchResponse, MetadataResponse};
    use kafka_protocol::protocol::{Encodable, HeaderVersion};

    use super::*;

    fn frame<B: Encodable + HeaderVersion>(body: &B, version: i16) -> BytesMut {
        let mut frame = BytesMut::from(&[0, 0, 0, 0][..]);
        if B::header_version(version) > 0 {
            frame.extend_from_slice(&[0]);
        }
        body.encode(&mut frame, version).unwrap();
        frame
    }

    fn metadata(topics: &[(&'static str, i32)], cluster: i32) -> BytesMut {
        let topics = topics.iter().map(|(name, operations)| {
            MetadataResponseTopic::default()
                .with_name(Some(StrBytes::from_static_str(name).into()))
                .with_topic_authorized_operations(*operations)
        });
        let body = MetadataResponse::default()
            .with_topics(topics.collect())
            .with_cluster_authorized_operations(cluster);
        frame(&body, METADATA_VERSION)
    }

    #[test]
    fn rights_are_the_brokers_word_and_are_asked_again_after_a_while() {
        let (readable, hidden) = (TopicName::from("readable"), TopicName::from("hidden"));
        let now = Instant::now();
        let mut rights = Rights::default();
        assert_eq!(rights.topic(&readable, Operation::Read), None);
        assert!(rights.cluster(Operation::Describe).unwrap_err().cluster);
        let answer = metadata(&[("readable", 1 << 3 | 1 << 8), ("hidden", i32::MIN)], 1 << 8);
        rights.take_metadata(answer, now).unwrap();
        assert_eq!(rights.topic(&readable, Operation::Read), Some(true));
        assert_eq!(rights.topic(&readable, Operation::Write), Some(false));
        assert_eq!(rights.topic(&hidden, Operation::Describe), Some(false));
        assert_eq!(rights.cluster(Operation::Describe), Ok(true));
        assert_eq!(rights.cluster(Operation::Alter), Ok(false));
        rights.refresh(now + HOLDS - Duration::from_millis(1));
        assert_eq!(rights.topic(&readable, Operation::Read), Some(true));
        rights.refresh(now + HOLDS);
        assert!(rights.is_empty() && rights.topics.capacity() == 0);
        assert_eq!(rights.topic(&readable, Operation::Read), None);
    }

    #[test]
    fn only_one_that_may_replicate_hears_that_a_topic_is_not_there() {
        let mut rights = Rights::default();
        assert!(rights.cluster_action().unwrap_err().cluster_action);
        for (code, allowed) in [(100, true), (29, false), (3, false), (0, false)] {
            let partition = PartitionData::default()
                .with_error_code(code)
                .with_aborted_transactions(None)
                .with_records(None);
            let topic = FetchableTopicResponse::default().with_partitions(vec![partition]);
            let body = FetchResponse::default().with_responses(vec![topic]);
            rights.take_replication(frame(&body, FETCH_VERSION), Instant::now()).unwrap();
            assert_eq!(rights.cluster_action(), Ok(allowed), "{code}");
        }
    }
}
