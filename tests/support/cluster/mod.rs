//! Stock Kafka clusters in KRaft mode as plain processes on 127.0.0.1.

mod disks;
mod format;
pub mod ports;
mod spec;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use super::dist::Dist;
use super::eventually::eventually;
use super::judge::log::EARLIEST;
use super::judge::{Judge, NewTopic};
use super::process::Supervised;
use super::workspace::Workspace;
pub use spec::{CONTROLLER_LISTENER, ClusterSpec, FIRST_CONTROLLER, ZOOKEEPER};

const READY_DEADLINE: Duration = Duration::from_secs(90);
/// Above Kafka's own patience at a controlled shutdown without a controller.
const STOP_DEADLINE: Duration = Duration::from_secs(60);
const TOPIC_DEADLINE: Duration = Duration::from_secs(30);
/// How often ports that were free when looked for may be taken when used.
const START_ATTEMPTS: usize = 5;
const LOG_TAIL_LINES: usize = 15;

/// One process of a cluster.
#[derive(Debug)]
pub struct Node {
    /// Its id.
    pub id: i32,
    /// Port by listener name.
    pub ports: BTreeMap<String, u16>,
    /// Its log directory; where it has three disks, that of the metadata log.
    pub log_dir: PathBuf,
    /// What it wrote to standard output and error, over all its starts.
    pub log_file: PathBuf,
    properties: PathBuf,
    process: Option<Supervised>,
    is_paused: bool,
}

/// A running cluster; dropped, its processes are killed.
#[derive(Debug)]
pub struct Cluster {
    spec: ClusterSpec,
    dist: Dist,
    cluster_id: String,
    // Before the workspace: processes end first, then their files go.
    nodes: BTreeMap<i32, Node>,
    directory: PathBuf,
    _workspace: Option<Workspace>,
}

impl ClusterSpec {
    /// Starts the cluster in a workspace of its own and waits until it is ready.
    pub fn start(self) -> Result<Cluster> {
        let workspace = Workspace::new(&self.name)?;
        let directory = workspace.path().to_owned();
        Cluster::start(self, directory, Some(workspace))
    }

    /// Starts the cluster in a directory of the given workspace and waits until it is ready.
    pub fn start_in(self, workspace: &Workspace) -> Result<Cluster> {
        let directory = workspace.path().join(&self.name);
        Cluster::start(self, directory, None)
    }
}

impl Cluster {
    fn start(spec: ClusterSpec, directory: PathBuf, workspace: Option<Workspace>) -> Result<Self> {
        let mut cluster = Self {
            dist: Dist::get(&spec.version)?,
            cluster_id: format::random_id(),
            nodes: BTreeMap::new(),
            directory,
            _workspace: workspace,
            spec,
        };
        let mut attempt = 1;
        loop {
            match cluster.try_start() {
                Ok(()) => return Ok(cluster),
                Err(_) if attempt < START_ATTEMPTS && cluster.met_taken_port() => attempt += 1,
                Err(error) => {
                    let name = &cluster.spec.name;
                    let context = format!("start cluster {name}: {}", cluster.log_tails());
                    return Err(error).context(context);
                }
            }
        }
    }

    fn try_start(&mut self) -> Result<()> {
        self.nodes.clear();
        if self.directory.join("nodes").exists() {
            std::fs::remove_dir_all(self.directory.join("nodes"))?;
        }
        self.lay_out()?;
        for id in self.spec.node_ids() {
            self.start_again(id)?;
        }
        self.wait_ready()
    }

