//! One blocking connection to one broker or controller.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use bytes::{BufMut, Bytes, BytesMut};
use kafka_protocol::messages::{
    ApiVersionsRequest, RequestHeader, ResponseHeader, SaslAuthenticateRequest,
    SaslAuthenticateResponse, SaslHandshakeRequest,
};
use kafka_protocol::protocol::{
    Decodable, Encodable, HeaderVersion, Request, StrBytes, VersionRange,
};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
/// Above the largest fetch that the judge asks for.
const MAX_FRAME_BYTES: usize = 256 << 20;
const CLIENT_ID: &str = "judge";

/// A connection to one node, with what that node can speak.
pub struct Judge {
    stream: TcpStream,
    address: String,
    correlation_id: i32,
    versions: BTreeMap<i16, VersionRange>,
}

impl Judge {
    /// Connects to `host:port` and asks for its API versions.
    pub fn connect(address: &str) -> Result<Self> {
        Self::connect_patient(address, ANSWER_TIMEOUT)
    }

    /// [`Judge::connect`] with another limit for each answer.
    pub fn connect_patient(address: &str, answer_timeout: Duration) -> Result<Self> {
        let socket = address
            .to_socket_addrs()
            .with_context(|| format!("resolve {address}"))?
            .next()
            .with_context(|| format!("{address} has no address"))?;
        let stream = TcpStream::connect_timeout(&socket, CONNECT_TIMEOUT)
            .with_context(|| format!("connect to {address}"))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(answer_timeout))?;
        let mut judge = Self {
            stream,
            address: address.to_owned(),
            correlation_id: 0,
            versions: BTreeMap::new(),
        };
        judge.learn_versions()?;
        Ok(judge)
    }

    /// Proves who it is, by SASL PLAIN.
    pub fn authenticate(mut self, user: &str, password: &str) -> Result<Self> {
        let answer = self.prove(user, password)?;
        ensure!(answer.error_code == 0, "SaslAuthenticate: error {}", answer.error_code);
        Ok(self)
    }

    /// The answer to a proof by SASL PLAIN, the first or a later one (KIP-368).
    pub fn prove(&mut self, user: &str, password: &str) -> Result<SaslAuthenticateResponse> {
        let mechanism = StrBytes::from_static_str("PLAIN");
        let handshake = SaslHandshakeRequest::default().with_mechanism(mechanism);
        let answer = self.ask_at(1, &handshake)?;
        ensure!(answer.error_code == 0, "SaslHandshake: error {}", answer.error_code);
        let token = format!("\0{user}\0{password}");
        self.ask_at(1, &SaslAuthenticateRequest::default().with_auth_bytes(token.into()))
    }

    /// Where it is connected to.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// What the node can speak, by API key.
    pub fn versions(&self) -> &BTreeMap<i16, VersionRange> {
        &self.versions
    }

    /// The newest version that both sides know.
    pub fn version<R: Request>(&self) -> Result<i16> {
        let theirs = self.versions.get(&R::KEY);
        let theirs = theirs.with_context(|| format!("{} lacks API {}", self.address, R::KEY))?;
        let both = R::VERSIONS.intersect(theirs);
        ensure!(!both.is_empty(), "no common version of API {}", R::KEY);
        Ok(both.max)
    }

    /// Asks at the newest common version.
    pub fn ask<R: Request>(&mut self, request: &R) -> Result<R::Response> {
        let version = self.version::<R>()?;
        self.ask_at(version, request)
    }

    /// Asks at a given version.
    pub fn ask_at<R: Request>(&mut self, version: i16, request: &R) -> Result<R::Response> {
        self.send(version, request)?;
        self.receive::<R>(version)
            .with_context(|| format!("answer of {} to API {} v{version}", self.address, R::KEY))
    }

    /// Sends and waits for nothing, as a producer with acks=0 does.
    pub fn send<R: Request>(&mut self, version: i16, request: &R) -> Result<()> {
        self.correlation_id += 1;
        let header = RequestHeader::default()
            .with_request_api_key(R::KEY)
            .with_request_api_version(version)
            .with_correlation_id(self.correlation_id)
            .with_client_id(Some(StrBytes::from_static_str(CLIENT_ID)));
        let mut frame = BytesMut::new();
        frame.put_i32(0);
        header.encode(&mut frame, R::header_version(version))?;
        request.encode(&mut frame, version)?;
        let length = u32::try_from(frame.len() - 4)?;
        frame[..4].copy_from_slice(&length.to_be_bytes());
        self.stream.write_all(&frame).with_context(|| format!("send to {}", self.address))
    }

    fn receive<R: Request>(&mut self, version: i16) -> Result<R::Response> {
        let mut frame = self.frame()?;
        // KIP-511: an answer to ApiVersions always has the oldest header.
        let header_version = R::Response::header_version(version);
        let header = ResponseHeader::decode(&mut frame, header_version)?;
        ensure!(
            header.correlation_id == self.correlation_id,
            "answer {} to request {}",
            header.correlation_id,
            self.correlation_id
        );
        R::Response::decode(&mut frame, version)
    }

    fn frame(&mut self) -> Result<Bytes> {
        let mut length = [0; 4];
        self.stream.read_exact(&mut length).context("read length")?;
        let length = usize::try_from(i32::from_be_bytes(length))?;
        if length > MAX_FRAME_BYTES {
            bail!("a frame of {length} bytes");
        }
        let mut frame = vec![0; length];
        self.stream.read_exact(&mut frame).context("read frame")?;
        Ok(frame.into())
    }

    fn learn_versions(&mut self) -> Result<()> {
        // v3 is known by every release since 2.4.
        let request = ApiVersionsRequest::default()
            .with_client_software_name(StrBytes::from_static_str(CLIENT_ID))
            .with_client_software_version(StrBytes::from_static_str("1"));
        let answer = self.ask_at(3, &request)?;
        ensure!(answer.error_code == 0, "ApiVersions: error {}", answer.error_code);
        for api in answer.api_keys {
            let range = VersionRange { min: api.min_version, max: api.max_version };
            self.versions.insert(api.api_key, range);
        }
        Ok(())
    }
}
