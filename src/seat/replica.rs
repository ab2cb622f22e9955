//! Connections of the destination's real brokers, which replicate from us: their Fetch, ListOffsets
//! and OffsetForLeaderEpoch. Everything else is the gateway's.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use kafka_protocol::messages::{
    ApiKey, FetchRequest, ListOffsetsRequest, OffsetForLeaderEpochRequest, RequestHeader,
    ResponseHeader,
};
use kafka_protocol::protocol::{Decodable, Encodable};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::watch;
use tokio::time::timeout;

use super::leader::LeaderHandle;
use super::questions;
use crate::image::Image;
use crate::types::{BrokerEpoch, BrokerId};
use crate::wire::fetch_answer;
use crate::wire::frame::{LENGTH_BYTES, RequestPrefix, frame_length};
use crate::wire::segments::Segments;
use crate::wire::shape::check_request;

/// A follower of 10,000 partitions without a session sends about 330 KB.
const MAX_FRAME_BYTES: usize = 16 << 20;
/// A follower asks again within `replica.fetch.wait.max.ms` as long as it follows anything of ours,
/// and gives its own connection up after 10 minutes without use.
const IDLE_MAX: Duration = Duration::from_secs(11 * 60);
/// A follower that has not taken an answer by then has given it up (`request.timeout.ms`): what it
/// holds of our memory is needed for others.
const WRITE_WITHIN: Duration = Duration::from_secs(30);
/// The crate stops at 10; 11 has the same bytes.
const LIST_OFFSETS_KNOWN: i16 = 10;
/// The whole answer: this registration is not the present one, ask again later.
const STALE_BROKER_EPOCH: i16 = 77;

/// A request of a follower.
#[derive(Debug)]
enum ReplicaRequest {
    Fetch(FetchRequest),
    ListOffsets(ListOffsetsRequest),
    OffsetForLeaderEpoch(OffsetForLeaderEpochRequest),
}

/// A follower's connection broke the rules; it is closed.
#[derive(Debug, thiserror::Error)]
enum ReplicaError {
    #[error("connection ended: {0}")]
    Io(#[from] std::io::Error),
    #[error(transparent)]
    Frame(#[from] crate::wire::frame::FrameLengthError),
    #[error("request with api key {api_key} version {version} is not a follower's")]
    Unexpected { api_key: i16, version: i16 },
    #[error("request cannot be decoded: {0}")]
    Decode(String),
    #[error("answer cannot be encoded: {0}")]
    Encode(String),
    #[error("broker {broker} asks on the connection of broker {owner}")]
    OtherBroker { broker: BrokerId, owner: BrokerId },
    #[error("nothing was asked for {IDLE_MAX:?}")]
    Idle,
    #[error("an answer was not taken within {WRITE_WITHIN:?}")]
    Stuck,
    #[error("the daemon stops")]
    Stopping,
    #[error("it may go on no longer")]
    Over,
}

/// Whether a connection whose first request is `frame` (without its length) is a follower's:
/// followers never ask for API versions, they begin with Fetch, ListOffsets or
/// OffsetForLeaderEpoch under their own broker id.
pub fn is_replica_frame(frame: &Bytes) -> bool {
    replica_of(frame).is_some()
}

/// The broker in whose name a follower's request is made; `None`: it is not a follower's.
pub fn replica_of(frame: &Bytes) -> Option<BrokerId> {
    let prefix = RequestPrefix::peek(frame)?;
    if !is_follower_key(prefix.api_key) {
        return None;
    }
    let (_header, request) = decode(prefix, frame.clone()).ok()?;
    Some(request.broker().0).filter(|broker| broker.0 >= 0)
}

fn is_follower_key(key: i16) -> bool {
    key == ApiKey::Fetch as i16
        || key == ApiKey::ListOffsets as i16
        || key == ApiKey::OffsetForLeaderEpoch as i16
}

/// Serves followers. Only brokers that are registered in the image are answered, under the epoch
/// that it shows.
#[derive(Clone, Debug)]
pub struct Replicas {
    leader: LeaderHandle,
    image: watch::Receiver<Arc<Image>>,
    connections: Arc<AtomicU64>,
}

impl Replicas {
    /// Followers of what `leader` leads.
    pub fn new(leader: LeaderHandle, image: watch::Receiver<Arc<Image>>) -> Self {
        Self { leader, image, connections: Arc::default() }
    }

    /// Serves one follower's connection from its first request on.
    pub async fn serve_all<S>(&self, mut stream: S)
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        if let Ok(first) = read_frame(&mut stream).await {
            let _unexpected = self.serve(stream, first, std::future::pending()).await;
        }
    }

    /// Serves one follower's connection until it ends or is `over`; `first` was read from it already.
    /// Where the follower begins to prove itself anew (KIP-368) its SaslHandshake is given back: it is
    /// not ours.
    pub async fn serve<S>(
        &self,
        mut stream: S,
        first: Bytes,
        over: impl Future<Output = ()>,
    ) -> Option<Bytes>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let connection = self.connections.fetch_add(1, Ordering::Relaxed);
        let mut owner = None;
        let ended = tokio::select! {
            ended = self.answer_all(&mut stream, first, connection, &mut owner) => ended,
            () = over => Err(ReplicaError::Over),
        };
        self.leader.disconnected(connection).await;
        let error = match ended {
            Ok(handshake) => return Some(handshake),
            Err(error) => error,
        };
        let broker = owner.map_or(-1, |owner: BrokerId| owner.0);
        match error {
            ReplicaError::Io(_)
            | ReplicaError::Idle
            | ReplicaError::Stopping
            | ReplicaError::Over => {
                tracing::debug!(broker, %error, "replica connection ended");
            }
            _ => tracing::warn!(broker, %error, "replica connection closed"),
        }
        None
    }

