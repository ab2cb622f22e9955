//! What a follower is told of each partition, within its limits, and whether there is anything to
//! tell it yet.

use bytes::Bytes;

use super::handle::{About, PartitionAnswer, Question, QuestionAnswer};
use super::led::Led;
use super::refill::RefillRequest;
use super::sessions::Asked;
use crate::mirror::lineage::EpochHistory;
use crate::mirror::partition::{FollowerFetch, Refusal, Verdict};
use crate::tail::buffer::{Buffer, Slice};
use crate::types::{BrokerId, LeaderEpoch, Offset, OffsetAndEpoch, PartitionKey};
use crate::wire::batch;

/// A follower refuses one append that spans 2^31 offsets; half of it leaves room for a batch that
/// begins below the offset asked for.
const MAX_OFFSET_SPAN: i64 = 1 << 30;

/// "Not now" (`UNKNOWN_LEADER_EPOCH`), which followers take silently: they back off, ask again.
pub const NOT_NOW: i16 = 75;
/// "Not me" (`NOT_LEADER_OR_FOLLOWER`), likewise silent.
pub const NOT_LEADER: i16 = 6;
/// `OFFSET_OUT_OF_RANGE`: the follower asks where the log begins, and begins there.
const OUT_OF_RANGE: i16 = 1;

/// How an answer is made.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes that may still be added to the whole answer.
    pub bytes_left: usize,
    /// Whether the answer has no records yet: then one batch passes whatever its size.
    pub is_first: bool,
    /// Whether every partition has to be named, also those with nothing to say.
    pub is_full: bool,
}

/// What came of one partition.
#[derive(Debug)]
pub enum Piece {
    /// Something to say.
    Answer(PartitionAnswer),
    /// Nothing to say.
    Nothing,
    /// There are records, but no room for them in this answer.
    NoRoom,
    /// Nothing to say before batches were read from another replica.
    Refill(RefillRequest),
}

/// The answer for one partition that we lead.
pub fn piece(
    led: &mut Led,
    fetch: FollowerFetch,
    asked: &Asked,
    key: PartitionKey,
    limits: Limits,
) -> Piece {
    let from = led.leadership.read_from(asked.offset);
    match led.leadership.verdict(fetch, led.in_memory_from()) {
        Verdict::Serve => {
            let records = read(led, led.buffer(), asked, from, limits);
            serve(led, records, fetch, asked, key, limits)
        }
        Verdict::Refill => match led.refills.buffer(fetch.broker, from) {
            Some(buffer) => {
                let records = read(led, Some(buffer), asked, from, limits);
                serve(led, records, fetch, asked, key, limits)
            }
            None => match led.refill_request(fetch.broker, from) {
                Some(request) => Piece::Refill(request),
                None => not_now(key, limits),
            },
        },
        Verdict::Fill => {
            let records = led.leadership.history().and_then(|history| filler(from, history));
            serve(led, records, fetch, asked, key, limits)
        }
        Verdict::Cut(end) => {
            led.note_cut(fetch, end);
            #[cfg(feature = "planted-bugs")]
            let end = if crate::planted::is(crate::planted::Bug::TruncationInsideABatch) {
                OffsetAndEpoch { offset: Offset(end.offset.0 - 1), ..end }
            } else {
                end
            };
            Piece::Answer(PartitionAnswer { diverging: Some(end), ..refused(key, 0) })
        }
        Verdict::NotYet => not_now(key, limits),
        Verdict::Seat => serve(led, None, fetch, asked, key, limits),
        Verdict::EpochAhead => Piece::Answer(refused(key, NOT_NOW)),
        // A mere difference of epochs heals with the follower's next metadata.
        Verdict::Refuse(Refusal::OtherEpoch | Refusal::NotAReplica) => {
            Piece::Answer(refused(key, NOT_LEADER))
        }
        Verdict::Refuse(refusal) => {
            if led.note_refusal(fetch.broker, refusal) {
                tracing::warn!(
                    link = %led.mirror().link, topic = %led.mirror().name,
                    partition = key.partition, broker = %fetch.broker, offset = %fetch.offset,
                    last_fetched_epoch = %fetch.last_fetched_epoch, ?refusal,
                    "replica does not fit the copy; it is not served, and nothing of it is cut"
                );
            }
            Piece::Answer(refused(key, NOT_LEADER))
        }
        Verdict::Jump => Piece::Answer(refused(key, OUT_OF_RANGE)),
    }
}

/// An answer that is only an error.
pub fn refused(key: PartitionKey, error: i16) -> PartitionAnswer {
    let records = Vec::new();
    PartitionAnswer { key, error, high_watermark: None, log_start: None, diverging: None, records }
}

fn not_now(key: PartitionKey, limits: Limits) -> Piece {
    if limits.is_full { Piece::Answer(refused(key, NOT_NOW)) } else { Piece::Nothing }
}

fn room(led: &Led, asked: &Asked, limits: Limits) -> usize {
    asked.max_bytes.min(led.mirror().segment_bytes).min(limits.bytes_left)
}

