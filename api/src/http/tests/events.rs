//! The stream of events.

use super::*;
use crate::event::Event;
use crate::http::{Client, ClientError, StreamItem};

fn event(monotonic_ns: u64) -> Event {
    Event::VmCreated { monotonic_ns }
}

#[test]
fn listener_gets_history_then_each_event_at_once_then_the_end() {
    let fixture = Fixture::new();
    fixture.events.publish(&event(1));
    let mut events = Client::connect(&fixture.path()).unwrap().events(true).unwrap();
    assert_eq!(events.next().unwrap().unwrap(), StreamItem::Event(event(1)));
    // Each is read before the next is there: nothing waits in a buffer.
    for number in 2..10 {
        fixture.events.publish(&event(number));
        assert_eq!(events.next().unwrap().unwrap(), StreamItem::Event(event(number)));
    }
    fixture.events.publish(&event(10));
    fixture.handle.shutdown();
    assert_eq!(events.next().unwrap().unwrap(), StreamItem::Event(event(10)));
    assert!(events.next().is_none());
}

#[test]
fn listener_that_doesnt_follow_gets_the_history() {
    let fixture = Fixture::new();
    for number in 0..20 {
        fixture.events.publish(&event(number));
    }
    let events = Client::connect(&fixture.path()).unwrap().events(false).unwrap();
    let items: Vec<_> = events.map(Result::unwrap).collect();
    assert_eq!(items.len(), 17);
    assert_eq!(items[0], StreamItem::Missed(4));
    assert_eq!(items[16], StreamItem::Event(event(19)));
}

#[test]
fn events_are_json_lines_in_chunks() {
    let fixture = Fixture::new();
    fixture.events.publish(&event(7));
    let mut client = fixture.connect();
    let answer = client.ask(b"GET /ext/v1/events?follow=false HTTP/1.1\r\nHost: x\r\n\r\n");
    assert!(answer.has_header("content-type: application/x-ndjson"), "{answer:?}");
    assert!(answer.has_header("transfer-encoding: chunked"), "{answer:?}");
    let line = "{\"event\":\"vm_created\",\"monotonic_ns\":7}\n";
    assert_eq!(client.line(), format!("{:X}", line.len()));
    assert_eq!(client.line(), line.trim_end());
}

#[test]
fn listener_that_doesnt_read_delays_no_publisher_and_learns_what_it_missed() {
    let fixture = Fixture::new();
    let mut events = Client::connect(&fixture.path()).unwrap().events(true).unwrap();
    for number in 0..100_000 {
        fixture.events.publish(&event(number));
    }
    fixture.events.close();
    let (mut seen, mut missed, mut gaps) = (0, 0, 0);
    for item in &mut events {
        match item.unwrap() {
            StreamItem::Event(event) => {
                assert_eq!(event, self::event(seen + missed));
                seen += 1;
            }
            StreamItem::Missed(count) => {
                missed += count;
                gaps += 1;
            }
            StreamItem::Unknown(line) => panic!("{line}"),
        }
    }
    assert_eq!(seen + missed, 100_000);
    assert!(gaps > 0, "100,000 events fit through");
}

#[test]
fn listeners_cant_take_all_connections() {
    let fixture = Fixture::with_limits(Limits { max_event_streams: 2, ..Limits::default() });
    let client = Client::connect(&fixture.path()).unwrap();
    let first = client.events(true).unwrap();
    let _second = client.events(true).unwrap();
    assert!(matches!(client.events(true), Err(ClientError::Fault { status: 503, .. })));
    fixture.assert_serves();
    drop(first);
    // The server sees that it's gone when it is told to look.
    let begun = std::time::Instant::now();
    while client.events(false).is_err() {
        assert!(begun.elapsed() < PATIENCE, "the slot isn't free again");
        std::thread::yield_now();
    }
}

#[test]
fn query_that_isnt_known_is_refused() {
    let fixture = Fixture::new();
    let answer =
        fixture.connect().ask(b"GET /ext/v1/events?follow=maybe HTTP/1.1\r\nHost: x\r\n\r\n");
    assert_eq!(answer.status, 400);
    assert!(answer.fault().contains("follow=maybe"), "{answer:?}");
}
