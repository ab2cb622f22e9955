//! The seat comes back: at once under its old incarnation after a crash, as a new one after everything
//! else, and also where it was the only in-sync replica.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::support::cluster::Cluster;
use crate::support::compare::wait_identical;
use crate::support::daemon::{Daemon, DaemonSpec, SEAT};
use crate::support::java::{Background, Produce, sent};
use crate::support::judge::NewTopic;
use crate::support::judge::admin::Partition;
use crate::support::watch::Watch;
use crate::support::workspace::Workspace;
use crate::support::{ClusterSpec, eventually, scenario};

const DEADLINE: Duration = Duration::from_secs(60);
/// `broker.session.timeout.ms` of the destination: longer than a return may take that does not wait
/// for the old session.
const SESSION: Duration = Duration::from_secs(9);
const PASSED: i64 = 200;

#[test]
fn a_seat_with_a_state_dir_returns_as_it_may() {
    scenario("returning", |workspace| {
        let mut pair = Pair::start(workspace)?;
        let watch = Watch::over(&pair.source, &pair.destination)?.topic("orders").start()?;
        pair.crash()?;
        pair.pause_beyond_the_session()?;
        pair.clean_stop()?;
        pair.changed_port(workspace)?;
        pair.lone_seat()?;
        watch.stop().context("what was seen meanwhile")?;
        pair.end()
    });
}

struct Pair {
    source: Cluster,
    destination: Cluster,
    daemon: Daemon,
    load: Background,
}

impl Pair {
    fn start(workspace: &Workspace) -> Result<Self> {
        let source = ClusterSpec::new("source").start_in(workspace)?;
        let destination = ClusterSpec::new("destination")
            .brokers(2)
            .separate_controllers(1)
            .property("replica.lag.time.max.ms", 10_000)
            .start_in(workspace)?;
        source.create_topic(&NewTopic::new("orders", 1))?;
        let load = Produce::to(&source.bootstrap(), "orders")
            .count(0)
            .option("rate", 100)
            .option("flush", 20)
            .start(source.dist())?;
        let state = workspace.path().join("state");
        let mut daemon = DaemonSpec::new(&source, &destination, &["orders"])
            .line("daemon", &format!("state_dir = \"{}\"", state.display()))
            .line("link.topics", "replication_factor = 2")
            .start_in(env!("CARGO_BIN_EXE_lockstep"), workspace)?;
        daemon.wait_ready()?;
        let mut pair = Self { source, destination, daemon, load };
        pair.wait_led()?;
        pair.wait_passed()?;
        Ok(pair)
    }

    /// kill -9 and start: leadership and its epoch stay, the old session is not waited for.
    fn crash(&mut self) -> Result<()> {
        let before = self.partition()?;
        self.daemon.kill()?;
        let killed = Instant::now();
        self.daemon.start_again()?;
        self.wait_passed()?;
        let after = self.partition()?;
        ensure!(after.leader == SEAT && after.leader_epoch == before.leader_epoch, "{after:?}");
        ensure!(killed.elapsed() < SESSION, "it took {:?}", killed.elapsed());
        ensure!(self.taken_on()? == [false, true], "{:?}", self.taken_on()?);
        Ok(())
    }

    /// SIGSTOP until a real broker leads, SIGCONT.
    fn pause_beyond_the_session(&mut self) -> Result<()> {
        self.daemon.pause()?;
        eventually(DEADLINE, "another leader", || {
            let found = self.partition()?;
            ensure!(found.leader != SEAT && found.leader >= 0, "{found:?}");
            Ok(())
        })?;
        self.daemon.resume()?;
        self.wait_led()?;
        self.wait_passed()
    }

    /// The incarnation that was stopped in good order is never used again.
    fn clean_stop(&mut self) -> Result<()> {
        let code = self.daemon.stop()?;
        ensure!(code == 0, "the stopped daemon ended with code {code}");
        self.daemon.start_again()?;
        self.wait_led()?;
        self.wait_passed()?;
        ensure!(self.taken_on()? == [false, true, false], "{:?}", self.taken_on()?);
        Ok(())
    }

