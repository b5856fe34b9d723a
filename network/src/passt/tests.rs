use super::*;

fn port(host_ip: &str, protocol: Protocol) -> PublishedPort {
    PublishedPort { host_ip: host_ip.parse().ok(), host_port: 8080, container_port: 80, protocol }
}

fn forwarded(ports: &[PublishedPort]) -> Vec<String> {
    let all = arguments(&UserEndpoint::of_host(), ports).unwrap();
    let at = all.iter().position(|argument| argument.ends_with("-ports"));
    at.map_or(Vec::new(), |at| all[at..].to_vec())
}

#[test]
fn ports_become_options() {
    assert_eq!(forwarded(&[port("", Protocol::Tcp)]), ["--tcp-ports", "8080:80"]);
    assert_eq!(forwarded(&[port("0.0.0.0", Protocol::Tcp)]), ["--tcp-ports", "8080:80"]);
    assert_eq!(
        forwarded(&[port("127.0.0.1", Protocol::Tcp), port("::1", Protocol::Udp)]),
        ["--tcp-ports", "127.0.0.1/8080:80", "--udp-ports", "::1/8080:80"]
    );
}

#[test]
fn port_at_two_addresses_is_refused() {
    let ports = [port("127.0.0.1", Protocol::Tcp), port("::1", Protocol::Tcp)];
    let error = arguments(&UserEndpoint::of_host(), &ports).unwrap_err();
    assert!(matches!(error, NetworkError::Invalid(_)));
}

#[test]
fn passt_isnt_started_before_the_vmm_is_there() {
    if !is_installed() {
        println!("skipped: passt isn't installed");
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let socket = PasstSocket::bind(&directory.path().join("net.sock")).unwrap();
    let log = tempfile::tempfile().unwrap();
    let error = socket.start(&UserEndpoint::of_host(), &[], log).unwrap_err();
    assert!(matches!(error, NetworkError::Host { .. }));
}

/// Asks by ARP who has the gateway's address.
fn arp_request(endpoint: &UserEndpoint) -> Vec<u8> {
    let header = [&[0xff; 6][..], &endpoint.mac, &[8, 6]].concat();
    let kinds = [0, 1, 8, 0, 6, 4, 0, 1];
    let ours = [&endpoint.mac[..], &endpoint.ipv4.octets()].concat();
    let theirs = [&[0; 6][..], &endpoint.gateway4.octets()].concat();
    let frame = [&header[..], &kinds, &ours, &theirs].concat();
    [&u32::try_from(frame.len()).unwrap().to_be_bytes()[..], &frame].concat()
}

#[test]
fn passt_speaks_to_the_guest_publishes_ports_and_ends_with_the_vmm() {
    use std::io::{Read, Write};
    use std::net::TcpStream;
    use std::os::unix::net::UnixStream;
    use std::time::Duration;

    if !is_installed() {
        println!("skipped: passt isn't installed");
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("net.sock");
    let socket = PasstSocket::bind(&path).unwrap();
    let mut vmm = UnixStream::connect(&path).unwrap();
    let wanted = PublishedPort { host_port: 0, ..port("127.0.0.1", Protocol::Tcp) };
    let ports = crate::HostPorts::bind(&[wanted]).unwrap();
    let published = ports.published().to_vec();
    drop(ports);
    let endpoint = UserEndpoint::of_host();
    let mut log = tempfile::tempfile().unwrap();
    let mut passt = socket.start(&endpoint, &published, log.try_clone().unwrap()).unwrap();

    vmm.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    vmm.write_all(&arp_request(&endpoint)).unwrap();
    let mut answer = [0; 46];
    if let Err(error) = vmm.read_exact(&mut answer) {
        use std::io::Seek;
        passt.child.wait().unwrap();
        let mut said = String::new();
        log.rewind().unwrap();
        log.read_to_string(&mut said).unwrap();
        println!("skipped: passt can't run here: {error}: {said}");
        return;
    }
    assert_eq!(answer[..4], [0, 0, 0, 42]);
    assert_eq!(answer[4 + 28..4 + 32], endpoint.gateway4.octets());
    TcpStream::connect(("127.0.0.1", published[0].host_port)).unwrap();
    drop(vmm);
    assert!(passt.child.wait().unwrap().success());
}
