//! Latency: how much later than a consumer at the source a consumer at the destination has a
//! record, on idle clusters, the mirror with three replicas. One JVM holds the producer and both
//! consumers, so that one clock times all.

use std::time::Duration;

use anyhow::{Context, Result};

use crate::median;
use crate::support::cluster::{Cluster, ClusterSpec};
use crate::support::daemon::DaemonSpec;
use crate::support::eventually::eventually;
use crate::support::java;
use crate::support::judge::NewTopic;
use crate::support::workspace::Workspace;

const TOPIC: &str = "latency";
const DEADLINE: Duration = Duration::from_secs(300);
const WARM_UP_RECORDS: u32 = 500;
const INTERVAL_MS: u32 = 20;
/// The most added latency that is good, in milliseconds.
const GOAL_P50: f64 = 6.0;
const GOAL_P99: f64 = 25.0;

/// Prints the percentiles of each round, and the medians of what is added.
pub fn run(binary: &str, rounds: usize, records: u32) -> Result<()> {
    let workspace = Workspace::new("latency")?;
    let source = cluster("source", 1).start_in(&workspace)?;
    let destination = cluster("destination", 3).start_in(&workspace)?;
    source.create_topic(&NewTopic::new(TOPIC, 1))?;
    let mut daemon =
        DaemonSpec::new(&source, &destination, &[TOPIC]).start_in(binary, &workspace)?;
    daemon.wait_ready()?;
    eventually(DEADLINE, "the mirror", || destination.any_judge()?.topic(TOPIC))?;
    println!("latency: one record each {INTERVAL_MS} ms, {records} records, in milliseconds");
    let (mut p50, mut p99) = (Vec::new(), Vec::new());
    for round in 1..=rounds {
        let added = measure(round, &source, &destination, records)?;
        p50.push(added.0);
        p99.push(added.1);
    }
    let (p50, p99) = (median(p50), median(p99));
    let verdict = if p50 <= GOAL_P50 && p99 <= GOAL_P99 { "met" } else { "MISSED" };
    println!(
        "added latency, medians: p50 {p50:.1} ms, p99 {p99:.1} ms \
         (goal: at most {GOAL_P50} and {GOAL_P99} ms, {verdict})"
    );
    Ok(())
}

fn cluster(name: &str, brokers: i32) -> ClusterSpec {
    ClusterSpec::new(name).brokers(brokers).fast_start(false).log_level("warn")
}

/// Added p50 and p99.
fn measure(
    round: usize,
    source: &Cluster,
    destination: &Cluster,
    records: u32,
) -> Result<(f64, f64)> {
    let arguments = [
        format!("source={}", source.bootstrap()),
        format!("destination={}", destination.bootstrap()),
        format!("topic={TOPIC}"),
        format!("warm-up={WARM_UP_RECORDS}"),
        format!("count={records}"),
        format!("interval-ms={INTERVAL_MS}"),
    ];
    let program = java::run_program(source.dist(), "Latency", &arguments)?;
    let outcome = program.wait(DEADLINE)?.success()?;
    for line in outcome.stdout.lines() {
        println!("  {round}: {line}");
    }
    let added = outcome.stdout.lines().find_map(|line| line.strip_prefix("added"));
    let words: Vec<_> = added.context("no added latency")?.split_whitespace().collect();
    let number = |name: &str| -> Result<f64> {
        let at = words.iter().position(|word| *word == name).context("a percentile")?;
        Ok(words.get(at + 1).context("its value")?.parse()?)
    };
    Ok((number("p50")?, number("p99")?))
}
