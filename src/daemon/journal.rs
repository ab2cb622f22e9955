//! The journal and the log of events, as parts of the daemon.

use tokio::task::JoinSet;

use super::Seen;
use super::destination::DestinationParts;
use crate::admin::Kept;
use crate::config::Config;
use crate::store::{EventLog, JournalHandle, JournalParts, JournalState, RecentEvents, View};
use crate::tail::events::{Events, EventsSeen};
use crate::tail::notes::Notes;

/// Where it is told what happened, what was observed and what has to be durable.
#[derive(Clone)]
pub(super) struct Told {
    pub(super) events: Events,
    pub(super) notes: Notes,
    pub(super) journal: JournalHandle,
}

/// Starts both.
pub(super) fn start(
    config: &Config,
    destination: &DestinationParts,
    seen: &Seen,
    (events, events_seen): (Events, EventsSeen),
    tasks: &mut JoinSet<()>,
) -> (Told, Kept) {
    let (notes, noted) = Notes::new();
    let (journal, running) = JournalHandle::start(JournalParts {
        seat: config.daemon.broker_id,
        cluster_id: destination.facts.cluster_id.clone(),
        cluster: destination.cluster.clone(),
        image: seen.image.clone(),
        registration: seen.registration.clone(),
        notes: noted,
        events: events.clone(),
    });
    tasks.spawn(running);
    let cluster = destination.cluster.clone();
    let (log, recent) = EventLog::new(cluster, seen.image.clone(), events_seen);
    tasks.spawn(log.run());
    (Told { events, notes, journal: journal.clone() }, (journal, recent))
}

/// Neither of them: the simulation models no coordinator of transactions. What is noted is forgotten.
pub(super) fn none(
    _: &Config,
    _: &DestinationParts,
    _: &Seen,
    (events, mut events_seen): (Events, EventsSeen),
    tasks: &mut JoinSet<()>,
) -> (Told, Kept) {
    let (notes, mut noted) = Notes::new();
    tasks.spawn(async move {
        loop {
            tokio::select! {
                Some(_) = events_seen.next() => {}
                Some(_) = noted.recv() => {}
                else => std::future::pending().await,
            }
        }
    });
    let view = View { state: JournalState::Absent, ..View::default() };
    let journal = JournalHandle::fixed(view);
    (Told { events, notes, journal: journal.clone() }, (journal, RecentEvents::empty()))
}
