//! The task that owns the journal: follows it, claims it where it is ours to write, writes what is
//! asked for and noted. Every daemon runs it; one of them writes.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior};

use super::content::{Content, View, record, tombstone};
use super::error::StoreError;
use super::producer::Claim;
use super::reader::{Begin, Heard, Reader};
use super::topics::JOURNAL_TOPIC;
use crate::client::{Backoff, Cluster};
use crate::image::Image;
use crate::mirror::event::{Event, EventKind};
use crate::mirror::ledger::{LedgerKey, Note};
use crate::tail::events::Events;
use crate::types::{BrokerEpoch, BrokerId, Offset, PartitionKey, TopicName};
use crate::wire::records::NewRecord;

/// Between looks at what is due.
const TICK: Duration = Duration::from_millis(250);
/// Notes are collected for so long.
const NOTES_INTERVAL: Duration = Duration::from_secs(1);
/// What is gone from the destination is forgotten so often.
const TIDY_INTERVAL: Duration = Duration::from_secs(30);
/// Writes asked for and not begun.
pub(super) const COMMANDS: usize = 1024;
/// Operations that are remembered.
const OPERATIONS: usize = 100;
/// Records from the reader under way.
const HEARD: usize = 16;

/// What the journal needs of the others.
pub struct JournalParts {
    /// Our broker id.
    pub seat: BrokerId,
    /// The destination's cluster id.
    pub cluster_id: String,
    /// The destination's real brokers.
    pub cluster: Cluster,
    /// The destination.
    pub image: watch::Receiver<Arc<Image>>,
    /// Our present registration.
    pub registration: watch::Receiver<Option<BrokerEpoch>>,
    /// What was observed.
    pub notes: mpsc::UnboundedReceiver<Note>,
    /// What a person may want to know later.
    pub events: Events,
}

/// A write that somebody waits for, or nobody.
pub(super) struct Write {
    pub(super) records: Vec<NewRecord>,
    pub(super) done: Option<oneshot::Sender<Result<(), StoreError>>>,
}

/// What we hold of the right to write.
pub(super) enum Holding {
    /// Nothing.
    Nothing,
    /// The claim; what was committed before it ends at the offset and is not read yet.
    Claimed(Box<Claim>, Offset),
    /// The right to write.
    Owner(Box<Claim>),
    /// A job has it.
    Busy,
}

/// How a job ended.
pub(super) enum Job {
    Created(Result<(), StoreError>),
    Claimed(Result<(Box<Claim>, Offset), StoreError>),
    Written { claim: Box<Claim>, result: Result<Offset, StoreError>, writes: Vec<Write> },
}

/// The task.
pub(super) struct Journal {
    pub(super) parts: JournalParts,
    pub(super) commands: mpsc::Receiver<Write>,
    /// Where notes of what the seat alone knows go.
    seat_notes: mpsc::UnboundedSender<Note>,
    pub(super) view: watch::Sender<Arc<View>>,
    pub(super) is_owner: watch::Sender<bool>,
    pub(super) content: Content,
    /// How far it was read.
    pub(super) read_to: Offset,
    pub(super) holding: Holding,
    /// Whether the writer before us was told that it goes on with us.
    pub(super) is_begun: bool,
    pub(super) chosen_since: Option<Instant>,
    /// Whether there were mirrors before we could have made any.
    pub(super) had_mirrors: bool,
    /// No attempt before this time.
    pub(super) rest_until: Instant,
    pub(super) is_fenced: bool,
    pub(super) backoff: Backoff,
    pub(super) pending: VecDeque<Write>,
    /// Written; answered when it was read.
    pub(super) written: Vec<(Offset, Write)>,
    notes: HashMap<(u8, PartitionKey), Note>,
    notes_due: Instant,
    tidy_due: Instant,
    told_newer: Option<u32>,
    pub(super) jobs: JoinSet<Job>,
}

