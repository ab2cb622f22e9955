//! Since when mirrors are as they are, and whether a failure is over: what the journal remembers from
//! before the daemon started counts on. Decides nothing about partitions.

use std::collections::HashMap;

use crate::mirror::ledger::{FailedPartition, Ledger, Note, StandingEntry};
use crate::mirror::report::{PartitionReport, PartitionState, TopicReport};
use crate::mirror::topic::MirrorState;
use crate::types::{BrokerId, TopicId};

/// What was said of each mirror.
#[derive(Debug)]
pub(super) struct Since {
    seat: BrokerId,
    known: HashMap<String, StandingEntry>,
}

impl Since {
    /// Nothing was said yet.
    pub(super) fn new(seat: BrokerId) -> Self {
        Self { seat, known: HashMap::new() }
    }

    /// Forgets mirrors that are not reported any more.
    pub(super) fn retain(&mut self, topics: &[TopicReport]) {
        self.known.retain(|name, _| topics.iter().any(|topic| topic.topic == *name));
    }

    /// Puts into the report since when it is so, and tells what the journal has to note of it.
    /// `leader_epoch`: of a partition, at the destination.
    pub(super) fn settle(
        &mut self,
        topic: &mut TopicReport,
        id: Option<TopicId>,
        ledger: &Ledger,
        leader_epoch: impl Fn(i32) -> i32,
        now: i64,
    ) -> Option<Note> {
        let own = id.and_then(|id| ledger.standings.get(&(id, self.seat)));
        let journalled = own.cloned().or_else(|| {
            let entry = ledger.mirrors.get(&id?)?;
            let (state, reason, since) = (entry.state, entry.reason, entry.since);
            Some(StandingEntry { state, reason, since, failed: Vec::new() })
        });
        let before = self.known.get(&topic.topic).cloned().or_else(|| journalled.clone());
        if let Some(before) = before.as_ref().filter(|before| before.state == MirrorState::Failed)
            && topic.state == MirrorState::Active
            && !goes_on(topic)
        {
            // Not looked at yet since the start, or unreachable: nothing says that it is over.
            (topic.state, topic.reason) = (before.state, before.reason);
        }
        let is_same = |one: &&StandingEntry| (one.state, one.reason) == (topic.state, topic.reason);
        let first = if before.is_none() { topic.since } else { now };
        let known = [journalled.as_ref(), before.as_ref()].into_iter().flatten().find(is_same);
        topic.since = known.map_or(first, |standing| standing.since);
        let earlier = before.as_ref().map_or(&[][..], |before| &before.failed);
        let entry = StandingEntry {
            state: topic.state,
            reason: topic.reason,
            since: topic.since,
            failed: failed(topic, earlier, leader_epoch),
        };
        self.known.insert(topic.topic.clone(), entry.clone());
        (own != Some(&entry)).then_some(Note::Standing(id?, entry))
    }
}

/// Partitions that have failed, and those that had `earlier` and are not read on.
fn failed(
    topic: &TopicReport,
    earlier: &[FailedPartition],
    leader_epoch: impl Fn(i32) -> i32,
) -> Vec<FailedPartition> {
    let states = [PartitionState::InSync, PartitionState::CatchingUp];
    let is_read = |report: &PartitionReport| {
        states.contains(&report.state) && report.source_end_offset.is_some()
    };
    let failed = topic.partitions.iter().filter_map(|report| {
        let before = earlier.iter().find(|one| one.partition == report.partition).copied();
        if report.state != PartitionState::Failed {
            return before.filter(|_| !is_read(report));
        }
        let failure = report.failure.as_ref();
        let mut found = FailedPartition {
            partition: report.partition,
            leader_epoch: leader_epoch(report.partition),
            reason: report.reason,
            offset: failure.and_then(|failure| failure.offset),
            source_offset: failure.and_then(|failure| failure.source_offset),
        };
        // A new leader epoch alone is no news.
        let same = before.map(|before| (before.reason, before.offset, before.source_offset));
        if let Some(before) =
            before.filter(|_| same == Some((found.reason, found.offset, found.source_offset)))
        {
            found.leader_epoch = before.leader_epoch;
        }
        Some(found)
    });
    failed.collect()
}

