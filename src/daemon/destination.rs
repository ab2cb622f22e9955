//! Finds the destination: its brokers, its controllers, its settings.

use std::time::Duration;

use anyhow::Context as _;
use tokio_util::sync::CancellationToken;

use crate::client::{Backoff, ClientConfig, Cluster, Dialer};
use crate::config::Config;
use crate::seat::controllers::Controllers;
use crate::seat::destination::Destination;
use crate::seat::error::SeatError;

/// The destination as it was found.
pub(super) struct DestinationParts {
    pub(super) cluster: Cluster,
    pub(super) facts: Destination,
    pub(super) controllers: Controllers,
}

impl DestinationParts {
    /// Asks until the destination answers; `None` where we are stopped first.
    pub(super) async fn find(
        config: &Config,
        client: &ClientConfig,
        stop: &CancellationToken,
    ) -> anyhow::Result<Option<Self>> {
        let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(10));
        loop {
            let error = match Self::ask(config, client.clone()).await {
                Ok(parts) => return Ok(Some(parts)),
                Err(error) if error.is_final() => {
                    return Err(error).context("join the destination");
                }
                Err(error) => error,
            };
            let wait = backoff.next();
            tracing::warn!(%error, retry_in = ?wait, "destination cannot be reached; trying on");
            tokio::select! {
                () = stop.cancelled() => return Ok(None),
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    async fn ask(config: &Config, client: ClientConfig) -> Result<Self, SeatError> {
        let bootstrap = config.destination.bootstrap.clone();
        let cluster =
            Cluster::new(bootstrap.clone(), client.clone(), Some(config.daemon.broker_id));
        let expected = config.destination.cluster_id.as_deref();
        let facts = Destination::ask(&cluster, &bootstrap, expected, &client).await?;
        let endpoints = if config.destination.controllers.is_empty() {
            Controllers::discover(&cluster).await?
        } else {
            config.destination.controllers.clone()
        };
        tracing::info!(cluster_id = facts.cluster_id, controllers = ?endpoints, "destination found");
        Ok(Self { cluster, facts, controllers: Controllers::new(endpoints, client) })
    }
}

/// How we talk to both clusters.
pub(super) fn client_config(config: &Config, dialer: Option<Dialer>) -> ClientConfig {
    let client_id = format!("lockstep-{}", config.daemon.broker_id);
    ClientConfig { client_id, dialer, ..ClientConfig::default() }
}
