//! Under load: the daemon stopped, started, killed and started again, and destination brokers
//! restarted. Nothing is lost, nothing falls back, nothing foreign is ever seen.

use anyhow::{Result, ensure};

use crate::support::daemon::DaemonSpec;
use crate::support::pair::{Flow, Pair, TOPIC};
use crate::support::workspace::Workspace;
use crate::support::{ClusterSpec, scenario};

#[test]
fn a_daemon_comes_back_under_load_without_a_gap() {
    scenario("daemon-restarts", |workspace| {
        let mut pair = start(workspace)?;
        let code = pair.daemon()?.stop()?;
        ensure!(code == 0, "the stopped daemon ended with code {code}");
        pair.wait_waiting()?;
        pair.daemon()?.start_again()?;
        pair.wait_passed()?;
        pair.daemon()?.kill()?;
        pair.wait_waiting()?;
        pair.daemon()?.start_again()?;
        pair.wait_passed()?;
        pair.end().map(drop)
    });
}

#[test]
fn a_destination_broker_returns_to_the_in_sync_replicas_under_load() {
    scenario("broker-restarts", |workspace| {
        let mut pair = start(workspace)?;
        pair.destination.stop(2)?;
        pair.wait_in_sync(&[1, 3])?;
        pair.wait_passed()?;
        pair.destination.start_again(2)?;
        pair.wait_in_sync(&[1, 2, 3])?;
        pair.destination.kill(3)?;
        pair.wait_in_sync(&[1, 2])?;
        pair.wait_passed()?;
        pair.destination.start_again(3)?;
        pair.wait_in_sync(&[1, 2, 3])?;
        pair.wait_passed()?;
        pair.end().map(drop)
    });
}

fn start(workspace: &Workspace) -> Result<Pair> {
    let source = ClusterSpec::new("source").start_in(workspace)?;
    let destination = ClusterSpec::new("destination").brokers(3).start_in(workspace)?;
    let daemon = DaemonSpec::new(&source, &destination, &[TOPIC])
        .prepare_in(env!("CARGO_BIN_EXE_lockstep"), workspace)?;
    Pair::start(source, destination, [daemon], Flow { partitions: 2, batches_a_second: 20 })
}
