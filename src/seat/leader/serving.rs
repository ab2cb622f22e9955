//! Answers to followers: takes their fetches in, holds them back while there is nothing to say, and
//! puts answers together from what the partitions may say.

use std::collections::HashSet;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;

use super::answers::{self, Limits, NOT_LEADER, NOT_NOW, Piece};
use super::handle::{FollowerAnswer, FollowerRequest, PartitionAnswer, Question, QuestionAnswer};
use super::sessions::{Asked, SessionError, SessionId};
use super::strays;
use super::task::LeaderTask;
use crate::image::Image;
use crate::mirror::partition::FollowerFetch;
use crate::types::{BrokerEpoch, BrokerId, PartitionKey};

/// A follower's request that waits for something to be said.
#[derive(Debug)]
pub(super) struct Parked {
    reply: oneshot::Sender<FollowerAnswer>,
    broker_epoch: BrokerEpoch,
    pub(super) deadline: Instant,
    max_bytes: usize,
    is_full: bool,
    /// Whether the session ends with this answer.
    is_single: bool,
}

impl LeaderTask {
    pub(super) fn on_fetch(
        &mut self,
        request: FollowerRequest,
        reply: oneshot::Sender<FollowerAnswer>,
    ) {
        let now = self.now();
        let id = match self.sessions.accept(&request, now) {
            Ok(id) => id,
            Err(error) => {
                let error = match error {
                    SessionError::UnknownId => 70,
                    SessionError::WrongEpoch => 71,
                };
                let _gone = reply.send(FollowerAnswer { error, ..FollowerAnswer::default() });
                return;
            }
        };
        for partition in &request.partitions {
            let fetch = FollowerFetch {
                broker: request.broker,
                broker_epoch: request.broker_epoch,
                current_leader_epoch: partition.current_leader_epoch,
                offset: partition.offset,
                last_fetched_epoch: partition.last_fetched_epoch,
            };
            self.note_fetch(partition.key, fetch, now);
        }
        let parked = Parked {
            reply,
            broker_epoch: request.broker_epoch,
            deadline: Instant::now() + request.max_wait,
            max_bytes: request.max_bytes,
            is_full: request.session_epoch <= 0,
            is_single: request.session_epoch < 0,
        };
        self.parked.insert(id, parked);
        self.stirred.insert(id);
    }

    fn note_fetch(&mut self, key: PartitionKey, fetch: FollowerFetch, now: Duration) {
        let Some(led) = self.led.get_mut(&key) else {
            self.note_waiting(key, fetch);
            return self.note_stray_fetch(key, fetch, now);
        };
        let before = (led.leadership.high_watermark(), led.leadership.history().is_some());
        match led.on_fetch(now, fetch) {
            Ok(()) => {
                if (led.leadership.high_watermark(), led.leadership.history().is_some()) != before {
                    self.mark(key);
                    self.read_on(key);
                }
            }
            Err(error) => self.on_broken_history(key, &error),
        }
    }

    pub(super) fn answer_stirred(&mut self) {
        let now = Instant::now();
        let expired = self.parked.iter().filter(|(_, parked)| parked.deadline <= now);
        let due: HashSet<_> = expired.map(|(&id, _)| id).collect();
        for id in self.stirred.drain().chain(due.clone()).collect::<HashSet<_>>() {
            if let Some(parked) = self.parked.remove(&id) {
                self.answer(id, parked, due.contains(&id));
            }
        }
    }

    /// Answers a session, or parks its request again where there is nothing to say yet.
    fn answer(&mut self, id: SessionId, parked: Parked, is_due: bool) {
        let partitions = self.collect(id, &parked);
        let has_news = partitions.iter().any(|answer| {
            let is_cut = answer.diverging.is_some();
            is_cut || !answer.records.is_empty() || !matches!(answer.error, 0 | NOT_NOW)
        });
        // A full answer names every partition, so it is news only where it says something. Until
        // then nothing of it counts as told.
        let is_news = if parked.is_full { has_news } else { !partitions.is_empty() };
        if !is_news && !is_due {
            self.parked.insert(id, parked);
            return;
        }
        let Some(session) = self.sessions.session(id) else { return };
        for answer in &partitions {
            session.told(answer.key, answer.high_watermark, answer.log_start);
        }
        let session_id = if parked.is_single { 0 } else { id.0 };
        if parked.is_single {
            self.sessions.close(id);
        }
        let _gone = parked.reply.send(FollowerAnswer { error: 0, session_id, partitions });
    }

    fn collect(&mut self, id: SessionId, parked: &Parked) -> Vec<PartitionAnswer> {
        let Some(session) = self.sessions.session(id) else { return Vec::new() };
        if parked.is_full {
            for key in session.keys().collect::<Vec<_>>() {
                session.mark(key);
            }
        }
        let broker = session.broker;
        let mut limits =
            Limits { bytes_left: parked.max_bytes, is_first: true, is_full: parked.is_full };
        let mut answers: Vec<PartitionAnswer> = Vec::new();
        let mut without_room = Vec::new();
        for _ in 0..session.ready_count() {
            let Some((key, asked)) = session.next_ready() else { break };
            let fetch = fetch_of(broker, parked.broker_epoch, &asked);
            let piece = match (self.led.get_mut(&key), self.strays.get_mut(&key)) {
                (Some(led), _) => {
                    let piece = answers::piece(led, fetch, &asked, key, limits);
                    led.notes.drain(..).for_each(|event| self.events.send(event));
                    piece
                }
                (None, Some(stray)) => strays::piece(stray, fetch, &asked, key, limits.is_full),
                (None, None) => Piece::Answer(answers::refused(
                    key,
                    not_led(&self.image, self.config.seat, key),
                )),
            };
            match piece {
                Piece::Answer(answer) => {
                    let size: usize = answer.records.iter().map(bytes::Bytes::len).sum();
                    limits.bytes_left = limits.bytes_left.saturating_sub(size);
                    limits.is_first &= size == 0;
                    answers.push(answer);
                }
                Piece::Nothing => {}
                Piece::Refill(request) => {
                    let _stopped = self.refills.send(request);
                    if limits.is_full {
                        answers.push(answers::refused(key, NOT_NOW));
                    }
                }
                Piece::NoRoom => without_room.push(key),
            }
        }
        for key in without_room {
            session.mark(key);
        }
        answers
    }

    pub(super) fn on_question(&self, broker: BrokerId, question: &Question) -> QuestionAnswer {
        let Some(led) = self.led.get(&question.key) else {
            return Err(not_led(&self.image, self.config.seat, question.key));
        };
        answers::answer(led, broker, question)
    }

    pub(super) fn on_disconnected(&mut self, connection: u64) {
        for id in self.sessions.close_all_of(connection) {
            self.parked.remove(&id);
        }
    }
}

fn fetch_of(broker: BrokerId, broker_epoch: BrokerEpoch, asked: &Asked) -> FollowerFetch {
    FollowerFetch {
        broker,
        broker_epoch,
        current_leader_epoch: asked.current_leader_epoch,
        offset: asked.offset,
        last_fetched_epoch: asked.last_fetched_epoch,
    }
}

/// What to say of a partition that we do not lead, or do not yet.
fn not_led(image: &Image, seat: BrokerId, key: PartitionKey) -> i16 {
    match image.partition(key) {
        Some(partition) if partition.leader == Some(seat) => NOT_NOW,
        _ => NOT_LEADER,
    }
}
