//! The task that keeps a link's topics up: looks at the source, lets `mirror::topic_plan` decide,
//! carries that out at the destination, and says which topics are mirrors.

mod destination;
mod discovery;
mod error;
mod status;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use self::destination::{Destination, Outcome};
use self::discovery::{Discovered, Discovery};
pub use self::error::{Answered, TopicError};
use self::status::Adjustments;
pub use self::status::{ClusterTrouble, TopicState, TopicStatus, TopicsStatus};
use super::pins::{ClusterPin, PinKeeper};
use crate::client::{Cluster, Retry};
use crate::image::{Delta, Image};
use crate::mirror::decision::Policies;
use crate::mirror::filter::TopicFilter;
use crate::mirror::seats;
use crate::mirror::topic_plan::{
    Action, Binding, DestinationDefaults, SourceTopic, TopicRules, plan,
};
use crate::mirror::topic_refusal::Refusal;
use crate::seat::leader::{LeaderHandle, MirrorTopic};
use crate::store::JournalHandle;
use crate::tail::StartAt;
use crate::tail::events::Events;
use crate::tail::notes::Notes;
use crate::types::{BrokerEpoch, BrokerId, LinkName, TopicName};

/// Between rounds at least: a burst of image changes makes one round.
const ROUND_GAP: Duration = Duration::from_millis(100);

/// How long what we did may take to show in the image before we plan again.
const IMAGE_LAG: Duration = Duration::from_secs(1);

/// A seat that was down for so long is not waited for any more.
const ABSENT: Duration = Duration::from_secs(12);

/// Between rounds while the journal is waited for.
const PIN_RETRY: Duration = Duration::from_millis(250);

/// Between rounds that failed at the destination.
const RETRY: Duration = Duration::from_secs(2);

/// What a link wants of its topics.
#[derive(Clone, Debug)]
pub struct TopicTaskConfig {
    /// The link.
    pub link: LinkName,
    /// Which source topics are mirrored.
    pub filter: TopicFilter,
    /// Comes before the source's name in the mirror's.
    pub rename_prefix: String,
    /// Real replicas of a mirror; the destination's default has been filled in.
    pub replication_factor: usize,
    /// Where a mirror begins.
    pub start: StartAt,
    /// What is decided in advance about failures.
    pub policies: Policies,
    /// Between looks at the source's topics.
    pub interval: Duration,
    /// Between looks at their configs.
    pub configs_interval: Duration,
    /// The cluster id that the source has to have; `None`: the one of the first contact.
    pub expected_cluster_id: Option<String>,
    /// Our seat.
    pub seat: BrokerId,
}

/// The task.
#[derive(Debug)]
pub struct TopicTask {
    config: TopicTaskConfig,
    rules: TopicRules,
    source: Cluster,
    destination: Destination,
    image: watch::Receiver<Arc<Image>>,
    registration: watch::Receiver<Option<BrokerEpoch>>,
    leader: LeaderHandle,
    events: Events,
    status: watch::Sender<Arc<TopicsStatus>>,
    /// Configs that a destination topic can have, and the `metadata.version` at which that was so.
    known_configs: Option<(BTreeSet<String>, Option<i16>)>,
    pins: PinKeeper,
    /// What a look at the source goes by; taken when it begins.
    cluster: Option<ClusterPin>,
    bound: Vec<MirrorTopic>,
    /// Has the source looked at before the next look is due.
    look_now: Arc<Notify>,
    /// Mirrors without a source topic, and how often the source had been looked at when they were met.
    orphans: BTreeMap<TopicName, u64>,
    /// How often the source has been looked at.
    looks: u64,
    /// Seats that are down, and since when.
    down_since: BTreeMap<BrokerId, Instant>,
    adjustments: Adjustments,
}

/// Where durable things are kept and told.
#[derive(Clone, Debug)]
pub struct Kept {
    /// Durable facts.
    pub journal: JournalHandle,
    /// What is to be durable soon.
    pub notes: Notes,
    /// What a person may want to know later.
    pub events: Events,
}

