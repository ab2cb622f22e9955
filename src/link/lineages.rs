//! Keeps what is known of the source's epochs between the lives of a daemon: gives the leader task what
//! the journal has, and notes down what the leader task learns. A journal that lags is no evidence
//! against a copy, so nothing waits for it.

use std::collections::HashMap;
use std::time::Duration;

use crate::mirror::ledger::{LineageEntry, Note, SourceEpoch};
use crate::mirror::lineage::{EpochStart, SourceLineage};
use crate::seat::leader::LeaderHandle;
use crate::store::{JournalHandle, JournalState};
use crate::tail::notes::Notes;
use crate::types::{LeaderEpoch, Offset, PartitionKey};

/// Between looks at what was learned.
const INTERVAL: Duration = Duration::from_secs(10);

/// Runs until it is dropped.
pub async fn keep(leader: LeaderHandle, journal: JournalHandle, notes: Notes) {
    let mut view = journal.view();
    let read = view.wait_for(|view| view.state != JournalState::Unread).await;
    // The journal ends only with the daemon.
    let Ok(known) = read.map(|view| view.ledger.lineages.clone()) else {
        return std::future::pending().await;
    };
    let restored = known.iter().map(|(key, entry)| (*key, lineage_of(entry)));
    leader.restore_lineages(restored.collect()).await;
    let mut noted: HashMap<PartitionKey, Noted> = HashMap::new();
    loop {
        tokio::time::sleep(INTERVAL).await;
        for (key, lineage) in leader.lineages().await {
            let entry = entry_of(&lineage);
            let before = noted.entry(key).or_default();
            if before.is_due(&entry) {
                notes.note(Note::Lineage(key, entry));
            }
        }
    }
}

/// What was noted of one partition, and what was seen last.
#[derive(Debug, Default)]
struct Noted {
    noted: LineageEntry,
    seen_end: i64,
}

impl Noted {
    /// New epochs are noted at once, a mere new end only when the copy rests: it is written once then,
    /// not for each look at a busy topic.
    fn is_due(&mut self, entry: &LineageEntry) -> bool {
        let rests = self.seen_end == entry.end_offset && self.noted.end_offset != entry.end_offset;
        self.seen_end = entry.end_offset;
        let is_due = !entry.epochs.is_empty() && (self.noted.epochs != entry.epochs || rests);
        if is_due {
            self.noted = entry.clone();
        }
        is_due
    }
}

fn lineage_of(entry: &LineageEntry) -> SourceLineage {
    let starts = entry.epochs.iter().map(|step| EpochStart {
        epoch: LeaderEpoch(step.epoch),
        start: Offset(step.start_offset),
    });
    SourceLineage::new(starts, Offset(entry.end_offset))
}

fn entry_of(lineage: &SourceLineage) -> LineageEntry {
    let epochs = lineage.starts().iter();
    let epochs = epochs.map(|s| SourceEpoch { epoch: s.epoch.0, start_offset: s.start.0 });
    LineageEntry { epochs: epochs.collect(), end_offset: lineage.end().0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(epochs: &[(i32, i64)], end_offset: i64) -> LineageEntry {
        let epochs = epochs.iter();
        let epochs = epochs.map(|&(epoch, start_offset)| SourceEpoch { epoch, start_offset });
        LineageEntry { epochs: epochs.collect(), end_offset }
    }

    #[test]
    fn a_busy_copy_is_noted_at_new_epochs_and_when_it_rests() {
        let mut noted = Noted::default();
        let looks = [
            (entry(&[], 0), false, "nothing is known"),
            (entry(&[(3, 0)], 10), true, "its first epoch"),
            (entry(&[(3, 0)], 20), false, "busy"),
            (entry(&[(3, 0)], 30), false, "busy"),
            (entry(&[(3, 0)], 30), true, "at rest"),
            (entry(&[(3, 0)], 30), false, "noted"),
            (entry(&[(3, 0), (5, 30)], 40), true, "a new epoch"),
        ];
        for (entry, is_due, what) in looks {
            assert_eq!(noted.is_due(&entry), is_due, "{what}");
        }
    }

    #[test]
    fn what_is_noted_comes_back_as_it_was() {
        let entry = entry(&[(3, 0), (5, 30)], 40);
        assert_eq!(entry_of(&lineage_of(&entry)), entry);
    }
}
