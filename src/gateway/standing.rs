//! How the partitions that a request names stand with us: led mirrors, or the code that refuses them.

use kafka_protocol::error::ResponseError;

use super::Context;
use super::answers::{AnswerError, Asker};
use super::rights::{Operation, Rights, Wanted};
use crate::image::Image;
use crate::seat::leader::LedPartition;
use crate::types::{BrokerId, LeaderEpoch, PartitionKey, TopicId, TopicName, Uuid};

/// A topic as a request names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TopicRef {
    /// By name.
    Name(TopicName),
    /// By id (KIP-516).
    Id(TopicId),
}

impl TopicRef {
    /// By id where the request's version has ids, else by name.
    pub fn of(name: &str, id: Uuid) -> Self {
        if id.is_nil() { Self::Name(TopicName::from(name)) } else { Self::Id(TopicId(id)) }
    }

    /// It with each of `partitions`, as [`Standings::look_up`] wants them.
    pub fn each(self, partitions: impl Iterator<Item = i32>) -> impl Iterator<Item = (Self, i32)> {
        partitions.map(move |partition| (self.clone(), partition))
    }
}

/// A mirror partition that we lead.
#[derive(Clone, Debug)]
pub struct Led {
    /// Its key at the destination.
    pub key: PartitionKey,
    /// Name of its topic at the destination.
    pub topic: TopicName,
    /// What the leader knows of it.
    pub partition: LedPartition,
}

/// Who leads a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Leader {
    /// The broker.
    pub id: BrokerId,
    /// Since when.
    pub epoch: LeaderEpoch,
}

/// How a partition stands with us.
#[derive(Clone, Debug)]
pub enum Standing {
    /// We lead it and it is a mirror.
    Led(Box<Led>),
    /// We do not lead it; who does, where somebody does.
    Elsewhere(Option<Leader>),
    /// Not ours: the error code that says so.
    Refused(i16),
}

impl Standing {
    /// The mirror, or the code that refuses it.
    pub fn led(&self) -> Result<&Led, i16> {
        match self {
            Self::Led(led) => Ok(led),
            Self::Elsewhere(_) => Err(ResponseError::NotLeaderOrFollower.code()),
            Self::Refused(code) => Err(*code),
        }
    }

    /// The same for one who says in which leader epoch. A client whose leader epoch (`-1`: it names none)
    /// is not ours is told to look again (KIP-320).
    pub fn led_at(&self, client_epoch: i32) -> Result<&Led, i16> {
        let led = self.led()?;
        let ours = led.partition.leader_epoch.0;
        if client_epoch >= 0 && client_epoch < ours {
            Err(ResponseError::FencedLeaderEpoch.code())
        } else if client_epoch > ours {
            Err(ResponseError::UnknownLeaderEpoch.code())
        } else {
            Ok(led)
        }
    }
}

/// Standings in the order asked.
#[derive(Debug)]
pub struct Standings(std::vec::IntoIter<Standing>);

impl Standings {
    /// Those of `asked`, as image and leader know them now, for a client that needs the right to
    /// `operation` on each topic.
    pub async fn look_up(
        asker: &Asker<'_>,
        operation: Operation,
        asked: Vec<(TopicRef, i32)>,
    ) -> Result<Self, AnswerError> {
        let found = {
            let image = asker.context.image.borrow();
            let allow = Some((asker.rights, operation));
            let mut search = Search { image: &image, allow, wanted: Wanted::default() };
            let found = search.find_all(&asked);
            if !search.wanted.topics.is_empty() {
                return Err(AnswerError::Rights(search.wanted));
            }
            found
        };
        Ok(Self::stand(asker.context, found).await)
    }

    /// Those of `asked` for one that may do anything in the cluster.
    pub async fn of_cluster(context: &Context, asked: Vec<(TopicRef, i32)>) -> Self {
        let found = {
            let image = context.image.borrow();
            let mut search = Search { image: &image, allow: None, wanted: Wanted::default() };
            search.find_all(&asked)
        };
        Self::stand(context, found).await
    }

    async fn stand(context: &Context, found: Vec<Found>) -> Self {
        let keys = found.iter().filter_map(|found| Some(found.as_ref().ok()?.0)).collect();
        let mut led = context.leader.led(keys).await.into_iter();
        let standings: Vec<_> = found
            .into_iter()
            .map(|found| match found {
                Ok((key, topic)) => match led.next().flatten() {
                    Some(partition) => Standing::Led(Box::new(Led { key, topic, partition })),
                    None => Standing::Elsewhere(other_leader(context, key)),
                },
                Err(code) => Standing::Refused(code),
            })
            .collect();
        Self::from(standings)
    }

    /// The next one; more than were asked for are not ours.
    pub fn take(&mut self) -> Standing {
        self.0.next().unwrap_or(Standing::Elsewhere(None))
    }

    /// Those not yet taken that we lead.
    pub fn led(&self) -> impl Iterator<Item = &Led> {
        self.as_slice().iter().filter_map(|standing| standing.led().ok())
    }

    /// Those not yet taken.
    pub fn as_slice(&self) -> &[Standing] {
        self.0.as_slice()
    }
}

/// Ourselves do not count: what we do not lead yet, or not any more, is nobody's.
fn other_leader(context: &Context, key: PartitionKey) -> Option<Leader> {
    let image = context.image.borrow();
    let partition = image.partition(key)?;
    let id = partition.leader.filter(|id| *id != context.broker_id)?;
    Some(Leader { id, epoch: partition.leader_epoch })
}

impl From<Vec<Standing>> for Standings {
    fn from(standings: Vec<Standing>) -> Self {
        Self(standings.into_iter())
    }
}

/// Looks topics up as a broker does: what a client may not see is not even said to be there.
struct Search<'a> {
    image: &'a Image,
    /// What the client needs on each topic; `None`: nothing.
    allow: Option<(&'a Rights, Operation)>,
    wanted: Wanted,
}

type Found = Result<(PartitionKey, TopicName), i16>;

impl Search<'_> {
    fn find_all(&mut self, asked: &[(TopicRef, i32)]) -> Vec<Found> {
        asked.iter().map(|(topic, partition)| self.find(topic, *partition)).collect()
    }

    fn find(&mut self, topic: &TopicRef, partition: i32) -> Found {
        let found = match topic {
            TopicRef::Name(name) => {
                self.allow(name)?;
                self.image.topic_named(name).ok_or(ResponseError::UnknownTopicOrPartition.code())?
            }
            TopicRef::Id(id) => {
                let found = self.image.topic(*id).ok_or(ResponseError::UnknownTopicId.code())?;
                self.allow(&found.name)?;
                found
            }
        };
        if !found.partitions.contains_key(&partition) {
            return Err(ResponseError::UnknownTopicOrPartition.code());
        }
        Ok((PartitionKey { topic: found.id, partition }, found.name.clone()))
    }

    fn allow(&mut self, name: &TopicName) -> Result<(), i16> {
        let Some((rights, operation)) = self.allow else { return Ok(()) };
        match rights.topic(name, operation) {
            Some(true) => return Ok(()),
            Some(false) => {}
            None => {
                self.wanted.topics.insert(name.clone());
            }
        }
        Err(ResponseError::TopicAuthorizationFailed.code())
    }
}
