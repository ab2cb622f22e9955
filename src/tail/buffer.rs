//! Batches of one partition in memory, from the slowest follower that counts to the newest batch.

use std::collections::VecDeque;

use bytes::Bytes;

use super::marks::SourceMarks;
use crate::types::{LeaderEpoch, Offset};

/// One batch within a [`Chunk`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChunkBatch {
    /// Offset after its last record.
    pub next_offset: Offset,
    /// Where it ends within the chunk's bytes.
    pub end: usize,
}

/// Consecutive whole batches that arrived together, stamped and checked.
#[derive(Clone, Debug)]
pub struct Chunk {
    /// The batches' bytes, one after the other.
    pub bytes: Bytes,
    /// Base offset of the first batch; can lie below the offset that was asked for.
    pub base_offset: Offset,
    /// Never empty; the ends and next offsets rise.
    pub batches: Vec<ChunkBatch>,
    /// Records in all batches.
    pub records: u64,
    /// Epoch at the source of the last batch.
    pub source_epoch: LeaderEpoch,
    /// By what the source is known again.
    pub marks: SourceMarks,
    /// Greatest timestamp of its batches, in milliseconds since 1970.
    pub max_timestamp: i64,
}

impl Chunk {
    /// Offset after the last batch.
    pub fn next_offset(&self) -> Offset {
        self.batches.last().map_or(self.base_offset, |batch| batch.next_offset)
    }
}

/// What a read found.
#[derive(Debug, PartialEq, Eq)]
pub struct Slice {
    /// Whole batches, the first of which holds or follows the offset asked for.
    pub bytes: Vec<Bytes>,
    /// Offset after the last batch of `bytes`.
    pub next_offset: Offset,
    /// Length of all `bytes`.
    pub size: usize,
}

/// The batches of one partition that are in memory: a run `start..end`. It may have a hole: what
/// the source deleted before we had read it.
#[derive(Debug)]
pub struct Buffer {
    chunks: VecDeque<Chunk>,
    start: Offset,
    /// Offset after the newest batch; below `end` while a hole is open at the end.
    filled_to: Offset,
    end: Offset,
    bytes: usize,
}

impl Buffer {
    /// An empty run at `offset`.
    pub fn starting_at(offset: Offset) -> Self {
        Self { chunks: VecDeque::new(), start: offset, filled_to: offset, end: offset, bytes: 0 }
    }

    /// Nothing below `offset` will come any more: what lies between is a hole.
    pub fn skip_to(&mut self, offset: Offset) {
        self.end = self.end.max(offset);
    }

    /// Every offset from here on can be read.
    pub fn start(&self) -> Offset {
        self.start
    }

    /// Where the next batch is wanted.
    pub fn end(&self) -> Offset {
        self.end
    }

    /// Offset after the newest batch: below [`Self::end`] while nothing has come after a hole.
    pub fn filled_to(&self) -> Offset {
        self.filled_to
    }

    /// Bytes held.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Greatest timestamp of what arrived together with the batch at `offset`, in milliseconds
    /// since 1970.
    pub fn timestamp_at(&self, offset: Offset) -> Option<i64> {
        let at = self.chunks.partition_point(|chunk| chunk.next_offset() <= offset);
        self.chunks.get(at).map(|chunk| chunk.max_timestamp)
    }

    /// Appends what arrived; the caller made sure that it follows [`Self::filled_to`].
    pub fn push(&mut self, chunk: Chunk) {
        debug_assert!(chunk.next_offset() > self.filled_to);
        self.bytes += chunk.bytes.len();
        self.end = chunk.next_offset();
        self.filled_to = self.end;
        self.chunks.push_back(chunk);
    }

    /// Whole batches from the one that holds `from` (or, in a hole, the next one) on: as many as
    /// fit `max_bytes` and end at most at `max_end`, but at least one. `None` where nothing is
    /// there at or above `from`.
    pub fn read(&self, from: Offset, max_bytes: usize, max_end: Offset) -> Option<Slice> {
        let at = self.chunks.partition_point(|chunk| chunk.next_offset() <= from);
        let mut slice = Slice { bytes: Vec::new(), next_offset: from, size: 0 };
        for chunk in self.chunks.range(at..) {
            let room = max_bytes.saturating_sub(slice.size);
            if !slice.extend(chunk, room, max_end) {
                break;
            }
        }
        (slice.size > 0).then_some(slice)
    }

    /// Drops the chunks that end at or below `offset`: nobody needs them any more.
    pub fn forget_before(&mut self, offset: Offset) {
        self.shrink_to(0, offset);
    }

    /// Drops the oldest chunks that end at or below `keep_from` until at most `limit` bytes are
    /// left; the callers of dropped offsets have to be fed otherwise.
    pub fn shrink_to(&mut self, limit: usize, keep_from: Offset) {
        while self.bytes > limit
            && self.chunks.front().is_some_and(|chunk| chunk.next_offset() <= keep_from)
        {
            if let Some(chunk) = self.chunks.pop_front() {
                self.bytes -= chunk.bytes.len();
                self.start = chunk.next_offset();
            }
        }
    }
}

