//! Connections to the other seats of the destination, as a follower of what they lead.

use std::collections::HashMap;
use std::time::Duration;

use super::error::SeatError;
use crate::client::{ClientConfig, ClientError, Connection, Endpoint};
use crate::image::Image;
use crate::types::BrokerId;

/// Another daemon answers from memory or not at all: one that is paused must not hold us up.
const PATIENCE: Duration = Duration::from_secs(3);

/// One connection to each other seat, made when it is first needed.
#[derive(Debug)]
pub struct Peers {
    /// The listener at which replicas are served.
    listener: String,
    config: ClientConfig,
    open: HashMap<BrokerId, (Endpoint, Connection)>,
}

impl Peers {
    /// No connection yet.
    pub fn new(inter_broker_listener: String, config: ClientConfig) -> Self {
        let config =
            ClientConfig { connect_timeout: PATIENCE, request_timeout: PATIENCE, ..config };
        Self { listener: inter_broker_listener, config, open: HashMap::new() }
    }

    /// The connection to a seat, where the image says that it is.
    pub async fn seat(&mut self, image: &Image, id: BrokerId) -> Result<Connection, SeatError> {
        let listener = image.broker(id).and_then(|seat| seat.listeners.get(&self.listener));
        let listener = listener.ok_or(ClientError::UnknownBroker(id))?;
        let endpoint = Endpoint { host: listener.host.clone(), port: listener.port };
        if let Some((at, connection)) = self.open.get(&id)
            && *at == endpoint
            && connection.is_open()
        {
            return Ok(connection.clone());
        }
        self.open.remove(&id);
        let connection = Connection::connect_as_follower(&endpoint, &self.config).await?;
        self.open.insert(id, (endpoint, connection.clone()));
        Ok(connection)
    }
}
