//! What the source can do to its history: topics made anew or deleted, disks put back, another
//! cluster at the same address. The mirror stays as it was, readable, and says why; others go on.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::support::cluster::Cluster;
use crate::support::compare::wait_identical;
use crate::support::daemon::{Daemon, DaemonSpec};
use crate::support::judge::produce::plain_batch;
use crate::support::judge::{Batch, LogReader, NewTopic};
use crate::support::workspace::Workspace;
use crate::support::{ClusterSpec, eventually, scenario};

const DEADLINE: Duration = Duration::from_secs(90);
/// Batches in each topic at first.
const BEFORE: i64 = 20;

#[test]
fn a_source_with_another_history_leaves_the_mirrors_as_they_are() {
    scenario("lineage", |workspace| {
        let mut story = Story::start(workspace, ClusterSpec::new("source"))?;
        story.topics_change_while_the_daemon_is_down()?;
        story.topics_are_made_anew_while_it_runs()?;
        story.disks_are_put_back()?;
        story.another_cluster_takes_the_address()
    });
}

/// A source that is read by name (no topic ids in Fetch before 3.1): it tells ids in its metadata, and
/// has to be asked after everything that may have been a deletion.
#[test]
fn a_source_that_is_read_by_name_is_known_by_its_topic_ids() {
    scenario("lineage-by-name", |workspace| {
        let source = ClusterSpec::new("source").version("2.8.2");
        let mut story = Story::start(workspace, source)?;
        story.topics_change_while_the_daemon_is_down()?;
        story.topics_are_made_anew_while_it_runs()
    });
}

/// Topics that lose their history, by what becomes of them.
const LOST_WHILE_DOWN: [&str; 4] = ["down-shorter", "down-equal", "down-longer", "down-deleted"];
const LOST_WHILE_RUNNING: [&str; 3] = ["run-shorter", "run-equal", "run-longer"];
/// Topics whose history stays, although there may be nothing left to compare.
const KEPT: [&str; 4] = ["idle", "trimmed", "emptied", "flows"];

struct Story {
    source: Cluster,
    destination: Cluster,
    daemon: Daemon,
    /// What each mirror held when it was last right.
    copies: BTreeMap<&'static str, Vec<Batch>>,
}

impl Story {
    fn start(workspace: &Workspace, source: ClusterSpec) -> Result<Self> {
        let source = source.start_in(workspace)?;
        let destination = ClusterSpec::new("destination").start_in(workspace)?;
        let all = LOST_WHILE_DOWN.iter().chain(&LOST_WHILE_RUNNING).chain(&KEPT);
        for topic in all.clone() {
            source.create_topic(&NewTopic::new(topic, 1))?;
            produce(&source, topic, "first", BEFORE)?;
        }
        let mut daemon = DaemonSpec::new(&source, &destination, &["*"])
            .start_in(env!("CARGO_BIN_EXE_lockstep"), workspace)?;
        daemon.wait_ready()?;
        let mut story = Self { source, destination, daemon, copies: BTreeMap::new() };
        for topic in all {
            story.remember(topic)?;
        }
        Ok(story)
    }

    /// Waits until a mirror is right, and remembers what it holds.
    fn remember(&mut self, topic: &'static str) -> Result<()> {
        wait_identical(&self.source, &self.destination, topic, topic, DEADLINE)?;
        let copy = open_leader_of_copy(&self.destination, topic)?;
        self.copies.insert(topic, copy);
        Ok(())
    }

    fn topics_change_while_the_daemon_is_down(&mut self) -> Result<()> {
        self.daemon.stop()?;
        let source = &self.source;
        for (topic, count) in [("down-shorter", 5), ("down-equal", BEFORE), ("down-longer", 50)] {
            make_anew(source, topic, count)?;
        }
        source.any_judge()?.delete_topic("down-deleted")?;
        source.any_judge()?.delete_records("trimmed", 0, BEFORE)?;
        produce(source, "trimmed", "later", 3)?;
        source.any_judge()?.delete_records("emptied", 0, BEFORE)?;
        produce(source, "flows", "later", 10)?;
        self.daemon.start_again()?;
        self.daemon.wait_ready()?;
        for topic in KEPT {
            self.wait_in_sync(topic)?;
        }
        for topic in LOST_WHILE_DOWN {
            self.wait_failed(topic)?;
        }
        eventually(DEADLINE, "the end of a copy whose topic is gone", || {
            let partition = self.partition("down-deleted")?;
            let shown = (&partition["log_start_offset"], &partition["log_end_offset"]);
            ensure!(*shown.0 == 0 && *shown.1 == BEFORE, "{partition}");
            Ok(())
        })?;
        let log = self.daemon.log_text()?;
        ensure!(!log.contains("panicked"), "the daemon panicked");
        Ok(())
    }

