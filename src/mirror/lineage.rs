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

    /// A replica whose log ends at `end`, all of it known, names `epoch` as its last one: a newer one
    /// than its batches have began at its end, when its broker led and appended nothing.
    pub fn end_in(&mut self, epoch: LeaderEpoch, end: Offset) {
        // An older one, or none, adds nothing to what the batches say.
        let _older = self.push(EpochStart { epoch, start: end });
    }

    /// An in-sync replica's log goes on in `epoch` beyond `log_end`, where the log was thought to end.
    /// Newer epochs, which hold nothing, were of a broker that led meanwhile and was not heard by all.
    pub fn go_on_in(&mut self, epoch: LeaderEpoch, log_end: Offset) {
        let kept = self.starts.partition_point(|step| step.epoch <= epoch);
        let (known, newer) = self.starts.split_at(kept);
        let is_known = known.last().is_some_and(|step| step.epoch == epoch);
        if is_known && newer.iter().all(|step| step.start >= log_end) {
            self.starts.truncate(kept);
        }
    }

    /// The history of what lies below `end`. One epoch is always left: followers that held it have to
    /// be told where it ends now.
    pub fn cut(&mut self, end: Offset) {
        let kept = self.starts.partition_point(|step| step.start < end).max(1);
        self.starts.truncate(kept);
        if let Some(first) = self.starts.first_mut() {
            first.start = first.start.min(end);
        }
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

/// Source epochs that are kept of a partition: older ones decide nothing any more.
const EPOCHS_KEPT: usize = 64;

/// The source's epochs of what a copy holds, before it was stamped with ours: which of the source's
/// lineages it is of. It may begin in the middle and lag behind the copy.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SourceLineage {
    starts: Vec<EpochStart>,
    end: Offset,
}

impl SourceLineage {
    /// What was known up to `end`; steps that do not rise are left out.
    pub fn new(starts: impl IntoIterator<Item = EpochStart>, end: Offset) -> Self {
        let mut lineage = Self::default();
        lineage.extend(starts, end);
        lineage
    }

    /// The copy went on to `end`, in these epochs.
    pub fn extend(&mut self, starts: impl IntoIterator<Item = EpochStart>, end: Offset) {
        for step in starts {
            let is_newer = self.starts.last().is_none_or(|last| step.epoch > last.epoch);
            if is_newer && step.epoch >= LeaderEpoch(0) {
                self.starts.push(step);
            }
        }
        let excess = self.starts.len().saturating_sub(EPOCHS_KEPT);
        self.starts.drain(..excess);
        self.end = self.end.max(end);
    }

    /// The source told that the copy, which ends at `end`, ends in `epoch`.
    pub fn confirm(&mut self, epoch: LeaderEpoch, end: Offset) {
        self.cut(end);
        let start = self.end.min(Offset(end.0 - 1)).max(Offset::ZERO);
        self.extend([EpochStart { epoch, start }], end);
    }

    /// Nothing from `end` on is of it any more.
    pub fn cut(&mut self, end: Offset) {
        self.starts.retain(|step| step.start < end);
        self.end = self.end.min(end);
    }

    /// The epoch of the last batch of a copy that ends at `log_end`, and the end of what is known to be
    /// of it.
    pub fn known_at(&self, log_end: Offset) -> Option<OffsetAndEpoch> {
        let after = self.starts.partition_point(|step| step.start < log_end);
        let known = self.starts.get(after.checked_sub(1)?)?;
        let offset = self.starts.get(after).map_or(self.end, |next| next.start).min(log_end);
        Some(OffsetAndEpoch { offset, epoch: known.epoch })
    }

    /// Epochs and where they begin, in rising order.
    pub fn starts(&self) -> &[EpochStart] {
        &self.starts
    }

    /// End of what is known.
    pub fn end(&self) -> Offset {
        self.end
    }
}

/// What is known of a copy's source epochs, and by whose leadership.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KnownLineage {
    /// The leader epoch at the destination in which it was learned.
    pub leader_epoch: LeaderEpoch,
    /// The source's epochs.
    pub lineage: SourceLineage,
}

impl Default for KnownLineage {
    /// Nothing is known.
    fn default() -> Self {
        Self { leader_epoch: LeaderEpoch::UNKNOWN, lineage: SourceLineage::default() }
    }
}

