//! A copy that we took over without a look at the source: until the tail check has been made nothing
//! is read. What replicas have is served meanwhile, to replicas and to consumers.

use super::Led;
use crate::seat::leader::handle::Unproved;
use crate::tail::Trouble;
use crate::tail::marks::SourceTail;
use crate::types::{BrokerId, LeaderEpoch, Offset};

impl Led {
    /// What the source has by now has to be looked at before it is read on.
    pub(super) fn doubt(&mut self) {
        self.tail = SourceTail::UNKNOWN;
        self.is_unproved = true;
    }

    /// Whether the tail check is to be made before the source is read.
    pub fn is_unproved(&self) -> bool {
        self.is_unproved
    }

    /// What is to be checked; `None` while it is not known what the copy is, or after something was
    /// found that has to be decided about.
    pub fn unproved(&self) -> Option<Unproved> {
        let leadership = &self.leadership;
        leadership.high_watermark().filter(|_| self.is_unproved && !self.is_stopped())?;
        let (holder, log_end) = self.longest_replica()?;
        Some(Unproved {
            key: self.key,
            leader_epoch: leadership.assignment().leader_epoch,
            holder,
            log_end,
            log_start: leadership.log_start()?.min(log_end),
            known: self.lineage.known_at(log_end),
        })
    }

    /// Of those in sync; where none is, the one that is fed, or of all that have asked.
    fn longest_replica(&self) -> Option<(BrokerId, Offset)> {
        if let Some((alone, _)) = self.alone {
            return Some((alone, self.end_alone()?));
        }
        let in_sync: Vec<_> = self.leadership.in_sync_real().collect();
        let ends = self.leadership.followers().filter_map(|(id, end)| Some((id, end?)));
        let counts = |id: &BrokerId| in_sync.is_empty() || in_sync.contains(id);
        ends.filter(|(id, _)| counts(id)).max_by_key(|(_, end)| *end)
    }

    /// What the tail check found.
    pub fn on_proof(&mut self, found: Result<SourceTail, Trouble>) {
        match found {
            Ok(tail) => {
                self.tail = tail;
                self.is_unproved = false;
                self.trouble = None;
                let end = self.longest_replica().map_or(Offset::ZERO, |(_, end)| end);
                if tail.epoch >= LeaderEpoch(0) && end > Offset::ZERO {
                    self.lineage.confirm(tail.epoch, end);
                }
            }
            Err(trouble) => self.trouble = Some(trouble),
        }
    }
}
