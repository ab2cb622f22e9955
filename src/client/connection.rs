//! One connection to one broker: set-up, versions, typed requests. Not shared by name or id: that
//! is the cluster's.

use std::fmt::Display;
use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use kafka_protocol::error::ParseResponseErrorCode;
use kafka_protocol::messages::{ApiVersionsRequest, RequestHeader, ResponseHeader};
use kafka_protocol::protocol::{
    Decodable, Encodable, HeaderVersion, Request, StrBytes, VersionRange,
};

use super::error::RequestName;
use super::pipeline::Pipeline;
use super::transport::Transport;
use super::versions::{self, Answer, PeerVersions};
use super::{ClientConfig, ClientError, Endpoint};
use crate::wire::bounded::Bounded;
use crate::wire::frame::LENGTH_BYTES;

/// Known to brokers from Kafka 2.4 on; what v4 adds concerns features only.
const API_VERSIONS_VERSION: i16 = 3;

/// A connection to a broker. Requests of all clones are pipelined; the first framing or I/O error,
/// and the first request without an answer in time, closes it for all.
#[derive(Clone, Debug)]
pub struct Connection {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    endpoint: Endpoint,
    pipeline: Pipeline,
    versions: PeerVersions,
    client_id: StrBytes,
    request_timeout: Duration,
}

impl Connection {
    /// Connects, and asks which versions the peer knows.
    pub async fn connect(endpoint: &Endpoint, config: &ClientConfig) -> Result<Self, ClientError> {
        let transport = Transport::connect(endpoint, config)
            .await
            .map_err(|fault| ClientError::Connect { endpoint: endpoint.clone(), fault })?;
        let mut inner = Inner {
            endpoint: endpoint.clone(),
            pipeline: Pipeline::start(transport, config.max_frame_bytes),
            versions: PeerVersions::default(),
            client_id: StrBytes::from_string(config.client_id.clone()),
            request_timeout: config.request_timeout,
        };
        inner.versions = inner.ask_versions(config.connect_timeout).await?;
        Ok(Self { inner: Arc::new(inner) })
    }

    /// The highest version of this request that both sides know.
    pub fn version<R: Request>(&self) -> Option<i16> {
        self.inner.versions.common::<R>()
    }

    /// The versions of a request that the peer named, also of one that we cannot encode.
    pub fn peer_versions(&self, key: i16) -> Option<VersionRange> {
        self.inner.versions.range(key)
    }

    /// Sends a request in the highest common version and waits for the answer.
    pub async fn request<R: Request>(&self, request: &R) -> Result<R::Response, ClientError> {
        let limit = self.inner.request_timeout;
        self.request_with_timeout(request, limit).await
    }

    /// [`Self::request`] with a time limit of its own: for answers that the broker may hold back.
    pub async fn request_with_timeout<R: Request>(
        &self,
        request: &R,
        limit: Duration,
    ) -> Result<R::Response, ClientError> {
        let version = self.inner.common_version::<R>()?;
        let frame = self.inner.exchange(version, request, limit).await?;
        self.inner.decode::<R>(version, frame)
    }

    /// Sends a request in a given version and waits for the answer.
    pub async fn request_at<R: Request>(
        &self,
        version: i16,
        request: &R,
    ) -> Result<R::Response, ClientError> {
        let frame = self.request_frame(version, request).await?;
        self.inner.decode::<R>(version, frame)
    }

    /// Sends a request in a given version and waits for the answer as it came: header included,
    /// length excluded, in memory of exactly its size that nothing else refers to.
    pub async fn request_frame<R: Request>(
        &self,
        version: i16,
        request: &R,
    ) -> Result<BytesMut, ClientError> {
        let limit = self.inner.request_timeout;
        self.inner.exchange(version, request, limit).await
    }

    /// Where it leads.
    pub fn peer(&self) -> &Endpoint {
        &self.inner.endpoint
    }

    /// Whether requests can still be sent.
    pub fn is_open(&self) -> bool {
        self.inner.pipeline.is_open()
    }

