//! The destination's active controller: registrations and sessions, fencing, elections in replica
//! order, changes of the in-sync replicas, and the metadata log that tells of it all.

use std::collections::BTreeMap;
use std::time::Duration;

use lockstep::types::Uuid;
use tokio::sync::watch;
use tokio::time::Instant;

use super::records;

/// A partition's key.
pub type Key = (Uuid, i32);

/// A broker that is not heard for so long is fenced.
const SESSION: Duration = Duration::from_secs(9);

pub const NOT_CONTROLLER: i16 = 41;
const INVALID_REQUEST: i16 = 42;
const FENCED_LEADER_EPOCH: i16 = 74;
pub const STALE_BROKER_EPOCH: i16 = 77;
const PREFERRED_NOT_AVAILABLE: i16 = 80;
const ELECTION_NOT_NEEDED: i16 = 84;
const INVALID_UPDATE_VERSION: i16 = 95;
const NO_REASSIGNMENT: i16 = 85;
const UNKNOWN_TOPIC_ID: i16 = 100;
const DUPLICATE_REGISTRATION: i16 = 101;
const NOT_REGISTERED: i16 = 102;
const INELIGIBLE_REPLICA: i16 = 107;

/// One registration of a broker.
#[derive(Clone, Debug)]
pub struct Registration {
    pub incarnation: Uuid,
    pub directory: Uuid,
    pub host: String,
    pub epoch: i64,
    pub is_fenced: bool,
    pub is_stopping: bool,
    pub heard_at: Instant,
}

/// A partition as its record says.
#[derive(Clone, Debug, PartialEq)]
pub struct PartitionState {
    pub replicas: Vec<i32>,
    pub in_sync: Vec<i32>,
    /// -1: nobody.
    pub leader: i32,
    pub leader_epoch: i32,
    pub partition_epoch: i32,
    /// Replicas that a reassignment under way adds and takes.
    pub adding: Vec<i32>,
    pub removing: Vec<i32>,
}

/// What real brokers read of the log.
#[derive(Clone, Debug)]
pub enum Change {
    Partition(Key, PartitionState),
    Other,
}

/// The active controller. Its log is whole from offset 0 on.
pub struct Controller {
    pub log: Vec<(Vec<u8>, Change)>,
    pub brokers: BTreeMap<i32, Registration>,
    pub topics: BTreeMap<String, Uuid>,
    pub partitions: BTreeMap<Key, PartitionState>,
    /// Whether it answers.
    pub is_up: bool,
    /// Told of every record.
    pub changed: watch::Sender<u64>,
}

/// A change of the in-sync replicas that a leader asks for.
#[derive(Clone, Debug)]
pub struct Alteration {
    pub broker: i32,
    pub broker_epoch: i64,
    pub key: Key,
    pub leader_epoch: i32,
    pub partition_epoch: i32,
    pub in_sync: Vec<(i32, i64)>,
}

impl Controller {
    pub fn new() -> Self {
        let mut controller = Self {
            log: Vec::new(),
            brokers: BTreeMap::new(),
            topics: BTreeMap::new(),
            partitions: BTreeMap::new(),
            is_up: true,
            changed: watch::Sender::new(0),
        };
        controller.write(records::feature("metadata.version", 30), Change::Other);
        controller
    }

    fn write(&mut self, record: Vec<u8>, change: Change) {
        self.log.push((record, change));
        self.changed.send_modify(|version| *version += 1);
    }

    /// A broker registers; its epoch.
    pub fn register(
        &mut self,
        broker: i32,
        incarnation: Uuid,
        directory: Uuid,
        host: &str,
    ) -> Result<i64, i16> {
        if let Some(known) = self.brokers.get_mut(&broker) {
            if known.incarnation == incarnation {
                known.heard_at = Instant::now();
                return Ok(known.epoch);
            }
            if !known.is_fenced && known.heard_at.elapsed() < SESSION {
                return Err(DUPLICATE_REGISTRATION);
            }
            self.fence(broker);
        }
        let registration = Registration {
            incarnation,
            directory,
            host: host.to_owned(),
            epoch: self.log.len() as i64,
            is_fenced: true,
            is_stopping: false,
            heard_at: Instant::now(),
        };
        self.write(records::register(broker, &registration), Change::Other);
        let epoch = registration.epoch;
        self.brokers.insert(broker, registration);
        Ok(epoch)
    }

