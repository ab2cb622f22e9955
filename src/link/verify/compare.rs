//! Two batches that stand at the same offset on both sides: what may differ between them, and what
//! must not. No I/O.

use serde::Serialize;

use crate::types::Offset;
use crate::wire::batch::{self, BatchHeader};

/// Bit of the attributes that the cleaner sets, with a changed base timestamp, when it meets a
/// tombstone or a marker (KIP-534).
const ATTRIBUTE_DELETE_HORIZON: i16 = 0x40;

/// One whole batch.
#[derive(Clone, Debug)]
pub(super) struct Batch {
    /// Its header.
    pub header: BatchHeader,
    /// All its bytes.
    pub bytes: bytes::Bytes,
}

/// What two batches with the same base offset are to each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Every byte but the leader epoch is the same.
    Same,
    /// One side or both have compacted it, each on its own.
    Compacted,
    /// They are not copies of each other.
    Different,
}

/// Compares two batches with the same base offset.
pub(super) fn verdict(source: &Batch, copy: &Batch, is_compacted_topic: bool) -> Verdict {
    if batch::same_but_epoch(&source.bytes, &copy.bytes) {
        return Verdict::Same;
    }
    let touched = was_compacted(&source.header) || was_compacted(&copy.header);
    // The cleaner keeps the batch's end and its producer whatever it removes.
    let may_be_one = source.header.next_offset == copy.header.next_offset
        && source.header.producer_id == copy.header.producer_id;
    if is_compacted_topic && touched && may_be_one {
        Verdict::Compacted
    } else {
        Verdict::Different
    }
}

/// Producers leave no holes in a batch, so a hole is the cleaner's.
fn was_compacted(header: &BatchHeader) -> bool {
    let offsets = header.next_offset.records_since(header.base_offset);
    u64::try_from(header.record_count).unwrap_or(0) != offsets
        || header.attributes & ATTRIBUTE_DELETE_HORIZON != 0
}

/// The first place where a copy is not what the source is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// Where.
    pub offset: i64,
    /// What is wrong there, in words.
    pub what: String,
    /// The source's batch there.
    pub source: Option<HeaderFields>,
    /// The copy's batch there.
    pub destination: Option<HeaderFields>,
}

impl Difference {
    pub(super) fn new(
        offset: Offset,
        what: &str,
        source: Option<&Batch>,
        copy: Option<&Batch>,
    ) -> Self {
        Self {
            offset: offset.0,
            what: what.to_owned(),
            source: source.map(HeaderFields::of),
            destination: copy.map(HeaderFields::of),
        }
    }

    /// The first byte in which the two batches differ, the leader epoch left out.
    pub(super) fn of_bytes(source: &Batch, copy: &Batch) -> Self {
        let pairs = source.bytes.iter().zip(&copy.bytes).enumerate();
        let differs = |(at, (left, right)): &(usize, (&u8, &u8))| {
            left != right && !batch::LEADER_EPOCH.contains(at)
        };
        let at = pairs.into_iter().find(differs).map(|(at, _)| at);
        let shorter = source.bytes.len().min(copy.bytes.len());
        let what = format!("the batches differ from byte {} on", at.unwrap_or(shorter));
        Self::new(source.header.base_offset, &what, Some(source), Some(copy))
    }
}

/// What a batch's header says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct HeaderFields {
    /// Offset of the first record.
    pub base_offset: i64,
    /// Offset after the last record.
    pub next_offset: i64,
    /// Bytes of the whole batch.
    pub size: usize,
    /// Each cluster has its own.
    pub leader_epoch: i32,
    /// CRC-32C as written.
    pub checksum: u32,
    /// Compression, timestamp type, transactional and control bits.
    pub attributes: i16,
    /// Greatest timestamp, in milliseconds since 1970.
    pub max_timestamp: i64,
    /// -1 where there is none.
    pub producer_id: i64,
    /// Records that it holds now.
    pub record_count: i32,
}

impl HeaderFields {
    fn of(batch: &Batch) -> Self {
        let header = &batch.header;
        Self {
            base_offset: header.base_offset.0,
            next_offset: header.next_offset.0,
            size: header.size,
            leader_epoch: header.leader_epoch.0,
            checksum: header.checksum,
            attributes: header.attributes,
            max_timestamp: header.max_timestamp,
            producer_id: header.producer_id,
            record_count: header.record_count,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::LeaderEpoch;
    use crate::wire::batch::tests::batch;

    fn read(bytes: Vec<u8>) -> Batch {
        let header = BatchHeader::read(&bytes).unwrap().unwrap();
        Batch { header, bytes: bytes.into() }
    }

    fn with_count(mut bytes: Vec<u8>, count: i32) -> Batch {
        bytes[57..61].copy_from_slice(&count.to_be_bytes());
        read(bytes)
    }

    #[test]
    fn the_leader_epoch_may_differ_and_nothing_else() {
        let source = batch(5, 2, b"ab");
        let mut stamped = source.clone();
        batch::stamp(&mut stamped, LeaderEpoch(77));
        let (source, stamped) = (read(source), read(stamped));
        assert_eq!(verdict(&source, &stamped, false), Verdict::Same);
        let other = read(batch(5, 2, b"ac"));
        assert_eq!(verdict(&source, &other, false), Verdict::Different);
        let difference = Difference::of_bytes(&source, &other);
        assert_eq!((difference.offset, difference.what.contains("byte 17")), (5, true));
    }

    #[test]
    fn only_a_batch_that_a_cleaner_has_touched_may_differ() {
        let source = read(batch(5, 3, b"abc"));
        let cleaned = with_count(batch(5, 3, b"a"), 1);
        assert_eq!(verdict(&source, &cleaned, true), Verdict::Compacted);
        assert_eq!(verdict(&cleaned, &source, true), Verdict::Compacted);
        assert_eq!(verdict(&source, &cleaned, false), Verdict::Different);
        let whole = read(batch(5, 3, b"abd"));
        assert_eq!(verdict(&source, &whole, true), Verdict::Different);
        let longer = with_count(batch(5, 4, b"a"), 1);
        assert_eq!(verdict(&source, &longer, true), Verdict::Different);
    }

    #[test]
    fn a_delete_horizon_is_the_cleaners_mark() {
        let source = read(batch(5, 1, b"tombstone"));
        let mut marked = batch(5, 1, b"tombstone");
        marked[22] |= 0x40;
        assert_eq!(verdict(&source, &read(marked), true), Verdict::Compacted);
    }
}
