//! The frame of most stories: two clusters and the daemons between them, a topic that a producer
//! fills without rest, and somebody who looks at each copy of it meanwhile.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::cluster::Cluster;
use super::compare::wait_identical;
use super::daemon::Daemon;
use super::eventually::eventually;
use super::judge::NewTopic;
use super::judge::admin::Partition;
use super::load::Load;
use super::watch::{Seen, Watch};

/// The topic that is mirrored.
pub const TOPIC: &str = "orders";
/// For what should take seconds, on a machine that does much else; a killed broker or seat is
/// missed after 9 s.
pub const DEADLINE: Duration = Duration::from_secs(120);
/// Broker ids from here on are seats.
const FIRST_SEAT: i32 = 9000;
/// Records of each partition that have to pass before things count as working.
const PASSED: i64 = 75;

/// How much is produced.
#[derive(Clone, Copy, Debug)]
pub struct Flow {
    /// Partitions of the topic.
    pub partitions: i32,
    /// Batches of ten small records, over all partitions.
    pub batches_a_second: u32,
}

/// The two clusters and all between them.
pub struct Pair {
    /// Where the producer writes.
    pub source: Cluster,
    /// Where the mirror is.
    pub destination: Cluster,
    /// By broker id.
    pub daemons: BTreeMap<i32, Daemon>,
    /// Looks at all copies, and tries to write to them.
    pub watch: Watch,
    load: Load,
    partitions: i32,
}

/// What is left when the story is told.
pub struct Told {
    /// The source.
    pub source: Cluster,
    /// The destination.
    pub destination: Cluster,
    /// By broker id.
    pub daemons: BTreeMap<i32, Daemon>,
    /// Records that the source acknowledged.
    pub sent: usize,
    /// What was looked at.
    pub seen: Seen,
}

impl Pair {
    /// Makes the topic and the load, starts the first of the daemons, and waits until it leads and
    /// copies.
    pub fn start(
        source: Cluster,
        destination: Cluster,
        daemons: impl IntoIterator<Item = Daemon>,
        flow: Flow,
    ) -> Result<Self> {
        let Flow { partitions, batches_a_second } = flow;
        source.create_topic(&NewTopic::new(TOPIC, partitions))?;
        let load = Load::start(&source, TOPIC, partitions, batches_a_second)?;
        let daemons = daemons.into_iter().map(|daemon| (daemon.broker_id(), daemon));
        let mut daemons: BTreeMap<_, _> = daemons.collect();
        let (first, daemon) = daemons.iter_mut().next().context("a pair without daemons")?;
        let first = *first;
        daemon.start_again()?;
        daemon.wait_ready()?;
        let watch = Watch::over(&source, &destination)?.topic(TOPIC);
        let watch = daemons.values().fold(watch, |watch, daemon| watch.seat(daemon)).start()?;
        let pair = Self { source, destination, daemons, watch, load, partitions };
        pair.wait_led_by(first)?;
        pair.wait_passed()?;
        Ok(pair)
    }

    /// The first of the daemons.
    pub fn daemon(&mut self) -> Result<&mut Daemon> {
        self.daemons.values_mut().next().context("a pair without daemons")
    }

    /// The daemon of that seat.
    pub fn seat(&mut self, id: i32) -> Result<&mut Daemon> {
        self.daemons.get_mut(&id).with_context(|| format!("no daemon is seat {id}"))
    }

    /// One partition of the mirror.
    pub fn partition(&self, number: i32) -> Result<Partition> {
        self.destination.any_judge()?.partition(TOPIC, number)
    }

    /// All partitions of the mirror, in order.
    pub fn partitions(&self) -> Result<Vec<Partition>> {
        let found = self.destination.any_judge()?.topic(TOPIC)?.partitions;
        ensure!(found.len() == usize::try_from(self.partitions)?, "{found:?}");
        Ok(found.into_values().collect())
    }

    /// Waits until all partitions of the mirror are as wanted.
    pub fn wait_partitions(
        &self,
        deadline: Duration,
        what: &str,
        is_wanted: impl Fn(&Partition) -> bool,
    ) -> Result<()> {
        eventually(deadline, what, || {
            for (number, now) in self.partitions()?.iter().enumerate() {
                ensure!(is_wanted(now), "{TOPIC}-{number} has {now:?}");
            }
            Ok(())
        })
    }

