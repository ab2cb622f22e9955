//! What clients meet at the seat: one pair of clusters whose brokers ask for proof on one of two
//! listeners (the one on which they replicate) and have an authorizer.

pub mod asks;

use std::time::Duration;

use anyhow::{Context, Result, ensure};

use self::asks::{Subject, offset_of};
use crate::support::cluster::Cluster;
use crate::support::compare::{open_leader, wait_identical};
use crate::support::daemon::{Daemon, DaemonSpec, SEAT};
use crate::support::java::{Consume, Produce, resets};
use crate::support::judge::{Batch, Judge, NewTopic};
use crate::support::sasl::{self, LISTENERS, Right, give, login};
use crate::support::{ClusterSpec, eventually, scenario};

const DEADLINE: Duration = Duration::from_secs(90);
const TOPIC: &str = "orders";
/// Of the first record of each load; each one later than the last.
const TIME: i64 = 1_700_000_000_000;
/// Of the first record of those that end with an open transaction: later than the markers' too.
const OPEN_TIME: i64 = 2_500_000_000_000;
/// Where partition 1 begins: within its first batch. A leader does not find a time in a segment that
/// lies below the start, and looks no further.
const START: i64 = 7;

#[test]
fn clients_learn_from_the_seat_what_a_broker_would_tell_them() {
    scenario("gateway", |workspace| {
        let source = ClusterSpec::new("source").without_retention().start_in(workspace)?;
        let destination = destination().start_in(workspace)?;
        fill(&source)?;
        // Nobody else may do anything.
        let rights = [Right::read("reader", TOPIC), Right::groups("reader")];
        give(&mut destination.any_judge()?, &rights)?;
        let daemon = DaemonSpec::new(&source, &destination, &[TOPIC]);
        let mut daemon = daemon.start_in(env!("CARGO_BIN_EXE_lockstep"), workspace)?;
        daemon.wait_ready()?;
        // The followers' connections prove themselves at a real broker, through the seat.
        wait_identical(&source, &destination, TOPIC, TOPIC, DEADLINE)?;
        let stage = Stage { source, destination, daemon };
        stage.wait_led()?;
        stage.times_are_those_of_the_source()?;
        stage.offsets_out_of_range_are_as_at_the_source()?;
        stage.old_fetches_bring_the_same_batches()?;
        stage.rights_are_the_real_brokers_word()?;
        stage.nobody_learns_anything_before_he_has_proved_himself()?;
        stage.an_ordinary_client_is_no_broker()?;
        stage.a_group_reads_through_the_proof()
    });
}

struct Stage {
    source: Cluster,
    destination: Cluster,
    daemon: Daemon,
}

fn destination() -> ClusterSpec {
    sasl::destination(&["reader", "stranger"]).property("super.users", "User:ANONYMOUS;User:broker")
}

/// Two partitions with ordinary records and with transactions, of which the last stays open and has
/// later records than all others. The second does not begin at 0.
fn fill(source: &Cluster) -> Result<()> {
    let any_age = NewTopic::new(TOPIC, 2).config("message.timestamp.after.max.ms", i64::MAX);
    source.create_topic(&any_age)?;
    let to = |partition: i32| {
        Produce::to(&source.bootstrap(), TOPIC)
            .option("partition", partition)
            .option("flush", 7)
            .option("producer.transaction.timeout.ms", 600_000)
    };
    let load = to(0)
        .count(200)
        .option("timestamp", TIME)
        .and(to(1).count(100).option("timestamp", TIME).option("transactions", "mix"))
        .and(to(1).count(30).option("timestamp", OPEN_TIME).option("transactions", "open"));
    load.run(source.dist())?;
    source.any_judge()?.delete_records(TOPIC, 1, START)?;
    Ok(())
}

impl Stage {
    fn wait_led(&self) -> Result<()> {
        eventually(DEADLINE, "both partitions led by the seat", || {
            for partition in 0..2 {
                let leader = self.destination.leader(TOPIC, partition)?;
                ensure!(leader == SEAT, "{TOPIC}-{partition} is led by {leader}");
            }
            Ok(())
        })
    }

