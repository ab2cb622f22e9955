//! The built daemon as a process: its configuration from two clusters, its life, its HTTP answers.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use super::cluster::{Cluster, ports};
use super::eventually::eventually;
use super::process::Supervised;
use super::workspace::Workspace;

/// The seat's broker id unless a test says otherwise.
pub const SEAT: i32 = 9001;
const READY_DEADLINE: Duration = Duration::from_secs(60);
const STOP_DEADLINE: Duration = Duration::from_secs(40);
const HOSTS: &str = "/etc/hosts";
const HTTP_TIMEOUT: Duration = Duration::from_secs(5);

/// A daemon to start, from two clusters: one link named `test`.
#[derive(Clone, Debug)]
pub struct DaemonSpec {
    name: String,
    broker_id: i32,
    source: String,
    destination: String,
    controllers: String,
    listeners: Vec<String>,
    advertised: BTreeMap<String, String>,
    include: Vec<String>,
    sections: BTreeMap<String, Vec<String>>,
    arguments: Vec<String>,
    log_filter: String,
    hosts: Option<PathBuf>,
}

/// A started daemon; dropped, it is killed.
#[derive(Debug)]
pub struct Daemon {
    broker_id: i32,
    binary: PathBuf,
    arguments: Vec<String>,
    log_filter: String,
    hosts: Option<PathBuf>,
    config: PathBuf,
    log: PathBuf,
    http: String,
    /// Where the seat's listeners are, the first one first: what brokers and clients are told.
    seat: Vec<String>,
    process: Option<Supervised>,
}

impl DaemonSpec {
    /// Mirrors `include` from one cluster into the other.
    pub fn new(source: &Cluster, destination: &Cluster, include: &[&str]) -> Self {
        Self {
            name: "daemon".to_owned(),
            broker_id: SEAT,
            source: source.bootstrap(),
            destination: destination.bootstrap(),
            controllers: destination.controllers(),
            listeners: destination.listener_names(),
            advertised: BTreeMap::new(),
            include: include.iter().map(|pattern| (*pattern).to_owned()).collect(),
            sections: BTreeMap::new(),
            arguments: Vec::new(),
            log_filter: "info".to_owned(),
            hosts: None,
        }
    }

    /// Another directory of the workspace: for a second daemon of one test.
    pub fn name(mut self, name: &str) -> Self {
        self.name = name.to_owned();
        self
    }

    /// Another seat.
    pub fn broker_id(mut self, id: i32) -> Self {
        self.broker_id = id;
        self
    }

    /// Another source, e.g. a fake one.
    pub fn source(mut self, bootstrap: &str) -> Self {
        self.source = bootstrap.to_owned();
        self
    }

    /// Other bootstrap servers of the destination, separated by commas.
    pub fn destination(mut self, bootstrap: &str) -> Self {
        self.destination = bootstrap.to_owned();
        self
    }

    /// Other listeners than the destination's brokers have.
    pub fn listeners(mut self, names: &[&str]) -> Self {
        self.listeners = names.iter().map(|name| (*name).to_owned()).collect();
        self
    }

    /// Other controllers of the destination, e.g. a proxy.
    pub fn controllers(mut self, addresses: &str) -> Self {
        self.controllers = addresses.to_owned();
        self
    }

    /// Where followers and clients are told to reach one of the seat's listeners: a proxy.
    pub fn advertise(mut self, listener: &str, address: &str) -> Self {
        self.advertised.insert(listener.to_owned(), address.to_owned());
        self
    }

    /// One more line in a section: `daemon`, `destination`, `link.source`, `link.topics`,
    /// `link.configs`, `link.groups` or `link.limits`.
    pub fn line(mut self, section: &str, line: &str) -> Self {
        self.sections.entry(section.to_owned()).or_default().push(line.to_owned());
        self
    }

    /// One more argument of the command line.
    pub fn argument(mut self, argument: &str) -> Self {
        self.arguments.push(argument.to_owned());
        self
    }

    /// `RUST_LOG` of the daemon, e.g. `lockstep=debug`.
    pub fn log_filter(mut self, filter: &str) -> Self {
        self.log_filter = filter.to_owned();
        self
    }

    /// Names are looked up in this file too, which may change: see [`can_have_hosts`].
    pub fn hosts(mut self, file: &Path) -> Self {
        self.hosts = Some(file.to_owned());
        self
    }

    /// Writes the file and starts the daemon; does not wait. `binary` is
    /// `env!("CARGO_BIN_EXE_lockstep")`, which only the test's own file can say.
    pub fn start_in(self, binary: &str, workspace: &Workspace) -> Result<Daemon> {
        let mut daemon = self.prepare_in(binary, workspace)?;
        daemon.start_again()?;
        Ok(daemon)
    }

