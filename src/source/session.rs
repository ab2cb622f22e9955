//! One connection to one source broker: a task with its partitions and its fetch session. It asks,
//! waits, delivers, and asks again; whatever it cannot settle alone goes back to the router.

use std::collections::{HashMap, HashSet};
use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use kafka_protocol::messages::FetchRequest;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::answer::{self, AnswerError};
use super::fetch_session::{FetchSession, Outcome, WireKey};
use super::messages::{Command, Report, Shared, SlotId, Why};
use super::meters::OpenConnection;
use super::partition::Partition;
use super::request::{self, Limits};
use super::verdict::error_text;
use super::{LARGE_BYTES, LONG_WAIT, MEDIUM_BYTES, SHORT_WAIT, SMALL_BYTES};
use crate::client::{ClientError, Connection};
use crate::tail::budget::{MemoryBudget, Reservation};
use crate::types::{BrokerId, PartitionKey};

/// For so long after a change of its partitions a session asks with short waits: more of the kind
/// may be under way, and a long poll would keep them waiting.
const SETTLING: Duration = Duration::from_secs(1);
/// A connection without partitions is kept for so long.
const IDLE_CONNECTION: Duration = Duration::from_secs(30);
/// A broker counts as well again once a connection has held so long: one that breaks after each
/// answer must not be come back to at once each time.
const STEADY: Duration = Duration::from_secs(5);
/// One answer while behind is to take about so long: over a slow link others wait for it.
const ANSWER_TIME: Duration = Duration::from_secs(2);
/// No broker means to be left alone for longer in one answer.
const MAX_THROTTLE: Duration = Duration::from_secs(60);
/// From this version on an answer says where the log starts.
const MIN_VERSION: i16 = 5;
/// What is newer concerns followers only.
const MAX_VERSION: i16 = 17;

/// Why a session cannot go on. All of it is tried again, with backoff, by the router.
#[derive(Debug, thiserror::Error)]
pub(super) enum SessionError {
    /// The connection, or the way to it.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// Not a Fetch answer.
    #[error("read from broker {0}: {1}")]
    Answer(BrokerId, AnswerError),
    /// An error for the whole request.
    #[error("fetch from broker {0}: {1}")]
    Refused(BrokerId, String),
    /// An answer that belongs to another fetch session.
    #[error("fetch from broker {0}: the answer is of another fetch session")]
    OtherSession(BrokerId),
    /// Older than Kafka 1.0.
    #[error("fetch from broker {0}: it knows no Fetch version from 5 on")]
    TooOld(BrokerId),
    /// The other ends of the channels are gone.
    #[error("the daemon is stopping")]
    Stopping,
}

/// The open connection of a session.
struct Wire {
    connection: Connection,
    version: i16,
    fetches: FetchSession,
    said_alive: bool,
    opened_at: Instant,
    _counted: OpenConnection,
}

/// The task of one connection.
pub(super) struct Session {
    pub(super) slot: SlotId,
    pub(super) shared: Arc<Shared>,
    pub(super) reports: mpsc::UnboundedSender<Report>,
    commands: mpsc::UnboundedReceiver<Command>,
    pub(super) partitions: HashMap<WireKey, Box<Partition>>,
    names: HashMap<PartitionKey, WireKey>,
    /// Changed since the broker was last told.
    pub(super) dirty: HashSet<WireKey>,
    /// Without room; the broker is to forget them until there is some.
    pub(super) full: HashSet<WireKey>,
    /// When `full` last grew.
    pub(super) filled_at: Instant,
    given_at: Instant,
    pub(super) by_id: bool,
    /// Whether more lies at the source than one small answer holds.
    pub(super) behind: bool,
    /// A batch was damaged: the next try has to be on another connection.
    pub(super) reconnect: bool,
    /// When the broker answered last, or was to begin to.
    heard_at: Instant,
    /// Bytes per second as last seen of a large answer.
    pace: Option<f64>,
}

