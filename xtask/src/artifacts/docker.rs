//! Docker, unpacked and not installed: its package starts a daemon, and changes the host's
//! firewall.

use std::path::PathBuf;

use anyhow::Result;

use crate::progress::step;
use crate::{cache, packages};

/// The packages of what the daemon consists of and starts. The client is one of its own from
/// Debian 13 on.
const PACKAGES: [&str; 4] = ["docker.io", "containerd", "runc", "libdevmapper1.02.1"];
const CLIENT: &str = "docker-cli";

/// Downloads Docker if the cache has none; returns the root of its files.
///
/// # Errors
///
/// Fails when the packages can't be found, downloaded or unpacked.
pub(crate) fn docker() -> Result<PathBuf> {
    cache::entry("docker", |dir| {
        // Has the lists of packages fetched, if need be.
        packages::first_known(&PACKAGES[..1])?;
        let client = packages::candidate(CLIENT).map(|_| CLIENT);
        let all: Vec<&str> = PACKAGES.into_iter().chain(client).collect();
        step("Downloading Debian's docker.io", || packages::unpack(&all, dir))
    })
}
