//! The task that knows what is followed and by which session. It places partitions, and settles
//! what a session cannot: moved leaders, topics that are gone, positions outside the log.
//!
//! ```text
//! order ─▶ Locate ─▶ Locating ─▶ Ready ─▶ (looked up) ─▶ with a session ─▶ Locate ...
//!                                                             └─▶ ended, until a new order
//! ```

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::messages::{Report, Shared, SlotId};
use super::meters::Meters;
use super::partition::Partition;
use super::places::{Led, Located, Places};
use super::roster::Roster;
use super::start::{self, Findings};
use super::{CONNECTIONS_PER_BROKER, SourceConfig};
use crate::client::{ClientError, Cluster, ClusterMetadata, Topics};
use crate::tail::budget::MemoryBudget;
use crate::tail::{ArrivalKind, Arrivals, Follow, Order, StartAt, Trouble};
use crate::types::{
    BrokerId, LeaderEpoch, LinkName, PartitionKey, TopicId, TopicName, TopicPartition,
};

/// Metadata is asked for so often even when nothing is wrong.
const REFRESH: Duration = Duration::from_secs(300);
/// A connection that was silent for so long before it was given up is no leader that moves.
const TELL_AFTER_SILENCE: Duration = Duration::from_secs(5);
/// Orders and reports taken at a time.
const TAKEN_AT_ONCE: usize = 4096;

/// What is known of a followed partition, wherever it is.
#[derive(Debug)]
struct Followed {
    ticket: u64,
    source: TopicPartition,
    place: Place,
}

/// Where a followed partition is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// In `waiting`.
    Here,
    /// In a lookup, or on its way back from a session.
    Away,
    /// With a session.
    Session { slot: SlotId, epoch: LeaderEpoch, topic: TopicId, follower: bool },
    /// Stopped by trouble that only a new order ends.
    Ended,
}

/// How far a partition is on its way to a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// Metadata has to be asked for, once its time has come.
    Locate,
    /// Metadata has been asked for.
    Locating,
    /// This broker is to be asked.
    Ready(BrokerId),
}

/// Results of what runs beside the router.
enum Done {
    Metadata(BTreeSet<TopicName>, Result<ClusterMetadata, ClientError>),
    LookedUp(BrokerId, Vec<Box<Partition>>, Result<Findings, ClientError>),
}

/// The router's state; nobody else has it.
#[derive(Debug)]
pub(super) struct Router {
    pub(super) link: LinkName,
    pub(super) shared: Arc<Shared>,
    orders: mpsc::UnboundedReceiver<Order>,
    reports: mpsc::UnboundedReceiver<Report>,
    followed: HashMap<PartitionKey, Followed>,
    /// Which order reads a partition of the source: there is never more than one.
    readers: HashMap<TopicPartition, PartitionKey>,
    waiting: HashMap<PartitionKey, (Box<Partition>, Stage)>,
    pub(super) roster: Roster,
    running: JoinSet<Done>,
    locating: bool,
    refresh_at: Instant,
    tickets: u64,
}

impl Router {
    pub(super) fn new(
        config: SourceConfig,
        cluster: Cluster,
        orders: mpsc::UnboundedReceiver<Order>,
        arrivals: Arrivals,
        budget: MemoryBudget,
    ) -> Self {
        let meters = Meters::new(&config.link);
        let shared = Arc::new(Shared { cluster, rack: config.rack, arrivals, budget, meters });
        let (report, reports) = mpsc::unbounded_channel();
        let connections = config.connections_per_broker.unwrap_or(CONNECTIONS_PER_BROKER);
        Self {
            link: config.link,
            roster: Roster::new(Arc::clone(&shared), report, connections),
            shared,
            orders,
            reports,
            followed: HashMap::new(),
            readers: HashMap::new(),
            waiting: HashMap::new(),
            running: JoinSet::new(),
            locating: false,
            refresh_at: Instant::now() + REFRESH,
            tickets: 0,
        }
    }

