//! The reading half of a client connection: what becomes of each request.

use std::future::pending;
use std::io::Cursor;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader, Chain, ReadHalf, copy_buf, split};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout};

use super::answers::{
    self, AnswerError, AnswerKind, Ask, Asker, Gather, Redirects, Reply, probe_frame,
};
use super::backend::{self, Backend, Taken, read_bytes};
use super::classify::{Class, Local, classify};
use super::connection::{BUFFER_BYTES, ConnectionError, Entry, Pending, Rewrite};
use super::follower::Recheck;
use super::proof::{Proof, Verdict};
use super::rights::{self, HOLDS, Rights, Wanted};
use super::transport::Transport;
use super::versions;
use crate::seat::replica::replica_of;
use crate::types::BrokerId;
use crate::wire::frame::{LENGTH_BYTES, RequestPrefix, frame_length};
use crate::wire::shape::check_request;

/// Bytes of a request that are read before it is decided what becomes of it.
const PREFIX_BYTES: usize = 8;
/// How often a request may need to know more of the client's rights.
const RIGHTS_ASKS_MAX: u32 = 3;

/// The reading half of a client connection.
pub struct Requests {
    client: Reader,
    pending: mpsc::Sender<Pending>,
    entry: Entry,
    backend: Option<Backend>,
    /// The listener at which other brokers can be asked on this client's behalf.
    aside: Option<String>,
    rights: Rights,
    proof: Proof,
    redirects: Redirects,
    is_first: bool,
    /// A follower's request, which is not for us.
    follows: Option<Follower>,
}

/// A broker that proved who it is and may do what brokers do, on the listener that brokers use.
pub struct Follower {
    /// The broker as which it asks.
    pub replica: BrokerId,
    /// Its request, without the length.
    pub request: Bytes,
}

/// Where requests come from.
pub type Reader = BufReader<Chain<Cursor<Bytes>, ReadHalf<Transport>>>;

/// The beginning of a request: its length and its first bytes.
struct Head {
    bytes: BytesMut,
    /// Bytes of the request that are still unread.
    rest: usize,
    prefix: RequestPrefix,
}

impl Requests {
    /// The half that reads `reader`, after `first`.
    pub fn new(
        reader: ReadHalf<Transport>,
        first: Bytes,
        pending: mpsc::Sender<Pending>,
        entry: Entry,
    ) -> Self {
        let is_sasl = entry.context.is_sasl(&entry.listener);
        let aside = entry.context.aside(&entry.listener);
        Self {
            client: reader_from(first, reader),
            pending,
            entry,
            backend: None,
            aside,
            rights: Rights::default(),
            proof: Proof::new(is_sasl, Instant::now()),
            redirects: Redirects::default(),
            is_first: true,
            follows: None,
        }
    }

    /// Reads requests until the gateway stops, or until the client has shown to be a follower: then
    /// its request is answered.
    pub async fn read(&mut self) -> Result<Option<Follower>, ConnectionError> {
        let mut follows = None;
        while follows.is_none() && self.wait().await? {
            let head = self.head().await?;
            self.is_first = false;
            self.dispatch(head).await?;
            follows = self.follows.take();
        }
        self.queue(Pending::Pause).await?;
        Ok(follows)
    }

    /// Where a follower's requests come from, and what is asked again while it is served.
    pub fn following(&mut self) -> Option<(&mut Reader, Recheck<'_>)> {
        let recheck = Recheck {
            broker: self.backend.as_mut()?,
            rights: &mut self.rights,
            proof: &mut self.proof,
            context: &self.entry.context,
        };
        Some((&mut self.client, recheck))
    }

    /// Takes a request (without its length) that was read in vain: it comes next.
    pub fn put_back(mut self, request: &[u8]) -> Self {
        let mut bytes = BytesMut::with_capacity(LENGTH_BYTES + request.len());
        // It came with a length of this size.
        bytes.put_i32(i32::try_from(request.len()).unwrap_or(i32::MAX));
        bytes.put_slice(request);
        bytes.put_slice(self.client.buffer());
        let (unread, reader) = self.client.into_inner().into_inner();
        bytes.put(unread);
        self.client = reader_from(bytes.freeze(), reader);
        self
    }

