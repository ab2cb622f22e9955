//! How the partitions that a request names stand with us: led mirrors, or the code that refuses them.

use kafka_protocol::error::ResponseError;

use super::Context;
use crate::image::Image;
use crate::seat::leader::LedPartition;
use crate::types::{PartitionKey, TopicId, TopicName, Uuid};

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

/// How a partition stands with us.
#[derive(Clone, Debug)]
pub enum Standing {
    /// We lead it and it is a mirror.
    Led(Box<Led>),
    /// Not ours: the error code that says so.
    Refused(i16),
}

impl Standing {
    /// The mirror, or the code that refuses it. A client whose leader epoch (`-1`: it names none)
    /// is not ours is told to look again (KIP-320).
    pub fn led_at(&self, client_epoch: i32) -> Result<&Led, i16> {
        let led = match self {
            Self::Led(led) => led,
            Self::Refused(code) => return Err(*code),
        };
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
    /// Those of `asked`, as image and leader know them now.
    pub async fn look_up(context: &Context, asked: Vec<(TopicRef, i32)>) -> Self {
        let found: Vec<_> = {
            let image = context.image.borrow();
            asked.iter().map(|(topic, partition)| find(&image, topic, *partition)).collect()
        };
        let keys = found.iter().filter_map(|found| Some(found.as_ref().ok()?.0)).collect();
        let mut led = context.leader.led(keys).await.into_iter();
        let standings: Vec<_> = found
            .into_iter()
            .map(|found| match found {
                Ok((key, topic)) => match led.next().flatten() {
                    Some(partition) => Standing::Led(Box::new(Led { key, topic, partition })),
                    None => Standing::Refused(ResponseError::NotLeaderOrFollower.code()),
                },
                Err(code) => Standing::Refused(code),
            })
            .collect();
        Self::from(standings)
    }

    /// The next one; more than were asked for are not ours.
    pub fn take(&mut self) -> Standing {
        self.0.next().unwrap_or(Standing::Refused(ResponseError::NotLeaderOrFollower.code()))
    }

    /// Those not yet taken.
    pub fn as_slice(&self) -> &[Standing] {
        self.0.as_slice()
    }
}

impl From<Vec<Standing>> for Standings {
    fn from(standings: Vec<Standing>) -> Self {
        Self(standings.into_iter())
    }
}

fn find(image: &Image, topic: &TopicRef, partition: i32) -> Result<(PartitionKey, TopicName), i16> {
    let (found, unknown) = match topic {
        TopicRef::Name(name) => (image.topic_named(name), ResponseError::UnknownTopicOrPartition),
        TopicRef::Id(id) => (image.topic(*id), ResponseError::UnknownTopicId),
    };
    let topic = found.ok_or(unknown.code())?;
    if !topic.partitions.contains_key(&partition) {
        return Err(ResponseError::UnknownTopicOrPartition.code());
    }
    let key = PartitionKey { topic: topic.id, partition };
    Ok((key, topic.name.clone()))
}
