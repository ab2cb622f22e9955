//! The way back to leadership: learns the logs of mirror partitions that others lead, checks that they
//! still are a copy of the source, joins the in-sync replicas, and asks to be elected where our seat
//! stands first. Where another seat stands first we only get ready to lead after it.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::acceptance::{Acceptance, Failures, Judge, Judged};
use super::recover::Recovery;
use super::tail_check::{self, Copy};
use super::truncation::{Decisions, Sides, copy_of};
use crate::client::Cluster;
use crate::image::{Image, PartitionImage};
use crate::mirror::decision::Decision;
use crate::mirror::topic_configs;
use crate::seat::epoch_bump::EpochBumps;
use crate::seat::error::SeatError;
use crate::seat::follow::{self, Followed, FollowerIdentity};
use crate::seat::leader::{Adoption, LeaderHandle, MirrorTopic};
use crate::seat::peers::Peers;
use crate::store::View;
use crate::tail::events::Events;
use crate::types::{BrokerEpoch, BrokerId, LeaderEpoch, LinkName, PartitionKey};

/// Between looks, when the image does not change.
const INTERVAL: Duration = Duration::from_secs(1);
/// Between looks, when the image changes all the time.
const LEAST_INTERVAL: Duration = Duration::from_millis(50);
/// Partitions handled together.
const AT_ONCE: usize = 500;

/// Brings the seat back to the head of one link's mirrors.
#[derive(Debug)]
pub struct Rejoin {
    /// The link.
    pub link: LinkName,
    /// Our broker id.
    pub seat: BrokerId,
    /// Our present registration.
    pub registration: watch::Receiver<Option<BrokerEpoch>>,
    /// The destination.
    pub image: watch::Receiver<Arc<Image>>,
    /// The task that will lead.
    pub leader: LeaderHandle,
    /// The destination's real brokers.
    pub destination: Cluster,
    /// The destination's other seats.
    pub peers: Peers,
    /// The source's brokers.
    pub source: Cluster,
    /// Told why partitions are kept from being led.
    pub failures: watch::Sender<Failures>,
    /// What a person may want to know later.
    pub events: Events,
    /// What any seat found before.
    pub journal: watch::Receiver<Arc<View>>,
    /// Where a new leader epoch is asked for.
    pub bumps: EpochBumps,
    /// Leaders that could not be asked, and until when they are left alone.
    pub resting: HashMap<BrokerId, Instant>,
}

/// A partition that another broker leads and we should, or may have to.
#[derive(Clone, Debug)]
struct Away {
    followed: Followed,
    leader: BrokerId,
    /// Whether the leader is another seat. What it leads it has checked itself.
    is_led_by_seat: bool,
    /// Whether it is ours to lead.
    is_preferred: bool,
    is_in_sync: bool,
    mirror: Arc<MirrorTopic>,
}

impl Rejoin {
    /// Runs until told to stop.
    pub async fn run(mut self, stop: CancellationToken) {
        // What the leader task was told, by the leader epoch that it holds for.
        let mut adopted: HashMap<PartitionKey, LeaderEpoch> = HashMap::new();
        let judge = Judge::new(self.link.clone(), self.events.clone(), self.journal.clone());
        let mut acceptance = Acceptance::new(judge, self.failures.clone());
        let mut recovery = Recovery::default();
        loop {
            let image = self.image.borrow().clone();
            if self.identity(&image).is_some() {
                self.recover(&image, &mut recovery).await;
            }
            if let Err(error) = self.round(&mut adopted, &mut acceptance).await {
                tracing::info!(link = %self.link, %error, "cannot take leadership back yet; trying on");
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(LEAST_INTERVAL) => {}
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(INTERVAL) => {}
                Ok(()) = self.image.changed() => {}
            }
        }
    }

