//! Follows one of the journal's topics to its end, again and again: wherever it is led, whichever
//! topic has the name now. Changes nothing.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};

use super::committed::{Committed, Log};
use super::error::{Answered, StoreError};
use super::topics::Place;
use crate::client::{Backoff, Cluster, Retry, Topics};
use crate::image::Image;
use crate::types::{BrokerId, Offset, TopicId, TopicName};

/// A long poll at the end.
const MAX_WAIT: Duration = Duration::from_millis(500);
const OFFSET_OUT_OF_RANGE: i16 = 1;
/// Between lines of the log about the same trouble.
const QUIET: Duration = Duration::from_secs(60);

/// What the reader heard of.
#[derive(Debug)]
pub(super) enum Heard {
    /// Records of the topic that has the name now.
    Read(TopicId, Committed),
    /// There is no topic of the name, or its log was cut.
    Gone,
}

/// Where to begin in a topic that was not read before.
#[derive(Clone, Copy, Debug)]
pub(super) enum Begin {
    /// At its start.
    Start,
    /// So many offsets before its end.
    Before(i64),
}

/// Reads one topic.
pub(super) struct Reader {
    pub(super) topic: TopicName,
    pub(super) cluster: Cluster,
    pub(super) image: watch::Receiver<Arc<Image>>,
    pub(super) begin: Begin,
    pub(super) heard: mpsc::Sender<Heard>,
}

impl Reader {
    /// Reads until nobody listens any more.
    pub(super) async fn run(mut self) {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));
        let mut position: Option<(TopicId, Offset)> = None;
        let mut log: Option<Log> = None;
        let mut complained: Option<tokio::time::Instant> = None;
        while !self.heard.is_closed() {
            let image = self.image.borrow_and_update().clone();
            let Some(place) = Place::find(&image, self.topic.as_str()) else {
                if position.take().is_some() && self.heard.send(Heard::Gone).await.is_err() {
                    return;
                }
                let _closed = tokio::time::timeout(MAX_WAIT, self.image.changed()).await;
                continue;
            };
            match self.step(place, &mut position, &mut log).await {
                Ok(heard) => {
                    backoff.reset();
                    if self.heard.send(heard).await.is_err() {
                        return;
                    }
                }
                Err(error) => {
                    if complained.is_none_or(|at| at.elapsed() > QUIET) {
                        tracing::info!(topic = %self.topic, %error, "cannot be read now; trying on");
                        complained = Some(tokio::time::Instant::now());
                    }
                    log = None;
                    if error.retry() == Retry::AfterMetadataRefresh {
                        let _trying_on = self.cluster.metadata(Topics::None).await;
                    }
                    tokio::time::sleep(backoff.next()).await;
                }
            }
        }
    }

    async fn step(
        &self,
        place: Place,
        position: &mut Option<(TopicId, Offset)>,
        log: &mut Option<Log>,
    ) -> Result<Heard, StoreError> {
        let leader = place.leader.ok_or_else(|| StoreError::NoLeader(self.topic.clone()))?;
        if log.as_ref().is_none_or(|log| log.leader != leader || !log.connection.is_open()) {
            *log = Some(open(&self.cluster, &self.topic, leader).await?);
        }
        let Some(log) = log else { return Err(StoreError::NoLeader(self.topic.clone())) };
        let offset = match *position {
            Some((id, offset)) if id == place.id => offset,
            _ => self.first(log).await?,
        };
        match log.read(offset, MAX_WAIT).await {
            Ok(read) => {
                *position = Some((place.id, read.next));
                Ok(Heard::Read(place.id, read))
            }
            Err(StoreError::Answered { error: Answered(OFFSET_OUT_OF_RANGE), .. }) => {
                *position = None;
                Ok(Heard::Gone)
            }
            Err(error) => Err(error),
        }
    }

    async fn first(&self, log: &Log) -> Result<Offset, StoreError> {
        let start = log.start().await?;
        match self.begin {
            Begin::Start => Ok(start),
            Begin::Before(count) => Ok(start.max(Offset(log.end().await?.0 - count))),
        }
    }
}

/// A connection of our own: a long poll holds up what follows it.
pub(super) async fn open(
    cluster: &Cluster,
    topic: &TopicName,
    leader: BrokerId,
) -> Result<Log, StoreError> {
    let connection = match cluster.dedicated(leader).await {
        Ok(connection) => connection,
        Err(error) if error.retry() == Retry::AfterMetadataRefresh => {
            cluster.metadata(Topics::None).await?;
            cluster.dedicated(leader).await?
        }
        Err(error) => return Err(error.into()),
    };
    Ok(Log { topic: topic.clone(), leader, connection })
}
