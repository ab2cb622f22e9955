//! Replicas that fall out of the in-sync replicas in ways of their own, and how they come back.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::support::cluster::Cluster;
use crate::support::compare::wait_identical;
use crate::support::daemon::{Daemon, DaemonSpec, SEAT};
use crate::support::java::Produce;
use crate::support::judge::NewTopic;
use crate::support::judge::admin::{BROKER, TOPIC};
use crate::support::judge::produce::plain_batch;
use crate::support::workspace::Workspace;
use crate::support::{ClusterSpec, eventually, scenario};

const DEADLINE: Duration = Duration::from_secs(60);
const LAG_TIME: Duration = Duration::from_secs(4);
/// What the daemon may hold of records.
const MEMORY: u64 = 64 << 20;
/// Well beyond the time after which a silent replica counts as failed.
const LONG_SILENCE: Duration = Duration::from_secs(22);
/// The least that 4.x takes.
const SMALL_SEGMENT: usize = 1 << 20;
const SEGMENT: &str = "segment.bytes";

/// A follower marks the partition failed when one append is larger than its segments, and never asks
/// for it again in that leader epoch.
#[test]
fn a_replica_that_marked_its_partition_failed_is_revived() {
    scenario("failed-replica", |workspace| {
        let (source, destination) = clusters(workspace, 3)?;
        let daemon = DaemonSpec::new(&source, &destination, &["large"])
            .line("link.topics", "replication_factor = 2")
            .start_in(env!("CARGO_BIN_EXE_lockstep"), workspace)?;
        fails_and_is_revived(&source, &destination)?;
        let after = destination.any_judge()?.partition("large", 0)?;
        ensure!(after.leader == SEAT && after.replicas.len() == 3, "{after:?}");
        // The third broker lent itself: the seat led throughout, one epoch came.
        ensure!(after.leader_epoch == 1, "{after:?}");
        ensure!(daemon.log_text()?.contains("FOLLOWER_REVIVED"));
        Ok(())
    });
}

/// Where all brokers are replicas, another one leads for a moment.
#[test]
fn a_failed_replica_is_revived_where_no_broker_is_spare() {
    scenario("failed-replica-small", |workspace| {
        let (source, destination) = clusters(workspace, 2)?;
        let _daemon = DaemonSpec::new(&source, &destination, &["large"])
            .line("link.topics", "replication_factor = 2")
            .start_in(env!("CARGO_BIN_EXE_lockstep"), workspace)?;
        fails_and_is_revived(&source, &destination)?;
        eventually(DEADLINE, "the seat in front and leading", || {
            let after = destination.any_judge()?.partition("large", 0)?;
            ensure!(after.leader == SEAT && after.replicas[0] == SEAT, "{after:?}");
            ensure!(after.leader_epoch >= 2, "{after:?}");
            Ok(())
        })
    });
}

/// A replica that hangs, one whose broker came back with less than it had, one that a throttle keeps
/// from asking, and one whose disk is full and then another: each is out of sync for a while and comes back, and the others never wait for it.
#[test]
fn replicas_that_hang_or_lose_their_logs_come_back() {
    scenario("replicas-behind", |workspace| {
        let (source, mut destination) = clusters(workspace, 3)?;
        let load = Produce::to(&source.bootstrap(), "large")
            .count(0)
            .option("rate", 1_000)
            .option("size", 1_000)
            .option("flush", 50)
            .start(source.dist())?;
        let daemon = DaemonSpec::new(&source, &destination, &["large"])
            .line("daemon", "memory = \"64MiB\"")
            .line("link.topics", "replication_factor = 3")
            .start_in(env!("CARGO_BIN_EXE_lockstep"), workspace)?;
        wait_in_sync(&destination, &[1, 2, 3])?;
        wait_passed(&source, &destination)?;
        destination.pause(3)?;
        wait_in_sync(&destination, &[1, 2])?;
        wait_passed(&source, &destination)?;
        destination.resume(3)?;
        wait_in_sync(&destination, &[1, 2, 3])?;
        let epoch = destination.any_judge()?.partition("large", 0)?.leader_epoch;
        let mut judge = destination.judge(2)?;
        judge.alter_config(BROKER, "2", THROTTLED_RATE, Some("1"))?;
        judge.alter_config(TOPIC, "large", THROTTLED_REPLICAS, Some("0:2"))?;
        destination.kill(2)?;
        shorten_log(&destination, 2)?;
        destination.start_again(2)?;
        destination.wait_unfenced(&[1, 2, 3])?;
        let throttled = Instant::now();
        eventually(DEADLINE, "a long silence", || {
            let now = destination.any_judge()?.partition("large", 0)?;
            ensure!(throttled.elapsed() > LONG_SILENCE, "{now:?}");
            ensure!(!now.in_sync.contains(&2) && now.leader_epoch == epoch, "{now:?}");
            Ok(())
        })?;
        ensure!(!daemon.log_text()?.contains("FOLLOWER_REVIVED"), "taken for a failed one");
        wait_passed(&source, &destination)?;
        let mut judge = destination.judge(2)?;
        judge.alter_config(TOPIC, "large", THROTTLED_REPLICAS, None)?;
        judge.alter_config(BROKER, "2", THROTTLED_RATE, None)?;
        wait_in_sync(&destination, &[1, 2, 3])?;
        a_disk_is_full_and_replaced(&source, &mut destination, &daemon)?;
        load.stop()?;
        wait_identical(&source, &destination, "large", "large", DEADLINE)
    });
}

