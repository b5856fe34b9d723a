//! Warm templates: a VM as it is once its agent is there, saved before it's any container's.
//!
//! The first container of an image boots, and is saved on its way; the next ones of the same kernel,
//! agent, VMM, image and shape come out of that. Their memory is a private mapping of the template's
//! file: what they don't write, they share. What's a container's own is put in when it's loaded: the
//! disk that it writes to, TAPs and their addresses, sockets, the console.
//!
//! ```text
//! DATA/templates/lock        held by whoever makes one
//!                KEY/state   the machine, KEY being the digest of all that went into it
//!                    memory  the guest's memory
//!                    image   the identifier of the image
//! ```
//!
//! Containers with shares boot: a share's directory is a part of the machine.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use api::config::{ConsoleMode, NetSpec, VmSpec};
use api::http::{Client, ClientError};
use api::v1::{
    ConsoleOverride, CreateSnapshotParams, DriveOverride, LoadSnapshotParams, MemoryBackend,
    MemoryBackendType, NetworkOverride, NewIdentity, NewMac, SnapshotType, VsockOverride,
};
use rustix::fs::{FlockOperation, flock};
use sha2::{Digest, Sha256};

use super::machine::UPPER;
use crate::error::{file, system};
use crate::files::{self, LockFile};
use crate::paths::{ContainerPaths, make_dir};
use crate::record::ContainerRecord;
use crate::watch::DirWatch;
use crate::{Engine, ImageError, RuntimeError, vmm};

/// Raised when templates of before can't be used any more.
const FORMAT: &str = "1";

const STATE: &str = "state";
const MEMORY: &str = "memory";
const IMAGE: &str = "image";

/// How long a VMM has until it listens, and to write or load a template.
const LISTEN_PATIENCE: Duration = Duration::from_secs(60);
const BULK_PATIENCE: Duration = Duration::from_secs(600);

/// A template, whether it's there or not.
#[derive(Debug)]
pub(super) struct Template {
    dir: PathBuf,
}

impl Template {
    /// The template of such a VM; none if there can't be any, or mustn't.
    pub(super) fn of(
        engine: &Engine,
        record: &ContainerRecord,
        spec: &VmSpec,
    ) -> Result<Option<Self>, RuntimeError> {
        if record.config.no_template || !spec.filesystems.is_empty() {
            return Ok(None);
        }
        let mut digest = Sha256::new();
        let mut part = |bytes: &[u8]| {
            digest.update((bytes.len() as u64).to_le_bytes());
            digest.update(bytes);
        };
        part(FORMAT.as_bytes());
        let shape = serde_json::to_vec(&shape(spec.clone()))
            .map_err(|error| system("describe a machine")(error.into()))?;
        part(&shape);
        let boot = spec.boot_source.iter();
        let files = boot.flat_map(|boot| boot.kernel_image_path.iter().chain(&boot.initrd_path));
        for path in files.cloned().chain([vmm::find()?]) {
            part(identity(&path).map_err(file("look at", &path))?.as_bytes());
        }
        let key: String =
            digest.finalize().iter().take(16).map(|byte| format!("{byte:02x}")).collect();
        Ok(Some(Self { dir: engine.paths().templates().join(key) }))
    }

    /// Whether it's there.
    pub(super) fn exists(&self) -> bool {
        // Directories get this name once they're whole.
        self.dir.is_dir()
    }

    /// Removes it: it can't be used.
    pub(super) fn discard(&self) {
        if let Err(error) = files::remove_dir_all(&self.dir) {
            log::warn!("{} can't be removed: {error}", self.dir.display());
        }
    }

    /// Saves a VM whose agent is there, and lets it go on. Whoever comes while somebody else makes
    /// one goes on without.
    pub(super) fn make(
        &self,
        engine: &Engine,
        record: &ContainerRecord,
        own: &ContainerPaths,
    ) -> Result<(), RuntimeError> {
        let all = engine.paths().templates();
        make_dir(&all)?;
        let lock = all.join("lock");
        let Some(_lock) = LockFile::try_take(&lock).map_err(file("lock", &lock))? else {
            return Ok(());
        };
        if self.exists() {
            return Ok(());
        }
        sweep(engine, &all);
        let unfinished = self.dir.with_extension("tmp");
        files::remove_dir_all(&unfinished).map_err(file("remove", &unfinished))?;
        make_dir(&unfinished)?;
        let image = unfinished.join(IMAGE);
        fs::write(&image, &record.resolved.image_id).map_err(file("write", &image))?;
        let saved = save(&own.api_socket(), &unfinished);
        let published = saved
            .and_then(|()| fs::rename(&unfinished, &self.dir).map_err(file("create", &self.dir)));
        if published.is_err() {
            let _ = files::remove_dir_all(&unfinished);
        }
        published
    }

