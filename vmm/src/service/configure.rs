//! Builds a configuration, one request after the other, until the machine is started.

use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;

use api::ApiError;
use api::config::{
    BalloonSpec, BootSourceSpec, CpuTemplate, DriveSpec, EntropySpec, FilesystemSpec,
    MachineConfig, MachineSpec, MemoryHotplugSpec, MmdsSpec, NetSpec, PmemSpec, SerialSpec,
    VmConfig, VmSpec, VsockSpec,
};
use api::v1::MachinePatch;
use rustix::fs::OFlags;

use crate::error::VmmError;

/// A kernel that no configuration is valid without, for a look at the rest before one is named.
const NO_KERNEL: &str = "/";

/// The configuration so far. Each change is checked with all that is there already, so that a
/// request that can't work is refused and not the start.
#[derive(Default)]
pub(super) struct Configuration {
    spec: VmSpec,
    /// Whether anything that the machine is made of was configured.
    touched: bool,
}

impl Configuration {
    /// Starts with the contents of a configuration file.
    pub(super) fn of(spec: VmSpec) -> Self {
        Self { spec, touched: true }
    }

    /// Returns the configuration as it was given.
    pub(super) fn spec(&self) -> &VmSpec {
        &self.spec
    }

    /// Returns vCPUs and memory, with what is there when nothing is said.
    ///
    /// # Errors
    /// Never for a configuration that was checked at each change.
    pub(super) fn machine(&self) -> Result<MachineConfig, ApiError> {
        let machine_config = self.spec.machine_config.clone();
        let source = BootSourceSpec {
            kernel_image_path: Some(NO_KERNEL.into()),
            ..BootSourceSpec::default()
        };
        let alone = VmSpec { machine_config, boot_source: Some(source), ..VmSpec::default() };
        Ok(alone.validate()?.machine)
    }

    /// Tells whether nothing of a machine was configured.
    pub(super) fn is_untouched(&self) -> bool {
        !self.touched
    }

    /// Returns the whole configuration, checked.
    ///
    /// # Errors
    /// What is missing.
    pub(super) fn validate(&self) -> Result<VmConfig, VmmError> {
        Ok(self.spec.clone().validate()?)
    }

    pub(super) fn set_boot_source(&mut self, source: BootSourceSpec) -> Result<(), ApiError> {
        if let Some(kernel) = &source.kernel_image_path {
            can_open("kernel", kernel)?;
        }
        if let Some(initrd) = &source.initrd_path {
            can_open("initrd", initrd)?;
        }
        self.change(|spec| spec.boot_source = Some(source))
    }

    pub(super) fn insert_drive(&mut self, drive: DriveSpec) -> Result<(), ApiError> {
        if let Some(path) = &drive.path_on_host {
            can_open("drive's image", path)?;
        }
        self.change(|spec| replace(&mut spec.drives, drive, |drive| &drive.drive_id))
    }

    pub(super) fn insert_net(&mut self, net: NetSpec) -> Result<(), ApiError> {
        self.change(|spec| replace(&mut spec.network_interfaces, net, |net| &net.iface_id))
    }

    pub(super) fn insert_pmem(&mut self, pmem: PmemSpec) -> Result<(), ApiError> {
        self.change(|spec| replace(&mut spec.pmem, pmem, |pmem| &pmem.id))
    }

    pub(super) fn insert_filesystem(&mut self, fs: FilesystemSpec) -> Result<(), ApiError> {
        self.change(|spec| replace(&mut spec.filesystems, fs, |fs| &fs.fs_id))
    }

    pub(super) fn remove_filesystem(&mut self, id: &str) -> Result<(), ApiError> {
        if self.spec.filesystems.iter().any(|fs| fs.fs_id == id) {
            return self.change(|spec| spec.filesystems.retain(|fs| fs.fs_id != id));
        }
        let reason = format!("this VM has no file system of the identifier {id:?}");
        Err(ApiError::bad_request(reason))
    }

    pub(super) fn set_machine(&mut self, machine: MachineSpec) -> Result<(), ApiError> {
        self.change(|spec| spec.machine_config = Some(machine))
    }

    pub(super) fn update_machine(&mut self, patch: MachinePatch) -> Result<(), ApiError> {
        self.change(|spec| patch.apply(spec.machine_config.get_or_insert_default()))
    }

    pub(super) fn set_vsock(&mut self, vsock: VsockSpec) -> Result<(), ApiError> {
        self.change(|spec| spec.vsock = Some(vsock))
    }

    pub(super) fn set_entropy(&mut self, entropy: EntropySpec) -> Result<(), ApiError> {
        self.change(|spec| spec.entropy = Some(entropy))
    }

    pub(super) fn set_balloon(&mut self, balloon: BalloonSpec) -> Result<(), ApiError> {
        self.change(|spec| spec.balloon = Some(balloon))
    }

    pub(super) fn set_memory_hotplug(&mut self, memory: MemoryHotplugSpec) -> Result<(), ApiError> {
        self.change(|spec| spec.memory_hotplug = Some(memory))
    }

