//! The stream of events.

use std::io::{Read, Write};
use std::time::Instant;

use crate::{Live, PATIENCE, instance_of};

#[test]
fn stream_goes_on_where_it_was_broken_off() {
    let live = Live::greeting();
    let mut events = live.events(None);
    assert!(events.status.contains("200"), "{}", events.status);
    assert_eq!(events.next().unwrap().name, "state");
    let name = instance_of(&live.post("/api/instances", r#"{"way": "container"}"#));
    let last = events.until(|event| event.name == "output").id;
    drop(events);
    live.post(&format!("/api/instances/{name}/stop"), "{}");
    let mut events = live.events(Some(&last));
    let first = events.next().unwrap();
    let (last, next): (u64, u64) = (last.parse().unwrap(), first.id.parse().unwrap());
    assert_eq!(next, last + 1);
    assert_ne!(first.name, "state");
    events.phase(&name, "ended");
}

#[test]
fn last_event_that_is_unknown_gets_everything() {
    let live = Live::greeting();
    for last in ["999", "-1", "x", "18446744073709551615", ""] {
        assert_eq!(live.events(Some(last)).next().unwrap().name, "state", "{last}");
    }
}

#[test]
fn two_pages_are_told_the_same() {
    let live = Live::greeting();
    let (mut one, mut other) = (live.events(None), live.events(None));
    instance_of(&live.post("/api/instances", r#"{"way": "container"}"#));
    let is_output = |event: &crate::Event| event.name == "output";
    let (seen, also_seen) = (one.until(is_output), other.until(is_output));
    assert_eq!((seen.id, seen.data), (also_seen.id, also_seen.data));
}

#[test]
fn listeners_are_limited() {
    let live = Live::greeting();
    let mut listeners: Vec<_> = (0..16).map(|_| live.events(None)).collect();
    assert!(listeners.iter().all(|events| events.status.contains("200")));
    assert!(live.events(None).status.contains("503"));
    assert!(listeners[0].next().is_some());
    assert_eq!(live.get("/api/state", &live.bearer()).status, 200);
}

#[test]
fn client_that_does_not_read_is_dropped_and_others_are_served() {
    // Each run of this workload is an event of a mebibyte.
    let live = Live::start(crate::workloads::large_rows(1 << 20));
    let (host, bearer) = (live.address, live.bearer());
    let mut slow = live.connect();
    write!(slow, "GET /api/events HTTP/1.0\r\nHost: {host}\r\n{bearer}\r\n").unwrap();
    // It listens once its answer begins.
    slow.read_exact(&mut [0; 4]).unwrap();
    let mut quick = live.events(None);
    const RUNS: usize = 30;
    for _ in 0..RUNS {
        assert_eq!(live.post("/api/workloads/cpu", "{}").status, 202);
        quick.until(|event| event.name == "progress" && event.data["phase"] == "done");
    }
    // It's disconnected before it reads: its place is another's now, the last of sixteen.
    let others: Vec<_> = (0..14).map(|_| live.events(None)).collect();
    assert!(others.iter().all(|events| events.status.contains("200")));
    let deadline = Instant::now() + PATIENCE;
    while live.events(None).status.contains("503") {
        assert!(Instant::now() < deadline, "its place is still taken");
    }
    let mut got = Vec::new();
    // It ends, by a reset perhaps, long before it has everything.
    let error = slow.read_to_end(&mut got).err().map(|error| error.kind());
    assert_ne!(error, Some(std::io::ErrorKind::WouldBlock), "it's still connected");
    assert!(got.len() < RUNS << 20, "{} bytes", got.len());
}