    /// Waits for the next request; `false` when the gateway stops.
    async fn wait(&mut self) -> Result<bool, ConnectionError> {
        loop {
            // What is too old to be used is not kept either: names may be long, and clients many.
            let forgetful = !self.rights.is_empty();
            let idle = if forgetful { HOLDS } else { self.entry.context.limits.idle };
            let filled = tokio::select! {
                biased;
                () = self.entry.stop.cancelled() => return Ok(false),
                () = displaced(&mut self.entry.newcomer) => return Err(ConnectionError::Silent),
                filled = timeout(idle, self.client.fill_buf()) => filled,
            };
            match filled {
                Ok(Ok([])) => {
                    let error = std::io::ErrorKind::UnexpectedEof.into();
                    return Err(ConnectionError::Client(error));
                }
                Ok(Ok(_)) => return Ok(true),
                Ok(Err(error)) => return Err(ConnectionError::Client(error)),
                Err(_idle) if forgetful => self.rights.forget(),
                // A group member may wait longer than that for its rebalance.
                Err(_idle) if self.pending.capacity() < self.pending.max_capacity() => {}
                Err(_idle) => return Err(ConnectionError::Idle),
            }
        }
    }

    async fn head(&mut self) -> Result<Head, ConnectionError> {
        let limits = &self.entry.context.limits;
        // The first request may be of any size that was let in with it.
        let limit = match self.proof.is_newcomer() && !self.is_first {
            true => limits.newcomer_frame_bytes,
            false => limits.frame_bytes,
        };
        let reading = async {
            let mut bytes = BytesMut::zeroed(LENGTH_BYTES);
            self.client.read_exact(&mut bytes).await.map_err(ConnectionError::Client)?;
            let length = frame_length((&bytes[..]).get_i32().to_be_bytes(), limit)?;
            let ahead = length.min(PREFIX_BYTES);
            let bytes = read_bytes(&mut self.client, bytes, ahead).await;
            let bytes = bytes.map_err(ConnectionError::Client)?;
            let rest = length - ahead;
            let start = Bytes::copy_from_slice(&bytes[LENGTH_BYTES..]);
            let prefix = match RequestPrefix::peek(&start) {
                Some(prefix) => prefix,
                // A token without a header: its class is not looked at.
                None if self.proof.is_opaque() => NO_HEADER,
                None => return Err(ConnectionError::Short),
            };
            Ok(Head { bytes, rest, prefix })
        };
        tokio::select! {
            head = timeout(limits.idle, reading) => head.map_err(|_elapsed| ConnectionError::Idle)?,
            () = displaced(&mut self.entry.newcomer) => Err(ConnectionError::Silent),
        }
    }

    async fn dispatch(&mut self, head: Head) -> Result<(), ConnectionError> {
        if self.proof.is_opaque() {
            return self.relay(head, Pending::Relay).await;
        }
        let prefix = head.prefix;
        let class = classify(prefix.api_key, prefix.api_version);
        if self.proof.is_exchanged() && matches!(class, Class::Relay | Class::ApiVersions) {
            // Nothing of ours is asked for, but from now on it is known.
            self.is_proven().await?;
        }
        match class {
            Class::Local(local) if self.is_proven().await? => self.answer(local, head).await,
            Class::Local(_) | Class::Relay => self.relay(head, Pending::Relay).await,
            Class::ApiVersions => self.api_versions(head).await,
            Class::SaslHandshake => {
                self.proof.on_handshake(prefix.api_version);
                self.relay(head, Pending::Relay).await
            }
            Class::SaslAuthenticate => {
                self.rights.forget();
                let note = self.proof.on_exchange(prefix.api_version, Instant::now());
                let answer = note.map_or(Pending::Relay, |note| {
                    let read: Rewrite = Box::new(move |taken| {
                        note(&taken.bytes);
                        Ok(Some(taken.bytes.freeze()))
                    });
                    Pending::Rewrite(read, AnswerKind::Plain)
                });
                self.relay(head, answer).await
            }
        }
    }