    /// Has a VMM that waits to be told make a VM out of it, which stands still.
    pub(super) fn load(&self, own: &ContainerPaths, nets: &[NetSpec]) -> Result<(), RuntimeError> {
        let params = self.params(own, nets);
        let mut client = connect(own)?;
        client.set_timeout(BULK_PATIENCE);
        client.load_snapshot(params).map_err(refused)
    }

    fn params(&self, own: &ContainerPaths, nets: &[NetSpec]) -> LoadSnapshotParams {
        let memory = MemoryBackend {
            backend_type: MemoryBackendType::File,
            backend_path: self.dir.join(MEMORY),
        };
        let network = |net: &NetSpec| NetworkOverride {
            iface_id: net.iface_id.clone(),
            host_dev_name: net.host_dev_name.clone(),
            socket: net.socket.clone(),
        };
        let address = |net: &NetSpec| {
            let guest_mac = net.guest_mac.as_ref()?.parse().ok()?;
            Some(NewMac { iface_id: net.iface_id.clone(), guest_mac })
        };
        let upper = DriveOverride {
            drive_id: UPPER.to_owned(),
            path_on_host: own.upper(),
            format: None,
            concat: None,
            overlay: false,
        };
        LoadSnapshotParams {
            network_overrides: nets.iter().map(network).collect(),
            vsock_override: Some(VsockOverride { uds_path: own.vsock() }),
            drive_overrides: vec![upper],
            new_identity: Some(NewIdentity {
                mac_addresses: nets.iter().filter_map(address).collect(),
                guest_cid: None,
            }),
            console_override: Some(ConsoleOverride {
                mode: ConsoleMode::File,
                path: Some(own.console()),
            }),
            ..LoadSnapshotParams::new(self.dir.join(STATE), memory)
        }
    }
}

/// Lets a VM that was loaded go on.
pub(super) fn resume(own: &ContainerPaths) -> Result<(), RuntimeError> {
    connect(own)?.resume().map_err(refused)
}

/// What of a machine is the same for all containers that it can become: not what's put in when it's
/// loaded.
fn shape(mut spec: VmSpec) -> VmSpec {
    for net in &mut spec.network_interfaces {
        net.guest_mac = None;
        net.socket = net.socket.take().map(|_| PathBuf::from("socket"));
        if !net.host_dev_name.is_empty() {
            "tap".clone_into(&mut net.host_dev_name);
        }
    }
    for drive in spec.drives.iter_mut().filter(|drive| drive.drive_id == UPPER) {
        drive.path_on_host = None;
    }
    if let Some(vsock) = &mut spec.vsock {
        vsock.uds_path = PathBuf::new();
    }
    spec.console = None;
    spec
}

/// What changes when a file does.
fn identity(path: &Path) -> std::io::Result<String> {
    let metadata = fs::metadata(path)?;
    let (device, inode) = (metadata.dev(), metadata.ino());
    let (seconds, nanoseconds) = (metadata.mtime(), metadata.mtime_nsec());
    Ok(format!("{device} {inode} {} {seconds}.{nanoseconds}", metadata.len()))
}

fn save(socket: &Path, dir: &Path) -> Result<(), RuntimeError> {
    let mut client = Client::connect(socket).map_err(refused)?;
    client.set_timeout(BULK_PATIENCE);
    client.pause().map_err(refused)?;
    let saved = client.create_snapshot(CreateSnapshotParams {
        snapshot_type: SnapshotType::Full,
        snapshot_path: dir.join(STATE),
        mem_file_path: dir.join(MEMORY),
    });
    // Whatever became of the template, the container goes on.
    client.resume().map_err(refused)?;
    saved.map_err(refused)
}

