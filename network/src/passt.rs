//! A container's network without root: a `passt` process per container, which speaks for the guest
//! through sockets of the user's own.
//!
//! The VMM connects to a Unix socket that this side listens at, and the connection is handed to
//! `passt` as a descriptor. So it ends with the VMM, whoever is killed first, and there's no moment
//! at which it waits for somebody who may never come.

use std::fs::{self, File};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

use command_fds::{CommandFdExt, FdMapping};

use crate::NetworkError;
use crate::record::{Protocol, PublishedPort};

type Result<T> = std::result::Result<T, NetworkError>;

/// The descriptor that `passt` finds its connection at.
const CONNECTION_FD: i32 = 3;

/// A guest's place on its user-mode network: the same for each, as it's alone there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UserEndpoint {
    /// The guest's Ethernet address.
    pub mac: [u8; 6],
    /// The guest's IPv4 address.
    pub ipv4: Ipv4Addr,
    /// Its prefix length.
    pub prefix4: u8,
    /// The IPv4 gateway.
    pub gateway4: Ipv4Addr,
    /// The guest's IPv6 address; none if the host has no way to the world by IPv6.
    pub ipv6: Option<Ipv6Addr>,
    /// Its prefix length.
    pub prefix6: u8,
    /// The IPv6 gateway, link-local.
    pub gateway6: Ipv6Addr,
    /// The largest packet, in bytes: nothing segments or checks for the guest here, so the larger
    /// the better.
    pub mtu: u16,
}

impl UserEndpoint {
    /// The place, as this host allows it.
    #[must_use]
    pub fn of_host() -> Self {
        let ipv6 = Ipv6Addr::new(0xfd29, 0, 0, 0, 0, 0, 0, 2);
        Self {
            mac: [0x02, 0x42, 10, 0, 2, 15],
            ipv4: Ipv4Addr::new(10, 0, 2, 15),
            prefix4: 24,
            gateway4: Ipv4Addr::new(10, 0, 2, 2),
            ipv6: has_ipv6_route().then_some(ipv6),
            prefix6: 64,
            gateway6: Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1),
            mtu: 65520,
        }
    }
}

/// Where a VMM is awaited.
#[derive(Debug)]
pub struct PasstSocket {
    listener: UnixListener,
    path: PathBuf,
}

/// A running `passt`, killed when this is dropped. By itself it ends with its VMM.
#[derive(Debug)]
pub struct Passt {
    child: Child,
}

impl PasstSocket {
    /// Listens at `path`, for the VMM's network interface (`socket` of `NetSpec`) to connect to. A
    /// socket that's there already is replaced.
    ///
    /// # Errors
    /// [`NetworkError::MissingProgram`] when `passt` isn't installed, [`NetworkError::File`].
    pub fn bind(path: &Path) -> Result<Self> {
        if !is_installed() {
            return Err(NetworkError::MissingProgram { program: "passt", package: "passt" });
        }
        let failed = |error| NetworkError::file(path, "listened at", error);
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
            _ => {}
        }
        let listener = UnixListener::bind(path).map_err(failed)?;
        listener.set_nonblocking(true).map_err(failed)?;
        Ok(Self { listener, path: path.to_owned() })
    }

    /// Starts `passt` on the VMM's connection, which has to be there: a VMM connects while it
    /// builds its machine. What `passt` says goes to `log`. The ports have been found free
    /// ([`crate::HostPorts::bind`], dropped right before this).
    ///
    /// # Errors
    /// [`NetworkError::Host`] when nobody has connected or `passt` can't be started,
    /// [`NetworkError::Invalid`] for a port that's published at two addresses but not all.
    pub fn start(
        &self,
        endpoint: &UserEndpoint,
        ports: &[PublishedPort],
        log: File,
    ) -> Result<Passt> {
        let failed = |error| NetworkError::host("start passt", error);
        let arguments = arguments(endpoint, ports)?;
        let (connection, _) = self.listener.accept().map_err(|error| {
            NetworkError::host(
                format!("get the VMM's connection to {}", self.path.display()),
                error,
            )
        })?;
        let mut command = Command::new("passt");
        command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        let mapping = FdMapping { parent_fd: connection.into(), child_fd: CONNECTION_FD };
        command.fd_mappings(vec![mapping]).map_err(|error| failed(io::Error::other(error)))?;
        let child = command.spawn().map_err(failed)?;
        Ok(Passt { child })
    }
}

