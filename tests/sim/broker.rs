//! A stock broker of the destination: its replicas, its view of the metadata log, and what it does as
//! a leader. What it does as a follower of the seat is in `follower`.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

use super::controller::{Alteration, Change, Controller, Key, PartitionState};
use super::log::{Log, Read};

/// `replica.lag.time.max.ms` of the destination.
pub const LAG_TIME: Duration = Duration::from_secs(10);
/// `replica.fetch.backoff.ms`.
pub const BACKOFF: Duration = Duration::from_secs(1);

pub const NOT_LEADER: i16 = 6;
pub const FENCED_LEADER_EPOCH: i16 = 74;
pub const UNKNOWN_LEADER_EPOCH: i16 = 75;

/// A broker with its disks.
pub struct Broker {
    pub id: i32,
    pub is_up: bool,
    /// Grows with each start: connections and fetchers of an older life are gone.
    pub life: u64,
    /// Its registration; -1 while it has none.
    pub epoch: i64,
    /// How many records of the metadata log it has applied.
    pub applied: usize,
    /// Until then it applies none.
    pub deaf_until: Instant,
    pub view: BTreeMap<Key, PartitionState>,
    pub replicas: BTreeMap<Key, Replica>,
}

/// One replica.
pub struct Replica {
    pub log: Log,
    pub role: Role,
}

/// What the broker does with it.
pub enum Role {
    /// Nobody leads, or the broker has just started.
    Idle,
    Leads(Lead),
    Follows(Following),
}

/// Leadership of a stock broker.
pub struct Lead {
    pub epoch: i32,
    pub start: i64,
    pub since: Instant,
    /// Log end, when it was last caught up, and registration of each follower.
    pub followers: BTreeMap<i32, (i64, Instant, i64)>,
}

/// What a fetcher keeps of a partition.
#[derive(Clone, Debug)]
pub struct Following {
    pub leader: i32,
    pub epoch: i32,
    pub offset: i64,
    pub last_epoch: Option<i32>,
    /// Without epochs the log is cut to its high watermark first.
    pub must_truncate: bool,
    pub delayed_until: Instant,
    /// Marked failed: not fetched again in this leader epoch.
    pub failed: Option<String>,
}

/// What a leader answers to a replica or a consumer.
pub struct Answer {
    pub error: i16,
    pub high_watermark: i64,
    pub log_start: i64,
    pub read: Option<Read>,
}

impl Broker {
    pub fn new(id: i32) -> Self {
        Self {
            id,
            is_up: true,
            life: 1,
            epoch: -1,
            applied: 0,
            deaf_until: Instant::now(),
            view: BTreeMap::new(),
            replicas: BTreeMap::new(),
        }
    }

    /// Stops without a word.
    pub fn crash(&mut self) {
        self.is_up = false;
        self.life += 1;
        self.applied = 0;
        self.view.clear();
        for replica in self.replicas.values_mut() {
            replica.role = Role::Idle;
        }
    }

    /// Applies what the metadata log has by now.
    pub fn catch_up(&mut self, controller: &Controller) {
        if !self.is_up || Instant::now() < self.deaf_until {
            return;
        }
        let changes: Vec<_> = controller.log[self.applied..].to_vec();
        self.applied = controller.log.len();
        // As one delta: what lies in between is never seen.
        let mut last = BTreeMap::new();
        for (_, change) in changes {
            if let Change::Partition(key, state) = change {
                last.insert(key, state);
            }
        }
        for (key, state) in last {
            self.apply(key, state);
        }
    }

    fn apply(&mut self, key: Key, state: PartitionState) {
        if !state.replicas.contains(&self.id) {
            self.replicas.remove(&key);
            self.view.remove(&key);
            return;
        }
        let replica = self
            .replicas
            .entry(key)
            .or_insert_with(|| Replica { log: Log::default(), role: Role::Idle });
        let epoch = state.leader_epoch;
        match &mut replica.role {
            Role::Leads(lead) if lead.epoch == epoch => {}
            Role::Follows(follows) if follows.epoch == epoch => {}
            _ if state.leader == self.id => {
                replica.log.assign_epoch(epoch, replica.log.end);
                let (start, since) = (replica.log.end, Instant::now());
                replica.role =
                    Role::Leads(Lead { epoch, start, since, followers: BTreeMap::new() });
            }
            _ if state.leader < 0 => replica.role = Role::Idle,
            _ => replica.role = Role::Follows(Following::begin(&replica.log, state.leader, epoch)),
        }
        self.view.insert(key, state);
    }

    /// Whether it may answer for a partition as its leader, for somebody who believes in `epoch`.
    pub fn leads(&self, key: Key, epoch: i32) -> Result<&Replica, i16> {
        let replica = self.replicas.get(&key).ok_or(NOT_LEADER)?;
        let Role::Leads(lead) = &replica.role else { return Err(NOT_LEADER) };
        match epoch {
            -1 => Ok(replica),
            epoch if epoch < lead.epoch => Err(FENCED_LEADER_EPOCH),
            epoch if epoch > lead.epoch => Err(UNKNOWN_LEADER_EPOCH),
            _ => Ok(replica),
        }
    }