/// Whether every partition is read from the source, or another seat leads it and tells of it.
fn goes_on(topic: &TopicReport) -> bool {
    let states = [PartitionState::InSync, PartitionState::CatchingUp, PartitionState::Standby];
    topic.partitions.iter().all(|partition| states.contains(&partition.state))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mirror::ledger::{Fact, MirrorEntry, Record};
    use crate::mirror::report::{FailureReport, Reason};
    use crate::types::Uuid;

    const SEAT: BrokerId = BrokerId(9001);
    const ID: TopicId = TopicId(Uuid::from_u128(1));

    fn report(state: MirrorState, partition: PartitionState) -> TopicReport {
        let reason = (state == MirrorState::Failed).then_some(Reason::SourceTruncated);
        TopicReport {
            topic: "orders".to_owned(),
            source_topic: "orders".to_owned(),
            state,
            reason,
            since: 50,
            partitions: vec![PartitionReport { state: partition, ..PartitionReport::unknown(0) }],
        }
    }

    fn ledger(state: MirrorState, since: i64) -> Ledger {
        let mut ledger = Ledger::default();
        let entry = MirrorEntry {
            link: "east".to_owned(),
            topic: "orders".to_owned(),
            source_topic: "orders".to_owned(),
            source_topic_id: ID,
            state,
            reason: (state == MirrorState::Failed).then_some(Reason::SourceTruncated),
            since,
            restore: Default::default(),
        };
        ledger.apply(Record::Fact(Fact::Mirror(ID, entry)));
        ledger
    }

    fn settle(since: &mut Since, mut topic: TopicReport, ledger: &Ledger) -> (TopicReport, bool) {
        let note = since.settle(&mut topic, Some(ID), ledger, |_| 4, 90);
        (topic, note.is_some())
    }

    fn own(ledger: &mut Ledger, topic: &TopicReport, failed: Vec<FailedPartition>) {
        let (state, reason, since) = (topic.state, topic.reason, topic.since);
        let entry = StandingEntry { state, reason, since, failed };
        ledger.apply(Record::Fact(Fact::Standing(ID, SEAT, entry)));
    }

    #[test]
    fn what_the_journal_says_counts_on() {
        let active = report(MirrorState::Active, PartitionState::InSync);
        let mut ledger = ledger(MirrorState::Active, 7);
        let (topic, is_noted) = settle(&mut Since::new(SEAT), active.clone(), &ledger);
        assert_eq!((topic.since, is_noted), (7, true), "each seat says it for itself");
        own(&mut ledger, &topic, Vec::new());
        let (topic, is_noted) = settle(&mut Since::new(SEAT), active, &ledger);
        assert_eq!((topic.since, is_noted), (7, false));
    }

    #[test]
    fn a_failure_lasts_until_every_partition_goes_on() {
        let (mut since, failed) = (Since::new(SEAT), ledger(MirrorState::Failed, 7));
        let waiting = report(MirrorState::Active, PartitionState::DestinationUnavailable);
        let (topic, _) = settle(&mut since, waiting, &failed);
        assert_eq!((topic.state, topic.since), (MirrorState::Failed, 7));
        assert_eq!(topic.reason, Some(Reason::SourceTruncated));
        let active = report(MirrorState::Active, PartitionState::CatchingUp);
        let (topic, is_noted) = settle(&mut since, active.clone(), &failed);
        assert_eq!((topic.state, topic.since, is_noted), (MirrorState::Active, 90, true));
        let (topic, _) = settle(&mut since, active, &ledger(MirrorState::Active, 90));
        assert_eq!(topic.since, 90);
    }

    #[test]
    fn what_failed_is_remembered_until_the_partition_is_read_again() {
        let found =
            FailureReport { offset: Some(20), source_offset: Some(10), text: "gone".to_owned() };
        let mut topic = report(MirrorState::Failed, PartitionState::Failed);
        topic.partitions[0].reason = topic.reason;
        topic.partitions[0].failure = Some(found);
        let told = |since: &mut Since, topic: &TopicReport| {
            let note = since.settle(&mut topic.clone(), Some(ID), &Ledger::default(), |_| 4, 90);
            let Some(Note::Standing(_, entry)) = note else { panic!("nothing is noted") };
            entry.failed.iter().map(|one| (one.leader_epoch, one.offset)).collect::<Vec<_>>()
        };
        let mut since = Since::new(SEAT);
        assert_eq!(told(&mut since, &topic), [(4, Some(20))]);
        topic.partitions[0].failure = None;
        for waits in [PartitionState::SourceUnavailable, PartitionState::CatchingUp] {
            topic.partitions[0].state = waits;
            assert_eq!(told(&mut since, &topic), [(4, Some(20))], "not looked at: {waits}");
        }
        topic.partitions[0].source_end_offset = Some(30);
        assert_eq!(told(&mut since, &topic), [(0, None); 0]);
    }

    #[test]
    fn a_mirror_without_entry_keeps_its_own_time() {
        let mut since = Since::new(SEAT);
        let active = report(MirrorState::Active, PartitionState::InSync);
        let (topic, is_noted) = settle(&mut since, active.clone(), &Ledger::default());
        assert_eq!((topic.since, is_noted), (50, true));
        let failed = report(MirrorState::Failed, PartitionState::Failed);
        let (topic, _) = settle(&mut since, failed, &Ledger::default());
        assert_eq!(topic.since, 90);
    }
}
