//! Registers the seat with the active controller: who we are, where we listen, and which features
//! we know.

use std::time::Duration;

use kafka_protocol::messages::BrokerRegistrationRequest;
use kafka_protocol::messages::broker_registration_request::{Feature, Listener};
use kafka_protocol::protocol::StrBytes;

use super::controllers::ControllerConnection;
use super::error::SeatError;
use crate::client::{Backoff, Endpoint};
use crate::image::{Image, seat_directory};
use crate::types::{BrokerEpoch, BrokerId, Uuid};

/// The least `metadata.version` under which a seat works: 3.7-IV4.
pub const LEAST_METADATA_VERSION: i16 = 19;
/// The greatest that was tried: 4.3-IV0.
pub const MOST_METADATA_VERSION: i16 = 30;
/// From here on the controller knows cordoned log directories (KIP-1066).
pub const CORDON_METADATA_VERSION: i16 = 30;

/// Feature levels that we can live with. What an operator may upgrade to is the least maximum of
/// all brokers, ours included, so a feature left out or a maximum too low would block upgrades.
const FEATURES: [(&str, i16, i16); 7] = [
    ("metadata.version", 1, MOST_METADATA_VERSION),
    ("kraft.version", 0, 1),
    ("transaction.version", 0, 2),
    ("group.version", 0, 1),
    ("eligible.leader.replicas.version", 0, 1),
    ("share.version", 0, 1),
    ("streams.version", 0, 1),
];

/// An old session of our id still lives.
const DUPLICATE_BROKER_REGISTRATION: i16 = 101;
/// Between attempts to register.
const REST: Duration = Duration::from_millis(100);
/// The same while no controller answers well.
const LONGEST_REST: Duration = Duration::from_secs(2);
/// Between log lines about an attempt that does not get through.
const QUIET: Duration = Duration::from_secs(5);

/// Who we are in the destination cluster.
#[derive(Clone, Debug)]
pub struct Identity {
    /// Our broker id.
    pub id: BrokerId,
    /// The destination's cluster id.
    pub cluster_id: String,
    /// One per life of the daemon.
    pub incarnation: Uuid,
    /// Our only log directory: the same for ever, or every election fails.
    pub directory: Uuid,
    /// Where we can be reached, by listener name.
    pub listeners: Vec<AdvertisedListener>,
}

/// One listener as the destination's metadata will show it.
#[derive(Clone, Debug)]
pub struct AdvertisedListener {
    /// Its name.
    pub name: String,
    /// Its address.
    pub endpoint: Endpoint,
    /// Kafka's number of the security protocol: 0 for plaintext.
    pub security_protocol: i16,
}

impl Identity {
    /// The directory id of a seat: derived, so that nothing has to be stored.
    pub fn directory_of(cluster_id: &str, id: BrokerId) -> Uuid {
        seat_directory(cluster_id, id)
    }

    /// Checks what the destination says before we join: its release is known, our id is ours, no
    /// listener is missing.
    pub fn check(&self, image: &Image) -> Result<(), SeatError> {
        let found = image.metadata_version().unwrap_or(0);
        if !(LEAST_METADATA_VERSION..=MOST_METADATA_VERSION).contains(&found) {
            let (least, most) = (LEAST_METADATA_VERSION, MOST_METADATA_VERSION);
            return Err(SeatError::MetadataVersion { found, least, most });
        }
        if let Some(broker) = image.broker(self.id)
            && !broker.log_dirs.contains(&self.directory)
        {
            let address = broker.listeners.values().next();
            let address = address.map_or_else(String::new, |l| format!("{}:{}", l.host, l.port));
            return Err(SeatError::IdTaken { id: self.id, address });
        }
        for broker in image.brokers().filter(|broker| broker.id != self.id) {
            for name in broker.listeners.keys() {
                if !self.listeners.iter().any(|listener| listener.name == *name) {
                    return Err(SeatError::ListenerMissing {
                        broker: broker.id,
                        name: name.clone(),
                    });
                }
            }
        }
        Ok(())
    }

    /// An incarnation that was in controlled shutdown is never elected again: then we are another one.
    pub fn shed_poison(&mut self, image: &Image) {
        if image.broker(self.id).is_some_and(|broker| {
            broker.in_controlled_shutdown && broker.incarnation == self.incarnation
        }) {
            self.incarnation = Uuid::new_v4();
        }
    }

    fn request(&self, previous: Option<BrokerEpoch>) -> BrokerRegistrationRequest {
        let listeners = self.listeners.iter().map(|listener| {
            Listener::default()
                .with_name(StrBytes::from_string(listener.name.clone()))
                .with_host(StrBytes::from_string(listener.endpoint.host.clone()))
                .with_port(listener.endpoint.port)
                .with_security_protocol(listener.security_protocol)
        });
        let features = FEATURES.iter().map(|&(name, least, most)| {
            Feature::default()
                .with_name(StrBytes::from_static_str(name))
                .with_min_supported_version(least)
                .with_max_supported_version(most)
        });
        BrokerRegistrationRequest::default()
            .with_broker_id(self.id.0.into())
            .with_cluster_id(StrBytes::from_string(self.cluster_id.clone()))
            .with_incarnation_id(self.incarnation)
            .with_listeners(listeners.collect())
            .with_features(features.collect())
            .with_rack(None)
            .with_is_migrating_zk_broker(false)
            .with_log_dirs(vec![self.directory])
            .with_previous_broker_epoch(previous.map_or(-1, |epoch| epoch.0))
    }

    /// Registers, and waits for an old session of ours to end. Fails only where a person must act.
    pub async fn register(
        &self,
        controller: &mut ControllerConnection,
        previous: Option<BrokerEpoch>,
    ) -> Result<BrokerEpoch, SeatError> {
        let request = self.request(previous);
        let began = tokio::time::Instant::now();
        let mut told = None;
        let mut rest = Backoff::new(REST, LONGEST_REST);
        loop {
            let outcome = controller
                .request("BrokerRegistration", &request, |answer| answer.error_code)
                .await;
            let error = match outcome {
                Ok(answer) => return Ok(BrokerEpoch(answer.broker_epoch)),
                Err(error) if error.is_final() => return Err(error),
                Err(error) => error,
            };
            if told.is_none_or(|at: tokio::time::Instant| at.elapsed() >= QUIET) {
                told = Some(tokio::time::Instant::now());
                self.explain(&error, began.elapsed());
            }
            if matches!(error, SeatError::Answered { code: DUPLICATE_BROKER_REGISTRATION, .. }) {
                // The controller is well, and each moment counts once the old session has ended.
                rest.reset();
            }
            tokio::time::sleep(rest.next()).await;
        }
    }

    fn explain(&self, error: &SeatError, waited: Duration) {
        let seconds = waited.as_secs();
        if matches!(error, SeatError::Answered { code: DUPLICATE_BROKER_REGISTRATION, .. }) {
            tracing::warn!(
                broker_id = %self.id, waited_seconds = seconds,
                "broker id has a live session: waiting for it to end (about 9 s after a crash); if it \
                 does not, another daemon runs with this daemon.broker_id"
            );
        } else {
            tracing::warn!(broker_id = %self.id, waited_seconds = seconds, %error, "not registered yet");
        }
    }
}
