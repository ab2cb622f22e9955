//! The client's side of an incremental fetch session (KIP-227): what the broker believes that we
//! want, and the difference to what we do want. No I/O; one session belongs to one connection.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::verdict::session_is_gone;
use crate::types::{LeaderEpoch, Offset, Uuid};

/// A topic as a fetch names it. The two kinds are never mixed in one session.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum TopicRef {
    /// By id, from version 13 on (KIP-516).
    Id(Uuid),
    /// By name, up to version 12.
    Name(Arc<str>),
}

/// A partition as a fetch names it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct WireKey {
    /// The topic.
    pub topic: TopicRef,
    /// The partition's number.
    pub partition: i32,
}

/// What is asked of one partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Asked {
    /// The next offset wanted.
    pub offset: Offset,
    /// Epoch under which we believe the broker to lead.
    pub leader_epoch: LeaderEpoch,
    /// Epoch of the last batch that we have; not sent below version 12.
    pub last_epoch: LeaderEpoch,
}

/// One fetch request's part that concerns the session.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Plan {
    /// 0 as long as the broker has given none.
    pub session_id: i32,
    /// 0: everything that is wanted is in `asked`; otherwise only what changed is.
    pub session_epoch: i32,
    /// Partitions to ask for, those of one topic together.
    pub asked: Vec<(WireKey, Asked)>,
    /// Partitions that the broker is to forget.
    pub forgotten: Vec<WireKey>,
}

/// What an answer did to the session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// Go on.
    Kept,
    /// The broker does not know the session any more: the next request is a full one.
    Renewed,
    /// The answer does not belong to what was asked.
    Nonsense,
}

/// The client's side of one session.
#[derive(Debug, Default)]
pub(super) struct FetchSession {
    id: i32,
    epoch: i32,
    known: HashMap<WireKey, Asked>,
    /// Rotates full requests, so that without a session no partition is always the last.
    turn: usize,
}