impl KnownLineage {
    /// Whether it replaces what was known before: what was learned last counts.
    pub fn is_newer(&self, than: &Self) -> bool {
        let rank = |one: &Self| (one.leader_epoch, one.lineage.end);
        rank(self) > rank(than)
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
    fn a_cut_history_ends_where_the_log_does() {
        let cut = |end| {
            let mut history = history(&[(2, 10), (5, 40), (6, 40)]);
            history.cut(Offset(end));
            history.starts().iter().map(|step| (step.epoch.0, step.start.0)).collect::<Vec<_>>()
        };
        assert_eq!(cut(41), [(2, 10), (5, 40), (6, 40)]);
        assert_eq!(cut(40), [(2, 10)]);
        assert_eq!(cut(10), [(2, 10)]);
        assert_eq!(cut(3), [(2, 3)]);
    }

    #[test]
    fn a_step_back_is_refused() {
        let mut history = history(&[(2, 10)]);
        for (epoch, start) in [(2, 20), (1, 20), (3, 9), (-1, 11)] {
            let step = EpochStart { epoch: LeaderEpoch(epoch), start: Offset(start) };
            assert!(history.push(step).is_err(), "{step:?}");
        }
    }

    #[test]
    fn what_is_known_of_a_copy_may_lag_or_be_ahead() {
        let step = |(epoch, start)| EpochStart { epoch: LeaderEpoch(epoch), start: Offset(start) };
        let mut lineage = SourceLineage::new([(4, 10), (5, 200), (5, 250)].map(step), Offset(300));
        let known = |lineage: &SourceLineage, end| {
            lineage.known_at(Offset(end)).map(|known| (known.epoch.0, known.offset.0))
        };
        assert_eq!(known(&lineage, 500), Some((5, 300)), "it lags");
        assert_eq!(known(&lineage, 250), Some((5, 250)));
        assert_eq!(known(&lineage, 150), Some((4, 150)), "what was in memory only is lost");
        assert_eq!(known(&lineage, 200), Some((4, 200)));
        assert_eq!(known(&lineage, 10), None);
        lineage.confirm(LeaderEpoch(7), Offset(400));
        assert_eq!((known(&lineage, 400), known(&lineage, 300)), (Some((7, 400)), Some((5, 300))));
        lineage.cut(Offset(220));
        assert_eq!(known(&lineage, 400), Some((5, 220)));
        let mut unknown = SourceLineage::default();
        assert_eq!(known(&unknown, 9), None);
        unknown.confirm(LeaderEpoch(3), Offset(9));
        assert_eq!(known(&unknown, 9), Some((3, 9)));
    }

    #[test]
    fn only_the_newest_source_epochs_are_kept() {
        let step = |n: i32| EpochStart { epoch: LeaderEpoch(n), start: Offset(i64::from(n)) };
        let lineage = SourceLineage::new((0..200).map(step), Offset(200));
        assert_eq!((lineage.starts().len(), lineage.starts()[0]), (EPOCHS_KEPT, step(136)));
    }

    #[test]
    fn empty_epochs_are_forgotten_where_an_in_sync_log_goes_on_in_the_one_before() {
        let known = history(&[(12, 0), (13, 724), (14, 724)]);
        for (epoch, log_end, left) in
            [(12, 724, 1), (13, 724, 2), (14, 724, 3), (11, 724, 3), (12, 725, 3)]
        {
            let mut known = known.clone();
            known.go_on_in(LeaderEpoch(epoch), Offset(log_end));
            assert_eq!(known.starts().len(), left, "epoch {epoch} beyond {log_end}");
        }
    }

    #[test]
    fn the_epoch_of_a_broker_that_led_without_a_batch_begins_at_its_end() {
        let mut known = history(&[(12, 0), (14, 400)]);
        for (named, expected) in [(-1, 14), (13, 14), (14, 14), (15, 15)] {
            known.end_in(LeaderEpoch(named), Offset(525));
            assert_eq!(known.newest().unwrap().epoch, LeaderEpoch(expected), "named {named}");
        }
        assert_eq!(known, history(&[(12, 0), (14, 400), (15, 525)]));
    }
}
