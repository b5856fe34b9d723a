//! The VM that a container runs in.

use std::path::Path;

use agent_proto::SHARES_TAG;
use api::config::{
    BalloonSpec, BootSourceSpec, ConsoleMode, ConsoleSpec, DriveSpec, EntropySpec, FilesystemSpec,
    MachineSpec, ShareSpec, VmConfig, VmSpec, VsockSpec,
};

use super::guest;
use super::place::Place;
use crate::assets::{AGENT, KERNEL};
use crate::error::file;
use crate::files;
use crate::paths::{ContainerPaths, make_dir};
use crate::record::{ContainerRecord, MountPoint};
use crate::{Engine, ErrorKind, MountKind, RuntimeError};

/// The drives' names and serial numbers.
pub(super) const IMAGE: &str = "image";
pub(super) const UPPER: &str = "upper";

/// The kernel's command line: what goes wrong is on the console, the VM ends when the kernel does.
const CMDLINE: &str = "console=ttyS0 quiet reboot=k panic=-1 dummy.numdummies=0 rdinit=/init";

/// The context identifier that the guest has on its vsock device; each VM is alone there.
const GUEST_CID: u64 = 3;

/// Memory of a VM whose container has no limit, in MiB.
const DEFAULT_MEM_MIB: u64 = 512;

/// What the guest's kernel and the agent need beside the container's limit, and the least that a VM
/// has, in MiB.
const OVERHEAD_MIB: u64 = 64;
const MIN_MEM_MIB: u64 = 128;

const NANO: u64 = 1_000_000_000;

/// The VM's configuration.
pub(super) fn spec(
    engine: &Engine,
    own: &ContainerPaths,
    record: &ContainerRecord,
    place: &Place,
) -> Result<VmSpec, RuntimeError> {
    let paths = engine.paths();
    let kernel = match &record.config.kernel {
        Some(kernel) if kernel.is_file() => kernel.clone(),
        Some(kernel) => {
            let looked = format!("{} is no file", kernel.display());
            return Err(RuntimeError::AssetMissing { what: "the guest's kernel", looked });
        }
        None => KERNEL.find(paths)?,
    };
    let images = engine.images()?;
    let root = images.root_files(&record.resolved.image_id).map_err(crate::engine::image_error)?;
    Ok(VmSpec {
        boot_source: Some(BootSourceSpec {
            kernel_image_path: Some(kernel),
            initrd_path: Some(AGENT.find(paths)?),
            boot_args: Some(CMDLINE.to_owned()),
        }),
        drives: drives(&root.files, &own.upper())?,
        network_interfaces: place.nets(own),
        machine_config: Some(machine(record)),
        vsock: Some(VsockSpec { vsock_id: None, guest_cid: GUEST_CID, uds_path: own.vsock() }),
        entropy: Some(EntropySpec::default()),
        // Pages that the guest frees are the host's again.
        balloon: Some(BalloonSpec {
            deflate_on_oom: true,
            free_page_reporting: Some(true),
            ..BalloonSpec::default()
        }),
        console: Some(ConsoleSpec {
            mode: ConsoleMode::File,
            path: Some(own.console()),
            ..ConsoleSpec::default()
        }),
        filesystems: filesystems(&record.mounts)?,
        ..VmSpec::default()
    })
}

/// Checks the configuration.
pub(super) fn checked(spec: &VmSpec) -> Result<VmConfig, RuntimeError> {
    spec.clone().validate().map_err(|error| {
        RuntimeError::failed(ErrorKind::Vm(api::event::ErrorKind::ConfigInvalid), error.to_string())
    })
}

fn drives(root: &[std::path::PathBuf], upper: &Path) -> Result<Vec<DriveSpec>, RuntimeError> {
    let (first, rest) = root
        .split_first()
        .ok_or_else(|| RuntimeError::invalid("the image's root file system has no files"))?;
    let image = DriveSpec {
        drive_id: IMAGE.to_owned(),
        path_on_host: Some(first.clone()),
        concat: rest.to_vec(),
        is_read_only: Some(true),
        serial: Some(IMAGE.to_owned()),
        ..DriveSpec::default()
    };
    let upper = DriveSpec {
        drive_id: UPPER.to_owned(),
        path_on_host: Some(upper.to_owned()),
        serial: Some(UPPER.to_owned()),
        ..DriveSpec::default()
    };
    Ok(vec![image, upper])
}

fn machine(record: &ContainerRecord) -> MachineSpec {
    let config = &record.config;
    MachineSpec {
        vcpu_count: Some(config.nano_cpus.unwrap_or(NANO).div_ceil(NANO).max(1)),
        mem_size_mib: Some(mem_mib(config.memory_bytes)),
        ..MachineSpec::default()
    }
}

/// The limit is what processes may use: the kernel needs something, too.
fn mem_mib(limit_bytes: Option<u64>) -> u64 {
    match limit_bytes {
        None => DEFAULT_MEM_MIB,
        Some(bytes) => bytes.div_ceil(1 << 20).saturating_add(OVERHEAD_MIB).max(MIN_MEM_MIB),
    }
}

/// One device carries all shares, by their numbers.
fn filesystems(mounts: &[MountPoint]) -> Result<Vec<FilesystemSpec>, RuntimeError> {
    let mut shares = Vec::new();
    for mount in guest::shares(mounts) {
        let source = mount
            .source
            .as_ref()
            .ok_or_else(|| RuntimeError::invalid(format!("{} has no source", mount.target)))?;
        if !source.exists() {
            source_missing(mount, source)?;
        }
        shares.push(ShareSpec { name: None, path: source.clone(), is_read_only: mount.read_only });
    }
    if shares.is_empty() {
        return Ok(Vec::new());
    }
    let fs_id = SHARES_TAG.to_owned();
    Ok(vec![FilesystemSpec { tag: Some(fs_id.clone()), fs_id, shares }])
}

/// A volume's directory is made again; what a bind is of has to be there.
fn source_missing(mount: &MountPoint, source: &Path) -> Result<(), RuntimeError> {
    match mount.kind {
        MountKind::Volume => make_dir(source),
        _ => Err(RuntimeError::failed(
            ErrorKind::SourceMissing,
            format!("bind source path does not exist: {}", source.display()),
        )),
    }
}

/// Removes what an earlier VM has left: sockets that nobody listens at, what its console said.
pub(super) fn clean(own: &ContainerPaths) -> Result<(), RuntimeError> {
    for path in [own.api_socket(), own.vsock(), own.console()] {
        files::remove_file(&path).map_err(file("remove", &path))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vm_is_larger_than_its_containers_limit() {
        assert_eq!(mem_mib(None), 512);
        assert_eq!(mem_mib(Some(6 << 20)), 128);
        assert_eq!(mem_mib(Some(64 << 20)), 128);
        assert_eq!(mem_mib(Some((256 << 20) + 1)), 321);
    }

    #[test]
    fn image_is_one_drive_of_all_its_files() {
        let files = ["/a", "/b", "/c"].map(std::path::PathBuf::from);
        let drives = drives(&files, Path::new("/u")).unwrap();
        let [image, upper] = drives.as_slice() else { panic!("{drives:?}") };
        assert_eq!(image.path_on_host.as_deref(), Some(Path::new("/a")));
        assert_eq!((image.concat.len(), image.is_read_only), (2, Some(true)));
        assert_eq!(upper.is_read_only, None);
        super::drives(&[], Path::new("/u")).unwrap_err();
    }
}
