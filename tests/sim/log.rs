//! A partition's log as a stock broker keeps it: batches, log start, high watermark and the cache of
//! leader epochs, with what appending, truncating and reading do to them in Apache Kafka
//! (`UnifiedLog`, `LeaderEpochFileCache`, 3.9 to 4.3).

use std::cell::Cell;
use std::hash::{DefaultHasher, Hash, Hasher};

use bytes::Bytes;

/// One batch.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// Offset of its first record.
    pub base: i64,
    /// Offset after its last.
    pub next: i64,
    /// Leader epoch in its header.
    pub epoch: i32,
    /// All of it.
    pub bytes: Bytes,
    /// What makes it this batch: a hash of everything but the leader epoch.
    pub content: u64,
}

impl Entry {
    pub fn new(base: i64, next: i64, epoch: i32, bytes: Bytes) -> Self {
        let mut hasher = DefaultHasher::new();
        (&bytes[..12], &bytes[16..]).hash(&mut hasher);
        Self { base, next, epoch, bytes, content: hasher.finish() }
    }

    /// Whether it has no record.
    pub fn is_empty(&self) -> bool {
        self.bytes[57..61] == [0; 4]
    }
}

thread_local! {
    static VERSIONS: Cell<u64> = const { Cell::new(0) };
}

fn next_version() -> u64 {
    VERSIONS.set(VERSIONS.get() + 1);
    VERSIONS.get()
}

/// A log.
#[derive(Clone, Debug, Default)]
pub struct Log {
    /// Batches that reach above the log start.
    pub entries: Vec<Entry>,
    /// Log start offset.
    pub start: i64,
    /// Log end offset.
    pub end: i64,
    /// High watermark.
    pub high_watermark: i64,
    /// Leader epoch cache: epoch and start offset, rising.
    pub epochs: Vec<(i32, i64)>,
    /// Another with each change of what it holds; no two logs share one, but 0 for an empty one.
    pub version: u64,
}

/// Why a follower marks a partition failed.
pub type Failure = String;

/// What a read as a leader gives.
#[derive(Debug, PartialEq)]
pub enum Read {
    /// Batches from the offset on.
    Batches(Vec<Entry>),
    /// The reader's last epoch ended before its offset.
    Diverging(i32, i64),
}

/// `OFFSET_OUT_OF_RANGE`.
pub const OUT_OF_RANGE: i16 = 1;

impl Log {
    /// Splits a record set into its batches; a cut one at the end is left out.
    pub fn split(mut bytes: Bytes) -> Vec<Entry> {
        let mut entries = Vec::new();
        while bytes.len() >= 61 {
            let int = |at: usize| i32::from_be_bytes(bytes[at..at + 4].try_into().unwrap());
            let base = i64::from_be_bytes(bytes[..8].try_into().unwrap());
            let size = 12 + usize::try_from(int(8)).unwrap();
            if bytes.len() < size {
                break;
            }
            let next = base + i64::from(int(23)) + 1;
            let epoch = int(12);
            entries.push(Entry::new(base, next, epoch, bytes.split_to(size)));
        }
        entries
    }

    /// `appendAsFollower`, with what `Partition` does about a first batch that reaches below an
    /// empty log's end. Returns how many bytes were taken.
    pub fn append_as_follower(
        &mut self,
        entries: &[Entry],
        leader_epoch: i32,
        segment_bytes: usize,
    ) -> Result<usize, Failure> {
        // KAFKA-18723: from a batch of a later epoch on nothing is looked at.
        let fitting = entries.iter().take_while(|entry| entry.epoch <= leader_epoch);
        let entries: Vec<_> = fitting.cloned().collect();
        for entry in &entries {
            let crc = u32::from_be_bytes(entry.bytes[17..21].try_into().unwrap());
            if crc != crc32c::crc32c(&entry.bytes[21..]) {
                return Err(format!("checksum of the batch at {}", entry.base));
            }
        }
        let Some(first) = entries.first() else { return Ok(0) };
        let mut last = first.base - 1;
        for entry in &entries {
            if entry.base <= last {
                return Err(format!("offsets not rising at {}", entry.base));
            }
            last = entry.next - 1;
        }
        if first.base < self.end {
            let is_empty = self.end == self.start;
            if !(is_empty && first.next > self.end) {
                return Err(format!("unexpected offset {} below the end {}", first.base, self.end));
            }
            // Its log start lies inside the batch: it begins anew with the whole batch.
            let start = self.start;
            self.truncate_fully(first.base);
            self.start = start;
        }
        let bytes: usize = entries.iter().map(|entry| entry.bytes.len()).sum();
        if bytes > segment_bytes {
            return Err(format!("{bytes} bytes exceed the segment's {segment_bytes}"));
        }
        self.version = next_version();
        for entry in entries {
            if entry.epoch < 0 {
                return Err(format!("epoch {} at {}", entry.epoch, entry.base));
            }
            self.assign_epoch(entry.epoch, entry.base);
            self.end = entry.next;
            self.entries.push(entry);
        }
        Ok(bytes)
    }

