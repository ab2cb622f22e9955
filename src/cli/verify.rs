//! `lockstep verify`: needs the configuration file and the clusters, but no daemon.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;
use comfy_table::{CellAlignment, Table, presets};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;

use super::check::load;
use super::{Exit, Failure, Output, print};
use crate::client::{ClientConfig, Cluster, Retry};
use crate::config::Config;
use crate::link::config::LinkConfig;
use crate::link::verify::{
    HeaderFields, Mirrored, PartitionReport, Progress, ReplicaReport, Verification, VerifyError,
};
use crate::types::Offset;

const COLUMNS: [&str; 9] = [
    "MIRROR",
    "PARTITION",
    "LOG START",
    "IDENTICAL TO",
    "SOURCE END",
    "BATCHES",
    "COMPACTED",
    "BROKERS",
    "RESULT",
];
/// Columns that are numbers, the first text column left out.
const NUMBERS: std::ops::Range<usize> = 1..7;

const BAR: &str = "comparing [{bar:40}] {human_pos} of {human_len} offsets, {per_sec}, {eta} left";

/// Arguments of the command.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Mirrors, by their names or their sources'; none: all.
    topics: Vec<String>,
    /// Compares from this offset on instead of from the log starts.
    #[arg(long, value_name = "OFFSET", value_parser = clap::value_parser!(i64).range(0..))]
    from: Option<i64>,
    /// The configuration file.
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
}

/// Compares source and destination; fails at the first difference.
pub(super) fn verify(arguments: &Arguments, output: Output) -> Result<(), Failure> {
    let config = load(&arguments.config)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::new(Exit::NotSo, format!("start threads: {error}")))?;
    let reports = runtime.block_on(compare(&config, arguments));
    runtime.shutdown_background();
    let reports = reports?;
    print(&match output {
        Output::Table => table(&reports),
        Output::Json => {
            let identical = reports.iter().all(PartitionReport::is_identical);
            format!("{}\n", json!({ "identical": identical, "partitions": reports }))
        }
    })?;
    match reports.iter().find(|report| !report.is_identical()) {
        Some(report) => Err(named(report)),
        None if reports.is_empty() => {
            let cause = "there is nothing to compare: the source has no topic that a link mirrors";
            Err(Failure::new(Exit::NotSo, cause).advise("look at include in [link.topics]"))
        }
        None => Ok(()),
    }
}

/// Reports of all links; ends early at the first difference.
async fn compare(config: &Config, arguments: &Arguments) -> Result<Vec<PartitionReport>, Failure> {
    let mut wanted: BTreeSet<&str> = arguments.topics.iter().map(String::as_str).collect();
    let mut plans = Vec::new();
    for link in &config.links {
        let verification = verification(config, link, arguments.from.map(Offset));
        let mut topics = verification.topics().await.map_err(failure)?;
        if !arguments.topics.is_empty() {
            topics.retain(|topic| is_named(topic, &arguments.topics));
        }
        for topic in &topics {
            wanted.remove(topic.source.as_str());
            wanted.remove(topic.mirror.as_str());
        }
        plans.push((verification, topics));
    }
    if let Some(name) = wanted.first() {
        let cause = format!("no link of the file mirrors a topic {name} of its source");
        return Err(Failure::new(Exit::Usage, cause).advise("look at include in [link.topics]"));
    }
    let bar = ProgressBar::new(0);
    if let Ok(style) = ProgressStyle::with_template(BAR) {
        bar.set_style(style.progress_chars("=> "));
    }
    let mut reports = Vec::new();
    for (verification, topics) in plans {
        let shown = bar.clone();
        let progress = Arc::new(move |progress| match progress {
            Progress::Planned(offsets) => shown.inc_length(offsets),
            Progress::Compared(offsets) => shown.inc(offsets),
        });
        reports.extend(verification.run(&topics, progress).await.map_err(failure)?);
        if !reports.iter().all(PartitionReport::is_identical) {
            break;
        }
    }
    bar.finish_and_clear();
    Ok(reports)
}

