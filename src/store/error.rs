//! What can go wrong with the journal, and what to do then.

use kafka_protocol::error::ParseResponseErrorCode as _;

use crate::client::{ClientError, Retry, retry_response};
use crate::types::{BrokerId, TopicName};

/// An error of this module.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// No broker, or none in time.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// A broker answered with an error.
    #[error("{request} for {topic} at broker {broker}: {error}")]
    Answered {
        /// What was asked.
        request: &'static str,
        /// Which of our topics it is about.
        topic: TopicName,
        /// Who answered.
        broker: BrokerId,
        /// What.
        error: Answered,
    },
    /// The topic has no leader now, or is not there.
    #[error("find the leader of {0}: it has none now")]
    NoLeader(TopicName),
    /// Another daemon writes the journal now.
    #[error("write the journal: another daemon writes it now")]
    Fenced,
    /// We do not write it, so that another may.
    #[error("write the journal: this daemon does not write it; ask the one that does")]
    NotOwner,
    /// It is not there to be written yet, or our seat is not.
    #[error("write the journal: it is not read yet, or the seat is not registered; ask again")]
    NotReady,
    /// It was written by a newer version of lockstep.
    #[error(
        "write the journal: it has entries of schema {0}, which this version of lockstep does not \
         know; run a version that does"
    )]
    NewerSchema(u32),
    /// Too few real brokers are alive to put the topic on.
    #[error("create {0}: no real broker can take a replica")]
    NoBroker(TopicName),
    /// Not within the time that whoever asked can wait.
    #[error("write the journal: not done within {0:?}; trying on")]
    TooSlow(std::time::Duration),
    /// The daemon stops.
    #[error("write the journal: the daemon stops")]
    Stopped,
}

/// One of Kafka's error codes, for people.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answered(pub i16);

impl std::fmt::Display for Answered {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0.err() {
            Some(error) => write!(f, "{error} ({})", self.0),
            None => write!(f, "error code {}", self.0),
        }
    }
}

impl StoreError {
    /// What to do next.
    pub fn retry(&self) -> Retry {
        match self {
            Self::Client(error) => error.retry(),
            Self::Answered { error, .. } => match error.0.err() {
                Some(error) => retry_response(error),
                None => Retry::WithBackoff,
            },
            Self::NoLeader(_) | Self::NoBroker(_) | Self::TooSlow(_) | Self::NotReady => {
                Retry::WithBackoff
            }
            Self::Fenced | Self::NotOwner | Self::NewerSchema(_) | Self::Stopped => Retry::Never,
        }
    }

    /// Whether another writer has taken over, so that what we hold is of no use any more.
    pub fn is_fenced(&self) -> bool {
        /// INVALID_PRODUCER_EPOCH, INVALID_PRODUCER_ID_MAPPING, PRODUCER_FENCED.
        const FENCED: [i16; 3] = [47, 49, 90];
        match self {
            Self::Fenced => true,
            Self::Answered { error, .. } => FENCED.contains(&error.0),
            _ => false,
        }
    }
}
