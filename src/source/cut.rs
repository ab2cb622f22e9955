//! From the records of one partition in an answer to a chunk: checks the batches, stamps them where
//! they lie with the destination's epochs, and notes where each ends. No I/O.

use std::ops::Range;

use bytes::Bytes;

use crate::mirror::lineage::EpochHistory;
use crate::tail::buffer::{Chunk, ChunkBatch};
use crate::tail::marks::SourceMarks;
use crate::types::{LeaderEpoch, Offset};
use crate::wire::batch::{self, BatchError};

/// Why records cannot be taken on from some place.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(super) enum Damage {
    /// A batch is not right.
    #[error(transparent)]
    Batch(#[from] BatchError),
    /// Not one whole batch: since version 3 brokers answer whole ones, whatever their size.
    #[error("{bytes} bytes of records hold no whole batch")]
    Incomplete {
        /// Bytes that were there.
        bytes: usize,
    },
    /// The destination's epoch of a batch is not known, so it cannot be written.
    #[error("no destination epoch is known for offset {0}")]
    NoEpoch(Offset),
    /// The broker itself reports damage.
    #[error("the source broker reports a corrupt batch")]
    Reported,
}

/// Good batches at one place of a frame.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Cut {
    /// Where they lie within the frame.
    pub range: Range<usize>,
    /// Ends and next offsets.
    pub batches: Vec<ChunkBatch>,
    /// Offset of the first batch.
    pub base_offset: Offset,
    /// Offset after the last batch.
    pub next_offset: Offset,
    /// Records in all batches.
    pub records: u64,
    /// Epoch at the source of the last batch.
    pub source_epoch: LeaderEpoch,
    /// By what the source is known again.
    pub marks: SourceMarks,
    /// Greatest timestamp, in milliseconds since 1970.
    pub max_timestamp: i64,
}

impl Cut {
    /// The chunk, with `bytes` being those of `range`.
    pub(super) fn into_chunk(self, bytes: Bytes) -> Chunk {
        debug_assert_eq!(bytes.len(), self.range.len());
        Chunk {
            bytes,
            base_offset: self.base_offset,
            batches: self.batches,
            records: self.records,
            source_epoch: self.source_epoch,
            marks: self.marks,
            max_timestamp: self.max_timestamp,
        }
    }
}