impl Journal {
    pub(super) fn new(
        parts: JournalParts,
        commands: mpsc::Receiver<Write>,
        seat_notes: mpsc::UnboundedSender<Note>,
        view: watch::Sender<Arc<View>>,
        is_owner: watch::Sender<bool>,
    ) -> Self {
        let now = Instant::now();
        Self {
            parts,
            commands,
            seat_notes,
            view,
            is_owner,
            content: Content::default(),
            read_to: Offset::ZERO,
            holding: Holding::Nothing,
            is_begun: false,
            chosen_since: None,
            had_mirrors: false,
            rest_until: now,
            is_fenced: false,
            backoff: Backoff::new(Duration::from_millis(200), Duration::from_secs(5)),
            pending: VecDeque::new(),
            written: Vec::new(),
            notes: HashMap::new(),
            notes_due: now,
            tidy_due: now + TIDY_INTERVAL,
            told_newer: None,
            jobs: JoinSet::new(),
        }
    }

    pub(super) async fn run(mut self) {
        let (heard, mut reading) = mpsc::channel(HEARD);
        let reader = Reader {
            topic: TopicName::from(JOURNAL_TOPIC),
            cluster: self.parts.cluster.clone(),
            image: self.parts.image.clone(),
            begin: Begin::Start,
            heard,
        };
        let mut readers = JoinSet::new();
        readers.spawn(reader.run());
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                Some(heard) = reading.recv() => self.on_heard(heard),
                Some(write) = self.commands.recv() => self.on_write(write),
                Some(note) = self.parts.notes.recv() => self.on_note(note),
                Some(done) = self.jobs.join_next() => {
                    // None is cancelled, and a panic ends the daemon.
                    match done {
                        Ok(job) => self.on_job(job),
                        Err(panic) => std::panic::resume_unwind(panic.into_panic()),
                    }
                }
                _ = tick.tick() => self.on_tick(),
            }
            self.go_on();
        }
    }

    fn on_heard(&mut self, heard: Heard) {
        match heard {
            Heard::Gone => {
                self.content.on_gone();
                self.step_back();
            }
            Heard::Read(topic, read) => {
                self.read_to = read.next;
                self.content.on_read(topic, read);
            }
        }
        if let Some(schema) = self.content.newest() {
            self.step_back();
            for write in std::mem::take(&mut self.pending) {
                answer(write, Err(StoreError::NewerSchema(schema)));
            }
        }
        self.tell_garbage();
        let view = self.content.view();
        self.view.send_if_modified(|present| {
            let is_news = *present != view;
            *present = view;
            is_news
        });
        let read_to = self.read_to;
        let (done, waiting) = std::mem::take(&mut self.written)
            .into_iter()
            .partition(|(offset, _)| *offset < read_to);
        self.written = waiting;
        let done: Vec<(Offset, Write)> = done;
        for (_, write) in done {
            answer(write, Ok(()));
        }
    }

    fn tell_garbage(&mut self) {
        let garbage = self.content.take_untold();
        if garbage > 0 {
            let text = format!(
                "{garbage} records of {JOURNAL_TOPIC} are none of lockstep's and were passed over; \
                 find out who writes there and take the right to from him"
            );
            self.parts.events.send(Event::new(EventKind::JournalGarbage, text));
        }
        let newest = self.content.newest();
        if newest != self.told_newer
            && let Some(schema) = newest
        {
            let text = format!(
                "{JOURNAL_TOPIC} has entries of schema {schema}, which this version does not know: \
                 it is not written to; mirrors go on; run a version of lockstep that knows it"
            );
            self.parts.events.send(Event::new(EventKind::JournalNewerSchema, text));
        }
        self.told_newer = newest;
    }

    fn on_write(&mut self, write: Write) {
        let refusal = match (self.content.newest(), self.chosen_since) {
            (Some(schema), _) => StoreError::NewerSchema(schema),
            (None, None) => StoreError::NotOwner,
            (None, Some(_)) => return self.pending.push_back(write),
        };
        answer(write, Err(refusal));
    }

    /// What a seat alone knows it writes itself; how mirrors are the owner notes as well.
    fn on_note(&mut self, note: Note) {
        if let Note::Lineage(..) | Note::Standing(..) = note {
            let _stopped = self.seat_notes.send(note.clone());
        }
        if !matches!(note, Note::Lineage(..)) {
            self.notes.insert(note.slot(), note);
        }
    }

    fn on_tick(&mut self) {
        let image = self.parts.image.borrow().clone();
        let is_chosen = self.is_chosen(&image);
        match (is_chosen, self.chosen_since) {
            (true, None) => {
                self.had_mirrors = self.has_mirrors(&image);
                self.chosen_since = Some(Instant::now());
            }
            (false, Some(_)) => {
                self.chosen_since = None;
                self.is_fenced = false;
                self.step_back();
                for write in std::mem::take(&mut self.pending) {
                    answer(write, Err(StoreError::NotOwner));
                }
            }
            _ => {}
        }
        if self.is_begun && Instant::now() >= self.notes_due {
            self.notes_due = Instant::now() + NOTES_INTERVAL;
            self.write_notes();
        }
        if self.is_begun && Instant::now() >= self.tidy_due {
            self.tidy_due = Instant::now() + TIDY_INTERVAL;
            self.tidy(&image);
        }
        if self.is_begun && self.pending.is_empty() && self.written.is_empty() {
            let repairs = self.content.repairs();
            self.push(repairs);
        }
        // What nobody waits for any more need not be written.
        self.pending.retain(|write| write.done.as_ref().is_none_or(|done| !done.is_closed()));
    }
}

