//! `lockstep verify` against topics that are, or are not, copies of each other. No daemon runs.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::Value;

use crate::support::cluster::{Cluster, ClusterSpec};
use crate::support::judge::NewTopic;
use crate::support::judge::produce::plain_batch;
use crate::support::workspace::Workspace;
use crate::support::{eventually, scenario};

const DEADLINE: Duration = Duration::from_secs(30);
const NOBODY: &str = "127.0.0.1:1";

#[test]
fn verify_tells_a_copy_from_what_is_none() {
    scenario("verify", |workspace| {
        let source = ClusterSpec::new("source").without_retention().start_in(workspace)?;
        let destination =
            ClusterSpec::new("destination").brokers(2).without_retention().start_in(workspace)?;
        source.create_topic(&NewTopic::new("orders", 2))?;
        destination.create_topic(&NewTopic::new("copy.orders", 2))?;
        for partition in [0, 1] {
            for timestamp in 0..20 {
                append(&source, "orders", partition, timestamp)?;
                append(&destination, "copy.orders", partition, timestamp)?;
            }
        }
        let config = config(workspace, &source.bootstrap(), &destination.bootstrap())?;

        // The source is ahead: a copy all the same.
        append(&source, "orders", 0, 20)?;
        // A follower hears of the high watermark a moment after the producer has its answer.
        eventually(DEADLINE, "both replicas compared up to their end", || {
            let found = verify(&config, &["--output", "json"])?;
            ensure!(found.status.code() == Some(0), "{found:?}");
            let report: Value = serde_json::from_slice(&found.stdout)?;
            let replicas = report["partitions"][0]["replicas"].as_array();
            let compared = replicas.into_iter().flatten().map(|r| &r["compared_to"]);
            ensure!(compared.collect::<Vec<_>>() == [40, 40], "{report}");
            Ok(())
        })?;

        append(&source, "orders", 1, 20)?;
        append(&destination, "copy.orders", 1, 666)?;
        let found = verify(&config, &["copy.orders"])?;
        let errors = String::from_utf8_lossy(&found.stderr);
        ensure!(found.status.code() == Some(1), "{found:?}");
        ensure!(errors.contains("copy.orders-1 differs at offset 40"), "{errors}");

        // Before the difference nothing is read: from there on it is seen too.
        let found = verify(&config, &["orders", "--from", "40"])?;
        ensure!(found.status.code() == Some(1), "{found:?}");

        // Longer than its source.
        append(&destination, "copy.orders", 0, 20)?;
        append(&destination, "copy.orders", 0, 21)?;
        let found = verify(&config, &["orders"])?;
        let errors = String::from_utf8_lossy(&found.stderr);
        ensure!(errors.contains("differs"), "{errors}");

        ensure!(verify(&config, &["payments"])?.status.code() == Some(2));
        let config = self::config(workspace, NOBODY, &destination.bootstrap())?;
        ensure!(verify(&config, &[])?.status.code() == Some(3));
        Ok(())
    });
}

/// One batch of two records that follow from the timestamp.
fn append(cluster: &Cluster, topic: &str, partition: i32, timestamp: i64) -> Result<()> {
    let value = format!("value {timestamp}");
    let batch = plain_batch(&[value.as_bytes(), b"second"], timestamp + 1_700_000_000_000);
    let mut leader = cluster.judge(cluster.leader(topic, partition)?)?;
    let answer = leader.produce(topic, partition, -1, batch)?;
    ensure!(answer.error_code == 0, "produce to {topic}-{partition}: {}", answer.error_code);
    Ok(())
}

fn config(workspace: &Workspace, source: &str, destination: &str) -> Result<PathBuf> {
    let path = workspace.path().join("verify.toml");
    let listed = |servers: &str| format!("{:?}", servers.split(',').collect::<Vec<_>>());
    let (source, destination) = (listed(source), listed(destination));
    let text = format!(
        r#"
[daemon]
broker_id = 9001
[destination]
bootstrap_servers = {destination}
[destination.listeners.PLAINTEXT]
bind = "127.0.0.1:1"
advertise = "127.0.0.1:1"
[[link]]
name = "test"
[link.source]
bootstrap_servers = {source}
[link.topics]
include = ["orders"]
rename_prefix = "copy."
"#
    );
    std::fs::write(&path, text)?;
    Ok(path)
}

fn verify(config: &Path, arguments: &[&str]) -> Result<Output> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lockstep"));
    command.arg("verify").args(arguments).arg("--config").arg(config);
    Ok(command.output()?)
}
