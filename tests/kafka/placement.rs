//! Where nothing can be cordoned (before `metadata.version` 30) the controller places everybody's
//! topics on the seat: they have to work all the same, and the seat gets rid of them.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::support::cluster::Cluster;
use crate::support::compare::wait_identical;
use crate::support::daemon::{Daemon, DaemonSpec, SEAT};
use crate::support::java::{Consume, Outcome, Produce, stock_tool};
use crate::support::judge::NewTopic;
use crate::support::judge::admin::Partition;
use crate::support::workspace::Workspace;
use crate::support::{ClusterSpec, eventually, scenario};

const DEADLINE: Duration = Duration::from_secs(60);
const OTHER: i32 = SEAT + 1;
const MIRROR: &str = "orders";
/// The destination's release: one below 4.3.
const VERSION: &str = "LOCKSTEP_PLACEMENT_VERSION";
/// Resource type of groups in configuration requests.
const GROUP: i8 = 32;
const INTERNAL: [&str; 2] = ["__consumer_offsets", "__transaction_state"];

#[test]
fn topics_of_others_find_no_place_on_the_seat_before_cordons() {
    let version = std::env::var(VERSION).unwrap_or_else(|_| "3.9.1".to_owned());
    scenario("placement", |workspace| story(&version, workspace));
}

/// The last release without cordons has them (KIP-932), and their state lies in one more internal
/// topic.
#[test]
fn share_groups_of_others_work_beside_the_seat() {
    scenario("share-groups", |workspace| share_groups("4.2.0", workspace));
}

fn share_groups(version: &str, workspace: &Workspace) -> Result<()> {
    let source = ClusterSpec::new("source").start_in(workspace)?;
    let destination = ClusterSpec::new("destination").version(version).brokers(2);
    let destination = destination.start_in(workspace)?;
    source.create_topic(&NewTopic::new(MIRROR, 2))?;
    let mut daemon = DaemonSpec::new(&source, &destination, &[MIRROR])
        .start_in(env!("CARGO_BIN_EXE_lockstep"), workspace)?;
    daemon.wait_ready()?;
    wait_mirror(&destination, "the seat to lead", |now| now.leader == SEAT)?;
    let (dist, to) = (destination.dist(), destination.bootstrap());
    let topics = ["own-0", "own-1", "own-2", "own-3"];
    for topic in topics {
        destination.any_judge()?.create_topic(&NewTopic::new(topic, 2))?;
    }
    let reset = "share.auto.offset.reset";
    destination.any_judge()?.alter_config(GROUP, "shared", reset, Some("earliest"))?;
    Produce::to(&to, topics[0]).count(40).run(dist)?;
    let consumer = "org.apache.kafka.tools.consumer.ConsoleShareConsumer";
    let group = ["--bootstrap-server", &to, "--topic", topics[0], "--group", "shared"];
    let limits = ["--max-messages", "40", "--timeout-ms", "30000"];
    let read = stock_tool(dist, consumer, &[&group[..], &limits[..]].concat(), DEADLINE)?;
    let read = read.success()?;
    ensure!(read.stderr.contains("Processed a total of 40 messages"), "{read:?}");
    for (partition, found) in destination.any_judge()?.topic("__share_group_state")?.partitions {
        ensure!(found.in_sync == [1, 2] && found.replicas.len() == 2, "{partition}: {found:?}");
    }
    eventually(DEADLINE, "no strays on the seat", || {
        for topic in topics {
            for (partition, found) in destination.any_judge()?.topic(topic)?.partitions {
                ensure!(!found.replicas.contains(&SEAT), "{topic}-{partition}: {found:?}");
            }
        }
        Ok(())
    })?;
    let log = daemon.log_text()?;
    let moved = log.lines().find(|line| line.contains("moving") && line.contains("__share"));
    ensure!(moved.is_none(), "the state of share groups was on the seat: {moved:?}");
    Produce::to(&source.bootstrap(), MIRROR).count(50).run(source.dist())?;
    wait_identical(&source, &destination, MIRROR, MIRROR, DEADLINE)
}

/// The whole story on one release.
fn story(version: &str, workspace: &Workspace) -> Result<()> {
    let source = ClusterSpec::new("source").start_in(workspace)?;
    let destination = ClusterSpec::new("destination").version(version).brokers(3);
    let destination = destination.start_in(workspace)?;
    source.create_topic(&NewTopic::new(MIRROR, 2))?;
    let mut daemon = DaemonSpec::new(&source, &destination, &[MIRROR])
        .start_in(env!("CARGO_BIN_EXE_lockstep"), workspace)?;
    daemon.wait_ready()?;
    internal_topics_were_made_first(&destination)?;
    new_topics_work_and_leave_the_seat(&destination, &daemon)?;
    Produce::to(&source.bootstrap(), MIRROR).count(100).run(source.dist())?;
    wait_identical(&source, &destination, MIRROR, MIRROR, DEADLINE)?;

    daemon.kill()?;
    let placed = create_many(&destination, "while-away")?;
    ensure!(placed > 0, "nothing was placed on a dead seat: nothing is shown by this");
    daemon.start_again()?;
    daemon.wait_ready()?;
    wait_no_strays(&destination)?;
    wait_identical(&source, &destination, MIRROR, MIRROR, DEADLINE)?;

    a_stopped_seat_leaves_and_comes_back(&source, &destination, &mut daemon)?;
    let mut other = DaemonSpec::new(&source, &destination, &[MIRROR])
        .name("other")
        .broker_id(OTHER)
        .start_in(env!("CARGO_BIN_EXE_lockstep"), workspace)?;
    two_seats_share_and_one_leaves(&source, &destination, &mut daemon, &mut other)?;
    a_running_seat_leaves_for_good(&destination, &mut other)
}

