//! Schedules that are written down, step by step: bugs that seeds have found. A seed says something else as
//! soon as the code changes; a story says the same.

use std::time::Duration;

use tokio::time::Instant;

use super::controller::PartitionState;
use super::processes;
use super::run;
use super::source::TOPIC;
use super::world::{SEAT, Shared, World};

/// What a step waits for comes within this time, or the story is no story.
const PATIENCE: Duration = Duration::from_secs(60);

/// One step.
#[derive(Clone, Copy)]
enum Step {
    /// So many batches at the source.
    Append(usize),
    /// Something that comes by itself.
    Until(&'static str, fn(&World) -> bool),
    Wait(Duration),
    Crash(i32),
    Start(i32),
    /// Another in-sync replica leads.
    Elect(i32),
}
use Step::{Append, Crash, Elect, Start, Until, Wait};

/// The partition, as the controller has it.
fn partition(world: &World) -> Option<&PartitionState> {
    let topic = *world.controller.topics.get(TOPIC)?;
    world.controller.partitions.get(&(topic, 0))
}

fn in_sync(world: &World, members: &[i32]) -> bool {
    partition(world).is_some_and(|state| {
        state.in_sync.len() == members.len() && members.iter().all(|id| state.in_sync.contains(id))
    })
}

fn is_led_by(world: &World, broker: i32) -> bool {
    partition(world).is_some_and(|state| state.leader == broker)
}

/// End and high watermark of each broker's log.
fn logs(world: &World) -> Vec<(i64, i64)> {
    let replicas = world.brokers.values().filter_map(|broker| broker.replicas.values().next());
    replicas.map(|replica| (replica.log.end, replica.log.high_watermark)).collect()
}

fn is_copied(world: &World) -> bool {
    let end = world.source.partitions[0].log.end;
    logs(world).len() == 3 && logs(world).iter().all(|&log| log == (end, end))
}

/// Brokers that live have all of the source, committed.
fn is_copied_by_the_living(world: &World) -> bool {
    let end = world.source.partitions[0].log.end;
    let living = world.brokers.values().filter(|broker| broker.is_up);
    let mut replicas = living.flat_map(|broker| broker.replicas.values());
    replicas.all(|replica| replica.log.high_watermark == end)
}

const STORIES: [(&str, &[Step]); 1] = [("committed", &COMMITTED)];

/// Seed 191: the seat has told more to be committed than the replica has that comes back first.
const COMMITTED: [Step; 16] = [
    Append(5),
    Until("all is copied", is_copied),
    Crash(1),
    Crash(2),
    Until("one replica is left", |world| in_sync(world, &[SEAT, 3])),
    Append(5),
    Until("what one has is committed", is_copied_by_the_living),
    Elect(3),
    Crash(3),
    Until("the seat leads alone", |world| in_sync(world, &[SEAT]) && is_led_by(world, SEAT)),
    Start(1),
    // Whoever is believed now takes the high watermark back: the checker sees it.
    Wait(Duration::from_secs(15)),
    Start(3),
    Wait(Duration::from_secs(5)),
    Until("the replica with all is back", |world| in_sync(world, &[SEAT, 3, 1])),
    Start(2),
];

/// Plays a story; a violation ends the process.
pub async fn play(name: &str) {
    let (_, steps) = STORIES.iter().find(|(of, _)| *of == name).unwrap();
    let (world, daemon) = run::begin(1).await;
    world.lock().delay = 2;
    for step in *steps {
        take(&world, *step).await;
    }
    for broker in 1..=3 {
        start(&mut world.lock(), broker);
    }
    run::settle(&world, &daemon).await;
}

async fn take(world: &Shared, step: Step) {
    match step {
        Append(batches) => {
            let mut world = world.lock();
            let World { source, chance, .. } = &mut *world;
            (0..batches).for_each(|_| source.append(0, chance));
        }
        Until(what, holds) => until(world, what, holds).await,
        Wait(time) => tokio::time::sleep(time).await,
        Crash(broker) => {
            let mut world = world.lock();
            world.say(format!("broker {broker} crashes"));
            world.brokers.get_mut(&broker).unwrap().crash();
        }
        Start(broker) => start(&mut world.lock(), broker),
        Elect(broker) => {
            let mut world = world.lock();
            let topic = world.controller.topics[TOPIC];
            let done = world.controller.elect_other((topic, 0), broker);
            world.say(format!("broker {broker} is elected: {done:?}"));
            done.unwrap();
        }
    }
}

async fn until(world: &Shared, what: &str, holds: fn(&World) -> bool) {
    let began = Instant::now();
    while !holds(&world.lock()) {
        if began.elapsed() > PATIENCE {
            let mut world = world.lock();
            let found = format!("{:?} {:?}", partition(&world), logs(&world));
            world.fail("story", format!("waits in vain: {what}; {found}"));
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    world.lock().say(what);
}

fn start(world: &mut World, broker: i32) {
    if let Some(broker) = world.brokers.get_mut(&broker).filter(|broker| !broker.is_up) {
        broker.is_up = true;
        broker.epoch = -1;
        let text = format!("broker {} starts", broker.id);
        world.say(text);
    }
}

fn holds(name: &str) {
    let played = processes::play(1, &[("LOCKSTEP_SIM_STORY", name)]);
    assert!(played.is_good, "{}", played.output);
}

#[test]
fn a_lone_seat_does_not_go_back_behind_what_was_committed() {
    holds("committed");
}