/// Takes the good batches from `expected` on out of `records`, a range of `frame`, and stamps them.
/// A last batch that is not complete is left to the next fetch. With damage, what came before it is
/// good and given too.
pub(super) fn cut(
    frame: &mut [u8],
    records: Range<usize>,
    expected: Offset,
    stamps: &EpochHistory,
) -> (Option<Cut>, Option<Damage>) {
    let begin = records.start;
    let Some(bytes) = frame.get_mut(records).filter(|bytes| !bytes.is_empty()) else {
        return (None, None);
    };
    let checked = batch::check(bytes, expected);
    let mut damage = checked.error.map(Damage::from);
    let mut batches = Vec::with_capacity(checked.batches.len());
    let (mut end, mut records, mut max_timestamp) = (0, 0, i64::MIN);
    for header in &checked.batches {
        let Some(epoch) = stamps.epoch_of(header.base_offset) else {
            damage = Some(Damage::NoEpoch(header.base_offset));
            break;
        };
        #[cfg(feature = "planted-bugs")]
        let epoch = if crate::planted::is(crate::planted::Bug::UnstampedEpochs) {
            header.leader_epoch
        } else {
            epoch
        };
        batch::stamp(&mut bytes[end..], epoch);
        end += header.size;
        records += u64::try_from(header.record_count).unwrap_or(0);
        max_timestamp = max_timestamp.max(header.max_timestamp);
        batches.push(ChunkBatch { next_offset: header.next_offset, end });
    }
    let last = batches.len().checked_sub(1).map(|at| checked.batches[at]);
    let (Some(first), Some(last)) = (checked.batches.first(), last) else {
        let bytes = bytes.len();
        return (None, damage.or(Some(Damage::Incomplete { bytes })));
    };
    let count = batches.len();
    let cut = Cut {
        range: begin..begin + end,
        batches,
        base_offset: first.base_offset,
        next_offset: last.next_offset,
        records,
        source_epoch: last.leader_epoch,
        marks: SourceMarks::of(&checked.batches[..count]),
        max_timestamp,
    };
    (Some(cut), damage)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mirror::lineage::EpochStart;
    use crate::wire::batch::tests::batch;
    use crate::wire::batch::{BatchHeader, same_but_epoch};

    fn stamps() -> EpochHistory {
        let starts = [(4, 0), (7, 20)]
            .map(|(epoch, start)| EpochStart { epoch: LeaderEpoch(epoch), start: Offset(start) });
        EpochHistory::from_starts(starts).unwrap()
    }

    #[test]
    fn batches_are_stamped_where_they_lie_and_nothing_else_changes() {
        let batches = [batch(10, 5, b"one"), batch(20, 2, b"two"), batch(30, 1, b"cut")];
        let mut frame = b"head".to_vec();
        frame.extend(batches.concat());
        frame.truncate(frame.len() - 1);
        let whole = batches[0].len() + batches[1].len();
        let records = 4..frame.len();
        let (cut, damage) = cut(&mut frame, records, Offset(12), &stamps());
        let cut = cut.unwrap();
        assert_eq!(damage, None);
        assert_eq!(cut.range, 4..4 + whole);
        assert_eq!((cut.base_offset, cut.next_offset), (Offset(10), Offset(22)));
        assert_eq!(cut.records, 7);
        let epoch = |at: usize| BatchHeader::read(&frame[at..]).unwrap().unwrap().leader_epoch;
        assert_eq!(epoch(4), LeaderEpoch(4));
        assert_eq!(epoch(4 + batches[0].len()), LeaderEpoch(7));
        assert_eq!(cut.source_epoch, LeaderEpoch(0), "the source's own");
        assert!(same_but_epoch(&frame[4..4 + batches[0].len()], &batches[0]));
        assert_eq!(&frame[..4], b"head");
        let chunk = cut.into_chunk(Bytes::from(frame[4..4 + whole].to_vec()));
        assert_eq!(chunk.next_offset(), Offset(22));
    }

    #[test]
    fn what_comes_before_damage_is_taken() {
        let mut frame = batch(0, 1, b"good");
        let good = frame.len();
        frame.extend(batch(1, 1, b"bad"));
        *frame.last_mut().unwrap() ^= 1;
        let all = 0..frame.len();
        let (taken, damage) = cut(&mut frame, all.clone(), Offset(0), &stamps());
        assert_eq!(taken.unwrap().range, 0..good);
        assert!(matches!(damage, Some(Damage::Batch(_))));
        let (taken, damage) = cut(&mut frame, good..all.end, Offset(1), &stamps());
        assert_eq!(taken, None);
        assert!(matches!(damage, Some(Damage::Batch(_))));
    }

    #[test]
    fn bytes_without_a_whole_batch_are_damage_and_no_bytes_are_not() {
        let mut frame = batch(0, 1, b"longer than this");
        let (taken, damage) = cut(&mut frame, 0..40, Offset(0), &stamps());
        assert_eq!((taken, damage), (None, Some(Damage::Incomplete { bytes: 40 })));
        assert_eq!(cut(&mut frame, 7..7, Offset(0), &stamps()), (None, None));
    }

    #[test]
    fn without_a_known_epoch_nothing_is_taken() {
        let mut frame = batch(0, 1, b"good");
        let all = 0..frame.len();
        let (taken, damage) = cut(&mut frame, all, Offset(0), &EpochHistory::default());
        assert_eq!((taken, damage), (None, Some(Damage::NoEpoch(Offset(0)))));
    }
}
