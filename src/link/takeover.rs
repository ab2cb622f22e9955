//! The tail check of copies that we lead already: those taken over from another seat, learned from
//! replicas, or read anew after all replicas lost their ends. Nobody has looked at the source since
//! somebody else read it; the leader task reads nothing before this is done.

use std::collections::HashMap;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::acceptance::{Failures, Judge, Judged};
use super::logs::{self, LogBounds, Place, Reader};
use super::rejoin::Rejoin;
use super::tail_check::{self, Copy, Evidence};
use super::truncation::copy_of;
use crate::client::Cluster;
use crate::seat::leader::{LeaderHandle, MirrorTopic, Proof, Unproved};
use crate::tail::Trouble;
use crate::types::{LeaderEpoch, LinkName, PartitionKey, TopicId};

/// Between looks for what is to be checked: a partition stands still until then.
const INTERVAL: Duration = Duration::from_millis(200);
/// Between checks of one partition that could not be settled.
const REST: Duration = Duration::from_secs(1);
/// Partitions checked together.
const AT_ONCE: usize = 500;

/// Checks what one link's daemon has taken over.
#[derive(Debug)]
pub(super) struct Takeover {
    link: LinkName,
    leader: LeaderHandle,
    destination: Cluster,
    source: Cluster,
    /// What the way back found against copies.
    failures: watch::Receiver<Failures>,
    judge: Judge,
    /// Until when partitions are left alone.
    resting: HashMap<PartitionKey, Instant>,
}

impl Takeover {
    /// Of the same link as the way back.
    pub(super) fn beside(rejoin: &Rejoin) -> Self {
        let link = rejoin.link.clone();
        Self {
            leader: rejoin.leader.clone(),
            destination: rejoin.destination.clone(),
            source: rejoin.source.clone(),
            failures: rejoin.failures.subscribe(),
            judge: Judge::new(link.clone(), rejoin.events.clone(), rejoin.journal.clone()),
            link,
            resting: HashMap::new(),
        }
    }

    /// Runs until told to stop.
    pub(super) async fn run(mut self, stop: CancellationToken) {
        loop {
            self.round().await;
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(INTERVAL) => {}
            }
        }
    }

    async fn round(&mut self) {
        let unproved = self.leader.unproved(self.link.clone()).await;
        self.resting.retain(|_, until| *until > Instant::now());
        let due = unproved.into_iter().filter(|one| !self.resting.contains_key(&one.key));
        let due: Vec<_> = due.take(AT_ONCE).collect();
        if due.is_empty() {
            return;
        }
        let mirrors = self.leader.mirrors().await;
        let mirrors: HashMap<TopicId, _> = mirrors.into_iter().map(|one| (one.id, one)).collect();
        let due = due.into_iter().filter_map(|one| {
            let mirror = mirrors.get(&one.key.topic)?;
            Some((one, mirror.as_ref()))
        });
        self.check(due.collect()).await;
    }

    async fn check(&mut self, due: Vec<(Unproved, &MirrorTopic)>) {
        let places = due.iter().map(|(one, mirror)| (place(one, mirror), one.log_end));
        let places: Vec<_> = places.collect();
        let bounds = logs::replica_bounds(&self.destination, &places).await;
        let readable = due.iter().zip(&bounds).filter_map(|((one, mirror), bounds)| {
            bounds.as_ref().ok().map(|bounds| copy(one, mirror, *bounds))
        });
        let copies: Vec<_> = readable.collect();
        let mut evidence =
            tail_check::check(&self.destination, &self.source, &copies).await.into_iter();
        let mut proofs = Vec::new();
        for ((one, mirror), bounds) in due.into_iter().zip(bounds) {
            let missing = || Evidence::Later("it was not checked".to_owned());
            let found = match bounds {
                Ok(_) => evidence.next().unwrap_or_else(missing),
                Err(why) => Evidence::Later(why),
            };
            proofs.push(self.settle(&one, mirror, found));
        }
        self.leader.proved(proofs).await;
    }

    fn settle(&mut self, one: &Unproved, mirror: &MirrorTopic, found: Evidence) -> Proof {
        let Unproved { key, leader_epoch, log_end, .. } = *one;
        let against = self.failures.borrow().get(&key).map(|failed| failed.trouble.clone());
        let against = against.filter(Trouble::needs_proof);
        let of = Judged { key, topic: &mirror.name, log_end };
        let found = self.judge.weigh(of, found, against);
        match &found {
            Ok(tail) => tracing::info!(
                link = %self.link, topic = %mirror.name, partition = key.partition,
                offset = %log_end, source_epoch = %tail.epoch, "the copy that was taken over is the source's"
            ),
            Err(_) => {
                self.resting.insert(key, Instant::now() + REST);
            }
        }
        Proof { key, leader_epoch, found }
    }
}

fn place(one: &Unproved, mirror: &MirrorTopic) -> Place {
    let copy = copy_of(one.key, mirror, one.holder, one.log_end);
    Place {
        broker: one.holder,
        partition: copy.mirror,
        leader_epoch: LeaderEpoch::UNKNOWN,
        reader: Reader::ToTheEnd,
    }
}

/// All of it can be read.
fn copy(one: &Unproved, mirror: &MirrorTopic, bounds: LogBounds) -> Copy {
    Copy {
        bounds: Some((bounds.start.max(one.log_start), one.log_end)),
        known: one.known,
        ..copy_of(one.key, mirror, one.holder, one.log_end)
    }
}
