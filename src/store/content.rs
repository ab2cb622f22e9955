//! What the journal's topic was found to hold, and what of it has to be put right. Pure: records in,
//! a ledger and repairs out.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::committed::{Committed, Stored};
use crate::mirror::ledger::{self, Fact, Ledger, LedgerKey, Unreadable};
use crate::types::TopicId;
use crate::wire::records::NewRecord;

/// Broken records that are remembered to be overwritten; more are passed over.
const REPAIRS: usize = 1000;

/// What everybody may know of the journal.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct View {
    /// What it says.
    pub ledger: Ledger,
    /// How it is.
    pub state: JournalState,
}

/// How the journal is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum JournalState {
    /// It was not read to its end yet.
    #[default]
    Unread,
    /// All of it is known.
    Current,
    /// There is none: only in the simulation.
    Absent,
    /// It has entries of this newer schema: it is read as far as it is understood, and not written.
    Newer(u32),
}

/// What was read, and what was known before.
#[derive(Debug, Default)]
pub(super) struct Content {
    topic: Option<TopicId>,
    ledger: Ledger,
    is_read: bool,
    newest: Option<u32>,
    /// What a journal said that is gone.
    kept: Option<Ledger>,
    /// Keys whose present value is not ours.
    broken: BTreeMap<Vec<u8>, Option<LedgerKey>>,
    /// Broken records since they were told last.
    untold: usize,
}

impl Content {
    /// Whether it was read to its end and may be written.
    pub(super) fn may_be_written(&self) -> bool {
        self.is_read && self.newest.is_none()
    }

    /// The topic is gone, or begins anew: what it said still holds.
    pub(super) fn on_gone(&mut self) {
        if self.topic.take().is_none() {
            return;
        }
        let ledger = std::mem::take(&mut self.ledger);
        if ledger.journal.is_some() {
            self.kept = Some(ledger);
        }
        self.is_read = false;
        self.newest = None;
        self.broken.clear();
    }

    /// Takes in what was read of a topic.
    pub(super) fn on_read(&mut self, topic: TopicId, read: Committed) {
        if self.topic != Some(topic) {
            self.on_gone();
            self.topic = Some(topic);
        }
        self.untold += read.unreadable.len();
        for record in read.records {
            self.apply(record);
        }
        self.is_read |= read.next >= read.end;
        if self.is_read && self.ledger.journal.is_some() {
            self.kept = None;
        }
    }

    fn apply(&mut self, stored: Stored) {
        let key = stored.key.unwrap_or_default();
        match ledger::read(Some(&key), stored.value.as_deref()) {
            Ok(record) => {
                self.broken.remove(&key);
                self.ledger.apply(record);
            }
            Err(Unreadable::Newer(schema)) => self.newest = self.newest.max(Some(schema)),
            Err(Unreadable::Garbage(_)) => {
                // A tombstone says nothing that would have to be put right: it is what puts right.
                if stored.value.is_none() {
                    self.broken.remove(&key);
                    return;
                }
                self.untold += 1;
                if self.broken.len() < REPAIRS {
                    self.broken.insert(key.clone(), serde_json::from_slice(&key).ok());
                }
            }
        }
    }

    /// Broken records that nobody was told of yet.
    pub(super) fn take_untold(&mut self) -> usize {
        std::mem::take(&mut self.untold)
    }

    /// The newer schema that was found.
    pub(super) fn newest(&self) -> Option<u32> {
        self.newest
    }

    /// Whether no journal was begun in this topic.
    pub(super) fn is_new(&self) -> bool {
        self.ledger.journal.is_none()
    }

    /// What the present topic says.
    pub(super) fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// What the journal said before it was lost, where it was.
    pub(super) fn kept(&self) -> Option<&Ledger> {
        self.kept.as_ref()
    }

    /// For everybody.
    pub(super) fn view(&self) -> Arc<View> {
        let state = match (self.is_read, self.newest) {
            (_, Some(schema)) => JournalState::Newer(schema),
            (true, None) => JournalState::Current,
            (false, None) => JournalState::Unread,
        };
        let ledger = self.kept.as_ref().unwrap_or(&self.ledger);
        Arc::new(View { ledger: ledger.clone(), state })
    }

