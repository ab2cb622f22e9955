//! What the daemon says of itself: plain data, made by the parts that know, read by the HTTP API.
//! The field names are those of the API. Reported lag is true within one fetch of the source.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::topic::MirrorState;

/// The seat and all links of one daemon.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ClusterReport {
    /// Our seat in the destination cluster.
    pub seat: SeatReport,
    /// In the order of the configuration.
    pub links: Vec<LinkReport>,
}

/// Our seat in the destination cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SeatReport {
    /// Our broker id.
    pub broker_id: i32,
    /// Whether the controller keeps us from leading.
    pub fenced: bool,
    /// The seat that does what exactly one daemon may do; `None`: no seat is alive.
    #[serde(default)]
    pub owner: Option<i32>,
    /// Offset of the last metadata record applied; -1 before the first.
    pub metadata_offset: i64,
    /// Unfenced, and the metadata is current.
    pub ready: bool,
    /// Why not, for people; `None` when ready.
    pub reason: Option<String>,
    /// Whether the controller places no new replicas on us (KIP-1066).
    #[serde(default)]
    pub cordoned: bool,
    /// Mirror partitions that we lead.
    #[serde(default)]
    pub partitions_led: usize,
    /// Replicas of topics that are no mirrors, placed on us.
    #[serde(default)]
    pub strays: Vec<StrayReport>,
    /// How far it is with leaving, where somebody asked for that.
    #[serde(default)]
    pub leaving: Option<LeaveReport>,
}

/// How far a seat is with leaving the destination.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaveReport {
    /// What it is doing.
    pub stage: LeaveStage,
    /// Why it does not leave; `None` where nothing is in the way.
    pub reason: Option<String>,
}

/// A partition of a topic that is no mirror, with a replica on a seat.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StrayReport {
    /// Its topic.
    pub topic: String,
    /// Its number.
    pub partition: i32,
    /// Its replicas now.
    pub replicas: Vec<i32>,
    /// What is done about it.
    pub state: StrayState,
}

impl Default for SeatReport {
    /// A seat before it is taken.
    fn default() -> Self {
        Self {
            broker_id: -1,
            fenced: true,
            owner: None,
            metadata_offset: -1,
            ready: false,
            reason: Some("starting".to_owned()),
            cordoned: false,
            partitions_led: 0,
            strays: Vec::new(),
            leaving: None,
        }
    }
}

/// One link.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LinkReport {
    /// Its name in the configuration.
    pub name: String,
    /// How it is.
    pub state: LinkState,
    /// Why; `None` where the state says it all.
    pub reason: Option<Reason>,
    /// Since when, in milliseconds since 1970.
    pub since: i64,
    /// Its mirrors.
    pub topics: Vec<TopicReport>,
}

/// One mirror.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TopicReport {
    /// Its name at the destination.
    pub topic: String,
    /// Its name at the source.
    pub source_topic: String,
    /// How it is.
    pub state: MirrorState,
    /// Why; `None` where the state says it all.
    pub reason: Option<Reason>,
    /// Since when, in milliseconds since 1970.
    pub since: i64,
    /// In the order of their numbers.
    pub partitions: Vec<PartitionReport>,
}

/// One mirror partition.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PartitionReport {
    /// Its number.
    pub partition: i32,
    /// How it is.
    pub state: PartitionState,
    /// Why; `None` where the state says it all.
    pub reason: Option<Reason>,
    /// The broker that leads it now; `None`: nobody.
    #[serde(default)]
    pub leader: Option<i32>,
    /// Our leader epoch at the destination; -1 while we do not lead.
    pub leader_epoch: i32,
    /// High watermark of the source: the end of what can be copied. `None`: not known yet.
    pub source_end_offset: Option<i64>,
    /// Log start offset of the mirror. `None`: not known yet.
    pub log_start_offset: Option<i64>,
    /// Log start offset of the source. `None`: not known yet.
    pub source_log_start_offset: Option<i64>,
    /// What is readable at the destination ends here. `None`: not known in this leader epoch.
    pub high_watermark: Option<i64>,
    /// End of what we can serve to followers. `None`: nothing yet.
    pub log_end_offset: Option<i64>,
    /// Offsets at the source that are not readable at the destination. `None`: not known.
    pub lag_records: Option<u64>,
    /// Age of the oldest record not yet readable at the destination. `None`: not known.
    pub lag_seconds: Option<f64>,
    /// Record bytes copied since the daemon started.
    pub bytes_total: u64,
    /// Records copied since the daemon started.
    pub records_total: u64,
    /// Batches copied since the daemon started.
    pub batches_total: u64,
    /// Real brokers in sync.
    pub in_sync: Vec<i32>,
    /// Why a person must decide, with both offsets; left out unless the state is `Failed`.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub failure: Option<FailureReport>,
}

