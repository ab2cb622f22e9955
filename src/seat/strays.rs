//! Moves strays, replicas of topics that are no mirrors, from the seat to real brokers, for as long as
//! the daemon runs. What has to be moved where is decided in `mirror::strays`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use super::leader::LeaderHandle;
use super::reassign::{Reassignment, reassign};
use crate::client::Cluster;
use crate::image::Image;
use crate::mirror::event::{Event, EventKind};
use crate::mirror::report::{StrayReport, StrayState};
use crate::mirror::strays::{Known, Next, Stray, find};
use crate::tail::events::Events;
use crate::types::{BrokerId, PartitionKey, TopicId, TopicName};

/// Between looks where the image does not change.
const INTERVAL: Duration = Duration::from_secs(1);
/// After a change of the image: more is on its way, e.g. the rest of a new topic.
const GATHER: Duration = Duration::from_millis(20);
/// Until the same move is asked for again.
const ASK_AGAIN: Duration = Duration::from_secs(5);
/// A move that takes longer is cut down to the replicas in sync; the others follow later.
const LATE: Duration = Duration::from_secs(10);

/// Keeps the destination free of strays.
#[derive(Debug)]
pub struct StrayTask {
    /// Our broker id.
    pub seat: BrokerId,
    /// The destination.
    pub image: watch::Receiver<Arc<Image>>,
    /// Its real brokers.
    pub destination: Cluster,
    /// Knows which topics links took for their mirrors.
    pub leader: LeaderHandle,
    /// Told of each that was moved.
    pub events: Events,
    /// Told of what is there.
    pub report: watch::Sender<Arc<Vec<StrayReport>>>,
}

impl StrayTask {
    /// Runs for ever.
    pub async fn run(mut self) {
        let mut mover = Mover::new(self.seat, self.destination.clone(), self.events.clone());
        loop {
            let image = self.image.borrow_and_update().clone();
            let mirrors = self.leader.mirrors().await.iter().map(|mirror| mirror.id).collect();
            let strays = mover.round(&image, &mirrors).await;
            metrics::gauge!("lockstep_seat_strays").set(strays.len() as f64);
            self.report.send_if_modified(|known| {
                let reports: Vec<_> = strays.iter().map(report).collect();
                let is_new = **known != reports;
                if is_new {
                    *known = Arc::new(reports);
                }
                is_new
            });
            tokio::select! {
                () = tokio::time::sleep(INTERVAL) => {}
                Ok(()) = self.image.changed() => tokio::time::sleep(GATHER).await,
            }
        }
    }
}

fn report(stray: &Stray) -> StrayReport {
    StrayReport {
        topic: stray.topic.to_string(),
        partition: stray.key.partition,
        replicas: stray.replicas.iter().map(|id| id.0).collect(),
        state: match stray.next {
            Next::Move(_) | Next::Wait => StrayState::Moving,
            Next::NoBroker => StrayState::NoBroker,
            Next::Stuck => StrayState::Stuck,
        },
    }
}

/// What was asked for and what is still owed.
#[derive(Debug)]
pub struct Mover {
    seat: BrokerId,
    /// All seats, by the last image.
    seats: BTreeSet<BrokerId>,
    destination: Cluster,
    events: Events,
    under_way: BTreeMap<PartitionKey, Asked>,
    /// How many replicas partitions had before a move to fewer.
    owed: BTreeMap<PartitionKey, usize>,
    /// Strays that no move helps, as they were told.
    told: BTreeMap<PartitionKey, Next>,
}

#[derive(Debug)]
struct Asked {
    topic: TopicName,
    replicas: Vec<BrokerId>,
    first_at: Instant,
    at: Instant,
}

impl Mover {
    /// Nothing was asked for yet.
    pub fn new(seat: BrokerId, destination: Cluster, events: Events) -> Self {
        Self {
            seat,
            seats: BTreeSet::from([seat]),
            destination,
            events,
            under_way: BTreeMap::new(),
            owed: BTreeMap::new(),
            told: BTreeMap::new(),
        }
    }