impl FetchSession {
    /// Plans the next request. `wanted` are all partitions that are to be read; `dirty` those that
    /// may have changed since the last plan, wanted or not. Only `dirty` is looked at where the
    /// broker knows the rest.
    pub(super) fn plan<'a>(
        &mut self,
        dirty: &HashSet<WireKey>,
        wanted: impl Fn(&WireKey) -> Option<Asked>,
        all: impl Iterator<Item = &'a WireKey>,
    ) -> Plan {
        let (asked, forgotten) = if self.epoch == 0 {
            (self.everything(&wanted, all), Vec::new())
        } else {
            self.changes(dirty, wanted)
        };
        Plan { session_id: self.id, session_epoch: self.epoch, asked, forgotten }
    }

    fn everything<'a>(
        &mut self,
        wanted: impl Fn(&WireKey) -> Option<Asked>,
        all: impl Iterator<Item = &'a WireKey>,
    ) -> Vec<(WireKey, Asked)> {
        let mut asked: Vec<_> = all.filter_map(|key| Some((key.clone(), wanted(key)?))).collect();
        asked.sort_by(|left, right| left.0.cmp(&right.0));
        self.known = asked.iter().cloned().collect();
        if !asked.is_empty() {
            let first = self.turn % asked.len();
            asked.rotate_left(first);
            self.turn = self.turn.wrapping_add(1);
        }
        asked
    }

    fn changes(
        &mut self,
        dirty: &HashSet<WireKey>,
        wanted: impl Fn(&WireKey) -> Option<Asked>,
    ) -> (Vec<(WireKey, Asked)>, Vec<WireKey>) {
        let (mut asked, mut forgotten) = (Vec::new(), Vec::new());
        for key in dirty {
            match wanted(key) {
                Some(now) if self.known.get(key) != Some(&now) => {
                    self.known.insert(key.clone(), now);
                    asked.push((key.clone(), now));
                }
                Some(_unchanged) => {}
                None if self.known.remove(key).is_some() => forgotten.push(key.clone()),
                None => {}
            }
        }
        asked.sort_by(|left, right| left.0.cmp(&right.0));
        forgotten.sort();
        (asked, forgotten)
    }

    /// Takes the error code and the session id of the answer to the last plan.
    pub(super) fn answered(&mut self, error: i16, session_id: i32) -> Outcome {
        if session_is_gone(error) {
            self.reset();
            return Outcome::Renewed;
        }
        if error != 0 {
            return Outcome::Kept; // the caller gives up the connection, and the session with it
        }
        match (self.epoch, session_id) {
            // A broker without a free slot, or a throttled one: full requests until it gives one.
            (0, 0) => self.reset(),
            (0, id) if id > 0 => {
                self.id = id;
                self.epoch = 1;
            }
            (epoch, id) if epoch > 0 && id == self.id => {
                // Wraps to 1: 0 would mean a full request.
                self.epoch = epoch.checked_add(1).unwrap_or(1);
            }
            // The broker closed the session with its answer.
            (_, 0) => self.reset(),
            _ => {
                self.reset();
                return Outcome::Nonsense;
            }
        }
        Outcome::Kept
    }

    /// Whether the next request has to name every partition.
    pub(super) fn is_full(&self) -> bool {
        self.epoch == 0
    }

    /// Whether the broker believes that we want this partition.
    pub(super) fn knows(&self, key: &WireKey) -> bool {
        self.known.contains_key(key)
    }

    /// Makes the next request a full one, which closes the session and opens another: the only way
    /// to have the broker say again what it has said already.
    pub(super) fn renew(&mut self) {
        self.epoch = 0;
        self.known.clear();
    }

    fn reset(&mut self) {
        self.id = 0;
        self.renew();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(partition: i32) -> WireKey {
        WireKey { topic: TopicRef::Name(Arc::from("t")), partition }
    }

    fn asked(offset: i64) -> Asked {
        Asked {
            offset: Offset(offset),
            leader_epoch: LeaderEpoch(3),
            last_epoch: LeaderEpoch::UNKNOWN,
        }
    }

    /// A session and the offsets wanted of each partition.
    #[derive(Default)]
    struct Client {
        session: FetchSession,
        wanted: HashMap<WireKey, Asked>,
    }

    impl Client {
        fn want(&mut self, partition: i32, offset: i64) {
            self.wanted.insert(key(partition), asked(offset));
        }

        /// (session id, epoch, partitions asked with offsets, partitions forgotten)
        fn plan(&mut self, dirty: &[i32]) -> (i32, i32, Vec<(i32, i64)>, Vec<i32>) {
            let dirty = dirty.iter().map(|&partition| key(partition)).collect();
            let wanted = &self.wanted;
            let plan = self.session.plan(&dirty, |key| wanted.get(key).copied(), wanted.keys());
            let asked = plan.asked.iter();
            (
                plan.session_id,
                plan.session_epoch,
                asked.map(|(key, a)| (key.partition, a.offset.0)).collect(),
                plan.forgotten.iter().map(|key| key.partition).collect(),
            )
        }
    }

    #[test]
    fn after_a_full_request_only_changes_are_sent() {
        let mut client = Client::default();
        client.want(0, 10);
        client.want(1, 20);
        assert_eq!(client.plan(&[0, 1]), (0, 0, vec![(0, 10), (1, 20)], vec![]));
        assert_eq!(client.session.answered(0, 77), Outcome::Kept);
        assert_eq!(client.plan(&[]), (77, 1, vec![], vec![]));
        client.session.answered(0, 77);
        client.want(1, 25);
        client.want(2, 0);
        client.wanted.remove(&key(0));
        assert_eq!(client.plan(&[0, 1, 2]), (77, 2, vec![(1, 25), (2, 0)], vec![0]));
        client.session.answered(0, 77);
        assert_eq!(client.plan(&[0, 1, 2]), (77, 3, vec![], vec![]), "said already");
    }

    #[test]
    fn what_was_put_back_before_it_was_forgotten_is_not_sent() {
        let mut client = Client::default();
        client.want(0, 10);
        client.plan(&[0]);
        client.session.answered(0, 5);
        client.wanted.remove(&key(0));
        client.want(0, 10);
        assert_eq!(client.plan(&[0]), (5, 1, vec![], vec![]));
    }

    #[test]
    fn a_lost_session_begins_with_everything() {
        for error in [70, 71, 106] {
            let mut client = Client::default();
            client.want(0, 10);
            client.plan(&[0]);
            client.session.answered(0, 5);
            client.plan(&[]);
            assert_eq!(client.session.answered(error, 0), Outcome::Renewed);
            assert_eq!(client.plan(&[]), (0, 0, vec![(0, 10)], vec![]));
        }
    }

    #[test]
    fn without_a_session_every_request_is_full_and_the_order_turns() {
        let mut client = Client::default();
        client.want(0, 1);
        client.want(1, 1);
        assert_eq!(client.plan(&[]).2, [(0, 1), (1, 1)]);
        assert_eq!(client.session.answered(0, 0), Outcome::Kept);
        assert_eq!(client.plan(&[]).2, [(1, 1), (0, 1)]);
        client.session.answered(0, 0);
        assert_eq!(client.plan(&[]).2, [(0, 1), (1, 1)]);
    }

    #[test]
    fn a_renewed_session_closes_the_old_one() {
        let mut client = Client::default();
        client.want(0, 1);
        client.plan(&[]);
        client.session.answered(0, 5);
        assert!(client.session.knows(&key(0)));
        client.session.renew();
        assert_eq!(client.plan(&[]), (5, 0, vec![(0, 1)], vec![]));
        client.session.answered(0, 9);
        assert_eq!(client.plan(&[]), (9, 1, vec![], vec![]));
    }

    #[test]
    fn an_answer_of_another_session_is_nonsense() {
        let mut client = Client::default();
        client.want(0, 1);
        client.plan(&[]);
        client.session.answered(0, 5);
        client.plan(&[]);
        assert_eq!(client.session.answered(0, 6), Outcome::Nonsense);
        assert_eq!(client.session.answered(0, -3), Outcome::Nonsense);
        assert_eq!(client.plan(&[]), (0, 0, vec![(0, 1)], vec![]));
    }

    #[test]
    fn the_epoch_wraps_to_one() {
        let mut session = FetchSession { id: 5, epoch: i32::MAX, ..FetchSession::default() };
        session.answered(0, 5);
        assert_eq!(session.epoch, 1);
    }
}
