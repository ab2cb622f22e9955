//! Leadership over one mirror partition during one leader epoch: who has fetched how far, what is
//! committed, who is in sync, and what may be said to a follower. Holds no record bytes.
//!
//! Two things here can destroy data when they are wrong, so they are said only when they are known:
//! the high watermark (every in-sync real replica has fetched in this epoch) and the log start (the
//! source said it, and its lineage was checked).

mod beginning;
mod in_sync;
mod log_start;
mod parting;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

pub use self::beginning::Beginning;
use self::in_sync::Pending;
pub use self::in_sync::{Candidate, IsrProposal};
use self::log_start::SourceStart;
use self::parting::Parting;
use super::follower::Follower;
use super::lineage::{EpochHistory, EpochStart, HistoryError};
use crate::types::{BrokerEpoch, BrokerId, LeaderEpoch, Offset, OffsetAndEpoch};

/// What the metadata log says of the partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Assignment {
    /// Epoch of this leadership.
    pub leader_epoch: LeaderEpoch,
    /// Rises with every change of the partition's record.
    pub partition_epoch: i32,
    /// All replicas, seats included.
    pub replicas: Vec<BrokerId>,
    /// In-sync replicas, seats included.
    pub in_sync: Vec<BrokerId>,
}

/// One fetch of a follower.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FollowerFetch {
    /// Who.
    pub broker: BrokerId,
    /// Under which registration; -1 where the version of the request does not say.
    pub broker_epoch: BrokerEpoch,
    /// The leader epoch that it believes in.
    pub current_leader_epoch: LeaderEpoch,
    /// End of its log.
    pub offset: Offset,
    /// Epoch of its last batch.
    pub last_fetched_epoch: LeaderEpoch,
}

/// What to answer a follower.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Records from its offset on (or none); where it ends below the log start, from there on.
    Serve,
    /// Nothing may be said yet: 75 where something has to be said.
    NotYet,
    /// It knows of a leader epoch that we have not heard of: 75 at once, so that it asks again. What
    /// it asked now was not counted, and it would not repeat itself.
    EpochAhead,
    /// We cannot answer this one: 6.
    Refuse(Refusal),
    /// It is empty and the log begins above it: 1, then ListOffsets.
    Jump,
    /// What it needs next is no longer in memory: feed it from another replica.
    Refill,
    /// It ends below the log start and the copy is empty: a batch without records takes it there.
    Fill,
    /// Its log parts from ours: `diverging_epoch`, so that it cuts what is not ours.
    Cut(OffsetAndEpoch),
    /// Another seat, which carries nothing: no records.
    Seat,
}

/// Why a follower is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Not a replica of the partition.
    NotAReplica,
    /// It lives in another leader epoch.
    OtherEpoch,
    /// It has more than we know of, or a last batch of an epoch that ended before its offset, and it
    /// may not be told to cut that.
    Diverged,
}

/// Leadership over one partition.
#[derive(Debug)]
pub struct Leadership {
    seats: BTreeSet<BrokerId>,
    /// Other seats that are ready to lead after us in this epoch, and under which registration.
    ready_seats: BTreeMap<BrokerId, BrokerEpoch>,
    assignment: Assignment,
    /// Asked for and not yet seen in the metadata log.
    pending: Option<Pending>,
    followers: BTreeMap<BrokerId, Follower>,
    /// Whether nobody led before: such a log takes its start from the source.
    is_fresh: bool,
    /// Whether a decision cut the log in this epoch: what replicas have above is not of it.
    is_cut: bool,
    history: EpochHistory,
    /// An in-sync replica that says otherwise, before the epoch is open.
    contradiction: Option<FollowerFetch>,
    /// Whether `history` has the current epoch: its start is known.
    is_open: bool,
    /// Never above the high watermark once there is one: no replica is told to drop what another
    /// has not got yet.
    log_start: Option<Offset>,
    /// The source's log start, lineage checked.
    source_start: SourceStart,
    log_end: Offset,
    high_watermark: Option<Offset>,
}

