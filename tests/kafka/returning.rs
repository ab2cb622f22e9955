//! The seat comes back: at once under its old incarnation after a crash, as a new one after everything
//! else, and also where it was the only in-sync replica.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::support::cluster::FIRST_CONTROLLER;
use crate::support::cluster::ports::free_ports;
use crate::support::daemon::{DaemonSpec, SEAT};
use crate::support::pair::{DEADLINE, Flow, Pair, TOPIC};
use crate::support::workspace::Workspace;
use crate::support::{ClusterSpec, eventually, scenario};

/// `broker.session.timeout.ms` of the destination: longer than a return may take that does not wait
/// for the old session.
const SESSION: Duration = Duration::from_secs(9);

#[test]
fn a_seat_with_a_state_dir_returns_as_it_may() {
    scenario("returning", |workspace| {
        let mut seat = Seat::start(workspace)?;
        seat.crash()?;
        seat.clean_stop()?;
        seat.changed_port(workspace)?;
        seat.pause_beyond_the_session_and_a_snapshot()?;
        seat.lone_seat()?;
        seat.pair.end().map(drop)
    });
}

struct Seat {
    pair: Pair,
}

impl Seat {
    fn start(workspace: &Workspace) -> Result<Self> {
        let source = ClusterSpec::new("source").start_in(workspace)?;
        let destination = ClusterSpec::new("destination")
            .brokers(2)
            .separate_controllers(1)
            .property("replica.lag.time.max.ms", 10_000)
            // A snapshot each few seconds; once a minute all but the last one go.
            .property("metadata.log.max.record.bytes.between.snapshots", 2_000)
            .property("metadata.max.retention.bytes", 1)
            .start_in(workspace)?;
        let state = workspace.path().join("state");
        let daemon = DaemonSpec::new(&source, &destination, &[TOPIC])
            .line("daemon", &format!("state_dir = \"{}\"", state.display()))
            .line("link.topics", "replication_factor = 2")
            .prepare_in(env!("CARGO_BIN_EXE_lockstep"), workspace)?;
        let flow = Flow { partitions: 1, batches_a_second: 10 };
        Ok(Self { pair: Pair::start(source, destination, [daemon], flow)? })
    }

    /// kill -9 and start: leadership and its epoch stay, the old session is not waited for.
    fn crash(&mut self) -> Result<()> {
        let before = self.pair.partition(0)?;
        self.pair.daemon()?.kill()?;
        let killed = Instant::now();
        self.pair.daemon()?.start_again()?;
        self.pair.wait_passed()?;
        let after = self.pair.partition(0)?;
        ensure!(after.leader == SEAT && after.leader_epoch == before.leader_epoch, "{after:?}");
        ensure!(killed.elapsed() < SESSION, "it took {:?}", killed.elapsed());
        ensure!(self.taken_on()? == [false, true], "{:?}", self.taken_on()?);
        Ok(())
    }

    /// SIGSTOP until a real broker leads and the metadata log begins after all that the seat has
    /// read of it; SIGCONT.
    fn pause_beyond_the_session_and_a_snapshot(&mut self) -> Result<()> {
        let known = self.snapshots_read()?;
        self.pair.daemon()?.pause()?;
        self.pair.wait_partitions(DEADLINE, "another leader", |now| {
            now.leader != SEAT && now.leader >= 0
        })?;
        let end = self.pair.destination.any_judge()?.metadata_end()?;
        eventually(DEADLINE, format!("a metadata log that begins after {end}"), || {
            let start = self.metadata_start()?;
            ensure!(start > end, "it begins at {start}");
            Ok(())
        })?;
        self.pair.daemon()?.resume()?;
        self.pair.wait_led_by(SEAT)?;
        self.pair.wait_passed()?;
        ensure!(self.snapshots_read()? == known + 1, "no snapshot was needed");
        Ok(())
    }

