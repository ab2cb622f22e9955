//! `lockstep run`.

use std::path::Path;

use super::check::load;
use super::{Exit, Failure};
use crate::daemon;
use crate::seat::error::SeatError;

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
    ended.map_err(|error| {
        let seat = error.downcast_ref::<SeatError>();
        // The file and the clusters do not fit: no restart mends that.
        let exit = match seat.is_some_and(SeatError::is_of_configuration) {
            true => Exit::Usage,
            false => Exit::NotSo,
        };
        Failure::new(exit, format!("{error:#}"))
    })
}