    fn topics_are_made_anew_while_it_runs(&mut self) -> Result<()> {
        for (topic, count) in [("run-shorter", 5), ("run-equal", BEFORE), ("run-longer", 50)] {
            make_anew(&self.source, topic, count)?;
        }
        for topic in LOST_WHILE_RUNNING {
            let failed = self.wait_failed(topic)?;
            ensure!(failed == "SOURCE_TOPIC_ID_CHANGED", "{topic} failed for {failed}");
        }
        produce(&self.source, "flows", "still", 10)?;
        self.wait_in_sync("flows")
    }

    /// A source that forgets its last records and is given others: longer than the copy before we
    /// can see it short, and under the same leader epochs.
    fn disks_are_put_back(&mut self) -> Result<()> {
        self.source.shut_down()?;
        self.source.save_disks()?;
        self.start_source()?;
        produce(&self.source, "flows", "to be lost", 10)?;
        self.wait_in_sync("flows")?;
        self.remember("flows")?;
        self.daemon.pause()?;
        self.source.shut_down()?;
        self.source.restore_disks()?;
        self.start_source()?;
        produce(&self.source, "flows", "another history", 30)?;
        self.daemon.resume()?;
        let failed = self.wait_failed("flows")?;
        ensure!(failed == "SOURCE_TRUNCATED", "flows failed for {failed}");
        produce(&self.source, "idle", "goes on", 10)?;
        self.wait_in_sync("idle")?;
        self.remember("idle")
    }

    fn another_cluster_takes_the_address(&mut self) -> Result<()> {
        self.source.shut_down()?;
        self.source.replace()?;
        self.start_source()?;
        self.source.create_topic(&NewTopic::new("idle", 1))?;
        produce(&self.source, "idle", "of another cluster", 100)?;
        eventually(DEADLINE, "the link to fail", || {
            let link = self.daemon.link()?;
            let found = (link["state"].as_str(), link["reason"].as_str());
            ensure!(found == (Some("Failed"), Some("SOURCE_CLUSTER_ID_CHANGED")), "{found:?}");
            Ok(())
        })?;
        for topic in ["idle", "flows", "run-longer"] {
            self.assert_copy_stays(topic)?;
        }
        Ok(())
    }

    fn start_source(&mut self) -> Result<()> {
        self.source.start_again(1)?;
        self.source.wait_ready()
    }

    fn wait_in_sync(&self, topic: &str) -> Result<()> {
        wait_identical_end(&self.source, &self.destination, topic)?;
        eventually(DEADLINE, format!("{topic} to be in sync"), || {
            let partition = self.partition(topic)?;
            ensure!(partition["state"] == "InSync", "{partition}");
            Ok(())
        })
    }

    fn partition(&self, topic: &str) -> Result<Value> {
        Ok(self.daemon.mirror(topic)?["partitions"][0].clone())
    }

    /// Waits until a partition has failed with our offset, and compares the copy with what it was.
    fn wait_failed(&self, topic: &str) -> Result<String> {
        let expected = ["SOURCE_TOPIC_ID_CHANGED", "SOURCE_TRUNCATED", "SOURCE_TOPIC_DELETED"];
        let reason = eventually(DEADLINE, format!("{topic} to fail"), || {
            let mirror = self.daemon.mirror(topic)?;
            ensure!(mirror["state"] == "Failed", "{mirror}");
            let partition = &mirror["partitions"][0];
            let reason = partition["reason"].as_str().or(mirror["reason"].as_str());
            let reason = reason.context("no reason")?.to_owned();
            ensure!(expected.contains(&reason.as_str()), "{mirror}");
            if reason == "SOURCE_TRUNCATED" {
                let end = self.copies[topic].last().map(Batch::next_offset);
                ensure!(partition["log_end_offset"].as_i64() == end, "{mirror}");
                ensure!(partition["source_end_offset"].is_i64(), "{mirror}");
            }
            Ok(reason)
        })?;
        self.assert_copy_stays(topic)?;
        Ok(reason)
    }

    fn assert_copy_stays(&self, topic: &str) -> Result<()> {
        let found = open_leader_of_copy(&self.destination, topic)?;
        let same = found.len() == self.copies[topic].len()
            && found.iter().zip(&self.copies[topic]).all(|(a, b)| a.same_but_for_epoch(b));
        ensure!(same, "the copy of {topic} has changed: {} batches", found.len());
        Ok(())
    }
}

/// The copy as a real broker has it.
fn open_leader_of_copy(destination: &Cluster, topic: &str) -> Result<Vec<Batch>> {
    LogReader::open(destination.judge(1)?, topic, 0)?.rest()
}

