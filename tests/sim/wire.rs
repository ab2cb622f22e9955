//! Frames and messages of Kafka's protocol, from the brokers' side.

use bytes::{BufMut, Bytes, BytesMut};
use kafka_protocol::messages::api_versions_response::ApiVersion;
use kafka_protocol::messages::{ApiKey, ApiVersionsResponse, RequestHeader, ResponseHeader};
use kafka_protocol::protocol::{Decodable, Encodable, HeaderVersion, StrBytes};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream};

/// A request that was read.
#[derive(Clone, Debug)]
pub struct Call {
    pub key: i16,
    pub version: i16,
    pub correlation: i32,
    pub body: Bytes,
}

/// The one request version that the crate does not know: version 1 with one more tag.
const HEARTBEAT: i16 = 63;

impl Call {
    /// The request, in the words of the crate.
    pub fn decode<R: Decodable>(&self) -> R {
        let version = if self.key == HEARTBEAT { self.version.min(1) } else { self.version };
        R::decode(&mut self.body.clone(), version).unwrap()
    }

    /// An answer's frame.
    pub fn answer<A: Encodable + HeaderVersion>(&self, answer: &A) -> Bytes {
        let version = if self.key == HEARTBEAT { self.version.min(1) } else { self.version };
        let mut frame = BytesMut::new();
        frame.put_i32(0);
        let header = ResponseHeader::default().with_correlation_id(self.correlation);
        header.encode(&mut frame, A::header_version(version)).unwrap();
        answer.encode(&mut frame, version).unwrap();
        let length = (frame.len() - 4) as i32;
        frame[..4].copy_from_slice(&length.to_be_bytes());
        frame.freeze()
    }
}

/// One frame without its length; `None` where the other side is gone.
pub async fn read_frame(stream: &mut (impl AsyncRead + Unpin)) -> Option<Bytes> {
    let length = usize::try_from(stream.read_i32().await.ok()?).unwrap();
    let mut frame = vec![0; length];
    stream.read_exact(&mut frame).await.ok()?;
    Some(frame.into())
}

/// The next request.
pub async fn read_call(stream: &mut DuplexStream) -> Option<Call> {
    let mut frame = read_frame(stream).await?;
    let key = i16::from_be_bytes(frame[..2].try_into().unwrap());
    let version = i16::from_be_bytes(frame[2..4].try_into().unwrap());
    let header = ApiKey::try_from(key).unwrap().request_header_version(version);
    let header = RequestHeader::decode(&mut frame, header).unwrap();
    Some(Call { key, version, correlation: header.correlation_id, body: frame })
}

/// Writes a whole frame; whether the other side took it.
pub async fn write(stream: &mut (impl AsyncWrite + Unpin), frame: &[u8]) -> bool {
    stream.write_all(frame).await.is_ok()
}

/// A request's frame.
pub fn request<R: Encodable + HeaderVersion>(
    key: ApiKey,
    version: i16,
    correlation: i32,
    body: &R,
) -> Bytes {
    let mut frame = BytesMut::new();
    frame.put_i32(0);
    RequestHeader::default()
        .with_request_api_key(key as i16)
        .with_request_api_version(version)
        .with_correlation_id(correlation)
        .with_client_id(Some(StrBytes::from_static_str("broker-fetcher")))
        .encode(&mut frame, key.request_header_version(version))
        .unwrap();
    body.encode(&mut frame, version).unwrap();
    let length = (frame.len() - 4) as i32;
    frame[..4].copy_from_slice(&length.to_be_bytes());
    frame.freeze()
}

/// The body of an answer's frame.
pub fn response<A: Decodable>(key: ApiKey, version: i16, mut frame: Bytes) -> A {
    ResponseHeader::decode(&mut frame, key.response_header_version(version)).unwrap();
    A::decode(&mut frame, version).unwrap()
}

/// The answer to ApiVersions.
pub fn versions(keys: &[(i16, i16, i16)]) -> ApiVersionsResponse {
    let keys = keys.iter().map(|&(key, min, max)| {
        ApiVersion::default().with_api_key(key).with_min_version(min).with_max_version(max)
    });
    ApiVersionsResponse::default().with_api_keys(keys.collect())
}
