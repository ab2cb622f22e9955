//! What is said of a link's topics: to reports, and once per change to the log. Decides nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::time::SystemTime;

use super::destination::Outcome;
use crate::mirror::event::Event;
use crate::mirror::report::Reason;
use crate::mirror::topic_plan::Action;
use crate::tail::events::Events;
use crate::types::{LinkName, TopicName};

/// How far a mirror topic has come, as far as the topic task knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TopicState {
    /// To be created, or being created.
    Pending,
    /// A mirror of ours.
    Active,
    /// A person must decide.
    Failed,
}

/// One mirror topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicStatus {
    /// Its name at the source.
    pub source_name: TopicName,
    /// How far it has come.
    pub state: TopicState,
    /// Why it is not simply active, from the closed set of reasons.
    pub reason: Option<&'static str>,
    /// The same for people; empty without a reason.
    pub detail: String,
    /// Since when state and reason are as they are.
    pub since: SystemTime,
}

/// Trouble with one of the two clusters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterTrouble {
    /// From the closed set of reasons.
    pub reason: &'static str,
    /// The same for people.
    pub detail: String,
    /// Since when.
    pub since: SystemTime,
}

/// All topics of a link.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TopicsStatus {
    /// By the mirrors' names.
    pub topics: BTreeMap<TopicName, TopicStatus>,
    /// Trouble with the source, if any.
    pub source: Option<ClusterTrouble>,
    /// Trouble with the destination, if any.
    pub destination: Option<ClusterTrouble>,
    /// When both were last seen and the plan was carried out.
    pub last_success: Option<SystemTime>,
}

impl TopicsStatus {
    /// Takes over what a round found, keeps `since` of what did not change, logs what did.
    pub(super) fn update(
        &mut self,
        link: &LinkName,
        now: SystemTime,
        mut topics: BTreeMap<TopicName, TopicStatus>,
        events: &Events,
    ) {
        for (name, status) in &mut topics {
            match self.topics.get(name) {
                Some(before) if before.is_same(status) => status.since = before.since,
                _ => {
                    status.since = now;
                    status.tell(link, name, events);
                }
            }
        }
        for name in self.topics.keys().filter(|name| !topics.contains_key(*name)) {
            tracing::info!(%link, topic = %name, "no mirror of this link any more");
        }
        self.topics = topics;
    }

