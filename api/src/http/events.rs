//! The events of a VMM, kept for a while and handed to any number of listeners.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use hyper::body::Bytes;
use serde::{Deserialize, Serialize};

use crate::event::Event;

/// How many events an [`EventHub`] keeps unless told otherwise.
pub const DEFAULT_HISTORY: usize = 1024;

/// One line of the event stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StreamItem {
    /// Something happened.
    Event(Event),
    /// The listener was too slow, or came too late: this many events before the next one are lost
    /// to it.
    Missed(u64),
    /// A line that this version doesn't know: a later version's event.
    Unknown(String),
}

/// The line that stands for lost events, `{"event":"missed","count":3}`.
#[derive(Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
enum Gap {
    Missed { count: u64 },
}

impl StreamItem {
    /// Reads one line of the stream.
    #[must_use]
    pub fn parse(line: &[u8]) -> Self {
        if let Ok(event) = Event::parse_line(line) {
            return Self::Event(event);
        }
        match serde_json::from_slice(line) {
            Ok(Gap::Missed { count }) => Self::Missed(count),
            Err(_) => Self::Unknown(String::from_utf8_lossy(line).into_owned()),
        }
    }
}

/// Keeps the latest events and tells listeners about new ones.
///
/// Publishing never waits: the history is a ring, and a listener that falls behind its oldest
/// event learns how many it missed.
#[derive(Debug)]
pub struct EventHub {
    history: Mutex<History>,
    capacity: usize,
}

#[derive(Debug, Default)]
struct History {
    /// Each event as one line, its newline included.
    lines: VecDeque<Bytes>,
    /// How many events were dropped from the front of `lines`.
    dropped: u64,
    closed: bool,
    /// Those who wait for the next event, by their subscriptions' numbers.
    waiting: BTreeMap<u64, Waker>,
    next_subscription: u64,
}

impl Default for EventHub {
    fn default() -> Self {
        Self::new(DEFAULT_HISTORY)
    }
}

impl EventHub {
    /// Makes a hub that keeps the latest `capacity` events (at least one).
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        Self { history: Mutex::default(), capacity: capacity.max(1) }
    }

    /// Adds an event, and wakes every listener. May be called from any thread; never waits.
    pub fn publish(&self, event: &Event) {
        let mut line = Vec::new();
        if let Err(error) = event.write_line(&mut line) {
            log::error!("an event can't be written as JSON: {error}");
            return;
        }
        let waiting = {
            let mut history = self.lock();
            if history.lines.len() == self.capacity {
                history.lines.pop_front();
                history.dropped += 1;
            }
            history.lines.push_back(line.into());
            std::mem::take(&mut history.waiting)
        };
        waiting.into_values().for_each(Waker::wake);
    }

    /// Says that no event follows: every stream ends after what it has yet to deliver.
    pub fn close(&self) {
        let waiting = {
            let mut history = self.lock();
            history.closed = true;
            std::mem::take(&mut history.waiting)
        };
        waiting.into_values().for_each(Waker::wake);
    }

    /// Begins to listen, at the oldest event that is kept. Unless it is to `follow`, the
    /// subscription ends where the history does.
    pub(super) fn subscribe(self: &Arc<Self>, follow: bool) -> Subscription {
        let mut history = self.lock();
        let number = history.next_subscription;
        history.next_subscription += 1;
        drop(history);
        Subscription { hub: Arc::clone(self), number, position: 0, follow }
    }

    /// Nothing that panics runs under the lock, so a poisoned one is whole.
    fn lock(&self) -> MutexGuard<'_, History> {
        self.history.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A listener's place in the events.
#[derive(Debug)]
pub(super) struct Subscription {
    hub: Arc<EventHub>,
    number: u64,
    /// How many events lie before the next one to deliver, counted from the first ever.
    position: u64,
    follow: bool,
}

