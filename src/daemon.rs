//! Builds the parts from a checked configuration, runs them and drains them.

mod destination;
mod followers;
mod journal;
mod leave;
mod report;
mod signals;
mod strays;

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use tokio::io::DuplexStream;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use self::destination::{DestinationParts, client_config};
use self::journal::Told;
use self::leave::Leave;
pub use self::leave::leave_for_stopped;
use self::report::ReportTask;
use self::signals::stop_at_signal;
use self::strays::start_strays;
use crate::admin::{Admin, Kept, Metrics};
use crate::client::{ClientConfig, Dialer};
use crate::config::Config;
use crate::gateway::{self, ListenerName};
use crate::image::{Delta, Image};
use crate::link::{Link, LinkParts, lineages};
use crate::mirror::report::{ClusterReport, LinkReport};
use crate::seat::Seat;
use crate::seat::destination::Destination;
use crate::seat::epoch_bump::{EpochBumpTask, EpochBumps};
use crate::seat::heartbeat::{Standing, Wish};
use crate::seat::incarnation::{Circumstances, Incarnation};
use crate::seat::isr::IsrTask;
use crate::seat::leader::{
    LeaderConfig, LeaderHandle, LeaderInputs, LeaderOutputs, LeaderReport, LeaderTask, RefillTask,
};
use crate::seat::leave::MirrorReplicas;
use crate::seat::metadata::{MetadataLog, MetadataOutputs};
use crate::seat::registration::{AdvertisedListener, Identity};
use crate::seat::replica::Replicas;
use crate::tail::Arrivals;
use crate::tail::budget::MemoryBudget;
use crate::tail::events::Events;
use crate::types::{BrokerEpoch, Offset};

/// How long leadership may take to pass to others when we stop.
const SHUTDOWN_DEADLINE: Duration = Duration::from_secs(30);
/// Commands to the leader task under way.
const COMMANDS: usize = 1024;
/// Kafka's number for plaintext.
const PLAINTEXT: i16 = 0;

/// Runs the daemon until SIGTERM or SIGINT, or until something is wrong that only a person can mend.
pub async fn run(config: Config) -> anyhow::Result<()> {
    let stop = CancellationToken::new();
    tokio::spawn(stop_at_signal(stop.clone())?);
    let metrics = Metrics::install()?;
    let admin = Admin::bind(config.daemon.http).await?;
    tracing::info!(http = %admin.address(), "HTTP API");
    let (reports, reported) = watch::channel(Arc::<ClusterReport>::default());
    let (stored, kept) = watch::channel(None);
    let served = CancellationToken::new();
    let (leave, leave_requests) = mpsc::channel(1);
    let serving = tokio::spawn(admin.serve(reported, kept, metrics, leave, served.clone()));
    let api = Api { reports, stored, leave_requests };
    let outcome = run_seat(&config, Surroundings::default(), api, stop).await;
    served.cancel();
    let _ended = serving.await;
    outcome
}

async fn run_seat(
    config: &Config,
    world: Surroundings,
    api: Api,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let client = client_config(config, world.dialer);
    let found = DestinationParts::find(config, &client, &stop).await?;
    let Some(destination) = found else { return Ok(()) };
    let daemon = Daemon::start(config, &client, destination, world.followers, api, &stop);
    daemon.await?.run_until(stop).await
}

/// In the simulation followers come without a listener.
fn serve_simulated(
    followers: Option<mpsc::UnboundedReceiver<DuplexStream>>,
    shared: &Shared,
    seen: &Seen,
    tasks: &mut JoinSet<()>,
) {
    if let Some(followers) = followers {
        tasks.spawn(followers::serve(shared.leader.clone(), seen.image.clone(), followers));
    }
}

/// The daemon's ends of what the HTTP API shows and takes.
struct Api {
    reports: watch::Sender<Arc<ClusterReport>>,
    stored: watch::Sender<Option<Kept>>,
    leave_requests: mpsc::Receiver<MirrorReplicas>,
}

/// What the daemon meets instead of the network: nothing, but in the simulation.
#[derive(Debug, Default)]
pub struct Surroundings {
    /// The way to brokers, instead of TCP.
    pub dialer: Option<Dialer>,
    /// Connections of followers, instead of listeners.
    pub followers: Option<mpsc::UnboundedReceiver<DuplexStream>>,
}