    fn open(&self) -> Result<Judge> {
        Judge::connect(&self.daemon.seat_addresses()[0])
    }

    fn proven(&self, user: &str) -> Result<Judge> {
        Judge::connect(&self.daemon.seat_addresses()[1])?.authenticate(user, user)
    }

    fn real(&self, user: &str) -> Result<Judge> {
        let port = self.destination.node(1)?.port(LISTENERS[1]).context("a SASL listener")?;
        Judge::connect(&format!("127.0.0.1:{port}"))?.authenticate(user, user)
    }

    /// Every kind of time, at both isolations, at every version, on both listeners.
    fn times_are_those_of_the_source(&self) -> Result<()> {
        let within = [TIME - 1, TIME + 50, TIME + 99, OPEN_TIME + 20, OPEN_TIME + 25];
        let times: Vec<_> = (-5..=0).chain(within).chain([TIME * 2]).collect();
        let mut source = self.source.any_judge()?;
        for (listener, mut seat) in [("open", self.open()?), ("proven", self.proven("reader")?)] {
            for (version, partition) in (1..=10).flat_map(|version| [(version, 0), (version, 1)]) {
                for (&time, isolation) in times.iter().flat_map(|time| [(time, 0), (time, 1)]) {
                    let ask = |judge: &mut Judge| {
                        asks::offset_at(judge, version, TOPIC, partition, time, isolation)
                    };
                    let (expected, found) = (ask(&mut source)?, ask(&mut seat)?);
                    ensure!(
                        found == expected,
                        "{listener}, v{version}: {TOPIC}-{partition} at {time}, isolation \
                         {isolation}: {found:?}, at the source {expected:?}"
                    );
                }
            }
        }
        // With a transaction open the two isolations end differently, and so do times within it.
        for time in [-1, -3, OPEN_TIME + 25] {
            let [open, stable] =
                [0, 1].map(|isolation| offset_of(&mut source, TOPIC, 1, time, isolation));
            let (open, stable) = (open?, stable?);
            ensure!(open.0 == 0 && stable.2 < open.2, "at {time}: {open:?}, {stable:?}");
        }
        let start = offset_of(&mut source, TOPIC, 1, -2, 0)?;
        ensure!(start.2 == START, "{start:?}");
        Ok(())
    }

    /// Below the start and above the end: the same becomes of a consumer as at the source.
    fn offsets_out_of_range_are_as_at_the_source(&self) -> Result<()> {
        let offsets = [0, START - 1, 1_000];
        let of = |bootstrap: &str| resets(self.source.dist(), bootstrap, (TOPIC, 1), &offsets);
        let expected = of(&self.source.bootstrap())?;
        let found = of(&self.daemon.seat_addresses()[0])?;
        println!("out of range: {found:?}");
        ensure!(found == expected && found.len() == 9, "{found:?}, at the source {expected:?}");
        Ok(())
    }

    fn old_fetches_bring_the_same_batches(&self) -> Result<()> {
        for partition in 0..2 {
            let expected = open_leader(&self.source, TOPIC, partition)?.rest()?;
            for version in 4..=10 {
                for mut seat in [self.open()?, self.proven("reader")?] {
                    let mut found: Vec<Batch> = Vec::new();
                    let start = if partition == 1 { START } else { 0 };
                    while found.last().map_or(start, Batch::next_offset)
                        < expected.last().map_or(0, Batch::next_offset)
                    {
                        let at = found.last().map_or(start, Batch::next_offset);
                        let more = asks::old_fetch(&mut seat, version, TOPIC, partition, at)?;
                        ensure!(!more.is_empty(), "v{version}: nothing at {at}");
                        found.extend(more);
                    }
                    let same = found.iter().zip(&expected).all(|(a, b)| a.same_but_for_epoch(b));
                    ensure!(found.len() == expected.len() && same, "v{version} differs");
                }
            }
        }
        Ok(())
    }

