//! A view of one cluster: where its brokers are, and one shared connection to each. Does not
//! refresh itself and does not retry: whoever asks decides when.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use kafka_protocol::error::ParseResponseErrorCode;
use kafka_protocol::messages::MetadataRequest;
use kafka_protocol::protocol::{Message, Request, VersionRange};
use rand::seq::SliceRandom;
use tokio::task::JoinSet;

use super::error::RequestName;
use super::{
    BrokerAddress, ClientConfig, ClientError, ClusterMetadata, Connection, Endpoint, Topics,
};
use crate::types::BrokerId;

/// One more way is tried when those before have not come about so soon.
const NEXT_AFTER: Duration = Duration::from_millis(500);
/// From this version on asking for a topic does not create it.
const METADATA_MIN: i16 = 4;

/// A view of one cluster; clones share it.
#[derive(Clone, Debug)]
pub struct Cluster {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    bootstrap: Vec<Endpoint>,
    config: ClientConfig,
    view: Mutex<View>,
    /// Connections to the bootstrap addresses, in their order.
    first: Vec<Arc<Slot>>,
}

#[derive(Debug, Default)]
struct View {
    /// Our own seat and the others: a relay to ourselves would go round in a circle, and others only
    /// relay too.
    never: BTreeSet<BrokerId>,
    cluster_id: Option<String>,
    brokers: BTreeMap<BrokerId, BrokerAddress>,
    slots: BTreeMap<BrokerId, Arc<Slot>>,
}

impl Cluster {
    /// A view that knows nothing yet but some addresses. `never` is the id of our own seat there,
    /// which is never talked to.
    pub fn new(bootstrap: Vec<Endpoint>, config: ClientConfig, never: Option<BrokerId>) -> Self {
        let first = bootstrap.iter().map(|_| Arc::default()).collect();
        let view = View { never: never.into_iter().collect(), ..View::default() };
        Self { inner: Arc::new(Inner { bootstrap, config, view: Mutex::new(view), first }) }
    }

    /// These are seats too, and never talked to from now on.
    pub fn avoid(&self, seats: impl IntoIterator<Item = BrokerId>) {
        self.view().never.extend(seats);
    }

    /// A live broker: an open shared connection, else a known broker, else a bootstrap address,
    /// each in random order. The error lists all that failed.
    pub async fn any(&self) -> Result<Connection, ClientError> {
        if let Some(connection) = self.any_open() {
            return Ok(connection);
        }
        let mut ways = self.ways().into_iter();
        let mut attempts = JoinSet::new();
        let mut failures = Vec::new();
        loop {
            let is_more = match ways.next() {
                Some((slot, endpoint)) => {
                    let inner = Arc::clone(&self.inner);
                    attempts.spawn(async move { slot.connect(&endpoint, &inner.config).await });
                    true
                }
                None => false,
            };
            // One that is silent must not keep the others waiting until its time is over.
            tokio::select! {
                ended = attempts.join_next() => match ended {
                    Some(Ok(Ok(connection))) => return Ok(connection),
                    Some(Ok(Err(error))) => failures.push(error),
                    Some(Err(panicked)) => if let Ok(panic) = panicked.try_into_panic() {
                        std::panic::resume_unwind(panic);
                    },
                    None => return Err(ClientError::NoBroker(failures)),
                },
                () = tokio::time::sleep(NEXT_AFTER), if is_more => {}
            }
        }
    }

    /// How to reach the cluster: known brokers in random order, then other bootstrap addresses.
    fn ways(&self) -> Vec<(Arc<Slot>, Endpoint)> {
        let known = shuffled(self.known());
        let tried: Vec<_> = known.iter().map(|(_, endpoint)| endpoint.clone()).collect();
        let tried: Vec<_> = tried.into_iter().chain(self.seat_endpoints()).collect();
        let slots = known.into_iter().map(|(id, endpoint)| (self.slot(id), endpoint));
        let first = self.inner.first.iter().cloned().zip(self.inner.bootstrap.iter().cloned());
        let first = first.filter(|(_, endpoint)| !tried.contains(endpoint));
        slots.chain(shuffled(first.collect())).collect()
    }

