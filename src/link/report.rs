//! What is said of one link: what the topic task, the leader task and the way back know, in one
//! report. Decides nothing.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::acceptance::{Failed, Failures};
use super::logs::LogBounds;
use super::since::Since;
use super::topics::{TopicState, TopicStatus, TopicsStatus};
use super::unbound::Ends;
use crate::image::{Image, PartitionImage, TopicImage};
use crate::mirror::report::{
    LinkReport, LinkState, PartitionReport, PartitionState, Reason, TopicReport,
};
use crate::mirror::topic::MirrorState;
use crate::seat::leader::LeaderReport;
use crate::store::View;
use crate::tail::Trouble;
use crate::tail::notes::Notes;
use crate::types::{BrokerId, LinkName, PartitionKey, TopicName};

/// Between two reports.
const INTERVAL: Duration = Duration::from_millis(500);

/// Makes the reports of one link.
#[derive(Debug)]
pub struct Reporter {
    /// The link.
    pub link: LinkName,
    /// Our broker id.
    pub seat: BrokerId,
    /// What the topic task knows.
    pub topics: watch::Receiver<Arc<TopicsStatus>>,
    /// What the leader task knows.
    pub led: watch::Receiver<Arc<LeaderReport>>,
    /// Why partitions are kept from being led.
    pub failures: watch::Receiver<Failures>,
    /// Where mirrors end whose topics have failed.
    pub(super) unbound: watch::Receiver<Ends>,
    /// The destination.
    pub image: watch::Receiver<Arc<Image>>,
    /// What the journal says.
    pub journal: watch::Receiver<Arc<View>>,
    /// What it is to say soon.
    pub notes: Notes,
    /// Where reports go.
    pub reports: watch::Sender<LinkReport>,
}

impl Reporter {
    /// A link of which nothing is known.
    pub fn unknown(link: &LinkName) -> LinkReport {
        LinkReport {
            name: link.to_string(),
            state: LinkState::SourceUnavailable,
            reason: Some(Reason::SourceUnreachable),
            since: millis(SystemTime::now()),
            topics: Vec::new(),
        }
    }

    /// Reports until told to stop.
    pub async fn run(self, stop: CancellationToken) {
        let mut since = Since::new(self.seat);
        let mut interval = tokio::time::interval(INTERVAL);
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = interval.tick() => {}
            }
            let mut topics = self.topics();
            since.retain(&topics);
            let image = self.image.borrow().clone();
            let journal = self.journal.borrow().clone();
            for topic in &mut topics {
                let name = TopicName::from(topic.topic.as_str());
                let known = image.topic_named(&name);
                let id = known.map(|topic| topic.id);
                let epoch = |partition| {
                    let partition = known.and_then(|topic| topic.partitions.get(&partition));
                    partition.map_or(-1, |partition| partition.leader_epoch.0)
                };
                let now = millis(SystemTime::now());
                let note = since.settle(topic, id, &journal.ledger, epoch, now);
                if let Some(note) = note {
                    self.notes.note(note);
                }
            }
            self.publish(topics);
        }
    }

    fn publish(&self, topics: Vec<TopicReport>) {
        let status = self.topics.borrow().clone();
        let (state, reason) = match &status.source {
            Some(trouble) if trouble.reason == Reason::SourceClusterIdChanged.name() => {
                (LinkState::Failed, Reason::named(trouble.reason))
            }
            Some(trouble) => (LinkState::SourceUnavailable, Reason::named(trouble.reason)),
            None if status.last_success.is_none() => (LinkState::SourceUnavailable, None),
            None => (
                LinkState::Active,
                status.destination.as_ref().and_then(|t| Reason::named(t.reason)),
            ),
        };
        self.reports.send_modify(|report| {
            if (report.state, report.reason) != (state, reason) {
                report.since = millis(SystemTime::now());
            }
            report.state = state;
            report.reason = reason;
            report.topics = topics;
        });
    }

    fn topics(&self) -> Vec<TopicReport> {
        let image = self.image.borrow().clone();
        let led = self.led.borrow().clone();
        let failures = self.failures.borrow().clone();
        let status = self.topics.borrow().clone();
        let unbound = self.unbound.borrow().clone();
        let topics = status.topics.iter().map(|(name, status)| {
            // A mirror that has failed is there to be read all the same; a topic that is no mirror is
            // not ours to tell of.
            let is_mirror = status.state != TopicState::Pending
                && status.reason != Some(Reason::DestinationTopicExists.name());
            let topic = image.topic_named(name).filter(|_| is_mirror);
            let has_failed = status.state == TopicState::Failed;
            let reason = status.reason.filter(|_| has_failed).and_then(Reason::named);
            let partitions =
                topic.map(|topic| partitions((&image, self.seat), topic, &led, &failures, reason));
            let mut partitions = partitions.unwrap_or_default();
            if let Some(topic) = topic.map(|topic| topic.id) {
                for report in &mut partitions {
                    let key = PartitionKey { topic, partition: report.partition };
                    show_ends(report, unbound.get(&key));
                }
            }
            topic_report(name, status, partitions)
        });
        topics.collect()
    }
}