    /// Runs until stopped or until nobody gives orders; the sessions end with it.
    pub(super) async fn run(mut self, stop: CancellationToken) {
        tokio::select! {
            () = stop.cancelled() => {}
            () = self.serve() => {}
        }
    }

    async fn serve(&mut self) {
        let (mut orders, mut reports) = (Vec::new(), Vec::new());
        loop {
            let due = self.due();
            tokio::select! {
                count = self.orders.recv_many(&mut orders, TAKEN_AT_ONCE) => {
                    if count == 0 {
                        return;
                    }
                    for order in orders.drain(..) {
                        self.obey(order);
                    }
                }
                _count = self.reports.recv_many(&mut reports, TAKEN_AT_ONCE) => {
                    for report in reports.drain(..) {
                        self.hear(report).await;
                    }
                    self.roster.reap();
                }
                Some(done) = self.running.join_next() => match done {
                    Ok(done) => self.done(done).await,
                    Err(error) => if let Ok(panic) = error.try_into_panic() {
                        std::panic::resume_unwind(panic);
                    },
                },
                () = tokio::time::sleep_until(due) => {}
            }
            self.place();
            self.ask_metadata();
        }
    }

    /// When something is to be done even if nothing happens.
    fn due(&self) -> Instant {
        let due = self.waiting.values().filter_map(|(partition, stage)| match stage {
            Stage::Locate if !self.locating => Some(partition.trouble.retry_at),
            Stage::Locate | Stage::Locating => None,
            Stage::Ready(broker) => self.roster.not_before(*broker),
        });
        // While metadata is asked for, its answer is what comes next.
        let refresh_at = if self.locating { Instant::now() + REFRESH } else { self.refresh_at };
        due.min().map_or(refresh_at, |due| due.min(refresh_at))
    }

    fn obey(&mut self, order: Order) {
        match order {
            Order::Follow(follow) => self.follow(follow),
            Order::Stop(key) => self.forget(key),
        }
    }

    fn follow(&mut self, follow: Follow) {
        self.tickets += 1;
        let key = follow.key;
        let source = follow.source.clone();
        let mut partition = Box::new(Partition::new(follow, self.tickets, Instant::now()));
        if let Some(&other) = self.readers.get(&source)
            && other != key
        {
            self.forget(other);
        }
        // A session that reads the partition already needs no metadata to go on elsewhere in it.
        if let Some((slot, place)) = self.continues(&mut partition) {
            match self.roster.replace(slot, partition) {
                Ok(()) => {
                    let followed = Followed { ticket: self.tickets, source, place };
                    self.followed.insert(key, followed);
                    return;
                }
                Err(back) => partition = back,
            }
        }
        self.forget(key);
        self.readers.insert(source.clone(), key);
        let followed = Followed { ticket: self.tickets, source, place: Place::Here };
        self.followed.insert(key, followed);
        self.waiting.insert(key, (partition, Stage::Locate));
    }

    /// Whether a new order only continues what a session reads; takes over what is known then.
    fn continues(&self, partition: &mut Partition) -> Option<(SlotId, Place)> {
        let older = self.followed.get(&partition.follow.key)?;
        let place @ Place::Session { slot, epoch, topic, follower: false } = older.place else {
            return None;
        };
        let same = older.source == partition.follow.source
            && (partition.topic == topic || partition.topic == TopicId::NONE);
        if !same || !matches!(partition.follow.start, StartAt::At(_)) {
            return None;
        }
        partition.topic = topic;
        partition.leader_epoch = epoch;
        Some((slot, place))
    }

    fn forget(&mut self, key: PartitionKey) {
        let Some(followed) = self.followed.remove(&key) else {
            return;
        };
        self.readers.remove(&followed.source);
        self.waiting.remove(&key);
        if let Place::Session { slot, .. } = followed.place {
            self.roster.take(slot, key, followed.ticket, false);
        }
    }

