//! Looks at all that one real broker has of the mirrors, leader or follower, as a consumer does.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::Result;
use kafka_protocol::messages::fetch_response::PartitionData;
use uuid::Uuid;

use super::super::judge::{Batch, Judge, Place};
use super::board::{After, Board, Pair};
use super::{ANSWER_TIMEOUT, FETCH_BYTES, Look};

/// Between two looks.
pub(super) const PAUSE: Duration = Duration::from_millis(100);
const LOOK_UP: Duration = Duration::from_secs(1);
const OUT_OF_RANGE: i16 = 1;

/// Everything of one broker.
pub(super) struct Copies {
    broker: i32,
    address: String,
    pairs: Vec<Pair>,
    board: Board,
    judge: Option<Judge>,
    looked_up: Option<Instant>,
    ids: BTreeMap<String, Uuid>,
    copies: BTreeMap<(String, i32), Copy>,
    looks: usize,
}

/// One replica.
#[derive(Clone, Debug, Default)]
struct Copy {
    next_offset: i64,
    log_start: i64,
    high_watermark: i64,
    /// Read anew after it was cut.
    is_anew: bool,
    /// Where whole batches began that it showed; some are looked at again.
    shown: Vec<i64>,
}

impl Copies {
    pub(super) fn new(broker: i32, address: &str, pairs: Vec<Pair>, board: Board) -> Self {
        Self {
            broker,
            address: address.to_owned(),
            pairs,
            board,
            judge: None,
            looked_up: None,
            ids: BTreeMap::new(),
            copies: BTreeMap::new(),
            looks: 0,
        }
    }

    fn look_up(&mut self, judge: &mut Judge) -> Result<()> {
        if self.looked_up.is_some_and(|at| at.elapsed() < LOOK_UP) {
            return Ok(());
        }
        for pair in &self.pairs {
            let Ok(found) = judge.topic(&pair.mirror) else { continue };
            if self.ids.insert(pair.mirror.clone(), found.id).is_some_and(|id| id != found.id) {
                self.copies.retain(|(mirror, _), _| *mirror != pair.mirror);
            }
            for (partition, placed) in found.partitions {
                let key = (pair.mirror.clone(), partition);
                if placed.replicas.contains(&self.broker) {
                    self.copies.entry(key).or_default();
                } else if self.copies.remove(&key).is_some() {
                    self.board.forget_copy(&pair.mirror, partition, self.broker);
                }
            }
        }
        self.looked_up = Some(Instant::now());
        Ok(())
    }

    fn read(&mut self, judge: &mut Judge) -> Result<bool> {
        let keys: Vec<_> = self.copies.keys().cloned().collect();
        let places: Vec<_> = keys.iter().filter_map(|key| self.place(key)).collect();
        if places.is_empty() {
            return Ok(false);
        }
        let mut is_more = false;
        for (index, answer) in judge.fetch_all(&places, FETCH_BYTES)? {
            let key = (places[index].topic.clone(), places[index].partition);
            let Some(mut copy) = self.copies.remove(&key) else { continue };
            is_more |= self.on_answer(&key, &mut copy, answer)?;
            self.copies.insert(key, copy);
        }
        Ok(is_more)
    }

    fn place(&self, key: &(String, i32)) -> Option<Place> {
        let (id, copy) = (*self.ids.get(&key.0)?, self.copies.get(key)?);
        let (topic, partition) = key.clone();
        Some(Place { topic, id, partition, offset: copy.next_offset, last_epoch: -1 })
    }

    fn on_answer(
        &self,
        key: &(String, i32),
        copy: &mut Copy,
        answer: PartitionData,
    ) -> Result<bool> {
        let (mirror, partition) = (key.0.as_str(), key.1);
        if answer.error_code == OUT_OF_RANGE {
            // It begins later, or ends earlier, which the next answer tells: both have bounds.
            return self.bounds(key, copy, &answer);
        }
        // Leadership moves, the replica is not there yet, its high watermark is not known yet.
        if answer.error_code != 0 {
            return Ok(false);
        }
        if self.on_bounds(key, copy, &answer) {
            return Ok(true);
        }
        let mut bytes = answer.records.unwrap_or_default();
        let mut is_more = false;
        while let Some(batch) = Batch::take(&mut bytes)? {
            match self.board.on_copy(mirror, partition, self.broker, &batch, copy.is_anew) {
                After::GoOn => {
                    copy.shown.push(batch.base_offset());
                    copy.next_offset = batch.next_offset();
                    is_more = true;
                }
                After::ReadAnew => {
                    self.read_anew(key, copy);
                    return Ok(true);
                }
            }
        }
        // Whole again: it may be cut another time.
        copy.is_anew &= is_more;
        Ok(is_more)
    }

