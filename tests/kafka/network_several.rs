//! The network between the daemon and clusters of several brokers and controllers, of which one is
//! half-open: what the others have goes on, and nothing is stormed. And names that come to mean
//! another address.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::support::cluster::{CONTROLLER_LISTENER, Cluster};
use crate::support::compare::wait_identical;
use crate::support::daemon::{Daemon, DaemonSpec, SEAT, can_have_hosts};
use crate::support::judge::NewTopic;
use crate::support::pair::{Flow, Pair, TOPIC};
use crate::support::proxy::{Fault, Proxy};
use crate::support::workspace::Workspace;
use crate::support::{ClusterSpec, eventually, scenario};

/// Listener that only the daemon uses, through a proxy.
const LINK: &str = "LINK";
/// The name of the source's brokers, where names can be changed.
const NAME: &str = "source.test";
/// Trouble has to show within this time.
const SHOWN_WITHIN: Duration = Duration::from_secs(30);
/// The promise is 30 s; the rest is for machines that do much else.
const HEALED_WITHIN: Duration = Duration::from_secs(45);
/// About 12 s of them.
const LONGER_THAN_A_SESSION: i64 = 1_200;
const LINES_A_MINUTE: usize = 60;
/// Of each proxy.
const ATTEMPTS_A_SECOND: usize = 12;

#[test]
fn one_half_open_broker_of_several_stops_only_what_it_leads() {
    scenario("network-several", |workspace| {
        let mut network = Network::start(workspace)?;
        network.one_of_each_is_half_open()?;
        network.a_name_means_another_address()?;
        network.pair.end().map(drop)
    });
}

/// Two brokers at each side, those of the destination controllers too, each behind proxies of its own.
struct Network {
    pair: Pair,
    to_source: Vec<Proxy>,
    to_brokers: Vec<Proxy>,
    to_controllers: Vec<Proxy>,
    /// What stands in place of `/etc/hosts`.
    hosts: Option<PathBuf>,
}

impl Network {
    fn start(workspace: &Workspace) -> Result<Self> {
        let proxies = || [Proxy::start(), Proxy::start()].into_iter().collect::<Result<Vec<_>>>();
        let (to_source, to_brokers, to_controllers) = (proxies()?, proxies()?, proxies()?);
        let hosts = can_have_hosts().then(|| workspace.path().join("hosts"));
        if let Some(hosts) = &hosts {
            std::fs::write(hosts, format!("127.0.0.1 localhost {NAME}\n"))?;
        }
        let host = if hosts.is_some() { NAME } else { "127.0.0.1" };
        let named = |proxy: &Proxy| format!("{host}:{}", proxy.port());
        let source = ClusterSpec::new("source").brokers(2).heap_mb(384);
        let source = source
            .listeners(vec!["PLAINTEXT", LINK])
            .advertise(1, LINK, &named(&to_source[0]))
            .advertise(2, LINK, &named(&to_source[1]))
            .start_in(workspace)?;
        let destination = ClusterSpec::new("destination").brokers(2).heap_mb(384);
        let destination = destination
            .listeners(vec!["PLAINTEXT", LINK])
            .advertise(1, LINK, &to_brokers[0].address())
            .advertise(2, LINK, &to_brokers[1].address())
            .start_in(workspace)?;
        lead(&to_source, &source, LINK)?;
        lead(&to_brokers, &destination, LINK)?;
        lead(&to_controllers, &destination, CONTROLLER_LISTENER)?;
        let both =
            |proxies: &[Proxy]| proxies.iter().map(Proxy::address).collect::<Vec<_>>().join(",");
        let daemon = DaemonSpec::new(&source, &destination, &[TOPIC, "late"])
            .source(&to_source.iter().map(named).collect::<Vec<_>>().join(","))
            .destination(&both(&to_brokers))
            .controllers(&both(&to_controllers));
        let daemon = match &hosts {
            Some(hosts) => daemon.hosts(hosts),
            None => daemon,
        };
        let daemon = daemon.prepare_in(env!("CARGO_BIN_EXE_lockstep"), workspace)?;
        let flow = Flow { partitions: 2, batches_a_second: 10 };
        let pair = Pair::start(source, destination, [daemon], flow)?;
        Ok(Self { pair, to_source, to_brokers, to_controllers, hosts })
    }

    /// A source broker, and a destination broker with its controller, which is not active.
    fn one_of_each_is_half_open(&mut self) -> Result<()> {
        let (begun, lines) = (Instant::now(), self.log_lines()?);
        let active = self.pair.destination.any_judge()?.active_controller()?;
        let idle = usize::from(active == 1);
        let before = self.pair.partition(0)?;
        let silent = [&self.to_source[0], &self.to_brokers[idle], &self.to_controllers[idle]];
        silent.iter().for_each(|proxy| proxy.set(Fault::Silent));
        let led = self.led_by(1)?;
        eventually(SHOWN_WITHIN, "the half-open source broker to show", || {
            let mirror = self.mirror()?;
            let partitions = mirror["partitions"].as_array().context("partitions")?;
            for (number, one) in (0..).zip(partitions) {
                let is_hit = number == led;
                ensure!((one["state"] == "SourceUnavailable") == is_hit, "{led}: {one}");
                ensure!(!is_hit || one["reason"] == "SOURCE_UNREACHABLE", "{one}");
            }
            Ok(())
        })?;
        println!("one of several half-open: shown after {:.1?}", begun.elapsed());
        // What the other source broker leads goes on, longer than a session takes to end.
        let other = LONGER_THAN_A_SESSION / 2;
        self.pair.wait_more("the other partition", other, HEALED_WITHIN)?;
        let now = self.pair.partition(0)?;
        ensure!(now.leader == SEAT && now.leader_epoch == before.leader_epoch, "{now:?}");
        // Its leader moves away from the broker that we cannot reach.
        let moved = Instant::now();
        self.move_source(led, &[2, 1])?;
        self.pair.wait_passed_within(HEALED_WITHIN)?;
        println!("another leader at the source is followed after {:.1?}", moved.elapsed());
        self.pair.source.create_topic(&NewTopic::new("late", 1).assignment(vec![vec![2, 1]]))?;
        let (source, destination) = (&self.pair.source, &self.pair.destination);
        wait_identical(source, destination, "late", "late", HEALED_WITHIN)?;
        silent.iter().for_each(|proxy| proxy.set(Fault::None));
        self.move_source(led, &[1, 2])?;
        self.wait_well("all that was half-open")?;
        self.was_quiet("one of several", begun, lines)
    }

