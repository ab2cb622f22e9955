//! How other parts talk to the task that owns the mirror partitions.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};

use crate::mirror::decision::{Decision, Policies};
use crate::mirror::lineage::{EpochHistory, KnownLineage};
use crate::mirror::partition::FollowerFetch;
use crate::tail::marks::SourceTail;
use crate::tail::{Orders, StartAt, Trouble};
use crate::types::{
    BrokerEpoch, BrokerId, LeaderEpoch, LinkName, Offset, OffsetAndEpoch, PartitionKey, TopicId,
    TopicName,
};

/// A topic of the destination that is a mirror, and what it mirrors.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MirrorTopic {
    /// Its id at the destination.
    pub id: TopicId,
    /// Its name at the destination.
    pub name: TopicName,
    /// The link that feeds it.
    pub link: LinkName,
    /// Its name at the source.
    pub source_name: TopicName,
    /// Its id at the source; [`TopicId::NONE`] where the source has none.
    pub source_id: TopicId,
    /// Where a partition begins that holds nothing yet.
    pub start: StartAt,
    /// `segment.bytes` at the destination: no answer to a follower may be larger.
    pub segment_bytes: usize,
    /// What is decided in advance about failures.
    pub policies: Policies,
}

/// What others may know of a mirror partition that we lead.
#[derive(Clone, Debug)]
pub struct LedPartition {
    /// The link that feeds it.
    pub link: LinkName,
    /// Current leader epoch.
    pub leader_epoch: LeaderEpoch,
    /// Known once every in-sync real replica has fetched in this epoch.
    pub high_watermark: Option<Offset>,
    /// The verified log start of the source, or of the copy where that is higher.
    pub log_start: Option<Offset>,
    /// End of what we can serve.
    pub log_end: Offset,
    /// All leader epochs, where they are known.
    pub history: Option<Arc<EpochHistory>>,
    /// Real brokers in sync, unfenced: those that have asked lately, where any has.
    pub in_sync: Vec<BrokerId>,
}

/// One partition in a follower's Fetch.
#[derive(Clone, Copy, Debug)]
pub struct FetchedPartition {
    /// The partition.
    pub key: PartitionKey,
    /// The follower's log end.
    pub offset: Offset,
    /// Epoch of its last batch.
    pub last_fetched_epoch: LeaderEpoch,
    /// The leader epoch that it believes in.
    pub current_leader_epoch: LeaderEpoch,
    /// Bytes it wants of this partition at most.
    pub max_bytes: usize,
}

/// A follower's Fetch.
#[derive(Clone, Debug)]
pub struct FollowerRequest {
    /// The connection it came on: its sessions go with it.
    pub connection: u64,
    /// Who asks.
    pub broker: BrokerId,
    /// Under which registration.
    pub broker_epoch: BrokerEpoch,
    /// KIP-227.
    pub session_id: i32,
    /// KIP-227: 0 opens a session, -1 goes without.
    pub session_epoch: i32,
    /// How long an empty answer may be held back.
    pub max_wait: Duration,
    /// Bytes it wants in all at most.
    pub max_bytes: usize,
    /// Partitions that are new or have moved.
    pub partitions: Vec<FetchedPartition>,
    /// Partitions that it no longer wants.
    pub forgotten: Vec<PartitionKey>,
}

/// The answer for one partition.
#[derive(Debug)]
pub struct PartitionAnswer {
    /// The partition.
    pub key: PartitionKey,
    /// Kafka's error code, 0 for none.
    pub error: i16,
    /// `None` where nothing is said: -1 on the wire.
    pub high_watermark: Option<Offset>,
    /// `None` where nothing is said: -1 on the wire.
    pub log_start: Option<Offset>,
    /// Where the follower's log parts from ours and has to be cut.
    pub diverging: Option<OffsetAndEpoch>,
    /// Whole batches.
    pub records: Vec<Bytes>,
}

/// The answer to a follower's Fetch.
#[derive(Debug, Default)]
pub struct FollowerAnswer {
    /// Kafka's error code for the whole answer, 0 for none.
    pub error: i16,
    /// The session that goes on, 0 for none.
    pub session_id: i32,
    /// One entry for each partition that has something to say.
    pub partitions: Vec<PartitionAnswer>,
}

/// A follower's question about one partition.
#[derive(Clone, Copy, Debug)]
pub struct Question {
    /// The partition.
    pub key: PartitionKey,
    /// The leader epoch that it believes in.
    pub current_leader_epoch: LeaderEpoch,
    /// What it wants to know.
    pub about: About,
}

/// What a follower can ask besides records.
#[derive(Clone, Copy, Debug)]
pub enum About {
    /// Where the log ends.
    End,
    /// Where the log starts.
    Start,
    /// Where an epoch ends.
    Epoch(LeaderEpoch),
}

/// Answer to a [`Question`]: an error code, or what was asked.
pub type QuestionAnswer = Result<OffsetAndEpoch, i16>;

