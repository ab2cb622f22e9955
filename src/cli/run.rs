//! `lockstep run`.

use std::path::Path;

use super::check::load;
use super::{Exit, Failure};
use crate::daemon;

/// Runs the daemon until it is told to stop.
pub fn run(path: &Path) -> Result<(), Failure> {
    let config = load(path)?;
    for notice in &config.notices {
        tracing::warn!(line = notice.line, "{notice}");
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::new(Exit::NotSo, format!("start threads: {error}")))?;
    let ended = runtime.block_on(daemon::run(config));
    // Tasks that are stuck in a system call must not keep a stopped daemon alive.
    runtime.shutdown_background();
    ended.map_err(|error| Failure::new(Exit::NotSo, format!("{error:#}")))
}
