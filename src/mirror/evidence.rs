//! What proves that a copy and the source are of one lineage, or that they are not: epochs that the
//! source still knows, and batches that both sides hold. Compares and judges; reads nothing.

use super::lineage::EpochStart;
use crate::types::{LeaderEpoch, Offset, OffsetAndEpoch};
use crate::wire::batch::{self, BatchHeader};

/// What the source's epochs say of a copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EpochEvidence {
    /// All of the copy lies within what the source has of the epoch.
    Within(LeaderEpoch),
    /// The source's epoch ends below what is known to be of it.
    Against {
        /// Where it ends.
        source_end: Offset,
    },
    /// Nothing follows: the copy went on in later epochs than are known.
    Unknown,
}

/// Judges by `known`, the source epoch of the copy's last batch and the end of what is known to be of
/// it, and by `answer`, what the source says where that epoch ends (`OffsetForLeaderEpoch`). What is
/// known may lag behind the copy, which ends at `log_end`: that is no evidence against it.
pub fn by_epoch(
    known: Option<OffsetAndEpoch>,
    answer: Option<OffsetAndEpoch>,
    log_end: Offset,
) -> EpochEvidence {
    let (Some(known), Some(answer)) = (known, answer) else { return EpochEvidence::Unknown };
    if known.epoch < LeaderEpoch(0) || known.offset == Offset::ZERO {
        return EpochEvidence::Unknown;
    }
    if answer.epoch < known.epoch || answer.offset < known.offset.min(log_end) {
        return EpochEvidence::Against { source_end: answer.offset.max(Offset::ZERO) };
    }
    if answer.epoch == known.epoch && answer.offset >= log_end {
        return EpochEvidence::Within(known.epoch);
    }
    EpochEvidence::Unknown
}

/// What a comparison of the batches of two logs found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Comparison {
    /// The last batch that both sides hold, uncompacted: its end, and its epoch at the source.
    pub same: Option<OffsetAndEpoch>,
    /// Base offset of the first batch that the other side has not, although it must have.
    pub different: Option<Offset>,
}

/// Compares the batches of a copy with the source's, both read from the same offset on. Batches of
/// one lineage never overlap without being the same; one that was compacted keeps its bounds and its
/// producer, and is no proof either way.
pub fn compare(ours: &[u8], theirs: &[u8]) -> Comparison {
    let mut comparison = Comparison::default();
    let (mut left, mut right) = (first(ours), first(theirs));
    while let (Some((mine, a)), Some((its, b))) = (left, right) {
        if mine.next_offset <= its.base_offset {
            left = after(mine, a);
        } else if its.next_offset <= mine.base_offset {
            right = after(its, b);
        } else if batch::same_but_epoch(&a[..mine.size], &b[..its.size]) {
            comparison.same =
                Some(OffsetAndEpoch { offset: mine.next_offset, epoch: its.leader_epoch });
            (left, right) = (after(mine, a), after(its, b));
        } else if may_be_compacted(&mine, &its) {
            (left, right) = (after(mine, a), after(its, b));
        } else {
            comparison.different = Some(mine.base_offset.min(its.base_offset));
            return comparison;
        }
    }
    comparison
}

fn may_be_compacted(mine: &BatchHeader, its: &BatchHeader) -> bool {
    mine.record_count != its.record_count
        && (mine.base_offset, mine.next_offset) == (its.base_offset, its.next_offset)
        && mine.producer_id == its.producer_id
}

/// The batches that begin below `end`.
pub fn below(bytes: &[u8], end: Offset) -> &[u8] {
    let mut size = 0;
    while let Some((batch, _)) = first(&bytes[size..])
        && batch.base_offset < end
    {
        size += batch.size;
    }
    &bytes[..size]
}

type At<'a> = Option<(BatchHeader, &'a [u8])>;

fn first(bytes: &[u8]) -> At<'_> {
    BatchHeader::read(bytes).ok().flatten().map(|header| (header, bytes))
}

fn after(header: BatchHeader, bytes: &[u8]) -> At<'_> {
    first(bytes.get(header.size..)?)
}

/// One run of the source's log in one epoch, as far as the copy reaches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// The epoch.
    pub epoch: LeaderEpoch,
    /// First offset of it that both sides can hold.
    pub start: Offset,
    /// Where it, the copy, or the source ends.
    pub end: Offset,
}

