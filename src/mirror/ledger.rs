//! What the journal holds: durable facts of links and mirrors, and their form. Keys and values are
//! JSON, readable with the console consumer. Reads and applies records; asks nobody, writes nowhere.
//!
//! A key never changes its form: a value under another form of the same key would not replace it.
//! Values say their schema. Of a schema that is newer than ours nothing is believed and nothing may
//! be overwritten; fields that we do not know within our schema are left out of account.

mod entries;

use std::collections::BTreeMap;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

pub use self::entries::{
    FailedPartition, JournalEntry, LineageEntry, LinkEntry, MirrorEntry, OperationEntry,
    OperationKind, OperationPartition, OperationState, SourceEpoch, StandingEntry,
};
use super::report::Reason;
use crate::types::{BrokerId, PartitionKey, TopicId};

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
    /// The source epochs of what a mirror partition holds, as one seat learned them.
    Lineage {
        /// The mirror's topic id at the destination.
        topic_id: TopicId,
        /// The partition.
        partition: i32,
        /// The seat, which alone writes it.
        seat: BrokerId,
    },
    /// How a mirror is with one seat.
    Standing {
        /// The mirror's topic id at the destination.
        topic_id: TopicId,
        /// The seat, which alone writes it.
        seat: BrokerId,
    },
    /// Something that an operator asked for.
    Operation {
        /// Its id.
        id: String,
    },
}

impl LedgerKey {
    /// The lineage of a mirror partition, as a seat learned it.
    pub fn lineage(key: PartitionKey, seat: BrokerId) -> Self {
        Self::Lineage { topic_id: key.topic, partition: key.partition, seat }
    }

