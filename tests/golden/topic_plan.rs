//! Plays `topic_plan*.txt`: a destination, source topics and rules in, the plan out.
//!
//! ```text
//! broker ID [rack=RACK] [seat] [fenced|stopping|cordoned]
//! feature NAME LEVEL
//! topic NAME REPLICAS...          a destination topic; REPLICAS as 9001,1,2 for each partition
//! locked-topic NAME REPLICAS...   the same with the lock set
//! config NAME KEY[=VALUE]...      configs of a destination topic; without a value: deleted
//! leader NAME PARTITION BROKER    leads that partition
//! delete NAME                     a destination topic
//! source NAME id=ID partitions=N [KEY=VALUE]... [default:KEY=VALUE]... [unreadable]
//! no-source NAME
//! rules [include=PATTERN]... [exclude=PATTERN]... [prefix=TEXT] [absent=SEAT]...
//! defaults replication_factor=N | defaults none
//! plan                            the plan; mirrors bound by it stay pinned to their source ids
//! apply                           the same, and the destination does as it is told
//! ```

use std::collections::BTreeMap;
use std::fmt::Write as _;

use lockstep::mirror::filter::TopicFilter;
use lockstep::mirror::topic_configs::{Configs, SourceConfig};
use lockstep::mirror::topic_plan::{
    Action, Binding, DestinationDefaults, Pins, SourceTopic, TopicRules, plan,
};
use lockstep::types::{BrokerId, TopicId, Uuid};

use crate::metadata_log::{BrokerState, MetadataLog, PartitionState};

const SEAT: BrokerId = BrokerId(9001);

const KNOWN: &str = "cleanup.policy compression.type delete.retention.ms flush.ms max.message.bytes \
    min.compaction.lag.ms min.insync.replicas retention.bytes retention.ms segment.bytes segment.ms \
    unclean.leader.election.enable";

const LOCK: [(&str, &str); 4] = [
    ("max.message.bytes", "0"),
    ("retention.bytes", "-1"),
    ("retention.ms", "-1"),
    ("unclean.leader.election.enable", "false"),
];

/// What a file has built up so far.
pub struct State {
    log: MetadataLog,
    topics_created: u128,
    sources: BTreeMap<String, SourceTopic>,
    rules: TopicRules,
    defaults: Option<DestinationDefaults>,
    pins: Pins,
}

impl Default for State {
    fn default() -> Self {
        Self {
            log: MetadataLog::default(),
            topics_created: 0,
            sources: BTreeMap::new(),
            rules: rules(&[]),
            defaults: defaults(&["replication_factor=2"]),
            pins: Pins::new(),
        }
    }
}

/// One command.
pub fn run(state: &mut State, command: &str) -> String {
    let mut output = String::new();
    for line in command.lines() {
        output.push_str(&run_line(state, line));
    }
    if output.is_empty() { "ok".to_owned() } else { output }
}

fn run_line(state: &mut State, line: &str) -> String {
    let words: Vec<_> = line.split_whitespace().collect();
    let (verb, arguments) = words.split_first().expect("no empty command");
    let name = arguments.first().copied().unwrap_or_default();
    match *verb {
        "broker" => state.broker(name, &arguments[1..]),
        "feature" => state.log.feature(name, arguments[1].parse().unwrap()),
        "topic" => state.topic(name, &arguments[1..], &[]),
        "locked-topic" => state.topic(name, &arguments[1..], &LOCK),
        "config" => arguments[1..].iter().for_each(|config| match config.split_once('=') {
            Some((key, value)) => state.log.topic_config(name, key, Some(value)),
            None => state.log.topic_config(name, config, None),
        }),
        "leader" => {
            let topic = state.log.image().topic_named(&name.into()).unwrap();
            let (id, partition) = (topic.id.0, arguments[1].parse().unwrap());
            let ids = |ids: &[BrokerId]| ids.iter().map(|id| id.0).collect::<Vec<_>>();
            let replicas = ids(&topic.partitions[&partition].replicas);
            let leader = arguments[2].parse().unwrap();
            let in_sync = replicas.clone();
            let led = PartitionState { replicas, in_sync, leader, ..PartitionState::default() };
            state.log.partition_in(id, partition, &led);
        }
        "delete" => {
            let id = state.log.image().topic_named(&name.into()).unwrap().id.0;
            state.log.remove_topic(id);
        }
        "source" => {
            state.sources.insert(name.to_owned(), source(name, &arguments[1..]));
        }
        "no-source" => assert!(state.sources.remove(name).is_some(), "{line}"),
        "rules" => state.rules = rules(arguments),
        "defaults" => state.defaults = defaults(arguments),
        "plan" => return state.plan().iter().map(describe).collect(),
        "apply" => {
            let actions = state.plan();
            actions.iter().for_each(|action| state.obey(action));
            return actions.iter().map(describe).collect();
        }
        _ => panic!("no such command: {line}"),
    }
    String::new()
}

