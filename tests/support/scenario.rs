//! The frame of a test on real clusters: a turn, since memory holds few clusters at a time, and a
//! workspace that is kept when the test fails.

use std::sync::{Condvar, Mutex, PoisonError};

use anyhow::Result;

use super::workspace::Workspace;

/// How many tests of one binary may run clusters at the same time, whatever `RUST_TEST_THREADS`
/// says; default 1.
pub const PARALLEL: &str = "LOCKSTEP_TEST_PARALLEL";

static RUNNING: Mutex<usize> = Mutex::new(0);
static ENDED: Condvar = Condvar::new();

/// Permission to run clusters; dropped, the next test goes on.
pub struct Turn(());

impl Turn {
    /// Waits for a free turn.
    pub fn wait() -> Self {
        let most = std::env::var(PARALLEL).ok();
        let most = most.and_then(|number| number.parse().ok()).unwrap_or(1);
        let running = RUNNING.lock().unwrap_or_else(PoisonError::into_inner);
        let mut running = ENDED
            .wait_while(running, |running| *running >= most)
            .unwrap_or_else(PoisonError::into_inner);
        *running += 1;
        Self(())
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        *RUNNING.lock().unwrap_or_else(PoisonError::into_inner) -= 1;
        ENDED.notify_one();
    }
}

/// Runs one test on real clusters. An error fails the test as a panic does, and either keeps the
/// workspace with all logs.
#[allow(clippy::panic)]
pub fn scenario(name: &str, body: impl FnOnce(&Workspace) -> Result<()>) {
    let _turn = Turn::wait();
    let workspace = Workspace::new(name);
    let outcome = workspace.and_then(|mut workspace| {
        let outcome = body(&workspace);
        if outcome.is_err() {
            workspace.keep();
        }
        outcome
    });
    if let Err(error) = outcome {
        panic!("{name}: {error:#}");
    }
}