    /// The record of a partition that came back, unless a newer order replaced it.
    fn known(&mut self, partition: &Partition) -> Option<&mut Followed> {
        let followed = self.followed.get_mut(&partition.follow.key);
        followed.filter(|followed| followed.ticket == partition.ticket)
    }

    async fn hear(&mut self, report: Report) {
        match report {
            Report::Alive(broker) => self.roster.alive(broker),
            Report::Returned(partition, why) => {
                let Some(followed) = self.known(&partition) else {
                    return;
                };
                let place = std::mem::replace(&mut followed.place, Place::Away);
                if let Place::Session { slot, .. } = place {
                    self.roster.left(slot);
                }
                self.settle(partition, why).await;
            }
            Report::Closed { slot, partitions, error, silence } => {
                self.roster.closed(slot);
                let count = partitions.len();
                tracing::info!(
                    link = %self.link, broker = %slot.broker, partitions = count,
                    "source connection lost: {error}"
                );
                for mut partition in partitions {
                    if let Some(followed) = self.known(&partition) {
                        followed.place = Place::Away;
                        partition.leave_follower(true);
                        if silence >= TELL_AFTER_SILENCE {
                            // It has waited long enough to be told of now.
                            partition.trouble.failed(Instant::now());
                        }
                        self.fail(partition, &error).await;
                    }
                }
            }
        }
    }

    async fn done(&mut self, done: Done) {
        match done {
            Done::Metadata(topics, Ok(metadata)) => {
                self.locating = false;
                let places = Places::new(&metadata);
                self.recall(&topics, &places);
                for partition in self.located() {
                    let at = places.locate(&partition.follow.source, partition.topic);
                    self.locate(partition, at).await;
                }
            }
            Done::Metadata(_, Err(error)) => {
                self.locating = false;
                let error = format!("ask for metadata: {error}");
                for partition in self.located() {
                    self.fail(partition, &error).await;
                }
            }
            Done::LookedUp(broker, partitions, Ok(findings)) => {
                for (partition, found) in partitions.into_iter().zip(findings) {
                    if self.known(&partition).is_some() {
                        self.found(broker, partition, found).await;
                    }
                }
            }
            Done::LookedUp(broker, partitions, Err(error)) => {
                self.roster.failed(broker);
                let error = error.to_string();
                for partition in partitions {
                    if self.known(&partition).is_some() {
                        self.fail(partition, &error).await;
                    }
                }
            }
        }
    }

    /// Takes out the partitions that metadata was asked for.
    fn located(&mut self) -> Vec<Box<Partition>> {
        let located = self.waiting.extract_if(|_, (_, stage)| *stage == Stage::Locating);
        located.map(|(_, (partition, _))| partition).collect()
    }

    /// Takes back what sessions read from a broker that does not lead it any more.
    fn recall(&mut self, topics: &BTreeSet<TopicName>, places: &Places<'_>) {
        for (key, followed) in &mut self.followed {
            let Place::Session { slot, epoch, topic, follower } = followed.place else {
                continue;
            };
            if !topics.contains(&followed.source.topic) {
                continue;
            }
            let moved = match places.locate(&followed.source, topic) {
                // A follower is only a lease: the leader may know a better one by now.
                Located::Led(led) if follower || led.epoch > epoch => true,
                Located::Led(led) => led.epoch == epoch && led.leader != slot.broker,
                Located::Missing | Located::OtherTopic(_) => true,
                Located::NotYet(_) | Located::Denied(_) => false,
            };
            if moved {
                followed.place = Place::Away;
                self.roster.take(slot, *key, followed.ticket, true);
            }
        }
    }

    /// Puts a partition where it waits for its next step.
    pub(super) fn wait(&mut self, partition: Box<Partition>, stage: Stage) {
        let key = partition.follow.key;
        if let Some(followed) = self.followed.get_mut(&key) {
            followed.place = Place::Here;
            self.waiting.insert(key, (partition, stage));
        }
    }