/// Strays come to both; what the leaving one led the other leads at once.
fn two_seats_share_and_one_leaves(
    source: &Cluster,
    destination: &Cluster,
    leaving: &mut Daemon,
    staying: &mut Daemon,
) -> Result<()> {
    staying.wait_ready()?;
    wait_mirror(destination, "each seat leading its share", |now| {
        let seats = &now.replicas[..2];
        seats.contains(&SEAT)
            && seats.contains(&OTHER)
            && now.leader == seats[0]
            && now.in_sync.len() == 5
    })?;
    let leaders = destination.any_judge()?.topic(MIRROR)?.partitions;
    let led = leaders.values().filter(|now| now.leader == OTHER).count();
    ensure!(led == 1, "of two partitions it leads {led}: {leaders:?}");
    ensure!(create_many(destination, "two-seats")? > 0, "nothing was placed on two seats");
    wait_no_strays(destination)?;
    lockstep(&["seat", "leave", "--url", &leaving.url()], None)?.success()?;
    ensure!(leaving.wait(DEADLINE)? == 0, "{}", leaving.log_text()?);
    // The owner takes out of the mirrors whom it sees unregistered.
    wait_mirror(destination, "one seat leading alone", |now| {
        now.leader == OTHER && now.replicas.len() == 4 && now.in_sync == [1, 2, 3, OTHER]
    })?;
    Produce::to(&source.bootstrap(), MIRROR).count(50).run(source.dist())?;
    wait_identical(source, destination, MIRROR, MIRROR, DEADLINE)?;
    ensure!(create_many(destination, "one-seat")? > 0, "nothing was placed on the seat that stays");
    wait_no_strays(destination)
}

fn wait_mirror(
    destination: &Cluster,
    what: &str,
    is_wanted: impl Fn(&Partition) -> bool,
) -> Result<()> {
    eventually(DEADLINE, what, || {
        for (number, now) in destination.any_judge()?.topic(MIRROR)?.partitions {
            ensure!(is_wanted(&now), "{MIRROR}-{number}: {now:?}");
        }
        Ok(())
    })
}

fn a_stopped_seat_leaves_and_comes_back(
    source: &Cluster,
    destination: &Cluster,
    daemon: &mut Daemon,
) -> Result<()> {
    let alive = lockstep(&["seat", "leave", "--config"], Some(daemon.config()))?;
    ensure!(alive.code == 4 && alive.stderr.contains("is alive"), "{alive:?}");
    // Placed on until its session ends; once it is fenced, real brokers are enough.
    daemon.kill()?;
    ensure!(create_many(destination, "stopped")? > 0, "nothing was placed on a dead seat");
    lockstep(&["seat", "leave", "--config"], Some(daemon.config()))?.success()?;
    wait_no_strays(destination)?;
    ensure!(create_many(destination, "left")? == 0, "placed on a seat that has left");
    let replicas = destination.any_judge()?.partition(MIRROR, 0)?.replicas;
    ensure!(replicas.first() == Some(&SEAT), "the mirror's replicas went: {replicas:?}");

    Produce::to(&source.bootstrap(), MIRROR).count(50).run(source.dist())?;
    daemon.start_again()?;
    daemon.wait_ready()?;
    wait_identical(source, destination, MIRROR, MIRROR, DEADLINE)?;
    eventually(DEADLINE, "the seat to lead again", || {
        let leader = destination.leader(MIRROR, 0)?;
        ensure!(leader == SEAT, "{leader} leads");
        Ok(())
    })
}

fn a_running_seat_leaves_for_good(destination: &Cluster, daemon: &mut Daemon) -> Result<()> {
    let url = daemon.url();
    // One partition's leadership was seen by a broker; the seat may still begin with the other.
    eventually(DEADLINE, "the status with both partitions", || {
        let status = lockstep(&["seat", "status", "--url", &url], None)?.success()?;
        ensure!(status.stdout.contains("partitions led   2"), "{}", status.stdout);
        Ok(())
    })?;
    let left = lockstep(&["seat", "leave", "--leave-mirrors", "--url", &url], None)?.success()?;
    ensure!(left.stderr.trim_end().ends_with("left"), "{left:?}");
    ensure!(daemon.wait(DEADLINE)? == 0, "{}", daemon.log_text()?);
    for (partition, found) in destination.any_judge()?.topic(MIRROR)?.partitions {
        let is_off = found.replicas.len() == 3 && found.in_sync == [1, 2, 3];
        ensure!(is_off, "{MIRROR}-{partition}: {found:?}");
    }
    ensure!(create_many(destination, "gone")? == 0, "placed on a seat that is gone");
    wait_no_strays(destination)
}

