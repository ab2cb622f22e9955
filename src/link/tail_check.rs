//! The tail check: does the copy end in the source's present lineage? By the topic's id, by the
//! source's epochs, by the last batches that both sides hold, in this order. Reads both clusters, for
//! many partitions at once; what the findings mean is judged in `mirror::evidence`.

use std::collections::HashMap;

use super::logs::{self, LogBounds, Place, Read, Reader};
use crate::client::{Cluster, ClusterMetadata, Topics};
use crate::mirror::evidence::{self, EpochEvidence};
use crate::tail::Trouble;
use crate::tail::marks::{LastBatch, SourceTail};
use crate::types::{
    BrokerId, LeaderEpoch, Offset, OffsetAndEpoch, TopicId, TopicName, TopicPartition,
};
use crate::wire::batch::BatchHeader;

/// How far below the end is looked for batches that both sides hold, one after the other.
const STEPS_BACK: [i64; 7] = [0, 8, 64, 512, 4_096, 32_768, 262_144];
/// Epochs asked for, one after the other, to find the one that the copy ends in.
const EPOCHS_BACK: usize = 64;

/// One copy to check.
#[derive(Clone, Debug)]
pub struct Copy {
    /// The mirror partition's name at the destination.
    pub mirror: TopicPartition,
    /// The partition at the source.
    pub source: TopicPartition,
    /// The topic's pinned id at the source; [`TopicId::NONE`] where there is none.
    pub source_id: TopicId,
    /// A real broker that holds the copy.
    pub holder: BrokerId,
    /// End of the copy.
    pub log_end: Offset,
    /// Where the copy starts and ends for consumers; `None`: the holder leads it and is asked.
    pub bounds: Option<(Offset, Offset)>,
    /// The source epoch of the copy's last batch and the end of what is known to be of it; may lag.
    pub known: Option<OffsetAndEpoch>,
}

/// What the check found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Evidence {
    /// The source's epoch reaches beyond the copy, or both hold the same batch; or the copy is empty.
    Same(SourceTail),
    /// Nothing could be compared: trimmed or compacted away at one side, and nothing speaks
    /// against it.
    Nothing(SourceTail),
    /// The copy does not belong to what the source has now.
    Against(Trouble),
    /// The source says that it has no such topic or partition: once is no proof.
    Missing,
    /// A part of the copy lies above its high watermark, cannot be read, and is not proved by epochs.
    Hidden(String),
    /// One side could not be read now.
    Later(String),
}

/// Checks copies; the evidence comes in their order.
pub async fn check(destination: &Cluster, source: &Cluster, copies: &[Copy]) -> Vec<Evidence> {
    let names: Vec<TopicName> = copies.iter().map(|copy| copy.source.topic.clone()).collect();
    let mut checks: Vec<Check<'_>> = match source.metadata(Topics::Named(&names)).await {
        Ok(metadata) => copies.iter().map(|copy| Check::begin(copy, &metadata)).collect(),
        Err(error) => return copies.iter().map(|_| Evidence::Later(error.to_string())).collect(),
    };
    compare_epochs(source, &mut checks).await;
    compare_bounds(destination, source, &mut checks).await;
    for (step, &back) in STEPS_BACK.iter().enumerate() {
        compare_batches(destination, source, &mut checks, back, step + 1 == STEPS_BACK.len()).await;
    }
    find_epochs(source, &mut checks).await;
    checks.into_iter().map(Check::end).collect()
}

/// Where a partition of the source is to be read; else what that means.
pub(super) fn locate(
    metadata: &ClusterMetadata,
    partition: &TopicPartition,
    pinned: TopicId,
) -> Result<Place, Evidence> {
    use kafka_protocol::error::ResponseError::UnknownTopicOrPartition;
    let topic = metadata.topics.iter().find(|topic| topic.name == partition.topic);
    let Some(topic) = topic else {
        return Err(Evidence::Later(format!("metadata leaves {} out", partition.topic)));
    };
    match topic.error {
        Some(UnknownTopicOrPartition) => return Err(Evidence::Missing),
        Some(error) => return Err(Evidence::Later(format!("metadata answers {error:?}"))),
        None => {}
    }
    if pinned != TopicId::NONE && topic.id != TopicId::NONE && topic.id != pinned {
        return Err(Evidence::Against(Trouble::TopicIdChanged));
    }
    let found = topic.partitions.iter().find(|found| found.partition == partition.partition);
    let Some(found) = found else { return Err(Evidence::Missing) };
    let Some(broker) = found.leader else {
        return Err(Evidence::Later(format!("{partition} has no leader at the source")));
    };
    Ok(Place {
        broker,
        partition: partition.clone(),
        leader_epoch: found.leader_epoch,
        reader: Reader::Consumer,
    })
}

