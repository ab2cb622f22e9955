//! Transactions of every fate, and what consumers see of them when a stock broker leads the mirror.

use anyhow::{Context, Result, ensure};

use super::{DEADLINE, batches, start_daemon, tens, wait_mirrored};
use crate::support::cluster::{Cluster, ClusterSpec};
use crate::support::eventually;
use crate::support::java::{Consume, Produce};
use crate::support::judge::{Batch, NewTopic};
use crate::support::scenario;

const TOPIC: &str = "payments";
/// The partition with a transaction that nobody ends.
const OPEN: i32 = 0;
/// Kafka's upper limit: the coordinator would otherwise end the open one itself after a minute.
const TRANSACTION_TIMEOUT_MS: i32 = 900_000;

#[test]
fn transactions_read_at_the_mirror_as_at_the_source() {
    scenario("transactions", |workspace| {
        let source = ClusterSpec::new("source").start_in(workspace)?;
        let destination = ClusterSpec::new("destination").brokers(3).start_in(workspace)?;
        source.create_topic(&NewTopic::new(TOPIC, 2))?;
        // One half waits for the daemon, the other arrives while it mirrors.
        let mut sent = ended("before", &source).run(source.dist())?.len();
        let mut daemon = start_daemon(&source, &destination, &[TOPIC], workspace)?;
        wait_mirrored(&source, &destination, TOPIC)?;
        sent += ended("after", &source).and(left_open(&source)).run(source.dist())?.len();
        has_what_is_claimed(&source)?;
        wait_mirrored(&source, &destination, TOPIC)?;

        daemon.kill()?;
        wait_real_leaders(&destination)?;
        same_stable_offsets(&source, &destination)?;
        let all = same_to_consumers(&source, &destination, "read_uncommitted")?;
        let committed = same_to_consumers(&source, &destination, "read_committed")?;
        ensure!(all.len() == sent, "{} of {sent} records", all.len());
        ensure!(committed.len() < all.len(), "{} committed", committed.len());
        let seen = |line: &&String| !all.contains(line);
        ensure!(committed.iter().find(seen).is_none(), "only committed readers see a record");
        Ok(())
    });
}

/// Committed, aborted, by turns, and two at a time, over both partitions.
fn ended(name: &str, source: &Cluster) -> Produce {
    let load = |mode: &str| {
        let load = tens(source, TOPIC).option("transactions", mode).option("per-transaction", 5);
        load.option("transactional-id", format!("{name}-{mode}")).option("keys", 7).count(30)
    };
    let plain = tens(source, TOPIC).option("keys", 7).option("headers", 3).count(20);
    load("commit").and(load("abort")).and(plain).and(load("mix")).and(load("interleaved"))
}

/// A transaction without an end, and what committed readers must not see because of it.
fn left_open(source: &Cluster) -> Produce {
    let load = || tens(source, TOPIC).option("partition", OPEN);
    let open = load().option("transactions", "open").option("per-transaction", 10).count(15);
    let open = open.option("producer.transaction.timeout.ms", TRANSACTION_TIMEOUT_MS);
    let after = load().option("transactions", "mix").option("transactional-id", "late").count(20);
    open.and(after)
}

/// A comparison proves what is there to compare.
fn has_what_is_claimed(source: &Cluster) -> Result<()> {
    for partition in [0, 1] {
        let log = batches(source, TOPIC, partition)?;
        ensure!(
            log.iter().any(|batch| !batch.is_transactional()),
            "every batch is in a transaction"
        );
        let markers: Vec<_> = log.iter().filter(|batch| batch.is_control()).map(marker).collect();
        ensure!(markers.contains(&ABORT) && markers.contains(&COMMIT), "{markers:?}");
        ensure!(has_interleaved(&log), "nothing is interleaved");
    }
    let bounds = source.judge(1)?.bounds(TOPIC, OPEN)?;
    ensure!(bounds.last_stable_offset < bounds.high_watermark, "nothing is open: {bounds:?}");
    Ok(())
}

const ABORT: i16 = 0;
const COMMIT: i16 = 1;

/// Type of the marker in a control batch: the second number of the one record's key.
fn marker(batch: &Batch) -> i16 {
    // After the header: lengths, attributes and two deltas of one byte each, the key's length,
    // version, type.
    let at = 61 + 1 + 1 + 1 + 1 + 1 + 2;
    i16::from_be_bytes([batch.bytes[at], batch.bytes[at + 1]])
}

/// A batch of one producer between two of another's, before either has ended its transaction.
fn has_interleaved(log: &[Batch]) -> bool {
    log.windows(3).any(|three| {
        let data = three.iter().all(|batch| batch.is_transactional() && !batch.is_control());
        let [a, b, c] = [0, 1, 2].map(|at| three[at].producer_id());
        data && a == c && a != b
    })
}

fn wait_real_leaders(destination: &Cluster) -> Result<()> {
    let real = destination.broker_ids();
    eventually(DEADLINE, "real brokers to lead the mirror", || {
        for (index, found) in destination.any_judge()?.topic(TOPIC)?.partitions {
            ensure!(real.contains(&found.leader), "{TOPIC}-{index}: {found:?}");
        }
        Ok(())
    })
}

/// Each replica found the same transactions open as the source: it may lead next.
fn same_stable_offsets(source: &Cluster, destination: &Cluster) -> Result<()> {
    for partition in [0, 1] {
        let wanted = source.judge(1)?.bounds(TOPIC, partition)?;
        for broker in destination.broker_ids() {
            let what = format!("the bounds of {TOPIC}-{partition} on broker {broker}");
            eventually(DEADLINE, what, || {
                let found = destination.judge(broker)?.bounds(TOPIC, partition)?;
                ensure!(found == wanted, "{found:?}, at the source {wanted:?}");
                Ok(())
            })?;
        }
    }
    Ok(())
}

/// What a Java consumer of either cluster reads, record by record.
fn same_to_consumers(
    source: &Cluster,
    destination: &Cluster,
    isolation: &str,
) -> Result<Vec<String>> {
    let read = |cluster: &Cluster| {
        let consume = Consume::from(&cluster.bootstrap(), &[TOPIC]).option("isolation", isolation);
        consume.run(cluster.dist()).with_context(|| format!("read {}", cluster.name()))
    };
    let (wanted, found) = (read(source)?, read(destination)?);
    let differing = wanted.iter().zip(&found).find(|(wanted, found)| wanted != found);
    ensure!(differing.is_none(), "{isolation}: {differing:?}");
    ensure!(wanted.len() == found.len(), "{isolation}: {} of {}", found.len(), wanted.len());
    Ok(wanted)
}