fn lockstep(arguments: &[&str], file: Option<&Path>) -> Result<Outcome> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lockstep"));
    let output = command.args(arguments).args(file).output()?;
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    let code = output.status.code().context("killed")?;
    Ok(Outcome { code, stdout: text(output.stdout), stderr: text(output.stderr) })
}

fn internal_topics_were_made_first(destination: &Cluster) -> Result<()> {
    for topic in INTERNAL {
        // Brokers hear of it a moment after the seat does.
        eventually(DEADLINE, format!("{topic} without the seat"), || {
            for (partition, found) in destination.any_judge()?.topic(topic)?.partitions {
                ensure!(!found.replicas.contains(&SEAT), "{topic}-{partition}: {found:?}");
            }
            Ok(())
        })?;
    }
    Ok(())
}

fn new_topics_work_and_leave_the_seat(destination: &Cluster, daemon: &Daemon) -> Result<()> {
    create_many(destination, "own")?;
    let (dist, to) = (destination.dist(), destination.bootstrap());
    // First use of groups and transactions, on topics that the seat may have had a part in.
    let produced =
        Produce::to(&to, "own-0").count(20).option("transactions", "commit").run(dist)?;
    ensure!(produced.iter().all(|one| one.offset.is_some()), "{produced:?}");
    for topic in ["own-single", "own-pair"] {
        let produced = Produce::to(&to, topic).count(20).run(dist)?;
        ensure!(produced.iter().all(|one| one.offset.is_some()), "{topic}: {produced:?}");
    }
    let consume = Consume::from(&to, &["own-0", "own-single"]).option("group", "first");
    let read = consume.option("isolation", "read_committed").run(dist)?;
    ensure!(read.len() == 40, "{} of 40 records", read.len());
    wait_no_strays(destination)?;
    let moved = daemon.metric("lockstep_seat_strays_moved_total", &[])?;
    ensure!(moved >= 10.0, "{moved} strays were moved");
    eventually(DEADLINE, "the report without strays", || {
        let seat = daemon.json("/v1/seat")?;
        ensure!(seat["strays"].as_array().is_some_and(Vec::is_empty), "{seat}");
        ensure!(seat["partitions_led"] == 2 && seat["cordoned"] == false, "{seat}");
        Ok(())
    })?;
    let log = daemon.log_text()?;
    let text = "moving a stray: a replica of a topic that is no mirror was placed on our seat";
    ensure!(log.contains(text), "no stray was told of");
    Ok(())
}

/// Fifty topics of three replicas, and some of one and of two; how many partitions the seat was given
/// a part in, as the first look finds it.
fn create_many(destination: &Cluster, name: &str) -> Result<usize> {
    let mut judge = destination.any_judge()?;
    for number in 0..50 {
        judge.create_topic(&NewTopic::new(&format!("{name}-{number}"), 1))?;
    }
    // What only a dead seat has a replica of nobody can hand over.
    if name != "stopped" {
        judge.create_topic(&NewTopic::new(&format!("{name}-single"), 8).replicas(1))?;
    }
    judge.create_topic(&NewTopic::new(&format!("{name}-pair"), 8).replicas(2))?;
    let found = judge.metadata(None)?.topics;
    let others =
        found.iter().filter(|topic| topic.name.as_ref().is_some_and(|n| n.0.starts_with(name)));
    let partitions = others.flat_map(|topic| &topic.partitions);
    Ok(partitions.filter(|p| p.replica_nodes.iter().any(|id| id.0 >= SEAT)).count())
}

/// Waits until the seat holds mirrors only and everything has the replicas that it asked for.
fn wait_no_strays(destination: &Cluster) -> Result<()> {
    eventually(DEADLINE, "no strays on the seat", || {
        let found = destination.any_judge()?.metadata(None)?.topics;
        for topic in found {
            let name = topic.name.context("a name")?.0;
            let wanted = match name.as_str() {
                MIRROR => continue,
                single if single.ends_with("-single") => 1,
                pair if pair.ends_with("-pair") => 2,
                _ => 3,
            };
            for partition in topic.partitions {
                let (id, replicas) = (partition.partition_index, &partition.replica_nodes);
                let is_right = replicas.iter().all(|id| id.0 < SEAT)
                    && replicas.len() == wanted
                    && partition.isr_nodes.len() == wanted;
                ensure!(is_right, "{name}-{id}: {partition:?}");
            }
        }
        Ok(())
    })
}