    /// Ends a partition with a word to the seat; only a new order begins it again.
    pub(super) async fn end(&mut self, partition: Box<Partition>, trouble: Trouble) {
        tracing::warn!(
            link = %self.link, partition = %partition.follow.source,
            offset = %partition.offset(), "cannot be read on: {trouble:?}"
        );
        if let Some(followed) = self.known(&partition) {
            followed.place = Place::Ended;
        }
        self.tell(&partition, ArrivalKind::Trouble(trouble)).await;
    }

    /// Tells the seat something of a partition.
    pub(super) async fn tell(&self, partition: &Partition, kind: ArrivalKind) {
        // The seat only goes away when all stops.
        let _stopping = self.shared.arrivals.send(partition.arrival(kind)).await;
    }

    /// A leader was found: takes note of what metadata says with it.
    pub(super) fn lead(&mut self, mut partition: Box<Partition>, led: Led) {
        partition.leader_epoch = led.epoch;
        partition.doubts.topic = None;
        if partition.topic == TopicId::NONE {
            partition.topic = led.topic;
        }
        self.wait(partition, Stage::Ready(led.leader));
    }

    /// Hands on what is ready: to a session, or first to a lookup.
    fn place(&mut self) {
        let roster = &self.roster;
        let ready: Vec<_> = self
            .waiting
            .extract_if(|_, (_, stage)| {
                matches!(stage, Stage::Ready(broker) if roster.not_before(*broker).is_none())
            })
            .collect();
        let mut lookups: BTreeMap<BrokerId, Vec<Box<Partition>>> = BTreeMap::new();
        for (key, (partition, stage)) in ready {
            let Stage::Ready(broker) = stage else {
                continue;
            };
            if partition.position.is_some() && !partition.doubts.range {
                self.give(partition, broker);
            } else {
                if let Some(followed) = self.followed.get_mut(&key) {
                    followed.place = Place::Away;
                }
                lookups.entry(broker).or_default().push(partition);
            }
        }
        for (broker, partitions) in lookups {
            let cluster = self.shared.cluster.clone();
            self.running.spawn(async move {
                let findings = start::look_up(&cluster, broker, &partitions).await;
                Done::LookedUp(broker, partitions, findings)
            });
        }
    }

    fn give(&mut self, mut partition: Box<Partition>, broker: BrokerId) {
        let slot = self.roster.slot(broker, &partition);
        let key = partition.follow.key;
        let place = Place::Session {
            slot,
            epoch: partition.leader_epoch,
            topic: partition.topic,
            follower: partition.read_from.is_some(),
        };
        partition.told = None;
        match self.roster.give(slot, partition) {
            Ok(()) => {
                if let Some(followed) = self.followed.get_mut(&key) {
                    followed.place = place;
                }
            }
            // The session is ending; its report is under way and makes the broker rest.
            Err(mut partition) => {
                partition.trouble.failed(Instant::now());
                self.wait(partition, Stage::Locate);
            }
        }
    }

    /// Asks for metadata where somebody waits for it, or where it is old.
    fn ask_metadata(&mut self) {
        if self.locating {
            return;
        }
        let now = Instant::now();
        let mut topics = BTreeSet::new();
        for (partition, stage) in self.waiting.values_mut() {
            if *stage == Stage::Locate && partition.trouble.retry_at <= now {
                *stage = Stage::Locating;
                topics.insert(partition.follow.source.topic.clone());
            }
        }
        if self.refresh_at <= now {
            self.refresh_at = now + REFRESH.mul_f64(rand::random_range(0.9..1.1));
            topics.extend(self.followed.values().map(|followed| followed.source.topic.clone()));
        }
        if topics.is_empty() {
            return;
        }
        self.locating = true;
        let cluster = self.shared.cluster.clone();
        self.running.spawn(async move {
            let names: Vec<_> = topics.iter().cloned().collect();
            let metadata = cluster.metadata(Topics::Named(&names)).await;
            Done::Metadata(topics, metadata)
        });
    }
}
