//! Starts the task that keeps the seat free of strays.

use std::sync::Arc;

use tokio::sync::watch;
use tokio::task::JoinSet;

use super::Seen;
use super::destination::DestinationParts;
use crate::config::Config;
use crate::mirror::report::StrayReport;
use crate::seat::leader::LeaderHandle;
use crate::seat::strays::StrayTask;
use crate::tail::events::Events;

/// Starts it; what it reports.
pub(super) fn start_strays(
    config: &Config,
    destination: &DestinationParts,
    seen: &Seen,
    leader: &LeaderHandle,
    events: Events,
    tasks: &mut JoinSet<()>,
) -> watch::Receiver<Arc<Vec<StrayReport>>> {
    let (report, reported) = watch::channel(Arc::default());
    let task = StrayTask {
        seat: config.daemon.broker_id,
        image: seen.image.clone(),
        destination: destination.cluster.clone(),
        leader: leader.clone(),
        events,
        report,
    };
    tasks.spawn(task.run());
    reported
}
