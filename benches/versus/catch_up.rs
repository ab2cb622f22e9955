//! Catch-up: how long an empty replica takes to have all of a topic, fed by the stock leader, and
//! fed by lockstep from the same leader. In each round both kinds of replica are a fresh JVM that
//! has copied a smaller topic first; only the processes that a copy needs run.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::load::{self, Load, PARTITIONS};
use crate::median;
use crate::support::cluster::{Cluster, ClusterSpec};
use crate::support::daemon::{Daemon, DaemonSpec, SEAT};
use crate::support::eventually::eventually;
use crate::support::workspace::Workspace;
use crate::usage::{cpu_seconds, peak_resident_bytes};

const WARM_UP_BYTES: u64 = 256 << 20;
const DEADLINE: Duration = Duration::from_secs(120);
/// Heap of each JVM.
const HEAP_MIB: u32 = 768;
const SESSION_MS: u32 = 20_000;
/// `daemon.memory` of the run.
const DAEMON_MEMORY: &str = "512MiB";
const DAEMON_MEMORY_BYTES: u64 = 512 << 20;
/// What the daemon may have above it.
const MEMORY_ALLOWANCE: u64 = 64 << 20;
/// The least ratio that is good.
const GOAL: f64 = 0.7;

/// One copy.
struct Copied {
    seconds: f64,
    /// Processor seconds of the source broker, of the replica, and of the daemon.
    cpu: [f64; 3],
    daemon_peak_bytes: u64,
}

/// Prints both rates and their ratio, round by round, and the median ratio.
pub fn run(binary: &str, gib: f64, rounds: usize) -> Result<()> {
    let workspace = Workspace::new("catch-up")?;
    let mut source = cluster("source", 2).separate_controllers(1).start_in(&workspace)?;
    let warm_up = load::fill(&source, &[1], "warm-up", WARM_UP_BYTES)?;
    let data = load::fill(&source, &[1], "data", (gib * f64::from(1 << 30)) as u64)?;
    source.stop(2)?;
    println!(
        "catch-up: {:.0} MiB, {PARTITIONS} partitions, batches of {} KiB",
        data.mebibytes(),
        load::BATCH_BYTES >> 10
    );
    let mut ratios = Vec::new();
    for round in 1..=rounds {
        let stock = copy_stock(&mut source, &warm_up, &data)?;
        print(round, "stock", &stock, &data);
        let ours = copy_with_lockstep(binary, &source, &workspace, &warm_up, &data)?;
        print(round, "lockstep", &ours, &data);
        let ratio = stock.seconds / ours.seconds;
        println!("  {round}: ratio {ratio:.2}");
        ratios.push(ratio);
        let limit = DAEMON_MEMORY_BYTES + MEMORY_ALLOWANCE;
        let peak = ours.daemon_peak_bytes;
        ensure!(peak <= limit, "the daemon had {} MiB of {} MiB", peak >> 20, limit >> 20);
    }
    let ratio = median(ratios);
    let verdict = if ratio >= GOAL { "met" } else { "MISSED" };
    println!("catch-up ratio, median: {ratio:.2} (goal: at least {GOAL}, {verdict})");
    Ok(())
}

fn cluster(name: &str, brokers: i32) -> ClusterSpec {
    let spec = ClusterSpec::new(name).brokers(brokers).fast_start(false).heap_mb(HEAP_MIB);
    // On a busy machine a broker must not lose its leaderships because a heartbeat is late.
    let spec = spec.log_level("warn").property("broker.session.timeout.ms", SESSION_MS);
    // Broker 2 comes and goes: nothing else may need it.
    ["default", "offsets.topic", "transaction.state.log", "share.coordinator.state.topic"]
        .into_iter()
        .fold(spec, |spec, which| spec.property(&format!("{which}.replication.factor"), 1))
}

fn copy_stock(source: &mut Cluster, warm_up: &Load, data: &Load) -> Result<Copied> {
    source.start_again(2)?;
    source.wait_unfenced(&[1, 2])?;
    add_replica(source, &warm_up.topic)?;
    let pids = [source.node(1)?.pid(), source.node(2)?.pid(), None];
    let before = cpu(pids)?;
    let begun = Instant::now();
    add_replica(source, &data.topic)?;
    let seconds = begun.elapsed().as_secs_f64();
    let cpu = used(before, cpu(pids)?);
    for load in [data, warm_up] {
        drop_replica(source, &load.topic)?;
    }
    source.stop(2)?;
    Ok(Copied { seconds, cpu, daemon_peak_bytes: 0 })
}

/// Gives every partition a replica on broker 2 and waits until all are in sync.
fn add_replica(source: &Cluster, topic: &str) -> Result<()> {
    let mut judge = source.judge(1)?;
    for partition in 0..PARTITIONS {
        judge.reassign(topic, partition, &[1, 2])?;
    }
    eventually(DEADLINE, format!("replicas of {topic} on broker 2"), || {
        let found = judge.topic(topic)?;
        let is_done = found.partitions.values().all(|partition| partition.in_sync == [1, 2]);
        ensure!(is_done, "{found:?}");
        Ok(())
    })
}