    /// Ports, property files and formatted log directories of all nodes.
    fn lay_out(&mut self) -> Result<()> {
        let ports = self.assign_ports()?;
        let mut formatted: Option<PathBuf> = None;
        for (id, own_ports) in &ports {
            let home = self.directory.join("nodes").join(id.to_string());
            std::fs::create_dir_all(&home)?;
            let log_dir = home.join("data");
            let properties = home.join("server.properties");
            let text = self.spec.property_file(*id, &ports, &log_dir);
            std::fs::write(&properties, text)?;
            match &formatted {
                _ if self.spec.has_zookeeper() => std::fs::create_dir_all(&log_dir)?,
                None => {
                    let release = self.spec.release_version.as_deref();
                    format::format(&self.dist, &self.cluster_id, &properties, release)?;
                }
                Some(formatted) => format::format_alike(formatted, &log_dir, *id)?,
            }
            for disk in self.spec.disks(*id, &log_dir) {
                if disk != log_dir {
                    format::format_alike(&log_dir, &disk, *id)?;
                }
            }
            formatted.get_or_insert_with(|| log_dir.clone());
            let node = Node {
                id: *id,
                ports: own_ports.clone(),
                log_dir,
                log_file: home.join("server.log"),
                properties,
                process: None,
                is_paused: false,
            };
            self.nodes.insert(*id, node);
        }
        Ok(())
    }

    fn assign_ports(&self) -> Result<BTreeMap<i32, BTreeMap<String, u16>>> {
        let ids = self.spec.node_ids();
        let wanted = ids.iter().flat_map(|id| {
            let names = self.spec.listener_names(*id).into_iter();
            names.map(|name| (*id, name))
        });
        let wanted: Vec<_> = wanted.collect();
        let mut ports: BTreeMap<i32, BTreeMap<String, u16>> = BTreeMap::new();
        for ((id, name), port) in wanted.iter().zip(ports::free_ports(wanted.len())?) {
            let own = ports.entry(*id).or_default();
            own.insert(name.clone(), port);
        }
        Ok(ports)
    }

    fn command(&self, node: &Node) -> Result<Command> {
        let heap = self.spec.heap_mb;
        let mut options = self.dist.logging(&self.spec.log_level)?;
        options.extend([format!("-Xmx{heap}m"), "-Djava.net.preferIPv4Stack=true".to_owned()]);
        if self.spec.fast_start {
            options.extend(
                ["-Xms64m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"].map(str::to_owned),
            );
        } else {
            options.extend([format!("-Xms{heap}m"), "-XX:+UseG1GC".to_owned()]);
        }
        options.extend(self.spec.jvm_options.iter().cloned());
        let main_class = match node.id {
            ZOOKEEPER => "org.apache.zookeeper.server.quorum.QuorumPeerMain",
            _ => "kafka.Kafka",
        };
        let mut command = self.dist.java(&options, main_class)?;
        command.arg(&node.properties);
        Ok(command)
    }

    /// Waits until every broker is registered and unfenced, as every broker sees it.
    pub fn wait_ready(&mut self) -> Result<()> {
        let ids: Vec<_> = self.spec.broker_ids().collect();
        self.wait_unfenced(&ids)
    }

    /// Waits until the given brokers are registered and unfenced, as each of them sees it.
    pub fn wait_unfenced(&mut self, ids: &[i32]) -> Result<()> {
        // A dead node will not become ready: no use in waiting for it.
        let mut dead = None;
        let what = format!("brokers {ids:?} of cluster {}", self.spec.name);
        let outcome = eventually(READY_DEADLINE, what, || {
            dead = self.first_dead(ids)?;
            if dead.is_some() {
                return Ok(());
            }
            for id in ids {
                self.sees_all(*id, ids)?;
            }
            Ok(())
        });
        if let Some(id) = dead {
            bail!("node {id} of cluster {} has ended", self.spec.name);
        }
        outcome
    }

    fn sees_all(&self, id: i32, ids: &[i32]) -> Result<()> {
        let metadata = self.judge(id)?.metadata(Some(&[]))?;
        let unfenced: Vec<_> = metadata.brokers.iter().map(|broker| broker.node_id.0).collect();
        for wanted in ids {
            ensure!(
                unfenced.contains(wanted),
                "broker {id} sees only brokers {unfenced:?} unfenced"
            );
        }
        Ok(())
    }