    fn slot(&self, id: BrokerId) -> Arc<Slot> {
        Arc::clone(self.view().slots.entry(id).or_default())
    }

    /// The shared connection to a broker of the last metadata.
    pub async fn broker(&self, id: BrokerId) -> Result<Connection, ClientError> {
        let endpoint = self.endpoint(id)?;
        self.slot(id).connect(&endpoint, &self.inner.config).await
    }

    /// [`Self::broker`]; where it cannot be had the cluster is asked anew where its brokers are: this
    /// one may have come, or moved, since. The next try goes by the answer.
    pub async fn broker_or_ask(&self, id: BrokerId) -> Result<Connection, ClientError> {
        let connected = self.broker(id).await;
        if connected.is_err() {
            self.metadata(Topics::None).await?;
        }
        connected
    }

    /// A connection of the caller's own to a broker of the last metadata.
    pub async fn dedicated(&self, id: BrokerId) -> Result<Connection, ClientError> {
        Connection::connect(&self.endpoint(id)?, &self.inner.config).await
    }

    /// Asks a live broker now, and remembers where the brokers are.
    pub async fn metadata(&self, topics: Topics<'_>) -> Result<ClusterMetadata, ClientError> {
        let connection = self.any().await?;
        let version = metadata_version(&connection)?;
        let response = connection.request_at(version, &topics.request()).await?;
        let request = RequestName { key: MetadataRequest::KEY, version };
        let endpoint = connection.peer().clone();
        if let Some(error) = response.error_code.err() {
            return Err(ClientError::Response { endpoint, request, error });
        }
        let metadata = ClusterMetadata::read(response).map_err(|reason| ClientError::Decode {
            endpoint,
            request,
            reason,
        })?;
        self.remember(&connection, &metadata)?;
        Ok(metadata)
    }

    /// Where a broker is, by the last metadata.
    pub fn endpoint(&self, id: BrokerId) -> Result<Endpoint, ClientError> {
        let view = self.view();
        if view.never.contains(&id) {
            return Err(ClientError::OwnSeat(id));
        }
        match view.brokers.get(&id) {
            Some(address) => Ok(address.endpoint.clone()),
            None => Err(ClientError::UnknownBroker(id)),
        }
    }

    fn view(&self) -> MutexGuard<'_, View> {
        // Whole values are put in and taken out: a panic elsewhere leaves nothing half done.
        self.inner.view.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Brokers are preferred to the bootstrap address, which may be a load balancer's.
    fn any_open(&self) -> Option<Connection> {
        let slots: Vec<_> = {
            let view = self.view();
            let real = view.slots.iter().filter(|(id, _)| !view.never.contains(*id));
            real.map(|(_, slot)| Arc::clone(slot)).collect()
        };
        let open = shuffled(slots).into_iter().find_map(|slot| slot.open());
        let seats = self.seat_endpoints();
        let mut first = self.inner.first.iter().filter_map(|slot| slot.open());
        open.or_else(|| first.find(|first| !seats.contains(first.peer())))
    }

    fn known(&self) -> Vec<(BrokerId, Endpoint)> {
        let view = self.view();
        let others = view.brokers.iter().filter(|(id, _)| !view.never.contains(*id));
        others.map(|(id, address)| (*id, address.endpoint.clone())).collect()
    }

    fn seat_endpoints(&self) -> Vec<Endpoint> {
        let view = self.view();
        let seats = view.never.iter().filter_map(|id| view.brokers.get(id));
        seats.map(|seat| seat.endpoint.clone()).collect()
    }

