//! One record batch as raw bytes, with the header fields that a report needs. Written without
//! lockstep's `wire` on purpose.

use std::fmt;
use std::ops::Range;

use anyhow::{Result, ensure};
use bytes::Bytes;

const HEADER_BYTES: usize = 61;
const LENGTH_END: usize = 12;
/// The partition leader epoch: the one thing that may differ between a source and its mirror.
pub const LEADER_EPOCH: Range<usize> = 12..16;

/// A whole batch as a broker sent it.
#[derive(Clone, PartialEq, Eq)]
pub struct Batch {
    /// All its bytes.
    pub bytes: Bytes,
}

impl Batch {
    /// Takes the next whole batch off `bytes`; `None` where only a part is left.
    pub fn take(bytes: &mut Bytes) -> Result<Option<Self>> {
        if bytes.len() < HEADER_BYTES {
            return Ok(None);
        }
        let length = i32::from_be_bytes(field(bytes, 8));
        let size = usize::try_from(length)? + LENGTH_END;
        ensure!(size >= HEADER_BYTES, "a batch of {size} bytes");
        if bytes.len() < size {
            return Ok(None);
        }
        let batch = Self { bytes: bytes.split_to(size) };
        ensure!(batch.magic() == 2, "message format v{}", batch.magic());
        Ok(Some(batch))
    }

    /// Offset of the first record.
    pub fn base_offset(&self) -> i64 {
        i64::from_be_bytes(field(&self.bytes, 0))
    }

    /// Offset after the last record.
    pub fn next_offset(&self) -> i64 {
        let last_offset_delta = i32::from_be_bytes(field(&self.bytes, 23));
        self.base_offset() + i64::from(last_offset_delta) + 1
    }

    /// Epoch under which the leader appended it.
    pub fn leader_epoch(&self) -> i32 {
        i32::from_be_bytes(field(&self.bytes, 12))
    }

    /// Who wrote it, and in which life; -1 for producers that are neither idempotent nor transactional.
    pub fn producer(&self) -> (i64, i16) {
        let epoch = i16::from_be_bytes(field(&self.bytes, 51));
        (i64::from_be_bytes(field(&self.bytes, 43)), epoch)
    }

    /// Message format.
    pub fn magic(&self) -> u8 {
        self.bytes[16]
    }

    /// Compression in bits 0 to 2, timestamp type 3, transactional 4, control 5.
    pub fn attributes(&self) -> i16 {
        i16::from_be_bytes(field(&self.bytes, 21))
    }

    /// Codec number: 0 none, 1 gzip, 2 snappy, 3 lz4, 4 zstd.
    pub fn codec(&self) -> i16 {
        self.attributes() & 7
    }

    /// Whether the broker set the timestamp.
    pub fn is_log_append_time(&self) -> bool {
        self.attributes() & 0x08 != 0
    }

    /// Whether it belongs to a transaction.
    pub fn is_transactional(&self) -> bool {
        self.attributes() & 0x10 != 0
    }

    /// Whether it is a marker.
    pub fn is_control(&self) -> bool {
        self.attributes() & 0x20 != 0
    }

    /// Producer id, -1 where there is none.
    pub fn producer_id(&self) -> i64 {
        i64::from_be_bytes(field(&self.bytes, 43))
    }

    /// Greatest timestamp.
    pub fn max_timestamp(&self) -> i64 {
        i64::from_be_bytes(field(&self.bytes, 35))
    }

    /// How many records it holds now.
    pub fn record_count(&self) -> i32 {
        i32::from_be_bytes(field(&self.bytes, 57))
    }

    /// Whether all bytes but the leader epoch are the same.
    pub fn same_but_for_epoch(&self, other: &Self) -> bool {
        self.bytes[..LEADER_EPOCH.start] == other.bytes[..LEADER_EPOCH.start]
            && self.bytes[LEADER_EPOCH.end..] == other.bytes[LEADER_EPOCH.end..]
    }

    /// First byte that differs, the leader epoch left out.
    pub fn first_difference(&self, other: &Self) -> Option<usize> {
        let pairs = self.bytes.iter().zip(&other.bytes).enumerate();
        let mut differing =
            pairs.filter(|(at, (ours, theirs))| !LEADER_EPOCH.contains(at) && ours != theirs);
        let shorter = self.bytes.len().min(other.bytes.len());
        let at = differing.next().map(|(at, _)| at);
        at.or((self.bytes.len() != other.bytes.len()).then_some(shorter))
    }
}

impl fmt::Debug for Batch {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            out,
            "offsets {}..{} bytes {} epoch {} crc {:#010x} attributes {:#06x} max timestamp {} \
             producer {}:{} sequence {} records {}",
            self.base_offset(),
            self.next_offset(),
            self.bytes.len(),
            self.leader_epoch(),
            u32::from_be_bytes(field(&self.bytes, 17)),
            self.attributes(),
            self.max_timestamp(),
            self.producer_id(),
            i16::from_be_bytes(field(&self.bytes, 51)),
            i32::from_be_bytes(field(&self.bytes, 53)),
            self.record_count(),
        )
    }
}

/// `N` bytes from `at`; the header was checked to be whole.
fn field<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    std::array::from_fn(|place| bytes[at + place])
}
