//! The two channels between the seat, which knows what is needed, and the source, which fetches it.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::{Notify, mpsc};

use super::buffer::Chunk;
use super::marks::LastBatch;
use crate::mirror::decision::Failure;
use crate::mirror::lineage::EpochHistory;
use crate::mirror::report::{FailureReport, PartitionReport, Reason};
use crate::types::{LinkName, Offset, OffsetAndEpoch, PartitionKey, TopicId, TopicPartition};

/// Arrivals under way between source and seat; each is at most one answer of the source, and the
/// memory budget bounds their bytes.
const ARRIVALS: usize = 256;

/// Where to begin to read a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StartAt {
    /// The source's log start.
    Earliest,
    /// The source's end.
    Latest,
    /// The first record at or after a time, in milliseconds since 1970; the end where there is none.
    Time(i64),
    /// Go on from a copy.
    At(OffsetAndEpoch),
}

/// "Read this partition from there on until told otherwise."
#[derive(Clone, Debug)]
pub struct Follow {
    /// The mirror partition.
    pub key: PartitionKey,
    /// The link whose source it is.
    pub link: LinkName,
    /// The partition at the source.
    pub source: TopicPartition,
    /// The topic's id at the source; [`TopicId::NONE`] where the source has none.
    pub source_topic: TopicId,
    /// Where to begin.
    pub start: StartAt,
    /// The batch just below the start, as the source had it: it is looked for first.
    pub last: Option<LastBatch>,
    /// Destination epochs to stamp batches with.
    pub stamps: Arc<EpochHistory>,
    /// Repeated in every arrival: arrivals of an older order are thrown away.
    pub generation: u64,
    /// How much may still be buffered.
    pub room: Arc<Room>,
}

/// What the seat wants of the source.
#[derive(Clone, Debug)]
pub enum Order {
    /// Begin, or begin anew elsewhere.
    Follow(Follow),
    /// Stop reading a partition.
    Stop(PartitionKey),
}

/// Where the source's log begins and ends, as of its last answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// The source's log start offset.
    pub log_start: Offset,
    /// The source's high watermark: the end of what may be copied.
    pub high_watermark: Offset,
}

/// Why the source cannot be read on. Nothing of it passes to a follower.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// A broker cannot be reached or answers with a retriable error; it is retried for ever.
    Unavailable(String),
    /// The topic is gone.
    TopicDeleted,
    /// The topic has another id now.
    TopicIdChanged,
    /// The source lost what we had copied: its log ends, or its epoch ended, below our position.
    Truncated {
        /// Our position.
        ours: Offset,
        /// Where the source's log or epoch ends.
        source_end: Offset,
    },
    /// The source deleted what we had not copied yet.
    Gap {
        /// Our position.
        ours: Offset,
        /// The source's log start.
        source_start: Offset,
    },
    /// A batch is damaged.
    Corrupt {
        /// Where we were.
        ours: Offset,
        /// What is wrong.
        detail: String,
    },
    /// A batch has a message format that cannot be mirrored.
    Format {
        /// Where we were.
        ours: Offset,
        /// The format's number.
        magic: i8,
    },
    /// The principal may not read the topic; it is retried for ever.
    Unauthorized(String),
}

impl Trouble {
    /// The reason that users see.
    pub fn reason(&self) -> Reason {
        match self {
            Self::Unavailable(_) => Reason::SourceUnreachable,
            Self::Unauthorized(_) => Reason::SourceAuthorizationFailed,
            Self::TopicDeleted => Reason::SourceTopicDeleted,
            Self::TopicIdChanged => Reason::SourceTopicIdChanged,
            Self::Truncated { .. } => Reason::SourceTruncated,
            Self::Gap { .. } => Reason::SourceGap,
            Self::Corrupt { .. } => Reason::CorruptBatch,
            Self::Format { .. } => Reason::UnsupportedMessageFormat,
        }
    }

    /// The failure that has to be decided about, with its offsets; `None` where it is retried.
    pub fn failure(&self) -> Option<Failure> {
        let (ours, source) = match *self {
            Self::Unavailable(_) | Self::Unauthorized(_) => return None,
            Self::TopicDeleted | Self::TopicIdChanged => (None, None),
            Self::Truncated { ours, source_end } => (Some(ours), Some(source_end)),
            Self::Gap { ours, source_start } => (Some(ours), Some(source_start)),
            Self::Corrupt { ours, .. } | Self::Format { ours, .. } => (Some(ours), None),
        };
        Some(Failure { reason: self.reason(), ours, source })
    }

