//! Free ports on 127.0.0.1.

use std::net::TcpListener;

use anyhow::{Context, Result};
use uuid::Uuid;

/// Below Linux's range for outgoing connections (32768 and up): a stopped broker finds its port
/// still free when it starts again.
const RANGE: std::ops::Range<u16> = 15_000..32_000;
const ATTEMPTS: usize = 200;

/// `count` different ports that nobody listens on now. Somebody may take one before it is used:
/// whoever uses them must be ready to ask again.
pub fn free_ports(count: usize) -> Result<Vec<u16>> {
    // All held until all are found, so that they differ.
    let mut held: Vec<(u16, TcpListener)> = Vec::new();
    for _ in 0..ATTEMPTS * count.max(1) {
        if held.len() == count {
            break;
        }
        let port = random_port();
        if let Ok(listener) = TcpListener::bind(("127.0.0.1", port)) {
            held.push((port, listener));
        }
    }
    (held.len() == count)
        .then(|| held.iter().map(|(port, _)| *port).collect())
        .with_context(|| format!("find {count} free ports in {RANGE:?}"))
}

/// Random, not counted up: test processes that start together must not meet.
fn random_port() -> u16 {
    let bytes = Uuid::new_v4().into_bytes();
    let number = u16::from_be_bytes([bytes[0], bytes[1]]);
    RANGE.start + number % (RANGE.end - RANGE.start)
}
