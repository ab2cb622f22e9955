//! Plays `strays*.txt`: a destination in, what has to be moved out. Seats are 9001 and 9002.
//!
//! ```text
//! broker ID [rack=RACK] [fenced|stopping|cordoned]
//! topic NAME [KEY=VALUE]...
//! partition TOPIC NUMBER REPLICAS [isr=..|none] [adding=..] [removing=..] [leader=ID|none] [epoch=N]
//! bound TOPIC                     a link took it for its mirror
//! late TOPIC NUMBER               its move takes too long
//! owed TOPIC NUMBER COUNT         it had so many replicas before a hasty move
//! find
//! empty TOPIC NUMBER              whether 9001 may say that it holds nothing
//! ```

use std::collections::{BTreeMap, BTreeSet};

use lockstep::mirror::strays::{Known, Next, Stray, find, is_provably_empty};
use lockstep::types::{BrokerId, PartitionKey, TopicId};

use crate::metadata_log::{BrokerState, MetadataLog, PartitionState};

/// What a file has built up so far.
#[derive(Default)]
pub struct State {
    log: MetadataLog,
    topics_created: u128,
    mirrors: BTreeSet<TopicId>,
    late: BTreeSet<PartitionKey>,
    owed: BTreeMap<PartitionKey, usize>,
}

/// One command.
pub fn run(state: &mut State, command: &str) -> String {
    let outputs: Vec<_> = command.lines().filter_map(|line| run_line(state, line)).collect();
    if outputs.is_empty() { "ok".to_owned() } else { outputs.join("\n") }
}

fn run_line(state: &mut State, line: &str) -> Option<String> {
    let words: Vec<_> = line.split_whitespace().collect();
    let (verb, arguments) = words.split_first().expect("no empty command");
    match (*verb, arguments) {
        ("broker", [id, options @ ..]) => {
            let rack = options.iter().find_map(|option| option.strip_prefix("rack="));
            let registered = match options.last() {
                Some(&"fenced") => BrokerState::Fenced,
                Some(&"stopping") => BrokerState::Stopping,
                Some(&"cordoned") => BrokerState::Cordoned,
                _ => BrokerState::Unfenced,
            };
            state.log.register_broker(id.parse().unwrap(), rack, registered);
        }
        ("topic", [name, configs @ ..]) => {
            state.topics_created += 1;
            state.log.topic(state.topics_created, name);
            for config in configs {
                let (key, value) = config.split_once('=').unwrap();
                state.log.topic_config(name, key, Some(value));
            }
        }
        ("partition", [topic, number, replicas, options @ ..]) => {
            let key = state.key(topic, number);
            let partition = partition(replicas, options);
            state.log.partition_in(key.topic.0, key.partition, &partition);
        }
        ("bound", [topic]) => {
            state.mirrors.insert(state.key(topic, "0").topic);
        }
        ("late", [topic, number]) => {
            state.late.insert(state.key(topic, number));
        }
        ("owed", [topic, number, count]) => {
            state.owed.insert(state.key(topic, number), count.parse().unwrap());
        }
        ("find", []) => return Some(state.find()),
        ("empty", [topic, number]) => {
            let image = state.log.image();
            let partition = image.partition(state.key(topic, number)).unwrap();
            return Some(is_provably_empty(partition, BrokerId(9001), &seats()).to_string());
        }
        _ => panic!("no such command: {line}"),
    }
    None
}

impl State {
    fn key(&self, topic: &str, number: &str) -> PartitionKey {
        let topic = self.log.image().topic_named(&topic.into()).unwrap().id;
        PartitionKey { topic, partition: number.parse().unwrap() }
    }

    fn find(&self) -> String {
        let seats = seats();
        let (mirrors, late, owed) = (&self.mirrors, &self.late, &self.owed);
        let known = Known { seats: &seats, mirrors, late, owed };
        let lines: Vec<_> = find(self.log.image(), known).iter().map(describe).collect();
        if lines.is_empty() { "none".to_owned() } else { lines.join("\n") }
    }
}

fn seats() -> BTreeSet<BrokerId> {
    BTreeSet::from([BrokerId(9001), BrokerId(9002)])
}

fn partition(replicas: &str, options: &[&str]) -> PartitionState {
    let ids = |text: &str| text.split(',').map(|id| id.parse().unwrap()).collect::<Vec<_>>();
    let option = |name: &str| {
        let mut found = options.iter().filter_map(|option| option.split_once('='));
        found.find(|(key, _)| *key == name).map(|(_, value)| value)
    };
    let list = |name: &str| option(name).map(ids).unwrap_or_default();
    let all = ids(replicas);
    PartitionState {
        in_sync: match option("isr") {
            Some("none") => Vec::new(),
            listed => listed.map_or_else(|| all.clone(), ids),
        },
        removing: list("removing"),
        adding: list("adding"),
        leader: match option("leader") {
            Some("none") => -1,
            Some(id) => id.parse().unwrap(),
            None => all[0],
        },
        leader_epoch: option("epoch").map_or(0, |epoch| epoch.parse().unwrap()),
        replicas: all,
    }
}

fn describe(stray: &Stray) -> String {
    let list = |ids: &[BrokerId]| {
        let ids: Vec<_> = ids.iter().map(|id| id.0.to_string()).collect();
        ids.join(",")
    };
    let next = match &stray.next {
        Next::Move(replicas) => format!("move to {}", list(replicas)),
        other => format!("{other:?}").to_lowercase(),
    };
    let (topic, partition) = (&stray.topic, stray.key.partition);
    let (urgency, wanted) = (format!("{:?}", stray.urgency).to_lowercase(), stray.wanted);
    format!("{topic}-{partition} {urgency} on {} of {wanted}: {next}", list(&stray.replicas))
}
