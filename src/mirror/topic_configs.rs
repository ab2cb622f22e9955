//! The configs of a mirror: what it takes from the source, the lock, and what is never copied.
//! Compares and derives; asks nobody.
//!
//! # What is followed
//!
//! - Whatever is set on the source topic itself.
//! - The effective source value of [`FOLLOWED_DEFAULTS`], also where it comes from the source
//!   cluster's defaults. It is set on the mirror even where the destination's default is the same:
//!   brokers may differ in their defaults, and a default may change later; a mirror must not begin to
//!   delete, compact or roll differently from its source because of either.
//!
//! # What promotion restores
//!
//! The lock replaces `max.message.bytes`, `retention.*`, `min.insync.replicas` and
//! `unclean.leader.election.enable`. There is no journal yet that keeps the source's values: they are
//! not lost, since the source has them and they can always be read from there again.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// Configs by key.
pub type Configs = BTreeMap<String, String>;

/// One config of a source topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceConfig {
    /// The value in force.
    pub value: String,
    /// Set on the topic itself, and no default of a broker or the cluster.
    pub on_topic: bool,
}

/// All configs of a source topic by key.
pub type SourceConfigs = BTreeMap<String, SourceConfig>;

/// Followed also where the source topic has them from its cluster's defaults: they decide which
/// records the destination's own cleaner takes, or what appends look like after promotion.
const FOLLOWED_DEFAULTS: [&str; 9] = [
    "cleanup.policy",
    "compression.type",
    "delete.retention.ms",
    "max.compaction.lag.ms",
    "message.timestamp.type",
    "min.cleanable.dirty.ratio",
    "min.compaction.lag.ms",
    SEGMENT_BYTES,
    "segment.ms",
];

/// What makes a topic a mirror: nobody can append but the leader whom the replicas follow.
const MAX_MESSAGE_BYTES: &str = "max.message.bytes";
const LOCKED_MESSAGE_BYTES: &str = "0";

/// The rest of the lock. Real replicas run retention on their own clock: only the source's log start
/// may shorten a mirror. An unclean election could cut below the high watermark.
const SAFETY: [(&str, &str); 3] = [
    ("retention.bytes", "-1"),
    ("retention.ms", "-1"),
    ("unclean.leader.election.enable", "false"),
];

/// Set at creation and never after: any write of it clears the eligible leaders (KIP-966).
const MIN_INSYNC_REPLICAS: &str = "min.insync.replicas";

const SEGMENT_BYTES: &str = "segment.bytes";

/// Neither taken from the source nor deleted at the destination. Throttles are set by the tools of
/// each cluster. A message format below v2 cannot be mirrored, and brokers that still know the key
/// ignore it.
const NEVER_COPIED: [&str; 5] = [
    MIN_INSYNC_REPLICAS,
    "follower.replication.throttled.replicas",
    "leader.replication.throttled.replicas",
    "message.format.version",
    MAX_MESSAGE_BYTES,
];

/// Families of keys that are never copied: tiered storage has to be off on mirrors, and what is
/// internal to a broker cannot be set.
const NEVER_COPIED_PREFIXES: [&str; 3] = ["internal.", "local.retention.", "remote."];

/// From this level on (4.0) brokers refuse a smaller `segment.bytes`.
const SEGMENT_LIMIT_SINCE: i16 = 25;
const SEGMENT_BYTES_MIN: i64 = 1 << 20;

/// A segment holds the largest batch the source takes now and this much more: markers, and batches
/// from a time at which the source's limit was slightly higher.
const LARGEST_BATCH_SLACK: i64 = 64 << 10;

/// What the destination allows and wants.
#[derive(Clone, Copy, Debug)]
pub struct ConfigRules<'a> {
    /// Keys that a topic can have there.
    pub known: &'a BTreeSet<String>,
    /// Its finalized `metadata.version`.
    pub metadata_version: i16,
}

/// A config of the source that the mirror has differently, or not at all, because it has to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Adjustment {
    /// `segment.bytes` is larger than at the source.
    SegmentBytesRaised {
        /// The source's value.
        from: i64,
        /// The mirror's value.
        to: i64,
    },
    /// The destination does not know the key.
    UnknownKey {
        /// The key.
        key: String,
        /// The source's value.
        value: String,
    },
}

