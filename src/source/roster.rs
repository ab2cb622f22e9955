//! The sessions that there are, and the brokers that are left alone for a while. Owned by the router.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::messages::{Command, Report, Shared, SlotId};
use super::partition::Partition;
use super::session::Session;
use crate::client::Backoff;
use crate::types::{BrokerId, PartitionKey, TopicId};

/// First and longest time that a broker is left alone after it failed.
const REST: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(5));

/// Sessions by broker.
#[derive(Debug)]
pub(super) struct Roster {
    shared: Arc<Shared>,
    reports: mpsc::UnboundedSender<Report>,
    connections_per_broker: usize,
    open: HashMap<SlotId, Open>,
    brokers: HashMap<BrokerId, Rest>,
    tasks: JoinSet<()>,
}

/// A running session.
#[derive(Debug)]
struct Open {
    commands: mpsc::UnboundedSender<Command>,
    partitions: usize,
}

/// A broker's failures.
#[derive(Debug)]
struct Rest {
    backoff: Backoff,
    not_before: Option<Instant>,
}

impl Roster {
    pub(super) fn new(
        shared: Arc<Shared>,
        reports: mpsc::UnboundedSender<Report>,
        connections_per_broker: usize,
    ) -> Self {
        Self {
            shared,
            reports,
            connections_per_broker: connections_per_broker.max(1),
            open: HashMap::new(),
            brokers: HashMap::new(),
            tasks: JoinSet::new(),
        }
    }

    /// The session for one more partition of a broker: the one with the fewest.
    pub(super) fn slot(&self, broker: BrokerId, partition: &Partition) -> SlotId {
        let by_id = partition.topic != TopicId::NONE;
        let tells_rack = self.shared.rack.is_some() && !partition.leader_only;
        let slot = |index| SlotId { broker, by_id, tells_rack, index };
        let partitions = |slot: &SlotId| self.open.get(slot).map_or(0, |open| open.partitions);
        (1..self.connections_per_broker).map(slot).fold(slot(0), |least, slot| {
            if partitions(&slot) < partitions(&least) { slot } else { least }
        })
    }

    /// Gives a partition to a session, which is begun where there is none. Fails while the session
    /// is ending: its report is under way.
    pub(super) fn give(
        &mut self,
        slot: SlotId,
        partition: Box<Partition>,
    ) -> Result<(), Box<Partition>> {
        let (shared, reports) = (&self.shared, &self.reports);
        let tasks = &mut self.tasks;
        let open = self.open.entry(slot).or_insert_with(|| {
            let (commands, received) = mpsc::unbounded_channel();
            let session = Session::new(slot, Arc::clone(shared), reports.clone(), received);
            tasks.spawn(session.run());
            Open { commands, partitions: 0 }
        });
        match open.commands.send(Command::Give(partition)) {
            Ok(()) => {
                open.partitions += 1;
                Ok(())
            }
            Err(mpsc::error::SendError(Command::Give(partition))) => Err(partition),
            Err(_not_what_was_sent) => Ok(()),
        }
    }

    /// Gives a newer order for a partition that the session has.
    pub(super) fn replace(
        &mut self,
        slot: SlotId,
        partition: Box<Partition>,
    ) -> Result<(), Box<Partition>> {
        self.left(slot);
        self.give(slot, partition)
    }

    /// Takes a partition from a session.
    pub(super) fn take(&mut self, slot: SlotId, key: PartitionKey, ticket: u64, give_back: bool) {
        if let Some(open) = self.open.get(&slot) {
            // A session that is ending gives everything back by itself.
            let _ending = open.commands.send(Command::Take { key, ticket, give_back });
        }
        self.left(slot);
    }

    /// A partition is not with a session any more.
    pub(super) fn left(&mut self, slot: SlotId) {
        if let Some(open) = self.open.get_mut(&slot) {
            open.partitions = open.partitions.saturating_sub(1);
        }
    }

    /// A session has ended.
    pub(super) fn closed(&mut self, slot: SlotId) {
        self.open.remove(&slot);
        self.failed(slot.broker);
    }

    /// Leaves a broker alone for a while. Several connections that break together count once.
    pub(super) fn failed(&mut self, broker: BrokerId) {
        let rest = self
            .brokers
            .entry(broker)
            .or_insert_with(|| Rest { backoff: Backoff::new(REST.0, REST.1), not_before: None });
        let now = Instant::now();
        if rest.not_before.is_none_or(|at| at <= now) {
            rest.not_before = Some(now + rest.backoff.next());
        }
    }

    /// A broker answers well.
    pub(super) fn alive(&mut self, broker: BrokerId) {
        self.brokers.remove(&broker);
    }

    /// Until when a broker is left alone, where that is still to come.
    pub(super) fn not_before(&self, broker: BrokerId) -> Option<Instant> {
        let at = self.brokers.get(&broker)?.not_before?;
        (at > Instant::now()).then_some(at)
    }

    /// Collects ended tasks. A panic in one is passed on: partitions that nobody reads any more
    /// must not look well.
    pub(super) fn reap(&mut self) {
        while let Some(ended) = self.tasks.try_join_next() {
            if let Err(error) = ended
                && let Ok(panic) = error.try_into_panic()
            {
                std::panic::resume_unwind(panic);
            }
        }
    }
}
