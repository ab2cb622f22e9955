//! What the journal holds: durable facts of links and mirrors, and their form. Keys and values are
//! JSON, readable with the console consumer. Reads and applies records; asks nobody, writes nowhere.
//!
//! A key never changes its form: a value under another form of the same key would not replace it.
//! Values say their schema. Of a schema that is newer than ours nothing is believed and nothing may
//! be overwritten; fields that we do not know within our schema are left out of account.

use std::collections::BTreeMap;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::report::Reason;
use super::topic::MirrorState;
use crate::types::{PartitionKey, TopicId};

/// Version of the values' form.
pub const LEDGER_SCHEMA: u32 = 1;

/// What an entry is about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum LedgerKey {
    /// The journal itself.
    Journal,
    /// A link, by its name.
    Link {
        /// Its name.
        link: String,
    },
    /// A mirror, by its topic id at the destination.
    Mirror {
        /// The id.
        topic_id: TopicId,
    },
    /// The source epochs of what a mirror partition holds.
    Lineage {
        /// The mirror's topic id at the destination.
        topic_id: TopicId,
        /// The partition.
        partition: i32,
    },
    /// Something that an operator asked for.
    Operation {
        /// Its id.
        id: String,
    },
}

impl From<PartitionKey> for LedgerKey {
    /// The lineage of a mirror partition.
    fn from(key: PartitionKey) -> Self {
        Self::Lineage { topic_id: key.topic, partition: key.partition }
    }
}

/// The journal itself: tells a journal that was begun from a topic that is merely empty.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JournalEntry {
    /// The destination's cluster id.
    pub cluster_id: String,
    /// When it was begun, in milliseconds since 1970.
    pub since: i64,
}

/// A link: a cluster is its id, not its address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkEntry {
    /// The source's cluster id, of the first contact.
    pub source_cluster_id: String,
    /// When it was pinned, in milliseconds since 1970.
    pub since: i64,
}

/// A mirror: a topic is its id, not its name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MirrorEntry {
    /// The link that feeds it.
    pub link: String,
    /// Its name at the destination.
    pub topic: String,
    /// Its name at the source.
    pub source_topic: String,
    /// Its id at the source, which it began with; the nil id where the source has none.
    pub source_topic_id: TopicId,
    /// How it is.
    pub state: MirrorState,
    /// Why; `None` where the state says it all.
    pub reason: Option<Reason>,
    /// Since when, in milliseconds since 1970.
    pub since: i64,
    /// The source's values that the lock replaced: promotion sets them.
    #[serde(default)]
    pub restore: BTreeMap<String, String>,
}

/// The source epochs of what a mirror partition holds: what the source's OffsetForLeaderEpoch is
/// compared with.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LineageEntry {
    /// In the order of their offsets; each ends where the next begins.
    pub epochs: Vec<SourceEpoch>,
    /// End of what was known to be of the last of them when this was written: what follows may be of
    /// later epochs that had not been written yet.
    pub end_offset: i64,
}

/// A leader epoch of the source.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceEpoch {
    /// The epoch.
    pub epoch: i32,
    /// First offset of the copy that is of it.
    pub start_offset: i64,
}

/// What an operator can ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OperationKind {
    /// Let failed partitions go on as the source is now, and give up what stands against it.
    ResumeFailed,
}

/// How far an operation has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum OperationState {
    /// Durable, and being carried out.
    Running,
    /// Carried out.
    Done,
    /// Given up; the partitions say why.
    Failed,
}

/// Something that an operator asked for: his word with what was found then. What is different later
/// is not covered by it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OperationEntry {
    /// What.
    pub operation: OperationKind,
    /// For which link.
    pub link: String,
    /// How far it has come.
    pub state: OperationState,
    /// When it was asked for, in milliseconds since 1970.
    pub requested: i64,
    /// When its state changed last, in milliseconds since 1970.
    pub since: i64,
    /// What it is about.
    pub partitions: Vec<OperationPartition>,
}

