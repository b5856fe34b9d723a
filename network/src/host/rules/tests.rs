use std::time::SystemTime;

use super::*;
use crate::record::Protocol;

fn network(name: &str, internal: bool) -> Network {
    Network {
        id: format!("{:0>64}", name.len()),
        name: name.to_owned(),
        created: SystemTime::UNIX_EPOCH,
        bridge: format!("vmb-{name}"),
        subnet4: "172.29.0.0/16".parse().unwrap(),
        gateway4: "172.29.0.1".parse().unwrap(),
        subnet6: "fd00:1::/64".parse().unwrap(),
        gateway6: "fd00:1::1".parse().unwrap(),
        mtu: 1500,
        internal,
        labels: Default::default(),
    }
}

fn endpoint(network: &Network, ports: Vec<PublishedPort>) -> Endpoint {
    Endpoint {
        container: "c".to_owned(),
        network: network.name.clone(),
        network_id: network.id.clone(),
        tap: "vt0".to_owned(),
        mac: [2; 6],
        ipv4: "172.29.0.2".parse().unwrap(),
        prefix4: 16,
        ipv6: "fd00:1::2".parse().unwrap(),
        prefix6: 64,
        gateways: Vec::new(),
        host_addresses: Vec::new(),
        mtu: 1500,
        names: Vec::new(),
        ports,
    }
}

fn port(host_ip: &str, protocol: Protocol) -> PublishedPort {
    PublishedPort { host_ip: host_ip.parse().ok(), host_port: 8080, container_port: 80, protocol }
}

fn script(places: &[(Network, Vec<Endpoint>)]) -> String {
    Script { name: "vmctl", places }.to_string()
}

fn published(ports: Vec<PublishedPort>) -> Vec<String> {
    let network = network("a", false);
    let endpoint = endpoint(&network, ports);
    let text = script(&[(network, vec![endpoint])]);
    text.lines().filter(|line| line.contains("dnat ip")).map(str::to_owned).collect()
}

#[test]
fn port_is_translated_for_both_families_unless_an_address_says_which() {
    let v4 = "ip saddr != 172.29.0.2 tcp dport 8080 dnat ip to 172.29.0.2:80";
    let v6 = "ip6 saddr != fd00:1::2 tcp dport 8080 dnat ip6 to [fd00:1::2]:80";
    assert_eq!(published(vec![port("", Protocol::Tcp)]), [v4, v6]);
    assert_eq!(published(vec![port("0.0.0.0", Protocol::Tcp)]), [v4]);
    assert_eq!(published(vec![port("::", Protocol::Tcp)]), [v6]);
    assert_eq!(
        published(vec![port("192.0.2.7", Protocol::Udp)]),
        ["ip saddr != 172.29.0.2 ip daddr 192.0.2.7 udp dport 8080 dnat ip to 172.29.0.2:80"]
    );
}

#[test]
fn port_at_a_loopback_address_isnt_translated() {
    for address in ["127.0.0.1", "127.1.2.3", "::1"] {
        assert_eq!(published(vec![port(address, Protocol::Tcp)]), Vec::<String>::new());
    }
}

#[test]
fn internal_network_is_neither_translated_nor_published() {
    let network = network("a", true);
    let endpoint = endpoint(&network, vec![port("", Protocol::Tcp)]);
    let text = script(&[(network, vec![endpoint])]);
    assert!(!text.contains("masquerade") && !text.contains("dnat ip"), "{text}");
    assert!(text.contains("set internal { type ifname; elements = { \"vmb-a\" }; }"), "{text}");
}

#[test]
fn script_replaces_the_whole_table_and_is_the_same_each_time() {
    let places = [(network("a", false), Vec::new()), (network("bc", true), Vec::new())];
    let text = script(&places);
    assert!(text.starts_with("table inet vmctl {}\ndelete table inet vmctl\ntable inet vmctl {\n"));
    assert_eq!(text, script(&places));
}
