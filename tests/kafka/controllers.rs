//! The destination's controllers under the seat: the active one killed, the quorum lost, the
//! `metadata.version` raised within what we know and beyond it, brokers restarted one by one.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::isr_refusals::a_controller_refuses;
use crate::support::cluster::Cluster;
use crate::support::compare::wait_identical;
use crate::support::daemon::{Daemon, DaemonSpec, SEAT};
use crate::support::java::Produce;
use crate::support::judge::NewTopic;
use crate::support::workspace::Workspace;
use crate::support::{ClusterSpec, eventually, scenario};

const DEADLINE: Duration = Duration::from_secs(90);
/// `broker.session.timeout.ms`, and a little more.
const SESSION: Duration = Duration::from_secs(12);
const TOPIC: &str = "orders";
const METADATA_VERSION: &str = "metadata.version";
/// Of 4.1, and what the destination runs.
const BEFORE_CORDONS: &str = "4.1-IV1";
const WITH_CORDONS: i16 = 30;
/// 4.3.1 knows it when it is allowed to use what is not stable yet; we do not.
const BEYOND: i16 = 31;

#[test]
fn controllers_fail_and_versions_rise_under_the_seat() {
    scenario("controllers", |workspace| {
        let source = ClusterSpec::new("source").heap_mb(384).start_in(workspace)?;
        let mut destination = ClusterSpec::new("destination")
            .brokers(2)
            .separate_controllers(3)
            .heap_mb(320)
            .release_version(BEFORE_CORDONS)
            .property("unstable.feature.versions.enable", true)
            .property("unstable.api.versions.enable", true)
            .start_in(workspace)?;
        source.create_topic(&NewTopic::new(TOPIC, 2))?;
        let mut daemon = start(&source, &destination, workspace)?;
        pass(&source, &destination)?;
        the_active_controller_is_killed(&source, &mut destination)?;
        the_active_controller_hangs(&source, &mut destination, &daemon)?;
        the_quorum_is_lost_for_a_while(&source, &mut destination, &mut daemon)?;
        let registrations = daemon.log_text()?.matches(" registered broker_id").count();
        ensure!(registrations == 1, "{registrations} registrations");
        a_controller_refuses(&destination, &daemon, TOPIC)?;
        cordons_come_with_the_version(&source, &destination, &daemon)?;
        a_version_beyond_ours_waits_until_the_seat_has_left(&destination, &mut daemon)
    });
}

#[test]
fn a_rolling_restart_of_brokers_goes_on_beside_the_seat() {
    scenario("rolling-restart", |workspace| {
        let source = ClusterSpec::new("source").heap_mb(384).start_in(workspace)?;
        let mut destination = ClusterSpec::new("destination")
            .brokers(3)
            .separate_controllers(1)
            .heap_mb(384)
            .start_in(workspace)?;
        source.create_topic(&NewTopic::new(TOPIC, 2))?;
        destination.create_topic(&NewTopic::new("own", 6))?;
        let without = rolling_restart(&mut destination)?;
        let daemon = start(&source, &destination, workspace)?;
        let load = Produce::to(&source.bootstrap(), TOPIC).count(0).option("rate", 50);
        let load = load.start(source.dist())?;
        wait_led(&destination)?;
        let with = rolling_restart(&mut destination)?;
        load.stop()?.success()?;
        let ratio = with.as_secs_f64() / without.as_secs_f64();
        println!("rolling restart: {without:?} without the seat, {with:?} with it: {ratio:.2}");
        wait_identical(&source, &destination, TOPIC, TOPIC, DEADLINE)?;
        wait_led(&destination).with_context(|| format!("see {}", daemon.config().display()))
    });
}

fn start(source: &Cluster, destination: &Cluster, workspace: &Workspace) -> Result<Daemon> {
    let mut daemon = DaemonSpec::new(source, destination, &[TOPIC, "late"])
        .start_in(env!("CARGO_BIN_EXE_lockstep"), workspace)?;
    daemon.wait_ready()?;
    Ok(daemon)
}

/// Time of the stops, which wait for the controller, and of the starts.
fn rolling_restart(destination: &mut Cluster) -> Result<Duration> {
    let began = Instant::now();
    for broker in destination.broker_ids() {
        destination.stop(broker)?;
        destination.start_again(broker)?;
        destination.wait_ready()?;
        eventually(DEADLINE, format!("everything in sync after {broker}"), || {
            for topic in [TOPIC, "own"] {
                let Ok(found) = destination.any_judge()?.topic(topic) else { continue };
                for (index, found) in found.partitions {
                    let real = found.in_sync.iter().filter(|id| **id != SEAT).count();
                    ensure!(real == 3, "{topic}-{index}: {found:?}");
                }
            }
            Ok(())
        })?;
    }
    Ok(began.elapsed())
}

/// Records come through.
fn pass(source: &Cluster, destination: &Cluster) -> Result<()> {
    Produce::to(&source.bootstrap(), TOPIC).count(100).run(source.dist())?;
    wait_identical(source, destination, TOPIC, TOPIC, DEADLINE)
}

fn wait_led(destination: &Cluster) -> Result<()> {
    eventually(DEADLINE, "the seat to lead", || {
        for (index, found) in destination.any_judge()?.topic(TOPIC)?.partitions {
            ensure!(found.leader == SEAT, "{TOPIC}-{index}: {found:?}");
        }
        Ok(())
    })
}

