//! The source: one topic on two brokers, its logs, and all lineages that it ever had, which is what
//! copies are judged by.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use lockstep::types::Uuid;
use tokio::sync::watch;

use super::batch::{self, Shape};
use super::chance::Chance;
use super::log::{Entry, Log};

/// The topic's name.
pub const TOPIC: &str = "orders";
/// Its brokers.
pub const BROKERS: [i32; 2] = [1, 2];

/// The source cluster.
pub struct Source {
    pub topic: Uuid,
    pub partitions: Vec<SourcePartition>,
    pub lineages: Vec<Lineage>,
    /// Whether it answers.
    pub is_up: bool,
    /// Told of every change.
    pub changed: watch::Sender<u64>,
    topics: u128,
    records: u64,
}

/// A partition as it is now.
pub struct SourcePartition {
    pub log: Log,
    pub leader: i32,
    pub leader_epoch: i32,
    /// Its lineage, by place in `lineages`.
    pub lineage: usize,
    /// Records of its batches, by base offset.
    values: BTreeMap<i64, Vec<Vec<u8>>>,
}

/// One history that a partition had: everything that ever stood in it.
#[derive(Clone)]
pub struct Lineage {
    pub partition: i32,
    /// Batches by base offset, each in every form that compaction gave it.
    pub forms: BTreeMap<i64, Vec<Form>>,
    /// Batches that compaction took away whole.
    pub compacted: BTreeSet<i64>,
    /// Greatest log start that was told.
    pub start: i64,
}

/// One form of a batch.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Form {
    pub next: i64,
    pub content: u64,
}

/// What a batch is, without its epoch.
pub fn form(entry: &Entry) -> Form {
    Form { next: entry.next, content: entry.content }
}

impl Lineage {
    fn new(partition: i32) -> Self {
        let (forms, compacted) = (BTreeMap::new(), BTreeSet::new());
        Self { partition, forms, compacted, start: 0 }
    }

    fn add(&mut self, entry: &Entry) {
        self.forms.entry(entry.base).or_default().push(form(entry));
    }

    /// End of the last batch that it ever had.
    pub fn end(&self) -> i64 {
        let last = self.forms.values().next_back();
        last.and_then(|forms| forms.iter().map(|form| form.next).max()).unwrap_or(0)
    }
}

impl Source {
    pub fn new(partitions: i32) -> Self {
        let mut source = Self {
            topic: Uuid::nil(),
            partitions: Vec::new(),
            lineages: Vec::new(),
            is_up: true,
            changed: watch::Sender::new(0),
            topics: 0,
            records: 0,
        };
        source.recreate(partitions);
        source
    }

    /// Deletes the topic and makes another one of the same name.
    pub fn recreate(&mut self, partitions: i32) {
        self.topics += 1;
        self.topic = Uuid::from_u128(0x5000 + self.topics);
        self.partitions = (0..partitions)
            .map(|partition| {
                self.lineages.push(Lineage::new(partition));
                let lineage = self.lineages.len() - 1;
                let values = BTreeMap::new();
                SourcePartition {
                    log: Log::default(),
                    leader: BROKERS[0],
                    leader_epoch: 0,
                    lineage,
                    values,
                }
            })
            .collect();
        self.tell();
    }

    fn tell(&self) {
        self.changed.send_modify(|version| *version += 1);
    }

    /// Appends a batch, sometimes a marker, sometimes after a hole or with one in it.
    pub fn append(&mut self, partition: usize, chance: &mut Chance) {
        let count = 1 + chance.below(3);
        let values: Vec<_> = (0..count)
            .map(|_| {
                self.records += 1;
                format!("{:x}-{}", self.topic.as_u128(), self.records).into_bytes()
            })
            .collect();
        let at = &mut self.partitions[partition];
        let base = at.log.end + if chance.one_in(12) { 1 + chance.below(3) as i64 } else { 0 };
        let spare = if chance.one_in(10) { chance.below(4) as i64 } else { 0 };
        let next = base + count as i64 + spare;
        let attributes = if chance.one_in(15) { 0x30 } else { 0 };
        let epoch = at.leader_epoch;
        let bytes = batch::encode(Shape { base, next, epoch, attributes, values: &values });
        let entry = Entry::new(base, next, epoch, bytes);
        self.lineages[at.lineage].add(&entry);
        at.log.append_as_leader(entry);
        at.values.insert(base, values);
        at.log.high_watermark = at.log.end;
        self.tell();
    }

    /// Raises the log start, also into the middle of a batch.
    pub fn trim(&mut self, partition: usize, chance: &mut Chance) -> String {
        let at = &mut self.partitions[partition];
        let to = chance.between(at.log.start, at.log.high_watermark);
        at.log.increment_start(to).unwrap();
        let lineage = &mut self.lineages[at.lineage];
        lineage.start = lineage.start.max(to);
        self.tell();
        format!("log start {to}")
    }

    /// Takes a batch away, or a record out of one; which batch.
    pub fn compact(&mut self, partition: usize, chance: &mut Chance) -> Option<Range<i64>> {
        let at = &mut self.partitions[partition];
        let lineage = &mut self.lineages[at.lineage];
        if at.log.entries.len() < 3 {
            return None;
        }
        // The last batch is never cleaned; the first may be cut by the log start.
        let place = 1 + chance.below(at.log.entries.len() as u64 - 2) as usize;
        let entry = &mut at.log.entries[place];
        let cleaned = entry.base..entry.next;
        let values = at.values.entry(entry.base).or_default();
        if chance.one_in(2) || values.len() < 2 {
            lineage.compacted.insert(entry.base);
            at.log.entries.remove(place);
        } else {
            values.truncate(1 + chance.below(values.len() as u64 - 1) as usize);
            let (base, next, epoch) = (entry.base, entry.next, entry.epoch);
            let shape = Shape { base, next, epoch, attributes: 0, values };
            *entry = Entry::new(base, next, epoch, batch::encode(shape));
            lineage.add(entry);
        }
        self.tell();
        Some(cleaned)
    }

    /// The greatest log start that a partition ever had.
    pub fn trimmed(&self, partition: i32) -> i64 {
        let lineages = self.lineages.iter().filter(|lineage| lineage.partition == partition);
        lineages.map(|lineage| lineage.start).max().unwrap_or(0)
    }

    /// Another broker leads; nothing is lost.
    pub fn elect(&mut self, partition: usize) -> String {
        let at = &mut self.partitions[partition];
        at.leader_epoch += 1;
        at.leader = if at.leader == BROKERS[0] { BROKERS[1] } else { BROKERS[0] };
        at.log.assign_epoch(at.leader_epoch, at.log.end);
        let text = format!("broker {} in epoch {}", at.leader, at.leader_epoch);
        self.tell();
        text
    }

    /// A broker that lacks the end of the log leads: a new lineage begins.
    pub fn elect_uncleanly(&mut self, partition: usize, chance: &mut Chance) -> String {
        let at = &mut self.partitions[partition];
        // It ends where its last batch ends; the last one of all is what it lacks at least.
        let mut bounds: Vec<_> = at.log.entries.iter().map(|entry| entry.next).collect();
        bounds.pop();
        let Some(to) = chance.pick(&bounds) else {
            return "nothing to lose".to_owned();
        };
        at.log.truncate_to(to);
        let mut lineage = self.lineages[at.lineage].clone();
        lineage.forms.retain(|&base, _| base < to);
        self.lineages.push(lineage);
        at.lineage = self.lineages.len() - 1;
        at.log.high_watermark = to;
        let elected = self.elect(partition);
        format!("cut at {to}, {elected}")
    }
}
