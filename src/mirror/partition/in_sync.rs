//! Who should be in sync: which change to ask the controller for, and what its answer means. The
//! high watermark counts a change that may have been applied until the metadata log tells.

use std::time::Duration;

use super::Leadership;
use crate::mirror::follower::Follower;
use crate::types::{BrokerEpoch, BrokerId, LeaderEpoch, Offset};

/// A change of the in-sync replicas to ask the controller for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IsrProposal {
    /// The partition's leader epoch.
    pub leader_epoch: LeaderEpoch,
    /// The partition epoch that the change is based on.
    pub partition_epoch: i32,
    /// All members, seats included, each under the registration that was looked at: a broker that
    /// has registered anew since may have lost its log.
    pub in_sync: Vec<(BrokerId, BrokerEpoch)>,
}

/// What the image says of a broker that could join the in-sync replicas.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Its registration.
    pub epoch: BrokerEpoch,
    /// Unfenced and not in controlled shutdown.
    pub is_eligible: bool,
}

/// A change of the in-sync replicas that may or may not have been applied.
#[derive(Debug)]
pub(super) struct Pending {
    /// Everybody who would be a member.
    pub(super) members: Vec<BrokerId>,
    /// Whether the controller's answer is still to come.
    is_under_way: bool,
}

impl Leadership {
    /// A change of the in-sync replicas that should be asked for now, where there is one: members
    /// that were behind for `lag_time` leave, others that have reached the high watermark join.
    /// The last real member never leaves: without one nothing is safe.
    pub fn propose_isr(
        &mut self,
        now: Duration,
        lag_time: Duration,
        candidate: impl Fn(BrokerId) -> Option<Candidate>,
    ) -> Option<IsrProposal> {
        if self.pending.as_ref().is_some_and(|pending| pending.is_under_way) {
            return None;
        }
        let current = &self.assignment.in_sync;
        let mut kept: Vec<BrokerId> =
            current.iter().copied().filter(|&id| !self.is_behind(id, now, lag_time)).collect();
        if kept.iter().all(|id| self.seats.contains(id)) {
            kept.extend(self.most_advanced(current));
        }
        let joining = self.assignment.replicas.iter().copied().filter(|&id| {
            !current.contains(&id) && self.may_join(id, now, lag_time, candidate(id))
        });
        kept.extend(joining.collect::<Vec<_>>());
        if kept.len() == current.len() && kept.iter().all(|id| current.contains(id)) {
            return None;
        }
        let members = kept.iter().map(|&id| Some((id, candidate(id)?.epoch)));
        let in_sync = members.collect::<Option<Vec<_>>>()?;
        let mut counted = self.pending.take().map(|pending| pending.members).unwrap_or_default();
        counted.extend(kept);
        self.pending = Some(Pending { members: counted, is_under_way: true });
        Some(IsrProposal {
            leader_epoch: self.assignment.leader_epoch,
            partition_epoch: self.assignment.partition_epoch,
            in_sync,
        })
    }

    /// The controller refused the proposal that was based on `partition_epoch`.
    pub fn on_isr_refused(&mut self, partition_epoch: i32) {
        if partition_epoch == self.assignment.partition_epoch {
            self.pending = None;
        }
    }

    /// Whether the proposal that was based on `partition_epoch` was applied is not known: both sets
    /// count until the metadata log tells, and it may be asked for again.
    pub fn on_isr_unknown(&mut self, partition_epoch: i32) {
        if partition_epoch == self.assignment.partition_epoch
            && let Some(pending) = &mut self.pending
        {
            pending.is_under_way = false;
        }
    }

    /// Whether no in-sync real replica has asked for `patience`: what is copied reaches nobody.
    pub fn is_unheard(&self, now: Duration, patience: Duration) -> bool {
        self.in_sync_real().all(|id| self.is_silent(id, now, patience))
    }

    /// The in-sync real replicas that have asked within `patience`; where none has, all of them. One
    /// that hangs counts as in sync for the whole lag time.
    pub fn in_sync_heard(&self, now: Duration, patience: Duration) -> Vec<BrokerId> {
        let is_heard = |id: &BrokerId| !self.is_silent(*id, now, patience);
        let heard: Vec<_> = self.in_sync_real().filter(is_heard).collect();
        if heard.is_empty() { self.in_sync_real().collect() } else { heard }
    }

    fn is_silent(&self, id: BrokerId, now: Duration, patience: Duration) -> bool {
        let heard_at = self.followers.get(&id).map(Follower::heard_at);
        heard_at.is_none_or(|heard_at| now.saturating_sub(heard_at) > patience)
    }

    fn is_behind(&self, id: BrokerId, now: Duration, lag_time: Duration) -> bool {
        self.followers.get(&id).is_some_and(|f| f.behind_for(now) > lag_time)
    }

    fn most_advanced(&self, of: &[BrokerId]) -> Option<BrokerId> {
        let real = of.iter().copied().filter(|id| !self.seats.contains(id));
        real.max_by_key(|id| self.followers.get(id).and_then(Follower::log_end))
    }

    fn may_join(
        &self,
        id: BrokerId,
        now: Duration,
        lag_time: Duration,
        candidate: Option<Candidate>,
    ) -> bool {
        if self.seats.contains(&id) {
            // A seat needs no data; what it needs to know it has when it fetches in this epoch.
            return candidate.is_some_and(|candidate| {
                candidate.is_eligible && self.ready_seats.get(&id) == Some(&candidate.epoch)
            });
        }
        let (Some(candidate), Some(follower)) = (candidate, self.followers.get(&id)) else {
            return false;
        };
        let (Some(log_end), Some(fetched_under)) = (follower.log_end(), follower.broker_epoch())
        else {
            return false;
        };
        let is_recent = follower.silent_for(now).is_some_and(|silent| silent < lag_time / 2);
        let epoch_start = self.history.newest().map_or(Offset::ZERO, |newest| newest.start);
        candidate.is_eligible
            && (fetched_under == candidate.epoch || fetched_under == BrokerEpoch(-1))
            && is_recent
            && self.high_watermark.is_some_and(|hw| log_end >= hw.max(epoch_start))
            && follower.behind_for(now) < lag_time
    }
}
