//! The daemon's own requests for other in-sync replicas, made wrong on purpose in each way in which a
//! race makes them wrong: what a real controller answers, and that nothing comes of it. What the
//! leader does then is decided in `mirror` and tested there.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use lockstep::client::{ClientConfig, Endpoint};
use lockstep::mirror::partition::IsrProposal;
use lockstep::seat::controllers::Controllers;
use lockstep::seat::isr::{IsrOutcome, IsrRequest, IsrResult, IsrTask};
use lockstep::types::{BrokerEpoch, BrokerId, LeaderEpoch, PartitionKey, TopicId};
use tokio::runtime::Runtime;
use tokio::sync::{mpsc, watch};

use crate::support::cluster::{CONTROLLER_LISTENER, Cluster, FIRST_CONTROLLER};
use crate::support::daemon::{Daemon, SEAT};

const ANSWER_WITHIN: Duration = Duration::from_secs(20);
/// Far above what a short story brings about.
const MOST_CHANGES: i32 = 1_000;
/// "Whatever registration that broker has": the controller does not look then (KIP-903).
const ANY: i64 = -1;

const NOT_CONTROLLER: IsrResult = IsrResult::Refused(41);
const INVALID_REQUEST: IsrResult = IsrResult::Refused(42);
const FENCED_LEADER_EPOCH: IsrResult = IsrResult::Refused(74);
const STALE_BROKER_EPOCH: IsrResult = IsrResult::Refused(77);
const INVALID_UPDATE_VERSION: IsrResult = IsrResult::Refused(95);
const INELIGIBLE_REPLICA: IsrResult = IsrResult::Refused(107);

/// Three controllers, and a partition that the daemon leads, with brokers 1 and 2 in sync.
pub fn a_controller_refuses(destination: &Cluster, daemon: &Daemon, topic: &str) -> Result<()> {
    let found = destination.any_judge()?.topic(topic)?;
    let before = found.partitions[&0].clone();
    ensure!(before.leader == SEAT && before.in_sync == [1, 2, SEAT], "{before:?}");
    let key = PartitionKey { topic: TopicId(found.id), partition: 0 };
    let epoch = before.leader_epoch;
    let mut ours = Asking::start(destination, key, registered_epoch(daemon)?)?;
    // The first that is asked is not the active one; the next is found by that answer.
    let without_leader = [(1, ANY)];
    let answer = ours.ask(epoch, 0, &without_leader)?;
    ensure!(answer == NOT_CONTROLLER, "another controller: {answer}");
    let now = ours.partition_epoch(epoch)?;
    let all = [(SEAT, ANY), (1, ANY), (2, ANY)];
    let wrong = [
        (INVALID_UPDATE_VERSION, ours.ask(epoch, now - 1, &all)?),
        (NOT_CONTROLLER, ours.ask(epoch, now + 1, &all)?),
        (NOT_CONTROLLER, ours.ask(epoch + 1, now, &all)?),
        (FENCED_LEADER_EPOCH, ours.ask(epoch - 1, now, &all)?),
        (INVALID_REQUEST, ours.ask(epoch, now, &without_leader)?),
        // A broker that was started anew since, as another registration shows.
        (INELIGIBLE_REPLICA, ours.ask(epoch, now, &[(SEAT, ANY), (1, ANY), (2, 1)])?),
    ];
    for (number, (expected, answer)) in wrong.into_iter().enumerate() {
        ensure!(answer == expected, "number {number}: {answer}, not {expected}");
    }
    let mut older = Asking::start(destination, key, BrokerEpoch(1))?;
    let _elsewhere = older.ask(epoch, now, &all)?;
    let answer = older.ask(epoch, now, &all)?;
    ensure!(answer == STALE_BROKER_EPOCH, "an old registration of ours: {answer}");
    let after = destination.any_judge()?.partition(topic, 0)?;
    ensure!(after == before && ours.partition_epoch(epoch)? == now, "{before:?}: {after:?}");
    Ok(())
}

/// As its log tells.
fn registered_epoch(daemon: &Daemon) -> Result<BrokerEpoch> {
    let log = daemon.log_text()?;
    let told = log.lines().rev().find_map(|line| line.split_once("broker_epoch="));
    let told = told.context("no registration in the log")?.1;
    let number: String = told.chars().take_while(char::is_ascii_digit).collect();
    Ok(BrokerEpoch(number.parse()?))
}

/// The task that asks for changes, with requests of our own.
struct Asking {
    runtime: Runtime,
    requests: mpsc::UnboundedSender<Vec<IsrRequest>>,
    outcomes: mpsc::UnboundedReceiver<IsrOutcome>,
    key: PartitionKey,
}

impl Asking {
    fn start(destination: &Cluster, key: PartitionKey, epoch: BrokerEpoch) -> Result<Self> {
        let active = destination.any_judge()?.active_controller()?;
        let mut others = (FIRST_CONTROLLER..FIRST_CONTROLLER + 3).filter(|id| *id != active);
        let other = others.next().context("several controllers")?;
        let endpoint = |id| -> Result<Endpoint> {
            let port = destination.node(id)?.port(CONTROLLER_LISTENER);
            Ok(Endpoint::new("127.0.0.1", port.context("a controller")?))
        };
        let controllers = vec![endpoint(other)?, endpoint(active)?];
        let runtime = tokio::runtime::Builder::new_multi_thread();
        let runtime = { runtime }.worker_threads(1).enable_all().build()?;
        let (requests, received) = mpsc::unbounded_channel();
        let (results, outcomes) = mpsc::unbounded_channel();
        runtime.spawn(
            IsrTask {
                seat: BrokerId(SEAT),
                registration: watch::channel(Some(epoch)).1,
                controller: Controllers::new(controllers, ClientConfig::default()).connection(),
                requests: received,
                outcomes: results,
            }
            .run(),
        );
        Ok(Self { runtime, requests, outcomes, key })
    }

    fn ask(
        &mut self,
        leader_epoch: i32,
        partition_epoch: i32,
        in_sync: &[(i32, i64)],
    ) -> Result<IsrResult> {
        let member = |&(id, epoch): &(i32, i64)| (BrokerId(id), BrokerEpoch(epoch));
        let proposal = IsrProposal {
            leader_epoch: LeaderEpoch(leader_epoch),
            partition_epoch,
            in_sync: in_sync.iter().map(member).collect(),
        };
        self.requests.send(vec![IsrRequest { key: self.key, proposal }])?;
        let answer = self
            .runtime
            .block_on(async { tokio::time::timeout(ANSWER_WITHIN, self.outcomes.recv()).await });
        Ok(answer?.context("the task ended")?.result)
    }

    /// Not told to clients: the one that is neither too old nor too new. What is asked for has no
    /// leader in it and is never done.
    fn partition_epoch(&mut self, leader_epoch: i32) -> Result<i32> {
        for guess in 0..MOST_CHANGES {
            match self.ask(leader_epoch, guess, &[(1, ANY)])? {
                INVALID_UPDATE_VERSION => {}
                INVALID_REQUEST => return Ok(guess),
                other => bail!("{other} at partition epoch {guess}"),
            }
        }
        bail!("more than {MOST_CHANGES} changes")
    }
}
