//! Since when mirrors are as they are, and whether a failure is over: what the journal remembers from
//! before the daemon started counts on. Decides nothing about partitions.

use std::collections::HashMap;

use crate::mirror::ledger::{Ledger, Note};
use crate::mirror::report::{PartitionState, Reason, TopicReport};
use crate::mirror::topic::MirrorState;
use crate::types::TopicId;

/// How a mirror was seen last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Standing {
    state: MirrorState,
    reason: Option<Reason>,
    since: i64,
}

/// What was said of each mirror.
#[derive(Debug, Default)]
pub(super) struct Since {
    known: HashMap<String, Standing>,
}

impl Since {
    /// Forgets mirrors that are not reported any more.
    pub(super) fn retain(&mut self, topics: &[TopicReport]) {
        self.known.retain(|name, _| topics.iter().any(|topic| topic.topic == *name));
    }

    /// Puts into the report since when it is so, and tells what the journal has to note of it.
    pub(super) fn settle(
        &mut self,
        topic: &mut TopicReport,
        id: Option<TopicId>,
        ledger: &Ledger,
        now: i64,
    ) -> Option<Note> {
        let journalled = id.and_then(|id| ledger.mirrors.get(&id)).map(|entry| Standing {
            state: entry.state,
            reason: entry.reason,
            since: entry.since,
        });
        let before = self.known.get(&topic.topic).copied().or(journalled);
        if let Some(before) = before.filter(|before| before.state == MirrorState::Failed)
            && topic.state == MirrorState::Active
            && !goes_on(topic)
        {
            // Not looked at yet since the start, or unreachable: nothing says that it is over.
            (topic.state, topic.reason) = (before.state, before.reason);
        }
        let is_same = |one: &Standing| (one.state, one.reason) == (topic.state, topic.reason);
        let first = if before.is_none() { topic.since } else { now };
        topic.since = [journalled, before]
            .into_iter()
            .flatten()
            .find(is_same)
            .map_or(first, |standing| standing.since);
        let (state, reason, since) = (topic.state, topic.reason, topic.since);
        self.known.insert(topic.topic.clone(), Standing { state, reason, since });
        let is_known = journalled.is_none_or(|one| is_same(&one));
        let topic_id = id.filter(|_| !is_known)?;
        Some(Note::State { topic_id, state, reason, since })
    }
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
    use crate::mirror::report::PartitionReport;
    use crate::types::Uuid;

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
        let note = since.settle(&mut topic, Some(ID), ledger, 90);
        (topic, note.is_some())
    }

    #[test]
    fn what_the_journal_says_counts_on() {
        let active = report(MirrorState::Active, PartitionState::InSync);
        let ledger = ledger(MirrorState::Active, 7);
        let (topic, is_noted) = settle(&mut Since::default(), active, &ledger);
        assert_eq!((topic.since, is_noted), (7, false));
    }

    #[test]
    fn a_failure_lasts_until_every_partition_goes_on() {
        let (mut since, failed) = (Since::default(), ledger(MirrorState::Failed, 7));
        let waiting = report(MirrorState::Active, PartitionState::DestinationUnavailable);
        let (topic, is_noted) = settle(&mut since, waiting, &failed);
        assert_eq!((topic.state, topic.since, is_noted), (MirrorState::Failed, 7, false));
        assert_eq!(topic.reason, Some(Reason::SourceTruncated));
        let active = report(MirrorState::Active, PartitionState::CatchingUp);
        let (topic, is_noted) = settle(&mut since, active.clone(), &failed);
        assert_eq!((topic.state, topic.since, is_noted), (MirrorState::Active, 90, true));
        let (topic, _) = settle(&mut since, active, &ledger(MirrorState::Active, 90));
        assert_eq!(topic.since, 90);
    }

    #[test]
    fn a_mirror_without_entry_keeps_its_own_time() {
        let mut since = Since::default();
        let active = report(MirrorState::Active, PartitionState::InSync);
        let (topic, is_noted) = settle(&mut since, active.clone(), &Ledger::default());
        assert_eq!((topic.since, is_noted), (50, false));
        let failed = report(MirrorState::Failed, PartitionState::Failed);
        let (topic, _) = settle(&mut since, failed, &Ledger::default());
        assert_eq!(topic.since, 90);
    }
}
