//! One mirror partition that we lead: the decisions of [`Leadership`], the batches in memory, and
//! the reading of the source that feeds them.

mod again;
mod cut;
mod gap;
mod proof;

use std::collections::{BTreeSet, HashMap};
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::handle::{Adoption, CopyCut, LedPartition, MirrorTopic};
use super::in_sync::Wish;
use super::refill::{RefillRequest, Refills};
use crate::mirror::event::{Event, EventKind};
use crate::mirror::lineage::{EpochHistory, EpochStart, HistoryError, SourceLineage};
use crate::mirror::partition::{Assignment, Beginning, FollowerFetch, Leadership, Refusal};
use crate::tail::buffer::Buffer;
use crate::tail::marks::SourceTail;
use crate::tail::{Arrival, ArrivalKind, Bounds, Follow, Room, StartAt, Trouble};
use crate::types::{BrokerId, Offset, OffsetAndEpoch, PartitionKey, TopicPartition};

/// What has passed since the daemon's start.
#[derive(Clone, Copy, Debug, Default)]
pub struct Passed {
    /// Bytes of batches.
    pub bytes: u64,
    /// Records in them.
    pub records: u64,
    /// Batches.
    pub batches: u64,
}

/// A replica that has not asked for so long is sent no consumers while there is another; followers ask
/// each 500 ms, unless `replica.fetch.wait.max.ms` is raised.
const READABLE_PATIENCE: Duration = Duration::from_secs(3);

/// A partition that we lead.
#[derive(Debug)]
pub struct Led {
    key: PartitionKey,
    mirror: Arc<MirrorTopic>,
    /// Who has what, and what may be said.
    pub leadership: Leadership,
    /// `None` until it is known where copying begins.
    buffer: Option<Buffer>,
    /// The source's epochs of what the copy holds.
    pub lineage: SourceLineage,
    /// The same of what was read here, since reading began or began again: without a hole.
    read: SourceLineage,
    /// The same of what was read before it began again further back.
    before: Option<SourceLineage>,
    /// The replica that is fed though none is in sync, and where it ended when that was seen.
    alone: Option<(BrokerId, Offset)>,
    /// The last batch that arrived, as the source had it.
    tail: SourceTail,
    /// Whether the tail check is to be made before the source is read.
    is_unproved: bool,
    reading: Option<Reading>,
    /// Where the copy is to be cut in its next leader epoch, by a decision.
    cut: Option<CopyCut>,
    /// What was given up when this leader epoch began.
    given_up: Option<std::ops::Range<Offset>>,
    /// What the source said last of its log.
    pub bounds: Option<Bounds>,
    /// Replicas that are behind what is in memory.
    pub refills: Refills,
    /// Why replicas are not served, as it was logged.
    refusals: HashMap<BrokerId, Refusal>,
    /// Where replicas ended that were told to cut their logs, as it was logged.
    cuts: HashMap<BrokerId, Offset>,
    /// How the last change of the in-sync replicas that we wanted fared.
    pub wish: Wish,
    /// Why nothing arrives, where that is so.
    pub trouble: Option<Trouble>,
    /// Since when something at the source is not readable here.
    pub behind_since: Option<Instant>,
    /// Since when the source cannot be read, though it is tried again and again.
    pub unheard_since: Option<Instant>,
    /// Totals.
    pub passed: Passed,
    /// Where the log started when we led it before, in this life of the daemon.
    pub started_at: Option<Offset>,
    /// What happened, for people, until somebody takes it.
    pub notes: Vec<Event>,
    is_ahead_told: bool,
    memory_limit: usize,
}

/// Bytes in memory that a partition may have in any case.
pub const LEAST_SHARE: usize = 64 << 10;

#[derive(Debug)]
struct Reading {
    generation: u64,
    room: Arc<Room>,
}

impl Led {
    /// Takes up leadership over a partition that holds nothing.
    pub fn fresh(
        key: PartitionKey,
        history: EpochHistory,
        mirror: Arc<MirrorTopic>,
        seats: BTreeSet<BrokerId>,
        assignment: Assignment,
        now: Duration,
    ) -> Self {
        let leadership = Leadership::begin(seats, assignment, Beginning::Fresh { history }, now);
        Self::new(key, mirror, leadership)
    }

