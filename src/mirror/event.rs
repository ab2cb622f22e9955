//! What happened, for people: one line of the durable event log. Plain data; who sends it where is
//! not its matter. The field names are those of the HTTP API and of `__lockstep_events`.

use std::fmt;
use std::ops::Range;

use serde::{Deserialize, Serialize};

use super::report::{Reason, closed_set};
use crate::types::{LinkName, Offset, TopicName};

/// Version of the events' form. A reader shows what it knows of a newer one.
pub const EVENT_SCHEMA: u32 = 1;

/// Something that a person may want to know later.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// [`EVENT_SCHEMA`].
    pub schema: u32,
    /// When, in milliseconds since 1970; 0 until it is sent.
    pub time: i64,
    /// What.
    pub reason: EventReason,
    /// The link that it is about.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub link: Option<String>,
    /// The mirror, by its name at the destination.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub topic: Option<String>,
    /// The partition.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub partition: Option<i32>,
    /// First offset that it is about.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub start_offset: Option<i64>,
    /// The offset after the last that it is about.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub end_offset: Option<i64>,
    /// What happened and what to do next.
    pub text: String,
}

impl Event {
    /// An event about the daemon as a whole.
    pub fn new(reason: impl Into<EventReason>, text: impl Into<String>) -> Self {
        Self {
            schema: EVENT_SCHEMA,
            time: 0,
            reason: reason.into(),
            link: None,
            topic: None,
            partition: None,
            start_offset: None,
            end_offset: None,
            text: text.into(),
        }
    }

    /// About a link.
    pub fn link(mut self, link: &LinkName) -> Self {
        self.link = Some(link.to_string());
        self
    }

    /// About a mirror.
    pub fn topic(mut self, topic: &TopicName) -> Self {
        self.topic = Some(topic.to_string());
        self
    }

    /// About one partition of it.
    pub fn partition(mut self, partition: i32) -> Self {
        self.partition = Some(partition);
        self
    }

    /// About these offsets; the end is not among them.
    pub fn offsets(mut self, offsets: Range<Offset>) -> Self {
        self.start_offset = Some(offsets.start.0);
        self.end_offset = Some(offsets.end.0);
        self
    }
}

/// What an event is about: the reason of a state, or a kind of its own.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(untagged)]
pub enum EventReason {
    /// Why something is in its state.
    Reason(Reason),
    /// What no state has.
    Kind(EventKind),
    /// Of another version of lockstep; only ever read.
    Unknown(String),
}

impl EventReason {
    /// The name that users see.
    pub fn name(&self) -> &str {
        match self {
            Self::Reason(reason) => reason.name(),
            Self::Kind(kind) => kind.name(),
            Self::Unknown(name) => name,
        }
    }
}

impl fmt::Display for EventReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl From<Reason> for EventReason {
    fn from(reason: Reason) -> Self {
        Self::Reason(reason)
    }
}

impl From<EventKind> for EventReason {
    fn from(kind: EventKind) -> Self {
        Self::Kind(kind)
    }
}

closed_set! {
    /// What can happen that is no reason of a state.
    EventKind {
        /// A mirror topic was created at the destination.
        MirrorCreated = "MIRROR_CREATED",
        /// Offsets that the source deleted before they were copied are passed over, by policy or
        /// by an operator's word.
        GapAccepted = "GAP_ACCEPTED",
        /// The copy was shortened to follow the source, by policy or by an operator's word.
        CopyTruncated = "COPY_TRUNCATED",
        /// Nothing was left to compare; the copy was accepted by the topic's id and the source's end.
        CopyAcceptedUnproved = "COPY_ACCEPTED_UNPROVED",
        /// A partition that had failed goes on.
        PartitionResumed = "PARTITION_RESUMED",
        /// The high watermark was not known and had to be assumed.
        HighWatermarkAssumed = "HIGH_WATERMARK_ASSUMED",
        /// No real replica is in sync but what is below the high watermark is held by them.
        LastRealReplicaLost = "LAST_REAL_REPLICA_LOST",
        /// A real replica came back and the partition takes records again.
        RealReplicaReturned = "REAL_REPLICA_RETURNED",
        /// A follower that had marked the partition failed was revived by a new leader epoch.
        FollowerRevived = "FOLLOWER_REVIVED",
        /// A follower's log was longer or other than ours and was cut back to it.
        FollowerTruncated = "FOLLOWER_TRUNCATED",
        /// The log start at the destination is above the source's.
        LogStartAhead = "LOG_START_AHEAD",
        /// A replica that is no mirror's was found on the seat and moved off.
        StrayMoved = "STRAY_MOVED",
        /// Another seat took over, or gave back, partitions or the journal.
        SeatTakeover = "SEAT_TAKEOVER",
        /// The journal was missing or damaged and was written anew from what the clusters say.
        JournalRebuilt = "JOURNAL_REBUILT",
        /// The journal is of a newer version of lockstep: it is not written to.
        JournalNewerSchema = "JOURNAL_NEWER_SCHEMA",
        /// A record of the journal cannot be read; it was passed over.
        JournalGarbage = "JOURNAL_GARBAGE",
        /// The source's cluster id or a topic's id was pinned.
        Pinned = "PINNED",
        /// Events were lost because they came faster than they could be taken.
        EventsLost = "EVENTS_LOST",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_reads_as_the_interface_says() {
        let event = Event::new(Reason::SourceGap, "gone")
            .link(&"east".into())
            .topic(&"orders".into())
            .partition(3)
            .offsets(Offset(5)..Offset(9));
        let json = serde_json::to_string(&event).unwrap();
        assert_eq!(
            json,
            "{\"schema\":1,\"time\":0,\"reason\":\"SOURCE_GAP\",\"link\":\"east\",\
             \"topic\":\"orders\",\"partition\":3,\"start_offset\":5,\"end_offset\":9,\
             \"text\":\"gone\"}"
        );
        assert_eq!(serde_json::from_str::<Event>(&json).unwrap(), event);
    }

    #[test]
    fn kinds_and_names_of_other_versions_are_read() {
        let read = |name: &str| -> EventReason {
            serde_json::from_value(serde_json::Value::from(name)).unwrap()
        };
        for kind in EventKind::ALL {
            assert_eq!(read(kind.name()), EventReason::Kind(*kind));
            assert!(Reason::ALL.iter().all(|reason| reason.name() != kind.name()), "{kind}");
        }
        assert_eq!(read("NEW_IN_9"), EventReason::Unknown("NEW_IN_9".to_owned()));
    }
}