    /// Whether we may answer this client. After a SASL exchange, and every now and then, the broker is
    /// asked something that it answers only to those who have passed; it closes the connection of
    /// everybody else, and of those whose session has ended (KIP-368).
    async fn is_proven(&mut self) -> Result<bool, ConnectionError> {
        match self.proof.verdict(Instant::now()) {
            Verdict::Holds => return Ok(true),
            Verdict::No => return Ok(false),
            Verdict::Ask => {}
        }
        let answered = self.ask_backend(probe_frame(), AnswerKind::Plain).await?;
        if answered.await.is_err() {
            // The writing half has failed, and with it the connection.
            return Ok(false);
        }
        self.proof.on_taken(Instant::now());
        self.entry.newcomer = None;
        Ok(true)
    }

    async fn api_versions(&mut self, head: Head) -> Result<(), ConnectionError> {
        let RequestPrefix { api_version, correlation_id, .. } = head.prefix;
        if let Some(refusal) = versions::refusal(api_version, correlation_id) {
            let _unread = self.whole(head).await?;
            return self.queue(Pending::Ready(refusal)).await;
        }
        let lower: Rewrite =
            Box::new(move |taken| Ok(Some(versions::lower(api_version, taken.bytes)?.freeze())));
        self.relay(head, Pending::Rewrite(lower, AnswerKind::Plain)).await
    }

    async fn answer(&mut self, local: Local, head: Head) -> Result<(), ConnectionError> {
        let context = self.entry.context.clone();
        let _room = context.hold(head.rest).await;
        let frame = self.whole(head).await?;
        let mut backend = self.open_backend().await?;
        self.rights.refresh(Instant::now());
        if let Some(replica) = self.follower(&frame).await? {
            self.follows = Some(Follower { replica, request: frame });
            return Ok(());
        }
        let mut asks_left = RIGHTS_ASKS_MAX;
        // Another broker would want the client's proof, which is not ours.
        let mut may_move = self.proof.is_open();
        let reply = loop {
            let mut asker = Asker {
                context: &context,
                listener: &self.entry.listener,
                connection: self.entry.connection,
                backend,
                may_move,
                aside: self.aside.as_deref(),
                rights: &self.rights,
                redirects: &mut self.redirects,
                now: Instant::now(),
            };
            match answers::answer(local, frame.clone(), &mut asker).await {
                Err(AnswerError::Rights(wanted)) if asks_left > 0 => {
                    self.learn(&wanted).await?;
                    asks_left -= 1;
                }
                Ok(Reply::Elsewhere(broker)) if may_move => {
                    backend = self.move_to(broker).await?;
                    may_move = false;
                }
                reply => break reply?,
            }
        };
        match reply {
            Reply::Answer(frame) => self.queue(Pending::Ready(frame)).await,
            Reply::Held(frame, hold) => {
                self.queue(Pending::Held(frame, Instant::now() + hold)).await
            }
            Reply::Relay(frame) => self.relay_whole(&frame).await,
            // Not again: it would have to be a broker that the answer itself has just asked for.
            Reply::Elsewhere(broker) => {
                Err(ConnectionError::Refused(format!("moved to broker {broker} twice")))
            }
            Reply::Gather(gather) => self.gather(gather).await,
            Reply::Close(reason) => Err(ConnectionError::Refused(reason)),
        }
    }

