//! The task that owns all mirror partitions: takes inputs in, then answers the followers that have
//! something new to hear.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior};

use super::handle::{Adoption, Command, MirrorTopic, Proof};
use super::led::{LEAST_SHARE, Led};
use super::refill::{RefillRequest, Refilled};
use super::report::{LeaderReport, report};
use super::roles::Birth;
use super::serving::Parked;
use super::sessions::{SessionId, Sessions};
use super::strays::Strays;
use super::unknown::Waiting;
use crate::image::{Delta, Image};
use crate::mirror::decision::Decision;
use crate::mirror::event::Event;
use crate::mirror::lineage::KnownLineage;
use crate::mirror::revival::Revivals;
use crate::seat::epoch_bump::EpochBumps;
use crate::seat::isr::{IsrOutcome, IsrRequest};
use crate::tail::events::Events;
use crate::tail::{Arrival, ArrivalKind, Order, Orders, Trouble};
use crate::types::{BrokerEpoch, BrokerId, LinkName, Offset, PartitionKey, TopicId};

/// How often in-sync replicas, limits and reports are looked at.
const TICK: Duration = Duration::from_millis(500);
/// Inputs taken in before answers are given.
const INPUTS_AT_ONCE: usize = 64;

/// What the task needs to know.
#[derive(Clone, Debug)]
pub struct LeaderConfig {
    /// Our broker id.
    pub seat: BrokerId,
    /// `replica.lag.time.max.ms` of the destination.
    pub lag_time: Duration,
    /// Record bytes in memory at most, over all partitions.
    pub memory_bytes: usize,
}

/// Everything that the task hears of.
#[derive(Debug)]
pub struct LeaderInputs {
    /// Questions and orders of other parts.
    pub commands: mpsc::Receiver<Command>,
    /// Every change of the destination's image, in order.
    pub deltas: mpsc::UnboundedReceiver<(Arc<Image>, Delta)>,
    /// What the sources brought.
    pub arrivals: mpsc::Receiver<Arrival>,
    /// What became of changes of in-sync replicas.
    pub isr_outcomes: mpsc::UnboundedReceiver<IsrOutcome>,
    /// What was read for replicas that are behind.
    pub refilled: mpsc::UnboundedReceiver<Refilled>,
}

/// Everything that the task tells others.
#[derive(Debug)]
pub struct LeaderOutputs {
    /// Changes of in-sync replicas that are wanted.
    pub isr_requests: mpsc::UnboundedSender<Vec<IsrRequest>>,
    /// Batches that are wanted for replicas that are behind.
    pub refills: mpsc::UnboundedSender<RefillRequest>,
    /// New leader epochs that are wanted.
    pub bumps: EpochBumps,
    /// How the partitions are.
    pub report: watch::Sender<Arc<LeaderReport>>,
    /// What a person may want to know later.
    pub events: Events,
}

/// The owner of all partitions that we lead.
#[derive(Debug)]
pub struct LeaderTask {
    pub(super) config: LeaderConfig,
    pub(super) image: Arc<Image>,
    /// Our present registration: set before the controller unfences us.
    pub(super) registration: watch::Receiver<Option<BrokerEpoch>>,
    pub(super) birth: Birth,
    /// Whether the image shows our present registration.
    pub(super) was_current: bool,
    pub(super) mirrors: HashMap<TopicId, Arc<MirrorTopic>>,
    pub(super) led: HashMap<PartitionKey, Led>,
    pub(super) strays: Strays,
    pub(super) adopted: HashMap<PartitionKey, Adoption>,
    pub(super) unknown: HashMap<PartitionKey, Waiting>,
    /// On failed partitions that we do not lead.
    pub(super) decisions: HashMap<PartitionKey, Decision>,
    /// What was committed when we last gave a partition up.
    pub(super) committed: HashMap<PartitionKey, Offset>,
    /// Where the logs of partitions that we led started.
    pub(super) log_starts: HashMap<PartitionKey, Offset>,
    /// The source's epochs of what partitions hold that we do not lead.
    pub(super) lineages: HashMap<PartitionKey, KnownLineage>,
    /// Of what partitions something was learned since the journal was told last.
    pub(super) learned: HashSet<PartitionKey>,
    pub(super) sources: HashMap<LinkName, Orders>,
    pub(super) sessions: Sessions,
    pub(super) parked: HashMap<SessionId, Parked>,
    /// Sessions with something new since they were answered last.
    pub(super) stirred: HashSet<SessionId>,
    pub(super) isr_requests: mpsc::UnboundedSender<Vec<IsrRequest>>,
    pub(super) refills: mpsc::UnboundedSender<RefillRequest>,
    pub(super) bumps: EpochBumps,
    pub(super) revivals: Revivals,
    pub(super) next_revival: Duration,
    report: watch::Sender<Arc<LeaderReport>>,
    pub(super) events: Events,
    generation: u64,
    started: Instant,
}