/// One copy while it is being checked.
struct Check<'a> {
    copy: &'a Copy,
    ours: Place,
    /// Where the source has it; unset once there is a verdict.
    theirs: Option<Place>,
    verdict: Option<Evidence>,
    /// Where both sides can hold batches.
    common: std::ops::Range<Offset>,
    tail: SourceTail,
    is_proven: bool,
    /// The source's epochs prove all of it, also what cannot be read yet.
    is_within_epoch: bool,
    /// The holder showed nothing at its own end.
    is_end_unseen: bool,
    /// End and source epoch of the newest batch that both sides were seen to hold.
    seen: Option<OffsetAndEpoch>,
    /// Batches are to be compared.
    is_open: bool,
}

impl<'a> Check<'a> {
    fn begin(copy: &'a Copy, metadata: &ClusterMetadata) -> Self {
        let (theirs, verdict) = match locate(metadata, &copy.source, copy.source_id) {
            Ok(place) => (Some(place), None),
            Err(evidence) => (None, Some(evidence)),
        };
        let ours = Place {
            broker: copy.holder,
            partition: copy.mirror.clone(),
            leader_epoch: LeaderEpoch::UNKNOWN,
            reader: Reader::ToTheEnd,
        };
        Self {
            copy,
            ours,
            theirs,
            verdict,
            common: Offset::ZERO..Offset::ZERO,
            tail: SourceTail::UNKNOWN,
            is_proven: false,
            is_within_epoch: false,
            is_end_unseen: false,
            seen: None,
            is_open: false,
        }
    }

    /// Where what both sides were seen to hold ends, if the copy goes on above that and the source
    /// changed its epoch in between: the rest may be of a lineage that the source has lost, and only what
    /// is known of the copy's epochs can prove that it was compacted away.
    fn unproved_across_epochs(&self) -> Option<Offset> {
        let is_known = self.tail.epoch != LeaderEpoch::UNKNOWN;
        let seen = self.seen.filter(|seen| seen.offset < self.copy.log_end)?;
        (!self.is_within_epoch && is_known && seen.epoch != self.tail.epoch).then_some(seen.offset)
    }

    /// Whether the holder does not serve what lies above its high watermark.
    fn is_end_unread(&self) -> bool {
        self.is_end_unseen || self.common.end < self.copy.log_end
    }

    fn end(self) -> Evidence {
        if let Some(verdict) = self.verdict {
            return verdict;
        }
        match self.unproved_across_epochs() {
            Some(seen) if self.is_end_unread() => Evidence::Hidden(format!(
                "the copy can be read up to offset {seen} of {}, and the source changed its leader \
                 epoch in between; its high watermark has to rise first",
                self.copy.log_end
            )),
            Some(source_end) => {
                Evidence::Against(Trouble::Truncated { ours: self.copy.log_end, source_end })
            }
            None if self.is_proven => Evidence::Same(self.tail),
            None => Evidence::Nothing(self.tail),
        }
    }

    fn decide(&mut self, evidence: Evidence) {
        self.verdict = Some(evidence);
        self.is_open = false;
    }

    fn truncated(&mut self, source_end: Offset) {
        let ours = self.copy.log_end;
        self.decide(Evidence::Against(Trouble::Truncated { ours, source_end }));
    }

    /// Where the source has it, while there is no verdict.
    fn source(&self) -> Option<Place> {
        self.theirs.clone().filter(|_| self.verdict.is_none())
    }

    fn on_bounds(&mut self, ours: Read<LogBounds>, theirs: Read<LogBounds>) {
        let (ours, theirs) = match (ours, theirs) {
            (Ok(ours), Ok(theirs)) => (ours, theirs),
            (Err(why), _) | (_, Err(why)) => return self.decide(Evidence::Later(why)),
        };
        if theirs.end < self.copy.log_end {
            return self.truncated(theirs.end);
        }
        let start = ours.start.max(theirs.start);
        self.common = start..ours.end.min(self.copy.log_end);
        self.is_proven |= self.copy.log_end == Offset::ZERO;
        self.is_open = self.common.start < self.common.end;
    }

