//! Networks, and containers on them.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::time::SystemTime;

use ipnet::IpNet;
use sha2::{Digest, Sha256};

use crate::NetworkError;
use crate::host::Host;
use crate::record::{Attachment, DEFAULT_NETWORK, Endpoint, Network, NetworkSpec};
use crate::store::{Locked, Store};
use crate::subnet;

type Result<T> = std::result::Result<T, NetworkError>;

/// The data root whose networks have the plain names on the host.
const SYSTEM_DATA_ROOT: &str = "/var/lib/vmctl";
/// Bytes of an interface's name.
const ID_DIGITS: usize = 64;

/// How containers reach the world.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Bridges, TAP interfaces and NAT of the host's kernel: as root.
    Bridge,
    /// A process of the user's per container ([`crate::Passt`]).
    User,
}

impl Mode {
    /// What this process may do.
    #[must_use]
    pub fn of_this_process() -> Self {
        use rustix::thread::{CapabilitySet, capabilities};
        let has = |sets: rustix::thread::CapabilitySets| {
            sets.effective.contains(CapabilitySet::NET_ADMIN)
        };
        if capabilities(None).is_ok_and(has) { Self::Bridge } else { Self::User }
    }
}

/// The networks of one data root, and their containers. Any number of processes can use them at
/// once, and be killed at any moment: what the host's kernel holds follows from the records.
#[derive(Debug)]
pub struct Networks {
    store: Store,
    /// Tells this data root's interfaces and rules from another's; empty for the system's own.
    instance: String,
}

impl Networks {
    /// Opens the networks under the data root.
    ///
    /// # Errors
    /// [`NetworkError::File`].
    pub fn open(data_root: &Path) -> Result<Self> {
        let store = Store::open(data_root.join("networks"))?;
        let root = fs::canonicalize(data_root)
            .map_err(|error| NetworkError::file(data_root, "resolved", error))?;
        Ok(Self { store, instance: instance(&root) })
    }

    /// Creates a network. Its bridge is made with the first container on it.
    ///
    /// # Errors
    /// [`NetworkError::Exists`], [`NetworkError::Invalid`] for a name, a subnet or a gateway that
    /// can't be one, [`NetworkError::NoAddress`] when no subnet is free,
    /// [`NetworkError::NotPermitted`] without root.
    pub fn create(&self, spec: &NetworkSpec) -> Result<Network> {
        check_name(&spec.name)?;
        if matches!(spec.name.as_str(), DEFAULT_NETWORK | "default" | "none" | "host") {
            return Err(NetworkError::Exists(spec.name.clone()));
        }
        if Mode::of_this_process() == Mode::User {
            return Err(NetworkError::NotPermitted("a network"));
        }
        let locked = self.store.lock()?;
        if self.store.networks()?.iter().any(|network| network.name == spec.name) {
            return Err(NetworkError::Exists(spec.name.clone()));
        }
        self.add(&locked, spec)
    }

    /// Lists all networks, the oldest first. The default one is there from the beginning.
    ///
    /// # Errors
    /// [`NetworkError::File`].
    pub fn list(&self) -> Result<Vec<Network>> {
        let networks = self.store.networks()?;
        if networks.iter().any(|network| network.name == DEFAULT_NETWORK) {
            return Ok(networks);
        }
        let locked = self.store.lock()?;
        self.default_network(&locked)?;
        self.store.networks()
    }

    /// Finds a network by its name, its identifier or the start of that.
    ///
    /// # Errors
    /// [`NetworkError::Absent`]; [`NetworkError::Invalid`] when several begin so.
    pub fn get(&self, reference: &str) -> Result<Network> {
        find(self.list()?, reference)
    }

    /// Lists the containers on a network.
    ///
    /// # Errors
    /// [`NetworkError::File`].
    pub fn endpoints(&self, network: &Network) -> Result<Vec<Endpoint>> {
        self.store.leases(&network.id)
    }