    /// The end of the oldest snapshot that the controller has kept.
    fn metadata_start(&self) -> Result<i64> {
        let log =
            self.pair.destination.node(FIRST_CONTROLLER)?.log_dir.join("__cluster_metadata-0");
        let mut least = None;
        for entry in std::fs::read_dir(log)? {
            let name = entry?.file_name().to_string_lossy().into_owned();
            let snapshot = name.strip_suffix(".checkpoint").and_then(|name| name.split_once('-'));
            if let Some((end, _)) = snapshot {
                let end: i64 = end.parse()?;
                least = Some(least.map_or(end, |least: i64| least.min(end)));
            }
        }
        least.context("no snapshot")
    }

    fn snapshots_read(&mut self) -> Result<usize> {
        Ok(self.pair.daemon()?.log_text()?.matches("metadata snapshot read").count())
    }

    /// The incarnation that was stopped in good order is never used again.
    fn clean_stop(&mut self) -> Result<()> {
        let code = self.pair.daemon()?.stop()?;
        ensure!(code == 0, "the stopped daemon ended with code {code}");
        self.pair.daemon()?.start_again()?;
        self.pair.wait_led_by(SEAT)?;
        self.pair.wait_passed()?;
        ensure!(self.taken_on()? == [false, true, false], "{:?}", self.taken_on()?);
        Ok(())
    }

    /// Followers would go on asking at the old address under the old incarnation.
    fn changed_port(&mut self, workspace: &Workspace) -> Result<()> {
        self.pair.daemon()?.kill()?;
        let config = self.pair.daemon()?.config().to_owned();
        let text = std::fs::read_to_string(&config)?;
        let port = free_ports(1)?[0];
        let old = text
            .lines()
            .find_map(|line| line.strip_prefix("advertise = \""))
            .and_then(|line| line.trim_end_matches('"').rsplit_once(':'))
            .with_context(|| format!("no advertised port in {text}"))?
            .1
            .to_owned();
        std::fs::write(&config, text.replace(&old, &port.to_string()))?;
        ensure!(workspace.path().join("state/incarnation.json").exists());
        self.pair.daemon()?.start_again()?;
        self.pair.wait_led_by(SEAT)?;
        self.pair.wait_passed()?;
        ensure!(self.taken_on()? == [false, true, false, false], "{:?}", self.taken_on()?);
        Ok(())
    }

    /// Both real brokers die, one after the other, then the daemon: the seat is the only in-sync
    /// replica, and nobody is left who knows the high watermark.
    fn lone_seat(&mut self) -> Result<()> {
        self.pair.destination.kill(2)?;
        self.pair.wait_in_sync(&[1])?;
        self.pair.destination.kill(1)?;
        eventually(DEADLINE, "the alarm", || {
            let mirror = self.pair.daemon()?.mirror(TOPIC)?.to_string();
            ensure!(mirror.contains("REPLICAS_OUT_OF_SYNC"), "{mirror}");
            Ok(())
        })?;
        self.pair.daemon()?.kill()?;
        self.pair.destination.start_again(1)?;
        self.pair.destination.start_again(2)?;
        eventually(DEADLINE, "a partition without a leader", || {
            let found = self.pair.partition(0)?;
            // With eligible leader replicas the last one leaves the in-sync replicas too (KIP-966).
            let is_alone = found.in_sync.iter().all(|id| *id == SEAT);
            ensure!(found.leader < 0 && is_alone, "{found:?}");
            Ok(())
        })?;
        let known = self.snapshots_read()?;
        self.pair.daemon()?.start_again()?;
        self.pair.wait_led_by(SEAT)?;
        // The metadata log has no beginning any more.
        ensure!(self.snapshots_read()? == known + 1, "no snapshot was needed");
        self.pair.wait_in_sync(&[1, 2])?;
        self.pair.wait_passed()?;
        ensure!(self.pair.daemon()?.log_text()?.contains("HIGH_WATERMARK_ASSUMED"));
        Ok(())
    }

    /// Whether each start took an incarnation on.
    fn taken_on(&mut self) -> Result<Vec<bool>> {
        let text = self.pair.daemon()?.log_text()?;
        let lines = text.lines().filter(|line| line.contains("is_taken_on="));
        Ok(lines.map(|line| line.contains("is_taken_on=true")).collect())
    }
}
