//! The journal on stock clusters: where it lies, who writes it, what survives.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use kafka_protocol::messages::{FindCoordinatorRequest, InitProducerIdRequest};
use kafka_protocol::protocol::StrBytes;
use lockstep::wire::records::{BatchProducer, NewRecord, encode};
use serde_json::Value;

use crate::support::cluster::{Cluster, ClusterSpec};
use crate::support::compare::wait_identical;
use crate::support::daemon::{Daemon, DaemonSpec, SEAT};
use crate::support::java::{Produce, stock_tool};
use crate::support::judge::NewTopic;
use crate::support::{eventually, scenario};

const DEADLINE: Duration = Duration::from_secs(60);
const JOURNAL: &str = "__lockstep";
const EVENTS: &str = "__lockstep_events";

#[test]
fn the_journal_survives_restarts_deletion_and_other_writers() {
    scenario("journal", |workspace| {
        let source = ClusterSpec::new("source").start_in(workspace)?;
        let destination = ClusterSpec::new("destination").brokers(2).start_in(workspace)?;
        source.create_topic(&NewTopic::new("orders", 1))?;
        Produce::to(&source.bootstrap(), "orders").count(20).run(source.dist())?;
        let mut daemon = DaemonSpec::new(&source, &destination, &["orders", "late.*"])
            .start_in(env!("CARGO_BIN_EXE_lockstep"), workspace)?;
        daemon.wait_ready()?;
        wait_pinned(&daemon, 1)?;
        wait_lineage(&daemon)?;
        lies_on_real_brokers(&destination)?;
        people_can_read_it(&destination)?;

        let since = daemon.mirror("orders")?["since"].clone();
        daemon.kill()?;
        daemon.start_again()?;
        daemon.wait_ready()?;
        wait_pinned(&daemon, 1)?;
        eventually(DEADLINE, "the mirror is as before", || {
            let mirror = daemon.mirror("orders")?;
            ensure!(mirror["since"] == since && mirror["state"] == "Active", "{mirror}, {since}");
            Ok(())
        })?;

        destination.any_judge()?.delete_topic(JOURNAL)?;
        wait_event(&daemon, "JOURNAL_REBUILT", 1)?;
        wait_pinned(&daemon, 1)?;
        ensure!(daemon.mirror("orders")?["since"] == since, "since was lost with the topic");

        claim_as_another(&destination)?;
        source.create_topic(&NewTopic::new("late.1", 1))?;
        wait_pinned(&daemon, 2)?;
        let stepped_back = "another daemon writes the journal now";
        ensure!(daemon.log_text()?.contains(stepped_back), "it was never fenced");

        daemon.stop()?;
        destination.any_judge()?.delete_topic(JOURNAL)?;
        daemon.start_again()?;
        daemon.wait_ready()?;
        wait_event(&daemon, "JOURNAL_REBUILT", 2)?;
        wait_pinned(&daemon, 2)?;

        garbage_is_taken_away(&destination, &daemon)?;
        put(&destination, "{\"kind\":\"quota\"}", "{\"schema\":9}")?;
        is_not_written(&source, &destination, &daemon)?;
        wait_identical(&source, &destination, "orders", "orders", DEADLINE)
    });
}

fn wait_pinned(daemon: &Daemon, mirrors: u64) -> Result<()> {
    eventually(DEADLINE, "the journal is ours and has the pins", || {
        let journal = daemon.json("/v1/journal")?;
        let is_ours = journal["is_owner"] == true && journal["state"] == "Current";
        ensure!(is_ours && journal["links"] == 1 && journal["mirrors"] == mirrors, "{journal}");
        Ok(())
    })
}

/// The source epochs of what was copied are noted down lazily.
fn wait_lineage(daemon: &Daemon) -> Result<()> {
    eventually(DEADLINE, "the source's epochs in the journal", || {
        let journal = daemon.json("/v1/journal")?;
        ensure!(journal["lineages"] == 1, "{journal}");
        Ok(())
    })
}

fn wait_event(daemon: &Daemon, reason: &str, count: usize) -> Result<()> {
    eventually(DEADLINE, format!("{count} times the event {reason}"), || {
        let events = events(daemon)?;
        let found = events.iter().filter(|event| event["reason"] == reason).count();
        ensure!(found == count, "{found} of {count}: {events:?}");
        Ok(())
    })
}