impl Drop for PasstSocket {
    fn drop(&mut self) {
        // It's only a name by now.
        let _ = fs::remove_file(&self.path);
    }
}

impl Passt {
    /// The process's number.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Whether it has ended, and how.
    ///
    /// # Errors
    /// [`NetworkError::Host`].
    pub fn try_wait(&mut self) -> Result<Option<ExitStatus>> {
        self.child.try_wait().map_err(|error| NetworkError::host("wait for passt", error))
    }
}

impl Drop for Passt {
    fn drop(&mut self) {
        // It may have ended with its VMM.
        let _ = self.child.kill();
        if let Err(error) = self.child.wait() {
            log::warn!("passt can't be waited for: {error}");
        }
    }
}

fn is_installed() -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|directory| directory.join("passt").is_file())
}

/// Addresses are the agent's to set, from what it's told, and so are names: nothing is handed out
/// here. The gateway isn't mapped to the host's loopback address: what listens only there doesn't
/// mean guests.
fn arguments(endpoint: &UserEndpoint, ports: &[PublishedPort]) -> Result<Vec<String>> {
    let mut arguments: Vec<String> =
        ["--foreground", "--quiet", "--stderr", "--fd"].map(str::to_owned).to_vec();
    arguments.push(CONNECTION_FD.to_string());
    arguments.extend(
        ["--no-dhcp", "--no-dhcpv6", "--no-ra", "--no-map-gw", "--dns", "none"].map(str::to_owned),
    );
    let mut say = |option: &str, value: &dyn ToString| {
        arguments.extend([option.to_owned(), value.to_string()]);
    };
    say("--address", &endpoint.ipv4);
    say("--netmask", &endpoint.prefix4);
    say("--gateway", &endpoint.gateway4);
    match endpoint.ipv6 {
        Some(ipv6) => {
            say("--address", &ipv6);
            say("--gateway", &endpoint.gateway6);
        }
        None => arguments.push("--ipv4-only".to_owned()),
    }
    for (index, port) in ports.iter().enumerate() {
        let is_same = |other: &PublishedPort| {
            (other.host_port, other.protocol) == (port.host_port, port.protocol)
        };
        if ports.iter().take(index).any(is_same) {
            return Err(NetworkError::Invalid(format!(
                "without root, port {} can be published at one address or at all of them",
                port.host_port
            )));
        }
        arguments.extend(forward(port));
    }
    Ok(arguments)
}

/// The option for a published port.
fn forward(port: &PublishedPort) -> [String; 2] {
    let option = match port.protocol {
        Protocol::Tcp => "--tcp-ports",
        Protocol::Udp => "--udp-ports",
    };
    let ports = format!("{}:{}", port.host_port, port.container_port);
    let value = match port.host_ip.filter(|address: &IpAddr| !address.is_unspecified()) {
        Some(address) => format!("{address}/{ports}"),
        None => ports,
    };
    [option.to_owned(), value]
}

/// Whether the host has a default route by IPv6: without one, `passt` has no IPv6.
fn has_ipv6_route() -> bool {
    let routes = fs::read_to_string("/proc/thread-self/net/ipv6_route").unwrap_or_default();
    routes.lines().any(|line| {
        let words: Vec<_> = line.split_ascii_whitespace().collect();
        let is_default = words.first().is_some_and(|to| to.bytes().all(|byte| byte == b'0'))
            && words.get(1) == Some(&"00");
        is_default && words.last().is_some_and(|interface| *interface != "lo")
    })
}

#[cfg(test)]
mod tests;
