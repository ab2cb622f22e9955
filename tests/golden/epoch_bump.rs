//! Plays `epoch_bump*.txt`: one partition on its way to a new leader epoch, and a controller that does
//! as it is told.
//!
//! ```text
//! broker ID [fenced|stopping]
//! partition REPLICAS [isr=..] [adding=..] [removing=..] [leader=ID]   epoch 5; the first replica leads
//! bump [avoid=ID]             a new epoch is needed from now on
//! repair                      what is left half done, as seat 9001 sees it
//! step                        the next step, and the controller does it
//! look                        the next step, and nothing comes of it
//! in-sync ID                  a replica comes into sync; a reassignment that waits for it is completed
//! give-up
//! ```

use std::collections::BTreeSet;

use lockstep::image::PartitionImage;
use lockstep::mirror::epoch_bump::{EpochBump, Step};
use lockstep::types::{BrokerId, LeaderEpoch};

use crate::metadata_log::{BrokerState, MetadataLog};

const SEATS: [BrokerId; 2] = [BrokerId(9001), BrokerId(9002)];

/// What a file has built up so far.
#[derive(Default)]
pub struct State {
    log: MetadataLog,
    partition: Option<PartitionImage>,
    bump: Option<EpochBump>,
}

/// One command.
pub fn run(state: &mut State, command: &str) -> String {
    command.lines().map(|line| run_line(state, line)).collect::<Vec<_>>().join("\n")
}

fn run_line(state: &mut State, line: &str) -> String {
    let words: Vec<_> = line.split_whitespace().collect();
    match words[0] {
        "broker" => {
            let standing = match words.get(2) {
                Some(&"fenced") => BrokerState::Fenced,
                Some(&"stopping") => BrokerState::Stopping,
                _ => BrokerState::Unfenced,
            };
            state.log.register_broker(words[1].parse().unwrap(), None, standing);
            return "ok".to_owned();
        }
        "partition" => state.partition = Some(partition(&words)),
        "bump" => {
            let avoid = words.iter().find_map(|word| word.strip_prefix("avoid="));
            let avoid = avoid.map(|id| BrokerId(id.parse().unwrap()));
            state.bump = Some(EpochBump::new(state.partition(), avoid));
        }
        "repair" => {
            let seats = BTreeSet::from(SEATS);
            state.bump = EpochBump::repair(
                state.partition.as_ref().unwrap(),
                SEATS[0],
                &seats,
                state.log.image(),
            );
            return if state.bump.is_some() { "repair" } else { "nothing to repair" }.to_owned();
        }
        "give-up" => state.bump.as_mut().unwrap().give_up(),
        "in-sync" => state.join(BrokerId(words[1].parse().unwrap())),
        "step" | "look" => return state.step(words[0] == "step"),
        other => panic!("unknown command {other}"),
    }
    describe(state.partition())
}

impl State {
    fn partition(&mut self) -> &mut PartitionImage {
        self.partition.as_mut().expect("partition comes first")
    }

    fn step(&mut self, is_done: bool) -> String {
        let (bump, partition) = (self.bump.as_mut().unwrap(), self.partition.as_ref().unwrap());
        let step = bump.next(partition, &BTreeSet::from(SEATS), self.log.image());
        let text = match &step {
            Step::Reassign(replicas) => format!("reassign {}", ids(replicas)),
            other => format!("{other:?}").to_lowercase(),
        };
        if is_done {
            self.obey(&step);
        }
        format!("{text}\n{}", describe(self.partition()))
    }

    /// What the controller makes of it: `PartitionChangeBuilder` of 4.0.
    fn obey(&mut self, step: &Step) {
        let partition = self.partition();
        match step {
            Step::Reassign(wanted) => {
                let adding: Vec<_> =
                    wanted.iter().filter(|id| !partition.replicas.contains(id)).copied().collect();
                let is_shorter = partition.replicas.iter().any(|id| !wanted.contains(id));
                partition.replicas.clone_from(wanted);
                partition.adding = adding;
                partition.leader_epoch.0 += i32::from(is_shorter);
            }
            Step::Cancel => {
                let adding = std::mem::take(&mut partition.adding);
                partition.replicas.retain(|id| !adding.contains(id));
                partition.leader_epoch.0 += 1;
            }
            Step::Elect => {
                partition.leader = partition.replicas.first().copied();
                partition.leader_epoch.0 += 1;
            }
            Step::Wait | Step::Done | Step::Impossible => {}
        }
    }

    fn join(&mut self, id: BrokerId) {
        let partition = self.partition();
        partition.in_sync.push(id);
        partition.adding.retain(|adding| *adding != id);
    }
}

fn partition(words: &[&str]) -> PartitionImage {
    let option = |key: &str| words.iter().find_map(|word| word.strip_prefix(key));
    let list = |text: &str| -> Vec<BrokerId> {
        text.split(',').map(|id| BrokerId(id.parse().unwrap())).collect()
    };
    let replicas = list(words[1]);
    PartitionImage {
        in_sync: option("isr=").map_or_else(|| replicas.clone(), list),
        removing: option("removing=").map(list).unwrap_or_default(),
        adding: option("adding=").map(list).unwrap_or_default(),
        leader: match option("leader=") {
            Some("none") => None,
            Some(id) => Some(BrokerId(id.parse().unwrap())),
            None => replicas.first().copied(),
        },
        leader_epoch: LeaderEpoch(5),
        partition_epoch: 0,
        is_recovering: false,
        directories: Vec::new(),
        eligible_leaders: Vec::new(),
        last_known_eligible_leaders: Vec::new(),
        replicas,
    }
}

fn describe(partition: &PartitionImage) -> String {
    let leader = partition.leader.map_or("nobody".to_owned(), |id| id.to_string());
    let (replicas, in_sync) = (ids(&partition.replicas), ids(&partition.in_sync));
    let adding = ids(&partition.adding);
    format!(
        "{leader} leads in epoch {}: {replicas}, in sync {in_sync}{}",
        partition.leader_epoch,
        if adding.is_empty() { String::new() } else { format!(", adding {adding}") }
    )
}

fn ids(ids: &[BrokerId]) -> String {
    ids.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
}
