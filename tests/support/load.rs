//! A producer that never rests and costs little: raw batches, to whoever leads, each until it is
//! acknowledged. What a lost answer makes twice is in the source twice: only the copy is judged.

use std::collections::BTreeMap;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, anyhow, ensure};

use super::cluster::Cluster;
use super::judge::Judge;
use super::judge::produce::plain_batch;

const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
const RECORDS: usize = 10;
const RECORD_BYTES: usize = 100;
const ACKS_ALL: i16 = -1;

/// Produces until it is stopped.
pub struct Load {
    stop: Sender<()>,
    thread: JoinHandle<Producer>,
}

struct Producer {
    brokers: BTreeMap<i32, String>,
    topic: String,
    partitions: i32,
    judges: BTreeMap<i32, Judge>,
    leaders: BTreeMap<i32, i32>,
    sent: usize,
}

impl Load {
    /// So many batches of ten small records a second, over all partitions of a topic in turn.
    pub fn start(
        cluster: &Cluster,
        topic: &str,
        partitions: i32,
        batches_a_second: u32,
    ) -> Result<Self> {
        let ids = cluster.broker_ids().into_iter();
        let brokers = ids.map(|id| Ok((id, cluster.address(id)?))).collect::<Result<_>>()?;
        let mut producer = Producer {
            brokers,
            topic: topic.to_owned(),
            partitions,
            judges: BTreeMap::new(),
            leaders: BTreeMap::new(),
            sent: 0,
        };
        let (stop, stopped) = mpsc::channel();
        let pause = Duration::from_secs(1) / batches_a_second;
        let thread = std::thread::spawn(move || {
            while !is_stopped(&stopped, pause) {
                if producer.send().is_err() {
                    producer.leaders.clear();
                    producer.judges.clear();
                }
            }
            producer
        });
        Ok(Self { stop, thread })
    }

    /// Stops; how many records were acknowledged.
    pub fn stop(self) -> Result<usize> {
        drop(self.stop);
        let producer = self.thread.join().map_err(|_panic| anyhow!("the producer panicked"))?;
        Ok(producer.sent)
    }
}

impl Producer {
    fn send(&mut self) -> Result<()> {
        let number = i32::try_from(self.sent / RECORDS)?;
        let partition = number % self.partitions;
        let leader = self.leader(partition)?;
        let mut judge = self.judge(leader)?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?;
        let value = [number.to_le_bytes()[0]; RECORD_BYTES];
        let batch = plain_batch(&[&value[..]; RECORDS], i64::try_from(now.as_millis())?);
        let answer = judge.produce(&self.topic, partition, ACKS_ALL, batch)?;
        ensure!(answer.error_code == 0, "error {}", answer.error_code);
        self.judges.insert(leader, judge);
        self.sent += RECORDS;
        Ok(())
    }

    fn leader(&mut self, partition: i32) -> Result<i32> {
        if let Some(leader) = self.leaders.get(&partition) {
            return Ok(*leader);
        }
        let mut last = None;
        for id in self.brokers.keys().copied().collect::<Vec<_>>() {
            match self.judge(id).and_then(|mut judge| judge.topic(&self.topic)) {
                Ok(found) => {
                    let led = found.partitions.iter();
                    self.leaders = led.map(|(index, found)| (*index, found.leader)).collect();
                    let leader = self.leaders.get(&partition).copied();
                    return leader.context("a topic without the partition");
                }
                Err(error) => last = Some(error),
            }
        }
        Err(last.context("a cluster without brokers")?)
    }

    fn judge(&mut self, id: i32) -> Result<Judge> {
        match self.judges.remove(&id) {
            Some(judge) => Ok(judge),
            None => {
                let address = self.brokers.get(&id).context("a leader that is no broker")?;
                Judge::connect_patient(address, ANSWER_TIMEOUT)
            }
        }
    }
}

fn is_stopped(stopped: &Receiver<()>, pause: Duration) -> bool {
    match stopped.recv_timeout(pause) {
        Err(RecvTimeoutError::Timeout) => false,
        Ok(()) | Err(RecvTimeoutError::Disconnected) => true,
    }
}
