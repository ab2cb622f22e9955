//! Listeners where everybody proves who he is, over time: sessions end unless they are renewed
//! (KIP-368), rights are given and withdrawn, and brokers replicate from the seat with no more than the
//! right to.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use kafka_protocol::messages::{
    AllocateProducerIdsRequest, AlterPartitionRequest, BeginQuorumEpochRequest,
    BrokerHeartbeatRequest, BrokerRegistrationRequest, EnvelopeRequest, FetchSnapshotRequest,
    VoteRequest,
};
use kafka_protocol::protocol::Request;

use super::gateway::asks::{end_of_replica, offset_of};
use crate::support::cluster::Cluster;
use crate::support::compare::wait_identical;
use crate::support::daemon::{Daemon, DaemonSpec};
use crate::support::java::{Background, Consume, Outcome, Produce, sorted};
use crate::support::judge::produce::plain_batch;
use crate::support::judge::{Judge, NewTopic};
use crate::support::sasl::{self, LISTENERS, Right, add_scram_user, give, login, withdraw};
use crate::support::{ClusterSpec, eventually, scenario};

const DEADLINE: Duration = Duration::from_secs(90);
const TOPIC: &str = "orders";
const RECORDS: usize = 60;
/// How long the sessions of SCRAM-SHA-512 last; the consumer lives for several.
const SHORT: Duration = Duration::from_secs(3);
/// How long the sessions of PLAIN last, also those of brokers.
const LONG: Duration = Duration::from_secs(7);
/// The broker's word holds so long at the seat.
const HOLDS: Duration = Duration::from_secs(5);
/// For what is measured from outside, on a busy machine.
const SLACK: Duration = Duration::from_millis(1500);
const CLUSTER_AUTHORIZATION: &str = "may not do ClusterAction";
const METRICS: &str = "successful-reauthentication-total,failed-reauthentication-total,\
                       failed-authentication-total,connection-close-total";

#[test]
fn sessions_and_rights_end_at_the_seat_as_at_a_broker() {
    scenario("proofs", |workspace| {
        let source = ClusterSpec::new("source").start_in(workspace)?;
        let destination = destination().start_in(workspace)?;
        let rights = [
            Right::cluster_action("broker"),
            Right::read("reader", TOPIC),
            Right::groups("reader"),
            Right::read("salty", TOPIC),
            Right::groups("salty"),
        ];
        give(&mut destination.any_judge()?, &rights)?;
        add_scram_user(&mut destination.any_judge()?, "salty")?;
        source.create_topic(&NewTopic::new(TOPIC, 1))?;
        let load = Produce::to(&source.bootstrap(), TOPIC).count(RECORDS as u64);
        load.option("flush", 7).run(source.dist())?;
        let daemon = DaemonSpec::new(&source, &destination, &[TOPIC]);
        let mut daemon = daemon.start_in(env!("CARGO_BIN_EXE_lockstep"), workspace)?;
        daemon.wait_ready()?;
        // By brokers that are no super users.
        wait_identical(&source, &destination, TOPIC, TOPIC, DEADLINE)?;
        let stage = Stage { source, destination, daemon };
        let (member, born) = (stage.start_member()?, Instant::now());
        stage.a_wrong_password_fails_as_at_a_broker()?;
        stage.what_brokers_and_controllers_ask_each_other_is_refused()?;
        stage.a_session_ends_unless_it_is_renewed()?;
        stage.a_withdrawn_right_is_gone_soon()?;
        stage.a_member_outlives_its_sessions(member, born)?;
        stage.a_broker_without_the_right_gets_nothing()?;
        stage.followers_were_never_cut_off()
    });
}

fn destination() -> ClusterSpec {
    let listener = "listener.name.sasl_plaintext";
    let scram = "org.apache.kafka.common.security.scram.ScramLoginModule required;";
    sasl::destination(&["reader", "stranger"])
        .property("sasl.enabled.mechanisms", "PLAIN,SCRAM-SHA-256,SCRAM-SHA-512")
        .property(&format!("{listener}.scram-sha-256.sasl.jaas.config"), scram)
        .property(&format!("{listener}.scram-sha-512.sasl.jaas.config"), scram)
        .property(&format!("{listener}.plain.connections.max.reauth.ms"), LONG.as_millis())
        .property(&format!("{listener}.scram-sha-512.connections.max.reauth.ms"), SHORT.as_millis())
}

struct Stage {
    source: Cluster,
    destination: Cluster,
    daemon: Daemon,
}

impl Stage {
    fn seat(&self) -> &str {
        &self.daemon.seat_addresses()[1]
    }

    fn real(&self) -> Result<String> {
        let port = self.destination.node(1)?.port(LISTENERS[1]).context("a SASL listener")?;
        Ok(format!("127.0.0.1:{port}"))
    }

    fn proven(&self, user: &str) -> Result<Judge> {
        Judge::connect(self.seat())?.authenticate(user, user)
    }

