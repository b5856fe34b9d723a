use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::thread;
use std::time::Duration;

use simple_dns::{CLASS, Name, Packet, Question};

use super::*;
use crate::record::Endpoint;

fn endpoint(container: &str, last: u8, names: &[&str]) -> Endpoint {
    Endpoint {
        container: container.to_owned(),
        network: "n".to_owned(),
        network_id: "id".to_owned(),
        tap: "t".to_owned(),
        mac: [2; 6],
        ipv4: Ipv4Addr::new(10, 9, 0, last),
        prefix4: 24,
        ipv6: format!("fd00:9::{last:x}").parse().unwrap(),
        prefix6: 64,
        gateways: Vec::new(),
        host_addresses: vec!["10.9.0.1".parse().unwrap(), "fd00:9::1".parse().unwrap()],
        mtu: 1500,
        names: names.iter().map(|name| (*name).to_owned()).collect(),
        ports: Vec::new(),
    }
}

fn names() -> Names {
    let mut names = Names::default();
    let web = endpoint("0123456789abcdef", 2, &["Web", "www"]);
    names.add_host(&web);
    names.add(&web);
    names.add(&endpoint("fedcba9876543210", 3, &["db", "www"]));
    names
}

fn nobody() -> Upstream {
    Upstream::at(Vec::new(), Duration::from_secs(1))
}

fn query(name: &str, kind: TYPE) -> Vec<u8> {
    let mut packet = Packet::new_query(0x1234);
    packet.set_flags(simple_dns::PacketFlag::RECURSION_DESIRED);
    let name = Name::new(name).unwrap();
    packet.questions.push(Question::new(name, kind.into(), CLASS::IN.into(), false));
    packet.build_bytes_vec().unwrap()
}

fn ask(name: &str, kind: TYPE) -> (RCODE, Vec<String>) {
    let answer = answer(&query(name, kind), &names(), &nobody()).unwrap();
    let packet = Packet::parse(&answer).unwrap();
    assert_eq!(packet.id(), 0x1234);
    let records = packet.answers.iter().map(|record| match &record.rdata {
        RData::A(a) => Ipv4Addr::from(a.address).to_string(),
        RData::AAAA(aaaa) => std::net::Ipv6Addr::from(aaaa.address).to_string(),
        RData::PTR(ptr) => ptr.0.to_string(),
        other => panic!("{other:?}"),
    });
    (packet.rcode(), records.collect())
}

fn found(addresses: &[&str]) -> (RCODE, Vec<String>) {
    (RCODE::NoError, addresses.iter().map(|address| (*address).to_owned()).collect())
}

#[test]
fn containers_are_found_by_names_aliases_and_identifiers() {
    assert_eq!(ask("web", TYPE::A), found(&["10.9.0.2"]));
    assert_eq!(ask("WEB", TYPE::AAAA), found(&["fd00:9::2"]));
    assert_eq!(ask("0123456789ab", TYPE::A), found(&["10.9.0.2"]));
    assert_eq!(ask("www", TYPE::A), found(&["10.9.0.2", "10.9.0.3"]));
    assert_eq!(ask("host.docker.internal", TYPE::A), found(&["10.9.0.1"]));
    // A name of ours without such a record is none of the world's.
    assert_eq!(ask("web", TYPE::MX), found(&[]));
}

#[test]
fn addresses_have_names() {
    assert_eq!(ask("2.0.9.10.in-addr.arpa", TYPE::PTR), found(&["Web"]));
    let v6 = format!("3.{}9.0.0.0.0.0.d.f.ip6.arpa", "0.".repeat(23));
    assert_eq!(ask(&v6, TYPE::PTR), found(&["db"]));
    assert_eq!(ask("77.0.9.10.in-addr.arpa", TYPE::PTR), (RCODE::NameError, Vec::new()));
    assert_eq!(ask("1.2.0.192.in-addr.arpa", TYPE::PTR), (RCODE::ServerFailure, Vec::new()));
}

#[test]
fn other_names_fail_when_nobody_can_be_asked() {
    assert_eq!(ask("example.org", TYPE::A), (RCODE::ServerFailure, Vec::new()));
}

#[test]
fn what_is_no_query_gets_no_answer() {
    let query = query("web", TYPE::A);
    for bytes in [&[][..], &query[..11], &[0; 5]] {
        assert_eq!(answer(bytes, &names(), &nobody()), None);
    }
    let mut reply = query.clone();
    reply[2] |= 0x80;
    assert_eq!(answer(&reply, &names(), &nobody()), None);
}

