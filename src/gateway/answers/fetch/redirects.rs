//! Where the fetches of one connection were sent, and where the next one goes: evenly over the
//! replicas, as a topic's leaders lie, however few or many partitions a client reads.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use tokio::time::Instant;

use crate::gateway::brokers::{Brokers, Reading};
use crate::types::{BrokerId, PartitionKey};

/// A client that comes back sooner than this has not gone where it was sent.
pub const STRAIGHT_BACK: Duration = Duration::from_secs(5);
/// A client asks again for what it has got records of within this, if it has not gone elsewhere.
const READS_ON: Duration = Duration::from_secs(1);
/// Partitions remembered per connection; more than that and the memory starts anew.
const TOLD_MAX: usize = 10_000;

/// Where a connection's fetches were sent, and which of them are relayed.
#[derive(Debug, Default)]
pub struct Redirects {
    told: HashMap<PartitionKey, Told>,
    /// How many of `told` were sent to each broker.
    sent: HashMap<BrokerId, usize>,
    /// Partitions of the last full fetch that was relayed; a fetch session may go on with them.
    pub relayed: BTreeSet<PartitionKey>,
    /// Replicas to which fetches were put that had several to choose from; the latest comes last.
    asked: Vec<BrokerId>,
    /// Partitions that had something to read when they were last asked for over this connection.
    reading: HashMap<PartitionKey, Instant>,
}

#[derive(Debug)]
struct Told {
    last: Instant,
    times: u32,
    at: Option<Reading>,
}

impl Redirects {
    /// Notes that a client is sent away; answers how often in a row it was.
    pub fn tell(&mut self, key: PartitionKey, now: Instant) -> u32 {
        if self.told.len() >= TOLD_MAX && !self.told.contains_key(&key) {
            self.told.clear();
            self.sent.clear();
        }
        let told = self.told.entry(key).or_insert(Told { last: now, times: 0, at: None });
        if now.duration_since(told.last) > STRAIGHT_BACK {
            told.times = 0;
        }
        told.last = now;
        told.times += 1;
        told.times
    }

    /// Notes that a partition is asked for at `now`, and whether there is something to read.
    pub fn reads(&mut self, key: PartitionKey, has_more: bool, now: Instant) {
        if has_more {
            self.reading.insert(key, now);
        } else {
            self.reading.remove(&key);
        }
    }

    /// Whether the client lately got records of others than it asks for at `now`: it has not used them
    /// up yet, and will then ask for more.
    pub fn reads_others(&mut self, now: Instant) -> bool {
        self.reading.retain(|_, at| now.duration_since(*at) < READS_ON);
        self.reading.values().any(|at| *at < now)
    }

    /// The one of `brokers` that a fetch is put to next: the one that has waited longest.
    pub fn turn(&mut self, brokers: &BTreeSet<BrokerId>) -> Option<BrokerId> {
        let waited = |broker: &&BrokerId| self.asked.iter().position(|asked| asked == *broker);
        let next = *brokers.iter().min_by_key(waited)?;
        self.asked.retain(|asked| *asked != next);
        self.asked.push(next);
        Some(next)
    }