fn read(
    led: &Led,
    buffer: Option<&Buffer>,
    asked: &Asked,
    from: Offset,
    limits: Limits,
) -> Option<Slice> {
    let max_end = Offset(from.0.saturating_add(MAX_OFFSET_SPAN));
    buffer?.read(from, room(led, asked, limits), max_end)
}

/// What takes a follower to the log start `to` of a copy that holds nothing from there on.
fn filler(to: Offset, history: &EpochHistory) -> Option<Slice> {
    let offset = Offset(to.0 - 1);
    let bytes = Bytes::copy_from_slice(&batch::without_records(offset, history.epoch_of(offset)?));
    Some(Slice { size: bytes.len(), bytes: vec![bytes], next_offset: to })
}

/// Whether a follower that ends at `end` would refuse these records: its last batch reaches into the
/// first of them, so its log is not a piece of ours.
fn overlaps(slice: &Slice, end: Offset) -> bool {
    let first = slice.bytes.first().and_then(|bytes| batch::base_offset(bytes));
    first.is_some_and(|base_offset| base_offset < end)
}

fn serve(
    led: &mut Led,
    slice: Option<Slice>,
    fetch: FollowerFetch,
    asked: &Asked,
    key: PartitionKey,
    limits: Limits,
) -> Piece {
    let is_below = led.leadership.log_start().is_some_and(|start| asked.offset < start);
    if is_below && slice.as_ref().is_some_and(|slice| overlaps(slice, asked.offset)) {
        // All that it has lies below the log start: it begins anew there.
        if led.leadership.allow_jump(fetch.broker) {
            return Piece::Answer(refused(key, OUT_OF_RANGE));
        }
        return not_now(key, limits);
    }
    let room = room(led, asked, limits);
    let (records, follower_end, size) = match slice {
        Some(slice) if slice.size <= room || limits.is_first => {
            (slice.bytes, slice.next_offset, slice.size)
        }
        Some(_) if !limits.is_full => return Piece::NoRoom,
        _ => (Vec::new(), asked.offset, 0),
    };
    let high_watermark = led.leadership.high_watermark();
    // Never above what the follower has after this answer: it would drop what it lacks.
    let log_start = led
        .leadership
        .log_start()
        .map(|start| start.min(high_watermark.unwrap_or(start)).min(follower_end));
    #[cfg(feature = "planted-bugs")]
    let log_start = if crate::planted::is(crate::planted::Bug::UnverifiedLogStart) {
        led.bounds.map(|bounds| bounds.log_start).or(log_start)
    } else {
        log_start
    };
    let is_news = high_watermark != asked.told_high_watermark || log_start != asked.told_log_start;
    if size == 0 && !is_news && !limits.is_full {
        return Piece::Nothing;
    }
    let diverging = None;
    Piece::Answer(PartitionAnswer { key, error: 0, high_watermark, log_start, diverging, records })
}

/// Another seat that gets ready to lead after us. Its end is what all in-sync replicas have: what
/// only lies in our memory it could not serve.
fn answer_seat(led: &Led, history: &EpochHistory, about: About) -> QuestionAnswer {
    let epoch = led.leadership.assignment().leader_epoch;
    let offset = match about {
        About::End => led.leadership.high_watermark().ok_or(NOT_NOW)?,
        About::Start => led.leadership.log_start().ok_or(NOT_NOW)?,
        About::Epoch(asked) => {
            return history.end_of(asked, led.leadership.log_end()).ok_or(NOT_NOW);
        }
    };
    Ok(OffsetAndEpoch { offset, epoch })
}

/// The answer to ListOffsets or OffsetForLeaderEpoch. Followers cut their logs by it, so it is
/// given only where it cannot cut anything: ends and starts to a follower that is empty and was
/// told to jump, epochs where the whole history is known.
pub fn answer(led: &Led, broker: BrokerId, question: &Question) -> QuestionAnswer {
    let epoch = led.leadership.assignment().leader_epoch;
    if question.current_leader_epoch != LeaderEpoch::UNKNOWN
        && question.current_leader_epoch != epoch
    {
        return Err(if question.current_leader_epoch > epoch { NOT_NOW } else { NOT_LEADER });
    }
    let history = led.leadership.history().ok_or(NOT_NOW)?;
    if led.leadership.is_seat(broker) {
        return answer_seat(led, history, question.about);
    }
    let may_jump = led.leadership.may_jump(broker);
    match question.about {
        About::End if may_jump => Ok(OffsetAndEpoch { offset: led.leadership.log_end(), epoch }),
        About::Start if may_jump => {
            let offset = led.leadership.log_start().ok_or(NOT_NOW)?;
            Ok(OffsetAndEpoch { offset, epoch: history.epoch_of(offset).unwrap_or(epoch) })
        }
        About::End | About::Start => Err(NOT_NOW),
        About::Epoch(asked) => history.end_of(asked, led.leadership.log_end()).ok_or(NOT_NOW),
    }
}
