//! Follows a truncation at the source where that was decided: finds where the copy parts from the
//! source, and tells the leader task. The copy is cut by whoever leads it next, in a new leader epoch.

use std::collections::HashMap;

use super::divergence;
use super::tail_check::{Copy, Evidence};
use crate::client::Cluster;
use crate::mirror::decision::Decision;
use crate::seat::leader::{Adoption, CopyCut, LeaderHandle, MirrorTopic};
use crate::tail::Trouble;
use crate::tail::marks::SourceTail;
use crate::types::{LinkName, PartitionKey, TopicPartition};

/// Decisions that wait, by partition.
pub type Decisions = HashMap<PartitionKey, Decision>;

/// The two clusters of a link.
#[derive(Clone, Copy, Debug)]
pub struct Sides<'a> {
    /// Where the copies are.
    pub destination: &'a Cluster,
    /// What they are of.
    pub source: &'a Cluster,
}

impl Sides<'_> {
    /// What the evidence on a copy that we are about to lead comes to: where it was truncated at the
    /// source and that is to be followed, the copy is adopted up to where the two part.
    pub async fn follow(
        self,
        copy: &Copy,
        adoption: &mut Adoption,
        evidence: Evidence,
        is_decided: bool,
    ) -> Evidence {
        if !is_decided || !matches!(evidence, Evidence::Against(Trouble::Truncated { .. })) {
            return evidence;
        }
        match divergence::find(self.destination, self.source, copy).await {
            Ok(found) if found.at < adoption.log_start => evidence,
            Ok(found) if found.at < adoption.log_end => {
                adoption.cut_from = Some(adoption.log_end);
                adoption.log_end = found.at;
                Evidence::Same(SourceTail { epoch: found.source_epoch, last: None })
            }
            Ok(_) => Evidence::Later("copy and source do not part any more".to_owned()),
            Err(why) => Evidence::Later(why),
        }
    }

    /// Finds where copies that we lead part from the source, where a decision waits for that.
    pub async fn find_cuts(self, link: &LinkName, leader: &LeaderHandle, decisions: &Decisions) {
        let truncated =
            decisions.iter().filter(|(_, decision)| matches!(decision, Decision::Truncate { .. }));
        let keys: Vec<_> = truncated.map(|(&key, _)| key).collect();
        if keys.is_empty() {
            return;
        }
        let mirrors = leader.mirrors().await;
        for (key, led) in keys.iter().zip(leader.led(keys.clone()).await) {
            let mirror = mirrors.iter().find(|mirror| mirror.id == key.topic);
            let Some((led, mirror)) = led.zip(mirror).filter(|(led, _)| led.link == *link) else {
                continue;
            };
            let (Some(end), Some(start), Some(&holder)) =
                (led.high_watermark, led.log_start, led.in_sync.first())
            else {
                continue;
            };
            let copy = Copy { bounds: Some((start, end)), ..copy_of(*key, mirror, holder, end) };
            match divergence::find(self.destination, self.source, &copy).await {
                Ok(found) => {
                    let (at, source_epoch) = (found.at, found.source_epoch);
                    let leader_epoch = led.leader_epoch;
                    leader.cut(CopyCut { key: *key, leader_epoch, at, source_epoch }).await;
                }
                Err(why) => tracing::info!(
                    %link, topic = %mirror.name, partition = key.partition, %why,
                    "where the copy parts from the source is not known yet; trying on"
                ),
            }
        }
    }
}

/// A copy of which nothing is known but where it is and where it ends.
pub fn copy_of(
    key: PartitionKey,
    mirror: &MirrorTopic,
    holder: crate::types::BrokerId,
    log_end: crate::types::Offset,
) -> Copy {
    let partition = key.partition;
    Copy {
        mirror: TopicPartition { topic: mirror.name.clone(), partition },
        source: TopicPartition { topic: mirror.source_name.clone(), partition },
        source_id: mirror.source_id,
        holder,
        log_end,
        bounds: None,
        known: None,
    }
}
