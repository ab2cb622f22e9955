//! The daemon is killed at random moments, over and over, under load, while leaders move at both
//! sides. A few times in CI; `.ci/kill-loop` does it two hundred times. A seed gives the same moments
//! again, as far as a machine does.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

use crate::support::cluster::Cluster;
use crate::support::compare::wait_identical;
use crate::support::daemon::{Daemon, DaemonSpec, SEAT};
use crate::support::eventually::let_run;
use crate::support::judge::NewTopic;
use crate::support::load::Load;
use crate::support::watch::Watch;
use crate::support::workspace::Workspace;
use crate::support::{ClusterSpec, eventually, scenario};

/// How many kills; 4 where it is not set.
const KILLS: &str = "LOCKSTEP_KILLS";
/// The seed; from the clock where it is not set.
const SEED: &str = "LOCKSTEP_SEED";
/// Set: the daemon has a state directory, and comes back at once.
const STATE_DIR: &str = "LOCKSTEP_STATE_DIR";
/// Another daemon than the one built with the test: it may run for an hour.
const BINARY: &str = "LOCKSTEP_BINARY";
const PARTITIONS: i32 = 4;
const BATCHES_A_SECOND: u32 = 20;
const DEADLINE: Duration = Duration::from_secs(180);
/// A kill comes at most so long after a start: while it registers, rejoins, leads.
const LONGEST_LIFE: Duration = Duration::from_secs(12);
/// Every so many kills it may first come back for good.
const LETS_RETURN: usize = 4;
const MOVES_SOURCE: usize = 3;
const RESTARTS_BROKER: usize = 10;
const PASSED: i64 = 200;

#[test]
fn a_daemon_killed_at_random_moments_loses_and_mixes_nothing() {
    scenario("kill-loop", |workspace| {
        let kills = number(KILLS)?.unwrap_or(4);
        let seed = number(SEED)?.unwrap_or(u64::from(std::process::id()));
        println!("{KILLS}={kills} {SEED}={seed}");
        let mut round = Round::start(workspace, seed)?;
        for kill in 1..=usize::try_from(kills)? {
            round.kill(kill).with_context(|| format!("kill {kill} of seed {seed}"))?;
        }
        round.end().with_context(|| format!("the end of seed {seed}"))
    });
}

struct Round {
    source: Cluster,
    destination: Cluster,
    daemon: Daemon,
    load: Load,
    watch: Watch,
    random: StdRng,
    begun: Instant,
    told: Told,
}

/// What is printed at the end.
#[derive(Debug, Default)]
struct Told {
    kills: usize,
    while_leading: usize,
    source_moves: usize,
    broker_restarts: usize,
    returns: Vec<Duration>,
}

impl Round {
    fn start(workspace: &Workspace, seed: u64) -> Result<Self> {
        let source = ClusterSpec::new("source").brokers(2).heap_mb(384).start_in(workspace)?;
        let destination = ClusterSpec::new("destination").brokers(2).heap_mb(384);
        let destination = destination.start_in(workspace)?;
        source.create_topic(&NewTopic::new("orders", PARTITIONS).replicas(2))?;
        let load = Load::start(&source, "orders", PARTITIONS, BATCHES_A_SECOND)?;
        let mut daemon = DaemonSpec::new(&source, &destination, &["orders"]);
        if std::env::var_os(STATE_DIR).is_some() {
            let directory = workspace.path().join("state");
            daemon = daemon.line("daemon", &format!("state_dir = {directory:?}"));
        }
        let binary = std::env::var(BINARY);
        let binary = binary.unwrap_or_else(|_unset| env!("CARGO_BIN_EXE_lockstep").to_owned());
        let mut daemon = daemon.start_in(&binary, workspace)?;
        daemon.wait_ready()?;
        let watch = Watch::over(&source, &destination)?.topic("orders").seat(&daemon).start()?;
        let random = StdRng::seed_from_u64(seed);
        let (begun, told) = (Instant::now(), Told::default());
        let mut round = Self { source, destination, daemon, load, watch, random, begun, told };
        round.wait_passed()?;
        Ok(round)
    }

