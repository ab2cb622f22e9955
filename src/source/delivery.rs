//! What a session does with an answer: checks and stamps the batches, pays for their memory, sends
//! them to the seat, and gives back the partitions that cannot go on.

use bytes::{Bytes, BytesMut};
use tokio::time::Instant;

use super::answer::PartitionAnswer;
use super::cut::{self, Cut, Damage};
use super::fetch_session::WireKey;
use super::messages::Why;
use super::partition::Partition;
use super::session::{Session, SessionError, reserve_now};
use super::verdict::{Verdict, error_text, verdict};
use super::{COPY_BELOW_FRACTION, PIN_FREELY_BYTES};
use crate::tail::budget::Reservation;
use crate::tail::marks::Seen;
use crate::tail::{ArrivalKind, Bounds, Trouble};
use crate::types::{Offset, OffsetAndEpoch};
use crate::wire::batch::{BatchError, BatchHeader};

/// After so many bytes checked in one go other tasks get their turn.
const YIELD_AFTER_BYTES: usize = 512 << 10;

/// What an answer says of one partition, before its records are looked at.
enum Judged {
    /// It can be read on.
    Read,
    /// It cannot.
    Fall(Why),
    /// The broker finds its own records damaged.
    Damaged(Damage),
}

/// A partition's part of an answer, checked.
struct Taken {
    name: WireKey,
    bounds: Bounds,
    cut: Option<Cut>,
    damage: Option<Damage>,
}

impl Session {
    /// Delivers an answer. The reservation was made for it and is given back where it was too much.
    pub(super) async fn deliver(
        &mut self,
        answers: Vec<PartitionAnswer>,
        mut frame: BytesMut,
        reservation: Reservation,
        reserved: usize,
    ) -> Result<(), SessionError> {
        let mut taken = Vec::with_capacity(answers.len());
        let (mut bytes, mut more, mut unyielded) = (0, false, 0);
        for answer in answers {
            let length = answer.records.len();
            let Some(partition) = self.take(answer, &mut frame) else {
                continue;
            };
            if let Some(cut) = &partition.cut {
                more |= cut.next_offset < partition.bounds.high_watermark;
            }
            bytes += length;
            unyielded += length;
            taken.push(partition);
            if unyielded >= YIELD_AFTER_BYTES {
                unyielded = 0;
                tokio::task::yield_now().await;
            }
        }
        self.behind = more || bytes >= reserved / 2;
        let frame = match bytes {
            0 => None,
            _ => Some(self.pay(frame, reservation, reserved).await),
        };
        for partition in taken {
            self.send(partition, frame.as_ref()).await?;
        }
        Ok(())
    }

    /// Judges and checks one partition's part; one that falls is given back at once.
    fn take(&mut self, answer: PartitionAnswer, frame: &mut BytesMut) -> Option<Taken> {
        // The router may have taken it back while the request was under way.
        let partition = self.partitions.get_mut(&answer.key)?;
        let bounds = bounds(&answer, partition.told);
        let (cut, damage) = match judge(partition, &answer, self.slot.broker) {
            Judged::Read => match prove(partition, &answer, bounds, frame) {
                Ok(records) => {
                    if partition.must_prove && !answer.records.is_empty() {
                        partition.must_prove = false;
                        self.dirty.insert(answer.key.clone());
                    }
                    let stamps = &partition.follow.stamps;
                    cut::cut(frame, records, partition.offset(), stamps)
                }
                Err(why) => {
                    self.fall(&answer.key, why);
                    return None;
                }
            },
            Judged::Damaged(damage) => (None, Some(damage)),
            Judged::Fall(why) => {
                self.fall(&answer.key, why);
                return None;
            }
        };
        Some(Taken { name: answer.key, bounds, cut, damage })
    }

    /// Gives a partition back that cannot go on.
    fn fall(&mut self, name: &WireKey, why: Why) {
        let why = match why {
            // By name another topic could be there: metadata has to say its id first.
            Why::Retry(text, _) if !self.by_id => Why::Retry(text, None),
            why => why,
        };
        if let Some(partition) = self.remove(name) {
            self.give_back(partition, why);
        }
    }

