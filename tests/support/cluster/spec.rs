//! What a cluster should look like, and the property files that say it to Kafka.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use super::super::dist::default_version;

/// Controllers of their own have ids from here on.
pub const FIRST_CONTROLLER: i32 = 101;
/// Name of the controllers' listener.
pub const CONTROLLER_LISTENER: &str = "CONTROLLER";
/// The one ZooKeeper of a cluster of a release before KRaft.
pub const ZOOKEEPER: i32 = 201;
/// Name of its client port.
pub const ZOOKEEPER_LISTENER: &str = "ZOOKEEPER";
/// More combined controllers than this bring nothing to a test.
const MOST_COMBINED_CONTROLLERS: i32 = 3;

/// A cluster to start. Brokers have ids 1, 2, ...
#[derive(Clone, Debug)]
pub struct ClusterSpec {
    pub(super) name: String,
    pub(super) version: String,
    pub(super) brokers: i32,
    separate_controllers: Option<i32>,
    pub(super) heap_mb: u32,
    pub(super) fast_start: bool,
    pub(super) log_level: String,
    pub(super) jvm_options: Vec<String>,
    pub(super) release_version: Option<String>,
    listeners: Vec<String>,
    properties: BTreeMap<String, String>,
    broker_properties: BTreeMap<i32, BTreeMap<String, String>>,
    /// Brokers whose partitions lie on two disks, and the metadata log on a third.
    three_disks: BTreeSet<i32>,
    /// By broker and listener, where others are told to connect.
    advertised: BTreeMap<(i32, String), String>,
}

