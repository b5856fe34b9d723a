//! The client against the server, and against servers that are none.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::thread;

use super::*;

/// A server of ours, which runs as long as the tests.
fn server() -> SocketAddr {
    let (listener, port) = listen(0).unwrap();
    thread::spawn(move || net_server(&listener));
    (Ipv4Addr::LOCALHOST, port).into()
}

/// A server that does this with its first connection, and closes it.
fn hostile(act: impl FnOnce(&mut TcpStream) + Send + 'static) -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || act(&mut listener.accept().unwrap().0));
    address
}

#[test]
fn bytes_come_back_one_by_one() {
    let result = round_trips(server(), 300).unwrap();
    assert_eq!(result.latency.count, 300);
    assert!(result.latency.min_ns <= result.latency.median_ns, "{result:?}");
    assert!(result.latency.median_ns <= result.latency.p99_ns, "{result:?}");
}

#[test]
fn bytes_arrive_in_either_direction_to_the_last() {
    let address = server();
    for bytes in [1, 1_000_003] {
        assert_eq!(send(address, bytes).unwrap().bytes, bytes);
        assert_eq!(receive(address, bytes).unwrap().bytes, bytes);
    }
}

#[test]
fn connections_beyond_the_bound_are_closed_and_the_others_served() {
    let address = server();
    let mut held: Vec<TcpStream> = (0..MAX_CONNECTIONS)
        .map(|_| {
            let mut stream = TcpStream::connect(address).unwrap();
            // Answered: it has its place.
            stream.write_all(&[ECHO, 1]).unwrap();
            stream.read_exact(&mut [0]).unwrap();
            stream
        })
        .collect();
    let mut more = TcpStream::connect(address).unwrap();
    assert_eq!(more.read(&mut [0]).unwrap_or(0), 0);
    held[0].write_all(&[2]).unwrap();
    held[0].read_exact(&mut [0]).unwrap();
}

#[test]
fn connection_for_something_unknown_is_closed() {
    let mut stream = TcpStream::connect(server()).unwrap();
    stream.write_all(b"?").unwrap();
    assert_eq!(stream.read(&mut [0]).unwrap_or(0), 0);
}

#[test]
fn answers_that_are_wrong_are_errors() {
    let wrong_byte = hostile(|stream| {
        stream.read_exact(&mut [0; 2]).unwrap();
        stream.write_all(b"\xff").unwrap();
    });
    assert!(matches!(round_trips(wrong_byte, 1), Err(ProbeError::Protocol { .. })));
    let wrong_count = hostile(|stream| {
        let _ = stream.read_to_end(&mut Vec::new());
        stream.write_all(&u64::MAX.to_be_bytes()).unwrap();
    });
    assert!(matches!(send(wrong_count, 10), Err(ProbeError::Protocol { .. })));
    let too_few = hostile(|stream| {
        stream.read_exact(&mut [0; 9]).unwrap();
        stream.write_all(b"12345").unwrap();
    });
    assert!(matches!(receive(too_few, 10), Err(ProbeError::Protocol { .. })));
    let closed = hostile(|stream| stream.read_exact(&mut [0; 2]).unwrap());
    assert!(matches!(round_trips(closed, 1), Err(ProbeError::Network { .. })));
}

#[test]
fn endless_answer_is_an_error_after_what_was_asked_for() {
    let endless = hostile(|stream| {
        stream.read_exact(&mut [0; 9]).unwrap();
        // Until the client has had enough.
        while stream.write_all(&[0; 65536]).is_ok() {}
    });
    assert!(matches!(receive(endless, 10), Err(ProbeError::Protocol { .. })));
}

#[test]
fn numbers_that_make_no_sense_are_errors_before_a_connection() {
    let nowhere = (Ipv4Addr::LOCALHOST, 1).into();
    for count in [0, u64::MAX] {
        assert!(matches!(round_trips(nowhere, count), Err(ProbeError::Range { .. })));
        assert!(matches!(send(nowhere, count), Err(ProbeError::Range { .. })));
        assert!(matches!(receive(nowhere, count), Err(ProbeError::Range { .. })));
    }
}

#[test]
fn port_that_is_taken_is_an_error() {
    let (_listener, port) = listen(0).unwrap();
    assert!(matches!(listen(port), Err(ProbeError::Network { .. })));
}