impl PartitionReport {
    /// A partition that we do not lead and of which nothing is known.
    pub fn unknown(partition: i32) -> Self {
        Self {
            partition,
            state: PartitionState::DestinationUnavailable,
            reason: Some(Reason::SeatFenced),
            leader: None,
            leader_epoch: -1,
            source_end_offset: None,
            log_start_offset: None,
            source_log_start_offset: None,
            high_watermark: None,
            log_end_offset: None,
            lag_records: None,
            lag_seconds: None,
            bytes_total: 0,
            records_total: 0,
            batches_total: 0,
            in_sync: Vec::new(),
            failure: None,
        }
    }
}

/// Where copy and source stand against each other in a failed partition.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailureReport {
    /// End of the copy, where it matters.
    pub offset: Option<i64>,
    /// Where the source's log or epoch ends; for a gap: where its log starts.
    pub source_offset: Option<i64>,
    /// What is so.
    pub text: String,
}

macro_rules! closed_set {
    ($(#[$doc:meta])* $set:ident { $($(#[$variant_doc:meta])* $name:ident = $text:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
        pub enum $set {
            $($(#[$variant_doc])* #[serde(rename = $text)] $name,)*
        }

        impl $set {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// The one of this name.
            pub fn named(name: &str) -> Option<Self> {
                Self::ALL.iter().copied().find(|one| one.name() == name)
            }

            /// The name that users see; tools rely on it.
            pub fn name(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }
        }

        impl fmt::Display for $set {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(self.name())
            }
        }
    };
}
pub(super) use closed_set;

closed_set! {
    /// How a link is.
    LinkState {
        /// Its source is read.
        Active = "Active",
        /// An operator stopped it.
        Paused = "Paused",
        /// Its source cannot be reached; it is retried for ever.
        SourceUnavailable = "SourceUnavailable",
        /// A person must decide.
        Failed = "Failed",
    }
}

closed_set! {
    /// How a partition of an active mirror is.
    PartitionState {
        /// It holds less than the source has.
        CatchingUp = "CatchingUp",
        /// All that the source has is readable at the destination, within one fetch.
        InSync = "InSync",
        /// Its source cannot be read; it is retried for ever.
        SourceUnavailable = "SourceUnavailable",
        /// Another seat leads it: that daemon knows how it does. We lead it when that one dies.
        Standby = "Standby",
        /// We do not lead it, or no real replica takes it; it is retried for ever.
        DestinationUnavailable = "DestinationUnavailable",
        /// A person must decide.
        Failed = "Failed",
    }
}

closed_set! {
    /// How far a seat is with leaving, in this order.
    LeaveStage {
        /// It may not leave now, and goes on as before.
        Refused = "Refused",
        /// Leadership passes to real brokers.
        HandingOver = "HandingOver",
        /// Replicas of topics that are no mirrors go to real brokers.
        MovingStrays = "MovingStrays",
        /// The seat is taken out of the mirrors' replicas.
        LeavingMirrors = "LeavingMirrors",
        /// Its registration is taken back.
        Unregistering = "Unregistering",
        /// It is gone, and the daemon ends.
        Left = "Left",
        /// It could not leave; the daemon ends all the same.
        Failed = "Failed",
    }
}

closed_set! {
    /// What is done about a stray.
    StrayState {
        /// It is on its way to real brokers.
        Moving = "Moving",
        /// No real broker can take it.
        NoBroker = "NoBroker",
        /// Only the seat is in sync: a person must choose.
        Stuck = "Stuck",
    }
}

closed_set! {
    /// Why something is in its state.
    Reason {
        /// No broker of the source answers.
        SourceUnreachable = "SOURCE_UNREACHABLE",
        /// The source does not take our credentials.
        SourceAuthenticationFailed = "SOURCE_AUTHENTICATION_FAILED",
        /// The source does not let us read.
        SourceAuthorizationFailed = "SOURCE_AUTHORIZATION_FAILED",
        /// Another cluster answers at the source's address.
        SourceClusterIdChanged = "SOURCE_CLUSTER_ID_CHANGED",
        /// The topic is gone at the source.
        SourceTopicDeleted = "SOURCE_TOPIC_DELETED",
        /// The topic was deleted and created anew at the source.
        SourceTopicIdChanged = "SOURCE_TOPIC_ID_CHANGED",
        /// The source has fewer partitions than the mirror.
        SourcePartitionsDecreased = "SOURCE_PARTITIONS_DECREASED",
        /// The source lost or rewrote what we had copied.
        SourceTruncated = "SOURCE_TRUNCATED",
        /// The source deleted what we had not copied yet.
        SourceGap = "SOURCE_GAP",
        /// A batch is of message format v0 or v1.
        UnsupportedMessageFormat = "UNSUPPORTED_MESSAGE_FORMAT",
        /// A batch is damaged.
        CorruptBatch = "CORRUPT_BATCH",
        /// A topic of the mirror's name exists and is not our mirror.
        DestinationTopicExists = "DESTINATION_TOPIC_EXISTS",
        /// The copy holds what the source never had.
        DestinationDiverged = "DESTINATION_DIVERGED",
        /// Somebody else wrote into the copy.
        DestinationForeignWrite = "DESTINATION_FOREIGN_WRITE",
        /// Somebody deleted records of the copy that the source still has; it is copied on.
        DestinationLogStartAhead = "DESTINATION_LOG_START_AHEAD",
        /// The configs of the topic at the source cannot be read.
        SourceConfigsUnknown = "SOURCE_CONFIGS_UNKNOWN",
        /// The destination has too few live brokers for the replicas of a mirror.
        DestinationBrokersMissing = "DESTINATION_BROKERS_MISSING",
        /// The destination refused a change of the topic.
        DestinationRefused = "DESTINATION_REFUSED",
        /// No broker or controller of the destination answers.
        DestinationUnreachable = "DESTINATION_UNREACHABLE",
        /// The controller keeps our seat from leading.
        SeatFenced = "SEAT_FENCED",
        /// No real replica is in sync.
        ReplicasOutOfSync = "REPLICAS_OUT_OF_SYNC",
        /// The group has members at the destination.
        GroupActiveAtDestination = "GROUP_ACTIVE_AT_DESTINATION",
        /// Somebody asked for it.
        OperatorRequest = "OPERATOR_REQUEST",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_and_reasons_are_spelt_as_in_the_interface() {
        let json = |value| serde_json::to_string(&value).unwrap();
        assert_eq!(json(Reason::SourceTopicIdChanged), "\"SOURCE_TOPIC_ID_CHANGED\"");
        for reason in Reason::ALL {
            assert_eq!(json(*reason), format!("\"{}\"", reason.name()));
        }
        let state = serde_json::to_string(&PartitionState::CatchingUp).unwrap();
        assert_eq!(state, "\"CatchingUp\"");
    }

    #[test]
    fn a_report_survives_the_wire() {
        let topic = TopicReport {
            topic: "east.orders".to_owned(),
            source_topic: "orders".to_owned(),
            state: MirrorState::FailingBack,
            reason: Some(Reason::OperatorRequest),
            since: 1,
            partitions: Vec::new(),
        };
        let json = serde_json::to_string(&topic).unwrap();
        assert!(json.contains("\"state\":\"FailingBack\""), "{json}");
        assert_eq!(serde_json::from_str::<TopicReport>(&json).unwrap(), topic);
    }
}
