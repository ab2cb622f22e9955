//! Answers that we give ourselves. Each file turns one request into a [`Reply`]; none of them does
//! I/O, except to ask the leader how the partitions stand.

mod configs;
mod empty;
mod epochs;
mod fetch;
#[cfg(test)]
mod garbage;
mod hints;
pub(super) mod list_offsets;
mod markers;
mod produce;
mod producers;
mod refused;
mod settings;
mod share;
#[cfg(test)]
pub(super) mod testing;

use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use kafka_protocol::messages::{ApiKey, RequestHeader, ResponseHeader};
use kafka_protocol::protocol::{
    Decodable, Encodable, HeaderVersion, Request, decode_request_header_from_buffer,
    encode_request_header_into_buffer,
};
use tokio::time::Instant;

pub use self::fetch::Redirects;
use super::classify::Local;
use super::rights::{Rights, Wanted};
use super::{Context, backend};
use crate::image::{BrokerImage, Image};
use crate::types::BrokerId;
use crate::wire::shape::{ShapeError, check_request};

/// What is done with a request. Frames to be sent begin with their length.
pub enum Reply {
    /// Send this.
    Answer(Bytes),
    /// Send this, but not yet.
    Held(Bytes, Duration),
    /// Relay the request as it came (without its length).
    Relay(Bytes),
    /// Relay the connection to this broker from now on, and ask again what to reply.
    Elsewhere(BrokerId),
    /// Ask brokers first.
    Gather(Gather),
    /// The protocol has no words for it: close the connection, and say this in the log.
    Close(String),
}

/// An answer that is made of brokers' answers.
pub struct Gather {
    /// What to ask, and whom.
    pub asks: Vec<Ask>,
    /// Makes the answer of theirs, which come in the order of `asks`.
    pub finish: Finish,
}

/// Makes an answer of brokers' answers; `None` for a broker that gave none.
pub type Finish = Box<dyn FnOnce(Vec<Option<BytesMut>>) -> Result<Bytes, AnswerError> + Send>;

/// A request of ours on a client's behalf.
#[derive(Debug)]
pub struct Ask {
    /// Whom; `None`: whichever broker the connection is relayed to.
    pub broker: Option<BrokerId>,
    /// What the answer is like.
    pub answer: AnswerKind,
    /// The frame, length included.
    pub request: Bytes,
}

/// What a broker's answer to a question of ours is like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AnswerKind {
    /// Comes at once and is small.
    Plain,
    /// Holds records: room is taken for it. It may be held back as long as this.
    Records(Duration),
}

/// Why no answer can be given; the connection is closed, as a broker does.
#[derive(Debug, thiserror::Error)]
pub enum AnswerError {
    /// The request is not what its header says.
    #[error("read request: {0}")]
    Shape(#[from] ShapeError),
    /// The request, or a broker's answer to ours, cannot be decoded.
    #[error("decode {what} version {version}: {reason}")]
    Decode {
        /// Of which request.
        what: &'static str,
        /// Its version.
        version: i16,
        /// The decoder's words.
        reason: String,
    },
    /// Not a fault of the request: the client's rights have to be asked first, then it is answered.
    #[error("the client's rights are not known")]
    Rights(Wanted),
    /// Our answer cannot be encoded at the version asked: a bug of ours.
    #[error("encode {what} version {version}: {reason}")]
    Encode {
        /// Of which request.
        what: &'static str,
        /// Its version.
        version: i16,
        /// The encoder's words.
        reason: String,
    },
}

impl From<Wanted> for AnswerError {
    fn from(wanted: Wanted) -> Self {
        Self::Rights(wanted)
    }
}

/// Who asks, and what the answer may depend on beside the request.
pub struct Asker<'a> {
    /// What all connections share.
    pub context: &'a Context,
    /// The listener's name, here and at the real brokers.
    pub listener: &'a str,
    /// Number of the connection: spreads clients over replicas.
    pub connection: u64,
    /// The broker that the connection is relayed to.
    pub backend: BrokerId,
    /// Whether another broker may take its place: not where the client has proved itself to this one.
    pub may_move: bool,
    /// The listener at which other brokers can be asked; where there is none, they cannot.
    pub aside: Option<&'a str>,
    /// What the client may do.
    pub rights: &'a Rights,
    /// Where this connection was sent before.
    pub redirects: &'a mut Redirects,
    /// Now.
    pub now: Instant,
}

