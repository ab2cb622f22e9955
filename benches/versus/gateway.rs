//! What it costs clients that the seat leads: throughput and latency of a consumer of a mirror beside
//! one of a stock topic with the same real replicas, and what a thousand idle connections take.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::load::{self, Load};
use crate::median;
use crate::support::cluster::{Cluster, ClusterSpec};
use crate::support::daemon::{Daemon, DaemonSpec, SEAT};
use crate::support::eventually::{eventually, let_run};
use crate::support::java;
use crate::support::judge::NewTopic;
use crate::support::workspace::Workspace;
use crate::usage;

const MIRROR: &str = "mirror";
const TAIL: &str = "tail";
const STOCK: &str = "stock";
const STOCK_TAIL: &str = "stock-tail";
const DEADLINE: Duration = Duration::from_secs(300);
const WARM_UP_RECORDS: u32 = 300;
const INTERVAL_MS: u32 = 20;
/// The least share of the stock topic's throughput, and the most of its latency, that is good.
const GOAL_THROUGHPUT: f64 = 0.9;
const GOAL_LATENCY: f64 = 1.5;
const IDLE_CONNECTIONS: usize = 1000;
const GOAL_IDLE_MIB: f64 = 64.0;
const IDLE_TIME: Duration = Duration::from_secs(20);

/// Prints each round, the medians, and whether the goals are met.
pub fn run(binary: &str, gib: f64, rounds: usize, records: u32) -> Result<()> {
    let workspace = Workspace::new("gateway")?;
    let source = cluster("source", 1).start_in(&workspace)?;
    let destination = cluster("destination", 3).start_in(&workspace)?;
    let bytes = (gib * f64::from(1 << 30)) as u64;
    let load = load::fill(&source, MIRROR, bytes)?;
    source.create_topic(&NewTopic::new(TAIL, 1))?;
    let mut daemon =
        DaemonSpec::new(&source, &destination, &[MIRROR, TAIL]).start_in(binary, &workspace)?;
    daemon.wait_ready()?;
    let stock = load::fill(&destination, STOCK, bytes)?;
    destination.create_topic(&NewTopic::new(STOCK_TAIL, 1).replicas(3))?;
    for (topic, load) in [(MIRROR, &load), (STOCK, &stock)] {
        wait_copied(&destination, topic, load)?;
    }
    idle(&daemon)?;
    let mut ratios = Vec::new();
    for round in 1..=rounds {
        let (mirror, stock) = (consume(&destination, &load)?, consume(&destination, &stock)?);
        println!("  {round}: mirror {mirror:.0} MiB/s, stock topic {stock:.0} MiB/s");
        ratios.push(mirror / stock);
    }
    let ratio = median(ratios);
    let verdict = if ratio >= GOAL_THROUGHPUT { "met" } else { "MISSED" };
    println!("throughput, median ratio {ratio:.2} (goal: at least {GOAL_THROUGHPUT}, {verdict})");
    let mut found = Vec::new();
    for round in 1..=rounds {
        found.push(latency(round, &source, &destination, records)?);
    }
    let of = |pick: fn(&Latencies) -> f64| median(found.iter().map(pick).collect());
    let (mirror, stock, source) = (of(|l| l.mirror), of(|l| l.stock), of(|l| l.source));
    // The copy takes at least what a consumer at the source takes.
    let most = GOAL_LATENCY * stock + source;
    let verdict = if mirror <= most { "met" } else { "MISSED" };
    println!(
        "latency at the tail, median p50: mirror {mirror:.2} ms, stock topic {stock:.2} ms, at the \
         source {source:.2} ms (goal: at most {most:.2} ms, {verdict})"
    );
    Ok(())
}

fn cluster(name: &str, brokers: i32) -> ClusterSpec {
    ClusterSpec::new(name).brokers(brokers).fast_start(false).log_level("warn")
}

fn wait_copied(destination: &Cluster, topic: &str, load: &Load) -> Result<()> {
    eventually(DEADLINE, format!("all of {topic}"), || {
        let found = destination.any_judge()?.topic(topic)?.partitions;
        ensure!(found.len() == usize::try_from(load::PARTITIONS)?, "{found:?}");
        for (partition, state) in found {
            let real = state.replicas.iter().find(|id| **id != SEAT).context("a real replica")?;
            let end = destination.judge(*real)?.bounds(topic, partition)?.high_watermark;
            ensure!(end == load.end_offset, "{topic}-{partition} ends at {end}");
        }
        Ok(())
    })
}

