//! Which brokers clients of the seat end up at, where not every broker holds every partition and each
//! is in a rack of its own; and where they go when one of them dies or hangs.

mod reads;

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use kafka_protocol::messages::FetchRequest;

use self::reads::{Copy, Topic};
use crate::support::cluster::Cluster;
use crate::support::compare::wait_identical;
use crate::support::daemon::{Daemon, DaemonSpec, SEAT};
use crate::support::java::{Background, Consume, Produce};
use crate::support::judge::produce::plain_batch;
use crate::support::judge::{Judge, NewTopic};
use crate::support::{ClusterSpec, eventually, scenario};

const DEADLINE: Duration = Duration::from_secs(60);
const TOPIC: &str = "orders";
const PARTITIONS: i32 = 6;
const BROKERS: [i32; 3] = [1, 2, 3];
/// Of each broker.
const RACKS: [&str; 3] = ["a", "b", "c"];
/// Client connections behind the brokers.
const CLIENTS: usize = 6;
/// What a client may have to wait behind a broker that hangs: the session, and what is around it.
const LEFT_WITHIN: Duration = Duration::from_secs(15);

#[test]
fn clients_reach_their_partitions_wherever_they_lie_and_leave_brokers_that_fail() {
    scenario("routes", |workspace| {
        let source = ClusterSpec::new("source").without_retention().start_in(workspace)?;
        let mut destination = ClusterSpec::new("destination").brokers(3);
        for (id, rack) in BROKERS.into_iter().zip(RACKS) {
            destination = destination.broker_property(id, "broker.rack", rack);
        }
        let destination = destination.start_in(workspace)?;
        fill(&source)?;
        let daemon = DaemonSpec::new(&source, &destination, &[TOPIC])
            .line("link.topics", "replication_factor = 2")
            .start_in(env!("CARGO_BIN_EXE_lockstep"), workspace)?;
        let mut stage = Stage::new(source, destination, daemon)?;
        stage.consumers_are_sent_into_their_rack_and_evenly()?;
        stage.whoever_insists_on_the_leader_reads_all()?;
        stage.old_fetches_read_all_with_what_was_aborted()?;
        stage.clients_leave_brokers_that_fail()
    });
}

struct Stage {
    source: Cluster,
    destination: Cluster,
    daemon: Daemon,
    topic: Topic,
    /// Which real brokers hold each partition.
    holders: BTreeMap<i32, BTreeSet<i32>>,
    /// How many records a consumer reads.
    records: usize,
}

/// What is in each partition comes in many batches; one has transactions, every other one aborted.
fn fill(source: &Cluster) -> Result<()> {
    source.create_topic(&NewTopic::new(TOPIC, PARTITIONS))?;
    let to = |partition: i32| {
        let load = Produce::to(&source.bootstrap(), TOPIC).option("partition", partition);
        load.option("flush", 5).option("timestamp", 1_700_000_000_000i64)
    };
    let plain = (1..PARTITIONS).map(|partition| to(partition).count(60));
    let load = plain.fold(to(0).count(60).option("transactions", "mix"), Produce::and);
    load.run(source.dist())?;
    Ok(())
}

impl Stage {
    fn new(source: Cluster, destination: Cluster, mut daemon: Daemon) -> Result<Self> {
        daemon.wait_ready()?;
        wait_identical(&source, &destination, TOPIC, TOPIC, DEADLINE)?;
        let id = destination.any_judge()?.topic_id(TOPIC)?;
        let topic = Topic { name: TOPIC, id };
        let mut stage =
            Self { source, destination, daemon, topic, holders: BTreeMap::new(), records: 0 };
        stage.wait_led()?;
        let held_by = stage.holders.values().flatten().fold(BTreeMap::new(), |mut held, id| {
            *held.entry(*id).or_insert(0) += 1;
            held
        });
        ensure!(held_by == BROKERS.map(|id| (id, 4)).into(), "{:?}", stage.holders);
        Ok(stage)
    }

