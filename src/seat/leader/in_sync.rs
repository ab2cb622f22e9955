//! Changes of the in-sync replicas: which are wanted goes to the controller, what became of them comes
//! back. One that keeps failing is asked for ever more rarely, and said once a minute.

use std::sync::Arc;
use std::time::Duration;

use super::led::Led;
use super::task::LeaderTask;
use crate::mirror::event::{Event, EventKind};
use crate::mirror::report::Reason;
use crate::seat::isr::{self, IsrOutcome, IsrRequest, IsrResult};
use crate::types::{BrokerId, PartitionKey};

/// After a first failure; the next rests are twice as long each.
const FIRST_REST: Duration = Duration::from_millis(500);
const LONGEST_REST: Duration = Duration::from_secs(15);
/// Between log lines about one partition.
const QUIET: Duration = Duration::from_secs(60);

/// How the last wish of one partition fared.
#[derive(Debug, Default)]
pub struct Wish {
    /// Nothing is asked for before.
    not_before: Duration,
    /// The rest after the next failure; zero where the last change went through.
    rest: Duration,
    told: Option<Duration>,
}

impl Wish {
    /// The metadata log shows another partition epoch: what was wrong is over.
    pub fn on_change(&mut self) {
        self.not_before = Duration::ZERO;
        self.rest = Duration::ZERO;
    }

    fn on_failure(&mut self, now: Duration) {
        self.rest = (self.rest * 2).clamp(FIRST_REST, LONGEST_REST);
        self.not_before = now + self.rest;
    }

    /// Whether it may be said now.
    fn is_news(&mut self, now: Duration) -> bool {
        let is_news = self.told.is_none_or(|told| now.saturating_sub(told) >= QUIET);
        if is_news {
            self.told = Some(now);
        }
        is_news
    }
}

impl LeaderTask {
    pub(super) fn ask_for_isr_changes(&mut self) {
        let now = self.now();
        let lag_time = self.config.lag_time;
        let image = Arc::clone(&self.image);
        let mut requests = Vec::new();
        self.stray_isr_changes(&mut requests);
        for (&key, led) in &mut self.led {
            if now < led.wish.not_before {
                continue;
            }
            let candidate = |id| isr::candidate(&image, id);
            let Some(proposal) = led.leadership.propose_isr(now, lag_time, candidate) else {
                continue;
            };
            if led.wish.rest.is_zero() {
                tracing::info!(
                    link = %led.mirror().link, topic = %led.mirror().name,
                    partition = key.partition, in_sync = ?proposal.in_sync,
                    "asking for a change of the in-sync replicas"
                );
            }
            requests.push(IsrRequest { key, proposal });
        }
        if !requests.is_empty() {
            let _stopped = self.isr_requests.send(requests);
        }
    }

    pub(super) fn on_isr_outcome(&mut self, outcome: &IsrOutcome) {
        self.on_stray_isr_outcome(outcome);
        let now = self.now();
        let Some(led) = self.led.get_mut(&outcome.key) else { return };
        if led.leadership.assignment().leader_epoch != outcome.leader_epoch {
            return;
        }
        let partition_epoch = outcome.partition_epoch;
        match outcome.result {
            IsrResult::Applied => return,
            IsrResult::Refused(_) => led.leadership.on_isr_refused(partition_epoch),
            IsrResult::Unknown => led.leadership.on_isr_unknown(partition_epoch),
        }
        if partition_epoch != led.leadership.assignment().partition_epoch {
            return;
        }
        led.wish.on_failure(now);
        if led.wish.is_news(now) {
            let mirror = led.mirror();
            tracing::info!(
                link = %mirror.link, topic = %mirror.name, partition = outcome.key.partition,
                result = %outcome.result, "in-sync replicas not changed; asking again"
            );
        }
    }

    /// The metadata log changed who is in sync.
    pub(super) fn on_in_sync(&mut self, key: PartitionKey, before: &[BrokerId]) {
        let Some(led) = self.led.get_mut(&key) else { return };
        led.wish.on_change();
        let had_real = before.iter().any(|id| *id != self.config.seat && !self.image.is_seat(*id));
        let has_real = led.leadership.in_sync_real().next().is_some();
        if had_real != has_real {
            self.events.send(member_event(led, key, has_real));
        }
    }
}

fn member_event(led: &Led, key: PartitionKey, has_real: bool) -> Event {
    let committed = led.leadership.high_watermark().unwrap_or_default();
    let end = led.leadership.log_end().max(committed);
    let event = if has_real {
        let text = "a real replica is in sync again; the high watermark goes on";
        Event::new(EventKind::RealReplicaReturned, text)
    } else {
        let text = "the last real replica left the in-sync replicas: the high watermark stays where it \
                    is; keep the daemon running until a real broker has come back";
        Event::new(Reason::ReplicasOutOfSync, text)
    };
    let mirror = led.mirror();
    event.link(&mirror.link).topic(&mirror.name).partition(key.partition).offsets(committed..end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_that_keeps_failing_is_asked_for_ever_more_rarely_and_said_once_a_minute() {
        let mut wish = Wish::default();
        let (mut asked, mut said) = (0, 0);
        for tick in 0..1_200 {
            let now = Duration::from_millis(tick * 500);
            if now >= wish.not_before {
                asked += 1;
                wish.on_failure(now);
                said += i32::from(wish.is_news(now));
            }
        }
        assert!((40..60).contains(&asked), "{asked} requests in ten minutes");
        assert!((8..=10).contains(&said), "{said} lines in ten minutes");
        wish.on_change();
        assert_eq!((wish.not_before, wish.rest), (Duration::ZERO, Duration::ZERO));
    }
}
