//! The continuous checker: looks at mirrors without pause while a test does things to them. Whatever
//! a real replica shows is, of one lineage, what the source has at that offset; its high watermark
//! never falls; its log start rises only to the source's; and nobody takes what a client produces.
//! The first thing that is wrong is kept, with topic, partition, offset and broker. What does not
//! answer is not wrong: it is asked again.

mod board;
mod copy;
mod probe;
mod reference;
mod source;

use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, ensure};

use super::cluster::Cluster;
use super::daemon::Daemon;
pub use board::Seen;
use board::{Allowed, Board, Pair};

/// A silent broker must not hold the end of a test up.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(8);
const FETCH_BYTES: i32 = 4 << 20;
/// A producer that goes on must not hold it up either.
const LAST_LOOKS: Duration = Duration::from_secs(20);

/// What to look at.
#[derive(Debug)]
pub struct WatchSpec {
    source: Vec<(i32, String)>,
    destination: Vec<(i32, String)>,
    seats: Vec<String>,
    pairs: Vec<Pair>,
    allowed: Allowed,
    is_probing: bool,
}

/// Threads that look: one at the source, one at each real broker, one at each seat.
pub struct Watch {
    board: Board,
    lookers: Vec<Thread>,
    source: Thread,
}

struct Thread {
    stop: Sender<()>,
    thread: JoinHandle<()>,
}

impl Watch {
    /// Begins a watch over what the source's mirrors at the destination show.
    pub fn over(source: &Cluster, destination: &Cluster) -> Result<WatchSpec> {
        let addresses = |cluster: &Cluster| {
            let ids = cluster.broker_ids().into_iter();
            ids.map(|id| Ok((id, cluster.address(id)?))).collect::<Result<Vec<_>>>()
        };
        Ok(WatchSpec {
            source: addresses(source)?,
            destination: addresses(destination)?,
            seats: Vec::new(),
            pairs: Vec::new(),
            allowed: Allowed::default(),
            is_probing: true,
        })
    }

    /// Fails with the first thing that was wrong so far.
    pub fn check(&self) -> Result<()> {
        self.board.check()
    }

    /// Reads all to the end, and stops. Fails with the first thing that was wrong.
    pub fn stop(self) -> Result<Seen> {
        for looker in self.lookers {
            looker.end()?;
        }
        // After all others: what they showed last is then read at the source too.
        self.source.end()?;
        self.board.finish()
    }
}

impl WatchSpec {
    /// A mirror that has its source's name.
    pub fn topic(self, name: &str) -> Self {
        self.mirror(name, name)
    }

    /// A mirror with a name of its own.
    pub fn mirror(mut self, source: &str, mirror: &str) -> Self {
        self.pairs.push(Pair { source: source.to_owned(), mirror: mirror.to_owned() });
        self
    }

    /// Clients produce to this daemon's seat too.
    pub fn seat(mut self, daemon: &Daemon) -> Self {
        self.seats.push(daemon.seat_address());
        self
    }

    /// Nobody produces: for mirrors that are promoted while the watch runs.
    pub fn without_probes(mut self) -> Self {
        self.is_probing = false;
        self
    }

    /// The operator said that copies may be cut where the source was: a copy that falls back is
    /// read anew.
    pub fn may_be_cut(mut self) -> Self {
        self.allowed.cuts = true;
        self
    }

    /// The test deletes records at the destination.
    pub fn may_start_after_source(mut self) -> Self {
        self.allowed.later_starts = true;
        self
    }

    /// Both sides compact on their own: batches are not compared.
    pub fn compacted(mut self) -> Self {
        self.allowed.other_batches = true;
        self
    }

    /// Begins to look.
    pub fn start(self) -> Result<Watch> {
        ensure!(!self.pairs.is_empty(), "a watch over no topic");
        let board = Board::new(self.allowed);
        let source = source::Source::new(self.source, self.pairs.clone(), board.clone());
        let source = Thread::start(source::PAUSE, source);
        let mut lookers = Vec::new();
        for (broker, address) in self.destination {
            let copy = copy::Copies::new(broker, &address, self.pairs.clone(), board.clone());
            lookers.push(Thread::start(copy::PAUSE, copy));
            if self.is_probing {
                let probe = probe::Probe::new(&address, self.pairs.clone(), board.clone());
                lookers.push(Thread::start(probe::PAUSE, probe));
            }
        }
        for address in self.seats.iter().filter(|_| self.is_probing) {
            let probe = probe::Probe::new(address, self.pairs.clone(), board.clone());
            lookers.push(Thread::start(probe::PAUSE, probe));
        }
        Ok(Watch { board, lookers, source })
    }
}

/// Something that looks again and again.
trait Look: Send + 'static {
    /// One look; whether there may be more to see at once. An error is somebody who does not answer.
    fn look(&mut self) -> Result<bool>;
}

impl Thread {
    fn start(pause: Duration, mut looks: impl Look) -> Self {
        let (stop, stopped) = mpsc::channel();
        let thread = std::thread::spawn(move || {
            while !is_stopped(&stopped, pause) {
                let _nobody_there = looks.look();
            }
            // To the end, if there is an answer, and if there is an end.
            let begun = Instant::now();
            while looks.look().unwrap_or(false) && begun.elapsed() < LAST_LOOKS {}
        });
        Self { stop, thread }
    }

    fn end(self) -> Result<()> {
        drop(self.stop);
        self.thread.join().map_err(|_panic| anyhow!("a watching thread panicked"))
    }
}

fn is_stopped(stopped: &Receiver<()>, pause: Duration) -> bool {
    match stopped.recv_timeout(pause) {
        Err(RecvTimeoutError::Timeout) => false,
        Ok(()) | Err(RecvTimeoutError::Disconnected) => true,
    }
}
