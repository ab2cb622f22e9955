//! What is decided about failed partitions: by policy when they fail, or by an operator's word.

use super::task::LeaderTask;
use crate::mirror::decision::{self, Decision};
use crate::mirror::event::{Event, EventKind};
use crate::mirror::report::Reason;
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
            Decision::Truncate { .. } | Decision::Repin => {
                self.decisions.insert(key, decision);
            }
        }
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
