//! The log of events: appends what this daemon has to say to a topic of the destination, and keeps
//! the latest events of all daemons at hand. An event may be there twice where an answer was lost.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::committed::{Committed, Log, Stored};
use super::error::StoreError;
use super::producer::produce;
use super::reader::{Begin, Heard, Reader, open};
use super::topics::{EVENTS_TOPIC, Place};
use crate::client::{Backoff, Cluster};
use crate::image::Image;
use crate::mirror::event::{Event, EventKind};
use crate::tail::events::{EventsSeen, now};
use crate::types::{Offset, TopicName};
use crate::wire::records::{BatchProducer, NewRecord, encode};

/// Events that are kept at hand.
const RECENT: usize = 10_000;
/// Events that wait to be appended; the oldest are lost first.
const PENDING: usize = 10_000;
/// Events in one batch.
const AT_ONCE: usize = 100;
/// Events in one answer, unless asked for fewer.
const PAGE: usize = 1_000;
const QUERIES: usize = 64;
const HEARD: usize = 16;

/// An event and its place in the log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoggedEvent {
    /// Its offset in the topic of events.
    pub id: i64,
    /// What happened.
    #[serde(flatten)]
    pub event: Event,
}

/// Which events are wanted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct EventQuery {
    /// Of this link.
    pub link: Option<String>,
    /// Of this mirror.
    pub topic: Option<String>,
    /// Behind this one; without: the latest.
    pub after: Option<i64>,
    /// So many at most.
    pub limit: Option<usize>,
}

/// Some events, in their order.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventPage {
    /// The events.
    pub events: Vec<LoggedEvent>,
    /// Asked for `after` this, what comes later is answered.
    pub next: i64,
}

/// Where the latest events can be asked for. Cheap to clone.
#[derive(Clone, Debug)]
pub struct RecentEvents {
    queries: mpsc::Sender<(EventQuery, oneshot::Sender<EventPage>)>,
}

impl RecentEvents {
    /// The events that a query is about; none where the daemon stops.
    pub async fn ask(&self, query: EventQuery) -> EventPage {
        let (answer, answered) = oneshot::channel();
        let _stopped = self.queries.send((query, answer)).await;
        answered.await.unwrap_or_default()
    }

    /// A log that nobody keeps: for tests.
    pub fn empty() -> Self {
        Self { queries: mpsc::channel(1).0 }
    }
}

/// The task.
pub struct EventLog {
    cluster: Cluster,
    image: watch::Receiver<Arc<Image>>,
    seen: EventsSeen,
    queries: mpsc::Receiver<(EventQuery, oneshot::Sender<EventPage>)>,
    pending: VecDeque<Event>,
    lost: usize,
    recent: Recent,
    backoff: Backoff,
    rest_until: Instant,
}

type Appended = (Vec<Event>, Result<Option<Log>, StoreError>);

impl EventLog {
    /// A log and where it can be asked.
    pub fn new(
        cluster: Cluster,
        image: watch::Receiver<Arc<Image>>,
        seen: EventsSeen,
    ) -> (Self, RecentEvents) {
        let (asking, queries) = mpsc::channel(QUERIES);
        let log = Self {
            cluster,
            image,
            seen,
            queries,
            pending: VecDeque::new(),
            lost: 0,
            recent: Recent::default(),
            backoff: Backoff::new(Duration::from_millis(200), Duration::from_secs(5)),
            rest_until: Instant::now(),
        };
        (log, RecentEvents { queries: asking })
    }

    /// Runs until the daemon ends.
    pub async fn run(mut self) {
        let (heard, mut reading) = mpsc::channel(HEARD);
        let reader = Reader {
            topic: TopicName::from(EVENTS_TOPIC),
            cluster: self.cluster.clone(),
            image: self.image.clone(),
            begin: Begin::Before(RECENT as i64),
            heard,
        };
        let mut readers = JoinSet::new();
        readers.spawn(reader.run());
        let mut appending: JoinSet<Appended> = JoinSet::new();
        let mut log: Option<Log> = None;
        loop {
            if appending.is_empty() && Instant::now() >= self.rest_until {
                let image = self.image.borrow().clone();
                if let Some(events) = self.take_pending(&image) {
                    let append = append(self.cluster.clone(), image, log.take(), events);
                    appending.spawn(append);
                }
            }
            tokio::select! {
                Some(event) = self.seen.next() => self.on_event(event),
                Some(heard) = reading.recv() => self.recent.on_heard(heard),
                Some((query, answer)) = self.queries.recv() => {
                    let _gone = answer.send(self.recent.page(&query));
                }
                Some(Ok((events, result))) = appending.join_next() => {
                    log = self.on_appended(events, result);
                }
                () = tokio::time::sleep_until(self.rest_until), if Instant::now() < self.rest_until => {}
                Ok(()) = self.image.changed() => {}
            }
        }
    }

    fn on_event(&mut self, event: Event) {
        if self.pending.len() >= PENDING {
            self.pending.pop_front();
            self.lost += 1;
        }
        self.pending.push_back(event);
    }

    /// What is due, once the topic is there.
    fn take_pending(&mut self, image: &Image) -> Option<Vec<Event>> {
        Place::find(image, EVENTS_TOPIC)?.leader?;
        if self.lost > 0 {
            let text = format!("{} events could not be appended in time", self.lost);
            let mut event = Event::new(EventKind::EventsLost, text);
            event.time = now();
            self.pending.push_front(event);
            self.lost = 0;
        }
        let count = self.pending.len().min(AT_ONCE);
        (count > 0).then(|| self.pending.drain(..count).collect())
    }

