//! How the real brokers do behind the gateway: how many client connections each has, which of them
//! did not answer lately, and the end of all connections to one that the controller has given up.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::image::Image;
use crate::types::BrokerId;

/// How long a broker that did not answer is asked only where there is no other.
const AVOIDED: Duration = Duration::from_secs(10);

/// What is known of all brokers.
#[derive(Clone, Debug, Default)]
pub struct Brokers(Arc<Mutex<HashMap<BrokerId, Broker>>>);

#[derive(Debug, Default)]
struct Broker {
    connections: usize,
    readers: usize,
    avoided_until: Option<Instant>,
    /// Ends the connections that there are; later ones have another.
    end: CancellationToken,
}

/// One client connection's hold on the broker behind it.
#[derive(Debug)]
pub struct Lease {
    brokers: Brokers,
    broker: BrokerId,
    /// Cancelled when the broker is given up.
    pub ended: CancellationToken,
}

/// A partition that some client was sent to the broker to read.
#[derive(Debug)]
pub struct Reading {
    brokers: Brokers,
    /// The broker.
    pub broker: BrokerId,
}

impl Brokers {
    /// A client connection is relayed to this broker from now on.
    pub fn lease(&self, broker: BrokerId) -> Lease {
        let mut all = self.all();
        let state = all.entry(broker).or_default();
        state.connections += 1;
        Lease { brokers: self.clone(), broker, ended: state.end.clone() }
    }

    /// How many client connections are relayed to it.
    pub fn connections(&self, broker: BrokerId) -> usize {
        self.all().get(&broker).map_or(0, |state| state.connections)
    }

    /// A client is sent to it for a partition.
    pub fn reading(&self, broker: BrokerId) -> Reading {
        self.all().entry(broker).or_default().readers += 1;
        Reading { brokers: self.clone(), broker }
    }

    /// How many partitions clients were sent to it for.
    pub fn readers(&self, broker: BrokerId) -> usize {
        self.all().get(&broker).map_or(0, |state| state.readers)
    }

    /// It could not be reached, or gave no answer.
    pub fn avoid(&self, broker: BrokerId, now: Instant) {
        self.all().entry(broker).or_default().avoided_until = Some(now + AVOIDED);
    }

    /// Whether another one is to be preferred.
    pub fn is_avoided(&self, broker: BrokerId, now: Instant) -> bool {
        let until = self.all().get(&broker).and_then(|state| state.avoided_until);
        until.is_some_and(|until| now < until)
    }

    /// Ends the connections to brokers that the image shows fenced, or no more: one that hangs would
    /// keep its clients waiting for as long as they can.
    pub fn end_dead(&self, image: &Image) {
        for (id, state) in self.all().iter_mut() {
            if image.broker(*id).is_none_or(|broker| broker.is_fenced) {
                std::mem::take(&mut state.end).cancel();
            }
        }
    }

    fn all(&self) -> MutexGuard<'_, HashMap<BrokerId, Broker>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let Some(state) = self.brokers.all().get_mut(&self.broker) {
            state.connections = state.connections.saturating_sub(1);
        }
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        if let Some(state) = self.brokers.all().get_mut(&self.broker) {
            state.readers = state.readers.saturating_sub(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::answers::testing::world;
    use super::*;

    #[test]
    fn connections_are_counted_and_a_silent_broker_is_avoided_for_a_while() {
        let brokers = Brokers::default();
        let (first, second) = (brokers.lease(BrokerId(1)), brokers.lease(BrokerId(1)));
        assert_eq!((brokers.connections(BrokerId(1)), brokers.connections(BrokerId(2))), (2, 0));
        drop((first, second));
        assert_eq!(brokers.connections(BrokerId(1)), 0);
        let now = Instant::now();
        brokers.avoid(BrokerId(2), now);
        assert!(brokers.is_avoided(BrokerId(2), now));
        assert!(!brokers.is_avoided(BrokerId(2), now + AVOIDED));
        assert!(!brokers.is_avoided(BrokerId(1), now));
    }

    #[test]
    fn connections_to_a_fenced_broker_are_ended_and_later_ones_are_not() {
        let world = world();
        let brokers = Brokers::default();
        let leases = [1, 3, 99].map(|id| brokers.lease(BrokerId(id)));
        brokers.end_dead(&world.image.borrow());
        let ended = leases.each_ref().map(|lease| lease.ended.is_cancelled());
        assert_eq!(ended, [false, true, true], "broker 3 is fenced, 99 is not registered");
        assert!(!brokers.lease(BrokerId(3)).ended.is_cancelled());
    }
}
