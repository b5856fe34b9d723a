//! From [`VmSpec`] to [`VmConfig`]: every check that needs nothing of the host.

mod devices;
mod filesystems;
mod services;
mod values;

use std::path::PathBuf;

use self::values::{checked_path, checked_socket, in_range, invalid, is_printable, only};
use super::{
    BootConfig, BootSourceSpec, ConfigError, ConsoleConfig, ConsoleDevice, ConsoleMode,
    ConsoleOutput, ConsoleSpec, DEFAULT_BOOT_ARGS, DEFAULT_MEM_MIB, DriveConfig, DriveSpec, Field,
    FilesystemConfig, FilesystemSpec, HugePages, MAX_CMDLINE_BYTES, MAX_MEM_MIB, MAX_VCPUS,
    MachineConfig, MachineSpec, NetConfig, NetSpec, PmemConfig, PmemSpec, Section, VmConfig,
    VmSpec,
};

impl VmSpec {
    /// Checks everything that can be checked without the host, and fills in defaults.
    ///
    /// # Errors
    /// The first thing that's wrong.
    pub fn validate(self) -> Result<VmConfig, ConfigError> {
        let knows_memory = true;
        self.checked(knows_memory)
    }

    /// Checks a configuration that's still being made: what's there must be right and fit
    /// together, but the boot source may be missing, and so may the machine's memory, against
    /// which nothing is checked then.
    ///
    /// # Errors
    /// The first thing that's wrong.
    pub fn check(&self) -> Result<(), ConfigError> {
        let mut spec = self.clone();
        spec.boot_source.get_or_insert_with(|| BootSourceSpec {
            kernel_image_path: Some(PathBuf::from("kernel")),
            ..BootSourceSpec::default()
        });
        let knows_memory = spec.machine_config.is_some();
        spec.checked(knows_memory).map(drop)
    }

    fn checked(self, knows_memory: bool) -> Result<VmConfig, ConfigError> {
        let machine = machine(self.machine_config.unwrap_or_default())?;
        let known_machine = knows_memory.then_some(&machine);
        let console = console(self.console.unwrap_or_default())?;
        let drives = devices::drives(self.drives)?;
        let nets = devices::nets(self.network_interfaces)?;
        let pmem = services::pmem(self.pmem, &drives)?;
        let filesystems = filesystems::filesystems(self.filesystems)?;
        Ok(VmConfig {
            boot: boot(self.boot_source.unwrap_or_default(), &console, &drives, &pmem)?,
            vsock: self.vsock.map(services::vsock).transpose()?,
            entropy: self.entropy.as_ref().map(services::entropy),
            balloon: self
                .balloon
                .map(|spec| services::balloon(&spec, known_machine))
                .transpose()?,
            serial: self.serial.map(|spec| services::serial(spec, &console)).transpose()?,
            memory_hotplug: self
                .memory_hotplug
                .map(|spec| services::memory_hotplug(spec, known_machine))
                .transpose()?,
            mmds: self.mmds_config.map(|spec| services::mmds(spec, &nets)).transpose()?,
            cpu_template: self.cpu_config.unwrap_or_default(),
            logger: self.logger.map(services::logger).transpose()?,
            metrics: self.metrics.map(services::metrics).transpose()?,
            machine,
            console,
            drives,
            nets,
            pmem,
            filesystems,
        })
    }
}

impl VmConfig {
    /// Checks a drive that's to be added to this VM.
    ///
    /// # Errors
    /// The first thing that's wrong with it, or between it and the VM's devices. Its place is the
    /// one after the VM's last drive.
    pub fn check_drive(&self, spec: DriveSpec) -> Result<DriveConfig, ConfigError> {
        let index = self.drives.len();
        let drive = devices::drive(index, spec)?;
        devices::refuse_drive_conflict(index, &drive, &self.drives)?;
        let mut pmem = self.pmem.iter().enumerate();
        let shared = pmem.find(|(_, pmem)| drive.conflicts(&pmem.path, !pmem.read_only));
        match shared {
            None => Ok(drive),
            Some((first, pmem)) => Err(ConfigError::Duplicate {
                field: Field::drive(index, "path_on_host"),
                value: pmem.path.display().to_string(),
                first: Field::pmem(first, "path_on_host"),
            }),
        }
    }

    /// Checks a network interface that's to be added to this VM.
    ///
    /// # Errors
    /// The first thing that's wrong with it, or between it and the VM's interfaces. Its place is
    /// the one after the VM's last interface.
    pub fn check_net(&self, spec: NetSpec) -> Result<NetConfig, ConfigError> {
        let index = self.nets.len();
        let net = devices::net(index, spec)?;
        devices::refuse_net_conflict(index, &net, &self.nets)?;
        Ok(net)
    }

    /// Checks persistent memory that's to be added to this VM.
    ///
    /// # Errors
    /// The first thing that's wrong with it, or between it and the VM's devices. Its place is the
    /// one after the VM's last persistent memory.
    pub fn check_pmem(&self, spec: PmemSpec) -> Result<PmemConfig, ConfigError> {
        let index = self.pmem.len();
        let device = services::pmem_device(index, spec)?;
        services::refuse_pmem_conflict(index, &device, &self.pmem, &self.drives)?;
        Ok(device)
    }

    /// Checks a file system that's to be added to this VM.
    ///
    /// # Errors
    /// The first thing that's wrong with it, or between it and the VM's file systems. Its place is
    /// the one after the VM's last file system.
    pub fn check_filesystem(&self, spec: FilesystemSpec) -> Result<FilesystemConfig, ConfigError> {
        let index = self.filesystems.len();
        let filesystem = filesystems::filesystem(index, spec)?;
        filesystems::refuse_filesystem_conflict(index, &filesystem, &self.filesystems)?;
        Ok(filesystem)
    }
}

