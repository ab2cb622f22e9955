//! Known bugs to plant: only with the feature `planted-bugs`, which nothing but the simulation's own test
//! is built with. It shows that the simulation would find them. Nothing here can be switched on from
//! outside of the process.

use std::cell::Cell;

/// A bug that costs data on stock followers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bug {
    /// Batches keep the source's leader epoch.
    UnstampedEpochs,
    /// The high watermark is what can be served, and not what every in-sync replica has.
    WatermarkTooEarly,
    /// The source's log start goes to followers as the source says it.
    UnverifiedLogStart,
    /// A follower that has diverged is told to cut inside a batch.
    TruncationInsideABatch,
    /// The epochs of an adopted copy are taken to be one.
    GuessedHistory,
}

thread_local! {
    static PLANTED: Cell<Option<Bug>> = const { Cell::new(None) };
}

/// Plants a bug in this thread.
pub fn plant(bug: Bug) {
    PLANTED.set(Some(bug));
}

/// Whether this bug is planted.
pub fn is(bug: Bug) -> bool {
    PLANTED.get() == Some(bug)
}