    /// Each request that we answer ourselves, from three users: the codes of the seat are those of a
    /// real broker that does not lead, but where the seat serves what only a leader can.
    fn rights_are_the_real_brokers_word(&self) -> Result<()> {
        let id = self.destination.any_judge()?.topic_id(TOPIC)?;
        for user in ["stranger", "reader"] {
            let subject = Subject { topic: TOPIC, id, unknown: "nowhere" };
            let real = subject.codes(&mut self.real(user)?, 1)?;
            let seat = subject.codes(&mut self.proven(user)?, SEAT)?;
            for ((what, real), (_, seat)) in real.iter().zip(&seat) {
                // What a follower sends to its leader, the leader serves or refuses as a mirror's.
                let as_leader = *real == 6 && [0, 44].contains(seat);
                ensure!(real == seat || as_leader, "{user}, {what}: {seat}, a broker {real}");
            }
            let refused = seat.iter().filter(|(_, code)| [29, 31].contains(code)).count();
            println!("{user}: {seat:?}");
            ensure!(refused >= if user == "stranger" { 8 } else { 4 }, "{user}: {seat:?}");
        }
        Ok(())
    }

    fn nobody_learns_anything_before_he_has_proved_himself(&self) -> Result<()> {
        let seat = &self.daemon.seat_addresses()[1];
        let wrong = Judge::connect(seat)?.authenticate("reader", "guessed");
        ensure!(wrong.is_err(), "a wrong password passed");
        let mut silent = Judge::connect(seat)?;
        let answer = offset_of(&mut silent, TOPIC, 0, -1, 0);
        ensure!(answer.is_err(), "answered without proof: {answer:?}");
        Ok(())
    }

    fn an_ordinary_client_is_no_broker(&self) -> Result<()> {
        let before = self.daemon.mirror(TOPIC)?;
        let mut real = self.destination.any_judge()?;
        let id = real.topic_id(TOPIC)?;
        let end = real.partition(TOPIC, 0)?;
        for listener in ["open", "proven"] {
            for ask in 0..3 {
                let mut seat =
                    if listener == "open" { self.open()? } else { self.proven("reader")? };
                let answer = asks::pose(&mut seat, ask, 2, id, TOPIC);
                ensure!(answer.is_err(), "{listener}: broker 2 is answered: {answer:?}");
            }
        }
        // Not even one that may do everything, under another registration than the broker's.
        let mut broker = self.proven("broker")?;
        let answer = asks::pose(&mut broker, 0, 2, id, TOPIC)?;
        ensure!(answer == 77, "another registration of broker 2 is answered {answer}");
        let after = self.daemon.mirror(TOPIC)?;
        let watermarks = |mirror: &serde_json::Value| {
            let partitions = mirror["partitions"].as_array().cloned().unwrap_or_default();
            partitions.iter().map(|p| p["high_watermark"].clone()).collect::<Vec<_>>()
        };
        ensure!(watermarks(&before) == watermarks(&after), "{before} {after}");
        let now = real.partition(TOPIC, 0)?;
        ensure!(now.in_sync == end.in_sync && now.leader == SEAT, "{end:?} {now:?}");
        Ok(())
    }

    fn a_group_reads_through_the_proof(&self) -> Result<()> {
        let read = |bootstrap: &str| {
            Consume::from(bootstrap, &[TOPIC]).option("isolation", "read_uncommitted")
        };
        let expected = read(&self.source.bootstrap()).run(self.source.dist())?;
        let through_seat = read(&self.daemon.seat_addresses()[1]);
        let found = login(through_seat, "PLAIN", "reader", "reader")
            .option("group", "through-the-seat")
            .option("count", expected.len())
            .run(self.destination.dist())?;
        ensure!(found == expected, "{} of {} records", found.len(), expected.len());
        Ok(())
    }
}