fn verification(config: &Config, link: &LinkConfig, from: Option<Offset>) -> Verification {
    let client = ClientConfig {
        client_id: format!("lockstep-{}-verify", config.daemon.broker_id),
        ..ClientConfig::default()
    };
    let seat = config.daemon.broker_id;
    let destination = config.destination.bootstrap.clone();
    Verification {
        link: link.clone(),
        source: Cluster::new(link.source.bootstrap.clone(), client.clone(), None),
        destination: Cluster::new(destination, client, Some(seat)),
        seat,
        from,
    }
}

fn is_named(topic: &Mirrored, names: &[String]) -> bool {
    names.iter().any(|name| name == topic.mirror.as_str() || name == topic.source.as_str())
}

fn failure(error: VerifyError) -> Failure {
    match error.retry() {
        Retry::Never => Failure::new(Exit::NotSo, error.to_string()),
        _ => Failure::new(Exit::Unreachable, error.to_string())
            .advise("check addresses and brokers, then run it again; nothing was changed"),
    }
}

/// The first difference of a report, with both headers.
fn named(report: &PartitionReport) -> Failure {
    let place = if report.partition < 0 {
        report.topic.clone()
    } else {
        format!("{}-{}", report.topic, report.partition)
    };
    if let Some(problem) = &report.problem {
        return Failure::new(Exit::NotSo, format!("{place}: {problem}"));
    }
    let differs = |replica: &&ReplicaReport| replica.difference.is_some();
    let replica = report.replicas.iter().find(differs);
    let Some((replica, difference)) = replica.and_then(|r| Some((r, r.difference.as_ref()?)))
    else {
        return Failure::new(Exit::NotSo, format!("{place}: nothing was compared"));
    };
    let text = |header: &Option<HeaderFields>| {
        header.as_ref().map_or("no batch".to_owned(), |header| format!("{header:?}"))
    };
    let cause = format!(
        "{place} differs at offset {} on broker {}: {}",
        difference.offset, replica.broker, difference.what
    );
    let advice = format!(
        "source:      {}\n  destination: {}",
        text(&difference.source),
        text(&difference.destination)
    );
    Failure::new(Exit::NotSo, cause).advise(advice)
}

fn table(reports: &[PartitionReport]) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.force_no_tty();
    table.set_header(COLUMNS);
    for report in reports {
        let least = |count: fn(&ReplicaReport) -> u64| {
            report.replicas.iter().map(count).min().unwrap_or(0).to_string()
        };
        let most = |count: fn(&ReplicaReport) -> u64| {
            report.replicas.iter().map(count).max().unwrap_or(0).to_string()
        };
        let brokers: Vec<_> = report.replicas.iter().map(|r| r.broker.to_string()).collect();
        table.add_row([
            report.topic.clone(),
            known(i64::from(report.partition)),
            known(report.source_log_start_offset),
            report.identical_to().map_or("?".to_owned(), |offset| offset.to_string()),
            known(report.source_high_watermark),
            least(|replica| replica.batches),
            most(|replica| replica.compacted),
            brokers.join(","),
            result(report),
        ]);
    }
    for column in NUMBERS {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    format!("{}\n", table.trim_fmt())
}

fn known(number: i64) -> String {
    if number < 0 { "?".to_owned() } else { number.to_string() }
}

fn result(report: &PartitionReport) -> String {
    if let Some(problem) = &report.problem {
        return problem.clone();
    }
    let first = report.replicas.iter().find_map(|replica| replica.difference.as_ref());
    if let Some(difference) = first {
        return format!("differs at {}", difference.offset);
    }
    let end = Offset(report.source_high_watermark);
    match report.identical_to().map(|identical| end.records_since(identical)) {
        Some(0) => "identical".to_owned(),
        Some(behind) => format!("identical, {behind} behind"),
        None => "not compared".to_owned(),
    }
}
