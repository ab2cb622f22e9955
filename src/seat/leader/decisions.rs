//! What is decided about failed partitions: by policy when they fail, or by an operator's word.

use super::handle::CopyCut;
use super::led::Led;
use super::task::LeaderTask;
use crate::mirror::decision::{self, Decision};
use crate::mirror::event::{Event, EventKind};
use crate::mirror::report::Reason;
use crate::seat::epoch_bump::BumpRequest;
use crate::tail::Trouble;
use crate::types::PartitionKey;

impl LeaderTask {
    /// Takes decisions in, each on a partition that has failed, led by us or not.
    pub(super) fn on_decisions(&mut self, decisions: Vec<(PartitionKey, Decision)>) {
        for (key, decision) in decisions {
            self.on_decision(key, decision);
        }
    }

    fn on_decision(&mut self, key: PartitionKey, decision: Decision) {
        let Some(led) = self.led.get_mut(&key) else {
            // The way back looks again by itself; what shortens or leaves out waits for it.
            if decision != Decision::Retry {
                self.decisions.insert(key, decision);
            }
            return;
        };
        let failure = led.trouble.as_ref().and_then(Trouble::failure);
        let fits = failure.is_some_and(|failure| decision::decide(failure) == Ok(decision));
        if !fits {
            tracing::info!(
                link = %led.mirror().link, topic = %led.mirror().name, partition = key.partition,
                %decision, ?failure, "a decision does not fit the partition any more; left alone"
            );
            return;
        }
        tracing::warn!(
            link = %led.mirror().link, topic = %led.mirror().name, partition = key.partition,
            offset = %led.leadership.log_end(), %decision, "failed partition is resumed"
        );
        match decision {
            Decision::Retry => {
                led.look_again();
                self.read_on(key);
            }
            Decision::GoOn { .. } => self.go_on(key),
            Decision::Truncate { .. } => {
                self.decisions.insert(key, decision);
            }
        }
    }

    /// Where a copy parts from the source was found: it is cut there in its next leader epoch, which is
    /// asked for. Until then nothing changes.
    pub(super) fn on_cut(&mut self, cut: CopyCut) {
        let key = cut.key;
        let Some(&decision) = self.decisions.get(&key) else { return };
        // It holds for what had failed when it was made, and for nothing that fails later.
        let is_decided = |led: &&mut Led| {
            let failure = led.trouble.as_ref().and_then(Trouble::failure);
            matches!(decision, Decision::Truncate { .. })
                && failure.is_some_and(|failure| decision::decide(failure) == Ok(decision))
        };
        let Some(led) = self.led.get_mut(&key).filter(is_decided) else { return };
        if led.leadership.assignment().leader_epoch != cut.leader_epoch || !led.is_stopped() {
            return;
        }
        if cut.at >= led.leadership.log_end() {
            // Nothing parts any more.
            self.decisions.remove(&key);
            led.look_again();
            return self.read_on(key);
        }
        if !led.prepare_cut(cut) {
            tracing::warn!(
                link = %led.mirror().link, topic = %led.mirror().name, partition = key.partition,
                offset = %cut.at, "the copy cannot be cut now: no real replica is in sync, or its \
                log starts above; trying on"
            );
            return;
        }
        self.bumps.request(BumpRequest {
            key,
            leader_epoch: cut.leader_epoch,
            avoid: None,
            why: "the copy is cut to follow the source's truncation",
        });
    }

    /// A leader epoch began with a cut: says what was given up.
    pub(super) fn tell_given_up(&mut self, key: PartitionKey) {
        let Some(led) = self.led.get_mut(&key) else { return };
        let Some(given_up) = led.take_given_up() else {
            // Nothing to cut was found on the way here: what was decided about is over.
            let decided = self.decisions.get(&key);
            let is_cut = matches!(decided, Some(Decision::Truncate { .. }));
            if is_cut && !led.is_stopped() && !led.is_unproved() {
                self.decisions.remove(&key);
            }
            return;
        };
        let mirror = std::sync::Arc::clone(led.mirror());
        self.decisions.remove(&key);
        let text = format!(
            "the source lost what it had from offset {} on; the copy follows it there and gives up \
             {} offsets, by decision",
            given_up.start,
            given_up.end.records_since(given_up.start)
        );
        let event = Event::new(EventKind::CopyTruncated, text).link(&mirror.link);
        self.events.send(event.topic(&mirror.name).partition(key.partition).offsets(given_up));
    }

    /// A partition has failed: what the link's file says about it.
    pub(super) fn on_failure(&mut self, key: PartitionKey) {
        let Some(led) = self.led.get(&key) else { return };
        if matches!(led.trouble, Some(Trouble::Gap { .. })) && led.has_not_begun() {
            return self.go_on(key);
        }
        let failure = led.trouble.as_ref().and_then(Trouble::failure);
        let by_policy = failure.and_then(|failure| led.mirror().policies.decide(failure));
        let by_person = self.decisions.get(&key).copied();
        let decision = match (by_policy, by_person, failure) {
            (Some(decision), ..) => Some(decision),
            // Its source may have deleted more since.
            (None, Some(Decision::GoOn { ours, .. }), Some(failure))
                if failure.reason == Reason::SourceGap && failure.ours == Some(ours) =>
            {
                self.decisions.remove(&key);
                decision::decide(failure).ok()
            }
            _ => None,
        };
        if let Some(decision) = decision {
            self.on_decision(key, decision);
        }
    }

    /// Leaves out what the source deleted before it was copied.
    fn go_on(&mut self, key: PartitionKey) {
        let Some(led) = self.led.get_mut(&key) else { return };
        let is_first = led.has_not_begun();
        let Some(left_out) = led.go_on() else { return };
        let count = left_out.end.records_since(left_out.start);
        let mirror = led.mirror();
        if is_first {
            tracing::info!(
                link = %mirror.link, topic = %mirror.name, partition = key.partition,
                offset = %left_out.end, "the source's log starts later now; the mirror begins there"
            );
        } else {
            let text = format!(
                "the source deleted offsets {} to {} before they were copied; the copy goes on at {}",
                left_out.start,
                left_out.end.0 - 1,
                left_out.end
            );
            let event = Event::new(EventKind::GapAccepted, text).link(&mirror.link);
            let event = event.topic(&mirror.name).partition(key.partition).offsets(left_out);
            self.events.send(event);
            metrics::counter!(
                "lockstep_mirror_gap_records_total", "link" => mirror.link.to_string(),
                "topic" => mirror.name.to_string(), "partition" => key.partition.to_string()
            )
            .increment(count);
        }
        self.read_on(key);
    }
}
