//! What the leader task says of its partitions, for people.

use std::collections::HashMap;
use std::time::{SystemTime, UNIX_EPOCH};

use super::led::Led;
use crate::mirror::report::{PartitionReport, PartitionState, Reason};
use crate::tail::Trouble;
use crate::types::{BrokerId, Offset, PartitionKey};

/// All partitions that we lead.
pub type LeaderReport = HashMap<PartitionKey, PartitionReport>;

/// The report on one partition.
/// `is_unheard`: no in-sync real replica has asked for long.
pub fn report(led: &Led, key: PartitionKey, is_unheard: bool) -> PartitionReport {
    let (state, reason) = state(led, is_unheard);
    let high_watermark = led.leadership.high_watermark();
    let source_end = led.bounds.map(|bounds| bounds.high_watermark);
    // What the source has deleted cannot be copied any more: a gap says so, not the lag.
    let copied = high_watermark.map(|ours| led.bounds.map_or(ours, |b| ours.max(b.log_start)));
    let lag = source_end.zip(copied).map(|(source, ours)| source.records_since(ours));
    let lag_seconds = lag.map(|lag| if lag == 0 { 0.0 } else { lag_seconds(led, high_watermark) });
    // What the source has by now is not known: at worst, a record for each moment since.
    let unheard = led.unheard_since.map(|since| since.elapsed().as_secs_f64());
    let mut report = PartitionReport {
        partition: key.partition,
        state,
        reason,
        // Who looks at the image fills it in.
        leader: None,
        leader_epoch: led.leadership.assignment().leader_epoch.0,
        source_end_offset: source_end.map(|offset| offset.0),
        log_start_offset: led.leadership.log_start().map(|offset| offset.0),
        source_log_start_offset: led.bounds.map(|bounds| bounds.log_start.0),
        high_watermark: high_watermark.map(|offset| offset.0),
        log_end_offset: led.buffer().map(|buffer| buffer.filled_to().0),
        lag_records: lag.filter(|_| unheard.is_none()),
        lag_seconds: unheard.map_or(lag_seconds, |unheard| {
            Some(lag_seconds.map_or(unheard, |seconds| seconds.max(unheard)))
        }),
        bytes_total: led.passed.bytes,
        records_total: led.passed.records,
        batches_total: led.passed.batches,
        in_sync: led.leadership.in_sync_real().map(|BrokerId(id)| id).collect(),
        failure: led.trouble.as_ref().and_then(Trouble::failure_report),
    };
    if let Some(trouble) = &led.trouble {
        trouble.show(&mut report);
    }
    report
}

fn state(led: &Led, is_unheard: bool) -> (PartitionState, Option<Reason>) {
    let high_watermark = led.leadership.high_watermark();
    let remark = led.log_start_ahead().map(|_missing| Reason::DestinationLogStartAhead);
    match &led.trouble {
        Some(trouble @ (Trouble::Unavailable(_) | Trouble::Unauthorized(_))) => {
            (PartitionState::SourceUnavailable, Some(trouble.reason()))
        }
        Some(trouble) => (PartitionState::Failed, Some(trouble.reason())),
        // The tail check is to be made, and a failure from before may be found again.
        None if led.is_unproved() => {
            (PartitionState::SourceUnavailable, Some(Reason::SourceUnreachable))
        }
        None if led.leadership.in_sync_real().next().is_none() => {
            (PartitionState::DestinationUnavailable, Some(Reason::ReplicasOutOfSync))
        }
        None if is_unheard => {
            (PartitionState::DestinationUnavailable, Some(Reason::DestinationUnreachable))
        }
        None => match (high_watermark, led.bounds) {
            (Some(ours), Some(bounds)) if ours >= bounds.high_watermark => {
                (PartitionState::InSync, remark)
            }
            _ => (PartitionState::CatchingUp, remark),
        },
    }
}

/// Age of the oldest record that is not readable yet, by its timestamp where that is in memory and
/// lies in the past; else the time for which the copy has been behind.
fn lag_seconds(led: &Led, high_watermark: Option<Offset>) -> f64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
    let oldest = led.buffer().zip(high_watermark).and_then(|(buffer, hw)| buffer.timestamp_at(hw));
    let age = oldest.map(|millis| now - millis as f64 / 1000.0);
    let behind = led.behind_since.map_or(0.0, |since| since.elapsed().as_secs_f64());
    age.filter(|&age| age >= 0.0 && oldest.is_some_and(|millis| millis > 0)).unwrap_or(behind)
}
