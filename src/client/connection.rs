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

    /// Connects as a follower does: what comes first is its own request, in versions that both sides
    /// are known to have. By that the leader tells it from a client.
    pub async fn connect_as_follower(
        endpoint: &Endpoint,
        config: &ClientConfig,
    ) -> Result<Self, ClientError> {
        let transport = Transport::connect(endpoint, config)
            .await
            .map_err(|fault| ClientError::Connect { endpoint: endpoint.clone(), fault })?;
        let inner = Inner {
            endpoint: endpoint.clone(),
            pipeline: Pipeline::start(transport, config.max_frame_bytes),
            versions: PeerVersions::of_followers(),
            client_id: StrBytes::from_string(config.client_id.clone()),
            request_timeout: config.request_timeout,
        };
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

#[cfg(test)]
mod tests {
    use kafka_protocol::messages::{FetchRequest, MetadataRequest, MetadataResponse};

    use super::super::Retry;
    use super::super::fake_broker::{FakeBroker, METADATA, frame, metadata, versions};
    use super::*;

    fn config() -> ClientConfig {
        ClientConfig { max_frame_bytes: 1 << 16, ..ClientConfig::default() }
    }

    fn quick() -> ClientConfig {
        ClientConfig { request_timeout: Duration::from_millis(500), ..config() }
    }

    fn ask() -> MetadataRequest {
        MetadataRequest::default().with_topics(Some(Vec::new()))
    }

    fn cluster_id(result: Result<MetadataResponse, ClientError>) -> String {
        result.unwrap().cluster_id.unwrap().to_string()
    }

    /// Sends two requests, lets `misbehave` happen, and returns what both callers were told.
    async fn poisoned_by<F>(misbehave: impl FnOnce(super::super::fake_broker::Peer) -> F) -> String
    where
        F: Future<Output = ()>,
    {
        let broker = FakeBroker::start().await;
        let (connection, mut peer) = broker.connect(&config()).await;
        let (one, two) = (ask(), ask());
        let (one, two, ()) =
            tokio::join!(connection.request(&one), connection.request(&two), async {
                peer.read().await;
                peer.read().await;
                misbehave(peer).await;
            });
        let (one, two) = (one.unwrap_err(), two.unwrap_err());
        assert_eq!(one.to_string(), two.to_string());
        assert_eq!(one.retry(), Retry::WithBackoff);
        assert!(!connection.is_open());
        let later = connection.request(&ask()).await.unwrap_err();
        assert_eq!(later.to_string(), one.to_string());
        let prefix = format!("send Metadata v12 to broker {}: ", broker.endpoint());
        one.to_string().strip_prefix(&prefix).unwrap().to_owned()
    }

    #[tokio::test]
    async fn requests_go_out_in_the_highest_common_version() {
        let broker = FakeBroker::start().await;
        let (connection, mut peer) = broker.connect(&config()).await;
        assert_eq!(connection.version::<MetadataRequest>(), Some(METADATA));
        assert_eq!(connection.version::<FetchRequest>(), None);
        let request = ask();
        let (answer, ()) = tokio::join!(connection.request(&request), async {
            let asked = peer.read_frame().await.unwrap();
            let prefix = crate::wire::frame::RequestPrefix::peek(&asked).unwrap();
            assert_eq!(prefix.api_version, METADATA);
            assert_eq!(&asked[8..18], b"\0\x08lockstep");
            peer.answer_metadata(prefix, "c").await;
        });
        assert_eq!(cluster_id(answer), "c");
        let error = connection.request(&FetchRequest::default()).await;
        let error = error.unwrap_err();
        assert_eq!(error.retry(), Retry::Never);
        let text = format!(
            "find a version of Fetch for broker {}: we know v4 to v18, the broker knows none",
            broker.endpoint()
        );
        assert_eq!(error.to_string(), text);
    }

    #[tokio::test]
    async fn answers_find_their_requests_in_any_order() {
        let broker = FakeBroker::start().await;
        let (connection, mut peer) = broker.connect(&config()).await;
        let (one, two) = (ask(), ask());
        let (one, two, ()) =
            tokio::join!(connection.request(&one), connection.request(&two), async {
                let (first, second) = (peer.read().await, peer.read().await);
                peer.answer_metadata(second, "second").await;
                peer.answer_metadata(first, "first").await;
            });
        assert_eq!([cluster_id(one), cluster_id(two)], ["first", "second"]);
    }

    #[tokio::test]
    async fn a_dropped_request_leaves_the_stream_in_order() {
        let broker = FakeBroker::start().await;
        let (connection, mut peer) = broker.connect(&config()).await;
        let request = ask();
        let dropped = tokio::select! {
            _ = connection.request(&request) => panic!("nobody has answered"),
            asked = peer.read() => asked,
        };
        let (answer, ()) = tokio::join!(connection.request(&request), async {
            let asked = peer.read().await;
            peer.answer_metadata(dropped, "dropped").await;
            peer.answer_metadata(asked, "asked").await;
        });
        assert_eq!(cluster_id(answer), "asked");
        assert!(connection.is_open());
    }

    #[tokio::test]
    async fn garbage_closes_the_connection_for_all() {
        let told = poisoned_by(|mut peer| async move { peer.write(b"HTTP/1.1 400").await }).await;
        assert_eq!(told, "frame length 1213486160 is outside 4..=65536 bytes");
        let told = poisoned_by(|mut peer| async move { peer.write(&[0xff; 4]).await }).await;
        assert_eq!(told, "frame length -1 is outside 4..=65536 bytes");
    }

    #[tokio::test]
    async fn half_an_answer_is_none() {
        let whole = frame(1, METADATA, &metadata("c"));
        for cut in [0, 3, 4, 9, whole.len() - 1] {
            let half = whole.slice(..cut);
            let told = poisoned_by(|mut peer| async move { peer.write(&half).await }).await;
            assert_eq!(told, "connection closed by the broker", "{cut}");
        }
    }

    #[tokio::test]
    async fn an_answer_to_nothing_closes_the_connection_for_all() {
        let answer = frame(999, METADATA, &metadata("c"));
        let told = poisoned_by(|mut peer| async move { peer.write(&answer).await }).await;
        assert_eq!(told, "answer with unknown correlation id 999");
    }

    #[tokio::test]
    async fn a_late_answer_is_never_taken_for_another() {
        let broker = FakeBroker::start().await;
        let (connection, mut peer) = broker.connect(&quick()).await;
        let error = connection.request(&ask()).await.unwrap_err();
        assert!(error.to_string().ends_with("no answer to Metadata v12 within 500ms"));
        assert!(!connection.is_open());
        assert!(connection.request(&ask()).await.is_err());
        peer.read().await;
        assert_eq!(peer.read_frame().await, None);
    }

    #[tokio::test]
    async fn a_silent_broker_is_noticed_by_callers_who_do_not_wait() {
        let broker = FakeBroker::start().await;
        let (connection, mut peer) = broker.connect(&quick()).await;
        let request = ask();
        tokio::select! {
            _ = connection.request(&request) => panic!("nobody has answered"),
            _ = peer.read() => {}
        }
        assert!(connection.is_open());
        assert_eq!(peer.read_frame().await, None);
        assert!(!connection.is_open());
    }

    #[tokio::test]
    async fn an_answer_may_take_long_as_long_as_it_comes() {
        let broker = FakeBroker::start().await;
        let (connection, mut peer) = broker.connect(&quick()).await;
        let request = ask();
        let begun = tokio::time::Instant::now();
        let (answer, ()) = tokio::join!(connection.request(&request), async {
            let asked = peer.read().await;
            let whole = frame(asked.correlation_id, METADATA, &metadata("c"));
            for piece in whole.chunks(5) {
                // The peer's own pace.
                let pace = tokio::time::timeout(quick().request_timeout / 2, peer.read_frame());
                assert!(pace.await.is_err(), "nobody asks meanwhile");
                peer.write(piece).await;
            }
        });
        assert_eq!(cluster_id(answer), "c");
        assert!(begun.elapsed() > quick().request_timeout * 2);

        // One that stops in the middle is lost, and noticed in the same time.
        let begun = tokio::time::Instant::now();
        let (answer, ()) = tokio::join!(connection.request(&request), async {
            let asked = peer.read().await;
            let whole = frame(asked.correlation_id, METADATA, &metadata("c"));
            peer.write(&whole[..whole.len() - 1]).await;
        });
        assert!(answer.unwrap_err().to_string().ends_with("within 500ms"));
        assert!(begun.elapsed() < quick().request_timeout * 3);
    }

    #[tokio::test]
    async fn dropping_the_last_handle_closes_the_connection() {
        let broker = FakeBroker::start().await;
        let (connection, mut peer) = broker.connect(&config()).await;
        let clone = connection.clone();
        drop(connection);
        assert!(clone.is_open());
        drop(clone);
        assert_eq!(peer.read_frame().await, None);
    }

    #[tokio::test]
    async fn an_answer_that_cannot_be_decoded_is_named_and_harms_nobody_else() {
        let broker = FakeBroker::start().await;
        let (connection, mut peer) = broker.connect(&config()).await;
        // Header and throttle time, then 2^32 - 2 brokers.
        let absurd = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0x0f];
        for body in [&absurd[..], &[], &[0, 0, 0, 0, 0, 9]] {
            let request = ask();
            let (answer, ()) = tokio::join!(connection.request(&request), async {
                let asked = peer.read().await;
                let length = i32::try_from(4 + body.len()).unwrap();
                peer.write(&length.to_be_bytes()).await;
                peer.write(&asked.correlation_id.to_be_bytes()).await;
                peer.write(body).await;
            });
            let prefix =
                format!("decode answer to Metadata v12 from broker {}: ", broker.endpoint());
            let text = answer.unwrap_err().to_string();
            assert!(text.starts_with(&prefix), "{text}");
            assert!(connection.is_open());
        }
    }

    #[tokio::test]
    async fn a_raw_answer_is_whole_and_nobody_elses() {
        let broker = FakeBroker::start().await;
        let (connection, mut peer) = broker.connect(&config()).await;
        let request = ask();
        let (raw, expected) = tokio::join!(connection.request_frame(METADATA, &request), async {
            let asked = peer.read().await;
            let answer = frame(asked.correlation_id, METADATA, &metadata("c"));
            peer.write(&answer).await;
            answer.slice(LENGTH_BYTES..)
        });
        let raw = raw.unwrap();
        assert_eq!(raw, expected);
        assert_eq!(raw.capacity(), raw.len());
        assert!(raw.freeze().is_unique());
    }

    #[tokio::test]
    async fn an_old_broker_is_asked_in_version_0() {
        let broker = FakeBroker::start().await;
        let endpoint = broker.endpoint();
        let config = config();
        let (connection, _peer) = tokio::join!(Connection::connect(&endpoint, &config), async {
            let mut peer = broker.accept_silent().await;
            let mut asked = peer.read().await;
            assert_eq!(asked.api_version, API_VERSIONS_VERSION);
            // The answer to a version that it does not know has the format of v0.
            asked.api_version = 0;
            peer.answer(asked, &versions(35)).await;
            let asked = peer.read().await;
            assert_eq!(asked.api_version, 0);
            peer.answer(asked, &versions(0)).await;
            peer
        });
        let connection = connection.unwrap();
        assert_eq!(connection.version::<MetadataRequest>(), Some(METADATA));
    }

    #[tokio::test]
    async fn set_up_fails_with_the_reason() {
        let broker = FakeBroker::start().await;
        let endpoint = broker.endpoint();
        let impatient = ClientConfig { connect_timeout: Duration::from_millis(100), ..config() };
        let silent = Connection::connect(&endpoint, &impatient).await;
        let silent = silent.unwrap_err();
        assert!(silent.to_string().ends_with("no answer to ApiVersions v3 within 100ms"));
        drop(broker);
        let refused = Connection::connect(&endpoint, &config()).await.unwrap_err();
        let prefix = format!("connect to broker {endpoint}: ");
        assert!(refused.to_string().starts_with(&prefix), "{refused}");
        assert_eq!(refused.retry(), Retry::WithBackoff);
        let nowhere = Endpoint::new("host.invalid", 9092);
        let unknown = Connection::connect(&nowhere, &config()).await.unwrap_err();
        assert!(unknown.to_string().contains("host.invalid:9092"), "{unknown}");
    }
}
