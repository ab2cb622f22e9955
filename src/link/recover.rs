//! Partitions that we lead although we do not know their logs: after a return under the registration of
//! the process before us, and where the seat was the last in-sync replica. What can be said is learned
//! from their replicas and given to the leader task, which reads nothing before the tail check.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::Instant;

use super::rejoin::Rejoin;
use crate::client::Cluster;
use crate::image::{Image, PartitionImage};
use crate::mirror::event::{Event, EventKind};
use crate::mirror::lineage::EpochStart;
use crate::mirror::partition::FollowerFetch;
use crate::mirror::topic_configs;
use crate::seat::epoch_bump::BumpRequest;
use crate::seat::error::SeatError;
use crate::seat::leader::{Adoption, MirrorTopic, Unknown};
use crate::seat::replica_log::{self, ReplicaLog};
use crate::types::{BrokerId, LeaderEpoch, Offset, PartitionKey};

/// Partitions learned at a time.
const AT_ONCE: usize = 64;
/// How long other replicas are waited for once one has asked, where none is in sync.
const PATIENCE: Duration = Duration::from_secs(5);

/// What is remembered between rounds.
#[derive(Debug, Default)]
pub(super) struct Recovery {
    /// Since when somebody has asked, in which epoch.
    asked_since: HashMap<PartitionKey, (LeaderEpoch, Instant)>,
    /// When it was last said that a partition cannot be led.
    told: HashMap<PartitionKey, Instant>,
}

/// A partition and the replica that is to tell.
#[derive(Clone, Debug)]
struct Lost {
    mirror: Arc<MirrorTopic>,
    key: PartitionKey,
    leader_epoch: LeaderEpoch,
    replica: FollowerFetch,
    /// Whether a real replica is in sync.
    has_real: bool,
    /// What we know to be committed.
    committed: Option<Offset>,
}

/// What became of asking a replica.
enum Learned {
    Log(ReplicaLog),
    /// What it knows to be committed ends below its log, and its log goes on in another epoch.
    Hidden,
    Refused(i16),
}

impl Rejoin {
    /// Learns what we lead and do not know.
    pub(super) async fn recover(&self, image: &Image, memory: &mut Recovery) {
        let mirrors = self.leader.mirrors().await;
        let mirrors: HashMap<_, _> = mirrors
            .into_iter()
            .filter(|mirror| mirror.link == self.link)
            .map(|mirror| (mirror.id, mirror))
            .collect();
        let unknown = self.leader.unknown().await;
        memory.asked_since.retain(|key, _| unknown.iter().any(|one| one.key == *key));
        memory.told.retain(|key, _| unknown.iter().any(|one| one.key == *key));
        let lost: Vec<_> = unknown
            .into_iter()
            .filter_map(|one| {
                let mirror = mirrors.get(&one.key.topic)?;
                let state = image.partition(one.key)?;
                // Somebody unlocked it: it is promoted by hand, or about to be.
                let is_locked = topic_configs::is_locked(image.topic_config(&mirror.name));
                let is_current = state.leader_epoch == one.leader_epoch;
                (is_locked && is_current).then(|| self.lost(one, mirror, state, image, memory))?
            })
            .collect();
        for group in lost.chunks(AT_ONCE) {
            self.recover_group(group, memory).await;
        }
    }

    /// The replica that tells: the one with the most of those in sync; where none is, of all, once those
    /// that live have had time to ask.
    fn lost(
        &self,
        unknown: Unknown,
        mirror: &Arc<MirrorTopic>,
        state: &PartitionImage,
        image: &Image,
        memory: &mut Recovery,
    ) -> Option<Lost> {
        let Unknown { key, leader_epoch, fetches, committed } = unknown;
        let is_real = |id: &BrokerId| *id != self.seat && !image.is_seat(*id);
        let has_real = state.in_sync.iter().any(is_real);
        let asked = fetches.into_iter().filter(|fetch| {
            state.replicas.contains(&fetch.broker)
                && (!has_real || state.in_sync.contains(&fetch.broker))
        });
        let asked: Vec<_> = asked.collect();
        let replica = asked.iter().max_by_key(|fetch| fetch.offset).copied()?;
        if !has_real {
            let now = Instant::now();
            let since = memory.asked_since.entry(key).or_insert((leader_epoch, now));
            if since.0 != leader_epoch {
                *since = (leader_epoch, now);
            }
            let lives = |id: &&BrokerId| {
                is_real(id) && image.broker(**id).is_some_and(|broker| !broker.is_fenced)
            };
            let all_asked = state.replicas.iter().filter(lives).count() <= asked.len();
            if !all_asked && since.1.elapsed() < PATIENCE {
                return None;
            }
        }
        let mirror = Arc::clone(mirror);
        let lost = Lost { mirror, key, leader_epoch, replica, has_real, committed };
        if let Some(committed) =
            committed.filter(|committed| !has_real && lacks(&lost.replica, *committed))
        {
            let why = format!(
                "no replica that lives has all that was committed, up to {committed}; start the brokers \
                 of the others, or restart this daemon to go on with what there is"
            );
            self.tell(&lost, memory, &why);
            return None;
        }
        Some(lost)
    }

