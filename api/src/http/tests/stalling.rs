//! Clients that stall, leave, or come in numbers.

use std::time::Instant;

use super::*;

#[test]
fn clients_in_numbers_are_answered_while_a_request_is_under_way() {
    let fixture = Fixture::new();
    let mut pausing = fixture.connect();
    pausing.send(PAUSE);
    let reply = fixture.next_held();
    let path = fixture.path();
    for count in [32, 200] {
        let barrier = std::sync::Barrier::new(count);
        std::thread::scope(|scope| {
            for _ in 0..count {
                scope.spawn(|| {
                    let mut client = Raw::connect(&path);
                    barrier.wait();
                    for _ in 0..10 {
                        assert_eq!(client.ask(GET_INFO).status, 200);
                    }
                });
            }
        });
    }
    reply.send(Ok(VmmData::Empty));
    assert_eq!(pausing.answer().status, 204);
}

#[test]
fn half_a_header_holds_up_nobody_and_is_cut_off() {
    let fixture = Fixture::with_limits(Limits { header_timeout: SHORT, ..Limits::default() });
    let mut stalling = fixture.connect();
    stalling.send(b"GET / HTTP/1.1\r\nHo");
    let begun = Instant::now();
    fixture.assert_serves();
    assert_eq!(stalling.rest(), b"");
    assert!(begun.elapsed() > SHORT / 2, "cut off at once");
}

#[test]
fn header_that_trickles_in_is_cut_off() {
    let fixture = Fixture::with_limits(Limits { header_timeout: SHORT, ..Limits::default() });
    let mut trickling = fixture.connect();
    trickling.send(b"GET / HTTP/1.1\r\nX: ");
    let begun = Instant::now();
    while trickling.0.get_mut().write_all(b"x").is_ok() {
        assert!(begun.elapsed() < PATIENCE, "never cut off");
        std::thread::sleep(SHORT / 10);
    }
    fixture.assert_serves();
}

#[test]
fn half_a_header_after_a_whole_request_is_cut_off() {
    let fixture = Fixture::with_limits(Limits { header_timeout: SHORT, ..Limits::default() });
    let mut stalling = fixture.connect();
    assert_eq!(stalling.ask(GET_INFO).status, 200);
    stalling.send(b"GET / HT");
    assert_eq!(stalling.rest(), b"");
}

#[test]
fn half_a_body_holds_up_nobody_and_is_refused() {
    let fixture = Fixture::with_limits(Limits { body_timeout: SHORT, ..Limits::default() });
    let mut stalling = fixture.connect();
    stalling.send(b"PUT /mmds HTTP/1.1\r\nHost: x\r\nContent-Length: 20\r\n\r\n{\"half\":");
    fixture.assert_serves();
    let answer = stalling.answer();
    assert_eq!(answer.status, 408);
    assert!(answer.fault().contains("didn't arrive"), "{answer:?}");
    assert_eq!(stalling.rest(), b"");
}

#[test]
fn body_has_a_time_of_its_own() {
    let fixture = Fixture::with_limits(Limits { header_timeout: SHORT, ..Limits::default() });
    let mut slow = fixture.connect();
    slow.send(b"PUT /mmds HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\n");
    for byte in [b"{", b" ", b" ", b" "] {
        slow.send(byte);
        std::thread::sleep(SHORT);
    }
    assert_eq!(slow.ask(b"}").status, 204);
}

#[test]
fn client_that_reads_no_answer_holds_up_nobody_and_is_cut_off() {
    let fixture = Fixture::with_limits(Limits { write_timeout: SHORT, ..Limits::default() });
    let mut deaf = fixture.connect();
    deaf.send(b"GET /mmds HTTP/1.1\r\nHost: x\r\n\r\n");
    fixture.assert_serves();
    // The other end is closed only when the server gives up: then writing fails.
    let begun = Instant::now();
    while deaf.0.get_mut().write_all(b"\r\n").is_ok() {
        assert!(begun.elapsed() < PATIENCE, "never cut off");
        std::thread::sleep(SHORT / 10);
    }
    assert!(deaf.rest().len() < LARGE_ANSWER_BYTES);
}

#[test]
fn large_answer_reaches_a_client_that_reads_it() {
    let fixture = Fixture::with_limits(Limits { write_timeout: SHORT, ..Limits::default() });
    let answer = fixture.connect().ask(b"GET /mmds HTTP/1.1\r\nHost: x\r\n\r\n");
    assert_eq!(answer.body.len(), LARGE_ANSWER_BYTES + 2);
}