impl Asker<'_> {
    /// The live brokers among `replicas` that have answered lately; where none has, all live ones.
    fn live<'a>(
        &self,
        image: &'a Image,
        listener: &str,
        replicas: &[BrokerId],
    ) -> Vec<&'a BrokerImage> {
        let context = self.context;
        let known = replicas.iter().filter_map(|&id| image.broker(id));
        let live: Vec<_> = known
            .filter(|broker| backend::is_live(image, broker, listener, context.broker_id))
            .collect();
        let is_avoided = |broker: &&BrokerImage| context.brokers.is_avoided(broker.id, self.now);
        let answering: Vec<_> = live.iter().copied().filter(|b| !is_avoided(b)).collect();
        if answering.is_empty() { live } else { answering }
    }

    /// The broker that this connection had better be relayed to, for partitions whose in-sync
    /// replicas are these: one that holds more of them than the present one, or as many in the
    /// client's rack. Of several the one with the fewest client connections.
    fn better_backend(&self, rack: &str, in_sync: &[&[BrokerId]]) -> Option<BrokerId> {
        if !self.may_move {
            return None;
        }
        let image = self.context.image.borrow();
        let holders: BTreeSet<_> = in_sync.iter().copied().flatten().copied().collect();
        let worth = |broker: &BrokerImage| {
            let held = in_sync.iter().filter(|replicas| replicas.contains(&broker.id)).count();
            (held, !rack.is_empty() && broker.rack.as_deref() == Some(rack))
        };
        let holders: Vec<_> = holders.into_iter().collect();
        let live = self.live(&image, self.listener, &holders);
        let present = live.iter().find(|broker| broker.id == self.backend);
        let present = present.map_or((0, false), |broker| worth(broker));
        let connections = |broker: &BrokerImage| self.context.brokers.connections(broker.id);
        let best =
            live.iter().max_by_key(|broker| (worth(broker), Reverse(connections(broker))))?;
        (worth(best) > present).then_some(best.id)
    }
}

/// Answers a request (a whole frame without its length).
pub async fn answer(
    local: Local,
    frame: Bytes,
    asker: &mut Asker<'_>,
) -> Result<Reply, AnswerError> {
    check_request(&frame)?;
    match local {
        Local::Produce => produce::answer(frame, asker).await,
        Local::Fetch => fetch::answer(frame, asker).await,
        Local::ListOffsets => list_offsets::answer(frame, asker).await,
        Local::OffsetForLeaderEpoch => epochs::answer(frame, asker).await,
        Local::WriteTxnMarkers => markers::answer(frame, asker).await,
        Local::DeleteRecords => refused::delete_records(frame, asker).await,
        Local::AlterReplicaLogDirs => refused::alter_replica_log_dirs(frame, asker),
        Local::DescribeProducers => producers::answer(frame, asker).await,
        Local::ShareFetch => share::fetch(frame, asker).await,
        Local::ShareAcknowledge => share::acknowledge(frame, asker).await,
        Local::ListGroups => empty::list_groups(frame),
        Local::ListTransactions => empty::list_transactions(frame),
        Local::DescribeLogDirs => empty::describe_log_dirs(frame, asker),
        Local::DescribeConfigs => configs::describe(frame, asker),
        Local::AlterConfigs => configs::alter(frame, asker),
        Local::IncrementalAlterConfigs => configs::incremental_alter(frame, asker),
    }
}

/// A request, decoded.
#[derive(Clone, Debug)]
struct Asked<R> {
    header: RequestHeader,
    body: R,
}

