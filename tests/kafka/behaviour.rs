//! A mirror in daily use: topics come and grow, producers are refused, groups read on when the
//! daemon dies, and the destination's own topics and tools are left in peace.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;

use crate::support::cluster::Cluster;
use crate::support::compare::wait_identical;
use crate::support::daemon::{Daemon, DaemonSpec, SEAT};
use crate::support::java::{Background, Consume, Outcome, Produce, sorted, start_tool};
use crate::support::judge::admin::TOPIC;
use crate::support::judge::produce::plain_batch;
use crate::support::judge::{Judge, NewTopic};
use crate::support::workspace::Workspace;
use crate::support::{ClusterSpec, eventually, scenario};

const DEADLINE: Duration = Duration::from_secs(60);
const RECORDS: i64 = 400;
const PARTITIONS: i32 = 2;

const MESSAGE_TOO_LARGE: i16 = 10;
const NOT_LEADER: i16 = 6;
const POLICY_VIOLATION: i16 = 44;

#[test]
fn a_mirror_in_daily_use() {
    scenario("daily-use", |workspace| {
        let mut pair = Pair::start(workspace)?;
        nothing_else_is_placed_on_the_seat(&pair)?;
        topics_and_partitions_appear(&pair)?;
        configs_are_followed_but_never_the_lock(&pair)?;

        pair.fill("orders", 0, RECORDS)?;
        pair.wait_identical("orders")?;
        let tools = start_stock_tools(&pair)?;
        producers_are_refused_while_the_daemon_leads(&pair)?;
        for (name, tool) in tools {
            let outcome = tool.wait(DEADLINE)?;
            outcome.success().with_context(|| format!("{name} with the seat registered"))?;
        }
        groups_read_on_without_the_daemon(&mut pair)
    });
}

/// A source of one broker, a destination of three, a daemon, and topic `orders` mirrored.
struct Pair {
    source: Cluster,
    destination: Cluster,
    daemon: Daemon,
}

impl Pair {
    fn start(workspace: &Workspace) -> Result<Self> {
        let source = ClusterSpec::new("source").without_retention().start_in(workspace)?;
        let destination = ClusterSpec::new("destination").brokers(3).start_in(workspace)?;
        source.create_topic(&NewTopic::new("orders", PARTITIONS))?;
        let mut daemon = DaemonSpec::new(&source, &destination, &["orders", "late.*"])
            .line("link.configs", "interval = \"1s\"")
            .start_in(env!("CARGO_BIN_EXE_lockstep"), workspace)?;
        daemon.wait_ready()?;
        Ok(Self { source, destination, daemon })
    }

    /// Appends records with the numbers `from..to` to a source topic, ten to a batch, by turns to
    /// each partition.
    fn fill(&self, topic: &str, from: i64, to: i64) -> Result<()> {
        let partitions = self.source.any_judge()?.topic(topic)?.partitions.into_keys();
        let partitions: Vec<_> = partitions.collect();
        let mut judge = self.source.judge(1)?;
        for (turn, first) in (from..to).step_by(10).enumerate() {
            let values: Vec<_> = (first..first + 10).map(|n| format!("value {n}")).collect();
            let values: Vec<_> = values.iter().map(String::as_bytes).collect();
            let batch = plain_batch(&values, 1_700_000_000_000 + first);
            let answer = judge.produce(topic, partitions[turn % partitions.len()], -1, batch)?;
            ensure!(answer.error_code == 0, "fill {topic}: error {}", answer.error_code);
        }
        Ok(())
    }

    fn wait_identical(&self, topic: &str) -> Result<()> {
        // A topic that is not there yet counts as not identical yet.
        eventually(DEADLINE, format!("mirror {topic}"), || {
            let wanted = self.source.any_judge()?.topic(topic)?.partitions.len();
            let found = self.destination.any_judge()?.topic(topic)?.partitions.len();
            ensure!(found == wanted, "{topic} has {found} of {wanted} partitions");
            Ok(())
        })?;
        wait_identical(&self.source, &self.destination, topic, topic, DEADLINE)
            .with_context(|| format!("the daemon's log: {:?}", self.daemon.config()))
    }

