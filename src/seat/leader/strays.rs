//! Strays that the seat leads: partitions of topics that are no mirrors. They are moved to real brokers
//! at once; until then one that certainly holds nothing is served empty to its replicas, because a
//! reassignment waits for them to be in sync, and they can be so only with an answering leader. Clients
//! hear NOT_LEADER of all strays: nobody must be able to write what would be lost.

use std::collections::HashMap;
use std::time::Duration;

use super::answers::{self, NOT_NOW, Piece};
use super::handle::PartitionAnswer;
use super::sessions::Asked;
use super::task::LeaderTask;
use crate::image::{PartitionImage, TopicImage};
use crate::mirror::lineage::EpochHistory;
use crate::mirror::partition::{Assignment, Beginning, FollowerFetch, Leadership, Verdict};
use crate::mirror::strays::{is_mirror, is_provably_empty};
use crate::seat::isr::{IsrOutcome, IsrRequest, IsrResult};
use crate::types::{Offset, PartitionKey};

/// Strays that we lead and that hold nothing.
pub(super) type Strays = HashMap<PartitionKey, Leadership>;

impl LeaderTask {
    /// Brings our part in one partition of a topic that no link has bound in line with the image.
    pub(super) fn evaluate_stray(
        &mut self,
        topic: &TopicImage,
        partition: i32,
        state: &PartitionImage,
    ) {
        let key = PartitionKey { topic: topic.id, partition };
        let seats = self.image.seats_with(self.config.seat);
        let leads = self.was_current
            && !self.mirrors.contains_key(&topic.id)
            && is_provably_empty(state, self.config.seat, &seats)
            && !is_mirror(&self.image, topic);
        if !leads {
            if self.strays.remove(&key).is_some() {
                self.mark(key);
            }
            return;
        }
        let now = self.now();
        let assignment = Assignment {
            leader_epoch: state.leader_epoch,
            partition_epoch: state.partition_epoch,
            replicas: state.replicas.clone(),
            in_sync: state.in_sync.clone(),
        };
        let known = self.strays.get_mut(&key);
        if let Some(known) =
            known.filter(|known| known.assignment().leader_epoch == state.leader_epoch)
            && known.on_assignment(assignment.clone(), now).is_ok()
        {
            self.mark(key);
            return;
        }
        let beginning = Beginning::Fresh { history: EpochHistory::default() };
        let mut leadership = Leadership::begin(seats, assignment, beginning, now);
        if leadership.on_started(Offset::ZERO).is_ok() {
            tracing::warn!(
                topic = %topic.name, partition, leader_epoch = %state.leader_epoch,
                replicas = ?state.replicas,
                "elected for a partition of a topic that is no mirror; it is empty, clients are \
                 sent away, and it is moved to real brokers"
            );
            self.strays.insert(key, leadership);
            self.mark(key);
        }
    }

    /// Strays of topics that no delta named since we may lead.
    pub(super) fn evaluate_strays(&mut self) {
        let image = self.image.clone();
        let topics = image.topics().filter(|topic| !self.mirrors.contains_key(&topic.id));
        for topic in topics.cloned().collect::<Vec<_>>() {
            for (&partition, state) in &topic.partitions {
                if state.leader == Some(self.config.seat) {
                    self.evaluate_stray(&topic, partition, state);
                }
            }
        }
    }

    pub(super) fn note_stray_fetch(
        &mut self,
        key: PartitionKey,
        fetch: FollowerFetch,
        now: Duration,
    ) {
        if let Some(leadership) = self.strays.get_mut(&key)
            && leadership.on_fetch(now, fetch).is_err()
        {
            self.strays.remove(&key);
        }
    }

    pub(super) fn stray_isr_changes(&mut self, requests: &mut Vec<IsrRequest>) {
        let (now, lag_time) = (self.now(), self.config.lag_time);
        for (&key, leadership) in &mut self.strays {
            let candidate = |id| crate::seat::isr::candidate(&self.image, id);
            let proposal = leadership.propose_isr(now, lag_time, candidate);
            requests.extend(proposal.map(|proposal| IsrRequest { key, proposal }));
        }
    }

    pub(super) fn on_stray_isr_outcome(&mut self, outcome: &IsrOutcome) {
        let Some(leadership) = self.strays.get_mut(&outcome.key) else { return };
        if leadership.assignment().leader_epoch == outcome.leader_epoch {
            match outcome.result {
                IsrResult::Refused(_) => leadership.on_isr_refused(outcome.partition_epoch),
                IsrResult::Unknown => leadership.on_isr_unknown(outcome.partition_epoch),
                IsrResult::Applied => {}
            }
        }
    }
}

/// What a replica of a stray is told: that there is nothing.
pub(super) fn piece(
    leadership: &mut Leadership,
    fetch: FollowerFetch,
    asked: &Asked,
    key: PartitionKey,
    is_full: bool,
) -> Piece {
    match leadership.verdict(fetch, Offset::ZERO) {
        Verdict::Serve | Verdict::Seat => {}
        Verdict::NotYet if !is_full => return Piece::Nothing,
        // Anything but an empty replica at offset 0 contradicts that it is empty: not our business.
        Verdict::NotYet | Verdict::EpochAhead => {
            return Piece::Answer(answers::refused(key, NOT_NOW));
        }
        Verdict::Refuse(_) | Verdict::Jump | Verdict::Refill | Verdict::Fill | Verdict::Cut(_) => {
            return Piece::Answer(answers::refused(key, answers::NOT_LEADER));
        }
    }
    let (high_watermark, log_start) = (leadership.high_watermark(), leadership.log_start());
    let is_news = high_watermark != asked.told_high_watermark || log_start != asked.told_log_start;
    if !is_news && !is_full {
        return Piece::Nothing;
    }
    Piece::Answer(PartitionAnswer { high_watermark, log_start, ..answers::refused(key, 0) })
}