    /// Takes over trouble with the source, or that there is none.
    pub(super) fn on_source(
        &mut self,
        link: &LinkName,
        now: SystemTime,
        trouble: Option<(&'static str, String)>,
    ) {
        change(&mut self.source, link, "source", now, trouble);
    }

    /// Takes over trouble with the destination, or that there is none.
    pub(super) fn on_destination(
        &mut self,
        link: &LinkName,
        now: SystemTime,
        trouble: Option<(&'static str, String)>,
    ) {
        change(&mut self.destination, link, "destination", now, trouble);
    }
}

/// Details of one trouble change from try to try: only another reason is news.
fn change(
    present: &mut Option<ClusterTrouble>,
    link: &LinkName,
    cluster: &'static str,
    now: SystemTime,
    trouble: Option<(&'static str, String)>,
) {
    let before = present.take();
    *present = trouble.map(|(reason, detail)| {
        let same = before.as_ref().filter(|before| before.reason == reason);
        if same.is_none() && reason == "SEAT_FENCED" {
            // As at every start: the seat reports its own trouble.
            tracing::info!(%link, cluster, reason, "topics wait for the seat");
        } else if same.is_none() {
            tracing::warn!(%link, cluster, reason, %detail, "topics cannot be kept up; trying on");
        }
        ClusterTrouble { reason, detail, since: same.map_or(now, |before| before.since) }
    });
    if before.is_some() && present.is_none() {
        tracing::info!(%link, cluster, "topics are kept up again");
    }
}

impl TopicStatus {
    fn is_same(&self, other: &Self) -> bool {
        (self.state, self.reason) == (other.state, other.reason)
    }

    /// What passes by itself is for the log; what needs a person is an event.
    fn tell(&self, link: &LinkName, name: &TopicName, events: &Events) {
        let reason = self.reason.and_then(Reason::named);
        if let (TopicState::Failed, Some(reason)) = (self.state, reason) {
            return events.send(Event::new(reason, &self.detail).link(link).topic(name));
        }
        let Self { source_name, state, reason, detail, .. } = self;
        match reason {
            Some(reason) => tracing::warn!(
                %link, topic = %name, source = %source_name, ?state, reason, %detail,
                "mirror topic needs attention"
            ),
            None => {
                tracing::info!(%link, topic = %name, source = %source_name, ?state, "mirror topic")
            }
        }
    }
}

/// What a plan and its outcome mean for each topic.
pub(super) fn of_round(
    actions: &[Action],
    outcomes: &[(TopicName, Outcome)],
    now: SystemTime,
) -> BTreeMap<TopicName, TopicStatus> {
    let mut topics: BTreeMap<TopicName, TopicStatus> = BTreeMap::new();
    for action in actions {
        let (name, source, state, trouble) = match action {
            Action::Create { name, source, .. } | Action::Wait { name, source } => {
                (name, source, TopicState::Pending, None)
            }
            Action::Bind(binding) => {
                (&binding.name, &binding.source_name, TopicState::Active, None)
            }
            Action::Refuse { name, source, refusal } => {
                let state = match (refusal.is_retriable(), topics.get(name)) {
                    (false, _) => TopicState::Failed,
                    (true, Some(bound)) => bound.state,
                    (true, None) => TopicState::Pending,
                };
                (name, source, state, Some((refusal.reason(), refusal.to_string())))
            }
            Action::AddPartitions { .. }
            | Action::AlterConfigs { .. }
            | Action::Reassign { .. }
            | Action::Adjust { .. } => continue,
        };
        let (reason, detail) = trouble.unzip();
        let status = TopicStatus {
            source_name: source.clone(),
            state,
            reason,
            detail: detail.unwrap_or_default(),
            since: now,
        };
        topics.insert(name.clone(), status);
    }
    for (name, outcome) in outcomes {
        if let (Outcome::Refused { error, message }, Some(status)) = (outcome, topics.get_mut(name))
        {
            status.reason = Some("DESTINATION_REFUSED");
            status.detail = format!("the destination answered {error}: {message}");
        }
    }
    topics
}

/// Configs that had to differ from the source's, each said once.
#[derive(Debug, Default)]
pub(super) struct Adjustments {
    said: BTreeSet<(TopicName, String)>,
}

impl Adjustments {
    /// Logs what is new, forgets what is over.
    pub(super) fn say(&mut self, link: &LinkName, actions: &[Action]) {
        let adjustments = actions.iter().filter_map(|action| match action {
            Action::Adjust { name, adjustment } => Some((name.clone(), adjustment.to_string())),
            _ => None,
        });
        let present: BTreeSet<_> = adjustments.collect();
        for (topic, adjustment) in present.difference(&self.said) {
            tracing::warn!(%link, %topic, adjustment, "mirror's configs differ from the source's");
        }
        self.said = present;
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::mirror::topic_refusal::Refusal;

    fn refused() -> Action {
        let refusal = Refusal::SourceTopicDeleted;
        Action::Refuse { name: "east.t".into(), source: "t".into(), refusal }
    }

    #[test]
    fn since_is_kept_while_state_and_reason_stay() {
        let (link, start) = ("l".into(), SystemTime::UNIX_EPOCH);
        let later = start + Duration::from_secs(5);
        let (events, mut seen) = Events::new();
        let mut status = TopicsStatus::default();
        status.update(&link, start, of_round(&[refused()], &[], start), &events);
        status.update(&link, later, of_round(&[refused()], &[], later), &events);
        assert_eq!(seen.ready().unwrap().reason, Reason::SourceTopicDeleted.into());
        assert_eq!(seen.ready(), None, "told once");
        let topic = &status.topics[&"east.t".into()];
        assert_eq!((topic.state, topic.since), (TopicState::Failed, start));
        assert_eq!(topic.reason, Some("SOURCE_TOPIC_DELETED"));
    }

    #[test]
    fn trouble_with_a_cluster_begins_once_and_ends() {
        let (link, start) = ("l".into(), SystemTime::UNIX_EPOCH);
        let later = start + Duration::from_secs(5);
        let mut status = TopicsStatus::default();
        status.on_source(&link, start, Some(("SOURCE_UNREACHABLE", "a".into())));
        status.on_source(&link, later, Some(("SOURCE_UNREACHABLE", "b".into())));
        let trouble = status.source.clone().unwrap();
        assert_eq!((trouble.since, trouble.detail.as_str()), (start, "b"));
        status.on_source(&link, later, None);
        assert_eq!(status.source, None);
    }
}
