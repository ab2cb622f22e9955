//! A replica out of sync that went on alone comes back with records that are not of the copy: it is
//! told to cut them, and copies anew. And each side compacts on its own, to the same values.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::support::cluster::{Cluster, ClusterSpec};
use crate::support::compare::wait_identical;
use crate::support::daemon::{DaemonSpec, SEAT};
use crate::support::java::{Consume, Produce};
use crate::support::judge::NewTopic;
use crate::support::judge::admin::TOPIC;
use crate::support::judge::produce::plain_batch;
use crate::support::{eventually, scenario};

const DEADLINE: Duration = Duration::from_secs(90);
/// Where it is eligible it is elected as soon as it is back.
const ELECTION: Duration = Duration::from_secs(20);
const LOG: &str = "log";
const TABLE: &str = "table";
const LOCK: &str = "max.message.bytes";
const FOREIGN: &[u8] = b"not of the source";

#[test]
fn a_replica_that_went_on_alone_is_cut_and_copies_anew() {
    scenario("replica-cut", |workspace| {
        let source = ClusterSpec::new("source").start_in(workspace)?;
        let mut destination = ClusterSpec::new("destination")
            .brokers(2)
            .separate_controllers(1)
            .start_in(workspace)?;
        source.create_topic(&NewTopic::new(LOG, 1))?;
        fill(&source, 30)?;
        let mut daemon = DaemonSpec::new(&source, &destination, &[LOG])
            .line("link.topics", "replication_factor = 2")
            .start_in(env!("CARGO_BIN_EXE_lockstep"), workspace)?;
        daemon.wait_ready()?;
        wait_identical(&source, &destination, LOG, LOG, DEADLINE)?;

        daemon.stop()?;
        let alone = goes_on_alone(&mut destination)?;
        let other = 3 - alone;
        destination.kill(alone)?;
        destination.start_again(other)?;
        eventually(ELECTION, "the other one to lead", || {
            ensure!(destination.leader(LOG, 0)? == other);
            Ok(())
        })
        .or_else(|_nobody_is_eligible| destination.judge(other)?.elect_leader(LOG, 0, true))?;
        daemon.start_again()?;
        fill(&source, 10)?;
        eventually(DEADLINE, "the mirror to go on without it", || {
            let found = destination.judge(other)?.bounds(LOG, 0)?;
            ensure!(found.high_watermark == 40, "{found:?}");
            Ok(())
        })?;
        destination.start_again(alone)?;
        wait_identical(&source, &destination, LOG, LOG, DEADLINE)?;
        eventually(DEADLINE, "all replicas in sync", || {
            let found = destination.any_judge()?.partition(LOG, 0)?;
            ensure!(found.leader == SEAT && found.in_sync.len() == 3, "{found:?}");
            Ok(())
        })?;
        let log = daemon.log_text()?;
        let told = log.lines().find(|line| line.contains("FOLLOWER_TRUNCATED"));
        let told = told.context("not told")?;
        ensure!(told.contains("start_offset=30") && told.contains("end_offset=33"), "{told}");
        Ok(())
    });
}

/// Unlocked for a moment, the only replica that is left takes three records; it is locked again.
fn goes_on_alone(destination: &mut Cluster) -> Result<i32> {
    let alone = eventually(DEADLINE, "a real leader", || {
        let leader = destination.leader(LOG, 0)?;
        ensure!(leader > 0 && leader != SEAT, "{leader} leads");
        Ok(leader)
    })?;
    destination.stop(3 - alone)?;
    let mut judge = destination.judge(alone)?;
    judge.alter_config(TOPIC, LOG, LOCK, None)?;
    eventually(DEADLINE, "the records of a stranger", || {
        let batch = plain_batch(&[FOREIGN, FOREIGN, FOREIGN], 1_000);
        let answer = judge.produce(LOG, 0, 1, batch)?;
        ensure!(answer.error_code == 0 && answer.base_offset == 30, "{answer:?}");
        Ok(())
    })?;
    judge.alter_config(TOPIC, LOG, LOCK, Some("0"))?;
    ensure!(judge.local_bounds(LOG, 0)? == (0, 33));
    Ok(alone)
}

fn fill(source: &Cluster, count: u64) -> Result<()> {
    let load = Produce::to(&source.bootstrap(), LOG).option("flush", 10).count(count);
    load.option("producer.linger.ms", 10_000).run(source.dist()).map(|_sent| ())
}

#[test]
fn what_both_sides_hold_after_compaction_is_the_same() {
    scenario("compaction", |workspace| {
        let cleaning = |name: &str, backoff_ms: u32| {
            ClusterSpec::new(name).property("log.cleaner.backoff.ms", backoff_ms)
        };
        let source = cleaning("source", 100).start_in(workspace)?;
        // At other moments than the source, so that they differ in what they have still got.
        let destination = cleaning("destination", 1_700).brokers(2).start_in(workspace)?;
        let table = NewTopic::new(TABLE, 1)
            .config("cleanup.policy", "compact")
            .config("segment.bytes", 1 << 20)
            .config("segment.ms", 1_000)
            .config("min.cleanable.dirty.ratio", 0.01);
        source.create_topic(&table)?;
        let _daemon = DaemonSpec::new(&source, &destination, &[TABLE])
            .line("link.topics", "replication_factor = 2")
            .start_in(env!("CARGO_BIN_EXE_lockstep"), workspace)?;
        let mut total = 0;
        let mut different = None;
        eventually(DEADLINE, "both cleaners to have taken records away", || {
            total += 100;
            let load = Produce::to(&source.bootstrap(), TABLE).option("keys", 7).option("flush", 5);
            load.count(100).run(source.dist())?;
            let end = source.judge(1)?.bounds(TABLE, 0)?.high_watermark;
            for broker in destination.broker_ids() {
                let found = destination.judge(broker)?.bounds(TABLE, 0)?;
                ensure!(found.high_watermark == end, "broker {broker}: {found:?} of {end}");
            }
            let (theirs, ours) = (records(&source)?, records(&destination)?);
            let differs = |(offset, record): (&i64, &String)| {
                let other = theirs.get(offset).filter(|other| *other != record)?;
                Some(format!("{record} is {other} at the source"))
            };
            different = different.take().or_else(|| ours.iter().find_map(differs));
            let (left, copied) = (theirs.len(), ours.len());
            ensure!(left < total && copied < total, "{left} and {copied} of {total} are left");
            let both = ours.keys().filter(|offset| theirs.contains_key(offset)).count();
            ensure!(both >= 7, "{both} offsets are at both sides");
            Ok(())
        })?;
        ensure!(different.is_none(), "{different:?}");
        Ok(())
    });
}

/// By offset.
fn records(cluster: &Cluster) -> Result<BTreeMap<i64, String>> {
    let lines = Consume::from(&cluster.bootstrap(), &[TABLE]).run(cluster.dist())?;
    let by_offset = lines.into_iter().map(|line| {
        let offset = line.split(' ').nth(2).context("no offset")?.parse()?;
        Ok((offset, line))
    });
    by_offset.collect()
}