    /// The seat that writes it; `None`: the journal's owner does.
    pub fn seat(&self) -> Option<BrokerId> {
        match self {
            Self::Lineage { seat, .. } | Self::Standing { seat, .. } => Some(*seat),
            _ => None,
        }
    }
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
    /// The source epochs of a mirror partition, as a seat learned them.
    Lineage(PartitionKey, BrokerId, LineageEntry),
    /// How a mirror is with a seat.
    Standing(TopicId, BrokerId, StandingEntry),
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
            Self::Lineage(key, seat, _) => LedgerKey::lineage(*key, *seat),
            Self::Standing(topic_id, seat, _) => {
                LedgerKey::Standing { topic_id: *topic_id, seat: *seat }
            }
            Self::Operation(id, _) => LedgerKey::Operation { id: id.clone() },
        }
    }

    /// The record's value.
    pub fn value(&self) -> Vec<u8> {
        match self {
            Self::Journal(entry) => value(entry),
            Self::Link(_, entry) => value(entry),
            Self::Mirror(_, entry) => value(entry),
            Self::Lineage(_, _, entry) => value(entry),
            Self::Standing(_, _, entry) => value(entry),
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
    /// How a mirror, by its topic id at the destination, is with us.
    Standing(TopicId, StandingEntry),
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
            Self::Standing(topic_id, _) => (1, whole(*topic_id)),
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
        LedgerKey::Lineage { topic_id, partition, seat } => {
            Fact::Lineage(PartitionKey { topic: topic_id, partition }, seat, parse(value)?)
        }
        LedgerKey::Standing { topic_id, seat } => Fact::Standing(topic_id, seat, parse(value)?),
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
    /// Source epochs by mirror partition and seat.
    pub lineages: BTreeMap<(PartitionKey, BrokerId), LineageEntry>,
    /// How mirrors are, by their topic ids and seat.
    pub standings: BTreeMap<(TopicId, BrokerId), StandingEntry>,
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
            Record::Fact(Fact::Lineage(key, seat, entry)) => {
                self.lineages.insert((key, seat), entry);
            }
            Record::Fact(Fact::Standing(id, seat, entry)) => {
                self.standings.insert((id, seat), entry);
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
            Record::Removed(LedgerKey::Lineage { topic_id, partition, seat }) => {
                self.lineages.remove(&(PartitionKey { topic: topic_id, partition }, seat));
            }
            Record::Removed(LedgerKey::Standing { topic_id, seat }) => {
                self.standings.remove(&(topic_id, seat));
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
            LedgerKey::Lineage { topic_id, partition, seat } => {
                let key = PartitionKey { topic: *topic_id, partition: *partition };
                let entry = self.lineages.get(&(key, *seat))?;
                Some(Fact::Lineage(key, *seat, entry.clone()))
            }
            LedgerKey::Standing { topic_id, seat } => {
                let entry = self.standings.get(&(*topic_id, *seat))?;
                Some(Fact::Standing(*topic_id, *seat, entry.clone()))
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

    /// What several seats say of a partition's source epochs: what was learned last counts.
    pub fn lineage(&self, key: PartitionKey) -> Option<&LineageEntry> {
        let seats = (key, BrokerId(i32::MIN))..=(key, BrokerId(i32::MAX));
        let all = self.lineages.range(seats).map(|(_, entry)| entry);
        all.max_by_key(|entry| (entry.leader_epoch, entry.end_offset))
    }

    /// What some seat found against a partition that nobody has read on since: copy and source are of
    /// two lineages.
    pub fn against(&self, key: PartitionKey) -> Option<FailedPartition> {
        let seats = (key.topic, BrokerId(i32::MIN))..=(key.topic, BrokerId(i32::MAX));
        let failed = self.standings.range(seats).flat_map(|(_, standing)| &standing.failed);
        let is_against = |failed: &&FailedPartition| {
            let reasons = [Some(Reason::SourceTruncated), Some(Reason::SourceTopicIdChanged)];
            failed.partition == key.partition && reasons.contains(&failed.reason)
        };
        let newest = failed.filter(is_against).max_by_key(|failed| failed.leader_epoch)?;
        let read_in = self.lineage(key).map(|entry| entry.leader_epoch);
        read_in.is_none_or(|epoch| epoch <= newest.leader_epoch).then_some(*newest)
    }

    /// What a note of the owner changes; `None` where it is known already, or is about a mirror that is
    /// not.
    pub fn noted(&self, note: &Note) -> Option<Fact> {
        let fact = match note {
            Note::Lineage(..) => return None,
            Note::Standing(topic_id, StandingEntry { state, reason, since, .. }) => {
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
            Note::Standing(topic_id, _) | Note::Restore { topic_id, .. } => {
                self.mirrors.contains_key(topic_id)
            }
        }
    }

    /// All of it as facts, to write it anew; the journal's own first.
    pub fn facts(&self) -> Vec<Fact> {
        let mut facts: Vec<Fact> = self.journal.iter().cloned().map(Fact::Journal).collect();
        facts.extend(self.links.iter().map(|(link, e)| Fact::Link(link.clone(), e.clone())));
        facts.extend(self.mirrors.iter().map(|(id, entry)| Fact::Mirror(*id, entry.clone())));
        let lineages = self.lineages.iter();
        facts.extend(lineages.map(|((key, seat), e)| Fact::Lineage(*key, *seat, e.clone())));
        let standings = self.standings.iter();
        facts.extend(standings.map(|((id, seat), e)| Fact::Standing(*id, *seat, e.clone())));
        let operations = self.operations.iter();
        facts.extend(operations.map(|(id, entry)| Fact::Operation(id.clone(), entry.clone())));
        facts
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mirror::topic::MirrorState;
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

    fn standing(leader_epoch: i32) -> StandingEntry {
        let reason = Some(Reason::SourceTruncated);
        let (offset, source_offset) = (Some(20), Some(10));
        let failed =
            vec![FailedPartition { partition: 3, leader_epoch, reason, offset, source_offset }];
        StandingEntry { state: MirrorState::Failed, reason, since: 17, failed }
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
            Fact::Lineage(
                partition,
                BrokerId(9001),
                LineageEntry { leader_epoch: 5, epochs, end_offset: 20 },
            ),
            Fact::Standing(id, BrokerId(9001), standing(5)),
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
{\"kind\":\"lineage\",\"topic_id\":\"00000000-0000-0000-0000-000000000009\",\"partition\":3,\"seat\":9001} {\"schema\":1,\"leader_epoch\":5,\"epochs\":[{\"epoch\":4,\"start_offset\":0}],\"end_offset\":20}
{\"kind\":\"standing\",\"topic_id\":\"00000000-0000-0000-0000-000000000009\",\"seat\":9001} {\"schema\":1,\"state\":\"Failed\",\"reason\":\"SOURCE_TRUNCATED\",\"since\":17,\"failed\":[{\"partition\":3,\"leader_epoch\":5,\"reason\":\"SOURCE_TRUNCATED\",\"offset\":20,\"source_offset\":10}]}
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
    fn of_what_several_seats_say_the_newest_leader_epoch_counts() {
        let key = PartitionKey { topic: TopicId(Uuid::from_u128(9)), partition: 3 };
        let entry = |leader_epoch, end_offset| LineageEntry {
            leader_epoch,
            epochs: Vec::new(),
            end_offset,
        };
        let mut ledger = Ledger::default();
        assert_eq!((ledger.lineage(key), ledger.against(key)), (None, None));
        // The younger one was written first, and the other is of a seat that is long dead.
        for (seat, leader_epoch, end) in [(9002, 7, 50), (9001, 5, 90)] {
            let fact = Fact::Lineage(key, BrokerId(seat), entry(leader_epoch, end));
            ledger.apply(Record::Fact(fact));
        }
        assert_eq!(ledger.lineage(key), Some(&entry(7, 50)));
        let standing =
            |leader_epoch| Fact::Standing(key.topic, BrokerId(9001), standing(leader_epoch));
        ledger.apply(Record::Fact(standing(6)));
        assert_eq!(ledger.against(key), None, "it was read on in a later epoch");
        ledger.apply(Record::Fact(standing(7)));
        assert_eq!(ledger.against(key).map(|failed| failed.offset), Some(Some(20)));
        let other = PartitionKey { partition: 4, ..key };
        assert_eq!((ledger.lineage(other), ledger.against(other)), (None, None));
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
