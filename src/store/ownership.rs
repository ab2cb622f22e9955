//! Who writes the journal, and how: the least seat that lives claims it, and steps back once another
//! has claimed it after him. One job is under way at a time.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::committed::Log;
use super::content::record;
use super::error::StoreError;
use super::journal::{Holding, Job, Journal, Write, answer};
use super::producer::{Claim, Writer};
use super::reader::open;
use super::topics::{self, JOURNAL_TOPIC, Place};
use crate::client::{Cluster, Topics};
use crate::image::{BrokerImage, Image};
use crate::mirror::event::{Event, EventKind};
use crate::mirror::ledger::{Fact, JournalEntry};
use crate::mirror::seats;
use crate::mirror::strays::is_mirror;
use crate::tail::events::now;
use crate::types::{BrokerId, Offset, TopicName};
use crate::wire::records::NewRecord;

/// Bytes of one transaction at most, below `max.message.bytes` of any cluster.
pub(super) const WRITE_BYTES: usize = 256 << 10;
/// Whoever is fenced while it is his turn tries again after this time.
const FENCED_REST: Duration = Duration::from_secs(5);
/// A journal that cannot be claimed for so long does not keep the links' tasks from going on.
const CLAIM_PATIENCE: Duration = Duration::from_secs(10);

impl Journal {
    /// The least seat that lives writes; everybody comes to the same answer by the image.
    pub(super) fn is_chosen(&self, image: &Image) -> bool {
        let registration = *self.parts.registration.borrow();
        let own = image.broker(self.parts.seat);
        let is_present = own.is_some_and(|own| Some(own.epoch) == registration);
        is_present && seats::owner(image) == Some(self.parts.seat)
    }

    /// Starts what is due, one thing at a time.
    pub(super) fn go_on(&mut self) {
        self.tell_owner();
        if self.chosen_since.is_none() || Instant::now() < self.rest_until {
            return;
        }
        self.holding = match std::mem::replace(&mut self.holding, Holding::Busy) {
            Holding::Busy => Holding::Busy,
            Holding::Nothing => self.begin_claim(),
            Holding::Claimed(claim, end) if self.read_to < end => Holding::Claimed(claim, end),
            Holding::Claimed(claim, _) => {
                self.first_writes();
                Holding::Owner(claim)
            }
            Holding::Owner(claim) => self.write_next(claim),
        };
    }

    /// The links' tasks go on where the journal cannot be had: only who writes it is in question.
    fn tell_owner(&self) {
        let waited = self.chosen_since.is_some_and(|since| since.elapsed() > CLAIM_PATIENCE);
        let is_owner = self.chosen_since.is_some() && !self.is_fenced && (self.is_begun || waited);
        self.is_owner.send_if_modified(|present| std::mem::replace(present, is_owner) != is_owner);
    }

    /// What we hold is of no use any more.
    pub(super) fn step_back(&mut self) {
        self.is_begun = false;
        if !matches!(self.holding, Holding::Busy) {
            self.holding = Holding::Nothing;
        }
    }

    fn begin_claim(&mut self) -> Holding {
        let image = self.parts.image.borrow().clone();
        let cluster = self.parts.cluster.clone();
        let Some(place) = Place::find(&image, JOURNAL_TOPIC) else {
            let real = self.real_brokers(&image);
            self.jobs.spawn(async move {
                Job::Created(topics::create_missing(&cluster, &image, &real).await)
            });
            return Holding::Busy;
        };
        if !self.content.may_be_written() {
            return Holding::Nothing;
        }
        self.jobs.spawn(async move { Job::Claimed(claim(&cluster, place).await) });
        Holding::Busy
    }

    /// Real brokers that are alive, those that lead least first.
    fn real_brokers(&self, image: &Image) -> Vec<BrokerId> {
        let real = image.brokers().filter(|one| is_serving(one) && !image.is_seat(one.id));
        let mut real: Vec<_> = real.map(|broker| broker.id).collect();
        let partitions = || image.topics().flat_map(|topic| topic.partitions.values());
        real.sort_by_key(|id| partitions().filter(|one| one.leader == Some(*id)).count());
        real
    }

    /// All that a journal has to say before it is ours: repairs, and last that it is one.
    fn first_writes(&mut self) {
        let is_new = self.content.is_new();
        let since = self.content.ledger().journal.as_ref().map_or(now(), |entry| entry.since);
        let entry = JournalEntry { cluster_id: self.parts.cluster_id.clone(), since };
        let mut records = self.content.repairs();
        if is_new {
            self.tell_rebuilt(records.len());
        }
        records.push(record(&Fact::Journal(entry)));
        let writes = records.into_iter().map(|record| Write { records: vec![record], done: None });
        let later = std::mem::take(&mut self.pending);
        self.pending = writes.chain(later).collect();
    }

