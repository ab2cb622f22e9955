//! Log lines that clients can cause: at most one a minute, so that no client can flood the log.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

const INTERVAL: Duration = Duration::from_secs(60);

/// Holds back all but one log line a minute.
#[derive(Debug, Default)]
pub struct Complaints {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    last: Option<Instant>,
    held_back: u64,
}

impl Complaints {
    /// Runs `log` unless something was logged within the last minute; it is told how many others
    /// were held back since.
    pub fn say(&self, log: impl FnOnce(u64)) {
        if let Some(held_back) = self.due(Instant::now()) {
            log(held_back);
        }
    }

    fn due(&self, now: Instant) -> Option<u64> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.last.is_some_and(|last| now.duration_since(last) < INTERVAL) {
            state.held_back += 1;
            return None;
        }
        state.last = Some(now);
        Some(std::mem::take(&mut state.held_back))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_a_minute_that_counts_the_others() {
        let complaints = Complaints::default();
        let start = Instant::now();
        assert_eq!(complaints.due(start), Some(0));
        assert_eq!(complaints.due(start + Duration::from_secs(1)), None);
        assert_eq!(complaints.due(start + Duration::from_secs(59)), None);
        assert_eq!(complaints.due(start + INTERVAL), Some(2));
    }
}
