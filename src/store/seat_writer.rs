//! Writes what one seat alone knows: the source epochs of what it copies, how mirrors are with it, and
//! the operations that it was told. Under a transactional id of its own, so that each key of the
//! journal has one fenced writer at a time, whichever daemon owns the journal.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior};

use super::content::{JournalState, View, record};
use super::error::StoreError;
use super::journal::{Write, answer};
use super::ownership::{WRITE_BYTES, log, size};
use super::producer::{Claim, Writer};
use crate::client::{Backoff, Cluster};
use crate::image::Image;
use crate::mirror::ledger::{Fact, LedgerKey, Note};
use crate::types::{BrokerEpoch, BrokerId, TopicId};
use crate::wire::records::NewRecord;

/// Notes are collected for so long.
const INTERVAL: Duration = Duration::from_secs(1);
/// What was written and is not read yet is not written again before this time.
const READ_BACK: Duration = Duration::from_secs(5);
/// Whoever is fenced by a process of the same seat tries again after this time.
const FENCED_REST: Duration = Duration::from_secs(5);

/// The task.
pub(super) struct SeatWriter {
    pub(super) seat: BrokerId,
    pub(super) cluster: Cluster,
    pub(super) image: watch::Receiver<Arc<Image>>,
    pub(super) registration: watch::Receiver<Option<BrokerEpoch>>,
    pub(super) view: watch::Receiver<Arc<View>>,
    pub(super) notes: mpsc::UnboundedReceiver<Note>,
    pub(super) writes: mpsc::Receiver<Write>,
}

/// What it holds between rounds.
struct Held {
    /// What the journal has to say of us, and when it was written last.
    facts: BTreeMap<LedgerKey, (Fact, Option<Instant>)>,
    claim: Option<Claim>,
    rest_until: Instant,
    backoff: Backoff,
}

impl SeatWriter {
    /// Runs until the daemon ends.
    pub(super) async fn run(mut self) {
        let mut held = Held {
            facts: BTreeMap::new(),
            claim: None,
            rest_until: Instant::now(),
            backoff: Backoff::new(Duration::from_millis(200), Duration::from_secs(5)),
        };
        let mut tick = tokio::time::interval(INTERVAL);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                Some(note) = self.notes.recv() => self.on_note(&mut held, note),
                Some(write) = self.writes.recv() => {
                    let result = self.write(&mut held, &write.records).await;
                    answer(write, result);
                }
                _ = tick.tick() => self.write_due(&mut held).await,
            }
        }
    }

    fn on_note(&self, held: &mut Held, note: Note) {
        let fact = match note {
            Note::Lineage(key, entry) => Fact::Lineage(key, self.seat, entry),
            Note::Standing(topic_id, entry) => Fact::Standing(topic_id, self.seat, entry),
            Note::Restore { .. } => return,
        };
        let is_known = held.facts.get(&fact.key()).is_some_and(|(known, _)| *known == fact);
        if !is_known {
            held.facts.insert(fact.key(), (fact, None));
        }
    }

    /// Writes what the journal does not say. What is gone from the destination is forgotten.
    async fn write_due(&self, held: &mut Held) {
        if Instant::now() < held.rest_until || !self.may_write() {
            return;
        }
        let (image, view) = (self.image.borrow().clone(), self.view.borrow().clone());
        held.facts
            .retain(|_, (fact, _)| topic_of(fact).is_some_and(|id| image.topic(id).is_some()));
        let now = Instant::now();
        let (mut records, mut bytes) = (Vec::new(), 0);
        for (fact, written) in held.facts.values_mut() {
            let is_fresh = written.is_some_and(|at| at + READ_BACK > now);
            if is_fresh || bytes >= WRITE_BYTES || view.ledger.says(fact) {
                continue;
            }
            let record = record(fact);
            bytes += size(&record);
            records.push(record);
            *written = Some(now);
        }
        if !records.is_empty() && self.write(held, &records).await.is_err() {
            held.facts.values_mut().for_each(|(_, written)| *written = None);
        }
    }

    /// Only while our registration is the present one: a process that has lost its seat is silent.
    fn may_write(&self) -> bool {
        let registration = *self.registration.borrow();
        let image = self.image.borrow();
        let is_present = image.broker(self.seat).is_some_and(|own| Some(own.epoch) == registration);
        let view = self.view.borrow();
        is_present && view.state == JournalState::Current && view.ledger.journal.is_some()
    }

    async fn write(&self, held: &mut Held, records: &[NewRecord]) -> Result<(), StoreError> {
        if let JournalState::Newer(schema) = self.view.borrow().state {
            return Err(StoreError::NewerSchema(schema));
        }
        if !self.may_write() {
            return Err(StoreError::NotReady);
        }
        let written = self.try_write(held, records).await;
        match &written {
            Ok(()) => held.backoff.reset(),
            Err(error) => {
                held.claim = None;
                let wait = if error.is_fenced() { FENCED_REST } else { held.backoff.next() };
                held.rest_until = Instant::now() + wait;
                tracing::info!(%error, retry_in = ?wait, "the seat's entries of the journal cannot be written now");
            }
        }
        written
    }

    async fn try_write(&self, held: &mut Held, records: &[NewRecord]) -> Result<(), StoreError> {
        let image = self.image.borrow().clone();
        let log = log(&self.cluster, &image).await?;
        let mut claim = match held.claim.take() {
            Some(claim) => claim,
            None => Claim::make(&self.cluster, Writer::Seat(self.seat)).await?,
        };
        claim.write(&log, records).await?;
        held.claim = Some(claim);
        Ok(())
    }
}

fn topic_of(fact: &Fact) -> Option<TopicId> {
    match fact {
        Fact::Lineage(key, ..) => Some(key.topic),
        Fact::Standing(topic_id, ..) => Some(*topic_id),
        _ => None,
    }
}