/// Runs the daemon without signals, HTTP and sockets, for the simulation: until it is stopped, or
/// dropped, which is a crash.
pub async fn simulate(
    config: &Config,
    world: Surroundings,
    reports: watch::Sender<Arc<ClusterReport>>,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let (stored, _kept) = watch::channel(None);
    let leave_requests = mpsc::channel(1).1;
    run_seat(config, world, Api { reports, stored, leave_requests }, stop).await
}

/// The running parts.
struct Daemon {
    seat: Seat,
    incarnation: Incarnation,
    metadata: MetadataLog,
    wish: watch::Sender<Wish>,
    leave: Leave,
    /// Ends the listeners.
    drained: CancellationToken,
    /// They end by themselves then, within the gateway's own deadline.
    listeners: JoinSet<()>,
    tasks: JoinSet<()>,
}

impl Daemon {
    async fn start(
        config: &Config,
        client: &ClientConfig,
        destination: DestinationParts,
        followers: Option<mpsc::UnboundedReceiver<DuplexStream>>,
        api: Api,
        stop: &CancellationToken,
    ) -> anyhow::Result<Self> {
        let (identity, incarnation) = identity(config, &destination.facts);
        let listeners = if followers.is_some() { Vec::new() } else { bind_all(config).await? };
        let (image, image_seen) = watch::channel(Arc::<Image>::default());
        let (applied, applied_seen) = watch::channel(Offset(-1));
        let (read_at, read_at_seen) = watch::channel(None);
        let (deltas, deltas_seen) = mpsc::unbounded_channel();
        let (registration, registration_seen) = watch::channel(None);
        let (standing, standing_seen) = watch::channel(None);
        let (wish, wish_seen) = watch::channel(Wish::Serve);
        let (events, events_seen) = Events::new();
        let outputs = MetadataOutputs { image, deltas, applied, read_at };
        let metadata = MetadataLog::new(
            destination.controllers.clone(),
            destination.facts.cluster_id.clone(),
            outputs,
        );
        let seat = Seat {
            identity,
            controllers: destination.controllers.clone(),
            destination: destination.cluster.clone(),
            heartbeat_interval: destination.facts.heartbeat_interval,
            image: image_seen.clone(),
            applied: applied_seen.clone(),
            read_at: read_at_seen,
            wish: wish_seen,
            standing,
            registration,
            events: events.clone(),
        };
        let seen = Seen {
            image: image_seen,
            registration: registration_seen,
            applied: applied_seen,
            standing: standing_seen,
        };
        let mut tasks = JoinSet::new();
        let journal = if followers.is_some() { journal::none } else { journal::start };
        let happened = (events.clone(), events_seen);
        let (told, kept) = journal(config, &destination, &seen, happened, &mut tasks);
        api.stored.send_replace(Some(kept));
        let shared = start_leader(config, &destination, &seen, deltas_seen, told, &mut tasks);
        let (listeners, drained) =
            start_gateway(config, &destination, &seen, &shared.leader, listeners);
        serve_simulated(followers, &shared, &seen, &mut tasks);
        let links = start_links(config, client, &destination, &seen, &shared, stop, &mut tasks)?;
        let strays =
            start_strays(config, &destination, &seen, &shared.leader, events.clone(), &mut tasks);
        let (leaving, leaving_seen) = watch::channel(None);
        let leave = Leave {
            requests: api.leave_requests,
            report: leaving,
            seat: config.daemon.broker_id,
            destination: destination.cluster.clone(),
            image: seen.image.clone(),
            events,
        };
        let report = ReportTask {
            broker_id: config.daemon.broker_id,
            seen,
            links,
            led: shared.led,
            strays,
            leaving: leaving_seen,
            budget: shared.budget,
            reports: api.reports,
        };
        tasks.spawn(report.run());
        Ok(Self { seat, incarnation, metadata, wish, leave, drained, listeners, tasks })
    }

