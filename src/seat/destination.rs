//! What a real broker of the destination says of its cluster: the timings that we have to keep.

use std::collections::BTreeMap;
use std::time::Duration;

use kafka_protocol::messages::DescribeConfigsRequest;
use kafka_protocol::messages::describe_configs_request::DescribeConfigsResource;
use kafka_protocol::protocol::StrBytes;

use super::error::SeatError;
use crate::client::{ClientConfig, ClientError, Cluster, Connection, Endpoint, Topics};
use crate::types::BrokerId;

/// `ConfigResource.Type.BROKER`.
const BROKER_RESOURCE: i8 = 4;

/// Only a seat has it.
pub const SEAT_SETTING: &str = "lockstep.version";

/// Settings of the destination's brokers. Values that a broker does not tell are Kafka's defaults.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Destination {
    /// The cluster's id.
    pub cluster_id: String,
    /// `broker.heartbeat.interval.ms`.
    pub heartbeat_interval: Duration,
    /// `broker.session.timeout.ms`.
    pub session_timeout: Duration,
    /// `replica.lag.time.max.ms`.
    pub lag_time: Duration,
    /// `inter.broker.listener.name`: where replicas fetch from us.
    pub inter_broker_listener: String,
    /// `default.replication.factor`.
    pub replication_factor: usize,
}

impl Destination {
    /// Asks a real broker; checks that it is of the `expected` cluster and that all reachable bootstrap servers are of one cluster.
    pub async fn ask(
        cluster: &Cluster,
        bootstrap: &[Endpoint],
        expected: Option<&str>,
        config: &ClientConfig,
    ) -> Result<Self, SeatError> {
        let metadata = cluster.metadata(Topics::None).await?;
        let cluster_id = metadata.cluster_id.ok_or_else(|| SeatError::Malformed {
            request: "Metadata",
            what: "no cluster id".to_owned(),
        })?;
        if let Some(expected) = expected.filter(|expected| *expected != cluster_id) {
            return Err(SeatError::OtherCluster {
                found: cluster_id,
                expected: expected.to_owned(),
            });
        }
        check_one_cluster(bootstrap, config).await?;
        let settings = any_settings(cluster, metadata.brokers.into_keys()).await?;
        let millis = |key: &str, default: u64| {
            let value = settings.get(key).and_then(|value| value.parse().ok());
            Duration::from_millis(value.unwrap_or(default))
        };
        Ok(Self {
            cluster_id,
            heartbeat_interval: millis("broker.heartbeat.interval.ms", 2_000),
            session_timeout: millis("broker.session.timeout.ms", 9_000),
            lag_time: millis("replica.lag.time.max.ms", 30_000),
            // Where no name is set the listener is called as its security protocol.
            inter_broker_listener: settings
                .get("inter.broker.listener.name")
                .or_else(|| settings.get("security.inter.broker.protocol"))
                .cloned()
                .unwrap_or_else(|| "PLAINTEXT".to_owned()),
            replication_factor: settings
                .get("default.replication.factor")
                .and_then(|value| value.parse().ok())
                .unwrap_or(1),
        })
    }
}

/// Bootstrap servers that cannot be reached now are no mistake; one of another cluster than the first
/// is. The first in the file, not in time: the message is the same at each start.
async fn check_one_cluster(bootstrap: &[Endpoint], config: &ClientConfig) -> Result<(), SeatError> {
    let mut first: Option<(&Endpoint, String)> = None;
    for server in bootstrap {
        let alone = Cluster::new(vec![server.clone()], config.clone(), None);
        let Ok(metadata) = alone.metadata(Topics::None).await else { continue };
        let Some(found) = metadata.cluster_id else { continue };
        let (first, expected) = first.get_or_insert_with(|| (server, found.clone()));
        if found != *expected {
            return Err(SeatError::WrongCluster {
                server: server.to_string(),
                found,
                first: first.to_string(),
                expected: expected.clone(),
                setting: "destination.bootstrap_servers",
            });
        }
    }
    Ok(())
}

/// Only a broker itself tells its settings: the first that answers. Our own seat, should it be
/// listed, is none.
async fn any_settings(
    cluster: &Cluster,
    brokers: impl Iterator<Item = BrokerId>,
) -> Result<BTreeMap<String, String>, SeatError> {
    let mut failed = None;
    for broker in brokers.filter(|id| cluster.endpoint(*id).is_ok()) {
        let asked = async { broker_settings(&cluster.broker(broker).await?, broker).await };
        match asked.await {
            // Another seat has no settings that concern us.
            Ok(settings) if settings.contains_key(SEAT_SETTING) => cluster.avoid([broker]),
            Ok(settings) => return Ok(settings),
            Err(error) => failed = Some(error),
        }
    }
    Err(failed.unwrap_or_else(|| SeatError::Malformed {
        request: "Metadata",
        what: "no real broker".to_owned(),
    }))
}

/// Finds the other seats among the brokers that are alive, where no image tells them, and avoids them.
pub async fn avoid_seats(cluster: &Cluster) -> Result<(), ClientError> {
    let metadata = cluster.metadata(Topics::None).await?;
    for broker in metadata.brokers.into_keys().filter(|id| cluster.endpoint(*id).is_ok()) {
        let asked = async { broker_settings(&cluster.broker(broker).await?, broker).await };
        // A broker that does not answer now is asked for its copies later, and says so then.
        if asked.await.is_ok_and(|settings| settings.contains_key(SEAT_SETTING)) {
            cluster.avoid([broker]);
        }
    }
    Ok(())
}

async fn broker_settings(
    connection: &Connection,
    broker: BrokerId,
) -> Result<BTreeMap<String, String>, SeatError> {
    let resource = DescribeConfigsResource::default()
        .with_resource_type(BROKER_RESOURCE)
        .with_resource_name(StrBytes::from_string(broker.to_string()))
        .with_configuration_keys(None);
    let request = DescribeConfigsRequest::default().with_resources(vec![resource]);
    let response = connection.request(&request).await?;
    let result = response.results.into_iter().next().ok_or_else(|| SeatError::Malformed {
        request: "DescribeConfigs",
        what: "nothing".to_owned(),
    })?;
    SeatError::check("DescribeConfigs of a broker", result.error_code)?;
    let settings = result.configs.into_iter();
    Ok(settings.filter_map(|c| Some((c.name.to_string(), c.value?.to_string()))).collect())
}