/// The broker lives on its other disk; the partition is out of sync, and nothing waits for it.
fn a_disk_is_full_and_replaced(
    source: &Cluster,
    destination: &mut Cluster,
    daemon: &Daemon,
) -> Result<()> {
    let revivals =
        || -> Result<usize> { Ok(daemon.log_text()?.matches("FOLLOWER_REVIVED").count()) };
    let before = revivals()?;
    let partition = destination.partition_dir(3, "large-0")?;
    let full = std::fs::metadata(partition.join("00000000000000000000.log"))?.len();
    destination.limit_files(3, full)?;
    let limited = Instant::now();
    wait_in_sync(destination, &[1, 2])?;
    println!("the replica on a full disk is out of sync after {:?}", limited.elapsed());
    let log = std::fs::read_to_string(&destination.node(3)?.log_file)?;
    ensure!(log.contains("Stopping serving logs in dir"), "the disk did not fail");
    let failed = Instant::now();
    eventually(DEADLINE, "a long failure", || {
        let now = destination.any_judge()?.partition("large", 0)?;
        ensure!(failed.elapsed() > LAG_TIME * 2, "{now:?}");
        ensure!(now.in_sync == [1, 2, SEAT] && now.leader == SEAT, "{now:?}");
        Ok(())
    })?;
    wait_passed(source, destination)?;
    destination.judge(3).context("the broker with the full disk")?.metadata(Some(&[]))?;
    ensure!(revivals()? == before, "taken for a failed replica");
    let memory = daemon.resident_bytes()?;
    ensure!(memory < MEMORY + (64 << 20), "{memory} bytes resident");
    destination.kill(3)?;
    std::fs::remove_dir_all(&partition)?;
    destination.start_again(3)?;
    wait_in_sync(destination, &[1, 2, 3])?;
    wait_passed(source, destination)
}

const THROTTLED_RATE: &str = "follower.replication.throttled.rate";
const THROTTLED_REPLICAS: &str = "follower.replication.throttled.replicas";

fn wait_in_sync(destination: &Cluster, real: &[i32]) -> Result<()> {
    let wanted = [real, &[SEAT]].concat();
    eventually(DEADLINE, format!("{wanted:?} in sync"), || {
        let now = destination.any_judge()?.partition("large", 0)?;
        ensure!(now.in_sync == wanted && now.leader == SEAT, "{now:?}");
        Ok(())
    })
}

/// Waits until some MiB more can be read.
fn wait_passed(source: &Cluster, destination: &Cluster) -> Result<()> {
    let wanted = source.any_judge()?.log_end_offset("large", 0)? + 3_000;
    eventually(DEADLINE, format!("the mirror to reach {wanted}"), || {
        let found = destination.any_judge()?.bounds("large", 0)?.high_watermark;
        ensure!(found >= wanted, "it ends at {found}");
        Ok(())
    })
}

/// Takes half of what a broker that was killed holds, somewhere inside of a batch.
fn shorten_log(destination: &Cluster, broker: i32) -> Result<()> {
    let path = destination.node(broker)?.log_dir.join("large-0/00000000000000000000.log");
    let file = std::fs::File::options().write(true).open(path)?;
    Ok(file.set_len(file.metadata()?.len() / 2 + 7)?)
}

