//! Destination brokers stopped and killed under load, and started again. Nothing is lost, nothing falls
//! back, nothing foreign is ever seen. What the daemon goes through is in `returning` and `kill_loop`.

use crate::support::daemon::DaemonSpec;
use crate::support::pair::{Flow, Pair, TOPIC};
use crate::support::{ClusterSpec, scenario};

#[test]
fn a_destination_broker_returns_to_the_in_sync_replicas_under_load() {
    scenario("broker-restarts", |workspace| {
        let source = ClusterSpec::new("source").start_in(workspace)?;
        let destination = ClusterSpec::new("destination").brokers(3).start_in(workspace)?;
        let daemon = DaemonSpec::new(&source, &destination, &[TOPIC])
            .prepare_in(env!("CARGO_BIN_EXE_lockstep"), workspace)?;
        let flow = Flow { partitions: 2, batches_a_second: 20 };
        let mut pair = Pair::start(source, destination, [daemon], flow)?;
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
