//! All replicas of a mirror lose the end of their logs at once: it is read from the source again, from
//! where they end or from where the source begins by then.

use std::time::Duration;

use anyhow::{Result, ensure};

use crate::support::cluster::Cluster;
use crate::support::compare::wait_identical;
use crate::support::daemon::{Daemon, DaemonSpec, SEAT};
use crate::support::java::Produce;
use crate::support::judge::NewTopic;
use crate::support::workspace::Workspace;
use crate::support::{ClusterSpec, eventually, scenario};

const DEADLINE: Duration = Duration::from_secs(60);
const BROKERS: [i32; 2] = [1, 2];

#[test]
fn what_all_replicas_lost_is_read_again() {
    scenario("lost-ends", |workspace| {
        let mut story = Story::start(workspace)?;
        story.all_lose_their_ends(|_| Ok(()))?;
        let said = story.daemon.log_text()?.matches("it is read from the source again").count();
        ensure!(said >= 1, "nothing was read again");
        // Meanwhile the source deletes more than they had left.
        story.all_lose_their_ends(|source| {
            source.judge(1)?.delete_records("orders", 0, 380).map(drop)
        })
    });
}

struct Story {
    source: Cluster,
    destination: Cluster,
    daemon: Daemon,
}

impl Story {
    fn start(workspace: &Workspace) -> Result<Self> {
        let source = ClusterSpec::new("source").start_in(workspace)?;
        let destination = ClusterSpec::new("destination").brokers(2).separate_controllers(1);
        let destination = destination.heap_mb(384).start_in(workspace)?;
        source.create_topic(&NewTopic::new("orders", 1))?;
        let load = Produce::to(&source.bootstrap(), "orders").count(400).option("flush", 5);
        load.option("size", 500).run(source.dist())?;
        let mut daemon = DaemonSpec::new(&source, &destination, &["orders"])
            .start_in(env!("CARGO_BIN_EXE_lockstep"), workspace)?;
        daemon.wait_ready()?;
        let story = Self { source, destination, daemon };
        story.wait_in_sync()?;
        story.identical()?;
        Ok(story)
    }

    fn identical(&self) -> Result<()> {
        wait_identical(&self.source, &self.destination, "orders", "orders", DEADLINE)
    }

    fn wait_in_sync(&self) -> Result<()> {
        eventually(DEADLINE, "both brokers in sync, and the seat leads", || {
            let found = self.destination.any_judge()?.partition("orders", 0)?;
            ensure!(found.leader == SEAT && found.in_sync.len() == 3, "{found:?}");
            Ok(())
        })
    }

    /// Killed together, and half of each log is gone, somewhere inside of a batch.
    fn all_lose_their_ends(&mut self, meanwhile: impl Fn(&Cluster) -> Result<()>) -> Result<()> {
        for broker in BROKERS {
            self.destination.kill(broker)?;
        }
        for broker in BROKERS {
            let path = "orders-0/00000000000000000000.log";
            let path = self.destination.node(broker)?.log_dir.join(path);
            let file = std::fs::File::options().write(true).open(path)?;
            file.set_len(file.metadata()?.len() / 2 + 7)?;
        }
        meanwhile(&self.source)?;
        for broker in BROKERS {
            self.destination.start_again(broker)?;
        }
        self.wait_in_sync()?;
        self.identical()
    }
}
