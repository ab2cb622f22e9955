//! The journal: durable facts of links and mirrors in a compacted topic of the destination, and the
//! log of events beside it. Keeps and tells; decides nothing about mirrors.
//!
//! Every daemon follows both. Exactly one, the owner, writes what is of all: the least seat that
//! lives, and Kafka fences whoever had it before. What one seat alone knows it writes itself, fenced
//! by its own transactional id. Events are appended by each daemon.

mod committed;
mod content;
mod error;
mod event_log;
mod journal;
mod ownership;
mod producer;
mod reader;
mod seat_writer;
mod topics;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};

pub use content::{JournalState, View};
pub use error::{Answered, StoreError};
pub use event_log::{EventLog, EventPage, EventQuery, LoggedEvent, RecentEvents};
pub use journal::JournalParts;
pub use topics::{EVENTS_TOPIC, JOURNAL_TOPIC};

use crate::mirror::ledger::{Fact, OperationEntry};
use journal::{COMMANDS, Journal, Write};
use seat_writer::SeatWriter;

/// How long somebody waits for what he writes to be durable.
const WRITE_LIMIT: Duration = Duration::from_secs(10);

/// What others hold of the journal. Cheap to clone.
#[derive(Clone, Debug)]
pub struct JournalHandle {
    view: watch::Receiver<Arc<View>>,
    is_owner: watch::Receiver<bool>,
    writes: mpsc::Sender<Write>,
    seat_writes: mpsc::Sender<Write>,
}

impl JournalHandle {
    /// A journal and its task, which runs until the daemon ends.
    pub fn start(parts: JournalParts) -> (Self, impl Future<Output = ()> + Send) {
        let (writes, commands) = mpsc::channel(COMMANDS);
        let (view, viewed) = watch::channel(Arc::default());
        let (is_owner, owned) = watch::channel(false);
        let (seat_writes, seat_commands) = mpsc::channel(COMMANDS);
        let (seat_notes, noted) = mpsc::unbounded_channel();
        let seat = SeatWriter {
            seat: parts.seat,
            cluster: parts.cluster.clone(),
            image: parts.image.clone(),
            registration: parts.registration.clone(),
            view: viewed.clone(),
            notes: noted,
            writes: seat_commands,
        };
        let journal = Journal::new(parts, commands, seat_notes, view, is_owner);
        let running = async move {
            tokio::join!(journal.run(), seat.run());
        };
        (Self { view: viewed, is_owner: owned, writes, seat_writes }, running)
    }

    /// A journal that nobody writes and that says this: for tests and the simulation.
    pub fn fixed(view: View) -> Self {
        Self {
            view: watch::channel(Arc::new(view)).1,
            is_owner: watch::channel(false).1,
            writes: mpsc::channel(1).0,
            seat_writes: mpsc::channel(1).0,
        }
    }

    /// What it says, as far as it was read.
    pub fn view(&self) -> watch::Receiver<Arc<View>> {
        self.view.clone()
    }

    /// Whether this daemon writes the journal and does the links' tasks. True too where the journal
    /// cannot be had: then only who does the tasks is in question.
    pub fn is_owner(&self) -> watch::Receiver<bool> {
        self.is_owner.clone()
    }

    /// Makes facts durable: all of them or none. On return they are in the view. Only the owner may.
    pub async fn write(&self, facts: &[Fact]) -> Result<(), StoreError> {
        write(&self.writes, facts).await
    }

    /// The same for an operation, by whichever daemon was told it or sees what became of it.
    pub async fn write_operation(
        &self,
        id: &str,
        entry: &OperationEntry,
    ) -> Result<(), StoreError> {
        let fact = Fact::Operation(id.to_owned(), entry.clone());
        write(&self.seat_writes, std::slice::from_ref(&fact)).await?;
        let mut view = self.view.clone();
        let is_read = view.wait_for(|view| view.ledger.says(&fact));
        match tokio::time::timeout(WRITE_LIMIT, is_read).await {
            Ok(_) => Ok(()),
            Err(_) => Err(StoreError::TooSlow(WRITE_LIMIT)),
        }
    }
}

async fn write(to: &mpsc::Sender<Write>, facts: &[Fact]) -> Result<(), StoreError> {
    let (done, written) = oneshot::channel();
    let records = facts.iter().map(content::record).collect();
    let write = Write { records, done: Some(done) };
    to.send(write).await.map_err(|_| StoreError::Stopped)?;
    match tokio::time::timeout(WRITE_LIMIT, written).await {
        Ok(result) => result.unwrap_or(Err(StoreError::Stopped)),
        Err(_) => Err(StoreError::TooSlow(WRITE_LIMIT)),
    }
}
