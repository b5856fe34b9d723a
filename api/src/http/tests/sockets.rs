//! The socket's file, and sockets without one.

use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixDatagram, UnixListener};

use super::*;
use crate::http::ServerError;

#[test]
fn socket_is_this_users_only_and_goes_with_the_server() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("s");
    let server = Server::bind(&path).unwrap();
    let mode = std::fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    drop(server);
    assert!(!path.exists());
}

#[test]
fn left_over_socket_is_replaced() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("s");
    drop(UnixListener::bind(&path).unwrap());
    assert!(path.exists());
    let _server = Server::bind(&path).unwrap();
    UnixStream::connect(&path).unwrap();
}

#[test]
fn socket_that_is_listened_on_is_left_alone() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("s");
    let _other = UnixListener::bind(&path).unwrap();
    assert!(matches!(Server::bind(&path), Err(ServerError::InUse { .. })));
    UnixStream::connect(&path).unwrap();
}

#[test]
fn file_in_the_sockets_place_is_left_alone() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("s");
    std::fs::write(&path, "precious").unwrap();
    assert!(matches!(Server::bind(&path), Err(ServerError::NotASocket { .. })));
    assert_eq!(std::fs::read(&path).unwrap(), b"precious");
}

#[test]
fn of_many_servers_for_one_left_over_socket_one_wins() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("s");
    for _ in 0..20 {
        drop(UnixListener::bind(&path).unwrap());
        let barrier = std::sync::Barrier::new(8);
        let outcomes: Vec<_> = std::thread::scope(|scope| {
            let bind = || {
                barrier.wait();
                Server::bind(&path)
            };
            let threads: Vec<_> = (0..8).map(|_| scope.spawn(bind)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert_eq!(outcomes.iter().filter(|outcome| outcome.is_ok()).count(), 1);
        UnixStream::connect(&path).unwrap();
    }
}

#[test]
fn socket_of_a_successor_is_not_removed() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("s");
    let server = Server::bind(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    let _successor = Server::bind(&path).unwrap();
    drop(server);
    assert!(path.exists());
}

#[test]
fn path_beyond_what_sockets_can_have_is_named_as_such() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("x".repeat(108));
    assert!(matches!(Server::bind(&path), Err(ServerError::PathTooLong { longest: 107, .. })));
}

#[test]
fn missing_directory_is_the_hosts_error() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("missing/s");
    assert!(matches!(Server::bind(&path), Err(ServerError::Bind { .. })));
}

#[test]
fn inherited_socket_is_served_and_its_file_stays() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("s");
    let listener = UnixListener::bind(&path).unwrap();
    let server = Server::inherit(listener.into()).unwrap();
    let (sender, _held) = mpsc::channel();
    let service = Arc::new(TestService { held: Mutex::new(sender) });
    let handle = server.spawn(service, Arc::default()).unwrap();
    assert_eq!(Raw::connect(&path).ask(GET_INFO).status, 200);
    handle.shutdown();
    assert!(path.exists());
}

#[test]
fn inherited_descriptor_that_cant_accept_is_refused() {
    let (connected, _peer) = UnixStream::pair().unwrap();
    let tcp = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let others: [OwnedFd; 4] = [
        connected.into(),
        tcp.into(),
        UnixDatagram::unbound().unwrap().into(),
        std::fs::File::open("/dev/null").unwrap().into(),
    ];
    for other in others {
        assert!(matches!(Server::inherit(other), Err(ServerError::NotListening)));
    }
}
