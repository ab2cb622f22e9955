//! What has to be done so that the destination has the mirrors that a link's filter asks for: source
//! topics and the destination's image in, actions out. Nothing here is ever shortened or deleted.

use std::collections::{BTreeMap, BTreeSet};

use super::filter::TopicFilter;
use super::placement::Placement;
use super::seats::{self, Reassignment};
use super::topic_configs::{
    self, Adjustment, ConfigRules, Configs, SourceConfigs, is_locked, min_insync_replicas,
    mirror_configs,
};
use super::topic_refusal::{ForeignTopic, Refusal};
use crate::image::{Image, TopicImage};
use crate::types::{BrokerId, TopicId, TopicName};

/// Brokers keep a set of eligible leaders per partition from level 1 on (KIP-966).
const ELR_FEATURE: &str = "eligible.leader.replicas.version";

/// Assumed for a mirror on which `segment.bytes` is not set: the least that 4.x accepts.
const SEGMENT_BYTES_FALLBACK: usize = 1 << 20;

/// A topic of the source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceTopic {
    /// Its name there.
    pub name: TopicName,
    /// Its id there; [`TopicId::NONE`] where the source has none.
    pub id: TopicId,
    /// How many partitions it has; 0 where the source does not tell now: then its id is not known
    /// either.
    pub partitions: usize,
    /// Its configs; `None` as long as they are not known: nothing is created then.
    pub configs: Option<SourceConfigs>,
}

/// What a link wants of the destination.
#[derive(Clone, Debug)]
pub struct TopicRules {
    /// Which source topics have mirrors.
    pub filter: TopicFilter,
    /// Comes before the source's name in the mirror's.
    pub rename_prefix: String,
    /// Our seat; the others are known from the image.
    pub seat: BrokerId,
    /// Seats that have been down for a while.
    pub absent: BTreeSet<BrokerId>,
}

/// What the destination tells of itself besides its image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DestinationDefaults {
    /// Real replicas of a new mirror: the link's number, or the destination's default.
    pub replication_factor: usize,
    /// Configs that a topic can have there.
    pub known_configs: BTreeSet<String>,
}

/// Source ids of the mirrors that we already know, by their ids at the destination. A topic is its
/// id: a mirror goes on with the id it began with, whatever now has the name at the source.
pub type Pins = BTreeMap<TopicId, TopicId>;

/// One thing to do, or to say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Create a mirror.
    Create {
        /// Its name.
        name: TopicName,
        /// The source topic's name.
        source: TopicName,
        /// Replicas by partition.
        partitions: Vec<Vec<BrokerId>>,
        /// The followed configs and the lock.
        configs: Configs,
    },
    /// Create it later: the destination has not told what it needs to be asked for.
    Wait {
        /// The mirror's name.
        name: TopicName,
        /// The source topic's name.
        source: TopicName,
    },
    /// Add partitions to a mirror.
    AddPartitions {
        /// Its name.
        name: TopicName,
        /// How many it has then.
        total: usize,
        /// Replicas of the new ones.
        partitions: Vec<Vec<BrokerId>>,
    },
    /// Bring the configs of a mirror to what they should be.
    AlterConfigs {
        /// Its name.
        name: TopicName,
        /// To be set.
        set: Configs,
        /// To be deleted.
        delete: BTreeSet<String>,
    },
    /// Give partitions of a mirror the seats that there are. No data moves.
    Reassign {
        /// Its name.
        name: TopicName,
        /// Replicas by partition.
        partitions: Reassignment,
    },
    /// A config had to differ from the source's.
    Adjust {
        /// The mirror's name.
        name: TopicName,
        /// What and why.
        adjustment: Adjustment,
    },
    /// This topic is a mirror of ours.
    Bind(Binding),
    /// A source topic is not mirrored, or not any more, for this reason.
    Refuse {
        /// The mirror's name.
        name: TopicName,
        /// The source topic's name.
        source: TopicName,
        /// Why.
        refusal: Refusal,
    },
}

/// A mirror of ours and what it mirrors.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Binding {
    /// Its id at the destination.
    pub id: TopicId,
    /// Its name at the destination.
    pub name: TopicName,
    /// Its name at the source.
    pub source_name: TopicName,
    /// The id at the source that it was first bound to; [`TopicId::NONE`] where there is none.
    pub source_id: TopicId,
    /// `segment.bytes` at the destination.
    pub segment_bytes: usize,
}

/// All that has to be done now, in the order of the mirrors' names. Without `defaults` (the
/// destination has not told them yet) nothing is created or changed, but what is there is bound.
pub fn plan(
    sources: &[SourceTopic],
    image: &Image,
    rules: &TopicRules,
    defaults: Option<&DestinationDefaults>,
    pins: &Pins,
) -> Vec<Action> {
    let mut planner =
        Planner { image, rules, defaults, pins, placement: None, actions: Vec::new() };
    let wanted: BTreeMap<TopicName, &SourceTopic> = sources
        .iter()
        .filter(|source| rules.filter.decide(source.name.as_str()).is_included())
        .map(|source| (rules.mirror_name(&source.name), source))
        .collect();
    let orphans = planner.orphans(&wanted);
    let mut names: BTreeSet<&TopicName> = wanted.keys().collect();
    names.extend(orphans.keys());
    for name in names {
        match (wanted.get(name), orphans.get(name)) {
            (Some(source), _) => planner.wanted(name, source),
            (None, Some((mirror, source_name))) => planner.orphan(mirror, source_name),
            (None, None) => {}
        }
    }
    planner.actions
}