fn drop_replica(source: &Cluster, topic: &str) -> Result<()> {
    let mut judge = source.judge(1)?;
    for partition in 0..PARTITIONS {
        judge.reassign(topic, partition, &[1])?;
    }
    let logs = &source.node(2)?.log_dir;
    eventually(DEADLINE, format!("the end of the copy of {topic}"), || {
        for entry in std::fs::read_dir(logs)? {
            let name = entry?.file_name();
            ensure!(!name.to_string_lossy().starts_with(topic), "{} is there", name.display());
        }
        Ok(())
    })
}

fn copy_with_lockstep(
    binary: &str,
    source: &Cluster,
    workspace: &Workspace,
    warm_up: &Load,
    data: &Load,
) -> Result<Copied> {
    let mut destination = cluster("destination", 1).start_in(workspace)?;
    let mut daemon = start_daemon(binary, source, &destination, workspace, &warm_up.topic)?;
    wait_copied(&destination, warm_up)?;
    daemon.kill()?;
    wait_seat_free(&destination)?;
    destination.judge(1)?.delete_topic(&warm_up.topic)?;
    let mut daemon = start_daemon(binary, source, &destination, workspace, &data.topic)?;
    let pid = daemon.pid().context("the daemon does not run")?;
    let pids = [source.node(1)?.pid(), destination.node(1)?.pid(), Some(pid)];
    let mut judge = destination.judge(1)?;
    eventually(DEADLINE, "the mirror to be created", || judge.topic(&data.topic))?;
    let before = cpu(pids)?;
    let begun = Instant::now();
    wait_copied(&destination, data)?;
    let seconds = begun.elapsed().as_secs_f64();
    let cpu = used(before, cpu(pids)?);
    let daemon_peak_bytes = peak_resident_bytes(pid)?;
    daemon.kill()?;
    destination.shut_down()?;
    std::fs::remove_dir_all(destination.directory())?;
    Ok(Copied { seconds, cpu, daemon_peak_bytes })
}

fn start_daemon(
    binary: &str,
    source: &Cluster,
    destination: &Cluster,
    workspace: &Workspace,
    topic: &str,
) -> Result<Daemon> {
    DaemonSpec::new(source, destination, &[topic])
        .source(&source.address(1)?)
        .line("daemon", &format!("memory = \"{DAEMON_MEMORY}\""))
        .start_in(binary, workspace)
}

/// Waits until the session of a dead daemon has ended: the next one would create its mirrors and
/// then wait for that, and the wait would count as copying.
fn wait_seat_free(destination: &Cluster) -> Result<()> {
    let mut judge = destination.judge(1)?;
    eventually(DEADLINE, "the dead daemon's session to end", || {
        let metadata = judge.metadata(Some(&[]))?;
        ensure!(metadata.brokers.iter().all(|broker| broker.node_id.0 != SEAT), "it lives");
        Ok(())
    })
}

/// Waits until consumers at the destination's broker can read everything.
fn wait_copied(destination: &Cluster, load: &Load) -> Result<()> {
    let mut judge = destination.judge(1)?;
    for partition in 0..PARTITIONS {
        eventually(DEADLINE, format!("the mirror of {}-{partition}", load.topic), || {
            // Out of range until the copy is that long.
            let answer = judge.fetch(&load.topic, partition, load.end_offset, 1)?;
            ensure!(answer.error_code == 0, "error {}", answer.error_code);
            ensure!(answer.high_watermark == load.end_offset, "at {}", answer.high_watermark);
            Ok(())
        })?;
    }
    Ok(())
}

fn cpu(pids: [Option<u32>; 3]) -> Result<[f64; 3]> {
    let mut seconds = [0.0; 3];
    for (seconds, pid) in seconds.iter_mut().zip(pids) {
        *seconds = pid.map_or(Ok(0.0), cpu_seconds)?;
    }
    Ok(seconds)
}

fn used(before: [f64; 3], after: [f64; 3]) -> [f64; 3] {
    std::array::from_fn(|at| after[at] - before[at])
}

fn print(round: usize, who: &str, copied: &Copied, load: &Load) {
    let rate = load.mebibytes() / copied.seconds;
    let [source, replica, daemon] = copied.cpu;
    print!(
        "  {round}: {who:<8} {:6.2} s {rate:6.0} MiB/s; CPU s: source {source:.2}, replica {replica:.2}",
        copied.seconds
    );
    if copied.daemon_peak_bytes > 0 {
        print!(", daemon {daemon:.2}; daemon's peak {} MiB", copied.daemon_peak_bytes >> 20);
    }
    println!();
}
