//! Incremental fetch sessions as a leader (KIP-227): what each follower asks for, what it was last
//! told, and which of its partitions have something new to say. Knows nothing of record bytes.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use rand::RngExt as _;

use super::handle::{FetchedPartition, FollowerRequest};
use crate::types::{BrokerId, LeaderEpoch, Offset, PartitionKey};

/// Session epoch of a full request that may open a session.
const OPEN: i32 = 0;
/// Session epoch of a full request without one.
const WITHOUT: i32 = -1;

/// Identifies a session within this daemon; 0 is never one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SessionId(pub i32);

/// Why a request finds no session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SessionError {
    /// 70: no such session.
    UnknownId,
    /// 71: a request was lost or repeated.
    WrongEpoch,
}

/// A partition within a session.
#[derive(Clone, Copy, Debug)]
pub struct Asked {
    /// The follower's log end.
    pub offset: Offset,
    /// Epoch of its last batch.
    pub last_fetched_epoch: LeaderEpoch,
    /// The leader epoch that it believes in.
    pub current_leader_epoch: LeaderEpoch,
    /// Bytes it wants of this partition at most.
    pub max_bytes: usize,
    /// High watermark of the last answer that named the partition.
    pub told_high_watermark: Option<Offset>,
    /// Log start of that answer.
    pub told_log_start: Option<Offset>,
    /// Whether it waits in `ready`.
    is_ready: bool,
}

/// One follower fetcher's session.
#[derive(Debug)]
pub struct Session {
    /// The follower.
    pub broker: BrokerId,
    /// The connection it asked on last.
    connection: u64,
    /// When it asked last, since the daemon's start.
    pub asked_at: Duration,
    /// Epoch of the next request.
    next_epoch: i32,
    partitions: HashMap<PartitionKey, Asked>,
    /// Partitions that may have something to say, those served least recently first.
    ready: VecDeque<PartitionKey>,
}

/// All sessions of all followers.
#[derive(Debug, Default)]
pub struct Sessions {
    sessions: HashMap<SessionId, Session>,
}

impl Sessions {
    /// Takes a request in: finds, opens or replaces its session and updates its partitions.
    /// Without sessions (epoch -1) a session is made all the same, for this one request.
    pub fn accept(
        &mut self,
        request: &FollowerRequest,
        now: Duration,
    ) -> Result<SessionId, SessionError> {
        if matches!(request.session_epoch, OPEN | WITHOUT) {
            let replaced = SessionId(request.session_id);
            // A number from a daemon before us may be another broker's by now.
            if self.sessions.get(&replaced).is_some_and(|s| s.broker == request.broker) {
                self.close(replaced);
            }
            return Ok(self.open(request, now));
        }
        let id = SessionId(request.session_id);
        let session = self.sessions.get_mut(&id).ok_or(SessionError::UnknownId)?;
        if session.broker != request.broker {
            return Err(SessionError::UnknownId);
        }
        if session.next_epoch != request.session_epoch {
            return Err(SessionError::WrongEpoch);
        }
        session.next_epoch = next_epoch(session.next_epoch);
        session.asked_at = now;
        session.connection = request.connection;
        for key in &request.forgotten {
            session.partitions.remove(key);
        }
        session.ready.retain(|key| !request.forgotten.contains(key));
        for partition in &request.partitions {
            session.ask(partition);
        }
        Ok(id)
    }

    /// Under a number that nobody can guess and that no daemon before us is likely to have given: a
    /// follower goes on with the session it had, and must then hear that it is unknown.
    fn open(&mut self, request: &FollowerRequest, now: Duration) -> SessionId {
        let id = loop {
            let id = SessionId(rand::rng().random_range(1..=i32::MAX));
            if !self.sessions.contains_key(&id) {
                break id;
            }
        };
        let mut session = Session {
            broker: request.broker,
            connection: request.connection,
            asked_at: now,
            next_epoch: 1,
            partitions: HashMap::with_capacity(request.partitions.len()),
            ready: VecDeque::new(),
        };
        for partition in &request.partitions {
            session.ask(partition);
        }
        self.sessions.insert(id, session);
        id
    }

    /// Forgets a session.
    pub fn close(&mut self, id: SessionId) {
        self.sessions.remove(&id);
    }

    /// Forgets the sessions of a connection that has ended; returns them.
    pub fn close_all_of(&mut self, connection: u64) -> Vec<SessionId> {
        let gone = self.sessions.iter().filter(|(_, session)| session.connection == connection);
        let gone: Vec<_> = gone.map(|(&id, _)| id).collect();
        for &id in &gone {
            self.close(id);
        }
        gone
    }