    /// In a group, by SCRAM-SHA-512; it comes back to the seat each second.
    fn start_member(&self) -> Result<Background> {
        let member = Consume::from(self.seat(), &[TOPIC])
            .option("group", "through-the-seat")
            .option("until", "stopped")
            .option("metrics", METRICS)
            .option("consumer.metadata.max.age.ms", 1000);
        login(member, "SCRAM-SHA-512", "salty", "salt").start(self.destination.dist())
    }

    /// By SCRAM and by PLAIN; meanwhile the right one reads everything by SCRAM-SHA-256.
    fn a_wrong_password_fails_as_at_a_broker(&self) -> Result<()> {
        let dist = self.destination.dist();
        let read = |address: &str, password: &str| {
            let read = Consume::from(address, &[TOPIC])
                .option("group", "in-passing")
                .option("count", RECORDS);
            login(read, "SCRAM-SHA-256", "salty", password).start(dist)
        };
        let right = read(self.seat(), "salt")?;
        let wrong = [read(self.seat(), "pepper")?, read(&self.real()?, "pepper")?];
        let mut raw = Vec::new();
        for address in [self.seat(), &self.real()?] {
            let answer = Judge::connect(address)?.prove("reader", "guessed")?;
            raw.push((answer.error_code, answer.error_message));
        }
        ensure!(raw[0] == raw[1] && raw[0].0 == 58, "{raw:?}");
        let mut words = Vec::new();
        for wrong in wrong {
            let outcome = wrong.wait(DEADLINE)?;
            ensure!(outcome.code != 0 && outcome.stdout.is_empty(), "{outcome:?}");
            words.push(complaint(&outcome).with_context(|| format!("{outcome:?}"))?);
        }
        ensure!(words[0] == words[1], "{words:?}");
        let right = right.wait(DEADLINE)?.success()?;
        ensure!(right.stdout.lines().count() == RECORDS, "{right:?}");
        Ok(())
    }

    /// By the broker behind the connection, under the client's own identity.
    fn what_brokers_and_controllers_ask_each_other_is_refused(&self) -> Result<()> {
        let seen = [self.seat().to_owned(), self.real()?].map(|address| {
            [
                refusal(&address, &VoteRequest::default()),
                refusal(&address, &BeginQuorumEpochRequest::default()),
                refusal(&address, &FetchSnapshotRequest::default()),
                refusal(&address, &AlterPartitionRequest::default()),
                refusal(&address, &EnvelopeRequest::default()),
                refusal(&address, &BrokerRegistrationRequest::default()),
                refusal(&address, &BrokerHeartbeatRequest::default()),
                refusal(&address, &AllocateProducerIdsRequest::default()),
            ]
        });
        println!("{:?}", seen[0]);
        ensure!(seen[0] == seen[1], "{seen:?}");
        Ok(())
    }

    /// Three clients with a session each: one does nothing about it, one renews it, and one tries to go
    /// on as somebody else.
    fn a_session_ends_unless_it_is_renewed(&self) -> Result<()> {
        let mut idle = Judge::connect(self.seat())?;
        let answer = idle.prove("reader", "reader")?;
        let proved = Instant::now();
        ensure!(u128::try_from(answer.session_lifetime_ms)? == LONG.as_millis(), "{answer:?}");
        let mut renewing = self.proven("reader")?;
        let mut has_renewed = false;
        let mut last_answer = proved;
        eventually(LONG + SLACK, "the end of a session", || {
            answered(&mut renewing).context("the one that renews its session")?;
            // A broker begins a session anew at most once a second.
            if !has_renewed && proved.elapsed() > Duration::from_secs(2) {
                has_renewed = true;
                let answer = renewing.prove("reader", "reader")?;
                ensure!(answer.error_code == 0, "renewed: {answer:?}");
            }
            match answered(&mut idle) {
                Ok(()) => last_answer = Instant::now(),
                Err(_closed) => return Ok(()),
            }
            anyhow::bail!("still answered")
        })?;
        let lived = last_answer - proved;
        ensure!(lived > LONG - SLACK && lived < LONG + SLACK / 3, "answered for {lived:?}");
        answered(&mut renewing)?;
        ensure!(proved.elapsed() > LONG, "its first session has not ended yet");

        let mut changing = self.proven("reader")?;
        answered(&mut changing)?;
        let answer = changing.prove("stranger", "stranger")?;
        ensure!(answer.error_code == 58, "a session goes on as another's: {answer:?}");
        let closed = answered(&mut changing);
        ensure!(closed.is_err(), "answered to whom the broker has refused");
        Ok(())
    }

    fn a_withdrawn_right_is_gone_soon(&self) -> Result<()> {
        let mut reader = self.proven("reader")?;
        answered(&mut reader)?;
        withdraw(&mut self.destination.any_judge()?, Right::read("reader", TOPIC))?;
        eventually(HOLDS + SLACK, "the refusal", || {
            let (code, ..) = offset_of(&mut reader, TOPIC, 0, -1, 0)?;
            ensure!(code == 29, "answered with {code}");
            Ok(())
        })
    }