    /// The same for people; `None` where it is retried.
    pub fn failure_report(&self) -> Option<FailureReport> {
        let failure = self.failure()?;
        Some(FailureReport {
            offset: failure.ours.map(|offset| offset.0),
            source_offset: failure.source.map(|offset| offset.0),
            text: self.to_string(),
        })
    }

    /// Shows what it found of the source in a report.
    pub fn show(&self, report: &mut PartitionReport) {
        match *self {
            Self::Truncated { source_end, .. } => report.source_end_offset = Some(source_end.0),
            Self::Gap { source_start, .. } => {
                report.source_log_start_offset = Some(source_start.0);
            }
            _ => {}
        }
    }

    /// Whether it says that copy and source are of two lineages: only proof undoes that.
    pub fn needs_proof(&self) -> bool {
        matches!(self, Self::Truncated { .. } | Self::TopicIdChanged)
    }

    /// Whether it is retried for ever; all else needs a decision.
    pub fn is_retried(&self) -> bool {
        matches!(self, Self::Unavailable(_) | Self::Unauthorized(_))
    }
}

/// For people: what is so, with both offsets.
impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unavailable(why) => write!(f, "the source cannot be read: {why}"),
            Self::Unauthorized(why) => write!(f, "the source does not let us read: {why}"),
            Self::TopicDeleted => f.write_str("the source does not have the topic any more"),
            Self::TopicIdChanged => f.write_str("the source has another topic of that name"),
            Self::Truncated { ours, source_end } => write!(
                f,
                "the source's log ends at {source_end} in our lineage, the copy at {ours}"
            ),
            Self::Gap { ours, source_start } => write!(
                f,
                "the source's log begins at {source_start}, the copy ends at {ours}: what lies \
                 between is gone"
            ),
            Self::Corrupt { ours, detail } => write!(f, "the batch at {ours} is damaged: {detail}"),
            Self::Format { ours, magic } => write!(
                f,
                "the batch at {ours} has message format v{magic}, which cannot be mirrored"
            ),
        }
    }
}

/// What arrived for one partition.
#[derive(Debug)]
pub struct Arrival {
    /// The mirror partition.
    pub key: PartitionKey,
    /// Generation of the order.
    pub generation: u64,
    /// What it is.
    pub kind: ArrivalKind,
}

/// Kinds of arrival.
#[derive(Debug)]
pub enum ArrivalKind {
    /// Where reading begins, for orders that did not say an offset. Always the first arrival then.
    Started {
        /// First offset that will be read.
        position: Offset,
        /// Bounds at that moment.
        bounds: Bounds,
    },
    /// Batches.
    Data {
        /// The batches.
        chunk: Chunk,
        /// Bounds in the same answer.
        bounds: Bounds,
    },
    /// Nothing new but the bounds: we are at the source's end.
    Idle(Bounds),
    /// Reading stopped (or, for retriable trouble, waits).
    Trouble(Trouble),
}

/// Room for one partition's batches: the source reads on while there is some.
#[derive(Debug)]
pub struct Room {
    buffered: AtomicUsize,
    limit: AtomicUsize,
    freed: Notify,
}

impl Room {
    /// Room for `limit` bytes.
    pub fn new(limit: usize) -> Self {
        Self { buffered: AtomicUsize::new(0), limit: AtomicUsize::new(limit), freed: Notify::new() }
    }

    /// Whether more may be read.
    pub fn is_free(&self) -> bool {
        self.buffered.load(Ordering::Relaxed) < self.limit.load(Ordering::Relaxed)
    }

    /// Bytes read and not yet forgotten.
    pub fn add(&self, bytes: usize) {
        self.buffered.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Bytes forgotten.
    pub fn remove(&self, bytes: usize) {
        let before = self.buffered.fetch_sub(bytes, Ordering::Relaxed);
        let limit = self.limit.load(Ordering::Relaxed);
        if before >= limit && before - bytes < limit {
            self.freed.notify_one();
        }
    }

    /// Changes the limit.
    pub fn set_limit(&self, bytes: usize) {
        self.limit.store(bytes, Ordering::Relaxed);
        if self.is_free() {
            self.freed.notify_one();
        }
    }

    /// Waits until there is room again after there was none.
    pub async fn wait_free(&self) {
        while !self.is_free() {
            self.freed.notified().await;
        }
    }
}

/// The seat's end of the orders, one for each link.
pub type Orders = mpsc::UnboundedSender<Order>;
/// The source's end of the arrivals.
pub type Arrivals = mpsc::Sender<Arrival>;

/// The channel of arrivals, shared by all links.
pub fn exchange() -> (Arrivals, mpsc::Receiver<Arrival>) {
    mpsc::channel(ARRIVALS)
}
