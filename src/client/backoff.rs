//! Waiting times between attempts: they double from a least to a greatest one, each with jitter so
//! that clients which lost the same broker do not come back together. Knows no clock.

use std::time::Duration;

/// The next waiting time of one retried thing.
#[derive(Clone, Debug)]
pub struct Backoff {
    min: Duration,
    max: Duration,
    attempts: u32,
}

impl Backoff {
    /// Waiting times within `min..=max`; a `max` below `min` counts as `min`.
    pub fn new(min: Duration, max: Duration) -> Self {
        Self { min, max: max.max(min), attempts: 0 }
    }

    /// How long to wait before the next attempt: the doubled minimum, plus up to half of it.
    #[allow(
        clippy::should_implement_trait,
        reason = "it never ends, so an Option would be one to unwrap everywhere"
    )]
    pub fn next(&mut self) -> Duration {
        let base = self.base();
        self.attempts = self.attempts.saturating_add(1);
        base.saturating_add(base.mul_f64(rand::random_range(0.0..0.5))).min(self.max)
    }

    /// To be called after a success: the next wait is a short one again.
    pub fn reset(&mut self) {
        self.attempts = 0;
    }

    /// At the greatest wait jitter reaches down instead of up, or everyone would wait the same.
    fn base(&self) -> Duration {
        let doubled =
            2u32.checked_pow(self.attempts).and_then(|factor| self.min.checked_mul(factor));
        let highest = self.max.mul_f64(2.0 / 3.0).max(self.min);
        doubled.map_or(highest, |doubled| doubled.min(highest))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIN: Duration = Duration::from_millis(100);
    const MAX: Duration = Duration::from_secs(5);

    #[test]
    fn waits_grow_within_their_bounds_for_ever() {
        let mut backoff = Backoff::new(MIN, MAX);
        let mut least = MIN;
        for _ in 0..200 {
            let wait = backoff.next();
            assert!(wait >= least && wait <= MAX, "{wait:?} is below {least:?}");
            least = (least * 2).min(MAX.mul_f64(0.6));
        }
    }

    #[test]
    fn a_success_begins_anew() {
        let mut backoff = Backoff::new(MIN, MAX);
        for _ in 0..10 {
            backoff.next();
        }
        backoff.reset();
        assert!(backoff.next() <= MIN.mul_f64(1.5));
    }

    #[test]
    fn long_waits_are_spread() {
        let waits: std::collections::BTreeSet<_> = (0..20)
            .map(|_| {
                let mut backoff = Backoff::new(MIN, MAX);
                (0..20).map(|_| backoff.next()).last()
            })
            .collect();
        assert!(waits.len() > 10, "{waits:?}");
    }

    #[test]
    fn bounds_that_make_no_sense_are_taken_sensibly() {
        let mut backoff = Backoff::new(MAX, MIN);
        assert_eq!(backoff.next(), MAX);
        assert_eq!(backoff.next(), MAX);
        let mut none = Backoff::new(Duration::ZERO, Duration::ZERO);
        assert_eq!(none.next(), Duration::ZERO);
    }
}