impl TopicRules {
    /// The name of a source topic's mirror.
    pub fn mirror_name(&self, source: &TopicName) -> TopicName {
        TopicName::from(format!("{}{source}", self.rename_prefix).as_str())
    }

    /// The name of a mirror's source topic, where the filter includes it.
    fn source_name(&self, mirror: &TopicName) -> Option<TopicName> {
        let source = mirror.as_str().strip_prefix(&self.rename_prefix)?;
        let is_included = self.filter.decide(source).is_included();
        is_included.then(|| TopicName::from(source))
    }

    /// What a topic lacks to be a mirror of ours.
    fn foreign(&self, image: &Image, topic: &TopicImage) -> Option<ForeignTopic> {
        for (&partition, state) in &topic.partitions {
            if !image.is_seat_at(state, 0) && state.replicas.first() != Some(&self.seat) {
                return Some(ForeignTopic::SeatNotFirst { partition });
            }
        }
        (!is_locked(image.topic_config(&topic.name))).then_some(ForeignTopic::Unlocked)
    }
}

struct Planner<'a> {
    image: &'a Image,
    rules: &'a TopicRules,
    defaults: Option<&'a DestinationDefaults>,
    pins: &'a Pins,
    /// Counted when something is placed, which is rare.
    placement: Option<Placement>,
    actions: Vec<Action>,
}

impl<'a> Planner<'a> {
    /// Mirrors of ours whose source topic is not there.
    fn orphans(
        &self,
        wanted: &BTreeMap<TopicName, &SourceTopic>,
    ) -> BTreeMap<TopicName, (&'a TopicImage, TopicName)> {
        self.image
            .topics()
            .filter(|topic| !wanted.contains_key(&topic.name))
            .filter(|topic| self.rules.foreign(self.image, topic).is_none())
            .filter_map(|topic| {
                let source = self.rules.source_name(&topic.name)?;
                Some((topic.name.clone(), (topic.as_ref(), source)))
            })
            .collect()
    }

    /// Bound only under the id that it began with: under none it would take whatever gets the name
    /// next. Unbound it stays as it is, and real brokers lead it.
    fn orphan(&mut self, mirror: &TopicImage, source_name: &TopicName) {
        if let Some(&pinned) = self.pins.get(&mirror.id) {
            self.bind(mirror, source_name, pinned);
        }
        self.refuse(&mirror.name, source_name, Refusal::SourceTopicDeleted);
    }

    fn wanted(&mut self, name: &TopicName, source: &SourceTopic) {
        let Some(topic) = self.image.topic_named(name) else {
            return self.create(name, source);
        };
        if let Some(foreign) = self.rules.foreign(self.image, topic) {
            let refusal = Refusal::DestinationTopicExists(foreign);
            return self.refuse(name, &source.name, refusal);
        }
        if source.partitions > 0 || self.pins.contains_key(&topic.id) {
            self.bind(topic, &source.name, self.pin(topic.id, source.id));
        }
        if let Some(refusal) = self.broken(topic, source) {
            return self.refuse(name, &source.name, refusal);
        }
        self.add_partitions(topic, source);
        self.follow_seats(topic);
        self.follow_configs(topic, source);
    }

    /// What keeps a mirror from following this source topic.
    fn broken(&self, mirror: &TopicImage, source: &SourceTopic) -> Option<Refusal> {
        if source.partitions == 0 {
            return None;
        }
        let expected = self.pin(mirror.id, source.id);
        if expected != source.id {
            let found = source.id;
            return Some(Refusal::SourceTopicIdChanged { expected, found });
        }
        let partitions = mirror.partitions.len();
        (source.partitions < partitions).then_some(Refusal::SourcePartitionsDecreased {
            source: source.partitions,
            mirror: partitions,
        })
    }

    fn create(&mut self, name: &TopicName, source: &SourceTopic) {
        let Some(source_configs) = &source.configs else {
            return self.refuse(name, &source.name, Refusal::SourceConfigsUnknown);
        };
        let Some(defaults) = self.defaults else {
            let (name, source) = (name.clone(), source.name.clone());
            return self.actions.push(Action::Wait { name, source });
        };
        let real_replicas = defaults.replication_factor;
        let Some(partitions) =
            self.place(name, &source.name, source.partitions, real_replicas, None)
        else {
            return;
        };
        let mut configs = self.mirror_configs(name, source_configs, defaults);
        let elr_is_on = self.elr_is_on();
        // Those that the first partition was given.
        let seats = partitions.first().map_or(1, |first| first.len().saturating_sub(real_replicas));
        configs.extend([min_insync_replicas(elr_is_on, seats, real_replicas)]);
        self.actions.push(Action::Create {
            name: name.clone(),
            source: source.name.clone(),
            partitions,
            configs,
        });
    }