/// One partition of an operation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OperationPartition {
    /// The mirror's name at the destination.
    pub topic: String,
    /// Its id there.
    pub topic_id: TopicId,
    /// The partition.
    pub partition: i32,
    /// Why it had failed when the operator said his word.
    pub reason: Option<Reason>,
    /// End of the copy then.
    pub offset: Option<i64>,
    /// Where the source's log stood against it then.
    pub source_offset: Option<i64>,
    /// What became of it; `None` while it is not carried out.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub outcome: Option<String>,
}

/// One fact: key and value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fact {
    /// The journal itself.
    Journal(JournalEntry),
    /// A link.
    Link(String, LinkEntry),
    /// A mirror.
    Mirror(TopicId, MirrorEntry),
    /// The source epochs of a mirror partition.
    Lineage(PartitionKey, LineageEntry),
    /// Something that an operator asked for.
    Operation(String, OperationEntry),
}

impl Fact {
    /// What it is about.
    pub fn key(&self) -> LedgerKey {
        match self {
            Self::Journal(_) => LedgerKey::Journal,
            Self::Link(link, _) => LedgerKey::Link { link: link.clone() },
            Self::Mirror(topic_id, _) => LedgerKey::Mirror { topic_id: *topic_id },
            Self::Lineage(key, _) => LedgerKey::from(*key),
            Self::Operation(id, _) => LedgerKey::Operation { id: id.clone() },
        }
    }

    /// The record's value.
    pub fn value(&self) -> Vec<u8> {
        match self {
            Self::Journal(entry) => value(entry),
            Self::Link(_, entry) => value(entry),
            Self::Mirror(_, entry) => value(entry),
            Self::Lineage(_, entry) => value(entry),
            Self::Operation(_, entry) => value(entry),
        }
    }
}

impl LedgerKey {
    /// The record's key.
    pub fn bytes(&self) -> Vec<u8> {
        // Maps with text keys always become JSON.
        serde_json::to_vec(self).unwrap_or_default()
    }
}

#[derive(Serialize)]
struct ValueForm<'a, Entry> {
    schema: u32,
    #[serde(flatten)]
    entry: &'a Entry,
}

fn value<Entry: Serialize>(entry: &Entry) -> Vec<u8> {
    serde_json::to_vec(&ValueForm { schema: LEDGER_SCHEMA, entry }).unwrap_or_default()
}

/// Something that was observed and is to be durable soon: nothing waits for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Note {
    /// The source epochs of what a mirror partition holds.
    Lineage(PartitionKey, LineageEntry),
    /// How a mirror is.
    State {
        /// Its topic id at the destination.
        topic_id: TopicId,
        /// How it is.
        state: MirrorState,
        /// Why.
        reason: Option<Reason>,
        /// Since when, in milliseconds since 1970.
        since: i64,
    },
    /// The source's values that the lock replaced.
    Restore {
        /// The mirror's topic id at the destination.
        topic_id: TopicId,
        /// By config key.
        restore: BTreeMap<String, String>,
    },
}

impl Note {
    /// Notes of one kind about one thing replace each other.
    pub fn slot(&self) -> (u8, PartitionKey) {
        let whole = |topic| PartitionKey { topic, partition: -1 };
        match self {
            Self::Lineage(key, _) => (0, *key),
            Self::State { topic_id, .. } => (1, whole(*topic_id)),
            Self::Restore { topic_id, .. } => (2, whole(*topic_id)),
        }
    }
}

/// What a record of the journal says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record {
    /// This holds from now on.
    Fact(Fact),
    /// Nothing is known of this any more.
    Removed(LedgerKey),
}

/// Why a record is not understood.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unreadable {
    /// Of a newer version of lockstep: it must not be overwritten.
    #[error("its schema is {0}, this version knows up to {LEDGER_SCHEMA}")]
    Newer(u32),
    /// Nothing that lockstep wrote.
    #[error("it is no entry of the journal: {0}")]
    Garbage(String),
}

#[derive(Deserialize)]
struct SchemaOnly {
    schema: u32,
}

