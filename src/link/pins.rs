//! What a link goes by: the source's cluster id and the source ids of its mirrors, pinned in the
//! journal at first contact. Where the journal cannot be had they are held in memory, so that copying
//! goes on; the tail check proves then what the journal cannot.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

use crate::mirror::event::{Event, EventKind};
use crate::mirror::ledger::{Fact, LinkEntry, MirrorEntry, Note};
use crate::mirror::topic::MirrorState;
use crate::mirror::topic_configs::SourceConfigs;
use crate::mirror::topic_plan::{Binding, Pins};
use crate::store::{JournalHandle, JournalState};
use crate::tail::events::{Events, now};
use crate::tail::notes::Notes;
use crate::types::{LinkName, TopicId};

/// How long the journal is waited for. It passes while the destination elects its leaders.
const PATIENCE: Duration = Duration::from_secs(20);
/// Mirrors pinned in one write.
const AT_ONCE: usize = 500;
/// What the lock replaces: promotion sets the source's values.
const LOCKED: [&str; 5] = [
    "max.message.bytes",
    "min.insync.replicas",
    "retention.bytes",
    "retention.ms",
    "unclean.leader.election.enable",
];

/// The pins of one link.
#[derive(Debug)]
pub(super) struct PinKeeper {
    link: LinkName,
    journal: JournalHandle,
    notes: Notes,
    events: Events,
    /// Pinned while the journal could not be had.
    in_memory: Pins,
    /// Since when something waits to be pinned.
    waiting_since: Option<Instant>,
    restore: BTreeMap<TopicId, BTreeMap<String, String>>,
}

impl PinKeeper {
    /// Pins of a link that was not looked at yet.
    pub(super) fn new(
        link: LinkName,
        journal: JournalHandle,
        notes: Notes,
        events: Events,
    ) -> Self {
        let (in_memory, restore) = (Pins::new(), BTreeMap::new());
        Self { link, journal, notes, events, in_memory, waiting_since: None, restore }
    }

    /// Whether the journal is known, or was waited for in vain: before that nothing is concluded from
    /// a pin that is not there.
    pub(super) fn is_ready(&mut self) -> bool {
        let is_read = self.state() != JournalState::Unread;
        is_read || self.has_waited()
    }

    fn state(&self) -> JournalState {
        self.journal.view().borrow().state
    }

    fn has_waited(&mut self) -> bool {
        self.waiting_since.get_or_insert_with(Instant::now).elapsed() > PATIENCE
    }

    /// Source ids by mirror; those of the journal count.
    pub(super) fn known(&self) -> Pins {
        let view = self.journal.view().borrow().clone();
        let name = self.link.to_string();
        let mirrors = view.ledger.mirrors.iter().filter(|(_, entry)| entry.link == name);
        let mut pins = self.in_memory.clone();
        pins.extend(mirrors.map(|(id, entry)| (*id, entry.source_topic_id)));
        pins
    }

    /// Pins mirrors that are bound for the first time: durable first. False: not yet, ask again.
    pub(super) async fn pin(&mut self, bindings: &[Binding]) -> bool {
        let known = self.known();
        let new = bindings.iter().filter(|binding| !known.contains_key(&binding.id));
        let new: Vec<_> = new.map(|binding| self.mirror(binding)).collect();
        let lost: Vec<_> = self.in_memory.keys().copied().collect();
        let lost = bindings.iter().filter(|binding| lost.contains(&binding.id));
        let lost: Vec<_> = lost.map(|binding| self.mirror(binding)).collect();
        if new.is_empty() && lost.is_empty() {
            self.waiting_since = None;
            return true;
        }
        if self.may_write() && self.write(new.iter().chain(&lost)).await {
            self.in_memory.clear();
            self.waiting_since = None;
            return true;
        }
        if new.is_empty() {
            return true;
        }
        // Whoever writes the journal pins it; another would wait in vain only for an unread one.
        let waits = self.state() == JournalState::Current && !*self.journal.is_owner().borrow();
        let may_come = matches!(self.state(), JournalState::Unread | JournalState::Current);
        if may_come && (waits || !self.has_waited()) {
            return false;
        }
        tracing::warn!(
            link = %self.link, mirrors = new.len(),
            "journal cannot be written: mirrors are pinned in memory only; trying on"
        );
        for (id, entry) in new {
            self.in_memory.insert(id, entry.source_topic_id);
        }
        true
    }

