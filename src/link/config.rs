//! What a link is told by the configuration, checked. How the file spells it is `config`'s matter.

use std::time::Duration;

use crate::client::Endpoint;
use crate::mirror::decision::Policies;
use crate::tail::StartAt;
use crate::types::LinkName;

/// One link: a source, and what of it is mirrored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkConfig {
    /// Unique among the links of a daemon; letters, digits, `.`, `_`, `-`.
    pub name: LinkName,
    /// The cluster that is read.
    pub source: SourceConfig,
    /// Which topics are mirrored, and how.
    pub topics: TopicsConfig,
    /// How often topic configurations are compared; never zero.
    pub configs_interval: Duration,
}

/// The cluster that a link reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceConfig {
    /// Brokers to begin with; never empty.
    pub bootstrap: Vec<Endpoint>,
    /// The cluster's id; `None`: pinned at first contact.
    pub cluster_id: Option<String>,
    /// Rack to read from, sent as the client's rack (KIP-392).
    pub rack: Option<String>,
    /// Connections to each source broker; `None`: as many as the round trip asks for.
    pub connections_per_broker: Option<usize>,
}

/// Which topics of the source are mirrored, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicsConfig {
    /// Patterns: a literal, `prefix*`, or `/regex/` on the whole name. Nothing unless included.
    pub include: Vec<String>,
    /// Patterns that win over `include`.
    pub exclude: Vec<String>,
    /// Where a new mirror begins; never [`StartAt::At`].
    pub start: StartAt,
    /// Real replicas of a mirror; 0: the destination's default.
    pub replication_factor: usize,
    /// Put before the source's name to make the mirror's; empty: the same name.
    pub rename_prefix: String,
    /// `on_gap` and `on_divergence`.
    pub policies: Policies,
}
