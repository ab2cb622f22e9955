//! Looks at a mirror without pause while a test does things to it: the high watermark of each copy
//! never falls, and whatever a consumer could have read there is a batch that the source has.

use std::collections::BTreeMap;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};
use bytes::Bytes;

use super::cluster::Cluster;
use super::compare::open_leader;
use super::judge::{Batch, Judge};

/// Between two looks at one broker.
const PAUSE: Duration = Duration::from_millis(50);
const FETCH_BYTES: i32 = 1 << 20;
/// Leadership moves, the replica is not there yet, its high watermark is not known yet.
const NOT_NOW: [i16; 4] = [3, 6, 78, 100];

/// Threads that look, one for each broker.
pub struct Watch {
    topic: String,
    lookers: Vec<(Sender<()>, JoinHandle<Result<Seen>>)>,
}

/// What one broker showed of each partition.
type Seen = BTreeMap<i32, Copy>;

#[derive(Default)]
struct Copy {
    next_offset: i64,
    high_watermark: i64,
    batches: Vec<Batch>,
}

struct Looker {
    broker: i32,
    address: String,
    topic: String,
    /// A broker that was killed begins at the high watermark of its last checkpoint.
    may_restart: bool,
    seen: Seen,
}

impl Watch {
    /// Looks at every broker's copy of all `partitions`; those in `restarted` may go and come back.
    pub fn start(
        cluster: &Cluster,
        topic: &str,
        partitions: i32,
        restarted: &[i32],
    ) -> Result<Self> {
        let mut lookers = Vec::new();
        for broker in cluster.broker_ids() {
            let looker = Looker {
                broker,
                address: cluster.address(broker)?,
                topic: topic.to_owned(),
                may_restart: restarted.contains(&broker),
                seen: (0..partitions).map(|partition| (partition, Copy::default())).collect(),
            };
            let (stop, stopped) = mpsc::channel();
            lookers.push((stop, std::thread::spawn(move || looker.run(&stopped))));
        }
        Ok(Self { topic: topic.to_owned(), lookers })
    }

    /// Stops looking; fails with what was wrong, and with each batch seen that the source lacks. How
    /// many batches were seen.
    pub fn stop(self, source: &Cluster, source_topic: &str) -> Result<usize> {
        let mut all = Vec::new();
        for (stop, thread) in self.lookers {
            drop(stop);
            all.push(thread.join().map_err(|_panic| anyhow!("a watching thread panicked"))??);
        }
        let partitions: Vec<_> = all.iter().flat_map(|seen| seen.keys().copied()).collect();
        let mut count = 0;
        for partition in std::collections::BTreeSet::from_iter(partitions) {
            let wanted = open_leader(source, source_topic, partition)?.rest()?;
            let copies = all.iter().filter_map(|seen| seen.get(&partition));
            for copy in copies {
                for (ours, theirs) in wanted.iter().zip(&copy.batches) {
                    ensure!(
                        ours.same_but_for_epoch(theirs),
                        "{}-{partition} showed {theirs:?}, the source has {ours:?}",
                        self.topic
                    );
                }
                ensure!(copy.batches.len() <= wanted.len(), "{}-{partition} is longer", self.topic);
                count += copy.batches.len();
            }
        }
        Ok(count)
    }
}

impl Looker {
    fn run(mut self, stopped: &Receiver<()>) -> Result<Seen> {
        let mut judge = None;
        loop {
            let look = match judge.take() {
                Some(judge) => Ok(judge),
                None => Judge::connect(&self.address),
            };
            let look = look.and_then(|mut judge| self.look(&mut judge).map(|()| judge));
            match look {
                Ok(connected) => judge = Some(connected),
                // Its connection is gone: it may begin anew.
                Err(error) if self.may_restart && error.is::<Fallen>() => return Err(error),
                Err(_) if self.may_restart => {
                    self.seen.values_mut().for_each(|copy| copy.high_watermark = 0);
                }
                Err(error) => return Err(error),
            }
            match stopped.recv_timeout(PAUSE) {
                Err(RecvTimeoutError::Timeout) => {}
                Ok(()) | Err(RecvTimeoutError::Disconnected) => return Ok(self.seen),
            }
        }
    }

    fn look(&mut self, judge: &mut Judge) -> Result<()> {
        let place = format!("{} on broker {}", self.topic, self.broker);
        for (partition, copy) in &mut self.seen {
            let answer = judge.fetch(&self.topic, *partition, copy.next_offset, FETCH_BYTES);
            let answer = answer.with_context(|| place.clone())?;
            if NOT_NOW.contains(&answer.error_code) {
                continue;
            }
            if answer.error_code != 0 {
                bail!("fetch {place}-{partition}: error {}", answer.error_code);
            }
            if answer.high_watermark < copy.high_watermark {
                return Err(Fallen {
                    place: format!("{place}, partition {partition}"),
                    from: copy.high_watermark,
                    to: answer.high_watermark,
                }
                .into());
            }
            copy.high_watermark = answer.high_watermark;
            let mut bytes = answer.records.unwrap_or_else(Bytes::new);
            while let Some(batch) = Batch::take(&mut bytes)? {
                copy.next_offset = batch.next_offset();
                copy.batches.push(batch);
            }
        }
        Ok(())
    }
}

/// The one thing that must never be.
#[derive(Debug, thiserror::Error)]
#[error("high watermark of {place} fell from {from} to {to}")]
struct Fallen {
    place: String,
    from: i64,
    to: i64,
}
