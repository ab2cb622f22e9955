//! What router and sessions say to each other, and what all sessions share. No behaviour.

use std::time::Duration;

use super::meters::Meters;
use super::partition::Partition;
use crate::client::Cluster;
use crate::tail::budget::MemoryBudget;
use crate::tail::{Arrivals, Trouble};
use crate::types::{BrokerId, LeaderEpoch, PartitionKey};

/// Which session: a broker, how topics are named, and a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct SlotId {
    /// The broker.
    pub broker: BrokerId,
    /// Whether all its topics have ids; ids and names are never mixed in a session.
    pub by_id: bool,
    /// Whether it tells our rack; then its broker may answer with the name of a nearer replica
    /// instead of records.
    pub tells_rack: bool,
    /// Which of the connections.
    pub index: usize,
}

/// From the router.
#[derive(Debug)]
pub(super) enum Command {
    /// Read this partition too, or instead of an older order for it.
    Give(Box<Partition>),
    /// Read it no more.
    Take {
        /// The mirror partition.
        key: PartitionKey,
        /// The order meant; a newer one stays.
        ticket: u64,
        /// Whether the router wants it back.
        give_back: bool,
    },
}

/// Why a partition goes back to the router.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Why {
    /// The router asked for it.
    Recalled,
    /// Something moved; the broker may have said whereto.
    Retry(String, Option<(BrokerId, LeaderEpoch)>),
    /// Our position is not in its log.
    Range(String),
    /// The topic may be gone or another.
    Topic(String),
    /// We may not read it.
    Denied(String),
    /// Another replica is nearer.
    Preferred(BrokerId),
    /// It cannot be read on.
    Ended(Trouble),
}

/// To the router.
#[derive(Debug)]
pub(super) enum Report {
    /// The session had a good answer: its broker is well.
    Alive(BrokerId),
    /// A partition goes back.
    Returned(Box<Partition>, Why),
    /// The session has ended; its partitions go back.
    Closed {
        /// Which.
        slot: SlotId,
        /// Its partitions.
        partitions: Vec<Box<Partition>>,
        /// Why.
        error: String,
        /// How long its broker had said nothing.
        silence: Duration,
    },
}

/// What all sessions of a source share.
#[derive(Debug)]
pub(super) struct Shared {
    pub cluster: Cluster,
    pub rack: Option<String>,
    pub arrivals: Arrivals,
    pub budget: MemoryBudget,
    pub meters: Meters,
}
