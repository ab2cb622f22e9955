//! One client connection. Two halves run side by side in one task: [`Requests`] reads requests and
//! decides what becomes of each, [`write_answers`] writes the answers in the order of the requests.
//! Between them is a bounded queue, so a client that does not read stops being read from.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::{
    AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, ReadHalf, WriteHalf, copy_buf, split,
};
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use super::Context;
use super::answers::{AnswerError, AnswerKind};
use super::backend::{NoBackend, Taken, read_bytes};
use super::brokers::Lease;
use super::follower;
use super::requests::Requests;
use super::transport::Transport;
use super::versions::MalformedVersions;
use crate::types::BrokerId;
use crate::wire::frame::{FrameLengthError, LENGTH_BYTES, frame_length};

/// Small, because idle connections keep it; large reads pass it by.
pub const BUFFER_BYTES: usize = 4 << 10;

/// Answers are passed on in pieces of this size, or smaller: a buffer for as long as one passes.
const PASS_BYTES: u64 = 64 << 10;

/// How long a client may take over an answer that room was taken for.
const ROOM_WITHIN: Duration = Duration::from_secs(120);

/// How a client connection came in.
pub struct Entry {
    /// What all connections share.
    pub context: Arc<Context>,
    /// The listener's name.
    pub listener: String,
    /// Number of the connection.
    pub connection: u64,
    /// Until the client has proved who it is, where it has to: ends when another needs the place.
    pub newcomer: Option<oneshot::Receiver<()>>,
    /// No more requests are read once this is cancelled.
    pub stop: CancellationToken,
}