    /// Takes up leadership after the leader that we followed.
    pub fn adopted(
        adoption: Adoption,
        mirror: Arc<MirrorTopic>,
        seats: BTreeSet<BrokerId>,
        assignment: Assignment,
        now: Duration,
    ) -> Self {
        #[cfg(feature = "planted-bugs")]
        let adoption = if crate::planted::is(crate::planted::Bug::GuessedHistory) {
            let guess = EpochStart { epoch: adoption.leader_epoch, start: adoption.log_start };
            let history = EpochHistory::from_starts([guess]).unwrap_or_default();
            Adoption { history, ..adoption }
        } else {
            adoption
        };
        if let Some(end) = adoption.cut_from {
            let mut led = Self::new_cut(&adoption, mirror, seats, assignment, now);
            led.given_up = Some(adoption.log_end..end);
            return led;
        }
        let beginning = Beginning::Continued {
            history: adoption.history,
            log_end: adoption.log_end,
            log_start: adoption.log_start,
            high_watermark: adoption.high_watermark,
        };
        let leadership = Leadership::begin(seats, assignment, beginning, now);
        let mut led = Self::new(adoption.key, mirror, leadership);
        led.is_unproved = adoption.tail.is_none();
        led.tail = adoption.tail.unwrap_or(SourceTail::UNKNOWN);
        led
    }

    fn new(key: PartitionKey, mirror: Arc<MirrorTopic>, leadership: Leadership) -> Self {
        Self {
            key,
            mirror,
            leadership,
            buffer: None,
            lineage: SourceLineage::default(),
            read: SourceLineage::default(),
            before: None,
            alone: None,
            tail: SourceTail::UNKNOWN,
            is_unproved: false,
            reading: None,
            cut: None,
            given_up: None,
            bounds: None,
            refills: Refills::default(),
            refusals: HashMap::new(),
            cuts: HashMap::new(),
            wish: Wish::default(),
            trouble: None,
            behind_since: None,
            unheard_since: None,
            passed: Passed::default(),
            started_at: None,
            notes: Vec::new(),
            is_ahead_told: false,
            memory_limit: usize::MAX,
        }
    }

    /// Goes on in a new leader epoch of our own: what is in memory stays. Where the old epoch never
    /// began, only the epochs before it are left.
    pub fn into_next_epoch(
        mut self,
        seats: BTreeSet<BrokerId>,
        assignment: Assignment,
        now: Duration,
    ) -> (Option<Self>, Option<EpochHistory>) {
        let known = self.leadership.history().cloned().zip(self.leadership.log_start());
        let Some((history, log_start)) = known else {
            let is_empty = self.leadership.is_fresh();
            return (None, is_empty.then(|| self.leadership.into_history()));
        };
        let beginning = match self.cut.take() {
            Some(cut) => self.cut_at(cut, history, log_start),
            // Some in-sync replica may still have what was given up.
            None if self.leadership.is_being_cut() => {
                Beginning::Cut { history, at: self.leadership.log_end(), log_start }
            }
            None => Beginning::Continued {
                history,
                log_end: self.leadership.log_end(),
                log_start,
                high_watermark: self.leadership.high_watermark(),
            },
        };
        self.leadership = Leadership::begin(seats, assignment, beginning, now);
        self.reading = None;
        (Some(self), None)
    }

    /// Nobody leads for the moment: nothing is read, and what is known is kept.
    pub fn rest(&mut self) {
        self.reading = None;
    }

    /// The topic.
    pub fn mirror(&self) -> &Arc<MirrorTopic> {
        &self.mirror
    }

    /// The topic may have changed at the source or in its configuration.
    pub fn on_mirror(&mut self, mirror: &Arc<MirrorTopic>) {
        self.mirror = Arc::clone(mirror);
    }

    /// First offset that can be read from memory.
    pub fn in_memory_from(&self) -> Offset {
        self.buffer.as_ref().map_or(Offset(i64::MAX), Buffer::start)
    }

    /// The batches in memory.
    pub fn buffer(&self) -> Option<&Buffer> {
        self.buffer.as_ref()
    }

    /// Notes a follower's fetch, and forgets what nobody needs any more. Where it has more than was
    /// known, that has to be compared with the source, too.
    pub fn on_fetch(&mut self, now: Duration, fetch: FollowerFetch) -> Result<(), HistoryError> {
        let checked_to = self.leadership.log_end();
        self.leadership.on_fetch(now, fetch)?;
        if self.leadership.log_end() > checked_to {
            self.doubt();
        }
        self.forget();
        Ok(())
    }

    /// The order to read the source from where the copy ends, where one is due.
    pub fn next_order(&mut self, generation: u64) -> Option<Follow> {
        if self.reading.is_some() || self.is_stopped() {
            return None;
        }
        let (start, stamps) = self.next_start()?;
        if self.is_unproved {
            return None;
        }
        let room = Arc::new(Room::new(self.memory_limit));
        room.add(self.buffer.as_ref().map_or(0, Buffer::bytes));
        self.reading = Some(Reading { generation, room: Arc::clone(&room) });
        Some(Follow {
            key: self.key,
            link: self.mirror.link.clone(),
            source: TopicPartition {
                topic: self.mirror.source_name.clone(),
                partition: self.key.partition,
            },
            source_topic: self.mirror.source_id,
            start,
            last: self.tail.last,
            stamps: Arc::new(stamps),
            generation,
            room,
        })
    }

