//! The file as it was written: known keys, right types, nothing decided. `check` makes sense of it.

use super::later;
use super::problem::Placed;
use super::section::Section;

/// The whole file.
pub struct RawFile {
    pub daemon: RawDaemon,
    pub destination: RawDestination,
    pub links: Vec<RawLink>,
}

/// `[daemon]`
pub struct RawDaemon {
    pub here: Placed<()>,
    pub broker_id: Option<Placed<i64>>,
    pub http: Option<Placed<String>>,
    pub memory: Option<Placed<String>>,
    pub state_dir: Option<Placed<String>>,
}

/// `[destination]`
pub struct RawDestination {
    pub here: Placed<()>,
    pub bootstrap_servers: Option<Vec<Placed<String>>>,
    pub cluster_id: Option<Placed<String>>,
    pub controllers: Option<Vec<Placed<String>>>,
    pub listeners: Vec<(String, RawListener)>,
}

/// `[destination.listeners.NAME]`
pub struct RawListener {
    pub here: Placed<()>,
    pub bind: Option<Placed<String>>,
    pub advertise: Option<Placed<String>>,
}

/// `[[link]]` and the tables in it.
pub struct RawLink {
    pub here: Placed<()>,
    pub name: Option<Placed<String>>,
    pub source: RawSource,
    pub topics: RawTopics,
    pub configs_interval: Option<Placed<String>>,
}

/// `[link.source]`
pub struct RawSource {
    pub here: Placed<()>,
    pub bootstrap_servers: Option<Vec<Placed<String>>>,
    pub cluster_id: Option<Placed<String>>,
    pub rack: Option<Placed<String>>,
    pub connections_per_broker: Option<Placed<String>>,
}

/// `[link.topics]`
pub struct RawTopics {
    pub include: Option<Vec<Placed<String>>>,
    pub exclude: Option<Vec<Placed<String>>>,
    pub start: Option<Placed<String>>,
    pub replication_factor: Option<Placed<i64>>,
    pub rename_prefix: Option<Placed<String>>,
    pub on_gap: Option<Placed<String>>,
    pub on_divergence: Option<Placed<String>>,
}

impl RawFile {
    /// Reads everything; what is wrong goes to the section's problems.
    pub fn read(root: &Section<'_>) -> Self {
        let daemon = RawDaemon::read(&root.table("daemon"));
        let destination = RawDestination::read(&root.table("destination"));
        let tables = root.tables("link");
        // One link needs no name in its places: `link.topics.include`.
        let single = tables.len() == 1;
        let links = tables.into_iter().map(|table| RawLink::read(table, single)).collect();
        root.refuse_others();
        Self { daemon, destination, links }
    }
}

impl RawDaemon {
    fn read(section: &Section<'_>) -> Self {
        let raw = Self {
            here: section.here(),
            broker_id: section.integer("broker_id"),
            http: section.string("http"),
            memory: section.string("memory"),
            state_dir: section.string("state_dir"),
        };
        section.refuse_others();
        raw
    }
}

impl RawDestination {
    fn read(section: &Section<'_>) -> Self {
        later::refuse_security(section);
        let listeners = section
            .named_tables("listeners")
            .into_iter()
            .map(|(name, table)| (name, RawListener::read(&table)))
            .collect();
        let raw = Self {
            here: section.here(),
            bootstrap_servers: section.strings("bootstrap_servers"),
            cluster_id: section.string("cluster_id"),
            controllers: section.strings("controllers"),
            listeners,
        };
        section.refuse_others();
        raw
    }
}

impl RawListener {
    fn read(section: &Section<'_>) -> Self {
        later::refuse_security(section);
        let raw = Self {
            here: section.here(),
            bind: section.string("bind"),
            advertise: section.string("advertise"),
        };
        section.refuse_others();
        raw
    }
}

impl RawLink {
    fn read(section: Section<'_>, single: bool) -> Self {
        let name = section.string("name");
        let section = match &name {
            Some(name) if !single => section.renamed(format!("link \"{}\"", name.value)),
            _ => section,
        };
        let configs = section.table("configs");
        let configs_interval = configs.string("interval");
        later::refuse_config_lists(&configs);
        configs.refuse_others();
        later::notice_groups(&section.table("groups"));
        later::refuse_limits(&section.table("limits"));
        let raw = Self {
            here: section.here(),
            name,
            source: RawSource::read(&section.table("source")),
            topics: RawTopics::read(&section.table("topics")),
            configs_interval,
        };
        section.refuse_others();
        raw
    }
}

impl RawSource {
    fn read(section: &Section<'_>) -> Self {
        later::refuse_security(section);
        let raw = Self {
            here: section.here(),
            bootstrap_servers: section.strings("bootstrap_servers"),
            cluster_id: section.string("cluster_id"),
            rack: section.string("rack"),
            connections_per_broker: section.scalar("connections_per_broker"),
        };
        section.refuse_others();
        raw
    }
}

impl RawTopics {
    fn read(section: &Section<'_>) -> Self {
        later::refuse_policies(section);
        let raw = Self {
            include: section.strings("include"),
            exclude: section.strings("exclude"),
            start: section.scalar("start"),
            replication_factor: section.integer("replication_factor"),
            rename_prefix: section.string("rename_prefix"),
            on_gap: section.string("on_gap"),
            on_divergence: section.string("on_divergence"),
        };
        section.refuse_others();
        raw
    }
}
