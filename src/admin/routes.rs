//! The paths of the API and what each answers.

use axum::extract::{Path, State};
use axum::http::{StatusCode, header};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use super::view::{Link, Links, Mirrors};
use super::{KeptLater, Metrics, Reports, kept, resume};
use crate::mirror::report::{ClusterReport, LinkReport, SeatReport, TopicReport};
use crate::seat::leave::MirrorReplicas;

/// The page reads `/v1` and needs nothing from elsewhere.
const PAGE: &str = include_str!("page.html");
const PAGE_POLICY: &str =
    "default-src 'none'; connect-src 'self'; script-src 'unsafe-inline'; style-src 'unsafe-inline'";

#[derive(Clone)]
pub(super) struct Shared {
    pub(super) reports: Reports,
    metrics: Metrics,
    pub(super) kept: KeptLater,
    leave: mpsc::Sender<MirrorReplicas>,
}

/// What a seat that leaves is to do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LeaveRequest {
    /// Whether it is taken out of the mirrors' replicas too.
    #[serde(default)]
    pub leave_mirrors: bool,
}

/// Body of every answer that is an error: `{"error": {...}}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorBody {
    /// What is wrong.
    pub error: ApiError,
}

/// What is wrong with a request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApiError {
    /// For programs: `LINK_NOT_FOUND`.
    pub code: String,
    /// For people.
    pub message: String,
    /// The topic that it is about.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub topic: Option<String>,
    /// The partition that it is about.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub partition: Option<i32>,
    /// The offset that it is about.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub offset: Option<i64>,
}

#[derive(Debug)]
pub(super) struct Refusal {
    status: StatusCode,
    pub(super) error: ApiError,
}

impl Refusal {
    pub(super) fn new(status: StatusCode, code: &str, message: String) -> Self {
        let code = code.to_owned();
        let error = ApiError { code, message, topic: None, partition: None, offset: None };
        Self { status, error }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        (self.status, Json(ErrorBody { error: self.error })).into_response()
    }
}

/// All paths.
pub fn router(
    reports: Reports,
    kept: KeptLater,
    metrics: Metrics,
    leave_requests: mpsc::Sender<MirrorReplicas>,
) -> Router {
    Router::new()
        .route("/", get(page))
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(ready))
        .route("/metrics", get(scrape))
        .route("/v1/seat", get(seat))
        .route("/v1/seat:leave", post(leave))
        .route("/v1/links", get(links))
        .route("/v1/links/{link}", get(link))
        .route("/v1/links/{link}/mirrors", get(mirrors))
        .route("/v1/links/{link}/{verb}", axum::routing::post(resume::post))
        .route("/v1/links/{link}/mirrors/{topic}", get(mirror))
        .route("/v1/journal", get(kept::journal))
        .route("/v1/events", get(kept::events))
        .route("/v1/operations/{id}", get(kept::operation))
        .fallback(async || {
            let message = "there is nothing at this path".to_owned();
            Refusal::new(StatusCode::NOT_FOUND, "NOT_FOUND", message)
        })
        .method_not_allowed_fallback(async || {
            let message = "this path does not take this method".to_owned();
            Refusal::new(StatusCode::METHOD_NOT_ALLOWED, "METHOD_NOT_ALLOWED", message)
        })
        .with_state(Shared { reports, metrics, kept, leave: leave_requests })
}

async fn page() -> impl IntoResponse {
    ([(header::CONTENT_SECURITY_POLICY, PAGE_POLICY)], Html(PAGE))
}

async fn ready(State(shared): State<Shared>) -> (StatusCode, String) {
    let seat = &shared.reports.borrow().seat;
    if seat.ready {
        return (StatusCode::OK, "ready\n".to_owned());
    }
    let reason = seat.reason.as_deref().unwrap_or("the seat is not ready");
    (StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n"))
}

async fn scrape(State(shared): State<Shared>) -> impl IntoResponse {
    let report = shared.reports.borrow().clone();
    let kind = [(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")];
    (kind, shared.metrics.render(&report))
}

async fn seat(State(shared): State<Shared>) -> Json<SeatReport> {
    Json(shared.reports.borrow().seat.clone())
}

/// Begins to leave: `GET /v1/seat` shows how far it is, and the daemon ends with it.
async fn leave(
    State(shared): State<Shared>,
    Json(request): Json<LeaveRequest>,
) -> Result<StatusCode, Refusal> {
    let mirrors = if request.leave_mirrors { MirrorReplicas::Remove } else { MirrorReplicas::Keep };
    shared.leave.try_send(mirrors).map(|()| StatusCode::ACCEPTED).map_err(|_full_or_gone| {
        let message = "the seat is leaving already, or has not begun".to_owned();
        Refusal::new(StatusCode::CONFLICT, "SEAT_NOT_READY", message)
    })
}

async fn links(State(shared): State<Shared>) -> Json<Links> {
    Json(Links::of(&shared.reports.borrow()))
}

async fn link(
    State(shared): State<Shared>,
    Path(name): Path<String>,
) -> Result<Json<Link>, Refusal> {
    find_link(&shared.reports.borrow(), &name).map(|link| Json(Link::of(link)))
}

async fn mirrors(
    State(shared): State<Shared>,
    Path(name): Path<String>,
) -> Result<Json<Mirrors>, Refusal> {
    find_link(&shared.reports.borrow(), &name).map(|link| Json(Mirrors::of(link)))
}

async fn mirror(
    State(shared): State<Shared>,
    Path((link, topic)): Path<(String, String)>,
) -> Result<Json<TopicReport>, Refusal> {
    let report = shared.reports.borrow();
    let link = find_link(&report, &link)?;
    let found = link.topics.iter().find(|one| one.topic == topic);
    found.cloned().map(Json).ok_or_else(|| {
        let message = format!("link {} has no mirror {topic}", link.name);
        let mut refusal = Refusal::new(StatusCode::NOT_FOUND, "MIRROR_NOT_FOUND", message);
        refusal.error.topic = Some(topic);
        refusal
    })
}

pub(super) fn find_link<'a>(
    report: &'a ClusterReport,
    name: &str,
) -> Result<&'a LinkReport, Refusal> {
    report.links.iter().find(|link| link.name == name).ok_or_else(|| {
        let message = format!("there is no link {name}");
        Refusal::new(StatusCode::NOT_FOUND, "LINK_NOT_FOUND", message)
    })
}