    /// Takes over what a broker said, unless it is of another cluster: an address may have been
    /// given to somebody else.
    fn remember(&self, from: &Connection, metadata: &ClusterMetadata) -> Result<(), ClientError> {
        let mut view = self.view();
        if let (Some(expected), Some(found)) = (&view.cluster_id, &metadata.cluster_id)
            && expected != found
        {
            for slot in view.slots.values().chain(&self.inner.first) {
                slot.forget(from);
            }
            return Err(ClientError::OtherCluster {
                endpoint: from.peer().clone(),
                expected: expected.clone(),
                found: found.clone(),
            });
        }
        if view.cluster_id.is_none() {
            view.cluster_id.clone_from(&metadata.cluster_id);
        }
        // A broker that has just started may not know of any yet.
        if !metadata.brokers.is_empty() {
            view.brokers.clone_from(&metadata.brokers);
            view.slots.retain(|id, _| metadata.brokers.contains_key(id));
        }
        Ok(())
    }
}

/// One shared connection, replaced once it is closed or leads elsewhere.
#[derive(Debug, Default)]
struct Slot {
    connection: Mutex<Option<Connection>>,
    /// Held by the one who connects; the others wait for what comes of it.
    connecting: tokio::sync::Mutex<Option<ClientError>>,
    failures: AtomicU64,
}

impl Slot {
    fn open(&self) -> Option<Connection> {
        let connection = self.connection();
        connection.clone().filter(Connection::is_open)
    }

    fn forget(&self, unwanted: &Connection) {
        let mut connection = self.connection();
        if connection.as_ref().is_some_and(|kept| kept.is(unwanted)) {
            *connection = None;
        }
    }

    async fn connect(
        &self,
        endpoint: &Endpoint,
        config: &ClientConfig,
    ) -> Result<Connection, ClientError> {
        if let Some(connection) = self.open_to(endpoint) {
            return Ok(connection);
        }
        let failures = self.failures.load(Ordering::Acquire);
        let mut last_failure = self.connecting.lock().await;
        if let Some(connection) = self.open_to(endpoint) {
            return Ok(connection);
        }
        // Somebody failed while we waited: trying again at once would make a queue of timeouts.
        if let Some(error) = last_failure.as_ref()
            && self.failures.load(Ordering::Acquire) != failures
        {
            return Err(error.clone());
        }
        match Connection::connect(endpoint, config).await {
            Ok(connection) => {
                *self.connection() = Some(connection.clone());
                Ok(connection)
            }
            Err(error) => {
                *last_failure = Some(error.clone());
                self.failures.fetch_add(1, Ordering::Release);
                Err(error)
            }
        }
    }

    fn open_to(&self, endpoint: &Endpoint) -> Option<Connection> {
        self.open().filter(|connection| connection.peer() == endpoint)
    }

    fn connection(&self) -> MutexGuard<'_, Option<Connection>> {
        self.connection.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn metadata_version(connection: &Connection) -> Result<i16, ClientError> {
    let version = connection.version::<MetadataRequest>();
    version.filter(|version| *version >= METADATA_MIN).ok_or_else(|| ClientError::Version {
        endpoint: connection.peer().clone(),
        key: MetadataRequest::KEY,
        ours: VersionRange { min: METADATA_MIN, max: MetadataRequest::VERSIONS.max },
        theirs: connection.peer_versions(MetadataRequest::KEY),
    })
}

fn shuffled<T>(mut items: Vec<T>) -> Vec<T> {
    items.shuffle(&mut rand::rng());
    items
}

#[cfg(test)]
mod tests {
    use kafka_protocol::messages;
    use kafka_protocol::messages::MetadataResponse;
    use kafka_protocol::messages::metadata_response::MetadataResponseBroker;
    use kafka_protocol::protocol::StrBytes;

    use super::super::Retry;
    use super::super::fake_broker::{self, FakeBroker, Peer};
    use super::*;

    const ONE: BrokerId = BrokerId(1);
    const SEAT: BrokerId = BrokerId(9001);

    fn config() -> ClientConfig {
        ClientConfig { connect_timeout: Duration::from_secs(1), ..ClientConfig::default() }
    }

