//! The blocking client, against the server and against what is none.

use std::os::unix::net::UnixListener;

use super::*;
use crate::http::{Client, ClientError};

#[test]
fn client_reads_what_the_vmm_answers() {
    let fixture = Fixture::new();
    let mut client = Client::connect(&fixture.path()).unwrap();
    assert_eq!(client.instance_info().unwrap(), info());
    assert_eq!(client.version().unwrap().firecracker_version, "1.2.3");
    assert_eq!(client.get::<InstanceInfo>("/").unwrap(), info());
    client.put("/mmds", &json!({ "key": "value" })).unwrap();
    assert_eq!(client.mmds().unwrap().as_str().map(str::len), Some(LARGE_ANSWER_BYTES));
}

#[test]
fn client_learns_why_it_was_refused() {
    let fixture = Fixture::new();
    let mut client = Client::connect(&fixture.path()).unwrap();
    match client.resume().unwrap_err() {
        ClientError::Fault { status, message } => {
            assert_eq!((status, message.as_str()), (400, "It isn't paused: pause it first."));
        }
        other => panic!("{other:?}"),
    }
    let too_large = client.put_mmds(json!("x".repeat(1 << 20)));
    assert!(matches!(too_large, Err(ClientError::Fault { status: 413, .. })), "{too_large:?}");
    client.instance_info().unwrap();
}

#[test]
fn missing_socket_dead_vmm_and_other_files_are_told_apart() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("s");
    assert!(matches!(Client::connect(&path), Err(ClientError::NoSocket { .. })));
    drop(UnixListener::bind(&path).unwrap());
    assert!(matches!(Client::connect(&path), Err(ClientError::Refused { .. })));
    let long = directory.path().join("x".repeat(200));
    assert!(matches!(Client::connect(&long), Err(ClientError::Connect { .. })));
}

#[test]
fn answer_that_doesnt_come_is_a_timeout() {
    let fixture = Fixture::new();
    let mut client = Client::connect(&fixture.path()).unwrap();
    client.set_timeout(SHORT);
    assert!(matches!(client.pause(), Err(ClientError::TimedOut { .. })));
    // The late answer must not be taken for the next request's.
    fixture.next_held().send(Err(ApiError::internal("late")));
    client.set_timeout(PATIENCE);
    assert_eq!(client.instance_info().unwrap(), info());
}

#[test]
fn vmm_that_ends_before_it_answers_has_hung_up() {
    let fixture = Fixture::with_limits(Limits { shutdown_timeout: SHORT, ..Limits::default() });
    let mut client = Client::connect(&fixture.path()).unwrap();
    let handle = fixture.handle;
    let held = fixture.held;
    let ending = std::thread::spawn(move || {
        let _unanswered = held.recv_timeout(PATIENCE).unwrap();
        handle.shutdown();
    });
    assert!(matches!(client.pause(), Err(ClientError::HungUp { .. })));
    ending.join().unwrap();
    assert!(matches!(client.pause(), Err(ClientError::NoSocket { .. })));
}

#[test]
fn client_connects_anew_when_its_connection_was_closed() {
    let fixture = Fixture::with_limits(Limits { idle_timeout: SHORT, ..Limits::default() });
    let mut client = Client::connect(&fixture.path()).unwrap();
    for _ in 0..3 {
        client.instance_info().unwrap();
        std::thread::sleep(SHORT * 2);
    }
}

#[test]
fn peer_that_speaks_no_http_is_a_protocol_error() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("s");
    let listener = UnixListener::bind(&path).unwrap();
    let peer = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut request = [0; 16];
        stream.read_exact(&mut request).unwrap();
        stream.write_all(b"220 smtp ready\r\n\r\n").unwrap();
        stream
    });
    let mut client = Client::connect(&path).unwrap();
    let outcome = client.instance_info();
    assert!(matches!(outcome, Err(ClientError::Protocol(_))), "{outcome:?}");
    peer.join().unwrap();
}

#[test]
fn identifier_cant_become_another_request() {
    let fixture = Fixture::new();
    let mut client = Client::connect(&fixture.path()).unwrap();
    for id in ["../../vm", "a b", "x?y", "é", "a\r\nb", ""] {
        let outcome = client.hotunplug_drive(id.to_owned());
        let Err(ClientError::Fault { status, .. }) = outcome else { panic!("{id:?}: {outcome:?}") };
        assert!((400..500).contains(&status), "{id:?}: {status}");
    }
}
