//! The kernel's parameters that networks need.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::NetworkError;

type Result<T> = std::result::Result<T, NetworkError>;

const IPV4: &str = "/proc/sys/net/ipv4";
const IPV6: &str = "/proc/sys/net/ipv6/conf";

/// Lets the host forward packets.
pub(super) fn forward() -> Result<()> {
    set(&Path::new(IPV4).join("ip_forward"), "1")?;
    let forwarding = Path::new(IPV6).join("all/forwarding");
    if fs::read_to_string(&forwarding).is_ok_and(|value| value.trim() != "1") {
        keep_router_advertisements();
        set(&forwarding, "1")?;
    }
    Ok(())
}

/// A host that forwards doesn't listen to its own routers any more, unless it's told to.
fn keep_router_advertisements() {
    let interfaces = fs::read_dir(IPV6).into_iter().flatten().flatten();
    for path in interfaces.map(|interface| interface.path().join("accept_ra")) {
        if fs::read_to_string(&path).is_ok_and(|value| value.trim() == "1")
            && let Err(error) = fs::write(&path, "2")
        {
            log::warn!("{}: {error}", path.display());
        }
    }
}

/// Guests are no routers of the host's; addresses on a bridge without ports are usable at once.
pub(super) fn prepare_bridge(name: &str) -> Result<()> {
    set(&interface(name, "accept_ra"), "0")?;
    set(&interface(name, "accept_dad"), "0")?;
    set(&interface(name, "autoconf"), "0")
}

/// The host has no address on a bridge's port.
pub(super) fn prepare_port(name: &str) -> Result<()> {
    set(&interface(name, "disable_ipv6"), "1")
}

fn interface(name: &str, parameter: &str) -> PathBuf {
    Path::new(IPV6).join(name).join(parameter)
}

/// Sets a parameter, unless it's as wanted (`/proc/sys` may be read-only) or the host has no IPv6.
fn set(path: &Path, value: &str) -> Result<()> {
    match fs::read_to_string(path) {
        Ok(current) if current.trim() == value => return Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        _ => {}
    }
    fs::write(path, value)
        .map_err(|error| NetworkError::host(format!("set {} to {value}", path.display()), error))
}
