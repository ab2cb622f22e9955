//! Finds where the leader epochs of a log begin by looking at few of its batches: epochs never fall
//! along a log, so the place where one ends is found by halving. Asks nobody itself.

use super::lineage::{EpochHistory, EpochStart};
use crate::types::{LeaderEpoch, Offset};

/// Offsets that are known to be of one epoch, or to hold nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Known {
    epoch: LeaderEpoch,
    start: Offset,
    end: Offset,
}

/// The search through one log.
#[derive(Clone, Debug)]
pub struct EpochSearch {
    log_start: Offset,
    end: Offset,
    /// In order; neighbours differ in their epochs.
    known: Vec<Known>,
    has_looked_at_end: bool,
    /// Whether there is something, but not at the end: what came last is not known then.
    lacks_end: bool,
}

impl EpochSearch {
    /// Searches `log_start..end`.
    pub fn new(log_start: Offset, end: Offset) -> Self {
        Self { log_start, end, known: Vec::new(), has_looked_at_end: false, lacks_end: false }
    }

    /// The offset at which a batch has to be looked at next; `None` when all is found.
    pub fn next(&self) -> Option<Offset> {
        if self.log_start >= self.end {
            return None;
        }
        if self.known.is_empty() {
            return (!self.has_looked_at_end).then_some(self.log_start);
        }
        if !self.has_looked_at_end {
            return Some(Offset(self.end.0 - 1));
        }
        let pairs = self.known.iter().zip(self.known.iter().skip(1));
        let mut open = pairs.filter(|(left, right)| left.end < right.start);
        let (left, right) = open.next()?;
        Some(Offset(left.end.0 + (right.start.0 - left.end.0) / 2))
    }

    /// The first batch at or after `asked` is of `epoch` and ends at `next_offset`.
    pub fn on_batch(&mut self, asked: Offset, epoch: LeaderEpoch, next_offset: Offset) {
        self.note_end(asked);
        let found = Known { epoch, start: asked, end: next_offset };
        let at = self.known.partition_point(|known| known.epoch < epoch);
        match self.known.get_mut(at).filter(|known| known.epoch == epoch) {
            Some(known) => {
                known.start = known.start.min(found.start);
                known.end = known.end.max(found.end);
            }
            None => self.known.insert(at, found),
        }
    }

    /// There is no batch at or after `asked`.
    pub fn on_nothing(&mut self, asked: Offset) {
        self.note_end(asked);
        self.lacks_end = self.has_looked_at_end && !self.known.is_empty();
        if self.known.is_empty() {
            self.has_looked_at_end = true;
        }
    }

    fn note_end(&mut self, asked: Offset) {
        self.has_looked_at_end |= asked.0 == self.end.0 - 1;
    }

    /// What was found: empty where the log holds no batch, `None` where it is not all there is.
    pub fn history(&self) -> Option<EpochHistory> {
        if self.lacks_end {
            return None;
        }
        let starts = self.known.iter().enumerate().map(|(at, known)| EpochStart {
            epoch: known.epoch,
            start: if at == 0 { self.log_start } else { known.start },
        });
        EpochHistory::from_starts(starts).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A log of batches `(base, next, epoch)`.
    fn search(log_start: i64, end: i64, batches: &[(i64, i64, i32)]) -> (Vec<(i32, i64)>, usize) {
        let mut search = EpochSearch::new(Offset(log_start), Offset(end));
        let mut looks = 0;
        while let Some(asked) = search.next() {
            looks += 1;
            assert!(looks < 1_000, "the search does not end");
            match batches.iter().find(|(_, next, _)| *next > asked.0) {
                Some(&(_, next, epoch)) => {
                    search.on_batch(asked, LeaderEpoch(epoch), Offset(next));
                }
                None => search.on_nothing(asked),
            }
        }
        let history = search.history().unwrap();
        (history.starts().iter().map(|s| (s.epoch.0, s.start.0)).collect(), looks)
    }

    #[test]
    fn every_epoch_is_found_where_it_begins() {
        let batches: Vec<_> = (0..1_000).map(|n| (n * 10, n * 10 + 10, n as i32 / 300)).collect();
        let (found, looks) = search(5, 10_000, &batches);
        assert_eq!(found, [(0, 5), (1, 3_000), (2, 6_000), (3, 9_000)]);
        assert!(looks < 60, "{looks} looks");
    }

    #[test]
    fn one_epoch_takes_two_looks() {
        assert_eq!(search(0, 10_000_000_000, &[(0, 10_000_000_000, 7)]), (vec![(7, 0)], 2));
    }

    #[test]
    fn holes_belong_to_what_comes_after_them() {
        let batches = [(100, 110, 2), (500, 510, 2), (900, 1_000, 5)];
        let (found, _) = search(100, 1_000, &batches);
        assert_eq!(found, [(2, 100), (5, 510)], "nothing of epoch 2 lies above 510");
    }

    #[test]
    fn a_log_whose_end_was_not_seen_has_no_whole_history() {
        let mut search = EpochSearch::new(Offset(0), Offset(100));
        search.on_batch(search.next().unwrap(), LeaderEpoch(0), Offset(10));
        search.on_nothing(search.next().unwrap());
        assert_eq!(search.next(), None);
        assert_eq!(search.history(), None);
    }

    #[test]
    fn a_log_without_batches_has_no_history() {
        assert_eq!(search(70, 70, &[]), (vec![], 0));
        assert_eq!(search(0, 70, &[]), (vec![], 1));
    }
}