/// What is known of the log of a partition that we are about to lead again.
#[derive(Clone, Debug)]
pub struct Adoption {
    /// The partition.
    pub key: PartitionKey,
    /// Leader epoch of the leader that told it; our own where a replica did while we lead.
    pub leader_epoch: LeaderEpoch,
    /// All epochs up to `log_end`.
    pub history: EpochHistory,
    /// The leader's log end.
    pub log_end: Offset,
    /// The leader's log start.
    pub log_start: Offset,
    /// A high watermark that no replica is above, where it has to be taken from one.
    pub high_watermark: Option<Offset>,
    /// What the tail check found; `None`: it is still to be made, and nothing is read before it.
    pub tail: Option<SourceTail>,
    /// By a decision the copy ends at `log_end` from now on; it ended here before.
    pub cut_from: Option<Offset>,
}

/// A partition that we lead by the metadata log and whose log we do not know.
#[derive(Clone, Debug)]
pub struct Unknown {
    /// The partition.
    pub key: PartitionKey,
    /// Our leader epoch.
    pub leader_epoch: LeaderEpoch,
    /// What its replicas asked for last in this epoch: where their logs end.
    pub fetches: Vec<FollowerFetch>,
    /// What was committed when we led it before, where we did in this process.
    pub committed: Option<Offset>,
}

/// A copy that we lead and do not read the source for, because its tail was not checked: whoever led it
/// before us told what it is, and what the source is by now nobody has looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unproved {
    /// The partition.
    pub key: PartitionKey,
    /// Our leader epoch.
    pub leader_epoch: LeaderEpoch,
    /// The replica that has the most of it.
    pub holder: BrokerId,
    /// Where that one ends.
    pub log_end: Offset,
    /// The copy's log start.
    pub log_start: Offset,
    /// The source epoch of its last batch and the end of what is known to be of it; may lag.
    pub known: Option<OffsetAndEpoch>,
}

/// What the tail check found of a copy that we lead.
#[derive(Clone, Debug)]
pub struct Proof {
    /// The partition.
    pub key: PartitionKey,
    /// The leader epoch in which it was asked for.
    pub leader_epoch: LeaderEpoch,
    /// By what reading goes on, or why it does not.
    pub found: Result<SourceTail, Trouble>,
}

/// Where a copy that we lead is to be cut, by a decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CopyCut {
    /// The partition.
    pub key: PartitionKey,
    /// The leader epoch in which that was found.
    pub leader_epoch: LeaderEpoch,
    /// Its new end, at the boundary of a batch.
    pub at: Offset,
    /// The source's epoch of the batch below.
    pub source_epoch: LeaderEpoch,
}

/// Requests to the task.
#[derive(Debug)]
pub enum Command {
    /// Questions of the gateway; answers in the order of the keys, `None` where we do not lead.
    Led(Vec<PartitionKey>, oneshot::Sender<Vec<Option<LedPartition>>>),
    /// These topics are mirrors (said again whenever something of them changes).
    Bind(Vec<MirrorTopic>),
    /// Orders for this link's source go there.
    Source(LinkName, Orders),
    /// We may be elected for these: their logs are known and their lineage was checked.
    Adopt(Vec<Adoption>, oneshot::Sender<()>),
    /// What is to be done about failed partitions, led by us or not: durable already.
    Decide(Vec<(PartitionKey, Decision)>, oneshot::Sender<()>),
    /// Decisions that await their partitions, which we do not lead.
    Decisions(oneshot::Sender<Vec<(PartitionKey, Decision)>>),
    /// Bound partitions that we lead and do not know.
    Unknown(oneshot::Sender<Vec<Unknown>>),
    /// Partitions of a link that we lead and whose tail is to be checked.
    Unproved(LinkName, oneshot::Sender<Vec<Unproved>>),
    /// What the tail check found of them.
    Proved(Vec<Proof>),
    /// Where a copy parts from the source, on which a decision to cut it waits.
    Cut(CopyCut),
    /// The source's epochs of what partitions hold, from the journal.
    RestoreLineages(Vec<(PartitionKey, KnownLineage)>),
    /// What was learned of the source's epochs since this was asked last.
    LearnedLineages(oneshot::Sender<Vec<(PartitionKey, KnownLineage)>>),
    /// The same of these partitions, which we do not lead, in their order.
    Lineages(Vec<PartitionKey>, oneshot::Sender<Vec<KnownLineage>>),
    /// All mirrors that were bound.
    Mirrors(oneshot::Sender<Vec<Arc<MirrorTopic>>>),
    /// A follower's Fetch; a refusal of the session is in the answer.
    Fetch(FollowerRequest, oneshot::Sender<FollowerAnswer>),
    /// A follower's ListOffsets or OffsetForLeaderEpoch; answers in the order of the questions.
    Ask(BrokerId, Vec<Question>, oneshot::Sender<Vec<QuestionAnswer>>),
    /// A follower's connection has ended.
    Disconnected(u64),
}

/// Handle on the task; cheap to clone.
#[derive(Clone, Debug)]
pub struct LeaderHandle {
    commands: mpsc::Sender<Command>,
}