    fn first_dead(&mut self, ids: &[i32]) -> Result<Option<i32>> {
        for (id, node) in &mut self.nodes {
            let concerns_us = ids.contains(id) || *id >= FIRST_CONTROLLER;
            if let Some(process) = node.process.as_mut()
                && concerns_us
                && process.exit_code()?.is_some()
            {
                return Ok(Some(*id));
            }
        }
        Ok(None)
    }

    /// Its name in the specification.
    pub fn name(&self) -> &str {
        &self.spec.name
    }

    /// The id that its log directories were formatted with.
    pub fn cluster_id(&self) -> &str {
        &self.cluster_id
    }

    /// The release that it runs.
    pub fn dist(&self) -> &Dist {
        &self.dist
    }

    /// Addresses of the brokers' first listener, as clients want them.
    pub fn bootstrap(&self) -> String {
        self.bootstrap_on(self.spec.first_listener())
    }

    /// Addresses of one of the brokers' listeners.
    pub fn bootstrap_on(&self, listener: &str) -> String {
        self.addresses(listener).join(",")
    }

    /// Names of the brokers' listeners.
    pub fn listener_names(&self) -> Vec<String> {
        self.spec.broker_listeners().to_vec()
    }

    /// Addresses of the controllers.
    pub fn controllers(&self) -> String {
        self.addresses(CONTROLLER_LISTENER).join(",")
    }

    fn addresses(&self, listener: &str) -> Vec<String> {
        let ports = self.nodes.values().filter_map(|node| node.ports.get(listener));
        ports.map(|port| format!("127.0.0.1:{port}")).collect()
    }

    /// Address of one broker's first listener.
    pub fn address(&self, id: i32) -> Result<String> {
        let node = self.node(id)?;
        let port = node.ports.get(self.spec.first_listener());
        let port = port.with_context(|| format!("node {id} is not a broker"))?;
        Ok(format!("127.0.0.1:{port}"))
    }

    /// A connection to one broker.
    pub fn judge(&self, id: i32) -> Result<Judge> {
        Judge::connect(&self.address(id)?)
    }

    /// A connection to the first broker that runs and is not paused.
    pub fn any_judge(&self) -> Result<Judge> {
        let mut running = self.nodes.values().filter(|node| node.answers());
        let broker = running.find(|node| node.id < FIRST_CONTROLLER);
        self.judge(broker.context("no broker runs")?.id)
    }

    /// Creates a topic and waits until each running broker knows all its leaders: the answer to the
    /// request comes before the brokers have heard of it.
    pub fn create_topic(&self, topic: &NewTopic) -> Result<()> {
        self.any_judge()?.create_topic(topic)?;
        let running = self.nodes.values().filter(|node| node.answers());
        let running = running.map(|node| node.id).filter(|id| *id < FIRST_CONTROLLER);
        for id in running {
            let what = format!("topic {} on broker {id}", topic.name());
            eventually(TOPIC_DEADLINE, what, || {
                let mut judge = self.judge(id)?;
                let found = judge.topic(topic.name())?;
                let led = found.partitions.values().all(|partition| partition.leader >= 0);
                ensure!(led && found.partitions.len() == topic.partition_count(), "{found:?}");
                // A broker tells of its leadership a moment before it takes it up.
                for (index, _) in found.partitions.iter().filter(|(_, found)| found.leader == id) {
                    judge.list_offset(topic.name(), *index, EARLIEST)?;
                }
                Ok(())
            })?;
        }
        Ok(())
    }

    /// Id of a partition's leader.
    pub fn leader(&self, topic: &str, partition: i32) -> Result<i32> {
        let leader = self.any_judge()?.partition(topic, partition)?.leader;
        ensure!(leader >= 0, "{topic}-{partition} has no leader");
        Ok(leader)
    }

    /// Ids of the brokers, running or not.
    pub fn broker_ids(&self) -> Vec<i32> {
        self.spec.broker_ids().collect()
    }