    /// Waits until the seat leads all partitions.
    pub fn wait_led_by(&self, seat: i32) -> Result<()> {
        self.wait_partitions(DEADLINE, &format!("{seat} to lead"), |now| now.leader == seat)
    }

    /// Waits until these are the real replicas in sync.
    pub fn wait_in_sync(&self, real: &[i32]) -> Result<()> {
        self.wait_partitions(DEADLINE, &format!("{real:?} in sync"), |now| {
            now.in_sync.iter().filter(|id| **id < FIRST_SEAT).eq(real)
        })
    }

    /// Waits until much more is readable than the source has now.
    pub fn wait_passed(&self) -> Result<()> {
        self.wait_passed_within(DEADLINE)
    }

    /// The same in the given time. Each partition has to go on by itself.
    pub fn wait_passed_within(&self, deadline: Duration) -> Result<()> {
        let wanted: Vec<_> = self.source_ends()?.into_iter().map(|end| end + PASSED).collect();
        eventually(deadline, format!("the mirror to reach {wanted:?}; {}", self.urls()), || {
            let found = self.mirror_ends()?;
            let is_there = found.iter().zip(&wanted).all(|(found, wanted)| found >= wanted);
            ensure!(is_there, "it ends at {found:?}");
            Ok(())
        })
    }

    /// Waits until so many records more than now are readable.
    pub fn wait_more(&self, what: &str, records: i64, deadline: Duration) -> Result<()> {
        self.wait_reached(what, self.mirror_end().unwrap_or(0) + records, deadline)
    }

    /// Waits until consumers of the mirror can read up to that offset, all partitions together.
    pub fn wait_reached(&self, what: &str, wanted: i64, deadline: Duration) -> Result<()> {
        let what = format!("{what}: the mirror to reach {wanted}; {}", self.urls());
        eventually(deadline, what, || {
            let found = self.mirror_end()?;
            ensure!(found >= wanted, "it ends at {found}");
            Ok(())
        })
    }

    /// Waits until a good deal at the source waits to be copied.
    pub fn wait_waiting(&self) -> Result<()> {
        let wanted = self.source_end()? + i64::from(self.partitions) * PASSED;
        eventually(DEADLINE, format!("the source to reach offset {wanted}"), || {
            let found = self.source_end()?;
            ensure!(found >= wanted, "it ends at {found}");
            Ok(())
        })
    }

    /// Offset up to which consumers of the mirror can read, all partitions together.
    pub fn mirror_end(&self) -> Result<i64> {
        Ok(self.mirror_ends()?.into_iter().sum())
    }

    fn mirror_ends(&self) -> Result<Vec<i64>> {
        let mut judge = self.destination.any_judge()?;
        (0..self.partitions).map(|p| Ok(judge.bounds(TOPIC, p)?.high_watermark)).collect()
    }

    /// End of the source, all partitions together.
    pub fn source_end(&self) -> Result<i64> {
        Ok(self.source_ends()?.into_iter().sum())
    }

    fn source_ends(&self) -> Result<Vec<i64>> {
        let mut judge = self.source.any_judge()?;
        (0..self.partitions).map(|p| judge.log_end_offset(TOPIC, p)).collect()
    }

    fn urls(&self) -> String {
        self.daemons.values().map(Daemon::url).collect::<Vec<_>>().join(", ")
    }

    /// Stops the load; source and all replicas are the same, and nothing wrong was seen.
    pub fn end(self) -> Result<Told> {
        let Self { source, destination, daemons, watch, load, .. } = self;
        let sent = load.stop()?;
        wait_identical(&source, &destination, TOPIC, TOPIC, DEADLINE)?;
        let seen = watch.stop().context("what was seen meanwhile")?;
        ensure!(seen.batches > 100 && seen.unproved == 0 && seen.refused > 20, "{seen:?}");
        ensure!(sent > 1_000, "only {sent} records were sent");
        Ok(Told { source, destination, daemons, sent, seen })
    }
}