    /// Appends what a leader makes itself.
    pub fn append_as_leader(&mut self, entry: Entry) {
        self.version = next_version();
        self.assign_epoch(entry.epoch, entry.base);
        self.end = entry.next;
        self.entries.push(entry);
    }

    /// `maybeUpdateHighWatermark`: clamped to what the log has.
    pub fn update_high_watermark(&mut self, offset: i64) {
        self.high_watermark = offset.max(self.start).min(self.end);
    }

    /// `maybeIncrementLogStartOffset`.
    pub fn increment_start(&mut self, offset: i64) -> Result<(), Failure> {
        if offset > self.high_watermark {
            return Err(format!(
                "log start {offset} above the high watermark {}",
                self.high_watermark
            ));
        }
        if offset > self.start {
            self.version = next_version();
            self.start = offset;
            self.entries.retain(|entry| entry.next > offset);
            self.truncate_epochs_from_start(offset);
        }
        Ok(())
    }

    /// `truncateTo`: whole batches go, the end is where it was asked for.
    pub fn truncate_to(&mut self, offset: i64) {
        if offset < self.end {
            self.version = next_version();
            self.entries.retain(|entry| entry.next <= offset);
            self.end = offset;
            self.start = self.start.min(offset);
            self.high_watermark = self.high_watermark.min(offset);
        }
        self.epochs.retain(|&(_, start)| start < offset);
    }

    /// `truncateFullyAndStartAt`.
    pub fn truncate_fully(&mut self, offset: i64) {
        let version = next_version();
        *self =
            Self { start: offset, end: offset, high_watermark: offset, version, ..Self::default() };
    }

    /// `LeaderEpochFileCache.assign`.
    pub fn assign_epoch(&mut self, epoch: i32, start: i64) {
        if let Some(&(latest, from)) = self.epochs.last()
            && epoch == latest
            && start >= from
        {
            return;
        }
        self.epochs.retain(|&(of, from)| of < epoch && from < start);
        self.epochs.push((epoch, start));
    }

    fn truncate_epochs_from_start(&mut self, offset: i64) {
        let before: Vec<_> = self.epochs.iter().copied().filter(|&(_, s)| s <= offset).collect();
        if let Some(&(epoch, _)) = before.last() {
            self.epochs.retain(|&(_, start)| start > offset);
            self.epochs.insert(0, (epoch, offset));
        }
    }

    /// The latest epoch of the cache.
    pub fn latest_epoch(&self) -> Option<i32> {
        self.epochs.last().map(|&(epoch, _)| epoch)
    }

    /// `endOffsetFor`: -1 and -1 where the epoch is not known.
    pub fn end_of_epoch(&self, epoch: i32) -> (i32, i64) {
        match self.latest_epoch() {
            _ if epoch < 0 => return (-1, -1),
            Some(latest) if latest == epoch => return (epoch, self.end),
            _ => {}
        }
        let Some(&(_, end)) = self.epochs.iter().find(|&&(of, _)| of > epoch) else {
            return (-1, -1);
        };
        let floor = self.epochs.iter().rev().find(|&&(of, _)| of <= epoch);
        (floor.map_or(epoch, |&(of, _)| of), end)
    }

    /// What a leader reads for somebody who has everything below `offset`, with its last epoch (-1:
    /// not said), up to `limit`.
    pub fn read(
        &self,
        offset: i64,
        last_epoch: i32,
        limit: i64,
        max_bytes: usize,
    ) -> Result<Read, i16> {
        if last_epoch >= 0 {
            let (epoch, end) = self.end_of_epoch(last_epoch);
            if epoch < 0 || end < 0 || offset < self.start {
                return Err(OUT_OF_RANGE);
            }
            if epoch < last_epoch || end < offset {
                return Ok(Read::Diverging(epoch, end));
            }
        }
        if offset < self.start || offset > self.end {
            return Err(OUT_OF_RANGE);
        }
        let mut batches = Vec::new();
        let mut bytes = 0;
        for entry in self.entries.iter().filter(|e| e.next > offset && e.next <= limit) {
            bytes += entry.bytes.len();
            if !batches.is_empty() && bytes > max_bytes {
                break;
            }
            batches.push(entry.clone());
        }
        Ok(Read::Batches(batches))
    }
}