    async fn answer_all(
        &self,
        stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
        first: Bytes,
        connection: u64,
        owner: &mut Option<BrokerId>,
    ) -> Result<Bytes, ReplicaError> {
        let mut frame = first;
        loop {
            let step = async {
                let mut answer = self.answer(frame, connection, owner).await?.into_frame();
                let written = timeout(WRITE_WITHIN, stream.write_all_buf(&mut answer)).await;
                written.map_err(|_elapsed| ReplicaError::Stuck)??;
                drop(answer);
                timeout(IDLE_MAX, read_frame(stream))
                    .await
                    .map_err(|_elapsed| ReplicaError::Idle)?
            };
            frame = step.await?;
            let key = RequestPrefix::peek(&frame).map(|prefix| prefix.api_key);
            if key == Some(ApiKey::SaslHandshake as i16) {
                return Ok(frame);
            }
        }
    }

    async fn answer(
        &self,
        frame: Bytes,
        connection: u64,
        owner: &mut Option<BrokerId>,
    ) -> Result<Segments, ReplicaError> {
        let prefix = RequestPrefix::peek(&frame)
            .ok_or_else(|| ReplicaError::Decode("shorter than a header".to_owned()))?;
        // The crate reserves memory for whatever length an array claims.
        check_request(&frame).map_err(|error| ReplicaError::Decode(error.to_string()))?;
        let (header, request) = decode(prefix, frame)?;
        let (broker, epoch) = request.broker();
        let owner = *owner.get_or_insert(broker);
        if broker != owner {
            return Err(ReplicaError::OtherBroker { broker, owner });
        }
        let correlation_id = header.correlation_id;
        // A Fetch says under which registration it was made; the other two have no field for it.
        let epoch_is_told = matches!(request, ReplicaRequest::Fetch(_));
        let is_known = self.is_registered(broker, epoch_is_told.then_some(epoch));
        match request {
            ReplicaRequest::Fetch(_) if !is_known => {
                Ok(fetch_answer::encode(correlation_id, STALE_BROKER_EPOCH, 0, Vec::new()))
            }
            ReplicaRequest::Fetch(request) => {
                let request = questions::fetch(request, connection, broker, epoch);
                let answer = self.leader.fetch(request).await.ok_or(ReplicaError::Stopping)?;
                let partitions = answer.partitions.into_iter().map(questions::fetched).collect();
                Ok(fetch_answer::encode(
                    correlation_id,
                    answer.error,
                    answer.session_id,
                    partitions,
                ))
            }
            ReplicaRequest::ListOffsets(request) => {
                let image = self.image.borrow().clone();
                let asked = questions::offsets(&request, &image);
                let answers = self.answers(broker, is_known, &asked).await?;
                let body = questions::offsets_answer(&request, answers);
                let version = prefix.api_version.min(LIST_OFFSETS_KNOWN);
                encode(correlation_id, ApiKey::ListOffsets, version, &body)
            }
            ReplicaRequest::OffsetForLeaderEpoch(request) => {
                let image = self.image.borrow().clone();
                let asked = questions::epochs(&request, &image);
                let answers = self.answers(broker, is_known, &asked).await?;
                let body = questions::epochs_answer(&request, answers);
                encode(correlation_id, ApiKey::OffsetForLeaderEpoch, prefix.api_version, &body)
            }
        }
    }