    /// Nobody is at the old address any more.
    fn a_name_means_another_address(&self) -> Result<()> {
        let Some(hosts) = &self.hosts else {
            println!("NOT RUN: this machine lets nobody replace /etc/hosts (unshare -rm)");
            return Ok(());
        };
        let (begun, lines) = (Instant::now(), self.log_lines()?);
        let second = Ipv4Addr::new(127, 0, 0, 2);
        let at = |proxy: &Proxy| Proxy::start_at(SocketAddr::from((second, proxy.port())));
        let moved = self.to_source.iter().map(at).collect::<Result<Vec<_>>>()?;
        lead(&moved, &self.pair.source, LINK)?;
        self.to_source.iter().for_each(|proxy| proxy.set(Fault::Refused));
        // In place: what is mounted is the file, not its name.
        std::fs::write(hosts, format!("127.0.0.1 localhost\n{second} {NAME}\n"))?;
        self.pair.wait_passed_within(HEALED_WITHIN)?;
        println!("another address for a name: over after {:.1?}", begun.elapsed());
        ensure!(moved.iter().all(|proxy| proxy.accepted_since(begun) > 0), "not used");
        self.was_quiet("another address", begun, lines)
    }

    /// The partition that a source broker leads; of two brokers and two partitions each has one.
    fn led_by(&self, broker: i32) -> Result<i32> {
        let found = self.pair.source.any_judge()?.topic(TOPIC)?.partitions;
        let mut led = found.iter().filter(|(_, now)| now.leader == broker).map(|(id, _)| *id);
        let first = led.next();
        ensure!(led.next().is_none(), "broker {broker} leads both: {found:?}");
        first.with_context(|| format!("broker {broker} leads nothing: {found:?}"))
    }

    fn move_source(&self, partition: i32, replicas: &[i32]) -> Result<()> {
        let mut judge = self.pair.source.any_judge()?;
        judge.reassign(TOPIC, partition, replicas)?;
        eventually(HEALED_WITHIN, "another leader at the source", || {
            let _refused = judge.elect_leader(TOPIC, partition, false);
            let found = judge.partition(TOPIC, partition)?;
            ensure!(found.leader == replicas[0], "{found:?}");
            Ok(())
        })
    }

    fn wait_well(&self, what: &str) -> Result<()> {
        let healed = Instant::now();
        self.pair.wait_passed_within(HEALED_WITHIN)?;
        eventually(HEALED_WITHIN, format!("{what} to be over"), || {
            let mirror = self.mirror()?;
            for one in mirror["partitions"].as_array().context("partitions")? {
                ensure!(one["state"] == "InSync" || one["state"] == "CatchingUp", "{one}");
            }
            Ok(())
        })?;
        println!("{what}: healed after {:.1?}", healed.elapsed());
        Ok(())
    }

    fn was_quiet(&self, what: &str, begun: Instant, before: usize) -> Result<()> {
        self.pair.watch.check().with_context(|| what.to_owned())?;
        let minutes = usize::try_from(begun.elapsed().as_secs() / 60)? + 1;
        let lines = self.log_lines()? - before;
        let proxies = self.to_source.iter().chain(&self.to_brokers).chain(&self.to_controllers);
        let most = proxies.map(|proxy| proxy.most_a_second(begun)).max().unwrap_or(0);
        println!("{what}: {lines} log lines, at most {most} connections a second");
        ensure!(lines <= LINES_A_MINUTE * minutes, "{what}: {lines} log lines");
        ensure!(most <= ATTEMPTS_A_SECOND, "{what}: {most} connections in one second");
        Ok(())
    }

    fn mirror(&self) -> Result<serde_json::Value> {
        let mirror = self.daemon()?.mirror(TOPIC)?;
        ensure!(!mirror.to_string().contains("Failed"), "ended in Failed: {mirror}");
        Ok(mirror)
    }

    fn log_lines(&self) -> Result<usize> {
        Ok(self.daemon()?.log_text()?.lines().count())
    }

    fn daemon(&self) -> Result<&Daemon> {
        self.pair.daemons.get(&SEAT).context("a daemon")
    }
}

/// The first to broker 1, the second to broker 2.
fn lead(proxies: &[Proxy], cluster: &Cluster, listener: &str) -> Result<()> {
    for (id, proxy) in (1..).zip(proxies) {
        let port = cluster.node(id)?.port(listener);
        let port = port.with_context(|| format!("no listener {listener}"))?;
        proxy.lead_to(&format!("127.0.0.1:{port}"))?;
    }
    Ok(())
}