impl fmt::Display for Adjustment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::SegmentBytesRaised { from, to } => {
                write!(f, "{SEGMENT_BYTES} raised from {from} to {to}")
            }
            Self::UnknownKey { key, value } => {
                write!(f, "{key}={value} left out: unknown to the destination")
            }
        }
    }
}

/// The configs that a mirror of this source topic has, without `min.insync.replicas`, and what had to
/// be different from the source.
pub fn mirror_configs(
    source: &SourceConfigs,
    rules: ConfigRules<'_>,
) -> (Configs, Vec<Adjustment>) {
    let mut configs = Configs::new();
    let mut adjustments = Vec::new();
    for (key, config) in source {
        let is_followed = config.on_topic || FOLLOWED_DEFAULTS.contains(&key.as_str());
        if !is_followed || is_ours(key) {
            continue;
        }
        let value = config.value.clone();
        if rules.known.contains(key) {
            configs.insert(key.clone(), value);
        } else if config.on_topic {
            let key = key.clone();
            adjustments.push(Adjustment::UnknownKey { key, value });
        }
    }
    adjustments.extend(raise_segment_bytes(&mut configs, source, rules));
    configs.insert(MAX_MESSAGE_BYTES.into(), LOCKED_MESSAGE_BYTES.into());
    configs.extend(SAFETY.map(|(key, value)| (key.to_owned(), value.to_owned())));
    (configs, adjustments)
}

/// `min.insync.replicas` of a new mirror: with eligible leader replicas (KIP-966) one more than our
/// seats, so that a real broker that stops cleanly last stays eligible. Otherwise it only keeps a
/// real leader from moving the high watermark.
pub fn min_insync_replicas(
    elr_is_on: bool,
    seats: usize,
    real_replicas: usize,
) -> (String, String) {
    let count = if elr_is_on && real_replicas >= 2 { seats + 1 } else { 1 };
    (MIN_INSYNC_REPLICAS.to_owned(), count.to_string())
}

/// Whether the lock is set. The other values of the lock are put back when they drift; this one is
/// not, since deleting it is how a mirror is promoted by hand.
pub fn is_locked(configs: Option<&Configs>) -> bool {
    configs.and_then(|configs| configs.get(MAX_MESSAGE_BYTES)).map(String::as_str)
        == Some(LOCKED_MESSAGE_BYTES)
}

/// Whether all of the lock but its head is set, as on a mirror that somebody has just unlocked.
pub fn has_traces_of_lock(configs: Option<&Configs>) -> bool {
    let is_set = |(key, value): &(&str, &str)| {
        configs.and_then(|configs| configs.get(*key)).map(String::as_str) == Some(*value)
    };
    SAFETY.iter().all(is_set)
}

/// `segment.bytes` of a mirror as set on the topic.
pub fn segment_bytes(configs: Option<&Configs>) -> Option<usize> {
    configs?.get(SEGMENT_BYTES)?.parse().ok()
}

/// What brings `current` to `wanted`: keys to set, keys to delete.
pub fn changes(current: &Configs, wanted: &Configs) -> (Configs, BTreeSet<String>) {
    let set = wanted.iter().filter(|(key, value)| current.get(*key) != Some(*value));
    let delete = current.keys().filter(|key| !wanted.contains_key(*key) && !is_ours(key));
    (set.map(|(key, value)| (key.clone(), value.clone())).collect(), delete.cloned().collect())
}

/// Keys whose value at the source is of no concern to the mirror.
fn is_ours(key: &str) -> bool {
    NEVER_COPIED.contains(&key)
        || SAFETY.iter().any(|(safety, _)| *safety == key)
        || NEVER_COPIED_PREFIXES.iter().any(|prefix| key.starts_with(prefix))
}

