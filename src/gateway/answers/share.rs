//! Share groups (KIP-932): only a partition's leader can serve them, from its own log, and there is no
//! word for "ask another replica". They are refused with a code that share consumers throw.

use bytes::Bytes;
use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::share_acknowledge_response::{
    PartitionData as Acknowledged, ShareAcknowledgeTopicResponse,
};
use kafka_protocol::messages::share_fetch_response::{
    PartitionData as Fetched, ShareFetchableTopicResponse,
};
use kafka_protocol::messages::{
    ShareAcknowledgeRequest, ShareAcknowledgeResponse, ShareFetchRequest, ShareFetchResponse,
};
use kafka_protocol::protocol::StrBytes;

use super::{AnswerError, Asked, Asker, Reply};
use crate::gateway::rights::Operation;
use crate::gateway::standing::{Standing, Standings, TopicRef};

/// `SHARE_SESSION_NOT_FOUND`: the client begins anew, with all its partitions.
const NO_SESSION: i16 = 122;

/// A function that refuses a request of share consumers. The two requests and what belongs to them
/// differ in the crate's types only; what an answer has beside its refusal is in `$nothing`.
macro_rules! refuses {
    ($(#[$about:meta])* $name:ident, $request:ty, $response:ty, $topic:ty, $nothing:expr) => {
        $(#[$about])*
        pub async fn $name(frame: Bytes, asker: &Asker<'_>) -> Result<Reply, AnswerError> {
            let asked = Asked::<$request>::decode(frame)?;
            if asked.body.share_session_epoch > 0 {
                return asked.answer(&<$response>::default().with_error_code(NO_SESSION));
            }
            let named = asked.body.topics.iter().flat_map(|topic| {
                let partitions = topic.partitions.iter().map(|partition| partition.partition_index);
                TopicRef::of("", topic.topic_id).each(partitions)
            });
            let mut standings =
                Standings::look_up(asker, Operation::Read, named.collect()).await?;
            let topics = asked.body.topics.iter().map(|topic| {
                let partitions = topic.partitions.iter().map(|partition| {
                    let (code, text) = refusal(&standings.take());
                    $nothing
                        .with_partition_index(partition.partition_index)
                        .with_error_code(code)
                        .with_error_message(text)
                });
                <$topic>::default()
                    .with_topic_id(topic.topic_id)
                    .with_partitions(partitions.collect())
            });
            asked.answer(&<$response>::default().with_responses(topics.collect()))
        }
    };
}

refuses!(
    /// Answers a ShareFetch.
    fetch,
    ShareFetchRequest,
    ShareFetchResponse,
    ShareFetchableTopicResponse,
    Fetched::default().with_acknowledge_error_message(None).with_records(Some(Bytes::new()))
);
refuses!(
    /// Answers a ShareAcknowledge: nothing was acquired here that could be acknowledged.
    acknowledge,
    ShareAcknowledgeRequest,
    ShareAcknowledgeResponse,
    ShareAcknowledgeTopicResponse,
    Acknowledged::default()
);

fn refusal(standing: &Standing) -> (i16, Option<StrBytes>) {
    let led = match standing.led() {
        Ok(led) => led,
        Err(code) => return (code, None),
    };
    let text = format!(
        "topic {} is a mirror of link {} (lockstep): share groups can read it once it is promoted",
        led.topic, led.partition.link
    );
    (ResponseError::PolicyViolation.code(), Some(StrBytes::from_string(text)))
}

#[cfg(test)]
mod tests {
    use kafka_protocol::messages::share_fetch_request::{FetchPartition, FetchTopic};
    use kafka_protocol::messages::{
        share_acknowledge_request::AcknowledgePartition,
        share_acknowledge_request::AcknowledgeTopic,
    };

    use super::super::testing::{MIRROR_ID, OTHER, asker_of, decoded, request, world};
    use super::*;

    #[tokio::test]
    async fn share_consumers_are_refused_with_a_text_that_names_the_link() {
        let world = world();
        let topics = [MIRROR_ID, OTHER].map(|id| {
            FetchTopic::default()
                .with_topic_id(id.0)
                .with_partitions(vec![FetchPartition::default()])
        });
        let body = ShareFetchRequest::default().with_topics(topics.to_vec());
        let frame = request(1, &body);
        assert_eq!(crate::wire::shape::check_request(&frame), Ok(0));
        let reply = fetch(frame, &asker_of(&world).asker()).await.unwrap();
        let response = decoded::<ShareFetchRequest>(1, reply);
        let found = response.responses.iter().map(|topic| &topic.partitions[0]);
        let codes: Vec<_> = found.map(|partition| partition.error_code).collect();
        assert_eq!(codes, [44, 6]);
        let text = response.responses[0].partitions[0].error_message.as_deref();
        assert!(text.is_some_and(|text| text.contains("link east")), "{text:?}");

        let later = ShareFetchRequest::default().with_share_session_epoch(3);
        let reply = fetch(request(1, &later), &asker_of(&world).asker()).await.unwrap();
        assert_eq!(decoded::<ShareFetchRequest>(1, reply).error_code, 122);
    }

    #[tokio::test]
    async fn nothing_is_acknowledged() {
        let world = world();
        let topic = AcknowledgeTopic::default()
            .with_topic_id(MIRROR_ID.0)
            .with_partitions(vec![AcknowledgePartition::default()]);
        let body = ShareAcknowledgeRequest::default().with_topics(vec![topic]);
        let frame = request(1, &body);
        assert_eq!(crate::wire::shape::check_request(&frame), Ok(0));
        let reply = acknowledge(frame, &asker_of(&world).asker()).await.unwrap();
        let response = decoded::<ShareAcknowledgeRequest>(1, reply);
        assert_eq!(response.responses[0].partitions[0].error_code, 44);
    }
}