/// Reads one record; no value is a tombstone.
pub fn read(key: Option<&[u8]>, value: Option<&[u8]>) -> Result<Record, Unreadable> {
    // Another kind of key is a newer version's if its value says so, and garbage if not.
    let schema = value.map(parse::<SchemaOnly>).transpose();
    if let Ok(Some(SchemaOnly { schema })) = schema
        && schema > LEDGER_SCHEMA
    {
        return Err(Unreadable::Newer(schema));
    }
    let key: LedgerKey = parse(key.unwrap_or_default())?;
    schema?;
    let Some(value) = value else { return Ok(Record::Removed(key)) };
    Ok(Record::Fact(match key {
        LedgerKey::Journal => Fact::Journal(parse(value)?),
        LedgerKey::Link { link } => Fact::Link(link, parse(value)?),
        LedgerKey::Mirror { topic_id } => Fact::Mirror(topic_id, parse(value)?),
        LedgerKey::Lineage { topic_id, partition } => {
            Fact::Lineage(PartitionKey { topic: topic_id, partition }, parse(value)?)
        }
        LedgerKey::Operation { id } => Fact::Operation(id, parse(value)?),
    }))
}

fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Unreadable> {
    serde_json::from_slice(bytes).map_err(|error| Unreadable::Garbage(error.to_string()))
}

/// All that the journal says: its records, applied one after the other.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ledger {
    /// The journal itself; `None` where it was never begun.
    pub journal: Option<JournalEntry>,
    /// Links by name.
    pub links: BTreeMap<String, LinkEntry>,
    /// Mirrors by their topic ids at the destination.
    pub mirrors: BTreeMap<TopicId, MirrorEntry>,
    /// Source epochs by mirror partition.
    pub lineages: BTreeMap<PartitionKey, LineageEntry>,
    /// Operations by id.
    pub operations: BTreeMap<String, OperationEntry>,
}

impl Ledger {
    /// Takes one record in.
    pub fn apply(&mut self, record: Record) {
        match record {
            Record::Fact(Fact::Journal(entry)) => self.journal = Some(entry),
            Record::Fact(Fact::Link(link, entry)) => {
                self.links.insert(link, entry);
            }
            Record::Fact(Fact::Mirror(id, entry)) => {
                self.mirrors.insert(id, entry);
            }
            Record::Fact(Fact::Lineage(key, entry)) => {
                self.lineages.insert(key, entry);
            }
            Record::Fact(Fact::Operation(id, entry)) => {
                self.operations.insert(id, entry);
            }
            Record::Removed(LedgerKey::Journal) => self.journal = None,
            Record::Removed(LedgerKey::Link { link }) => {
                self.links.remove(&link);
            }
            Record::Removed(LedgerKey::Mirror { topic_id }) => {
                self.mirrors.remove(&topic_id);
            }
            Record::Removed(LedgerKey::Lineage { topic_id, partition }) => {
                self.lineages.remove(&PartitionKey { topic: topic_id, partition });
            }
            Record::Removed(LedgerKey::Operation { id }) => {
                self.operations.remove(&id);
            }
        }
    }

    /// What it says of one thing.
    pub fn fact(&self, key: &LedgerKey) -> Option<Fact> {
        match key {
            LedgerKey::Journal => self.journal.clone().map(Fact::Journal),
            LedgerKey::Link { link } => {
                self.links.get(link).map(|entry| Fact::Link(link.clone(), entry.clone()))
            }
            LedgerKey::Mirror { topic_id } => {
                self.mirrors.get(topic_id).map(|entry| Fact::Mirror(*topic_id, entry.clone()))
            }
            LedgerKey::Lineage { topic_id, partition } => {
                let key = PartitionKey { topic: *topic_id, partition: *partition };
                self.lineages.get(&key).map(|entry| Fact::Lineage(key, entry.clone()))
            }
            LedgerKey::Operation { id } => {
                self.operations.get(id).map(|entry| Fact::Operation(id.clone(), entry.clone()))
            }
        }
    }