    fn next_start(&mut self) -> Option<(StartAt, EpochHistory)> {
        let Some(history) = self.leadership.history() else {
            return self.leadership.is_fresh().then(|| (self.mirror.start, self.first_stamps()));
        };
        let history = history.clone();
        if self.buffer.is_none() {
            let from = self.leadership.copy_from()?;
            self.buffer = Some(Buffer::starting_at(from));
        }
        let offset = self.buffer.as_ref()?.end();
        Some((StartAt::At(OffsetAndEpoch { offset, epoch: self.tail.epoch }), history))
    }

    /// Before a fresh partition knows its start, all of it will be of the current epoch.
    fn first_stamps(&self) -> EpochHistory {
        let epoch = self.leadership.assignment().leader_epoch;
        // An epoch is never negative in the metadata log; were it, nothing would be stamped and
        // the source would stop.
        EpochHistory::from_starts([EpochStart { epoch, start: Offset::ZERO }]).unwrap_or_default()
    }

    /// Takes in what arrived; whether followers may have something new to hear.
    pub fn on_arrival(&mut self, arrival: Arrival) -> Result<bool, HistoryError> {
        if self.reading.as_ref().is_none_or(|reading| reading.generation != arrival.generation) {
            return Ok(false);
        }
        match arrival.kind {
            ArrivalKind::Started { position, bounds } => {
                self.leadership.on_started(position)?;
                self.buffer.get_or_insert_with(|| Buffer::starting_at(position));
                self.on_bounds(bounds);
                Ok(true)
            }
            ArrivalKind::Data { chunk, bounds } => {
                let Some(buffer) = &mut self.buffer else { return Ok(false) };
                if chunk.next_offset() <= buffer.end() {
                    return Ok(false);
                }
                // Only a copy that holds nothing may begin inside a batch. Anywhere else a batch
                // that reaches below the end of the copy is of another lineage.
                let other = again::contradiction(self.before.as_ref(), &chunk.marks.epochs);
                let is_empty = self.leadership.log_start() == Some(buffer.filled_to());
                if chunk.base_offset < buffer.filled_to() && !is_empty {
                    let (ours, source_end) = (buffer.end(), chunk.base_offset);
                    self.trouble = Some(Trouble::Truncated { ours, source_end });
                    self.reading = None;
                    return Ok(false);
                }
                if let Some(source_end) = other {
                    let ours = buffer.end();
                    self.trouble = Some(Trouble::Truncated { ours, source_end });
                    self.reading = None;
                    return Ok(false);
                }
                self.passed.bytes += chunk.bytes.len() as u64;
                self.passed.records += chunk.records;
                self.passed.batches += chunk.batches.len() as u64;
                self.lineage.extend(chunk.marks.epochs.iter().copied(), chunk.next_offset());
                self.read.extend(chunk.marks.epochs.iter().copied(), chunk.next_offset());
                self.before.take_if(|before| before.end() <= chunk.next_offset());
                self.tail = SourceTail { epoch: chunk.source_epoch, last: chunk.marks.last };
                buffer.push(chunk);
                self.leadership.on_append(buffer.end());
                self.on_bounds(bounds);
                Ok(true)
            }
            ArrivalKind::Idle(bounds) => Ok(self.on_bounds(bounds)),
            ArrivalKind::Trouble(trouble) => {
                self.trouble = Some(trouble);
                if self.is_stopped() {
                    self.reading = None;
                }
                Ok(false)
            }
        }
    }

    fn on_bounds(&mut self, bounds: Bounds) -> bool {
        self.trouble = None;
        let before = self.leadership.log_start();
        self.leadership.on_source_log_start(bounds.log_start);
        self.bounds = Some(bounds);
        self.note_log_start_ahead();
        self.close_hole(bounds) || self.leadership.log_start() != before
    }

    /// Whether the source said something after which nothing more may be read without a decision.
    pub fn is_stopped(&self) -> bool {
        self.trouble.as_ref().is_some_and(|trouble| !trouble.is_retried())
    }

    /// What stopped the reading may be over: it begins again where the copy ends.
    pub fn look_again(&mut self) {
        self.trouble = None;
        self.reading = None;
    }

    /// Forgets batches that every follower which counts has: the in-sync ones always, the others
    /// while there is memory to spare.
    fn forget(&mut self) {
        let least = self.leadership.least_in_sync();
        let Some(in_sync) = least.or_else(|| self.end_alone()) else { return };
        let Some(buffer) = &mut self.buffer else { return };
        let before = buffer.bytes();
        let near = self.leadership.followers().filter_map(|(_, log_end)| log_end);
        let near = near.filter(|&log_end| log_end >= buffer.start()).min();
        buffer.forget_before(near.map_or(in_sync, |near| near.min(in_sync)));
        buffer.shrink_to(self.memory_limit / 2, in_sync);
        if let Some(reading) = &self.reading {
            reading.room.remove(before - buffer.bytes());
        }
    }

