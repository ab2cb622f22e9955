//! `POST /v1/links/{link}/mirrors:resume-failed`: the operator's word on failed partitions. It is
//! durable before anything is done, with what was found.

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};

use super::kept::{Operation, kept};
use super::routes::{Refusal, Shared, find_link};
use crate::link::operations::decide;
use crate::mirror::filter::TopicFilter;
use crate::mirror::ledger::{
    Ledger, OperationEntry, OperationKind, OperationPartition, OperationState,
};
use crate::mirror::report::{LinkReport, PartitionReport, PartitionState, TopicReport};
use crate::mirror::topic::MirrorState;
use crate::store::StoreError;
use crate::tail::events::now;
use crate::types::{TopicId, Uuid};

/// Which mirrors an operation is about: these, or those of a pattern.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Selection {
    /// By name.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub topics: Option<Vec<String>>,
    /// A literal, `prefix*` or `/regex/`: those of them that have failed.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub pattern: Option<String>,
    /// Only say what it would do.
    #[serde(default)]
    pub dry_run: bool,
}

/// Other verbs come with later versions.
pub(super) async fn post(
    State(shared): State<Shared>,
    Path((link, verb)): Path<(String, String)>,
    Json(selection): Json<Selection>,
) -> Result<Response, Refusal> {
    if verb != "mirrors:resume-failed" {
        let message = format!("there is no {verb}; this version knows mirrors:resume-failed");
        return Err(Refusal::new(StatusCode::NOT_FOUND, "NOT_FOUND", message));
    }
    let (journal, _) = kept(&shared.kept)?;
    let report = find_link(&shared.reports.borrow(), &link)?.clone();
    let ledger = journal.view().borrow().ledger.clone();
    let mut entry = asked(&report, &selection, &ledger)?;
    if selection.dry_run {
        for partition in &mut entry.partitions {
            partition.outcome = decide(partition).ok().map(|decision| format!("would {decision}"));
        }
        return Ok(Json(Operation { id: String::new(), entry }).into_response());
    }
    let id = Uuid::new_v4().to_string();
    journal.write_operation(&id, &entry).await.map_err(not_durable)?;
    Ok((StatusCode::ACCEPTED, Json(Operation { id, entry })).into_response())
}

fn not_durable(error: StoreError) -> Refusal {
    let (status, code) = match &error {
        StoreError::NotOwner | StoreError::Fenced => (StatusCode::CONFLICT, "NOT_OWNER"),
        StoreError::NewerSchema(_) => (StatusCode::CONFLICT, "JOURNAL_NEWER_SCHEMA"),
        _ => (StatusCode::SERVICE_UNAVAILABLE, "JOURNAL_UNREACHABLE"),
    };
    Refusal::new(status, code, format!("{error}; nothing was done"))
}

/// The failed partitions of what was selected, as they are now.
fn asked(
    link: &LinkReport,
    selection: &Selection,
    ledger: &Ledger,
) -> Result<OperationEntry, Refusal> {
    let mut partitions = Vec::new();
    for topic in selected(link, selection)? {
        let failed = failed(topic, topic_id(ledger, link, topic)?);
        if let Some((one, why)) =
            failed.iter().find_map(|one| decide(one).err().map(|why| (one, why)))
        {
            return Err(refused(topic, Some(one.partition), "CANNOT_BE_RESUMED", why));
        }
        partitions.extend(failed);
    }
    if partitions.is_empty() {
        let message = format!("no mirror of link {} that was named has failed", link.name);
        return Err(Refusal::new(StatusCode::CONFLICT, "MIRROR_NOT_FAILED", message));
    }
    let requested = now();
    Ok(OperationEntry {
        operation: OperationKind::ResumeFailed,
        link: link.name.clone(),
        state: OperationState::Running,
        requested,
        since: requested,
        partitions,
    })
}

fn selected<'a>(
    link: &'a LinkReport,
    selection: &Selection,
) -> Result<Vec<&'a TopicReport>, Refusal> {
    let bad = |message: String| Refusal::new(StatusCode::BAD_REQUEST, "BAD_REQUEST", message);
    match (&selection.topics, &selection.pattern) {
        (Some(names), None) => names.iter().map(|name| named(link, name)).collect(),
        (None, Some(pattern)) => {
            let filter = TopicFilter::new(std::slice::from_ref(pattern), &[])
                .map_err(|error| bad(error.to_string()))?;
            let is_wanted = |topic: &&TopicReport| {
                topic.state == MirrorState::Failed && filter.decide(&topic.topic).is_included()
            };
            Ok(link.topics.iter().filter(is_wanted).collect())
        }
        _ => Err(bad("say either topics or pattern".to_owned())),
    }
}

fn named<'a>(link: &'a LinkReport, name: &str) -> Result<&'a TopicReport, Refusal> {
    let Some(topic) = link.topics.iter().find(|topic| topic.topic == name) else {
        let message = format!("link {} has no mirror {name}", link.name);
        let mut refusal = Refusal::new(StatusCode::NOT_FOUND, "MIRROR_NOT_FOUND", message);
        refusal.error.topic = Some(name.to_owned());
        return Err(refusal);
    };
    if topic.state != MirrorState::Failed {
        let text = format!("it is {}", topic.state);
        return Err(refused(topic, None, "MIRROR_NOT_FAILED", text));
    }
    Ok(topic)
}

