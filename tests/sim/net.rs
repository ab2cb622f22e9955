//! The network: streams in memory to the models, each served in order as a stock broker serves a
//! connection.

use std::io;

use lockstep::client::{Dialer, Endpoint};
use tokio::io::DuplexStream;

use super::wire::{self, Call};
use super::world::{Party, Shared};
use super::{broker_service, controller_service, source_service};

/// Bytes on their way in one direction.
const WINDOW: usize = 1 << 20;
/// The port of everybody.
pub const PORT: u16 = 9092;

/// The daemon's way to everybody.
pub fn dialer(world: &Shared) -> Dialer {
    let world = world.clone();
    Dialer::new(move |endpoint| {
        let party = party(endpoint).ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?;
        if life(&world, party).is_none() {
            return Err(io::Error::from(io::ErrorKind::ConnectionRefused));
        }
        let (near, far) = tokio::io::duplex(WINDOW);
        tokio::spawn(serve(world.clone(), party, far));
        Ok(near)
    })
}

fn party(endpoint: &Endpoint) -> Option<Party> {
    let (kind, id) = endpoint.host.split_once('-')?;
    let id = id.parse().ok()?;
    match kind {
        "source" => Some(Party::Source(id)),
        "real" => Some(Party::Broker(id)),
        "controller" => Some(Party::Controller),
        _ => None,
    }
}

/// Which life a party lives; `None` while it is down.
fn life(world: &Shared, party: Party) -> Option<u64> {
    let world = world.lock();
    match party {
        Party::Source(_) => world.source.is_up.then_some(0),
        Party::Controller => world.controller.is_up.then_some(0),
        Party::Broker(id) => {
            let broker = world.brokers.get(&id)?;
            broker.is_up.then_some(broker.life)
        }
    }
}

async fn serve(world: Shared, party: Party, mut stream: DuplexStream) {
    let born = life(&world, party);
    while let Some(call) = wire::read_call(&mut stream).await {
        world.travel(party).await;
        if life(&world, party) != born {
            return;
        }
        let Some(answer) = answer(&world, party, &call).await else {
            world
                .lock()
                .say(format!("{party:?} does not know request {} v{}", call.key, call.version));
            return;
        };
        world.travel(party).await;
        if life(&world, party) != born || !wire::write(&mut stream, &answer).await {
            return;
        }
    }
}

async fn answer(world: &Shared, party: Party, call: &Call) -> Option<bytes::Bytes> {
    match party {
        Party::Source(id) => source_service::answer(world, id, call).await,
        Party::Broker(id) => broker_service::answer(world, id, call),
        Party::Controller => controller_service::answer(world, call).await,
    }
}
