//! One followed partition: what was ordered, how far it was read, what is doubted. It is owned by
//! exactly one task at a time and handed on through channels.

use std::time::Duration;

use tokio::time::Instant;

use super::fetch_session::{Asked, TopicRef, WireKey};
use crate::client::Backoff;
use crate::tail::marks::LastBatch;
use crate::tail::{Arrival, ArrivalKind, Bounds, Follow, StartAt};
use crate::types::{BrokerId, LeaderEpoch, Offset, OffsetAndEpoch, TopicId};

/// First and longest wait before a partition is tried again.
const RETRY: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(5));

/// A followed partition.
#[derive(Debug)]
pub(super) struct Partition {
    /// The order.
    pub follow: Follow,
    /// Number of the order within this source: tells a late report of an older order.
    pub ticket: u64,
    /// The topic's id at the source, of the order or as first seen.
    pub topic: TopicId,
    /// Epoch of the source's leader, by its metadata.
    pub leader_epoch: LeaderEpoch,
    /// A replica nearer than the leader that the leader named (KIP-392). It is no authority:
    /// whatever error it answers sends us back to the leader.
    pub read_from: Option<BrokerId>,
    /// A nearer replica failed: from now on only the leader is read.
    pub leader_only: bool,
    /// The last batch that was read.
    pub last: Option<LastBatch>,
    /// Whether that batch has to be seen again before anything that follows it is believed: after
    /// trouble the source may have another lineage.
    pub must_prove: bool,
    /// Where to read on; `None` until the source has said where the order's start is.
    pub position: Option<OffsetAndEpoch>,
    /// Bounds as last told to the seat.
    pub told: Option<Bounds>,
    /// What has to be seen twice before it counts.
    pub doubts: Doubts,
    /// Failures in a row.
    pub trouble: Trial,
}

/// Things that one look does not prove.
#[derive(Debug, Default)]
pub(super) struct Doubts {
    /// The source answered "out of range"; its bounds have to be asked for.
    pub range: bool,
    /// It did so although its bounds said otherwise.
    pub range_denied: bool,
    /// A batch at this offset was damaged.
    pub damage: Option<Offset>,
    /// Since when, and how often, metadata said that the topic is gone or another.
    pub topic: Option<(Instant, u32)>,
}

/// Failures in a row, and when to try again.
#[derive(Debug)]
pub(super) struct Trial {
    /// How many.
    pub failures: u32,
    /// Whether the seat knows.
    pub told: bool,
    /// Not before.
    pub retry_at: Instant,
    backoff: Backoff,
}

impl Trial {
    /// Counts a failure and sets the next attempt.
    pub(super) fn failed(&mut self, now: Instant) {
        self.failures = self.failures.saturating_add(1);
        self.retry_at = now + self.backoff.next();
    }
}

impl Partition {
    /// A partition that was just ordered.
    pub(super) fn new(follow: Follow, ticket: u64, now: Instant) -> Self {
        let position = match follow.start {
            StartAt::At(position) => Some(position),
            StartAt::Earliest | StartAt::Latest | StartAt::Time(_) => None,
        };
        Self {
            topic: follow.source_topic,
            last: follow.last,
            must_prove: follow.last.is_some(),
            follow,
            ticket,
            leader_epoch: LeaderEpoch::UNKNOWN,
            read_from: None,
            leader_only: false,
            position,
            told: None,
            doubts: Doubts::default(),
            trouble: Trial {
                failures: 0,
                told: false,
                retry_at: now,
                backoff: Backoff::new(RETRY.0, RETRY.1),
            },
        }
    }

    /// Back to the leader; for good if a nearer replica `failed`, since the leader would only name
    /// the same one again.
    pub(super) fn leave_follower(&mut self, failed: bool) {
        let follower = self.read_from.take();
        self.leader_only |= failed && follower.is_some();
    }

    /// Its name in fetches by id or by name.
    pub(super) fn wire_key(&self, by_id: bool) -> WireKey {
        WireKey {
            topic: if by_id {
                TopicRef::Id(self.topic.0)
            } else {
                TopicRef::Name(self.follow.source.topic.0.clone())
            },
            partition: self.follow.source.partition,
        }
    }

    /// The next offset wanted.
    pub(super) fn offset(&self) -> Offset {
        self.position.map_or(Offset::ZERO, |position| position.offset)
    }

    /// What to ask of the source now; with the epoch of the last batch where it can be sent.
    pub(super) fn asked(&self, keeps_epochs: bool) -> Option<Asked> {
        let position = self.position?;
        let last_epoch = if keeps_epochs { position.epoch } else { LeaderEpoch::UNKNOWN };
        let offset = self.unproven().map_or(position.offset, |last| last.offset());
        Some(Asked { offset, leader_epoch: self.leader_epoch, last_epoch })
    }

    /// The batch that has to be seen again first.
    pub(super) fn unproven(&self) -> Option<LastBatch> {
        // Without an offset within it, or not just below the position, it proves nothing.
        let position = self.position.map(|position| position.offset);
        self.last.filter(|last| self.must_prove && Some(last.next_offset) == position)
    }

    /// The source was in trouble: what it has now may be of another lineage.
    pub(super) fn doubt(&mut self) {
        self.must_prove = self.last.is_some();
    }

    /// After a good answer: what was doubted is settled.
    pub(super) fn succeeded(&mut self) {
        if self.trouble.failures > 0 {
            self.trouble.failures = 0;
            self.trouble.backoff.reset();
        }
        self.trouble.told = false;
        self.doubts.range = false;
        self.doubts.range_denied = false;
        self.doubts.topic = None;
    }

    /// An arrival for it.
    pub(super) fn arrival(&self, kind: ArrivalKind) -> Arrival {
        Arrival { key: self.follow.key, generation: self.follow.generation, kind }
    }
}
