//! The one place that knows what bytes travel over. Plain TCP today; with TLS [`Transport`] becomes
//! an enum and the two functions below do the handshakes. Nothing else in the gateway names a socket.

use std::io;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::image::Listener;

/// A connection to a client or to a broker.
pub type Transport = TcpStream;

/// How long a broker may take to accept a connection.
const DIAL_TIMEOUT: Duration = Duration::from_secs(5);

/// Readies a connection that a client has opened.
pub fn accepted(stream: TcpStream) -> io::Result<Transport> {
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Opens a connection to a listener of a real broker.
pub async fn dial(listener: &Listener) -> io::Result<Transport> {
    if Security::of(listener).is_encrypted() {
        let message = "listeners with TLS are not supported yet";
        return Err(io::Error::new(io::ErrorKind::Unsupported, message));
    }
    let connect = TcpStream::connect((listener.host.as_str(), listener.port));
    let stream = timeout(DIAL_TIMEOUT, connect)
        .await
        .map_err(|_elapsed| io::Error::from(io::ErrorKind::TimedOut))??;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// `SecurityProtocol` of a listener as the metadata log writes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Security(i16);

impl Security {
    /// That of a listener.
    pub fn of(listener: &Listener) -> Self {
        Self(listener.security_protocol)
    }

    /// Whether connections begin with a SASL exchange.
    pub fn is_sasl(self) -> bool {
        matches!(self.0, 2 | 3)
    }

    /// Whether anyone may connect.
    pub fn is_open(self) -> bool {
        self.0 == 0
    }

    fn is_encrypted(self) -> bool {
        matches!(self.0, 1 | 3)
    }
}
