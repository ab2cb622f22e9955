//! Heartbeats of the seat, on a connection of their own. They say how far we have read the metadata
//! log, whether we want to be fenced or to shut down, and that nothing may be placed on us.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use kafka_protocol::messages::{BrokerHeartbeatRequest, BrokerHeartbeatResponse};
use kafka_protocol::protocol::buf::{ByteBuf, ByteBufMut};
use kafka_protocol::protocol::{
    Decodable, Encodable, HeaderVersion, Message, Request, VersionRange,
};
use tokio::sync::watch;
use tokio::time::Instant;

use super::controllers::ControllerConnection;
use super::error::SeatError;
use super::registration::CORDON_METADATA_VERSION;
use crate::client::Backoff;
use crate::image::Image;
use crate::types::{BrokerEpoch, BrokerId, Offset, Uuid};

/// Tag of `CordonedLogDirs` in version 2 (KIP-1066).
const CORDONED_LOG_DIRS: i32 = 1;
/// A broker that leads and lags behind in the metadata log holds up every controlled shutdown in the
/// cluster, so we step back when the log cannot be read for so long.
const STUCK_AFTER: Duration = Duration::from_secs(15);
const STALE_BROKER_EPOCH: i16 = 77;
const BROKER_ID_NOT_REGISTERED: i16 = 102;

/// What the seat wants of the controller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wish {
    /// Not to lead anything.
    Fenced,
    /// To take part.
    Serve,
    /// To hand everything over and go.
    ShutDown,
}

/// What the controller answered last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Registration under which the answer was given.
    pub epoch: BrokerEpoch,
    /// Whether the controller keeps us from leading.
    pub is_fenced: bool,
    /// Whether leadership was handed over and we may go.
    pub may_shut_down: bool,
    /// When the answer came.
    pub at: Instant,
}

/// What ends the heartbeats.
#[derive(Debug, PartialEq, Eq)]
pub enum HeartbeatEnd {
    /// The controller does not know our registration any more: register again.
    NotRegistered,
    /// We were told that we may go.
    MayShutDown,
}

/// Sends heartbeats for one registration.
#[derive(Debug)]
pub struct Heartbeat {
    /// Our broker id.
    pub id: BrokerId,
    /// Our registration.
    pub epoch: BrokerEpoch,
    /// Our log directory.
    pub directory: Uuid,
    /// The destination's `broker.heartbeat.interval.ms`.
    pub interval: Duration,
    /// Where the seat's wish is found.
    pub wish: watch::Receiver<Wish>,
    /// Last offset of the metadata log that was applied.
    pub applied: watch::Receiver<Offset>,
    /// Its `metadata.version` says whether the controller knows cordons.
    pub image: watch::Receiver<Arc<Image>>,
    /// When the metadata log was last read to its end.
    pub read_at: watch::Receiver<Option<Instant>>,
    /// Since when every heartbeat was answered.
    pub answered_since: Option<Instant>,
    /// Whether we ask to be fenced because the log cannot be read.
    pub is_stuck: bool,
    /// Told of every answer.
    pub standing: watch::Sender<Option<Standing>>,
}

impl Heartbeat {
    /// Beats until the registration is gone or the seat may go.
    pub async fn run(mut self, controller: &mut ControllerConnection) -> HeartbeatEnd {
        let mut failed = false;
        // The session's end is near: never long, and not all seats at once.
        let mut rest = Backoff::new(self.interval / 20, self.interval / 4);
        loop {
            match self.beat(controller).await {
                Ok(standing) => {
                    failed = false;
                    rest.reset();
                    self.answered_since.get_or_insert(standing.at);
                    self.standing.send_replace(Some(standing));
                    if standing.may_shut_down {
                        return HeartbeatEnd::MayShutDown;
                    }
                    self.pause(standing).await;
                    // We stood still (SIGSTOP, a frozen machine), and so did who reads the log.
                    if standing.at.elapsed() >= STUCK_AFTER {
                        self.answered_since = None;
                    }
                }
                Err(SeatError::Answered {
                    code: STALE_BROKER_EPOCH | BROKER_ID_NOT_REGISTERED,
                    ..
                }) => return HeartbeatEnd::NotRegistered,
                Err(error) => {
                    if !failed {
                        tracing::warn!(%error, "heartbeat failed; trying on");
                    }
                    failed = true;
                    self.answered_since = None;
                    tokio::time::sleep(rest.next()).await;
                }
            }
        }
    }