    fn metadata(brokers: &[(BrokerId, &Endpoint)]) -> MetadataResponse {
        let brokers = brokers.iter().map(|(id, endpoint)| {
            MetadataResponseBroker::default()
                .with_node_id(messages::BrokerId(id.0))
                .with_host(StrBytes::from_string(endpoint.host.clone()))
                .with_port(i32::from(endpoint.port))
        });
        fake_broker::metadata("c").with_brokers(brokers.collect())
    }

    /// A view that knows `brokers`, and the broker's end of its first connection.
    async fn informed(
        bootstrap: &FakeBroker,
        never: Option<BrokerId>,
        brokers: &[(BrokerId, &Endpoint)],
    ) -> (Cluster, Peer) {
        let cluster = Cluster::new(vec![bootstrap.endpoint()], config(), never);
        let (answer, peer) = tokio::join!(cluster.metadata(Topics::None), async {
            let mut peer = bootstrap.accept().await;
            let asked = peer.read().await;
            peer.answer(asked, &metadata(brokers)).await;
            peer
        });
        assert_eq!(answer.unwrap().brokers.len(), brokers.len());
        (cluster, peer)
    }

    async fn closed_endpoint() -> Endpoint {
        FakeBroker::start().await.endpoint()
    }

    #[tokio::test]
    async fn a_silent_broker_does_not_keep_others_from_being_asked() {
        let (silent, lively) = (FakeBroker::start().await, FakeBroker::start().await);
        let patient = ClientConfig { connect_timeout: Duration::from_secs(60), ..config() };
        for bootstrap in
            [vec![silent.endpoint(), lively.endpoint()], vec![lively.endpoint(), silent.endpoint()]]
        {
            let cluster = Cluster::new(bootstrap, patient.clone(), None);
            let (found, _peer) = tokio::join!(cluster.any(), lively.accept());
            assert_eq!(*found.unwrap().peer(), lively.endpoint());
        }
    }

    #[tokio::test]
    async fn a_name_is_dialled_anew_at_each_attempt() {
        let dialled = Arc::new(Mutex::new(Vec::new()));
        let noted = Arc::clone(&dialled);
        let dialer = super::super::Dialer::new(move |endpoint| {
            noted.lock().unwrap().push(endpoint.to_string());
            Err(std::io::ErrorKind::ConnectionRefused.into())
        });
        let config = ClientConfig { dialer: Some(dialer), ..config() };
        let moving = Endpoint::new("moving.example", 9092);
        let cluster = Cluster::new(vec![moving.clone()], config, None);
        for _ in 0..3 {
            assert!(cluster.any().await.is_err());
        }
        assert_eq!(*dialled.lock().unwrap(), vec![moving.to_string(); 3]);
    }

    #[tokio::test]
    async fn all_who_want_a_broker_share_one_connection_until_it_closes() {
        let broker = FakeBroker::start().await;
        let endpoint = broker.endpoint();
        let (cluster, _first) = informed(&broker, None, &[(ONE, &endpoint)]).await;
        let (one, two, mut peer) =
            tokio::join!(cluster.broker(ONE), cluster.broker(ONE), broker.accept());
        let one = one.unwrap();
        assert!(one.is(&two.unwrap()));
        assert!(one.is(&cluster.any().await.unwrap()));

        // An answer to nothing closes it; the next caller gets a new one.
        let stray = fake_broker::frame(7, 0, &fake_broker::versions(0));
        peer.write(&stray).await;
        assert_eq!(peer.read_frame().await, None);
        assert!(!one.is_open());
        let (new, _peer) = tokio::join!(cluster.broker(ONE), broker.accept());
        assert!(!one.is(&new.unwrap()));
    }

    #[tokio::test]
    async fn a_dedicated_connection_is_shared_with_nobody() {
        let broker = FakeBroker::start().await;
        let endpoint = broker.endpoint();
        let (cluster, _first) = informed(&broker, None, &[(ONE, &endpoint)]).await;
        let (own, _peer) = tokio::join!(cluster.dedicated(ONE), broker.accept());
        let (shared, _peer) = tokio::join!(cluster.broker(ONE), broker.accept());
        assert!(!own.unwrap().is(&shared.unwrap()));
    }

