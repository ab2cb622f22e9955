//! Over a gap: what the source deleted before we had read it is left out, by policy or by an
//! operator's word, and copying goes on where the source's log starts now. And the other way round:
//! what the destination lacks at its start though the source has it.

use std::ops::Range;

use bytes::Bytes;

use super::Led;
use crate::mirror::event::EventKind;
use crate::tail::buffer::{Chunk, ChunkBatch};
use crate::tail::marks::SourceMarks;
use crate::tail::{Bounds, StartAt, Trouble};
use crate::types::Offset;
use crate::wire::batch;

impl Led {
    /// Goes on at the source's log start; what is left out. `None` where there is no gap.
    pub fn go_on(&mut self) -> Option<Range<Offset>> {
        let Some(Trouble::Gap { ours, source_start }) = self.trouble else { return None };
        let buffer = self.buffer.as_mut()?;
        buffer.skip_to(source_start);
        self.look_again();
        Some(ours..source_start)
    }

    /// Whether nothing was copied yet: a mirror that is to begin with the source's first record
    /// begins later then, and nothing is missing in it.
    pub fn has_not_begun(&self) -> bool {
        let end = self.buffer.as_ref().map(super::Buffer::filled_to);
        self.leadership.is_fresh()
            && self.mirror.start == StartAt::Earliest
            && end == self.leadership.log_start()
    }

    /// A source that holds nothing after a gap has no batch that would take the copy over it: a
    /// batch without records does. It lies below the log start, which follows at once; whether
    /// there was such a case.
    pub(super) fn close_hole(&mut self, bounds: Bounds) -> bool {
        let Some(buffer) = &mut self.buffer else { return false };
        let end = buffer.end();
        let is_open = buffer.filled_to() < end;
        if !is_open || bounds.log_start != end || bounds.high_watermark != end {
            return false;
        }
        let offset = Offset(end.0 - 1);
        let history = self.leadership.history();
        let Some(epoch) = history.and_then(|history| history.epoch_of(offset)) else {
            return false;
        };
        let bytes = Bytes::copy_from_slice(&batch::without_records(offset, epoch));
        if let Some(reading) = &self.reading {
            reading.room.add(bytes.len());
        }
        buffer.push(Chunk {
            base_offset: offset,
            batches: vec![ChunkBatch { next_offset: end, end: bytes.len() }],
            bytes,
            records: 0,
            source_epoch: self.tail.epoch,
            marks: SourceMarks::default(),
            max_timestamp: -1,
        });
        self.leadership.on_append(end);
        true
    }

    /// What the source has below the log start although the mirror began lower: somebody deleted
    /// records while a real broker led. It is not repaired: a log does not grow at its start.
    pub fn log_start_ahead(&self) -> Option<Range<Offset>> {
        let (ours, theirs) = (self.leadership.log_start()?, self.bounds?.log_start);
        let began_lower = match self.started_at {
            Some(before) => before < ours,
            None => self.mirror.start == StartAt::Earliest,
        };
        (theirs < ours && began_lower).then_some(theirs..ours)
    }

    pub(super) fn note_log_start_ahead(&mut self) {
        let Some(missing) = self.log_start_ahead().filter(|_| !self.is_ahead_told) else { return };
        self.is_ahead_told = true;
        let text = format!(
            "the copy starts at {}, the source at {}: records were deleted at the destination. It \
             stays so and is copied on; delete the mirror if it has to be copied anew",
            missing.end, missing.start
        );
        self.note(EventKind::LogStartAhead, text, missing);
    }
}
