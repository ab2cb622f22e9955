//! Asks the controller for changes of in-sync replicas (`AlterPartition`, KIP-497 and KIP-903).

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use kafka_protocol::ResponseError;
use kafka_protocol::messages::AlterPartitionRequest;
use kafka_protocol::messages::alter_partition_request::{BrokerState, PartitionData, TopicData};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::controllers::ControllerConnection;
use super::error::SeatError;
use crate::client::Backoff;
use crate::image::Image;
use crate::mirror::partition::{Candidate, IsrProposal};
use crate::types::{BrokerEpoch, BrokerId, LeaderEpoch, PartitionKey, TopicId};

/// Changes in one request.
const CHANGES_AT_ONCE: usize = 1_000;
/// Rest after a failed request; the leader task proposes anew.
const REST: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(2));
/// The controller applied it and thereby completed a reassignment: our leadership ends.
const NEW_LEADER_ELECTED: i16 = 108;
const NOT_CONTROLLER: i16 = 41;
const BROKER_ID_NOT_REGISTERED: i16 = 102;
/// Between log lines about requests that fail as a whole.
const QUIET: Duration = Duration::from_secs(60);

/// One change that is wanted.
#[derive(Clone, Debug)]
pub struct IsrRequest {
    /// The partition.
    pub key: PartitionKey,
    /// The change.
    pub proposal: IsrProposal,
}

/// What became of a change.
#[derive(Clone, Copy, Debug)]
pub struct IsrOutcome {
    /// The partition.
    pub key: PartitionKey,
    /// Epoch in which it was asked for.
    pub leader_epoch: LeaderEpoch,
    /// Partition epoch that it was based on.
    pub partition_epoch: i32,
    /// What the controller made of it.
    pub result: IsrResult,
}

/// What the controller made of a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IsrResult {
    /// Applied: the metadata log will show it.
    Applied,
    /// Not applied, with Kafka's error code:
    ///
    /// - 95 `INVALID_UPDATE_VERSION`, 74 `FENCED_LEADER_EPOCH`: the metadata log is ahead of us and
    ///   will tell.
    /// - 41 `NOT_CONTROLLER`: it knows less than we do and is not the active controller.
    /// - 107 `INELIGIBLE_REPLICA`: a member was fenced, stopped or started anew meanwhile.
    /// - 77 `STALE_BROKER_EPOCH`: we are registered no more; the heartbeat sees to it.
    /// - 42 `INVALID_REQUEST`: we do not lead, or were left out.
    Refused(i16),
    /// No answer: it may have been applied or not.
    Unknown,
}

impl std::fmt::Display for IsrResult {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Applied => f.write_str("applied"),
            Self::Refused(code) => match ResponseError::try_from_code(*code) {
                Some(error) => write!(f, "error {code} ({error:?})"),
                None => write!(f, "error {code}"),
            },
            Self::Unknown => f.write_str("no answer"),
        }
    }
}

/// What the image says of a broker that could join.
pub fn candidate(image: &Image, id: BrokerId) -> Option<Candidate> {
    image.broker(id).map(|broker| Candidate {
        epoch: broker.epoch,
        is_eligible: !broker.is_fenced && !broker.in_controlled_shutdown,
    })
}

/// Sends changes to the controller, one request at a time.
#[derive(Debug)]
pub struct IsrTask {
    /// Our broker id.
    pub seat: BrokerId,
    /// Our registration.
    pub registration: watch::Receiver<Option<BrokerEpoch>>,
    /// A connection of our own.
    pub controller: ControllerConnection,
    /// Changes that are wanted.
    pub requests: mpsc::UnboundedReceiver<Vec<IsrRequest>>,
    /// What became of them.
    pub outcomes: mpsc::UnboundedSender<IsrOutcome>,
}

impl IsrTask {
    /// Runs until the leader task is gone.
    pub async fn run(mut self) {
        let mut told: Option<Instant> = None;
        let mut rest = Backoff::new(REST.0, REST.1);
        while let Some(requests) = self.requests.recv().await {
            for chunk in requests.chunks(CHANGES_AT_ONCE) {
                if let Err(error) = self.send(chunk).await {
                    if told.is_none_or(|at| at.elapsed() >= QUIET) {
                        told = Some(Instant::now());
                        tracing::warn!(
                            %error, changes = chunk.len(),
                            "in-sync replicas cannot be changed now; trying on"
                        );
                    }
                    let result = match error {
                        SeatError::Answered { code, .. } => IsrResult::Refused(code),
                        _ => IsrResult::Unknown,
                    };
                    self.report_all(chunk, result);
                    tokio::time::sleep(rest.next()).await;
                } else {
                    rest.reset();
                }
            }
        }
    }