    /// Where each copy of each partition of `orders` ends, on every real broker.
    fn log_ends(&self) -> Result<Vec<i64>> {
        let mut ends = Vec::new();
        for broker in self.destination.broker_ids() {
            let mut judge = self.destination.judge(broker)?;
            for partition in 0..PARTITIONS {
                ends.push(judge.log_end_offset("orders", partition)?);
            }
        }
        Ok(ends)
    }

    fn wait_leader(&self, is_wanted: impl Fn(i32) -> bool) -> Result<()> {
        for partition in 0..PARTITIONS {
            eventually(DEADLINE, format!("another leader of orders-{partition}"), || {
                let leader = self.destination.leader("orders", partition)?;
                ensure!(is_wanted(leader), "{leader} leads");
                Ok(())
            })?;
        }
        Ok(())
    }
}

fn nothing_else_is_placed_on_the_seat(pair: &Pair) -> Result<()> {
    let destination = &pair.destination;
    let mut judge = destination.any_judge()?;
    for number in 0..50 {
        judge.create_topic(&NewTopic::new(&format!("own-{number}"), 1))?;
    }
    // The internal topics come with their first use.
    let (dist, to) = (destination.dist(), destination.bootstrap());
    let produced = Produce::to(&to, "own-0").option("transactions", "commit").start(dist)?;
    let consumed = Consume::from(&to, &["own-1"]).option("group", "first").start(dist)?;
    produced.wait(DEADLINE)?.success()?;
    consumed.wait(DEADLINE)?.success()?;

    let found = destination.any_judge()?.metadata(None)?;
    let seat = |topic: &&kafka_protocol::messages::metadata_response::MetadataResponseTopic| {
        let replicas = topic.partitions.iter().flat_map(|partition| &partition.replica_nodes);
        replicas.into_iter().any(|replica| replica.0 == SEAT)
    };
    let named = |topic: &kafka_protocol::messages::metadata_response::MetadataResponseTopic| {
        topic.name.as_ref().map_or_else(String::new, |name| name.0.as_str().to_owned())
    };
    let all: Vec<_> = found.topics.iter().map(named).collect();
    for internal in ["__consumer_offsets", "__transaction_state"] {
        ensure!(all.iter().any(|name| name == internal), "{internal} is missing: {all:?}");
    }
    let on_seat: Vec<_> = found.topics.iter().filter(seat).map(named).collect();
    ensure!(on_seat == ["orders"], "on the seat: {on_seat:?} of {} topics", all.len());
    Ok(())
}

fn topics_and_partitions_appear(pair: &Pair) -> Result<()> {
    pair.source.create_topic(&NewTopic::new("late.one", 1))?;
    pair.fill("late.one", 0, 50)?;
    pair.wait_identical("late.one")?;
    pair.source.any_judge()?.create_partitions("late.one", 3)?;
    eventually(DEADLINE, "three partitions at the source", || pair.fill("late.one", 50, 110))?;
    eventually(DEADLINE, "records in the new partition", || {
        let end = pair.source.judge(1)?.log_end_offset("late.one", 2)?;
        ensure!(end > 0, "nothing in late.one-2");
        Ok(())
    })?;
    pair.wait_identical("late.one")
}

fn configs_are_followed_but_never_the_lock(pair: &Pair) -> Result<()> {
    let lock = [
        ("max.message.bytes", "0"),
        ("retention.ms", "-1"),
        ("retention.bytes", "-1"),
        ("unclean.leader.election.enable", "false"),
    ];
    let expect = |key: &str, value: &str| {
        eventually(DEADLINE, format!("{key}={value} at the mirror"), || {
            let found = pair.destination.any_judge()?.configs(TOPIC, "late.two")?;
            ensure!(found.get(key).is_some_and(|found| found == value), "{key}: {found:?}");
            for (key, value) in lock {
                ensure!(found[key] == value, "{key}={} is not the lock's", found[key]);
            }
            Ok(())
        })
    };
    let topic = NewTopic::new("late.two", 1)
        .config("retention.ms", 3_600_000)
        .config("max.message.bytes", 2_000_000)
        .config("segment.ms", 600_000);
    pair.source.create_topic(&topic)?;
    expect("segment.ms", "600000")?;
    let mut source = pair.source.any_judge()?;
    source.alter_config(TOPIC, "late.two", "retention.ms", Some("7200000"))?;
    source.alter_config(TOPIC, "late.two", "segment.ms", Some("700000"))?;
    expect("segment.ms", "700000")?;
    source.alter_config(TOPIC, "late.two", "segment.ms", None)?;
    expect("segment.ms", "604800000")?;
    // Somebody at the destination means well.
    let mut destination = pair.destination.any_judge()?;
    destination.alter_config(TOPIC, "late.two", "retention.ms", Some("86400000"))?;
    expect("retention.ms", "-1")
}

