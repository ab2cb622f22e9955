//! Several daemons on one destination, under load: they share the partitions, the others take over
//! when one dies or is paused, a woken one does no harm, and one that returns takes its share back, once.
//! No real replica ever loses or refetches anything.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::support::cluster::Cluster;
use crate::support::compare::wait_identical;
use crate::support::daemon::{Daemon, DaemonSpec};
use crate::support::java::{Background, Produce, sent};
use crate::support::judge::NewTopic;
use crate::support::judge::admin::Partition;
use crate::support::watch::Watch;
use crate::support::workspace::Workspace;
use crate::support::{ClusterSpec, eventually, scenario};

const DEADLINE: Duration = Duration::from_secs(60);
/// The session of a dead seat ends after 9 s; then the next one leads, as soon as the replicas have
/// asked it once: 10 s in all on a quiet machine.
const TAKEOVER: Duration = Duration::from_secs(9 + 11);
/// What exactly one daemon does moves within that, and a new topic is found within 5 s.
const OWNER_MOVES: Duration = Duration::from_secs(15 + 10);
const PARTITIONS: i32 = 4;
/// Records that have to pass before a state counts as working.
const PASSED: i64 = 300;
const ONE: i32 = 9001;
const TWO: i32 = 9002;
const THREE: i32 = 9003;

#[test]
fn two_daemons_share_a_destination_and_take_over_from_each_other() {
    scenario("two-daemons", |workspace| {
        let mut group = Group::start(workspace)?;
        group.the_second_joins_existing_mirrors()?;
        group.a_killed_owner_is_replaced()?;
        group.one_that_returns_takes_its_share_back_once()?;
        group.a_paused_one_is_replaced_and_does_no_harm()?;
        group.a_third_joins()?;
        group.end()
    });
}

struct Group {
    source: Cluster,
    destination: Cluster,
    daemons: BTreeMap<i32, Daemon>,
    load: Background,
    watch: Watch,
}

impl Group {
    fn start(workspace: &Workspace) -> Result<Self> {
        let source = ClusterSpec::new("source").start_in(workspace)?;
        let destination = ClusterSpec::new("destination").brokers(3).start_in(workspace)?;
        source.create_topic(&NewTopic::new("orders", PARTITIONS))?;
        let load = Produce::to(&source.bootstrap(), "orders")
            .count(0)
            .option("rate", 200)
            .option("size", 500)
            .option("flush", 20)
            .option("compression", "lz4")
            .start(source.dist())?;
        let mut daemons = BTreeMap::new();
        for id in [ONE, TWO, THREE] {
            let daemon = DaemonSpec::new(&source, &destination, &["orders", "late"])
                .name(&format!("daemon-{id}"))
                .broker_id(id)
                .prepare_in(env!("CARGO_BIN_EXE_lockstep"), workspace)?;
            daemons.insert(id, daemon);
        }
        let first = daemons.get_mut(&ONE).context("a daemon")?;
        first.start_again()?;
        first.wait_ready()?;
        let watch = Watch::over(&source, &destination)?.topic("orders");
        let watch = daemons.values().fold(watch, |watch, daemon| watch.seat(daemon)).start()?;
        let mut group = Self { source, destination, daemons, load, watch };
        group.wait_led(DEADLINE, |_, now| now.leader == ONE && now.in_sync.len() == 4)?;
        group.wait_passed(DEADLINE)?;
        Ok(group)
    }

    fn the_second_joins_existing_mirrors(&mut self) -> Result<()> {
        let before = self.real_replicas()?;
        self.daemon(TWO)?.start_again()?;
        self.daemon(TWO)?.wait_ready()?;
        self.wait_shared()?;
        ensure!(self.real_replicas()? == before, "data was moved");
        self.wait_passed(DEADLINE)?;
        for id in [ONE, TWO] {
            self.says_what_it_leads(id)?;
        }
        let copied = |id: i32| self.daemons[&id].metric("lockstep_mirror_records_total", &[]);
        ensure!(copied(ONE)? > 0.0 && copied(TWO)? > 0.0, "one of them copies nothing");
        let topics = |id: i32| self.daemons[&id].metric("lockstep_mirror_topics", &[]);
        ensure!(topics(ONE)? + topics(TWO)? == 1.0, "mirrors are counted twice");
        Ok(())
    }

