//! What happens to the world in one run: load, and faults drawn from the seed. At the end all of them
//! have healed.

use std::time::Duration;

use lockstep::mirror::report::{ClusterReport, PartitionReport, PartitionState};
use lockstep::mirror::topic::MirrorState;
use tokio::time::Instant;

use super::controller::Key;
use super::run::Daemon;
use super::source::TOPIC;
use super::world::{Party, Shared, World};

/// How long faults are played.
const PLAYED: Duration = Duration::from_secs(40);

/// Kinds of things that can happen.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Fault {
    Trim,
    Compact,
    SourceElection,
    SourceOutage,
    UncleanElection,
    Recreation,
    DaemonCrash,
    DaemonStop,
    BrokerCrash,
    BrokerDeaf,
    Cut,
    ControllerOutage,
    Rebalance,
    SlowNetwork,
}

const ALL: [Fault; 14] = [
    Fault::Trim,
    Fault::Compact,
    Fault::SourceElection,
    Fault::SourceOutage,
    Fault::UncleanElection,
    Fault::Recreation,
    Fault::DaemonCrash,
    Fault::DaemonStop,
    Fault::BrokerCrash,
    Fault::BrokerDeaf,
    Fault::Cut,
    Fault::ControllerOutage,
    Fault::Rebalance,
    Fault::SlowNetwork,
];

/// Something that ends by itself.
enum Heals {
    Source,
    Controller,
    Broker(i32),
    Line(Party),
}

/// Plays the seed's faults; returns the daemon that runs at the end.
pub async fn play(world: &Shared, mut daemon: Daemon) -> Daemon {
    let (kinds, calm) = choose(&mut world.lock());
    let end = Instant::now() + PLAYED;
    let mut healing: Vec<(Instant, Heals)> = Vec::new();
    let mut next = Instant::now() + Duration::from_millis(world.lock().chance.below(4_000));
    while Instant::now() < end {
        let pause = 20 + world.lock().chance.below(200);
        tokio::time::sleep(Duration::from_millis(pause)).await;
        load(&mut world.lock());
        let now = Instant::now();
        healing.retain(|(at, heals)| {
            let is_due = *at <= now;
            if is_due {
                heal(&mut world.lock(), heals);
            }
            !is_due
        });
        if now < next {
            continue;
        }
        next = now + Duration::from_millis(world.lock().chance.below(calm));
        let fault = world.lock().chance.pick(&kinds);
        match fault {
            None => {}
            Some(Fault::DaemonCrash) => {
                daemon.crash(world).await;
                let down = world.lock().chance.below(12_000);
                tokio::time::sleep(Duration::from_millis(down)).await;
                daemon = Daemon::start(world);
            }
            Some(Fault::DaemonStop) => {
                daemon.stop(world).await;
                let down = world.lock().chance.below(5_000);
                tokio::time::sleep(Duration::from_millis(down)).await;
                daemon = Daemon::start(world);
            }
            Some(fault) => {
                let lasts = world.lock().chance.below(15_000);
                let heals = strike(&mut world.lock(), fault);
                healing.extend(heals.map(|heals| (now + Duration::from_millis(lasts), heals)));
            }
        }
    }
    let mut world = world.lock();
    for (_, heals) in healing {
        heal(&mut world, &heals);
    }
    world.delay = world.delay.min(20);
    world.say("all faults have healed");
    drop(world);
    daemon
}

/// Which kinds the seed has, and the longest time between two of them, in milliseconds.
fn choose(world: &mut World) -> (Vec<Fault>, u64) {
    let only = std::env::var("LOCKSTEP_SIM_FAULTS").ok();
    let kinds: Vec<_> = match &only {
        Some(names) => ALL.iter().copied().filter(|f| names.contains(&format!("{f:?}"))).collect(),
        None => ALL.iter().copied().filter(|_| world.chance.one_in(3)).collect(),
    };
    let calm = world.chance.pick(&[1_000, 4_000, 12_000]).unwrap();
    let (delay, shown) = (world.delay, format!("{kinds:?}"));
    world.say(format!("faults {shown}, each {calm} ms at most, delays up to {delay} ms"));
    (kinds, calm)
}

fn load(world: &mut World) {
    let World { source, chance, .. } = world;
    for partition in 0..source.partitions.len() {
        if chance.one_in(2) {
            for _ in 0..1 + chance.below(3) {
                source.append(partition, chance);
            }
        }
    }
}

/// The mirror's partition, once there is one.
fn key(world: &World, partition: i32) -> Option<Key> {
    world.controller.topics.get(TOPIC).map(|&topic| (topic, partition))
}

