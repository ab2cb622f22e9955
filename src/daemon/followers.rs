//! Followers that come without a listener: in the simulation.

use std::sync::Arc;

use tokio::io::DuplexStream;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use crate::image::Image;
use crate::seat::leader::LeaderHandle;
use crate::seat::replica::Replicas;

/// Serves them.
pub(super) async fn serve(
    leader: LeaderHandle,
    image: watch::Receiver<Arc<Image>>,
    mut followers: mpsc::UnboundedReceiver<DuplexStream>,
) {
    let replicas = Replicas::new(leader, image);
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            stream = followers.recv() => {
                let replicas = replicas.clone();
                let Some(stream) = stream else { return };
                connections.spawn(async move { replicas.serve_all(stream).await });
            }
            Some(_ended) = connections.join_next() => {}
        }
    }
}
