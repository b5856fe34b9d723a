//! Who is called what, as one container sees it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;

use super::HOST_NAMES;
use crate::NetworkError;
use crate::networks::Networks;
use crate::record::Endpoint;

/// The names that a container's networks give.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Names {
    /// By the name in lower case.
    addresses: BTreeMap<String, Vec<IpAddr>>,
    names: BTreeMap<IpAddr, String>,
    subnets: BTreeSet<IpNet>,
}

impl Names {
    /// Reads what's on record.
    pub(super) fn of(networks: &Networks, container: &str) -> Result<Self, NetworkError> {
        let all = networks.all_endpoints()?;
        let own: Vec<_> = all.iter().filter(|endpoint| endpoint.container == container).collect();
        let mut names = Self::default();
        for endpoint in &own {
            names.add_host(endpoint);
            let id = &endpoint.network_id;
            for neighbour in all.iter().filter(|other| other.network_id == *id) {
                names.add(neighbour);
            }
        }
        Ok(names)
    }

    pub(super) fn add(&mut self, endpoint: &Endpoint) {
        // Docker's: a container is found by the start of its identifier, too.
        let short = endpoint.container.get(..12).unwrap_or(&endpoint.container);
        let pairs = endpoint.addresses();
        for name in endpoint.names.iter().map(String::as_str).chain([short]) {
            let known = self.addresses.entry(name.to_ascii_lowercase()).or_default();
            for (address, _) in pairs {
                if !known.contains(&address) {
                    known.push(address);
                }
            }
        }
        for (address, prefix) in pairs {
            let name = endpoint.names.first().map_or(short, String::as_str);
            self.names.insert(address, name.to_owned());
            self.subnets.extend(IpNet::new(address, prefix).map(|net| net.trunc()));
        }
    }

    pub(super) fn add_host(&mut self, endpoint: &Endpoint) {
        for name in HOST_NAMES {
            // The first network's, as the default route is.
            self.addresses
                .entry(name.to_owned())
                .or_insert_with(|| endpoint.host_addresses.clone());
        }
    }

    /// The addresses of a name in lower case; none if the name isn't one of ours.
    pub(super) fn addresses_of(&self, name: &str) -> Option<&[IpAddr]> {
        self.addresses.get(name).map(Vec::as_slice)
    }

    pub(super) fn name_of(&self, address: IpAddr) -> Option<&str> {
        self.names.get(&address).map(String::as_str)
    }

    /// Whether an address is of one of the container's networks.
    pub(super) fn covers(&self, address: IpAddr) -> bool {
        self.subnets.iter().any(|subnet| subnet.contains(&address))
    }
}