/// MiB a second of the stock tool, reading all of a topic.
fn consume(cluster: &Cluster, load: &Load) -> Result<f64> {
    let records = load.end_offset * i64::from(load::PARTITIONS);
    let arguments = [
        "--bootstrap-server",
        &cluster.bootstrap(),
        "--topic",
        &load.topic,
        "--messages",
        &records.to_string(),
        "--timeout",
        "60000",
        "--hide-header",
    ];
    let tool = "org.apache.kafka.tools.ConsumerPerformance";
    let outcome = java::stock_tool(cluster.dist(), tool, &arguments, DEADLINE)?.success()?;
    // start, end, MB, MB a second, records, records a second, rebalance ms, fetch ms, MB a second ...
    let line = outcome.stdout.lines().rev().find(|line| line.matches(',').count() >= 8);
    let fields: Vec<_> = line.context("no result")?.split(',').map(str::trim).collect();
    Ok(fields[8].parse()?)
}

/// Medians of one round, in milliseconds.
struct Latencies {
    mirror: f64,
    stock: f64,
    source: f64,
}

fn latency(
    round: usize,
    source: &Cluster,
    destination: &Cluster,
    records: u32,
) -> Result<Latencies> {
    let run = |from: &Cluster, topic: &str| -> Result<String> {
        let arguments = [
            format!("source={}", from.bootstrap()),
            format!("destination={}", destination.bootstrap()),
            format!("topic={topic}"),
            format!("warm-up={WARM_UP_RECORDS}"),
            format!("count={records}"),
            format!("interval-ms={INTERVAL_MS}"),
        ];
        let program = java::run_program(source.dist(), "Latency", &arguments)?;
        Ok(program.wait(DEADLINE)?.success()?.stdout)
    };
    let mirror = run(source, TAIL)?;
    // Both its consumers are at the destination.
    let stock = run(destination, STOCK_TAIL)?;
    for (what, output) in [("mirror", &mirror), ("stock topic", &stock)] {
        output.lines().for_each(|line| println!("  {round}: {what}: {line}"));
    }
    Ok(Latencies {
        mirror: p50(&mirror, "destination")?,
        stock: p50(&stock, "destination")?,
        source: p50(&mirror, "source")?,
    })
}

fn p50(output: &str, of: &str) -> Result<f64> {
    let line = output.lines().find(|line| line.starts_with(of)).context("a result")?;
    let mut words = line.split_whitespace().skip_while(|word| *word != "p50");
    Ok(words.nth(1).context("its p50")?.parse()?)
}

/// What connections cost that have asked once, as clients do, and are silent since.
fn idle(daemon: &Daemon) -> Result<()> {
    // ApiVersions 0 without a client id.
    const ASK: [u8; 14] = [0, 0, 0, 10, 0, 18, 0, 0, 0, 0, 0, 1, 0xff, 0xff];
    let pid = daemon.pid().context("the daemon runs")?;
    let before = daemon.resident_bytes()?;
    let mut connections = Vec::new();
    for _ in 0..IDLE_CONNECTIONS {
        let mut connection = TcpStream::connect(daemon.seat_address())?;
        connection.write_all(&ASK)?;
        let mut length = [0; 4];
        connection.read_exact(&mut length)?;
        let mut answer = vec![0; usize::try_from(i32::from_be_bytes(length))?];
        connection.read_exact(&mut answer)?;
        connections.push(connection);
    }
    let more = daemon.resident_bytes()?.saturating_sub(before) as f64 / f64::from(1 << 20);
    let cpu = usage::cpu_seconds(pid)?;
    let_run(IDLE_TIME);
    let cpu = usage::cpu_seconds(pid)? - cpu;
    let verdict = if more < GOAL_IDLE_MIB { "met" } else { "MISSED" };
    println!(
        "{IDLE_CONNECTIONS} idle connections: {more:.1} MiB (goal: less than {GOAL_IDLE_MIB}, \
         {verdict}), {:.2} % of a processor, the copying's included",
        100.0 * cpu / IDLE_TIME.as_secs_f64()
    );
    Ok(())
}
