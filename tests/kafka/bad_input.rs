//! Bad input: sources that talk nonsense, damaged batches, wrong addresses, a seat that is taken,
//! and files with mistakes. Each is named, and nothing that was copied is lost.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::support::cluster::Cluster;
use crate::support::compare::{open_leader, wait_identical};
use crate::support::daemon::{Daemon, DaemonSpec, SEAT};
use crate::support::judge::produce::plain_batch;
use crate::support::judge::{Batch, NewTopic};
use crate::support::workspace::Workspace;
use crate::support::{ClusterSpec, eventually, scenario};

const DEADLINE: Duration = Duration::from_secs(60);
const BINARY: &str = env!("CARGO_BIN_EXE_lockstep");
/// Batches of one record in each partition.
const BATCHES: i64 = 20;

#[test]
fn a_file_with_an_unknown_key_is_refused_and_the_nearest_key_named() {
    scenario("unknown-key", |workspace| {
        let config = workspace.path().join("lockstep.toml");
        let text = include_str!("../../config/lockstep.toml");
        let misspelt = text.replacen("broker_id", "brokerid", 1);
        ensure!(misspelt != text, "the example has no broker_id");
        std::fs::write(&config, misspelt)?;
        for words in [["check", "--offline"].as_slice(), ["run"].as_slice()] {
            let output = Command::new(BINARY).args(words).arg("--config").arg(&config).output()?;
            let errors = String::from_utf8_lossy(&output.stderr);
            ensure!(output.status.code() == Some(2), "{words:?}: {output:?}");
            let named =
                ["daemon.brokerid", "did you mean `broker_id`"].iter().all(|w| errors.contains(w));
            ensure!(named, "{words:?}: {errors}");
        }
        Ok(())
    });
}

#[test]
fn what_is_wrong_is_named_and_nothing_copied_is_lost() {
    scenario("bad-input", |workspace| {
        let mut source = ClusterSpec::new("source").without_retention().start_in(workspace)?;
        let destination = ClusterSpec::new("destination")
            .brokers(2)
            .listeners(vec!["PLAINTEXT", "EXTERNAL"])
            .start_in(workspace)?;
        mistakes_end_the_daemon_before_it_joins(workspace, &source, &destination)?;
        nonsense_from_the_source_is_outlived(workspace, &source, &destination)?;
        a_damaged_batch_stops_its_partition_only(workspace, &mut source, &destination)?;
        a_second_daemon_waits_for_the_seat(workspace, &source, &destination)
    });
}

fn mistakes_end_the_daemon_before_it_joins(
    workspace: &Workspace,
    source: &Cluster,
    destination: &Cluster,
) -> Result<()> {
    let spec = |name: &str| DaemonSpec::new(source, destination, &["orders"]).name(name);
    let ours = source.address(1)?;
    let both = format!("{},{ours}", destination.bootstrap());
    let taken = destination.address(2)?;
    let cases = [
        (
            // A source elsewhere: the same server on both sides is a mistake of its own.
            spec("wrong-cluster").source("127.0.0.1:1").destination(&both),
            vec![ours.as_str(), source.cluster_id(), destination.cluster_id()],
        ),
        (spec("taken").broker_id(2), vec!["broker id 2 belongs", "127.0.0.1:"]),
        (
            spec("listener").listeners(&["PLAINTEXT"]),
            vec!["EXTERNAL", "destination.listeners.EXTERNAL"],
        ),
    ];
    for (spec, words) in cases {
        let mut daemon = spec.start_in(BINARY, workspace)?;
        let code = daemon.wait(DEADLINE)?;
        let log = daemon.log_text()?;
        ensure!(code == 2, "ended with {code}: {log}");
        for word in words {
            ensure!(log.contains(word), "{word} is not named: {log}");
        }
        let registered = destination.any_judge()?.registered_brokers()?;
        let wanted = destination.broker_ids();
        ensure!(registered.keys().copied().eq(wanted), "{registered:?} registered: {log}");
        ensure!(registered.get(&2) == Some(&taken), "broker 2 moved: {registered:?}");
    }
    Ok(())
}

