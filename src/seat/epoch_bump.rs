//! Gives partitions a new leader epoch where somebody needs one, and undoes what was left half done:
//! makes the requests that `mirror::epoch_bump` decides on.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::error::SeatError;
use super::follow::{self, Followed};
use super::reassign::{Reassignment, reassign};
use crate::client::Cluster;
use crate::image::Image;
use crate::mirror::epoch_bump::{EpochBump, Step};
use crate::mirror::topic_configs;
use crate::types::{BrokerId, LeaderEpoch, PartitionKey, TopicName};

/// Between looks while something is under way and the image does not change.
const INTERVAL: Duration = Duration::from_millis(500);
/// Between looks for what was left half done.
const REPAIR_INTERVAL: Duration = Duration::from_secs(5);
/// A request whose result the image does not show after this is made again.
const REPEAT: Duration = Duration::from_secs(3);
/// What has not come to an end by then is put back.
const DEADLINE: Duration = Duration::from_secs(30);
/// Partitions on their way at a time; more wait.
const AT_ONCE: usize = 100;
const NO_REASSIGNMENT_IN_PROGRESS: i16 = 85;

/// "This partition needs a new leader epoch."
#[derive(Clone, Copy, Debug)]
pub struct BumpRequest {
    /// The partition.
    pub key: PartitionKey,
    /// The epoch that is to end; nothing is done where another one is current.
    pub leader_epoch: LeaderEpoch,
    /// A replica that must not lead for a moment, where another one would.
    pub avoid: Option<BrokerId>,
    /// For the log.
    pub why: &'static str,
}

/// Where new leader epochs are asked for; cheap to clone.
#[derive(Clone, Debug)]
pub struct EpochBumps {
    requests: mpsc::UnboundedSender<BumpRequest>,
}

impl EpochBumps {
    /// A place to ask, and what was asked.
    pub fn new() -> (Self, mpsc::UnboundedReceiver<BumpRequest>) {
        let (requests, received) = mpsc::unbounded_channel();
        (Self { requests }, received)
    }

    /// Asks for a new leader epoch. The metadata log shows it when it is there; where it does not
    /// come within half a minute, it may be asked for again.
    pub fn request(&self, request: BumpRequest) {
        let _stopped = self.requests.send(request);
    }
}

/// Makes the requests.
#[derive(Debug)]
pub struct EpochBumpTask {
    /// Our broker id.
    pub seat: BrokerId,
    /// The destination.
    pub image: watch::Receiver<Arc<Image>>,
    /// Its real brokers.
    pub destination: Cluster,
    /// What is asked for.
    pub requests: mpsc::UnboundedReceiver<BumpRequest>,
}

#[derive(Debug)]
struct Active {
    bump: EpochBump,
    topic: TopicName,
    began: Instant,
    last: Option<(Step, Instant)>,
}

impl EpochBumpTask {
    /// Runs for ever.
    pub async fn run(mut self) {
        let mut active: BTreeMap<PartitionKey, Active> = BTreeMap::new();
        let mut repair_at = Instant::now() + REPAIR_INTERVAL;
        loop {
            tokio::select! {
                // Nobody may hold a handle: half-done bumps are repaired all the same.
                Some(request) = self.requests.recv(), if active.len() < AT_ONCE => {
                    self.begin(request, &mut active);
                }
                Ok(()) = self.image.changed(), if !active.is_empty() => {}
                () = tokio::time::sleep(INTERVAL), if !active.is_empty() => {}
                () = tokio::time::sleep_until(repair_at) => {
                    repair_at = Instant::now() + REPAIR_INTERVAL;
                    self.repair(&mut active);
                }
            }
            if let Err(error) = self.step(&mut active).await {
                tracing::info!(%error, "a new leader epoch cannot be asked for now; trying on");
                tokio::time::sleep(INTERVAL).await;
            }
        }
    }

    fn begin(&self, request: BumpRequest, active: &mut BTreeMap<PartitionKey, Active>) {
        let image = self.image.borrow().clone();
        let Some((topic, partition)) =
            image.topic(request.key.topic).zip(image.partition(request.key))
        else {
            return;
        };
        // While it is unlocked no other broker may be helped to lead it: clients could write there.
        if partition.leader_epoch != request.leader_epoch
            || active.contains_key(&request.key)
            || !topic_configs::is_locked(image.topic_config(&topic.name))
        {
            return;
        }
        tracing::info!(
            topic = %topic.name, partition = request.key.partition,
            leader_epoch = %request.leader_epoch, why = request.why, "a new leader epoch is needed"
        );
        let bump = EpochBump::new(partition, request.avoid);
        active.insert(request.key, Active::new(bump, topic.name.clone()));
    }