    /// Whether the copy has to be read anew.
    fn on_bounds(&self, key: &(String, i32), copy: &mut Copy, answer: &PartitionData) -> bool {
        let place = || format!("{}-{} on broker {}", key.0, key.1, self.broker);
        if answer.high_watermark < copy.high_watermark {
            if self.board.allows_cuts() {
                self.read_anew(key, copy);
                return true;
            }
            let (from, to) = (copy.high_watermark, answer.high_watermark);
            self.board.wrong(format!("high watermark of {} fell from {from} to {to}", place()));
        }
        copy.high_watermark = answer.high_watermark;
        if answer.log_start_offset < copy.log_start {
            let (from, to) = (copy.log_start, answer.log_start_offset);
            self.board.wrong(format!("log start of {} fell from {from} to {to}", place()));
        }
        if answer.log_start_offset != copy.log_start {
            copy.log_start = answer.log_start_offset;
            self.board.on_copy_start(&key.0, key.1, self.broker, copy.log_start);
        }
        false
    }

    /// After "out of range".
    fn bounds(&self, key: &(String, i32), copy: &mut Copy, answer: &PartitionData) -> Result<bool> {
        let mut judge = Judge::connect_patient(&self.address, ANSWER_TIMEOUT)?;
        let (start, end) = judge.local_bounds(&key.0, key.1)?;
        let asked = copy.next_offset;
        if start > asked {
            copy.next_offset = start;
            return Ok(true);
        }
        if end < asked {
            let place = format!("{}-{} on broker {}", key.0, key.1, self.broker);
            if self.board.allows_cuts() || copy.high_watermark == 0 {
                self.read_anew(key, copy);
            } else {
                let code = answer.error_code;
                self.board.wrong(format!(
                    "{place} showed all up to offset {asked}, and ends at {end} now (error {code})"
                ));
            }
            return Ok(true);
        }
        Ok(false)
    }

    fn read_anew(&self, key: &(String, i32), copy: &mut Copy) {
        self.board.forget_copy(&key.0, key.1, self.broker);
        *copy = Copy { log_start: copy.log_start, is_anew: true, ..Copy::default() };
    }

    /// One batch that was shown before, of one partition: nobody may write it anew.
    fn look_again(&mut self, judge: &mut Judge) -> Result<()> {
        self.looks += 1;
        let place = {
            let Some((key, copy)) = self.copies.iter().nth(self.looks % self.copies.len().max(1))
            else {
                return Ok(());
            };
            let Some(offset) = copy.shown.get(self.looks * 7919 % copy.shown.len().max(1)) else {
                return Ok(());
            };
            if *offset < copy.log_start {
                return Ok(());
            }
            self.place(key).map(|place| Place { offset: *offset, ..place })
        };
        let Some(place) = place else { return Ok(()) };
        for (_, answer) in judge.fetch_all(std::slice::from_ref(&place), 1)? {
            let mut bytes = answer.records.unwrap_or_default();
            if let Some(batch) = Batch::take(&mut bytes)? {
                self.board.on_copy(&place.topic, place.partition, self.broker, &batch, false);
            }
        }
        Ok(())
    }
}

impl Look for Copies {
    fn look(&mut self) -> Result<bool> {
        let mut judge = match self.judge.take() {
            Some(judge) => judge,
            None => {
                let judge = Judge::connect_patient(&self.address, ANSWER_TIMEOUT)?;
                // It may have been killed: then it begins at its last checkpoint.
                for copy in self.copies.values_mut() {
                    (copy.high_watermark, copy.log_start) = (0, 0);
                }
                judge
            }
        };
        let is_again = self.looked_up.is_none_or(|at| at.elapsed() >= LOOK_UP);
        self.look_up(&mut judge)?;
        let is_more = self.read(&mut judge)?;
        if is_again {
            self.look_again(&mut judge)?;
        }
        self.judge = Some(judge);
        Ok(is_more)
    }
}
