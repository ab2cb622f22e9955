//! A seat that takes a partition over from another one, while the source comes back with another
//! history under the same topic ids and epochs: nothing is mixed, both daemons remember it over a
//! restart, and an operator's word, said to either of them, resumes it.

use std::process::Command;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::support::cluster::Cluster;
use crate::support::compare::wait_identical;
use crate::support::daemon::{Daemon, DaemonSpec};
use crate::support::judge::produce::plain_batch;
use crate::support::judge::{Batch, LogReader, NewTopic};
use crate::support::proxy::{Fault, Proxy};
use crate::support::workspace::Workspace;
use crate::support::{ClusterSpec, eventually, scenario};

const DEADLINE: Duration = Duration::from_secs(60);
const BINARY: &str = env!("CARGO_BIN_EXE_lockstep");
/// Listener of the source that only the daemons use, through a proxy.
const LINK: &str = "LINK";
const SEATS: [i32; 2] = [9001, 9002];
/// One is led by each seat.
const PARTITIONS: i32 = 2;
const BEFORE: i64 = 20;
const LOST: i64 = 10;

#[test]
fn a_seat_that_takes_over_looks_at_the_source_first() {
    scenario("takeover", |workspace| {
        let mut story = Story::start(workspace)?;
        story.both_write_what_they_know()?;
        story.another_seat_meets_another_history()?;
        story.both_remember()?;
        story.an_operators_word_is_taken_by_whoever_hears_it()
    });
}

struct Story {
    source: Cluster,
    to_source: Proxy,
    destination: Cluster,
    daemons: [Daemon; 2],
    /// What each partition held when the source lost its end.
    copies: Vec<Vec<Batch>>,
}

impl Story {
    fn start(workspace: &Workspace) -> Result<Self> {
        let to_source = Proxy::start()?;
        let source = ClusterSpec::new("source")
            .listeners(vec!["PLAINTEXT", LINK])
            .advertise(1, LINK, &to_source.address())
            .start_in(workspace)?;
        let port = source.node(1)?.port(LINK).context("a port")?;
        to_source.lead_to(&format!("127.0.0.1:{port}"))?;
        let destination = ClusterSpec::new("destination").start_in(workspace)?;
        source.create_topic(&NewTopic::new("orders", PARTITIONS))?;
        let daemon = |id: i32| {
            DaemonSpec::new(&source, &destination, &["orders"])
                .source(&to_source.address())
                .name(&format!("daemon-{id}"))
                .broker_id(id)
                .start_in(BINARY, workspace)
        };
        let daemons = [daemon(SEATS[0])?, daemon(SEATS[1])?];
        let mut story = Self { source, to_source, destination, daemons, copies: Vec::new() };
        for daemon in &mut story.daemons {
            daemon.wait_ready()?;
        }
        story.produce("first", BEFORE)?;
        story.wait_identical()?;
        eventually(DEADLINE, "each seat leads one, and both are in sync", || {
            for partition in 0..PARTITIONS {
                let found = story.destination.any_judge()?.partition("orders", partition)?;
                let are_in = SEATS.iter().all(|seat| found.in_sync.contains(seat));
                ensure!(are_in && found.leader == found.replicas[0], "{found:?}");
            }
            ensure!(story.leader(0)? != story.leader(1)?, "one leads both");
            Ok(())
        })?;
        Ok(story)
    }

    fn both_write_what_they_know(&self) -> Result<()> {
        eventually(DEADLINE, "source epochs of both seats in the journal", || {
            for daemon in &self.daemons {
                let journal = daemon.json("/v1/journal")?;
                ensure!(journal["lineages"] == PARTITIONS, "{journal}");
            }
            Ok(())
        })
    }

    fn another_seat_meets_another_history(&mut self) -> Result<()> {
        self.source.shut_down()?;
        self.source.save_disks()?;
        self.start_source()?;
        self.produce("to be lost", LOST)?;
        self.wait_identical()?;
        self.copies = (0..PARTITIONS).map(|one| self.copy(one)).collect::<Result<_>>()?;
        let dying = self.leader(0)?;
        let other = self.leader(1)?;
        self.to_source.set(Fault::Refused);
        self.daemon(dying).kill()?;
        self.source.shut_down()?;
        self.source.restore_disks()?;
        self.start_source()?;
        // Longer than the copies, and of the same epochs: nobody may see it short.
        self.produce("another history", LOST * 3)?;
        eventually(DEADLINE, format!("{other} leads both"), || {
            ensure!(self.leader(0)? == other && self.leader(1)? == other, "not yet");
            Ok(())
        })?;
        self.to_source.set(Fault::None);
        self.wait_failed(other)
    }