    pub(super) fn set_mmds(&mut self, mmds: MmdsSpec) -> Result<(), ApiError> {
        self.change(|spec| spec.mmds_config = Some(mmds))
    }

    pub(super) fn set_serial(&mut self, serial: SerialSpec) -> Result<(), ApiError> {
        self.change(|spec| spec.serial = Some(serial))
    }

    pub(super) fn set_cpu(&mut self, template: CpuTemplate) -> Result<(), ApiError> {
        self.change(|spec| spec.cpu_config = Some(template))
    }

    /// Makes a change unless the configuration would be wrong with it.
    fn change(&mut self, change: impl FnOnce(&mut VmSpec)) -> Result<(), ApiError> {
        let mut changed = self.spec.clone();
        change(&mut changed);
        changed.check()?;
        self.spec = changed;
        self.touched = true;
        Ok(())
    }
}

/// Puts `new` in the place of the element of its name, or at the end.
fn replace<T>(list: &mut Vec<T>, new: T, id: impl Fn(&T) -> &String) {
    match list.iter_mut().find(|old| id(old) == id(&new)) {
        Some(old) => *old = new,
        None => list.push(new),
    }
}

/// Finds out early whether a file is there that a guest can be given.
fn can_open(what: &str, path: &Path) -> Result<(), ApiError> {
    let open = || {
        // Without this, the main thread would wait for the other end of a named pipe.
        let flags = OFlags::NONBLOCK.bits().cast_signed();
        let file = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
        let kind = file.metadata()?.file_type();
        if kind.is_file() || kind.is_block_device() {
            return Ok(());
        }
        Err(io::Error::other("it is neither a file nor a block device"))
    };
    open()
        .map_err(|error| ApiError::bad_request(format!("can't open the {what} {path:?}: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drive(id: &str, path: &Path) -> DriveSpec {
        DriveSpec {
            drive_id: id.to_owned(),
            path_on_host: Some(path.to_owned()),
            ..DriveSpec::default()
        }
    }

    #[test]
    fn second_drive_of_a_name_replaces_the_first_in_its_place() {
        let images = [(); 3].map(|()| tempfile::NamedTempFile::new().unwrap());
        let [one, two, three] = images.each_ref().map(tempfile::NamedTempFile::path);
        let mut configuration = Configuration::default();
        assert!(configuration.is_untouched());
        for (id, path) in [("a", one), ("b", two), ("a", three)] {
            configuration.insert_drive(drive(id, path)).unwrap();
        }
        let found: Vec<_> = configuration
            .spec()
            .drives
            .iter()
            .map(|drive| (drive.drive_id.as_str(), drive.path_on_host.as_deref().unwrap()))
            .collect();
        assert_eq!(found, [("a", three), ("b", two)]);
    }

    #[test]
    fn what_is_no_file_is_refused_and_a_named_pipe_is_not_waited_for() {
        let directory = tempfile::tempdir().unwrap();
        let pipe = directory.path().join("pipe");
        let mode = rustix::fs::Mode::from_raw_mode(0o600);
        rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, mode, 0).unwrap();
        for path in [pipe.as_path(), directory.path(), Path::new("/dev/null")] {
            let error = Configuration::default().insert_drive(drive("a", path)).unwrap_err();
            assert!(error.message.contains("neither a file nor a block device"), "{error}");
        }
    }

    #[test]
    fn balloon_is_held_against_memory_once_that_is_configured() {
        let mut configuration = Configuration::default();
        let balloon = BalloonSpec { amount_mib: 4000, ..BalloonSpec::default() };
        configuration.set_balloon(balloon).unwrap();
        assert!(configuration.machine().is_ok());
        let machine = |mib| MachineSpec { mem_size_mib: Some(mib), ..MachineSpec::default() };
        assert!(configuration.set_machine(machine(4000)).is_err());
        configuration.set_machine(machine(4096)).unwrap();
    }

    #[test]
    fn refused_change_leaves_the_configuration_as_it_was() {
        let mut configuration = Configuration::default();
        let machine = MachineSpec { vcpu_count: Some(33), ..MachineSpec::default() };
        assert!(configuration.set_machine(machine).is_err());
        assert_eq!(configuration.spec(), &VmSpec::default());
        assert!(configuration.is_untouched());
    }

    #[test]
    fn missing_kernel_is_refused_with_its_path_when_it_is_named() {
        let source = BootSourceSpec {
            kernel_image_path: Some("/no/such/kernel".into()),
            ..BootSourceSpec::default()
        };
        let error = Configuration::default().set_boot_source(source).unwrap_err();
        assert!(error.message.contains("/no/such/kernel"), "{error}");
    }

    #[test]
    fn configuration_without_a_kernel_can_be_built_and_not_started() {
        let mut configuration = Configuration::default();
        configuration.set_machine(MachineSpec::default()).unwrap();
        assert!(configuration.validate().is_err());
    }
}