    /// Lists a container's places on networks.
    ///
    /// # Errors
    /// [`NetworkError::File`].
    pub fn endpoints_of(&self, container: &str) -> Result<Vec<Endpoint>> {
        let mut endpoints = self.all_endpoints()?;
        endpoints.retain(|endpoint| endpoint.container == container);
        Ok(endpoints)
    }

    /// Removes a network and its bridge.
    ///
    /// # Errors
    /// [`NetworkError::Absent`], [`NetworkError::InUse`], [`NetworkError::Host`].
    pub fn remove(&self, reference: &str) -> Result<Network> {
        let locked = self.store.lock()?;
        let network = find(self.store.networks()?, reference)?;
        let in_use = |reason: String| NetworkError::InUse { network: network.name.clone(), reason };
        if network.name == DEFAULT_NETWORK {
            return Err(in_use("it's the default one".to_owned()));
        }
        let leases = self.store.leases(&network.id)?;
        if let Some(lease) = leases.first() {
            let name = lease.names.first().unwrap_or(&lease.container);
            return Err(in_use(format!("{} containers are on it ({name})", leases.len())));
        }
        Host::new()?.remove_link(&network.bridge)?;
        locked.remove_network(&network.id)?;
        self.apply_rules()?;
        Ok(network)
    }

    /// Puts a container on a network: addresses, a TAP interface for its VMM, published ports. A
    /// place that the container has there already (its supervisor was killed) is made anew, with
    /// the same addresses.
    ///
    /// # Errors
    /// [`NetworkError`]; then nothing of it is left.
    pub fn attach(&self, asked: &Attachment) -> Result<Endpoint> {
        check_id(&asked.container)?;
        if Mode::of_this_process() == Mode::User {
            return Err(NetworkError::NotPermitted("a bridge"));
        }
        let locked = self.store.lock()?;
        self.default_network(&locked)?;
        let network = find(self.store.networks()?, &asked.network)?;
        let endpoint = self.lease(&network, asked)?;
        locked.put_lease(&endpoint)?;
        self.make(&network, &endpoint).inspect_err(|_| {
            if let Err(error) = self.unmake(&locked, &endpoint) {
                log::warn!("{}: {error}", endpoint.tap);
            }
        })?;
        Ok(endpoint)
    }

    /// Takes a container off all networks. It's no error if it's on none.
    ///
    /// # Errors
    /// [`NetworkError::File`], [`NetworkError::Host`].
    pub fn detach(&self, container: &str) -> Result<()> {
        self.remove_leases(|lease| lease.container == container).map(drop)
    }

    /// Takes containers that are no more off all networks; returns how many places that freed.
    /// `is_alive` is asked with no lock of its own held by us but that of the networks.
    ///
    /// # Errors
    /// [`NetworkError::File`], [`NetworkError::Host`].
    pub fn sweep(&self, is_alive: impl Fn(&str) -> bool) -> Result<usize> {
        // Without the lock first: there's seldom anything to do.
        if self.all_endpoints()?.iter().all(|endpoint| is_alive(&endpoint.container)) {
            return Ok(0);
        }
        self.remove_leases(|lease| !is_alive(&lease.container))
    }

    /// Makes the host's bridges and rules what the records say, after somebody else changed them
    /// (a firewall's restart). Running it again changes nothing.
    ///
    /// # Errors
    /// [`NetworkError::Host`], [`NetworkError::MissingProgram`].
    pub fn reconcile(&self) -> Result<()> {
        let _locked = self.store.lock()?;
        let host = Host::new()?;
        for network in self.store.networks()? {
            let leases = self.store.leases(&network.id)?;
            if leases.is_empty() {
                continue;
            }
            host.ensure_bridge(&network)?;
            for lease in leases {
                host.join_bridge(&lease.tap, &network)?;
            }
        }
        self.apply_rules()
    }

