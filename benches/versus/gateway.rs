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
use crate::support::dist::Dist;
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
/// Releases of the Java client: one that goes to the replica it is sent to, and one that cannot be sent
/// anywhere, whose fetches are put to replicas for it.
const NEW: &str = "4.3.1";
const OLD: &str = "2.0.1";
const WARM_UP_RECORDS: u32 = 300;
const INTERVAL_MS: u32 = 20;
/// How often a consumer reads all of a topic.
const PASSES: usize = 4;
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
    let load = load::fill(&source, &[1], MIRROR, bytes)?;
    source.create_topic(&NewTopic::new(TAIL, 1))?;
    let mut daemon =
        DaemonSpec::new(&source, &destination, &[MIRROR, TAIL]).start_in(binary, &workspace)?;
    daemon.wait_ready()?;
    let stock = load::fill(&destination, &destination.broker_ids(), STOCK, bytes)?;
    destination.create_topic(&NewTopic::new(STOCK_TAIL, 1).replicas(3))?;
    for (topic, load) in [(MIRROR, &load), (STOCK, &stock)] {
        wait_copied(&destination, topic, load)?;
    }
    for (client, goal) in [(NEW, Some(GOAL_THROUGHPUT)), (OLD, None)] {
        throughput(&destination, client, rounds, goal)?;
    }
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
    // Afresh: what copying has left in the allocator would hide what connections take.
    daemon.kill()?;
    daemon.start_again()?;
    daemon.wait_ready()?;
    eventually(DEADLINE, "the seat leads again", || {
        let leader = destination.leader(TAIL, 0)?;
        ensure!(leader == SEAT, "{TAIL}-0 is led by {leader}");
        Ok(())
    })?;
    idle(&daemon)
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

/// A consumer of each, by turns; the first two warm the brokers up.
fn throughput(destination: &Cluster, client: &str, rounds: usize, goal: Option<f64>) -> Result<()> {
    let mut read = Vec::new();
    for round in 0..=rounds {
        let passes = |topic| Passes::read(destination, client, topic);
        let (mirror, stock) = (passes(MIRROR)?, passes(STOCK)?);
        if round > 0 {
            println!("  {round}: client {client}: mirror {mirror}; stock topic {stock}");
            read.push((mirror, stock));
        }
    }
    let of = |pick: fn(&(Passes, Passes)) -> f64| median(read.iter().map(pick).collect());
    let first = (of(|(mirror, _)| mirror.first_ms), of(|(_, stock)| stock.first_ms));
    let ratios = (of(|(m, s)| m.begun / s.begun), of(|(m, s)| m.going / s.going));
    let verdict = match goal {
        Some(goal) if ratios.1 >= goal => format!("goal: at least {goal}, met"),
        Some(goal) => format!("goal: at least {goal}, MISSED"),
        None => "no goal".to_owned(),
    };
    println!(
        "client {client}, medians: throughput ratio {:.2} ({verdict}), of the first pass {:.2}; first \
         record after {:.0} ms, of the stock topic {:.0} ms",
        ratios.1, ratios.0, first.0, first.1
    );
    Ok(())
}

/// What one consumer took for a topic that it read several times over.
struct Passes {
    /// Milliseconds to its first record.
    first_ms: f64,
    /// MiB a second of the first pass.
    begun: f64,
    /// MiB a second of the passes after it.
    going: f64,
}

impl std::fmt::Display for Passes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { first_ms, begun, going } = self;
        write!(f, "first record after {first_ms:.0} ms, {begun:.0} then {going:.0} MiB/s")
    }
}

impl Passes {
    fn read(cluster: &Cluster, client: &str, topic: &str) -> Result<Self> {
        let arguments = [
            format!("bootstrap={}", cluster.bootstrap()),
            format!("topic={topic}"),
            format!("passes={PASSES}"),
        ];
        let client = if client == NEW { Dist::get(client)? } else { Dist::clients(client)? };
        let program = java::run_program(&client, "Throughput", &arguments)?;
        let stdout = program.wait(DEADLINE)?.success()?.stdout;
        // pass N first-ms N mib-per-second N
        let fields = |line: &str| -> Result<(f64, f64)> {
            let words: Vec<_> = line.split_whitespace().collect();
            ensure!(words.len() == 6, "{line}");
            Ok((words[3].parse()?, words[5].parse()?))
        };
        let passes = stdout.lines().map(fields).collect::<Result<Vec<_>>>()?;
        let (first_ms, begun) = *passes.first().context("no pass")?;
        let going = median(passes.iter().skip(1).map(|(_, speed)| *speed).collect());
        Ok(Self { first_ms, begun, going })
    }
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
