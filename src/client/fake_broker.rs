//! A broker for tests: each test plays its part by hand, frame by frame.

use bytes::{BufMut, Bytes, BytesMut};
use kafka_protocol::messages::api_versions_response::ApiVersion;
use kafka_protocol::messages::{
    ApiVersionsRequest, ApiVersionsResponse, MetadataRequest, MetadataResponse, ResponseHeader,
};
use kafka_protocol::protocol::{Encodable, HeaderVersion, Message, Request};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::{ClientConfig, Connection, Endpoint};
use crate::wire::frame::RequestPrefix;

/// The newest version of Metadata that the fake broker knows.
pub(super) const METADATA: i16 = 12;

pub(super) struct FakeBroker {
    listener: TcpListener,
}

impl FakeBroker {
    pub(super) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        Self { listener }
    }

    pub(super) fn endpoint(&self) -> Endpoint {
        Endpoint::new("127.0.0.1", self.listener.local_addr().unwrap().port())
    }

    /// A connection that has not been answered anything yet.
    pub(super) async fn accept_silent(&self) -> Peer {
        let (stream, _) = self.listener.accept().await.unwrap();
        Peer { stream }
    }

    /// A connection whose first request, for our versions, is answered.
    pub(super) async fn accept(&self) -> Peer {
        let mut peer = self.accept_silent().await;
        let request = peer.read().await;
        assert_eq!(request.api_key, ApiVersionsRequest::KEY);
        peer.answer(request, &versions(0)).await;
        peer
    }

    /// Both ends of a connection that is ready for requests.
    pub(super) async fn connect(&self, config: &ClientConfig) -> (Connection, Peer) {
        let endpoint = self.endpoint();
        let (connection, peer) =
            tokio::join!(Connection::connect(&endpoint, config), self.accept());
        (connection.unwrap(), peer)
    }
}

/// What the fake broker says that it knows.
pub(super) fn versions(error_code: i16) -> ApiVersionsResponse {
    let keys = [(MetadataRequest::KEY, 0, METADATA), (18, 0, 3)];
    let keys = keys.map(|(key, min, max)| {
        ApiVersion::default().with_api_key(key).with_min_version(min).with_max_version(max)
    });
    ApiVersionsResponse::default().with_error_code(error_code).with_api_keys(keys.to_vec())
}

/// The broker's end of a connection.
pub(super) struct Peer {
    stream: TcpStream,
}

impl Peer {
    pub(super) async fn read(&mut self) -> RequestPrefix {
        RequestPrefix::peek(&self.read_frame().await.unwrap()).unwrap()
    }

    /// `None` once the client has closed the connection.
    pub(super) async fn read_frame(&mut self) -> Option<Bytes> {
        let length = self.stream.read_i32().await.ok()?;
        let mut frame = vec![0; usize::try_from(length).unwrap()];
        self.stream.read_exact(&mut frame).await.ok()?;
        Some(frame.into())
    }

    pub(super) async fn answer<A>(&mut self, to: RequestPrefix, answer: &A)
    where
        A: Message + Encodable + HeaderVersion,
    {
        let frame = frame(to.correlation_id, to.api_version, answer);
        self.write(&frame).await;
    }

    /// Answers a request for metadata with this cluster id.
    pub(super) async fn answer_metadata(&mut self, to: RequestPrefix, cluster_id: &'static str) {
        self.answer(to, &metadata(cluster_id)).await;
    }

    pub(super) async fn write(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.unwrap();
    }
}

pub(super) fn metadata(cluster_id: &'static str) -> MetadataResponse {
    use kafka_protocol::protocol::StrBytes;
    MetadataResponse::default().with_cluster_id(Some(StrBytes::from_static_str(cluster_id)))
}

/// An answer with its length.
pub(super) fn frame<A>(correlation_id: i32, version: i16, answer: &A) -> Bytes
where
    A: Message + Encodable + HeaderVersion,
{
    let mut body = BytesMut::new();
    ResponseHeader::default()
        .with_correlation_id(correlation_id)
        .encode(&mut body, A::header_version(version))
        .unwrap();
    answer.encode(&mut body, version).unwrap();
    let mut frame = BytesMut::new();
    frame.put_i32(i32::try_from(body.len()).unwrap());
    frame.extend_from_slice(&body);
    frame.freeze()
}