    /// Whether both are the same connection.
    pub(super) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.inner, &other.inner)
    }
}

impl Inner {
    async fn ask_versions(&self, limit: Duration) -> Result<PeerVersions, ClientError> {
        let request = ApiVersionsRequest::default()
            .with_client_software_name(StrBytes::from_static_str(env!("CARGO_PKG_NAME")))
            .with_client_software_version(StrBytes::from_static_str(env!("CARGO_PKG_VERSION")));
        let mut version = API_VERSIONS_VERSION;
        loop {
            let name = name::<ApiVersionsRequest>(version);
            let frame = self.exchange(version, &request, limit).await?;
            match versions::read(&frame, version) {
                Ok(Answer::Versions(versions)) => return Ok(versions),
                // Asked at most once more: v0 is never answered so.
                Ok(Answer::AskVersion0) => version = 0,
                Ok(Answer::Error(code)) => return Err(self.response_error(name, code)),
                Err(reason) => return Err(self.decode_error(name, reason)),
            }
        }
    }

    fn common_version<R: Request>(&self) -> Result<i16, ClientError> {
        self.versions.common::<R>().ok_or_else(|| ClientError::Version {
            endpoint: self.endpoint.clone(),
            key: R::KEY,
            ours: R::VERSIONS,
            theirs: self.versions.range(R::KEY),
        })
    }

    async fn exchange<R: Request>(
        &self,
        version: i16,
        request: &R,
        limit: Duration,
    ) -> Result<BytesMut, ClientError> {
        let name = name::<R>(version);
        let frame =
            encode(&self.client_id, version, request).map_err(|error| ClientError::Encode {
                endpoint: self.endpoint.clone(),
                request: name,
                reason: format!("{error:#}"),
            })?;
        self.pipeline.exchange(frame, name, limit).await.map_err(|fault| ClientError::Request {
            endpoint: self.endpoint.clone(),
            request: name,
            fault,
        })
    }

    fn decode<R: Request>(
        &self,
        version: i16,
        frame: BytesMut,
    ) -> Result<R::Response, ClientError> {
        decode::<R::Response>(frame.freeze(), version)
            .map_err(|reason| self.decode_error(name::<R>(version), reason))
    }

    fn decode_error(&self, request: RequestName, reason: String) -> ClientError {
        ClientError::Decode { endpoint: self.endpoint.clone(), request, reason }
    }

    fn response_error(&self, request: RequestName, code: i16) -> ClientError {
        match code.err() {
            Some(error) => {
                ClientError::Response { endpoint: self.endpoint.clone(), request, error }
            }
            None => self.decode_error(request, "error code 0 is no error".to_owned()),
        }
    }
}

fn name<R: Request>(version: i16) -> RequestName {
    RequestName { key: R::KEY, version }
}

/// A request frame with its length; the pipeline sets the correlation id.
fn encode<R: Request>(client_id: &StrBytes, version: i16, request: &R) -> Result<BytesMut, String> {
    let header = RequestHeader::default()
        .with_request_api_key(R::KEY)
        .with_request_api_version(version)
        .with_correlation_id(0)
        .with_client_id(Some(client_id.clone()));
    let header_version = R::header_version(version);
    let header_bytes = header.compute_size(header_version).map_err(reason)?;
    let length = header_bytes + request.compute_size(version).map_err(reason)?;
    let mut frame = BytesMut::with_capacity(LENGTH_BYTES + length);
    frame.put_i32(i32::try_from(length).map_err(reason)?);
    header.encode(&mut frame, header_version).map_err(reason)?;
    request.encode(&mut frame, version).map_err(reason)?;
    Ok(frame)
}

fn decode<A: Decodable + HeaderVersion>(frame: Bytes, version: i16) -> Result<A, String> {
    let mut frame = Bounded::new(frame);
    ResponseHeader::decode(&mut frame, A::header_version(version)).map_err(reason)?;
    A::decode(&mut frame, version).map_err(reason)
}

/// Some of the codec's messages end in a line break.
fn reason(error: impl Display) -> String {
    format!("{error:#}").trim_end().to_owned()
}
