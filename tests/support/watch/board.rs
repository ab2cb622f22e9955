//! What all watching threads know together: the references, and the first thing that was wrong.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use anyhow::{Result, bail};

use super::super::judge::Batch;
use super::reference::Reference;

/// A topic at the source and its mirror.
#[derive(Clone, Debug)]
pub(super) struct Pair {
    pub(super) source: String,
    pub(super) mirror: String,
}

/// What the test does on purpose.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Allowed {
    pub(super) cuts: bool,
    pub(super) later_starts: bool,
    pub(super) other_batches: bool,
}

/// What a watch has seen: nothing seen proves nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// Batches shown by replicas, each counted at each of them.
    pub batches: usize,
    /// Of these, how many the source lost before they were read there.
    pub unproved: usize,
    /// Produce requests that were refused.
    pub refused: usize,
}

/// Shared by the threads of one watch.
#[derive(Clone)]
pub(super) struct Board {
    allowed: Allowed,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    /// By the mirror's name and partition.
    references: BTreeMap<(String, i32), Reference>,
    /// Log starts that are above what was known of the source's.
    starts: Vec<Start>,
    refused: usize,
    wrong: Option<String>,
}

struct Start {
    mirror: String,
    partition: i32,
    broker: i32,
    log_start: i64,
    said: Instant,
}

/// What to do after a batch was shown.
pub(super) enum After {
    GoOn,
    /// The copy was cut, which is allowed: it is read anew from its log start.
    ReadAnew,
}

impl Board {
    pub(super) fn new(allowed: Allowed) -> Self {
        Self { allowed, state: Arc::default() }
    }

    pub(super) fn check(&self) -> Result<()> {
        match &self.state().wrong {
            Some(wrong) => bail!("{wrong}"),
            None => Ok(()),
        }
    }

    pub(super) fn finish(&self) -> Result<Seen> {
        self.check()?;
        let state = self.state();
        let mut seen = Seen { refused: state.refused, ..Seen::default() };
        for ((mirror, partition), reference) in &state.references {
            if let Err(wrong) = reference.finish() {
                bail!("{mirror}-{partition}: {wrong}");
            }
            seen.batches += reference.seen;
            seen.unproved += reference.unproved;
        }
        Ok(seen)
    }

    /// The first thing that is wrong is what matters: what follows may follow from it.
    pub(super) fn wrong(&self, what: String) {
        self.state().wrong.get_or_insert(what);
    }

    pub(super) fn refused(&self) {
        self.state().refused += 1;
    }

    /// Does something to one partition's reference; what is wrong with it is kept.
    pub(super) fn at_source<T: Default>(
        &self,
        mirror: &str,
        partition: i32,
        change: impl FnOnce(&mut Reference) -> Result<T, String>,
    ) -> T {
        let mut state = self.state();
        let reference = state.references.entry((mirror.to_owned(), partition)).or_default();
        match change(reference) {
            Ok(value) => value,
            Err(wrong) => {
                state.wrong.get_or_insert(format!("{mirror}-{partition}: {wrong}"));
                T::default()
            }
        }
    }

    pub(super) fn on_copy(
        &self,
        mirror: &str,
        partition: i32,
        broker: i32,
        batch: &Batch,
        is_anew: bool,
    ) -> After {
        if self.allowed.other_batches {
            return After::GoOn;
        }
        let mut state = self.state();
        let reference = state.references.entry((mirror.to_owned(), partition)).or_default();
        match reference.on_copy(broker, batch) {
            Ok(()) => After::GoOn,
            Err(_) if self.allowed.cuts && !is_anew => {
                reference.forget_copy(broker);
                After::ReadAnew
            }
            Err(wrong) => {
                let probe = super::probe::is_probe(&batch.bytes);
                let probe = if probe { " (a probe that was to be refused)" } else { "" };
                state.wrong.get_or_insert(format!("{mirror}-{partition}: {wrong}{probe}"));
                After::GoOn
            }
        }
    }

    /// A copy that was cut or is another one now.
    pub(super) fn forget_copy(&self, mirror: &str, partition: i32, broker: i32) {
        self.at_source(mirror, partition, |reference| {
            reference.forget_copy(broker);
            Ok(())
        });
    }

    pub(super) fn allows_cuts(&self) -> bool {
        self.allowed.cuts
    }

    /// What a copy says of its log start; judged once the source's was asked for later than now.
    pub(super) fn on_copy_start(&self, mirror: &str, partition: i32, broker: i32, log_start: i64) {
        let mut state = self.state();
        let reference = state.references.entry((mirror.to_owned(), partition)).or_default();
        if self.allowed.later_starts || reference.is_start_of_source(log_start) {
            return;
        }
        let mirror = mirror.to_owned();
        let said = Instant::now();
        state.starts.push(Start { mirror, partition, broker, log_start, said });
    }

    /// The source's log start, asked for at `asked`.
    pub(super) fn on_source_start(
        &self,
        mirror: &str,
        partition: i32,
        log_start: i64,
        asked: Instant,
    ) {
        let mut state = self.state();
        let state = &mut *state;
        let reference = state.references.entry((mirror.to_owned(), partition)).or_default();
        reference.on_source_start(log_start);
        let wrong = &mut state.wrong;
        state.starts.retain(|start| {
            if start.mirror != mirror || start.partition != partition || start.said > asked {
                return true;
            }
            if !reference.is_start_of_source(start.log_start) {
                wrong.get_or_insert(format!(
                    "{mirror}-{partition}: broker {} starts at offset {}, the source at {log_start}",
                    start.broker, start.log_start
                ));
            }
            false
        });
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