    /// Ties memory to the frame. A batch larger than what was set aside comes all the same: then
    /// the reservation is given back first and made anew for the true size, so that nobody waits
    /// while holding some. Until then the frame is outside the budget, one for each connection.
    async fn pay(&self, frame: BytesMut, reservation: Reservation, reserved: usize) -> Bytes {
        if frame.capacity() <= reserved {
            return reservation.pay_for(frame);
        }
        drop(reservation);
        self.shared.budget.reserve(frame.capacity()).await.pay_for(frame)
    }

    async fn send(&mut self, taken: Taken, frame: Option<&Bytes>) -> Result<(), SessionError> {
        let Taken { name, bounds, cut, damage } = taken;
        if let (Some(cut), Some(frame)) = (cut, frame) {
            let bytes = self.keep(frame, &cut).await;
            self.send_data(&name, cut, bytes, bounds).await?;
        } else if damage.is_none() {
            self.send_idle(&name, bounds).await?;
        }
        if let Some(damage) = damage {
            self.damaged(&name, damage);
        }
        Ok(())
    }

    async fn send_data(
        &mut self,
        name: &WireKey,
        cut: Cut,
        bytes: Bytes,
        bounds: Bounds,
    ) -> Result<(), SessionError> {
        let Some(partition) = self.partitions.get_mut(name) else {
            return Ok(());
        };
        // Only a broker that answers one partition twice gets here with what was sent already.
        if cut.next_offset <= partition.offset() {
            return Ok(());
        }
        partition.position =
            Some(OffsetAndEpoch { offset: cut.next_offset, epoch: cut.source_epoch });
        if partition.doubts.damage.is_some_and(|at| cut.next_offset > at) {
            partition.doubts.damage = None;
        }
        partition.succeeded();
        partition.last = cut.marks.last;
        partition.told = Some(bounds);
        // Before it is sent: the seat may give the room back the moment it has the chunk.
        partition.follow.room.add(bytes.len());
        self.dirty.insert(name.clone());
        if !partition.follow.room.is_free() && self.full.insert(name.clone()) {
            self.filled_at = Instant::now();
        }
        let chunk = cut.into_chunk(bytes);
        let arrival = partition.arrival(ArrivalKind::Data { chunk, bounds });
        self.shared.arrivals.send(arrival).await.map_err(|_closed| SessionError::Stopping)
    }

    async fn send_idle(&mut self, name: &WireKey, bounds: Bounds) -> Result<(), SessionError> {
        let Some(partition) = self.partitions.get_mut(name) else {
            return Ok(());
        };
        partition.succeeded();
        if partition.told == Some(bounds) {
            return Ok(());
        }
        partition.told = Some(bounds);
        let arrival = partition.arrival(ArrivalKind::Idle(bounds));
        self.shared.arrivals.send(arrival).await.map_err(|_closed| SessionError::Stopping)
    }

    /// The bytes of a chunk: a slice of the frame, or a copy where a small slice of a large frame
    /// would hold all of its memory for as long as one slow partition needs it.
    async fn keep(&self, frame: &Bytes, cut: &Cut) -> Bytes {
        let slice = frame.slice(cut.range.clone());
        if frame.len() <= PIN_FREELY_BYTES || slice.len() * COPY_BELOW_FRACTION >= frame.len() {
            return slice;
        }
        match reserve_now(&self.shared.budget, slice.len()).await {
            Some(reservation) => reservation.pay_for(BytesMut::from(&slice[..])),
            None => slice,
        }
    }

