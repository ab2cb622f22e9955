//! Connections of the destination's real brokers, which replicate from us: their Fetch, ListOffsets
//! and OffsetForLeaderEpoch. Everything else is the gateway's.

use bytes::Bytes;
use tokio::net::TcpStream;

/// Whether a connection whose first request is `frame` (without its length) is a follower's:
/// followers never ask for API versions, they begin with Fetch, ListOffsets or
/// OffsetForLeaderEpoch under their own broker id.
pub fn is_replica_frame(_frame: &Bytes) -> bool {
    false
}

/// Serves followers.
#[derive(Clone, Debug)]
pub struct Replicas {}

impl Replicas {
    /// Serves one follower's connection until it ends; `first` was read from it already.
    pub async fn serve(&self, _stream: TcpStream, _first: Bytes) {}
}
