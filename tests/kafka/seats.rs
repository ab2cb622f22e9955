//! Several daemons on one destination, under load: they share the partitions, the others take over
//! when one dies or is paused, a woken one does no harm, and one that returns takes its share back, once.
//! No real replica ever loses or refetches anything.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::support::daemon::DaemonSpec;
use crate::support::judge::NewTopic;
use crate::support::judge::admin::Partition;
use crate::support::judge::log::LogReader;
use crate::support::pair::{DEADLINE, Flow, Pair, TOPIC, Told};
use crate::support::workspace::Workspace;
use crate::support::{ClusterSpec, eventually, scenario};

/// The session of a dead seat ends after 9 s; then the next one leads, as soon as the replicas have
/// asked it once: 10 s in all on a quiet machine.
const TAKEOVER: Duration = Duration::from_secs(9 + 11);
/// What exactly one daemon does moves within that time of a death,
const OWNER_MOVES: Duration = Duration::from_secs(15);
/// and a new topic is found within 5 s.
const FOUND: Duration = Duration::from_secs(10);
const JOURNAL: &str = "__lockstep";
const PARTITIONS: i32 = 4;
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
        group.a_paused_owner_is_replaced_and_does_no_harm()?;
        group.a_third_joins()?;
        group.end()
    });
}

struct Group {
    pair: Pair,
}

impl Group {
    fn start(workspace: &Workspace) -> Result<Self> {
        let source = ClusterSpec::new("source").start_in(workspace)?;
        let destination = ClusterSpec::new("destination").brokers(3).start_in(workspace)?;
        let daemon = |id: i32| {
            DaemonSpec::new(&source, &destination, &[TOPIC, "late*"])
                .name(&format!("daemon-{id}"))
                .broker_id(id)
                .prepare_in(env!("CARGO_BIN_EXE_lockstep"), workspace)
        };
        let daemons = [daemon(ONE)?, daemon(TWO)?, daemon(THREE)?];
        let flow = Flow { partitions: PARTITIONS, batches_a_second: 20 };
        let pair = Pair::start(source, destination, daemons, flow)?;
        pair.wait_in_sync(&[1, 2, 3])?;
        Ok(Self { pair })
    }

    fn the_second_joins_existing_mirrors(&mut self) -> Result<()> {
        let before = self.real_replicas()?;
        self.pair.seat(TWO)?.start_again()?;
        self.pair.seat(TWO)?.wait_ready()?;
        self.wait_shared()?;
        ensure!(self.real_replicas()? == before, "data was moved");
        self.pair.wait_passed()?;
        for id in [ONE, TWO] {
            self.says_what_it_leads(id)?;
        }
        let copied = |id: i32| self.pair.daemons[&id].metric("lockstep_mirror_records_total", &[]);
        ensure!(copied(ONE)? > 0.0 && copied(TWO)? > 0.0, "one of them copies nothing");
        let topics = |id: i32| self.pair.daemons[&id].metric("lockstep_mirror_topics", &[]);
        ensure!(topics(ONE)? + topics(TWO)? == 1.0, "mirrors are counted twice");
        Ok(())
    }