    /// A heartbeat: whether the broker is fenced, and whether it may stop.
    pub fn heartbeat(
        &mut self,
        broker: i32,
        epoch: i64,
        applied: i64,
        wants_fence: bool,
        wants_stop: bool,
    ) -> Result<(bool, bool), i16> {
        let known = self.brokers.get_mut(&broker).ok_or(NOT_REGISTERED)?;
        if known.epoch != epoch {
            return Err(STALE_BROKER_EPOCH);
        }
        known.heard_at = Instant::now();
        let (is_fenced, is_stopping) = (known.is_fenced, known.is_stopping);
        if wants_stop {
            if is_fenced {
                return Ok((true, true));
            }
            if !is_stopping {
                known.is_stopping = true;
                self.write(records::stopping(broker, epoch), Change::Other);
                self.take_out(broker);
            }
            let leads = self.partitions.values().any(|state| state.leader == broker);
            if !leads {
                self.fence(broker);
            }
            return Ok((!leads, !leads));
        }
        match (is_fenced, wants_fence) {
            (false, true) => self.fence(broker),
            (true, false) if applied >= epoch => self.unfence(broker),
            _ => {}
        }
        Ok((self.brokers[&broker].is_fenced, false))
    }

    fn fence(&mut self, broker: i32) {
        let Some(known) = self.brokers.get_mut(&broker).filter(|known| !known.is_fenced) else {
            return;
        };
        known.is_fenced = true;
        let record = records::fencing(broker, known.epoch, true);
        self.write(record, Change::Other);
        self.take_out(broker);
    }

    fn unfence(&mut self, broker: i32) {
        let Some(known) = self.brokers.get_mut(&broker) else { return };
        known.is_fenced = false;
        let record = records::fencing(broker, known.epoch, false);
        self.write(record, Change::Other);
        let keys: Vec<_> = self.partitions.keys().copied().collect();
        for key in keys {
            let state = &self.partitions[&key];
            if state.leader < 0 && state.in_sync.contains(&broker) {
                let leader = self.best(&state.replicas, &state.in_sync);
                self.change(key, state.in_sync.clone(), leader);
            }
        }
    }

    /// Out of all in-sync replicas, but not as the last of one.
    fn take_out(&mut self, broker: i32) {
        let keys: Vec<_> = self.partitions.keys().copied().collect();
        for key in keys {
            let state = &self.partitions[&key];
            if !state.in_sync.contains(&broker) {
                continue;
            }
            let others: Vec<_> = state.in_sync.iter().copied().filter(|&id| id != broker).collect();
            let in_sync = if others.is_empty() { state.in_sync.clone() } else { others };
            let leader = if state.leader == broker {
                Some(self.best(&state.replicas, &in_sync).unwrap_or(-1))
            } else {
                None
            };
            self.change(key, in_sync, leader);
        }
    }

    fn is_active(&self, broker: i32) -> bool {
        self.brokers.get(&broker).is_some_and(|known| !known.is_fenced && !known.is_stopping)
    }

    /// The first in the order of the replicas that is in sync and alive.
    fn best(&self, replicas: &[i32], in_sync: &[i32]) -> Option<i32> {
        replicas.iter().copied().find(|id| in_sync.contains(id) && self.is_active(*id))
    }