    /// Mirrors that a step which was interrupted left with a real broker in front.
    fn repair(&self, active: &mut BTreeMap<PartitionKey, Active>) {
        let image = self.image.borrow().clone();
        let seats = image.seats_with(self.seat);
        for topic in image.topics() {
            for (&partition, state) in &topic.partitions {
                let key = PartitionKey { topic: topic.id, partition };
                if active.len() >= AT_ONCE || active.contains_key(&key) {
                    continue;
                }
                let repair = EpochBump::repair(state, self.seat, &seats, &image);
                let Some(bump) = repair else { continue };
                // Somebody unlocked it: it is promoted by hand, or about to be.
                if !topic_configs::is_locked(image.topic_config(&topic.name)) {
                    continue;
                }
                tracing::warn!(
                    topic = %topic.name, partition, replicas = ?state.replicas,
                    "a mirror's seat does not stand first in its replicas; putting it back"
                );
                active.insert(key, Active::new(bump, topic.name.clone()));
            }
        }
    }

    async fn step(&mut self, active: &mut BTreeMap<PartitionKey, Active>) -> Result<(), SeatError> {
        let image = self.image.borrow_and_update().clone();
        let seats = image.seats_with(self.seat);
        let now = Instant::now();
        let mut due = Vec::new();
        let mut elect = Vec::new();
        active.retain(|key, one| {
            let Some(partition) = image.partition(*key) else { return false };
            match one.due(partition, &seats, &image, now) {
                Due::Nothing => {}
                Due::End => return false,
                Due::Reassign(replicas) => {
                    let (topic, partition) = (one.topic.clone(), key.partition);
                    due.push(Reassignment { topic, partition, replicas });
                }
                Due::Elect => elect.push(Followed {
                    key: *key,
                    topic: one.topic.clone(),
                    leader_epoch: partition.leader_epoch,
                }),
            }
            true
        });
        if !due.is_empty() {
            self.reassign(&due).await?;
        }
        if !elect.is_empty() {
            follow::elect(&self.destination.any().await?, &elect).await?;
        }
        Ok(())
    }

    async fn reassign(&self, wanted: &[Reassignment]) -> Result<(), SeatError> {
        for refused in reassign(&self.destination, wanted).await? {
            if refused.code != NO_REASSIGNMENT_IN_PROGRESS {
                tracing::info!(
                    topic = %refused.topic, partition = refused.partition,
                    error_code = refused.code, message = refused.message,
                    "replicas not reassigned for a new leader epoch; asking again"
                );
            }
        }
        Ok(())
    }
}

enum Due {
    Nothing,
    End,
    /// `None` cancels.
    Reassign(Option<Vec<BrokerId>>),
    Elect,
}

impl Active {
    fn new(bump: EpochBump, topic: TopicName) -> Self {
        Self { bump, topic, began: Instant::now(), last: None }
    }

    fn due(
        &mut self,
        partition: &crate::image::PartitionImage,
        seats: &BTreeSet<BrokerId>,
        image: &Image,
        now: Instant,
    ) -> Due {
        let age = now - self.began;
        if age > DEADLINE && !self.bump.is_given_up() {
            tracing::warn!(
                topic = %self.topic, leader_epoch = %partition.leader_epoch,
                replicas = ?partition.replicas, "no new leader epoch came; putting back what was changed"
            );
            self.bump.give_up();
        }
        // Whoever put other replicas there meanwhile is not fought with.
        if age > DEADLINE * 2 {
            return Due::End;
        }
        let step = self.bump.next(partition, seats, image);
        let is_repeated = |(last, at): &(Step, Instant)| *last == step && now - *at < REPEAT;
        if self.last.as_ref().is_some_and(is_repeated) {
            return Due::Nothing;
        }
        let due = match step.clone() {
            Step::Reassign(replicas) => Due::Reassign(Some(replicas)),
            Step::Cancel => Due::Reassign(None),
            Step::Elect => Due::Elect,
            Step::Wait => return Due::Nothing,
            Step::Done => return Due::End,
            Step::Impossible => {
                tracing::warn!(
                    topic = %self.topic, leader_epoch = %partition.leader_epoch,
                    replicas = ?partition.replicas, in_sync = ?partition.in_sync,
                    "no new leader epoch can be had: no other replica is in sync and no other broker \
                     is there; restart the replica's broker"
                );
                return Due::End;
            }
        };
        self.last = Some((step, now));
        due
    }
}