    /// What we ask for: to be fenced where the log cannot be read although the controller answers.
    /// While it does not answer, the log cannot be read either: that is no reason.
    fn present_wish(&self, now: Instant) -> Wish {
        let wish = *self.wish.borrow();
        let since = (*self.read_at.borrow()).max(self.answered_since);
        let is_stuck = since.is_some_and(|since| now.duration_since(since) >= STUCK_AFTER);
        match wish {
            Wish::Serve if self.answered_since.is_some() && is_stuck => Wish::Fenced,
            wish => wish,
        }
    }

    fn note_stuck(&mut self, wish: Wish) {
        let is_stuck = wish != *self.wish.borrow();
        if is_stuck && !self.is_stuck {
            tracing::error!(
                applied = %*self.applied.borrow(), seconds = STUCK_AFTER.as_secs(),
                "the destination's metadata log cannot be read although its controller answers; \
                 asking to be fenced, so that no broker's shutdown waits for us; real brokers lead \
                 until it can be read again"
            );
        }
        self.is_stuck = is_stuck;
    }

    async fn beat(&mut self, controller: &mut ControllerConnection) -> Result<Standing, SeatError> {
        let wish = self.present_wish(Instant::now());
        self.note_stuck(wish);
        let body = BrokerHeartbeatRequest::default()
            .with_broker_id(self.id.0.into())
            .with_broker_epoch(self.epoch.0)
            .with_current_metadata_offset(self.applied.borrow().0)
            .with_want_fence(wish == Wish::Fenced)
            .with_want_shut_down(wish == Wish::ShutDown);
        let limit = self.interval * 2;
        let level = self.image.borrow().metadata_version();
        let has_cordons = level.is_some_and(|level| level >= CORDON_METADATA_VERSION);
        let answer = async {
            if has_cordons {
                let request = CordonedHeartbeat::new(body, self.directory);
                let error_of = |answer: &CordonedHeartbeatAnswer| answer.0.error_code;
                controller.request("BrokerHeartbeat", &request, error_of).await.map(|a| a.0)
            } else {
                controller.request("BrokerHeartbeat", &body, |answer| answer.error_code).await
            }
        };
        let answer = match tokio::time::timeout(limit, answer).await {
            Ok(answer) => answer?,
            Err(_elapsed) => {
                controller.moved();
                let what = format!("nothing within {limit:?}");
                return Err(SeatError::Malformed { request: "BrokerHeartbeat", what });
            }
        };
        Ok(Standing {
            epoch: self.epoch,
            is_fenced: answer.is_fenced,
            may_shut_down: answer.should_shut_down,
            at: Instant::now(),
        })
    }

    /// Until the next beat is due, or sooner where it would change something: while we wait to be
    /// unfenced each step of the metadata log counts, and a new wish is told at once.
    async fn pause(&mut self, standing: Standing) {
        let wish = *self.wish.borrow_and_update();
        let waits_for_log = standing.is_fenced && wish == Wish::Serve;
        self.applied.borrow_and_update();
        let pause = if wish == Wish::ShutDown { self.interval / 4 } else { self.interval };
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            Ok(()) = self.wish.changed() => {}
            Ok(()) = self.applied.changed(), if waits_for_log => {}
        }
    }
}

/// `BrokerHeartbeat` version 2, which kafka-protocol does not know: version 1 with one more tag.
#[derive(Clone, Debug, PartialEq)]
struct CordonedHeartbeat(BrokerHeartbeatRequest);

/// Its answer is that of version 1.
#[derive(Clone, Debug, PartialEq)]
struct CordonedHeartbeatAnswer(BrokerHeartbeatResponse);

const CORDON_VERSION: VersionRange = VersionRange { min: 2, max: 2 };

impl CordonedHeartbeat {
    fn new(mut body: BrokerHeartbeatRequest, directory: Uuid) -> Self {
        let mut dirs = BytesMut::with_capacity(17);
        // A compact array of one.
        dirs.extend_from_slice(&[2]);
        dirs.extend_from_slice(directory.as_bytes());
        body.unknown_tagged_fields.insert(CORDONED_LOG_DIRS, Bytes::from(dirs));
        Self(body)
    }
}