impl Journal {
    /// Queues records that nobody waits for.
    pub(super) fn push(&mut self, records: Vec<NewRecord>) {
        let writes = records.into_iter().map(|record| Write { records: vec![record], done: None });
        self.pending.extend(writes);
    }

    fn write_notes(&mut self) {
        let ledger = self.content.ledger();
        let mut facts = Vec::new();
        // Two notes about one mirror change one record: what the first changes the second has to see.
        let mut seen = std::collections::BTreeSet::new();
        self.notes.retain(|_, note| {
            // Of a mirror that is not pinned yet: later.
            let Some(fact) = ledger.noted(note) else { return !ledger.knows(note) };
            if seen.insert(fact.key()) {
                facts.push(record(&fact));
                return false;
            }
            true
        });
        self.push(facts);
    }

    /// Forgets mirrors that the destination does not have any more, and old operations.
    fn tidy(&mut self, image: &Image) {
        let ledger = self.content.ledger();
        let gone = ledger.mirrors.keys().filter(|id| image.topic(**id).is_none());
        let mut keys: Vec<_> = gone.map(|id| LedgerKey::Mirror { topic_id: *id }).collect();
        // A seat that was unregistered tells nothing any more.
        let is_gone = |seat: &BrokerId| image.broker(*seat).is_none();
        let lineages = ledger.lineages.keys();
        let gone = lineages.filter(|(key, seat)| image.partition(*key).is_none() || is_gone(seat));
        keys.extend(gone.map(|(key, seat)| LedgerKey::lineage(*key, *seat)));
        let standings = ledger.standings.keys();
        let gone = standings.filter(|(id, seat)| image.topic(*id).is_none() || is_gone(seat));
        keys.extend(gone.map(|&(topic_id, seat)| LedgerKey::Standing { topic_id, seat }));
        let mut operations: Vec<_> = ledger.operations.iter().collect();
        operations.sort_by_key(|(_, operation)| std::cmp::Reverse(operation.requested));
        let old = operations.into_iter().skip(OPERATIONS);
        keys.extend(old.map(|(id, _)| LedgerKey::Operation { id: id.clone() }));
        self.notes.retain(|(_, key), _| image.topic(key.topic).is_some());
        self.push(keys.iter().map(tombstone).collect());
    }
}

/// Whoever waits for it may have gone.
pub(super) fn answer(write: Write, result: Result<(), StoreError>) {
    if let Some(done) = write.done {
        let _gone = done.send(result);
    }
}
