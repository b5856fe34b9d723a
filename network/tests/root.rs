//! Networks on a real kernel: in a network namespace of the test's own, which plays the host, with
//! others for the world outside and, behind a veth pair on a bridge, for guests.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use network::{
    Attachment, Endpoint, HostPorts, NetworkError, NetworkSpec, Networks, Protocol, PublishedPort,
};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tempfile::TempDir;

/// Set in the process that is in the host's namespace.
const INSIDE: &str = "VMCTL_TEST_NAMESPACE";
/// What a child that's to be killed attaches.
const VICTIM: &str = "VMCTL_TEST_VICTIM";
const PATIENCE: Duration = Duration::from_secs(10);
/// How long a connection that mustn't come about is tried.
const IMPATIENCE: Duration = Duration::from_millis(700);

const HOST4: &str = "198.51.100.1";
const WORLD4: &str = "198.51.100.2";
const HOST6: &str = "2001:db8::1";
const WORLD6: &str = "2001:db8::2";

fn run(command: &str) -> String {
    let output = Command::new("sh").args(["-c", command]).output().unwrap();
    assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Runs the test `name` again in a namespace of its own, and `body` there.
fn on_a_host(name: &str, body: impl FnOnce()) {
    if std::env::var_os(INSIDE).is_some() {
        return body();
    }
    let works = |command: &str| {
        Command::new("sh").args(["-c", command]).output().is_ok_and(|out| out.status.success())
    };
    for (command, what) in [
        ("unshare --net true", "network namespaces (root) are needed"),
        ("unshare --net nft list tables", "nftables' nft is needed"),
        ("unshare --net ip tuntap add x mode tap", "iproute2's ip and /dev/net/tun are needed"),
    ] {
        if !works(command) {
            println!("skipped: {what}");
            return;
        }
    }
    // Its output isn't taken for another test's.
    let output = Command::new("unshare")
        .arg("--net")
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture"])
        .env(INSIDE, "1")
        .output()
        .unwrap();
    let said =
        [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
    assert!(output.status.success(), "{}", said.concat());
}

/// Another network namespace, which ends with this.
struct Namespace {
    child: Child,
}

impl Namespace {
    fn new() -> Self {
        let mut child = Command::new("unshare")
            .args(["--net", "sh", "-c", "ip link set lo up; echo; exec cat"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        Self { child }
    }

    /// Runs `body` on a thread in there, and doesn't wait for it.
    fn spawn<T: Send + 'static>(
        &self,
        body: impl FnOnce() -> T + Send + 'static,
    ) -> thread::JoinHandle<T> {
        let namespace = File::open(format!("/proc/{}/ns/net", self.child.id())).unwrap();
        thread::spawn(move || {
            let kind = Some(LinkNameSpaceType::Network);
            move_into_link_name_space(namespace.as_fd(), kind).unwrap();
            body()
        })
    }

    fn inside<T: Send + 'static>(&self, body: impl FnOnce() -> T + Send + 'static) -> T {
        self.spawn(body).join().unwrap()
    }

    /// Connects both namespaces by interfaces `host` and, in there, `eth0`.
    fn wire(&self, host: &str) {
        let pid = self.child.id();
        run(&format!("ip link add {host} type veth peer name eth0 netns {pid}"));
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

/// The host, and the world that it's connected to.
struct Lan {
    world: Namespace,
    networks: Networks,
    data_root: TempDir,
}

impl Lan {
    fn new() -> Self {
        run("ip link set lo up");
        let world = Namespace::new();
        world.wire("wan");
        run(&format!(
            "sysctl -qw net.ipv6.conf.wan.accept_dad=0; ip addr add {HOST4}/24 dev wan; \
             ip addr add {HOST6}/64 dev wan nodad; ip link set wan up"
        ));
        world.inside(|| {
            run(&format!(
                "ip addr add {WORLD4}/24 dev eth0; ip addr add {WORLD6}/64 dev eth0 nodad; \
                 ip link set eth0 up"
            ))
        });
        let data_root = tempfile::tempdir().unwrap();
        let networks = Networks::open(data_root.path()).unwrap();
        Self { world, networks, data_root }
    }

    fn network(&self, name: &str, internal: bool) {
        let spec = NetworkSpec { name: name.to_owned(), internal, ..NetworkSpec::default() };
        self.networks.create(&spec).unwrap();
    }

    /// Attaches a container, and puts a namespace with its addresses on its network.
    fn guest(&self, container: &str, network: &str, ports: &HostPorts) -> Guest {
        let endpoint = self.networks.attach(&attachment(container, network, ports)).unwrap();
        let namespace = Namespace::new();
        let interface = format!("veth-{container}");
        namespace.wire(&interface);
        let bridge = self.networks.get(network).unwrap().bridge;
        run(&format!("ip link set {interface} master {bridge} up"));
        let place = endpoint.clone();
        namespace.inside(move || {
            let Endpoint { ipv4, prefix4, ipv6, prefix6, .. } = place;
            run(&format!(
                "ip link set eth0 address {} up; ip addr add {ipv4}/{prefix4} dev eth0; \
                 ip addr add {ipv6}/{prefix6} dev eth0 nodad",
                place.mac_text()
            ));
            for gateway in &place.gateways {
                run(&format!("ip route add default via {gateway}"));
            }
        });
        Guest { endpoint, namespace }
    }

    /// What the kernel knows of our networks, but for what it finds out itself, when it likes:
    /// whether there's a carrier, and addresses that it makes up once there is one.
    fn state(&self) -> String {
        run("nft list ruleset; \
             ip -o link | sed -E 's/state.*//; s/^[0-9]*//; s/NO-CARRIER,|,LOWER_UP//g'; \
             ip -o addr | grep -v 'scope link'")
    }
}

fn attachment(container: &str, network: &str, ports: &HostPorts) -> Attachment {
    Attachment {
        network: network.to_owned(),
        container: container.to_owned(),
        names: vec![container.to_owned()],
        ports: ports.published().to_vec(),
        ..Attachment::default()
    }
}

struct Guest {
    endpoint: Endpoint,
    namespace: Namespace,
}

impl Guest {
    fn ipv4(&self) -> IpAddr {
        self.endpoint.ipv4.into()
    }

    fn ipv6(&self) -> IpAddr {
        self.endpoint.ipv6.into()
    }

    /// Tells whoever connects from where it does.
    fn serve(&self, port: u16) {
        serve(&self.namespace, port);
    }
}

/// Listens in a namespace by TCP and UDP; answers who the client is.
fn serve(namespace: &Namespace, port: u16) {
    let (tcp, udp) = namespace.inside(move || {
        let any = (std::net::Ipv6Addr::UNSPECIFIED, port);
        (TcpListener::bind(any).unwrap(), UdpSocket::bind(any).unwrap())
    });
    // A socket stays in its namespace.
    thread::spawn(move || {
        for mut stream in tcp.incoming().map_while(io::Result::ok) {
            let peer = stream.peer_addr().map(|peer| peer.ip().to_canonical().to_string());
            let _ = stream.write_all(peer.unwrap_or_default().as_bytes());
        }
    });
    thread::spawn(move || {
        while let Ok((_, peer)) = udp.recv_from(&mut [0; 16]) {
            let _ = udp.send_to(peer.ip().to_canonical().to_string().as_bytes(), peer);
        }
    });
}

/// Connects, and returns what the server says.
fn ask(address: IpAddr, port: u16, patience: Duration) -> io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&SocketAddr::new(address, port), patience)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut said = String::new();
    stream.read_to_string(&mut said)?;
    Ok(said)
}

fn ask_udp(address: IpAddr, port: u16) -> io::Result<String> {
    let any: IpAddr = if address.is_ipv4() { [0; 4].into() } else { [0; 16].into() };
    let socket = UdpSocket::bind((any, 0))?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.connect((address, port))?;
    socket.send(b"?")?;
    let mut said = [0; 64];
    let len = socket.recv(&mut said)?;
    Ok(String::from_utf8_lossy(&said[..len]).into_owned())
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn bind(host_ip: Option<&str>, host_port: u16, protocol: Protocol) -> HostPorts {
    let host_ip = host_ip.map(ip);
    HostPorts::bind(&[PublishedPort { host_ip, host_port, container_port: 80, protocol }]).unwrap()
}

fn no_ports() -> HostPorts {
    HostPorts::bind(&[]).unwrap()
}

#[test]
fn published_port_is_reached_from_everywhere() {
    on_a_host("published_port_is_reached_from_everywhere", || {
        let lan = Lan::new();
        let mut ports = bind(None, 8080, Protocol::Tcp);
        let web = lan.guest("web", "bridge", &ports);
        let other = lan.guest("other", "bridge", &no_ports());
        lan.network("far", false);
        let far = lan.guest("far", "far", &no_ports());
        web.serve(80);
        ports.serve(web.endpoint.ipv4, web.endpoint.ipv6).unwrap();

        // From outside, with the client's own address.
        let from_world =
            |to: &'static str| lan.world.inside(move || ask(ip(to), 8080, PATIENCE).unwrap());
        assert_eq!(from_world(HOST4), WORLD4);
        assert_eq!(from_world(HOST6), WORLD6);
        // From the host: its loopback addresses, and its own.
        for address in ["127.0.0.1", "127.0.0.2", "::1", HOST4, HOST6] {
            ask(ip(address), 8080, PATIENCE).unwrap_or_else(|error| panic!("{address}: {error}"));
        }
        // From containers of the same network, of another one, and from the container itself.
        for guest in [&web, &other, &far] {
            for address in [HOST4, HOST6] {
                let said = guest.namespace.inside(move || ask(ip(address), 8080, PATIENCE));
                said.unwrap_or_else(|error| panic!("{address}: {error}"));
            }
        }
        // Where it isn't published, it isn't reached.
        let to = web.ipv4();
        run(&format!("ip route get {to}"));
        assert!(far.namespace.inside(move || ask(to, 80, IMPATIENCE)).is_err());
    });
}

#[test]
fn udp_port_at_one_address_is_reached_there_only() {
    on_a_host("udp_port_at_one_address_is_reached_there_only", || {
        let lan = Lan::new();
        let mut ports = bind(Some(HOST4), 5353, Protocol::Udp);
        let dns = lan.guest("dns", "bridge", &ports);
        dns.serve(80);
        ports.serve(dns.endpoint.ipv4, dns.endpoint.ipv6).unwrap();
        let said = lan.world.inside(|| ask_udp(ip(HOST4), 5353).unwrap());
        assert_eq!(said, WORLD4);
        ask_udp(ip(HOST4), 5353).unwrap();
        dns.namespace.inside(|| ask_udp(ip(HOST4), 5353).unwrap());
        assert!(lan.world.inside(|| ask_udp(ip(HOST6), 5353)).is_err());

        let mut local = bind(Some("127.0.0.1"), 9090, Protocol::Tcp);
        let hidden = lan.guest("hidden", "bridge", &local);
        hidden.serve(80);
        local.serve(hidden.endpoint.ipv4, hidden.endpoint.ipv6).unwrap();
        ask(ip("127.0.0.1"), 9090, PATIENCE).unwrap();
        assert!(lan.world.inside(|| ask(ip(HOST4), 9090, IMPATIENCE)).is_err());
    });
}

#[test]
fn networks_are_open_within_and_closed_between() {
    on_a_host("networks_are_open_within_and_closed_between", || {
        let lan = Lan::new();
        lan.network("far", false);
        lan.network("inner", true);
        let none = no_ports();
        let [one, two] = ["one", "two"].map(|name| lan.guest(name, "bridge", &none));
        let far = lan.guest("three", "far", &none);
        let [inner, inmate] = ["four", "five"].map(|name| lan.guest(name, "inner", &none));
        for guest in [&one, &two, &far, &inner, &inmate] {
            guest.serve(80);
        }
        serve(&lan.world, 80);
        let asks = |from: &Guest, to: IpAddr, patience| {
            from.namespace.inside(move || ask(to, 80, patience))
        };
        assert_eq!(asks(&one, two.ipv4(), PATIENCE).unwrap(), one.ipv4().to_string());
        assert_eq!(asks(&one, two.ipv6(), PATIENCE).unwrap(), one.ipv6().to_string());
        assert_eq!(asks(&inner, inmate.ipv4(), PATIENCE).unwrap(), inner.ipv4().to_string());
        // Out, by the host's address.
        assert_eq!(asks(&one, ip(WORLD4), PATIENCE).unwrap(), HOST4);
        assert_eq!(asks(&far, ip(WORLD6), PATIENCE).unwrap(), HOST6);
        for (from, to) in [
            (&one, far.ipv4()),
            (&one, far.ipv6()),
            (&far, one.ipv4()),
            (&one, inner.ipv4()),
            (&inner, one.ipv4()),
            (&inner, ip(WORLD4)),
            (&inner, ip(WORLD6)),
        ] {
            if let Ok(said) = asks(from, to, IMPATIENCE) {
                panic!("{to} was reached and said {said}");
            }
        }
        // Nor does anyone come in who knows the way.
        let (to, gateway) = (one.ipv4(), HOST4);
        let outcome = lan.world.inside(move || {
            run(&format!("ip route add {to}/32 via {gateway}"));
            ask(to, 80, IMPATIENCE)
        });
        assert!(outcome.is_err());
    });
}

#[test]
fn nothing_is_left_of_a_container_that_was_detached_or_killed() {
    on_a_host("nothing_is_left_of_a_container_that_was_detached_or_killed", || {
        if let Some(root) = std::env::var_os(VICTIM) {
            let networks = Networks::open(root.as_ref()).unwrap();
            let ports = bind(None, 8081, Protocol::Tcp);
            networks.attach(&attachment("victim", "bridge", &ports)).unwrap();
            println!("attached");
            // Until it's killed.
            io::stdin().read_line(&mut String::new()).unwrap();
        }
        let lan = Lan::new();
        let first = lan.networks.attach(&attachment("a", "bridge", &no_ports())).unwrap();
        let before = lan.state();

        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "nothing_is_left_of_a_container_that_was_detached_or_killed"])
            .arg("--nocapture")
            .env(VICTIM, lan.data_root.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        assert!(output.lines().map_while(Result::ok).any(|line| line.contains("attached")));
        let during = lan.state();
        assert!(during.contains("8081"), "{during}");
        let victim = &lan.networks.endpoints_of("victim").unwrap()[0];
        assert!(during.contains(&victim.tap) && victim.ipv4 != first.ipv4);
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(lan.networks.sweep(|container| container == "a").unwrap(), 1);
        assert_eq!(lan.state(), before);
        assert_eq!(lan.networks.sweep(|container| container == "a").unwrap(), 0);
        // The port is free, and the address.
        drop(bind(None, 8081, Protocol::Tcp));
        let again = lan.networks.attach(&attachment("b", "bridge", &no_ports())).unwrap();
        assert_eq!(again.ipv4, victim.ipv4);
        lan.networks.detach("b").unwrap();
        lan.networks.detach("b").unwrap();
        assert_eq!(lan.state(), before);
    });
}

#[test]
fn what_somebody_else_took_away_is_made_again() {
    on_a_host("what_somebody_else_took_away_is_made_again", || {
        let lan = Lan::new();
        lan.networks.reconcile().unwrap();
        let ports = bind(None, 8080, Protocol::Tcp);
        let endpoint = lan.networks.attach(&attachment("a", "bridge", &ports)).unwrap();
        let before = lan.state();
        lan.networks.reconcile().unwrap();
        assert_eq!(lan.state(), before);
        run(&format!("nft flush ruleset; ip link set {} nomaster", endpoint.tap));
        lan.networks.reconcile().unwrap();
        assert_eq!(lan.state(), before);
        // A container that comes again keeps its address.
        let again = lan.networks.attach(&attachment("a", "bridge", &ports)).unwrap();
        assert_eq!(again, endpoint);
    });
}

#[test]
fn network_is_removed_with_its_bridge_once_nobody_is_on_it() {
    on_a_host("network_is_removed_with_its_bridge_once_nobody_is_on_it", || {
        let lan = Lan::new();
        let nobody = lan.state();
        let spec = NetworkSpec {
            name: "mine".to_owned(),
            subnets: vec!["10.77.0.0/24".parse().unwrap(), "fd77::/64".parse().unwrap()],
            ..NetworkSpec::default()
        };
        let network = lan.networks.create(&spec).unwrap();
        assert!(matches!(lan.networks.create(&spec), Err(NetworkError::Exists(_))));
        let taken = NetworkSpec {
            name: "hosts".to_owned(),
            subnets: vec!["198.51.100.0/25".parse().unwrap()],
            ..NetworkSpec::default()
        };
        assert!(matches!(lan.networks.create(&taken), Err(NetworkError::Invalid(_))));
        let endpoint = lan.networks.attach(&attachment("a", "mine", &no_ports())).unwrap();
        assert_eq!(endpoint.ipv4.to_string(), "10.77.0.2");
        assert_eq!(endpoint.ipv6.to_string(), "fd77::a4d:2");
        let addresses = run(&format!("ip -o addr show dev {}", network.bridge));
        assert!(addresses.contains("10.77.0.1/24") && addresses.contains("fd77::1/64"));
        assert!(matches!(lan.networks.remove("mine"), Err(NetworkError::InUse { .. })));
        lan.networks.detach("a").unwrap();
        lan.networks.remove(&network.id[..6]).unwrap();
        run("nft flush ruleset");
        assert_eq!(lan.state(), nobody);
    });
}

#[test]
fn many_at_once_get_addresses_of_their_own() {
    on_a_host("many_at_once_get_addresses_of_their_own", || {
        let lan = Lan::new();
        let attach = |index: usize| {
            let container = format!("c{index}");
            lan.networks.attach(&attachment(&container, "bridge", &no_ports())).unwrap().ipv4
        };
        let mut addresses: Vec<_> = thread::scope(|scope| {
            let threads: Vec<_> = (0..12).map(|index| scope.spawn(move || attach(index))).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        addresses.sort_unstable();
        addresses.dedup();
        assert_eq!(addresses.len(), 12);
    });
}