    fn may_write(&self) -> bool {
        self.state() == JournalState::Current && *self.journal.is_owner().borrow()
    }

    async fn write<'a>(&self, mirrors: impl Iterator<Item = &'a (TopicId, MirrorEntry)>) -> bool {
        let facts = mirrors.map(|(id, entry)| Fact::Mirror(*id, entry.clone()));
        let facts: Vec<_> = facts.collect();
        for some in facts.chunks(AT_ONCE) {
            if let Err(error) = self.journal.write(some).await {
                tracing::info!(link = %self.link, %error, "mirrors are not pinned yet; trying on");
                return false;
            }
        }
        tracing::info!(link = %self.link, mirrors = facts.len(), "source ids of mirrors pinned");
        true
    }

    fn mirror(&self, binding: &Binding) -> (TopicId, MirrorEntry) {
        let entry = MirrorEntry {
            link: self.link.to_string(),
            topic: binding.name.to_string(),
            source_topic: binding.source_name.to_string(),
            source_topic_id: binding.source_id,
            state: MirrorState::Active,
            reason: None,
            since: now(),
            restore: self.restore.get(&binding.id).cloned().unwrap_or_default(),
        };
        (binding.id, entry)
    }

    /// Notes the source's values of what the lock replaces.
    pub(super) fn note_configs(&mut self, mirror: TopicId, configs: &SourceConfigs) {
        let values = LOCKED.iter().filter_map(|key| {
            configs.get(*key).map(|config| ((*key).to_owned(), config.value.clone()))
        });
        let restore: BTreeMap<_, _> = values.collect();
        if self.restore.get(&mirror) != Some(&restore) {
            self.restore.insert(mirror, restore.clone());
            self.notes.note(Note::Restore { topic_id: mirror, restore });
        }
    }
}

/// The source's cluster id.
#[derive(Debug)]
pub(super) struct ClusterPin {
    keeper: PinKeeper,
    /// What the configuration says.
    configured: Option<String>,
    /// What was found first, while the journal cannot be had.
    in_memory: Option<String>,
}

impl ClusterPin {
    pub(super) fn new(keeper: PinKeeper, configured: Option<String>) -> Self {
        Self { keeper, configured, in_memory: None }
    }

    /// Waits until the journal is known, within limits.
    pub(super) async fn ready(&mut self) {
        let mut view = self.keeper.journal.view();
        let is_known = view.wait_for(|view| view.state != JournalState::Unread);
        let _waited_in_vain = tokio::time::timeout(PATIENCE, is_known).await;
    }

    /// The id that the source has to have.
    pub(super) fn expected(&self) -> Option<String> {
        self.configured.clone().or_else(|| self.pinned()).or_else(|| self.in_memory.clone())
    }

    fn pinned(&self) -> Option<String> {
        let view = self.keeper.journal.view().borrow().clone();
        let entry = view.ledger.links.get(&*self.keeper.link.0)?;
        Some(entry.source_cluster_id.clone())
    }

    /// The source has this id, and it is the one that it has to have.
    pub(super) async fn on_found(&mut self, found: &str) {
        self.in_memory.get_or_insert_with(|| found.to_owned());
        let pinned = self.pinned();
        if pinned.as_deref() == Some(found) || !self.keeper.may_write() {
            return;
        }
        let keeper = &self.keeper;
        let entry = LinkEntry { source_cluster_id: found.to_owned(), since: now() };
        match keeper.journal.write(&[Fact::Link(keeper.link.to_string(), entry)]).await {
            Ok(()) => {
                let text = match pinned {
                    None => format!("the source's cluster id is {found} from now on"),
                    Some(before) => format!(
                        "the source's cluster id is {found} from now on, by the configuration; it \
                         was {before}"
                    ),
                };
                keeper.events.send(Event::new(EventKind::Pinned, text).link(&keeper.link));
            }
            Err(error) => tracing::info!(
                link = %keeper.link, %error, "the source's cluster id is not pinned yet; trying on"
            ),
        }
    }
}
