//! Leaving the destination for long: as a running daemon that was asked to, or in place of a stopped
//! one.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::destination::{DestinationParts, client_config};
use crate::config::Config;
use crate::image::Image;
use crate::mirror::report::{LeaveReport, LeaveStage};
use crate::seat::error::SeatError;
use crate::seat::leave::{Leaving, MirrorReplicas};
use crate::seat::metadata::{MetadataLog, MetadataOutputs};
use crate::tail::events::Events;
use crate::types::{BrokerId, Offset};

/// How long it may take; what is not done by then is said.
const DEADLINE: Duration = Duration::from_secs(120);
/// The session of a seat that died ends within this time; before that it may well live.
const SESSION_DEADLINE: Duration = Duration::from_secs(15);
/// What strays are not moved by then is tried again after leadership was handed over.
const STRAYS_DEADLINE: Duration = Duration::from_secs(30);
/// Until the destination answers a command.
const FIND_DEADLINE: Duration = Duration::from_secs(15);
/// How long the last stage can be read before the daemon ends.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Requests to leave, and how far it is.
pub(super) struct Leave {
    pub(super) requests: mpsc::Receiver<MirrorReplicas>,
    pub(super) report: watch::Sender<Option<LeaveReport>>,
    pub(super) seat: BrokerId,
    pub(super) destination: crate::client::Cluster,
    pub(super) image: watch::Receiver<Arc<Image>>,
    pub(super) events: Events,
}

impl Leave {
    /// The next request that can be followed.
    pub(super) async fn requested(&mut self) -> Option<Leaving> {
        loop {
            let mirrors = self.requests.recv().await?;
            let mut leaving = self.leaving(mirrors);
            match leaving.check() {
                Ok(()) => {
                    // While we lead: what only we have a replica of cannot go later.
                    self.tell(LeaveStage::MovingStrays, None);
                    let moved = tokio::time::timeout(STRAYS_DEADLINE, leaving.move_strays()).await;
                    if let Ok(Err(error)) = moved {
                        tracing::warn!(%error, "a stray stays where it is");
                    }
                    self.tell(LeaveStage::HandingOver, None);
                    return Some(leaving);
                }
                Err(error) => {
                    tracing::warn!(%error, "the seat does not leave, and goes on");
                    self.tell(LeaveStage::Refused, Some(error.to_string()));
                }
            }
        }
    }

    /// After leadership was handed over.
    pub(super) async fn finish(&self, leaving: Leaving) -> anyhow::Result<()> {
        let left = tokio::time::timeout(DEADLINE, leaving.run(|stage| self.tell(stage, None)));
        let left = match left.await {
            Ok(left) => left.context("leave the destination"),
            Err(_elapsed) => {
                Err(anyhow::anyhow!("leave the destination: not done in {DEADLINE:?}"))
            }
        };
        if let Err(error) = &left {
            self.tell(LeaveStage::Failed, Some(format!("{error:#}")));
        }
        tokio::time::sleep(LAST_WORDS).await;
        left
    }

    fn leaving(&self, mirrors: MirrorReplicas) -> Leaving {
        Leaving {
            seat: self.seat,
            destination: self.destination.clone(),
            image: self.image.clone(),
            events: self.events.clone(),
            mirrors,
        }
    }

    fn tell(&self, stage: LeaveStage, reason: Option<String>) {
        if stage != LeaveStage::Refused {
            tracing::info!(%stage, "leaving the destination");
        }
        self.report.send_replace(Some(LeaveReport { stage, reason }));
    }
}

/// Leaves in place of a daemon that does not run; `stage` is told how far it is.
pub async fn leave_for_stopped(
    config: &Config,
    mirrors: MirrorReplicas,
    stage: impl Fn(LeaveStage),
) -> anyhow::Result<()> {
    let never = CancellationToken::new();
    let client = client_config(config, None);
    let parts =
        tokio::time::timeout(FIND_DEADLINE, DestinationParts::find(config, &client, &never));
    let parts = parts.await.context("reach the destination")??.context("reach the destination")?;
    let (image, image_seen) = watch::channel(Arc::<Image>::default());
    let (read_at, mut read) = watch::channel(None);
    let (deltas, _unwanted) = mpsc::unbounded_channel();
    let (applied, _) = watch::channel(Offset(-1));
    let cluster_id = parts.facts.cluster_id.clone();
    let outputs = MetadataOutputs { image, deltas, applied, read_at };
    let log = MetadataLog::new(parts.controllers.clone(), cluster_id, outputs);
    let mut following: JoinSet<SeatError> = JoinSet::new();
    following.spawn(log.run());
    let whole = tokio::time::timeout(FIND_DEADLINE, read.wait_for(Option::is_some)).await;
    whole.context("read the destination's metadata log")?.context("follow the metadata log")?;
    let leaving = Leaving {
        seat: config.daemon.broker_id,
        destination: parts.cluster,
        image: image_seen.clone(),
        events: Events::new().0,
        mirrors,
    };
    must_be_dead(config.daemon.broker_id, image_seen).await?;
    leaving.check()?;
    let left = tokio::time::timeout(DEADLINE, leaving.run(stage)).await;
    Ok(left.context("not done in time; run it again")??)
}

/// A seat that lives would register again.
async fn must_be_dead(
    seat: BrokerId,
    mut image: watch::Receiver<Arc<Image>>,
) -> anyhow::Result<()> {
    let is_dead = |image: &Arc<Image>| {
        image.broker(seat).is_none_or(|broker| broker.is_fenced || broker.in_controlled_shutdown)
    };
    if tokio::time::timeout(SESSION_DEADLINE, image.wait_for(is_dead)).await.is_err() {
        bail!(
            "broker id {seat} is alive: stop its daemon first, or leave --config out and let the \
             running daemon leave"
        );
    }
    Ok(())
}