    /// A Fetch of a replica: notes how far it is, and takes it into the in-sync replicas.
    pub fn fetched_by(
        &mut self,
        controller: &mut Controller,
        key: Key,
        follower: (i32, i64),
        fetch: (i64, i32, i32),
    ) -> Answer {
        let (offset, last_epoch, epoch) = fetch;
        let failed = |error| Answer { error, high_watermark: -1, log_start: -1, read: None };
        if let Err(error) = self.leads(key, epoch) {
            return failed(error);
        }
        let (id, state) = (self.id, self.view[&key].clone());
        let Some(replica) = self.replicas.get_mut(&key) else { return failed(NOT_LEADER) };
        let log = &mut replica.log;
        let Role::Leads(lead) = &mut replica.role else { return failed(NOT_LEADER) };
        let read = match log.read(offset, last_epoch, log.end, 1 << 20) {
            Ok(read) => read,
            Err(error) => return failed(error),
        };
        if let Read::Batches(_) = read {
            let now = Instant::now();
            let is_caught_up = offset >= log.end;
            let known =
                lead.followers.entry(follower.0).or_insert((offset, lead.since, follower.1));
            *known = (offset, if is_caught_up { now } else { known.1 }, follower.1);
            if !state.in_sync.contains(&follower.0)
                && offset >= log.high_watermark.max(lead.start)
                && controller.is_up
            {
                let mut in_sync: Vec<_> = state.in_sync.iter().map(|&id| (id, -1)).collect();
                in_sync.push(follower);
                let (broker_epoch, leader_epoch) = (self.epoch, lead.epoch);
                let partition_epoch = state.partition_epoch;
                let wanted = Alteration {
                    broker: id,
                    broker_epoch,
                    key,
                    leader_epoch,
                    partition_epoch,
                    in_sync,
                };
                if let Ok(state) = controller.alter(&wanted) {
                    self.view.insert(key, state);
                }
            }
            let in_sync = &self.view[&key].in_sync;
            let ends = in_sync.iter().filter(|&&member| member != id);
            let ends = ends.map(|member| lead.followers.get(member).map_or(-1, |known| known.0));
            let committed = ends.min().unwrap_or(log.end).min(log.end);
            log.high_watermark = log.high_watermark.max(committed);
        }
        let (high_watermark, log_start) = (log.high_watermark, log.start);
        Answer { error: 0, high_watermark, log_start, read: Some(read) }
    }

    /// A Fetch of a consumer, also where it only follows: nothing comes between the high watermark and
    /// the end (but to a "future replica"), an error only beyond the end.
    pub fn read_by_consumer(
        &self,
        key: Key,
        offset: i64,
        max_bytes: usize,
        to_the_end: bool,
    ) -> Answer {
        let failed = |error| Answer { error, high_watermark: -1, log_start: -1, read: None };
        let Some(replica) = self.replicas.get(&key) else { return failed(NOT_LEADER) };
        if matches!(replica.role, Role::Idle) {
            return failed(NOT_LEADER);
        }
        let log = &replica.log;
        let limit = if to_the_end { log.end } else { log.high_watermark };
        match log.read(offset, -1, limit, max_bytes) {
            Ok(read) => Answer {
                error: 0,
                high_watermark: log.high_watermark,
                log_start: log.start,
                read: Some(read),
            },
            Err(error) => failed(error),
        }
    }

    /// Members that lag for too long go. Done often.
    pub fn shrink(&mut self, controller: &mut Controller) {
        let keys: Vec<_> = self.replicas.keys().copied().collect();
        for key in keys {
            let replica = &self.replicas[&key];
            let Role::Leads(lead) = &replica.role else { continue };
            let state = &self.view[&key];
            let is_in_sync = |member: &i32| match lead.followers.get(member) {
                _ if *member == self.id => true,
                Some(&(end, at, _)) => end == replica.log.end || at.elapsed() < LAG_TIME,
                None => lead.since.elapsed() < LAG_TIME,
            };
            let in_sync: Vec<_> = state.in_sync.iter().copied().filter(is_in_sync).collect();
            if in_sync.len() < state.in_sync.len() && controller.is_up {
                let wanted = Alteration {
                    broker: self.id,
                    broker_epoch: self.epoch,
                    key,
                    leader_epoch: lead.epoch,
                    partition_epoch: state.partition_epoch,
                    in_sync: in_sync.into_iter().map(|id| (id, -1)).collect(),
                };
                if let Ok(state) = controller.alter(&wanted) {
                    self.view.insert(key, state);
                }
            }
        }
    }
}

impl Following {
    /// `makeFollower`: a log without epochs begins at its high watermark.
    fn begin(log: &Log, leader: i32, epoch: i32) -> Self {
        let last_epoch = log.latest_epoch();
        Self {
            leader,
            epoch,
            offset: if last_epoch.is_some() { log.end } else { log.high_watermark },
            last_epoch,
            must_truncate: last_epoch.is_none(),
            delayed_until: Instant::now(),
            failed: None,
        }
    }
}