/// How a round ended.
enum Next {
    /// Wait for something to change.
    Change,
    /// Wait for our own changes in the image.
    OwnChanges,
    /// Try again after this time, or when something changes.
    Retry(Duration),
}

impl TopicTask {
    /// A task that has done nothing yet. `destination` never leads to our own seat.
    pub fn new(
        config: TopicTaskConfig,
        source: Cluster,
        destination: Cluster,
        image: watch::Receiver<Arc<Image>>,
        registration: watch::Receiver<Option<BrokerEpoch>>,
        leader: LeaderHandle,
        kept: Kept,
    ) -> Self {
        let Kept { journal, notes, events } = kept;
        let keeper = || {
            let (journal, notes) = (journal.clone(), notes.clone());
            PinKeeper::new(config.link.clone(), journal, notes, events.clone())
        };
        let cluster = ClusterPin::new(keeper(), config.expected_cluster_id.clone());
        let pins = keeper();
        let rules = TopicRules {
            filter: config.filter.clone(),
            rename_prefix: config.rename_prefix.clone(),
            seat: config.seat,
            absent: BTreeSet::new(),
        };
        Self {
            config,
            rules,
            source,
            destination: Destination { cluster: destination },
            image,
            registration,
            leader,
            events,
            status: watch::Sender::default(),
            known_configs: None,
            pins,
            cluster: Some(cluster),
            bound: Vec::new(),
            look_now: Arc::default(),
            orphans: BTreeMap::new(),
            looks: 0,
            down_since: BTreeMap::new(),
            adjustments: Adjustments::default(),
        }
    }

    /// What is known of each topic, for reports.
    pub fn status(&self) -> watch::Receiver<Arc<TopicsStatus>> {
        self.status.subscribe()
    }

    /// Runs until told to stop.
    pub async fn run(mut self, stop: CancellationToken) {
        let (found, discovered) = watch::channel(Discovered::default());
        let Some(cluster) = self.cluster.take() else { return };
        let discovery = Discovery {
            source: self.source.clone(),
            filter: self.config.filter.clone(),
            interval: self.config.interval,
            configs_interval: self.config.configs_interval,
            cluster,
            found,
            look_now: Arc::clone(&self.look_now),
        };
        // A source that does not answer keeps only the looking from going on.
        tokio::select! {
            () = stop.cancelled() => {}
            () = discovery.run() => {}
            () = self.keep_up(discovered) => {}
        }
    }

    async fn keep_up(&mut self, mut discovered: watch::Receiver<Discovered>) {
        loop {
            let image = self.image.borrow_and_update().clone();
            let seen = discovered.borrow_and_update().clone();
            let next = self.round(&image, seen).await;
            tokio::time::sleep(ROUND_GAP).await;
            let is_on = match next {
                Next::Change => self.change(&image, &mut discovered).await,
                Next::OwnChanges => self.change_within(IMAGE_LAG, &image, &mut discovered).await,
                Next::Retry(wait) => self.change_within(wait, &image, &mut discovered).await,
            };
            if !is_on {
                return;
            }
        }
    }

    async fn change_within(
        &mut self,
        limit: Duration,
        image: &Image,
        discovered: &mut watch::Receiver<Discovered>,
    ) -> bool {
        let change = tokio::time::timeout(limit, self.change(image, discovered));
        change.await.unwrap_or(true)
    }

    /// Waits for another look at the source, or for an image that another plan could follow from.
    /// False: nothing will change any more.
    async fn change(
        &mut self,
        planned: &Image,
        discovered: &mut watch::Receiver<Discovered>,
    ) -> bool {
        loop {
            tokio::select! {
                change = discovered.changed() => return change.is_ok(),
                change = self.image.changed() => if change.is_err() {
                    return false;
                },
            }
            if is_relevant(planned, &self.image.borrow_and_update()) {
                return true;
            }
        }
    }