impl State {
    fn broker(&mut self, id: &str, options: &[&str]) {
        let rack = options.iter().find_map(|option| option.strip_prefix("rack="));
        let state = match options.last() {
            Some(&"fenced") => BrokerState::Fenced,
            Some(&"stopping") => BrokerState::Stopping,
            Some(&"cordoned") => BrokerState::Cordoned,
            _ => BrokerState::Unfenced,
        };
        let id = id.parse().unwrap();
        if options.contains(&"seat") {
            return self.log.register_seat(id, state);
        }
        self.log.register_broker(id, rack, state);
    }

    fn topic(&mut self, name: &str, partitions: &[&str], configs: &[(&str, &str)]) {
        self.topics_created += 1;
        let id = self.topics_created;
        self.log.topic(id, name);
        for (partition, replicas) in (0..).zip(partitions) {
            let replicas: Vec<_> = replicas.split(',').map(|id| id.parse().unwrap()).collect();
            self.log.partition(Uuid::from_u128(id), partition, &replicas);
        }
        for (key, value) in configs {
            self.log.topic_config(name, key, Some(value));
        }
    }

    fn plan(&mut self) -> Vec<Action> {
        let sources: Vec<_> = self.sources.values().cloned().collect();
        let actions =
            plan(&sources, self.log.image(), &self.rules, self.defaults.as_ref(), &self.pins);
        for action in &actions {
            if let Action::Bind(binding) = action {
                self.pins.insert(binding.id, binding.source_id);
            }
        }
        actions
    }

    /// Does what the destination would do.
    fn obey(&mut self, action: &Action) {
        match action {
            Action::Create { name, partitions, configs, .. } => {
                let partitions: Vec<_> = partitions.iter().map(|ids| replicas(ids)).collect();
                let partitions: Vec<_> = partitions.iter().map(String::as_str).collect();
                let configs: Vec<_> =
                    configs.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
                self.topic(name.as_str(), &partitions, &configs);
            }
            Action::AddPartitions { name, partitions, .. } => {
                let topic = self.log.image().topic_named(name).unwrap();
                let (id, present) = (topic.id.0, topic.partitions.len());
                for (offset, ids) in partitions.iter().enumerate() {
                    let replicas: Vec<_> = ids.iter().map(|id| id.0).collect();
                    self.log.partition(id, i32::try_from(present + offset).unwrap(), &replicas);
                }
            }
            Action::AlterConfigs { name, set, delete } => {
                for (key, value) in set {
                    self.log.topic_config(name.as_str(), key, Some(value));
                }
                for key in delete {
                    self.log.topic_config(name.as_str(), key, None);
                }
            }
            Action::Reassign { name, partitions } => {
                let id = self.log.image().topic_named(name).unwrap().id.0;
                for (number, ids) in partitions {
                    let replicas: Vec<_> = ids.iter().map(|id| id.0).collect();
                    self.log.partition(id, *number, &replicas);
                }
            }
            Action::Wait { .. }
            | Action::Adjust { .. }
            | Action::Bind(_)
            | Action::Refuse { .. } => {}
        }
    }
}

