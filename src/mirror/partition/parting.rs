//! Whether a follower's log is a piece of ours, and where it parts from it when it is not. A cut is
//! asked for only of a replica that is not in sync, at the start of an epoch of ours (so at the
//! boundary of a batch), and only of what the source still has.

use super::{FollowerFetch, Leadership};
use crate::types::{LeaderEpoch, Offset, OffsetAndEpoch};

/// Where a follower's log stops to be ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Parting {
    /// What to answer as `diverging_epoch` (KIP-595): our newest epoch that is not above the
    /// follower's, and where it ended. The follower cuts its log there, or where its own batches
    /// of that epoch end, whichever is lower: both are boundaries of its batches.
    At(OffsetAndEpoch),
    /// Somewhere below what we know of.
    Unknown,
}

impl Leadership {
    /// Whether what a follower says of its log is taken in: it is a piece of the copy, or, before the epoch
    /// is open, goes on in our newest epoch. One that is in an epoch that we do not know of, or beyond the
    /// end of its own, would open the epoch over another history. The leader before us had what is
    /// committed: who has something else leaves the in-sync replicas in time, and may then be cut.
    pub(super) fn believes(&mut self, fetch: FollowerFetch) -> bool {
        let is_starting = !self.is_open && self.is_in_sync(fetch);
        if is_starting && fetch.offset > self.log_end {
            self.history.go_on_in(fetch.last_fetched_epoch, self.log_end);
        }
        let newest = self.history.newest().map(|newest| newest.epoch);
        let goes_on = newest.is_none_or(|newest| newest == fetch.last_fetched_epoch);
        let is_believed = (!self.is_open && goes_on) || self.fits(fetch);
        if is_starting && !is_believed {
            self.contradiction = Some(fetch);
        }
        is_believed
    }

    /// The only real replica that is in sync, where it contradicts what we know: that came from a leader
    /// that is not in sync any more, and the copy is what this replica has. It has to be learned anew.
    pub fn contradicted_by(&self) -> Option<FollowerFetch> {
        let by = self.contradiction.filter(|_| !self.is_open && !self.is_cut)?;
        self.in_sync_real().eq([by.broker]).then_some(by)
    }

    /// Whether what a follower holds is a piece of the copy, from the log start on.
    fn fits(&self, fetch: FollowerFetch) -> bool {
        self.log_start.is_some_and(|log_start| fetch.offset < log_start)
            || self.parting(fetch).is_none()
    }

    /// Where the log of a follower stops to be ours; `None` where it does not. A broker that led
    /// for a moment without a batch names an epoch that its followers never heard of: an in-sync
    /// replica is believed there, for its log is the copy.
    pub(super) fn parting(&self, fetch: FollowerFetch) -> Option<Parting> {
        let asked = fetch.last_fetched_epoch;
        let newest = self.history.newest();
        if asked == LeaderEpoch::UNKNOWN {
            let end = newest.map(|n| OffsetAndEpoch { offset: self.log_end, epoch: n.epoch });
            return (fetch.offset > self.log_end)
                .then(|| end.map_or(Parting::Unknown, Parting::At));
        }
        match self.history.end_of(asked, self.log_end) {
            Some(end) if end.offset < fetch.offset => Some(Parting::At(end)),
            Some(end) if end.epoch == asked || self.is_in_sync(fetch) => None,
            Some(end) => Some(Parting::At(end)),
            // Its last batch is older than all that is left of our history: that begins where the
            // log starts, which can be inside a batch, or later.
            None => match self.history.starts().first() {
                Some(first) if fetch.offset <= first.start => None,
                Some(first) if Some(first.start) > self.log_start => {
                    Some(Parting::At(OffsetAndEpoch { offset: first.start, epoch: asked }))
                }
                _ => Some(Parting::Unknown),
            },
        }
    }

    /// Whether a follower may be told to cut its log at `offset`: it is not in sync, and the source
    /// still has what it loses, so that nothing is gone that only this replica had.
    pub(super) fn may_cut(&self, fetch: FollowerFetch, offset: Offset) -> bool {
        let least = self.log_start.map_or(offset, |log_start| log_start.max(offset));
        let source_has_it = self.source_start.newest().is_some_and(|start| start <= least);
        !self.is_in_sync(fetch) && !self.is_fresh && source_has_it
    }

    /// Where a decision makes a follower cut its log.
    pub(super) fn cut_by_decision(&self, fetch: FollowerFetch) -> Option<OffsetAndEpoch> {
        match self.parting(fetch) {
            Some(Parting::At(end)) if self.is_cut && self.is_open => Some(end),
            _ => None,
        }
    }

    pub(super) fn is_in_sync(&self, fetch: FollowerFetch) -> bool {
        let pending = self.pending.as_ref().map(|pending| &pending.members);
        self.assignment.in_sync.contains(&fetch.broker)
            || pending.is_some_and(|members| members.contains(&fetch.broker))
    }
}