    /// Runs until told to stop, then hands leadership over, within a deadline.
    async fn run_until(mut self, stop: CancellationToken) -> anyhow::Result<()> {
        // Tasks of their own: a large snapshot must not hold up heartbeats.
        let (mut seat, mut metadata) = (JoinSet::new(), JoinSet::new());
        seat.spawn(self.seat.run());
        metadata.spawn(self.metadata.run());
        let mut leaving = None;
        let outcome = tokio::select! {
            // First: the links' tasks end too when we stop.
            biased;
            () = stop.cancelled() => None,
            Some(begun) = self.leave.requested() => {
                leaving = Some(begun);
                stop.cancel();
                None
            }
            Some(ended) = seat.join_next() => Some(ended.context("run the seat")?),
            Some(ended) = metadata.join_next() => {
                Some(Err(ended.context("follow the destination's metadata log")?))
            }
            Some(ended) = self.tasks.join_next() => {
                // None ends by itself before we stop: a seat that leads and serves nothing would
                // be worse than none.
                ended.context("run a part of the daemon")?;
                anyhow::bail!("a part of the daemon ended by itself; restart it");
            }
        };
        if let Some(outcome) = outcome {
            return outcome.context("keep the seat in the destination");
        }
        // Before the controller hears of it: from then on nobody may take the incarnation on.
        if let Err(error) = self.incarnation.forget() {
            tracing::warn!(%error, "the incarnation cannot be taken away; remove the file by hand");
        }
        self.wish.send_replace(Wish::ShutDown);
        tokio::select! {
            Some(ended) = seat.join_next() => {
                ended.context("run the seat")?.context("leave the seat in the destination")?;
            }
            Some(ended) = metadata.join_next() => {
                let error = ended.context("follow the destination's metadata log")?;
                return Err(error).context("leave the seat in the destination");
            }
            () = tokio::time::sleep(SHUTDOWN_DEADLINE) => tracing::warn!(
                deadline = ?SHUTDOWN_DEADLINE,
                "leadership was not handed over in time; the destination moves it when our session ends"
            ),
        }
        let left = match leaving {
            Some(leaving) => self.leave.finish(leaving).await,
            None => Ok(()),
        };
        self.drained.cancel();
        while self.listeners.join_next().await.is_some() {}
        self.tasks.abort_all();
        while self.tasks.join_next().await.is_some() {}
        tracing::info!("stopped");
        left
    }
}

/// What everybody may watch.
#[derive(Clone)]
struct Seen {
    image: watch::Receiver<Arc<Image>>,
    registration: watch::Receiver<Option<BrokerEpoch>>,
    applied: watch::Receiver<Offset>,
    standing: watch::Receiver<Option<Standing>>,
}

/// What links share.
struct Shared {
    leader: LeaderHandle,
    led: watch::Receiver<Arc<LeaderReport>>,
    bumps: EpochBumps,
    arrivals: Arrivals,
    budget: MemoryBudget,
    told: Told,
}

fn identity(config: &Config, facts: &Destination) -> (Identity, Incarnation) {
    let id = config.daemon.broker_id;
    let listeners = config.destination.listeners.iter().map(|listener| AdvertisedListener {
        name: listener.name.clone(),
        endpoint: listener.advertise.clone(),
        security_protocol: PLAINTEXT,
    });
    let listeners: Vec<_> = listeners.collect();
    let incarnation = incarnation(config, &facts.cluster_id, &listeners);
    let identity = Identity {
        id,
        cluster_id: facts.cluster_id.clone(),
        incarnation: incarnation.id,
        directory: Identity::directory_of(&facts.cluster_id, id),
        listeners,
    };
    (identity, incarnation)
}

/// Without its directory the seat only returns later after a crash: no reason not to start.
fn incarnation(config: &Config, cluster_id: &str, listeners: &[AdvertisedListener]) -> Incarnation {
    let Some(directory) = &config.daemon.state_dir else { return Incarnation::unkept() };
    let kept = Circumstances::here(cluster_id, config.daemon.broker_id, listeners)
        .and_then(|circumstances| Incarnation::kept(directory, circumstances));
    match kept {
        Ok(incarnation) => {
            tracing::info!(
                state_dir = %directory.display(), incarnation = %incarnation.id,
                is_taken_on = incarnation.is_taken_on, "incarnation"
            );
            incarnation
        }
        Err(error) => {
            tracing::warn!(%error, "daemon.state_dir cannot be used; going on without it");
            Incarnation::unkept()
        }
    }
}

async fn bind_all(config: &Config) -> anyhow::Result<Vec<(String, TcpListener)>> {
    let mut listeners = Vec::new();
    for listener in &config.destination.listeners {
        let bound = TcpListener::bind(listener.bind).await.with_context(|| {
            format!("bind listener {} to {}: choose a free address", listener.name, listener.bind)
        })?;
        listeners.push((listener.name.clone(), bound));
    }
    Ok(listeners)
}

