//! By what a source is known again after it was away: the epochs that it gave its batches, and its
//! last batch. Plain data and one comparison.

use crate::mirror::lineage::EpochStart;
use crate::types::{LeaderEpoch, Offset};
use crate::wire::batch::BatchHeader;

/// What a chunk says of the source's log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SourceMarks {
    /// The source's epoch of the first batch and of each that begins another one.
    pub epochs: Vec<EpochStart>,
    /// The last batch.
    pub last: Option<LastBatch>,
}

impl SourceMarks {
    /// The marks of consecutive batches, as they came from the source.
    pub fn of(batches: &[BatchHeader]) -> Self {
        let mut epochs: Vec<EpochStart> = Vec::new();
        for batch in batches {
            if epochs.last().is_none_or(|last| last.epoch != batch.leader_epoch) {
                epochs.push(EpochStart { epoch: batch.leader_epoch, start: batch.base_offset });
            }
        }
        Self { epochs, last: batches.last().map(LastBatch::of) }
    }
}

/// The last batch that was read: what the source must still have, unless it was compacted or trimmed
/// away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LastBatch {
    /// Offset of its first record.
    pub base_offset: Offset,
    /// Offset after its last record.
    pub next_offset: Offset,
    checksum: u32,
    record_count: i32,
}

impl LastBatch {
    /// What a batch is known by.
    pub fn of(batch: &BatchHeader) -> Self {
        Self {
            base_offset: batch.base_offset,
            next_offset: batch.next_offset,
            checksum: batch.checksum,
            record_count: batch.record_count,
        }
    }

    /// An offset within it: what is asked for to see it again.
    pub fn offset(&self) -> Offset {
        Offset(self.next_offset.0 - 1)
    }

    /// What the first batch at or after [`Self::offset`] says.
    pub fn judge(&self, found: &BatchHeader) -> Seen {
        if found.base_offset >= self.next_offset {
            return Seen::Gone;
        }
        let same_bounds =
            (found.base_offset, found.next_offset) == (self.base_offset, self.next_offset);
        // Compaction takes records out and leaves the bounds.
        if same_bounds
            && (found.checksum == self.checksum || found.record_count < self.record_count)
        {
            return Seen::Again;
        }
        Seen::Other
    }
}

/// By what reading the source goes on where a copy ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SourceTail {
    /// The source's epoch of the copy's last batch; [`LeaderEpoch::UNKNOWN`] where it cannot be told.
    pub epoch: LeaderEpoch,
    /// That batch, where the source still has it.
    pub last: Option<LastBatch>,
}

impl SourceTail {
    /// Nothing can be told.
    pub const UNKNOWN: Self = Self { epoch: LeaderEpoch::UNKNOWN, last: None };
}

/// What became of a batch at the source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// It is there.
    Again,
    /// It was compacted or trimmed away: no proof either way.
    Gone,
    /// Another one is in its place: the source has another lineage now.
    Other,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::batch::tests::batch;

    fn header(base: i64, count: i32, payload: &[u8]) -> BatchHeader {
        BatchHeader::read(&batch(base, count, payload)).unwrap().unwrap()
    }

    #[test]
    fn a_batch_is_known_again_compacted_or_not() {
        let last = LastBatch::of(&header(5, 3, b"x"));
        assert_eq!(last.offset(), Offset(7));
        assert_eq!(last.judge(&header(5, 3, b"x")), Seen::Again);
        assert_eq!(last.judge(&header(8, 1, b"x")), Seen::Gone);
        assert_eq!(last.judge(&header(5, 3, b"y")), Seen::Other);
        assert_eq!(last.judge(&header(6, 2, b"x")), Seen::Other);
        assert_eq!(last.judge(&header(5, 9, b"x")), Seen::Other);
        let mut compacted = header(5, 3, b"");
        compacted.record_count = 1;
        assert_eq!(last.judge(&compacted), Seen::Again);
        compacted.record_count = 4;
        assert_eq!(last.judge(&compacted), Seen::Other);
    }

    #[test]
    fn a_chunk_tells_where_epochs_begin() {
        let of =
            |base, epoch| BatchHeader { leader_epoch: LeaderEpoch(epoch), ..header(base, 2, b"") };
        let marks = SourceMarks::of(&[of(0, 3), of(2, 3), of(4, 5)]);
        let starts: Vec<_> = marks.epochs.iter().map(|e| (e.epoch.0, e.start.0)).collect();
        assert_eq!(starts, [(3, 0), (5, 4)]);
        assert_eq!(marks.last.unwrap().next_offset, Offset(6));
    }
}