    fn a_member_outlives_its_sessions(&self, member: Background, born: Instant) -> Result<()> {
        let value: &[u8] = b"later";
        let records = plain_batch(&[value; 5], 1_700_000_000_000);
        let produced = self.source.any_judge()?.produce(TOPIC, 0, -1, records)?;
        ensure!(produced.error_code == 0, "{produced:?}");
        eventually(DEADLINE, "a life of several sessions", || {
            let lines = member.lines()?.len();
            ensure!(lines >= RECORDS + 5, "{lines} records: {}", member.complaints()?);
            ensure!(born.elapsed() > SHORT * 5, "young");
            Ok(())
        })?;
        let outcome = member.stop()?.success()?;
        let offsets = sorted(&outcome.stdout);
        let offsets: Vec<_> = offsets.iter().filter_map(|line| line.split(' ').nth(2)).collect();
        let expected: Vec<_> = (0..RECORDS + 5).map(|offset| offset.to_string()).collect();
        ensure!(offsets == expected, "{offsets:?}");
        println!("a member after {:?}: {}", born.elapsed(), outcome.stderr);
        let measured = |name: &str| {
            let start = format!("metric {name} ");
            let value =
                outcome.stderr.lines().find_map(|line| line.strip_prefix(&start)?.parse().ok());
            value.with_context(|| format!("no {name}: {}", outcome.stderr))
        };
        let (renewed, closed): (f64, f64) =
            (measured("successful-reauthentication-total")?, measured("connection-close-total")?);
        // Without renewal each of five sessions would have cost a connection. On a busy machine a broker
        // may be fenced for a moment, which ends what is relayed to it.
        ensure!(renewed >= 5.0 && closed < 3.0, "{}", outcome.stderr);
        ensure!(complaint(&outcome).is_none(), "{}", outcome.stderr);
        Ok(())
    }

    fn a_broker_without_the_right_gets_nothing(&self) -> Result<()> {
        let mut admin = self.destination.any_judge()?;
        let ends = || {
            let end = |id| end_of_replica(&mut self.destination.judge(id)?, TOPIC, 0);
            [1, 2].into_iter().map(end).collect::<Result<Vec<_>>>()
        };
        withdraw(&mut admin, Right::cluster_action("broker"))?;
        let since = Instant::now();
        eventually(HOLDS + SLACK, "a word on the right that is missing", || {
            ensure!(self.daemon.log_text()?.contains(CLUSTER_AUTHORIZATION), "not a word");
            ensure!(since.elapsed() > HOLDS, "the other follower may still be served");
            Ok(())
        })?;
        let before = ends()?;
        let value: &[u8] = b"too late";
        let records = plain_batch(&[value; 5], 1_700_000_000_000);
        self.source.any_judge()?.produce(TOPIC, 0, -1, records)?;
        eventually(DEADLINE, "the seat to have what it may not pass on", || {
            let lag = self.daemon.metric("lockstep_mirror_lag_records", &[])?;
            ensure!(lag >= 5.0, "lag {lag}");
            Ok(())
        })?;
        let after = ends()?;
        ensure!(after == before, "{before:?} {after:?}");
        give(&mut admin, &[Right::cluster_action("broker")])?;
        wait_identical(&self.source, &self.destination, TOPIC, TOPIC, DEADLINE)
    }

    /// Their sessions have ended several times by now.
    fn followers_were_never_cut_off(&self) -> Result<()> {
        let log = self.daemon.log_text()?;
        let cut = log.lines().find(|line| line.contains("replica connection closed"));
        ensure!(cut.is_none(), "{cut:?}");
        Ok(())
    }
}

/// What "reader" hears of a request that is not for clients.
fn refusal<R: Request>(address: &str, request: &R) -> String
where
    R::Response: std::fmt::Debug,
{
    let reader = Judge::connect(address).and_then(|judge| judge.authenticate("reader", "reader"));
    match reader {
        Ok(mut reader) => match reader.ask_at(R::VERSIONS.min, request) {
            Ok(answer) => format!("{answer:?}"),
            Err(_closed) => "closed".to_owned(),
        },
        Err(error) => format!("{error:#}"),
    }
}

/// By the seat itself, with the end of the partition.
fn answered(judge: &mut Judge) -> Result<()> {
    let answer = offset_of(judge, TOPIC, 0, -1, 0)?;
    ensure!(answer.0 == 0 && answer.2 >= 60, "{answer:?}");
    Ok(())
}

fn complaint(outcome: &Outcome) -> Option<String> {
    let mut lines = outcome.stderr.lines();
    lines.find_map(|line| Some(line.split_once("SaslAuthenticationException: ")?.1.to_owned()))
}