#[test]
fn slow_action_and_idle_connection_outlive_the_timeouts() {
    let limits = Limits {
        header_timeout: SHORT,
        body_timeout: SHORT,
        write_timeout: SHORT,
        ..Limits::default()
    };
    let fixture = Fixture::with_limits(limits);
    let mut idle = fixture.connect();
    assert_eq!(idle.ask(GET_INFO).status, 200);
    let mut pausing = fixture.connect();
    pausing.send(PAUSE);
    let reply = fixture.next_held();
    // The next request is there already: its time hasn't begun.
    pausing.send(&GET_INFO[..10]);
    std::thread::sleep(SHORT * 3);
    reply.send(Ok(VmmData::Empty));
    assert_eq!(pausing.answer().status, 204);
    assert_eq!(pausing.ask(&GET_INFO[10..]).status, 200);
    assert_eq!(idle.ask(GET_INFO).status, 200);
}

#[test]
fn connection_without_requests_ends_in_time() {
    let fixture = Fixture::with_limits(Limits { idle_timeout: SHORT, ..Limits::default() });
    let mut silent = fixture.connect();
    let mut served = fixture.connect();
    assert_eq!(served.ask(GET_INFO).status, 200);
    assert_eq!(silent.rest(), b"");
    assert_eq!(served.rest(), b"");
}

#[test]
fn client_that_leaves_before_its_answer_harms_nobody() {
    let fixture = Fixture::new();
    let mut leaving = fixture.connect();
    leaving.send(PAUSE);
    let reply = fixture.next_held();
    drop(leaving);
    fixture.assert_serves();
    reply.send(Ok(VmmData::Empty));
    fixture.assert_serves();
}

#[test]
fn full_house_makes_room_by_closing_idle_connections_only() {
    let fixture = Fixture::with_limits(Limits { max_connections: 3, ..Limits::default() });
    let mut busy = fixture.connect();
    busy.send(PAUSE);
    let reply = fixture.next_held();
    let mut idle = [fixture.connect(), fixture.connect()];
    for client in &mut idle {
        assert_eq!(client.ask(GET_INFO).status, 200);
    }
    fixture.assert_serves();
    for client in &mut idle {
        assert_eq!(client.rest(), b"");
    }
    reply.send(Ok(VmmData::Empty));
    assert_eq!(busy.answer().status, 204);
}

#[test]
fn full_house_of_busy_clients_has_others_wait() {
    let fixture = Fixture::with_limits(Limits { max_connections: 1, ..Limits::default() });
    let mut busy = fixture.connect();
    busy.send(PAUSE);
    let reply = fixture.next_held();
    let mut waiting = fixture.connect();
    waiting.send(GET_INFO);
    waiting.0.get_mut().set_read_timeout(Some(SHORT)).unwrap();
    assert!(waiting.0.fill_buf().is_err(), "answered beyond the limit");
    waiting.0.get_mut().set_read_timeout(Some(PATIENCE)).unwrap();
    reply.send(Ok(VmmData::Empty));
    assert_eq!(busy.answer().status, 204);
    assert_eq!(waiting.answer().status, 200);
}

#[test]
fn shutdown_lets_an_answer_out_and_then_closes_everything() {
    let fixture = Fixture::with_limits(Limits { shutdown_timeout: PATIENCE, ..Limits::default() });
    let path = fixture.path();
    let mut idle = fixture.connect();
    assert_eq!(idle.ask(GET_INFO).status, 200);
    let mut busy = fixture.connect();
    busy.send(PAUSE);
    let reply = fixture.next_held();
    let handle = fixture.handle;
    let ending = std::thread::spawn(move || handle.shutdown());
    assert_eq!(idle.rest(), b"", "idle connections are closed first");
    reply.send(Ok(VmmData::Empty));
    assert_eq!(busy.answer().status, 204);
    assert_eq!(busy.rest(), b"");
    ending.join().unwrap();
    assert!(!path.exists());
}

#[test]
fn shutdown_doesnt_wait_for_ever() {
    let fixture = Fixture::with_limits(Limits { shutdown_timeout: SHORT, ..Limits::default() });
    let mut busy = fixture.connect();
    busy.send(PAUSE);
    let _unanswered = fixture.next_held();
    fixture.handle.shutdown();
    assert_eq!(busy.rest(), b"");
}