#[test]
fn hostile_queries_are_refused_and_harm_nothing() {
    let good = query("web", TYPE::A);
    let code = |bytes: &[u8]| answer(bytes, &names(), &nobody()).map(|answer| answer[3] & 0x0f);
    // Counts that promise more than there is.
    for count in [4, 5, 6, 7, 8, 9, 10, 11] {
        let mut bytes = good.clone();
        bytes[count] = 0xff;
        assert_eq!(code(&bytes), Some(1), "{count}");
    }
    // A name that points at itself, and one that goes on for ever.
    for name in [vec![0xc0, 12], [63; 64].repeat(5), vec![0x80, 0], vec![0xc0]] {
        let bytes = [&good[..12], &name, &[0, 1, 0, 1]].concat();
        assert_eq!(code(&bytes), Some(1), "{name:?}");
    }
    // Kinds of messages and of questions that aren't for us.
    let mut notify = good.clone();
    notify[2] |= 4 << 3;
    assert_eq!(code(&notify), Some(4));
    let mut chaos = good.clone();
    *chaos.last_mut().unwrap() = 3;
    assert_eq!(code(&chaos), Some(5));
    for end in 12..good.len() {
        assert_eq!(code(&good[..end]), Some(1), "{end}");
    }
    // Each single byte, each value: no panic, and never longer than a query deserves.
    for at in 0..good.len() {
        for value in 0..=255 {
            let mut bytes = good.clone();
            bytes[at] = value;
            let answer = answer(&bytes, &names(), &nobody());
            assert!(answer.is_none_or(|answer| answer.len() <= 512));
        }
    }
}

#[test]
fn answer_to_a_query_with_edns_has_it_too() {
    let plain = query("web", TYPE::A);
    let mut packet = Packet::parse(&plain).unwrap();
    *packet.opt_mut() =
        Some(simple_dns::rdata::OPT { opt_codes: Vec::new(), udp_packet_size: 4096, version: 0 });
    let bytes = packet.build_bytes_vec().unwrap();
    let answer = answer(&bytes, &names(), &nobody()).unwrap();
    assert!(Packet::parse(&answer).unwrap().opt().is_some());
}

/// A resolver that answers each query by UDP with `flags` and, by TCP, with a longer message.
fn resolver(flags: u8) -> SocketAddr {
    let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = tcp.local_addr().unwrap();
    let udp = UdpSocket::bind(address).unwrap();
    thread::spawn(move || {
        let mut bytes = [0; 512];
        while let Ok((len, peer)) = udp.recv_from(&mut bytes) {
            // First another one's answer, then a query: neither counts.
            let _ = udp.send_to(&[&[0xff, 0xff, 0x80][..], &[0; 9]].concat(), peer);
            let _ = udp.send_to(&bytes[..len], peer);
            bytes[2] |= 0x80 | flags;
            let _ = udp.send_to(&bytes[..len], peer);
        }
    });
    thread::spawn(move || {
        for mut stream in tcp.incoming().map_while(Result::ok) {
            let mut len = [0; 2];
            stream.read_exact(&mut len).unwrap();
            let mut query = vec![0; u16::from_be_bytes(len).into()];
            stream.read_exact(&mut query).unwrap();
            query[2] |= 0x80;
            query.extend([7; 1000]);
            let len = u16::try_from(query.len()).unwrap().to_be_bytes();
            let _ = stream.write_all(&[&len[..], &query].concat());
        }
    });
    address
}

#[test]
fn other_names_are_passed_on_as_they_are() {
    let query = query("example.org", TYPE::A);
    let upstream = Upstream::at(vec![resolver(0)], Duration::from_secs(10));
    let answer = answer(&query, &names(), &upstream).unwrap();
    assert_eq!(answer[2] & 0x80, 0x80);
    assert_eq!((&answer[..2], &answer[3..]), (&query[..2], &query[3..]));
}

#[test]
fn truncated_answer_is_asked_for_again_by_tcp() {
    let upstream = Upstream::at(vec![resolver(0x02)], Duration::from_secs(10));
    let query = query("example.org", TYPE::A);
    assert_eq!(answer(&query, &names(), &upstream).unwrap().len(), query.len() + 1000);
}

#[test]
fn next_resolver_is_asked_when_one_is_silent_and_first_from_then_on() {
    let silent = UdpSocket::bind("127.0.0.1:0").unwrap();
    let servers = vec![silent.local_addr().unwrap(), resolver(0)];
    let upstream = Upstream::at(servers, Duration::from_millis(200));
    let query = query("example.org", TYPE::A);
    for _ in 0..3 {
        assert!(upstream.ask(&query).is_some());
    }
    silent.set_nonblocking(true).unwrap();
    let mut bytes = [0; 512];
    let asked = std::iter::from_fn(|| silent.recv(&mut bytes).ok()).count();
    assert_eq!(asked, 1);
}

#[test]
fn resolv_conf_names_servers() {
    let text = "# nameserver 1.1.1.1\nnameserver 192.0.2.1\n nameserver fd00::1 # x\n\
        nameserver fe80::1%eth0\nnameserver\nsearch nameserver\n";
    let expected: [IpAddr; 2] = ["192.0.2.1".parse().unwrap(), "fd00::1".parse().unwrap()];
    assert_eq!(super::upstream::servers(text), expected);
}