    async fn round(
        &mut self,
        adopted: &mut HashMap<PartitionKey, LeaderEpoch>,
        acceptance: &mut Acceptance,
    ) -> Result<(), SeatError> {
        let image = self.image.borrow_and_update().clone();
        self.destination.avoid(image.seats());
        let Some(identity) = self.identity(&image) else { return Ok(()) };
        let away = self.away(&image).await;
        adopted.retain(|key, epoch| {
            away.iter().any(|a| a.followed.key == *key && a.followed.leader_epoch == *epoch)
        });
        // One Fetch may not be enough to be taken in: leaders pass it over while another change of
        // the in-sync replicas is under way, or while they have not heard of us yet.
        let (known, unknown): (Vec<_>, Vec<_>) = away
            .into_iter()
            .partition(|away| away.is_in_sync && adopted.contains_key(&away.followed.key));
        let decisions: Decisions = self.leader.decisions().await.into_iter().collect();
        self.sides().find_cuts(&self.link, &self.leader, &decisions).await;
        self.resting.retain(|_, until| *until > Instant::now());
        for (leader, group) in by_leader(&unknown) {
            for group in group.chunks(AT_ONCE) {
                if self.resting.contains_key(&leader) {
                    break;
                }
                let began = Instant::now();
                match self.adopt(&image, leader, group, identity, &decisions, acceptance).await {
                    Ok(good) => adopted.extend(good.iter().map(|a| (a.key, a.leader_epoch))),
                    Err(error) => {
                        // Others must not wait for one that hangs: it rests as long as it took.
                        self.resting.insert(leader, Instant::now() + began.elapsed());
                        tracing::info!(
                            link = %self.link, broker = %leader, partitions = group.len(), %error,
                            "cannot take leadership back from this broker yet; trying on"
                        );
                    }
                }
            }
        }
        self.elect(&known).await
    }

    /// Who we are, once the image shows us unfenced under our present registration.
    fn identity(&self, image: &Image) -> Option<FollowerIdentity> {
        let epoch = (*self.registration.borrow())?;
        let broker = image.broker(self.seat)?;
        let may_join = broker.epoch == epoch && !broker.is_fenced && !broker.in_controlled_shutdown;
        may_join.then_some(FollowerIdentity { seat: self.seat, epoch })
    }

    /// Mirror partitions of this link that have our seat and that another broker leads.
    async fn away(&self, image: &Image) -> Vec<Away> {
        let mirrors = self.leader.mirrors().await;
        let mine = mirrors.into_iter().filter(|mirror| mirror.link == self.link);
        let mut away = Vec::new();
        for mirror in mine {
            let Some(topic) = image.topic(mirror.id) else { continue };
            // Somebody unlocked it: it is promoted by hand, or about to be.
            if !topic_configs::is_locked(image.topic_config(&mirror.name)) {
                continue;
            }
            for (&partition, state) in &topic.partitions {
                let key = PartitionKey { topic: mirror.id, partition };
                away.extend(self.away_partition(image, key, state, &mirror));
            }
        }
        away
    }

    fn away_partition(
        &self,
        image: &Image,
        key: PartitionKey,
        state: &PartitionImage,
        mirror: &Arc<MirrorTopic>,
    ) -> Option<Away> {
        let leader = state.leader.filter(|&leader| leader != self.seat)?;
        state.replicas.contains(&self.seat).then(|| Away {
            followed: Followed {
                key,
                topic: mirror.name.clone(),
                leader_epoch: state.leader_epoch,
            },
            leader,
            is_led_by_seat: image.is_seat(leader),
            // Another seat that stands first leads as long as it lives.
            is_preferred: state.replicas.first() == Some(&self.seat),
            is_in_sync: state.in_sync.contains(&self.seat),
            mirror: Arc::clone(mirror),
        })
    }