    /// All replicas in sync, the seat among them and leading.
    fn wait_led(&mut self) -> Result<()> {
        self.holders = eventually(DEADLINE, "all partitions led by the seat", || {
            let found = self.destination.any_judge()?.topic(TOPIC)?.partitions;
            let is_whole = |p: &crate::support::judge::admin::Partition| {
                p.leader == SEAT && p.replicas.len() == 3 && p.in_sync.len() == 3
            };
            ensure!(found.values().all(is_whole), "{found:?}");
            let real = |ids: &[i32]| ids.iter().copied().filter(|id| *id != SEAT).collect();
            Ok(found.iter().map(|(&partition, p)| (partition, real(&p.in_sync))).collect())
        })?;
        Ok(())
    }

    fn client(&self) -> Result<Judge> {
        Judge::connect(&self.daemon.seat_address())
    }

    /// Where a consumer in this rack, with a connection of its own, is sent for each partition.
    fn sent_to(&self, rack: &str) -> Result<BTreeMap<i32, i32>> {
        let all: Vec<_> = (0..PARTITIONS).collect();
        self.topic.sent_to(&mut self.client()?, &all, rack)
    }

    fn consumers_are_sent_into_their_rack_and_evenly(&mut self) -> Result<()> {
        for (near, rack) in BROKERS.into_iter().zip(RACKS) {
            for (partition, to) in self.sent_to(rack)? {
                let holders = &self.holders[&partition];
                let is_right = to == near || !holders.contains(&near);
                ensure!(is_right && holders.contains(&to), "rack {rack}: {partition} at {to}");
            }
        }
        for rack in ["", "elsewhere"] {
            let sent = self.sent_to(rack)?;
            let spread = BROKERS.map(|id| sent.values().filter(|to| **to == id).count());
            ensure!(spread == [2, 2, 2], "rack {rack:?}: {sent:?} of {:?}", self.holders);
        }
        let expected = self.java(&self.source.bootstrap()).run(self.source.dist())?;
        self.records = expected.len();
        for rack in [None, Some("b")] {
            let reader = self.java(&self.daemon.seat_address());
            let reader = match rack {
                Some(rack) => reader.option("consumer.client.rack", rack),
                None => reader,
            };
            let found = reader.run(self.destination.dist())?;
            ensure!(found == expected, "{} of {} records", found.len(), expected.len());
        }
        Ok(())
    }

    fn java(&self, bootstrap: &str) -> Consume {
        Consume::from(bootstrap, &[TOPIC]).option("isolation", "read_committed")
    }

    fn expected(&self) -> Result<BTreeMap<i32, Copy>> {
        let mut judge = self.source.any_judge()?;
        let topic = Topic { name: TOPIC, id: judge.topic_id(TOPIC)? };
        let mut ends = BTreeMap::new();
        for partition in 0..PARTITIONS {
            ends.insert(partition, judge.bounds(TOPIC, partition)?.high_watermark);
        }
        let version = judge.version::<FetchRequest>()?;
        topic.read(&mut judge, version, &ends)
    }

    /// Over one connection that asks for one partition or for all of them at once.
    fn reads_all(&self, version: i16, expected: &BTreeMap<i32, Copy>) -> Result<()> {
        let ends: BTreeMap<_, _> = expected
            .iter()
            .filter_map(|(&partition, copy)| Some((partition, copy.batches.last()?.next_offset())))
            .collect();
        let alone = ends.iter().map(|(&partition, &end)| BTreeMap::from([(partition, end)]));
        for wanted in alone.chain([ends.clone()]) {
            let start = Instant::now();
            let found = self.topic.read(&mut self.client()?, version, &wanted)?;
            for (partition, copy) in &found {
                let same = copy.expect_same(&expected[partition]);
                same.with_context(|| format!("v{version}, partition {partition}"))?;
            }
            println!("v{version}, {} at once: {:?}", wanted.len(), start.elapsed());
        }
        Ok(())
    }

    fn whoever_insists_on_the_leader_reads_all(&self) -> Result<()> {
        let expected = self.expected()?;
        let newest = self.client()?.version::<FetchRequest>()?;
        for version in [11, 12, newest] {
            self.reads_all(version, &expected)?;
        }
        Ok(())
    }

    fn old_fetches_read_all_with_what_was_aborted(&self) -> Result<()> {
        let expected = self.expected()?;
        ensure!(expected[&0].aborted.len() > 2, "{:?}", expected[&0].aborted);
        for version in [4, 8, 10] {
            self.reads_all(version, &expected)?;
        }
        Ok(())
    }