fn machine(spec: MachineSpec) -> Result<MachineConfig, ConfigError> {
    let field = |key| Field::new(Section::MachineConfig, key);
    let vcpus = spec.vcpu_count.unwrap_or(1);
    let vcpus = in_range(field("vcpu_count"), vcpus, 1, MAX_VCPUS.into())?;
    let mem_mib = spec.mem_size_mib.unwrap_or(DEFAULT_MEM_MIB);
    if !(1..=MAX_MEM_MIB).contains(&mem_mib) {
        return Err(ConfigError::OutOfRange {
            field: field("mem_size_mib"),
            value: mem_mib,
            expected: format!("from 1 to {MAX_MEM_MIB} (MiB)"),
        });
    }
    let huge_pages = spec.huge_pages.unwrap_or_default();
    if huge_pages == HugePages::Size2M && !mem_mib.is_multiple_of(2) {
        return Err(ConfigError::OutOfRange {
            field: field("mem_size_mib"),
            value: mem_mib,
            expected: "an even number of MiB, as 2 MiB pages need".to_owned(),
        });
    }
    only(field("smt"), spec.smt.as_ref(), &false, "false")?;
    only(field("cpu_template"), spec.cpu_template.as_ref(), &"None".to_owned(), "\"None\"")?;
    Ok(MachineConfig {
        vcpus: u8::try_from(vcpus).unwrap_or(MAX_VCPUS),
        mem_mib,
        huge_pages,
        transport: spec.transport.unwrap_or_default(),
        track_dirty_pages: spec.track_dirty_pages.unwrap_or(false),
    })
}

fn console(spec: ConsoleSpec) -> Result<ConsoleConfig, ConfigError> {
    let field = || Field::new(Section::Console, "path");
    let output = match (spec.mode, spec.path) {
        (ConsoleMode::File, Some(path)) => ConsoleOutput::File(checked_path(field(), path)?),
        (ConsoleMode::Socket, Some(path)) => ConsoleOutput::Socket(checked_socket(field(), path)?),
        (ConsoleMode::File | ConsoleMode::Socket, None) => {
            return Err(ConfigError::Missing { field: field() });
        }
        (ConsoleMode::Stdio | ConsoleMode::None, Some(path)) => {
            return Err(invalid(
                field(),
                path.to_string_lossy(),
                "is only for the modes \"file\" and \"socket\"",
            ));
        }
        (ConsoleMode::Stdio, None) => ConsoleOutput::Stdio,
        (ConsoleMode::None, None) => ConsoleOutput::None,
    };
    Ok(ConsoleConfig { output, device: spec.device })
}

fn boot(
    spec: BootSourceSpec,
    console: &ConsoleConfig,
    drives: &[DriveConfig],
    pmem: &[PmemConfig],
) -> Result<BootConfig, ConfigError> {
    let field = |key| Field::new(Section::BootSource, key);
    let Some(kernel) = spec.kernel_image_path else {
        return Err(ConfigError::Missing { field: field("kernel_image_path") });
    };
    let mut cmdline = spec.boot_args.unwrap_or_else(|| default_boot_args(console));
    let names_root = cmdline.split_ascii_whitespace().any(|word| word.starts_with("root="));
    if let Some(root) = root_args(drives, pmem).filter(|_| !names_root) {
        if !cmdline.is_empty() {
            cmdline.push(' ');
        }
        cmdline.push_str(&root);
    }
    check_cmdline(&field("boot_args"), &cmdline)?;
    Ok(BootConfig {
        kernel: checked_path(field("kernel_image_path"), kernel)?,
        initrd: spec
            .initrd_path
            .map(|path| checked_path(field("initrd_path"), path))
            .transpose()?,
        cmdline,
    })
}

fn default_boot_args(console: &ConsoleConfig) -> String {
    match (&console.output, console.device) {
        (ConsoleOutput::None, _) => DEFAULT_BOOT_ARGS.to_owned(),
        (_, ConsoleDevice::Serial) => format!("console=ttyS0 {DEFAULT_BOOT_ARGS}"),
        (_, ConsoleDevice::Virtio) => format!("console=hvc0 {DEFAULT_BOOT_ARGS}"),
    }
}

fn root_args(drives: &[DriveConfig], pmem: &[PmemConfig]) -> Option<String> {
    let drive = drives.iter().find(|drive| drive.is_root).map(|root| {
        // The root device is the first.
        let device = match &root.partuuid {
            Some(partuuid) => format!("PARTUUID={partuuid}"),
            None => "/dev/vda".to_owned(),
        };
        (device, root.read_only)
    });
    let (device, read_only) = drive.or_else(|| {
        let (index, root) = pmem.iter().enumerate().find(|(_, device)| device.is_root)?;
        Some((format!("/dev/pmem{index}"), root.read_only))
    })?;
    let mode = if read_only { "ro" } else { "rw" };
    Some(format!("root={device} {mode}"))
}

fn check_cmdline(field: &Field, cmdline: &str) -> Result<(), ConfigError> {
    if cmdline.len() > MAX_CMDLINE_BYTES {
        let start: String = cmdline.chars().take(40).collect();
        let reason = format!(
            "and what follows are {} bytes; at most {MAX_CMDLINE_BYTES} fit",
            cmdline.len()
        );
        return Err(ConfigError::Invalid { field: field.clone(), value: start, reason });
    }
    if cmdline.bytes().all(is_printable) {
        Ok(())
    } else {
        Err(invalid(field.clone(), cmdline, "has a character other than printable ASCII"))
    }
}