    /// Writes the file and leaves the start to [`Daemon::start_again`].
    pub fn prepare_in(self, binary: &str, workspace: &Workspace) -> Result<Daemon> {
        let listener_ports = ports::free_ports(self.listeners.len() + 1)?;
        let (http, listener_ports) = listener_ports.split_first().context("a port")?;
        let http = format!("127.0.0.1:{http}");
        ensure!(!listener_ports.is_empty(), "a daemon without listeners");
        let seat = listener_ports.iter().map(|port| format!("127.0.0.1:{port}")).collect();
        let home = workspace.path().join(&self.name);
        std::fs::create_dir_all(&home)?;
        let config = home.join("lockstep.toml");
        std::fs::write(&config, self.text(&http, listener_ports)?)?;
        Ok(Daemon {
            broker_id: self.broker_id,
            binary: binary.into(),
            arguments: self.arguments,
            log_filter: self.log_filter,
            hosts: self.hosts,
            log: home.join("lockstep.log"),
            config,
            http,
            seat,
            process: None,
        })
    }

    fn text(&self, http: &str, listener_ports: &[u16]) -> Result<String> {
        let mut text = String::new();
        let id = self.broker_id;
        write!(text, "[daemon]\nbroker_id = {id}\nhttp = \"{http}\"\n")?;
        self.put_lines(&mut text, "daemon")?;
        writeln!(text, "\n[destination]\nbootstrap_servers = {}", array(&self.destination))?;
        writeln!(text, "controllers = {}", array(&self.controllers))?;
        self.put_lines(&mut text, "destination")?;
        for (name, port) in self.listeners.iter().zip(listener_ports) {
            writeln!(text, "[destination.listeners.{name}]\nbind = \"127.0.0.1:{port}\"")?;
            let advertised = self.advertised.get(name).cloned();
            let advertised = advertised.unwrap_or_else(|| format!("127.0.0.1:{port}"));
            writeln!(text, "advertise = {advertised:?}")?;
        }
        writeln!(text, "\n[[link]]\nname = \"test\"\n[link.source]")?;
        writeln!(text, "bootstrap_servers = {}", array(&self.source))?;
        self.put_lines(&mut text, "link.source")?;
        writeln!(text, "[link.topics]\ninclude = {:?}", self.include)?;
        self.put_lines(&mut text, "link.topics")?;
        for section in ["link.configs", "link.groups", "link.limits"] {
            if self.sections.contains_key(section) {
                writeln!(text, "[{section}]")?;
                self.put_lines(&mut text, section)?;
            }
        }
        Ok(text)
    }

    fn put_lines(&self, text: &mut String, section: &str) -> Result<()> {
        for line in self.sections.get(section).into_iter().flatten() {
            writeln!(text, "{line}")?;
        }
        Ok(())
    }
}

impl Daemon {
    /// Starts it, the first time or again, with the same file and ports; does not wait.
    pub fn start_again(&mut self) -> Result<()> {
        ensure!(self.process.is_none(), "the daemon has not been stopped");
        let mut command = match &self.hosts {
            Some(hosts) => with_hosts(hosts, &self.binary),
            None => Command::new(&self.binary),
        };
        command.args(["run", "--config"]).arg(&self.config).args(&self.arguments);
        command.env("RUST_LOG", &self.log_filter);
        self.process = Some(Supervised::spawn(&command, &self.log)?);
        Ok(())
    }

    /// Waits until `/readyz` says so; an early end fails at once with its log.
    pub fn wait_ready(&mut self) -> Result<()> {
        let mut ended = None;
        let what = format!("the daemon to be ready; its log: {}", self.log.display());
        let outcome = eventually(READY_DEADLINE, what, || {
            ended = self.process()?.exit_code()?;
            if ended.is_some() {
                return Ok(());
            }
            let (status, body) = self.get("/readyz")?;
            ensure!(status == 200, "/readyz answers {status}: {body}");
            Ok(())
        });
        match ended {
            Some(code) => bail!("the daemon ended with code {code}:\n{}", self.log_text()?),
            None => outcome,
        }
    }

    /// SIGTERM, and waits for the end; its exit code.
    pub fn stop(&mut self) -> Result<i32> {
        let code = self.process()?.stop(STOP_DEADLINE)?;
        self.process = None;
        Ok(code)
    }

    /// SIGKILL.
    pub fn kill(&mut self) -> Result<()> {
        self.process()?.kill()?;
        self.process = None;
        Ok(())
    }

    /// Waits until it ends by itself; its exit code.
    pub fn wait(&mut self, deadline: Duration) -> Result<i32> {
        let code = self.process()?.wait(deadline)?;
        self.process = None;
        Ok(code)
    }

    /// SIGSTOP.
    pub fn pause(&mut self) -> Result<()> {
        self.process()?.pause()
    }