    /// The broker that replicates from us, if this is the request of one. Where no proof is asked for,
    /// brokers are told apart by their first request, before this begins.
    async fn follower(&mut self, frame: &Bytes) -> Result<Option<BrokerId>, ConnectionError> {
        let here = self.entry.listener == self.entry.context.inter_broker_listener;
        if !(self.proof.is_proven() && here && check_request(frame).is_ok()) {
            return Ok(None);
        }
        let Some(replica) = replica_of(frame) else { return Ok(None) };
        if let Err(wanted) = self.rights.cluster_action() {
            self.learn(&wanted).await?;
        }
        match self.rights.cluster_action() {
            Ok(true) => Ok(Some(replica)),
            _ => Err(ConnectionError::NoClusterAction(replica)),
        }
    }

    /// Asks the connection's broker what the client may do.
    async fn learn(&mut self, wanted: &Wanted) -> Result<(), ConnectionError> {
        if wanted.cluster || !wanted.topics.is_empty() {
            let answer = self.answer_of_backend(rights::metadata_request(&wanted.topics)?).await?;
            self.rights.take_metadata(answer, Instant::now())?;
        }
        if wanted.cluster_action {
            let seat = self.entry.context.broker_id.0;
            let answer = self.answer_of_backend(rights::replication_request(seat)?).await?;
            self.rights.take_replication(answer, Instant::now())?;
        }
        Ok(())
    }

    async fn answer_of_backend(&mut self, request: Bytes) -> Result<BytesMut, ConnectionError> {
        let answered = self.ask_backend(request, AnswerKind::Plain).await?;
        // The writing half has failed, and with it the connection.
        let gone = |_| ConnectionError::Client(std::io::ErrorKind::BrokenPipe.into());
        Ok(answered.await.map_err(gone)?.bytes)
    }

    /// Asks the connection's broker over the connection itself, under the client's own identity, and
    /// others on connections of their own; the answer waits for all of them.
    async fn gather(&mut self, gather: Gather) -> Result<(), ConnectionError> {
        let mut behind = Vec::new();
        for ask in gather.asks {
            let ours = self.backend.as_ref().map(|backend| backend.broker);
            let waiting = match ask.broker {
                Some(broker) if ours != Some(broker) => Waiting::Aside(broker, ask),
                _ => Waiting::InLine(self.ask_backend(ask.request, ask.answer).await?),
            };
            behind.push(waiting);
        }
        let context = self.entry.context.clone();
        let aside = self.aside.clone();
        let finish = gather.finish;
        let coming = async move {
            let mut answers = Vec::new();
            let mut rooms = Vec::new();
            for waiting in behind {
                let taken = match waiting {
                    Waiting::InLine(answer) => answer.await.ok(),
                    Waiting::Aside(broker, ask) => match &aside {
                        Some(listener) => backend::ask(&context, listener, broker, ask).await,
                        None => None,
                    },
                };
                answers.push(taken.map(|taken| {
                    rooms.extend(taken.room);
                    taken.bytes
                }));
            }
            Ok((finish(answers)?, rooms))
        };
        self.queue(Pending::Later(Box::pin(coming))).await
    }

    /// Sends a request of ours (length included) to the connection's broker. Its answer comes without
    /// its length.
    async fn ask_backend(
        &mut self,
        request: Bytes,
        kind: AnswerKind,
    ) -> Result<oneshot::Receiver<Taken>, ConnectionError> {
        let (answer, answered) = oneshot::channel();
        let take: Rewrite = Box::new(move |mut taken| {
            taken.bytes.advance(LENGTH_BYTES);
            let _nobody_waits = answer.send(taken);
            Ok(None)
        });
        self.open_backend().await?;
        self.queue(Pending::Rewrite(take, kind)).await?;
        self.send(&request).await?;
        Ok(answered)
    }