/// Removes templates of images that are gone, unless somebody makes one now, who does that first.
pub(crate) fn sweep_templates(engine: &Engine) -> Result<(), RuntimeError> {
    let all = engine.paths().templates();
    if !all.exists() {
        return Ok(());
    }
    let lock = all.join("lock");
    if let Some(_lock) = LockFile::try_take(&lock).map_err(file("lock", &lock))? {
        sweep(engine, &all);
    }
    Ok(())
}

/// Removes templates of images that are gone, and what a killed process has left. Whoever calls it
/// holds the lock.
fn sweep(engine: &Engine, all: &Path) {
    let Ok(images) = engine.images() else { return };
    for child in fs::read_dir(all).into_iter().flatten().flatten() {
        let dir = child.path();
        let is_gone = |id: String| matches!(images.find(&id), Err(ImageError::NotFound { .. }));
        let is_left = dir.extension().is_some_and(|extension| extension == "tmp");
        if is_left || fs::read_to_string(dir.join(IMAGE)).is_ok_and(is_gone) {
            // The next one tries again.
            let _ = files::remove_dir_all(&dir);
        }
    }
}

/// Connects to a VMM that was just started, as soon as it listens.
fn connect(own: &ContainerPaths) -> Result<Client, RuntimeError> {
    let socket = own.api_socket();
    let watch = DirWatch::open(&own.run)?;
    let deadline = SystemTime::now() + LISTEN_PATIENCE;
    while !socket.exists() {
        if SystemTime::now() > deadline {
            return Err(refused(ClientError::NoSocket { path: socket }));
        }
        watch.wait(Some(deadline))?;
    }
    // A VMM that binds its socket locks the directory until it listens, too.
    let dir = fs::File::open(&own.run).map_err(file("open", &own.run))?;
    flock(&dir, FlockOperation::LockShared)
        .map_err(|errno| file("lock", &own.run)(errno.into()))?;
    Client::connect(&socket).map_err(refused)
}

fn refused(error: ClientError) -> RuntimeError {
    RuntimeError::Protocol { who: "the VMM", source: std::io::Error::other(error) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use api::config::{ConsoleSpec, DriveSpec, MachineSpec, VsockSpec};

    fn spec(own: &str) -> VmSpec {
        let path = |name: &str| PathBuf::from(format!("/run/{own}/{name}"));
        VmSpec {
            drives: vec![
                DriveSpec {
                    drive_id: super::super::machine::IMAGE.to_owned(),
                    path_on_host: Some("/roots/a".into()),
                    ..DriveSpec::default()
                },
                DriveSpec {
                    drive_id: UPPER.to_owned(),
                    path_on_host: Some(path("upper.img")),
                    ..DriveSpec::default()
                },
            ],
            network_interfaces: vec![NetSpec {
                iface_id: "eth0".to_owned(),
                host_dev_name: format!("tap{own}"),
                guest_mac: Some(format!("02:00:00:00:00:{own}")),
                ..NetSpec::default()
            }],
            vsock: Some(VsockSpec { vsock_id: None, guest_cid: 3, uds_path: path("vsock.sock") }),
            console: Some(ConsoleSpec { path: Some(path("console")), ..ConsoleSpec::default() }),
            ..VmSpec::default()
        }
    }

    #[test]
    fn containers_of_one_shape_have_one_template_and_others_their_own() {
        let key = |spec: VmSpec| serde_json::to_string(&shape(spec)).unwrap();
        let one = key(spec("01"));
        assert_eq!(one, key(spec("02")));
        let mut without_network = spec("01");
        without_network.network_interfaces.clear();
        let mut by_socket = spec("01");
        by_socket.network_interfaces[0].host_dev_name.clear();
        by_socket.network_interfaces[0].socket = Some("/run/01/passt.sock".into());
        let mut larger = spec("01");
        larger.machine_config =
            Some(MachineSpec { mem_size_mib: Some(1024), ..MachineSpec::default() });
        let mut other_image = spec("01");
        other_image.drives[0].path_on_host = Some("/roots/b".into());
        for other in [without_network, by_socket, larger, other_image] {
            assert_ne!(one, key(other));
        }
    }

    #[test]
    fn replaced_file_has_another_identity() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("kernel");
        fs::write(&path, "one").unwrap();
        let before = identity(&path).unwrap();
        assert_eq!(before, identity(&path).unwrap());
        let other = dir.path().join("other");
        fs::write(&other, "two").unwrap();
        fs::rename(&other, &path).unwrap();
        assert_ne!(before, identity(&path).unwrap());
    }
}
