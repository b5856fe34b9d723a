use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream, UdpSocket};
use std::thread;
use std::time::Duration;

use super::*;
use crate::record::Protocol;

const LOCAL4: Ipv4Addr = Ipv4Addr::LOCALHOST;
const LOCAL6: Ipv6Addr = Ipv6Addr::LOCALHOST;

fn wanted(host_ip: Option<IpAddr>, container_port: u16, protocol: Protocol) -> PublishedPort {
    PublishedPort { host_ip, host_port: 0, container_port, protocol }
}

/// Publishes a port of this host's 127.0.0.1, which stands for a container's address.
fn serving(container_port: u16, protocol: Protocol) -> (HostPorts, u16) {
    let mut ports = HostPorts::bind(&[wanted(None, container_port, protocol)]).unwrap();
    ports.serve(LOCAL4, LOCAL6).unwrap();
    let port = ports.published()[0].host_port;
    (ports, port)
}

fn connect(port: u16) -> TcpStream {
    let stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    stream
}

#[test]
fn port_in_use_is_an_error_that_names_it_and_takes_nothing() {
    let other = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = other.local_addr().unwrap().port();
    let free = wanted(Some(LOCAL4.into()), 80, Protocol::Tcp);
    let taken = PublishedPort { host_port: port, ..free };
    for host_ip in [None, Some(LOCAL4.into())] {
        let error = HostPorts::bind(&[free, PublishedPort { host_ip, ..taken }]).unwrap_err();
        let NetworkError::PortInUse { port: named, protocol, .. } = error else {
            panic!("{error:?}")
        };
        assert_eq!((named, protocol), (port, Protocol::Tcp));
    }
    drop(other);
    HostPorts::bind(&[taken]).unwrap();
}

#[test]
fn published_port_is_taken_until_it_is_dropped() {
    for protocol in [Protocol::Tcp, Protocol::Udp] {
        let ports = HostPorts::bind(&[wanted(None, 80, protocol)]).unwrap();
        let published = ports.published()[0];
        assert_ne!(published.host_port, 0);
        let error = HostPorts::bind(&[published]).unwrap_err();
        assert!(matches!(error, NetworkError::PortInUse { .. }));
        drop(ports);
        HostPorts::bind(&[published]).unwrap();
    }
}

#[test]
fn address_of_no_interface_is_an_error() {
    let far = wanted(Some(IpAddr::from([203, 0, 113, 1])), 80, Protocol::Tcp);
    let error = HostPorts::bind(&[far]).unwrap_err();
    assert!(matches!(error, NetworkError::Port { .. }), "{error:?}");
}

#[test]
fn connection_goes_through_unharmed_in_both_directions() {
    let container = TcpListener::bind("127.0.0.1:0").unwrap();
    let (_ports, port) = serving(container.local_addr().unwrap().port(), Protocol::Tcp);
    let echo = thread::spawn(move || {
        let (mut stream, _) = container.accept().unwrap();
        let mut all = Vec::new();
        // Everything first: the relay must take the client's end for its end only.
        stream.read_to_end(&mut all).unwrap();
        stream.write_all(&all).unwrap();
    });
    let mut client = connect(port);
    let sent: Vec<u8> = (0..5_000_000u32).map(|index| (index * 31).to_le_bytes()[0]).collect();
    client.write_all(&sent).unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    let mut received = Vec::new();
    client.read_to_end(&mut received).unwrap();
    assert!(sent == received);
    echo.join().unwrap();
}

#[test]
fn ipv6_client_reaches_what_listens_at_ipv4_only() {
    let container = TcpListener::bind("127.0.0.1:0").unwrap();
    let (_ports, port) = serving(container.local_addr().unwrap().port(), Protocol::Tcp);
    let Ok(mut client) = TcpStream::connect(("::1", port)) else {
        println!("skipped: no IPv6");
        return;
    };
    let (mut stream, _) = container.accept().unwrap();
    stream.write_all(b"hello").unwrap();
    let mut received = [0; 5];
    client.read_exact(&mut received).unwrap();
    assert_eq!(&received, b"hello");
}

#[test]
fn client_is_hung_up_on_when_nothing_listens_in_the_container() {
    // A port that's known to be free.
    let unused = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let (_ports, port) = serving(unused, Protocol::Tcp);
    let mut client = connect(port);
    let mut received = Vec::new();
    // An end or a reset.
    let _ = client.read_to_end(&mut received);
    assert!(received.is_empty());
}

#[test]
fn slow_reader_holds_up_nobody_else() {
    let container = TcpListener::bind("127.0.0.1:0").unwrap();
    let (_ports, port) = serving(container.local_addr().unwrap().port(), Protocol::Tcp);
    let mut slow = connect(port);
    slow.set_nonblocking(true).unwrap();
    let (_unread, _) = container.accept().unwrap();
    while slow.write(&[0; 65536]).is_ok() {}
    let mut quick = connect(port);
    let (mut stream, _) = container.accept().unwrap();
    quick.write_all(b"x").unwrap();
    let mut received = [0; 1];
    stream.read_exact(&mut received).unwrap();
}

#[test]
fn datagrams_go_there_and_answers_come_back_to_their_clients() {
    let container = UdpSocket::bind("127.0.0.1:0").unwrap();
    let (_ports, port) = serving(container.local_addr().unwrap().port(), Protocol::Udp);
    let clients: Vec<_> = (0..3).map(|_| UdpSocket::bind("127.0.0.1:0").unwrap()).collect();
    for (index, client) in clients.iter().enumerate() {
        client.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        client.connect(("127.0.0.1", port)).unwrap();
        client.send(&[index.to_le_bytes()[0]; 1400]).unwrap();
    }
    let mut bytes = [0; 2000];
    for _ in &clients {
        let (len, peer) = container.recv_from(&mut bytes).unwrap();
        container.send_to(&bytes[..len], peer).unwrap();
    }
    for (index, client) in clients.iter().enumerate() {
        let len = client.recv(&mut bytes).unwrap();
        assert_eq!(bytes[..len], [index.to_le_bytes()[0]; 1400]);
    }
}

#[test]
fn connections_end_when_the_ports_are_dropped() {
    let container = TcpListener::bind("127.0.0.1:0").unwrap();
    let (ports, port) = serving(container.local_addr().unwrap().port(), Protocol::Tcp);
    let mut client = connect(port);
    let (_stream, _) = container.accept().unwrap();
    drop(ports);
    let _ = client.read(&mut [0; 1]).map(|len| assert_eq!(len, 0));
    assert!(TcpStream::connect(("127.0.0.1", port)).is_err());
}
