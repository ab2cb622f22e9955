//! What can be wrong with a record of the metadata log, and what to do then.

use crate::types::{BrokerEpoch, BrokerId, Offset, PartitionKey, TopicId, TopicName};

/// A record that was not applied. The image is as it was before the record.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ImageError {
    /// The bytes are no metadata record.
    #[error("decode metadata record at offset {offset}: {malformed}")]
    Malformed {
        /// Offset of the record.
        offset: Offset,
        /// What is wrong with the bytes.
        malformed: Malformed,
    },
    /// Going on would leave out what we cannot read, so the cluster is newer than we are.
    #[error(
        "metadata record {name} (key {key}) at offset {offset} has version {version}, \
         the newest known is {newest}"
    )]
    UnknownVersion {
        /// Offset of the record.
        offset: Offset,
        /// Name of the record type.
        name: &'static str,
        /// Its api key.
        key: u32,
        /// The version found.
        version: u32,
        /// The newest version that we can read.
        newest: u32,
    },
    /// The record contradicts the records before it.
    #[error("apply metadata record at offset {offset}: {misfit}")]
    Misfit {
        /// Offset of the record.
        offset: Offset,
        /// The contradiction.
        misfit: Misfit,
    },
}

impl ImageError {
    /// Offset of the record.
    pub fn offset(&self) -> Offset {
        match self {
            Self::Malformed { offset, .. }
            | Self::UnknownVersion { offset, .. }
            | Self::Misfit { offset, .. } => *offset,
        }
    }

    /// What can be done about it.
    pub fn retry(&self) -> Retry {
        match self {
            Self::Malformed { .. } | Self::Misfit { .. } => Retry::FromSnapshot,
            Self::UnknownVersion { .. } => Retry::Never,
        }
    }
}

/// What to do after an [`ImageError`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retry {
    /// Read the newest snapshot and start over with [`super::Replay::begin_snapshot`].
    FromSnapshot,
    /// This release cannot read this cluster's log.
    Never,
}

/// Bytes that cannot be read.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum Malformed {
    /// A field is longer than what is left.
    #[error("{needed} bytes needed, {left} left")]
    Truncated {
        /// Bytes the field takes.
        needed: usize,
        /// Bytes there are.
        left: usize,
    },
    /// A variable-length integer does not fit 32 bits.
    #[error("variable-length integer over 32 bits")]
    Varint,
    /// An array that cannot fit the bytes left.
    #[error("array of {length} elements in {left} bytes")]
    Length {
        /// Elements announced.
        length: usize,
        /// Bytes there are.
        left: usize,
    },
    /// Null in a field that may not be null.
    #[error("null where a value is required")]
    Null,
    /// A string that is not UTF-8.
    #[error("string is not UTF-8")]
    Utf8,
    /// A record frame other than version 1.
    #[error("record frame version {0}")]
    Frame(u32),
    /// A value outside the field's range.
    #[error("{field} is {value}")]
    Value {
        /// The field.
        field: &'static str,
        /// Its value.
        value: i64,
    },
    /// Bytes after the end of a record or of a tagged field.
    #[error("{0} bytes too many")]
    Trailing(usize),
}

/// A record that contradicts the image.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum Misfit {
    /// The topic does not exist.
    #[error("no topic {0}")]
    Topic(TopicId),
    /// No topic has this name.
    #[error("no topic named {0}")]
    TopicNamed(TopicName),
    /// The partition does not exist.
    #[error("no partition {0}")]
    Partition(PartitionKey),
    /// The broker is not registered.
    #[error("no broker {0}")]
    Broker(BrokerId),
    /// The record is about another registration of the broker.
    #[error("broker {id} is registered with epoch {current}, not {found}")]
    BrokerEpoch {
        /// The broker.
        id: BrokerId,
        /// Its epoch in the image.
        current: BrokerEpoch,
        /// The record's.
        found: BrokerEpoch,
    },
    /// As many log directories as replicas are required.
    #[error("{directories} log directories for {replicas} replicas of partition {key}")]
    Directories {
        /// The partition.
        key: PartitionKey,
        /// Its replicas.
        replicas: usize,
        /// Its directories.
        directories: usize,
    },
    /// A metadata transaction begins inside another.
    #[error("metadata transaction begins inside another")]
    TransactionOpen,
    /// A metadata transaction ends that did not begin.
    #[error("metadata transaction ends that did not begin")]
    NoTransaction,
}
