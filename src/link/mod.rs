//! Control plane of one link: which topics it mirrors, reading its source, coming back to the head
//! of its mirrors, and what is said of it all.

pub mod acceptance;
pub mod config;
pub mod divergence;
pub mod lineages;
mod logs;
pub mod operations;
mod pins;
mod recover;
pub mod rejoin;
pub mod report;
mod since;
pub mod tail_check;
mod takeover;
pub mod topics;
pub mod truncation;
mod unbound;
pub mod verify;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::client::{ClientConfig, Cluster};
use crate::image::Image;
use crate::mirror::filter::{FilterError, TopicFilter};
use crate::mirror::report::LinkReport;
use crate::seat::epoch_bump::EpochBumps;
use crate::seat::leader::{LeaderHandle, LeaderReport};
use crate::seat::peers::Peers;
use crate::source::{Source, SourceConfig};
use crate::store::JournalHandle;
use crate::tail::Arrivals;
use crate::tail::budget::MemoryBudget;
use crate::tail::events::Events;
use crate::tail::notes::Notes;
use crate::types::{BrokerEpoch, BrokerId};
use acceptance::Failures;
use config::LinkConfig;
use operations::Operations;
use rejoin::Rejoin;
use report::Reporter;
use takeover::Takeover;
use topics::{Kept, TopicTask, TopicTaskConfig};
use unbound::{Ends, Unbound};

/// Between looks at the source's topics.
const DISCOVERY_INTERVAL: Duration = Duration::from_secs(5);

/// What a link needs of the others.
#[derive(Clone, Debug)]
pub struct LinkParts {
    /// Our broker id.
    pub seat: BrokerId,
    /// Our present registration.
    pub registration: watch::Receiver<Option<BrokerEpoch>>,
    /// The destination.
    pub image: watch::Receiver<Arc<Image>>,
    /// The task that leads.
    pub leader: LeaderHandle,
    /// What it says of its partitions.
    pub led: watch::Receiver<Arc<LeaderReport>>,
    /// Where a new leader epoch is asked for.
    pub bumps: EpochBumps,
    /// The destination's real brokers.
    pub destination: Cluster,
    /// The listener at which the destination's brokers replicate.
    pub inter_broker_listener: String,
    /// `default.replication.factor` of the destination.
    pub replication_factor: usize,
    /// Where batches go.
    pub arrivals: Arrivals,
    /// What they may cost.
    pub budget: MemoryBudget,
    /// How to talk to the source.
    pub client: ClientConfig,
    /// What a person may want to know later.
    pub events: Events,
    /// What is to be durable soon.
    pub notes: Notes,
    /// Durable facts.
    pub journal: JournalHandle,
}

/// One link, ready to run.
#[derive(Debug)]
pub struct Link {
    topics: TopicTask,
    reader: SourceReader,
    rejoin: Rejoin,
    reporter: Reporter,
    operations: Operations,
    takeover: Takeover,
    unbound: Unbound,
}

#[derive(Debug)]
struct SourceReader {
    config: SourceConfig,
    cluster: Cluster,
    leader: LeaderHandle,
    arrivals: Arrivals,
    budget: MemoryBudget,
}

impl Link {
    /// A link that does nothing yet, and where its reports will be.
    pub fn new(
        config: &LinkConfig,
        parts: LinkParts,
    ) -> Result<(Self, watch::Receiver<LinkReport>), FilterError> {
        let name = config.name.clone();
        let source = Cluster::new(config.source.bootstrap.clone(), parts.client.clone(), None);
        let failures = watch::Sender::<Failures>::default();
        let (reports, reported) = watch::channel(Reporter::unknown(&name));
        let topics = TopicTask::new(
            topic_task_config(config, &parts)?,
            source.clone(),
            parts.destination.clone(),
            parts.image.clone(),
            parts.registration.clone(),
            parts.leader.clone(),
            Kept {
                journal: parts.journal.clone(),
                notes: parts.notes.clone(),
                events: parts.events.clone(),
            },
        );
        let (ends, seen) = watch::channel(Ends::default());
        let (destination, image) = (parts.destination.clone(), parts.image.clone());
        let unbound = Unbound { topics: topics.status(), image, destination, ends };
        let reporter = Reporter {
            unbound: seen,
            link: name.clone(),
            seat: parts.seat,
            topics: topics.status(),
            led: parts.led,
            failures: failures.subscribe(),
            image: parts.image.clone(),
            journal: parts.journal.view(),
            notes: parts.notes.clone(),
            reports,
        };
        let reader = SourceReader {
            config: SourceConfig {
                link: name.clone(),
                connections_per_broker: config.source.connections_per_broker,
                rack: config.source.rack.clone(),
                events: parts.events.clone(),
            },
            cluster: source.clone(),
            leader: parts.leader.clone(),
            arrivals: parts.arrivals,
            budget: parts.budget,
        };
        let rejoin = Rejoin {
            link: name,
            seat: parts.seat,
            registration: parts.registration,
            image: parts.image,
            leader: parts.leader,
            destination: parts.destination,
            peers: Peers::new(parts.inter_broker_listener, parts.client),
            source,
            failures,
            events: parts.events,
            journal: parts.journal.view(),
            bumps: parts.bumps,
            resting: HashMap::new(),
        };
        let takeover = Takeover::beside(&rejoin);
        let operations = Operations {
            link: config.name.clone(),
            journal: parts.journal,
            leader: reader.leader.clone(),
            reports: reported.clone(),
            events: rejoin.events.clone(),
        };
        Ok((Self { topics, reader, rejoin, reporter, operations, takeover, unbound }, reported))
    }

    /// Runs its tasks until told to stop. Tasks of their own: a slow one must not hold the others.
    pub async fn run(self, stop: CancellationToken) {
        let mut tasks = tokio::task::JoinSet::new();
        tasks.spawn(self.reader.run(stop.clone()));
        tasks.spawn(self.topics.run(stop.clone()));
        tasks.spawn(self.rejoin.run(stop.clone()));
        tasks.spawn(self.operations.run(stop.clone()));
        tasks.spawn(self.takeover.run(stop.clone()));
        tasks.spawn(self.unbound.run(stop.clone()));
        tasks.spawn(self.reporter.run(stop));
        while let Some(ended) = tasks.join_next().await {
            // A panic in one of them is the link's.
            if let Err(panic) = ended.map_err(tokio::task::JoinError::try_into_panic)
                && let Ok(panic) = panic
            {
                std::panic::resume_unwind(panic);
            }
        }
    }
}

impl SourceReader {
    async fn run(self, stop: CancellationToken) {
        let (orders, ordered) = mpsc::unbounded_channel();
        self.leader.connect_source(self.config.link.clone(), orders).await;
        let source = Source::new(self.config, self.cluster, ordered, self.arrivals, self.budget);
        source.run(stop).await;
    }
}

fn topic_task_config(
    config: &LinkConfig,
    parts: &LinkParts,
) -> Result<TopicTaskConfig, FilterError> {
    let topics = &config.topics;
    let replication_factor = match topics.replication_factor {
        0 => parts.replication_factor,
        chosen => chosen,
    };
    Ok(TopicTaskConfig {
        link: config.name.clone(),
        filter: TopicFilter::new(&topics.include, &topics.exclude)?,
        rename_prefix: topics.rename_prefix.clone(),
        replication_factor,
        start: topics.start,
        policies: topics.policies,
        interval: DISCOVERY_INTERVAL,
        configs_interval: config.configs_interval,
        expected_cluster_id: config.source.cluster_id.clone(),
        seat: parts.seat,
    })
}
