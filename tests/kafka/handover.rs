//! Leadership that goes to others and comes back, as clients see it that are in the middle of reading,
//! or begin meanwhile: the daemon is killed and returns, another seat takes over, a topic is made anew,
//! real brokers take the mirror for good while the daemon lives on.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::gateway::asks::{self, Subject};
use crate::support::cluster::Cluster;
use crate::support::daemon::{Daemon, DaemonSpec};
use crate::support::java::{Background, Consume, Produce, sent};
use crate::support::judge::admin::{Partition, TOPIC as CONFIGS_OF_TOPIC};
use crate::support::judge::produce::plain_batch;
use crate::support::judge::{Judge, NewTopic};
use crate::support::load::Load;
use crate::support::workspace::Workspace;
use crate::support::{ClusterSpec, eventually, scenario};

const DEADLINE: Duration = Duration::from_secs(60);
/// Until a client that meets another leader than it knew goes on.
const GOES_ON: Duration = Duration::from_secs(5);
/// A dead seat is missed after 9 s; until then nobody leads.
const MISSED: Duration = Duration::from_secs(9);
/// Another JVM, on a machine that does much else.
const BEGINS: Duration = Duration::from_secs(10);
const BINARY: &str = env!("CARGO_BIN_EXE_lockstep");
const ONE: i32 = 9001;
const TWO: i32 = 9002;
const TOPIC: &str = "orders";
const PARTITIONS: i32 = 2;
/// A mirror of one partition that nobody reads.
const SHORT: &str = "short";

#[test]
fn clients_go_on_whoever_leads() {
    scenario("handover", |workspace| {
        let mut story = Story::start(workspace)?;
        story.some_begin_while_the_daemon_is_dead()?;
        story.another_seat_takes_over()?;
        story.a_topic_is_made_anew()?;
        story.real_brokers_lead_for_good()?;
        story.producers_go_on_where_the_mirror_was_promoted()?;
        story.end()
    });
}

struct Story {
    _source: Cluster,
    destination: Cluster,
    one: Daemon,
    two: Daemon,
    load: Load,
    readers: Vec<Background>,
    producer: Option<Background>,
}

impl Story {
    fn start(workspace: &Workspace) -> Result<Self> {
        let source = ClusterSpec::new("source").heap_mb(384).without_retention();
        let source = source.start_in(workspace)?;
        let destination = ClusterSpec::new("destination").brokers(2).start_in(workspace)?;
        source.create_topic(&NewTopic::new(TOPIC, PARTITIONS))?;
        source.create_topic(&NewTopic::new(SHORT, 1))?;
        let batch = plain_batch(&[b"one", b"two"], 1_700_000_000_000);
        let answer = source.any_judge()?.produce(SHORT, 0, -1, batch)?;
        ensure!(answer.error_code == 0, "{answer:?}");
        let load = Load::start(&source, TOPIC, PARTITIONS, 10)?;
        let daemon = |id: i32| {
            DaemonSpec::new(&source, &destination, &[TOPIC, SHORT])
                .name(&format!("daemon-{id}"))
                .broker_id(id)
                .prepare_in(BINARY, workspace)
        };
        let (mut one, two) = (daemon(ONE)?, daemon(TWO)?);
        one.start_again()?;
        one.wait_ready()?;
        let (readers, producer) = (Vec::new(), None);
        let mut story = Self { _source: source, destination, one, two, load, readers, producer };
        story.wait_led(|now| now.leader == ONE)?;
        story.a_reader_begins()?;
        story.wait_read("the first reader", DEADLINE)?;
        Ok(story)
    }

    fn some_begin_while_the_daemon_is_dead(&mut self) -> Result<()> {
        self.one.kill()?;
        let killed = Instant::now();
        let asked = self.asked(0)?;
        self.a_reader_begins()?;
        let alone = self.consume().start(self.destination.dist())?;
        eventually(MISSED + GOES_ON, "the first reader to hear from a leader", || {
            ensure!(self.asked(0)? > asked, "not yet");
            Ok(())
        })?;
        println!("a reader that reads goes on {:?} after a kill", killed.elapsed());
        eventually(MISSED + BEGINS, "a new member that reads", || {
            ensure!(!self.positions(&self.readers[1..])?.is_empty(), "not yet");
            Ok(())
        })?;
        println!("a member that joins reads {:?} after a kill", killed.elapsed());
        let alone = alone.wait(MISSED + BEGINS)?.success()?;
        println!("a reader that begins has read all {:?} after a kill", killed.elapsed());
        let ends: i64 = self.ends()?.iter().sum();
        let read = i64::try_from(alone.stdout.lines().count())?;
        ensure!(read == ends, "{read} of {ends} records");
        self.wait_read("the members", GOES_ON)?;

        self.one.start_again()?;
        self.one.wait_ready()?;
        self.wait_led(|now| now.leader == ONE)?;
        self.wait_goes_on("the daemon is back")
    }

