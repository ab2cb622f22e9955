//! Finds the active controller and keeps a connection to it. Every user has a connection of its
//! own: a slow answer for one must not delay another's heartbeat.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use kafka_protocol::messages::DescribeQuorumRequest;
use kafka_protocol::messages::describe_quorum_request::{PartitionData, TopicData};
use kafka_protocol::protocol::{Request, StrBytes};

use super::error::SeatError;
use crate::client::{ClientConfig, Cluster, Connection, Endpoint};

/// A controller that takes longer hangs: another one may be active by then.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// Name of the metadata log's topic.
pub const METADATA_TOPIC: &str = "__cluster_metadata";

/// The destination's controllers, and which of them is believed to be active. Shared.
#[derive(Clone, Debug)]
pub struct Controllers {
    belief: Arc<Mutex<Belief>>,
    config: ClientConfig,
}

#[derive(Debug)]
struct Belief {
    endpoints: Vec<Endpoint>,
    active: usize,
}

/// One user's way to the active controller.
#[derive(Debug)]
pub struct ControllerConnection {
    controllers: Controllers,
    connection: Option<Connection>,
}

impl Controllers {
    /// Controllers at known addresses.
    pub fn new(endpoints: Vec<Endpoint>, config: ClientConfig) -> Self {
        Self { belief: Arc::new(Mutex::new(Belief { endpoints, active: 0 })), config }
    }

    /// Asks a broker where the controllers are (KIP-853; answered from 3.9 on).
    pub async fn discover(cluster: &Cluster) -> Result<Vec<Endpoint>, SeatError> {
        let connection = cluster.any().await?;
        let partition = PartitionData::default().with_partition_index(0);
        let topic = TopicData::default()
            .with_topic_name(StrBytes::from_static_str(METADATA_TOPIC).into())
            .with_partitions(vec![partition]);
        let request = DescribeQuorumRequest::default().with_topics(vec![topic]);
        let response = connection.request(&request).await?;
        SeatError::check("DescribeQuorum", response.error_code)?;
        let nodes = response.nodes.iter().flat_map(|node| &node.listeners);
        let endpoints: Vec<_> = nodes
            .map(|listener| Endpoint { host: listener.host.to_string(), port: listener.port })
            .collect();
        if endpoints.is_empty() { Err(SeatError::NoController) } else { Ok(endpoints) }
    }

    /// A way of the caller's own.
    pub fn connection(&self) -> ControllerConnection {
        ControllerConnection { controllers: self.clone(), connection: None }
    }

    /// All addresses.
    pub fn endpoints(&self) -> Vec<Endpoint> {
        self.belief().endpoints.clone()
    }

    /// Somebody who must know said which one is active.
    pub fn is_active(&self, endpoint: &Endpoint) {
        let mut belief = self.belief();
        match belief.endpoints.iter().position(|known| known == endpoint) {
            Some(at) => belief.active = at,
            None => {
                belief.endpoints.push(endpoint.clone());
                belief.active = belief.endpoints.len() - 1;
            }
        }
    }

    fn active(&self) -> Option<Endpoint> {
        let belief = self.belief();
        belief.endpoints.get(belief.active).cloned()
    }

    /// `endpoint` is not active: the next one is tried, unless somebody found the way already.
    fn is_not_active(&self, endpoint: &Endpoint) {
        let mut belief = self.belief();
        if belief.endpoints.get(belief.active) == Some(endpoint) {
            belief.active = (belief.active + 1) % belief.endpoints.len();
        }
    }

    fn belief(&self) -> std::sync::MutexGuard<'_, Belief> {
        self.belief.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ControllerConnection {
    /// The connection to the controller believed to be active.
    pub async fn open(&mut self) -> Result<Connection, SeatError> {
        let active = self.controllers.active().ok_or(SeatError::NoController)?;
        if let Some(connection) = &self.connection
            && connection.is_open()
            && *connection.peer() == active
        {
            return Ok(connection.clone());
        }
        match Connection::connect(&active, &self.controllers.config).await {
            Ok(connection) => {
                self.connection = Some(connection.clone());
                Ok(connection)
            }
            Err(error) => {
                self.controllers.is_not_active(&active);
                Err(error.into())
            }
        }
    }

    /// Asks the active controller; `error_of` finds the answer's own error code.
    pub async fn request<R: Request>(
        &mut self,
        name: &'static str,
        request: &R,
        error_of: impl FnOnce(&R::Response) -> i16,
    ) -> Result<R::Response, SeatError> {
        let connection = self.open().await?;
        let result = match connection.request_with_timeout(request, ANSWER_WITHIN).await {
            Ok(response) => SeatError::check(name, error_of(&response)).map(|()| response),
            Err(error) => Err(error.into()),
        };
        if result.as_ref().is_err_and(SeatError::is_elsewhere) {
            self.moved();
        }
        result
    }

    /// The one we talk to is not the active controller.
    pub fn moved(&mut self) {
        if let Some(connection) = self.connection.take() {
            self.controllers.is_not_active(connection.peer());
        }
    }
}