    /// Damage is believed when it is seen twice, the second time over another connection. Until
    /// then the partition stays, and the session connects anew.
    fn damaged(&mut self, name: &WireKey, damage: Damage) {
        let Some(partition) = self.partitions.get_mut(name) else {
            return;
        };
        let at = partition.offset();
        let why = if let Damage::NoEpoch(_) = damage {
            Why::Retry(damage.to_string(), None)
        } else if partition.read_from.is_some() {
            Why::Retry(format!("{damage}, from a follower"), None)
        } else if partition.doubts.damage.replace(at) == Some(at) {
            Why::Ended(damage_trouble(at, damage))
        } else {
            tracing::warn!(
                partition = %partition.follow.source, offset = %at, broker = %self.slot.broker,
                "{damage}; fetching once more over another connection"
            );
            self.reconnect = true;
            self.dirty.insert(name.clone());
            return;
        };
        if let Some(partition) = self.remove(name) {
            self.give_back(partition, why);
        }
    }
}

/// The records that follow what we have. Where the last batch has to be seen again, it comes first.
fn prove(
    partition: &Partition,
    answer: &PartitionAnswer,
    bounds: Bounds,
    frame: &[u8],
) -> Result<std::ops::Range<usize>, Why> {
    let records = answer.records.clone();
    let Some(last) = partition.unproven() else { return Ok(records) };
    let bytes = frame.get(records.clone()).unwrap_or_default();
    let ours = partition.offset();
    match BatchHeader::read(bytes) {
        Ok(Some(found)) => match last.judge(&found) {
            Seen::Again => Ok(records.start + found.size..records.end),
            Seen::Gone => Ok(records),
            Seen::Other if partition.read_from.is_some() => {
                Err(Why::Retry("a follower has another batch".to_owned(), None))
            }
            Seen::Other => {
                let source_end = found.base_offset.min(last.base_offset);
                Err(Why::Ended(Trouble::Truncated { ours, source_end }))
            }
        },
        // A new leader may not know of all that is committed yet; its log may also be shorter.
        Ok(None) if bytes.is_empty() && bounds.high_watermark < ours => {
            Err(Why::Range(format!("the source ends at {}", bounds.high_watermark)))
        }
        // Damage is the cut's matter; an answer may also have had no room for it.
        Ok(None) | Err(_) => Ok(records),
    }
}

fn judge(
    partition: &Partition,
    answer: &PartitionAnswer,
    broker: crate::types::BrokerId,
) -> Judged {
    let is_follower = partition.read_from.is_some();
    let retry = |text| Judged::Fall(Why::Retry(text, answer.current_leader));
    if let Some(verdict) = verdict(answer.error) {
        let text = format!("broker {broker} answers {}", error_text(answer.error));
        return match verdict {
            Verdict::Denied => Judged::Fall(Why::Denied(text)),
            // A follower may lag or have been replaced: only the leader knows.
            _ if is_follower => retry(text),
            Verdict::Retry => retry(text),
            Verdict::Range => Judged::Fall(Why::Range(text)),
            Verdict::Topic => Judged::Fall(Why::Topic(text)),
            Verdict::Damaged => Judged::Damaged(Damage::Reported),
        };
    }
    if let Some(end) = answer.diverging {
        if is_follower {
            return retry(format!("follower {broker} has diverged at {}", end.offset));
        }
        return Judged::Fall(Why::Ended(Trouble::Truncated {
            ours: partition.offset(),
            source_end: end.offset,
        }));
    }
    match answer.preferred {
        Some(other) if other != broker && answer.records.is_empty() => {
            Judged::Fall(Why::Preferred(other))
        }
        _ => Judged::Read,
    }
}

/// The bounds of an answer without error. What it leaves out stays as it was.
fn bounds(answer: &PartitionAnswer, told: Option<Bounds>) -> Bounds {
    let log_start = if answer.log_start < Offset::ZERO {
        told.map_or(Offset::ZERO, |told| told.log_start)
    } else {
        answer.log_start
    };
    Bounds { log_start, high_watermark: answer.high_watermark }
}

fn damage_trouble(ours: Offset, damage: Damage) -> Trouble {
    match damage {
        Damage::Batch(BatchError::Format { magic, .. }) => Trouble::Format { ours, magic },
        damage => Trouble::Corrupt { ours, detail: damage.to_string() },
    }
}
