//! The values of the journal's entries. Plain data; the field names are what people read there.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::mirror::report::Reason;
use crate::mirror::topic::MirrorState;
use crate::types::TopicId;

/// The journal itself: tells a journal that was begun from a topic that is merely empty.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JournalEntry {
    /// The destination's cluster id.
    pub cluster_id: String,
    /// When it was begun, in milliseconds since 1970.
    pub since: i64,
}

/// A link: a cluster is its id, not its address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkEntry {
    /// The source's cluster id, of the first contact.
    pub source_cluster_id: String,
    /// When it was pinned, in milliseconds since 1970.
    pub since: i64,
}

/// A mirror: a topic is its id, not its name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MirrorEntry {
    /// The link that feeds it.
    pub link: String,
    /// Its name at the destination.
    pub topic: String,
    /// Its name at the source.
    pub source_topic: String,
    /// Its id at the source, which it began with; the nil id where the source has none.
    pub source_topic_id: TopicId,
    /// How it is.
    pub state: MirrorState,
    /// Why; `None` where the state says it all.
    pub reason: Option<Reason>,
    /// Since when, in milliseconds since 1970.
    pub since: i64,
    /// The source's values that the lock replaced: promotion sets them.
    #[serde(default)]
    pub restore: BTreeMap<String, String>,
}

/// The source epochs of what a mirror partition holds: what the source's OffsetForLeaderEpoch is
/// compared with.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LineageEntry {
    /// The leader epoch at the destination in which it was learned: of what several seats say, the
    /// newest counts.
    pub leader_epoch: i32,
    /// In the order of their offsets; each ends where the next begins.
    pub epochs: Vec<SourceEpoch>,
    /// End of what was known to be of the last of them when this was written: what follows may be of
    /// later epochs that had not been written yet.
    pub end_offset: i64,
}

/// How a mirror is with one seat: of what that one leads, and of what it may not lead.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StandingEntry {
    /// How it is.
    pub state: MirrorState,
    /// Why; `None` where the state says it all.
    pub reason: Option<Reason>,
    /// Since when, in milliseconds since 1970.
    pub since: i64,
    /// Partitions that have failed.
    #[serde(default)]
    pub failed: Vec<FailedPartition>,
}

/// A partition that has failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailedPartition {
    /// Which.
    pub partition: i32,
    /// Its leader epoch at the destination then.
    pub leader_epoch: i32,
    /// Why.
    pub reason: Option<Reason>,
    /// End of the copy, where it matters.
    pub offset: Option<i64>,
    /// Where the source's log stood against it.
    pub source_offset: Option<i64>,
}

/// A leader epoch of the source.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceEpoch {
    /// The epoch.
    pub epoch: i32,
    /// First offset of the copy that is of it.
    pub start_offset: i64,
}

/// What an operator can ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OperationKind {
    /// Let failed partitions go on as the source is now, and give up what stands against it.
    ResumeFailed,
}

/// How far an operation has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum OperationState {
    /// Durable, and being carried out.
    Running,
    /// Carried out.
    Done,
    /// Given up; the partitions say why.
    Failed,
}

/// Something that an operator asked for: his word with what was found then. What is different later
/// is not covered by it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OperationEntry {
    /// What.
    pub operation: OperationKind,
    /// For which link.
    pub link: String,
    /// How far it has come.
    pub state: OperationState,
    /// When it was asked for, in milliseconds since 1970.
    pub requested: i64,
    /// When its state changed last, in milliseconds since 1970.
    pub since: i64,
    /// What it is about.
    pub partitions: Vec<OperationPartition>,
}

/// One partition of an operation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OperationPartition {
    /// The mirror's name at the destination.
    pub topic: String,
    /// Its id there.
    pub topic_id: TopicId,
    /// The partition.
    pub partition: i32,
    /// Why it had failed when the operator said his word.
    pub reason: Option<Reason>,
    /// End of the copy then.
    pub offset: Option<i64>,
    /// Where the source's log stood against it then.
    pub source_offset: Option<i64>,
    /// What became of it; `None` while it is not carried out.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub outcome: Option<String>,
}