fn topic_report(
    name: &TopicName,
    status: &TopicStatus,
    partitions: Vec<PartitionReport>,
) -> TopicReport {
    let failed = partitions.iter().find(|partition| partition.state == PartitionState::Failed);
    let (state, reason) = match (status.state, failed) {
        (TopicState::Pending, _) => (MirrorState::Pending, status.reason.and_then(Reason::named)),
        (TopicState::Failed, _) => (MirrorState::Failed, status.reason.and_then(Reason::named)),
        (TopicState::Active, Some(partition)) => (MirrorState::Failed, partition.reason),
        (TopicState::Active, None) => (MirrorState::Active, status.reason.and_then(Reason::named)),
    };
    TopicReport {
        topic: name.to_string(),
        source_topic: status.source_name.to_string(),
        state,
        reason,
        since: millis(status.since),
        partitions,
    }
}

fn partitions(
    (image, seat): (&Image, BrokerId),
    topic: &TopicImage,
    led: &LeaderReport,
    failures: &Failures,
    topic_reason: Option<Reason>,
) -> Vec<PartitionReport> {
    let reports = topic.partitions.iter().map(|(&partition, state)| {
        let key = PartitionKey { topic: topic.id, partition };
        let led_here = led.get(&key).cloned();
        let failed = failures.get(&key);
        let leader = match state.leader {
            Some(id) if id == seat => Leader::Us,
            Some(id) if image.is_live_seat(id) => Leader::OtherSeat,
            _ => Leader::Real,
        };
        let mut report = led_here
            .unwrap_or_else(|| not_led(image, (partition, state), leader, failed, topic_reason));
        report.leader = state.leader.map(|id| id.0);
        report
    });
    reports.collect()
}

/// Who leads a partition, by the metadata log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Leader {
    /// Our seat.
    Us,
    /// Another seat that lives.
    OtherSeat,
    /// A real broker, or nobody.
    Real,
}

/// How a partition is that the leader task does not lead. What another daemon's seat leads, that daemon
/// tells. What we should lead stands still until its log is known and checked; what a real broker
/// leads is readable and locked, but nothing new arrives.
fn standing(
    leader: Leader,
    failed: Option<&Trouble>,
    topic_reason: Option<Reason>,
) -> (PartitionState, Option<Reason>) {
    match (leader, failed) {
        (Leader::OtherSeat, _) => (PartitionState::Standby, None),
        (_, Some(trouble)) if trouble.is_retried() => {
            (PartitionState::SourceUnavailable, Some(trouble.reason()))
        }
        (_, Some(trouble)) => (PartitionState::Failed, Some(trouble.reason())),
        (_, None) if topic_reason.is_some() => (PartitionState::Failed, topic_reason),
        (Leader::Us, None) => {
            (PartitionState::DestinationUnavailable, Some(Reason::ReplicasOutOfSync))
        }
        (Leader::Real, None) => (PartitionState::DestinationUnavailable, Some(Reason::SeatFenced)),
    }
}

fn not_led(
    image: &Image,
    (partition, known): (i32, &PartitionImage),
    leader: Leader,
    failed: Option<&Failed>,
    topic_reason: Option<Reason>,
) -> PartitionReport {
    let trouble = failed.map(|failed| &failed.trouble);
    let (state, reason) = standing(leader, trouble, topic_reason);
    let seats = image.seats_of(known);
    let mut report = PartitionReport {
        state,
        reason,
        in_sync: known.in_sync.iter().filter(|id| !seats.contains(id)).map(|id| id.0).collect(),
        log_end_offset: failed.map(|failed| failed.log_end.0),
        failure: failed.and_then(|failed| failed.trouble.failure_report()),
        ..PartitionReport::unknown(partition)
    };
    if let Some(failed) = failed {
        failed.trouble.show(&mut report);
    }
    report
}

/// What is readable of a partition that nobody of ours leads.
fn show_ends(report: &mut PartitionReport, ends: Option<&LogBounds>) {
    let Some(ends) = ends.filter(|_| report.state == PartitionState::Failed) else { return };
    report.log_start_offset.get_or_insert(ends.start.0);
    report.high_watermark.get_or_insert(ends.end.0);
    report.log_end_offset.get_or_insert(ends.end.0);
}

fn millis(time: SystemTime) -> i64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::Offset;

    #[test]
    fn what_we_should_lead_and_do_not_know_is_no_standby() {
        let lost = Trouble::Truncated { ours: Offset(174), source_end: Offset(171) };
        let failed = (PartitionState::Failed, Some(Reason::SourceTruncated));
        assert_eq!(standing(Leader::Us, Some(&lost), None), failed);
        assert_eq!(standing(Leader::Real, Some(&lost), None), failed);
        let waits = (PartitionState::DestinationUnavailable, Some(Reason::ReplicasOutOfSync));
        assert_eq!(standing(Leader::Us, None, None), waits);
        let standby = (PartitionState::Standby, None);
        assert_eq!(standing(Leader::OtherSeat, Some(&lost), None), standby, "it tells itself");
    }
}