    fn both_remember(&mut self) -> Result<()> {
        let other = self.leader(0)?;
        let since = self.mirror(other)?["since"].clone();
        self.daemon(other).stop()?;
        for seat in SEATS {
            self.daemon(seat).start_again()?;
        }
        for seat in SEATS {
            self.daemon(seat).wait_ready()?;
            self.wait_failed(seat)?;
        }
        ensure!(self.mirror(other)?["since"] == since, "since when was forgotten");
        Ok(())
    }

    fn an_operators_word_is_taken_by_whoever_hears_it(&mut self) -> Result<()> {
        // The one that does not own the journal.
        let url = self.daemon(SEATS[1]).url();
        let words = ["--url", &url, "mirrors", "resume-failed", "orders", "--yes"];
        let resumed = Command::new(BINARY).args(words).output()?;
        ensure!(resumed.status.success(), "{resumed:?}");
        self.wait_identical()?;
        eventually(DEADLINE, "active mirrors and the word in the events", || {
            for seat in SEATS {
                let mirror = self.mirror(seat)?;
                ensure!(mirror["state"] == "Active", "{seat}: {mirror}");
            }
            let events = self.events()?;
            let cuts = events.iter().filter(|event| event["reason"] == "COPY_TRUNCATED");
            let cuts: Vec<_> = cuts.collect();
            let range =
                |event: &&Value| (event["start_offset"].clone(), event["end_offset"].clone());
            let expected = (Value::from(BEFORE), Value::from(BEFORE + LOST));
            ensure!(
                cuts.len() == 2 && cuts.iter().all(|one| range(one) == expected),
                "{events:#?}"
            );
            let resumed = events.iter().filter(|event| event["reason"] == "PARTITION_RESUMED");
            ensure!(resumed.count() >= 2, "{events:#?}");
            Ok(())
        })?;
        self.produce("and on", 5)?;
        self.wait_identical()
    }

    fn daemon(&mut self, seat: i32) -> &mut Daemon {
        &mut self.daemons[usize::from(seat == SEATS[1])]
    }

    fn mirror(&self, seat: i32) -> Result<Value> {
        self.daemons[usize::from(seat == SEATS[1])].mirror("orders")
    }

    fn events(&self) -> Result<Vec<Value>> {
        let page = self.daemons[0].json("/v1/events")?;
        Ok(page["events"].as_array().context("events")?.clone())
    }

    fn leader(&self, partition: i32) -> Result<i32> {
        self.destination.leader("orders", partition)
    }

    fn copy(&self, partition: i32) -> Result<Vec<Batch>> {
        LogReader::open(self.destination.judge(1)?, "orders", partition)?.rest()
    }

    /// Waits until both partitions have failed with a daemon, and compares them with what they were.
    fn wait_failed(&self, seat: i32) -> Result<()> {
        let end = BEFORE + LOST;
        eventually(DEADLINE, format!("both partitions to fail with {seat}"), || {
            let mirror = self.mirror(seat)?;
            ensure!(mirror["state"] == "Failed", "{mirror}");
            for partition in mirror["partitions"].as_array().context("partitions")? {
                ensure!(partition["reason"] == "SOURCE_TRUNCATED", "{mirror}");
                ensure!(partition["failure"]["offset"] == end, "{mirror}");
            }
            Ok(())
        })?;
        for (partition, copy) in (0..).zip(&self.copies) {
            let found = self.copy(partition)?;
            let same = found.len() == copy.len()
                && found.iter().zip(copy).all(|(a, b)| a.same_but_for_epoch(b));
            ensure!(same, "the copy of partition {partition} has changed");
        }
        Ok(())
    }

    fn wait_identical(&self) -> Result<()> {
        wait_identical(&self.source, &self.destination, "orders", "orders", DEADLINE)
    }

    fn start_source(&mut self) -> Result<()> {
        self.source.start_again(1)?;
        self.source.wait_ready()
    }

    fn produce(&self, text: &str, count: i64) -> Result<()> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis();
        let now = i64::try_from(now)?;
        for number in 0..count {
            let value = format!("{text} {number}");
            let batch = plain_batch(&[value.as_bytes()], now + number);
            for partition in 0..PARTITIONS {
                eventually(DEADLINE, "the source to take a record", || {
                    let answer =
                        self.source.judge(1)?.produce("orders", partition, -1, batch.clone())?;
                    ensure!(answer.error_code == 0, "{answer:?}");
                    Ok(())
                })?;
            }
        }
        Ok(())
    }
}
