//! Logs with holes: compacted, cut inside a batch, emptied.

use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, ensure};

use super::{DEADLINE, batches, start_daemon, tens, wait_mirrored};
use crate::support::cluster::{Cluster, ClusterSpec};
use crate::support::eventually;
use crate::support::java::Produce;
use crate::support::judge::log::LATEST;
use crate::support::judge::{Batch, NewTopic};
use crate::support::scenario;

const TABLE: &str = "table";
const CUT: &str = "cut";
/// In the header of a batch that the cleaner has met tombstones or markers in (KIP-534).
const HAS_DELETE_HORIZON: i16 = 0x40;
const CLEANER_CHECKPOINT: &str = "cleaner-offset-checkpoint";
/// Records further apart than this are in different segments.
const SEGMENT: Duration = Duration::from_secs(120);

#[test]
fn holes_and_log_starts_are_mirrored_as_they_are() {
    scenario("holes", |workspace| {
        let source = ClusterSpec::new("source")
            .property("log.cleaner.backoff.ms", 100)
            .start_in(workspace)?;
        // Each side compacts on its own, at other moments: here one must not, to be compared.
        let destination = ClusterSpec::new("destination")
            .brokers(3)
            .property("log.cleaner.backoff.ms", 3_600_000)
            .start_in(workspace)?;
        compact_at_source(&source)?;
        source.create_topic(&NewTopic::new(CUT, 4))?;
        fill(&source)?;
        cut_inside_a_batch(&source, 0)?;
        empty(&source, 1)?;

        let _daemon = start_daemon(&source, &destination, &[TABLE, CUT], workspace)?;
        wait_mirrored(&source, &destination, TABLE)?;
        wait_mirrored(&source, &destination, CUT)?;

        // The same to partitions that were mirrored whole.
        cut_inside_a_batch(&source, 2)?;
        empty(&source, 3)?;
        wait_mirrored(&source, &destination, CUT)?;
        fill(&source)?;
        wait_mirrored(&source, &destination, CUT)
    });
}

/// Three batches of ten records in each partition.
fn fill(source: &Cluster) -> Result<()> {
    let load = |partition| tens(source, CUT).option("partition", partition).count(30);
    let ends = || -> Result<Vec<i64>> {
        let mut leader = source.judge(1)?;
        (0..4).map(|partition| leader.list_offset(CUT, partition, LATEST)).collect()
    };
    let before = ends()?;
    load(0).and(load(1)).and(load(2)).and(load(3)).run(source.dist())?;
    for (partition, end) in (0..4).zip(before) {
        let log = batches(source, CUT, partition)?;
        let new = log.iter().filter(|batch| batch.base_offset() >= end);
        let sizes: Vec<_> = new.map(Batch::record_count).collect();
        ensure!(sizes == [10, 10, 10], "{sizes:?}");
    }
    Ok(())
}

fn cut_inside_a_batch(source: &Cluster, partition: i32) -> Result<()> {
    let start = source.judge(1)?.delete_records(CUT, partition, 15)?;
    let log = batches(source, CUT, partition)?;
    let first = log.first().context("nothing left")?;
    ensure!(start == 15 && first.base_offset() == 10, "log start {start}, first {first:?}");
    Ok(())
}

fn empty(source: &Cluster, partition: i32) -> Result<()> {
    const TO_THE_END: i64 = -1;
    let start = source.judge(1)?.delete_records(CUT, partition, TO_THE_END)?;
    ensure!(start == source.judge(1)?.list_offset(CUT, partition, LATEST)?, "log start {start}");
    ensure!(batches(source, CUT, partition)?.is_empty(), "records are left");
    Ok(())
}

