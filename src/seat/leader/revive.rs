//! Looks for followers that have marked a partition failed, and asks for a new leader epoch for them.

use std::time::Duration;

use super::task::LeaderTask;
use crate::mirror::event::{Event, EventKind};
use crate::mirror::revival;
use crate::seat::epoch_bump::BumpRequest;
use crate::types::{BrokerId, PartitionKey};

/// Between looks.
const INTERVAL: Duration = Duration::from_secs(2);
/// The least time after which a silent replica counts as failed.
const PATIENCE_MIN: Duration = Duration::from_secs(10);

impl LeaderTask {
    /// Asks for a new leader epoch where a replica that is out of sync does not ask for its partition
    /// although its broker is there.
    pub(super) fn revive_failed(&mut self) {
        let now = self.now();
        if now < self.next_revival {
            return;
        }
        self.next_revival = now + INTERVAL;
        self.revivals.forget_old(now);
        let patience = self.config.lag_time.max(PATIENCE_MIN);
        let mut silent: Vec<(PartitionKey, BrokerId, Duration)> = Vec::new();
        for (&key, led) in &self.led {
            let lost = led.leadership.silent_replicas(now).filter(|(_, for_)| *for_ >= patience);
            silent.extend(lost.map(|(broker, for_)| (key, broker, for_)));
        }
        for (key, broker, silent_for) in silent {
            self.revive(key, broker, silent_for, patience);
        }
    }

    fn revive(
        &mut self,
        key: PartitionKey,
        broker: BrokerId,
        silent: Duration,
        patience: Duration,
    ) {
        let now = self.now();
        let (Some(led), Some(state)) = (self.led.get(&key), self.image.partition(key)) else {
            return;
        };
        let mirror = led.mirror();
        if revival::is_explained(&self.image, &mirror.name, key, state, broker)
            || !self.revivals.is_due(now, (key, broker), silent, patience)
        {
            return;
        }
        let text = format!(
            "broker {broker} has not asked for its replica for {} s although it is there: it has \
             marked it failed, its log says why; a new leader epoch makes it look again",
            silent.as_secs()
        );
        let event = Event::new(EventKind::FollowerRevived, text);
        let end = led.leadership.log_end();
        self.events.send(
            event.link(&mirror.link).topic(&mirror.name).partition(key.partition).offsets(end..end),
        );
        self.bumps.request(BumpRequest {
            key,
            leader_epoch: led.leadership.assignment().leader_epoch,
            avoid: Some(broker),
            why: "a replica has marked it failed",
        });
    }
}
