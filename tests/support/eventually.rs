//! Waiting for a condition with a deadline: the only place in the tests that pauses.

use std::fmt::Display;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

/// Between two looks at a condition that nothing announces.
const POLL_PAUSE: Duration = Duration::from_millis(20);

/// Repeats `attempt` until it is `Ok`; at the deadline the last error, with what was waited for.
pub fn eventually<T>(
    deadline: Duration,
    what: impl Display,
    mut attempt: impl FnMut() -> Result<T>,
) -> Result<T> {
    let start = Instant::now();
    loop {
        match attempt() {
            Ok(value) => return Ok(value),
            Err(error) if start.elapsed() >= deadline => {
                return Err(error).with_context(|| format!("waited {deadline:?} for {what}"));
            }
            Err(_) => pause(),
        }
    }
}

/// Lets everything run for a while: for deeds at random moments, never to wait for something.
#[allow(clippy::disallowed_methods)]
pub fn let_run(time: Duration) {
    std::thread::sleep(time);
}

/// Not a synchronisation: only keeps the loop above from spinning. Other processes' states can be
/// asked for but do not notify us.
#[allow(clippy::disallowed_methods)]
fn pause() {
    std::thread::sleep(POLL_PAUSE);
}