impl Message for CordonedHeartbeat {
    const VERSIONS: VersionRange = CORDON_VERSION;
    const DEPRECATED_VERSIONS: Option<VersionRange> = None;
}

impl Encodable for CordonedHeartbeat {
    fn encode<B: ByteBufMut>(&self, buf: &mut B, _version: i16) -> anyhow::Result<()> {
        self.0.encode(buf, 1)
    }

    fn compute_size(&self, _version: i16) -> anyhow::Result<usize> {
        self.0.compute_size(1)
    }
}

impl Decodable for CordonedHeartbeat {
    fn decode<B: ByteBuf>(buf: &mut B, _version: i16) -> anyhow::Result<Self> {
        BrokerHeartbeatRequest::decode(buf, 1).map(Self)
    }
}

impl HeaderVersion for CordonedHeartbeat {
    fn header_version(_version: i16) -> i16 {
        BrokerHeartbeatRequest::header_version(1)
    }
}

impl Request for CordonedHeartbeat {
    const KEY: i16 = BrokerHeartbeatRequest::KEY;
    type Response = CordonedHeartbeatAnswer;
}

impl Message for CordonedHeartbeatAnswer {
    const VERSIONS: VersionRange = CORDON_VERSION;
    const DEPRECATED_VERSIONS: Option<VersionRange> = None;
}

impl Encodable for CordonedHeartbeatAnswer {
    fn encode<B: ByteBufMut>(&self, buf: &mut B, _version: i16) -> anyhow::Result<()> {
        self.0.encode(buf, 1)
    }

    fn compute_size(&self, _version: i16) -> anyhow::Result<usize> {
        self.0.compute_size(1)
    }
}

impl Decodable for CordonedHeartbeatAnswer {
    fn decode<B: ByteBuf>(buf: &mut B, _version: i16) -> anyhow::Result<Self> {
        BrokerHeartbeatResponse::decode(buf, 1).map(Self)
    }
}

impl HeaderVersion for CordonedHeartbeatAnswer {
    fn header_version(_version: i16) -> i16 {
        BrokerHeartbeatResponse::header_version(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seat_that_cannot_read_the_log_asks_to_be_fenced_unless_nobody_answers() {
        let long_ago = Instant::now();
        let now = long_ago + STUCK_AFTER;
        let lately = now - STUCK_AFTER / 2;
        let wish = |wish, read_at, answered_since| {
            let heartbeat = Heartbeat {
                id: BrokerId(9),
                epoch: BrokerEpoch(1),
                directory: Uuid::nil(),
                interval: Duration::from_secs(2),
                wish: watch::channel(wish).1,
                applied: watch::channel(Offset::ZERO).1,
                image: watch::channel(Arc::default()).1,
                read_at: watch::channel(Some(read_at)).1,
                answered_since,
                is_stuck: false,
                standing: watch::channel(None).0,
            };
            heartbeat.present_wish(now)
        };
        assert_eq!(wish(Wish::Serve, long_ago, Some(long_ago)), Wish::Fenced);
        assert_eq!(wish(Wish::Serve, lately, Some(long_ago)), Wish::Serve);
        // The quorum is back, and with it the log in a moment.
        assert_eq!(wish(Wish::Serve, long_ago, Some(lately)), Wish::Serve);
        assert_eq!(wish(Wish::Serve, long_ago, None), Wish::Serve);
        assert_eq!(wish(Wish::ShutDown, long_ago, Some(long_ago)), Wish::ShutDown);
    }

    #[test]
    fn a_cordoned_heartbeat_is_version_1_and_one_tag() {
        let directory = Uuid::from_u128(0x0102);
        let request = CordonedHeartbeat::new(BrokerHeartbeatRequest::default(), directory);
        let mut bytes = BytesMut::new();
        request.encode(&mut bytes, 2).unwrap();
        let tags = &bytes[bytes.len() - 20..];
        assert_eq!(tags[..4], [1, 1, 17, 2], "one tag, number 1, 17 bytes, an array of one");
        assert_eq!(&tags[4..], directory.as_bytes());
        assert_eq!(CordonedHeartbeat::decode(&mut bytes.freeze(), 2).unwrap(), request);
    }
}