/// Makes [`TABLE`] and lets the source's cleaner go over it twice: what it marks at first sight it
/// takes away the next time.
fn compact_at_source(source: &Cluster) -> Result<()> {
    let table = NewTopic::new(TABLE, 1)
        .config("cleanup.policy", "compact")
        .config("segment.bytes", 1 << 20)
        .config("segment.ms", SEGMENT.as_millis())
        .config("min.cleanable.dirty.ratio", 0.01)
        .config("delete.retention.ms", 0);
    source.create_topic(&table)?;
    let load = |segment: u32, first: u32, keys: u32| {
        let load = tens(source, TABLE).option("first", first).option("keys", keys);
        load.option("timestamp", time_of(segment)).option("transactions", "idempotent")
    };
    let transaction = |load: Produce, mode: &str| {
        load.option("transactions", mode).option("transactional-id", mode)
    };
    // The first load is overwritten by the second, that in part by the third.
    let many = load(0, 0, 5).count(30).and(load(0, 0, 10).count(40)).and(load(1, 0, 5).count(5));
    let many = many.and(transaction(load(1, 100, 1_000).count(40), "mix"));
    let many = many.and(transaction(load(1, 0, 3).count(12), "interleaved"));
    // Last, since a second look would take them away.
    let deleted = load(2, 20, 1_000).option("null-values", 1).count(10);
    let many = many.and(transaction(deleted, "commit"));
    clean(source, many, load(3, 200, 1_000).count(2))?;
    let log = batches(source, TABLE, 0)?;
    let marked = |batch: &&Batch| has_delete_horizon(batch) && !batch.is_control();
    let deleted = log.iter().find(marked).context("no deletions are left")?;
    ensure!(log.iter().any(Batch::is_control), "no marker is left");
    has_holes(&log)?;

    let more = load(4, 300, 1_000).option("null-values", 3).count(20);
    clean(source, more, load(5, 400, 1_000).count(2))?;
    let log = batches(source, TABLE, 0)?;
    let left = log.iter().find(|batch| batch.base_offset() == deleted.base_offset());
    ensure!(left.is_none_or(|batch| batch.record_count() == 0), "deletions are left: {left:?}");
    ensure!(log.iter().any(|batch| marked(&batch)), "no deletions are marked");
    has_holes(&log)
}

/// Sends `load`, and `last` into a segment of its own: the cleaner leaves the last segment alone.
/// Waits until it has gone over all before it.
fn clean(source: &Cluster, load: Produce, last: Produce) -> Result<()> {
    let sent = load.and(last).run(source.dist())?;
    let end = sent.iter().rev().nth(1).and_then(|first_of_last| first_of_last.offset);
    let end = end.context("nothing was sent")?;
    let checkpoint = source.node(1)?.log_dir.join(CLEANER_CHECKPOINT);
    eventually(DEADLINE, format!("the cleaner to come to offset {end} of {TABLE}"), || {
        let text = std::fs::read_to_string(&checkpoint)?;
        let line = text.lines().find_map(|line| line.strip_prefix(&format!("{TABLE} 0 ")));
        let cleaned: i64 = line.context("the cleaner has not begun")?.parse()?;
        ensure!(cleaned >= end, "it is at {cleaned}");
        Ok(())
    })
}

/// When the records of a segment were made, in milliseconds since 1970: all of a test's records come
/// within [`SEGMENT`], and segments lie further apart than that.
fn time_of(segment: u32) -> u128 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    (now + segment * 2 * SEGMENT).as_millis()
}

/// A comparison proves what is there to compare.
fn has_holes(log: &[Batch]) -> Result<()> {
    let span = |batch: &Batch| batch.next_offset() - batch.base_offset();
    let is_hollow = |batch: &&Batch| i64::from(batch.record_count()) < span(batch);
    let empty = log.iter().filter(|batch| batch.record_count() == 0).count();
    let hollow = log.iter().filter(is_hollow).count() - empty;
    let gaps = log.windows(2).filter(|pair| pair[0].next_offset() < pair[1].base_offset()).count();
    ensure!(
        empty > 0 && hollow > 0 && gaps > 0,
        "{empty} empty batches, {hollow} with records missing, {gaps} gaps in {}",
        log.len()
    );
    Ok(())
}

fn has_delete_horizon(batch: &Batch) -> bool {
    batch.attributes() & HAS_DELETE_HORIZON != 0
}