fn clusters(workspace: &Workspace, brokers: i32) -> Result<(Cluster, Cluster)> {
    let source = ClusterSpec::new("source").start_in(workspace)?;
    let destination = ClusterSpec::new("destination")
        .brokers(brokers)
        .property("replica.lag.time.max.ms", LAG_TIME.as_millis())
        .three_disks(3)
        // A throttled replica asks again when its last answer leaves the quota's window: 11 times this.
        .property("replication.quota.window.size.seconds", 5)
        .start_in(workspace)?;
    source.create_topic(&NewTopic::new("large", 1).config("max.message.bytes", 4 << 20))?;
    Ok((source, destination))
}

fn fails_and_is_revived(source: &Cluster, destination: &Cluster) -> Result<()> {
    produce(source, 1_000)?;
    wait_identical(source, destination, "large", "large", DEADLINE)?;
    let before = destination.any_judge()?.partition("large", 0)?;
    ensure!(before.leader == SEAT && before.in_sync.len() == 3, "{before:?}");
    let failing = before.replicas[2];
    let mut judge = destination.judge(failing)?;
    let small = SMALL_SEGMENT.to_string();
    judge.alter_config(BROKER, &failing.to_string(), "log.segment.bytes", Some(&small))?;
    eventually(DEADLINE, "a failed partition", || {
        // Until the daemon puts it back, the broker's own setting holds there, and only there: a batch
        // has to come through before that.
        judge.alter_config(TOPIC, "large", SEGMENT, None)?;
        produce(source, SMALL_SEGMENT * 3 / 2)?;
        let log = std::fs::read_to_string(&destination.node(failing)?.log_file)?;
        ensure!(
            log.contains("Unexpected error occurred while processing data for partition large-0")
        );
        Ok(())
    })?;
    eventually(DEADLINE, "the failed replica out of sync", || {
        let now = destination.any_judge()?.partition("large", 0)?;
        ensure!(!now.in_sync.contains(&failing), "{now:?}");
        Ok(())
    })?;
    eventually(DEADLINE, "the failed replica in sync again", || {
        let now = destination.any_judge()?.partition("large", 0)?;
        ensure!(now.in_sync.contains(&failing), "{now:?}");
        Ok(())
    })?;
    produce(source, 1_000)?;
    wait_identical(source, destination, "large", "large", DEADLINE)
}

fn produce(source: &Cluster, bytes: usize) -> Result<()> {
    let batch = plain_batch(&[vec![b'x'; bytes].as_slice()], 1_000);
    let answer = source.any_judge()?.produce("large", 0, -1, batch)?;
    ensure!(answer.error_code == 0, "{answer:?}");
    Ok(())
}

/// The last replica in sync dies, then one that had fallen far behind comes back, alone: it is fed
/// from the source again, and the copy goes on.
#[test]
fn a_replica_far_behind_comes_back_when_the_last_in_sync_one_is_dead() {
    scenario("last-in-sync", |workspace| {
        let source = ClusterSpec::new("source").start_in(workspace)?;
        let mut destination = ClusterSpec::new("destination")
            .brokers(2)
            .separate_controllers(1)
            .property("replica.lag.time.max.ms", LAG_TIME.as_millis())
            .start_in(workspace)?;
        let large = NewTopic::new("large", 1).config("max.message.bytes", 4 << 20);
        // The records are of 1970.
        source.create_topic(&large.config("retention.ms", -1))?;
        let _daemon = DaemonSpec::new(&source, &destination, &["large"])
            .line("daemon", "memory = \"16MiB\"")
            .line("link.topics", "replication_factor = 2")
            .start_in(env!("CARGO_BIN_EXE_lockstep"), workspace)?;
        produce(&source, 1_000)?;
        wait_identical(&source, &destination, "large", "large", DEADLINE)?;
        wait_in_sync(&destination, &[1, 2])?;
        destination.kill(2)?;
        wait_in_sync(&destination, &[1])?;
        for _ in 0..40 {
            produce(&source, 1 << 20)?;
        }
        wait_end(&source, &destination)?;
        destination.kill(1)?;
        destination.start_again(2)?;
        wait_in_sync(&destination, &[2])?;
        produce(&source, 1_000)?;
        wait_end(&source, &destination)?;
        destination.start_again(1)?;
        wait_in_sync(&destination, &[1, 2])?;
        wait_identical(&source, &destination, "large", "large", DEADLINE)
    });
}

fn wait_end(source: &Cluster, destination: &Cluster) -> Result<()> {
    let wanted = source.any_judge()?.log_end_offset("large", 0)?;
    eventually(DEADLINE, format!("the mirror to reach {wanted}"), || {
        let found = destination.any_judge()?.bounds("large", 0)?.high_watermark;
        ensure!(found >= wanted, "it ends at {found}");
        Ok(())
    })
}
