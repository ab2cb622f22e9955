//! What is known of the source's epochs of copies: of what we lead while we read it, of the others as
//! the journal tells it, whichever seat wrote that.

use super::task::LeaderTask;
use crate::mirror::lineage::KnownLineage;
use crate::types::PartitionKey;

impl LeaderTask {
    /// The journal tells. Of what we lead we know more ourselves.
    pub(super) fn restore_lineages(&mut self, lineages: Vec<(PartitionKey, KnownLineage)>) {
        for (key, told) in lineages {
            let known = self.lineages.get(&key);
            if !self.led.contains_key(&key) && known.is_none_or(|known| told.is_newer(known)) {
                self.lineages.insert(key, told);
            }
        }
    }

    /// What was learned since this was asked last.
    pub(super) fn learned_lineages(&mut self) -> Vec<(PartitionKey, KnownLineage)> {
        let known = self.learned.drain().filter_map(|key| match self.led.get(&key) {
            Some(led) => {
                let leader_epoch = led.leadership.assignment().leader_epoch;
                Some((key, KnownLineage { leader_epoch, lineage: led.lineage.clone() }))
            }
            None => self.lineages.get(&key).map(|known| (key, known.clone())),
        });
        known.collect()
    }
}