    fn another_seat_takes_over(&mut self) -> Result<()> {
        self.two.start_again()?;
        self.two.wait_ready()?;
        self.wait_led(|now| {
            let are_in_sync = [ONE, TWO].iter().all(|seat| now.in_sync.contains(seat));
            are_in_sync && now.leader == now.replicas[0]
        })?;
        self.wait_goes_on("a second seat leads its share")?;
        ensure!(self.one.stop()? == 0, "a bad end");
        self.wait_led(|now| now.leader == TWO)?;
        self.wait_goes_on("the second seat leads all")
    }

    /// Requests with the old id, and with the name while there is nothing of that name.
    fn a_topic_is_made_anew(&self) -> Result<()> {
        let before = self.destination.any_judge()?.topic_id(SHORT)?;
        self.destination.any_judge()?.delete_topic(SHORT)?;
        let mut seat = self.at_two()?;
        eventually(GOES_ON, "the old id to be unknown", || {
            let old = asks::fetch_by_id(&mut seat, before)?.code;
            ensure!(old == 100, "{old}");
            Ok(())
        })?;
        let mut codes = Vec::new();
        eventually(DEADLINE, "the topic under another id", || {
            let (code, _, end) = asks::offset_of(&mut seat, SHORT, 0, -1, 0)?;
            codes.push(code);
            ensure!((code, end) == (0, 2), "error {code}, end {end}");
            Ok(())
        })?;
        codes.dedup();
        println!("a topic that is made anew, by its name: {codes:?}");
        ensure!(codes.iter().all(|code| [0, 3, 6].contains(code)), "{codes:?}");
        let after = self.destination.any_judge()?.topic_id(SHORT)?;
        let found = asks::fetch_by_id(&mut seat, after)?.code;
        ensure!(before != after && found == 0, "{before} {after}: error {found}");
        Ok(())
    }

    /// As an operator promotes by hand: the seats are no replicas any more. The daemon lives on, and
    /// says what a broker says that has no replica either.
    fn real_brokers_lead_for_good(&mut self) -> Result<()> {
        self.a_producer_begins()?;
        self.destination.any_judge()?.reassign(SHORT, 0, &[1])?;
        for partition in 0..PARTITIONS {
            self.destination.any_judge()?.reassign(TOPIC, partition, &[1, 2])?;
        }
        let asked = [self.asked(0)?, self.asked(1)?];
        let moved = Instant::now();
        eventually(GOES_ON, "readers to hear from real leaders", || {
            ensure!(self.asked(0)? > asked[0] + 1 && self.asked(1)? > asked[1] + 1, "not yet");
            Ok(())
        })?;
        println!("readers heard from real leaders {:?} after the promotion", moved.elapsed());
        self.wait_led(|now| [1, 2].contains(&now.leader))?;
        self.wait_read("what was copied", GOES_ON)?;
        self.seat_is_as_a_broker_without_a_replica()
    }

    fn seat_is_as_a_broker_without_a_replica(&self) -> Result<()> {
        let (mut seat, mut broker) = (self.at_two()?, self.destination.judge(2)?);
        let id = broker.topic_id(SHORT)?;
        let subject = Subject { topic: SHORT, id, unknown: "nowhere" };
        eventually(GOES_ON, "the codes of a broker without a replica", || {
            let seat = subject.codes_of_topic(&mut seat)?;
            let mut broker = subject.codes_of_topic(&mut broker)?;
            // A broker that holds no replica says 3 to a coordinator, one that does says 6; either way
            // the markers go to the leader.
            if let Some(("WriteTxnMarkers", code @ 3)) = broker.last_mut() {
                *code = 6;
            }
            ensure!(seat == broker, "{seat:?}, a broker {broker:?}");
            println!("not led: {seat:?}");
            Ok(())
        })?;
        let told = asks::fetch_by_id(&mut seat, id)?;
        let expected = asks::fetch_by_id(&mut broker, id)?;
        ensure!(told == expected && told.leader.0 == 1, "{told:?}, a broker {expected:?}");
        Ok(())
    }