/// Cleans a batch at the source.
fn compact(world: &mut World, at: usize) -> String {
    let World { source, chance, brokers, .. } = world;
    let cleaned = source.compact(at, chance);
    // Without a journal a copy whose end was compacted away looks, after an election there, like one of
    // a lost lineage (decision 23).
    let is_end = |end| cleaned.as_ref().is_some_and(|batch| batch.end == end);
    let replicas = brokers.values().flat_map(|broker| &broker.replicas);
    let mut ends = replicas.filter(|(key, _)| key.1 == at as i32).map(|(_, r)| r.log.end);
    world.needs_a_person |= source.partitions[at].leader_epoch > 0 && ends.any(is_end);
    format!("batch {cleaned:?}")
}

fn strike(world: &mut World, fault: Fault) -> Option<Heals> {
    let partitions = world.source.partitions.len();
    let at = world.chance.below(partitions as u64) as usize;
    let broker = 1 + world.chance.below(world.brokers.len() as u64) as i32;
    let committed = key(world, at as i32).map_or(0, |key| world.check.committed(key));
    let World { source, chance, controller, brokers, .. } = world;
    let (text, heals) = match fault {
        Fault::Trim => {
            let text = source.trim(at, chance);
            // Retention overtook the copy: stopping is the policy.
            world.needs_a_person |= source.partitions[at].log.start > committed;
            (text, None)
        }
        Fault::Compact => (compact(world, at), None),
        Fault::SourceElection => (source.elect(at), None),
        Fault::SourceOutage => {
            source.is_up = false;
            (String::new(), Some(Heals::Source))
        }
        Fault::UncleanElection => {
            world.needs_a_person = true;
            (source.elect_uncleanly(at, chance), None)
        }
        Fault::Recreation => {
            world.needs_a_person = true;
            source.recreate(partitions as i32);
            for partition in 0..partitions {
                for _ in 0..chance.below(60) {
                    source.append(partition, chance);
                }
            }
            (String::new(), None)
        }
        Fault::BrokerCrash => {
            let broker = brokers.get_mut(&broker)?;
            broker.crash();
            (format!("broker {}", broker.id), Some(Heals::Broker(broker.id)))
        }
        Fault::BrokerDeaf => {
            let broker = brokers.get_mut(&broker)?;
            broker.deaf_until = Instant::now() + Duration::from_millis(chance.below(5_000));
            (format!("broker {}", broker.id), None)
        }
        Fault::Cut => {
            let parties =
                [Party::Controller, Party::Source(1), Party::Source(2), Party::Broker(broker)];
            let party = chance.pick(&parties)?;
            world.cut.insert(party);
            (format!("{party:?}"), Some(Heals::Line(party)))
        }
        Fault::ControllerOutage => {
            controller.is_up = false;
            (String::new(), Some(Heals::Controller))
        }
        Fault::Rebalance => {
            let key = key(world, at as i32)?;
            let result = world.controller.elect_other(key, broker);
            (format!("{result:?}"), None)
        }
        Fault::SlowNetwork => {
            world.delay = chance.pick(&[0, 5, 40, 300])?;
            (format!("{} ms", world.delay), None)
        }
        Fault::DaemonCrash | Fault::DaemonStop => (String::new(), None),
    };
    world.say(format!("FAULT {fault:?} {text}"));
    world.check();
    heals
}

fn heal(world: &mut World, heals: &Heals) {
    let text = match heals {
        Heals::Source => {
            world.source.is_up = true;
            "source".to_owned()
        }
        Heals::Controller => {
            // Sessions begin anew with a new active controller.
            for known in world.controller.brokers.values_mut() {
                known.heard_at = Instant::now();
            }
            world.controller.is_up = true;
            "controller".to_owned()
        }
        Heals::Broker(id) => {
            if let Some(broker) = world.brokers.get_mut(id) {
                broker.is_up = true;
                broker.epoch = -1;
            }
            format!("broker {id}")
        }
        Heals::Line(party) => {
            world.cut.remove(party);
            format!("line to {party:?}")
        }
    };
    world.say(format!("healed: {text}"));
}

/// Whether the daemon says that a person has to decide about this partition, or its whole topic.
pub fn says_so(report: &ClusterReport, partition: i32) -> bool {
    let mut topics = report.links.iter().flat_map(|link| &link.topics);
    topics.any(|topic| {
        let failed = |report: &PartitionReport| {
            report.partition == partition && report.state == PartitionState::Failed
        };
        topic.state == MirrorState::Failed || topic.partitions.iter().any(failed)
    })
}
