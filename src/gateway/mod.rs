//! Clients that reach us because we lead: each client connection is relayed to one real broker at the
//! same listener, frame by frame, and what only a leader can answer is answered here. Followers, who
//! come to the same port, are handed to the seat.
//!
//! [`classify`] has the table of what is answered, [`answers`] the answers, [`connection`] the order.

mod answers;
mod backend;
mod brokers;
mod classify;
mod complaints;
mod connection;
mod follower;
mod proof;
mod requests;
mod rights;
mod standing;
mod transport;
mod versions;

use std::collections::VecDeque;
use std::future::pending;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use self::answers::AnswerKind;
use self::brokers::Brokers;
use self::complaints::Complaints;
use self::connection::{ConnectionError, Entry};
use self::transport::Security;
use crate::image::Image;
use crate::seat::leader::LeaderHandle;
use crate::seat::replica::{Replicas, is_replica_frame};
use crate::types::BrokerId;
use crate::wire::frame::{LENGTH_BYTES, RequestPrefix, frame_length};
use crate::wire::shape::check_request;

/// Pause after a failed accept: mostly the process is out of file descriptors for a moment.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Pause while all places of newcomers are taken: they become free within milliseconds.
const FULL_PAUSE: Duration = Duration::from_millis(10);
/// Questions to brokers on clients' behalf at the same time, each on a connection of its own.
const ASKS_MAX: usize = 64;
/// Requests up to this size are read without asking the budget.
const SMALL_FRAME_BYTES: usize = 64 << 10;
/// Unit of the budget for large requests.
const BUDGET_UNIT_BYTES: usize = 1 << 10;

/// Name of a listener, here and at the real brokers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenerName(pub String);

/// What the gateway allows.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Client connections per listener; one more is closed as soon as it has shown not to be a
    /// follower's. Followers count only where they prove themselves.
    pub connections: usize,
    /// Connections of one listener that have not sent their first request yet, or have still to prove
    /// who they are. The next one takes the place of the oldest.
    pub newcomers: usize,
    /// How long nobody takes a newcomer's place; the next ones wait in the backlog. Who means well has
    /// done it by then, and a thousand clients that come back together do not displace each other.
    pub newcomer: Duration,
    /// Largest request of a client that is known.
    pub frame_bytes: usize,
    /// Largest request of a client that has not finished its first exchange, or not proved itself.
    pub newcomer_frame_bytes: usize,
    /// Bytes of large requests that we hold at the same time in order to answer them, and again of
    /// records for old clients; more wait.
    pub held_bytes: usize,
    /// Answers under way per connection; then no more is read from it.
    pub pending_answers: usize,
    /// How long a connection may take for its first request.
    pub first_request: Duration,
    /// How long a request that is read into memory may take to come: others wait for its room, and its
    /// client waits no longer for the answer (`request.timeout.ms`).
    pub request: Duration,
    /// A connection without requests and without answers under way is closed after this.
    pub idle: Duration,
    /// How long one answer may take to come and to be taken: longer than a group member may wait
    /// for its rebalance.
    pub answer: Duration,
    /// How long answers under way may take when the gateway stops.
    pub drain: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 4096,
            newcomers: 256,
            newcomer: Duration::from_secs(1),
            frame_bytes: 100 << 20,
            newcomer_frame_bytes: 64 << 10,
            held_bytes: 128 << 20,
            pending_answers: 64,
            first_request: Duration::from_secs(30),
            request: Duration::from_secs(30),
            idle: Duration::from_secs(600),
            answer: Duration::from_secs(3600),
            drain: Duration::from_secs(2),
        }
    }
}

/// What all listeners and connections share.
#[derive(Debug)]
pub struct Context {
    broker_id: BrokerId,
    image: watch::Receiver<Arc<Image>>,
    leader: LeaderHandle,
    replicas: Replicas,
    inter_broker_listener: String,
    limits: Limits,
    connections: AtomicU64,
    brokers: Brokers,
    held: Arc<Semaphore>,
    answer_room: Arc<Semaphore>,
    asks: Semaphore,
    complaints: Complaints,
    /// Of followers that may not replicate: clients' noise must not hide them.
    follower_complaints: Complaints,
}

impl Context {
    /// The context of the seat `broker_id`.
    pub fn new(
        broker_id: BrokerId,
        image: watch::Receiver<Arc<Image>>,
        leader: LeaderHandle,
        replicas: Replicas,
        inter_broker_listener: String,
        limits: Limits,
    ) -> Self {
        let units = limits.held_bytes / BUDGET_UNIT_BYTES;
        let held = Arc::new(Semaphore::new(units));
        Self {
            broker_id,
            image,
            leader,
            replicas,
            inter_broker_listener,
            limits,
            connections: AtomicU64::new(0),
            brokers: Brokers::default(),
            held,
            answer_room: Arc::new(Semaphore::new(units)),
            asks: Semaphore::new(ASKS_MAX),
            complaints: Complaints::default(),
            follower_complaints: Complaints::default(),
        }
    }

