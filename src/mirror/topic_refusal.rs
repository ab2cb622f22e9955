//! Why a source topic is not mirrored, or not any more: for the plan to say and for people to read.

use std::fmt;

use super::placement::TooFewBrokers;
use crate::types::TopicId;

/// Why something is not done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The destination has a topic of this name which is no mirror of ours.
    DestinationTopicExists(ForeignTopic),
    /// The source topic has fewer partitions than its mirror.
    SourcePartitionsDecreased {
        /// Partitions at the source.
        source: usize,
        /// Partitions of the mirror.
        mirror: usize,
    },
    /// The source topic is gone, or may not be seen any more; the mirror stays.
    SourceTopicDeleted,
    /// Another topic has the source topic's name now; the mirror stays with the old one.
    SourceTopicIdChanged {
        /// The id that the mirror follows.
        expected: TopicId,
        /// The id that the source tells.
        found: TopicId,
    },
    /// The source does not tell the topic's configs, so that nothing is created; tried again.
    SourceConfigsUnknown,
    /// Too few real brokers are there to place replicas on; tried again.
    TooFewBrokers(TooFewBrokers),
}

/// What tells a topic from a mirror of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ForeignTopic {
    /// The seat does not stand first in the replicas of this partition.
    SeatNotFirst {
        /// The partition.
        partition: i32,
    },
    /// The seat stands first, but the topic takes records: somebody has unlocked it.
    Unlocked,
}

impl Refusal {
    /// The reason as reports name it.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::DestinationTopicExists(_) => "DESTINATION_TOPIC_EXISTS",
            Self::SourcePartitionsDecreased { .. } => "SOURCE_PARTITIONS_DECREASED",
            Self::SourceTopicDeleted => "SOURCE_TOPIC_DELETED",
            Self::SourceTopicIdChanged { .. } => "SOURCE_TOPIC_ID_CHANGED",
            Self::SourceConfigsUnknown => "SOURCE_CONFIGS_UNKNOWN",
            Self::TooFewBrokers(_) => "DESTINATION_BROKERS_MISSING",
        }
    }

    /// Whether it may pass without a person.
    pub fn is_retriable(&self) -> bool {
        matches!(self, Self::SourceConfigsUnknown | Self::TooFewBrokers(_))
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::DestinationTopicExists(ForeignTopic::SeatNotFirst { partition }) => write!(
                f,
                "the destination topic exists and is no mirror: our seat does not stand first in \
                 the replicas of partition {partition}"
            ),
            Self::DestinationTopicExists(ForeignTopic::Unlocked) => f.write_str(
                "the destination topic exists and is no mirror: its max.message.bytes is not 0",
            ),
            Self::SourcePartitionsDecreased { source, mirror } => {
                write!(f, "the source topic has {source} partitions, its mirror {mirror}")
            }
            Self::SourceTopicDeleted => f.write_str(
                "the source topic is gone, or may not be seen any more; the mirror is kept",
            ),
            Self::SourceTopicIdChanged { expected, found } => write!(
                f,
                "the source topic was created anew: the mirror follows id {expected}, the source \
                 has {found}"
            ),
            Self::SourceConfigsUnknown => f.write_str(
                "the source does not tell the topic's configs; it is mirrored once they are known",
            ),
            Self::TooFewBrokers(error) => error.fmt(f),
        }
    }
}