    /// Relays a request that is still mostly unread, without holding it.
    async fn relay(&mut self, head: Head, answer: Pending) -> Result<(), ConnectionError> {
        self.open_backend().await?;
        self.queue(answer).await?;
        self.send(&head.bytes).await?;
        let Some(backend) = &mut self.backend else { return Err(ConnectionError::Short) };
        let rest = head.rest as u64;
        let mut request = (&mut self.client).take(rest);
        let copying = copy_buf(&mut request, &mut backend.writer);
        let limits = &self.entry.context.limits;
        let limit = if self.proof.is_newcomer() { limits.request } else { limits.idle };
        let copied = timeout(limit, copying).await;
        match copied.map_err(|_elapsed| ConnectionError::Slow)? {
            Ok(copied) if copied == rest => Ok(()),
            Ok(_) => Err(ConnectionError::Client(std::io::ErrorKind::UnexpectedEof.into())),
            // Either side may have failed; the connection ends the same way.
            Err(error) => Err(ConnectionError::Client(error)),
        }
    }

    /// Relays a request that was read (without its length).
    async fn relay_whole(&mut self, frame: &[u8]) -> Result<(), ConnectionError> {
        self.open_backend().await?;
        self.queue(Pending::Relay).await?;
        // It came with a length of this size.
        let length = i32::try_from(frame.len()).unwrap_or(i32::MAX);
        self.send(&length.to_be_bytes()).await?;
        self.send(frame).await
    }

    /// The whole request, without its length.
    async fn whole(&mut self, head: Head) -> Result<Bytes, ConnectionError> {
        let Head { mut bytes, rest, .. } = head;
        bytes.advance(LENGTH_BYTES);
        let reading = read_bytes(&mut self.client, bytes, rest);
        let limit = self.entry.context.limits.request;
        let frame = timeout(limit, reading).await.map_err(|_elapsed| ConnectionError::Slow)?;
        Ok(frame.map_err(ConnectionError::Client)?.freeze())
    }

    async fn open_backend(&mut self) -> Result<BrokerId, ConnectionError> {
        if let Some(backend) = &self.backend {
            return Ok(backend.broker);
        }
        let Entry { context, listener, connection, .. } = &self.entry;
        let (broker, transport) = backend::open(context, listener, *connection).await?;
        self.relay_to(broker, transport).await
    }

    /// Relays to `broker` from now on, if it can be reached; answers which broker it is then. What was
    /// asked of the one before is still answered, in its turn.
    async fn move_to(&mut self, broker: BrokerId) -> Result<BrokerId, ConnectionError> {
        let Entry { context, listener, .. } = &self.entry;
        match backend::reach(context, listener, broker).await {
            Some(transport) => self.relay_to(broker, transport).await,
            None => self.open_backend().await,
        }
    }

    async fn relay_to(
        &mut self,
        broker: BrokerId,
        transport: Transport,
    ) -> Result<BrokerId, ConnectionError> {
        let lease = self.entry.context.brokers.lease(broker);
        let (reader, writer) = split(transport);
        self.backend = Some(Backend { broker, writer });
        self.queue(Pending::Backend(broker, reader, lease)).await?;
        Ok(broker)
    }

    async fn queue(&mut self, pending: Pending) -> Result<(), ConnectionError> {
        // The writing half is gone only after an error of its own, which is the one that counts.
        let gone = |_| ConnectionError::Client(std::io::ErrorKind::BrokenPipe.into());
        self.pending.send(pending).await.map_err(gone)
    }

    async fn send(&mut self, bytes: &[u8]) -> Result<(), ConnectionError> {
        let Some(backend) = &mut self.backend else { return Err(ConnectionError::Short) };
        backend.send(bytes).await
    }
}

/// Completes when a newcomer has to make room for another.
async fn displaced(newcomer: &mut Option<oneshot::Receiver<()>>) {
    match newcomer {
        Some(newcomer) => drop(newcomer.await),
        None => pending().await,
    }
}

fn reader_from(first: Bytes, reader: ReadHalf<Transport>) -> Reader {
    BufReader::with_capacity(BUFFER_BYTES, AsyncReadExt::chain(Cursor::new(first), reader))
}

/// Where the answer to a question of ours comes from.
enum Waiting {
    InLine(oneshot::Receiver<Taken>),
    Aside(BrokerId, Ask),
}

const NO_HEADER: RequestPrefix = RequestPrefix { api_key: -1, api_version: -1, correlation_id: 0 };
