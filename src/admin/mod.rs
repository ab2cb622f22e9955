//! HTTP: health, metrics, links, mirrors, events and the status page. It reads the daemon's report
//! and decides nothing; what an operator asks for becomes an operation in the journal.

pub mod kept;
mod metrics;
pub mod resume;
mod routes;
pub mod view;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

pub use metrics::Metrics;
pub use routes::{ApiError, ErrorBody, LeaveRequest};

use crate::mirror::report::ClusterReport;
use crate::seat::leave::MirrorReplicas;
use crate::store::{JournalHandle, RecentEvents};

/// How often histograms are folded, so that they do not grow while nobody scrapes.
const UPKEEP_INTERVAL: Duration = Duration::from_secs(5);

/// Open connections have this long to end once we stop.
const DRAIN_DEADLINE: Duration = Duration::from_secs(2);

/// The latest report of the daemon.
pub type Reports = watch::Receiver<Arc<ClusterReport>>;

/// What is durable: the journal and the log of events.
pub type Kept = (JournalHandle, RecentEvents);

/// The same once the destination was found.
pub type KeptLater = watch::Receiver<Option<Kept>>;

/// Why the HTTP API is not there.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    /// The address cannot be listened on.
    #[error("listen for HTTP on {address}: {cause}")]
    Bind {
        /// `daemon.http` of the configuration.
        address: SocketAddr,
        /// Why.
        cause: std::io::Error,
    },
    /// Metrics were set up twice in one process.
    #[error("set up metrics: {0}")]
    Metrics(String),
}

/// The HTTP API, bound and not yet served.
#[derive(Debug)]
pub struct Admin {
    listener: TcpListener,
    address: SocketAddr,
}

impl Admin {
    /// Binds the address.
    pub async fn bind(address: SocketAddr) -> Result<Self, AdminError> {
        let failed = |cause| AdminError::Bind { address, cause };
        let listener = TcpListener::bind(address).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        Ok(Self { listener, address })
    }

    /// The address that is bound; tells the port where 0 was asked for.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until `stop`, and then until open requests are answered, within a deadline.
    pub async fn serve(
        self,
        reports: Reports,
        kept: KeptLater,
        metrics: Metrics,
        leave: mpsc::Sender<MirrorReplicas>,
        stop: CancellationToken,
    ) {
        let upkeep = tokio::spawn(fold_histograms(metrics.clone()));
        let router = routes::router(reports, kept, metrics, leave);
        let stopped = stop.clone().cancelled_owned();
        let server = axum::serve(self.listener, router).with_graceful_shutdown(stopped);
        tokio::select! {
            ended = server => {
                if let Err(error) = ended {
                    tracing::error!(%error, address = %self.address, "HTTP API ended; restart the daemon");
                }
            }
            () = drain_deadline(stop) => {}
        }
        upkeep.abort();
    }
}

async fn drain_deadline(stop: CancellationToken) {
    stop.cancelled().await;
    tokio::time::sleep(DRAIN_DEADLINE).await;
}

async fn fold_histograms(metrics: Metrics) {
    let mut ticks = tokio::time::interval(UPKEEP_INTERVAL);
    loop {
        ticks.tick().await;
        metrics.fold();
    }
}

#[cfg(test)]
mod tests;
