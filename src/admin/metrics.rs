//! `/metrics`: what the parts count themselves, and the gauges of the report. The latter are
//! written from the report at each scrape, so that a partition that is gone leaves no series.

use std::fmt::Write as _;

use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};

use super::AdminError;
use super::view::lag_bytes;
use crate::mirror::report::{ClusterReport, PartitionReport, PartitionState};
use crate::mirror::topic::MirrorState;

/// Upper bounds of all histograms of seconds: from half a millisecond, a fetch on the same
/// machine, to half a minute, the longest time out.
const SECONDS: [f64; 16] =
    [0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 30.0];

/// What the parts of this process count.
#[derive(Clone)]
pub struct Metrics {
    recorder: PrometheusHandle,
}

impl std::fmt::Debug for Metrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Metrics")
    }
}

impl Metrics {
    /// Takes all counts of this process from here on; once in a process.
    pub fn install() -> Result<Self, AdminError> {
        let failed =
            |error: metrics_exporter_prometheus::BuildError| AdminError::Metrics(error.to_string());
        let recorder = builder().map_err(failed)?.install_recorder().map_err(failed)?;
        Ok(Self { recorder })
    }

    /// Metrics that nobody counts: for tests of the API.
    #[cfg(test)]
    pub fn detached() -> Self {
        Self { recorder: builder().unwrap().build_recorder().handle() }
    }

    /// Folds what histograms have collected.
    pub fn fold(&self) {
        self.recorder.run_upkeep();
    }

    /// The text of a scrape.
    pub fn render(&self, report: &ClusterReport) -> String {
        let mut text = self.recorder.render();
        Exposition { text: &mut text }.report(report);
        text
    }
}

fn builder() -> Result<PrometheusBuilder, metrics_exporter_prometheus::BuildError> {
    let matcher = Matcher::Suffix("_seconds".to_owned());
    PrometheusBuilder::new().set_buckets_for_metric(matcher, &SECONDS)
}

/// A gauge or counter of partitions: name, kind, help, and its value where that is known.
type Series = (&'static str, &'static str, &'static str, fn(&PartitionReport) -> Option<f64>);

const PARTITION_SERIES: [Series; 8] = [
    (
        "lockstep_mirror_lag_records",
        "gauge",
        "Offsets at the source that are not readable at the destination.",
        |one| one.lag_records.map(|lag| lag as f64),
    ),
    (
        "lockstep_mirror_lag_bytes",
        "gauge",
        "The same in bytes, estimated by the mean record size.",
        |one| lag_bytes(one).map(|lag| lag as f64),
    ),
    (
        "lockstep_mirror_lag_seconds",
        "gauge",
        "Age of the oldest record not yet readable at the destination.",
        |one| one.lag_seconds,
    ),
    ("lockstep_mirror_source_end_offset", "gauge", "High watermark of the source.", |one| {
        one.source_end_offset.map(|offset| offset as f64)
    }),
    (
        "lockstep_mirror_high_watermark",
        "gauge",
        "What is readable at the destination ends here.",
        |one| one.high_watermark.map(|offset| offset as f64),
    ),
    (
        "lockstep_mirror_bytes_total",
        "counter",
        "Record bytes copied since the daemon started.",
        |one| Some(one.bytes_total as f64),
    ),
    (
        "lockstep_mirror_records_total",
        "counter",
        "Records copied since the daemon started.",
        |one| Some(one.records_total as f64),
    ),
    (
        "lockstep_mirror_batches_total",
        "counter",
        "Batches copied since the daemon started.",
        |one| Some(one.batches_total as f64),
    ),
];

/// Text in Prometheus' exposition format.
struct Exposition<'a> {
    text: &'a mut String,
}

impl Exposition<'_> {
    fn report(&mut self, report: &ClusterReport) {
        self.header("lockstep_build_info", "gauge", "The version that runs.");
        let version = env!("CARGO_PKG_VERSION");
        self.line("lockstep_build_info", &[("version", version)], 1.0);
        self.header("lockstep_seat_fenced", "gauge", "1 while the seat may not lead.");
        self.line("lockstep_seat_fenced", &[], f64::from(u8::from(report.seat.fenced)));
        // Every daemon knows the mirrors: the one that keeps them up counts them, so that sums are right.
        let is_owner = report.seat.owner.is_none_or(|owner| owner == report.seat.broker_id);
        if is_owner {
            self.topics(report);
        }
        self.partitions(report);
    }

    fn topics(&mut self, report: &ClusterReport) {
        self.header("lockstep_mirror_topics", "gauge", "Mirrors in each state.");
        for link in &report.links {
            for state in MirrorState::ALL {
                let count = link.topics.iter().filter(|topic| topic.state == state).count();
                let labels = [("link", link.name.as_str()), ("state", state.name())];
                self.line("lockstep_mirror_topics", &labels, count as f64);
            }
        }
        self.header("lockstep_mirror_state", "gauge", "1 for the state that a mirror is in.");
        for link in &report.links {
            for topic in &link.topics {
                for state in MirrorState::ALL {
                    let labels =
                        [("link", &*link.name), ("topic", &topic.topic), ("state", state.name())];
                    let is_in = f64::from(u8::from(topic.state == state));
                    self.line("lockstep_mirror_state", &labels, is_in);
                }
            }
        }
    }

    fn partitions(&mut self, report: &ClusterReport) {
        for (name, kind, help, value) in PARTITION_SERIES {
            self.header(name, kind, help);
            for link in &report.links {
                for topic in &link.topics {
                    let known = topic.partitions.iter();
                    for partition in known.filter(|one| one.state != PartitionState::Standby) {
                        let Some(value) = value(partition) else { continue };
                        let number = partition.partition.to_string();
                        let labels = [
                            ("link", link.name.as_str()),
                            ("topic", &topic.topic),
                            ("partition", &number),
                        ];
                        self.line(name, &labels, value);
                    }
                }
            }
        }
    }

    fn header(&mut self, name: &str, kind: &str, help: &str) {
        let _infallible = writeln!(self.text, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    /// Link and topic names have no character that would have to be escaped.
    fn line(&mut self, name: &str, labels: &[(&str, &str)], value: f64) {
        self.text.push_str(name);
        for (at, (label, text)) in labels.iter().enumerate() {
            let before = if at == 0 { '{' } else { ',' };
            let _infallible = write!(self.text, "{before}{label}=\"{text}\"");
        }
        let after = if labels.is_empty() { "" } else { "}" };
        let _infallible = writeln!(self.text, "{after} {value}");
    }
}