impl LeaderTask {
    /// A task that leads nothing yet.
    pub fn new(
        config: LeaderConfig,
        image: Arc<Image>,
        registration: watch::Receiver<Option<BrokerEpoch>>,
        outputs: LeaderOutputs,
    ) -> Self {
        Self {
            config,
            image,
            registration,
            birth: Birth::default(),
            was_current: false,
            mirrors: HashMap::new(),
            led: HashMap::new(),
            strays: Strays::new(),
            adopted: HashMap::new(),
            unknown: HashMap::new(),
            decisions: HashMap::new(),
            log_starts: HashMap::new(),
            committed: HashMap::new(),
            lineages: HashMap::new(),
            learned: HashSet::new(),
            sources: HashMap::new(),
            sessions: Sessions::default(),
            parked: HashMap::new(),
            stirred: HashSet::new(),
            isr_requests: outputs.isr_requests,
            refills: outputs.refills,
            bumps: outputs.bumps,
            revivals: Revivals::default(),
            next_revival: Duration::ZERO,
            report: outputs.report,
            events: outputs.events,
            generation: 0,
            started: Instant::now(),
        }
    }

    /// Runs until every handle is gone.
    pub async fn run(mut self, mut inputs: LeaderInputs) {
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let wake = self.parked.values().map(|parked| parked.deadline).min();
            let wake = wake.unwrap_or_else(|| Instant::now() + TICK);
            tokio::select! {
                command = inputs.commands.recv() => match command {
                    Some(command) => self.on_command(command),
                    None => return,
                },
                Some((image, delta)) = inputs.deltas.recv() => self.on_image(image, &delta),
                Some(arrival) = inputs.arrivals.recv() => self.on_arrival(arrival),
                Some(outcome) = inputs.isr_outcomes.recv() => self.on_isr_outcome(&outcome),
                Some(refilled) = inputs.refilled.recv() => self.on_refilled(refilled),
                _ = tick.tick() => self.on_tick(),
                () = tokio::time::sleep_until(wake) => {}
            }
            self.take_in_more(&mut inputs);
            self.answer_stirred();
        }
    }

    /// Takes in what else is there, so that one answer covers it all.
    fn take_in_more(&mut self, inputs: &mut LeaderInputs) {
        for _ in 0..INPUTS_AT_ONCE {
            let mut is_idle = true;
            if let Ok((image, delta)) = inputs.deltas.try_recv() {
                self.on_image(image, &delta);
                is_idle = false;
            }
            if let Ok(arrival) = inputs.arrivals.try_recv() {
                self.on_arrival(arrival);
                is_idle = false;
            }
            if let Ok(command) = inputs.commands.try_recv() {
                self.on_command(command);
                is_idle = false;
            }
            if is_idle {
                return;
            }
        }
    }

    /// Time since the task began.
    pub(super) fn now(&self) -> Duration {
        self.started.elapsed()
    }

    fn on_image(&mut self, image: Arc<Image>, delta: &Delta) {
        self.image = image;
        if !delta.brokers.is_empty() {
            self.revivals.on_brokers(self.now(), &self.image);
        }
        self.on_delta(delta);
    }

    fn on_command(&mut self, command: Command) {
        match command {
            Command::Led(keys, reply) => {
                let now = self.now();
                let view = |key| self.led.get(key).map(|led| led.view(now));
                let _gone = reply.send(keys.iter().map(view).collect());
            }
            Command::Bind(topics) => self.on_bind(topics),
            Command::Source(link, orders) => {
                self.sources.insert(link, orders);
            }
            Command::Adopt(adoptions, done) => {
                self.on_adoptions(adoptions);
                let _gone = done.send(());
            }
            Command::Decide(decisions, done) => {
                self.on_decisions(decisions);
                let _gone = done.send(());
            }
            Command::Decisions(reply) => {
                let waiting = self.decisions.iter().map(|(&key, &decision)| (key, decision));
                let _gone = reply.send(waiting.collect());
            }
            Command::Unknown(reply) => {
                let _gone = reply.send(self.unknown());
            }
            Command::Unproved(link, reply) => {
                let led = self.led.values().filter(|led| led.mirror().link == link);
                let _gone = reply.send(led.filter_map(Led::unproved).collect());
            }
            Command::Proved(proofs) => proofs.into_iter().for_each(|proof| self.on_proof(proof)),
            Command::Cut(cut) => self.on_cut(cut),
            Command::RestoreLineages(lineages) => self.restore_lineages(lineages),
            Command::LearnedLineages(reply) => {
                let _gone = reply.send(self.learned_lineages());
            }
            Command::Lineages(keys, reply) => {
                let known = keys.iter().map(|key| self.lineages.get(key).cloned());
                let _gone = reply.send(known.map(Option::unwrap_or_default).collect());
            }
            Command::Mirrors(reply) => {
                let _gone = reply.send(self.mirrors.values().cloned().collect());
            }
            Command::Fetch(request, reply) => self.on_fetch(request, reply),
            Command::Ask(broker, questions, reply) => {
                let answers = questions.iter().map(|q| self.on_question(broker, q)).collect();
                let _gone = reply.send(answers);
            }
            Command::Disconnected(connection) => self.on_disconnected(connection),
        }
    }

    fn on_bind(&mut self, topics: Vec<MirrorTopic>) {
        for topic in topics {
            let id = topic.id;
            let topic = Arc::new(topic);
            for led in self.led.values_mut().filter(|led| led.mirror().id == id) {
                led.on_mirror(&topic);
            }
            self.mirrors.insert(id, topic);
            self.evaluate(id);
        }
    }

    fn on_arrival(&mut self, arrival: Arrival) {
        let key = arrival.key;
        let Some(led) = self.led.get_mut(&key) else { return };
        let was_stopped = led.trouble.clone();
        if matches!(arrival.kind, ArrivalKind::Data { .. }) {
            self.learned.insert(key);
        }
        match led.on_arrival(arrival) {
            Ok(true) => self.mark(key),
            Ok(false) => {}
            Err(error) => self.on_broken_history(key, &error),
        }
        if let Some(led) = self.led.get_mut(&key) {
            led.notes.drain(..).for_each(|event| self.events.send(event));
        }
        self.on_trouble(key, was_stopped.as_ref());
    }

    /// What the tail check found of a copy that was taken over.
    fn on_proof(&mut self, Proof { key, leader_epoch, found }: Proof) {
        let Some(led) = self.led.get_mut(&key).filter(|led| led.unproved().is_some()) else {
            return;
        };
        if led.leadership.assignment().leader_epoch != leader_epoch {
            return;
        }
        let before = led.trouble.clone();
        led.on_proof(found);
        if led.trouble.is_none() {
            self.decisions.remove(&key);
            self.learned.insert(key);
        }
        self.on_trouble(key, before.as_ref());
        self.read_on(key);
    }

    /// Decides about a trouble that was not there before, where it can be, and tells of it.
    fn on_trouble(&mut self, key: PartitionKey, before: Option<&Trouble>) {
        if let Some(led) = self.led.get(&key)
            && led.trouble.is_some()
            && led.trouble.as_ref() != before
        {
            // What the file decides in advance needs no person.
            self.on_failure(key);
            self.tell_trouble(key);
        }
    }

    /// What is retried is for the log; what needs a person is an event.
    fn tell_trouble(&self, key: PartitionKey) {
        let Some(led) = self.led.get(&key) else { return };
        let Some(trouble) = &led.trouble else { return };
        let mirror = led.mirror();
        let offset = led.buffer().map_or(led.leadership.log_end(), |buffer| buffer.filled_to());
        if trouble.is_retried() {
            tracing::warn!(
                link = %mirror.link, topic = %mirror.name, partition = key.partition, %offset,
                ?trouble, "source cannot be read on; the copy stays as it is"
            );
            return;
        }
        let text = format!("{trouble}; the copy stays as it is, up to offset {offset}");
        let mut event = Event::new(trouble.reason(), text).link(&mirror.link).topic(&mirror.name);
        if let Trouble::Gap { ours, source_start } = *trouble {
            event = event.offsets(ours..source_start);
        }
        self.events.send(event.partition(key.partition));
    }

    pub(super) fn on_broken_history(&mut self, key: PartitionKey, error: &dyn std::fmt::Display) {
        if let Some(led) = self.led.get(&key) {
            tracing::error!(
                link = %led.mirror().link, topic = %led.mirror().name, partition = key.partition,
                %error, "leadership given up: the epochs of the copy do not fit"
            );
        }
        self.give_up(key);
    }

    /// Gives the source the order that is due for a partition, where one is.
    pub(super) fn read_on(&mut self, key: PartitionKey) {
        let generation = self.generation + 1;
        let Some(led) = self.led.get_mut(&key) else { return };
        let Some(orders) = self.sources.get(&led.mirror().link) else { return };
        if let Some(follow) = led.next_order(generation) {
            self.generation = generation;
            let _stopped = orders.send(Order::Follow(follow));
        }
    }

    /// Notes that followers may have something new to hear of a partition.
    pub(super) fn mark(&mut self, key: PartitionKey) {
        self.stirred.extend(self.sessions.mark(key));
    }

    fn on_refilled(&mut self, refilled: Refilled) {
        if let Some(led) = self.led.get_mut(&refilled.key) {
            let has_more = refilled.chunk.is_some();
            led.refills.on_refilled(refilled.behind, refilled.chunk);
            // Without, the next tick asks again.
            if has_more {
                self.mark(refilled.key);
            }
        }
    }

    fn on_tick(&mut self) {
        if !self.was_current {
            // Registered under the incarnation before: the metadata log may show nothing new.
            self.on_delta(&Delta::default());
        }
        self.note_alive();
        self.share_memory();
        self.ask_for_isr_changes();
        self.revive_failed();
        let (keys, now): (Vec<_>, _) = (self.led.keys().copied().collect(), self.now());
        for key in keys {
            self.learn_anew(key);
            if let Some(led) = self.led.get_mut(&key)
                && let Some(offset) = led.read_again(now)
            {
                tracing::warn!(
                    link = %led.mirror().link, topic = %led.mirror().name,
                    partition = key.partition, %offset, high_watermark = ?led.leadership.high_watermark(),
                    "no in-sync replica has what replicas lack; it is read from the source again"
                );
            }
            self.read_on(key);
            if self.led.get(&key).is_some_and(Led::has_replica_behind) {
                self.mark(key);
            }
        }
        self.publish_report();
    }

    fn publish_report(&mut self) {
        let now = self.now();
        let patience = self.config.lag_time / 2;
        let reports = self.led.iter_mut().map(|(&key, led)| {
            led.note_lag();
            led.tidy_refills(now);
            (key, report(led, key, led.leadership.is_unheard(now, patience)))
        });
        self.report.send_replace(Arc::new(reports.collect()));
    }

    /// Partitions that an incremental request leaves out are where they were.
    fn note_alive(&mut self) {
        for session in self.sessions.iter() {
            for key in session.keys() {
                if let Some(led) = self.led.get_mut(&key) {
                    led.leadership.on_alive(session.asked_at, session.broker);
                } else if let Some(stray) = self.strays.get_mut(&key) {
                    stray.on_alive(session.asked_at, session.broker);
                }
            }
        }
    }

    fn share_memory(&mut self) {
        let filled = self.led.values().filter(|led| led.buffer().is_some_and(|b| b.bytes() > 0));
        let limit = memory_share(self.config.memory_bytes, filled.count());
        let now = self.now();
        for led in self.led.values_mut() {
            led.limit_memory(led.share_of(limit, now));
        }
    }
}

/// Half of the budget is shared by the partitions that hold something; the other half is for what
/// is on its way.
fn memory_share(total: usize, partitions: usize) -> usize {
    const MOST: usize = 32 << 20;
    (total / 2 / partitions.max(1)).clamp(LEAST_SHARE, MOST)
}
