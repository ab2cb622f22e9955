//! What the tail check's evidence means for the way back: a copy is accepted, waits, or has failed,
//! and why is kept for reports and told once.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use super::tail_check::Evidence;
use crate::mirror::event::{Event, EventKind};
use crate::mirror::report::Reason;
use crate::store::View;
use crate::tail::Trouble;
use crate::tail::events::Events;
use crate::tail::marks::SourceTail;
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

/// What evidence means, for the copies of one link.
#[derive(Debug)]
pub struct Judge {
    link: LinkName,
    events: Events,
    /// What any seat found before.
    journal: watch::Receiver<Arc<View>>,
    /// Since when, and how often, the source said that a partition is not there.
    missing: HashMap<PartitionKey, (Instant, u32)>,
    /// Accepted without proof, by their ends then: said once.
    unproved: HashMap<PartitionKey, Offset>,
}

impl Judge {
    /// Nothing has been judged yet.
    pub fn new(link: LinkName, events: Events, journal: watch::Receiver<Arc<View>>) -> Self {
        Self { link, events, journal, missing: HashMap::new(), unproved: HashMap::new() }
    }

    /// What the journal has against a copy.
    fn known_against(&self, of: Judged<'_>) -> Option<Trouble> {
        let failed = self.journal.borrow().ledger.against(of.key)?;
        if failed.reason == Some(Reason::SourceTopicIdChanged) {
            return Some(Trouble::TopicIdChanged);
        }
        let ours = failed.offset.map_or(of.log_end, Offset);
        let source_end = failed.source_offset.map_or(Offset::ZERO, Offset);
        Some(Trouble::Truncated { ours, source_end })
    }

    /// By what reading goes on where the evidence allows it, and why it does not where not. `against` is
    /// what was found against the copy before, by us; what others found the journal has. Only proof undoes that, neither the source's retention
    /// nor a source that is away for a moment.
    pub fn weigh(
        &mut self,
        of: Judged<'_>,
        evidence: Evidence,
        against: Option<Trouble>,
    ) -> Result<SourceTail, Trouble> {
        if evidence != Evidence::Missing {
            self.missing.remove(&of.key);
        }
        match (evidence, against.or_else(|| self.known_against(of))) {
            (Evidence::Same(tail), _) => Ok(tail),
            (Evidence::Against(trouble), _) => Err(trouble),
            (_, Some(trouble)) => Err(trouble),
            (Evidence::Nothing(tail), None) => {
                self.tell_unproved(of);
                Ok(tail)
            }
            (Evidence::Missing, None) => Err(self.missing(of.key)),
            (Evidence::Hidden(why) | Evidence::Later(why), None) => Err(Trouble::Unavailable(why)),
        }
    }

    fn missing(&mut self, key: PartitionKey) -> Trouble {
        let (since, looks) = self.missing.entry(key).or_insert((Instant::now(), 0));
        *looks += 1;
        if *looks >= MISSING_LOOKS && since.elapsed() >= MISSING_TIME {
            return Trouble::TopicDeleted;
        }
        Trouble::Unavailable("the topic or partition does not exist at the source".to_owned())
    }

    fn tell_unproved(&mut self, of: Judged<'_>) {
        if self.unproved.insert(of.key, of.log_end) == Some(of.log_end) {
            return;
        }
        let text = "no batch is left that both sides hold; the copy was accepted by the topic's id and \
                    the source's end";
        let event = Event::new(EventKind::CopyAcceptedUnproved, text);
        self.send(of, event.offsets(of.log_end..of.log_end));
    }

    /// Tells something of a copy.
    fn send(&self, of: Judged<'_>, event: Event) {
        self.events.send(event.link(&self.link).topic(of.topic).partition(of.key.partition));
    }
}

/// Judges copies that we are about to lead, and keeps why some may not be.
#[derive(Debug)]
pub struct Acceptance {
    judge: Judge,
    failures: watch::Sender<Failures>,
}

impl Acceptance {
    /// Nothing has been judged yet.
    pub fn new(judge: Judge, failures: watch::Sender<Failures>) -> Self {
        Self { judge, failures }
    }

    /// By what reading goes on, where the evidence allows us to lead; keeps the reason where not.
    pub fn judge(&mut self, of: Judged<'_>, evidence: Evidence) -> Option<SourceTail> {
        let against = self.against(of.key);
        let found = self.judge.weigh(of, evidence, against);
        self.note(of, found.as_ref().err().cloned());
        found.ok()
    }

    /// What was found against a copy before and only proof can undo.
    fn against(&self, key: PartitionKey) -> Option<Trouble> {
        let failed = self.failures.borrow().get(&key).map(|failed| failed.trouble.clone());
        failed.filter(Trouble::needs_proof)
    }

    fn note(&self, of: Judged<'_>, trouble: Option<Trouble>) {
        let found = trouble.map(|trouble| Failed { trouble, log_end: of.log_end });
        let before = self.failures.borrow().get(&of.key).cloned();
        if before == found {
            return;
        }
        match (&before, &found) {
            (_, Some(failed)) if failed.trouble.is_retried() => tracing::info!(
                link = %self.judge.link, topic = %of.topic, partition = of.key.partition,
                offset = %of.log_end, trouble = %failed.trouble, "tail not checked yet"
            ),
            (_, Some(failed)) => {
                let text = format!(
                    "{}; the copy, up to offset {}, stays as it is, readable and locked, and is not \
                     led; compare both sides, then resume or exclude it",
                    failed.trouble, of.log_end
                );
                self.judge.send(of, Event::new(failed.trouble.reason(), text));
            }
            (Some(before), None) if !before.trouble.is_retried() => {
                let text = format!(
                    "goes on by the tail check, or by a decision; before: {}",
                    before.trouble
                );
                self.judge.send(of, Event::new(EventKind::PartitionResumed, text));
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
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{TopicId, Uuid};

    #[test]
    fn what_was_found_against_a_copy_is_undone_by_proof_only() {
        let topic = TopicName::from("orders");
        let key = PartitionKey { topic: TopicId(Uuid::from_u128(1)), partition: 0 };
        let of = Judged { key, topic: &topic, log_end: Offset(50) };
        let truncated = Trouble::Truncated { ours: Offset(50), source_end: Offset(20) };
        let (events, _seen) = Events::new();
        let (_journal, view) = watch::channel(Arc::default());
        let judge = Judge::new("east".into(), events, view);
        let mut acceptance = Acceptance::new(judge, Default::default());
        let mut judge = |evidence| {
            let found = acceptance.judge(of, evidence);
            let kept = acceptance.failures.borrow().get(&key).map(|failed| failed.trouble.clone());
            (found, kept)
        };
        let tail = SourceTail::UNKNOWN;
        assert_eq!(judge(Evidence::Nothing(tail)), (Some(tail), None));
        assert_eq!(judge(Evidence::Against(truncated.clone())), (None, Some(truncated.clone())));
        for evidence in [
            Evidence::Later("away".to_owned()),
            Evidence::Hidden("not committed".to_owned()),
            Evidence::Missing,
            Evidence::Nothing(tail),
        ] {
            let what = format!("{evidence:?}");
            assert_eq!(judge(evidence), (None, Some(truncated.clone())), "{what}");
        }
        assert_eq!(judge(Evidence::Same(tail)), (Some(tail), None));
    }
}