    /// Reports are true on both: what the other leads is neither trouble nor a lag.
    fn says_what_it_leads(&self, id: i32) -> Result<()> {
        eventually(DEADLINE, format!("an honest report of {id}"), || {
            let mirror = self.daemons[&id].mirror("orders")?;
            ensure!(mirror["state"] == "Active", "{mirror}");
            let partitions = mirror["partitions"].as_array().context("partitions")?;
            for (number, partition) in (0..).zip(partitions) {
                let leader = self.partition(number)?.leader;
                ensure!(partition["leader"] == leader, "{leader} leads: {partition}");
                let is_here = leader == id;
                ensure!(
                    (partition["state"] != "Standby") == is_here,
                    "{leader} leads: {partition}"
                );
                ensure!(partition["lag_records"].is_null() != is_here, "{partition}");
                ensure!(partition["in_sync"].as_array().is_some_and(|ids| ids.len() == 3));
            }
            Ok(())
        })
    }

    fn a_killed_owner_is_replaced(&mut self) -> Result<()> {
        let before = self.real_replicas()?;
        self.daemon(ONE)?.kill()?;
        let killed = Instant::now();
        self.wait_led(TAKEOVER, |_, now| now.leader == TWO)?;
        self.wait_passed(TAKEOVER)?;
        println!("taken over and copying {:?} after a kill", killed.elapsed());
        self.source.create_topic(&NewTopic::new("late", 1))?;
        eventually(OWNER_MOVES, "a new topic without the owner", || {
            let found = self.destination.any_judge()?.partition("late", 0)?;
            ensure!(found.leader == TWO, "{found:?}");
            Ok(())
        })?;
        // One that is only down stays a replica.
        let stays = |now: &Partition| now.replicas.contains(&ONE) && !now.in_sync.contains(&ONE);
        self.wait_led(DEADLINE, |_, now| stays(now) && now.leader == TWO)?;
        ensure!(self.real_replicas()? == before, "data was moved");
        Ok(())
    }

    fn one_that_returns_takes_its_share_back_once(&mut self) -> Result<()> {
        let before = self.partitions()?;
        self.daemon(ONE)?.start_again()?;
        self.daemon(ONE)?.wait_ready()?;
        self.wait_shared()?;
        self.wait_passed(DEADLINE)?;
        for (number, (before, now)) in (0..).zip(before.iter().zip(self.partitions()?)) {
            let moves = now.leader_epoch - before.leader_epoch;
            let expected = i32::from(now.leader == ONE);
            ensure!(moves == expected, "orders-{number} moved {moves} times: {before:?}, {now:?}");
        }
        Ok(())
    }

    fn a_paused_one_is_replaced_and_does_no_harm(&mut self) -> Result<()> {
        self.daemon(TWO)?.pause()?;
        let paused = Instant::now();
        self.wait_led(TAKEOVER, |_, now| now.leader == ONE)?;
        self.wait_passed(TAKEOVER)?;
        println!("taken over and copying {:?} after a pause", paused.elapsed());
        let before = self.partitions()?;
        self.daemon(TWO)?.resume()?;
        self.wait_shared()?;
        self.wait_passed(DEADLINE)?;
        for (before, now) in before.iter().zip(self.partitions()?) {
            ensure!(now.leader_epoch - before.leader_epoch <= 1, "{before:?}, {now:?}");
        }
        Ok(())
    }

    fn a_third_joins(&mut self) -> Result<()> {
        let before = self.real_replicas()?;
        self.daemon(THREE)?.start_again()?;
        self.wait_led(DEADLINE, |_, now| {
            let seats = now.replicas.get(..3).unwrap_or_default();
            let are_there = [ONE, TWO, THREE].iter().all(|seat| seats.contains(seat));
            are_there && now.in_sync.len() == 6 && now.leader == seats[0]
        })?;
        ensure!(self.real_replicas()? == before, "data was moved");
        let leads = |id| Ok(self.partitions()?.iter().filter(|one| one.leader == id).count());
        let shares = [ONE, TWO, THREE].map(leads).into_iter().collect::<Result<Vec<_>>>()?;
        ensure!(shares.iter().all(|share| (1..=2).contains(share)), "{shares:?}");
        self.wait_passed(DEADLINE)
    }