    /// Where batches are compared next, `back` offsets below the end.
    fn at(&self, back: i64) -> Offset {
        Offset(self.common.end.0 - 1 - back).max(self.common.start)
    }

    fn on_batches(&mut self, ours: Read<bytes::Bytes>, theirs: Read<bytes::Bytes>, at: Offset) {
        let (ours, theirs) = match (ours, theirs) {
            (Ok(ours), Ok(theirs)) => (ours, theirs),
            (Err(why), _) | (_, Err(why)) => return self.decide(Evidence::Later(why)),
        };
        self.is_end_unseen |= at == self.at(0) && ours.is_empty();
        let found = evidence::compare(&ours, &theirs);
        if let Some(offset) = found.different {
            return self.truncated(offset);
        }
        if let Some(same) = found.same {
            self.is_proven = true;
            self.is_open = false;
            self.seen = Some(same);
            if same.offset == self.copy.log_end {
                self.tail =
                    SourceTail { epoch: same.epoch, last: batch_ending(&theirs, same.offset) };
            }
        } else if at == self.common.start {
            self.is_open = false;
        }
    }
}

fn batch_ending(bytes: &[u8], end: Offset) -> Option<LastBatch> {
    let mut rest = bytes;
    while let Ok(Some(batch)) = BatchHeader::read(rest) {
        if batch.next_offset == end {
            return Some(LastBatch::of(&batch));
        }
        rest = rest.get(batch.size..)?;
    }
    None
}