    async fn send(&mut self, requests: &[IsrRequest]) -> Result<(), SeatError> {
        let Some(epoch) = *self.registration.borrow() else {
            self.report_all(requests, IsrResult::Refused(BROKER_ID_NOT_REGISTERED));
            return Ok(());
        };
        let request = alter_partition(self.seat, epoch, requests);
        let response =
            self.controller.request("AlterPartition", &request, |answer| answer.error_code).await?;
        let answers = response.topics.iter().flat_map(|topic| {
            let id = TopicId(topic.topic_id);
            topic.partitions.iter().map(move |partition| {
                let key = PartitionKey { topic: id, partition: partition.partition_index };
                (key, partition.error_code)
            })
        });
        let answers: HashMap<PartitionKey, i16> = answers.collect();
        // Its partitions are older than those that we know of.
        if answers.values().any(|code| *code == NOT_CONTROLLER) {
            self.controller.moved();
        }
        for request in requests {
            self.report(request, result_of(answers.get(&request.key).copied()));
        }
        Ok(())
    }

    fn report_all(&self, requests: &[IsrRequest], result: IsrResult) {
        for request in requests {
            self.report(request, result);
        }
    }

    fn report(&self, request: &IsrRequest, result: IsrResult) {
        let IsrRequest { key, proposal } = request;
        let (leader_epoch, partition_epoch) = (proposal.leader_epoch, proposal.partition_epoch);
        let outcome = IsrOutcome { key: *key, leader_epoch, partition_epoch, result };
        let _stopped = self.outcomes.send(outcome);
    }
}

fn result_of(code: Option<i16>) -> IsrResult {
    match code {
        Some(0 | NEW_LEADER_ELECTED) => IsrResult::Applied,
        Some(code) => IsrResult::Refused(code),
        None => IsrResult::Unknown,
    }
}

fn alter_partition(
    seat: BrokerId,
    epoch: BrokerEpoch,
    requests: &[IsrRequest],
) -> AlterPartitionRequest {
    let mut topics: BTreeMap<TopicId, Vec<PartitionData>> = BTreeMap::new();
    for IsrRequest { key, proposal } in requests {
        let members = proposal.in_sync.iter().map(|&(id, epoch)| {
            BrokerState::default().with_broker_id(id.0.into()).with_broker_epoch(epoch.0)
        });
        let partition = PartitionData::default()
            .with_partition_index(key.partition)
            .with_leader_epoch(proposal.leader_epoch.0)
            // Every controller from 3.7 on knows version 3, which has no place for `new_isr`.
            .with_new_isr_with_epochs(members.collect())
            // A partition that was elected uncleanly counts as recovered once we serve it.
            .with_leader_recovery_state(0)
            .with_partition_epoch(proposal.partition_epoch);
        topics.entry(key.topic).or_default().push(partition);
    }
    let topics = topics.into_iter().map(|(id, partitions)| {
        TopicData::default().with_topic_id(id.0).with_partitions(partitions)
    });
    AlterPartitionRequest::default()
        .with_broker_id(seat.0.into())
        .with_broker_epoch(epoch.0)
        .with_topics(topics.collect())
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;
    use kafka_protocol::protocol::{Encodable, Message};

    use super::*;
    use crate::types::LeaderEpoch;

    #[test]
    fn a_change_of_the_in_sync_replicas_fits_the_newest_version() {
        let key = PartitionKey { topic: TopicId(crate::types::Uuid::from_u128(7)), partition: 1 };
        let proposal = IsrProposal {
            leader_epoch: LeaderEpoch(3),
            partition_epoch: 4,
            in_sync: vec![(BrokerId(9001), BrokerEpoch(5)), (BrokerId(2), BrokerEpoch(6))],
        };
        let requests = [IsrRequest { key, proposal }];
        let request = alter_partition(BrokerId(9001), BrokerEpoch(5), &requests);
        let version = AlterPartitionRequest::VERSIONS.max;
        request.encode(&mut BytesMut::new(), version).unwrap();
        assert_eq!(request.topics[0].partitions[0].new_isr_with_epochs.len(), 2);
    }
}