    fn change(&mut self, key: Key, in_sync: Vec<i32>, leader: Option<i32>) {
        let Some(state) = self.partitions.get_mut(&key) else { return };
        state.partition_epoch += 1;
        if let Some(leader) = leader {
            state.leader = leader;
            state.leader_epoch += 1;
        }
        state.in_sync.clone_from(&in_sync);
        let state = state.clone();
        let record = records::change(key.0, key.1, &state, leader, false);
        self.write(record, Change::Partition(key, state));
        self.complete_reassignment(key);
    }

    /// `AlterPartitionReassignments` for one partition; `None` cancels.
    pub fn reassign(&mut self, key: Key, wanted: Option<Vec<i32>>) -> Result<(), i16> {
        let state = self.partitions.get(&key).ok_or(3i16)?.clone();
        let current: Vec<_> =
            state.replicas.iter().copied().filter(|id| !state.adding.contains(id)).collect();
        let Some(wanted) = wanted else {
            if state.adding.is_empty() && state.removing.is_empty() {
                return Err(NO_REASSIGNMENT);
            }
            let in_sync = state.in_sync.iter().copied().filter(|id| current.contains(id)).collect();
            self.place(key, current, in_sync, Vec::new(), Vec::new());
            return Ok(());
        };
        let without = |of: &[i32], other: &[i32]| -> Vec<i32> {
            of.iter().copied().filter(|id| !other.contains(id)).collect()
        };
        let (adding, removing) = (without(&wanted, &current), without(&current, &wanted));
        let mut replicas = wanted;
        replicas.extend(&removing);
        self.place(key, replicas, state.in_sync, adding, removing);
        self.complete_reassignment(key);
        Ok(())
    }

    /// Complete with every wanted replica in sync, or where only some are taken away (4.3).
    fn complete_reassignment(&mut self, key: Key) {
        let Some(state) = self.partitions.get(&key) else { return };
        let wanted: Vec<_> =
            state.replicas.iter().copied().filter(|id| !state.removing.contains(id)).collect();
        let in_sync: Vec<_> =
            state.in_sync.iter().copied().filter(|id| wanted.contains(id)).collect();
        let is_complete = in_sync.len() == wanted.len() || state.adding.is_empty();
        if state.adding.is_empty() && state.removing.is_empty()
            || !is_complete
            || in_sync.is_empty()
        {
            return;
        }
        self.place(key, wanted, in_sync, Vec::new(), Vec::new());
    }

    /// A removal makes a new leader epoch, a mere reordering does not.
    fn place(
        &mut self,
        key: Key,
        replicas: Vec<i32>,
        in_sync: Vec<i32>,
        adding: Vec<i32>,
        removing: Vec<i32>,
    ) {
        let state = &self.partitions[&key];
        let is_removal = state.replicas.iter().any(|id| !replicas.contains(id));
        let keeps = replicas.contains(&state.leader) && in_sync.contains(&state.leader);
        let best = self.best(&replicas, &in_sync).unwrap_or(-1);
        let leader = if keeps { state.leader } else { best };
        let leader = (is_removal || !keeps).then_some(leader);
        let Some(state) = self.partitions.get_mut(&key) else { return };
        state.partition_epoch += 1;
        if let Some(leader) = leader {
            state.leader = leader;
            state.leader_epoch += 1;
        }
        (state.replicas, state.in_sync) = (replicas, in_sync);
        (state.adding, state.removing) = (adding, removing);
        let state = state.clone();
        let record = records::change(key.0, key.1, &state, leader, true);
        self.write(record, Change::Partition(key, state));
    }

    /// Fences those that were not heard. Done often.
    pub fn tick(&mut self) {
        let silent = |known: &Registration| !known.is_fenced && known.heard_at.elapsed() >= SESSION;
        let silent: Vec<_> =
            self.brokers.iter().filter(|(_, known)| silent(known)).map(|(&id, _)| id).collect();
        for id in silent {
            self.fence(id);
        }
    }