impl Leadership {
    /// Begins leadership.
    pub fn begin(
        seats: BTreeSet<BrokerId>,
        assignment: Assignment,
        beginning: Beginning,
        now: Duration,
    ) -> Self {
        let is_fresh = matches!(beginning, Beginning::Fresh { .. });
        let is_cut = matches!(beginning, Beginning::Cut { .. });
        let (history, log_end, log_start, high_watermark) = match beginning {
            Beginning::Fresh { history } => (history, Offset::ZERO, None, None),
            Beginning::Continued { history, log_end, log_start, high_watermark } => {
                (history, log_end, Some(log_start), high_watermark)
            }
            Beginning::Cut { history, at, log_start } => (history, at, Some(log_start), None),
        };
        let mut leadership = Self {
            seats,
            ready_seats: BTreeMap::new(),
            assignment,
            pending: None,
            followers: BTreeMap::new(),
            is_fresh,
            is_cut,
            history,
            contradiction: None,
            is_open: false,
            log_start,
            source_start: SourceStart::default(),
            log_end,
            high_watermark,
        };
        leadership.track_followers(now);
        if is_cut {
            // A history that does not allow it stays closed: then replicas are told to wait.
            let _closed = leadership.open(log_end);
        }
        leadership
    }

    /// Which replicas are seats; said before the assignment that has them.
    pub fn on_seats(&mut self, seats: BTreeSet<BrokerId>) {
        self.ready_seats.retain(|id, _| seats.contains(id));
        self.seats = seats;
    }

    /// The metadata log changed the partition within the same leader epoch.
    pub fn on_assignment(
        &mut self,
        assignment: Assignment,
        now: Duration,
    ) -> Result<(), HistoryError> {
        if assignment.partition_epoch > self.assignment.partition_epoch {
            self.assignment = assignment;
            self.pending = None;
            self.track_followers(now);
            // The last member that was waited for may be gone from the in-sync replicas.
            self.complete_start()?;
            self.advance();
        }
        Ok(())
    }

    /// A fresh partition learned from the source where it begins.
    pub fn on_started(&mut self, position: Offset) -> Result<(), HistoryError> {
        if self.is_fresh && !self.is_open {
            self.log_start = Some(position);
            self.log_end = position;
            self.open(position)?;
            self.advance();
        }
        Ok(())
    }

    /// The follower's fetch session lives on and has nothing new to say of this partition.
    pub fn on_alive(&mut self, now: Duration, broker: BrokerId) {
        let reached = self.reached();
        if let (Some(follower), Some(reached)) = (self.followers.get_mut(&broker), reached) {
            follower.on_alive(now, reached);
        }
    }

    /// A follower fetched: notes how far it is, where that can be believed.
    pub fn on_fetch(&mut self, now: Duration, fetch: FollowerFetch) -> Result<(), HistoryError> {
        if self.seats.contains(&fetch.broker) {
            // It carries nothing: its fetch says that it could lead after us from here on.
            if fetch.current_leader_epoch == self.assignment.leader_epoch {
                self.ready_seats.insert(fetch.broker, fetch.broker_epoch);
            }
            return Ok(());
        }
        let is_of_this_epoch = fetch.current_leader_epoch == self.assignment.leader_epoch
            || fetch.current_leader_epoch == LeaderEpoch::UNKNOWN;
        if !is_of_this_epoch || !self.believes(fetch) {
            return Ok(());
        }
        let reached = self.reached().map_or(fetch.offset, |reached| reached.max(fetch.offset));
        if let Some(follower) = self.followers.get_mut(&fetch.broker) {
            follower.on_fetch(now, fetch.offset, fetch.broker_epoch, reached);
            self.believe_without_real_members(fetch.offset)?;
            self.complete_start()?;
            self.advance();
        }
        Ok(())
    }

    /// What may be said to a follower; `in_memory_from` is the first offset in memory.
    pub fn verdict(&mut self, fetch: FollowerFetch, in_memory_from: Offset) -> Verdict {
        let epoch = self.assignment.leader_epoch;
        let is_seat = self.is_seat(fetch.broker);
        if !is_seat && !self.followers.contains_key(&fetch.broker) {
            return Verdict::Refuse(Refusal::NotAReplica);
        }
        if fetch.current_leader_epoch > epoch {
            return Verdict::EpochAhead;
        }
        if fetch.current_leader_epoch != LeaderEpoch::UNKNOWN && fetch.current_leader_epoch < epoch
        {
            return Verdict::Refuse(Refusal::OtherEpoch);
        }
        if let Some(end) = self.cut_by_decision(fetch) {
            return Verdict::Cut(end);
        }
        let (true, Some(log_start), Some(_)) = (self.is_open, self.log_start, self.high_watermark)
        else {
            return Verdict::NotYet;
        };
        if is_seat {
            return Verdict::Seat;
        }
        if fetch.offset == Offset::ZERO && fetch.offset < log_start {
            return if self.allow_jump(fetch.broker) { Verdict::Jump } else { Verdict::NotYet };
        }
        if fetch.offset < log_start && log_start == self.log_end {
            return Verdict::Fill;
        }
        if fetch.offset < log_start {
            return if log_start < in_memory_from { Verdict::Refill } else { Verdict::Serve };
        }
        match self.parting(fetch) {
            Some(Parting::At(end)) if self.may_cut(fetch, end.offset) => Verdict::Cut(end),
            Some(_) => Verdict::Refuse(Refusal::Diverged),
            None if fetch.offset < in_memory_from => Verdict::Refill,
            None => Verdict::Serve,
        }
    }