impl Session {
    pub(super) fn new(
        slot: SlotId,
        shared: Arc<Shared>,
        reports: mpsc::UnboundedSender<Report>,
        commands: mpsc::UnboundedReceiver<Command>,
    ) -> Self {
        let now = Instant::now();
        Self {
            slot,
            shared,
            reports,
            commands,
            partitions: HashMap::new(),
            names: HashMap::new(),
            dirty: HashSet::new(),
            full: HashSet::new(),
            filled_at: now,
            given_at: now,
            by_id: slot.by_id,
            behind: false,
            reconnect: false,
            heard_at: now,
            pace: None,
        }
    }

    /// Serves until the connection fails; gives back what it has.
    pub(super) async fn run(mut self) {
        let Err(error) = self.serve().await;
        let error = error.to_string();
        // From here on the router's sends fail; what it sent before goes back too.
        self.commands.close();
        let mut partitions: Vec<_> = self.partitions.drain().map(|(_, p)| p).collect();
        while let Ok(command) = self.commands.try_recv() {
            if let Command::Give(partition) = command {
                partitions.push(partition);
            }
        }
        let (slot, silence) = (self.slot, self.heard_at.elapsed());
        let _router_gone = self.reports.send(Report::Closed { slot, partitions, error, silence });
    }

    async fn serve(&mut self) -> Result<Infallible, SessionError> {
        let mut wire: Option<Wire> = None;
        loop {
            while let Ok(command) = self.commands.try_recv() {
                self.apply(command, wire.as_mut());
            }
            if self.partitions.is_empty() {
                self.wait_for_work(&mut wire).await?;
                continue;
            }
            if self.reconnect {
                wire = None;
                self.reconnect = false;
            }
            let mut open = match wire.take().filter(|wire| wire.connection.is_open()) {
                Some(open) => open,
                None => self.connect().await?,
            };
            self.sort_by_room(&open.fetches);
            if self.full.len() == self.partitions.len() {
                self.wait_for_room(&mut open).await?;
            } else {
                self.fetch(&mut open).await?;
            }
            wire = Some(open);
        }
    }

    async fn connect(&mut self) -> Result<Wire, SessionError> {
        let broker = self.slot.broker;
        let connection = self.shared.cluster.dedicated(broker).await?;
        let version = connection
            .version::<FetchRequest>()
            .filter(|version| *version >= MIN_VERSION)
            .ok_or(SessionError::TooOld(broker))?
            .min(MAX_VERSION);
        self.by_id = self.slot.by_id && version >= answer::BY_ID;
        self.name_anew();
        Ok(Wire {
            connection,
            version: if self.by_id { version } else { version.min(answer::BY_ID - 1) },
            fetches: FetchSession::default(),
            said_alive: false,
            opened_at: Instant::now(),
            _counted: self.shared.meters.connection(),
        })
    }

    /// Another connection may name topics in another way, and what is at its other end may have
    /// another log: a connection that was closed between two fetches tells nobody.
    fn name_anew(&mut self) {
        let partitions: Vec<_> = self.partitions.drain().map(|(_, p)| p).collect();
        self.names.clear();
        self.dirty.clear();
        self.full.clear();
        for mut partition in partitions {
            partition.doubt();
            self.insert(partition);
        }
    }

    fn insert(&mut self, partition: Box<Partition>) {
        let name = partition.wire_key(self.by_id);
        self.dirty.insert(name.clone());
        self.names.insert(partition.follow.key, name.clone());
        self.partitions.insert(name, partition);
    }

    /// Takes a partition out; the broker forgets it with the next request.
    pub(super) fn remove(&mut self, name: &WireKey) -> Option<Box<Partition>> {
        let partition = self.partitions.remove(name)?;
        self.names.remove(&partition.follow.key);
        self.full.remove(name);
        self.dirty.insert(name.clone());
        Some(partition)
    }

    fn apply(&mut self, command: Command, wire: Option<&mut Wire>) {
        match command {
            Command::Give(partition) => {
                let older = self.names.get(&partition.follow.key).cloned();
                older.and_then(|name| self.remove(&name));
                let name = partition.wire_key(self.by_id);
                // The broker has said all it knows to the older order; the new one needs to hear
                // it again.
                if let Some(wire) = wire.filter(|wire| wire.fetches.knows(&name)) {
                    wire.fetches.renew();
                }
                self.given_at = Instant::now();
                self.insert(partition);
            }
            Command::Take { key, ticket, give_back } => {
                let name = self.names.get(&key).cloned();
                let name = name.filter(|name| {
                    let partition = self.partitions.get(name);
                    partition.is_some_and(|partition| partition.ticket == ticket)
                });
                if let Some(partition) = name.and_then(|name| self.remove(&name))
                    && give_back
                {
                    self.give_back(partition, Why::Recalled);
                }
            }
        }
    }

