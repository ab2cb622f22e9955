//! Carries out what an operator asked for, once it is durable: hands the decisions over until the
//! partitions go on, and notes what became of them. Whatever was under way when the daemon died is
//! taken up again; decisions may be applied twice.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::mirror::decision::{self, Decision, Failure};
use crate::mirror::event::{Event, EventKind};
use crate::mirror::ledger::{OperationEntry, OperationPartition, OperationState};
use crate::mirror::report::{LinkReport, PartitionReport, PartitionState};
use crate::seat::leader::LeaderHandle;
use crate::store::{JournalHandle, View};
use crate::tail::events::{Events, now};
use crate::types::{LinkName, Offset, PartitionKey};

/// Between looks at what became of it.
const INTERVAL: Duration = Duration::from_secs(1);
/// A decision that has no effect is applied again after so many looks.
const REPEAT: u64 = 5;

/// The operations of one link.
#[derive(Debug)]
pub(super) struct Operations {
    pub(super) link: LinkName,
    pub(super) journal: JournalHandle,
    pub(super) leader: LeaderHandle,
    pub(super) reports: watch::Receiver<LinkReport>,
    pub(super) events: Events,
}

impl Operations {
    /// Runs until told to stop.
    pub(super) async fn run(self, stop: CancellationToken) {
        let mut view = self.journal.view();
        for look in 0u64.. {
            let present: Arc<View> = view.borrow_and_update().clone();
            let report = self.reports.borrow().clone();
            let link = self.link.to_string();
            let running = present.ledger.operations.iter().filter(|(_, operation)| {
                operation.link == link && operation.state == OperationState::Running
            });
            for (id, operation) in running {
                self.carry_out(id, operation, &report, look).await;
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(INTERVAL) => {}
            }
        }
    }

    async fn carry_out(
        &self,
        id: &str,
        operation: &OperationEntry,
        report: &LinkReport,
        look: u64,
    ) {
        let mut after = operation.clone();
        let mut decisions = Vec::new();
        for partition in &mut after.partitions {
            match step(partition, find(report, partition)) {
                Step::Settled(outcome) => partition.outcome = Some(outcome),
                Step::Decide(decision) => {
                    let key =
                        PartitionKey { topic: partition.topic_id, partition: partition.partition };
                    decisions.push((key, decision));
                }
                Step::Wait => {}
            }
        }
        if !decisions.is_empty() && look.is_multiple_of(REPEAT) {
            self.leader.decide(decisions).await;
        }
        if after.partitions.iter().all(|partition| partition.outcome.is_some()) {
            let all = after.partitions.iter().all(|one| one.outcome.as_deref() == Some(GOES_ON));
            after.state = if all { OperationState::Done } else { OperationState::Failed };
        }
        if after == *operation {
            return;
        }
        after.since = now();
        let settled = |one: &&OperationPartition| one.outcome.as_deref() == Some(GOES_ON);
        for (one, before) in after.partitions.iter().zip(&operation.partitions) {
            if before.outcome.is_none() && settled(&one) {
                self.tell(id, one);
            }
        }
        if let Err(error) = self.journal.write_operation(id, &after).await {
            tracing::info!(link = %self.link, operation = id, %error, "outcome not noted; trying on");
        }
    }

    fn tell(&self, id: &str, partition: &OperationPartition) {
        let text = format!("goes on by an operator's word (operation {id})");
        let event = Event::new(EventKind::PartitionResumed, text)
            .link(&self.link)
            .topic(&partition.topic.as_str().into())
            .partition(partition.partition);
        self.events.send(event);
    }
}

/// The one good outcome.
const GOES_ON: &str = "goes on";

#[derive(Debug, PartialEq, Eq)]
enum Step {
    /// Nothing more to be done.
    Settled(String),
    /// This is what the operator's word means.
    Decide(Decision),
    /// It cannot be seen now how the partition is.
    Wait,
}