/// What a copy and the source have in common, cut at the source's epochs, newest first: a source that
/// lost a part of its log went on from there in a new epoch, so that the two part at the start of a
/// segment or at the source's end.
pub fn segments(
    epochs: &[EpochStart],
    copy: std::ops::Range<Offset>,
    source: std::ops::Range<Offset>,
) -> Vec<Segment> {
    let floor = copy.start.max(source.start);
    let ceiling = copy.end.min(source.end);
    let ends = epochs.iter().skip(1).map(|next| next.start).chain([source.end]);
    let segments = epochs.iter().zip(ends).map(|(step, end)| Segment {
        epoch: step.epoch,
        start: step.start.max(floor),
        end: end.min(ceiling),
    });
    let mut segments: Vec<_> = segments.filter(|segment| segment.start < segment.end).collect();
    segments.reverse();
    segments
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::batch::tests::batch;

    fn at(epoch: i32, offset: i64) -> Option<OffsetAndEpoch> {
        Some(OffsetAndEpoch { offset: Offset(offset), epoch: LeaderEpoch(epoch) })
    }

    #[test]
    fn an_epoch_that_reaches_beyond_the_copy_proves_it() {
        let judge = |known, answer| by_epoch(known, answer, Offset(100));
        let against = |end| EpochEvidence::Against { source_end: Offset(end) };
        assert_eq!(judge(at(4, 100), at(4, 100)), EpochEvidence::Within(LeaderEpoch(4)));
        assert_eq!(judge(at(4, 100), at(4, 99)), against(99), "the epoch ended before");
        assert_eq!(judge(at(4, 100), at(3, 80)), against(80), "the epoch was never there");
        assert_eq!(judge(at(4, 100), at(-1, -1)), against(0), "nothing that old is known");
        assert_eq!(judge(None, at(4, 500)), EpochEvidence::Unknown);
        assert_eq!(judge(at(4, 100), None), EpochEvidence::Unknown);
    }

    #[test]
    fn what_is_known_may_lag_behind_the_copy() {
        let judge = |known, answer| by_epoch(known, answer, Offset(100));
        // The source went on in epoch 5 from 70 on, and the copy followed before it was written.
        assert_eq!(judge(at(4, 60), at(4, 70)), EpochEvidence::Unknown);
        assert_eq!(judge(at(4, 60), at(4, 100)), EpochEvidence::Within(LeaderEpoch(4)));
        let against = EpochEvidence::Against { source_end: Offset(50) };
        assert_eq!(judge(at(4, 60), at(4, 50)), against, "even what is known is gone");
        // It may also be ahead, where the destination lost what had been copied.
        assert_eq!(judge(at(4, 300), at(4, 100)), EpochEvidence::Within(LeaderEpoch(4)));
    }

    fn log(batches: &[(i64, i32, &[u8])]) -> Vec<u8> {
        batches.iter().flat_map(|&(base, count, payload)| batch(base, count, payload)).collect()
    }

    #[test]
    fn batches_of_one_lineage_are_the_same_or_compacted() {
        let ours = log(&[(0, 2, b"a"), (2, 3, b"b"), (5, 1, b"c")]);
        let same = compare(&ours, &log(&[(0, 2, b"a"), (2, 3, b"b"), (5, 1, b"c"), (6, 1, b"d")]));
        assert_eq!((same.same.unwrap().offset, same.different), (Offset(6), None));
        let gone = compare(&ours, &log(&[(2, 3, b"b"), (9, 1, b"x")]));
        assert_eq!((gone.same.unwrap().offset, gone.different), (Offset(5), None));
        let other = compare(&ours, &log(&[(0, 2, b"a"), (2, 3, b"y"), (5, 1, b"c")]));
        assert_eq!((other.same.unwrap().offset, other.different), (Offset(2), Some(Offset(2))));
        let shifted = compare(&ours, &log(&[(0, 2, b"a"), (2, 1, b"b"), (3, 2, b"b")]));
        assert_eq!(shifted.different, Some(Offset(2)));
        let mut compacted = log(&[(5, 1, b"")]);
        compacted[57..61].copy_from_slice(&0i32.to_be_bytes());
        assert_eq!(compare(&log(&[(5, 1, b"c")]), &compacted), Comparison::default());
        assert_eq!(compare(&ours, &[]), Comparison::default());
    }

    #[test]
    fn segments_go_from_the_newest_epoch_down() {
        let step = |(epoch, start)| EpochStart { epoch: LeaderEpoch(epoch), start: Offset(start) };
        let epochs: Vec<_> = [(0, 0), (3, 40), (4, 90), (6, 200)].map(step).to_vec();
        let found = segments(&epochs, Offset(10)..Offset(120), Offset(20)..Offset(300));
        let found: Vec<_> = found.iter().map(|s| (s.epoch.0, s.start.0, s.end.0)).collect();
        assert_eq!(found, [(4, 90, 120), (3, 40, 90), (0, 20, 40)]);
        assert_eq!(segments(&epochs, Offset(10)..Offset(15), Offset(20)..Offset(300)), []);
    }
}