    /// Learns, checks, tells the leader task, and only then joins the in-sync replicas.
    async fn adopt(
        &mut self,
        image: &Image,
        leader: BrokerId,
        group: &[Away],
        identity: FollowerIdentity,
        decisions: &Decisions,
        acceptance: &mut Acceptance,
    ) -> Result<Vec<Adoption>, SeatError> {
        let connection = if image.is_seat(leader) {
            self.peers.seat(image, leader).await?
        } else {
            self.destination.broker_or_ask(leader).await?
        };
        let asked: Vec<_> = group.iter().map(|away| away.followed.clone()).collect();
        let learned = follow::learn(&connection, self.seat, &asked).await?;
        let mut known = Vec::new();
        for (away, learned) in group.iter().zip(learned) {
            match learned {
                Ok(adoption) => known.push((away, adoption)),
                // Another seat that has just begun to lead does not know everything yet.
                Err(code) if away.is_led_by_seat => tracing::debug!(
                    topic = %away.followed.topic, partition = away.followed.key.partition,
                    broker = %leader, error_code = code, "log of the copy not known yet"
                ),
                Err(code) => tracing::info!(
                    link = %self.link, topic = %away.followed.topic,
                    partition = away.followed.key.partition, broker = %leader, error_code = code,
                    "log of the copy not known yet; asking again"
                ),
            }
        }
        let (vouched, known): (Vec<_>, Vec<_>) =
            known.into_iter().partition(|(away, _)| away.is_led_by_seat);
        let mut good: Vec<_> = vouched.into_iter().map(|(_, adoption)| adoption).collect();
        let keys = known.iter().map(|(_, adoption)| adoption.key);
        let lineages = self.leader.lineages(keys.collect()).await;
        let copies = known.iter().zip(lineages).map(|((away, adoption), of)| Copy {
            known: of.lineage.known_at(adoption.log_end),
            ..copy_of(adoption.key, &away.mirror, away.leader, adoption.log_end)
        });
        let copies: Vec<_> = copies.collect();
        let evidence = tail_check::check(&self.destination, &self.source, &copies).await;
        let sides = self.sides();
        for (((away, mut adoption), evidence), copy) in known.into_iter().zip(evidence).zip(&copies)
        {
            let topic = &away.followed.topic;
            let is_decided = away.mirror.policies.follows_truncations
                || decisions.get(&adoption.key)
                    == Some(&Decision::Truncate { ours: adoption.log_end });
            let evidence = sides.follow(copy, &mut adoption, evidence, is_decided).await;
            let judged = Judged { key: adoption.key, topic, log_end: adoption.log_end };
            if let Some(tail) = acceptance.judge(judged, evidence) {
                adoption.tail = Some(tail);
                good.push(adoption);
            }
        }
        if good.is_empty() {
            return Ok(good);
        }
        self.leader.adopt(good.clone()).await;
        let not_in_sync =
            |a: &&Adoption| group.iter().any(|away| away.followed.key == a.key && !away.is_in_sync);
        let joining: Vec<_> = good.iter().filter(not_in_sync).cloned().collect();
        if !joining.is_empty() {
            for (key, code) in follow::join(&connection, identity, &joining).await? {
                if code != 0 {
                    good.retain(|adoption| adoption.key != key);
                }
            }
        }
        Ok(good)
    }

    fn sides(&self) -> Sides<'_> {
        Sides { destination: &self.destination, source: &self.source }
    }

    /// Asks for the election of what is known and in sync.
    async fn elect(&self, known: &[Away]) -> Result<(), SeatError> {
        let ready = known.iter().filter(|away| away.is_in_sync && away.is_preferred);
        let ready: Vec<_> = ready.map(|away| away.followed.clone()).collect();
        for group in ready.chunks(AT_ONCE) {
            follow::elect(&self.destination.any().await?, group).await?;
        }
        Ok(())
    }
}

fn by_leader(away: &[Away]) -> BTreeMap<BrokerId, Vec<Away>> {
    let mut leaders: BTreeMap<BrokerId, Vec<Away>> = BTreeMap::new();
    for away in away {
        leaders.entry(away.leader).or_default().push(away.clone());
    }
    leaders
}
