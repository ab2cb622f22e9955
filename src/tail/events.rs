//! Where events go: a sender that any part can hold and that never waits, and the task that logs
//! and counts them and passes them on.

use std::time::{SystemTime, UNIX_EPOCH};

use tokio::sync::mpsc;

use crate::mirror::event::{Event, EventKind};

/// Events under way; more are counted as lost, since nobody who has something to say may be held up.
const EVENTS: usize = 4096;

/// Tells what happened. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Events {
    events: mpsc::Sender<Event>,
}

/// The other end.
#[derive(Debug)]
pub struct EventsSeen {
    events: mpsc::Receiver<Event>,
}

impl Events {
    /// A sender and where what it sends comes out.
    pub fn new() -> (Self, EventsSeen) {
        let (sender, receiver) = mpsc::channel(EVENTS);
        (Self { events: sender }, EventsSeen { events: receiver })
    }

    /// A sender that nobody listens to: for tests.
    pub fn unheard() -> Self {
        Self::new().0
    }

    /// Tells it: it is logged, counted and becomes durable soon. Never waits.
    pub fn send(&self, mut event: Event) {
        event.time = now();
        log(&event);
        metrics::counter!("lockstep_events_total", "reason" => event.reason.to_string())
            .increment(1);
        if let Err(mpsc::error::TrySendError::Full(_)) = self.events.try_send(event) {
            metrics::counter!(
                "lockstep_events_total", "reason" => EventKind::EventsLost.name()
            )
            .increment(1);
        }
    }
}

impl EventsSeen {
    /// The next event; `None` when nobody can send any more.
    pub async fn next(&mut self) -> Option<Event> {
        self.events.recv().await
    }

    /// The next one if it is there already.
    pub fn ready(&mut self) -> Option<Event> {
        self.events.try_recv().ok()
    }
}

fn log(event: &Event) {
    tracing::warn!(
        link = event.link, topic = event.topic, partition = event.partition,
        start_offset = event.start_offset, end_offset = event.end_offset,
        reason = %event.reason, "event: {}", event.text
    );
}

/// Milliseconds since 1970.
pub fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_sender_never_waits() {
        let (events, mut seen) = Events::new();
        for number in 0..EVENTS + 10 {
            events.send(Event::new(EventKind::Pinned, number.to_string()));
        }
        let first = seen.next().await.unwrap();
        assert_eq!(first.text, "0");
        assert!(first.time > 0);
        drop(events);
        let mut rest = 0;
        while seen.next().await.is_some() {
            rest += 1;
        }
        assert_eq!(rest, EVENTS - 1);
    }
}
