//! The byte stream below a connection. The one place that knows what carries the bytes: plain TCP
//! now, or memory in the simulation; TLS is one more variant of each enum.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf, ReadHalf, WriteHalf};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpSocket, TcpStream, lookup_host};

use super::error::Fault;
use super::{ClientConfig, Endpoint};

/// Opens streams without a network: the simulation's brokers live in the same process. No
/// configuration leads here.
#[derive(Clone)]
pub struct Dialer(Arc<Dial>);

type Dial = dyn Fn(&Endpoint) -> io::Result<DuplexStream> + Send + Sync;

impl Dialer {
    /// A dialer that opens its streams so.
    pub fn new(
        dial: impl Fn(&Endpoint) -> io::Result<DuplexStream> + Send + Sync + 'static,
    ) -> Self {
        Self(Arc::new(dial))
    }
}

impl PartialEq for Dialer {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for Dialer {}

impl fmt::Debug for Dialer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Dialer")
    }
}

/// A stream to a broker, ready for its first request.
pub(super) enum Transport {
    Plain(TcpStream),
    Memory(DuplexStream),
}

impl Transport {
    /// Connects to the first address of the endpoint that answers, within the connect timeout.
    pub(super) async fn connect(endpoint: &Endpoint, config: &ClientConfig) -> Result<Self, Fault> {
        if let Some(Dialer(dial)) = &config.dialer {
            let stream = dial(endpoint).map_err(|error| Fault::Io(Arc::new(error)))?;
            return Ok(Self::Memory(stream));
        }
        let limit = config.connect_timeout;
        match tokio::time::timeout(limit, connect_tcp(endpoint, config)).await {
            Ok(stream) => Ok(Self::Plain(stream?)),
            Err(_elapsed) => Err(Fault::ConnectTimeout(limit)),
        }
    }

    /// One half to read from and one to write to.
    pub(super) fn split(self) -> (Reader, Writer) {
        match self {
            Self::Plain(stream) => {
                let (read, write) = stream.into_split();
                (Reader::Plain(read), Writer::Plain(write))
            }
            Self::Memory(stream) => {
                let (read, write) = tokio::io::split(stream);
                (Reader::Memory(read), Writer::Memory(write))
            }
        }
    }
}

async fn connect_tcp(endpoint: &Endpoint, config: &ClientConfig) -> Result<TcpStream, Fault> {
    let addresses = lookup_host((endpoint.host.as_str(), endpoint.port))
        .await
        .map_err(|error| Fault::Resolve(Arc::new(error)))?;
    let mut last = io::Error::new(io::ErrorKind::NotFound, "host has no address");
    for address in addresses {
        match connect_address(address, config).await {
            Ok(stream) => return Ok(stream),
            Err(error) => last = error,
        }
    }
    Err(Fault::Io(Arc::new(last)))
}

async fn connect_address(
    address: std::net::SocketAddr,
    config: &ClientConfig,
) -> io::Result<TcpStream> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    // The window is negotiated while connecting, so that this has to come first.
    if let Some(bytes) = config.receive_buffer_bytes {
        socket.set_recv_buffer_size(bytes)?;
    }
    let stream = socket.connect(address).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// The half to read from.
pub(super) enum Reader {
    Plain(OwnedReadHalf),
    Memory(ReadHalf<DuplexStream>),
}

impl AsyncRead for Reader {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(half) => Pin::new(half).poll_read(context, buffer),
            Self::Memory(half) => Pin::new(half).poll_read(context, buffer),
        }
    }
}

/// The half to write to.
pub(super) enum Writer {
    Plain(OwnedWriteHalf),
    Memory(WriteHalf<DuplexStream>),
}

impl AsyncWrite for Writer {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(half) => Pin::new(half).poll_write(context, bytes),
            Self::Memory(half) => Pin::new(half).poll_write(context, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(half) => Pin::new(half).poll_flush(context),
            Self::Memory(half) => Pin::new(half).poll_flush(context),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(half) => Pin::new(half).poll_shutdown(context),
            Self::Memory(half) => Pin::new(half).poll_shutdown(context),
        }
    }
}
