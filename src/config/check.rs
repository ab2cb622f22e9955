//! From raw to checked: defaults, ranges, and the relations between fields, each checked once here.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use super::problem::{Placed, Problem};
use super::raw::{RawDaemon, RawDestination, RawFile, RawLink, RawListener, RawSource, RawTopics};
use super::{Config, DaemonConfig, values};
use crate::client::Endpoint;
use crate::link::config::{LinkConfig, SourceConfig, TopicsConfig};
use crate::mirror::decision::Policies;
use crate::mirror::filter::TopicFilter;
use crate::seat::config::{DestinationConfig, ListenerConfig};
use crate::tail::StartAt;
use crate::types::BrokerId;

const DEFAULT_HTTP: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 8900);
const DEFAULT_MEMORY: u64 = 512 << 20;
const DEFAULT_CONFIGS_INTERVAL: Duration = Duration::from_secs(5);

/// Below this not even a few fetch answers fit.
const LEAST_MEMORY: u64 = 16 << 20;

/// More connections to one broker than this help nobody.
const MOST_CONNECTIONS: usize = 64;

/// Kafka's own limit: replication factors are 16 bits wide.
const MOST_REPLICAS: i64 = 32_767;

/// Collects problems, so that one run names them all.
#[derive(Default)]
struct Findings {
    problems: Vec<Problem>,
}

impl Findings {
    /// The value, or a note of what is wrong with it.
    fn parse<T>(
        &mut self,
        raw: &Placed<String>,
        parser: impl Fn(&str) -> Result<T, String>,
    ) -> Option<T> {
        match parser(&raw.value) {
            Ok(value) => Some(value),
            Err(text) => self.refuse(raw, text),
        }
    }

    /// The value, the default where there is none, or a note of what is wrong with it.
    fn parse_or<T>(
        &mut self,
        raw: Option<&Placed<String>>,
        default: T,
        parser: impl Fn(&str) -> Result<T, String>,
    ) -> Option<T> {
        raw.map_or(Some(default), |raw| self.parse(raw, parser))
    }

    /// The value, or a note that the key is missing from `table`.
    fn require<'a, T>(
        &mut self,
        raw: &'a Option<T>,
        table: &Placed<()>,
        key: &str,
    ) -> Option<&'a T> {
        if raw.is_none() {
            self.refuse(table, format!("`{key}` is missing; add it"))
        } else {
            raw.as_ref()
        }
    }

    fn refuse<T, U>(&mut self, at: &Placed<U>, text: impl Into<String>) -> Option<T> {
        self.problems.push(at.problem(text));
        None
    }

    fn endpoints(&mut self, raw: &[Placed<String>]) -> Vec<Endpoint> {
        let parsed = raw.iter().filter_map(|one| self.parse(one, values::endpoint));
        parsed.collect()
    }

    fn bootstrap(
        &mut self,
        raw: &Option<Vec<Placed<String>>>,
        table: &Placed<()>,
    ) -> Option<Vec<Endpoint>> {
        let raw = self.require(raw, table, "bootstrap_servers")?;
        if raw.is_empty() {
            return self.refuse(table, "`bootstrap_servers` is empty; name at least one broker");
        }
        Some(self.endpoints(raw))
    }
}

/// Makes the checked configuration, or says all that is wrong.
pub fn check(raw: &RawFile) -> Result<Config, Vec<Problem>> {
    let mut findings = Findings::default();
    let daemon = daemon(&raw.daemon, &mut findings);
    let destination = destination(&raw.destination, &mut findings);
    let links: Vec<Option<LinkConfig>> =
        raw.links.iter().map(|one| link(one, &mut findings)).collect();
    let links: Option<Vec<LinkConfig>> = links.into_iter().collect();
    if let (Some(daemon), Some(destination), Some(links)) = (daemon, destination, links) {
        let config = Config { daemon, destination, links, notices: Vec::new() };
        relations(&config, raw, &mut findings);
        if findings.problems.is_empty() {
            return Ok(config);
        }
    }
    Err(findings.problems)
}

fn daemon(raw: &RawDaemon, findings: &mut Findings) -> Option<DaemonConfig> {
    let broker_id =
        findings.require(&raw.broker_id, &raw.here, "broker_id").and_then(
            |id| match i32::try_from(id.value) {
                Ok(value) if value >= 0 => Some(BrokerId(value)),
                _ => findings.refuse(id, "is no broker id; write a number from 0 to 2147483647"),
            },
        );
    let http = findings.parse_or(raw.http.as_ref(), DEFAULT_HTTP, |text| {
        let http = values::socket(text)?;
        if http.ip().is_loopback() {
            return Ok(http);
        }
        Err("anything but loopback requires a token or mTLS, which come later; write \"127.0.0.1:8900\"".to_owned())
    });
    let memory = findings.parse_or(raw.memory.as_ref(), DEFAULT_MEMORY, |text| {
        let memory = values::size(text)?;
        if memory < LEAST_MEMORY {
            return Err(format!("\"{text}\" is too little; write at least \"16MiB\""));
        }
        Ok(memory)
    });
    Some(DaemonConfig {
        broker_id: broker_id?,
        http: http?,
        memory_bytes: usize::try_from(memory?).unwrap_or(usize::MAX),
        state_dir: raw.state_dir.as_ref().map(|dir| PathBuf::from(&dir.value)),
    })
}

