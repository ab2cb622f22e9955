//! Reads the source's leaders as a consumer does, and tells the board what they have had.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use bytes::Bytes;
use uuid::Uuid;

use super::super::judge::log::EARLIEST;
use super::super::judge::{Batch, Judge, Place, Topic};
use super::board::{Board, Pair};
use super::{ANSWER_TIMEOUT, FETCH_BYTES, Look};

/// Between two looks.
pub(super) const PAUSE: Duration = Duration::from_millis(100);
/// Leaders and ids are looked up this often, and when somebody does not lead.
const LOOK_UP: Duration = Duration::from_secs(1);
const OUT_OF_RANGE: i16 = 1;

pub(super) struct Source {
    brokers: Vec<(i32, String)>,
    pairs: Vec<Pair>,
    board: Board,
    judges: BTreeMap<i32, Judge>,
    topics: BTreeMap<String, Topic>,
    looked_up: Option<Instant>,
    /// Epoch of the last batch read, by mirror and partition.
    epochs: BTreeMap<(String, i32), i32>,
}

impl Source {
    pub(super) fn new(brokers: Vec<(i32, String)>, pairs: Vec<Pair>, board: Board) -> Self {
        let (judges, topics, epochs) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        Self { brokers, pairs, board, judges, topics, looked_up: None, epochs }
    }

    fn look_up(&mut self) -> Result<()> {
        if self.looked_up.is_some_and(|at| at.elapsed() < LOOK_UP) {
            return Ok(());
        }
        let mut judge = self.any_judge()?;
        for pair in self.pairs.clone() {
            let Ok(found) = judge.1.topic(&pair.source) else {
                self.topics.remove(&pair.source);
                continue;
            };
            self.on_topic(&pair, found);
        }
        self.judges.insert(judge.0, judge.1);
        self.looked_up = Some(Instant::now());
        Ok(())
    }

    /// Another id is another topic, whatever its name.
    fn on_topic(&mut self, pair: &Pair, found: Topic) {
        let before = self.epochs.keys().filter(|(mirror, _)| *mirror == pair.mirror);
        let before: Vec<_> = before.map(|(_, partition)| *partition).collect();
        let known = self.topics.get(&pair.source);
        if known.is_some_and(|known| known.id != found.id) {
            for partition in before {
                self.epochs.remove(&(pair.mirror.clone(), partition));
                self.board.at_source(&pair.mirror, partition, |source| source.on_source_cut(0));
            }
        }
        self.topics.insert(pair.source.clone(), found);
    }

    fn any_judge(&mut self) -> Result<(i32, Judge)> {
        let mut last = None;
        for (id, address) in &self.brokers {
            let judge = self.judges.remove(id);
            let judge = judge.map_or_else(|| Judge::connect_patient(address, ANSWER_TIMEOUT), Ok);
            match judge {
                Ok(judge) => return Ok((*id, judge)),
                Err(error) => last = Some(error),
            }
        }
        Err(last.context("a source without brokers")?)
    }

    /// Partitions of one leader: the mirror's name, and where to read on.
    fn places(&self, leader: i32) -> Vec<(String, Place)> {
        let mut places = Vec::new();
        for pair in &self.pairs {
            let Some(topic) = self.topics.get(&pair.source) else { continue };
            let led = topic.partitions.iter().filter(|(_, found)| found.leader == leader);
            for partition in led.map(|(partition, _)| *partition) {
                let key = (pair.mirror.clone(), partition);
                let offset = self.board.at_source(&pair.mirror, partition, |at| Ok(at.end()));
                let place = Place {
                    topic: pair.source.clone(),
                    id: topic.id,
                    partition,
                    offset,
                    last_epoch: self.epochs.get(&key).copied().unwrap_or(-1),
                };
                places.push((pair.mirror.clone(), place));
            }
        }
        places
    }

    fn read(&mut self, leader: i32, judge: &mut Judge) -> Result<bool> {
        let places = self.places(leader);
        let asked = Instant::now();
        let wanted: Vec<_> = places.iter().map(|(_, place)| place.clone()).collect();
        if wanted.is_empty() {
            return Ok(false);
        }
        let mut is_more = false;
        for (index, answer) in judge.fetch_all(&wanted, FETCH_BYTES)? {
            let (mirror, place) = &places[index];
            let cut = match (answer.error_code, answer.diverging_epoch.end_offset) {
                (0, -1) => None,
                (0, end) => Some(end),
                (OUT_OF_RANGE, _) => {
                    let start = judge.list_offset(&place.topic, place.partition, EARLIEST)?;
                    let end = judge.log_end_offset(&place.topic, place.partition)?;
                    self.board.on_source_start(mirror, place.partition, start, asked);
                    (end < place.offset).then_some(end)
                }
                _ => {
                    self.looked_up = None;
                    continue;
                }
            };
            let key = (mirror.clone(), place.partition);
            if let Some(end) = cut {
                self.epochs.remove(&key);
                self.board.at_source(mirror, place.partition, |at| at.on_source_cut(end));
                is_more = true;
                continue;
            }
            if answer.error_code == 0 {
                let start = answer.log_start_offset;
                self.board.on_source_start(mirror, place.partition, start, asked);
                let mut bytes = answer.records.unwrap_or_default();
                let epoch = self.take(mirror, place.partition, &mut bytes)?;
                is_more |= epoch.is_some();
                let epoch = epoch.or_else(|| self.epochs.get(&key).copied()).unwrap_or(-1);
                self.epochs.insert(key, epoch);
            }
        }
        Ok(is_more)
    }

    /// The epoch of the last batch in there, if there is one.
    fn take(&self, mirror: &str, partition: i32, bytes: &mut Bytes) -> Result<Option<i32>> {
        let mut epoch = None;
        while let Some(batch) = Batch::take(bytes)? {
            epoch = Some(batch.leader_epoch());
            self.board.at_source(mirror, partition, |at| {
                at.on_source(&batch);
                Ok(())
            });
        }
        self.board.at_source(mirror, partition, super::reference::Reference::judge_early);
        Ok(epoch)
    }
}

impl Look for Source {
    fn look(&mut self) -> Result<bool> {
        self.look_up()?;
        let mut is_more = false;
        for (id, address) in self.brokers.clone() {
            if self.places(id).is_empty() {
                continue;
            }
            let judge = self.judges.remove(&id);
            let judge = judge.map_or_else(|| Judge::connect_patient(&address, ANSWER_TIMEOUT), Ok);
            // Others may answer.
            let Ok(mut judge) = judge else {
                self.looked_up = None;
                continue;
            };
            if let Ok(more) = self.read(id, &mut judge) {
                is_more |= more;
                self.judges.insert(id, judge);
            }
        }
        Ok(is_more)
    }
}
