//! Where a copy parts from the source. A source that lost a part of its log went on from there in a
//! new leader epoch (KIP-279), so the point lies at the start of one of its epochs, or at its end:
//! epochs are walked down from the newest, and the first batches of each are compared. Only what was
//! proven to be common is kept: everything above is given up and copied anew.

use super::logs::{self, LogBounds, Place, Reader};
use super::tail_check::{Copy, locate};
use crate::client::{Cluster, Topics};
use crate::mirror::evidence::{self, Comparison, Segment};
use crate::mirror::lineage::EpochStart;
use crate::types::{LeaderEpoch, Offset};

/// Epochs that are looked at; a copy that parts below all of them is given up as a whole.
const EPOCHS: usize = 1_000;

/// The end of what is common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Divergence {
    /// Everything of the copy below it is the source's too; a batch of the copy begins here.
    pub at: Offset,
    /// The source's epoch of the batch below; [`LeaderEpoch::UNKNOWN`] where there is none.
    pub source_epoch: LeaderEpoch,
}

/// Finds it; the error says what could not be read now.
pub async fn find(
    destination: &Cluster,
    source: &Cluster,
    copy: &Copy,
) -> Result<Divergence, String> {
    let names = [copy.source.topic.clone()];
    let metadata = source.metadata(Topics::Named(&names)).await;
    let metadata = metadata.map_err(|error| error.to_string())?;
    let theirs = locate(&metadata, &copy.source, copy.source_id)
        .map_err(|evidence| format!("the source cannot be compared: {evidence:?}"))?;
    let ours = Place {
        broker: copy.holder,
        partition: copy.mirror.clone(),
        leader_epoch: LeaderEpoch::UNKNOWN,
        reader: Reader::ToTheEnd,
    };
    let there = one(logs::bounds(source, std::slice::from_ref(&theirs)).await)?;
    let here = match copy.bounds {
        Some((start, end)) => LogBounds { start, end },
        None => one(logs::bounds(destination, std::slice::from_ref(&ours)).await)?,
    };
    let sides = Sides { destination, source, ours, theirs };
    let floor = here.start.max(there.start);
    let epochs = sides.epochs(floor).await?;
    let end = copy.log_end.min(here.end.max(here.start));
    for segment in evidence::segments(&epochs, here.start..end, there.start..there.end) {
        if let Some(at) = sides.common_end(segment).await? {
            let at = sides.boundary(at, copy.log_end).await?;
            return Ok(Divergence { at, source_epoch: segment.epoch });
        }
    }
    Ok(Divergence { at: here.start, source_epoch: LeaderEpoch::UNKNOWN })
}

struct Sides<'a> {
    destination: &'a Cluster,
    source: &'a Cluster,
    ours: Place,
    theirs: Place,
}

impl Sides<'_> {
    /// The source's epochs down to the one that holds `floor`, in rising order.
    async fn epochs(&self, floor: Offset) -> Result<Vec<EpochStart>, String> {
        let mut steps: Vec<EpochStart> = Vec::new();
        let mut asked = self.theirs.leader_epoch;
        let mut newer: Option<LeaderEpoch> = None;
        for _ in 0..EPOCHS {
            let question = [(self.theirs.clone(), asked)];
            let answer = one(logs::epoch_ends(self.source, &question).await)?;
            if let Some(newer) = newer {
                steps.push(EpochStart { epoch: newer, start: answer.offset.max(floor) });
            }
            newer = Some(answer.epoch).filter(|epoch| *epoch >= LeaderEpoch(0));
            let Some(oldest) = newer else { break };
            if (!steps.is_empty() && answer.offset <= floor) || oldest == LeaderEpoch(0) {
                break;
            }
            asked = LeaderEpoch(oldest.0 - 1);
        }
        // The oldest one begins with what both sides have, or below.
        let is_below = steps.last().is_none_or(|step| step.start > floor);
        steps.extend(newer.filter(|_| is_below).map(|epoch| EpochStart { epoch, start: floor }));
        steps.reverse();
        Ok(steps)
    }

    /// Where the common part of a segment ends; `None` where its beginning is not the same.
    async fn common_end(&self, segment: Segment) -> Result<Option<Offset>, String> {
        let begin = self.compare(segment.start, segment.end).await?;
        let Some(same) = begin.same else { return Ok(None) };
        if begin.different.is_some() {
            return Ok(Some(same.offset));
        }
        let last = self.compare(Offset(segment.end.0 - 1), segment.end).await?;
        Ok(Some(if last.different.is_some() { same.offset } else { segment.end }))
    }

    async fn compare(&self, from: Offset, end: Offset) -> Result<Comparison, String> {
        let (here, there) = ([(self.ours.clone(), from)], [(self.theirs.clone(), from)]);
        let (ours, theirs) = tokio::join!(
            logs::batches(self.destination, &here),
            logs::batches(self.source, &there)
        );
        let (ours, theirs) = (one(ours)?, one(theirs)?);
        Ok(evidence::compare(evidence::below(&ours, end), evidence::below(&theirs, end)))
    }

    /// The start of the copy's batch that holds `at`, or `at` itself between batches: a replica is cut
    /// at the boundary of a batch only.
    async fn boundary(&self, at: Offset, log_end: Offset) -> Result<Offset, String> {
        if at >= log_end {
            return Ok(at);
        }
        let bytes = one(logs::batches(self.destination, &[(self.ours.clone(), at)]).await)?;
        Ok(logs::first_batch(&bytes).map_or(at, |batch| batch.base_offset.min(at)))
    }
}

fn one<T>(answers: Vec<logs::Read<T>>) -> logs::Read<T> {
    answers.into_iter().next().unwrap_or_else(|| Err("nothing was answered".to_owned()))
}