    fn on_appended(
        &mut self,
        events: Vec<Event>,
        result: Result<Option<Log>, StoreError>,
    ) -> Option<Log> {
        match result {
            Ok(log) => {
                self.backoff.reset();
                log
            }
            Err(error) => {
                let wait = self.backoff.next();
                tracing::debug!(%error, retry_in = ?wait, "events cannot be appended now");
                self.rest_until = Instant::now() + wait;
                for event in events.into_iter().rev() {
                    self.pending.push_front(event);
                }
                None
            }
        }
    }
}

async fn append(
    cluster: Cluster,
    image: Arc<Image>,
    log: Option<Log>,
    events: Vec<Event>,
) -> Appended {
    let result = append_to(&cluster, &image, log, &events).await;
    (events, result.map(Some))
}

async fn append_to(
    cluster: &Cluster,
    image: &Image,
    log: Option<Log>,
    events: &[Event],
) -> Result<Log, StoreError> {
    let topic = TopicName::from(EVENTS_TOPIC);
    let leader = Place::find(image, EVENTS_TOPIC).and_then(|place| place.leader);
    let leader = leader.ok_or_else(|| StoreError::NoLeader(topic.clone()))?;
    let log = match log.filter(|log| log.leader == leader && log.connection.is_open()) {
        Some(log) => log,
        None => open(cluster, &topic, leader).await?,
    };
    // Events always become JSON.
    let value = |event: &Event| serde_json::to_vec(event).unwrap_or_default();
    let records = events.iter().map(|event| NewRecord { key: None, value: Some(value(event)) });
    let records: Vec<_> = records.collect();
    let time = events.last().map_or(0, |event| event.time);
    produce(&log, None, encode(BatchProducer::NONE, time, &records)).await?;
    Ok(log)
}

/// The latest events of all daemons.
#[derive(Debug, Default)]
struct Recent {
    events: VecDeque<LoggedEvent>,
    next: i64,
}

impl Recent {
    fn on_heard(&mut self, heard: Heard) {
        let Heard::Read(_, Committed { records, next: Offset(next), .. }) = heard else {
            *self = Self::default();
            return;
        };
        for Stored { offset, value, .. } in records {
            let event = value.and_then(|value| serde_json::from_slice::<Event>(&value).ok());
            let Some(event) = event else { continue };
            if self.events.len() >= RECENT {
                self.events.pop_front();
            }
            self.events.push_back(LoggedEvent { id: offset.0, event });
        }
        self.next = next;
    }

    fn page(&self, query: &EventQuery) -> EventPage {
        let limit = query.limit.unwrap_or(PAGE).min(RECENT);
        // Another log than the asker's: it was deleted and began anew.
        let after = query.after.filter(|after| *after < self.next);
        let is_wanted = |one: &&LoggedEvent| {
            after.is_none_or(|after| one.id > after)
                && query.link.as_ref().is_none_or(|link| one.event.link.as_ref() == Some(link))
                && query.topic.as_ref().is_none_or(|topic| one.event.topic.as_ref() == Some(topic))
        };
        let mut wanted: Vec<_> = self.events.iter().filter(is_wanted).cloned().collect();
        if after.is_some() && wanted.len() > limit {
            wanted.truncate(limit);
            let next = wanted.last().map_or(self.next - 1, |last| last.id);
            return EventPage { events: wanted, next };
        }
        let latest = wanted.split_off(wanted.len().saturating_sub(limit));
        EventPage { events: latest, next: self.next - 1 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{TopicId, Uuid};

    fn heard(first: i64, links: &[&str]) -> Heard {
        let records = (first..).zip(links).map(|(offset, link)| {
            let event = Event::new(EventKind::Pinned, "t").link(&(*link).into());
            let value = Some(serde_json::to_vec(&event).unwrap());
            Stored { offset: Offset(offset), key: None, value }
        });
        let mut records: Vec<_> = records.collect();
        let next = Offset(first + records.len() as i64);
        records.push(Stored { offset: next, key: None, value: Some(b"garbage".to_vec()) });
        let next = Offset(next.0 + 1);
        let id = TopicId(Uuid::from_u128(1));
        Heard::Read(id, Committed { records, unreadable: Vec::new(), next, end: next })
    }

    fn ids(page: &EventPage) -> Vec<i64> {
        page.events.iter().map(|event| event.id).collect()
    }

    #[test]
    fn a_query_gives_the_latest_or_what_follows() {
        let mut recent = Recent::default();
        recent.on_heard(heard(5, &["a", "b", "a", "a"]));
        let ask = |after, limit| EventQuery { after, limit, ..EventQuery::default() };
        let page = recent.page(&ask(None, Some(2)));
        assert_eq!((ids(&page), page.next), (vec![7, 8], 9));
        let page = recent.page(&ask(Some(5), Some(2)));
        assert_eq!((ids(&page), page.next), (vec![6, 7], 7));
        let page = recent.page(&ask(Some(7), Some(2)));
        assert_eq!((ids(&page), page.next), (vec![8], 9));
        let page = recent.page(&ask(Some(9), None));
        assert_eq!((ids(&page), page.next), (vec![], 9));
        let of_link = EventQuery { link: Some("a".to_owned()), ..EventQuery::default() };
        assert_eq!(ids(&recent.page(&of_link)), [5, 7, 8]);
    }

    #[test]
    fn a_log_that_began_anew_is_told_from_its_start() {
        let mut recent = Recent::default();
        recent.on_heard(heard(500, &["a"]));
        recent.on_heard(Heard::Gone);
        recent.on_heard(heard(0, &["a", "a"]));
        let page = recent.page(&EventQuery { after: Some(501), ..EventQuery::default() });
        assert_eq!((ids(&page), page.next), (vec![0, 1], 2));
    }
}