    /// Reports are true on both: what the other leads is neither trouble nor a lag.
    fn says_what_it_leads(&self, id: i32) -> Result<()> {
        eventually(DEADLINE, format!("an honest report of {id}"), || {
            let mirror = self.pair.daemons[&id].mirror("orders")?;
            ensure!(mirror["state"] == "Active", "{mirror}");
            let partitions = mirror["partitions"].as_array().context("partitions")?;
            for (number, partition) in (0..).zip(partitions) {
                let leader = self.pair.partition(number)?.leader;
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
        self.wait_owner(ONE, DEADLINE)?;
        self.pair.source.create_topic(&NewTopic::new("late", 1))?;
        self.pair.seat(ONE)?.kill()?;
        let killed = Instant::now();
        self.wait_owner(TWO, OWNER_MOVES)?;
        println!("the journal has another owner {:?} after a kill", killed.elapsed());
        self.wait_led(TAKEOVER, |now| now.leader == TWO)?;
        self.pair.wait_passed_within(TAKEOVER)?;
        println!("taken over and copying {:?} after a kill", killed.elapsed());
        eventually(FOUND, "a new topic without the first owner", || {
            let found = self.pair.destination.any_judge()?.partition("late", 0)?;
            ensure!(found.leader == TWO, "{found:?}");
            Ok(())
        })?;
        self.wait_pinned(TWO, 2)?;
        // One that is only down stays a replica.
        let stays = |now: &Partition| now.replicas.contains(&ONE) && !now.in_sync.contains(&ONE);
        self.wait_led(DEADLINE, |now| stays(now) && now.leader == TWO)?;
        ensure!(self.real_replicas()? == before, "data was moved");
        Ok(())
    }

    fn one_that_returns_takes_its_share_back_once(&mut self) -> Result<()> {
        let before = self.pair.partitions()?;
        self.pair.seat(ONE)?.start_again()?;
        self.pair.seat(ONE)?.wait_ready()?;
        self.wait_shared()?;
        self.pair.wait_passed()?;
        for (number, (before, now)) in (0..).zip(before.iter().zip(self.pair.partitions()?)) {
            let moves = now.leader_epoch - before.leader_epoch;
            let expected = i32::from(now.leader == ONE);
            ensure!(moves == expected, "orders-{number} moved {moves} times: {before:?}, {now:?}");
        }
        Ok(())
    }

    /// It leads, and it owns the journal: woken it finds itself replaced in both.
    fn a_paused_owner_is_replaced_and_does_no_harm(&mut self) -> Result<()> {
        self.wait_owner(ONE, DEADLINE)?;
        self.pair.seat(ONE)?.pause()?;
        let paused = Instant::now();
        self.wait_owner(TWO, OWNER_MOVES)?;
        println!("the journal has another owner {:?} after a pause", paused.elapsed());
        self.wait_led(TAKEOVER, |now| now.leader == TWO)?;
        self.pair.wait_passed_within(TAKEOVER)?;
        println!("taken over and copying {:?} after a pause", paused.elapsed());
        self.pair.source.create_topic(&NewTopic::new("later", 1))?;
        self.wait_pinned(TWO, 3)?;
        let before = self.pair.partitions()?;
        self.pair.seat(ONE)?.resume()?;
        self.wait_shared()?;
        self.pair.wait_passed()?;
        for (before, now) in before.iter().zip(self.pair.partitions()?) {
            ensure!(now.leader_epoch - before.leader_epoch <= 1, "{before:?}, {now:?}");
        }
        // Whether it tries with its old claim or sees first that it was not chosen: it is the least that
        // lives, and claims anew for what is to be written next.
        self.pair.source.create_topic(&NewTopic::new("later-too", 1))?;
        self.wait_pinned(ONE, 4)?;
        self.claims_follow_each_other(5)?;
        let log = self.pair.seat(ONE)?.log_text()?;
        ensure!(!log.contains("asking to be fenced"), "its own pause was taken for a stuck log");
        self.wait_owner(ONE, DEADLINE)
    }

    /// Each claim has a producer epoch of its own, and nothing of one comes after another's. Whoever owns
    /// the journal has one producer id, each seat that writes what it alone knows another.
    fn claims_follow_each_other(&self, wanted: usize) -> Result<()> {
        let leader = self.pair.destination.leader(JOURNAL, 0)?;
        let judge = self.pair.destination.judge(leader)?;
        let mut claims: BTreeMap<i64, Vec<i16>> = BTreeMap::new();
        for batch in LogReader::open(judge, JOURNAL, 0)?.rest()? {
            let (id, epoch) = batch.producer();
            claims.entry(id).or_default().push(epoch);
        }
        ensure!(claims.values().all(|epochs| epochs.is_sorted()), "claims were mixed: {claims:?}");
        claims.values_mut().for_each(Vec::dedup);
        let most = claims.values().map(Vec::len).max();
        ensure!(most >= Some(wanted), "only {claims:?}");
        Ok(())
    }

    fn wait_owner(&self, id: i32, deadline: Duration) -> Result<()> {
        eventually(deadline, format!("{id} as the owner of the journal"), || {
            let journal = self.pair.daemons[&id].json("/v1/journal")?;
            ensure!(journal["is_owner"] == true, "{journal}");
            Ok(())
        })
    }

    fn wait_pinned(&self, id: i32, mirrors: u64) -> Result<()> {
        eventually(DEADLINE, format!("{mirrors} mirrors in the journal"), || {
            let journal = self.pair.daemons[&id].json("/v1/journal")?;
            ensure!(journal["mirrors"] == mirrors, "{journal}");
            Ok(())
        })
    }

    fn a_third_joins(&mut self) -> Result<()> {
        let before = self.real_replicas()?;
        self.pair.seat(THREE)?.start_again()?;
        self.wait_led(DEADLINE, |now| {
            let seats = now.replicas.get(..3).unwrap_or_default();
            let are_there = [ONE, TWO, THREE].iter().all(|seat| seats.contains(seat));
            are_there && now.in_sync.len() == 6 && now.leader == seats[0]
        })?;
        ensure!(self.real_replicas()? == before, "data was moved");
        let leads = |id| Ok(self.pair.partitions()?.iter().filter(|one| one.leader == id).count());
        let shares = [ONE, TWO, THREE].map(leads).into_iter().collect::<Result<Vec<_>>>()?;
        ensure!(shares.iter().all(|share| (1..=2).contains(share)), "{shares:?}");
        self.pair.wait_passed()
    }

    fn end(self) -> Result<()> {
        let Told { destination, daemons, .. } = self.pair.end()?;
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

    fn real_replicas(&self) -> Result<Vec<Vec<i32>>> {
        let is_real = |id: &i32| *id < ONE;
        let all = self.pair.partitions()?.into_iter();
        Ok(all.map(|one| one.replicas.into_iter().filter(is_real).collect()).collect())
    }

    fn wait_led(&self, deadline: Duration, is_wanted: impl Fn(&Partition) -> bool) -> Result<()> {
        self.pair.wait_partitions(deadline, "other leaders of orders", is_wanted)
    }

    /// Both are replicas and in sync, and each leads the half in which it stands first.
    fn wait_shared(&self) -> Result<()> {
        self.wait_led(DEADLINE, |now| {
            let seats: Vec<_> = now.replicas.iter().take(2).copied().collect();
            let are_in_sync = seats.iter().all(|seat| now.in_sync.contains(seat));
            seats.contains(&ONE) && seats.contains(&TWO) && are_in_sync && now.leader == seats[0]
        })?;
        let leaders: Vec<_> = self.pair.partitions()?.iter().map(|one| one.leader).collect();
        ensure!(leaders.iter().filter(|leader| **leader == ONE).count() == 2, "{leaders:?}");
        Ok(())
    }
}
