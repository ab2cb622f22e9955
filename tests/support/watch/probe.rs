//! Somebody who produces to a mirror all the time, at one address: with acks 0, 1 and all, and as an
//! idempotent producer. Everybody has to refuse; what got in all the same is found by those who read.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Result;
use bytes::Bytes;

use super::super::judge::Judge;
use super::super::judge::produce::{batch_of, plain_batch};
use super::board::{Board, Pair};
use super::{ANSWER_TIMEOUT, Look};

/// Between two rounds.
pub(super) const PAUSE: Duration = Duration::from_secs(1);
const MARK: &[u8] = b"lockstep-watch-probe";
/// No broker gives out such an id in a test.
const PRODUCER_ID: i64 = 9_000_000_000;
const ACKS_ALL: i16 = -1;
/// NOT_LEADER_OR_FOLLOWER and the like are refusals too; 0 alone is none.
const TAKEN: i16 = 0;

pub(super) struct Probe {
    address: String,
    pairs: Vec<Pair>,
    board: Board,
    judge: Option<Judge>,
    rounds: usize,
}

/// Whether a batch is one of ours.
pub(super) fn is_probe(bytes: &Bytes) -> bool {
    bytes.windows(MARK.len()).any(|window| window == MARK)
}

impl Probe {
    pub(super) fn new(address: &str, pairs: Vec<Pair>, board: Board) -> Self {
        Self { address: address.to_owned(), pairs, board, judge: None, rounds: 0 }
    }

    fn connect(&mut self) -> Result<Judge> {
        match self.judge.take() {
            Some(judge) => Ok(judge),
            None => Judge::connect_patient(&self.address, ANSWER_TIMEOUT),
        }
    }

    fn round(&mut self, judge: &mut Judge, mirror: &str) -> Result<()> {
        let partitions: Vec<_> = judge.topic(mirror)?.partitions.into_keys().collect();
        let Some(partition) = partitions.get(self.rounds % partitions.len().max(1)).copied() else {
            return Ok(());
        };
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?;
        let now = i64::try_from(now.as_millis())?;
        let plain = plain_batch(&[MARK], now);
        let idempotent = batch_of(&[MARK], now, (PRODUCER_ID, 0, 0));
        for (acks, batch) in [(1, &plain), (ACKS_ALL, &plain), (ACKS_ALL, &idempotent)] {
            let answer = judge.produce(mirror, partition, acks, batch.clone())?;
            if answer.error_code == TAKEN {
                self.board.wrong(format!(
                    "{mirror}-{partition}: {} took a record with acks {acks} at offset {}",
                    self.address, answer.base_offset
                ));
            }
            self.board.refused();
        }
        // No answer to this one; to the next there is, or the connection is closed: then it was
        // looked at.
        judge.produce_unacknowledged(mirror, partition, plain.clone())?;
        judge.produce(mirror, partition, ACKS_ALL, plain)?;
        Ok(())
    }
}

impl Look for Probe {
    fn look(&mut self) -> Result<bool> {
        let mut judge = self.connect()?;
        self.rounds += 1;
        let pair = self.pairs[self.rounds / 2 % self.pairs.len()].clone();
        self.round(&mut judge, &pair.mirror)?;
        self.judge = Some(judge);
        Ok(false)
    }
}
