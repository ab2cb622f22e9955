//! The real brokers behind the gateway: which of them are live, and connections to them.

use std::collections::BTreeSet;
use std::io;
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt, WriteHalf};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, timeout};

use super::Context;
use super::answers::{AnswerKind, Ask, probe_frame};
use super::connection::ConnectionError;
use super::transport::{self, Security, Transport};
use crate::image::{BrokerImage, Image, Listener};
use crate::types::BrokerId;
use crate::wire::frame::{LENGTH_BYTES, frame_length};

/// How long a broker may take over a question of ours.
pub const ASK_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a broker may take to say which versions it knows.
const PROBE_TIMEOUT: Duration = Duration::from_secs(2);
/// Largest answer that we take into memory; larger ones are only passed through.
const ANSWER_BYTES_MAX: usize = 16 << 20;
/// Largest answer with records that we take into memory: one batch may be as large as it likes.
const RECORDS_BYTES_MAX: usize = 256 << 20;

/// A broker's answer, taken into memory.
pub struct Taken {
    /// The frame.
    pub bytes: BytesMut,
    /// The room that it takes up, where that is limited.
    pub room: Option<OwnedSemaphorePermit>,
}

/// The broker behind a connection, to write to.
pub struct Backend {
    /// Which one.
    pub broker: BrokerId,
    /// To it.
    pub writer: WriteHalf<Transport>,
}

impl Backend {
    /// Sends bytes of requests.
    pub async fn send(&mut self, bytes: &[u8]) -> Result<(), ConnectionError> {
        let broker = self.broker;
        let written = self.writer.write_all(bytes).await;
        written.map_err(|error| ConnectionError::Backend { broker, error })
    }
}

impl AnswerKind {
    /// Largest answer of this kind that is taken into memory.
    pub fn bytes_max(self) -> usize {
        match self {
            Self::Plain => ANSWER_BYTES_MAX,
            Self::Records(_) => RECORDS_BYTES_MAX,
        }
    }
}

/// No real broker could be reached at a listener.
#[derive(Debug, thiserror::Error)]
#[error("no real broker can be reached at listener {listener}: {reason}")]
pub struct NoBackend {
    listener: String,
    reason: String,
}

/// Whether a real broker serves clients at this listener. Not another seat: it would only relay too.
pub fn is_live(image: &Image, broker: &BrokerImage, listener: &str, ours: BrokerId) -> bool {
    broker.id != ours
        && !image.is_seat(broker.id)
        && !broker.is_fenced
        && !broker.in_controlled_shutdown
        && broker.listeners.contains_key(listener)
}

/// The listener of this name as any real broker has it; listeners of one name are alike.
pub fn listener_of(image: &Image, name: &str, ours: BrokerId) -> Option<Listener> {
    let mut others = image.brokers().filter(|b| b.id != ours && !image.is_seat(b.id));
    others.find_map(|broker| broker.listeners.get(name)).cloned()
}

/// Names of all listeners that real brokers have.
pub fn listener_names(image: &Image, ours: BrokerId) -> BTreeSet<String> {
    let others = image.brokers().filter(|b| b.id != ours && !image.is_seat(b.id));
    others.flat_map(|broker| broker.listeners.keys().cloned()).collect()
}

/// Connects to a live broker: to the one with the fewest client connections, by turns where several
/// have as few. One that does not answer gives way to the next, now and for a while.
pub async fn open(
    context: &Context,
    listener: &str,
    connection: u64,
) -> Result<(BrokerId, Transport), NoBackend> {
    let mut reason = "none is live".to_owned();
    let mut slow = None;
    for (broker, address) in candidates(context, listener, connection) {
        match connect(context, broker, &address).await {
            Ok(transport) => return Ok((broker, transport)),
            Err(error) => {
                reason = format!("broker {broker}: {error}");
                if error.kind() == io::ErrorKind::TimedOut {
                    slow.get_or_insert((broker, address));
                }
            }
        }
    }
    // Better one that is slow than none.
    if let Some((broker, address)) = slow
        && let Ok(transport) = transport::dial(&address).await
    {
        return Ok((broker, transport));
    }
    let listener = listener.to_owned();
    Err(NoBackend { listener, reason })
}