    /// Tells a follower from now on where the log begins and ends when it asks; whether that may
    /// be: what it does with the answer empties its log.
    pub fn allow_jump(&mut self, broker: BrokerId) -> bool {
        let is_in_sync = self.assignment.in_sync.contains(&broker);
        let Some(follower) = self.followers.get_mut(&broker) else { return false };
        follower.may_jump = !is_in_sync || follower.log_end().is_none_or(|end| end == Offset::ZERO);
        follower.may_jump
    }

    /// Where a follower that ends at `offset` is read on: it needs nothing below the log start.
    pub fn read_from(&self, offset: Offset) -> Offset {
        self.log_start.map_or(offset, |log_start| log_start.max(offset))
    }

    /// Batches up to `end` can be served now.
    pub fn on_append(&mut self, end: Offset) {
        self.log_end = self.log_end.max(end);
    }

    /// The source's log begins at `offset`, lineage checked.
    pub fn on_source_log_start(&mut self, offset: Offset) {
        self.source_start.hear(offset);
        self.follow_source_start();
    }

    /// The log start follows the source's once every in-sync replica has what comes after it.
    fn follow_source_start(&mut self) {
        if let (Some(log_start), Some(committed)) = (&mut self.log_start, self.high_watermark) {
            *log_start = self.source_start.follow(*log_start, committed);
        }
    }

    /// Opens the epoch once every in-sync real replica has said where its log ends: it begins
    /// after the longest of them.
    fn complete_start(&mut self) -> Result<(), HistoryError> {
        if self.is_open || self.is_fresh {
            return Ok(());
        }
        let Some(ends) = self.in_sync_log_ends() else {
            return Ok(());
        };
        // No real member: only a copy that we led before knows what of it is committed.
        let Some(longest) = ends.into_iter().max().or(self.high_watermark) else {
            return Ok(());
        };
        self.begin_at(longest)
    }

    /// Begins the epoch after the longest log known. Where nobody has anything it is as if nobody had
    /// led before: copying begins where the link says.
    fn begin_at(&mut self, longest: Offset) -> Result<(), HistoryError> {
        self.log_end = self.log_end.max(longest);
        if self.log_end > Offset::ZERO || self.high_watermark.is_some() {
            return self.open(self.log_end);
        }
        self.is_fresh = true;
        self.log_start = None;
        Ok(())
    }

    fn open(&mut self, start: Offset) -> Result<(), HistoryError> {
        let epoch = self.assignment.leader_epoch;
        // A daemon before us began it under the same registration.
        if self.history.newest().is_none_or(|newest| newest.epoch != epoch) {
            self.history.push(EpochStart { epoch, start })?;
        }
        self.is_open = true;
        Ok(())
    }

    /// Raises the high watermark to the least log end of the in-sync real replicas (with a change
    /// under way: of the old and the new ones), not below the log start. Frozen without any.
    fn advance(&mut self) {
        let (true, Some(log_start)) = (self.is_open, self.log_start) else {
            return;
        };
        let Some(least) = self.in_sync_log_ends().and_then(|ends| ends.into_iter().min()) else {
            return;
        };
        #[cfg(feature = "planted-bugs")]
        let least = if crate::planted::is(crate::planted::Bug::WatermarkTooEarly) {
            self.log_end
        } else {
            least
        };
        // Empty replicas of a log that starts above 0 have all there is below its start.
        let next = least.max(log_start);
        self.high_watermark = Some(self.high_watermark.map_or(next, |before| before.max(next)));
        self.follow_source_start();
    }

    /// Without a real member in sync nobody vouches for a high watermark. Where none is known from
    /// an epoch of ours, the first replica that returns says how far the copy certainly goes.
    fn believe_without_real_members(&mut self, offset: Offset) -> Result<(), HistoryError> {
        if self.in_sync_real().next().is_some() {
            return Ok(());
        }
        if self.is_fresh && self.is_open && self.high_watermark.is_none() {
            // Nothing was ever committed.
            self.high_watermark = self.log_start;
        }
        if self.is_cut && self.is_open {
            self.high_watermark.get_or_insert(offset.min(self.log_end));
        }
        if self.is_open || self.is_fresh {
            return Ok(());
        }
        if offset > Offset::ZERO {
            self.high_watermark.get_or_insert(offset);
        }
        self.begin_at(offset)
    }