    /// One plan, carried out.
    async fn round(&mut self, image: &Image, seen: Discovered) -> Next {
        let link = self.config.link.clone();
        let now = SystemTime::now();
        let is_other_source = seen.trouble.as_ref().is_some_and(|t| t.is_other_source);
        let is_seen = seen.trouble.is_none();
        let trouble = seen.trouble.map(|trouble| (trouble.reason, trouble.detail));
        self.looks = seen.looks;
        self.report(|status| status.on_source(&link, now, trouble));
        let Some(topics) = seen.topics.filter(|_| !is_other_source) else { return Next::Change };
        if !self.pins.is_ready() {
            return Next::Retry(PIN_RETRY);
        }
        let mut outcomes = Vec::new();
        let (actions, is_pinned, result) = self.act(image, &topics, &mut outcomes).await;
        let statuses = status::of_round(&actions, &outcomes, now);
        let trouble = result.as_ref().err();
        let trouble = trouble.map(|error| (error.destination_reason(), error.to_string()));
        let is_done = is_seen && trouble.is_none();
        let events = self.events.clone();
        self.report(|status| {
            status.update(&link, now, statuses, &events);
            status.on_destination(&link, now, trouble);
            if is_done {
                status.last_success = Some(now);
            }
        });
        match result.map_err(|error| error.retry()) {
            Ok(()) if !is_pinned => Next::Retry(PIN_RETRY),
            Ok(()) => next(&outcomes),
            Err(Retry::After(wait)) => Next::Retry(wait),
            // What a person has to put right is put right while we run.
            Err(Retry::WithBackoff | Retry::AfterMetadataRefresh | Retry::Never) => {
                Next::Retry(RETRY)
            }
        }
    }

    /// Binds first: mirrors that are there do not wait for what may fail.
    async fn act(
        &mut self,
        image: &Image,
        topics: &[SourceTopic],
        outcomes: &mut Vec<(TopicName, Outcome)>,
    ) -> (Vec<Action>, bool, Result<(), TopicError>) {
        // An assignment that names a fenced broker, or none at all, is refused.
        let registration = *self.registration.borrow();
        let is_ready = seat_is_ready(image, self.config.seat, registration);
        let defaults = if is_ready {
            self.defaults(image).await
        } else {
            Err(TopicError::SeatFenced(self.config.seat))
        };
        self.note_absent(image);
        let pins = self.pins.known();
        let mut actions = plan(topics, image, &self.rules, defaults.as_ref().ok(), &pins);
        self.hold_back_orphans(&mut actions);
        let is_pinned = self.bind(&actions, topics).await;
        self.adjustments.say(&self.config.link, &actions);
        let result = match defaults {
            Err(error) => Err(error),
            // Another daemon does it; we see it in the image.
            Ok(_) if seats::owner(image) != Some(self.config.seat) => Ok(()),
            Ok(_) => self.destination.execute(&actions, outcomes).await,
        };
        if outcomes.iter().any(|(_, outcome)| outcome.is_invalid_config()) {
            self.known_configs = None;
        }
        (actions, is_pinned, result)
    }

    /// A mirror that another daemon has just created is of a source topic that we have not met yet: that
    /// is no orphan before the source was looked at again.
    fn hold_back_orphans(&mut self, actions: &mut Vec<Action>) {
        let looks = self.looks;
        let before = std::mem::take(&mut self.orphans);
        let mut is_new = false;
        actions.retain(|action| {
            let Action::Refuse { name, refusal: Refusal::SourceTopicDeleted, .. } = action else {
                return true;
            };
            let met = before.get(name).copied().unwrap_or(looks);
            self.orphans.insert(name.clone(), met);
            is_new |= met == looks;
            met < looks
        });
        if is_new {
            self.look_now.notify_one();
        }
    }

    /// A seat that is restarted, or about to start after all were down, is not gone.
    fn note_absent(&mut self, image: &Image) {
        let now = Instant::now();
        let down = image.seats().into_iter().filter(|&id| !image.is_live_seat(id));
        let before = std::mem::take(&mut self.down_since);
        self.down_since = down.map(|id| (id, before.get(&id).copied().unwrap_or(now))).collect();
        let absent = self.down_since.iter().filter(|(_, since)| now - **since >= ABSENT);
        self.rules.absent = absent.map(|(&id, _)| id).collect();
    }

