//! What's on file about a VM.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use api::config::VmSpec;
use serde::{Deserialize, Serialize};

use super::{ProcessIdentity, RegistryError, files};

/// The longest name.
const MAX_NAME_BYTES: usize = 64;

/// The file that a VM's record is in.
const FILE: &str = "vm.json";

/// What a VM's record is made of.
#[derive(Clone, Debug)]
pub(crate) struct Draft {
    /// The name; one is made up if there's none.
    pub(crate) name: Option<String>,
    /// Where the VM comes from.
    pub(crate) origin: Origin,
    /// Whether a `vmctl` stays with it, and removes the record at its end.
    pub(crate) foreground: bool,
    /// The API's socket, if not in the VM's directory.
    pub(crate) api_socket: Option<PathBuf>,
}

/// Where a VM comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub(crate) enum Origin {
    /// It was booted.
    Boot,
    /// It goes on from a snapshot.
    Restore {
        /// The snapshot's directory.
        snapshot: PathBuf,
    },
    /// It's one of the copies of another VM.
    Clone {
        /// The other VM's name, or the snapshot's directory.
        of: String,
    },
}

/// A VM, as `vm.json` has it. Fields are added over time, never renamed: `vmctl vm inspect --json`
/// shows them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct VmRecord {
    /// 12 hexadecimal digits.
    pub(crate) id: String,
    /// Unique among the VMs of this registry.
    pub(crate) name: String,
    /// When it was entered, in milliseconds since 1970.
    pub(crate) created_unix_ms: u64,
    /// Its VMM; none before that's started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) process: Option<ProcessIdentity>,
    /// Where it comes from.
    pub(crate) origin: Origin,
    /// Whether a `vmctl` stays with it.
    #[serde(default)]
    pub(crate) foreground: bool,
    /// The HTTP API's socket.
    pub(crate) api_socket: PathBuf,
    /// The console's socket, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) console_socket: Option<PathBuf>,
    /// What the VMM logs.
    pub(crate) log: PathBuf,
    /// What happened to it, as JSON lines.
    pub(crate) events: PathBuf,
    /// When `vmctl` killed it, in milliseconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) killed_unix_ms: Option<u64>,
    /// What it's made of, as it was started, or as it was when it was last forked.
    #[serde(default)]
    pub(crate) config: VmSpec,
    /// Files that were made for it, perhaps for others too; directories after what's in them. Each
    /// goes with the last VM that has it here.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) owned: Vec<PathBuf>,
}

impl VmRecord {
    /// Names the files of a VM that has none yet.
    pub(super) fn new(dir: &Path, id: String, draft: Draft) -> Self {
        let name = draft.name.unwrap_or_else(|| format!("vm-{id}"));
        let api_socket = draft.api_socket.unwrap_or_else(|| dir.join("api.sock"));
        Self {
            id,
            name,
            created_unix_ms: unix_ms(),
            process: None,
            origin: draft.origin,
            foreground: draft.foreground,
            api_socket,
            console_socket: None,
            log: dir.join("vmm.log"),
            events: dir.join("events"),
            killed_unix_ms: None,
            config: VmSpec::default(),
            owned: Vec::new(),
        }
    }

    /// Reads the record in a VM's directory.
    pub(super) fn load(dir: &Path) -> io::Result<Self> {
        let record: Self = serde_json::from_slice(&fs::read(dir.join(FILE))?)?;
        // A copy, or a directory that was renamed, would have another VM's sockets removed.
        if dir.file_name().is_none_or(|name| name != record.id.as_str()) {
            return Err(io::Error::other(format!("{FILE} is about {:?}", record.id)));
        }
        Ok(record)
    }

    /// Writes the record into a VM's directory.
    pub(super) fn store(&self, dir: &Path) -> io::Result<()> {
        files::replace(&dir.join(FILE), &serde_json::to_vec_pretty(self)?)
    }

    /// vCPUs.
    pub(crate) fn vcpus(&self) -> u64 {
        let machine = self.config.machine_config.as_ref();
        machine.and_then(|machine| machine.vcpu_count).unwrap_or(1)
    }

    /// Memory, in MiB.
    pub(crate) fn mem_mib(&self) -> u64 {
        let machine = self.config.machine_config.as_ref();
        machine.and_then(|machine| machine.mem_size_mib).unwrap_or(api::config::DEFAULT_MEM_MIB)
    }

    /// Every socket that a VMM that's gone may have left.
    pub(super) fn sockets(&self) -> impl Iterator<Item = &Path> {
        let vsock = self.config.vsock.as_ref().map(|vsock| vsock.uds_path.as_path());
        let console = self.console_socket.as_deref();
        [Some(self.api_socket.as_path()), console, vsock].into_iter().flatten()
    }
}

/// The images of all drives, those that they build upon, and the files that follow them.
pub(crate) fn images(config: &VmSpec) -> Vec<PathBuf> {
    let drives = config.drives.iter();
    let of_drive = |drive: &api::config::DriveSpec| {
        let below = drive.backing.iter().map(|file| file.path_on_host.clone());
        let following = drive.concat.iter().cloned();
        drive.path_on_host.clone().into_iter().chain(below).chain(following).collect::<Vec<_>>()
    };
    drives.flat_map(of_drive).collect()
}

/// Milliseconds since 1970.
pub(super) fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// Checks that `name` can be a VM's name.
///
/// # Errors
/// [`RegistryError::BadName`].
pub(crate) fn check_name(name: &str) -> Result<(), RegistryError> {
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-');
    let starts_well = name.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric());
    if starts_well && name.len() <= MAX_NAME_BYTES && name.bytes().all(is_allowed) {
        Ok(())
    } else {
        Err(RegistryError::BadName { name: name.to_owned() })
    }
}
