//! What can go wrong with the seat, and what to do then.

use crate::client::ClientError;
use crate::image::ImageError;
use crate::types::{BrokerId, TopicName};

/// Trouble of the seat.
#[derive(Debug, thiserror::Error)]
pub enum SeatError {
    /// A controller or broker could not be asked.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// A controller answered with an error.
    #[error("{request} was answered with error {code} ({name})")]
    Answered {
        /// The request.
        request: &'static str,
        /// Kafka's error code.
        code: i16,
        /// Its name.
        name: String,
    },
    /// The metadata log cannot be understood.
    #[error("metadata log cannot be applied: {0}")]
    Image(#[from] ImageError),
    /// An answer does not fit what was asked.
    #[error("{request} was answered with {what}")]
    Malformed {
        /// The request.
        request: &'static str,
        /// What is wrong.
        what: String,
    },
    /// No controller is known.
    #[error(
        "no controller is known; set destination.controllers, or let a broker of \
         destination.bootstrap_servers answer DescribeQuorum"
    )]
    NoController,
    /// The destination runs a release that was never tried.
    #[error(
        "destination has metadata.version {found}, this lockstep knows {least} to {most}; use a \
         lockstep release that knows it, or do not upgrade the destination beyond {most}"
    )]
    MetadataVersion {
        /// Finalized level.
        found: i16,
        /// The least that works.
        least: i16,
        /// The greatest that was tried.
        most: i16,
    },
    /// Brokers have a listener that we would lack.
    #[error(
        "broker {broker} has a listener {name} that the configuration lacks: clients of that \
         listener would find no leader; add [destination.listeners.{name}]"
    )]
    ListenerMissing {
        /// A broker that has it.
        broker: BrokerId,
        /// Its name.
        name: String,
    },
    /// Our id belongs to a broker with disks.
    #[error(
        "broker id {id} belongs to another broker ({address}); choose a daemon.broker_id that no \
         broker has"
    )]
    IdTaken {
        /// The id.
        id: BrokerId,
        /// Where that broker listens.
        address: String,
    },
    /// Only we are in sync of a partition that is no mirror: joined, we would lead it.
    #[error(
        "broker id {id} is the only in-sync replica of {topic}-{partition} (and of {others} more), \
         which is no mirror, and holds nothing of it: before the daemon starts let a real replica \
         lead (kafka-leader-election.sh --election-type unclean --topic {topic} --partition \
         {partition}), or delete the topic"
    )]
    StuckStray {
        /// Our id.
        id: BrokerId,
        /// The topic.
        topic: TopicName,
        /// The partition.
        partition: i32,
        /// How many more there are.
        others: usize,
    },
    /// Nobody but the seat can hand it over.
    #[error(
        "only broker id {id} has a replica of {topic}-{partition}, which is no mirror: start the daemon, \
         which hands it over, and leave then; or delete the topic"
    )]
    HeldStray {
        /// Our id.
        id: BrokerId,
        /// The topic.
        topic: TopicName,
        /// The partition.
        partition: i32,
    },
    /// The seat may not go: it would take the only in-sync replica with it.
    #[error(
        "broker id {id} is the only in-sync replica of {topic}-{partition}: wait until a real replica \
         is in sync, then leave"
    )]
    OnlyInSync {
        /// Our id.
        id: BrokerId,
        /// The topic.
        topic: TopicName,
        /// The partition.
        partition: i32,
    },
    /// Another cluster than the file names is at the address.
    #[error(
        "cluster {found} answers at destination.bootstrap_servers, destination.cluster_id is \
         {expected}; correct the one that is wrong"
    )]
    OtherCluster {
        /// The one that answers.
        found: String,
        /// The one in the file.
        expected: String,
    },
    /// Servers of different clusters are configured as one.
    #[error("{server} belongs to cluster {found}, {first} to {expected}; correct {setting}")]
    WrongCluster {
        /// One that differs from the first.
        server: String,
        /// Its cluster id.
        found: String,
        /// The first of them.
        first: String,
        /// Its cluster id.
        expected: String,
        /// Where it is configured.
        setting: &'static str,
    },
}

impl SeatError {
    /// From an error code of an answer; `Ok` for none.
    pub fn check(request: &'static str, code: i16) -> Result<(), Self> {
        if code == 0 {
            return Ok(());
        }
        let name = kafka_protocol::ResponseError::try_from_code(code)
            .map_or_else(|| "unknown".to_owned(), |error| format!("{error:?}"));
        Err(Self::Answered { request, code, name })
    }

    /// Whether a person has to change something before it can work.
    pub fn is_final(&self) -> bool {
        matches!(
            self,
            Self::MetadataVersion { .. }
                | Self::ListenerMissing { .. }
                | Self::IdTaken { .. }
                | Self::StuckStray { .. }
                | Self::OtherCluster { .. }
                | Self::OnlyInSync { .. }
                | Self::HeldStray { .. }
                | Self::WrongCluster { .. }
                | Self::Image(_)
        )
    }

    /// Whether the configuration does not fit the clusters that it names.
    pub fn is_of_configuration(&self) -> bool {
        matches!(
            self,
            Self::ListenerMissing { .. }
                | Self::IdTaken { .. }
                | Self::OtherCluster { .. }
                | Self::WrongCluster { .. }
        )
    }

    /// Whether the one asked is not the active controller.
    pub fn is_elsewhere(&self) -> bool {
        const NOT_CONTROLLER: i16 = 41;
        const NOT_LEADER: i16 = 6;
        match self {
            // A request that cannot be made is as wrong anywhere else.
            Self::Client(error) => !matches!(error, ClientError::Encode { .. }),
            Self::Answered { code, .. } => matches!(*code, NOT_CONTROLLER | NOT_LEADER),
            _ => false,
        }
    }
}