    /// One that wrote to the mirror in vain is refused by the lock for a moment, then it is heard.
    fn producers_go_on_where_the_mirror_was_promoted(&mut self) -> Result<()> {
        let ends_with = |word: &'static str| {
            eventually(GOES_ON, format!("a producer that hears {word}"), || {
                let last = self.fates()?.pop().context("nothing was sent")?;
                ensure!(last.contains(word), "{last}");
                Ok(())
            })
        };
        ends_with("RecordTooLarge")?;
        let mut real = self.destination.any_judge()?;
        real.alter_config(CONFIGS_OF_TOPIC, TOPIC, "max.message.bytes", None)?;
        let unlocked = Instant::now();
        ends_with("written")?;
        println!("a producer writes {:?} after the unlocking", unlocked.elapsed());
        let mut fates = self.fates()?;
        fates.dedup();
        println!("a producer that went on: {fates:?}");
        ensure!(fates.len() == 3 && fates[0].contains("PolicyViolation"), "{fates:?}");
        self.wait_read("what was produced", GOES_ON)
    }

    fn a_producer_begins(&mut self) -> Result<()> {
        // Without idempotence: its id could be one that the copy knows.
        let producer = Produce::to(&self.two.seat_address(), TOPIC).count(0);
        let producer = producer.option("partition", 0).option("rate", 5);
        self.producer = Some(producer.start(self.destination.dist())?);
        eventually(BEGINS, "a producer that is refused", || {
            ensure!(!self.fates()?.is_empty(), "not yet");
            Ok(())
        })
    }

    /// The error of each record, in the order sent, or "written".
    fn fates(&self) -> Result<Vec<String>> {
        let lines = self.producer.as_ref().context("a producer")?.lines()?;
        let fates = sent(&lines.join("\n"))?.into_iter().map(|one| one.error);
        Ok(fates.map(|error| error.unwrap_or_else(|| "written".to_owned())).collect())
    }

    fn end(self) -> Result<()> {
        self.load.stop()?;
        // Some of its records were refused.
        drop(self.producer);
        for reader in self.readers {
            reader.stop()?.success()?;
        }
        Ok(())
    }

    fn consume(&self) -> Consume {
        let servers = format!("{},{}", self.one.seat_address(), self.destination.bootstrap());
        Consume::from(&servers, &[TOPIC])
    }

    /// One more member of the group, that asks the leaders again and again while it reads.
    fn a_reader_begins(&mut self) -> Result<()> {
        let reader = self.consume().option("group", "readers").option("until", "stopped");
        self.readers.push(reader.option("ask", 200).start(self.destination.dist())?);
        Ok(())
    }

    fn at_two(&self) -> Result<Judge> {
        Judge::connect(&self.two.seat_address())
    }

    /// How often a reader was answered by the leaders.
    fn asked(&self, reader: usize) -> Result<usize> {
        let lines = self.readers[reader].lines()?;
        Ok(lines.iter().filter(|line| line.starts_with("asked")).count())
    }

    /// Up to where each partition was read, by one of the readers.
    fn positions(&self, readers: &[Background]) -> Result<BTreeMap<i32, i64>> {
        let mut positions = BTreeMap::new();
        for reader in readers {
            for line in reader.lines()?.iter().filter(|line| line.starts_with(TOPIC)) {
                let mut words = line.split(' ').skip(1);
                let partition = words.next().context("a partition")?.parse()?;
                let offset: i64 = words.next().context("an offset")?.parse()?;
                let position = positions.entry(partition).or_insert(0);
                *position = (*position).max(offset + 1);
            }
        }
        Ok(positions)
    }

    /// Up to where each partition of the mirror can be read.
    fn ends(&self) -> Result<Vec<i64>> {
        let mut judge = self.destination.judge(1)?;
        (0..PARTITIONS).map(|one| Ok(judge.bounds(TOPIC, one)?.high_watermark)).collect()
    }

    /// Waits until all that can be read now was read.
    fn wait_read(&self, what: &str, deadline: Duration) -> Result<()> {
        let ends = self.ends()?;
        eventually(deadline, format!("{what} to reach {ends:?}"), || {
            let found = self.positions(&self.readers)?;
            let is_read = (0..)
                .zip(&ends)
                .all(|(number, end)| found.get(&number).is_some_and(|at| at >= end));
            ensure!(is_read, "{found:?}");
            Ok(())
        })
    }

    /// Waits until the mirror goes on, and its readers then too.
    fn wait_goes_on(&self, what: &str) -> Result<()> {
        let before = self.ends()?;
        eventually(DEADLINE, format!("more of the source: {what}"), || {
            let now = self.ends()?;
            ensure!(before.iter().zip(&now).all(|(before, now)| now > before), "{now:?}");
            Ok(())
        })?;
        let copied = Instant::now();
        let asked = [self.asked(0)?, self.asked(1)?];
        self.wait_read(what, GOES_ON)?;
        eventually(GOES_ON, format!("readers to hear from leaders: {what}"), || {
            ensure!(self.asked(0)? > asked[0] && self.asked(1)? > asked[1], "not yet");
            Ok(())
        })?;
        println!("{what}: read on within {:?}", copied.elapsed());
        Ok(())
    }

    fn wait_led(&self, is_wanted: impl Fn(&Partition) -> bool) -> Result<()> {
        eventually(DEADLINE, "other leaders", || {
            for number in 0..PARTITIONS {
                let now = self.destination.any_judge()?.partition(TOPIC, number)?;
                ensure!(is_wanted(&now), "{TOPIC}-{number} has {now:?}");
            }
            Ok(())
        })
    }
}
