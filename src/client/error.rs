//! What can go wrong between us and a broker, which broker and which request it was, and what to do
//! next.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::ApiKey;
use kafka_protocol::protocol::VersionRange;

use super::Endpoint;
use crate::types::BrokerId;
use crate::wire::frame::FrameLengthError;

/// What to do after an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retry {
    /// Try again after a wait that grows.
    WithBackoff,
    /// Ask for metadata first: something has moved.
    AfterMetadataRefresh,
    /// Try again after this time.
    After(Duration),
    /// Trying again cannot help.
    Never,
}

/// A request and its version, for people.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestName {
    /// Which request (`ApiKey`).
    pub key: i16,
    /// Its version.
    pub version: i16,
}

impl fmt::Display for RequestName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} v{}", KeyName(self.key), self.version)
    }
}

/// Why a connection is of no use any more. All its waiting requests are told the same.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Fault {
    /// The name has no address.
    #[error("resolve host: {0}")]
    Resolve(Arc<io::Error>),
    /// The connection broke, or never came about.
    #[error("{0}")]
    Io(Arc<io::Error>),
    /// The peer closed it, perhaps within a frame.
    #[error("connection closed by the broker")]
    ClosedByPeer,
    /// The last handle was dropped.
    #[error("connection closed")]
    Closed,
    /// No connection within the time allowed.
    #[error("not connected within {0:?}")]
    ConnectTimeout(Duration),
    /// No answer in time; it could still come and be taken for another.
    #[error("no answer to {request} within {limit:?}")]
    Timeout {
        /// The request that waited.
        request: RequestName,
        /// How long it waited.
        limit: Duration,
    },
    /// Not Kafka's protocol, or an answer larger than we take.
    #[error(transparent)]
    Frame(#[from] FrameLengthError),
    /// An answer to something never asked.
    #[error("answer with unknown correlation id {0}")]
    UnknownCorrelationId(i32),
    /// Too many requests that nobody has answered.
    #[error("{0} requests without an answer")]
    TooManyInFlight(usize),
}

/// An error of this module.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ClientError {
    /// No connection came about.
    #[error("connect to broker {endpoint}: {fault}")]
    Connect {
        /// Where to.
        endpoint: Endpoint,
        /// Why not.
        fault: Fault,
    },
    /// The connection was lost before the answer came; whether the request was acted on is unknown.
    #[error("send {request} to broker {endpoint}: {fault}")]
    Request {
        /// Where to.
        endpoint: Endpoint,
        /// What was asked.
        request: RequestName,
        /// What happened to the connection.
        fault: Fault,
    },
    /// Both sides know the request, but no common version; or the peer does not know it at all.
    #[error(
        "find a version of {name} for broker {endpoint}: we know {ours}, the broker knows {theirs}",
        name = KeyName(*.key), ours = Versions(Some(*.ours)), theirs = Versions(*.theirs)
    )]
    Version {
        /// The broker.
        endpoint: Endpoint,
        /// Which request (`ApiKey`).
        key: i16,
        /// The versions that we know.
        ours: VersionRange,
        /// The versions that the broker named.
        theirs: Option<VersionRange>,
    },
    /// The request has a value that its version cannot carry.
    #[error("encode {request} for broker {endpoint}: {reason}")]
    Encode {
        /// Where to.
        endpoint: Endpoint,
        /// What was asked.
        request: RequestName,
        /// What the encoder says.
        reason: String,
    },
    /// The answer is not what the version's schema says.
    #[error("decode answer to {request} from broker {endpoint}: {reason}")]
    Decode {
        /// Where from.
        endpoint: Endpoint,
        /// What was asked.
        request: RequestName,
        /// What the decoder says.
        reason: String,
    },
    /// The broker answered with an error for the whole request.
    #[error("ask broker {endpoint} for {request}: {error}")]
    Response {
        /// Where from.
        endpoint: Endpoint,
        /// What was asked.
        request: RequestName,
        /// The error.
        error: ResponseError,
    },
    /// The address leads to another cluster than before.
    #[error("ask broker {endpoint} for metadata: it is of cluster {found}, expected {expected}")]
    OtherCluster {
        /// Where from.
        endpoint: Endpoint,
        /// The id of the cluster that this view is of.
        expected: String,
        /// The id that was answered.
        found: String,
    },
    /// The last metadata does not list this broker.
    #[error("find broker {0}: the cluster does not list it")]
    UnknownBroker(BrokerId),
    /// The broker is our own seat, which is never talked to as a client.
    #[error("find broker {0}: it is our own seat")]
    OwnSeat(BrokerId),
    /// No broker can be reached.
    #[error("reach any broker: {}", Failures(.0))]
    NoBroker(Vec<ClientError>),
}

impl ClientError {
    /// What to do next.
    pub fn retry(&self) -> Retry {
        match self {
            // An answer that cannot be read may be one torn by the network: the next may be whole.
            Self::Connect { .. }
            | Self::Request { .. }
            | Self::Decode { .. }
            | Self::OtherCluster { .. }
            | Self::NoBroker(_) => Retry::WithBackoff,
            Self::UnknownBroker(_) | Self::OwnSeat(_) => Retry::AfterMetadataRefresh,
            Self::Response { error, .. } => retry_response(*error),
            Self::Version { .. } | Self::Encode { .. } => Retry::Never,
        }
    }
}

/// What to do after a broker answered with `error`.
pub fn retry_response(error: ResponseError) -> Retry {
    match error {
        ResponseError::UnknownTopicOrPartition
        | ResponseError::UnknownTopicId
        | ResponseError::LeaderNotAvailable
        | ResponseError::NotLeaderOrFollower
        | ResponseError::ReplicaNotAvailable
        | ResponseError::NotController
        | ResponseError::NotCoordinator
        | ResponseError::FencedLeaderEpoch
        | ResponseError::UnknownLeaderEpoch => Retry::AfterMetadataRefresh,
        error if error.is_retriable() => Retry::WithBackoff,
        _ => Retry::Never,
    }
}

struct KeyName(i16);

impl fmt::Display for KeyName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match ApiKey::try_from(self.0) {
            Ok(key) => write!(f, "{key:?}"),
            Err(()) => write!(f, "request {}", self.0),
        }
    }
}

struct Versions(Option<VersionRange>);

impl fmt::Display for Versions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(range) => write!(f, "v{} to v{}", range.min, range.max),
            None => f.write_str("none"),
        }
    }
}

struct Failures<'a>(&'a [ClientError]);

impl fmt::Display for Failures<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("no address to try");
        }
        for (index, failure) in self.0.iter().enumerate() {
            let separator = if index == 0 { "" } else { "; " };
            write!(f, "{separator}{failure}")?;
        }
        Ok(())
    }
}
