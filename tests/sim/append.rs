//! What a follower does to its log with an answer, whoever its leader is.

use kafka_protocol::messages::fetch_response::PartitionData;

use super::broker::Following;
use super::log::{Entry, Log};

/// `segment.bytes` of the mirrors.
const SEGMENT_BYTES: usize = 1 << 30;

/// `processPartitionData`; what is worth a line.
pub fn take_in(log: &mut Log, follows: &mut Following, data: &PartitionData) -> Option<String> {
    let entries = Log::split(data.records.clone().unwrap_or_default());
    let before = (log.start, log.end);
    let committed = log.high_watermark;
    let result = append(log, follows, &entries, data);
    let now = (log.start, log.end);
    match result {
        Err(why) => {
            follows.failed = Some(why.clone());
            Some(format!("failed: {why}"))
        }
        Ok(()) if now != before || committed != log.high_watermark => {
            Some(format!("{}..{} committed {}", log.start, log.end, log.high_watermark))
        }
        Ok(()) => None,
    }
}

/// Appends, then follows the high watermark and the log start; why it fails, where it does.
pub fn append(
    log: &mut Log,
    follows: &mut Following,
    entries: &[Entry],
    data: &PartitionData,
) -> Result<(), String> {
    if follows.offset != log.end {
        return Err(format!("offset {} is not the end {}", follows.offset, log.end));
    }
    let taken = log.append_as_follower(entries, follows.epoch, SEGMENT_BYTES)?;
    if taken == 0 && !entries.is_empty() {
        // Nothing comes of it, and it is asked for again at once, for ever (KAFKA-18723).
        return Err("a batch of an epoch above the leader's is skipped for ever".to_owned());
    }
    log.update_high_watermark(data.high_watermark);
    log.increment_start(data.log_start_offset)?;
    follows.offset = log.end;
    follows.last_epoch = log.latest_epoch();
    Ok(())
}

/// `getOffsetTruncationState` and the truncation.
pub fn truncate_by_epoch(log: &mut Log, follows: &mut Following, epoch: i32, end: i64) -> String {
    let (known, known_end) = log.end_of_epoch(epoch);
    let to = if known < 0 && known_end < 0 { end } else { known_end.min(end) };
    let to = to.min(log.end);
    log.truncate_to(to);
    follows.offset = log.end;
    follows.last_epoch = log.latest_epoch();
    format!("truncates to {to}, diverging at epoch {epoch} end {end}")
}