    /// `AlterPartition` for one partition.
    pub fn alter(&mut self, wanted: &Alteration) -> Result<PartitionState, i16> {
        let state = self.partitions.get(&wanted.key).ok_or(UNKNOWN_TOPIC_ID)?;
        if self.brokers.get(&wanted.broker).is_none_or(|known| known.epoch != wanted.broker_epoch) {
            return Err(STALE_BROKER_EPOCH);
        }
        if wanted.leader_epoch > state.leader_epoch
            || wanted.partition_epoch > state.partition_epoch
        {
            return Err(NOT_CONTROLLER);
        }
        if wanted.leader_epoch < state.leader_epoch {
            return Err(FENCED_LEADER_EPOCH);
        }
        if state.leader != wanted.broker {
            return Err(INVALID_REQUEST);
        }
        if wanted.partition_epoch < state.partition_epoch {
            return Err(INVALID_UPDATE_VERSION);
        }
        let members: Vec<_> = wanted.in_sync.iter().map(|&(id, _)| id).collect();
        if !members.contains(&wanted.broker)
            || members.iter().any(|id| !state.replicas.contains(id))
        {
            return Err(INVALID_REQUEST);
        }
        let is_eligible = |&(id, epoch): &(i32, i64)| {
            self.is_active(id) && (epoch == -1 || self.brokers[&id].epoch == epoch)
        };
        if !wanted.in_sync.iter().all(is_eligible) {
            return Err(INELIGIBLE_REPLICA);
        }
        self.change(wanted.key, members, None);
        Ok(self.partitions[&wanted.key].clone())
    }

    /// A preferred election.
    pub fn elect_preferred(&mut self, key: Key) -> Result<(), i16> {
        let state = self.partitions.get(&key).ok_or(UNKNOWN_TOPIC_ID)?;
        let preferred = state.replicas[0];
        if state.leader == preferred {
            return Err(ELECTION_NOT_NEEDED);
        }
        if !state.in_sync.contains(&preferred) || !self.is_active(preferred) {
            return Err(PREFERRED_NOT_AVAILABLE);
        }
        self.change(key, state.in_sync.clone(), Some(preferred));
        Ok(())
    }

    /// An operator, or a broker that goes, gives leadership to another in-sync replica: the preferred
    /// one is passed over.
    pub fn elect_other(&mut self, key: Key, broker: i32) -> Result<(), i16> {
        let state = self.partitions.get(&key).ok_or(UNKNOWN_TOPIC_ID)?;
        if state.leader == broker || !state.in_sync.contains(&broker) || !self.is_active(broker) {
            return Err(ELECTION_NOT_NEEDED);
        }
        self.change(key, state.in_sync.clone(), Some(broker));
        Ok(())
    }

    /// Creates a topic with given replicas; those that are alive are in sync.
    pub fn create(
        &mut self,
        name: &str,
        replicas: &[Vec<i32>],
        configs: &[(String, String)],
    ) -> Result<(), i16> {
        if self.topics.contains_key(name) {
            return Err(36);
        }
        let id = Uuid::from_u128(0xd000 + self.topics.len() as u128);
        self.topics.insert(name.to_owned(), id);
        self.write(records::topic(name, id), Change::Other);
        for (key, value) in configs {
            self.configure(name, key, Some(value));
        }
        for (number, replicas) in (0..).zip(replicas) {
            let active = replicas.iter().copied().filter(|&id| self.is_active(id));
            let in_sync: Vec<_> = active.collect();
            let Some(&leader) = in_sync.first() else { return Err(39) };
            let replicas = replicas.clone();
            let (adding, removing) = (Vec::new(), Vec::new());
            let (leader_epoch, partition_epoch) = (0, 0);
            let state = PartitionState {
                replicas,
                in_sync,
                leader,
                leader_epoch,
                partition_epoch,
                adding,
                removing,
            };
            let record = records::partition(id, number, &state);
            self.partitions.insert((id, number), state.clone());
            self.write(record, Change::Partition((id, number), state));
        }
        Ok(())
    }

    pub fn configure(&mut self, topic: &str, key: &str, value: Option<&str>) {
        self.write(records::config(topic, key, value), Change::Other);
    }
}
