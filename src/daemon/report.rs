//! Puts the report together that the HTTP API reads, and tells systemd when we are ready.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use super::Seen;
use crate::mirror::report::{
    ClusterReport, LeaveReport, LinkReport, PartitionReport, PartitionState, Reason, SeatReport,
    StrayReport,
};
use crate::mirror::seats;
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
    pub(super) leaving: watch::Receiver<Option<LeaveReport>>,
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
            let links = self.links.iter().map(|link| link.borrow().clone());
            let links = links.map(|link| if seat.ready { link } else { overshadowed(link) });
            let links = links.collect();
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
            owner: seats::owner(&self.seen.image.borrow()).map(|id| id.0),
            fenced: standing.is_none_or(|standing| standing.is_fenced),
            metadata_offset,
            ready: reason.is_none(),
            reason,
            cordoned: self.is_cordoned(),
            partitions_led: self.led.borrow().len(),
            strays: self.strays.borrow().as_ref().clone(),
            leaving: self.leaving.borrow().clone(),
        }
    }

    fn is_cordoned(&self) -> bool {
        let image = self.seen.image.borrow();
        let broker = image.broker(self.broker_id);
        broker.is_some_and(|broker| !broker.cordoned_log_dirs.is_empty())
    }
}

/// A link while the seat may not lead, or does not know whether it does: whatever its parts believe,
/// nothing new reaches the mirrors.
fn overshadowed(mut link: LinkReport) -> LinkReport {
    link.reason.get_or_insert(Reason::SeatFenced);
    for partition in link.topics.iter_mut().flat_map(|topic| &mut topic.partitions) {
        let PartitionReport { state, reason, leader_epoch, .. } = partition;
        // Another seat may lead the others.
        let is_ours = *leader_epoch >= 0;
        if is_ours && matches!(state, PartitionState::InSync | PartitionState::CatchingUp) {
            *state = PartitionState::DestinationUnavailable;
            *reason = Some(Reason::SeatFenced);
        }
    }
    link
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mirror::report::{LinkState, TopicReport};
    use crate::mirror::topic::MirrorState;

    fn partition(state: PartitionState, reason: Option<Reason>) -> PartitionReport {
        PartitionReport {
            partition: 0,
            state,
            reason,
            leader: Some(9001),
            leader_epoch: 1,
            source_end_offset: Some(10),
            log_start_offset: Some(0),
            source_log_start_offset: Some(0),
            high_watermark: Some(10),
            log_end_offset: Some(10),
            lag_records: Some(0),
            lag_seconds: Some(0.0),
            bytes_total: 0,
            records_total: 0,
            batches_total: 0,
            in_sync: vec![1],
            failure: None,
        }
    }

    #[test]
    fn nothing_looks_well_while_the_seat_is_not() {
        let failed = partition(PartitionState::Failed, Some(Reason::SourceTruncated));
        let topic = TopicReport {
            topic: "orders".to_owned(),
            source_topic: "orders".to_owned(),
            state: MirrorState::Active,
            reason: None,
            since: 0,
            partitions: vec![partition(PartitionState::InSync, None), failed.clone()],
        };
        let link = LinkReport {
            name: "east".to_owned(),
            state: LinkState::Active,
            reason: None,
            since: 0,
            topics: vec![topic],
        };
        let shown = overshadowed(link);
        assert_eq!(shown.reason, Some(Reason::SeatFenced));
        let partitions = &shown.topics[0].partitions;
        assert_eq!(partitions[0].state, PartitionState::DestinationUnavailable);
        assert_eq!(partitions[0].reason, Some(Reason::SeatFenced));
        assert_eq!(partitions[1], failed, "what is worse stays");
    }
}