    async fn recover_group(&self, group: &[Lost], memory: &mut Recovery) {
        let mut reads = JoinSet::new();
        for (at, lost) in group.iter().enumerate() {
            let (lost, destination) = (lost.clone(), self.destination.clone());
            reads.spawn(async move { (at, learn(&destination, &lost).await) });
        }
        let mut known = Vec::new();
        while let Some(read) = reads.join_next().await {
            let Ok((at, learned)) = read else { continue };
            let lost = &group[at];
            match learned {
                Ok(Learned::Log(log)) => known.push((lost, log)),
                Ok(Learned::Hidden) => self.step_aside(lost, memory),
                Ok(Learned::Refused(code)) => {
                    self.tell(lost, memory, &format!("its replica answers with error {code}"));
                }
                Err(error) => self.tell(lost, memory, &error.to_string()),
            }
        }
        let good: Vec<_> = known
            .into_iter()
            .map(|(lost, log)| {
                if !lost.has_real {
                    self.tell_assumed(lost, &log);
                }
                adoption(lost, log)
            })
            .collect();
        if !good.is_empty() {
            self.leader.adopt(good).await;
        }
    }

    /// Its history can be had from a leader with disks only: one leads for a moment.
    fn step_aside(&self, lost: &Lost, memory: &mut Recovery) {
        if lost.has_real {
            self.bumps.request(BumpRequest {
                key: lost.key,
                leader_epoch: lost.leader_epoch,
                avoid: None,
                why: "its epochs are not all visible at its replicas",
            });
        } else {
            let why = "the replica's last batches lie above its high watermark, in an epoch of their own; \
                       start the other replicas' brokers, or elect one by hand (unclean)";
            self.tell(lost, memory, why);
        }
    }

    /// Says why a partition is not led, once a minute.
    fn tell(&self, lost: &Lost, memory: &mut Recovery, why: &str) {
        const QUIET: Duration = Duration::from_secs(60);
        if memory.told.get(&lost.key).is_some_and(|at| at.elapsed() < QUIET) {
            return;
        }
        memory.told.insert(lost.key, Instant::now());
        tracing::warn!(
            link = %self.link, topic = %lost.mirror.name, partition = lost.key.partition,
            broker = %lost.replica.broker, offset = %lost.replica.offset, %why,
            "a partition that we lead is not known yet; trying on"
        );
    }

    fn tell_assumed(&self, lost: &Lost, log: &ReplicaLog) {
        let FollowerFetch { broker, offset, .. } = lost.replica;
        let text = format!(
            "the seat was the only in-sync replica: broker {broker} tells what is committed, up to \
             {}; its log ends at {offset}, and what comes after is copied from the source again",
            log.high_watermark
        );
        let event = Event::new(EventKind::HighWatermarkAssumed, text)
            .link(&self.link)
            .topic(&lost.mirror.name)
            .partition(lost.key.partition)
            .offsets(log.high_watermark..offset.max(log.high_watermark));
        self.events.send(event);
    }
}

/// Without a real replica in sync nobody vouches for a replica: one that ends below what we know to be
/// committed would take the high watermark back.
fn lacks(replica: &FollowerFetch, committed: Offset) -> bool {
    replica.offset < committed
}

/// What is certainly committed: what the replica knows of it, or what we know and it has.
fn committed(lost: &Lost, log: &ReplicaLog) -> Option<Offset> {
    let ours = lost.committed.filter(|committed| !lacks(&lost.replica, *committed));
    Some(log.high_watermark).filter(|known| *known >= Offset::ZERO).max(ours)
}

async fn learn(destination: &Cluster, lost: &Lost) -> Result<Learned, SeatError> {
    let FollowerFetch { broker, offset, last_fetched_epoch, .. } = lost.replica;
    let connection = destination.broker_or_ask(broker).await?;
    let (topic, partition) = (&lost.mirror.name, lost.key.partition);
    let mut log = match replica_log::read(&connection, topic, partition, offset).await? {
        Ok(log) => log,
        Err(code) => return Ok(Learned::Refused(code)),
    };
    let newest = log.history.newest().map(|newest| newest.epoch);
    let is_whole = offset <= log.known_to
        || last_fetched_epoch == LeaderEpoch::UNKNOWN
        || newest == Some(last_fetched_epoch);
    if offset <= log.known_to {
        log.history.end_in(last_fetched_epoch, offset);
    }
    if is_whole {
        return Ok(Learned::Log(log));
    }
    // Nothing is visible of it, and so all of it is of the one epoch that is named.
    if log.high_watermark <= log.log_start && newest.is_none() && offset > log.log_start {
        let start = EpochStart { epoch: last_fetched_epoch, start: log.log_start };
        if lost.leader_epoch == LeaderEpoch(0) && log.history.push(start).is_ok() {
            return Ok(Learned::Log(log));
        }
    }
    Ok(Learned::Hidden)
}

fn adoption(lost: &Lost, log: ReplicaLog) -> Adoption {
    let high_watermark = committed(lost, &log);
    Adoption {
        key: lost.key,
        leader_epoch: lost.leader_epoch,
        history: log.history,
        log_end: lost.replica.offset,
        log_start: log.log_start,
        high_watermark,
        tail: None,
        cut_from: None,
    }
}
