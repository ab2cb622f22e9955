//! Compares one partition: the source is read once, each replica beside it.

use std::cmp::Ordering;

use super::compare::{Batch, Difference, Verdict, verdict};
use super::log::{Bounds, Log, Place};
use super::report::{PartitionReport, Progress, ReplicaReport};
use super::{OnProgress, VerifyError};
use crate::types::Offset;

/// One partition and the places to read it at.
#[derive(Clone, Debug)]
pub(super) struct Pair {
    /// The link's name.
    pub link: String,
    /// At the source's leader.
    pub source: Place,
    /// On each real in-sync broker.
    pub copies: Vec<Place>,
    /// Whether either side compacts it.
    pub is_compacted: bool,
    /// Whether the mirror holds the source from its log start on.
    pub from_log_start: bool,
    /// Begin here instead of at the log start.
    pub from: Option<Offset>,
}

/// How often a partition is begun anew because its log start has moved on.
const BEGINNINGS: usize = 5;

impl Pair {
    pub async fn compare(mut self, progress: &OnProgress) -> Result<PartitionReport, VerifyError> {
        let mut beginning = 1;
        loop {
            match self.try_compare(progress).await {
                Err(VerifyError::Trimmed { .. }) if beginning < BEGINNINGS => beginning += 1,
                outcome => return outcome,
            }
        }
    }

    async fn try_compare(&mut self, progress: &OnProgress) -> Result<PartitionReport, VerifyError> {
        // The copies first: whatever they hold by then the source must hold a moment later.
        let mut bounds = Vec::new();
        for copy in &mut self.copies {
            bounds.push(copy.bounds_of_replica().await?);
        }
        let source = self.source.bounds_of_leader().await?;
        let mut begin = self.from.unwrap_or(Offset::ZERO).max(source.log_start);
        begin = bounds.iter().map(|copy| copy.log_start).fold(begin, Offset::max);
        let mut copies = Vec::new();
        for (place, bounds) in self.copies.iter().zip(bounds) {
            let end = bounds.high_watermark.min(source.high_watermark);
            let mut report = report(place, bounds);
            report.difference = self.bounds_differ(source, bounds);
            report.compared_to = begin.min(end).0;
            let log = Log::new(place.clone(), begin, end);
            copies.push(Copy { log, report, next: None, is_compacted: self.is_compacted });
        }
        let end = copies.iter().map(|copy| copy.log.end()).fold(begin, Offset::max);
        progress(Progress::Planned(end.records_since(begin)));
        self.walk(Log::new(self.source.clone(), begin, end), &mut copies, progress).await?;
        Ok(PartitionReport {
            link: self.link.clone(),
            topic: copies.first().map_or(String::new(), Copy::topic),
            source_topic: self.source.partition.topic.to_string(),
            partition: self.source.partition.partition,
            source_log_start_offset: source.log_start.0,
            source_high_watermark: source.high_watermark.0,
            replicas: copies.into_iter().map(|copy| copy.report).collect(),
            problem: None,
        })
    }

    async fn walk(
        &self,
        mut source: Log,
        copies: &mut [Copy],
        progress: &OnProgress,
    ) -> Result<(), VerifyError> {
        let mut position = source.position();
        while let Some(batch) = source.next().await? {
            for copy in copies.iter_mut().filter(|copy| copy.reaches(&batch)) {
                copy.meet(&batch).await?;
            }
            progress(Progress::Compared(batch.header.next_offset.records_since(position)));
            position = position.max(batch.header.next_offset);
            if copies.iter().all(|copy| copy.report.difference.is_some()) {
                return Ok(());
            }
        }
        for copy in copies {
            copy.finish().await?;
        }
        Ok(())
    }