fn nonsense_from_the_source_is_outlived(
    workspace: &Workspace,
    source: &Cluster,
    destination: &Cluster,
) -> Result<()> {
    /// Conversations until the memory is looked at, and again until it must be the same.
    const ROUND: usize = 3;
    const SLACK: u64 = 32 << 20;
    let modes = [Nonsense::Noise, Nonsense::Bodies, Nonsense::AbsurdLength, Nonsense::AbsurdArray];
    let servers: Vec<_> = modes.into_iter().map(NonsenseServer::start).collect::<Result<_>>()?;
    let mut daemons = Vec::new();
    for (id, server) in (SEAT + 10..).zip(&servers) {
        let daemon = DaemonSpec::new(source, destination, &["orders"])
            .name(&format!("nonsense-{id}"))
            .broker_id(id)
            .source(&server.address)
            .start_in(BINARY, workspace)?;
        daemons.push(daemon);
    }
    let mut before = Vec::new();
    for (daemon, server) in daemons.iter_mut().zip(&servers) {
        daemon.wait_ready()?;
        server.wait_for(ROUND)?;
        before.push(daemon.resident_bytes()?);
    }
    for ((daemon, server), before) in daemons.iter_mut().zip(&servers).zip(before) {
        server.wait_for(server.count() + ROUND)?;
        let link = daemon.link()?;
        let is_told =
            link["state"] == "SourceUnavailable" && link["reason"] == "SOURCE_UNREACHABLE";
        ensure!(is_told, "{:?}: {link}", server.nonsense);
        let after = daemon.resident_bytes()?;
        ensure!(after < before + SLACK, "{:?}: from {before} to {after} bytes", server.nonsense);
        let (status, body) = daemon.get("/readyz")?;
        ensure!(status == 200, "{:?}: /readyz {status}: {body}", server.nonsense);
    }
    Ok(())
}

fn a_damaged_batch_stops_its_partition_only(
    workspace: &Workspace,
    source: &mut Cluster,
    destination: &Cluster,
) -> Result<()> {
    const DAMAGED: i32 = 1;
    source.create_topic(&NewTopic::new("orders", 3))?;
    for partition in 0..3 {
        append(source, partition, 0..BATCHES)?;
    }
    source.stop(1)?;
    let damaged_offset = damage(source, DAMAGED)?;
    source.start_again(1)?;
    source.wait_ready()?;

    let mut daemon =
        DaemonSpec::new(source, destination, &["orders"]).start_in(BINARY, workspace)?;
    daemon.wait_ready()?;
    wait_failed(&daemon, DAMAGED)?;
    for partition in [0, 2] {
        append(source, partition, BATCHES..2 * BATCHES)?;
    }
    for partition in 0..3 {
        let wanted = if partition == DAMAGED { damaged_offset } else { 2 * BATCHES };
        wait_end(destination, partition, wanted)?;
    }
    let log = daemon.log_text()?;
    let named = log.lines().any(|line| {
        let place = format!("partition={DAMAGED}");
        let offset = format!("offset {damaged_offset}");
        let offset_field = format!("offset={damaged_offset}");
        line.contains(&place) && (line.contains(&offset) || line.contains(&offset_field))
    });
    ensure!(named, "offset {damaged_offset} of orders-{DAMAGED} is not named: {log}");
    starts_like_the_source(source, destination, DAMAGED)?;

    // Back at the source, a restart later: the same answer, the same copy.
    daemon.kill()?;
    daemon.start_again()?;
    daemon.wait_ready()?;
    wait_failed(&daemon, DAMAGED)?;
    starts_like_the_source(source, destination, DAMAGED)?;
    daemon.stop()?;
    Ok(())
}

fn append(source: &Cluster, partition: i32, numbers: std::ops::Range<i64>) -> Result<()> {
    let mut judge = source.judge(1)?;
    for number in numbers {
        let value = format!("value {number}");
        let batch = plain_batch(&[value.as_bytes()], 1_700_000_000_000 + number);
        let answer = judge.produce("orders", partition, -1, batch)?;
        ensure!(answer.error_code == 0, "append to orders-{partition}: {}", answer.error_code);
    }
    Ok(())
}

/// Flips a bit of the last byte of a batch in the middle of the log file; the batch's offset.
fn damage(source: &Cluster, partition: i32) -> Result<i64> {
    let directory = source.node(1)?.log_dir.join(format!("orders-{partition}"));
    let file: PathBuf = directory.join(format!("{:020}.log", 0));
    let mut bytes = std::fs::read(&file).with_context(|| format!("read {}", file.display()))?;
    let mut rest = bytes::Bytes::copy_from_slice(&bytes);
    while let Some(batch) = Batch::take(&mut rest)? {
        if batch.base_offset() == BATCHES / 2 {
            let last = bytes.len() - rest.len() - 1;
            bytes[last - 1] ^= 0x40;
            std::fs::write(&file, &bytes)?;
            return Ok(batch.base_offset());
        }
    }
    anyhow::bail!("no batch {} in {}", BATCHES / 2, file.display())
}

fn wait_failed(daemon: &Daemon, damaged: i32) -> Result<()> {
    eventually(DEADLINE, "the damaged partition to fail, and no other", || {
        let mirror = daemon.mirror("orders")?;
        for (partition, found) in (0..).zip(mirror["partitions"].as_array().context("partitions")?)
        {
            let (state, reason) = (&found["state"], &found["reason"]);
            if partition == damaged {
                ensure!(state == "Failed" && reason == "CORRUPT_BATCH", "{mirror:#}");
            } else {
                ensure!(state == "InSync" && *reason == Value::Null, "{mirror:#}");
            }
        }
        Ok(())
    })
}

