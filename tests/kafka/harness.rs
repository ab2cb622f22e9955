//! The harness itself: before it judges lockstep it must be right about Kafka.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use crate::support::cluster::{Cluster, ClusterSpec};
use crate::support::compare::{assert_identical, count_batches, wait_identical};
use crate::support::daemon::DaemonSpec;
use crate::support::eventually;
use crate::support::java::{Consume, Produce, stock_tool};
use crate::support::judge::admin::{BROKER, TOPIC};
use crate::support::judge::log::{EARLIEST, LATEST};
use crate::support::judge::produce::plain_batch;
use crate::support::judge::{LogReader, NewTopic, Refused};
use crate::support::process::is_alive;
use crate::support::scenario;
use crate::support::watch::{Watch, WatchSpec};
use crate::support::workspace::{TEST_DIR, Workspace};

const DEADLINE: Duration = Duration::from_secs(30);
/// Set for the child process of [`brokers_die_with_a_killed_test`].
const VICTIM: &str = "LOCKSTEP_TEST_VICTIM";

#[test]
fn a_source_and_a_destination_start_are_judged_and_stop() {
    scenario("harness", |workspace| {
        let mut source = ClusterSpec::new("source").start_in(workspace)?;
        let mut destination = ClusterSpec::new("destination").brokers(3).start_in(workspace)?;
        let pids: Vec<_> =
            source.nodes().chain(destination.nodes()).map(|node| node.pid()).collect();
        let pids: Vec<u32> = pids.into_iter().flatten().collect();
        ensure!(pids.len() == 4 && pids.iter().all(|pid| is_alive(*pid)), "pids {pids:?}");

        let topic = NewTopic::new("mix", 2)
            .config("segment.bytes", 1 << 20)
            .config("message.timestamp.after.max.ms", i64::MAX);
        for cluster in [&source, &destination] {
            cluster.create_topic(&topic)?;
            let found = cluster.any_judge()?.configs(TOPIC, "mix")?;
            ensure!(found["segment.bytes"] == "1048576", "{found:?}");
        }
        produce_mix(&destination)?;
        wait_identical(&destination, &destination, "mix", "mix", DEADLINE)?;
        ensure!(count_batches(&destination, "mix")? > 20);
        reads_followers(&destination)?;
        tells_differences(&source, &destination)?;
        deletes_and_alters(&destination)?;
        clients_and_tools_agree(&destination)?;
        let daemon = DaemonSpec::new(&source, &destination, &["mix", "payments.*"])
            .line("daemon", "memory = \"64MiB\"")
            .line("link.topics", "exclude = [\"payments.secret*\"]")
            .prepare_in(env!("CARGO_BIN_EXE_lockstep"), workspace)?;
        lockstep::config::Config::load(daemon.config()).context("the daemon's file")?;
        survives_faults(&mut destination)?;

        source.shut_down()?;
        drop(source);
        drop(destination);
        ensure!(pids.iter().all(|pid| !is_alive(*pid)), "some of {pids:?} still run");
        Ok(())
    });
}

/// Everything that the Java producer can put into a log.
fn produce_mix(cluster: &Cluster) -> Result<()> {
    let (dist, to) = (cluster.dist(), cluster.bootstrap());
    let load = || Produce::to(&to, "mix").option("headers", 4).option("null-values", 5);
    for codec in ["none", "gzip", "snappy", "lz4", "zstd"] {
        let sent = load().count(20).option("compression", codec).option("flush", 10).run(dist)?;
        ensure!(sent.len() == 20 && sent.iter().all(|one| one.offset.is_some()), "{sent:?}");
    }
    let interleaved = load().count(40).option("transactions", "interleaved");
    let sent = interleaved.option("partition", 0).run(dist)?;
    let aborted = sent.iter().filter(|one| one.fate.as_deref() == Some("abort")).count();
    ensure!(aborted == 20, "{sent:?}");
    load().option("timestamp", 10_413_792_000_000_i64).option("keys", 3).run(dist)?;
    Ok(())
}

fn reads_followers(cluster: &Cluster) -> Result<()> {
    let partition = cluster.any_judge()?.partition("mix", 0)?;
    ensure!(partition.in_sync == [1, 2, 3], "{partition:?}");
    let mut copies = Vec::new();
    for broker in cluster.broker_ids() {
        copies.push(LogReader::open(cluster.judge(broker)?, "mix", 0)?.rest()?);
    }
    ensure!(copies[0] == copies[1] && copies[1] == copies[2], "replicas differ");
    let codecs: Vec<_> = copies[0].iter().map(|batch| batch.codec()).collect();
    ensure!(copies[0].iter().any(|batch| batch.is_control()), "no marker in {codecs:?}");
    Ok(())
}

fn tells_differences(a: &Cluster, b: &Cluster) -> Result<()> {
    for (cluster, text) in [(a, b"one"), (b, b"two")] {
        cluster.create_topic(&NewTopic::new("different", 1).replicas(1))?;
        let leader = cluster.leader("different", 0)?;
        let batch = plain_batch(&[text.as_slice()], 1_000);
        let answer = cluster.judge(leader)?.produce("different", 0, -1, batch)?;
        ensure!(answer.error_code == 0 && answer.base_offset == 0, "{answer:?}");
    }
    let Err(error) = assert_identical(a, b, "different", "different") else {
        bail!("different topics compared as the same");
    };
    let text = format!("{error:#}");
    ensure!(text.contains("different-0 on broker") && text.contains("offsets 0..1"), "{text}");
    let watch = || Watch::over(a, b).map(|watch| watch.topic("different"));
    watch_tells(watch()?.without_probes(), "different-0: offset 0 on broker")?;
    watch_tells(watch()?.compacted(), "took a record with acks 1")
}

