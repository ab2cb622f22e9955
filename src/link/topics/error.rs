//! What can go wrong between the topic task and the two clusters.

use kafka_protocol::error::ResponseError;

use crate::client::{ClientError, Retry, retry_response};
use crate::seat::error::SeatError;
use crate::types::BrokerId;

/// Trouble of the topic task.
#[derive(Debug, thiserror::Error)]
pub enum TopicError {
    /// A cluster could not be asked.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The destination did not take other replicas at all.
    #[error(transparent)]
    Replicas(SeatError),
    /// The source is another cluster than the one that is mirrored.
    #[error("source is cluster {found}, this link mirrors cluster {expected}")]
    OtherSource {
        /// The id that was configured, or seen at first contact.
        expected: String,
        /// The id that the source tells.
        found: String,
    },
    /// The source does not tell its cluster id.
    #[error("source does not tell its cluster id")]
    NoClusterId,
    /// The destination would refuse replicas on our seat.
    #[error("seat {0} is fenced or shutting down in the destination; nothing can be placed on it")]
    SeatFenced(BrokerId),
    /// A request for several topics failed as a whole, or for the one that it was about.
    #[error("{request} for {topic} was answered with {error}{message}")]
    Refused {
        /// The request.
        request: &'static str,
        /// One of its topics.
        topic: String,
        /// Kafka's error.
        error: Answered,
        /// What the broker adds, with a colon before it.
        message: String,
    },
}

/// An error code of Kafka, known to us or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answered(pub i16);

impl std::fmt::Display for Answered {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.known() {
            Some(error) => write!(f, "{error:?} ({})", self.0),
            None => write!(f, "error {}", self.0),
        }
    }
}

impl Answered {
    /// The error, where we know it.
    pub fn known(self) -> Option<ResponseError> {
        ResponseError::try_from_code(self.0)
    }
}

impl TopicError {
    /// What to do next.
    pub fn retry(&self) -> Retry {
        match self {
            Self::Client(error) => error.retry(),
            Self::Replicas(_) => Retry::WithBackoff,
            // The address may lead to the right cluster again; nothing is done until it does.
            Self::OtherSource { .. } | Self::NoClusterId | Self::SeatFenced(_) => {
                Retry::WithBackoff
            }
            Self::Refused { error, .. } => error.known().map_or(Retry::Never, retry_response),
        }
    }

    /// The reason as reports name it, where the source is concerned.
    pub fn source_reason(&self) -> &'static str {
        match self {
            Self::OtherSource { .. } | Self::Client(ClientError::OtherCluster { .. }) => {
                "SOURCE_CLUSTER_ID_CHANGED"
            }
            Self::Refused {
                error: Answered(TOPIC_AUTHORIZATION_FAILED | CLUSTER_AUTHORIZATION_FAILED),
                ..
            } => "SOURCE_AUTHORIZATION_FAILED",
            Self::Client(_)
            | Self::Replicas(_)
            | Self::NoClusterId
            | Self::SeatFenced(_)
            | Self::Refused { .. } => "SOURCE_UNREACHABLE",
        }
    }

    /// The reason as reports name it, where the destination is concerned.
    pub fn destination_reason(&self) -> &'static str {
        match self {
            Self::SeatFenced(_) => "SEAT_FENCED",
            Self::Refused { .. } | Self::Replicas(_) => "DESTINATION_REFUSED",
            Self::Client(_) | Self::OtherSource { .. } | Self::NoClusterId => {
                "DESTINATION_UNREACHABLE"
            }
        }
    }

    /// The source is not the cluster that it has to be.
    pub fn is_other_source(&self) -> bool {
        self.source_reason() == "SOURCE_CLUSTER_ID_CHANGED"
    }
}

impl From<SeatError> for TopicError {
    fn from(error: SeatError) -> Self {
        match error {
            SeatError::Client(error) => Self::Client(error),
            other => Self::Replicas(other),
        }
    }
}

const TOPIC_AUTHORIZATION_FAILED: i16 = 29;
const CLUSTER_AUTHORIZATION_FAILED: i16 = 31;
