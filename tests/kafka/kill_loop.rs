//! The daemon is killed at random moments, over and over, under load, while leaders move at both
//! sides. A few times in CI; `.ci/kill-loop` does it two hundred times. A seed gives the same moments
//! again, as far as a machine does.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

use crate::support::daemon::{DaemonSpec, SEAT};
use crate::support::eventually::let_run;
use crate::support::pair::{DEADLINE, Flow, Pair, TOPIC, Told};
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
/// A kill comes at most so long after a start: while it registers, rejoins, leads.
const LONGEST_LIFE: Duration = Duration::from_secs(12);
/// Every so many kills it may first come back for good.
const LETS_RETURN: usize = 4;
const MOVES_SOURCE: usize = 3;
const RESTARTS_BROKER: usize = 10;

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
    pair: Pair,
    random: StdRng,
    begun: Instant,
    told: Account,
}

/// What is printed at the end.
#[derive(Debug, Default)]
struct Account {
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
        let mut daemon = DaemonSpec::new(&source, &destination, &[TOPIC]);
        if std::env::var_os(STATE_DIR).is_some() {
            let directory = workspace.path().join("state");
            daemon = daemon.line("daemon", &format!("state_dir = {directory:?}"));
        }
        let binary = std::env::var(BINARY);
        let binary = binary.unwrap_or_else(|_unset| env!("CARGO_BIN_EXE_lockstep").to_owned());
        let daemon = daemon.prepare_in(&binary, workspace)?;
        let flow = Flow { partitions: PARTITIONS, batches_a_second: 20 };
        let pair = Pair::start(source, destination, [daemon], flow)?;
        let random = StdRng::seed_from_u64(seed);
        Ok(Self { pair, random, begun: Instant::now(), told: Account::default() })
    }

    fn kill(&mut self, kill: usize) -> Result<()> {
        if kill.is_multiple_of(LETS_RETURN) {
            let begun = Instant::now();
            self.pair.wait_passed()?;
            self.told.returns.push(begun.elapsed());
        }
        let life = self.random.random_range(0.0..1.0);
        let_run(LONGEST_LIFE.mul_f64(life));
        if kill.is_multiple_of(MOVES_SOURCE) {
            self.move_source()?;
        }
        // After a kill the metadata names the seat until its session is over: that is no leading.
        let is_ready = self.pair.daemon()?.get("/readyz").is_ok_and(|(status, _)| status == 200);
        let leads = self.pair.destination.leader(TOPIC, 0).is_ok_and(|leader| leader == SEAT);
        self.told.while_leading += usize::from(is_ready && leads);
        self.pair.daemon()?.kill()?;
        self.told.kills += 1;
        if kill.is_multiple_of(RESTARTS_BROKER) {
            self.restart_broker()?;
        }
        self.pair.watch.check()?;
        self.pair.daemon()?.start_again()
    }

    /// Another leader for one partition at the source, without a loss.
    fn move_source(&mut self) -> Result<()> {
        let partition = self.random.random_range(0..PARTITIONS);
        let mut judge = self.pair.source.any_judge()?;
        let mut replicas = judge.partition(TOPIC, partition)?.replicas;
        replicas.reverse();
        judge.reassign(TOPIC, partition, &replicas)?;
        eventually(DEADLINE, "another leader at the source", || {
            // It may lead already, or not be in sync yet.
            let _refused = judge.elect_leader(TOPIC, partition, false);
            let found = judge.partition(TOPIC, partition)?;
            ensure!(found.leader == replicas[0], "{found:?}");
            Ok(())
        })?;
        self.told.source_moves += 1;
        Ok(())
    }

    /// A real broker is killed while no seat leads: another one does.
    fn restart_broker(&mut self) -> Result<()> {
        let broker = self.random.random_range(1..=2);
        self.pair.destination.kill(broker)?;
        self.pair.destination.start_again(broker)?;
        self.pair.destination.wait_ready()?;
        self.told.broker_restarts += 1;
        Ok(())
    }

    fn end(self) -> Result<()> {
        self.pair.wait_passed()?;
        let Self { pair, begun, told: mut account, .. } = self;
        let Told { sent, seen, .. } = pair.end()?;
        account.returns.sort_unstable();
        println!("{account:?}\n{sent} records, {seen:?}, in {:.0?}", begun.elapsed());
        Ok(())
    }
}

fn number(variable: &str) -> Result<Option<u64>> {
    let value = std::env::var(variable).ok();
    value.map(|value| value.parse().with_context(|| format!("read {variable}"))).transpose()
}
