//! Everything that is not the daemon, in one place behind one lock, and what is known of the run.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use kafka_protocol::messages::fetch_response::PartitionData;
use lockstep::types::Uuid;
use tokio::io::DuplexStream;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::broker::Broker;
use super::chance::Chance;
use super::check::Checker;
use super::controller::{Controller, Key};
use super::source::Source;

/// The seat's broker id.
pub const SEAT: i32 = 9001;
/// Its stable directory.
pub const DIRECTORY: Uuid = Uuid::from_u128(1 << 64);
/// Lines of the trace that a report shows.
const TRACE_SHOWN: usize = 250;

/// A handle on the world.
#[derive(Clone)]
pub struct Shared(Arc<Mutex<World>>);

/// Who talks to the daemon.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Party {
    Source(i32),
    Broker(i32),
    Controller,
}

/// All models.
pub struct World {
    pub seed: u64,
    pub chance: Chance,
    pub began: Instant,
    pub source: Source,
    pub controller: Controller,
    pub brokers: BTreeMap<i32, Broker>,
    /// Where followers' connections to the seat arrive; `None` while the daemon is down.
    pub door: Option<mpsc::UnboundedSender<DuplexStream>>,
    /// Grows with each start of the daemon.
    pub seat_life: u64,
    /// Who cannot be talked to now: what is sent waits, as on a line that is cut.
    pub cut: BTreeSet<Party>,
    /// Longest delay of one message, in milliseconds.
    pub delay: u64,
    pub check: Checker,
    /// Something happened at the source after which only a person may shorten the copy.
    pub needs_a_person: bool,
    trace: Vec<String>,
}

impl Shared {
    pub fn new(seed: u64, partitions: i32, brokers: i32) -> Self {
        let mut chance = Chance::new(seed);
        let delay = chance.pick(&[2, 5, 20, 80]).unwrap();
        let brokers: BTreeMap<_, _> = (1..=brokers).map(|id| (id, Broker::new(id))).collect();
        Self(Arc::new(Mutex::new(World {
            seed,
            chance,
            began: Instant::now(),
            source: Source::new(partitions),
            controller: Controller::new(),
            brokers,
            door: None,
            seat_life: 0,
            cut: BTreeSet::new(),
            delay,
            check: Checker::default(),
            needs_a_person: false,
            trace: Vec::new(),
        })))
    }

    pub fn lock(&self) -> MutexGuard<'_, World> {
        self.0.lock().unwrap()
    }

    /// What a message takes on its way, and as long as the line is cut.
    pub async fn travel(&self, party: Party) {
        let delay = {
            let mut world = self.lock();
            let longest = world.delay;
            world.chance.below(longest + 1)
        };
        tokio::time::sleep(Duration::from_millis(delay)).await;
        while self.lock().cut.contains(&party) {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

impl World {
    /// Writes a line of the trace.
    pub fn say(&mut self, text: impl std::fmt::Display) {
        let at = self.began.elapsed().as_secs_f64();
        let line = format!("{at:9.3} {text}");
        if std::env::var_os("LOCKSTEP_SIM_TRACE").is_some() {
            println!("{line}");
        }
        self.trace.push(line);
    }

    /// The run has failed: says how, and ends the process.
    #[allow(clippy::disallowed_methods, reason = "the process is there for this one seed")]
    pub fn fail(&mut self, checker: &str, text: impl std::fmt::Display) -> ! {
        let skipped = self.trace.len().saturating_sub(TRACE_SHOWN);
        for line in &self.trace[skipped..] {
            println!("{line}");
        }
        println!(
            "VIOLATION {checker}: {text}\nseed {seed}: LOCKSTEP_SIM_SEED={seed} cargo test --test sim \
             one_seed -- --exact --nocapture",
            seed = self.seed
        );
        std::process::exit(1);
    }

    /// A follower hears of the seat what is committed.
    pub fn heard(&mut self, broker: i32, key: Key, data: &PartitionData) {
        if let Err((checker, text)) = self.check.told(broker, key, data.high_watermark) {
            self.fail(checker, text);
        }
    }

    /// Looks at everything that must always hold. Called after each change of a replica, an in-sync
    /// set or a high watermark.
    pub fn check(&mut self) {
        let found = self.check.look(&self.source, &self.controller, &self.brokers);
        if let Err((checker, text)) = found {
            self.fail(checker, text);
        }
    }

    /// Real brokers apply what is there to apply, and look after their own in-sync replicas.
    pub fn tick(&mut self) {
        let controller = &mut self.controller;
        if controller.is_up {
            for broker in self.brokers.values_mut().filter(|broker| broker.is_up) {
                if broker.epoch < 0 {
                    let incarnation =
                        Uuid::from_u128(u128::from(broker.life) * 100 + broker.id as u128);
                    let host = format!("real-{}", broker.id);
                    let known = controller.register(broker.id, incarnation, DIRECTORY, &host);
                    broker.epoch = known.unwrap_or(-1);
                }
                if broker.epoch >= 0 {
                    let applied = broker.applied as i64;
                    let _fenced =
                        controller.heartbeat(broker.id, broker.epoch, applied, false, false);
                }
            }
            controller.tick();
        }
        for broker in self.brokers.values_mut().filter(|broker| broker.is_up) {
            if self.chance.one_in(3) {
                broker.catch_up(controller);
            }
            broker.shrink(controller);
        }
        self.check();
    }
}