    /// Hands a partition, already taken out, to the router.
    pub(super) fn give_back(&self, partition: Box<Partition>, why: Why) {
        // The router only goes away when all stops.
        let _stopping = self.reports.send(Report::Returned(partition, why));
    }

    async fn wait_for_work(&mut self, wire: &mut Option<Wire>) -> Result<(), SessionError> {
        let command = match tokio::time::timeout(IDLE_CONNECTION, self.commands.recv()).await {
            Ok(command) => command,
            Err(_idle) => {
                *wire = None;
                self.commands.recv().await
            }
        };
        self.apply(command.ok_or(SessionError::Stopping)?, wire.as_mut());
        Ok(())
    }

    /// Brings `full` up to date. Only what changed is looked at, and what had no room; everything
    /// where the next request names everything.
    fn sort_by_room(&mut self, fetches: &FetchSession) {
        let is_free = |partitions: &HashMap<WireKey, Box<Partition>>, name: &WireKey| {
            partitions.get(name).is_some_and(|partition| partition.follow.room.is_free())
        };
        let (partitions, dirty) = (&self.partitions, &mut self.dirty);
        let behind = &mut self.behind;
        self.full.retain(|name| {
            let stays = partitions.contains_key(name) && !is_free(partitions, name);
            if !stays {
                dirty.insert(name.clone());
                // More has come meanwhile, or it would not have been without room.
                *behind = true;
            }
            stays
        });
        let before = self.full.len();
        if fetches.is_full() {
            let full = partitions.keys().filter(|name| !is_free(partitions, name));
            self.full.extend(full.cloned());
        } else {
            let full = self
                .dirty
                .iter()
                .filter(|name| partitions.contains_key(name) && !is_free(partitions, name));
            self.full.extend(full.cloned());
        }
        if self.full.len() > before {
            self.filled_at = Instant::now();
        }
    }

    /// Waits until a partition has room again, or the router wants something.
    async fn wait_for_room(&mut self, wire: &mut Wire) -> Result<(), SessionError> {
        let rooms: Vec<_> = self.partitions.values().map(|p| Arc::clone(&p.follow.room)).collect();
        let mut waits: Vec<Pin<Box<dyn Future<Output = ()> + Send>>> = Vec::new();
        for room in rooms {
            waits.push(Box::pin(async move { room.wait_free().await }));
        }
        let any_free = std::future::poll_fn(move |context| {
            let ready = waits.iter_mut().any(|wait| wait.as_mut().poll(context).is_ready());
            if ready { Poll::Ready(()) } else { Poll::Pending }
        });
        tokio::select! {
            () = any_free => Ok(()),
            command = self.commands.recv() => {
                self.apply(command.ok_or(SessionError::Stopping)?, Some(wire));
                Ok(())
            }
        }
    }

