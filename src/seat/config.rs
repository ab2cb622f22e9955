//! What the seat is told by the configuration, checked: where the destination is, and where the
//! seat listens in it.

use std::net::SocketAddr;

use crate::client::Endpoint;

/// The destination cluster and our place in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DestinationConfig {
    /// Real brokers to begin with; never empty, never our own listeners.
    pub bootstrap: Vec<Endpoint>,
    /// The cluster's id; `None`: whatever answers.
    pub cluster_id: Option<String>,
    /// Controllers; empty: asked from the brokers (DescribeQuorum, KIP-853).
    pub controllers: Vec<Endpoint>,
    /// One for each listener name that the real brokers have; never empty.
    pub listeners: Vec<ListenerConfig>,
}

/// One listener of the seat.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenerConfig {
    /// The listener's name at the destination, such as `PLAINTEXT`.
    pub name: String,
    /// Address and port that we listen on; no two listeners share one.
    pub bind: SocketAddr,
    /// What we register for brokers and clients to connect to; the host is never empty.
    pub advertise: Endpoint,
}