    /// What has to be written so that the topic says what we know: all of a journal that is gone, and
    /// for broken records what they replaced, or nothing.
    pub(super) fn repairs(&self) -> Vec<NewRecord> {
        let lost = self.kept.iter().flat_map(Ledger::facts);
        let lost = lost.filter(|fact| !matches!(fact, Fact::Journal(_)));
        let mut records: Vec<_> = lost.map(|fact| record(&fact)).collect();
        for (bytes, key) in &self.broken {
            let known = key.as_ref().and_then(|key| self.ledger.fact(key));
            records.push(match known {
                Some(fact) => NewRecord { key: Some(bytes.clone()), value: Some(fact.value()) },
                None => NewRecord { key: Some(bytes.clone()), value: None },
            });
        }
        records
    }
}

/// A fact as it is written.
pub(super) fn record(fact: &Fact) -> NewRecord {
    NewRecord { key: Some(fact.key().bytes()), value: Some(fact.value()) }
}

/// "Nothing is known of this any more" as it is written.
pub(super) fn tombstone(key: &LedgerKey) -> NewRecord {
    NewRecord { key: Some(key.bytes()), value: None }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mirror::ledger::{JournalEntry, LinkEntry};
    use crate::types::{Offset, Uuid};

    fn topic(number: u128) -> TopicId {
        TopicId(Uuid::from_u128(number))
    }

    fn journal() -> Fact {
        Fact::Journal(JournalEntry { cluster_id: "d".to_owned(), since: 1 })
    }

    fn link(id: &str) -> Fact {
        let entry = LinkEntry { source_cluster_id: id.to_owned(), since: 2 };
        Fact::Link("east".to_owned(), entry)
    }

    fn read(records: Vec<NewRecord>) -> Committed {
        let next = Offset(records.len() as i64);
        let stored = (0..).zip(records).map(|(offset, record)| Stored {
            offset: Offset(offset),
            key: record.key,
            value: record.value,
        });
        Committed { records: stored.collect(), unreadable: Vec::new(), next, end: next }
    }

    fn garbage(key: &[u8]) -> NewRecord {
        NewRecord { key: Some(key.to_vec()), value: Some(b"nonsense".to_vec()) }
    }

    #[test]
    fn a_journal_that_is_gone_still_holds_until_it_is_written_anew() {
        let mut content = Content::default();
        content.on_read(topic(1), read(vec![record(&journal()), record(&link("s"))]));
        let before = content.view();
        assert_eq!(before.state, JournalState::Current);
        assert!(content.repairs().is_empty());

        content.on_gone();
        assert_eq!((&content.view().ledger, content.may_be_written()), (&before.ledger, false));
        content.on_read(topic(2), read(Vec::new()));
        assert_eq!(content.view().ledger, before.ledger);
        assert_eq!(content.repairs(), [record(&link("s"))]);
        assert!(content.may_be_written() && content.is_new());

        content.on_read(topic(2), read(vec![record(&link("s")), record(&journal())]));
        assert!(content.kept().is_none() && content.repairs().is_empty());
        assert_eq!(content.view().ledger, before.ledger);
    }

    #[test]
    fn garbage_is_replaced_by_what_it_replaced() {
        let mut content = Content::default();
        let key = link("s").key().bytes();
        content.on_read(
            topic(1),
            read(vec![record(&journal()), record(&link("s")), garbage(&key), garbage(b"x")]),
        );
        assert_eq!(content.take_untold(), 2);
        assert_eq!(content.take_untold(), 0);
        let repairs = content.repairs();
        assert_eq!(repairs.len(), 2);
        assert!(repairs.contains(&record(&link("s"))), "{repairs:?}");
        assert!(repairs.contains(&NewRecord { key: Some(b"x".to_vec()), value: None }));
        content.on_read(topic(1), read(repairs));
        assert!(content.repairs().is_empty());
    }

    #[test]
    fn a_newer_schema_keeps_us_from_writing() {
        let mut content = Content::default();
        let newer = NewRecord {
            key: Some(b"{\"kind\":\"quota\"}".to_vec()),
            value: Some(b"{\"schema\":9}".to_vec()),
        };
        content.on_read(topic(1), read(vec![record(&journal()), record(&link("s")), newer]));
        assert_eq!(content.view().state, JournalState::Newer(9));
        assert!(!content.may_be_written());
        assert_eq!(content.view().ledger.links.len(), 1, "what is understood is used");
    }
}