/// A follower fails a partition for good when an append does not fit into one segment.
fn raise_segment_bytes(
    configs: &mut Configs,
    source: &SourceConfigs,
    rules: ConfigRules<'_>,
) -> Option<Adjustment> {
    let number = |key: &str| source.get(key)?.value.parse::<i64>().ok();
    let from = number(SEGMENT_BYTES)?;
    let mut least = number(MAX_MESSAGE_BYTES).unwrap_or(0).saturating_add(LARGEST_BATCH_SLACK);
    if rules.metadata_version >= SEGMENT_LIMIT_SINCE {
        least = least.max(SEGMENT_BYTES_MIN);
    }
    let to = from.max(least).min(i64::from(i32::MAX));
    if to == from {
        return None;
    }
    configs.insert(SEGMENT_BYTES.into(), to.to_string());
    Some(Adjustment::SegmentBytesRaised { from, to })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known() -> BTreeSet<String> {
        let other = ["flush.ms", "retention.ms", "local.retention.ms"];
        let keys = FOLLOWED_DEFAULTS.iter().chain(&other);
        keys.map(ToString::to_string).collect()
    }

    fn source(entries: &[(&str, &str, bool)]) -> SourceConfigs {
        let config = |value: &str, on_topic| SourceConfig { value: value.to_owned(), on_topic };
        entries
            .iter()
            .map(|&(key, value, on_topic)| (key.to_owned(), config(value, on_topic)))
            .collect()
    }

    fn derive(entries: &[(&str, &str, bool)], metadata_version: i16) -> (String, String) {
        let known = known();
        let rules = ConfigRules { known: &known, metadata_version };
        let (configs, adjustments) = mirror_configs(&source(entries), rules);
        let unlocked = configs
            .iter()
            .filter(|(key, _)| !is_ours(key))
            .map(|(key, value)| format!("{key}={value}"));
        (
            unlocked.collect::<Vec<_>>().join(" "),
            adjustments.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "),
        )
    }

    #[test]
    fn topic_configs_are_followed_and_of_the_defaults_those_that_shape_the_log() {
        let (configs, adjustments) = derive(
            &[
                ("cleanup.policy", "compact", false),
                ("flush.ms", "7", true),
                ("segment.ms", "1000", true),
                ("file.delete.delay.ms", "1", false),
            ],
            30,
        );
        assert_eq!(configs, "cleanup.policy=compact flush.ms=7 segment.ms=1000");
        assert_eq!(adjustments, "");
    }

    #[test]
    fn the_lock_and_what_belongs_to_a_cluster_are_never_copied() {
        let (configs, adjustments) = derive(
            &[
                ("retention.ms", "1", true),
                ("max.message.bytes", "5", true),
                ("min.insync.replicas", "3", true),
                ("local.retention.ms", "1", true),
                ("remote.storage.enable", "true", true),
                ("leader.replication.throttled.replicas", "*", true),
            ],
            30,
        );
        assert_eq!((configs.as_str(), adjustments.as_str()), ("", ""));
    }

    #[test]
    fn a_key_that_the_destination_does_not_know_is_reported() {
        let (configs, adjustments) =
            derive(&[("new.in.5", "x", true), ("new.default.in.5", "y", false)], 30);
        assert_eq!(configs, "");
        assert_eq!(adjustments, "new.in.5=x left out: unknown to the destination");
    }

    #[test]
    fn a_segment_holds_the_largest_batch_and_what_the_destination_asks_for() {
        for (segment, batch, metadata_version, expected) in [
            ("1073741824", "1048588", 30, "1073741824"),
            ("1024", "512", 30, "1048576"),
            ("1024", "512", 21, "66048"),
            ("1048576", "20971520", 21, "21037056"),
            ("1048576", "2147483647", 30, "2147483647"),
        ] {
            let (configs, _) = derive(
                &[("segment.bytes", segment, true), ("max.message.bytes", batch, false)],
                metadata_version,
            );
            assert_eq!(configs, format!("segment.bytes={expected}"));
        }
    }

    #[test]
    fn drift_is_put_right_except_what_belongs_to_the_destination() {
        let configs = |entries: &[(&str, &str)]| -> Configs {
            let owned = |&(key, value): &(&str, &str)| (key.to_owned(), value.to_owned());
            entries.iter().map(owned).collect()
        };
        let (set, delete) = changes(
            &configs(&[
                ("retention.ms", "5"),
                ("flush.ms", "1"),
                ("min.insync.replicas", "2"),
                ("follower.replication.throttled.replicas", "*"),
            ]),
            &configs(&[("retention.ms", "-1"), ("segment.ms", "9")]),
        );
        assert_eq!(set, configs(&[("retention.ms", "-1"), ("segment.ms", "9")]));
        assert_eq!(delete, BTreeSet::from(["flush.ms".to_owned()]));
    }

    #[test]
    fn min_insync_counts_the_seats_only_where_it_helps() {
        let value = |elr, seats, real| min_insync_replicas(elr, seats, real).1;
        assert_eq!(value(true, 1, 3), "2");
        assert_eq!(value(true, 2, 3), "3");
        assert_eq!(value(true, 1, 1), "1");
        assert_eq!(value(false, 1, 3), "1");
    }
}
