//! What is durable, as the API shows it: the journal's state, operations, and the log of events.

use axum::Json;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};

use super::routes::{Refusal, Shared};
use super::{Kept, KeptLater};
use crate::mirror::ledger::{LEDGER_SCHEMA, OperationEntry};
use crate::store::{EventPage, EventQuery, JournalState};

/// The journal, in short.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JournalView {
    /// `Unread`, `Current` or `NewerSchema`.
    pub state: String,
    /// Whether this daemon writes it.
    pub is_owner: bool,
    /// The schema that this daemon writes.
    pub schema: u32,
    /// The newest schema in it, where that is newer than ours: it is not written then.
    pub newer_schema: Option<u32>,
    /// Links that are pinned.
    pub links: usize,
    /// Mirrors that are pinned.
    pub mirrors: usize,
    /// Partitions whose source epochs it has.
    pub lineages: usize,
    /// Operations that are remembered.
    pub operations: usize,
}

/// An operation and its id.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Operation {
    /// Its id.
    pub id: String,
    /// What was asked for, and how far it has come.
    #[serde(flatten)]
    pub entry: OperationEntry,
}

pub(super) async fn journal(State(shared): State<Shared>) -> Result<Json<JournalView>, Refusal> {
    let (journal, _) = kept(&shared.kept)?;
    let is_owner = *journal.is_owner().borrow();
    let view = journal.view().borrow().clone();
    let (state, newer_schema) = match view.state {
        JournalState::Unread => ("Unread", None),
        JournalState::Absent => ("Absent", None),
        JournalState::Current => ("Current", None),
        JournalState::Newer(schema) => ("NewerSchema", Some(schema)),
    };
    Ok(Json(JournalView {
        state: state.to_owned(),
        is_owner,
        schema: LEDGER_SCHEMA,
        newer_schema,
        links: view.ledger.links.len(),
        mirrors: view.ledger.mirrors.len(),
        lineages: view.ledger.lineages.len(),
        operations: view.ledger.operations.len(),
    }))
}

pub(super) async fn events(
    State(shared): State<Shared>,
    Query(query): Query<EventQuery>,
) -> Result<Json<EventPage>, Refusal> {
    let (_, events) = kept(&shared.kept)?;
    Ok(Json(events.ask(query).await))
}

pub(super) async fn operation(
    State(shared): State<Shared>,
    Path(id): Path<String>,
) -> Result<Json<Operation>, Refusal> {
    let (journal, _) = kept(&shared.kept)?;
    let view = journal.view().borrow().clone();
    match view.ledger.operations.get(&id) {
        Some(entry) => Ok(Json(Operation { id, entry: entry.clone() })),
        None => {
            let message = format!("there is no operation {id}; the last 100 are remembered");
            Err(Refusal::new(StatusCode::NOT_FOUND, "OPERATION_NOT_FOUND", message))
        }
    }
}

pub(super) fn kept(later: &KeptLater) -> Result<Kept, Refusal> {
    later.borrow().clone().ok_or_else(|| {
        let message = "the destination was not found yet; ask again".to_owned();
        Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "DESTINATION_UNREACHABLE", message)
    })
}
