//! Which leader epoch each offset belongs to, as the destination knows it. A guessed history makes
//! followers truncate or refetch for ever, so one is either known as a whole or not there at all.

use crate::types::{LeaderEpoch, Offset, OffsetAndEpoch};

/// Start of one leader epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EpochStart {
    /// The epoch.
    pub epoch: LeaderEpoch,
    /// First offset that was, or can be, appended in it.
    pub start: Offset,
}

/// A history step that cannot follow the ones before.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("leader epoch {} from offset {} cannot follow {last:?}", step.epoch, step.start)]
pub struct HistoryError {
    /// The step refused.
    pub step: EpochStart,
    /// The newest step known.
    pub last: Option<EpochStart>,
}

/// Leader epochs of a destination partition in order; epochs rise, starts do not fall.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EpochHistory {
    starts: Vec<EpochStart>,
}

impl EpochHistory {
    /// A history from steps in rising order.
    pub fn from_starts(starts: impl IntoIterator<Item = EpochStart>) -> Result<Self, HistoryError> {
        let mut history = Self::default();
        for step in starts {
            history.push(step)?;
        }
        Ok(history)
    }

    /// Begins a new epoch. An epoch in which nothing was appended is kept, although stock logs
    /// forget it: the broker that led in it names it as the epoch of its log's end.
    pub fn push(&mut self, step: EpochStart) -> Result<(), HistoryError> {
        let last = self.starts.last().copied();
        let follows = last.is_none_or(|last| step.epoch > last.epoch && step.start >= last.start);
        if !follows || step.epoch < LeaderEpoch(0) || step.start < Offset::ZERO {
            return Err(HistoryError { step, last });
        }
        self.starts.push(step);
        Ok(())
    }

    /// The newest epoch.
    pub fn newest(&self) -> Option<EpochStart> {
        self.starts.last().copied()
    }

    /// All steps in rising order.
    pub fn starts(&self) -> &[EpochStart] {
        &self.starts
    }

    /// The epoch that owns `offset`; offsets before the first step belong to the first step.
    pub fn epoch_of(&self, offset: Offset) -> Option<LeaderEpoch> {
        let after = self.starts.partition_point(|step| step.start <= offset);
        self.starts.get(after.saturating_sub(1)).map(|step| step.epoch)
    }

    /// The answer to `OffsetForLeaderEpoch` (KIP-101, KIP-279): the largest known epoch not above
    /// `asked`, and where it ends. `None`: every epoch we know is newer.
    pub fn end_of(&self, asked: LeaderEpoch, log_end: Offset) -> Option<OffsetAndEpoch> {
        let after = self.starts.partition_point(|step| step.epoch <= asked);
        let known = self.starts.get(after.checked_sub(1)?)?;
        let offset = self.starts.get(after).map_or(log_end, |next| next.start);
        Some(OffsetAndEpoch { offset, epoch: known.epoch })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn history(steps: &[(i32, i64)]) -> EpochHistory {
        let steps =
            steps.iter().map(|&(e, s)| EpochStart { epoch: LeaderEpoch(e), start: Offset(s) });
        EpochHistory::from_starts(steps).unwrap()
    }

    #[test]
    fn each_offset_has_the_epoch_that_was_current() {
        let history = history(&[(0, 0), (3, 100), (4, 150)]);
        let epochs: Vec<_> =
            [0, 99, 100, 149, 150, 999].map(|o| history.epoch_of(Offset(o)).unwrap().0).to_vec();
        assert_eq!(epochs, [0, 0, 3, 3, 4, 4]);
        assert_eq!(EpochHistory::default().epoch_of(Offset(1)), None);
    }

    #[test]
    fn an_epoch_without_batches_owns_no_offset_but_is_known() {
        let history = history(&[(0, 0), (3, 100), (5, 100)]);
        assert_eq!(history.epoch_of(Offset(99)), Some(LeaderEpoch(0)));
        assert_eq!(history.epoch_of(Offset(100)), Some(LeaderEpoch(5)));
        let end = history.end_of(LeaderEpoch(3), Offset(200)).unwrap();
        assert_eq!((end.epoch, end.offset), (LeaderEpoch(3), Offset(100)));
    }

    #[test]
    fn ends_follow_kip_279() {
        let history = history(&[(2, 10), (5, 40)]);
        let end =
            |asked| history.end_of(LeaderEpoch(asked), Offset(70)).map(|e| (e.epoch.0, e.offset.0));
        assert_eq!(end(1), None);
        assert_eq!(end(2), Some((2, 40)));
        assert_eq!(end(4), Some((2, 40)));
        assert_eq!(end(5), Some((5, 70)));
        assert_eq!(end(9), Some((5, 70)));
    }

    #[test]
    fn a_step_back_is_refused() {
        let mut history = history(&[(2, 10)]);
        for (epoch, start) in [(2, 20), (1, 20), (3, 9), (-1, 11)] {
            let step = EpochStart { epoch: LeaderEpoch(epoch), start: Offset(start) };
            assert!(history.push(step).is_err(), "{step:?}");
        }
    }
}
