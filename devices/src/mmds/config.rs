//! Who may ask, where and how.

use std::net::Ipv4Addr;

/// Where the service is unless it is told otherwise.
pub const DEFAULT_IPV4_ADDRESS: Ipv4Addr = Ipv4Addr::new(169, 254, 169, 254);

/// How a guest proves that it may read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MmdsVersion {
    /// It needs no proof: requests alone suffice.
    #[default]
    V1,
    /// It asks for a session token first and shows it with each request.
    V2,
}

/// The configuration of a VM's metadata service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MmdsConfig {
    /// Whether tokens are needed.
    pub version: MmdsVersion,
    /// The network cards, by the names that the API gave them, on which the service answers.
    pub network_interfaces: Vec<String>,
    /// Where it answers: a link-local address.
    pub ipv4_address: Ipv4Addr,
    /// Answers in plain text whatever a request accepts, as EC2's service does.
    pub imds_compat: bool,
}

/// Why a configuration can't be used.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum MmdsConfigError {
    /// No card could reach the service.
    #[error("the list of network interfaces that may reach the metadata service is empty")]
    NoInterfaces,
    /// The address is not one that link-local hosts use.
    #[error(
        "the metadata service's address {0} is not link-local: 169.254.1.0 to 169.254.254.255 are"
    )]
    NotLinkLocal(Ipv4Addr),
}

impl Default for MmdsConfig {
    fn default() -> Self {
        Self {
            version: MmdsVersion::default(),
            network_interfaces: Vec::new(),
            ipv4_address: DEFAULT_IPV4_ADDRESS,
            imds_compat: false,
        }
    }
}

impl MmdsConfig {
    /// Tells whether the card called `interface` may reach the service.
    pub fn allows(&self, interface: &str) -> bool {
        self.network_interfaces.iter().any(|allowed| allowed == interface)
    }

    /// Finds what is wrong with the configuration itself; whether the cards exist is for the
    /// caller to know.
    ///
    /// # Errors
    /// [`MmdsConfigError`].
    pub fn check(&self) -> Result<(), MmdsConfigError> {
        if self.network_interfaces.is_empty() {
            return Err(MmdsConfigError::NoInterfaces);
        }
        // RFC 3927 §2.1 reserves the first and the last 256 addresses.
        let octets = self.ipv4_address.octets();
        if !self.ipv4_address.is_link_local() || matches!(octets, [_, _, 0 | 255, _]) {
            return Err(MmdsConfigError::NotLinkLocal(self.ipv4_address));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(address: [u8; 4]) -> MmdsConfig {
        MmdsConfig {
            ipv4_address: address.into(),
            network_interfaces: vec!["eth0".to_owned()],
            ..MmdsConfig::default()
        }
    }

    #[test]
    fn only_usable_link_local_addresses_are_accepted() {
        for address in [[169, 254, 1, 0], [169, 254, 169, 254], [169, 254, 254, 255]] {
            assert_eq!(at(address).check(), Ok(()));
        }
        for address in
            [[169, 254, 0, 255], [169, 254, 255, 0], [169, 253, 1, 1], [10, 0, 0, 1], [0; 4]]
        {
            assert_eq!(at(address).check(), Err(MmdsConfigError::NotLinkLocal(address.into())));
        }
    }

    #[test]
    fn somebody_must_be_allowed_and_others_are_not() {
        assert_eq!(MmdsConfig::default().check(), Err(MmdsConfigError::NoInterfaces));
        assert!(at([169, 254, 169, 254]).allows("eth0"));
        assert!(!at([169, 254, 169, 254]).allows("eth"));
    }
}