    #[tokio::test]
    async fn those_who_waited_for_a_failure_do_not_try_one_after_the_other() {
        let broker = FakeBroker::start().await;
        let endpoint = broker.endpoint();
        let silent = FakeBroker::start().await;
        let silent_endpoint = silent.endpoint();
        let brokers = [(ONE, &endpoint), (BrokerId(2), &silent_endpoint)];
        let (cluster, _first) = informed(&broker, None, &brokers).await;
        let two = BrokerId(2);
        let (a, b, c) = tokio::join!(cluster.broker(two), cluster.broker(two), cluster.broker(two));
        for failed in [a, b, c] {
            assert_eq!(failed.unwrap_err().retry(), Retry::WithBackoff);
        }
        silent.accept_silent().await;
        let more = tokio::time::timeout(Duration::from_millis(50), silent.accept_silent()).await;
        assert!(more.is_err(), "three callers made more than one connection");
    }

    #[tokio::test]
    async fn the_own_seat_is_never_talked_to() {
        let real = FakeBroker::start().await;
        let seat = FakeBroker::start().await;
        let (at_real, at_seat) = (real.endpoint(), seat.endpoint());
        let brokers = [(ONE, &at_real), (SEAT, &at_seat)];
        // The bootstrap address is the seat's own, which shows only in the answer.
        let (cluster, _first) = informed(&seat, Some(SEAT), &brokers).await;
        let (any, _peer) = tokio::join!(cluster.any(), real.accept());
        assert_eq!(any.unwrap().peer(), &at_real);
        for error in [cluster.broker(SEAT).await, cluster.dedicated(SEAT).await] {
            let error = error.unwrap_err();
            assert_eq!(error.to_string(), "find broker 9001: it is our own seat");
        }
    }

    #[tokio::test]
    async fn a_view_without_addresses_says_so() {
        let alone = Cluster::new(Vec::new(), config(), Some(SEAT));
        let error = alone.any().await.unwrap_err().to_string();
        assert_eq!(error, "reach any broker: no address to try");
    }

    #[tokio::test]
    async fn when_nobody_answers_every_failure_is_told() {
        let (one, two) = (closed_endpoint().await, closed_endpoint().await);
        let cluster = Cluster::new(vec![one.clone(), two.clone()], config(), None);
        let error = cluster.any().await.unwrap_err();
        assert_eq!(error.retry(), Retry::WithBackoff);
        let text = error.to_string();
        for endpoint in [one, two] {
            let part = format!("connect to broker {endpoint}: ");
            assert!(text.contains(&part), "{text}");
        }
    }

    #[tokio::test]
    async fn a_broker_that_the_cluster_does_not_list_is_unknown() {
        let broker = FakeBroker::start().await;
        let endpoint = broker.endpoint();
        let (cluster, _first) = informed(&broker, None, &[(ONE, &endpoint)]).await;
        let error = cluster.broker(BrokerId(5)).await.unwrap_err();
        assert_eq!(error.to_string(), "find broker 5: the cluster does not list it");
        assert_eq!(error.retry(), Retry::AfterMetadataRefresh);
    }

    #[tokio::test]
    async fn an_address_that_leads_to_another_cluster_changes_nothing() {
        let broker = FakeBroker::start().await;
        let endpoint = broker.endpoint();
        let (cluster, mut first) = informed(&broker, None, &[(ONE, &endpoint)]).await;
        let (answer, ()) = tokio::join!(cluster.metadata(Topics::None), async {
            let asked = first.read().await;
            first.answer_metadata(asked, "other").await;
        });
        let text = answer.unwrap_err().to_string();
        assert!(text.ends_with("it is of cluster other, expected c"), "{text}");
        assert_eq!(cluster.endpoint(ONE).unwrap(), endpoint);
        // And that connection is not used again.
        let (any, _peer) = tokio::join!(cluster.any(), broker.accept());
        assert!(any.is_ok());
    }
}