    /// New partitions have as many real replicas as the mirror has now.
    fn add_partitions(&mut self, mirror: &TopicImage, source: &SourceTopic) {
        let present = mirror.partitions.len();
        let missing = source.partitions.saturating_sub(present);
        let real_replicas = self.real_replicas(mirror);
        let name = &mirror.name;
        if let Some(partitions) =
            self.place(name, &source.name, missing, real_replicas, Some(mirror))
        {
            self.actions.push(Action::AddPartitions {
                name: name.clone(),
                total: present + missing,
                partitions,
            });
        }
    }

    fn follow_configs(&mut self, mirror: &TopicImage, source: &SourceTopic) {
        let (Some(defaults), Some(source_configs)) = (self.defaults, &source.configs) else {
            return;
        };
        let wanted = self.mirror_configs(&mirror.name, source_configs, defaults);
        let current = self.image.topic_config(&mirror.name);
        let (mut set, delete) = topic_configs::changes(current.unwrap_or(&Configs::new()), &wanted);
        set.extend(self.majority(mirror));
        if !set.is_empty() || !delete.is_empty() {
            let name = mirror.name.clone();
            self.actions.push(Action::AlterConfigs { name, set, delete });
        }
    }

    /// Seats come and go; only those that a mirror has, and none else, may lead it.
    fn follow_seats(&mut self, mirror: &TopicImage) {
        let partitions = seats::changes(self.image, mirror, &self.rules.absent);
        if !partitions.is_empty() {
            self.actions.push(Action::Reassign { name: mirror.name.clone(), partitions });
        }
    }

    /// `min.insync.replicas` of a mirror where it does not fit the seats any more. Any write of it
    /// clears the eligible leader replicas: it waits until there are none.
    fn majority(&self, mirror: &TopicImage) -> Option<(String, String)> {
        let is_in_use = mirror.partitions.values().any(|partition| {
            !partition.eligible_leaders.is_empty()
                || !partition.last_known_eligible_leaders.is_empty()
        });
        if !self.elr_is_on() || is_in_use {
            return None;
        }
        let first = mirror.partitions.values().next()?;
        let seats = seats::wanted(self.image, first).len().max(1);
        let (key, value) = min_insync_replicas(true, seats, self.real_replicas(mirror));
        let current = self.image.topic_config(&mirror.name)?.get(&key);
        (current != Some(&value)).then_some((key, value))
    }

    fn elr_is_on(&self) -> bool {
        self.image.feature(ELR_FEATURE).unwrap_or(0) >= 1
    }

    /// How many replicas with disks a mirror's partitions have.
    fn real_replicas(&self, mirror: &TopicImage) -> usize {
        let Some(first) = mirror.partitions.values().next() else { return 0 };
        let mut seats = self.image.seats_of(first);
        seats.insert(self.rules.seat);
        first.replicas.iter().filter(|id| !seats.contains(id)).count()
    }

    fn mirror_configs(
        &mut self,
        name: &TopicName,
        source: &SourceConfigs,
        defaults: &DestinationDefaults,
    ) -> Configs {
        let rules = ConfigRules {
            known: &defaults.known_configs,
            metadata_version: self.image.metadata_version().unwrap_or(0),
        };
        let (configs, adjustments) = mirror_configs(source, rules);
        let adjust = |adjustment| Action::Adjust { name: name.clone(), adjustment };
        self.actions.extend(adjustments.into_iter().map(adjust));
        configs
    }

    /// `None` where there is nothing to place, or not enough to place it on.
    fn place(
        &mut self,
        name: &TopicName,
        source: &TopicName,
        count: usize,
        real_replicas: usize,
        existing: Option<&TopicImage>,
    ) -> Option<Vec<Vec<BrokerId>>> {
        if count == 0 {
            return None;
        }
        let placement =
            self.placement.get_or_insert_with(|| Placement::new(self.image, self.rules.seat));
        match placement.place(name, count, real_replicas, existing) {
            Ok(partitions) => Some(partitions),
            Err(error) => {
                self.refuse(name, source, Refusal::TooFewBrokers(error));
                None
            }
        }
    }

    fn bind(&mut self, mirror: &TopicImage, source_name: &TopicName, source_id: TopicId) {
        let configs = self.image.topic_config(&mirror.name);
        self.actions.push(Action::Bind(Binding {
            id: mirror.id,
            name: mirror.name.clone(),
            source_name: source_name.clone(),
            source_id,
            segment_bytes: topic_configs::segment_bytes(configs).unwrap_or(SEGMENT_BYTES_FALLBACK),
        }));
    }

    fn pin(&self, mirror: TopicId, source: TopicId) -> TopicId {
        self.pins.get(&mirror).copied().unwrap_or(source)
    }

    fn refuse(&mut self, name: &TopicName, source: &TopicName, refusal: Refusal) {
        self.actions.push(Action::Refuse { name: name.clone(), source: source.clone(), refusal });
    }
}