    fn kill(&mut self, kill: usize) -> Result<()> {
        if kill.is_multiple_of(LETS_RETURN) {
            let begun = Instant::now();
            self.wait_passed()?;
            self.told.returns.push(begun.elapsed());
        }
        let life = self.random.random_range(0.0..1.0);
        let_run(LONGEST_LIFE.mul_f64(life));
        if kill.is_multiple_of(MOVES_SOURCE) {
            self.move_source()?;
        }
        // After a kill the metadata names the seat until its session is over: that is no leading.
        let is_ready = self.daemon.get("/readyz").is_ok_and(|(status, _)| status == 200);
        let leads = self.destination.leader("orders", 0).is_ok_and(|leader| leader == SEAT);
        self.told.while_leading += usize::from(is_ready && leads);
        self.daemon.kill()?;
        self.told.kills += 1;
        if kill.is_multiple_of(RESTARTS_BROKER) {
            self.restart_broker()?;
        }
        self.watch.check()?;
        self.daemon.start_again()
    }

    /// Another leader for one partition at the source, without a loss.
    fn move_source(&mut self) -> Result<()> {
        let partition = self.random.random_range(0..PARTITIONS);
        let mut judge = self.source.any_judge()?;
        let mut replicas = judge.partition("orders", partition)?.replicas;
        replicas.reverse();
        judge.reassign("orders", partition, &replicas)?;
        eventually(DEADLINE, "another leader at the source", || {
            // It may lead already, or not be in sync yet.
            let _refused = judge.elect_leader("orders", partition, false);
            let found = judge.partition("orders", partition)?;
            ensure!(found.leader == replicas[0], "{found:?}");
            Ok(())
        })?;
        self.told.source_moves += 1;
        Ok(())
    }

    /// A real broker is killed while no seat leads: another one does.
    fn restart_broker(&mut self) -> Result<()> {
        let broker = self.random.random_range(1..=2);
        self.destination.kill(broker)?;
        self.destination.start_again(broker)?;
        self.destination.wait_ready()?;
        self.told.broker_restarts += 1;
        Ok(())
    }

    fn mirror_end(&self) -> Result<i64> {
        let mut judge = self.destination.any_judge()?;
        (0..PARTITIONS).map(|p| Ok(judge.bounds("orders", p)?.high_watermark)).sum()
    }

    fn source_end(&self) -> Result<i64> {
        let mut judge = self.source.any_judge()?;
        (0..PARTITIONS).map(|p| judge.log_end_offset("orders", p)).sum()
    }

    fn wait_passed(&mut self) -> Result<()> {
        let wanted = self.source_end()? + PASSED;
        let what = format!("the mirror to reach offset {wanted}; {}", self.daemon.url());
        eventually(DEADLINE, what, || {
            let found = self.mirror_end()?;
            ensure!(found >= wanted, "it ends at {found}");
            Ok(())
        })
    }

    fn end(mut self) -> Result<()> {
        self.wait_passed()?;
        let Self { source, destination, daemon: _daemon, load, watch, begun, mut told, .. } = self;
        let sent = load.stop()?;
        wait_identical(&source, &destination, "orders", "orders", DEADLINE)?;
        let seen = watch.stop()?;
        ensure!(seen.batches > 100 && seen.unproved == 0 && seen.refused > 20, "{seen:?}");
        told.returns.sort_unstable();
        println!("{told:?}\n{sent} records, {seen:?}, in {:.0?}", begun.elapsed());
        Ok(())
    }
}

fn number(variable: &str) -> Result<Option<u64>> {
    let value = std::env::var(variable).ok();
    value.map(|value| value.parse().with_context(|| format!("read {variable}"))).transpose()
}