/// What is to be done for one partition. The operator's word covers what was found then, nothing else.
fn step(asked: &OperationPartition, present: Option<&PartitionReport>) -> Step {
    if let Some(outcome) = &asked.outcome {
        return Step::Settled(outcome.clone());
    }
    let Some(present) = present else { return Step::Wait };
    match present.state {
        // Before the source has answered nobody knows: the failure may be found again.
        PartitionState::InSync | PartitionState::CatchingUp
            if present.source_end_offset.is_some() =>
        {
            return Step::Settled(GOES_ON.to_owned());
        }
        PartitionState::Failed => {}
        _ => return Step::Wait,
    }
    let failure = present.failure.as_ref();
    let found = OperationPartition {
        reason: present.reason,
        offset: failure.and_then(|failure| failure.offset),
        source_offset: failure.and_then(|failure| failure.source_offset),
        ..asked.clone()
    };
    match decide(asked) {
        // After a restart the same may have been found by other evidence: what it comes to counts.
        Ok(decision) if found.reason == asked.reason && decide(&found) == Ok(decision) => {
            Step::Decide(decision)
        }
        Ok(_) => {
            let text = failure.map_or("", |failure| &failure.text);
            Step::Settled(format!("has failed otherwise meanwhile, say it again: {text}"))
        }
        Err(refused) => Step::Settled(refused),
    }
}

/// What an operator's word means for a partition as it was found; `Err` says why it means nothing.
pub fn decide(found: &OperationPartition) -> Result<Decision, String> {
    let reason = found.reason.ok_or("it has no reason")?;
    let (ours, source) = (found.offset.map(Offset), found.source_offset.map(Offset));
    decision::decide(Failure { reason, ours, source }).map_err(|refused| refused.to_string())
}

fn find<'a>(report: &'a LinkReport, asked: &OperationPartition) -> Option<&'a PartitionReport> {
    let topics: BTreeMap<_, _> = report.topics.iter().map(|one| (&one.topic, one)).collect();
    let topic = topics.get(&asked.topic)?;
    topic.partitions.iter().find(|one| one.partition == asked.partition)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mirror::report::{FailureReport, Reason};
    use crate::types::{TopicId, Uuid};

    fn asked() -> OperationPartition {
        OperationPartition {
            topic: "orders".to_owned(),
            topic_id: TopicId(Uuid::from_u128(1)),
            partition: 0,
            reason: Some(Reason::SourceGap),
            offset: Some(5),
            source_offset: Some(9),
            outcome: None,
        }
    }

    fn present(state: PartitionState, source_offset: i64) -> PartitionReport {
        let (offset, source_offset) = (Some(5), Some(source_offset));
        PartitionReport {
            state,
            reason: Some(Reason::SourceGap),
            failure: Some(FailureReport { offset, source_offset, text: "gone".to_owned() }),
            ..PartitionReport::unknown(0)
        }
    }

    #[test]
    fn an_operators_word_covers_what_was_found_and_nothing_else() {
        let go_on = Decision::GoOn { ours: Offset(5), source_start: Offset(9) };
        assert_eq!(step(&asked(), Some(&present(PartitionState::Failed, 9))), Step::Decide(go_on));
        let Step::Settled(other) = step(&asked(), Some(&present(PartitionState::Failed, 12)))
        else {
            panic!("a larger gap was accepted");
        };
        assert!(other.contains("otherwise"), "{other}");
        let mut goes_on = present(PartitionState::CatchingUp, 9);
        assert_eq!(step(&asked(), Some(&goes_on)), Step::Wait, "after a restart it may fail again");
        goes_on.source_end_offset = Some(20);
        assert_eq!(step(&asked(), Some(&goes_on)), Step::Settled(GOES_ON.to_owned()));
        for waits in [PartitionState::SourceUnavailable, PartitionState::DestinationUnavailable] {
            assert_eq!(step(&asked(), Some(&present(waits, 9))), Step::Wait);
        }
        assert_eq!(step(&asked(), None), Step::Wait);
    }

    #[test]
    fn a_truncation_is_the_same_by_whatever_evidence_it_is_found_again() {
        let truncated = |reason, offset, source_offset| OperationPartition {
            reason,
            offset: Some(offset),
            source_offset: Some(source_offset),
            ..asked()
        };
        let asked = truncated(Some(Reason::SourceTruncated), 5, 3);
        let mut found = present(PartitionState::Failed, 2);
        found.reason = asked.reason;
        let decision = Decision::Truncate { ours: Offset(5) };
        assert_eq!(step(&asked, Some(&found)), Step::Decide(decision));
        let grown = truncated(Some(Reason::SourceTruncated), 4, 2);
        assert!(matches!(step(&grown, Some(&found)), Step::Settled(_)), "more would be given up");
    }

    #[test]
    fn what_cannot_be_resumed_says_why() {
        let foreign =
            OperationPartition { reason: Some(Reason::DestinationForeignWrite), ..asked() };
        assert!(decide(&foreign).unwrap_err().contains("DESTINATION_FOREIGN_WRITE"));
    }
}