impl<R: Request> Asked<R> {
    /// Decodes a frame that has been checked by [`check_request`].
    fn decode(mut frame: Bytes) -> Result<Self, AnswerError> {
        let header = decode_request_header_from_buffer(&mut frame)
            .map_err(|error| undecodable::<R>(-1, &error))?;
        let version = header.request_api_version;
        let body =
            R::decode(&mut frame, version).map_err(|error| undecodable::<R>(version, &error))?;
        Ok(Self { header, body })
    }

    fn version(&self) -> i16 {
        self.header.request_api_version
    }

    fn answer(&self, response: &R::Response) -> Result<Reply, AnswerError> {
        Ok(Reply::Answer(answer_frame::<R>(&self.header, response)?))
    }
}

fn undecodable<R: Request>(version: i16, error: &impl ToString) -> AnswerError {
    AnswerError::Decode { what: name_of::<R>(), version, reason: error.to_string() }
}

fn unencodable<R: Request>(version: i16, error: &impl ToString) -> AnswerError {
    AnswerError::Encode { what: name_of::<R>(), version, reason: error.to_string() }
}

fn name_of<R: Request>() -> &'static str {
    std::any::type_name::<R>().rsplit("::").next().unwrap_or("request")
}

/// A whole response frame, length included, to the request with this header.
fn answer_frame<R: Request>(
    header: &RequestHeader,
    response: &R::Response,
) -> Result<Bytes, AnswerError> {
    let version = header.request_api_version;
    let mut frame = BytesMut::from(&[0; 4][..]);
    ResponseHeader::default()
        .with_correlation_id(header.correlation_id)
        .encode(&mut frame, R::Response::header_version(version))
        .and_then(|()| response.encode(&mut frame, version))
        .map_err(|error| unencodable::<R>(version, &error))?;
    Ok(with_length(frame))
}

/// A whole request frame, length included, in the name of the client that sent `header`.
pub(super) fn request_frame<R: Request>(
    header: &RequestHeader,
    version: i16,
    request: &R,
) -> Result<Bytes, AnswerError> {
    let header = RequestHeader::default()
        .with_request_api_key(R::KEY)
        .with_request_api_version(version)
        .with_correlation_id(header.correlation_id)
        .with_client_id(header.client_id.clone());
    let mut frame = BytesMut::from(&[0; 4][..]);
    encode_request_header_into_buffer(&mut frame, &header)
        .and_then(|()| request.encode(&mut frame, version))
        .map_err(|error| unencodable::<R>(version, &error))?;
    Ok(with_length(frame))
}

/// A frame that asks for API versions: any broker answers it to whoever has proved himself, and
/// closes the connection of one in the middle of doing so.
pub fn probe_frame() -> Bytes {
    let mut frame = BytesMut::with_capacity(14);
    frame.put_i32(10);
    frame.put_i16(ApiKey::ApiVersions as i16);
    frame.put_i16(0);
    frame.put_i32(0);
    frame.put_i16(-1);
    frame.freeze()
}

/// Decodes a broker's answer to [`request_frame`].
pub(super) fn decode_answer<R: Request>(
    frame: BytesMut,
    version: i16,
) -> Result<R::Response, AnswerError> {
    let mut frame = frame.freeze();
    ResponseHeader::decode(&mut frame, R::Response::header_version(version))
        .and_then(|_header| R::Response::decode(&mut frame, version))
        .map_err(|error| undecodable::<R>(version, &error))
}

fn with_length(mut frame: BytesMut) -> Bytes {
    // Answers and requests of ours are bounded by the requests they belong to.
    let length = i32::try_from(frame.len() - 4).unwrap_or(i32::MAX);
    (&mut frame[..4]).put_i32(length);
    frame.freeze()
}

/// An unsigned variable-length integer.
fn take_uvarint(bytes: &mut Bytes) -> Option<usize> {
    let mut value = 0usize;
    for index in 0..5 {
        let byte = bytes.try_get_u8().ok()?;
        value |= usize::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}