/// Waits until every copy ends there, as consumers see it.
fn wait_end(destination: &Cluster, partition: i32, wanted: i64) -> Result<()> {
    for broker in destination.broker_ids() {
        eventually(DEADLINE, format!("orders-{partition} up to {wanted} on {broker}"), || {
            let found = destination.judge(broker)?.bounds("orders", partition)?;
            ensure!(found.high_watermark == wanted, "{found:?}");
            Ok(())
        })?;
    }
    Ok(())
}

fn starts_like_the_source(source: &Cluster, destination: &Cluster, partition: i32) -> Result<()> {
    let wanted = open_leader(source, "orders", partition)?.rest()?;
    for broker in destination.broker_ids() {
        let judge = destination.judge(broker)?;
        let found = crate::support::judge::LogReader::open(judge, "orders", partition)?.rest()?;
        ensure!(i64::try_from(found.len())? == BATCHES / 2, "{} batches", found.len());
        let mut pairs = wanted.iter().zip(&found);
        ensure!(pairs.all(|(ours, theirs)| ours.same_but_for_epoch(theirs)), "{found:?}");
    }
    Ok(())
}

fn a_second_daemon_waits_for_the_seat(
    workspace: &Workspace,
    source: &Cluster,
    destination: &Cluster,
) -> Result<()> {
    source.create_topic(&NewTopic::new("seats", 1))?;
    let mut first = DaemonSpec::new(source, destination, &["seats"])
        .name("first")
        .start_in(BINARY, workspace)?;
    first.wait_ready()?;
    let seat = |judge: &Cluster| -> Result<String> {
        let registered = judge.any_judge()?.registered_brokers()?;
        registered.get(&SEAT).cloned().context("the seat is not registered")
    };
    let address = seat(destination)?;
    let mut second = DaemonSpec::new(source, destination, &["seats"])
        .name("second")
        .start_in(BINARY, workspace)?;
    eventually(DEADLINE, "the second daemon to say what it waits for", || {
        let log = second.log_text()?;
        let told = log.contains("broker id has a live session") && log.contains("another daemon");
        ensure!(told, "{log}");
        Ok(())
    })?;
    let (status, why) = second.get("/readyz")?;
    ensure!(status == 503, "the second daemon is ready: {why}");
    ensure!(first.get("/readyz")?.0 == 200 && seat(destination)? == address, "the seat moved");
    let first_log = first.log_text()?;
    ensure!(!first_log.contains("registration lost"), "{first_log}");
    wait_identical(source, destination, "seats", "seats", DEADLINE)?;

    // When the first is gone the second has the seat.
    first.kill()?;
    second.wait_ready()?;
    ensure!(seat(destination)? != address, "the seat is still at {address}");
    second.stop()?;
    Ok(())
}

/// What a source talks instead of Kafka's protocol.
#[derive(Clone, Copy, Debug)]
enum Nonsense {
    /// Bytes that are no frame.
    Noise,
    /// Frames that answer the request, with a body of noise.
    Bodies,
    /// The beginning of a frame of 2 GiB.
    AbsurdLength,
    /// An answer to ApiVersions with an array of two billion, then no answer at all.
    AbsurdArray,
}

struct NonsenseServer {
    nonsense: Nonsense,
    address: String,
    conversations: Arc<AtomicUsize>,
}

impl NonsenseServer {
    /// Serves until the test ends.
    fn start(nonsense: Nonsense) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?.to_string();
        let conversations = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&conversations);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                // The other side may close at any time; that is its right.
                let _closed = talk(nonsense, stream);
                counter.fetch_add(1, Ordering::Relaxed);
            }
        });
        Ok(Self { nonsense, address, conversations })
    }

    fn count(&self) -> usize {
        self.conversations.load(Ordering::Relaxed)
    }

    fn wait_for(&self, count: usize) -> Result<()> {
        eventually(DEADLINE, format!("{count} conversations of {:?}", self.nonsense), || {
            ensure!(self.count() >= count, "{}", self.count());
            Ok(())
        })
    }
}

/// Answers one request, then closes.
fn talk(nonsense: Nonsense, mut stream: TcpStream) -> Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    let mut start = [0; 12];
    stream.read_exact(&mut start)?;
    let correlation_id = &start[8..];
    let noise: Vec<u8> = (0..16).flat_map(|_| uuid::Uuid::new_v4().into_bytes()).collect();
    let frame = |body: &[u8]| -> Result<Vec<u8>> {
        let length = u32::try_from(correlation_id.len() + body.len())?;
        Ok([&length.to_be_bytes(), correlation_id, body].concat())
    };
    let answer = match nonsense {
        Nonsense::Noise => noise,
        Nonsense::Bodies => frame(&noise)?,
        Nonsense::AbsurdLength => [&[0x7f, 0xff, 0xff, 0xff], noise.as_slice()].concat(),
        // Error code 0, then the length of a compact array as a varint.
        Nonsense::AbsurdArray => frame(&[0, 0, 0xff, 0xff, 0xff, 0xff, 0x07, 0, 0, 0, 0])?,
    };
    stream.write_all(&answer)?;
    Ok(())
}