    /// Whether clients prove who they are at this listener. Nobody is let in freely where no broker
    /// is known that says so.
    fn is_sasl(&self, listener: &str) -> bool {
        self.security(listener).is_none_or(Security::is_sasl)
    }

    fn security(&self, listener: &str) -> Option<Security> {
        let listener = backend::listener_of(&self.image.borrow(), listener, self.broker_id);
        listener.as_ref().map(Security::of)
    }

    /// Where other brokers can be asked for a client of this listener: there too, unless they ask for
    /// the client's credentials, which are not ours.
    fn aside(&self, listener: &str) -> Option<String> {
        let named = [listener, &self.inter_broker_listener].map(str::to_owned);
        let all = backend::listener_names(&self.image.borrow(), self.broker_id);
        named.into_iter().chain(all).find(|way| self.security(way).is_some_and(Security::is_open))
    }

    /// Room for a request of `bytes`, where it is large; waits until there is some.
    async fn hold(&self, bytes: usize) -> Option<OwnedSemaphorePermit> {
        self.take(&self.held, bytes).await
    }

    /// Room for an answer of `bytes` that we take into memory, where it is large and holds records.
    async fn room(&self, kind: AnswerKind, bytes: usize) -> Option<OwnedSemaphorePermit> {
        match kind {
            AnswerKind::Plain => None,
            // Twice: it is written anew.
            AnswerKind::Records(_) => self.take(&self.answer_room, bytes.saturating_mul(2)).await,
        }
    }

    async fn take(&self, budget: &Arc<Semaphore>, bytes: usize) -> Option<OwnedSemaphorePermit> {
        if bytes <= SMALL_FRAME_BYTES {
            return None;
        }
        let units = bytes.min(self.limits.held_bytes) / BUDGET_UNIT_BYTES;
        let units = u32::try_from(units).unwrap_or(u32::MAX);
        // The budget is never closed.
        budget.clone().acquire_many_owned(units).await.ok()
    }
}

/// Ends clients' connections to brokers as these die, until `stop`.
pub async fn watch_brokers(context: Arc<Context>, stop: CancellationToken) {
    let mut image = context.image.clone();
    loop {
        let current = image.borrow_and_update().clone();
        context.brokers.end_dead(&current);
        tokio::select! {
            () = stop.cancelled() => return,
            changed = image.changed() => if changed.is_err() { return },
        }
    }
}

