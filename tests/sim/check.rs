//! What must hold after every step: promises I2 to I5 of the design, and at the end I1.

use std::collections::BTreeMap;

use super::broker::{Broker, Role};
use super::controller::{Controller, Key};
use super::log::{Entry, Log};
use super::source::{Lineage, Source, form};

/// A promise that was broken, and how.
pub type Broken = (&'static str, String);

/// What is known from earlier steps.
#[derive(Default)]
pub struct Checker {
    /// Greatest high watermark that was ever told, by partition.
    committed: BTreeMap<Key, i64>,
    /// What each broker was told last. Answers to different brokers may overtake each other.
    told: BTreeMap<(i32, Key), i64>,
    /// Versions of logs that were found right: what is part of a lineage stays so.
    right: BTreeMap<Key, BTreeMap<i32, u64>>,
    /// Offsets that the daemon reported as missing, by partition number.
    pub gaps: Vec<(i32, i64, i64)>,
}

impl Checker {
    /// The seat told a broker this high watermark.
    pub fn told(&mut self, broker: i32, key: Key, offset: i64) -> Result<(), Broken> {
        let before = self.told.insert((broker, key), offset).unwrap_or(0);
        if offset < before {
            let text = format!("broker {broker}, partition {}: {before}, now {offset}", key.1);
            return Err(("I3 high watermark falls", text));
        }
        let known = self.committed.entry(key).or_insert(0);
        *known = (*known).max(offset);
        Ok(())
    }

    /// The greatest high watermark that was told.
    pub fn committed(&self, key: Key) -> i64 {
        self.committed.get(&key).copied().unwrap_or(0)
    }

    /// Looks at all replicas.
    pub fn look(
        &mut self,
        source: &Source,
        controller: &Controller,
        brokers: &BTreeMap<i32, Broker>,
    ) -> Result<(), Broken> {
        for (&key, state) in &controller.partitions {
            for broker in brokers.values() {
                let Some(replica) = broker.replicas.get(&key) else { continue };
                let log = &replica.log;
                let of =
                    |text: String| format!("partition {} at broker {}: {text}", key.1, broker.id);
                let right = self.right.get(&key).and_then(|of| of.get(&broker.id));
                if right != Some(&log.version) {
                    self.one_lineage(source, key.1, log).map_err(|(c, text)| (c, of(text)))?;
                    if state.in_sync.contains(&broker.id) {
                        let members = brokers.values().filter(|b| state.in_sync.contains(&b.id));
                        same_epochs(members, key, log, self.committed(key))
                            .map_err(|text| ("I2 epochs", of(text)))?;
                    }
                    self.right.entry(key).or_default().insert(broker.id, log.version);
                }
                let is_member = state.in_sync.contains(&broker.id) && broker.epoch >= 0;
                // Below the source's log start there is nothing to have.
                let trimmed = source.trimmed(key.1);
                if is_member && log.end < self.committed(key) && trimmed < self.committed(key) {
                    let text =
                        format!("in sync with end {} below {}", log.end, self.committed(key));
                    return Err(("I3", of(text)));
                }
                if let Role::Follows(follows) = &replica.role
                    && let Some(why) = &follows.failed
                {
                    return Err(("failed follower", of(why.clone())));
                }
            }
        }
        Ok(())
    }

    /// Whether the log is a prefix of some lineage, without a silent gap.
    fn one_lineage(&self, source: &Source, partition: i32, log: &Log) -> Result<(), Broken> {
        let lineages = source.lineages.iter().filter(|lineage| lineage.partition == partition);
        let mut best: Option<(i64, Broken)> = None;
        for lineage in lineages {
            match self.matches(lineage, partition, log) {
                Ok(()) => return Ok(()),
                Err((at, broken)) if best.as_ref().is_none_or(|(known, _)| at >= *known) => {
                    best = Some((at, broken));
                }
                Err(_) => {}
            }
        }
        best.map_or(Ok(()), |(_, broken)| Err(broken))
    }

    /// How far it matches where it does not match whole.
    fn matches(&self, lineage: &Lineage, partition: i32, log: &Log) -> Result<(), (i64, Broken)> {
        let mut end = log.start;
        for entry in &log.entries {
            // A copy that held nothing may begin where the source's log starts by now.
            let from = if end == log.start { end.max(lineage.start) } else { end };
            self.no_gap(lineage, partition, from, entry.base).map_err(|b| (end, b))?;
            // An empty batch may stand for what the source had deleted before it was copied.
            let is_filler = entry.is_empty() && entry.next <= lineage.start;
            if !is_filler && !is_of(lineage, entry) {
                return Err((end, ("I2", format!("batch {}..{}", entry.base, entry.next))));
            }
            end = entry.next;
        }
        if log.end > lineage.end().max(lineage.start) {
            return Err((end, ("I2", format!("end {} beyond {}", log.end, lineage.end()))));
        }
        self.no_gap(lineage, partition, end, log.end).map_err(|b| (end, b))?;
        if log.start > lineage.start.max(0) && !self.is_told(partition, lineage.start, log.start) {
            let first = lineage.forms.range(lineage.start..log.start).next();
            if let Some((base, _)) = first.filter(|(base, _)| !lineage.compacted.contains(base)) {
                let text = format!("log start {} above {}, lacks {base}", log.start, lineage.start);
                return Err((end, ("I5", text)));
            }
        }
        Ok(())
    }

    fn no_gap(&self, lineage: &Lineage, partition: i32, from: i64, to: i64) -> Result<(), Broken> {
        let mut missing = lineage.forms.range(from..to.max(from));
        let missing = missing.find(|(base, _)| {
            !lineage.compacted.contains(base) && !self.is_told(partition, **base, **base + 1)
        });
        match missing {
            Some((base, _)) => {
                Err(("I5", format!("batch {base} is missing between {from} and {to}")))
            }
            None => Ok(()),
        }
    }

    fn is_told(&self, partition: i32, from: i64, to: i64) -> bool {
        self.gaps.iter().any(|&(of, low, high)| of == partition && low <= from && to <= high)
    }

    /// I1: every replica is what the source is now; why it is not yet.
    pub fn converged(
        source: &Source,
        controller: &Controller,
        brokers: &BTreeMap<i32, Broker>,
        key: Key,
    ) -> Result<(), String> {
        let ours = &source.partitions[key.1 as usize];
        let Some(state) = controller.partitions.get(&key) else {
            return Err("no mirror".to_owned());
        };
        for id in state.replicas.iter().filter(|id| brokers.contains_key(id)) {
            let log = brokers[id].replicas.get(&key).map(|replica| &replica.log);
            let Some(log) = log else { return Err(format!("broker {id} has no replica")) };
            let bounds = (log.start, log.high_watermark, log.end);
            let wanted = (ours.log.start, ours.log.high_watermark, ours.log.high_watermark);
            if bounds != wanted {
                return Err(format!("broker {id} has {bounds:?}, the source {wanted:?}"));
            }
            if !state.in_sync.contains(id) {
                return Err(format!("broker {id} is not in sync"));
            }
            same_epochs(brokers.values(), key, log, i64::MAX)?;
            let lineage = &source.lineages[ours.lineage];
            // Compaction at the source after the copy: the same value where both hold one.
            for entry in &ours.log.entries {
                let copied = log.entries.iter().find(|copied| copied.base == entry.base);
                if !copied.is_some_and(|copied| is_of(lineage, copied)) {
                    return Err(format!("broker {id} lacks the batch at {}", entry.base));
                }
            }
        }
        Ok(())
    }
}

/// Every replica has a batch that is committed under the same leader epoch.
fn same_epochs<'a>(
    brokers: impl Iterator<Item = &'a Broker>,
    key: Key,
    log: &Log,
    committed: i64,
) -> Result<(), String> {
    for other in brokers.filter_map(|broker| broker.replicas.get(&key)) {
        let mut theirs = other.log.entries.iter().peekable();
        for entry in &log.entries {
            while theirs.next_if(|other| other.base < entry.base).is_some() {}
            if let Some(other) = theirs.next_if(|other| other.base == entry.base)
                && other.epoch != entry.epoch
                && entry.next <= committed
            {
                return Err(format!(
                    "epochs {} and {} at {}",
                    entry.epoch, other.epoch, entry.base
                ));
            }
        }
    }
    Ok(())
}

fn is_of(lineage: &Lineage, entry: &Entry) -> bool {
    lineage.forms.get(&entry.base).is_some_and(|forms| forms.contains(&form(entry)))
}
