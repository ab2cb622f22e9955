//! The API over real HTTP.

use super::view::{Links, Mirrors};
use super::*;
use crate::mirror::ledger::{OperationEntry, OperationKind, OperationState};
use crate::mirror::report::{
    LinkReport, LinkState, PartitionReport, PartitionState, Reason, SeatReport, TopicReport,
};
use crate::mirror::topic::MirrorState;
use crate::store::{JournalState, View};

fn partition(number: i32, source_end: i64, high_watermark: i64) -> PartitionReport {
    let lag = u64::try_from(source_end - high_watermark).unwrap();
    PartitionReport {
        partition: number,
        state: if lag == 0 { PartitionState::InSync } else { PartitionState::CatchingUp },
        reason: None,
        leader: Some(9001),
        leader_epoch: 3,
        source_end_offset: Some(source_end),
        log_start_offset: Some(0),
        source_log_start_offset: Some(0),
        high_watermark: Some(high_watermark),
        log_end_offset: Some(high_watermark),
        lag_records: Some(lag),
        lag_seconds: Some(if lag == 0 { 0.0 } else { 1.5 }),
        bytes_total: 1000,
        records_total: 10,
        batches_total: 2,
        in_sync: vec![1, 2],
        failure: None,
    }
}

fn report() -> ClusterReport {
    let orders = TopicReport {
        topic: "orders".to_owned(),
        source_topic: "orders".to_owned(),
        state: MirrorState::Active,
        reason: None,
        since: 5,
        partitions: vec![partition(0, 40, 40), partition(1, 60, 53)],
    };
    let exists = TopicReport {
        topic: "exists".to_owned(),
        state: MirrorState::Failed,
        reason: Some(Reason::DestinationTopicExists),
        partitions: Vec::new(),
        ..orders.clone()
    };
    ClusterReport {
        seat: SeatReport {
            broker_id: 9001,
            fenced: false,
            metadata_offset: 7,
            ready: true,
            reason: None,
            ..SeatReport::default()
        },
        links: vec![LinkReport {
            name: "east".to_owned(),
            state: LinkState::Active,
            reason: None,
            since: 4,
            topics: vec![orders, exists],
        }],
    }
}

/// A journal that remembers one operation, and no events.
fn kept() -> KeptLater {
    let operation = OperationEntry {
        operation: OperationKind::ResumeFailed,
        link: "east".to_owned(),
        state: OperationState::Done,
        requested: 1,
        since: 2,
        partitions: Vec::new(),
    };
    let mut view = View { state: JournalState::Newer(7), ..View::default() };
    view.ledger.operations.insert("17".to_owned(), operation);
    watch::channel(Some((JournalHandle::fixed(view), RecentEvents::empty()))).1
}

/// Status and body of each path, from a server of its own that also stops.
async fn answers(report: ClusterReport, paths: &[&str]) -> Vec<(u16, String)> {
    let admin = Admin::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let address = admin.address();
    let (_reporter, reports) = watch::channel(Arc::new(report));
    let stop = CancellationToken::new();
    let leave = mpsc::channel(1).0;
    let served =
        tokio::spawn(admin.serve(reports, kept(), Metrics::detached(), leave, stop.clone()));
    let urls: Vec<_> = paths.iter().map(|path| format!("http://{address}{path}")).collect();
    let asked = tokio::task::spawn_blocking(move || {
        let agent: ureq::Agent =
            ureq::Agent::config_builder().http_status_as_error(false).build().into();
        let ask = |url: &String| {
            let mut answer = agent.get(url).call().unwrap();
            (answer.status().as_u16(), answer.body_mut().read_to_string().unwrap())
        };
        urls.iter().map(ask).collect()
    });
    let answers = asked.await.unwrap();
    stop.cancel();
    served.await.unwrap();
    answers
}

#[tokio::test]
async fn readiness_gives_its_reason() {
    let found = answers(report(), &["/healthz", "/readyz"]).await;
    assert_eq!(found, [(200, "ok\n".to_owned()), (200, "ready\n".to_owned())]);
    let found = answers(ClusterReport::default(), &["/healthz", "/readyz"]).await;
    assert_eq!(found, [(200, "ok\n".to_owned()), (503, "starting\n".to_owned())]);
}

