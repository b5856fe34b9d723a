use std::time::SystemTime;

use super::*;

const ID: &str = "0123456789abcdef";

fn spec(subnets: &[&str], gateways: &[&str]) -> NetworkSpec {
    NetworkSpec {
        name: "n".to_owned(),
        subnets: subnets.iter().map(|subnet| subnet.parse().unwrap()).collect(),
        gateways: gateways.iter().map(|gateway| gateway.parse().unwrap()).collect(),
        ..NetworkSpec::default()
    }
}

fn taken(nets: &[&str]) -> Vec<IpNet> {
    nets.iter().map(|net| net.parse().unwrap()).collect()
}

fn planned(subnets: &[&str], gateways: &[&str]) -> Result<Plan, NetworkError> {
    plan(&spec(subnets, gateways), ID, false, &taken(&["192.0.2.0/24", "fd77::/64"]))
}

fn network() -> Network {
    Network {
        id: ID.to_owned(),
        name: "n".to_owned(),
        created: SystemTime::UNIX_EPOCH,
        bridge: "b".to_owned(),
        subnet4: "10.9.0.0/29".parse().unwrap(),
        gateway4: "10.9.0.1".parse().unwrap(),
        subnet6: "fd00:9::/64".parse().unwrap(),
        gateway6: "fd00:9::1".parse().unwrap(),
        mtu: 1500,
        internal: false,
        labels: Default::default(),
    }
}

fn lease(ipv4: Ipv4Addr, ipv6: Ipv6Addr) -> Endpoint {
    Endpoint {
        container: ipv4.to_string(),
        network: "n".to_owned(),
        network_id: ID.to_owned(),
        tap: "t".to_owned(),
        mac: mac_of(ipv4),
        ipv4,
        prefix4: 29,
        ipv6,
        prefix6: 64,
        gateways: Vec::new(),
        host_addresses: Vec::new(),
        mtu: 1500,
        names: Vec::new(),
        ports: Vec::new(),
    }
}

#[test]
fn subnets_are_chosen_where_nothing_is() {
    let default = plan(&spec(&[], &[]), ID, true, &[]).unwrap();
    assert_eq!(default.subnet4.to_string(), "172.29.0.0/16");
    assert_eq!(default.gateway4.to_string(), "172.29.0.1");
    assert_eq!(default.subnet6.to_string(), "fd01:2345:6789::/64");
    assert_eq!(default.gateway6.to_string(), "fd01:2345:6789::1");
    let elsewhere = plan(&spec(&[], &[]), ID, true, &taken(&["172.16.0.0/12"])).unwrap();
    assert_eq!(elsewhere.subnet4.to_string(), "10.211.0.0/24");
    let second = plan(&spec(&[], &[]), ID, false, &taken(&["172.30.0.0/24"])).unwrap();
    assert_eq!(second.subnet4.to_string(), "172.30.1.0/24");
    let all = taken(&["172.16.0.0/12", "10.0.0.0/8"]);
    let error = plan(&spec(&[], &[]), ID, true, &all).unwrap_err();
    assert!(matches!(error, NetworkError::NoAddress(_)));
}

#[test]
fn asked_subnets_and_gateways_are_taken() {
    let plan = planned(&["10.1.0.0/24", "fd12::/64"], &["10.1.0.254", "fd12::ff"]).unwrap();
    assert_eq!(plan.subnet4.to_string(), "10.1.0.0/24");
    assert_eq!(plan.gateway4.to_string(), "10.1.0.254");
    assert_eq!(plan.subnet6.to_string(), "fd12::/64");
    assert_eq!(plan.gateway6.to_string(), "fd12::ff");
}

#[test]
fn impossible_subnets_and_gateways_are_refused() {
    for (subnets, gateways, problem) in [
        (&["10.1.0.1/24"][..], &[][..], "10.1.0.1/24 isn't a subnet: 10.1.0.0/24 is"),
        (&["10.1.0.0/30"], &[], "prefixes are 8 to 29"),
        (&["0.0.0.0/0"], &[], "prefixes are 8 to 29"),
        (&["fd12::/97"], &[], "prefixes are 16 to 96"),
        (&["127.0.0.0/8"], &[], "reserved"),
        (&["224.0.0.0/8"], &[], "reserved"),
        (&["fe80::/64"], &[], "reserved"),
        (&["192.0.2.128/25"], &[], "overlaps with 192.0.2.0/24"),
        (&["192.0.0.0/16"], &[], "overlaps with 192.0.2.0/24"),
        (&["fd77::/48"], &[], "overlaps with fd77::/64"),
        (&["10.1.0.0/24", "10.2.0.0/24"], &[], "more than one subnet"),
        (&["10.1.0.0/24"], &["10.2.0.1"], "no address of a subnet"),
        (&["10.1.0.0/24"], &["10.1.0.0"], "no address of a subnet"),
        (&["10.1.0.0/24"], &["10.1.0.255"], "no address of a subnet"),
        (&["10.1.0.0/24"], &["10.1.0.1", "10.1.0.2"], "more than one gateway"),
        (&["fd12::/64"], &["fd12::"], "no address of a subnet"),
    ] {
        let error = planned(subnets, gateways).unwrap_err().to_string();
        assert!(error.contains(problem), "{subnets:?} {gateways:?}: {error}");
    }
}

#[test]
fn containers_get_the_lowest_free_addresses_until_there_are_none() {
    let network = network();
    let mut leases = Vec::new();
    for last in 2..=6 {
        let (ipv4, ipv6) = assign(&network, &leases, (None, None)).unwrap();
        assert_eq!(ipv4, Ipv4Addr::new(10, 9, 0, last));
        assert_eq!(ipv6.to_string(), format!("fd00:9::a09:{last}"));
        leases.push(lease(ipv4, ipv6));
    }
    let error = assign(&network, &leases, (None, None)).unwrap_err();
    assert!(matches!(error, NetworkError::NoAddress(_)));
    let freed = leases.remove(1);
    assert_eq!(assign(&network, &leases, (None, None)).unwrap(), (freed.ipv4, freed.ipv6));
    assert_eq!(freed.mac, [2, 0x42, 10, 9, 0, 3]);
}

#[test]
fn fixed_addresses_must_be_free_and_of_the_network() {
    let network = network();
    let leases = [lease("10.9.0.2".parse().unwrap(), "fd00:9::2".parse().unwrap())];
    let asked = |v4: &str, v6: &str| assign(&network, &leases, (v4.parse().ok(), v6.parse().ok()));
    assert_eq!(asked("10.9.0.5", "fd00:9::5").unwrap().0, Ipv4Addr::new(10, 9, 0, 5));
    for (v4, v6) in [
        ("10.9.0.1", ""),
        ("10.9.0.2", ""),
        ("10.9.0.0", ""),
        ("10.9.0.7", ""),
        ("10.9.1.1", ""),
        ("", "fd00:9::1"),
        ("", "fd00:9::2"),
        ("", "fd00:9::"),
        ("", "fd00:8::5"),
    ] {
        assert!(asked(v4, v6).is_err(), "{v4} {v6}");
    }
}
