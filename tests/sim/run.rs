//! One seed from beginning to end: sets the world up, plays faults, lets them heal, and waits for
//! what must come then.

use std::sync::Arc;
use std::time::Duration;

use lockstep::config::Config;
use lockstep::daemon::{Surroundings, simulate};
use lockstep::mirror::report::ClusterReport;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::check::Checker;
use super::source::TOPIC;
use super::world::{SEAT, Shared};
use super::{faults, follower, net, stock_leaders};

/// After the last fault: what heals alone has healed.
const HEALS_WITHIN: Duration = Duration::from_secs(30);
/// An old session of ours or of a broker may have to end first.
const SESSION: Duration = Duration::from_secs(10);

/// The daemon while it runs.
pub struct Daemon {
    task: JoinHandle<()>,
    stop: CancellationToken,
    pub reports: watch::Receiver<Arc<ClusterReport>>,
}

impl Daemon {
    /// Starts a daemon that knows nothing of earlier ones.
    pub fn start(world: &Shared) -> Self {
        let (door, followers) = mpsc::unbounded_channel();
        {
            let mut world = world.lock();
            world.door = Some(door);
            world.seat_life += 1;
            world.say("daemon starts");
        }
        let (tell, reports) = watch::channel(Arc::default());
        let stop = CancellationToken::new();
        let surroundings =
            Surroundings { dialer: Some(net::dialer(world)), followers: Some(followers) };
        let (own, stopped) = (world.clone(), stop.clone());
        let task = tokio::spawn(async move {
            let config = config();
            let ended = simulate(&config, surroundings, tell, stopped.clone()).await;
            let ended = ended.map_err(|error| format!("{error:#}"));
            let mut world = own.lock();
            world.say(format!("daemon ended: {ended:?}"));
            if !stopped.is_cancelled() {
                world.fail("daemon", format!("ended by itself: {ended:?}"));
            }
        });
        Self { task, stop, reports }
    }

    /// kill -9: everything it knew is gone.
    pub async fn crash(self, world: &Shared) {
        world.lock().say("daemon crashes");
        world.lock().door = None;
        self.task.abort();
        let _ended = self.task.await;
    }

    /// SIGTERM.
    pub async fn stop(self, world: &Shared) {
        world.lock().say("daemon is told to stop");
        self.stop.cancel();
        if let Err(error) = self.task.await
            && error.is_panic()
        {
            world.lock().fail("daemon", format!("panicked: {error}"));
        }
        world.lock().door = None;
    }
}

fn config() -> Config {
    let text = format!(
        "[daemon]\nbroker_id = {SEAT}\n\
         [destination]\nbootstrap_servers = [\"real-1:9092\", \"real-2:9092\"]\n\
         controllers = [\"controller-1:9092\"]\n\
         [destination.listeners.PLAINTEXT]\nbind = \"127.0.0.1:9192\"\nadvertise = \"seat-9001:9092\"\n\
         [[link]]\nname = \"sim\"\n\
         [link.source]\nbootstrap_servers = [\"source-1:9092\", \"source-2:9092\"]\n\
         [link.topics]\ninclude = [\"{TOPIC}\"]\nreplication_factor = 3\n"
    );
    Config::parse(&text, std::path::Path::new(""), &|_| None).unwrap()
}

/// Plays one seed; a violation ends the process.
pub async fn play(seed: u64) {
    let (world, daemon) = begin(seed).await;
    let daemon = faults::play(&world, daemon).await;
    settle(&world, &daemon).await;
}

/// The brokers are there, and the daemon has just started.
pub async fn begin(seed: u64) -> (Shared, Daemon) {
    let world = Shared::new(seed, 1, 3);
    tokio::spawn(tick(world.clone()));
    for broker in 1..=3 {
        tokio::spawn(follower::run(world.clone(), broker));
        tokio::spawn(stock_leaders::run(world.clone(), broker));
    }
    tokio::time::sleep(Duration::from_millis(500)).await;
    let daemon = Daemon::start(&world);
    (world, daemon)
}

/// All faults have healed: waits for what must come then.
pub async fn settle(world: &Shared, daemon: &Daemon) {
    let began = Instant::now();
    loop {
        match state(world, daemon) {
            Ok(()) => break,
            Err(why) if began.elapsed() > HEALS_WITHIN + SESSION => {
                let report = format!("{:?}", daemon.reports.borrow());
                let mut world = world.lock();
                let report = format!("{:?}\n{report}", world.controller.partitions);
                world.fail("I11", format!("{why} after everything healed\n{report}"));
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(200)).await,
        }
    }
    world.lock().say("ended");
}

async fn tick(world: Shared) {
    loop {
        tokio::time::sleep(Duration::from_millis(30)).await;
        world.lock().tick();
    }
}

/// Whether every partition is what the source is, or waits for a person who has to decide.
fn state(world: &Shared, daemon: &Daemon) -> Result<(), String> {
    let world = world.lock();
    let Some(&topic) = world.controller.topics.get(TOPIC) else {
        return Err("no mirror".to_owned());
    };
    for index in 0..world.source.partitions.len() as i32 {
        let converged =
            Checker::converged(&world.source, &world.controller, &world.brokers, (topic, index));
        if let Err(why) = converged
            && !(world.needs_a_person && faults::says_so(&daemon.reports.borrow(), index))
        {
            return Err(format!("partition {index}: {why}"));
        }
    }
    Ok(())
}
