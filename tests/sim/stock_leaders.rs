//! Stock brokers that follow stock leaders, by Kafka's own rules; no daemon is in between.

use std::time::Duration;

use kafka_protocol::messages::fetch_response::PartitionData;
use tokio::time::Instant;

use super::append::{append, truncate_by_epoch};
use super::broker::{BACKOFF, Role};
use super::controller::Key;
use super::log::{OUT_OF_RANGE, Read};
use super::world::{SEAT, Shared, World};

/// Follows stock leaders for ever: what the leader has comes over, as Kafka does it.
pub async fn run(world: Shared, broker: i32) {
    loop {
        let pause = {
            let mut world = world.lock();
            10 + world.chance.below(150)
        };
        tokio::time::sleep(Duration::from_millis(pause)).await;
        let mut world = world.lock();
        let keys: Vec<_> = world.brokers[&broker].replicas.keys().copied().collect();
        for key in keys {
            fetch_from_stock_leader(&mut world, broker, key);
        }
        world.check();
    }
}

fn fetch_from_stock_leader(world: &mut World, id: i32, key: Key) {
    let Some(mut broker) = world.brokers.remove(&id) else { return };
    let (is_up, broker_epoch) = (broker.is_up, broker.epoch);
    if let Some(replica) = broker.replicas.get_mut(&key)
        && let Role::Follows(follows) = &mut replica.role
        && follows.leader != SEAT
        && is_up
        && follows.failed.is_none()
        && Instant::now() >= follows.delayed_until
        && let Some(leader) = world.brokers.get_mut(&follows.leader).filter(|leader| leader.is_up)
    {
        let log = &mut replica.log;
        if follows.must_truncate {
            let committed = log.high_watermark;
            log.truncate_to(committed);
            follows.offset = committed;
            follows.must_truncate = false;
        }
        let fetch = (follows.offset, follows.last_epoch.unwrap_or(-1), follows.epoch);
        let answer = leader.fetched_by(&mut world.controller, key, (id, broker_epoch), fetch);
        let text = match (answer.error, answer.read) {
            (0, Some(Read::Diverging(epoch, end))) => {
                Some(truncate_by_epoch(log, follows, epoch, end))
            }
            (0, Some(Read::Batches(entries))) => {
                let data = PartitionData::default()
                    .with_high_watermark(answer.high_watermark)
                    .with_log_start_offset(answer.log_start);
                append(log, follows, &entries, &data).err().inspect(|why| {
                    follows.failed = Some(why.clone());
                })
            }
            (OUT_OF_RANGE, _) => {
                let other = &leader.replicas[&key].log;
                if other.end < log.end {
                    log.truncate_to(other.end);
                } else if other.start > log.end {
                    log.truncate_fully(other.start);
                }
                follows.offset = log.end;
                follows.last_epoch = log.latest_epoch();
                Some(format!("out of range at the stock leader: {}..{}", log.start, log.end))
            }
            _ => {
                follows.delayed_until = Instant::now() + BACKOFF;
                None
            }
        };
        if let Some(text) = text {
            world.say(format!("broker {id} partition {} at its stock leader: {text}", key.1));
        }
    }
    world.brokers.insert(id, broker);
}
