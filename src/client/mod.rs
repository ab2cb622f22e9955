//! One connection to a Kafka broker, and a view of a cluster. Speaks Kafka's protocol as a client;
//! knows nothing of mirrors.

mod backoff;
mod cluster;
mod connection;
mod endpoint;
mod error;
#[cfg(test)]
mod fake_broker;
mod metadata;
mod pipeline;
mod transport;
mod versions;

use std::time::Duration;

pub use backoff::Backoff;
pub use cluster::Cluster;
pub use connection::Connection;
pub use endpoint::{Endpoint, EndpointError};
pub use error::{ClientError, Fault, RequestName, Retry, retry_response};
pub use metadata::{BrokerAddress, ClusterMetadata, PartitionMetadata, TopicMetadata, Topics};
pub use transport::Dialer;

/// How to talk to the brokers of one cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientConfig {
    /// The name that brokers see in each request.
    pub client_id: String,
    /// Limit for name and TCP, and again for the first exchange.
    pub connect_timeout: Duration,
    /// Limit for each request: from the call, or from the last bytes of an answer under way. What
    /// is half-open is noticed after it.
    pub request_timeout: Duration,
    /// A larger answer is taken for garbage.
    pub max_frame_bytes: usize,
    /// `SO_RCVBUF`; unset leaves it to the system, which grows it by itself.
    pub receive_buffer_bytes: Option<u32>,
    /// Another way to connect than TCP: for the simulation.
    pub dialer: Option<Dialer>,
}

impl Default for ClientConfig {
    fn default() -> Self {
        Self {
            client_id: "lockstep".to_owned(),
            connect_timeout: Duration::from_secs(5),
            request_timeout: Duration::from_secs(10),
            max_frame_bytes: 128 << 20,
            receive_buffer_bytes: None,
            dialer: None,
        }
    }
}
