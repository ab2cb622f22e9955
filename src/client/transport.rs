//! The byte stream below a connection. The one place that knows what carries the bytes: plain TCP
//! now, or memory in the simulation; TLS is one more variant of each enum.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf, ReadHalf, WriteHalf};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpSocket, TcpStream, lookup_host};
use tokio::time::{Instant, timeout};

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
        match timeout(limit, connect_tcp(endpoint, config)).await {
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

/// The name is resolved at each attempt: nobody keeps an address.
async fn connect_tcp(endpoint: &Endpoint, config: &ClientConfig) -> Result<TcpStream, Fault> {
    let begun = Instant::now();
    let addresses = lookup_host((endpoint.host.as_str(), endpoint.port))
        .await
        .map_err(|error| Fault::Resolve(Arc::new(error)))?;
    let addresses: Vec<_> = addresses.collect();
    connect_any(&addresses, begun + config.connect_timeout, config).await
}

/// The first address that answers. Each gets its share of the time that is left, so that one where
/// everything is lost leaves some to the others.
async fn connect_any(
    addresses: &[SocketAddr],
    deadline: Instant,
    config: &ClientConfig,
) -> Result<TcpStream, Fault> {
    let no_address = io::Error::new(io::ErrorKind::NotFound, "host has no address");
    let mut last = Fault::Io(Arc::new(no_address));
    for (address, shares) in addresses.iter().zip((1..=addresses.len()).rev()) {
        let left = deadline.saturating_duration_since(Instant::now());
        let share = left / u32::try_from(shares).unwrap_or(u32::MAX);
        match timeout(share, connect_address(*address, config)).await {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(error)) => last = Fault::Io(Arc::new(error)),
            Err(_elapsed) => last = Fault::ConnectTimeout(share),
        }
    }
    Err(last)
}

async fn connect_address(address: SocketAddr, config: &ClientConfig) -> io::Result<TcpStream> {
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// A port that lets connections neither come about nor fail: its backlog is full.
    async fn black_hole() -> (SocketAddr, Vec<TcpStream>, tokio::net::TcpListener) {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
        let listener = socket.listen(0).unwrap();
        let address = listener.local_addr().unwrap();
        let mut waiting = Vec::new();
        while let Ok(stream) =
            timeout(Duration::from_millis(200), TcpStream::connect(address)).await
        {
            waiting.push(stream.unwrap());
        }
        (address, waiting, listener)
    }

    #[tokio::test]
    async fn all_addresses_of_a_name_are_tried_within_the_limit() {
        let open = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let closed = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (hole, _waiting, _listener) = black_hole().await;
        let (open, closed) = (open.local_addr().unwrap(), {
            let address = closed.local_addr().unwrap();
            drop(closed);
            address
        });
        let config = ClientConfig::default();
        let limit = Duration::from_millis(900);
        let attempt = |addresses: Vec<SocketAddr>| {
            let config = config.clone();
            async move { connect_any(&addresses, Instant::now() + limit, &config).await }
        };
        let found = attempt(vec![hole, closed, open]).await.unwrap();
        assert_eq!(found.peer_addr().unwrap(), open);
        let begun = Instant::now();
        let error = attempt(vec![hole, hole]).await.unwrap_err();
        assert!(matches!(error, Fault::ConnectTimeout(_)), "{error}");
        assert!(begun.elapsed() < limit * 2, "{:?}", begun.elapsed());
        let error = attempt(vec![]).await.unwrap_err();
        assert_eq!(error.to_string(), "host has no address");
    }

    #[tokio::test]
    async fn a_name_with_several_addresses_leads_to_the_one_that_listens() {
        let open = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        // ::1 comes first where there is IPv6, and nobody listens there.
        let endpoint = Endpoint::new("localhost", open.local_addr().unwrap().port());
        assert!(Transport::connect(&endpoint, &ClientConfig::default()).await.is_ok());
    }
}