    /// Takes all of this data root's off the host: places on networks, bridges, rules. The records
    /// of the networks stay, and the next container brings back what it needs.
    ///
    /// # Errors
    /// [`NetworkError::File`], [`NetworkError::Host`].
    pub fn tear_down(&self) -> Result<()> {
        self.remove_leases(|_| true)?;
        let _locked = self.store.lock()?;
        let host = Host::new()?;
        for network in self.store.networks()? {
            host.remove_link(&network.bridge)?;
        }
        crate::host::rules::remove(&self.table_name())
    }

    pub(crate) fn all_endpoints(&self) -> Result<Vec<Endpoint>> {
        let mut all = Vec::new();
        for network in self.store.networks()? {
            all.extend(self.store.leases(&network.id)?);
        }
        Ok(all)
    }

    fn default_network(&self, locked: &Locked<'_>) -> Result<()> {
        if self.store.networks()?.iter().any(|network| network.name == DEFAULT_NETWORK) {
            return Ok(());
        }
        let spec = NetworkSpec { name: DEFAULT_NETWORK.to_owned(), ..NetworkSpec::default() };
        self.add(locked, &spec).map(drop)
    }

    fn add(&self, locked: &Locked<'_>, spec: &NetworkSpec) -> Result<Network> {
        let id = new_id()?;
        let is_default = spec.name == DEFAULT_NETWORK;
        let host = Host::new()?;
        let plan = subnet::plan(spec, &id, is_default, &self.taken(&host)?)?;
        let bridge = self.bridge_name(&id, is_default);
        let network = Network {
            bridge,
            name: spec.name.clone(),
            created: SystemTime::now(),
            subnet4: plan.subnet4,
            gateway4: plan.gateway4,
            subnet6: plan.subnet6,
            gateway6: plan.gateway6,
            mtu: host.uplink_mtu(),
            internal: spec.internal,
            labels: spec.labels.clone(),
            id,
        };
        locked.put_network(&network)?;
        Ok(network)
    }

    /// Subnets of other networks and of the host's routes. A bridge that a network of this name
    /// left (its data root was deleted) doesn't count.
    fn taken(&self, host: &Host) -> Result<Vec<IpNet>> {
        let mut taken = host.routes(&self.bridge_name("", true))?;
        for network in self.store.networks()? {
            taken.extend([IpNet::V4(network.subnet4), IpNet::V6(network.subnet6)]);
        }
        Ok(taken)
    }

    /// At most 15 bytes.
    fn bridge_name(&self, id: &str, is_default: bool) -> String {
        match (is_default, self.instance.as_str()) {
            (true, "") => "vmctl0".to_owned(),
            (true, instance) => format!("vmctl-{instance}"),
            (false, _) => format!("vmb-{}", id.get(..11).unwrap_or(id)),
        }
    }

    /// The rules' table.
    fn table_name(&self) -> String {
        match self.instance.as_str() {
            "" => "vmctl".to_owned(),
            instance => format!("vmctl-{instance}"),
        }
    }

    /// Decides what the container gets.
    fn lease(&self, network: &Network, asked: &Attachment) -> Result<Endpoint> {
        let mut leases = self.store.leases(&network.id)?;
        let own = leases.iter().position(|lease| lease.container == asked.container);
        let own = own.map(|index| leases.remove(index));
        let before = own.map(|lease| (lease.ipv4, lease.ipv6));
        let wanted =
            (asked.ipv4.or(before.map(|own| own.0)), asked.ipv6.or(before.map(|own| own.1)));
        let (ipv4, ipv6) = subnet::assign(network, &leases, wanted)?;
        let mac = asked.mac.unwrap_or_else(|| subnet::mac_of(ipv4));
        if mac[0] & 1 != 0 || mac == [0; 6] {
            return Err(NetworkError::Invalid(
                "an interface can't have this MAC address".to_owned(),
            ));
        }
        let host_addresses = vec![network.gateway4.into(), network.gateway6.into()];
        Ok(Endpoint {
            container: asked.container.clone(),
            network: network.name.clone(),
            network_id: network.id.clone(),
            tap: tap_name(&asked.container, &network.id),
            mac,
            ipv4,
            prefix4: network.subnet4.prefix_len(),
            ipv6,
            prefix6: network.subnet6.prefix_len(),
            gateways: if network.internal { Vec::new() } else { host_addresses.clone() },
            host_addresses,
            mtu: network.mtu,
            names: asked.names.clone(),
            ports: asked.ports.clone(),
        })
    }