/// Connects to one broker; `None` where it does not answer, or has no such listener any more.
pub async fn reach(context: &Context, listener: &str, broker: BrokerId) -> Option<Transport> {
    let address = context.image.borrow().broker(broker)?.listeners.get(listener)?.clone();
    connect(context, broker, &address).await.ok()
}

/// Connects to a broker that answers: one that hangs still accepts connections.
async fn connect(context: &Context, broker: BrokerId, address: &Listener) -> io::Result<Transport> {
    let connecting = async {
        let mut transport = transport::dial(address).await?;
        let probed = timeout(PROBE_TIMEOUT, probe(&mut transport)).await;
        probed.map_err(|_elapsed| io::Error::from(io::ErrorKind::TimedOut))??;
        // Who has to prove himself may ask for versions only once before: that is the client's.
        if Security::of(address).is_sasl() {
            transport = transport::dial(address).await?;
        }
        Ok(transport)
    };
    connecting.await.inspect_err(|_| context.brokers.avoid(broker, Instant::now()))
}

async fn probe(transport: &mut Transport) -> io::Result<()> {
    transport.write_all(&probe_frame()).await?;
    let length = read_length(transport, ANSWER_BYTES_MAX).await?;
    read_bytes(transport, BytesMut::new(), length).await?;
    Ok(())
}

fn candidates(context: &Context, listener: &str, connection: u64) -> Vec<(BrokerId, Listener)> {
    let image = context.image.borrow();
    let mut live: Vec<_> = image
        .brokers()
        .filter(|broker| is_live(&image, broker, listener, context.broker_id))
        .filter_map(|broker| Some((broker.id, broker.listeners.get(listener)?.clone())))
        .collect();
    if !live.is_empty() {
        let first = usize::try_from(connection % live.len() as u64).unwrap_or(0);
        live.rotate_left(first);
        let now = Instant::now();
        let brokers = &context.brokers;
        live.sort_by_key(|(id, _)| (brokers.is_avoided(*id, now), brokers.connections(*id)));
    }
    live
}

/// One question to one broker on a connection of its own; `None` where it gives no answer. Only for
/// listeners without authentication: the client's credentials are not ours.
pub async fn ask(context: &Context, listener: &str, broker: BrokerId, ask: Ask) -> Option<Taken> {
    let Ask { answer: kind, request, .. } = ask;
    let address = {
        let image = context.image.borrow();
        image.broker(broker)?.listeners.get(listener)?.clone()
    };
    let question = async {
        let mut transport = connect(context, broker, &address).await?;
        transport.write_all(&request).await?;
        let length = read_length(&mut transport, kind.bytes_max()).await?;
        let room = context.room(kind, length).await;
        let bytes = read_bytes(&mut transport, BytesMut::new(), length).await?;
        io::Result::Ok(Taken { bytes, room })
    };
    let (_permit, wait) = match kind {
        AnswerKind::Plain => (Some(context.asks.acquire().await.ok()?), Duration::ZERO),
        // A client connection has one of these at a time.
        AnswerKind::Records(wait) => (None, wait),
    };
    match timeout(ASK_TIMEOUT + wait, question).await {
        Ok(Ok(taken)) => Some(taken),
        Ok(Err(error)) => {
            tracing::debug!(%broker, %error, "broker gave no answer to a question for a client");
            None
        }
        Err(_elapsed) => {
            context.brokers.avoid(broker, Instant::now());
            tracing::debug!(%broker, "broker took too long over a question for a client");
            None
        }
    }
}

async fn read_length(reader: &mut (impl AsyncRead + Unpin), limit: usize) -> io::Result<usize> {
    let mut prefix = [0; LENGTH_BYTES];
    reader.read_exact(&mut prefix).await?;
    frame_length(prefix, limit).map_err(io::Error::other)
}

/// Reads `length` more bytes behind those in `frame`.
pub async fn read_bytes(
    reader: &mut (impl AsyncRead + Unpin),
    mut frame: BytesMut,
    length: usize,
) -> io::Result<BytesMut> {
    frame.reserve(length);
    let mut rest = reader.take(length as u64);
    while rest.limit() > 0 {
        if rest.read_buf(&mut frame).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(frame)
}