    /// The one of `replicas` to which a partition that was [told](Self::tell) is sent: where this
    /// connection reads least, then where all do, then by turns from `first` on. Not again where it
    /// has just come back from, if there is another.
    pub fn send(
        &mut self,
        key: PartitionKey,
        replicas: &[BrokerId],
        brokers: &Brokers,
        first: usize,
    ) -> Option<BrokerId> {
        let told = self.told.get_mut(&key)?;
        let before = told.at.take().map(|reading| reading.broker);
        if let Some(sent) = before.and_then(|before| self.sent.get_mut(&before)) {
            *sent = sent.saturating_sub(1);
        }
        let shunned = before.filter(|_| told.times > 1);
        let turns = (0..replicas.len()).map(|turn| replicas[(first + turn) % replicas.len()]);
        let chosen = turns.min_by_key(|replica| {
            let here = self.sent.get(replica).copied().unwrap_or(0);
            (Some(*replica) == shunned, here, brokers.readers(*replica))
        })?;
        told.at = Some(brokers.reading(chosen));
        *self.sent.entry(chosen).or_default() += 1;
        Some(chosen)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{TopicId, Uuid};

    fn key(partition: i32) -> PartitionKey {
        PartitionKey { topic: TopicId(Uuid::from_u128(7)), partition }
    }

    fn ids<const N: usize>(ids: [i32; N]) -> [BrokerId; N] {
        ids.map(BrokerId)
    }

    #[test]
    fn a_client_reads_others_until_it_asks_for_them_again_or_stays_away() {
        let mut redirects = Redirects::default();
        let start = Instant::now();
        let later = start + Duration::from_millis(20);
        redirects.reads(key(0), false, start);
        redirects.reads(key(1), true, start);
        assert!(!redirects.reads_others(start), "it asks for that one");
        redirects.reads(key(0), false, later);
        assert!(redirects.reads_others(later));
        redirects.reads(key(1), false, later);
        assert!(!redirects.reads_others(later), "it is at the end of both");
        redirects.reads(key(1), true, start);
        assert!(!redirects.reads_others(start + READS_ON), "it reads that one no more");
    }

    /// How often each broker is named to connections that ask for these partitions, each at `now`.
    fn spread(
        connections: &mut [Redirects],
        brokers: &Brokers,
        now: Instant,
        replicas_of: impl Fn(i32) -> Vec<BrokerId>,
        partitions_of: impl Fn(usize) -> Vec<i32>,
    ) -> Vec<usize> {
        let mut named = HashMap::<BrokerId, usize>::new();
        for (number, redirects) in connections.iter_mut().enumerate() {
            for partition in partitions_of(number) {
                redirects.tell(key(partition), now);
                let replicas = replicas_of(partition);
                let chosen = redirects.send(key(partition), &replicas, brokers, number);
                *named.entry(chosen.unwrap()).or_default() += 1;
            }
        }
        let mut counts: Vec<_> = named.into_iter().collect();
        counts.sort_unstable();
        counts.into_iter().map(|(_, count)| count).collect()
    }

    #[test]
    fn one_consumer_reads_evenly_from_all_replicas() {
        let (brokers, now) = (Brokers::default(), Instant::now());
        let all = |_| ids([1, 2, 3]).to_vec();
        let mut one = [Redirects::default()];
        let ten = |_| (0..10).collect();
        assert_eq!(spread(&mut one, &brokers, now, all, ten), [4, 3, 3]);
        // Partitions come back one by one, and stay where they are.
        for partition in 0..10i32 {
            let later = now + STRAIGHT_BACK * (2 + partition.unsigned_abs());
            let before = one[0].told[&key(partition)].at.as_ref().unwrap().broker;
            spread(&mut one, &brokers, later, all, |_| vec![partition]);
            assert_eq!(one[0].told[&key(partition)].at.as_ref().unwrap().broker, before);
        }
        let mut sent: Vec<_> = one[0].sent.values().copied().collect();
        sent.sort_unstable();
        assert_eq!(sent, [3, 3, 4]);
    }

    #[test]
    fn replicas_that_differ_from_partition_to_partition_are_read_evenly_too() {
        let (brokers, now) = (Brokers::default(), Instant::now());
        let neighbours =
            |partition: i32| ids([partition % 4 + 1, (partition + 1) % 4 + 1]).to_vec();
        for first in 0..4 {
            let mut connections: Vec<_> = (0..=first).map(|_| Redirects::default()).collect();
            let twelve = |number| if number == first { (0..12).collect() } else { Vec::new() };
            let found = spread(&mut connections, &brokers, now, neighbours, twelve);
            assert_eq!(found, [3, 3, 3, 3]);
        }
    }

    #[test]
    fn many_consumers_of_one_partition_each_are_spread_by_what_others_read() {
        let (brokers, now) = (Brokers::default(), Instant::now());
        let mut group: Vec<_> = (0..10).map(|_| Redirects::default()).collect();
        let own = |number: usize| vec![i32::try_from(number).unwrap()];
        let all = |_| ids([1, 2, 3]).to_vec();
        assert_eq!(spread(&mut group, &brokers, now, all, own), [4, 3, 3]);
        drop(group);
        assert_eq!(ids([1, 2, 3]).map(|id| brokers.readers(id)), [0, 0, 0], "they are gone");
    }

    #[test]
    fn one_that_comes_straight_back_is_sent_elsewhere() {
        let (brokers, now) = (Brokers::default(), Instant::now());
        let mut redirects = Redirects::default();
        let mut send = |replicas: &[BrokerId]| {
            redirects.tell(key(0), now);
            redirects.send(key(0), replicas, &brokers, 0).unwrap()
        };
        let first = send(&ids([1, 2]));
        assert_ne!(send(&ids([1, 2])), first);
        assert_eq!(send(&ids([1, 2])), first);
        assert_eq!(send(&[first]), first, "there is no other");
    }
}
