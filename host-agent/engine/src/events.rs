//! The event stream: what `docker events` shows. Services publish, `GET /events` subscribes; the last
//! [`EventBus::KEPT`] events are kept so that `since` works.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex};
use time::OffsetDateTime;
use tokio::sync::broadcast;

/// What an event is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EventKind {
    Container,
    Image,
    Network,
    Volume,
    Daemon,
    Builder,
}

impl EventKind {
    /// Docker's `Type` key.
    pub fn name(self) -> &'static str {
        match self {
            EventKind::Container => "container",
            EventKind::Image => "image",
            EventKind::Network => "network",
            EventKind::Volume => "volume",
            EventKind::Daemon => "daemon",
            EventKind::Builder => "builder",
        }
    }
}

/// One event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    pub kind: EventKind,
    /// Docker's `Action`, for example `start` or `exec_create: sh`.
    pub action: String,
    /// Docker's `Actor.ID`.
    pub actor: String,
    pub attributes: BTreeMap<String, String>,
    pub at: OffsetDateTime,
}

/// Where events are published and read.
#[derive(Debug, Clone)]
pub struct EventBus {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    sender: broadcast::Sender<Arc<Event>>,
    kept: Mutex<VecDeque<Arc<Event>>>,
}

impl Default for EventBus {
    fn default() -> Self {
        Self::new()
    }
}

impl EventBus {
    /// How many past events are kept, as many as dockerd keeps.
    pub const KEPT: usize = 256;

    pub fn new() -> EventBus {
        EventBus {
            inner: Arc::new(Inner {
                sender: broadcast::channel(1024).0,
                kept: Mutex::default(),
            }),
        }
    }

    /// Publishes one event; never blocks.
    pub fn publish(&self, event: Event) {
        let event = Arc::new(event);
        let mut kept = self
            .inner
            .kept
            .lock()
            .expect("no code panics while it holds this lock");
        if kept.len() == Self::KEPT {
            kept.pop_front();
        }
        kept.push_back(event.clone());
        // Sent under the lock, so that `subscribe` sees each event exactly once. Nobody listening is no error.
        let _ = self.inner.sender.send(event);
    }

    /// How many read the stream now.
    pub fn listeners(&self) -> usize {
        self.inner.sender.receiver_count()
    }

    /// The kept events, and a receiver that goes on exactly where they end.
    pub fn subscribe(&self) -> (Vec<Arc<Event>>, broadcast::Receiver<Arc<Event>>) {
        let kept = self
            .inner
            .kept
            .lock()
            .expect("no code panics while it holds this lock");
        (
            kept.iter().cloned().collect(),
            self.inner.sender.subscribe(),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(action: &str) -> Event {
        Event {
            kind: EventKind::Container,
            action: action.into(),
            actor: "x".into(),
            attributes: BTreeMap::new(),
            at: OffsetDateTime::UNIX_EPOCH,
        }
    }

    #[test]
    fn a_subscriber_gets_the_past_and_the_future_without_a_gap() {
        let bus = EventBus::new();
        bus.publish(event("create"));
        let (past, mut future) = bus.subscribe();
        bus.publish(event("start"));
        assert_eq!(
            past.iter()
                .map(|event| event.action.as_str())
                .collect::<Vec<_>>(),
            ["create"]
        );
        assert_eq!(future.try_recv().expect("one event waits").action, "start");
        assert!(future.try_recv().is_err());
    }

    /// `docker events --since` counts on 256.
    #[test]
    fn the_last_256_events_are_kept_in_their_order() {
        let bus = EventBus::new();
        for number in 0..300 {
            bus.publish(event(&number.to_string()));
        }
        let (past, _) = bus.subscribe();
        let actions: Vec<String> = past.iter().map(|event| event.action.clone()).collect();
        let last: Vec<String> = (44..300).map(|number: i32| number.to_string()).collect();
        assert_eq!(actions, last);
    }
}
