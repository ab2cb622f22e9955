//! Where mirrors end that are not led because their topics as a whole have failed: gone at the source,
//! or made anew there while we were down. They are readable, and whoever has to decide wants to see it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::logs::{self, LogBounds, Place, Reader};
use super::topics::{TopicState, TopicsStatus};
use crate::client::Cluster;
use crate::image::Image;
use crate::types::{LeaderEpoch, PartitionKey, TopicPartition};

/// Between looks: nothing is appended to them.
const INTERVAL: Duration = Duration::from_secs(5);

/// Where they start and end.
pub(super) type Ends = Arc<BTreeMap<PartitionKey, LogBounds>>;

/// Asks the brokers that lead them.
#[derive(Debug)]
pub(super) struct Unbound {
    pub(super) topics: watch::Receiver<Arc<TopicsStatus>>,
    pub(super) image: watch::Receiver<Arc<Image>>,
    pub(super) destination: Cluster,
    pub(super) ends: watch::Sender<Ends>,
}

impl Unbound {
    /// Runs until told to stop.
    pub(super) async fn run(self, stop: CancellationToken) {
        loop {
            self.look().await;
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(INTERVAL) => {}
            }
        }
    }

    async fn look(&self) {
        let (keys, places): (Vec<_>, Vec<_>) = self.places().into_iter().unzip();
        let bounds = match places.is_empty() {
            true => Vec::new(),
            false => logs::bounds(&self.destination, &places).await,
        };
        // What cannot be asked now is as it was.
        let before = self.ends.borrow().clone();
        let found = keys.into_iter().zip(bounds).filter_map(|(key, bounds)| {
            Some((key, bounds.ok().or_else(|| before.get(&key).copied())?))
        });
        self.ends.send_replace(Arc::new(found.collect()));
    }

    fn places(&self) -> Vec<(PartitionKey, Place)> {
        let (image, status) = (self.image.borrow().clone(), self.topics.borrow().clone());
        let failed = status.topics.iter().filter(|(_, one)| one.state == TopicState::Failed);
        let topics = failed.filter_map(|(name, _)| image.topic_named(name));
        let partitions = topics.flat_map(|topic| {
            topic.partitions.iter().filter_map(|(&partition, state)| {
                let broker = state.leader.filter(|&leader| !image.is_seat(leader))?;
                let key = PartitionKey { topic: topic.id, partition };
                let partition = TopicPartition { topic: topic.name.clone(), partition };
                let leader_epoch = LeaderEpoch::UNKNOWN;
                let reader = Reader::Consumer;
                Some((key, Place { broker, partition, leader_epoch, reader }))
            })
        });
        partitions.collect()
    }
}
