//! A copy that is cut by a decision when its next leader epoch begins, and what is known of the
//! source's epochs from before.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use super::super::handle::{Adoption, CopyCut, MirrorTopic};
use super::super::refill::Refills;
use super::Led;
use crate::mirror::lineage::{EpochHistory, SourceLineage};
use crate::mirror::partition::{Assignment, Beginning, Leadership};
use crate::tail::marks::SourceTail;
use crate::types::{BrokerId, LeaderEpoch, Offset};

impl Led {
    /// What is known of the source's epochs from before; the tail check has confirmed the end.
    pub fn with_lineage(mut self, lineage: Option<SourceLineage>) -> Self {
        if let Some(lineage) = lineage {
            self.lineage = lineage;
        }
        let end = self.leadership.log_end();
        if self.tail.epoch >= LeaderEpoch(0) && end > Offset::ZERO {
            self.lineage.confirm(self.tail.epoch, end);
        } else {
            self.lineage.cut(end);
        }
        self
    }

    pub(super) fn new_cut(
        adoption: &Adoption,
        mirror: Arc<MirrorTopic>,
        seats: BTreeSet<BrokerId>,
        assignment: Assignment,
        now: Duration,
    ) -> Self {
        let mut history = adoption.history.clone();
        history.cut(adoption.log_end);
        let beginning =
            Beginning::Cut { history, at: adoption.log_end, log_start: adoption.log_start };
        let leadership = Leadership::begin(seats, assignment, beginning, now);
        let mut led = Self::new(adoption.key, mirror, leadership);
        led.tail = adoption.tail.unwrap_or(SourceTail::UNKNOWN);
        led
    }

    /// Gives up what lies above a cut, and what is known of it.
    pub(super) fn cut_at(
        &mut self,
        cut: CopyCut,
        mut history: EpochHistory,
        log_start: Offset,
    ) -> Beginning {
        let at = cut.at.max(log_start);
        history.cut(at);
        self.given_up = Some(at..self.leadership.log_end().max(at));
        self.lineage.cut(at);
        self.read.cut(at);
        self.before = None;
        self.buffer = None;
        self.refills = Refills::default();
        self.cuts.clear();
        self.refusals.clear();
        self.tail = SourceTail { epoch: cut.source_epoch, last: None };
        self.is_unproved = false;
        self.trouble = None;
        Beginning::Cut { history, at, log_start }
    }

    /// A decision cuts the copy there in its next leader epoch; whether that can be.
    pub fn prepare_cut(&mut self, cut: CopyCut) -> bool {
        let can = self.leadership.in_sync_real().next().is_some()
            && self.leadership.log_start().is_some_and(|log_start| log_start <= cut.at)
            && cut.at <= self.leadership.log_end();
        self.cut = Some(cut).filter(|_| can);
        can
    }

    /// What was given up when this leader epoch began, once.
    pub fn take_given_up(&mut self) -> Option<Range<Offset>> {
        self.given_up.take()
    }
}