    /// One node, broker or controller.
    pub fn node(&self, id: i32) -> Result<&Node> {
        self.nodes.get(&id).with_context(|| self.no_node(id))
    }

    /// All nodes, by id.
    pub fn nodes(&self) -> impl Iterator<Item = &Node> {
        self.nodes.values()
    }

    /// Everything that it wrote: one directory with logs, properties and data per node.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// SIGKILL, and waits.
    pub fn kill(&mut self, id: i32) -> Result<()> {
        self.process(id)?.kill()?;
        self.forget(id)
    }

    /// SIGTERM (controlled shutdown), and waits.
    pub fn stop(&mut self, id: i32) -> Result<()> {
        self.process(id)?.stop(STOP_DEADLINE)?;
        self.forget(id)
    }

    /// Starts a stopped node again, same ports and directory. Does not wait: see
    /// [`Cluster::wait_ready`].
    pub fn start_again(&mut self, id: i32) -> Result<()> {
        let node = self.node(id)?;
        ensure!(node.process.is_none(), "node {id} has not been stopped");
        let process = Supervised::spawn(&self.command(node)?, &node.log_file)?;
        self.node_mut(id)?.process = Some(process);
        Ok(())
    }

    /// SIGSTOP: alive, silent.
    pub fn pause(&mut self, id: i32) -> Result<()> {
        self.process(id)?.pause()?;
        self.node_mut(id)?.is_paused = true;
        Ok(())
    }

    /// SIGCONT.
    pub fn resume(&mut self, id: i32) -> Result<()> {
        self.process(id)?.resume()?;
        self.node_mut(id)?.is_paused = false;
        Ok(())
    }

    /// Stops everything in good order: brokers before controllers of their own.
    pub fn shut_down(&mut self) -> Result<()> {
        let running = self.nodes.values_mut().filter_map(|node| node.process.as_mut());
        // All at once: combined nodes need each other for a controlled shutdown.
        for process in running {
            process.signal("TERM")?;
        }
        for node in self.nodes.values_mut() {
            if let Some(mut process) = node.process.take() {
                process.wait(STOP_DEADLINE)?;
            }
        }
        Ok(())
    }

    fn process(&mut self, id: i32) -> Result<&mut Supervised> {
        let process = self.node_mut(id)?.process.as_mut();
        process.with_context(|| format!("node {id} does not run"))
    }

    fn forget(&mut self, id: i32) -> Result<()> {
        let node = self.node_mut(id)?;
        node.process = None;
        node.is_paused = false;
        Ok(())
    }

    fn node_mut(&mut self, id: i32) -> Result<&mut Node> {
        let missing = self.no_node(id);
        self.nodes.get_mut(&id).context(missing)
    }

    fn no_node(&self, id: i32) -> String {
        format!("cluster {} has no node {id}", self.spec.name)
    }

    fn met_taken_port(&self) -> bool {
        let taken = |node: &Node| {
            std::fs::read_to_string(&node.log_file)
                .is_ok_and(|log| log.contains("Address already in use"))
        };
        self.nodes.values().any(taken)
    }

    fn log_tails(&self) -> String {
        let tail = |node: &Node| {
            let log = std::fs::read_to_string(&node.log_file).unwrap_or_default();
            let lines: Vec<_> = log.lines().collect();
            let from = lines.len().saturating_sub(LOG_TAIL_LINES);
            format!("\n--- node {}\n{}", node.id, lines[from..].join("\n"))
        };
        self.nodes.values().map(tail).collect()
    }
}

impl Node {
    /// Port of the first of the given listeners that it has.
    pub fn port(&self, listener: &str) -> Option<u16> {
        self.ports.get(listener).copied()
    }

    /// Whether a question to it can be answered.
    fn answers(&self) -> bool {
        self.process.is_some() && !self.is_paused
    }

    /// Pid while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.process.as_ref().map(Supervised::pid)
    }
}