fn destination(raw: &RawDestination, findings: &mut Findings) -> Option<DestinationConfig> {
    let bootstrap = findings.bootstrap(&raw.bootstrap_servers, &raw.here);
    let controllers = findings.endpoints(raw.controllers.as_deref().unwrap_or_default());
    if raw.listeners.is_empty() {
        let text = "has no listeners; add a table [destination.listeners.NAME] for each listener \
                    name that the destination's brokers have";
        findings.problems.push(raw.here.problem(text));
    }
    let listeners: Vec<Option<ListenerConfig>> =
        raw.listeners.iter().map(|(name, one)| listener(name, one, findings)).collect();
    Some(DestinationConfig {
        bootstrap: bootstrap?,
        cluster_id: raw.cluster_id.as_ref().map(|id| id.value.clone()),
        controllers,
        listeners: listeners.into_iter().collect::<Option<_>>()?,
    })
}

fn listener(name: &str, raw: &RawListener, findings: &mut Findings) -> Option<ListenerConfig> {
    let bind = findings.require(&raw.bind, &raw.here, "bind").and_then(|bind| {
        let socket = findings.parse(bind, values::socket)?;
        if socket.port() == 0 {
            return findings.refuse(bind, "has port 0; brokers and clients need a fixed port");
        }
        Some(socket)
    });
    let advertise =
        findings.require(&raw.advertise, &raw.here, "advertise").and_then(|advertise| {
            let endpoint = findings.parse(advertise, values::endpoint)?;
            let address = endpoint.host.trim_matches(['[', ']']).parse::<IpAddr>();
            if address.is_ok_and(|address| address.is_unspecified()) {
                let text = format!(
                    "\"{endpoint}\" cannot be connected to; write the name or address by which \
                     brokers and clients reach this machine"
                );
                return findings.refuse(advertise, text);
            }
            Some(endpoint)
        });
    Some(ListenerConfig { name: name.to_owned(), bind: bind?, advertise: advertise? })
}

fn link(raw: &RawLink, findings: &mut Findings) -> Option<LinkConfig> {
    let name = findings.require(&raw.name, &raw.here, "name").and_then(|name| {
        findings.parse(name, |text| values::link_name(text).map(|()| text.into()))
    });
    let configs_interval =
        findings.parse_or(raw.configs_interval.as_ref(), DEFAULT_CONFIGS_INTERVAL, |text| {
            match values::duration(text)? {
                Duration::ZERO => Err("must be longer than nothing; write \"5s\"".to_owned()),
                interval => Ok(interval),
            }
        });
    let source = source(&raw.source, findings);
    let topics = topics(&raw.topics, findings);
    Some(LinkConfig {
        name: name?,
        source: source?,
        topics: topics?,
        configs_interval: configs_interval?,
    })
}

fn source(raw: &RawSource, findings: &mut Findings) -> Option<SourceConfig> {
    let bootstrap = findings.bootstrap(&raw.bootstrap_servers, &raw.here);
    let connections_per_broker = findings.parse_or(
        raw.connections_per_broker.as_ref(),
        None,
        |text| match (text, text.parse::<usize>()) {
            ("auto", _) => Ok(None),
            (_, Ok(number)) if (1..=MOST_CONNECTIONS).contains(&number) => Ok(Some(number)),
            _ => Err(format!(
                "\"{text}\" is no number of connections; write \"auto\" or 1 to {MOST_CONNECTIONS}"
            )),
        },
    );
    Some(SourceConfig {
        bootstrap: bootstrap?,
        cluster_id: raw.cluster_id.as_ref().map(|id| id.value.clone()),
        rack: raw.rack.as_ref().map(|rack| rack.value.clone()),
        connections_per_broker: connections_per_broker?,
    })
}

fn topics(raw: &RawTopics, findings: &mut Findings) -> Option<TopicsConfig> {
    let start = findings.parse_or(raw.start.as_ref(), StartAt::Earliest, values::start);
    let replication_factor = match &raw.replication_factor {
        None => Some(0),
        Some(factor) if (0..=MOST_REPLICAS).contains(&factor.value) => {
            usize::try_from(factor.value).ok()
        }
        Some(factor) => findings.refuse(factor, "is no replication factor; write 0 to 32767"),
    };
    let rename_prefix = findings.parse_or(raw.rename_prefix.as_ref(), String::new(), |text| {
        values::rename_prefix(text).map(|()| text.to_owned())
    });
    let include = patterns(&raw.include, findings);
    let exclude = patterns(&raw.exclude, findings);
    Some(TopicsConfig {
        include: include?,
        exclude: exclude?,
        start: start?,
        replication_factor: replication_factor?,
        rename_prefix: rename_prefix?,
        policies: Policies {
            continues_over_gaps: is_policy(raw.on_gap.as_ref(), "continue"),
            follows_truncations: is_policy(raw.on_divergence.as_ref(), "truncate"),
        },
    })
}

