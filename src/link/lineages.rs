//! Keeps what is known of the source's epochs between the lives of a daemon: gives the leader task what
//! the journal has, and notes down what the leader task learns. A journal that lags is no evidence
//! against a copy, so nothing waits for it.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::MissedTickBehavior;

use crate::mirror::ledger::{Ledger, LineageEntry, Note, SourceEpoch};
use crate::mirror::lineage::{EpochStart, KnownLineage, SourceLineage};
use crate::seat::leader::LeaderHandle;
use crate::store::JournalHandle;
use crate::tail::notes::Notes;
use crate::types::{LeaderEpoch, Offset, PartitionKey};

/// Between looks at what was learned.
const INTERVAL: Duration = Duration::from_secs(10);
/// Between looks at what other daemons wrote.
const LEAST_INTERVAL: Duration = Duration::from_secs(1);

/// Runs until it is dropped.
pub async fn keep(leader: LeaderHandle, journal: JournalHandle, notes: Notes) {
    let mut view = journal.view();
    let mut noted = Noted::default();
    let mut restored: HashMap<PartitionKey, (i32, i64)> = HashMap::new();
    let mut interval = tokio::time::interval(INTERVAL);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = interval.tick() => {
                for (key, entry) in noted.due(leader.learned_lineages().await) {
                    notes.note(Note::Lineage(key, entry));
                }
            }
            // The journal ends only with the daemon.
            Ok(()) = view.changed() => {
                let present = view.borrow_and_update().clone();
                let told = newer(&present.ledger, &mut restored);
                if !told.is_empty() {
                    leader.restore_lineages(told).await;
                }
                // Records come one by one; a look at all of them takes longer than to wait for more.
                tokio::time::sleep(LEAST_INTERVAL).await;
            }
        }
    }
}

/// What the journal says that it did not say at the last look.
fn newer(
    ledger: &Ledger,
    restored: &mut HashMap<PartitionKey, (i32, i64)>,
) -> Vec<(PartitionKey, KnownLineage)> {
    let mut keys: Vec<_> = ledger.lineages.keys().map(|(key, _)| *key).collect();
    keys.dedup();
    restored.retain(|key, _| keys.binary_search(key).is_ok());
    let newer = keys.into_iter().filter_map(|key| {
        let entry = ledger.lineage(key)?;
        let rank = (entry.leader_epoch, entry.end_offset);
        (restored.insert(key, rank) != Some(rank)).then(|| (key, lineage_of(entry)))
    });
    newer.collect()
}

/// What was noted of partitions.
#[derive(Debug, Default)]
struct Noted {
    /// Epochs as they were noted last.
    epochs: HashMap<PartitionKey, Vec<SourceEpoch>>,
    /// Copies that went on at the last look, and whose end was not noted.
    busy: HashMap<PartitionKey, LineageEntry>,
}

impl Noted {
    /// What is to be noted, of what was learned since the last look. New epochs are noted at once, a
    /// mere new end only when the copy rests: once then, not for each look at a busy topic.
    fn due(
        &mut self,
        learned: Vec<(PartitionKey, KnownLineage)>,
    ) -> Vec<(PartitionKey, LineageEntry)> {
        let rested = std::mem::take(&mut self.busy);
        let mut due = Vec::new();
        for (key, known) in learned {
            let entry = entry_of(&known);
            if entry.epochs.is_empty() {
                continue;
            }
            if self.epochs.get(&key) == Some(&entry.epochs) {
                self.busy.insert(key, entry);
            } else {
                self.epochs.insert(key, entry.epochs.clone());
                due.push((key, entry));
            }
        }
        due.extend(rested.into_iter().filter(|(key, _)| !self.busy.contains_key(key)));
        due
    }
}

fn lineage_of(entry: &LineageEntry) -> KnownLineage {
    let starts = entry.epochs.iter().map(|step| EpochStart {
        epoch: LeaderEpoch(step.epoch),
        start: Offset(step.start_offset),
    });
    let lineage = SourceLineage::new(starts, Offset(entry.end_offset));
    KnownLineage { leader_epoch: LeaderEpoch(entry.leader_epoch), lineage }
}

fn entry_of(known: &KnownLineage) -> LineageEntry {
    let epochs = known.lineage.starts().iter();
    let epochs = epochs.map(|s| SourceEpoch { epoch: s.epoch.0, start_offset: s.start.0 });
    LineageEntry {
        leader_epoch: known.leader_epoch.0,
        epochs: epochs.collect(),
        end_offset: known.lineage.end().0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{BrokerId, TopicId, Uuid};

    const KEY: PartitionKey = PartitionKey { topic: TopicId(Uuid::from_u128(1)), partition: 0 };

    fn entry(epochs: &[(i32, i64)], end_offset: i64) -> LineageEntry {
        let epochs = epochs.iter();
        let epochs = epochs.map(|&(epoch, start_offset)| SourceEpoch { epoch, start_offset });
        LineageEntry { leader_epoch: 4, epochs: epochs.collect(), end_offset }
    }

    #[test]
    fn a_busy_copy_is_noted_at_new_epochs_and_when_it_rests() {
        let mut noted = Noted::default();
        let looks = [
            (Some(entry(&[], 0)), None, "nothing is known"),
            (Some(entry(&[(3, 0)], 10)), Some(10), "its first epoch"),
            (Some(entry(&[(3, 0)], 20)), None, "busy"),
            (Some(entry(&[(3, 0)], 30)), None, "busy"),
            (None, Some(30), "at rest"),
            (None, None, "noted"),
            (Some(entry(&[(3, 0), (5, 30)], 40)), Some(40), "a new epoch"),
        ];
        for (learned, end, what) in looks {
            let learned = learned.iter().map(|entry| (KEY, lineage_of(entry)));
            let due = noted.due(learned.collect());
            assert_eq!(due.first().map(|(_, entry)| entry.end_offset), end, "{what}");
        }
    }

    #[test]
    fn what_is_noted_comes_back_as_it_was() {
        let entry = entry(&[(3, 0), (5, 30)], 40);
        assert_eq!(entry_of(&lineage_of(&entry)), entry);
    }

    #[test]
    fn what_other_seats_write_is_told_once() {
        let mut ledger = Ledger::default();
        let mut restored = HashMap::new();
        let mut tell = |ledger: &Ledger| {
            let told = newer(ledger, &mut restored).into_iter();
            told.map(|(_, known)| known.lineage.end().0).collect::<Vec<_>>()
        };
        assert_eq!(tell(&ledger), [0; 0]);
        ledger.lineages.insert((KEY, BrokerId(9001)), entry(&[(3, 0)], 10));
        assert_eq!((tell(&ledger), tell(&ledger)), (vec![10], vec![]));
        ledger.lineages.insert((KEY, BrokerId(9002)), entry(&[(3, 0)], 20));
        assert_eq!(tell(&ledger), [20]);
    }
}
