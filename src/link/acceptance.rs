//! What the tail check's evidence means for the way back: a copy is accepted, waits, or has failed,
//! and why is kept for reports and told once.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use super::tail_check::{Evidence, Tail};
use crate::mirror::event::{Event, EventKind};
use crate::tail::Trouble;
use crate::tail::events::Events;
use crate::types::{LinkName, Offset, PartitionKey, TopicName};

/// A topic is gone when the source says so this often in a row,
const MISSING_LOOKS: u32 = 3;
/// over at least this time: a broker that has just started may not know better.
const MISSING_TIME: Duration = Duration::from_secs(3);

/// Why partitions are kept from being led.
pub type Failures = Arc<BTreeMap<PartitionKey, Failed>>;

/// One partition that is kept from being led.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failed {
    /// Why.
    pub trouble: Trouble,
    /// End of the copy.
    pub log_end: Offset,
}

/// The copy that is judged.
#[derive(Clone, Copy, Debug)]
pub struct Judged<'a> {
    /// The partition.
    pub key: PartitionKey,
    /// Its topic at the destination.
    pub topic: &'a TopicName,
    /// End of the copy.
    pub log_end: Offset,
}

/// Judges copies of one link.
#[derive(Debug)]
pub struct Acceptance {
    link: LinkName,
    failures: watch::Sender<Failures>,
    events: Events,
    /// Since when, and how often, the source said that a partition is not there.
    missing: HashMap<PartitionKey, (Instant, u32)>,
    /// Accepted without proof, by their ends then: said once.
    unproved: HashMap<PartitionKey, Offset>,
}

impl Acceptance {
    /// Nothing has been judged yet.
    pub fn new(link: LinkName, failures: watch::Sender<Failures>, events: Events) -> Self {
        Self { link, failures, events, missing: HashMap::new(), unproved: HashMap::new() }
    }

    /// By what reading goes on, where the evidence allows us to lead; keeps the reason where not.
    pub fn judge(&mut self, of: Judged<'_>, evidence: Evidence) -> Option<Tail> {
        if evidence != Evidence::Missing {
            self.missing.remove(&of.key);
        }
        let trouble = match evidence {
            Evidence::Same(tail) => {
                self.note(of, None);
                return Some(tail);
            }
            // What was found against a copy is not undone by the source's retention.
            Evidence::Nothing(_) if let Some(failed) = self.against(of.key) => failed,
            Evidence::Nothing(tail) => {
                self.note(of, None);
                if self.unproved.insert(of.key, of.log_end) == Some(of.log_end) {
                    return Some(tail);
                }
                let text = "no batch is left that both sides hold; the copy was accepted by the topic's \
                            id and the source's end";
                let event = Event::new(EventKind::CopyAcceptedUnproved, text);
                self.send(of, event.offsets(of.log_end..of.log_end));
                return Some(tail);
            }
            Evidence::Against(trouble) => trouble,
            Evidence::Missing => self.missing(of.key),
            Evidence::Later(why) => Trouble::Unavailable(why),
        };
        self.note(of, Some(trouble));
        None
    }

    /// What was found against a copy before and only proof can undo.
    fn against(&self, key: PartitionKey) -> Option<Trouble> {
        let failed = self.failures.borrow().get(&key).map(|failed| failed.trouble.clone());
        failed.filter(|trouble| {
            matches!(trouble, Trouble::Truncated { .. } | Trouble::TopicIdChanged)
        })
    }

    fn missing(&mut self, key: PartitionKey) -> Trouble {
        let (since, looks) = self.missing.entry(key).or_insert((Instant::now(), 0));
        *looks += 1;
        if *looks >= MISSING_LOOKS && since.elapsed() >= MISSING_TIME {
            return Trouble::TopicDeleted;
        }
        Trouble::Unavailable("the topic or partition does not exist at the source".to_owned())
    }

    fn note(&self, of: Judged<'_>, trouble: Option<Trouble>) {
        let found = trouble.map(|trouble| Failed { trouble, log_end: of.log_end });
        let before = self.failures.borrow().get(&of.key).cloned();
        if before == found {
            return;
        }
        match (&before, &found) {
            (_, Some(failed)) if failed.trouble.is_retried() => tracing::info!(
                link = %self.link, topic = %of.topic, partition = of.key.partition,
                offset = %of.log_end, trouble = %failed.trouble, "tail not checked yet"
            ),
            (_, Some(failed)) => {
                let text = format!(
                    "{}; the copy, up to offset {}, stays as it is, readable and locked, and is not \
                     led; compare both sides, then resume or exclude it",
                    failed.trouble, of.log_end
                );
                self.send(of, Event::new(failed.trouble.reason(), text));
            }
            (Some(before), None) if !before.trouble.is_retried() => {
                let text = format!("the tail check holds again; before: {}", before.trouble);
                self.send(of, Event::new(EventKind::PartitionResumed, text));
            }
            (_, None) => {}
        }
        self.failures.send_modify(|failures| {
            let failures = Arc::make_mut(failures);
            match found {
                Some(found) => failures.insert(of.key, found),
                None => failures.remove(&of.key),
            };
        });
    }

    /// Tells something of a copy.
    pub fn send(&self, of: Judged<'_>, event: Event) {
        self.events.send(event.link(&self.link).topic(of.topic).partition(of.key.partition));
    }
}
