//! Docker: a daemon makes the containers, from an image that it keeps unpacked in a store of its own.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::process::{run, run_ok, system};
use super::subject::{Neighbour, Subject};
use super::{NAME_PREFIX, WayError};

/// How long Docker may take for anything but a container's own work.
const PATIENCE: Duration = Duration::from_secs(300);

/// What Docker knows the image and the network by.
const NAME: &str = "vmctl-compare";

/// The network's bridge, and its addresses: for tests between machines (RFC 2544), beside those of
/// the other containers' network.
const BRIDGE: &str = "vmctl-docker";
const SUBNET: &str = "198.18.65.0/24";

/// The first and the last address for containers: the bridge has that before the first.
const HOSTS: std::ops::RangeInclusive<u8> = 2..=254;

/// Docker, with the image and a network. Both are removed when it's dropped.
#[derive(Debug)]
pub(super) struct Docker {
    program: String,
    image_bytes: u64,
    storage: String,
    used: Mutex<BTreeSet<u8>>,
    /// Why containers can't be counted where all else is, if so.
    pub(super) uncounted: Option<String>,
}

impl Docker {
    /// Asks the daemon for its version; a client alone has none.
    pub(super) fn version(program: &str) -> Result<String, WayError> {
        let mut command = Command::new(program);
        command.args(["version", "--format", "{{.Server.Version}}"]);
        let version = run_ok(command, PATIENCE, None)?;
        Ok(format!("docker {}", version.trim()))
    }

    /// Hands the image to the daemon, and makes a network. What an earlier, killed process has left
    /// goes first.
    pub(super) fn prepare(program: &str, subject: &Subject) -> Result<Self, WayError> {
        remove_leftovers(program);
        let info = say(program, &["info", "--format", "{{.CgroupDriver}} {{.Driver}}"])?;
        let (cgroups, storage) = info.trim().split_once(' ').unwrap_or(("", ""));
        let uncounted = (cgroups != "cgroupfs").then(|| {
            format!(
                "this Docker leaves cgroups to {cgroups}, so that its containers can't be counted: \
                 for that it needs --exec-opt native.cgroupdriver=cgroupfs"
            )
        });
        let archive = subject.scratch.path().join("docker.tar");
        save(subject, &archive)?;
        say(program, &["load", "--quiet", "--input", &archive.to_string_lossy()])?;
        let _ = std::fs::remove_file(&archive);
        // From here on dropping it takes everything back.
        let mut docker = Self {
            program: program.to_owned(),
            image_bytes: 0,
            storage: storage.to_owned(),
            used: Mutex::default(),
            uncounted,
        };
        say(program, &["tag", &subject.image_id, NAME])?;
        let size = say(program, &["image", "inspect", "--format", "{{.Size}}", NAME])?;
        docker.image_bytes = size.trim().parse().unwrap_or(0);
        let bridge = format!("--opt=com.docker.network.bridge.name={BRIDGE}");
        let subnet = format!("--subnet={SUBNET}");
        say(program, &["network", "create", "--driver=bridge", &subnet, &bridge, NAME])?;
        Ok(docker)
    }

    pub(super) fn program(&self) -> &str {
        &self.program
    }

    /// What `docker create` knows the image by.
    pub(super) fn image(&self) -> &'static str {
        NAME
    }

    /// What the image takes on the disk, in bytes, and what the containers' root is made of.
    pub(super) fn root(&self) -> (u64, String) {
        (self.image_bytes, format!("{} of Docker's own store", self.storage))
    }

    /// Takes an address that no other container has.
    pub(super) fn connect(self: &Arc<Self>) -> Result<Lease, WayError> {
        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        let number = HOSTS.clone().find(|number| !used.contains(number));
        let number = number
            .ok_or_else(|| WayError::Unavailable(format!("all addresses of {SUBNET} are taken")))?;
        used.insert(number);
        drop(used);
        let address = Ipv4Addr::new(198, 18, 65, number);
        // From here on dropping it gives the address back.
        let mut lease = Lease { docker: Arc::clone(self), number, address, _neighbour: None };
        lease._neighbour =
            Some(Neighbour::add(IpAddr::V4(address), network::mac_of(address), BRIDGE)?);
        Ok(lease)
    }
}

impl Drop for Docker {
    fn drop(&mut self) {
        remove_leftovers(&self.program);
    }
}

/// A container's address.
#[derive(Debug)]
pub(super) struct Lease {
    docker: Arc<Docker>,
    number: u8,
    pub(super) address: Ipv4Addr,
    _neighbour: Option<Neighbour>,
}

impl Lease {
    /// The flags of `docker create` for it.
    pub(super) fn flags(&self) -> [String; 3] {
        let mac = network::mac_text(network::mac_of(self.address));
        [
            format!("--network={NAME}"),
            format!("--ip={}", self.address),
            format!("--mac-address={mac}"),
        ]
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let mut used = self.docker.used.lock().unwrap_or_else(PoisonError::into_inner);
        used.remove(&self.number);
    }
}

/// Writes the image as `docker save` would.
fn save(subject: &Subject, path: &Path) -> Result<(), WayError> {
    let failed = || system(format!("write {}", path.display()));
    let images = subject.engine.images();
    let images = images.map_err(|error| WayError::Unavailable(error.to_string()))?;
    let mut file = BufWriter::new(File::create(path).map_err(failed())?);
    images
        .save(std::slice::from_ref(&subject.image_id), &mut file)
        .map_err(|error| WayError::Unavailable(error.to_string()))?;
    file.flush().map_err(failed())
}

fn say(program: &str, arguments: &[&str]) -> Result<String, WayError> {
    let mut command = Command::new(program);
    command.args(arguments);
    run_ok(command, PATIENCE, None)
}

/// Removes our containers, network and image. No other comparison runs: the scratch directory is
/// locked.
fn remove_leftovers(program: &str) {
    let filter = format!("--filter=name=^/?{NAME_PREFIX}");
    let all = say(program, &["ps", "--all", "--quiet", &filter]).unwrap_or_default();
    let containers: Vec<&str> = all.split_whitespace().collect();
    if !containers.is_empty() {
        let _ = say(program, &[&["rm", "--force"][..], &containers].concat());
    }
    for what in ["network", "image"] {
        let mut command = Command::new(program);
        command.args([what, "rm", NAME]);
        // Mostly there is none.
        let _ = run(command, PATIENCE, None);
    }
}
