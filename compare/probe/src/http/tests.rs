//! The clients against our server, and against servers that are none.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

use super::*;
use crate::ProbeError;
use crate::network::listen;

fn server() -> SocketAddr {
    let (listener, port) = listen(0).unwrap();
    thread::spawn(move || web_server(&listener));
    (Ipv4Addr::LOCALHOST, port).into()
}

/// A server that does this with each connection, and closes it.
fn other(act: impl Fn(&mut TcpStream) + Send + 'static) -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            act(&mut stream.unwrap());
        }
    });
    address
}

/// Reads a request, which these clients send in one piece.
fn request(stream: &mut TcpStream) {
    let _ = stream.read(&mut [0; 4096]);
}

#[test]
fn server_answers_each_request_on_each_connection() {
    let result = web_client(server(), "/", 100, 4).unwrap();
    assert_eq!(result.requests, 100);
    assert_eq!(result.statuses.into_iter().collect::<Vec<_>>(), [(200, 100)]);
    assert_eq!(result.body_bytes, 100 * 1024);
    assert_eq!(result.reconnections, 0);
    assert_eq!(result.latency.count, 100);
}

#[test]
fn server_that_closes_after_each_answer_is_asked_again() {
    let closing = other(|stream| {
        request(stream);
        let _ = stream
            .write_all(b"HTTP/1.1 404 No\r\nContent-Length: 2\r\nConnection: close\r\n\r\nno");
        // A request after that would be one too many.
        if stream.read(&mut [0; 4096]).is_ok_and(|size| size > 0) {
            let _ = stream.write_all(b"nonsense\r\n");
        }
    });
    let result = web_client(closing, "/x?y", 5, 1).unwrap();
    assert_eq!(result.statuses.into_iter().collect::<Vec<_>>(), [(404, 5)]);
    assert!(result.reconnections >= 4);
}

#[test]
fn server_that_closes_a_kept_connection_unannounced_is_asked_again() {
    let closing = other(|stream| {
        request(stream);
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
    });
    let result = web_client(closing, "/", 3, 1).unwrap();
    assert_eq!(result.requests, 3);
    assert_eq!(result.reconnections, 2);
}

#[test]
fn server_that_never_answers_anything_is_an_error() {
    let silent = other(request);
    assert!(matches!(web_client(silent, "/", 3, 1), Err(ProbeError::Protocol { .. })));
    let no_http = other(|stream| {
        request(stream);
        let _ = stream.write_all(b"SSH-2.0-x\r\n");
    });
    assert!(matches!(web_client(no_http, "/", 3, 1), Err(ProbeError::Protocol { .. })));
}

#[test]
fn clients_end_when_they_are_told_to() {
    let asked = AtomicU32::new(0);
    let goes_on = || asked.fetch_add(1, Ordering::Relaxed) < 7;
    let result = web_client_while(server(), "/", 1 << 24, 2, &goes_on).unwrap();
    assert_eq!(result.requests, 7);
}

#[test]
fn endless_head_is_an_error() {
    let endless = other(|stream| {
        request(stream);
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n");
        while stream.write_all(b"X: y\r\n").is_ok() {}
    });
    assert!(matches!(web_client(endless, "/", 1, 1), Err(ProbeError::Protocol { .. })));
}

#[test]
fn arguments_that_make_no_sense_are_errors_before_a_connection() {
    let nowhere = (Ipv4Addr::LOCALHOST, 1).into();
    for (path, requests, connections) in [
        ("/", 0, 1),
        ("/", u64::MAX, 1),
        ("/", 1, 0),
        ("/", 1, 2),
        ("/", 1 << 20, u64::MAX),
        ("x", 1, 1),
        ("/ HTTP/1.1\r\nX:", 1, 1),
    ] {
        let result = web_client(nowhere, path, requests, connections);
        assert!(
            matches!(result, Err(ProbeError::Range { .. } | ProbeError::Argument(_))),
            "{path:?} {requests} {connections}: {result:?}"
        );
    }
    assert!(matches!(connect(nowhere, "/", 0), Err(ProbeError::Range { .. })));
    assert!(matches!(connect(nowhere, "", 1), Err(ProbeError::Argument(_))));
}

#[test]
fn first_answer_is_waited_for_across_failures() {
    let attempts = AtomicU32::new(0);
    let address = other(move |stream| {
        request(stream);
        match attempts.fetch_add(1, Ordering::Relaxed) {
            // Accepted by something in between that finds nobody behind it.
            0 => {}
            1 => drop(stream.write_all(b"not yet\r\n")),
            _ => drop(stream.write_all(b"HTTP/1.1 503 Later\r\nContent-Length: 0\r\n\r\n")),
        }
    });
    let result = connect(address, "/", 30_000).unwrap();
    assert_eq!((result.status, result.attempts), (Some(503), 3));
}

#[test]
fn answer_of_another_protocol_counts_where_any_does() {
    let other_protocol = other(|stream| drop(stream.write_all(b"-ERR unknown command\r\n")));
    let closing = other(request);
    // What's left unread makes the kernel reset the connection.
    let hanging_up = other(|stream| drop(stream.read(&mut [0; 4])));
    for address in [other_protocol, closing, hanging_up] {
        let left = || Some(Duration::from_secs(30));
        let result = connect_while(address, "/", Answer::Any, Duration::from_secs(30), left);
        let result = result.unwrap();
        assert_eq!((result.status, result.attempts), (None, 1));
    }
}

#[test]
fn server_that_never_speaks_http_is_an_error_long_before_the_time_is_over() {
    let other_protocol = other(|stream| drop(stream.write_all(b"-ERR unknown command\r\n")));
    let result = connect(other_protocol, "/", 3_600_000);
    assert!(matches!(result, Err(ProbeError::Protocol { .. })), "{result:?}");
}

#[test]
fn server_that_never_comes_is_an_error_in_time() {
    let (listener, port) = listen(0).unwrap();
    drop(listener);
    let result = connect((Ipv4Addr::LOCALHOST, port).into(), "/", 20);
    assert!(matches!(result, Err(ProbeError::NoAnswer { elapsed_ms: 20.., .. })), "{result:?}");
}