/// Unknown policies were refused where the file was read.
fn is_policy(raw: Option<&Placed<String>>, policy: &str) -> bool {
    raw.is_some_and(|raw| raw.value == policy)
}

/// Each pattern is tried by itself, so that a problem has its line.
fn patterns(raw: &Option<Vec<Placed<String>>>, findings: &mut Findings) -> Option<Vec<String>> {
    let checked: Vec<_> = raw
        .iter()
        .flatten()
        .map(|one| {
            let pattern = std::slice::from_ref(&one.value);
            match TopicFilter::new(pattern, &[]) {
                Ok(_) => Some(one.value.clone()),
                Err(error) => findings.refuse(one, format!("{error}; correct it")),
            }
        })
        .collect();
    checked.into_iter().collect()
}

/// What several fields have to agree on.
fn relations(config: &Config, raw: &RawFile, findings: &mut Findings) {
    listeners_do_not_clash(config, raw, findings);
    for (at, link) in config.links.iter().enumerate() {
        let here = &raw.links[at].here;
        if config.links[..at].iter().any(|other| other.name == link.name) {
            let text = format!("another link is named \"{}\" too; rename one", link.name);
            findings.problems.push(here.problem(text));
        }
        let rival = config.links[..at]
            .iter()
            .find_map(|other| shared_mirror(link, other).map(|mirror| (other, mirror)));
        if let Some((other, mirror)) = rival {
            let text = format!(
                "would mirror a topic as \"{mirror}\", and so would link \"{}\"; a mirror has one \
                 source: exclude the topic in one of them, or set topics.rename_prefix",
                other.name
            );
            findings.problems.push(here.problem(text));
        }
        let shared = config
            .destination
            .bootstrap
            .iter()
            .find(|broker| link.source.bootstrap.contains(broker));
        if let Some(broker) = shared
            && link.topics.rename_prefix.is_empty()
        {
            let text = format!(
                "{broker} is the source and the destination; a topic cannot mirror itself: set \
                 another source, or topics.rename_prefix"
            );
            findings.problems.push(here.problem(text));
        }
    }
}

/// A mirror name that two links both ask for. Literal patterns and prefixes are tried; two regular
/// expressions that have a name in common are not found out.
fn shared_mirror(one: &LinkConfig, other: &LinkConfig) -> Option<String> {
    let filter = |link: &LinkConfig| TopicFilter::new(&link.topics.include, &link.topics.exclude);
    let (ours, theirs) = (filter(one).ok()?, filter(other).ok()?);
    let wants = |link: &LinkConfig, filter: &TopicFilter, mirror: &str| {
        let source = mirror.strip_prefix(link.topics.rename_prefix.as_str());
        source.is_some_and(|source| !source.is_empty() && filter.decide(source).is_included())
    };
    let names = [one, other].into_iter().flat_map(|link| {
        let patterns = link.topics.include.iter().filter(|pattern| !pattern.starts_with('/'));
        patterns.flat_map(|pattern| {
            let stem = pattern.trim_end_matches('*');
            let mirror = format!("{}{stem}", link.topics.rename_prefix);
            [format!("{mirror}0"), mirror]
        })
    });
    let mut names = names.filter(|name| wants(one, &ours, name) && wants(other, &theirs, name));
    names.next()
}

fn listeners_do_not_clash(config: &Config, raw: &RawFile, findings: &mut Findings) {
    let listeners = &config.destination.listeners;
    for (at, (listener, (_, raw_listener))) in
        listeners.iter().zip(&raw.destination.listeners).enumerate()
    {
        let here = &raw_listener.here;
        for other in &listeners[..at] {
            if same_socket(listener.bind, other.bind) || listener.advertise == other.advertise {
                let text = format!(
                    "shares its port with listener {}; give each listener its own",
                    other.name
                );
                findings.problems.push(here.problem(text));
            }
        }
        if same_socket(listener.bind, config.daemon.http) {
            let text = "shares its port with daemon.http; give it its own";
            findings.problems.push(here.problem(text));
        }
        if config.destination.bootstrap.contains(&listener.advertise) {
            let text = format!(
                "{} is in destination.bootstrap_servers too; name only real brokers there",
                listener.advertise
            );
            findings.problems.push(here.problem(text));
        }
    }
}

fn same_socket(one: SocketAddr, other: SocketAddr) -> bool {
    let same_address =
        one.ip() == other.ip() || one.ip().is_unspecified() || other.ip().is_unspecified();
    one.port() == other.port() && same_address
}