    /// Makes the host's side of a lease.
    fn make(&self, network: &Network, endpoint: &Endpoint) -> Result<()> {
        let host = Host::new()?;
        // Before any packet can go: what isolates networks comes first.
        self.apply_rules()?;
        host.ensure_bridge(network)?;
        host.remove_link(&endpoint.tap)?;
        host.add_tap(&endpoint.tap)?;
        host.join_bridge(&endpoint.tap, network)
    }

    fn unmake(&self, locked: &Locked<'_>, endpoint: &Endpoint) -> Result<()> {
        Host::new()?.remove_link(&endpoint.tap)?;
        locked.remove_lease(endpoint)?;
        if endpoint.ports.is_empty() { Ok(()) } else { self.apply_rules() }
    }

    fn remove_leases(&self, is_meant: impl Fn(&Endpoint) -> bool) -> Result<usize> {
        let locked = self.store.lock()?;
        let leases: Vec<_> = self.all_endpoints()?.into_iter().filter(is_meant).collect();
        for lease in &leases {
            self.unmake(&locked, lease)?;
        }
        Ok(leases.len())
    }

    /// Replaces the host's rules by what the records say, in one transaction.
    fn apply_rules(&self) -> Result<()> {
        let mut places = Vec::new();
        for network in self.store.networks()? {
            let leases = self.store.leases(&network.id)?;
            places.push((network, leases));
        }
        crate::host::rules::apply(&self.table_name(), &places)
    }
}

/// Six hexadecimal digits that tell a data root from others.
fn instance(root: &Path) -> String {
    if root == Path::new(SYSTEM_DATA_ROOT) {
        return String::new();
    }
    let digest = Sha256::digest(root.as_os_str().as_encoded_bytes());
    hex(&digest[..3])
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a string doesn't fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn new_id() -> Result<String> {
    let mut bytes = [0; ID_DIGITS / 2];
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())
        .map_err(|errno| NetworkError::host("get random bytes", errno))?;
    Ok(hex(&bytes))
}

/// `vt` and twelve digits: the start of a digest of both identifiers.
fn tap_name(container: &str, network_id: &str) -> String {
    let digest = Sha256::digest(format!("{container} {network_id}"));
    format!("vt{}", hex(&digest[..6]))
}

fn find(networks: Vec<Network>, reference: &str) -> Result<Network> {
    let exact = |network: &Network| network.name == reference || network.id == reference;
    if let Some(index) = networks.iter().position(exact) {
        return networks.into_iter().nth(index).ok_or_else(|| absent(reference));
    }
    let mut found = networks
        .into_iter()
        .filter(|network| !reference.is_empty() && network.id.starts_with(reference));
    match (found.next(), found.next()) {
        (Some(network), None) => Ok(network),
        (None, _) => Err(absent(reference)),
        (Some(_), Some(_)) => Err(NetworkError::Invalid(format!(
            "several networks' identifiers begin with {reference}"
        ))),
    }
}

fn absent(reference: &str) -> NetworkError {
    NetworkError::Absent(reference.to_owned())
}

/// Docker's rule for names.
fn check_name(name: &str) -> Result<()> {
    let good = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte);
    let starts = name.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric());
    if starts && (2..=128).contains(&name.len()) && name.bytes().all(good) {
        return Ok(());
    }
    Err(NetworkError::Invalid(format!(
        "invalid network name ({name}): letters, digits, and then _ . - too, two at least"
    )))
}

/// It becomes a file's name.
fn check_id(id: &str) -> Result<()> {
    if (1..=128).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
        return Ok(());
    }
    Err(NetworkError::Invalid(format!("{id:?} is no container's identifier")))
}

#[cfg(test)]
mod tests;