fn producers_are_refused_while_the_daemon_leads(pair: &Pair) -> Result<()> {
    pair.wait_leader(|leader| leader == SEAT)?;
    let before = pair.log_ends()?;
    let running: Vec<_> = ["none", "idempotent", "commit"]
        .into_iter()
        .map(|mode| Ok((mode, refused_producer(pair, mode)?)))
        .collect::<Result<_>>()?;
    for (mode, producer) in running {
        // A retriable answer would end as a TimeoutException after the delivery timeout.
        let (error, message) = refusal(&producer.wait(DEADLINE)?)?;
        ensure!(error == "PolicyViolationException", "{mode}: {error}: {message}");
        let names_all = ["orders", "link test"].iter().all(|word| message.contains(word));
        ensure!(names_all, "{mode}: {message}");
    }
    let brokers = pair.destination.any_judge()?.registered_brokers()?;
    let seat = brokers.get(&SEAT).context("the seat is not registered")?;
    let refused = produce_raw(&mut Judge::connect(seat)?)?;
    ensure!(refused == [POLICY_VIOLATION; 2], "the seat answers {refused:?}");
    for broker in pair.destination.broker_ids() {
        let refused = produce_raw(&mut pair.destination.judge(broker)?)?;
        ensure!(refused == [NOT_LEADER; 2], "broker {broker} answers {refused:?}");
    }
    ensure!(pair.log_ends()? == before, "a copy has grown: {before:?}, {:?}", pair.log_ends()?);
    Ok(())
}

fn refused_producer(pair: &Pair, mode: &str) -> Result<Background> {
    Produce::to(&pair.destination.bootstrap(), "orders")
        .count(3)
        .option("partition", 0)
        .option("transactions", mode)
        .start(pair.destination.dist())
}

/// Class and text of the error that all records of a producer met.
fn refusal(outcome: &Outcome) -> Result<(String, String)> {
    let told = crate::support::java::sent(&outcome.stdout)?;
    ensure!(told.len() == 3, "not three records but {told:?}: {}", outcome.stderr);
    let first = told.into_iter().reduce(|first, next| {
        // One that went through must not hide behind one that did not.
        if next.error.is_none() { next } else { first }
    });
    let first = first.context("three records")?;
    Ok((first.error.context("a record was taken")?, first.message.unwrap_or_default()))
}

/// Error codes of a small batch for `orders-0` with acks 1 and all; one with acks 0 before them.
fn produce_raw(judge: &mut Judge) -> Result<[i16; 2]> {
    let batch = || plain_batch(&[b"foreign"], 1_700_000_000_000);
    let mut silent = Judge::connect(judge.address())?;
    silent.produce_unacknowledged("orders", 0, batch())?;
    // An answer to the next request, or the end of the connection, says that it was dealt with.
    let _dealt_with = silent.metadata(Some(&[]));
    let mut codes = [0; 2];
    for (code, acks) in codes.iter_mut().zip([1, -1]) {
        *code = judge.produce("orders", 0, acks, batch())?.error_code;
    }
    Ok(codes)
}

fn start_stock_tools(pair: &Pair) -> Result<Vec<(&'static str, Background)>> {
    const GROUPS: &str = "org.apache.kafka.tools.consumer.group.ConsumerGroupCommand";
    let (dist, to) = (pair.destination.dist(), pair.destination.bootstrap());
    let tools: [(&str, &[&str]); 6] = [
        ("org.apache.kafka.tools.TopicCommand", &["--describe"]),
        ("kafka.admin.ConfigCommand", &["--entity-type", "brokers", "--all", "--describe"]),
        ("org.apache.kafka.tools.LogDirsCommand", &["--describe"]),
        ("org.apache.kafka.tools.GetOffsetShell", &[]),
        (GROUPS, &["--list"]),
        (GROUPS, &["--describe", "--all-groups"]),
    ];
    let start = |(name, arguments): (&'static str, &[&str])| {
        let arguments = [&["--bootstrap-server", &to], arguments].concat();
        Ok((name, start_tool(dist, name, &arguments)?))
    };
    tools.into_iter().map(start).collect()
}