/// The continuous checker has to be right about what is wrong, too.
fn watch_tells(watch: WatchSpec, expected: &str) -> Result<()> {
    let Err(error) = watch.start()?.stop() else {
        bail!("the watch did not see: {expected}");
    };
    ensure!(format!("{error:#}").contains(expected), "{error:#}");
    Ok(())
}

fn deletes_and_alters(cluster: &Cluster) -> Result<()> {
    let leader = cluster.leader("mix", 1)?;
    let mut judge = cluster.judge(leader)?;
    let end = judge.list_offset("mix", 1, LATEST)?;
    ensure!(judge.delete_records("mix", 1, end)? == end, "log start is not the end");
    ensure!(judge.list_offset("mix", 1, EARLIEST)? == end);
    wait_identical(cluster, cluster, "mix", "mix", DEADLINE)?;

    judge.alter_config(TOPIC, "mix", "max.message.bytes", Some("0"))?;
    // The configuration reaches the brokers a moment after the answer.
    eventually(DEADLINE, "the refusal of a produce", || {
        let answer = judge.produce("mix", 1, -1, plain_batch(&[b"x"], 1))?;
        ensure!(answer.error_code == 10, "{answer:?}");
        Ok(())
    })?;
    judge.alter_config(TOPIC, "mix", "max.message.bytes", None)?;
    let name = leader.to_string();
    ensure!(judge.configs(BROKER, &name)?.contains_key("log.dirs"));

    let unknown = judge.topic("nobody").err().context("an unknown topic was found")?;
    let refused = unknown.downcast_ref::<Refused>().context("no code")?;
    ensure!(refused.code == 3, "{refused}");
    judge.create_partitions("different", 2)?;
    judge.delete_topic("different")
}

fn clients_and_tools_agree(cluster: &Cluster) -> Result<()> {
    let (dist, from) = (cluster.dist(), cluster.bootstrap());
    let read =
        |isolation: &str| Consume::from(&from, &["mix"]).option("isolation", isolation).run(dist);
    let all = read("read_uncommitted")?;
    let committed = read("read_committed")?;
    ensure!(committed.len() + 20 == all.len(), "{} of {}", committed.len(), all.len());
    let in_group = Consume::from(&from, &["mix"]).option("group", "judges").run(dist)?;
    ensure!(in_group == all, "a group reads other records than an assigned consumer");

    let arguments = ["--bootstrap-server", &from, "--describe", "--topic", "mix"];
    let tool = stock_tool(dist, "org.apache.kafka.tools.TopicCommand", &arguments, DEADLINE)?;
    ensure!(tool.clone().success()?.stdout.contains("PartitionCount: 2"), "{tool:?}");
    let tool = stock_tool(dist, "org.apache.kafka.tools.TopicCommand", &["--nonsense"], DEADLINE)?;
    ensure!(tool.code != 0, "{tool:?}");
    Ok(())
}

fn survives_faults(cluster: &mut Cluster) -> Result<()> {
    cluster.kill(2)?;
    cluster.start_again(2)?;
    cluster.stop(3)?;
    cluster.start_again(3)?;
    cluster.wait_ready()?;
    cluster.pause(1)?;
    cluster.resume(1)?;
    eventually(DEADLINE, "all replicas in sync", || {
        let partition = cluster.any_judge()?.partition("mix", 0)?;
        ensure!(partition.in_sync == [1, 2, 3], "{partition:?}");
        Ok(())
    })?;
    cluster.any_judge()?.reassign("mix", 0, &[2, 1])?;
    eventually(DEADLINE, "the end of the reassignment", || {
        let partition = cluster.any_judge()?.partition("mix", 0)?;
        ensure!(partition.replicas == [2, 1], "{partition:?}");
        Ok(())
    })?;
    // Already led by the preferred replica: 84 ELECTION_NOT_NEEDED is as good.
    match cluster.any_judge()?.elect_leader("mix", 0, false) {
        Err(error) if error.downcast_ref::<Refused>().is_none_or(|why| why.code != 84) => {
            return Err(error);
        }
        _ => {}
    }
    ensure!(cluster.leader("mix", 0)? == 2, "the preferred replica does not lead");
    Ok(())
}

#[test]
fn brokers_die_with_a_killed_test() {
    if let Some(directory) = std::env::var_os(VICTIM) {
        return be_the_victim(directory.as_ref()).unwrap();
    }
    scenario("killed", |workspace| {
        let pid_file = workspace.path().join("pid");
        let mut victim = Command::new(std::env::current_exe()?)
            .args(["--exact", "kafka::harness::brokers_die_with_a_killed_test", "--nocapture"])
            .env(VICTIM, workspace.path())
            .env(TEST_DIR, workspace.path())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        let pid: u32 = eventually(Duration::from_secs(90), "the victim's broker", || {
            Ok(std::fs::read_to_string(&pid_file)?.parse()?)
        })?;
        ensure!(is_alive(pid), "broker {pid} does not run");
        victim.kill()?;
        victim.wait()?;
        eventually(DEADLINE, "the end of the victim's broker", || {
            ensure!(!is_alive(pid), "broker {pid} still runs");
            Ok(())
        })
    });
}

/// Starts a broker, tells its pid, and waits to be killed.
fn be_the_victim(directory: &Path) -> Result<()> {
    let workspace = Workspace::new("victim")?;
    let cluster = ClusterSpec::new("victim").start_in(&workspace)?;
    let pid = cluster.node(1)?.pid().context("no pid")?;
    let unfinished = directory.join("pid.unfinished");
    std::fs::write(&unfinished, pid.to_string())?;
    std::fs::rename(unfinished, directory.join("pid"))?;
    loop {
        std::thread::park();
    }
}