    /// The mirror's log may begin earlier: it follows the source's log start with a delay.
    fn bounds_differ(&self, source: Bounds, copy: Bounds) -> Option<Difference> {
        let begin = self.from.unwrap_or(Offset::ZERO).max(source.log_start);
        let at_begin = |what: &str| Some(Difference::new(begin, what, None, None));
        if copy.high_watermark > source.high_watermark {
            let what = "the mirror goes on where the source has ended";
            return Some(Difference::new(source.high_watermark, what, None, None));
        }
        if self.from_log_start && copy.log_start > begin {
            return at_begin("the mirror begins after offsets that the source still has");
        }
        None
    }
}

fn report(place: &Place, bounds: Bounds) -> ReplicaReport {
    ReplicaReport {
        broker: place.broker.0,
        log_start_offset: bounds.log_start.0,
        high_watermark: bounds.high_watermark.0,
        compared_to: 0,
        batches: 0,
        compacted: 0,
        difference: None,
    }
}

/// One replica, being read beside the source.
#[derive(Debug)]
struct Copy {
    log: Log,
    report: ReplicaReport,
    /// Read, but not met by a batch of the source yet.
    next: Option<Batch>,
    is_compacted: bool,
}

impl Copy {
    fn topic(&self) -> String {
        self.log.place().partition.topic.to_string()
    }

    fn reaches(&self, batch: &Batch) -> bool {
        self.report.difference.is_none() && batch.header.base_offset < self.log.end()
    }

    /// Compares what stands here with the source's next batch.
    async fn meet(&mut self, theirs: &Batch) -> Result<(), VerifyError> {
        loop {
            let Some(ours) = self.next().await? else {
                self.lacks(theirs, None);
                return Ok(());
            };
            match ours.header.base_offset.cmp(&theirs.header.base_offset) {
                Ordering::Less if self.is_compacted => self.report.compacted += 1,
                Ordering::Less => {
                    let what = "the source has no batch here";
                    self.differs(Difference::new(
                        ours.header.base_offset,
                        what,
                        Some(theirs),
                        Some(&ours),
                    ));
                    return Ok(());
                }
                Ordering::Greater => {
                    self.lacks(theirs, Some(&ours));
                    self.next = Some(ours);
                    return Ok(());
                }
                Ordering::Equal => {
                    self.judge(theirs, &ours);
                    return Ok(());
                }
            }
        }
    }

    fn judge(&mut self, theirs: &Batch, ours: &Batch) {
        match verdict(theirs, ours, self.is_compacted) {
            Verdict::Same => self.report.batches += 1,
            Verdict::Compacted => self.report.compacted += 1,
            Verdict::Different => {
                self.differs(Difference::of_bytes(theirs, ours));
                return;
            }
        }
        self.report.compared_to = theirs.header.next_offset.0;
    }

    fn lacks(&mut self, theirs: &Batch, ours: Option<&Batch>) {
        if self.is_compacted {
            self.report.compacted += 1;
            self.report.compared_to = theirs.header.next_offset.0;
        } else {
            let at = theirs.header.base_offset;
            self.differs(Difference::new(at, "the mirror has no batch here", Some(theirs), ours));
        }
    }

    fn differs(&mut self, difference: Difference) {
        self.report.compared_to = difference.offset;
        self.report.difference = Some(difference);
    }

    /// The source has no more batches below our end.
    async fn finish(&mut self) -> Result<(), VerifyError> {
        while self.report.difference.is_none()
            && let Some(ours) = self.next().await?
        {
            if self.is_compacted {
                self.report.compacted += 1;
            } else {
                let at = ours.header.base_offset;
                let what = "the source has no batch here";
                self.differs(Difference::new(at, what, None, Some(&ours)));
            }
        }
        if self.report.difference.is_none() {
            self.report.compared_to = self.report.compared_to.max(self.log.end().0);
        }
        Ok(())
    }

    async fn next(&mut self) -> Result<Option<Batch>, VerifyError> {
        match self.next.take() {
            Some(batch) => Ok(Some(batch)),
            None => self.log.next().await,
        }
    }
}