    /// One session.
    pub fn session(&mut self, id: SessionId) -> Option<&mut Session> {
        self.sessions.get_mut(&id)
    }

    /// Marks a partition in every session that has it; returns those sessions.
    pub fn mark(&mut self, key: PartitionKey) -> Vec<SessionId> {
        let mut marked = Vec::new();
        for (&id, session) in &mut self.sessions {
            if session.mark(key) {
                marked.push(id);
            }
        }
        marked
    }

    /// All sessions.
    pub fn iter(&self) -> impl Iterator<Item = &Session> {
        self.sessions.values()
    }
}

impl Session {
    fn ask(&mut self, wanted: &FetchedPartition) {
        let told = self.partitions.get(&wanted.key);
        let asked = Asked {
            offset: wanted.offset,
            last_fetched_epoch: wanted.last_fetched_epoch,
            current_leader_epoch: wanted.current_leader_epoch,
            max_bytes: wanted.max_bytes,
            told_high_watermark: told.and_then(|told| told.told_high_watermark),
            told_log_start: told.and_then(|told| told.told_log_start),
            is_ready: told.is_some_and(|told| told.is_ready),
        };
        self.partitions.insert(wanted.key, asked);
        self.mark(wanted.key);
    }

    /// Notes that a partition may have something to say; whether it is in this session.
    pub fn mark(&mut self, key: PartitionKey) -> bool {
        let Some(asked) = self.partitions.get_mut(&key) else { return false };
        if !asked.is_ready {
            asked.is_ready = true;
            self.ready.push_back(key);
        }
        true
    }

    /// How many partitions may have something to say.
    pub fn ready_count(&self) -> usize {
        self.ready.len()
    }

    /// The next partition that may have something to say; it no longer waits then.
    pub fn next_ready(&mut self) -> Option<(PartitionKey, Asked)> {
        loop {
            let key = self.ready.pop_front()?;
            if let Some(asked) = self.partitions.get_mut(&key) {
                asked.is_ready = false;
                return Some((key, *asked));
            }
        }
    }

    /// Notes what an answer said.
    pub fn told(
        &mut self,
        key: PartitionKey,
        high_watermark: Option<Offset>,
        log_start: Option<Offset>,
    ) {
        if let Some(asked) = self.partitions.get_mut(&key) {
            asked.told_high_watermark = high_watermark;
            asked.told_log_start = log_start;
        }
    }

    /// All partitions of the session.
    pub fn keys(&self) -> impl Iterator<Item = PartitionKey> {
        self.partitions.keys().copied()
    }
}

fn next_epoch(epoch: i32) -> i32 {
    epoch.checked_add(1).unwrap_or(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(broker: i32, session_id: i32, session_epoch: i32) -> FollowerRequest {
        FollowerRequest {
            connection: 0,
            broker: BrokerId(broker),
            broker_epoch: crate::types::BrokerEpoch(1),
            session_id,
            session_epoch,
            max_wait: Duration::ZERO,
            max_bytes: 1,
            partitions: Vec::new(),
            forgotten: Vec::new(),
        }
    }

    #[test]
    fn a_broker_opens_no_session_in_place_of_another_brokers() {
        let mut sessions = Sessions::default();
        let first = sessions.accept(&request(1, 0, OPEN), Duration::ZERO).unwrap();
        let second = sessions.accept(&request(2, first.0, OPEN), Duration::ZERO).unwrap();
        assert_ne!(first, second);
        assert_eq!(sessions.accept(&request(1, first.0, 1), Duration::ZERO), Ok(first));
        let third = sessions.accept(&request(2, second.0, OPEN), Duration::ZERO).unwrap();
        let gone = sessions.accept(&request(2, second.0, 1), Duration::ZERO);
        assert_eq!(gone, Err(SessionError::UnknownId));
        assert_eq!(sessions.accept(&request(2, third.0, 1), Duration::ZERO), Ok(third));
    }

    #[test]
    fn two_daemons_give_different_session_numbers() {
        let open = || Sessions::default().accept(&request(1, 0, OPEN), Duration::ZERO).unwrap();
        let numbers: std::collections::HashSet<_> = (0..8).map(|_| open()).collect();
        assert!(numbers.len() > 4 && numbers.iter().all(|id| id.0 > 0), "{numbers:?}");
    }
}