    fn end(self) -> Result<()> {
        let Self { source, destination, daemons, load, watch } = self;
        let outcome = load.stop()?;
        let acknowledged = sent(&outcome.stdout)?;
        ensure!(
            acknowledged.iter().all(|record| record.offset.is_some()),
            "the source took not all"
        );
        wait_identical(&source, &destination, "orders", "orders", DEADLINE)?;
        let seen = watch.stop().context("what was seen meanwhile")?;
        ensure!(seen.batches > 100 && seen.unproved == 0, "{seen:?}");
        // Nothing was cut, refetched or given up by a real broker.
        for node in destination.nodes() {
            let log = std::fs::read_to_string(&node.log_file)?;
            let mut of_mirrors =
                log.lines().filter(|line| line.contains("orders-") || line.contains("late-"));
            let wrong = of_mirrors.find(|line| {
                line.contains("Truncating to offset") || line.contains("marked as failed")
            });
            ensure!(wrong.is_none(), "{wrong:?}");
        }
        drop(daemons);
        Ok(())
    }

    fn daemon(&mut self, id: i32) -> Result<&mut Daemon> {
        self.daemons.get_mut(&id).context("a daemon")
    }

    fn partition(&self, number: i32) -> Result<Partition> {
        self.destination.any_judge()?.partition("orders", number)
    }

    fn partitions(&self) -> Result<Vec<Partition>> {
        (0..PARTITIONS).map(|number| self.partition(number)).collect()
    }

    fn real_replicas(&self) -> Result<Vec<Vec<i32>>> {
        let is_real = |id: &i32| *id < ONE;
        let all = self.partitions()?.into_iter();
        Ok(all.map(|one| one.replicas.into_iter().filter(is_real).collect()).collect())
    }

    fn wait_led(
        &self,
        deadline: Duration,
        is_wanted: impl Fn(i32, &Partition) -> bool,
    ) -> Result<()> {
        eventually(deadline, "other leaders of orders", || {
            for (number, now) in (0..).zip(self.partitions()?) {
                ensure!(is_wanted(number, &now), "orders-{number} has {now:?}");
            }
            Ok(())
        })
    }

    /// Both are replicas and in sync, and each leads the half in which it stands first.
    fn wait_shared(&self) -> Result<()> {
        self.wait_led(DEADLINE, |_, now| {
            let seats: Vec<_> = now.replicas.iter().take(2).copied().collect();
            let are_in_sync = seats.iter().all(|seat| now.in_sync.contains(seat));
            seats.contains(&ONE) && seats.contains(&TWO) && are_in_sync && now.leader == seats[0]
        })?;
        let leaders: Vec<_> = self.partitions()?.iter().map(|one| one.leader).collect();
        ensure!(leaders.iter().filter(|leader| **leader == ONE).count() == 2, "{leaders:?}");
        Ok(())
    }

    fn wait_passed(&mut self, deadline: Duration) -> Result<()> {
        let ends = |cluster: &Cluster| -> Result<Vec<i64>> {
            let mut judge = cluster.any_judge()?;
            (0..PARTITIONS).map(|p| Ok(judge.bounds("orders", p)?.high_watermark)).collect()
        };
        let share = PASSED / i64::from(PARTITIONS);
        let wanted: Vec<_> = ends(&self.source)?.into_iter().map(|end| end + share).collect();
        eventually(deadline, format!("the mirror to reach {wanted:?}"), || {
            let found = ends(&self.destination)?;
            let is_there = found.iter().zip(&wanted).all(|(found, wanted)| found >= wanted);
            ensure!(is_there, "it ends at {found:?}");
            Ok(())
        })
    }
}
