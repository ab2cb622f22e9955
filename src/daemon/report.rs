//! Puts the report together that the HTTP API reads, and tells systemd when we are ready.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use super::Seen;
use crate::mirror::report::{ClusterReport, LinkReport, SeatReport, StrayReport};
use crate::seat::leader::LeaderReport;
use crate::tail::budget::MemoryBudget;
use crate::types::BrokerId;

/// Between two reports.
const INTERVAL: Duration = Duration::from_millis(500);
/// A seat that was not heard for so long counts as trouble.
const HEARTBEAT_LATE: Duration = Duration::from_secs(6);

/// Makes the report of the daemon.
pub(super) struct ReportTask {
    pub(super) broker_id: BrokerId,
    pub(super) seen: Seen,
    pub(super) links: Vec<watch::Receiver<LinkReport>>,
    pub(super) led: watch::Receiver<Arc<LeaderReport>>,
    pub(super) strays: watch::Receiver<Arc<Vec<StrayReport>>>,
    pub(super) budget: MemoryBudget,
    pub(super) reports: watch::Sender<Arc<ClusterReport>>,
}

impl ReportTask {
    /// Reports for ever.
    pub(super) async fn run(self) {
        let mut interval = tokio::time::interval(INTERVAL);
        let mut is_ready = false;
        loop {
            interval.tick().await;
            let seat = self.seat();
            if seat.ready && !is_ready {
                // Not started by systemd: then nobody is told.
                let _not_systemd = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
                tracing::info!(broker_id = %self.broker_id, "ready");
            }
            is_ready |= seat.ready;
            let links = self.links.iter().map(|link| link.borrow().clone()).collect();
            metrics::gauge!("lockstep_memory_bytes", "use" => "records")
                .set(self.budget.used() as f64);
            self.reports.send_replace(Arc::new(ClusterReport { seat, links }));
        }
    }

    fn seat(&self) -> SeatReport {
        let standing = *self.seen.standing.borrow();
        let metadata_offset = self.seen.applied.borrow().0;
        let reason = match standing {
            None => Some("not registered with the destination's controller yet".to_owned()),
            Some(standing) if standing.at.elapsed() > HEARTBEAT_LATE => {
                Some(format!("no heartbeat was answered for {} s", standing.at.elapsed().as_secs()))
            }
            Some(standing) if standing.is_fenced => {
                Some("fenced by the destination's controller".to_owned())
            }
            Some(_) => None,
        };
        if let Some(standing) = standing {
            metrics::gauge!("lockstep_seat_heartbeat_age_seconds")
                .set(standing.at.elapsed().as_secs_f64());
        }
        SeatReport {
            broker_id: self.broker_id.0,
            fenced: standing.is_none_or(|standing| standing.is_fenced),
            metadata_offset,
            ready: reason.is_none(),
            reason,
            cordoned: self.is_cordoned(),
            partitions_led: self.led.borrow().len(),
            strays: self.strays.borrow().as_ref().clone(),
        }
    }

    fn is_cordoned(&self) -> bool {
        let image = self.seen.image.borrow();
        let broker = image.broker(self.broker_id);
        broker.is_some_and(|broker| !broker.cordoned_log_dirs.is_empty())
    }
}