    /// Followers would go on asking at the old address under the old incarnation.
    fn changed_port(&mut self, workspace: &Workspace) -> Result<()> {
        self.daemon.kill()?;
        let text = std::fs::read_to_string(self.daemon.config())?;
        let port = crate::support::cluster::ports::free_ports(1)?[0];
        let old = text
            .lines()
            .find_map(|line| line.strip_prefix("advertise = \""))
            .and_then(|line| line.trim_end_matches('"').rsplit_once(':'))
            .with_context(|| format!("no advertised port in {text}"))?
            .1
            .to_owned();
        std::fs::write(self.daemon.config(), text.replace(&old, &port.to_string()))?;
        ensure!(workspace.path().join("state/incarnation.json").exists());
        self.daemon.start_again()?;
        self.wait_led()?;
        self.wait_passed()?;
        ensure!(self.taken_on()? == [false, true, false, false], "{:?}", self.taken_on()?);
        Ok(())
    }

    /// Both real brokers die, one after the other, then the daemon: the seat is the only in-sync
    /// replica, and nobody is left who knows the high watermark.
    fn lone_seat(&mut self) -> Result<()> {
        self.destination.kill(2)?;
        self.wait_in_sync(&[1, SEAT])?;
        self.destination.kill(1)?;
        eventually(DEADLINE, "the alarm", || {
            let mirror = self.daemon.mirror("orders")?.to_string();
            ensure!(mirror.contains("REPLICAS_OUT_OF_SYNC"), "{mirror}");
            Ok(())
        })?;
        self.daemon.kill()?;
        self.destination.start_again(1)?;
        self.destination.start_again(2)?;
        eventually(DEADLINE, "a partition without a leader", || {
            let found = self.partition()?;
            // With eligible leader replicas the last one leaves the in-sync replicas too (KIP-966).
            let is_alone = found.in_sync.iter().all(|id| *id == SEAT);
            ensure!(found.leader < 0 && is_alone, "{found:?}");
            Ok(())
        })?;
        self.daemon.start_again()?;
        self.wait_led()?;
        self.wait_in_sync(&[1, 2, SEAT])?;
        self.wait_passed()?;
        ensure!(self.daemon.log_text()?.contains("HIGH_WATERMARK_ASSUMED"));
        Ok(())
    }

    fn end(self) -> Result<()> {
        let Self { source, destination, daemon: _daemon, load, .. } = self;
        let acknowledged = sent(&load.stop()?.stdout)?;
        ensure!(acknowledged.len() > 1_000, "only {} records", acknowledged.len());
        wait_identical(&source, &destination, "orders", "orders", DEADLINE)
    }

    /// Whether each start took an incarnation on.
    fn taken_on(&self) -> Result<Vec<bool>> {
        let text = self.daemon.log_text()?;
        let lines = text.lines().filter(|line| line.contains("is_taken_on="));
        Ok(lines.map(|line| line.contains("is_taken_on=true")).collect())
    }

    fn partition(&self) -> Result<Partition> {
        self.destination.any_judge()?.partition("orders", 0)
    }

    fn wait_led(&mut self) -> Result<()> {
        eventually(DEADLINE, "the seat leading", || {
            let found = self.partition()?;
            ensure!(found.leader == SEAT, "{found:?}");
            Ok(())
        })
    }

    fn wait_in_sync(&mut self, wanted: &[i32]) -> Result<()> {
        eventually(DEADLINE, format!("{wanted:?} in sync"), || {
            let found = self.partition()?;
            ensure!(found.in_sync == wanted, "{found:?}");
            Ok(())
        })
    }

    fn source_end(&self) -> Result<i64> {
        self.source.any_judge()?.log_end_offset("orders", 0)
    }

    /// Waits until the mirror has grown well beyond what the source has now.
    fn wait_passed(&mut self) -> Result<()> {
        let wanted = self.source_end()? + PASSED;
        eventually(DEADLINE, format!("the mirror to reach {wanted}; {}", self.daemon.url()), || {
            let found = self.destination.any_judge()?.bounds("orders", 0)?.high_watermark;
            ensure!(found >= wanted, "it ends at {found}");
            Ok(())
        })
    }
}