impl Slice {
    /// Adds the batches of `chunk` that fit; whether all of them did.
    fn extend(&mut self, chunk: &Chunk, room: usize, max_end: Offset) -> bool {
        let first = chunk.batches.partition_point(|batch| batch.next_offset <= self.next_offset);
        let rest = &chunk.batches[first..];
        let begin = first.checked_sub(1).map_or(0, |before| chunk.batches[before].end);
        let fitting =
            rest.partition_point(|batch| batch.end - begin <= room && batch.next_offset <= max_end);
        // As Kafka does: the first batch of an answer passes whatever its size.
        let taken = if self.size == 0 { fitting.max(1) } else { fitting };
        if let Some(last) = taken.checked_sub(1).and_then(|at| rest.get(at)) {
            self.bytes.push(chunk.bytes.slice(begin..last.end));
            self.size += last.end - begin;
            self.next_offset = last.next_offset;
        }
        taken == rest.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Batches of ten bytes with the given next offsets.
    fn chunk(base: i64, next: &[i64]) -> Chunk {
        let batches = next.iter().enumerate().map(|(i, &next_offset)| ChunkBatch {
            next_offset: Offset(next_offset),
            end: (i + 1) * 10,
        });
        Chunk {
            bytes: Bytes::from(vec![0; next.len() * 10]),
            base_offset: Offset(base),
            batches: batches.collect(),
            records: 1,
            source_epoch: LeaderEpoch(0),
            marks: SourceMarks::default(),
            max_timestamp: 0,
        }
    }

    fn read(buffer: &Buffer, from: i64, max_bytes: usize) -> Option<(usize, i64)> {
        let slice = buffer.read(Offset(from), max_bytes, Offset(i64::MAX))?;
        Some((slice.size, slice.next_offset.0))
    }

    #[test]
    fn reads_are_whole_batches_and_at_least_one() {
        let mut buffer = Buffer::starting_at(Offset(0));
        buffer.push(chunk(0, &[5, 6, 20]));
        buffer.push(chunk(30, &[40]));
        assert_eq!(read(&buffer, 0, 1000), Some((40, 40)), "over several chunks");
        assert_eq!(read(&buffer, 0, 35), Some((30, 20)));
        assert_eq!(read(&buffer, 0, 25), Some((20, 6)));
        assert_eq!(read(&buffer, 0, 1), Some((10, 5)));
        assert_eq!(read(&buffer, 5, 1000), Some((30, 40)));
        assert_eq!(read(&buffer, 19, 10), Some((10, 20)), "inside a batch: that whole batch");
        assert_eq!(read(&buffer, 25, 1000), Some((10, 40)), "in a hole: the next batch");
        assert_eq!(read(&buffer, 40, 1000), None);
        let capped = buffer.read(Offset(0), 1000, Offset(6)).unwrap();
        assert_eq!(capped.next_offset, Offset(6));
    }

    #[test]
    fn over_a_hole_the_next_batch_is_read() {
        let mut buffer = Buffer::starting_at(Offset(0));
        buffer.push(chunk(0, &[5]));
        buffer.skip_to(Offset(90));
        assert_eq!((buffer.filled_to(), buffer.end()), (Offset(5), Offset(90)));
        assert_eq!(read(&buffer, 5, 1000), None, "nothing has come yet");
        buffer.forget_before(Offset(5));
        assert_eq!(
            (buffer.start(), buffer.end()),
            (Offset(5), Offset(90)),
            "still readable from 5"
        );
        // The source's log starts inside a batch.
        buffer.push(chunk(88, &[95, 99]));
        assert_eq!((buffer.filled_to(), buffer.end()), (Offset(99), Offset(99)));
        assert_eq!(read(&buffer, 5, 1000), Some((20, 99)));
        let capped = buffer.read(Offset(5), 1000, Offset(20)).unwrap();
        assert_eq!(capped.next_offset, Offset(95), "one batch passes however wide the hole");
        buffer.skip_to(Offset(7));
        assert_eq!(buffer.end(), Offset(99), "never back");
    }

    #[test]
    fn forgetting_keeps_what_the_slowest_follower_needs() {
        let mut buffer = Buffer::starting_at(Offset(0));
        buffer.push(chunk(0, &[5]));
        buffer.push(chunk(5, &[10, 15]));
        buffer.forget_before(Offset(10));
        assert_eq!((buffer.start(), buffer.end(), buffer.bytes()), (Offset(5), Offset(15), 20));
        buffer.shrink_to(10, Offset(10));
        assert_eq!(buffer.bytes(), 20, "still needed");
        buffer.shrink_to(10, Offset(15));
        assert_eq!((buffer.start(), buffer.bytes()), (Offset(15), 0));
    }
}
