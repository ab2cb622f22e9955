//! What a leader knows of one real replica in one leader epoch: where its log ends, and since when
//! it has kept up. Decides nothing about the partition.

use std::time::Duration;

use crate::types::{BrokerEpoch, Offset};

/// One real replica of a mirror partition. Times are since the daemon's start.
#[derive(Clone, Debug)]
pub struct Follower {
    fetched: Option<Fetched>,
    /// Since when it counts as behind, where it never was caught up: our leadership's begin.
    last_caught_up: Duration,
    /// Whether the last answer told it that its offset is out of range: only then may it be told
    /// where the log begins and ends.
    pub may_jump: bool,
}

#[derive(Clone, Copy, Debug)]
struct Fetched {
    offset: Offset,
    broker_epoch: BrokerEpoch,
    at: Duration,
    /// How far the furthest replica was when that fetch came.
    reached_then: Offset,
}

impl Follower {
    /// A replica that has not fetched yet in this epoch, which began at `now`.
    pub fn new(now: Duration) -> Self {
        Self { fetched: None, last_caught_up: now, may_jump: false }
    }

    /// Notes a fetch; `reached` is where the furthest replica is. One counts as caught up at the time
    /// of its previous fetch when it is now where the furthest was then: otherwise steady writes
    /// would never let it be.
    pub fn on_fetch(
        &mut self,
        now: Duration,
        offset: Offset,
        broker_epoch: BrokerEpoch,
        reached: Offset,
    ) {
        if offset >= reached {
            self.last_caught_up = now;
        } else if let Some(before) = self.fetched
            && offset >= before.reached_then
        {
            self.last_caught_up = self.last_caught_up.max(before.at);
        }
        self.fetched = Some(Fetched { offset, broker_epoch, at: now, reached_then: reached });
        self.may_jump = false;
    }

    /// End of its log, where it has fetched in this epoch.
    pub fn log_end(&self) -> Option<Offset> {
        self.fetched.map(|fetched| fetched.offset)
    }

    /// Epoch of the registration under which it fetched last.
    pub fn broker_epoch(&self) -> Option<BrokerEpoch> {
        self.fetched.map(|fetched| fetched.broker_epoch)
    }

    /// Its fetch session asked again at `now` without naming this partition: it is where it was.
    pub fn on_alive(&mut self, now: Duration, reached: Offset) {
        if let Some(fetched) = self.fetched {
            let may_jump = self.may_jump;
            self.on_fetch(now.max(fetched.at), fetched.offset, fetched.broker_epoch, reached);
            self.may_jump = may_jump;
        }
    }

    /// How long it has been behind.
    pub fn behind_for(&self, now: Duration) -> Duration {
        now.saturating_sub(self.last_caught_up)
    }

    /// When it fetched last; where it never did in this epoch, when that began.
    pub fn heard_at(&self) -> Duration {
        self.fetched.map_or(self.last_caught_up, |fetched| fetched.at)
    }

    /// How long ago it fetched; `None` where it never did in this epoch.
    pub fn silent_for(&self, now: Duration) -> Option<Duration> {
        self.fetched.map(|fetched| now.saturating_sub(fetched.at))
    }
}
