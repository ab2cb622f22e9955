//! How the router settles what came back: evidence in, the next step or a word to the seat out.

use std::time::Duration;

use tokio::time::Instant;

use super::messages::Why;
use super::partition::Partition;
use super::places::Located;
use super::router::{Router, Stage};
use super::start::{Found, Refused};
use super::verdict::{Verdict, error_text, verdict};
use crate::tail::{ArrivalKind, Trouble};
use crate::types::{BrokerId, LeaderEpoch, Offset, OffsetAndEpoch};

/// Rights change by a person's hand: to ask every few seconds would only fill the source's log.
const DENIED_RETRY: Duration = Duration::from_secs(30);
/// A topic is gone, or another, when metadata says so this often in a row,
const TOPIC_DOUBTS: u32 = 3;
/// over at least this time: a broker that has just started, or is behind, may not know better.
const TOPIC_DOUBT_TIME: Duration = Duration::from_secs(3);
/// A failure is told when it is not over by the next try: leaders move all the time.
const TELL_AFTER_FAILURES: u32 = 2;

impl Router {
    /// Settles why a session gave a partition back.
    pub(super) async fn settle(&mut self, mut partition: Box<Partition>, why: Why) {
        partition.leave_follower(!matches!(why, Why::Recalled));
        match why {
            Why::Recalled => {
                partition.trouble.retry_at = Instant::now();
                self.wait(partition, Stage::Locate);
            }
            Why::Retry(text, Some((leader, epoch)))
                if partition.trouble.failures == 0 && epoch > partition.leader_epoch =>
            {
                tracing::debug!(partition = %partition.follow.source, %leader, "moved: {text}");
                partition.leader_epoch = epoch;
                partition.doubt();
                partition.trouble.failed(Instant::now());
                self.wait(partition, Stage::Ready(leader));
            }
            Why::Retry(text, _) | Why::Topic(text) => self.fail(partition, &text).await,
            Why::Range(text) => {
                partition.doubts.range = true;
                self.fail(partition, &text).await;
            }
            Why::Denied(text) => self.deny(partition, text).await,
            Why::Preferred(replica) => {
                partition.read_from = Some(replica);
                self.wait(partition, Stage::Ready(replica));
            }
            Why::Ended(trouble) => self.end(partition, trouble).await,
        }
    }

    /// A failure that is tried again for ever, from metadata on.
    pub(super) async fn fail(&mut self, mut partition: Box<Partition>, text: &str) {
        partition.doubt();
        partition.trouble.failed(Instant::now());
        let trouble = &mut partition.trouble;
        if trouble.failures >= TELL_AFTER_FAILURES && !trouble.told {
            trouble.told = true;
            tracing::warn!(
                link = %self.link, partition = %partition.follow.source,
                offset = %partition.offset(), "source unavailable, trying on: {text}"
            );
            let trouble = Trouble::Unavailable(text.to_owned());
            self.tell(&partition, ArrivalKind::Trouble(trouble)).await;
        }
        self.wait(partition, Stage::Locate);
    }

    async fn deny(&mut self, mut partition: Box<Partition>, text: String) {
        partition.trouble.failed(Instant::now());
        partition.trouble.retry_at = Instant::now() + DENIED_RETRY;
        if !partition.trouble.told {
            partition.trouble.told = true;
            let trouble = Trouble::Unauthorized(text);
            self.tell(&partition, ArrivalKind::Trouble(trouble)).await;
        }
        self.wait(partition, Stage::Locate);
    }

    /// Acts on what metadata says of a partition that waits.
    pub(super) async fn locate(&mut self, partition: Box<Partition>, located: Located) {
        match located {
            Located::Led(led) => self.lead(partition, led),
            Located::NotYet(text) => self.fail(partition, &text).await,
            Located::Denied(text) => self.deny(partition, text).await,
            Located::Missing => {
                let text = "the topic or partition does not exist".to_owned();
                self.doubt_topic(partition, text, Trouble::TopicDeleted).await;
            }
            Located::OtherTopic(id) => {
                let text = format!("the topic has id {id}, expected {}", partition.topic);
                self.doubt_topic(partition, text, Trouble::TopicIdChanged).await;
            }
        }
    }

    async fn doubt_topic(&mut self, mut partition: Box<Partition>, text: String, trouble: Trouble) {
        let now = Instant::now();
        let (since, before) = partition.doubts.topic.unwrap_or((now, 0));
        partition.doubts.topic = Some((since, before + 1));
        if before + 1 >= TOPIC_DOUBTS && now - since >= TOPIC_DOUBT_TIME {
            self.end(partition, trouble).await;
        } else {
            self.fail(partition, &text).await;
        }
    }

    /// Acts on where the source's log begins and ends.
    pub(super) async fn found(
        &mut self,
        broker: BrokerId,
        mut partition: Box<Partition>,
        found: Result<Found, Refused>,
    ) {
        let found = match found {
            Ok(found) => found,
            Err(Refused(code)) => {
                let text = format!("broker {broker} answers {} to ListOffsets", error_text(code));
                if verdict(code) == Some(Verdict::Denied) {
                    return self.deny(partition, text).await;
                }
                return self.fail(partition, &text).await;
            }
        };
        let bounds = found.bounds;
        if bounds.log_start < Offset::ZERO || bounds.high_watermark < bounds.log_start {
            let text = format!("broker {broker} answers {bounds:?} to ListOffsets");
            return self.fail(partition, &text).await;
        }
        match partition.position {
            None => {
                partition.position =
                    Some(OffsetAndEpoch { offset: found.start, epoch: LeaderEpoch::UNKNOWN });
                let started = ArrivalKind::Started { position: found.start, bounds };
                self.tell(&partition, started).await;
                self.wait(partition, Stage::Ready(broker));
            }
            Some(position) => match out_of_range(position.offset, found, &partition) {
                Some(trouble) => self.end(partition, trouble).await,
                // The batch that was to be seen again has been trimmed away.
                None if partition
                    .unproven()
                    .is_some_and(|last| last.offset() < bounds.log_start) =>
                {
                    partition.must_prove = false;
                    partition.doubts.range = false;
                    self.wait(partition, Stage::Ready(broker));
                }
                None => {
                    partition.doubts.range = false;
                    partition.doubts.range_denied = true;
                    self.wait(partition, Stage::Ready(broker));
                }
            },
        }
    }
}

/// What a position means that the source called out of range. `None`: its bounds say otherwise, for
/// the first time.
fn out_of_range(ours: Offset, found: Found, partition: &Partition) -> Option<Trouble> {
    let source_start = found.bounds.log_start;
    let source_end = found.bounds.high_watermark;
    if ours < source_start {
        Some(Trouble::Gap { ours, source_start })
    } else if ours > source_end || partition.doubts.range_denied {
        Some(Trouble::Truncated { ours, source_end })
    } else {
        None
    }
}