    /// Whether it says just this.
    pub fn says(&self, fact: &Fact) -> bool {
        self.fact(&fact.key()).as_ref() == Some(fact)
    }

    /// What a note changes; `None` where it is known already, or is about a mirror that is not.
    pub fn noted(&self, note: &Note) -> Option<Fact> {
        let fact = match note {
            Note::Lineage(key, entry) => Fact::Lineage(*key, entry.clone()),
            Note::State { topic_id, state, reason, since } => {
                let mut entry = self.mirrors.get(topic_id)?.clone();
                if (entry.state, entry.reason) == (*state, *reason) {
                    return None;
                }
                (entry.state, entry.reason, entry.since) = (*state, *reason, *since);
                Fact::Mirror(*topic_id, entry)
            }
            Note::Restore { topic_id, restore } => {
                let mut entry = self.mirrors.get(topic_id)?.clone();
                entry.restore.clone_from(restore);
                Fact::Mirror(*topic_id, entry)
            }
        };
        (!self.says(&fact)).then_some(fact)
    }

    /// Whether what a note is about is known here, so that the note can be settled.
    pub fn knows(&self, note: &Note) -> bool {
        match note {
            Note::Lineage(..) => true,
            Note::State { topic_id, .. } | Note::Restore { topic_id, .. } => {
                self.mirrors.contains_key(topic_id)
            }
        }
    }