fn source(name: &str, options: &[&str]) -> SourceTopic {
    let mut topic = SourceTopic {
        name: name.into(),
        id: TopicId::NONE,
        partitions: 0,
        configs: Some(BTreeMap::new()),
    };
    for option in options {
        match option.split_once('=') {
            Some(("id", id)) => topic.id = TopicId(Uuid::from_u128(id.parse().unwrap())),
            Some(("partitions", count)) => topic.partitions = count.parse().unwrap(),
            Some((key, value)) => {
                let on_topic = !key.starts_with("default:");
                let key = key.strip_prefix("default:").unwrap_or(key).to_owned();
                let config = SourceConfig { value: value.to_owned(), on_topic };
                topic.configs.get_or_insert_default().insert(key, config);
            }
            None if *option == "unreadable" => topic.configs = None,
            None => panic!("no such option: {option}"),
        }
    }
    topic
}

fn rules(options: &[&str]) -> TopicRules {
    let all = |key: &str| -> Vec<String> {
        let values = options.iter().filter_map(|option| option.strip_prefix(key));
        values.map(ToOwned::to_owned).collect()
    };
    TopicRules {
        filter: TopicFilter::new(&all("include="), &all("exclude=")).unwrap(),
        rename_prefix: all("prefix=").pop().unwrap_or_default(),
        seat: SEAT,
        absent: all("absent=").iter().map(|id| BrokerId(id.parse().unwrap())).collect(),
    }
}

fn defaults(options: &[&str]) -> Option<DestinationDefaults> {
    let replication_factor = options.first()?.strip_prefix("replication_factor=")?;
    Some(DestinationDefaults {
        replication_factor: replication_factor.parse().unwrap(),
        known_configs: KNOWN.split_whitespace().map(ToOwned::to_owned).collect(),
    })
}

fn describe(action: &Action) -> String {
    match action {
        Action::Create { name, source, partitions, configs } => {
            let first = format!("create {name} as mirror of {source}\n");
            first + &placed(0, partitions) + &settings(configs)
        }
        Action::Wait { name, source } => format!("wait to create {name} as mirror of {source}\n"),
        Action::AddPartitions { name, total, partitions } => {
            let first = format!("add partitions to {name}, {total} in all\n");
            first + &placed(total - partitions.len(), partitions)
        }
        Action::AlterConfigs { name, set, delete } => {
            let mut text = format!("alter configs of {name}\n{}", settings(set));
            for key in delete {
                writeln!(text, "  delete {key}").unwrap();
            }
            text
        }
        Action::Reassign { name, partitions } => {
            let lines = partitions.iter().map(|(at, ids)| format!("  {at}: {}\n", replicas(ids)));
            format!("reassign {name}\n{}", lines.collect::<String>())
        }
        Action::Adjust { name, adjustment } => format!("adjust {name}: {adjustment}\n"),
        Action::Bind(binding) => bound(binding),
        Action::Refuse { name, source, refusal } => {
            let retried = if refusal.is_retriable() { " (retried)" } else { "" };
            format!("refuse {name} of {source}: {}{retried}: {refusal}\n", refusal.reason())
        }
    }
}

fn bound(binding: &Binding) -> String {
    let Binding { name, source_name, segment_bytes, .. } = binding;
    let id = |id: TopicId| id.0.as_u128();
    let (ours, theirs) = (id(binding.id), id(binding.source_id));
    format!("bind {name} ({ours}) to {source_name} ({theirs}), segments of {segment_bytes}\n")
}

fn placed(first: usize, partitions: &[Vec<BrokerId>]) -> String {
    let lines = (first..).zip(partitions);
    lines.map(|(partition, ids)| format!("  {partition}: {}\n", replicas(ids))).collect()
}

fn settings(configs: &Configs) -> String {
    configs.iter().map(|(key, value)| format!("  {key}={value}\n")).collect()
}

fn replicas(ids: &[BrokerId]) -> String {
    ids.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
}