fn refused(topic: &TopicReport, partition: Option<i32>, code: &str, why: String) -> Refusal {
    let message = format!("resume mirror {}: {why}", topic.topic);
    let mut refusal = Refusal::new(StatusCode::CONFLICT, code, message);
    refusal.error.topic = Some(topic.topic.clone());
    refusal.error.partition = partition;
    refusal
}

/// A mirror is its id: the word holds for this one, not for another that gets its name.
fn topic_id(ledger: &Ledger, link: &LinkReport, topic: &TopicReport) -> Result<TopicId, Refusal> {
    let is_it = |entry: &crate::mirror::ledger::MirrorEntry| {
        entry.link == link.name && entry.topic == topic.topic
    };
    let found = ledger.mirrors.iter().find(|(_, entry)| is_it(entry)).map(|(id, _)| *id);
    found.ok_or_else(|| {
        let why = "it was never a mirror of this link, or the journal is not read yet".to_owned();
        refused(topic, None, "CANNOT_BE_RESUMED", why)
    })
}

/// Where the topic as a whole has failed, every partition that does not go on.
fn failed(topic: &TopicReport, id: TopicId) -> Vec<OperationPartition> {
    let is_failed = |one: &&PartitionReport| one.state == PartitionState::Failed;
    let whole = !topic.partitions.iter().any(|one| is_failed(&one));
    let concerned = topic.partitions.iter().filter(|one| whole || is_failed(one));
    let partition = |one: &PartitionReport| OperationPartition {
        topic: topic.topic.clone(),
        topic_id: id,
        partition: one.partition,
        reason: if whole { topic.reason } else { one.reason },
        offset: one.failure.as_ref().and_then(|failure| failure.offset),
        source_offset: one.failure.as_ref().and_then(|failure| failure.source_offset),
        outcome: None,
    };
    concerned.map(partition).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mirror::ledger::MirrorEntry;
    use crate::mirror::report::{FailureReport, LinkState, Reason};

    fn failed_partition(number: i32, reason: Reason) -> PartitionReport {
        let failure =
            FailureReport { offset: Some(20), source_offset: Some(10), text: String::new() };
        PartitionReport {
            state: PartitionState::Failed,
            reason: Some(reason),
            failure: Some(failure),
            ..PartitionReport::unknown(number)
        }
    }

    fn link(reason: Reason) -> LinkReport {
        let good = PartitionReport {
            state: PartitionState::InSync,
            reason: None,
            ..PartitionReport::unknown(0)
        };
        let topic = |name: &str, state, partitions| TopicReport {
            topic: name.to_owned(),
            source_topic: name.to_owned(),
            state,
            reason: Some(reason),
            since: 0,
            partitions,
        };
        let bad = failed_partition(1, reason);
        LinkReport {
            name: "east".to_owned(),
            state: LinkState::Active,
            reason: None,
            since: 0,
            topics: vec![
                topic("orders", MirrorState::Failed, vec![good.clone(), bad]),
                topic("payments", MirrorState::Active, vec![good]),
            ],
        }
    }

    fn ledger() -> Ledger {
        let mut ledger = Ledger::default();
        for (number, name) in [(1, "orders"), (2, "payments")] {
            let id = TopicId(Uuid::from_u128(number));
            let entry = MirrorEntry {
                link: "east".to_owned(),
                topic: name.to_owned(),
                source_topic: name.to_owned(),
                source_topic_id: id,
                state: MirrorState::Active,
                reason: None,
                since: 0,
                restore: Default::default(),
            };
            ledger.mirrors.insert(id, entry);
        }
        ledger
    }

    fn code(reason: Reason, selection: Selection) -> String {
        asked(&link(reason), &selection, &ledger()).unwrap_err().error.code
    }

    fn topics(names: &[&str]) -> Selection {
        let names = names.iter().map(|name| (*name).to_owned()).collect();
        Selection { topics: Some(names), ..Selection::default() }
    }

    #[test]
    fn the_word_is_about_failed_partitions_as_they_were_found() {
        let by_pattern = Selection { pattern: Some("*".to_owned()), ..Selection::default() };
        for selection in [topics(&["orders"]), by_pattern] {
            let entry = asked(&link(Reason::SourceTruncated), &selection, &ledger()).unwrap();
            let found: Vec<_> = entry
                .partitions
                .iter()
                .map(|one| (one.topic.as_str(), one.partition, one.offset, one.source_offset))
                .collect();
            assert_eq!(found, [("orders", 1, Some(20), Some(10))]);
        }
    }

    #[test]
    fn what_has_not_failed_or_cannot_be_resumed_is_refused() {
        let reason = Reason::SourceTruncated;
        assert_eq!(code(reason, topics(&["payments"])), "MIRROR_NOT_FAILED");
        assert_eq!(code(reason, topics(&["none"])), "MIRROR_NOT_FOUND");
        assert_eq!(code(reason, Selection::default()), "BAD_REQUEST");
        let nothing = Selection { pattern: Some("x*".to_owned()), ..Selection::default() };
        assert_eq!(code(reason, nothing), "MIRROR_NOT_FAILED");
        let foreign = Reason::DestinationForeignWrite;
        assert_eq!(code(foreign, topics(&["orders"])), "CANNOT_BE_RESUMED");
        let unknown = asked(&link(reason), &topics(&["orders"]), &Ledger::default());
        assert_eq!(unknown.unwrap_err().error.code, "CANNOT_BE_RESUMED");
    }
}