fn the_active_controller_is_killed(source: &Cluster, destination: &mut Cluster) -> Result<()> {
    let active = destination.any_judge()?.active_controller()?;
    destination.kill(active)?;
    pass(source, destination)?;
    // A change of the metadata log passes: there is another one.
    eventually(DEADLINE, "another active controller", || {
        let now = destination.any_judge()?.active_controller()?;
        ensure!(now > 0 && now != active, "{now} is active");
        destination.any_judge()?.alter_config(2, TOPIC, "flush.ms", None)
    })?;
    destination.start_again(active)?;
    wait_led(destination)
}

/// Its connections stay and carry nothing: the seat finds the next one before its session is over.
fn the_active_controller_hangs(
    source: &Cluster,
    destination: &mut Cluster,
    daemon: &Daemon,
) -> Result<()> {
    let before = destination.any_judge()?.partition(TOPIC, 0)?;
    let active = destination.any_judge()?.active_controller()?;
    destination.pause(active)?;
    let hung = Instant::now();
    pass(source, destination)?;
    eventually(DEADLINE, "the seat heard by another controller", || {
        let seat = daemon.json("/v1/seat")?;
        ensure!(hung.elapsed() > SESSION && seat["ready"] == true, "{seat}");
        Ok(())
    })?;
    let after = destination.any_judge()?.partition(TOPIC, 0)?;
    ensure!(after.leader == SEAT && after.leader_epoch == before.leader_epoch, "{after:?}");
    destination.resume(active)?;
    pass(source, destination)
}

fn the_quorum_is_lost_for_a_while(
    source: &Cluster,
    destination: &mut Cluster,
    daemon: &mut Daemon,
) -> Result<()> {
    let before = daemon.log_text()?.lines().count();
    let active = destination.any_judge()?.active_controller()?;
    let other =
        [101, 102, 103].into_iter().find(|id| *id != active).context("three controllers")?;
    destination.kill(active)?;
    destination.kill(other)?;
    eventually(DEADLINE, "the seat to say that no controller answers", || {
        let seat = daemon.json("/v1/seat")?;
        ensure!(seat["ready"] == false, "{seat}");
        Ok(())
    })?;
    // Followers go on fetching: nobody has to be asked for that.
    pass(source, destination)?;
    destination.start_again(active)?;
    destination.start_again(other)?;
    daemon.wait_ready()?;
    wait_led(destination)?;
    pass(source, destination)?;
    let lines = daemon.log_text()?.lines().count() - before;
    ensure!(lines < 100, "{lines} lines in the log");
    Ok(())
}

fn cordons_come_with_the_version(
    source: &Cluster,
    destination: &Cluster,
    daemon: &Daemon,
) -> Result<()> {
    ensure!(daemon.json("/v1/seat")?["cordoned"] == false, "cordoned below 30");
    destination.any_judge()?.upgrade_feature(METADATA_VERSION, WITH_CORDONS)?;
    eventually(DEADLINE, "the cordon", || {
        let seat = daemon.json("/v1/seat")?;
        ensure!(seat["cordoned"] == true, "{seat}");
        Ok(())
    })?;
    let mut judge = destination.any_judge()?;
    for number in 0..20 {
        judge.create_topic(&NewTopic::new(&format!("own-{number}"), 1))?;
    }
    let found = judge.metadata(None)?.topics.into_iter().filter(|topic| {
        let is_own = topic.name.as_ref().is_some_and(|name| name.0.starts_with("own-"));
        let mut replicas = topic.partitions.iter().flat_map(|p| &p.replica_nodes);
        is_own && replicas.any(|id| id.0 == SEAT)
    });
    let placed = found.count();
    ensure!(placed == 0, "{placed} topics were placed on the cordoned seat");
    // Followers ask in the newer version at once, on what they follow and on what is new.
    pass(source, destination)?;
    source.create_topic(&NewTopic::new("late", 1))?;
    Produce::to(&source.bootstrap(), "late").count(20).run(source.dist())?;
    eventually(DEADLINE, "a mirror made at the new version", || {
        destination.any_judge()?.topic("late").map(drop)
    })?;
    wait_identical(source, destination, "late", "late", DEADLINE)
}

fn a_version_beyond_ours_waits_until_the_seat_has_left(
    destination: &Cluster,
    daemon: &mut Daemon,
) -> Result<()> {
    let upgrade = || destination.any_judge()?.upgrade_feature(METADATA_VERSION, BEYOND);
    let refused = || -> Result<String> {
        let error = upgrade().err().context("the upgrade was not refused")?;
        Ok(format!("{error:#}"))
    };
    let text = refused()?;
    println!("an upgrade beyond ours: {text}");
    ensure!(text.contains(&SEAT.to_string()), "{text}");
    ensure!(daemon.stop()? == 0, "{}", daemon.log_text()?);
    let text = refused()?;
    ensure!(text.contains(&SEAT.to_string()), "of a stopped seat: {text}");
    leave(daemon.config())?;
    eventually(DEADLINE, "the upgrade without the seat", upgrade)?;
    daemon.start_again()?;
    ensure!(daemon.wait(DEADLINE)? == 1, "{}", daemon.log_text()?);
    let log = daemon.log_text()?;
    ensure!(log.contains("destination has metadata.version 31"), "{log}");
    Ok(())
}

fn leave(config: &Path) -> Result<()> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lockstep"));
    let output = command.args(["seat", "leave", "--config"]).arg(config).output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}
