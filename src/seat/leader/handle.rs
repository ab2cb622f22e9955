//! How other parts talk to the task that owns the mirror partitions.

use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};

use crate::mirror::lineage::EpochHistory;
use crate::tail::StartAt;
use crate::types::{BrokerId, LeaderEpoch, LinkName, Offset, PartitionKey, TopicId, TopicName};

/// A topic of the destination that is a mirror, and what it mirrors.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MirrorTopic {
    /// Its id at the destination.
    pub id: TopicId,
    /// Its name at the destination.
    pub name: TopicName,
    /// The link that feeds it.
    pub link: LinkName,
    /// Its name at the source.
    pub source_name: TopicName,
    /// Its id at the source; [`TopicId::NONE`] where the source has none.
    pub source_id: TopicId,
    /// Where a partition begins that holds nothing yet.
    pub start: StartAt,
    /// `segment.bytes` at the destination: no answer to a follower may be larger.
    pub segment_bytes: usize,
}

/// What others may know of a mirror partition that we lead.
#[derive(Clone, Debug)]
pub struct LedPartition {
    /// The link that feeds it.
    pub link: LinkName,
    /// Current leader epoch.
    pub leader_epoch: LeaderEpoch,
    /// Known once every in-sync real replica has fetched in this epoch.
    pub high_watermark: Option<Offset>,
    /// The verified log start of the source, or of the copy where that is higher.
    pub log_start: Option<Offset>,
    /// End of what we can serve.
    pub log_end: Offset,
    /// All leader epochs, where they are known.
    pub history: Option<Arc<EpochHistory>>,
    /// Real brokers in sync, unfenced.
    pub in_sync: Vec<BrokerId>,
}

/// Requests to the task.
#[derive(Debug)]
pub enum Command {
    /// Questions of the gateway; answers in the order of the keys, `None` where we do not lead.
    Led(Vec<PartitionKey>, oneshot::Sender<Vec<Option<LedPartition>>>),
    /// These topics are mirrors (said again whenever something of them changes).
    Bind(Vec<MirrorTopic>),
}

/// Handle on the task; cheap to clone.
#[derive(Clone, Debug)]
pub struct LeaderHandle {
    commands: mpsc::Sender<Command>,
}

impl LeaderHandle {
    /// A handle, and the commands that it will send.
    pub fn new(capacity: usize) -> (Self, mpsc::Receiver<Command>) {
        let (commands, received) = mpsc::channel(capacity);
        (Self { commands }, received)
    }

    /// What is known of these partitions, in their order; `None` where we do not lead a mirror.
    pub async fn led(&self, keys: Vec<PartitionKey>) -> Vec<Option<LedPartition>> {
        let count = keys.len();
        let (answer, answered) = oneshot::channel();
        if self.commands.send(Command::Led(keys, answer)).await.is_err() {
            return vec![None; count];
        }
        // The task only goes away when the daemon stops: then we lead nothing.
        answered.await.unwrap_or_else(|_stopped| vec![None; count])
    }

    /// Says which topics are mirrors.
    pub async fn bind(&self, topics: Vec<MirrorTopic>) {
        let _stopped = self.commands.send(Command::Bind(topics)).await;
    }
}