/// Accepts connections until `stop`, then lets answers under way finish.
pub async fn serve_listener(
    listener: TcpListener,
    name: ListenerName,
    context: Arc<Context>,
    stop: CancellationToken,
) {
    let mut newcomers = Newcomers::default();
    let clients = Arc::new(Semaphore::new(context.limits.connections));
    let mut connections = JoinSet::new();
    loop {
        let full = newcomers.are_full(&context.limits);
        let stream = tokio::select! {
            biased;
            () = stop.cancelled() => break,
            Some(_ended) = connections.join_next() => continue,
            () = sleep(FULL_PAUSE), if full => continue,
            accepted = listener.accept(), if !full => accepted,
        };
        match stream {
            Ok((stream, _peer)) => {
                let port = Port {
                    listener: name.0.clone(),
                    context: context.clone(),
                    clients: clients.clone(),
                    stop: stop.clone(),
                };
                connections.spawn(port.serve(stream, newcomers.admit(&context.limits)));
            }
            Err(error) => {
                context.complaints.say(|more| {
                    tracing::warn!(listener = %name.0, %error, more, "cannot accept a connection");
                });
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    while connections.join_next().await.is_some() {}
}

/// Connections of which nobody knows yet what they want, the oldest first.
#[derive(Default)]
struct Newcomers(VecDeque<(Instant, oneshot::Sender<()>)>);

impl Newcomers {
    /// Whether the next one has to wait: there is no place, and nobody has had his for long enough.
    fn are_full(&mut self, limits: &Limits) -> bool {
        self.0.retain(|(_, newcomer)| !newcomer.is_closed());
        let oldest = self.0.front().filter(|_| self.0.len() >= limits.newcomers);
        oldest.is_some_and(|(since, _)| since.elapsed() < limits.newcomer)
    }

    /// One more; what it gets ends when it has to make room for another.
    fn admit(&mut self, limits: &Limits) -> oneshot::Receiver<()> {
        if self.0.len() >= limits.newcomers {
            self.0.pop_front();
        }
        let (place, newcomer) = oneshot::channel();
        self.0.push_back((Instant::now(), place));
        newcomer
    }
}

/// One listener as its connections see it.
struct Port {
    listener: String,
    context: Arc<Context>,
    clients: Arc<Semaphore>,
    stop: CancellationToken,
}

impl Port {
    async fn serve(self, stream: TcpStream, newcomer: oneshot::Receiver<()>) {
        let stopped = async {
            self.stop.cancelled().await;
            sleep(self.context.limits.drain).await;
        };
        let served = tokio::select! {
            served = Box::pin(self.sort(stream, newcomer)) => served,
            () = stopped => Ok(()),
        };
        let Err(error) = served else { return };
        if error.is_ordinary() {
            tracing::debug!(listener = %self.listener, %error, "client connection ended");
            return;
        }
        let complaints = match error {
            ConnectionError::NoClusterAction(_) => &self.context.follower_complaints,
            _ => &self.context.complaints,
        };
        complaints.say(|more| {
            tracing::warn!(listener = %self.listener, %error, more, "client connection closed");
        });
    }

    /// Followers to the seat, everybody else to a real broker.
    async fn sort(
        &self,
        stream: TcpStream,
        mut newcomer: oneshot::Receiver<()>,
    ) -> Result<(), ConnectionError> {
        let context = &self.context;
        let mut transport = transport::accepted(stream).map_err(ConnectionError::Client)?;
        // Where clients prove who they are, followers have to as well: later, as clients.
        let is_inter_broker =
            self.listener == context.inter_broker_listener && !context.is_sasl(&self.listener);
        let reading = first_frame(&mut transport, context, is_inter_broker);
        let first = tokio::select! {
            first = timeout(context.limits.first_request, reading) => {
                first.map_err(|_elapsed| ConnectionError::Silent)??
            }
            _displaced = &mut newcomer => return Err(ConnectionError::Silent),
        };
        let request = first.slice(LENGTH_BYTES..);
        // The check comes first: nothing of a stranger's is decoded without it.
        if is_inter_broker && check_request(&request).is_ok() && is_replica_frame(&request) {
            drop((first, newcomer));
            let unexpected = context.replicas.serve(&mut transport, request, pending()).await;
            return match unexpected {
                Some(_handshake) => Err(ConnectionError::Refused("SASL is not asked for".into())),
                None => Ok(()),
            };
        }
        let _client = self
            .clients
            .try_acquire()
            .map_err(|_full| ConnectionError::TooMany(context.limits.connections))?;
        let entry = Entry {
            context: context.clone(),
            listener: self.listener.clone(),
            connection: context.connections.fetch_add(1, Ordering::Relaxed),
            newcomer: context.is_sasl(&self.listener).then_some(newcomer),
            stop: self.stop.clone(),
        };
        connection::serve(transport, first, entry).await
    }
}

/// The first request, with its length: small, unless it may be a follower's.
async fn first_frame(
    transport: &mut transport::Transport,
    context: &Context,
    is_inter_broker: bool,
) -> Result<Bytes, ConnectionError> {
    let mut head = BytesMut::zeroed(LENGTH_BYTES + 8);
    transport.read_exact(&mut head).await.map_err(ConnectionError::Client)?;
    let prefix = RequestPrefix::peek(&Bytes::copy_from_slice(&head[LENGTH_BYTES..]));
    let may_replicate =
        is_inter_broker && prefix.is_some_and(|prefix| classify::opens_replication(prefix.api_key));
    let limit = if may_replicate {
        context.limits.frame_bytes
    } else {
        context.limits.newcomer_frame_bytes
    };
    let mut length = [0; LENGTH_BYTES];
    (&head[..LENGTH_BYTES]).copy_to_slice(&mut length);
    let length = frame_length(length, limit)?;
    // A request has at least the eight bytes that were read with the length.
    let rest = length.checked_sub(8).ok_or(ConnectionError::Short)?;
    let _room = context.hold(rest).await;
    let frame = backend::read_bytes(transport, head, rest).await;
    Ok(frame.map_err(ConnectionError::Client)?.freeze())
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn newcomers_displace_the_oldest_after_a_while_and_wait_until_then() {
        let limits = Limits { newcomers: 2, ..Limits::default() };
        let mut newcomers = Newcomers::default();
        let mut places = Vec::new();
        for _ in 0..2 {
            assert!(!newcomers.are_full(&limits));
            places.push(newcomers.admit(&limits));
        }
        assert!(newcomers.are_full(&limits), "the next one waits");
        // One has shown what it wants.
        drop(places.remove(0));
        assert!(!newcomers.are_full(&limits));
        places.push(newcomers.admit(&limits));
        assert!(newcomers.are_full(&limits));
        advance(limits.newcomer).await;
        assert!(!newcomers.are_full(&limits));
        places.push(newcomers.admit(&limits));
        let ended = places.iter_mut().map(|place| place.try_recv().is_err_and(is_displaced));
        assert_eq!(ended.collect::<Vec<_>>(), [true, false, false], "the oldest");
    }

    fn is_displaced(error: oneshot::error::TryRecvError) -> bool {
        error == oneshot::error::TryRecvError::Closed
    }
}
