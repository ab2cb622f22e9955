//! Control plane of one link: which topics it mirrors, reading its source, and coming back to the
//! head of its mirrors.

pub mod config;
pub mod rejoin;
pub mod tail_check;
pub mod topics;
pub mod verify;

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::client::{ClientConfig, Cluster};
use crate::image::Image;
use crate::seat::leader::LeaderHandle;
use crate::tail::budget::MemoryBudget;
use crate::tail::{Arrivals, Trouble};
use crate::types::{BrokerEpoch, BrokerId, PartitionKey};
use config::LinkConfig;
use rejoin::Rejoin;

/// What a link needs of the others.
#[derive(Clone, Debug)]
pub struct LinkParts {
    /// Our broker id.
    pub seat: BrokerId,
    /// Our present registration.
    pub registration: watch::Receiver<Option<BrokerEpoch>>,
    /// The destination.
    pub image: watch::Receiver<Arc<Image>>,
    /// The task that leads.
    pub leader: LeaderHandle,
    /// The destination's real brokers.
    pub destination: Cluster,
    /// `default.replication.factor` of the destination.
    pub replication_factor: usize,
    /// Where batches go.
    pub arrivals: Arrivals,
    /// What they may cost.
    pub budget: MemoryBudget,
    /// How to talk to the source.
    pub client: ClientConfig,
}

/// One link.
#[derive(Debug)]
pub struct Link {
    config: LinkConfig,
    parts: LinkParts,
    failures: watch::Sender<Arc<BTreeMap<PartitionKey, Trouble>>>,
}

impl Link {
    /// A link that does nothing yet.
    pub fn new(config: LinkConfig, parts: LinkParts) -> Self {
        Self { config, parts, failures: watch::Sender::default() }
    }

    /// Runs its tasks until told to stop.
    pub async fn run(self, stop: CancellationToken) {
        let parts = self.parts;
        let name = self.config.name.clone();
        let source = Cluster::new(self.config.source.bootstrap.clone(), parts.client.clone(), None);
        let (orders, ordered) = mpsc::unbounded_channel();
        parts.leader.connect_source(name.clone(), orders).await;
        drop(ordered);
        let rejoin = Rejoin {
            link: name,
            seat: parts.seat,
            registration: parts.registration.clone(),
            image: parts.image.clone(),
            leader: parts.leader.clone(),
            destination: parts.destination.clone(),
            source,
            failures: self.failures,
        };
        rejoin.run(stop).await;
    }
}