fn events(daemon: &Daemon) -> Result<Vec<Value>> {
    let page = daemon.json("/v1/events")?;
    Ok(page["events"].as_array().context("events")?.clone())
}

fn lies_on_real_brokers(destination: &Cluster) -> Result<()> {
    for topic in [JOURNAL, EVENTS] {
        let partition = destination.any_judge()?.partition(topic, 0)?;
        let mut replicas = partition.replicas.clone();
        replicas.sort_unstable();
        ensure!(replicas == [1, 2] && !replicas.contains(&SEAT), "{partition:?}");
    }
    Ok(())
}

fn people_can_read_it(destination: &Cluster) -> Result<()> {
    let bootstrap = destination.bootstrap();
    let arguments = [
        ["--bootstrap-server", &bootstrap],
        ["--topic", JOURNAL],
        ["--max-messages", "1"],
        ["--timeout-ms", "20000"],
        ["--isolation-level", "read_committed"],
        ["--formatter-property", "print.key=true"],
    ];
    let mut arguments = arguments.concat();
    arguments.push("--from-beginning");
    let tool = "org.apache.kafka.tools.consumer.ConsoleConsumer";
    let read = stock_tool(destination.dist(), tool, &arguments, DEADLINE)?.success()?;
    ensure!(read.stdout.contains("{\"kind\":\"journal\"}\t{\"schema\":1,"), "{read:?}");
    Ok(())
}

/// Another program with the journal's transactional id.
fn claim_as_another(destination: &Cluster) -> Result<()> {
    let id = || StrBytes::from_static_str("lockstep-journal");
    let find = FindCoordinatorRequest::default().with_key(id()).with_key_type(1);
    let coordinator = destination.any_judge()?.ask_at(3, &find)?.node_id.0;
    let claim = InitProducerIdRequest::default()
        .with_transactional_id(Some(id().into()))
        .with_transaction_timeout_ms(10_000)
        .with_producer_id((-1).into())
        .with_producer_epoch(-1);
    eventually(DEADLINE, "another writer's claim", || {
        let answer = destination.judge(coordinator)?.ask_at(4, &claim)?;
        ensure!(answer.error_code == 0, "{answer:?}");
        Ok(())
    })
}

fn garbage_is_taken_away(destination: &Cluster, daemon: &Daemon) -> Result<()> {
    let end = || destination.judge(destination.leader(JOURNAL, 0)?)?.log_end_offset(JOURNAL, 0);
    let before = end()?;
    put(destination, "nonsense", "nonsense")?;
    wait_event(daemon, "JOURNAL_GARBAGE", 1)?;
    eventually(DEADLINE, "a tombstone in its place, and the marker of its transaction", || {
        // Source epochs may be noted down meanwhile.
        ensure!(end()? >= before + 3, "the journal ends at {}, was {before}", end()?);
        Ok(())
    })
}

fn put(destination: &Cluster, key: &str, value: &str) -> Result<()> {
    let record =
        NewRecord { key: Some(key.as_bytes().to_vec()), value: Some(value.as_bytes().to_vec()) };
    let batch = encode(BatchProducer::NONE, 1_700_000_000_000, &[record]);
    let leader = destination.leader(JOURNAL, 0)?;
    let answer = destination.judge(leader)?.produce(JOURNAL, 0, -1, batch.into())?;
    ensure!(answer.error_code == 0, "{answer:?}");
    Ok(())
}

/// A newer version's journal: mirrors go on, also new ones, and nothing is written to it.
fn is_not_written(source: &Cluster, destination: &Cluster, daemon: &Daemon) -> Result<()> {
    wait_event(daemon, "JOURNAL_NEWER_SCHEMA", 1)?;
    let leader = destination.leader(JOURNAL, 0)?;
    let end = || destination.judge(leader)?.log_end_offset(JOURNAL, 0);
    let before = end()?;
    source.create_topic(&NewTopic::new("late.2", 1))?;
    Produce::to(&source.bootstrap(), "late.2").count(5).run(source.dist())?;
    eventually(DEADLINE, "the new mirror", || {
        let mirror = daemon.mirror("late.2")?;
        ensure!(mirror["partitions"][0]["high_watermark"] == 5, "{mirror}");
        Ok(())
    })?;
    let journal = daemon.json("/v1/journal")?;
    ensure!(journal["state"] == "NewerSchema" && journal["newer_schema"] == 9, "{journal}");
    ensure!(end()? == before, "it was written to");
    Ok(())
}