    async fn answers(
        &self,
        broker: BrokerId,
        is_known: bool,
        asked: &[Option<super::leader::Question>],
    ) -> Result<Vec<super::leader::QuestionAnswer>, ReplicaError> {
        const NOT_LEADER: i16 = 6;
        if !is_known {
            return Ok(vec![Err(NOT_LEADER); asked.len()]);
        }
        let known: Vec<_> = asked.iter().flatten().copied().collect();
        let answers = self.leader.answers(broker, known).await.ok_or(ReplicaError::Stopping)?;
        let mut answers = answers.into_iter();
        let in_order = asked.iter().map(|question| {
            question.as_ref().and_then(|_| answers.next()).unwrap_or(Err(NOT_LEADER))
        });
        Ok(in_order.collect())
    }

    /// Whether the image has that broker, under that epoch where the request says one. Fenced ones
    /// too: a broker begins to fetch before it is unfenced, and what it says counts for nothing then.
    fn is_registered(&self, broker: BrokerId, epoch: Option<BrokerEpoch>) -> bool {
        let image = self.image.borrow();
        image.broker(broker).is_some_and(|known| epoch.is_none_or(|epoch| known.epoch == epoch))
    }
}

impl ReplicaRequest {
    fn broker(&self) -> (BrokerId, BrokerEpoch) {
        match self {
            Self::Fetch(request) => {
                let state = &request.replica_state;
                let id =
                    if state.replica_id.0 >= 0 { state.replica_id } else { request.replica_id };
                (BrokerId(id.0), BrokerEpoch(state.replica_epoch))
            }
            Self::ListOffsets(request) => (BrokerId(request.replica_id.0), BrokerEpoch(-1)),
            Self::OffsetForLeaderEpoch(request) => {
                (BrokerId(request.replica_id.0), BrokerEpoch(-1))
            }
        }
    }
}

async fn read_frame(stream: &mut (impl AsyncRead + Unpin)) -> Result<Bytes, ReplicaError> {
    let mut prefix = [0; LENGTH_BYTES];
    stream.read_exact(&mut prefix).await?;
    let length = frame_length(prefix, MAX_FRAME_BYTES)?;
    let mut frame = BytesMut::zeroed(length);
    stream.read_exact(&mut frame).await?;
    Ok(frame.freeze())
}

fn decode(
    prefix: RequestPrefix,
    mut frame: Bytes,
) -> Result<(RequestHeader, ReplicaRequest), ReplicaError> {
    let (api_key, version) = (prefix.api_key, prefix.api_version);
    let unexpected = || ReplicaError::Unexpected { api_key, version };
    let key = ApiKey::try_from(api_key).map_err(|()| unexpected())?;
    let failed = |error: anyhow::Error| ReplicaError::Decode(error.to_string());
    // Followers of 3.7 and newer send Fetch from 15 on; ours are never older.
    let (least, most) = match key {
        ApiKey::Fetch => (15, 18),
        ApiKey::ListOffsets => (7, 11),
        ApiKey::OffsetForLeaderEpoch => (4, 4),
        _ => return Err(unexpected()),
    };
    if !(least..=most).contains(&version) {
        return Err(unexpected());
    }
    let header =
        RequestHeader::decode(&mut frame, key.request_header_version(version)).map_err(failed)?;
    let request = match key {
        ApiKey::Fetch => {
            ReplicaRequest::Fetch(FetchRequest::decode(&mut frame, version).map_err(failed)?)
        }
        ApiKey::ListOffsets => {
            let version = version.min(LIST_OFFSETS_KNOWN);
            let request = ListOffsetsRequest::decode(&mut frame, version).map_err(failed)?;
            ReplicaRequest::ListOffsets(request)
        }
        _ => {
            let request =
                OffsetForLeaderEpochRequest::decode(&mut frame, version).map_err(failed)?;
            ReplicaRequest::OffsetForLeaderEpoch(request)
        }
    };
    Ok((header, request))
}

fn encode<B: Encodable>(
    correlation_id: i32,
    key: ApiKey,
    version: i16,
    body: &B,
) -> Result<Segments, ReplicaError> {
    let failed = |error: anyhow::Error| ReplicaError::Encode(error.to_string());
    let mut bytes = BytesMut::new();
    ResponseHeader::default()
        .with_correlation_id(correlation_id)
        .encode(&mut bytes, key.response_header_version(version))
        .map_err(failed)?;
    body.encode(&mut bytes, version).map_err(failed)?;
    Ok(Segments::from_bytes(bytes.freeze()))
}