/// Why a client connection ended.
#[derive(Debug, thiserror::Error)]
pub enum ConnectionError {
    /// The client went away.
    #[error("client: {0}")]
    Client(#[source] io::Error),
    /// The broker behind it went away: its answers are lost, so the client has to start over.
    #[error("broker {broker}: {error}")]
    Backend {
        /// The broker.
        broker: BrokerId,
        /// What happened.
        #[source]
        error: io::Error,
    },
    /// There is no broker to relay to.
    #[error(transparent)]
    NoBackend(#[from] NoBackend),
    /// A length that no client may send.
    #[error("read request: {0}")]
    Length(#[from] FrameLengthError),
    /// A request without a whole header.
    #[error("read request: shorter than its header")]
    Short,
    /// No first request in time, or no proof before others needed the place.
    #[error("no request, or no proof, after connecting")]
    Silent,
    /// Nothing happened for long.
    #[error("idle")]
    Idle,
    /// The rest of a request did not come.
    #[error("a request broke off")]
    Slow,
    /// It asks as followers do, and its principal may not.
    #[error(
        "broker {0} asks to replicate from the seat, and the principal of its connection may not do \
         ClusterAction on the cluster: if it is a broker, give it that right (an ACL, or super.users)"
    )]
    NoClusterAction(BrokerId),
    /// The listener has as many clients as it may have.
    #[error("more than {0} client connections")]
    TooMany(usize),
    /// Only closing the connection refuses this request.
    #[error("{0}")]
    Refused(String),
    /// No answer can be given.
    #[error(transparent)]
    Answer(#[from] AnswerError),
    /// The broker's list of versions makes no sense.
    #[error(transparent)]
    Versions(#[from] MalformedVersions),
}

impl ConnectionError {
    /// Whether it happens all day long and nobody needs to know. No connection is ever retried from
    /// here: the client connects again.
    pub fn is_ordinary(&self) -> bool {
        matches!(
            self,
            Self::Client(_) | Self::Backend { .. } | Self::Silent | Self::Idle | Self::Slow
        )
    }
}

/// Changes a broker's answer on its way (both with their length); `None` keeps it from the client.
pub type Rewrite = Box<dyn FnOnce(Taken) -> Result<Option<Bytes>, ConnectionError> + Send>;

/// An answer that is being made, and the room that was taken for what it is made of.
pub type Coming = Pin<Box<dyn Future<Output = Result<Made, AnswerError>> + Send>>;

/// See [`Coming`].
pub type Made = (Bytes, Vec<OwnedSemaphorePermit>);

/// The next thing to write, in the order of the requests.
pub enum Pending {
    /// From here on, brokers' answers come from here.
    Backend(BrokerId, ReadHalf<Transport>, Lease),
    /// The broker's next answer, untouched.
    Relay,
    /// The broker's next answer, changed or taken away.
    Rewrite(Rewrite, AnswerKind),
    /// This.
    Ready(Bytes),
    /// This, but not before.
    Held(Bytes, Instant),
    /// What becomes of this.
    Later(Coming),
    /// Nothing: what was queued before is written, and nothing more comes for now.
    Pause,
}

/// Serves a client until it goes, or breaks the rules, or its broker goes. `first` was read already
/// and begins with its length.
pub async fn serve(
    transport: Transport,
    first: Bytes,
    entry: Entry,
) -> Result<(), ConnectionError> {
    let (reader, client) = split(transport);
    let (pending, queue) = mpsc::channel(entry.context.limits.pending_answers);
    let context = entry.context.clone();
    let mut requests = Requests::new(reader, first, pending, entry);
    let mut answers = Answers { client, queue, backend: None, context: &context };
    loop {
        // The first error ends both halves; after a stop the requests end alone.
        let (follows, ()) = tokio::try_join!(requests.read(), answers.write())?;
        let Some(follower) = follows else { return Ok(()) };
        match follower::serve(&mut requests, &mut answers, follower).await? {
            Some(next) => requests = requests.put_back(&next),
            None => return Ok(()),
        }
    }
}

/// The writing half of a client connection.
pub struct Answers<'a> {
    /// To the client.
    pub client: WriteHalf<Transport>,
    queue: mpsc::Receiver<Pending>,
    /// The broker behind the connection, to read from.
    pub backend: Option<Backend>,
    context: &'a Context,
}

/// The broker behind a connection, to read from.
pub struct Backend {
    broker: BrokerId,
    lease: Lease,
    reader: BufReader<ReadHalf<Transport>>,
}

impl Backend {
    /// Completes only when the broker closes the connection, or speaks unasked, which ends it too.
    async fn closed(&mut self) -> ConnectionError {
        let error = match self.reader.fill_buf().await {
            Ok([]) => io::ErrorKind::UnexpectedEof.into(),
            Ok(_) => io::Error::other("an answer that nobody asked for"),
            Err(error) => error,
        };
        self.failed(error)
    }

    fn failed(&self, error: io::Error) -> ConnectionError {
        ConnectionError::Backend { broker: self.broker, error }
    }

    async fn next_length(&mut self, limit: usize) -> Result<[u8; LENGTH_BYTES], ConnectionError> {
        let mut prefix = [0; LENGTH_BYTES];
        let read = self.reader.read_exact(&mut prefix).await;
        read.map_err(|error| self.failed(error))?;
        frame_length(prefix, limit).map_err(|error| self.failed(io::Error::other(error)))?;
        Ok(prefix)
    }

    /// The next answer in memory, length included.
    pub async fn next_frame(
        &mut self,
        kind: AnswerKind,
        context: &Context,
    ) -> Result<Taken, ConnectionError> {
        let prefix = self.next_length(kind.bytes_max()).await?;
        let length = i32::from_be_bytes(prefix).unsigned_abs() as usize;
        let room = context.room(kind, length).await;
        let frame = read_bytes(&mut self.reader, BytesMut::from(&prefix[..]), length).await;
        let bytes = frame.map_err(|error| self.failed(error))?;
        Ok(Taken { bytes, room })
    }

    /// Passes the next answer on, however large, without holding it.
    async fn pass_on(&mut self, client: &mut WriteHalf<Transport>) -> Result<(), ConnectionError> {
        let prefix = self.next_length(i32::MAX as usize).await?;
        let length = u64::from(i32::from_be_bytes(prefix).unsigned_abs());
        client.write_all(&prefix).await.map_err(ConnectionError::Client)?;
        let pieces = usize::try_from(length.min(PASS_BYTES)).unwrap_or(BUFFER_BYTES);
        let mut rest = BufReader::with_capacity(pieces, (&mut self.reader).take(length));
        let copied = copy_buf(&mut rest, client).await;
        match copied {
            Ok(copied) if copied == length => Ok(()),
            Ok(_) => Err(self.failed(io::ErrorKind::UnexpectedEof.into())),
            // Either side may have failed; the connection ends the same way.
            Err(error) => Err(ConnectionError::Client(error)),
        }
    }
}

impl Answers<'_> {
    /// Writes what is queued, until a pause.
    async fn write(&mut self) -> Result<(), ConnectionError> {
        let Self { client, queue, backend, context } = self;
        let within = context.limits.answer;
        while let Some(pending) = next_pending(queue, backend).await? {
            if matches!(pending, Pending::Pause) {
                break;
            }
            let given_up = given_up(backend.as_ref());
            // Both sides may be dead without a word.
            let written = timeout(within, write_pending(pending, client, backend, context));
            tokio::select! {
                written = written => written.map_err(|_elapsed| ConnectionError::Idle)??,
                error = given_up => return Err(error),
            }
        }
        Ok(())
    }
}

async fn write_pending(
    pending: Pending,
    client: &mut WriteHalf<Transport>,
    backend: &mut Option<Backend>,
    context: &Context,
) -> Result<(), ConnectionError> {
    match pending {
        Pending::Backend(broker, half, lease) => {
            let reader = BufReader::with_capacity(BUFFER_BYTES, half);
            *backend = Some(Backend { broker, reader, lease });
            Ok(())
        }
        Pending::Relay => behind(backend)?.pass_on(client).await,
        Pending::Rewrite(rewrite, kind) => {
            let taken = behind(backend)?.next_frame(kind, context).await?;
            match rewrite(taken)? {
                Some(frame) => write(client, &frame).await,
                None => Ok(()),
            }
        }
        Pending::Ready(frame) => write(client, &frame).await,
        Pending::Pause => Ok(()),
        Pending::Held(frame, until) => {
            sleep_until(until).await;
            write(client, &frame).await
        }
        Pending::Later(coming) => {
            let (frame, rooms) = coming.await?;
            let written = write(client, &frame);
            if rooms.is_empty() {
                return written.await;
            }
            // Others wait for that room.
            timeout(ROOM_WITHIN, written).await.map_err(|_elapsed| ConnectionError::Idle)?
        }
    }
}

/// The next in the queue; meanwhile the broker may not go away. `None` at the queue's end.
async fn next_pending(
    queue: &mut mpsc::Receiver<Pending>,
    backend: &mut Option<Backend>,
) -> Result<Option<Pending>, ConnectionError> {
    let Some(backend) = backend else { return Ok(queue.recv().await) };
    tokio::select! {
        // Requests are queued before they are sent, so an answer never comes before its entry.
        biased;
        pending = queue.recv() => Ok(pending),
        error = given_up(Some(backend)) => Err(error),
        error = backend.closed() => Err(error),
    }
}

/// Completes when the controller has given the broker up.
fn given_up(backend: Option<&Backend>) -> impl Future<Output = ConnectionError> + use<> {
    let lease = backend.map(|backend| (backend.broker, backend.lease.ended.clone()));
    async move {
        let Some((broker, ended)) = lease else { return std::future::pending().await };
        ended.cancelled().await;
        let error = io::Error::other("it is fenced, or gone from the cluster");
        ConnectionError::Backend { broker, error }
    }
}

fn behind(backend: &mut Option<Backend>) -> Result<&mut Backend, ConnectionError> {
    // Requests open the backend before they queue anything that needs it.
    backend.as_mut().ok_or(ConnectionError::Short)
}

async fn write(client: &mut WriteHalf<Transport>, frame: &[u8]) -> Result<(), ConnectionError> {
    client.write_all(frame).await.map_err(ConnectionError::Client)
}

#[cfg(test)]
mod tests;
