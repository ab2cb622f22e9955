//! Reading again what is not in memory any more and what no in-sync real replica can give: all of them
//! lost the end of their logs; or the last of them died, and one that had fallen behind is alone.

use std::time::Duration;

use super::Led;
use crate::mirror::lineage::{EpochStart, SourceLineage};
use crate::tail::buffer::Buffer;
use crate::types::{BrokerId, Offset};

impl Led {
    /// Begins again where replicas end that nobody else can feed; returns that offset. Whatever was
    /// readable before stays what the high watermark says.
    pub fn read_again(&mut self, now: Duration) -> Option<Offset> {
        self.alone = self.replica_alone(now);
        let end = match self.alone {
            Some((_, end)) => end,
            None => {
                let least = self.leadership.least_in_sync()?;
                (self.leadership.most_in_sync() == Some(least)).then_some(least)?
            }
        };
        // An empty replica of a log that starts above 0 has lost nothing.
        let end = self.leadership.read_from(end);
        let before = self.buffer.as_ref()?;
        // The one that died may have it, and come back: a source in doubt, or one that has not all of it
        // any more, is no better.
        let is_there = self.bounds.is_some_and(|bounds| bounds.log_start <= end);
        let is_well = is_there && !self.is_unproved && self.trouble.is_none();
        if before.start() <= end || (self.alone.is_some() && !is_well) {
            return None;
        }
        let read = std::mem::take(&mut self.read);
        if read.end() > end {
            self.before = Some(read);
        }
        self.buffer = Some(Buffer::starting_at(end));
        self.reading = None;
        self.doubt();
        Some(end)
    }

    /// Where no real replica is in sync: of those that ask and fit the copy the longest. Once it has
    /// caught up it is in sync, and feeds the others.
    fn replica_alone(&self, now: Duration) -> Option<(BrokerId, Offset)> {
        let leadership = &self.leadership;
        if leadership.in_sync_real().next().is_some() {
            return None;
        }
        // Not before it is known how far the copy goes.
        leadership.copy_from()?;
        let ends = leadership.followers().filter_map(|(id, end)| Some((id, end?)));
        let asking =
            ends.filter(|(id, _)| leadership.is_alive(*id, now) && !self.refusals.contains_key(id));
        asking.max_by_key(|(_, end)| *end)
    }

    /// Where that one ends by now.
    pub(super) fn end_alone(&self) -> Option<Offset> {
        let (alone, _) = self.alone?;
        self.leadership.followers().find(|(id, _)| *id == alone)?.1
    }
}

/// Where what arrived is of another lineage than what was read there `before`.
pub(super) fn contradiction(
    before: Option<&SourceLineage>,
    arrived: &[EpochStart],
) -> Option<Offset> {
    let contradicts = |step: &&EpochStart| {
        let known = before?.known_at(Offset(step.start.0 + 1))?;
        Some(known.offset > step.start && known.epoch != step.epoch)
    };
    arrived.iter().find(|step| contradicts(step) == Some(true)).map(|step| step.start)
}