impl Subscription {
    /// Returns the next line, or none after the last.
    pub(super) fn poll_next(&mut self, cx: &Context<'_>) -> Poll<Option<Bytes>> {
        let mut history = self.hub.lock();
        if self.position < history.dropped {
            let gap = Gap::Missed { count: history.dropped - self.position };
            self.position = history.dropped;
            return Poll::Ready(Some(line_of(&gap)));
        }
        let index = usize::try_from(self.position - history.dropped).unwrap_or(usize::MAX);
        if let Some(line) = history.lines.get(index) {
            self.position += 1;
            return Poll::Ready(Some(line.clone()));
        }
        if history.closed || !self.follow {
            return Poll::Ready(None);
        }
        history.waiting.insert(self.number, cx.waker().clone());
        Poll::Pending
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.hub.lock().waiting.remove(&self.number);
    }
}

fn line_of(gap: &Gap) -> Bytes {
    let mut line = serde_json::to_vec(gap).unwrap_or_default();
    line.push(b'\n');
    line.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(monotonic_ns: u64) -> Event {
        Event::VmCreated { monotonic_ns }
    }

    fn next(subscription: &mut Subscription) -> Poll<Option<StreamItem>> {
        let cx = Context::from_waker(Waker::noop());
        subscription.poll_next(&cx).map(|line| {
            line.map(|line| StreamItem::parse(line.strip_suffix(b"\n").expect("a whole line")))
        })
    }

    #[test]
    fn late_listener_gets_history_first_then_what_follows() {
        let hub = Arc::new(EventHub::default());
        hub.publish(&event(1));
        let mut subscription = hub.subscribe(true);
        assert_eq!(next(&mut subscription), Poll::Ready(Some(StreamItem::Event(event(1)))));
        assert_eq!(next(&mut subscription), Poll::Pending);
        hub.publish(&event(2));
        assert_eq!(next(&mut subscription), Poll::Ready(Some(StreamItem::Event(event(2)))));
        hub.close();
        assert_eq!(next(&mut subscription), Poll::Ready(None));
    }

    #[test]
    fn listener_that_doesnt_follow_ends_with_the_history() {
        let hub = Arc::new(EventHub::default());
        hub.publish(&event(1));
        let mut subscription = hub.subscribe(false);
        assert_eq!(next(&mut subscription), Poll::Ready(Some(StreamItem::Event(event(1)))));
        assert_eq!(next(&mut subscription), Poll::Ready(None));
    }

    #[test]
    fn slow_listener_is_told_how_many_events_it_missed() {
        let hub = Arc::new(EventHub::new(2));
        let mut subscription = hub.subscribe(true);
        hub.publish(&event(0));
        assert_eq!(next(&mut subscription), Poll::Ready(Some(StreamItem::Event(event(0)))));
        for number in 1..=5 {
            hub.publish(&event(number));
        }
        assert_eq!(next(&mut subscription), Poll::Ready(Some(StreamItem::Missed(3))));
        assert_eq!(next(&mut subscription), Poll::Ready(Some(StreamItem::Event(event(4)))));
        assert_eq!(next(&mut subscription), Poll::Ready(Some(StreamItem::Event(event(5)))));
        assert_eq!(next(&mut subscription), Poll::Pending);
    }

    #[test]
    fn listener_that_leaves_is_forgotten() {
        let hub = Arc::new(EventHub::default());
        let mut subscription = hub.subscribe(true);
        assert_eq!(next(&mut subscription), Poll::Pending);
        assert_eq!(hub.lock().waiting.len(), 1);
        drop(subscription);
        assert!(hub.lock().waiting.is_empty());
    }

    #[test]
    fn line_of_a_later_version_is_unknown_and_no_error() {
        let line = br#"{"event":"from_the_future"}"#;
        let expected = StreamItem::Unknown(String::from_utf8_lossy(line).into_owned());
        assert_eq!(StreamItem::parse(line), expected);
    }
}
