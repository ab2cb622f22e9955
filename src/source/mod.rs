//! Reads the source cluster and fills tails. A router task knows what is followed and where it is
//! led; session tasks, each with a connection of its own, fetch and deliver. Decides nothing about
//! mirrors: it says what the source says, and stops where the source contradicts itself.

// Partitions are handed from map to message to map, one pointer each.
#![allow(clippy::vec_box)]

mod answer;
mod cut;
mod delivery;
mod fetch_session;
mod messages;
mod meters;
mod partition;
mod places;
mod request;
mod roster;
mod router;
mod session;
mod settle;
mod start;
mod verdict;

#[cfg(test)]
mod fake_broker;
#[cfg(test)]
mod tests;

use std::time::Duration;

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::client::Cluster;
use crate::tail::budget::MemoryBudget;
use crate::tail::events::Events;
use crate::tail::{Arrivals, Order};
use crate::types::LinkName;

/// Connections to each source broker, where the configuration says nothing.
const CONNECTIONS_PER_BROKER: usize = 2;
/// Memory set aside for one answer while more lies at the source.
const LARGE_BYTES: usize = 16 << 20;
/// The same where memory is short.
const MEDIUM_BYTES: usize = 1 << 20;
/// The same at the source's end.
const SMALL_BYTES: usize = 64 << 10;
/// Most bytes of one partition in one answer; a larger batch comes all the same.
const PARTITION_BYTES: i32 = 2 << 20;
/// A slice of a frame that is smaller than this part of it is copied out,
const COPY_BELOW_FRACTION: usize = 8;
/// unless the frame is so small that to pin it costs little.
const PIN_FREELY_BYTES: usize = 256 << 10;
/// A long poll at the source's end.
const LONG_WAIT: Duration = Duration::from_millis(500);
/// A poll while some partitions have to come back soon.
const SHORT_WAIT: Duration = Duration::from_millis(20);

/// How to read one source.
#[derive(Clone, Debug)]
pub struct SourceConfig {
    /// The link, for logs and metrics.
    pub link: LinkName,
    /// Connections to each broker; unset chooses.
    pub connections_per_broker: Option<usize>,
    /// Our rack, as the source's brokers call it: they may send us to a nearer replica (KIP-392).
    pub rack: Option<String>,
    /// What a person may want to know later.
    pub events: Events,
}

/// Reads the partitions that it is ordered to follow.
#[derive(Debug)]
pub struct Source {
    router: router::Router,
}

impl Source {
    /// A source that has not begun.
    pub fn new(
        config: SourceConfig,
        cluster: Cluster,
        orders: mpsc::UnboundedReceiver<Order>,
        arrivals: Arrivals,
        budget: MemoryBudget,
    ) -> Self {
        Self { router: router::Router::new(config, cluster, orders, arrivals, budget) }
    }

    /// Reads until stopped, or until nobody gives orders any more.
    pub async fn run(self, stop: CancellationToken) {
        self.router.run(stop).await;
    }
}