    /// All of it as facts, to write it anew; the journal's own first.
    pub fn facts(&self) -> Vec<Fact> {
        let mut facts: Vec<Fact> = self.journal.iter().cloned().map(Fact::Journal).collect();
        facts.extend(self.links.iter().map(|(link, e)| Fact::Link(link.clone(), e.clone())));
        facts.extend(self.mirrors.iter().map(|(id, entry)| Fact::Mirror(*id, entry.clone())));
        facts.extend(self.lineages.iter().map(|(key, e)| Fact::Lineage(*key, e.clone())));
        let operations = self.operations.iter();
        facts.extend(operations.map(|(id, entry)| Fact::Operation(id.clone(), entry.clone())));
        facts
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::Uuid;

    fn mirror() -> MirrorEntry {
        MirrorEntry {
            link: "east".to_owned(),
            topic: "east.orders".to_owned(),
            source_topic: "orders".to_owned(),
            source_topic_id: TopicId(Uuid::from_u128(7)),
            state: MirrorState::Failed,
            reason: Some(Reason::SourceTopicIdChanged),
            since: 17,
            restore: BTreeMap::from([("retention.ms".to_owned(), "5".to_owned())]),
        }
    }

    fn all() -> Vec<Fact> {
        let (id, key) = (TopicId(Uuid::from_u128(9)), "east".to_owned());
        let partition = PartitionKey { topic: id, partition: 3 };
        let epochs = vec![SourceEpoch { epoch: 4, start_offset: 0 }];
        let given_up = OperationPartition {
            topic: "east.orders".to_owned(),
            topic_id: id,
            partition: 3,
            reason: Some(Reason::SourceTruncated),
            offset: Some(20),
            source_offset: Some(10),
            outcome: None,
        };
        vec![
            Fact::Journal(JournalEntry { cluster_id: "d".to_owned(), since: 1 }),
            Fact::Link(key.clone(), LinkEntry { source_cluster_id: "s".to_owned(), since: 2 }),
            Fact::Mirror(id, mirror()),
            Fact::Lineage(partition, LineageEntry { epochs, end_offset: 20 }),
            Fact::Operation(
                "7".to_owned(),
                OperationEntry {
                    operation: OperationKind::ResumeFailed,
                    link: key,
                    state: OperationState::Running,
                    requested: 3,
                    since: 3,
                    partitions: vec![given_up],
                },
            ),
        ]
    }

    fn text(bytes: &[u8]) -> String {
        String::from_utf8(bytes.to_vec()).unwrap()
    }

    #[test]
    fn keys_and_values_are_json_for_people() {
        let lines: Vec<_> = all()
            .iter()
            .map(|fact| format!("{} {}", text(&fact.key().bytes()), text(&fact.value())))
            .collect();
        let expected = "\
{\"kind\":\"journal\"} {\"schema\":1,\"cluster_id\":\"d\",\"since\":1}
{\"kind\":\"link\",\"link\":\"east\"} {\"schema\":1,\"source_cluster_id\":\"s\",\"since\":2}
{\"kind\":\"mirror\",\"topic_id\":\"00000000-0000-0000-0000-000000000009\"} {\"schema\":1,\"link\":\"east\",\"topic\":\"east.orders\",\"source_topic\":\"orders\",\"source_topic_id\":\"00000000-0000-0000-0000-000000000007\",\"state\":\"Failed\",\"reason\":\"SOURCE_TOPIC_ID_CHANGED\",\"since\":17,\"restore\":{\"retention.ms\":\"5\"}}
{\"kind\":\"lineage\",\"topic_id\":\"00000000-0000-0000-0000-000000000009\",\"partition\":3} {\"schema\":1,\"epochs\":[{\"epoch\":4,\"start_offset\":0}],\"end_offset\":20}
{\"kind\":\"operation\",\"id\":\"7\"} {\"schema\":1,\"operation\":\"resume-failed\",\"link\":\"east\",\"state\":\"Running\",\"requested\":3,\"since\":3,\"partitions\":[{\"topic\":\"east.orders\",\"topic_id\":\"00000000-0000-0000-0000-000000000009\",\"partition\":3,\"reason\":\"SOURCE_TRUNCATED\",\"offset\":20,\"source_offset\":10}]}";
        assert_eq!(lines.join("\n"), expected);
    }

    #[test]
    fn what_is_written_is_read_and_written_anew_the_same() {
        let mut ledger = Ledger::default();
        for fact in all() {
            let record = read(Some(&fact.key().bytes()), Some(&fact.value())).unwrap();
            assert_eq!(record, Record::Fact(fact));
            ledger.apply(record);
        }
        assert_eq!(ledger.facts(), all());
        for fact in all() {
            ledger.apply(read(Some(&fact.key().bytes()), None).unwrap());
        }
        assert_eq!(ledger, Ledger::default());
    }

    #[test]
    fn a_newer_schema_is_told_from_garbage() {
        let key = b"{\"kind\":\"link\",\"link\":\"east\"}".as_slice();
        let new_kind = b"{\"kind\":\"quota\"}".as_slice();
        let newer = b"{\"schema\":2,\"strange\":true}".as_slice();
        assert_eq!(read(Some(key), Some(newer)), Err(Unreadable::Newer(2)));
        assert_eq!(read(Some(new_kind), Some(newer)), Err(Unreadable::Newer(2)));
        for (key, value) in [
            (Some(key), Some(b"{\"schema\":1}".as_slice())),
            (Some(key), Some(b"\x00\xff".as_slice())),
            (Some(key), Some(b"{}".as_slice())),
            (Some(b"east".as_slice()), Some(b"{\"schema\":1}".as_slice())),
            (Some(new_kind), Some(b"{\"schema\":1}".as_slice())),
            (Some(new_kind), None),
            (None, Some(b"{\"schema\":1}".as_slice())),
            (None, None),
        ] {
            assert!(matches!(read(key, value), Err(Unreadable::Garbage(_))), "{key:?} {value:?}");
        }
    }

    #[test]
    fn fields_of_our_schema_that_we_do_not_know_do_no_harm() {
        let key = b"{\"kind\":\"link\",\"link\":\"east\"}".as_slice();
        let value =
            b"{\"schema\":1,\"source_cluster_id\":\"s\",\"since\":2,\"more\":[1]}".as_slice();
        let entry = LinkEntry { source_cluster_id: "s".to_owned(), since: 2 };
        let fact = Fact::Link("east".to_owned(), entry);
        assert_eq!(read(Some(key), Some(value)), Ok(Record::Fact(fact)));
    }
}
