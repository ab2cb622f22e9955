//! What is decided about failed partitions: by policy when they fail, or by an operator's word.

use super::task::LeaderTask;
use crate::mirror::decision::{self, Decision};
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
        let failure = led.trouble.as_ref().and_then(crate::tail::Trouble::failure);
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
            Decision::GoOn { .. } | Decision::Truncate { .. } | Decision::Repin => {
                self.decisions.insert(key, decision);
            }
        }
    }

    /// A partition has failed: what the link's file says about it.
    pub(super) fn on_failure(&mut self, key: PartitionKey) {
        let Some(led) = self.led.get(&key) else { return };
        let failure = led.trouble.as_ref().and_then(crate::tail::Trouble::failure);
        let decision = failure.and_then(|failure| led.mirror().policies.decide(failure));
        if let Some(decision) = decision {
            self.on_decision(key, decision);
        }
    }
}