    async fn defaults(&mut self, image: &Image) -> Result<DestinationDefaults, TopicError> {
        let level = image.metadata_version();
        let known_configs = match &self.known_configs {
            Some((known, at)) if *at == level => known.clone(),
            _ => {
                let known = self.destination.known_configs().await?;
                self.known_configs = Some((known.clone(), level));
                known
            }
        };
        Ok(DestinationDefaults {
            replication_factor: self.config.replication_factor,
            known_configs,
        })
    }

    /// What is bound for the first time is pinned first. False: some could not be pinned yet.
    async fn bind(&mut self, actions: &[Action], topics: &[SourceTopic]) -> bool {
        let bindings = actions.iter().filter_map(|action| match action {
            Action::Bind(binding) => Some(binding.clone()),
            _ => None,
        });
        let mut bindings: Vec<_> = bindings.collect();
        let sources: BTreeMap<_, _> = topics.iter().map(|topic| (&topic.name, topic)).collect();
        for binding in &bindings {
            let source = sources.get(&binding.source_name);
            if let Some(configs) = source.and_then(|source| source.configs.as_ref()) {
                self.pins.note_configs(binding.id, configs);
            }
        }
        let is_pinned = self.pins.pin(&bindings).await;
        if !is_pinned {
            let known = self.pins.known();
            bindings.retain(|binding| known.contains_key(&binding.id));
        }
        let mirrors: Vec<_> =
            bindings.iter().map(|binding| mirror_topic(&self.config, binding)).collect();
        if mirrors != self.bound {
            self.leader.bind(mirrors.clone()).await;
            self.bound = mirrors;
        }
        is_pinned
    }

    fn report(&self, change: impl FnOnce(&mut TopicsStatus)) {
        self.status.send_if_modified(|status| {
            let before = Arc::clone(status);
            change(Arc::make_mut(status));
            *before != **status
        });
    }
}

fn mirror_topic(config: &TopicTaskConfig, binding: &Binding) -> MirrorTopic {
    MirrorTopic {
        id: binding.id,
        name: binding.name.clone(),
        link: config.link.clone(),
        source_name: binding.source_name.clone(),
        source_id: binding.source_id,
        start: config.start,
        policies: config.policies,
        segment_bytes: binding.segment_bytes,
    }
}

/// Whether the image shows the seat unfenced under its present registration: what an old session of
/// ours, not ended yet, would be given, it could not lead.
fn seat_is_ready(image: &Image, seat: BrokerId, registration: Option<BrokerEpoch>) -> bool {
    image.broker(seat).is_some_and(|seat| {
        Some(seat.epoch) == registration && !seat.is_fenced && !seat.in_controlled_shutdown
    })
}

fn next(outcomes: &[(TopicName, Outcome)]) -> Next {
    let throttled = outcomes.iter().filter_map(|(_, outcome)| match outcome {
        Outcome::Throttled(wait) => Some(*wait),
        _ => None,
    });
    if let Some(wait) = throttled.max() {
        return Next::Retry(wait);
    }
    let is_refused = outcomes.iter().any(|(_, o)| matches!(o, Outcome::Refused { .. }));
    match (outcomes.is_empty(), is_refused) {
        (true, _) => Next::Change,
        (false, true) => Next::Retry(RETRY),
        (false, false) => Next::OwnChanges,
    }
}

/// Whether a plan could come out differently: changes of leaders and in-sync replicas, which are most
/// of what happens in a cluster, do not matter.
fn is_relevant(planned: &Image, image: &Image) -> bool {
    let delta = Delta::between(planned, image);
    let placement = |image: &Image, id| {
        let topic = image.topic(id)?;
        let replicas = topic.partitions.values().map(|partition| partition.replicas.clone());
        Some(replicas.collect::<Vec<_>>())
    };
    delta.configs
        || delta.features
        || !delta.brokers.is_empty()
        || !delta.removed_topics.is_empty()
        || delta.topics.iter().any(|id| placement(planned, *id) != placement(image, *id))
}