async fn compare_epochs(source: &Cluster, checks: &mut [Check<'_>]) {
    let mut asked = Vec::new();
    let mut of = Vec::new();
    for (at, check) in checks.iter().enumerate() {
        let known = check.copy.known.filter(|known| known.epoch >= LeaderEpoch(0));
        if let (Some(place), Some(known)) = (check.source(), known) {
            asked.push((place, known.epoch));
            of.push(at);
        }
    }
    let answers = logs::epoch_ends(source, &asked).await;
    for (at, answer) in of.into_iter().zip(answers) {
        let check = &mut checks[at];
        // Without an answer the batches have to prove it.
        match evidence::by_epoch(check.copy.known, answer.ok(), check.copy.log_end) {
            EpochEvidence::Within(epoch) => {
                check.is_proven = true;
                check.is_within_epoch = true;
                check.tail.epoch = epoch;
            }
            EpochEvidence::Against { source_end } => check.truncated(source_end),
            EpochEvidence::Unknown => {}
        }
    }
}

async fn compare_bounds(destination: &Cluster, source: &Cluster, checks: &mut [Check<'_>]) {
    let open: Vec<usize> = (0..checks.len()).filter(|&at| checks[at].verdict.is_none()).collect();
    let theirs: Vec<_> = open.iter().filter_map(|&at| checks[at].source()).collect();
    let unknown = open.iter().filter(|&&at| checks[at].copy.bounds.is_none());
    let ours: Vec<_> = unknown.map(|&at| checks[at].ours.clone()).collect();
    let (ours, theirs) =
        tokio::join!(logs::bounds(destination, &ours), logs::bounds(source, &theirs));
    let mut ours = ours.into_iter();
    for (at, theirs) in open.into_iter().zip(theirs) {
        let known = checks[at].copy.bounds.map(|(start, end)| Ok(LogBounds { start, end }));
        let missing = || Err("the destination was not asked".to_owned());
        let ours = known.or_else(|| ours.next()).unwrap_or_else(missing);
        checks[at].on_bounds(ours, theirs);
    }
}

async fn compare_batches(
    destination: &Cluster,
    source: &Cluster,
    checks: &mut [Check<'_>],
    back: i64,
    is_last: bool,
) {
    let open: Vec<usize> = (0..checks.len()).filter(|&at| checks[at].is_open).collect();
    let wanted = open.iter().filter_map(|&at| {
        let check = &checks[at];
        let offset = check.at(back);
        Some(((check.ours.clone(), offset), (check.source()?, offset)))
    });
    let (ours, theirs): (Vec<_>, Vec<_>) = wanted.unzip();
    if ours.is_empty() {
        return;
    }
    let (ours, theirs) =
        tokio::join!(logs::batches(destination, &ours), logs::batches(source, &theirs));
    for ((at, ours), theirs) in open.into_iter().zip(ours).zip(theirs) {
        let offset = checks[at].at(back);
        checks[at].on_batches(ours, theirs, offset);
        checks[at].is_open &= !is_last;
    }
}

/// Finds the source's epoch of the copy's end where nothing said it so far, from the newest epoch
/// down: reading on without it would not notice a truncation.
async fn find_epochs(source: &Cluster, checks: &mut [Check<'_>]) {
    let is_open = |check: &Check<'_>| {
        check.verdict.is_none()
            && check.tail.epoch == LeaderEpoch::UNKNOWN
            && check.copy.log_end > Offset::ZERO
    };
    // By check: the epoch to ask for, and the oldest one that was answered.
    let open = (0..checks.len()).filter(|&at| is_open(&checks[at]));
    let newest = |at: usize| checks[at].theirs.as_ref().map(|place| place.leader_epoch);
    let mut asking: HashMap<usize, (LeaderEpoch, Option<LeaderEpoch>)> =
        open.filter_map(|at| Some((at, (newest(at)?, None)))).collect();
    for _ in 0..EPOCHS_BACK {
        asking.retain(|_, (epoch, _)| *epoch >= LeaderEpoch(0));
        let of: Vec<usize> = asking.keys().copied().collect();
        let asked = of.iter().filter_map(|at| Some((checks[*at].source()?, asking[at].0)));
        let asked: Vec<_> = asked.collect();
        if asked.is_empty() {
            return;
        }
        for (at, answer) in of.iter().zip(logs::epoch_ends(source, &asked).await) {
            let Some((_, newer)) = asking.remove(at) else { continue };
            let check = &mut checks[*at];
            match (answer, newer) {
                (Ok(answer), Some(newer)) if answer.offset < check.copy.log_end => {
                    // The newer epoch begins below the copy's end: it is the one.
                    check.tail.epoch = newer;
                }
                (Ok(answer), _) if answer.epoch >= LeaderEpoch(0) => {
                    check.tail.epoch = answer.epoch;
                    let next = LeaderEpoch(answer.epoch.0 - 1);
                    asking.insert(*at, (next, Some(answer.epoch)));
                }
                // Not told: the next batch will.
                _ => check.tail.epoch = newer.unwrap_or(LeaderEpoch::UNKNOWN),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    /// A copy that ends at 115; `seen` ends what both sides hold, in this source epoch.
    fn found(seen: Option<(i64, i32)>, tail: i32, read_to: i64, is_within_epoch: bool) -> Evidence {
        let partition = TopicPartition { topic: "orders".into(), partition: 0 };
        let copy = Copy {
            mirror: partition.clone(),
            source: partition,
            source_id: TopicId::NONE,
            holder: BrokerId(1),
            log_end: Offset(115),
            bounds: None,
            known: None,
        };
        let (brokers, topics) = (BTreeMap::new(), Vec::new());
        let metadata = ClusterMetadata { cluster_id: None, brokers, topics };
        let mut check = Check::begin(&copy, &metadata);
        check.verdict = None;
        check.common = Offset(73)..Offset(read_to);
        check.tail.epoch = LeaderEpoch(tail);
        let at = |(end, epoch)| OffsetAndEpoch { offset: Offset(end), epoch: LeaderEpoch(epoch) };
        check.seen = seen.map(at);
        check.is_proven = seen.is_some();
        check.is_within_epoch = is_within_epoch;
        check.end()
    }

    #[test]
    fn what_only_the_copy_holds_across_a_change_of_epoch_is_not_taken_for_compacted() {
        let truncated =
            Evidence::Against(Trouble::Truncated { ours: Offset(115), source_end: Offset(114) });
        assert_eq!(found(Some((114, 1)), 3, 115, false), truncated);
        for (seen, tail, is_within_epoch) in
            [((115, 1), 1, false), ((115, 1), 3, false), ((114, 1), 1, false), ((114, 1), 3, true)]
        {
            let evidence = found(Some(seen), tail, 115, is_within_epoch);
            assert!(matches!(evidence, Evidence::Same(_)), "{seen:?} {tail}: {evidence:?}");
        }
        let hidden = found(Some((100, 1)), 3, 100, false);
        assert!(matches!(hidden, Evidence::Hidden(_)), "the holder does not show it: {hidden:?}");
        assert!(matches!(found(None, 3, 115, false), Evidence::Nothing(_)));
    }
}