    /// SIGCONT.
    pub fn resume(&mut self) -> Result<()> {
        self.process()?.resume()
    }

    /// Sends a signal by name, e.g. `HUP`.
    pub fn signal(&mut self, name: &str) -> Result<()> {
        self.process()?.signal(name)
    }

    /// Pid while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.process.as_ref().map(Supervised::pid)
    }

    /// Resident memory in bytes.
    pub fn resident_bytes(&self) -> Result<u64> {
        let pid = self.pid().context("the daemon does not run")?;
        let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kibibytes = line.and_then(|line| line.split_whitespace().next());
        let kibibytes: u64 = kibibytes.context("VmRSS")?.parse()?;
        Ok(kibibytes << 10)
    }

    /// Its seat.
    pub fn broker_id(&self) -> i32 {
        self.broker_id
    }

    /// Its configuration file.
    pub fn config(&self) -> &Path {
        &self.config
    }

    /// `http://host:port` of its API.
    pub fn url(&self) -> String {
        format!("http://{}", self.http)
    }

    /// `host:port` of the seat's first listener.
    pub fn seat_address(&self) -> String {
        self.seat[0].clone()
    }

    /// `host:port` of each of the seat's listeners, in the order of their names in the destination.
    pub fn seat_addresses(&self) -> &[String] {
        &self.seat
    }

    /// Everything that it has logged, over all its starts.
    pub fn log_text(&self) -> Result<String> {
        Ok(String::from_utf8_lossy(&std::fs::read(&self.log)?).into_owned())
    }

    /// Status and body of a GET.
    pub fn get(&self, path: &str) -> Result<(u16, String)> {
        let request = ureq::get(format!("{}{path}", self.url()))
            .config()
            .timeout_global(Some(HTTP_TIMEOUT))
            .http_status_as_error(false)
            .build();
        let mut answer = request.call().with_context(|| format!("GET {path}"))?;
        Ok((answer.status().as_u16(), answer.body_mut().read_to_string()?))
    }

    /// Body of a GET that has to be answered with 200.
    pub fn json(&self, path: &str) -> Result<Value> {
        let (status, body) = self.get(path)?;
        ensure!(status == 200, "{path} answers {status}: {body}");
        serde_json::from_str(&body).with_context(|| format!("read {body}"))
    }

    /// Its one link.
    pub fn link(&self) -> Result<Value> {
        self.json("/v1/links/test")
    }

    /// One mirror with its partitions.
    pub fn mirror(&self, topic: &str) -> Result<Value> {
        self.json(&format!("/v1/links/test/mirrors/{topic}"))
    }

    /// All metrics by series, e.g. `lockstep_seat_fenced` or `name{topic="orders"}`.
    pub fn metrics(&self) -> Result<BTreeMap<String, f64>> {
        let (status, body) = self.get("/metrics")?;
        ensure!(status == 200, "/metrics answers {status}: {body}");
        let lines = body.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
        lines
            .map(|line| {
                let (series, value) = line.rsplit_once(' ').context("a metric without value")?;
                let value = value.parse().with_context(|| format!("read metric {line}"))?;
                Ok((series.to_owned(), value))
            })
            .collect()
    }

    /// Sum over the series of a metric whose text contains all `labels`, e.g.
    /// `topic="orders"`; 0 where there is none.
    pub fn metric(&self, name: &str, labels: &[&str]) -> Result<f64> {
        let wanted = self.metrics()?.into_iter().filter(|(series, _)| {
            let own_name = series.split('{').next();
            own_name == Some(name) && labels.iter().all(|label| series.contains(label))
        });
        Ok(wanted.map(|(_, value)| value).sum())
    }

    fn process(&mut self) -> Result<&mut Supervised> {
        self.process.as_mut().context("the daemon does not run")
    }
}

/// Whether this machine lets anybody have a file in place of `/etc/hosts`, in namespaces of his own:
/// no right is needed, but some machines forbid it.
pub fn can_have_hosts() -> bool {
    let probe =
        Command::new("unshare").args(["-rm", "mount", "--bind", "/dev/null", HOSTS]).status();
    probe.is_ok_and(|status| status.success())
}

/// Runs the program where the file stands in place of `/etc/hosts`; the pid is the program's.
fn with_hosts(file: &Path, binary: &Path) -> Command {
    let mut command = Command::new("unshare");
    let script = format!("mount --bind \"$1\" {HOSTS} && shift && exec \"$@\"");
    command.args(["-rm", "sh", "-c", &script, "sh"]).arg(file).arg(binary);
    command
}

/// A TOML array from Kafka's comma-separated list.
fn array(addresses: &str) -> String {
    format!("{:?}", addresses.split(',').collect::<Vec<_>>())
}
