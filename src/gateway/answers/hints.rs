//! Who leads instead, told with the refusal (KIP-951): a client then goes there at once, and need not
//! ask for metadata first.

use std::collections::BTreeSet;

use kafka_protocol::error::ResponseError;

use super::Asker;
use crate::gateway::standing::{Leader, Standing};
use crate::types::BrokerId;

/// The leaders that one answer names.
#[derive(Debug)]
pub struct Hints {
    /// Whether the answer's version has words for them.
    told: bool,
    named: BTreeSet<BrokerId>,
}

/// Where a broker of an answer is.
#[derive(Debug)]
pub struct Node {
    /// The broker.
    pub id: BrokerId,
    /// Its host at the listener that was asked.
    pub host: String,
    /// Its port there.
    pub port: u16,
    /// Its rack.
    pub rack: Option<String>,
}

impl Hints {
    /// None yet; none ever, unless they can be `told`.
    pub fn new(told: bool) -> Self {
        Self { told, named: BTreeSet::new() }
    }

    /// Whom to name beside an error of a partition that stands like this.
    pub fn leader(&mut self, code: i16, standing: &Standing, asker: &Asker<'_>) -> Option<Leader> {
        let is_stale = [ResponseError::NotLeaderOrFollower, ResponseError::FencedLeaderEpoch]
            .iter()
            .any(|error| error.code() == code);
        let leader = match standing {
            _ if !(self.told && is_stale) => None,
            Standing::Led(led) if code == ResponseError::FencedLeaderEpoch.code() => {
                let epoch = led.partition.leader_epoch;
                Some(Leader { id: asker.context.broker_id, epoch })
            }
            Standing::Elsewhere(leader) => *leader,
            Standing::Led(_) | Standing::Refused(_) => None,
        };
        self.named.extend(leader.map(|leader| leader.id));
        leader
    }

    /// Where the named ones are.
    pub fn nodes(self, asker: &Asker<'_>) -> Vec<Node> {
        let image = asker.context.image.borrow();
        let brokers = self.named.into_iter().filter_map(|id| image.broker(id));
        let nodes = brokers.filter_map(|broker| {
            let listener = broker.listeners.get(asker.listener)?;
            let (host, port) = (listener.host.clone(), listener.port);
            Some(Node { id: broker.id, host, port, rack: broker.rack.clone() })
        });
        nodes.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{MIRROR, asker_of, world};
    use super::*;
    use crate::gateway::rights::Operation;
    use crate::gateway::standing::{Standings, TopicRef};

    #[tokio::test]
    async fn the_leader_is_named_with_its_address_to_whoever_comes_too_late() {
        let world = world();
        let mut parts = asker_of(&world);
        let asker = parts.asker();
        let asked = [("plain", 0), (MIRROR, 0), ("nowhere", 0)]
            .map(|(name, partition)| (TopicRef::Name(name.into()), partition));
        let mut standings =
            Standings::look_up(&asker, Operation::Read, asked.to_vec()).await.unwrap();
        let [plain, mirror, nowhere] = [(); 3].map(|()| standings.take());
        let mut hints = Hints::new(true);
        let mut told = |code, standing: &Standing| {
            hints.leader(code, standing, &asker).map(|leader| (leader.id.0, leader.epoch.0))
        };
        assert_eq!(plain.led().err(), Some(6));
        assert_eq!(told(6, &plain), Some((1, 7)));
        // A client of an older epoch finds us leading in a later one.
        assert_eq!(told(74, &mirror), Some((9001, 7)));
        // What is not known yet is nobody's fault, and nobody else leads it.
        assert_eq!(told(6, &mirror), None);
        assert_eq!(told(75, &mirror), None);
        assert_eq!(told(29, &plain), None);
        assert_eq!(told(3, &nowhere), None);
        let nodes = hints.nodes(&asker);
        let nodes: Vec<_> = nodes.iter().map(|n| (n.id.0, n.host.as_str(), n.port)).collect();
        assert_eq!(nodes, [(1, "127.0.0.1", 9092), (9001, "127.0.0.1", 9092)]);
    }
}