    async fn fetch(&mut self, wire: &mut Wire) -> Result<(), SessionError> {
        let Some((reservation, reserved)) = self.reserve(wire).await? else {
            return Ok(());
        };
        let (partitions, full) = (&self.partitions, &self.full);
        let keeps_epochs = wire.version >= request::LAST_EPOCH;
        let wanted = |name: &WireKey| {
            let partition = partitions.get(name).filter(|_| !full.contains(name))?;
            partition.asked(keeps_epochs)
        };
        let plan = wire.fetches.plan(&self.dirty, wanted, partitions.keys());
        self.dirty.clear();
        let limits = Limits {
            max_wait: self.max_wait(),
            // What surrounds the records has to fit the reservation too.
            max_bytes: reserved - reserved / 8,
        };
        let rack = self.shared.rack.as_deref().filter(|_| self.slot.tells_rack);
        let request = request::fetch(&plan, limits, rack, wire.version);
        let begun = Instant::now();
        self.heard_at = begun;
        let frame = wire.connection.request_frame(wire.version, &request).await?;
        self.shared.meters.fetched(begun.elapsed());
        self.pace = pace(self.pace, frame.len(), begun.elapsed());
        let broker = self.slot.broker;
        let answer = answer::read(&frame, wire.version)
            .map_err(|error| SessionError::Answer(broker, error))?;
        match wire.fetches.answered(answer.error, answer.session_id) {
            Outcome::Kept if answer.error == 0 => {}
            Outcome::Kept => {
                return Err(SessionError::Refused(broker, error_text(answer.error)));
            }
            Outcome::Renewed => return Ok(()),
            Outcome::Nonsense => return Err(SessionError::OtherSession(broker)),
        }
        if !wire.said_alive && wire.opened_at.elapsed() >= STEADY {
            wire.said_alive = true;
            let _stopping = self.reports.send(Report::Alive(broker));
        }
        let throttle = answer.throttle.min(MAX_THROTTLE);
        self.deliver(answer.partitions, frame, reservation, reserved).await?;
        if !throttle.is_zero() {
            self.shared.meters.throttled(throttle);
            tokio::time::sleep(throttle).await;
        }
        Ok(())
    }

    /// Sets memory aside for the next answer: little at the tail, where many long polls wait for
    /// nothing; much when behind. `None` when the router wanted something meanwhile.
    async fn reserve(
        &mut self,
        wire: &mut Wire,
    ) -> Result<Option<(Reservation, usize)>, SessionError> {
        let budget = self.shared.budget.clone();
        // A part of the budget, so that one session alone never has it all.
        let most = LARGE_BYTES.min(budget.total() / 8);
        let in_time = self.pace.map_or(most, |pace| (pace * ANSWER_TIME.as_secs_f64()) as usize);
        let most = most.min(in_time).max(SMALL_BYTES);
        let wanted = if self.behind { most } else { SMALL_BYTES };
        if let Some(reservation) = reserve_now(&budget, wanted).await {
            return Ok(Some((reservation, wanted)));
        }
        // Memory is short. Less comes sooner, and does not keep others waiting behind it.
        let wanted = wanted.min(MEDIUM_BYTES);
        tokio::select! {
            reservation = budget.reserve(wanted) => Ok(Some((reservation, wanted))),
            command = self.commands.recv() => {
                self.apply(command.ok_or(SessionError::Stopping)?, Some(wire));
                Ok(None)
            }
        }
    }

    /// How long the broker may keep the request when there is nothing new. Partitions without room
    /// come back only with the next request: it must not be long after the first of them has room,
    /// but one that stays without room must not make us ask for ever in a hurry.
    fn max_wait(&self) -> Duration {
        if self.given_at.elapsed() < SETTLING {
            SHORT_WAIT
        } else if self.full.is_empty() {
            LONG_WAIT
        } else {
            (self.filled_at.elapsed() / 8).clamp(SHORT_WAIT, LONG_WAIT)
        }
    }
}

/// Bytes per second after one more answer; small ones tell of the way there and back only.
fn pace(before: Option<f64>, bytes: usize, time: Duration) -> Option<f64> {
    if bytes < SMALL_BYTES / 2 {
        return before;
    }
    let now = bytes as f64 / time.as_secs_f64().max(0.001);
    Some(before.map_or(now, |before| (before + now) / 2.0))
}

/// Memory, if it is there without waiting.
pub(super) async fn reserve_now(budget: &MemoryBudget, bytes: usize) -> Option<Reservation> {
    tokio::select! {
        biased;
        reservation = budget.reserve(bytes) => Some(reservation),
        () = std::future::ready(()) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pace_follows_the_link_and_not_the_long_poll() {
        assert_eq!(pace(None, 100, LONG_WAIT), None);
        let slow = pace(None, SMALL_BYTES, Duration::from_secs(1));
        assert_eq!(slow, Some(SMALL_BYTES as f64));
        assert_eq!(pace(slow, 100, LONG_WAIT), slow);
        let faster = pace(slow, 3 * SMALL_BYTES, Duration::from_secs(1));
        assert_eq!(faster, Some(2.0 * SMALL_BYTES as f64));
        assert!(pace(None, SMALL_BYTES, Duration::ZERO).is_some_and(f64::is_finite));
    }
}