    /// One that is killed, and after its return one that hangs. Neither is the active controller, so
    /// that the times are the gateway's and the session's.
    fn clients_leave_brokers_that_fail(&mut self) -> Result<()> {
        let controller = self.destination.any_judge()?.active_controller()?;
        let mut victims = BROKERS.into_iter().filter(|id| *id != controller);
        let (killed, hung) = victims.next().zip(victims.next()).context("two victims")?;
        let reader = self
            .java(&self.daemon.seat_address())
            .option("until", "stopped")
            .option("consumer.client.rack", RACKS[killed as usize - 1])
            .option("consumer.request.timeout.ms", 6000)
            .start(self.destination.dist())?;
        self.wait_read(&reader)?;
        let mut clients = self.clients()?;

        self.destination.kill(killed)?;
        self.left_by_all(killed, "killed", &mut clients)?;
        self.reads_on(&reader, "killed")?;
        self.destination.start_again(killed)?;
        self.named_again(killed, "killed")?;

        drop(clients);
        let mut clients = self.clients()?;
        self.destination.pause(hung)?;
        self.left_by_all(hung, "hung", &mut clients)?;
        self.reads_on(&reader, "hung")?;
        self.destination.resume(hung)?;
        self.named_again(hung, "hung")?;
        reader.stop()?.success()?;
        Ok(())
    }

    /// Connections with a broker behind each of them.
    fn clients(&self) -> Result<Vec<Judge>> {
        (0..CLIENTS).map(|_| self.client()).collect()
    }

    /// New clients, those that were behind the broker, and consumers.
    fn left_by_all(&self, broker: i32, how: &str, clients: &mut [Judge]) -> Result<()> {
        let failed = Instant::now();
        for _ in 0..CLIENTS {
            self.client()?.metadata(Some(&[]))?;
        }
        println!("{how}: {CLIENTS} new clients were served after {:?}", failed.elapsed());
        ensure!(failed.elapsed() < Duration::from_secs(6), "new clients had to wait");
        eventually(DEADLINE, "nobody being sent to a dead broker", || {
            let sent = self.sent_to(RACKS[broker as usize - 1])?;
            ensure!(!sent.values().any(|to| *to == broker), "{sent:?}");
            Ok(())
        })?;
        println!("{how}: consumers were sent elsewhere after {:?}", failed.elapsed());
        ensure!(failed.elapsed() < Duration::from_secs(7), "consumers had to wait");
        let mut left = 0;
        for client in clients {
            if client.metadata(Some(&[])).is_err() {
                left += 1;
                *client = self.client()?;
                client.metadata(Some(&[]))?;
            }
            let sent = self.sent_to("")?;
            ensure!(!sent.values().any(|to| *to == broker), "named again: {sent:?}");
        }
        println!("{how}: {left} of {CLIENTS} clients were cut off within {:?}", failed.elapsed());
        ensure!(left > 0 && failed.elapsed() < LEFT_WITHIN, "{left} clients");
        Ok(())
    }

    fn named_again(&mut self, broker: i32, how: &str) -> Result<()> {
        let back = Instant::now();
        self.wait_led()?;
        eventually(DEADLINE, "consumers being sent to a broker that is back", || {
            let sent = self.sent_to(RACKS[broker as usize - 1])?;
            ensure!(sent.values().any(|to| *to == broker), "{sent:?}");
            Ok(())
        })?;
        println!("{how}: named again {:?} after it was started", back.elapsed());
        Ok(())
    }

    /// A record more in each partition comes to a consumer in the rack of the first that fails.
    fn reads_on(&mut self, reader: &Background, how: &str) -> Result<()> {
        let start = Instant::now();
        for partition in 0..PARTITIONS {
            let batch = plain_batch(&[how.as_bytes()], 1_700_000_000_000);
            let answer = self.source.any_judge()?.produce(TOPIC, partition, -1, batch)?;
            ensure!(answer.error_code == 0, "{answer:?}");
            self.records += 1;
        }
        self.wait_read(reader)?;
        println!("{how}: a consumer had all after {:?}", start.elapsed());
        Ok(())
    }

    fn wait_read(&self, reader: &Background) -> Result<()> {
        eventually(DEADLINE, "all records at a consumer", || {
            let (read, all) = (reader.lines()?.len(), self.records);
            ensure!(read == all, "{read} of {all}: {}", reader.complaints()?);
            Ok(())
        })
    }
}
