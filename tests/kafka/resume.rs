//! An operator's word on a partition that failed, given with the command line and carried out.

use std::process::{Command, Output};
use std::time::Duration;

use anyhow::{Result, ensure};

use crate::support::cluster::ClusterSpec;
use crate::support::compare::wait_identical;
use crate::support::daemon::{Daemon, DaemonSpec};
use crate::support::java::Produce;
use crate::support::judge::NewTopic;
use crate::support::{eventually, scenario};

const DEADLINE: Duration = Duration::from_secs(60);
const BINARY: &str = env!("CARGO_BIN_EXE_lockstep");

#[test]
fn a_gap_stops_a_mirror_until_an_operator_lets_it_go_on() {
    scenario("resume", |workspace| {
        let source = ClusterSpec::new("source").start_in(workspace)?;
        let destination = ClusterSpec::new("destination").brokers(2).start_in(workspace)?;
        source.create_topic(&NewTopic::new("orders", 1))?;
        let fill = |count| {
            let load = Produce::to(&source.bootstrap(), "orders").count(count);
            load.option("flush", 10).run(source.dist()).map(|_sent| ())
        };
        fill(20)?;
        let mut daemon =
            DaemonSpec::new(&source, &destination, &["orders"]).start_in(BINARY, workspace)?;
        daemon.wait_ready()?;
        wait_identical(&source, &destination, "orders", "orders", DEADLINE)?;
        let unneeded = resume(&daemon, &["orders", "--yes"])?;
        ensure!(unneeded.status.code() == Some(4), "nothing has failed: {unneeded:?}");

        daemon.stop()?;
        fill(30)?;
        source.judge(1)?.delete_records("orders", 0, 40)?;
        daemon.start_again()?;
        daemon.wait_ready()?;
        eventually(DEADLINE, "the mirror stopped before the gap", || {
            let mirror = daemon.mirror("orders")?;
            let failure = &mirror["partitions"][0]["failure"];
            let offsets = (failure["offset"].as_i64(), failure["source_offset"].as_i64());
            let is_told = mirror["state"] == "Failed" && mirror["reason"] == "SOURCE_GAP";
            ensure!(is_told && offsets == (Some(20), Some(40)), "{mirror}");
            Ok(())
        })?;
        let dry = resume(&daemon, &["orders", "--dry-run"])?;
        let said = String::from_utf8_lossy(&dry.stdout).into_owned();
        ensure!(dry.status.success() && said.contains("20..40"), "{dry:?}");
        ensure!(daemon.mirror("orders")?["state"] == "Failed", "a dry run changed something");

        let resumed = resume(&daemon, &["orders", "--yes"])?;
        ensure!(resumed.status.success(), "{resumed:?}");
        wait_identical(&source, &destination, "orders", "orders", DEADLINE)?;
        eventually(DEADLINE, "an active mirror and the word in the events", || {
            let mirror = daemon.mirror("orders")?;
            ensure!(mirror["state"] == "Active", "{mirror}");
            let events = daemon.json("/v1/events")?.to_string();
            ensure!(events.contains("GAP_ACCEPTED"), "{events}");
            Ok(())
        })
    });
}

fn resume(daemon: &Daemon, arguments: &[&str]) -> Result<Output> {
    let url = daemon.url();
    let words = ["--url", &url, "mirrors", "resume-failed"];
    Ok(Command::new(BINARY).args(words).args(arguments).output()?)
}