/// One group reads by portions, each time with a new consumer; another has one consumer for the
/// whole time.
fn groups_read_on_without_the_daemon(pair: &mut Pair) -> Result<()> {
    let portion = |pair: &Pair, count: i64| -> Result<Vec<String>> {
        // One record at a time: what is committed is what was printed.
        let consume = Consume::from(&pair.destination.bootstrap(), &["orders"])
            .option("group", "portions")
            .option("count", count)
            .option("consumer.max.poll.records", 1);
        consume.run(pair.destination.dist())
    };
    let steady = Consume::from(&pair.destination.bootstrap(), &["orders"])
        .option("group", "steady")
        .option("until", "stopped")
        .option("consumer.group.protocol", "consumer")
        .start(pair.destination.dist())?;
    let mut read = portion(pair, 150)?;

    pair.daemon.kill()?;
    pair.wait_leader(|leader| leader != SEAT)?;
    read.extend(portion(pair, 150)?);
    real_leaders_refuse_producers(pair)?;
    pair.fill("orders", RECORDS, 2 * RECORDS)?;

    pair.daemon.start_again()?;
    pair.wait_leader(|leader| leader == SEAT)?;
    pair.wait_identical("orders")?;
    read.extend(portion(pair, 2 * RECORDS - 300)?);

    let wanted = Consume::from(&pair.source.bootstrap(), &["orders"]).run(pair.source.dist())?;
    ensure!(wanted.len() == 2 * usize::try_from(RECORDS)?, "{} at the source", wanted.len());
    ensure!(sorted(&read.join("\n")) == wanted, "portions: {read:#?}");
    let lines = eventually(DEADLINE, "the steady consumer to read all", || {
        let lines = steady.lines()?;
        ensure!(lines.len() >= wanted.len(), "{} of {} records", lines.len(), wanted.len());
        Ok(lines)
    })?;
    ensure!(in_order(&lines)?, "out of order: {lines:#?}");
    ensure!(sorted(&lines.join("\n")) == wanted, "steady: {lines:#?}");
    steady.stop()?;
    Ok(())
}

fn real_leaders_refuse_producers(pair: &Pair) -> Result<()> {
    let before = pair.log_ends()?;
    let running = ["none", "idempotent"].map(|mode| refused_producer(pair, mode));
    let leader = pair.destination.leader("orders", 0)?;
    for broker in pair.destination.broker_ids() {
        let expected = if broker == leader { MESSAGE_TOO_LARGE } else { NOT_LEADER };
        let mut judge = pair.destination.judge(broker)?;
        let refused = produce_raw(&mut judge)?;
        ensure!(refused == [expected; 2], "broker {broker} answers {refused:?}");
        let empty = judge.produce("orders", 0, -1, Bytes::new())?.error_code;
        ensure!(empty != 0, "broker {broker} takes an empty batch");
    }
    let brokers = pair.destination.any_judge()?.registered_brokers()?;
    let seat = brokers.get(&SEAT).context("the seat is not registered")?;
    if Judge::connect(seat).is_ok() {
        bail!("a dead daemon answers at {seat}");
    }
    for producer in running {
        let (error, message) = refusal(&producer?.wait(DEADLINE)?)?;
        ensure!(error == "RecordTooLargeException", "{error}: {message}");
    }
    ensure!(pair.log_ends()? == before, "a copy has grown: {before:?}, {:?}", pair.log_ends()?);
    Ok(())
}

/// Whether the offsets of each partition only rise.
fn in_order(lines: &[String]) -> Result<bool> {
    let mut last = std::collections::BTreeMap::new();
    for line in lines {
        let mut words = line.split(' ').skip(1);
        let partition = words.next().context("a partition")?;
        let offset: i64 = words.next().context("an offset")?.parse()?;
        if last.insert(partition, offset).is_some_and(|before| before >= offset) {
            return Ok(false);
        }
    }
    Ok(true)
}
