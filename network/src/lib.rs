//! Containers' networks on the host: bridges, addresses, published ports, names.
//!
//! ```text
//! as root   guest ── TAP ── bridge ── rules (NAT, published ports, isolation) ── the host's network
//!                                  └─ HostPorts: connections from the host's loopback addresses
//! as user   guest ── stream socket ── passt ── sockets of the user's
//! ```
//!
//! [`Networks`] keeps records on disk, from which bridges and rules follow. All calls wait for what
//! they do. What belongs to a container is taken back by [`Networks::detach`], or after a crash by
//! [`Networks::sweep`].

mod dns;
mod error;
mod files;
mod host;
mod networks;
mod passt;
mod ports;
mod program;
mod record;
mod store;
mod subnet;

pub use dns::{Dns, Upstream};
pub use error::NetworkError;
pub use files::{GUEST_DNS, HostsFile, ResolvConf, hosts, resolv_conf};
pub use networks::{Mode, Networks};
pub use passt::{Passt, PasstSocket, UserEndpoint};
pub use ports::HostPorts;
pub use record::{
    Attachment, DEFAULT_NETWORK, Endpoint, Network, NetworkSpec, Protocol, PublishedPort,
};
pub use subnet::{mac_of, mac_text};
