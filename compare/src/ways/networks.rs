//! The network of containers and full VMs: one bridge, to which a container's namespace is connected
//! as a VM's TAP is.

use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use network::{Attachment, Endpoint, NetworkError, NetworkSpec, Networks};

use super::process::system;
use super::subject::{Neighbour, ip};
use super::{NAME_PREFIX, WayError};

/// The interface in an instance.
const INTERFACE: &str = "eth0";

/// The network, of addresses for tests between machines (RFC 2544).
const NETWORK: &str = "compare";
const SUBNET: &str = "198.18.64.0/24";

/// Where the networks' records are, below the scratch directory.
const DIRECTORY: &str = "net";

/// Where `ip netns` keeps namespaces.
const NAMESPACES: &str = "/run/netns";

/// The network. It isn't among those of `vmctl run`, which would take an instance that isn't in its
/// records off them.
#[derive(Debug)]
pub(crate) struct InstanceNetworks {
    networks: Networks,
    dir: PathBuf,
}

impl InstanceNetworks {
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
        let place = self.place(name)?;
        // From here on dropping it takes everything back.
        let mut namespace = Namespace { name: format!("{NAME_PREFIX}{name}"), place };
        let bridge = self.bridge()?;
        let inside = self.dir.join(format!("{name}.ip"));
        let outside = self.dir.join(format!("{name}-host.ip"));
        let endpoint = &namespace.place.endpoint;
        write(&outside, &outside_script(endpoint, &bridge, &namespace.name))?;
        write(&inside, &inside_script(endpoint))?;
        ip(&["netns", "add", &namespace.name])?;
        ip(&["-batch", &outside.to_string_lossy()])?;
        ip(&["-netns", &namespace.name, "-batch", &inside.to_string_lossy()])?;
        namespace.place.announce(&bridge)?;
        Ok(namespace)
    }

    /// Makes a TAP with an address for the guest behind it.
    pub(crate) fn tap(self: &Arc<Self>, name: &str) -> Result<Tap, WayError> {
        let mut place = self.place(name)?;
        place.announce(&self.bridge()?)?;
        Ok(Tap { place })
    }

    fn bridge(&self) -> Result<String, WayError> {
        Ok(self.networks.get(NETWORK).map_err(refused)?.bridge)
    }

    fn place(self: &Arc<Self>, name: &str) -> Result<Place, WayError> {
        let id: String = name.chars().filter(char::is_ascii_alphanumeric).collect();
        let attachment =
            Attachment { network: NETWORK.to_owned(), container: id, ..Attachment::default() };
        let endpoint = self.networks.attach(&attachment).map_err(refused)?;
        Ok(Place { networks: Arc::clone(self), endpoint: Box::new(endpoint), neighbour: None })
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

impl Drop for InstanceNetworks {
    fn drop(&mut self) {
        if let Err(error) = self.networks.tear_down() {
            log::warn!("the instances' network can't be removed: {error}");
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
    let mac = endpoint.mac_text();
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

/// An instance's place on the network, given back when it's dropped.
#[derive(Debug)]
struct Place {
    networks: Arc<InstanceNetworks>,
    endpoint: Box<Endpoint>,
    neighbour: Option<Neighbour>,
}

impl Place {
    /// Tells the host's kernel who is here.
    fn announce(&mut self, bridge: &str) -> Result<(), WayError> {
        let address = IpAddr::V4(self.endpoint.ipv4);
        self.neighbour = Some(Neighbour::add(address, self.endpoint.mac, bridge)?);
        Ok(())
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.neighbour = None;
        if let Err(error) = self.networks.networks.detach(&self.endpoint.container) {
            log::warn!("{}: {error}", self.endpoint.container);
        }
    }
}

/// A network namespace, removed when it's dropped.
#[derive(Debug)]
pub(crate) struct Namespace {
    name: String,
    place: Place,
}

impl Namespace {
    /// The file that stands for it.
    pub(crate) fn path(&self) -> PathBuf {
        Path::new(NAMESPACES).join(&self.name)
    }

    /// The address in it.
    pub(crate) fn address(&self) -> IpAddr {
        IpAddr::V4(self.place.endpoint.ipv4)
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        // Its end of the pair goes, and with it the host's.
        let _ = ip(&["netns", "delete", &self.name]);
    }
}

/// A TAP interface, removed when it's dropped.
#[derive(Debug)]
pub(crate) struct Tap {
    place: Place,
}

impl Tap {
    /// The guest's address.
    pub(crate) fn address(&self) -> Ipv4Addr {
        self.place.endpoint.ipv4
    }

    /// The option of `vmctl boot --net`.
    pub(crate) fn net_option(&self) -> String {
        let endpoint = &self.place.endpoint;
        format!("tap={},mac={}", endpoint.tap, endpoint.mac_text())
    }

    /// What the kernel's command line says of it (`Documentation/admin-guide/nfs/nfsroot.rst`): the
    /// kernel itself sets the address, whatever the system on the disk knows of networks.
    pub(crate) fn kernel_parameter(&self) -> String {
        let endpoint = &self.place.endpoint;
        let mask = u32::MAX.checked_shl(32 - u32::from(endpoint.prefix4.min(32))).unwrap_or(0);
        let mask = Ipv4Addr::from(mask);
        let gateway = endpoint.gateways.iter().find(|gateway| gateway.is_ipv4());
        let gateway = gateway.map(ToString::to_string).unwrap_or_default();
        format!("ip={}::{gateway}:{mask}::{INTERFACE}:off", endpoint.ipv4)
    }
}
