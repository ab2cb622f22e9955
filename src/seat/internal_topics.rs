//! Makes the destination's internal topics exist before we join. Where nothing can be cordoned (below
//! `metadata.version` 30) the controller would place their replicas on the seat when they are made
//! later, by somebody's first group or transaction: half of all groups died of that, without an error.

use std::sync::Arc;
use std::time::Duration;

use kafka_protocol::messages::FindCoordinatorRequest;
use kafka_protocol::protocol::StrBytes;
use tokio::sync::watch;
use tokio::time::Instant;

use super::error::SeatError;
use super::registration::CORDON_METADATA_VERSION;
use crate::client::Cluster;
use crate::image::Image;
use crate::types::TopicName;

/// Between questions; a broker makes the topic when it is asked for a coordinator.
const REST: Duration = Duration::from_millis(250);
/// Between log lines about a topic that does not come.
const QUIET: Duration = Duration::from_secs(10);
/// Share groups are on from this level of the feature on (KIP-932).
const SHARE_FEATURE: &str = "share.version";

/// An internal topic and who its coordinator is for.
struct Internal {
    topic: &'static str,
    key_type: i8,
    /// Any key; that of share groups has a form.
    key: &'static str,
}

const GROUPS: Internal =
    Internal { topic: "__consumer_offsets", key_type: 0, key: "lockstep-probe" };
const TRANSACTIONS: Internal =
    Internal { topic: "__transaction_state", key_type: 1, key: "lockstep-probe" };
const SHARES: Internal = Internal {
    topic: "__share_group_state",
    key_type: 2,
    key: "lockstep-probe:AAAAAAAAAAAAAAAAAAAAAQ:0",
};

/// Waits until all internal topics are there and led, asking for those that are not. Returns at once
/// where log directories can be cordoned.
pub async fn make(destination: &Cluster, image: &mut watch::Receiver<Arc<Image>>) {
    for internal in [GROUPS, TRANSACTIONS, SHARES] {
        let began = Instant::now();
        let mut told = began;
        while is_missing(&image.borrow_and_update(), &internal) {
            let answer = find_coordinator(destination, &internal).await;
            if told.elapsed() >= QUIET {
                told = Instant::now();
                explain(&internal, began.elapsed(), &answer);
            }
            tokio::select! {
                () = tokio::time::sleep(REST) => {}
                Ok(()) = image.changed() => {}
            }
        }
    }
}

/// Whether the topic has to be there before we join and is not, or not wholly.
fn is_missing(image: &Image, internal: &Internal) -> bool {
    let level = image.metadata_version().unwrap_or(0);
    let is_off =
        internal.key_type == SHARES.key_type && image.feature(SHARE_FEATURE).unwrap_or(0) == 0;
    if level >= CORDON_METADATA_VERSION || is_off {
        return false;
    }
    image.topic_named(&TopicName::from(internal.topic)).is_none_or(|topic| {
        topic.partitions.is_empty() || topic.partitions.values().any(|p| p.leader.is_none())
    })
}

async fn find_coordinator(destination: &Cluster, internal: &Internal) -> Result<i16, SeatError> {
    let key = StrBytes::from_static_str(internal.key);
    let request = FindCoordinatorRequest::default()
        .with_key_type(internal.key_type)
        .with_coordinator_keys(vec![key]);
    let response = destination.any().await?.request(&request).await?;
    let found = response.coordinators.first().map_or(response.error_code, |found| found.error_code);
    Ok(found)
}

fn explain(internal: &Internal, waited: Duration, answer: &Result<i16, SeatError>) {
    let why = match answer {
        Ok(code) => format!("error {code}"),
        Err(error) => error.to_string(),
    };
    tracing::warn!(
        topic = internal.topic,
        waited_seconds = waited.as_secs(),
        answered = why,
        "not joining yet: this internal topic is not there, and without cordons (metadata.version 30) \
         its replicas would be placed on our seat; it comes with the first use of it, which we asked \
         for; see the brokers' logs, or create it by hand"
    );
}