    /// Asks for the moves that are due; what strays there are, those under way too.
    pub async fn round(&mut self, image: &Image, mirrors: &BTreeSet<TopicId>) -> Vec<Stray> {
        let now = Instant::now();
        let late = self.under_way.iter().filter(|(_, asked)| now - asked.first_at >= LATE);
        let late = late.map(|(&key, _)| key).collect();
        self.seats = image.seats_with(self.seat);
        let known = Known { seats: &self.seats, mirrors, late: &late, owed: &self.owed };
        let strays = find(image, known);
        self.forget_done(image, &strays);
        let due: Vec<_> = strays.iter().filter_map(|stray| self.due(stray, now)).collect();
        if !due.is_empty() {
            match reassign(&self.destination, &due).await {
                Ok(refused) => refused.iter().for_each(|refused| {
                    tracing::warn!(
                        topic = %refused.topic, partition = refused.partition,
                        error_code = refused.code, message = refused.message,
                        "stray replica cannot be moved off the seat now; trying on"
                    );
                }),
                // Asked for again after a while: a broker that does not answer is not pressed.
                Err(error) => tracing::warn!(
                    %error, partitions = due.len(),
                    "stray replicas cannot be moved off the seat now; trying on"
                ),
            }
        }
        strays
    }

    fn due(&mut self, stray: &Stray, now: Instant) -> Option<Reassignment> {
        let (key, topic) = (stray.key, &stray.topic);
        let Next::Move(replicas) = &stray.next else {
            self.tell(stray);
            return None;
        };
        let asked = self.under_way.get(&key);
        if asked.is_some_and(|asked| asked.replicas == *replicas && now - asked.at < ASK_AGAIN) {
            return None;
        }
        let first_at = asked.map_or(now, |asked| asked.first_at);
        tracing::warn!(
            %topic, partition = key.partition, from = ?stray.replicas, to = ?replicas,
            wanted = stray.wanted, urgency = ?stray.urgency,
            "moving a stray: a replica of a topic that is no mirror was placed on our seat"
        );
        if replicas.len() < stray.wanted {
            self.owed.insert(key, stray.wanted);
        }
        let (topic, replicas) = (topic.clone(), replicas.clone());
        let asked = Asked { topic: topic.clone(), replicas: replicas.clone(), first_at, at: now };
        self.under_way.insert(key, asked);
        Some(Reassignment { topic, partition: key.partition, replicas: Some(replicas) })
    }

    fn tell(&mut self, stray: &Stray) {
        let (topic, partition) = (&stray.topic, stray.key.partition);
        if self.told.get(&stray.key) == Some(&stray.next) {
            return;
        }
        match stray.next {
            Next::Stuck => tracing::error!(
                %topic, partition, replicas = ?stray.replicas,
                "only our seat is in sync of a partition that is no mirror, and it holds nothing: \
                 stop the daemon, let a real replica lead (kafka-leader-election.sh --election-type \
                 unclean --topic {topic} --partition {partition}) or delete the topic, start again"
            ),
            Next::NoBroker if stray.replicas.iter().any(|id| self.seats.contains(id)) => {
                tracing::error!(
                    %topic, partition, replicas = ?stray.replicas,
                    "a stray replica is on our seat and no real broker can take it: start brokers"
                );
            }
            Next::NoBroker => tracing::warn!(
                %topic, partition, replicas = ?stray.replicas, wanted = stray.wanted,
                "a partition that was moved off our seat has fewer replicas than before, until \
                 there are brokers for them"
            ),
            Next::Wait | Next::Move(_) => return,
        }
        self.told.insert(stray.key, stray.next.clone());
    }

    fn forget_done(&mut self, image: &Image, strays: &[Stray]) {
        let is_stray = |key: &PartitionKey| strays.iter().any(|stray| stray.key == *key);
        self.owed.retain(|key, _| is_stray(key));
        self.told.retain(|key, _| is_stray(key));
        let seats = &self.seats;
        self.under_way.retain(|key, asked| {
            let Some(now) = image.partition(*key) else { return false };
            let is_off = now.replicas.iter().all(|id| !seats.contains(id));
            if is_off && !is_stray(key) {
                let replicas: Vec<_> = now.replicas.iter().map(|id| id.0).collect();
                let text = format!(
                    "a replica of this topic, which is no mirror, had been placed on our seat; its \
                     replicas are {replicas:?} now"
                );
                let event = Event::new(EventKind::StrayMoved, text);
                self.events.send(event.topic(&asked.topic).partition(key.partition));
                metrics::counter!("lockstep_seat_strays_moved_total").increment(1);
            }
            is_stray(key)
        });
    }
}
