//! Verification: reads the source and every in-sync replica of its mirrors and compares them batch
//! by batch, all bytes but the leader epoch. Reads only, and needs no daemon.

mod compare;
mod log;
mod partition;
mod plan;
mod report;

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;

use kafka_protocol::error::ResponseError;
use tokio::task::JoinSet;

pub use compare::{Difference, HeaderFields};
pub use report::{PartitionReport, Progress, ReplicaReport};

use super::config::LinkConfig;
use crate::client::{ClientError, Cluster, Retry, retry_response};
use crate::mirror::filter::FilterError;
use crate::types::{BrokerId, Offset, TopicName, TopicPartition};
use crate::wire::batch::BatchError;
use plan::Found;

/// Partitions compared at the same time.
const AT_ONCE: usize = 4;

/// Told of progress, from any thread.
pub type OnProgress = Arc<dyn Fn(Progress) + Send + Sync>;

/// One of the two clusters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The cluster that is mirrored.
    Source,
    /// The cluster with the mirrors.
    Destination,
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Source => "source",
            Self::Destination => "destination",
        })
    }
}

/// Why a verification could not be brought to its end.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// A cluster, or one of its brokers, does not answer.
    #[error("read the {side}: {cause}")]
    Unreachable {
        /// Which cluster.
        side: Side,
        /// What happened.
        cause: ClientError,
    },
    /// A broker will not give us the partition.
    #[error("read {partition} from broker {broker} of the {side}: {error}")]
    Refused {
        /// Which cluster.
        side: Side,
        /// Which broker.
        broker: BrokerId,
        /// Which partition.
        partition: TopicPartition,
        /// Its answer.
        error: ResponseError,
    },
    /// A broker answers without saying anything.
    #[error("read {partition} from broker {broker} of the {side}: it answers without any batch")]
    Silent {
        /// Which cluster.
        side: Side,
        /// Which broker.
        broker: BrokerId,
        /// Which partition.
        partition: TopicPartition,
    },
    /// What a broker answered are not batches.
    #[error("read {partition} from broker {broker} of the {side}: {cause}")]
    Damaged {
        /// Which cluster.
        side: Side,
        /// Which broker.
        broker: BrokerId,
        /// Which partition.
        partition: TopicPartition,
        /// What is wrong.
        cause: BatchError,
    },
    /// The log start moves on faster than we read.
    #[error("read {partition}: its log start moves on faster than it can be compared")]
    Trimmed {
        /// Which partition.
        partition: TopicPartition,
    },
    /// The link's patterns cannot be used.
    #[error("read the link's patterns: {0}")]
    Filter(#[from] FilterError),
}

impl VerifyError {
    /// What to do next.
    pub fn retry(&self) -> Retry {
        match self {
            Self::Unreachable { cause, .. } => cause.retry(),
            Self::Refused { error, .. } => retry_response(*error),
            Self::Silent { .. } | Self::Trimmed { .. } => Retry::WithBackoff,
            Self::Damaged { .. } | Self::Filter(_) => Retry::Never,
        }
    }
}

/// A link to verify.
#[derive(Clone, Debug)]
pub struct Verification {
    /// The link.
    pub link: LinkConfig,
    /// Its source.
    pub source: Cluster,
    /// The destination, our own seat left out.
    pub destination: Cluster,
    /// Our seat: a replica without a log.
    pub seat: BrokerId,
    /// Begin here instead of at the log starts.
    pub from: Option<Offset>,
}

/// A source topic and its mirror.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mirrored {
    /// Name at the source.
    pub source: TopicName,
    /// Name at the destination.
    pub mirror: TopicName,
}

impl Verification {
    /// Compares the topics; ends early at the first difference. Reports come by topic and
    /// partition.
    pub async fn run(
        &self,
        topics: &[Mirrored],
        progress: OnProgress,
    ) -> Result<Vec<PartitionReport>, VerifyError> {
        let mut reports = Vec::new();
        let mut waiting = VecDeque::new();
        for found in self.plan(topics).await? {
            match found {
                Found::Pair(pair) => waiting.push_back(pair),
                Found::Problem(report) => reports.push(*report),
            }
        }
        let mut running = JoinSet::new();
        let mut goes_on = reports.is_empty();
        loop {
            while goes_on
                && running.len() < AT_ONCE
                && let Some(pair) = waiting.pop_front()
            {
                let progress = Arc::clone(&progress);
                running.spawn(async move { pair.compare(&progress).await });
            }
            // A task that panicked or was aborted has nothing to say: neither happens.
            let Some(Ok(outcome)) = running.join_next().await else { break };
            let report = outcome?;
            goes_on &= report.is_identical();
            reports.push(report);
            if !goes_on {
                running.abort_all();
                break;
            }
        }
        reports.sort_by(|a, b| (&a.topic, a.partition).cmp(&(&b.topic, b.partition)));
        Ok(reports)
    }
}