impl LeaderHandle {
    /// A handle, and the commands that it will send.
    pub fn new(capacity: usize) -> (Self, mpsc::Receiver<Command>) {
        let (commands, received) = mpsc::channel(capacity);
        (Self { commands }, received)
    }

    /// What is known of these partitions, in their order; `None` where we do not lead a mirror.
    pub async fn led(&self, keys: Vec<PartitionKey>) -> Vec<Option<LedPartition>> {
        let count = keys.len();
        let answered = self.ask(|answer| Command::Led(keys, answer)).await;
        // The task only goes away when the daemon stops: then we lead nothing.
        answered.unwrap_or_else(|| vec![None; count])
    }

    /// Says which topics are mirrors.
    pub async fn bind(&self, topics: Vec<MirrorTopic>) {
        let _stopped = self.commands.send(Command::Bind(topics)).await;
    }

    /// Says where a link's source takes its orders.
    pub async fn connect_source(&self, link: LinkName, orders: Orders) {
        let _stopped = self.commands.send(Command::Source(link, orders)).await;
    }

    /// Says what is known of partitions that we may lead soon; returns once it is taken in.
    pub async fn adopt(&self, adoptions: Vec<Adoption>) {
        let _stopped = self.ask(|done| Command::Adopt(adoptions, done)).await;
    }

    /// Applies decisions on failed partitions; returns once they are taken in. One on a partition that
    /// we do not lead waits for its way back. Whoever decides makes it durable first.
    pub async fn decide(&self, decisions: Vec<(PartitionKey, Decision)>) {
        let _stopped = self.ask(|done| Command::Decide(decisions, done)).await;
    }

    /// Decisions that await partitions which we do not lead.
    pub async fn decisions(&self) -> Vec<(PartitionKey, Decision)> {
        self.ask(Command::Decisions).await.unwrap_or_default()
    }

    /// Partitions of mirrors that we lead although their logs are not known: replicas are told to wait
    /// until they are adopted.
    pub async fn unknown(&self) -> Vec<Unknown> {
        self.ask(Command::Unknown).await.unwrap_or_default()
    }

    /// Partitions of a link that we lead and whose tail has to be checked before the source is read.
    pub async fn unproved(&self, link: LinkName) -> Vec<Unproved> {
        self.ask(|answer| Command::Unproved(link, answer)).await.unwrap_or_default()
    }

    /// Tells what the tail check found of them.
    pub async fn proved(&self, proofs: Vec<Proof>) {
        let _stopped = self.commands.send(Command::Proved(proofs)).await;
    }

    /// Tells where a copy that we lead parts from the source: it is cut there in its next leader epoch,
    /// if a decision to do so waits for it.
    pub async fn cut(&self, cut: CopyCut) {
        let _stopped = self.commands.send(Command::Cut(cut)).await;
    }

    /// Tells the source's epochs of what partitions hold, as the journal has them. What we lead, or have
    /// learned in a later leader epoch, stays as it is.
    pub async fn restore_lineages(&self, lineages: Vec<(PartitionKey, KnownLineage)>) {
        let _stopped = self.commands.send(Command::RestoreLineages(lineages)).await;
    }

    /// What was learned of the source's epochs since this was asked last, for the journal.
    pub async fn learned_lineages(&self) -> Vec<(PartitionKey, KnownLineage)> {
        self.ask(Command::LearnedLineages).await.unwrap_or_default()
    }

    /// What is known of the source's epochs of partitions that we do not lead, for the tail check.
    pub async fn lineages(&self, keys: Vec<PartitionKey>) -> Vec<KnownLineage> {
        let count = keys.len();
        let answered = self.ask(|answer| Command::Lineages(keys, answer)).await;
        answered.unwrap_or_else(|| vec![KnownLineage::default(); count])
    }

    /// All mirrors that were bound.
    pub async fn mirrors(&self) -> Vec<Arc<MirrorTopic>> {
        self.ask(Command::Mirrors).await.unwrap_or_default()
    }

    /// Answers a follower's Fetch; `None` where the daemon stops.
    pub async fn fetch(&self, request: FollowerRequest) -> Option<FollowerAnswer> {
        self.ask(|answer| Command::Fetch(request, answer)).await
    }

    /// Answers a follower's questions in their order; `None` where the daemon stops.
    pub async fn answers(
        &self,
        broker: BrokerId,
        questions: Vec<Question>,
    ) -> Option<Vec<QuestionAnswer>> {
        self.ask(|answer| Command::Ask(broker, questions, answer)).await
    }

    /// Says that a follower's connection has ended.
    pub async fn disconnected(&self, connection: u64) {
        let _stopped = self.commands.send(Command::Disconnected(connection)).await;
    }

    async fn ask<A>(&self, command: impl FnOnce(oneshot::Sender<A>) -> Command) -> Option<A> {
        let (answer, answered) = oneshot::channel();
        self.commands.send(command(answer)).await.ok()?;
        answered.await.ok()
    }
}