    /// How far any real replica is: being in sync is measured against it, not against what has
    /// only arrived in memory, or a fast source would leave every replica behind.
    fn reached(&self) -> Option<Offset> {
        self.followers.values().filter_map(Follower::log_end).max()
    }

    /// Log ends of all members that count; `None` while one has not fetched in this epoch.
    fn in_sync_log_ends(&self) -> Option<Vec<Offset>> {
        let pending = self.pending.iter().flat_map(|pending| &pending.members);
        let members: BTreeSet<_> = self.assignment.in_sync.iter().chain(pending).collect();
        let real = members.into_iter().filter(|id| !self.seats.contains(id));
        real.map(|id| self.followers.get(id)?.log_end()).collect()
    }

    fn track_followers(&mut self, now: Duration) {
        let replicas: BTreeSet<_> = self
            .assignment
            .replicas
            .iter()
            .copied()
            .filter(|id| !self.seats.contains(id))
            .collect();
        self.followers.retain(|id, _| replicas.contains(id));
        for id in replicas {
            self.followers.entry(id).or_insert_with(|| Follower::new(now));
        }
    }

    /// What the metadata log says.
    pub fn assignment(&self) -> &Assignment {
        &self.assignment
    }

    /// Offset up to which every in-sync real replica has the log; unknown until each has fetched.
    pub fn high_watermark(&self) -> Option<Offset> {
        self.high_watermark
    }

    /// Epochs known so far, also before the current one is open.
    pub fn into_history(self) -> EpochHistory {
        self.history
    }

    /// Whether a decision cut the log in this epoch and some in-sync replica may not know yet.
    pub fn is_being_cut(&self) -> bool {
        self.is_cut && self.high_watermark.is_none()
    }

    /// Whether it held nothing when this epoch began.
    pub fn is_fresh(&self) -> bool {
        self.is_fresh
    }

    /// The verified log start.
    pub fn log_start(&self) -> Option<Offset> {
        self.log_start
    }

    /// End of what we serve or know to be in the in-sync replicas.
    pub fn log_end(&self) -> Offset {
        self.log_end
    }

    /// All epochs with the current one, once its start is known.
    pub fn history(&self) -> Option<&EpochHistory> {
        self.is_open.then_some(&self.history)
    }

    /// The least log end among in-sync real replicas once the epoch is open: copying begins there.
    pub fn least_in_sync(&self) -> Option<Offset> {
        if !self.is_open {
            return None;
        }
        self.in_sync_log_ends().and_then(|ends| ends.into_iter().min())
    }

    /// The greatest of them.
    pub fn most_in_sync(&self) -> Option<Offset> {
        self.in_sync_log_ends().and_then(|ends| ends.into_iter().max())
    }

    /// Where copying begins once the epoch is open.
    pub fn copy_from(&self) -> Option<Offset> {
        let committed = self.high_watermark.filter(|_| self.is_open);
        self.least_in_sync().or(committed)
    }

    /// Log ends of the real replicas, where they have fetched.
    pub fn followers(&self) -> impl Iterator<Item = (BrokerId, Option<Offset>)> {
        self.followers.iter().map(|(&id, follower)| (id, follower.log_end()))
    }

    /// Whether a follower has fetched lately.
    pub fn is_alive(&self, id: BrokerId, now: Duration) -> bool {
        const LATELY: Duration = Duration::from_secs(5);
        self.followers.get(&id).and_then(|f| f.silent_for(now)).is_some_and(|s| s < LATELY)
    }

    /// Real replicas out of sync, and for how long they have not asked for the partition.
    pub fn silent_replicas(&self, now: Duration) -> impl Iterator<Item = (BrokerId, Duration)> {
        let out = self.followers.iter().filter(|(id, _)| !self.assignment.in_sync.contains(id));
        out.map(move |(&id, follower)| (id, now.saturating_sub(follower.heard_at())))
    }

    /// Whether another seat asks: it cuts nothing by what it is told.
    pub fn is_seat(&self, broker: BrokerId) -> bool {
        self.seats.contains(&broker) && self.assignment.replicas.contains(&broker)
    }

    /// In-sync replicas that have disks.
    pub fn in_sync_real(&self) -> impl Iterator<Item = BrokerId> {
        self.assignment.in_sync.iter().copied().filter(|id| !self.seats.contains(id))
    }

    /// Whether this follower was just told that it must jump: only then may ListOffsets be
    /// answered to it, because what it does with the answer cuts its log.
    pub fn may_jump(&self, broker: BrokerId) -> bool {
        self.followers.get(&broker).is_some_and(|follower| follower.may_jump)
    }
}
