//! The log start follows the source's, whatever happened meanwhile; what the source deleted before it
//! was copied is a named gap; and no replica is empty for a moment on the way.

use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::support::cluster::{Cluster, ClusterSpec};
use crate::support::compare::wait_identical;
use crate::support::daemon::{Daemon, DaemonSpec, SEAT};
use crate::support::java::Produce;
use crate::support::judge::NewTopic;
use crate::support::{eventually, scenario};

const DEADLINE: Duration = Duration::from_secs(90);
const LOG: &str = "log";
/// Its partitions, each with a story of its own.
const IDLE: i32 = 0;
const TRIMMED: i32 = 1;
const GAP: i32 = 2;
const GONE: i32 = 3;
const PARTITIONS: i32 = 4;
const TO_THE_END: i64 = -1;

#[test]
fn trims_and_gaps_are_followed_without_an_empty_replica() {
    scenario("log-start", |workspace| {
        let source = ClusterSpec::new("source").start_in(workspace)?;
        let mut destination = ClusterSpec::new("destination").brokers(3).start_in(workspace)?;
        source.create_topic(&NewTopic::new(LOG, PARTITIONS))?;
        fill(&source, 30)?;
        let mut daemon = DaemonSpec::new(&source, &destination, &[LOG])
            .line("link.topics", "on_gap = \"continue\"")
            .start_in(env!("CARGO_BIN_EXE_lockstep"), workspace)?;
        daemon.wait_ready()?;
        identical(&source, &destination)?;

        // Nothing comes any more; the log start does.
        trim(&source, IDLE, 15)?;
        identical(&source, &destination)?;

        let code = daemon.stop()?;
        ensure!(code == 0, "the stopped daemon ended with code {code}");
        trim(&source, TRIMMED, 25)?;
        fill(&source, 30)?;
        trim(&source, GAP, 45)?;
        trim(&source, GONE, TO_THE_END)?;
        daemon.start_again()?;
        identical(&source, &destination)?;
        gap_told(&daemon, GAP, 30, 45)?;
        gap_told(&daemon, GONE, 30, 60)?;

        follower_below_the_log_start(&source, &mut destination)?;
        for broker in destination.broker_ids() {
            let log = std::fs::read_to_string(&destination.node(broker)?.log_file)?;
            let emptied = log.lines().find(|line| line.contains("Truncate fully"));
            ensure!(emptied.is_none(), "broker {broker}: {emptied:?}");
        }
        deleted_at_the_destination(&source, &destination, &mut daemon)
    });
}

/// Batches of ten in each partition.
fn fill(source: &Cluster, count: u64) -> Result<()> {
    let bootstrap = source.bootstrap();
    let load = |partition: i32| {
        let load = Produce::to(&bootstrap, LOG).option("flush", 10);
        load.option("producer.linger.ms", 10_000).option("partition", partition).count(count)
    };
    let loads = (1..PARTITIONS).map(load).fold(load(0), Produce::and);
    loads.run(source.dist()).map(|_sent| ())
}

fn trim(source: &Cluster, partition: i32, offset: i64) -> Result<()> {
    source.judge(1)?.delete_records(LOG, partition, offset).map(|_start| ())
}

fn identical(source: &Cluster, destination: &Cluster) -> Result<()> {
    wait_identical(source, destination, LOG, LOG, DEADLINE)?;
    in_sync(destination, 4)
}

fn in_sync(destination: &Cluster, count: usize) -> Result<()> {
    eventually(DEADLINE, format!("{count} replicas in sync"), || {
        for (partition, found) in destination.any_judge()?.topic(LOG)?.partitions {
            ensure!(found.in_sync.len() == count, "{partition}: {found:?}");
        }
        Ok(())
    })
}

/// The exact range is in an event, and counted.
fn gap_told(daemon: &Daemon, partition: i32, start: i64, end: i64) -> Result<()> {
    eventually(DEADLINE, format!("the event of {LOG}-{partition}"), || {
        let log = daemon.log_text()?;
        let parts = [
            "GAP_ACCEPTED".to_owned(),
            format!("partition={partition}"),
            format!("start_offset={start}"),
            format!("end_offset={end}"),
        ];
        let told = log.lines().any(|line| parts.iter().all(|part| line.contains(part)));
        ensure!(told, "not told");
        Ok(())
    })?;
    let number = format!("partition=\"{partition}\"");
    let counted = daemon.metric("lockstep_mirror_gap_records_total", &[&number])?;
    ensure!((counted - (end - start) as f64).abs() < 0.5, "{counted} left out");
    Ok(())
}

/// A replica comes back that ends below the log start: it goes on there.
fn follower_below_the_log_start(source: &Cluster, destination: &mut Cluster) -> Result<()> {
    destination.stop(3)?;
    in_sync(destination, 3)?;
    fill(source, 30)?;
    trim(source, IDLE, 85)?;
    trim(source, TRIMMED, TO_THE_END)?;
    trim(source, GAP, 75)?;
    eventually(DEADLINE, "the log starts at the two others", || {
        for partition in [IDLE, TRIMMED, GAP] {
            let wanted = source.judge(1)?.bounds(LOG, partition)?.log_start_offset;
            for broker in [1, 2] {
                let found = destination.judge(broker)?.bounds(LOG, partition)?;
                ensure!(found.log_start_offset == wanted, "{partition} on {broker}: {found:?}");
            }
        }
        Ok(())
    })?;
    destination.start_again(3)?;
    identical(source, destination)?;
    fill(source, 10)?;
    identical(source, destination)
}

/// While a real broker leads anybody may delete records of the copy: it is told, and copied on.
fn deleted_at_the_destination(
    source: &Cluster,
    destination: &Cluster,
    daemon: &mut Daemon,
) -> Result<()> {
    daemon.stop()?;
    let leader = destination.leader(LOG, IDLE)?;
    ensure!(leader != SEAT, "the seat leads");
    destination.judge(leader)?.delete_records(LOG, IDLE, 95)?;
    daemon.start_again()?;
    fill(source, 10)?;
    eventually(DEADLINE, "the copy to go on from its own log start", || {
        let end = source.judge(1)?.bounds(LOG, IDLE)?.high_watermark;
        for broker in destination.broker_ids() {
            let found = destination.judge(broker)?.bounds(LOG, IDLE)?;
            ensure!(
                found.log_start_offset == 95 && found.high_watermark == end,
                "broker {broker}: {found:?}, source ends at {end}"
            );
        }
        Ok(())
    })?;
    let log = daemon.log_text()?;
    let told = log.lines().find(|line| line.contains("LOG_START_AHEAD"));
    let told = told.context("not told")?;
    ensure!(told.contains("start_offset=85") && told.contains("end_offset=95"), "{told}");
    eventually(DEADLINE, "the remark in the report", || {
        let report = daemon.mirror(LOG)?.to_string();
        ensure!(report.contains("DESTINATION_LOG_START_AHEAD"), "{report}");
        Ok(())
    })
}
