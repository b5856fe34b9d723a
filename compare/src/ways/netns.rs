//! A container's network: a namespace, connected to a bridge as a VM's TAP is.

use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use network::{Attachment, Endpoint, NetworkError, NetworkSpec, Networks};

use super::process::system;
use super::subject::{Neighbour, ip};
use super::{NAME_PREFIX, WayError};

/// The interface in the container.
const INTERFACE: &str = "eth0";

/// The containers' network, of addresses for tests between machines (RFC 2544).
const NETWORK: &str = "compare";
const SUBNET: &str = "198.18.64.0/24";

/// Where the networks' records are, below the scratch directory.
const DIRECTORY: &str = "net";

/// Where `ip netns` keeps namespaces.
const NAMESPACES: &str = "/run/netns";

/// Networks of containers. They aren't among those of `vmctl run`, which would take a container that
/// isn't in its records off them.
#[derive(Debug)]
pub(crate) struct ContainerNetworks {
    networks: Networks,
    dir: PathBuf,
}

impl ContainerNetworks {
    pub(crate) fn open(scratch: &Path) -> Result<Self, WayError> {
        let dir = scratch.join(DIRECTORY);
        fs::create_dir_all(&dir).map_err(system(format!("create {}", dir.display())))?;
        let networks = Networks::open(&dir).map_err(refused)?;
        // A subnet that's known to be nobody else's: the one that would be chosen may be chosen for
        // the VMs' network too, as long as neither has a bridge yet.
        let subnet = SUBNET.parse().map_err(|_| WayError::Unavailable("a subnet".to_owned()))?;
        let spec = NetworkSpec {
            name: NETWORK.to_owned(),
            subnets: vec![subnet],
            ..NetworkSpec::default()
        };
        networks.create(&spec).map_err(refused)?;
        Ok(Self { networks, dir })
    }

    /// Makes a namespace with an address.
    pub(crate) fn connect(self: &Arc<Self>, name: &str) -> Result<Namespace, WayError> {
        let id: String = name.chars().filter(char::is_ascii_alphanumeric).collect();
        let attachment = Attachment {
            network: NETWORK.to_owned(),
            container: id.clone(),
            ..Attachment::default()
        };
        let endpoint = self.networks.attach(&attachment).map_err(refused)?;
        // From here on dropping it takes everything back.
        let mut namespace = Namespace {
            networks: Arc::clone(self),
            container: id,
            name: format!("{NAME_PREFIX}{name}"),
            address: IpAddr::V4(endpoint.ipv4),
            neighbour: None,
        };
        let bridge = self.networks.get(NETWORK).map_err(refused)?.bridge;
        let inside = self.dir.join(format!("{name}.ip"));
        let outside = self.dir.join(format!("{name}-host.ip"));
        write(&outside, &outside_script(&endpoint, &bridge, &namespace.name))?;
        write(&inside, &inside_script(&endpoint))?;
        ip(&["netns", "add", &namespace.name])?;
        ip(&["-batch", &outside.to_string_lossy()])?;
        ip(&["-netns", &namespace.name, "-batch", &inside.to_string_lossy()])?;
        namespace.neighbour = Some(Neighbour::add(namespace.address, endpoint.mac, &bridge)?);
        Ok(namespace)
    }
}

/// Removes what a killed comparison has left on the host, as long as its records are there.
pub(crate) fn remove_leftovers(scratch: &Path) {
    for entry in fs::read_dir(NAMESPACES).into_iter().flatten().flatten() {
        if let Some(name) = entry.file_name().to_str()
            && name.starts_with(NAME_PREFIX)
        {
            let _ = ip(&["netns", "delete", name]);
        }
    }
    let dir = scratch.join(DIRECTORY);
    if !dir.exists() {
        return;
    }
    if let Err(error) = Networks::open(&dir).and_then(|networks| networks.tear_down()) {
        log::warn!("networks of an earlier comparison can't be removed: {error}");
    }
}

impl Drop for ContainerNetworks {
    fn drop(&mut self) {
        if let Err(error) = self.networks.tear_down() {
            log::warn!("containers' networks can't be removed: {error}");
        }
    }
}

/// The host's end takes the place of the TAP that a VM would get.
fn outside_script(endpoint: &Endpoint, bridge: &str, namespace: &str) -> String {
    let link = &endpoint.tap;
    format!(
        "link delete dev {link}\n\
         link add name {link} type veth peer name {INTERFACE} netns {namespace}\n\
         link set dev {link} master {bridge} up\n"
    )
}

fn inside_script(endpoint: &Endpoint) -> String {
    let mac = endpoint.mac.map(|byte| format!("{byte:02x}")).join(":");
    let mut script = format!(
        "link set dev lo up\n\
         link set dev {INTERFACE} address {mac} mtu {} up\n\
         address add {}/{} dev {INTERFACE}\n",
        endpoint.mtu, endpoint.ipv4, endpoint.prefix4
    );
    for gateway in endpoint.gateways.iter().filter(|gateway| gateway.is_ipv4()) {
        script += &format!("route add default via {gateway}\n");
    }
    script
}

fn write(path: &Path, text: &str) -> Result<(), WayError> {
    fs::write(path, text).map_err(system(format!("write {}", path.display())))
}

fn refused(error: NetworkError) -> WayError {
    WayError::Unavailable(error.to_string())
}

/// A network namespace, removed when it's dropped.
#[derive(Debug)]
pub(crate) struct Namespace {
    networks: Arc<ContainerNetworks>,
    container: String,
    name: String,
    address: IpAddr,
    neighbour: Option<Neighbour>,
}

impl Namespace {
    /// The file that stands for it.
    pub(crate) fn path(&self) -> PathBuf {
        Path::new(NAMESPACES).join(&self.name)
    }

    /// The address in it.
    pub(crate) fn address(&self) -> IpAddr {
        self.address
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        self.neighbour = None;
        let _ = ip(&["netns", "delete", &self.name]);
        if let Err(error) = self.networks.networks.detach(&self.container) {
            log::warn!("{}: {error}", self.name);
        }
    }
}