fn wait_identical_end(source: &Cluster, destination: &Cluster, topic: &str) -> Result<()> {
    eventually(DEADLINE, format!("{topic} to reach the source's end"), || {
        let wanted = source.any_judge()?.log_end_offset(topic, 0)?;
        let found = destination.judge(1)?.bounds(topic, 0)?.high_watermark;
        ensure!(found == wanted, "{found} of {wanted}");
        Ok(())
    })
}

fn produce(source: &Cluster, topic: &str, text: &str, count: i64) -> Result<()> {
    // Retention must not take them away.
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis();
    let now = i64::try_from(now)?;
    for number in 0..count {
        let value = format!("{text} {number}");
        let batch = plain_batch(&[value.as_bytes()], now + number);
        eventually(DEADLINE, format!("{topic} to take a record"), || {
            let mut judge = source.judge(source.leader(topic, 0)?)?;
            let answer = judge.produce(topic, 0, -1, batch.clone())?;
            ensure!(answer.error_code == 0, "produce to {topic}: {answer:?}");
            Ok(())
        })?;
    }
    Ok(())
}

/// Another topic under the same name.
fn make_anew(source: &Cluster, topic: &str, count: i64) -> Result<()> {
    source.any_judge()?.delete_topic(topic)?;
    eventually(DEADLINE, format!("{topic} made anew"), || {
        source.create_topic(&NewTopic::new(topic, 1))
    })?;
    produce(source, topic, "anew", count)
}

/// A real unclean election: the only in-sync replica of the source dies, one that lacks its last
/// records leads, and takes others.
#[test]
fn a_truncation_at_the_source_is_followed_where_the_file_says_so() {
    scenario("truncation", |workspace| {
        let mut story = Truncation::start(workspace)?;
        // We lead: the copy is cut in our next leader epoch.
        story.lose_records(2, 1)?;
        story.wait_followed(1)?;
        // We are away: the copy is cut by our return.
        story.write_to_the_last_replica(1)?;
        story.daemon.stop()?;
        story.elect_the_other(2, 1)?;
        story.daemon.start_again()?;
        story.wait_followed(2)
    });
}

struct Truncation {
    source: Cluster,
    destination: Cluster,
    daemon: Daemon,
}

impl Truncation {
    fn start(workspace: &Workspace) -> Result<Self> {
        let spec = ClusterSpec::new("source").brokers(2).separate_controllers(1).heap_mb(320);
        let source = spec.start_in(workspace)?;
        let spec = ClusterSpec::new("destination").brokers(3).heap_mb(400);
        let destination = spec.start_in(workspace)?;
        let orders = NewTopic::new("orders", 1)
            .assignment(vec![vec![1, 2]])
            .config("unclean.leader.election.enable", true);
        source.create_topic(&orders)?;
        source.create_topic(&NewTopic::new("other", 1).assignment(vec![vec![1, 2]]))?;
        produce(&source, "orders", "first", BEFORE)?;
        let mut daemon = DaemonSpec::new(&source, &destination, &["*"])
            .line("link.topics", "on_divergence = \"truncate\"")
            .start_in(env!("CARGO_BIN_EXE_lockstep"), workspace)?;
        daemon.wait_ready()?;
        wait_identical(&source, &destination, "orders", "orders", DEADLINE)?;
        Ok(Self { source, destination, daemon })
    }

    /// Stops `follower`, writes what only `leader` has, and lets it lead no more.
    fn lose_records(&mut self, follower: i32, leader: i32) -> Result<()> {
        self.write_to_the_last_replica(follower)?;
        self.elect_the_other(leader, follower)
    }

    fn write_to_the_last_replica(&mut self, follower: i32) -> Result<()> {
        self.source.stop(follower)?;
        produce(&self.source, "orders", "to be lost", 10)?;
        wait_identical_end(&self.source, &self.destination, "orders")
    }

    fn elect_the_other(&mut self, leader: i32, other: i32) -> Result<()> {
        self.source.kill(leader)?;
        self.source.start_again(other)?;
        produce(&self.source, "orders", "another history", 5)?;
        self.source.start_again(leader)?;
        self.source.wait_ready()
    }

    fn wait_followed(&self, times: usize) -> Result<()> {
        wait_identical(&self.source, &self.destination, "orders", "orders", DEADLINE)?;
        eventually(DEADLINE, "both source replicas in sync", || {
            let partition = self.source.any_judge()?.partition("orders", 0)?;
            ensure!(partition.in_sync.len() == 2, "{partition:?}");
            Ok(())
        })?;
        let log = self.daemon.log_text()?;
        let said: Vec<_> = log.lines().filter(|line| line.contains("COPY_TRUNCATED")).collect();
        ensure!(said.len() == times, "{said:#?}");
        produce(&self.source, "other", "flows", 5)?;
        wait_identical(&self.source, &self.destination, "other", "other", DEADLINE)
    }
}