impl ClusterSpec {
    /// One combined broker of the default release with a plaintext listener.
    pub fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            version: default_version(),
            brokers: 1,
            separate_controllers: None,
            heap_mb: 512,
            fast_start: true,
            log_level: "info".to_owned(),
            jvm_options: Vec::new(),
            release_version: None,
            listeners: vec!["PLAINTEXT".to_owned()],
            properties: BTreeMap::new(),
            broker_properties: BTreeMap::new(),
            three_disks: BTreeSet::new(),
            advertised: BTreeMap::new(),
        }
    }

    /// A release, e.g. `3.9.1`.
    pub fn version(mut self, version: &str) -> Self {
        self.version = version.to_owned();
        self
    }

    /// Formatted at the feature levels of an older release, e.g. `4.1-IV1`.
    pub fn release_version(mut self, version: &str) -> Self {
        self.release_version = Some(version.to_owned());
        self
    }

    /// How many brokers.
    pub fn brokers(mut self, count: i32) -> Self {
        self.brokers = count;
        self
    }

    /// Controllers as processes of their own, with ids 101, 102, ...
    pub fn separate_controllers(mut self, count: i32) -> Self {
        self.separate_controllers = Some(count);
        self
    }

    /// The first three brokers are controllers too: the default.
    pub fn combined(mut self) -> Self {
        self.separate_controllers = None;
        self
    }

    /// Heap of each process.
    pub fn heap_mb(mut self, megabytes: u32) -> Self {
        self.heap_mb = megabytes;
        self
    }

    /// `false` for benches: the JVM's full compiler and G1 instead of a quick start.
    pub fn fast_start(mut self, fast: bool) -> Self {
        self.fast_start = fast;
        self
    }

    /// Root log level of the nodes: `warn`, `info`, `debug`.
    pub fn log_level(mut self, level: &str) -> Self {
        self.log_level = level.to_owned();
        self
    }

    /// One more option of each JVM.
    pub fn jvm_option(mut self, option: &str) -> Self {
        self.jvm_options.push(option.to_owned());
        self
    }

    /// A property of every node; wins over the harness's own.
    pub fn property(mut self, key: &str, value: impl ToString) -> Self {
        self.properties.insert(key.to_owned(), value.to_string());
        self
    }

    /// A property of one node; wins over all others.
    pub fn broker_property(mut self, id: i32, key: &str, value: impl ToString) -> Self {
        let properties = self.broker_properties.entry(id).or_default();
        properties.insert(key.to_owned(), value.to_string());
        self
    }

    /// Records of any time stay: for those whose time is a fixed one. A broker looks for old ones 30 s
    /// after its start, and then each 5 minutes.
    pub fn without_retention(self) -> Self {
        self.property("log.retention.ms", -1)
    }

    /// A broker that can lose a disk and live: its partitions lie on two, its metadata log on a third.
    pub fn three_disks(mut self, id: i32) -> Self {
        self.three_disks.insert(id);
        self
    }

    /// Where the partitions of a node lie, whose first directory is given.
    pub(super) fn disks(&self, id: i32, first: &Path) -> Vec<PathBuf> {
        if self.three_disks.contains(&id) {
            ["disk-1", "disk-2"].map(|name| first.with_file_name(name)).to_vec()
        } else {
            vec![first.to_owned()]
        }
    }

    /// Listener names of every broker. The first is the inter-broker listener; each maps to the
    /// security protocol of the same name, else to PLAINTEXT.
    pub fn listeners(mut self, names: Vec<&str>) -> Self {
        self.listeners = names.into_iter().map(str::to_owned).collect();
        self
    }

    /// Where others are told to reach one of a broker's listeners: a proxy.
    pub fn advertise(mut self, id: i32, listener: &str, address: &str) -> Self {
        self.advertised.insert((id, listener.to_owned()), address.to_owned());
        self
    }

    /// Rack of a broker.
    pub fn rack(self, id: i32, rack: &str) -> Self {
        self.broker_property(id, "broker.rack", rack)
    }

    /// Whether the release knows no KRaft that could be used.
    pub(super) fn has_zookeeper(&self) -> bool {
        self.version.starts_with("2.")
    }

    /// Ids of the brokers.
    pub(super) fn broker_ids(&self) -> impl Iterator<Item = i32> + use<> {
        1..=self.brokers
    }

    /// Ids of the controllers.
    pub(super) fn controller_ids(&self) -> Vec<i32> {
        match self.separate_controllers {
            _ if self.has_zookeeper() => Vec::new(),
            Some(count) => (FIRST_CONTROLLER..FIRST_CONTROLLER + count).collect(),
            None => (1..=self.brokers.min(MOST_COMBINED_CONTROLLERS)).collect(),
        }
    }

    /// Ids of all processes.
    pub(super) fn node_ids(&self) -> Vec<i32> {
        let separate = self.controller_ids().into_iter();
        let separate = separate.filter(|id| *id >= FIRST_CONTROLLER);
        let zookeeper = self.has_zookeeper().then_some(ZOOKEEPER);
        separate.chain(zookeeper).chain(self.broker_ids()).collect()
    }

    /// Listener names that node `id` needs a port for.
    pub(super) fn listener_names(&self, id: i32) -> Vec<String> {
        let mut names = Vec::new();
        if id < FIRST_CONTROLLER {
            names.extend(self.listeners.iter().cloned());
        }
        if id == ZOOKEEPER {
            names.push(ZOOKEEPER_LISTENER.to_owned());
        }
        if self.controller_ids().contains(&id) {
            names.push(CONTROLLER_LISTENER.to_owned());
        }
        names
    }

    /// Names of the brokers' listeners.
    pub(super) fn broker_listeners(&self) -> &[String] {
        &self.listeners
    }

    /// Name of the listener that brokers and, by default, clients use.
    pub(super) fn first_listener(&self) -> &str {
        self.listeners.first().map_or("PLAINTEXT", String::as_str)
    }

    /// Text of the property file of node `id`.
    pub(super) fn property_file(
        &self,
        id: i32,
        ports: &BTreeMap<i32, BTreeMap<String, u16>>,
        log_dir: &Path,
    ) -> String {
        if id == ZOOKEEPER {
            return zookeeper_file(ports, &log_dir.display().to_string());
        }
        let mut properties = self.shared_properties();
        let address = |(name, port): (&String, &u16)| format!("{name}://127.0.0.1:{port}");
        let own = ports.get(&id).into_iter().flatten();
        let own: Vec<_> = own.map(address).collect();
        let is_broker = id < FIRST_CONTROLLER;
        let is_controller = self.controller_ids().contains(&id);
        let roles = [(is_broker, "broker"), (is_controller, "controller")];
        let roles: Vec<_> = roles.into_iter().filter(|role| role.0).collect();
        let roles = roles.iter().map(|role| role.1).collect::<Vec<_>>();
        let voters = self.controller_ids().into_iter().filter_map(|voter| {
            let port = ports.get(&voter)?.get(CONTROLLER_LISTENER)?;
            Some(format!("{voter}@127.0.0.1:{port}"))
        });
        let mut set = |key: &str, value: String| properties.insert(key.to_owned(), value);
        if let Some(port) = zookeeper_port(ports) {
            set("broker.id", id.to_string());
            set("zookeeper.connect", format!("127.0.0.1:{port}"));
        } else {
            set("process.roles", roles.join(","));
            set("node.id", id.to_string());
            set("controller.quorum.voters", voters.collect::<Vec<_>>().join(","));
        }
        let disks = self.disks(id, log_dir);
        let disks: Vec<_> = disks.iter().map(|disk| disk.display().to_string()).collect();
        set("log.dirs", disks.join(","));
        set("metadata.log.dir", log_dir.display().to_string());
        set("listeners", own.join(","));
        if is_broker {
            let listeners = ports.get(&id).into_iter().flatten();
            let listeners = listeners.filter(|(name, _)| *name != CONTROLLER_LISTENER);
            let advertised = listeners.map(|(name, port)| {
                let proxy = self.advertised.get(&(id, name.clone()));
                proxy.map_or_else(|| address((name, port)), |proxy| format!("{name}://{proxy}"))
            });
            let advertised: Vec<_> = advertised.collect();
            set("advertised.listeners", advertised.join(","));
            set("inter.broker.listener.name", self.first_listener().to_owned());
        }
        properties.extend(self.properties.clone());
        properties.extend(self.broker_properties.get(&id).cloned().unwrap_or_default());
        properties.iter().fold(String::new(), |mut text, (key, value)| {
            let _infallible = writeln!(text, "{key}={value}");
            text
        })
    }

    /// Small numbers, so that many clusters fit and start quickly; what tests look at is Kafka's
    /// default.
    fn shared_properties(&self) -> BTreeMap<String, String> {
        let replicas = self.brokers.min(3).to_string();
        let protocol = |name: &String| match name.as_str() {
            "SSL" | "SASL_PLAINTEXT" | "SASL_SSL" => format!("{name}:{name}"),
            _ => format!("{name}:PLAINTEXT"),
        };
        let protocols = self.listeners.iter().map(protocol);
        let protocols = protocols.chain([format!("{CONTROLLER_LISTENER}:PLAINTEXT")]);
        let protocols = protocols.collect::<Vec<_>>().join(",");
        [
            ("auto.create.topics.enable", "false"),
            ("controlled.shutdown.enable", "true"),
            ("controller.listener.names", CONTROLLER_LISTENER),
            ("default.replication.factor", &replicas),
            ("group.initial.rebalance.delay.ms", "0"),
            ("listener.security.protocol.map", &protocols),
            // The cleaner's map is allocated at start: 128 MiB of a small heap by default.
            ("log.cleaner.dedupe.buffer.size", "8388608"),
            ("num.io.threads", "4"),
            ("num.network.threads", "2"),
            ("offsets.topic.num.partitions", "5"),
            ("offsets.topic.replication.factor", &replicas),
            ("share.coordinator.state.topic.min.isr", "1"),
            ("share.coordinator.state.topic.num.partitions", "5"),
            ("share.coordinator.state.topic.replication.factor", &replicas),
            ("transaction.state.log.min.isr", "1"),
            ("transaction.state.log.num.partitions", "5"),
            ("transaction.state.log.replication.factor", &replicas),
        ]
        .into_iter()
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .collect()
    }
}

fn zookeeper_port(ports: &BTreeMap<i32, BTreeMap<String, u16>>) -> Option<u16> {
    ports.get(&ZOOKEEPER)?.get(ZOOKEEPER_LISTENER).copied()
}

fn zookeeper_file(ports: &BTreeMap<i32, BTreeMap<String, u16>>, data_dir: &str) -> String {
    let port = zookeeper_port(ports).unwrap_or_default();
    format!(
        "dataDir={data_dir}\nclientPort={port}\nclientPortAddress=127.0.0.1\n\
         admin.enableServer=false\nmaxClientCnxns=0\n"
    )
}