    /// What of the memory that each partition may have goes to this one. What nobody takes must not hold
    /// memory that others need. While replicas live and none is in sync the source has to be heard all
    /// the same: without its log start none may be told to cut what keeps it out of sync.
    pub fn share_of(&self, limit: usize, now: Duration) -> usize {
        let leadership = &self.leadership;
        if leadership.in_sync_real().next().is_some() || self.alone.is_some() {
            limit
        } else if leadership.followers().any(|(id, _)| leadership.is_alive(id, now)) {
            limit.min(LEAST_SHARE)
        } else {
            0
        }
    }

    /// How many bytes may be in memory.
    pub fn limit_memory(&mut self, bytes: usize) {
        if self.memory_limit != bytes {
            self.memory_limit = bytes;
            if let Some(reading) = &self.reading {
                reading.room.set_limit(bytes);
            }
        }
    }

    /// What to ask for a replica that ends below what is in memory, where that is due: another
    /// in-sync replica has it.
    pub fn refill_request(&mut self, behind: BrokerId, offset: Offset) -> Option<RefillRequest> {
        let has_more = |id: &BrokerId| {
            let mut followers = self.leadership.followers();
            *id != behind && followers.any(|(of, end)| of == *id && end > Some(offset))
        };
        let sources: Vec<_> = self.leadership.in_sync_real().filter(has_more).collect();
        let from = self.refills.ask(behind, &sources)?;
        Some(RefillRequest { key: self.key, topic: self.mirror.name.clone(), behind, from, offset })
    }

    /// Whether a replica ends below what is in memory.
    pub fn has_replica_behind(&self) -> bool {
        let from = self.in_memory_from();
        let mut ends = self.leadership.followers().filter_map(|(_, end)| end);
        self.buffer.is_some() && ends.any(|end| end < from)
    }

    /// Forgets what is held for replicas that have caught up or fallen silent.
    pub fn tidy_refills(&mut self, now: Duration) {
        let from = self.in_memory_from();
        let needed = |id| {
            self.leadership.is_alive(id, now)
                && self.leadership.followers().any(|(of, end)| of == id && end < Some(from))
        };
        let idle: Vec<_> = self.refills.replicas().filter(|&id| !needed(id)).collect();
        for id in idle {
            self.refills.forget(id);
        }
    }

    /// Notes that a replica is told to cut its log from `to` on, or below.
    pub fn note_cut(&mut self, fetch: FollowerFetch, to: OffsetAndEpoch) {
        if self.cuts.insert(fetch.broker, fetch.offset) == Some(fetch.offset) {
            return;
        }
        let text = format!(
            "replica {}, not in sync, ends at {} in epoch {}, which is not of the copy; it is told to \
             cut its log where epoch {} ended, at {} or below, and copies it anew",
            fetch.broker, fetch.offset, fetch.last_fetched_epoch, to.epoch, to.offset
        );
        self.note(EventKind::FollowerTruncated, text, to.offset.min(fetch.offset)..fetch.offset);
    }

    fn note(&mut self, kind: EventKind, text: String, offsets: Range<Offset>) {
        let event = Event::new(kind, text).link(&self.mirror.link).topic(&self.mirror.name);
        self.notes.push(event.partition(self.key.partition).offsets(offsets));
    }

    /// Notes why a replica is not served; whether that is news.
    pub fn note_refusal(&mut self, broker: BrokerId, refusal: Refusal) -> bool {
        self.refusals.insert(broker, refusal) != Some(refusal)
    }

    /// Notes whether the copy is behind the source.
    pub fn note_lag(&mut self) {
        let ours = self.leadership.high_watermark();
        let is_behind = self.bounds.is_some_and(|b| ours.is_none_or(|hw| hw < b.high_watermark));
        if !is_behind {
            self.behind_since = None;
        } else if self.behind_since.is_none() {
            self.behind_since = Some(Instant::now());
        }
        if self.trouble.as_ref().is_some_and(Trouble::is_retried) {
            self.unheard_since.get_or_insert_with(Instant::now);
        } else {
            self.unheard_since = None;
        }
    }

    /// For the gateway.
    pub fn view(&self, now: Duration) -> LedPartition {
        LedPartition {
            link: self.mirror.link.clone(),
            leader_epoch: self.leadership.assignment().leader_epoch,
            high_watermark: self.leadership.high_watermark(),
            log_start: self.leadership.log_start(),
            log_end: self.leadership.log_end(),
            history: self.leadership.history().cloned().map(Arc::new),
            in_sync: self.leadership.in_sync_heard(now, READABLE_PATIENCE),
        }
    }
}

#[cfg(test)]
mod tests;
