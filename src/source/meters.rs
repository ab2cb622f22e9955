//! What a source counts.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use metrics::{Counter, Gauge, Histogram};

use crate::types::LinkName;

/// Meters of one link.
pub(super) struct Meters {
    fetch_seconds: Histogram,
    connections: Gauge,
    throttle_seconds: Counter,
    /// Counters count whole seconds; this is what is not yet counted.
    throttled_ms: AtomicU64,
}

impl std::fmt::Debug for Meters {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Meters")
    }
}

/// Counts one connection for as long as it lives.
pub(super) struct OpenConnection(Gauge);

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.0.decrement(1.0);
    }
}

impl Meters {
    pub(super) fn new(link: &LinkName) -> Self {
        let link = link.to_string();
        Self {
            fetch_seconds: metrics::histogram!("lockstep_source_fetch_seconds", "link" => link.clone()),
            connections: metrics::gauge!("lockstep_source_connections", "link" => link.clone()),
            throttle_seconds: metrics::counter!("lockstep_source_throttle_seconds_total", "link" => link),
            throttled_ms: AtomicU64::new(0),
        }
    }

    /// A connection was opened.
    pub(super) fn connection(&self) -> OpenConnection {
        self.connections.increment(1.0);
        OpenConnection(self.connections.clone())
    }

    /// A fetch took so long, the broker's waiting included.
    pub(super) fn fetched(&self, time: Duration) {
        self.fetch_seconds.record(time.as_secs_f64());
    }

    /// A broker made us wait because of a quota.
    pub(super) fn throttled(&self, time: Duration) {
        let added = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let before = self.throttled_ms.fetch_add(added, Ordering::Relaxed);
        self.throttle_seconds.increment((before + added) / 1000 - before / 1000);
    }
}
