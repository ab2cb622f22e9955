//! Leaves the destination for long: strays to real brokers, mirrors' replicas off the seat where that is
//! wanted, then the registration is taken back, so that nothing is placed on us any more. Needs no
//! running seat: what it does, any real broker passes on to the controller.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use kafka_protocol::messages::UnregisterBrokerRequest;
use tokio::sync::watch;

use super::error::SeatError;
use super::reassign::{Reassignment, reassign};
use super::strays::Mover;
use crate::client::Cluster;
use crate::image::{Image, PartitionImage, TopicImage};
use crate::mirror::report::LeaveStage;
use crate::mirror::strays::{Next, Stray, is_mirror};
use crate::tail::events::Events;
use crate::types::BrokerId;

/// Between looks where the image does not change, and until something is asked for again.
const INTERVAL: Duration = Duration::from_secs(2);
const BROKER_ID_NOT_REGISTERED: i16 = 102;

/// What becomes of the seat's place in the mirrors' replicas.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MirrorReplicas {
    /// It stays: a daemon that comes back goes on.
    Keep,
    /// It goes: the mirrors are ordinary topics then, still locked.
    Remove,
}

/// A seat that is to leave.
#[derive(Debug)]
pub struct Leaving {
    /// The seat.
    pub seat: BrokerId,
    /// Its real brokers.
    pub destination: Cluster,
    /// The destination, followed.
    pub image: watch::Receiver<Arc<Image>>,
    /// Told of moved strays.
    pub events: Events,
    /// What becomes of the mirrors' replicas.
    pub mirrors: MirrorReplicas,
}

impl Leaving {
    /// Whether the seat may go now: not while it alone is in sync of something.
    pub fn check(&self) -> Result<(), SeatError> {
        let image = self.image.borrow().clone();
        let seats = image.seats_with(self.seat);
        for topic in image.topics() {
            for (&partition, state) in &topic.partitions {
                let is_only = state.in_sync.iter().all(|id| seats.contains(id));
                let has_real = state.replicas.iter().any(|id| !seats.contains(id));
                if is_only && has_real && state.in_sync.contains(&self.seat) {
                    let topic = topic.name.clone();
                    return Err(SeatError::OnlyInSync { id: self.seat, topic, partition });
                }
            }
        }
        Ok(())
    }

    /// Leaves; leadership was handed over before, or the seat is dead. Says how far it is.
    pub async fn run(mut self, stage: impl Fn(LeaveStage)) -> Result<(), SeatError> {
        stage(LeaveStage::MovingStrays);
        self.move_strays().await?;
        if self.mirrors == MirrorReplicas::Remove {
            stage(LeaveStage::LeavingMirrors);
            self.leave_mirrors().await?;
        }
        stage(LeaveStage::Unregistering);
        self.unregister().await?;
        // Something may have been placed on us up to that moment.
        self.move_strays().await?;
        stage(LeaveStage::Left);
        Ok(())
    }

    /// Moves strays until there are none. Where the seat alone has a replica it has to lead meanwhile.
    pub async fn move_strays(&mut self) -> Result<(), SeatError> {
        let mut mover = Mover::new(self.seat, self.destination.clone(), self.events.clone());
        loop {
            let image = self.image.borrow_and_update().clone();
            let strays = mover.round(&image, &BTreeSet::new()).await;
            let ours = |key| image.partition(key).is_some_and(|p| p.replicas.contains(&self.seat));
            let strays: Vec<_> = strays.into_iter().filter(|stray| ours(stray.key)).collect();
            if strays.is_empty() {
                return Ok(());
            }
            if strays.iter().all(|stray| stray.next == Next::Stuck) {
                let others = strays.len() - 1;
                let Some(first) = strays.into_iter().next() else { return Ok(()) };
                let (topic, partition) = (first.topic, first.key.partition);
                return Err(SeatError::StuckStray { id: self.seat, topic, partition, others });
            }
            if let Some(held) = strays.iter().find(|stray| self.only_seats_hold(&image, stray)) {
                let (topic, partition) = (held.topic.clone(), held.key.partition);
                return Err(SeatError::HeldStray { id: self.seat, topic, partition });
            }
            self.wait().await;
        }
    }

    fn only_seats_hold(&self, image: &Image, stray: &Stray) -> bool {
        let seats = image.seats_with(self.seat);
        let partition = image.partition(stray.key);
        partition.is_some_and(|partition| {
            partition.leader.is_none() && partition.in_sync.iter().all(|id| seats.contains(id))
        })
    }

    async fn leave_mirrors(&mut self) -> Result<(), SeatError> {
        loop {
            let image = self.image.borrow_and_update().clone();
            let mirrors = image.topics().filter(|topic| is_mirror(&image, topic));
            let due: Vec<_> = mirrors.flat_map(|topic| self.without_us(topic)).collect();
            if due.is_empty() {
                return Ok(());
            }
            for refused in reassign(&self.destination, &due).await? {
                tracing::warn!(
                    topic = %refused.topic, partition = refused.partition,
                    error_code = refused.code, message = refused.message,
                    "the seat cannot be taken from this mirror's replicas now; trying on"
                );
            }
            self.wait().await;
        }
    }

    fn without_us(&self, topic: &TopicImage) -> Vec<Reassignment> {
        let listed = topic.partitions.iter().filter(|(_, p)| p.replicas.contains(&self.seat));
        listed
            .map(|(&partition, state)| (partition, remaining(state, self.seat)))
            .filter(|(_, replicas)| !replicas.is_empty())
            .map(|(partition, replicas)| Reassignment {
                topic: topic.name.clone(),
                partition,
                replicas: Some(replicas),
            })
            .collect()
    }

    async fn unregister(&mut self) -> Result<(), SeatError> {
        while self.image.borrow_and_update().broker(self.seat).is_some() {
            let request = UnregisterBrokerRequest::default().with_broker_id(self.seat.0.into());
            let response = self.destination.any().await?.request(&request).await?;
            if response.error_code != BROKER_ID_NOT_REGISTERED {
                SeatError::check("UnregisterBroker", response.error_code)?;
            }
            self.wait().await;
        }
        Ok(())
    }

    async fn wait(&mut self) {
        tokio::select! {
            () = tokio::time::sleep(INTERVAL) => {}
            Ok(()) = self.image.changed() => {}
        }
    }
}

/// In sync where any is: a reassignment may wait for one that is not.
fn remaining(state: &PartitionImage, seat: BrokerId) -> Vec<BrokerId> {
    let others = state.replicas.iter().copied().filter(|&id| id != seat);
    let in_sync: Vec<_> = others.clone().filter(|id| state.in_sync.contains(id)).collect();
    if in_sync.is_empty() { others.collect() } else { in_sync }
}
