//! Our seat in the destination cluster: a broker without disks that leads the mirror partitions.

pub mod config;
pub mod controllers;
pub mod destination;
pub mod epoch_bump;
pub mod error;
pub mod follow;
pub mod heartbeat;
pub mod incarnation;
pub mod internal_topics;
pub mod isr;
pub mod leader;
pub mod leave;
pub mod metadata;
pub mod peers;
mod questions;
pub mod reassign;
pub mod registration;
pub mod replica;
pub mod replica_log;
pub mod strays;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use crate::client::Cluster;
use crate::image::Image;
use crate::mirror::strays::{Known, Next, find as strays_of};
use crate::tail::events::Events;
use crate::types::{BrokerEpoch, Offset};
use controllers::Controllers;
use error::SeatError;
use heartbeat::{Heartbeat, HeartbeatEnd, Standing, Wish};
use registration::Identity;

/// Takes the seat and keeps it.
#[derive(Debug)]
pub struct Seat {
    /// Who we are.
    pub identity: Identity,
    /// The destination's controllers.
    pub controllers: Controllers,
    /// Its real brokers.
    pub destination: Cluster,
    /// The destination's `broker.heartbeat.interval.ms`.
    pub heartbeat_interval: Duration,
    /// The destination, as the metadata log tells it.
    pub image: watch::Receiver<Arc<Image>>,
    /// Last offset of the metadata log that was applied.
    pub applied: watch::Receiver<Offset>,
    /// When the metadata log was last read to its end.
    pub read_at: watch::Receiver<Option<Instant>>,
    /// What we want of the controller.
    pub wish: watch::Receiver<Wish>,
    /// Told of the controller's answers.
    pub standing: watch::Sender<Option<Standing>>,
    /// Told of our registration before anybody can learn of it otherwise.
    pub registration: watch::Sender<Option<BrokerEpoch>>,
    /// What a person may want to know later.
    pub events: Events,
}

impl Seat {
    /// Registers, beats, registers again where the registration is lost. Ends when the controller
    /// lets us go, or with an error that a person has to mend.
    pub async fn run(mut self) -> Result<(), SeatError> {
        // The sender lives as long as the metadata log is followed; without it there is no seat.
        let mut wish = self.wish.clone();
        tokio::select! {
            read = self.read_at.wait_for(Option::is_some) => if read.is_err() {
                return Ok(());
            },
            _ = wish.wait_for(|&wish| wish == Wish::ShutDown) => return Ok(()),
        }
        self.check_strays()?;
        let mut controller = self.controllers.connection();
        loop {
            let image = self.image.borrow().clone();
            self.identity.check(&image)?;
            tokio::select! {
                () = internal_topics::make(&self.destination, &mut self.image) => {}
                _ = wish.wait_for(|&wish| wish == Wish::ShutDown) => return Ok(()),
            }
            let image = self.image.borrow().clone();
            self.identity.shed_poison(&image);
            let previous = image.broker(self.identity.id).map(|broker| broker.epoch);
            let epoch = tokio::select! {
                registered = self.identity.register(&mut controller, previous) => registered?,
                // Nothing to hand over yet.
                _ = wish.wait_for(|&wish| wish == Wish::ShutDown) => return Ok(()),
            };
            tracing::info!(
                broker_id = %self.identity.id, broker_epoch = %epoch,
                incarnation = %self.identity.incarnation, "registered"
            );
            self.registration.send_replace(Some(epoch));
            match self.heartbeat(epoch).run(&mut controller).await {
                HeartbeatEnd::MayShutDown => return Ok(()),
                HeartbeatEnd::NotRegistered => {
                    tracing::warn!(broker_epoch = %epoch, "registration lost; registering again");
                    self.standing.send_replace(None);
                }
            }
        }
    }

    /// Refuses to join where that would keep a person from mending what only a person can.
    fn check_strays(&self) -> Result<(), SeatError> {
        let image = self.image.borrow().clone();
        let seats = image.seats_with(self.identity.id);
        let known = Known {
            seats: &seats,
            mirrors: &BTreeSet::new(),
            late: &BTreeSet::new(),
            owed: &BTreeMap::new(),
        };
        let mut stuck = strays_of(&image, known).into_iter().filter(|s| s.next == Next::Stuck);
        match stuck.next() {
            None => Ok(()),
            Some(first) => Err(SeatError::StuckStray {
                id: self.identity.id,
                topic: first.topic,
                partition: first.key.partition,
                others: stuck.count(),
            }),
        }
    }

    fn heartbeat(&self, epoch: BrokerEpoch) -> Heartbeat {
        Heartbeat {
            id: self.identity.id,
            epoch,
            directory: self.identity.directory,
            interval: self.heartbeat_interval,
            wish: self.wish.clone(),
            applied: self.applied.clone(),
            image: self.image.clone(),
            read_at: self.read_at.clone(),
            answered_since: None,
            is_stuck: false,
            standing: self.standing.clone(),
        }
    }
}