#[tokio::test]
async fn links_and_mirrors_are_summed_up() {
    let paths = ["/v1/links", "/v1/links/east", "/v1/links/east/mirrors"];
    let found = answers(report(), &paths).await;
    let links: Links = serde_json::from_str(&found[0].1).unwrap();
    assert_eq!(links.seat.broker_id, 9001);
    let link: view::Link = serde_json::from_str(&found[1].1).unwrap();
    assert_eq!(links.links, std::slice::from_ref(&link));
    assert_eq!(link.mirrors[&MirrorState::Active], 1);
    assert_eq!(link.mirrors[&MirrorState::Failed], 1);
    assert_eq!(link.progress.lag_records, Some(7));
    assert_eq!(link.progress.lag_bytes, Some(700));
    assert!(found[1].1.contains("\"lag_records\":7"), "{}", found[1].1);
    let Mirrors { mirrors } = serde_json::from_str(&found[2].1).unwrap();
    assert_eq!(mirrors[0].reason, Some(Reason::DestinationTopicExists));
    assert_eq!(mirrors[1].worst_partition, Some(1));
    assert_eq!(mirrors[1].progress.source_end_offset_sum, 100);
}

#[tokio::test]
async fn a_mirror_is_shown_with_its_partitions() {
    let found = answers(report(), &["/v1/links/east/mirrors/orders"]).await;
    let topic: TopicReport = serde_json::from_str(&found[0].1).unwrap();
    assert_eq!(topic, report().links[0].topics[0]);
}

#[tokio::test]
async fn the_journal_and_its_operations_are_shown() {
    let paths = ["/v1/journal", "/v1/operations/17", "/v1/operations/18", "/v1/events?limit=x"];
    let found = answers(report(), &paths).await;
    let journal: kept::JournalView = serde_json::from_str(&found[0].1).unwrap();
    assert_eq!((journal.state.as_str(), journal.newer_schema), ("NewerSchema", Some(7)));
    let operation: kept::Operation = serde_json::from_str(&found[1].1).unwrap();
    assert_eq!((operation.id.as_str(), operation.entry.since), ("17", 2));
    assert_eq!((found[2].0, found[3].0), (404, 400));
    assert!(found[2].1.contains("OPERATION_NOT_FOUND"), "{}", found[2].1);
}

#[tokio::test]
async fn errors_have_a_code_and_a_text() {
    let paths = ["/v1/links/west", "/v1/links/east/mirrors/none", "/nowhere"];
    let found = answers(report(), &paths).await;
    let codes: Vec<_> = found
        .iter()
        .map(|(status, body)| {
            let body: ErrorBody = serde_json::from_str(body).unwrap();
            (*status, body.error.code, body.error.topic)
        })
        .collect();
    let expected = [
        (404, "LINK_NOT_FOUND".to_owned(), None),
        (404, "MIRROR_NOT_FOUND".to_owned(), Some("none".to_owned())),
        (404, "NOT_FOUND".to_owned(), None),
    ];
    assert_eq!(codes, expected);
}

#[tokio::test]
async fn metrics_have_the_names_of_the_interface() {
    let found = answers(report(), &["/metrics", "/"]).await;
    let expected = [
        "lockstep_mirror_lag_records{link=\"east\",topic=\"orders\",partition=\"1\"} 7\n",
        "lockstep_mirror_high_watermark{link=\"east\",topic=\"orders\",partition=\"0\"} 40\n",
        "lockstep_mirror_lag_seconds{link=\"east\",topic=\"orders\",partition=\"1\"} 1.5\n",
        "lockstep_mirror_state{link=\"east\",topic=\"exists\",state=\"Failed\"} 1\n",
        "lockstep_mirror_topics{link=\"east\",state=\"Active\"} 1\n",
        "lockstep_seat_fenced 0\n",
        "# TYPE lockstep_mirror_bytes_total counter\n",
    ];
    for line in expected {
        assert!(found[0].1.contains(line), "{line} is missing in\n{}", found[0].1);
    }
    assert!(found[1].1.starts_with("<!doctype html>"));
}