    /// A journal that was never begun is lost only where there are mirrors already.
    fn tell_rebuilt(&self, facts: usize) {
        let text = match (self.content.kept(), self.had_mirrors) {
            (Some(_), _) => format!(
                "{JOURNAL_TOPIC} was gone and is written anew with the {facts} facts that were \
                 known; nothing copied is lost; find out who deleted it"
            ),
            (None, true) => format!(
                "{JOURNAL_TOPIC} was not there, and mirrors were: source ids are pinned anew after \
                 the tail check; nothing copied is lost; mirrors keep no `since` from before"
            ),
            (None, false) => return,
        };
        self.parts.events.send(Event::new(EventKind::JournalRebuilt, text));
    }

    pub(super) fn has_mirrors(&self, image: &Image) -> bool {
        image.topics().any(|topic| is_mirror(image, topic))
    }

    fn write_next(&mut self, claim: Box<Claim>) -> Holding {
        let mut writes = Vec::new();
        let mut bytes = 0;
        while let Some(write) = self.pending.pop_front() {
            bytes += write.records.iter().map(size).sum::<usize>();
            writes.push(write);
            if bytes >= WRITE_BYTES {
                break;
            }
        }
        if writes.is_empty() {
            self.is_begun = true;
            return Holding::Owner(claim);
        }
        let image = self.parts.image.borrow().clone();
        let cluster = self.parts.cluster.clone();
        self.jobs.spawn(async move {
            let mut claim = claim;
            let records: Vec<_> =
                writes.iter().flat_map(|write| write.records.iter().cloned()).collect();
            let result = match log(&cluster, &image).await {
                Ok(log) => claim.write(&log, &records).await,
                Err(error) => Err(error),
            };
            Job::Written { claim, result, writes }
        });
        Holding::Busy
    }

    pub(super) fn on_job(&mut self, job: Job) {
        self.holding = Holding::Nothing;
        match job {
            Job::Created(Ok(())) => self.rest_until = Instant::now() + Duration::from_millis(100),
            Job::Created(Err(error)) | Job::Claimed(Err(error)) => self.on_failure(&error),
            Job::Claimed(Ok((claim, end))) => {
                self.is_fenced = false;
                self.holding = Holding::Claimed(claim, end);
            }
            Job::Written { claim, result: Ok(base), writes } => {
                self.backoff.reset();
                let mut last = base.0 - 1;
                for write in writes {
                    last += write.records.len() as i64;
                    self.written.push((Offset(last), write));
                }
                self.holding = Holding::Owner(claim);
            }
            Job::Written { result: Err(error), writes, .. } => {
                if error.is_fenced() {
                    for write in writes.into_iter().chain(std::mem::take(&mut self.pending)) {
                        answer(write, Err(StoreError::Fenced));
                    }
                } else {
                    for write in writes.into_iter().rev() {
                        self.pending.push_front(write);
                    }
                }
                self.on_failure(&error);
            }
        }
        // Whoever was not chosen any more while the job ran keeps nothing.
        if self.chosen_since.is_none() || !self.content.may_be_written() {
            self.step_back();
        }
    }

    /// A failed write leaves its outcome open: the next claim settles it, and facts may be written
    /// twice.
    fn on_failure(&mut self, error: &StoreError) {
        let was_fenced = self.is_fenced;
        let wait = if error.is_fenced() {
            self.is_fenced = true;
            self.is_begun = false;
            FENCED_REST
        } else {
            self.backoff.next()
        };
        self.rest_until = Instant::now() + wait;
        if self.is_fenced && !was_fenced {
            tracing::warn!(%error, "another daemon writes the journal now; stepping back");
        } else {
            tracing::info!(%error, retry_in = ?wait, "journal cannot be written now; trying on");
        }
    }
}

fn is_serving(broker: &BrokerImage) -> bool {
    !broker.is_fenced && !broker.in_controlled_shutdown
}

pub(super) fn size(record: &NewRecord) -> usize {
    let length = |field: &Option<Vec<u8>>| field.as_ref().map_or(0, Vec::len);
    length(&record.key) + length(&record.value) + 32
}

/// Claims it; what was committed before ends at the offset.
async fn claim(cluster: &Cluster, place: Place) -> Result<(Box<Claim>, Offset), StoreError> {
    let claim = Claim::make(cluster, Writer::Owner).await?;
    let topic = TopicName::from(JOURNAL_TOPIC);
    let leader = place.leader.ok_or_else(|| StoreError::NoLeader(topic.clone()))?;
    let end = open(cluster, &topic, leader).await?.end().await?;
    Ok((Box::new(claim), end))
}

/// The journal where it is led now.
pub(super) async fn log(cluster: &Cluster, image: &Arc<Image>) -> Result<Log, StoreError> {
    let topic = TopicName::from(JOURNAL_TOPIC);
    let place = Place::find(image, JOURNAL_TOPIC);
    let leader = place.and_then(|place| place.leader);
    let leader = leader.ok_or_else(|| StoreError::NoLeader(topic.clone()))?;
    let connection = match cluster.broker(leader).await {
        Ok(connection) => connection,
        Err(_) => {
            cluster.metadata(Topics::None).await?;
            cluster.broker(leader).await?
        }
    };
    Ok(Log { topic, leader, connection })
}