fn start_leader(
    config: &Config,
    destination: &DestinationParts,
    seen: &Seen,
    deltas: mpsc::UnboundedReceiver<(Arc<Image>, Delta)>,
    told: Told,
    tasks: &mut JoinSet<()>,
) -> Shared {
    let budget = MemoryBudget::new(config.daemon.memory_bytes);
    let seat = config.daemon.broker_id;
    let (leader, commands) = LeaderHandle::new(COMMANDS);
    let (arrivals, arrived) = crate::tail::exchange();
    let (isr_requests, isr_requested) = mpsc::unbounded_channel();
    let (isr_outcomes, isr_done) = mpsc::unbounded_channel();
    let leader_config = LeaderConfig {
        seat,
        lag_time: destination.facts.lag_time,
        memory_bytes: config.daemon.memory_bytes,
    };
    let image = seen.image.borrow().clone();
    let (report, led) = watch::channel(Arc::default());
    let registration = seen.registration.clone();
    let (refills, refills_wanted) = mpsc::unbounded_channel();
    let (refilled, refills_done) = mpsc::unbounded_channel();
    let (bumps, bumps_wanted) = EpochBumps::new();
    let outputs = LeaderOutputs {
        isr_requests,
        refills,
        bumps: bumps.clone(),
        report,
        events: told.events.clone(),
    };
    let task = LeaderTask::new(leader_config, image, registration, outputs);
    let inputs = LeaderInputs {
        commands,
        deltas,
        arrivals: arrived,
        isr_outcomes: isr_done,
        refilled: refills_done,
    };
    let refill = RefillTask {
        destination: destination.cluster.clone(),
        budget: budget.clone(),
        requests: refills_wanted,
        refilled,
    };
    tasks.spawn(refill.run());
    tasks.spawn(task.run(inputs));
    let isr = IsrTask {
        seat,
        registration: seen.registration.clone(),
        controller: destination.controllers.connection(),
        requests: isr_requested,
        outcomes: isr_outcomes,
    };
    tasks.spawn(isr.run());
    let bump = EpochBumpTask {
        seat,
        image: seen.image.clone(),
        destination: destination.cluster.clone(),
        requests: bumps_wanted,
    };
    tasks.spawn(bump.run());
    Shared { leader, led, bumps, arrivals, budget, told }
}

fn start_gateway(
    config: &Config,
    destination: &DestinationParts,
    seen: &Seen,
    leader: &LeaderHandle,
    listeners: Vec<(String, TcpListener)>,
) -> (JoinSet<()>, CancellationToken) {
    let context = Arc::new(gateway::Context::new(
        config.daemon.broker_id,
        seen.image.clone(),
        leader.clone(),
        Replicas::new(leader.clone(), seen.image.clone()),
        destination.facts.inter_broker_listener.clone(),
        gateway::Limits::default(),
    ));
    // Not the daemon's own: followers and clients are served until leadership has passed on.
    let stop = CancellationToken::new();
    let mut tasks = JoinSet::new();
    tasks.spawn(gateway::watch_brokers(context.clone(), stop.clone()));
    for (name, listener) in listeners {
        let (context, stop) = (context.clone(), stop.clone());
        tasks.spawn(gateway::serve_listener(listener, ListenerName(name), context, stop));
    }
    (tasks, stop)
}

fn start_links(
    config: &Config,
    client: &ClientConfig,
    destination: &DestinationParts,
    seen: &Seen,
    shared: &Shared,
    stop: &CancellationToken,
    tasks: &mut JoinSet<()>,
) -> anyhow::Result<Vec<watch::Receiver<LinkReport>>> {
    let told = &shared.told;
    tasks.spawn(lineages::keep(shared.leader.clone(), told.journal.clone(), told.notes.clone()));
    let mut reports = Vec::new();
    for link in &config.links {
        let parts = LinkParts {
            seat: config.daemon.broker_id,
            registration: seen.registration.clone(),
            image: seen.image.clone(),
            leader: shared.leader.clone(),
            led: shared.led.clone(),
            bumps: shared.bumps.clone(),
            destination: destination.cluster.clone(),
            inter_broker_listener: destination.facts.inter_broker_listener.clone(),
            replication_factor: destination.facts.replication_factor,
            arrivals: shared.arrivals.clone(),
            budget: shared.budget.clone(),
            client: client.clone(),
            events: told.events.clone(),
            notes: told.notes.clone(),
            journal: told.journal.clone(),
        };
        let (link, report) =
            Link::new(link, parts).with_context(|| format!("set up link {}", link.name))?;
        reports.push(report);
        tasks.spawn(link.run(stop.clone()));
    }
    Ok(reports)
}
