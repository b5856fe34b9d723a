//! From flags and a file to one checked configuration, and back from its fields to the flags.

use std::fs;

use api::config::{
    BalloonSpec, ConfigError, EntropySpec, Field, FilesystemSpec, HugePages, Section, VmConfig,
    VmSpec,
};

use super::args::BootArgs;
use crate::errors::CliError;

/// Where each part of a configuration came from, so that a message can name what the user typed.
#[derive(Clone, Debug, Default)]
pub(crate) struct Origins {
    /// `--config FILE`.
    file: Option<String>,
    /// Flags that were given, by the fields that they set.
    flags: Vec<(Field, String)>,
    /// `--disk VALUE` of each drive, in the configuration's order; none from the file.
    drives: Vec<Option<String>>,
    /// `--net VALUE` of each interface.
    nets: Vec<Option<String>>,
    /// `--share VALUE`, by the share that it's for.
    shares: Vec<(Field, String)>,
}

/// What the guest mounts the shares by that are given as flags.
const SHARES: &str = "shares";

/// Each flag that sets a single field.
const FIELD_FLAGS: [(Section, &str, &str); 10] = [
    (Section::BootSource, "kernel_image_path", "--kernel"),
    (Section::BootSource, "initrd_path", "--initrd"),
    (Section::BootSource, "boot_args", "--cmdline"),
    (Section::MachineConfig, "vcpu_count", "--cpus"),
    (Section::MachineConfig, "mem_size_mib", "--memory"),
    (Section::MachineConfig, "transport", "--transport"),
    (Section::MachineConfig, "huge_pages", "--hugepages"),
    (Section::Vsock, "", "--vsock"),
    (Section::Balloon, "", "--balloon"),
    (Section::Console, "", "--console"),
];

/// Reads the file, lays the flags over it and checks the whole.
///
/// # Errors
/// The file can't be read, or the configuration is wrong; either names the flag and its value.
pub(crate) fn configure(args: &BootArgs) -> Result<(VmConfig, Origins), CliError> {
    let file = read_file(args)?;
    let (spec, origins) = assemble(args, file);
    match spec.validate() {
        Ok(config) => Ok((config, origins)),
        Err(error) => Err(origins.explain(error)),
    }
}

fn read_file(args: &BootArgs) -> Result<VmSpec, CliError> {
    let Some(path) = &args.config else { return Ok(VmSpec::default()) };
    let text = fs::read(path)
        .map_err(|source| CliError::ConfigUnreadable { path: path.clone(), source })?;
    VmSpec::from_json(&text).map_err(|error| CliError::Config {
        place: format!("--config {}", path.display()),
        problem: error.problem(),
        error: Box::new(error),
    })
}

/// Lays the flags over what the file has.
fn assemble(args: &BootArgs, file: VmSpec) -> (VmSpec, Origins) {
    let mut spec = file;
    let mut origins = Origins {
        file: args.config.as_ref().map(|path| format!("--config {}", path.display())),
        flags: single_flags(args),
        ..Origins::default()
    };
    add_drives(args, &mut spec, &mut origins);
    add_nets(args, &mut spec, &mut origins);
    add_shares(args, &mut spec, &mut origins);
    set_boot_source(args, &mut spec);
    set_machine(args, &mut spec);
    if let Some(vsock) = &args.vsock {
        spec.vsock = Some(vsock.spec.clone());
    }
    if let Some(console) = &args.console {
        spec.console = Some(console.spec.clone());
    }
    if args.rng {
        spec.entropy.get_or_insert_with(EntropySpec::default);
    }
    if args.balloon {
        spec.balloon.get_or_insert_with(|| BalloonSpec {
            deflate_on_oom: true,
            free_page_reporting: Some(true),
            ..BalloonSpec::default()
        });
    }
    (spec, origins)
}

/// Adds the disks behind the file's drives, and then puts the root device first, as the checked
/// configuration has it: so an index means the same drive here, there and in the VMM's messages.
fn add_drives(args: &BootArgs, spec: &mut VmSpec, origins: &mut Origins) {
    let has_root = spec.drives.iter().any(|drive| drive.is_root_device);
    let has_cmdline = args.cmdline.is_some()
        || spec.boot_source.as_ref().is_some_and(|boot| boot.boot_args.is_some());
    let mut drives: Vec<_> = spec.drives.drain(..).map(|drive| (drive, None)).collect();
    for (index, disk) in args.disks.iter().enumerate() {
        let mut drive = disk.spec.clone();
        if drive.drive_id.is_empty() {
            drive.drive_id =
                free_name("disk", drives.iter().map(|(drive, _)| drive.drive_id.as_str()));
        }
        drive.is_root_device = index == 0 && !has_root && !has_cmdline;
        drives.push((drive, Some(format!("--disk {}", disk.text))));
    }
    drives.sort_by_key(|(drive, _)| !drive.is_root_device);
    if args.cmdline.is_some() {
        // Nothing is added to the flag's text: the drive keeps its place only.
        drives.iter_mut().for_each(|(drive, _)| drive.is_root_device = false);
    }
    (spec.drives, origins.drives) = drives.into_iter().unzip();
}

fn add_nets(args: &BootArgs, spec: &mut VmSpec, origins: &mut Origins) {
    origins.nets = vec![None; spec.network_interfaces.len()];
    for net in &args.nets {
        let mut interface = net.spec.clone();
        if interface.iface_id.is_empty() {
            let taken = spec.network_interfaces.iter().map(|net| net.iface_id.as_str());
            interface.iface_id = free_name("net", taken);
        }
        spec.network_interfaces.push(interface);
        origins.nets.push(Some(format!("--net {}", net.text)));
    }
}

/// Adds the shares to the file system of that name.
fn add_shares(args: &BootArgs, spec: &mut VmSpec, origins: &mut Origins) {
    if args.shares.is_empty() {
        return;
    }
    let known = spec.filesystems.iter().position(|filesystem| filesystem.fs_id == SHARES);
    let index = known.unwrap_or_else(|| {
        let fs_id = SHARES.to_owned();
        spec.filesystems.push(FilesystemSpec { fs_id, ..FilesystemSpec::default() });
        spec.filesystems.len() - 1
    });
    let shares = &mut spec.filesystems[index].shares;
    for share in &args.shares {
        let field = Field::filesystem(index, &format!("shares[{}]", shares.len()));
        origins.shares.push((field, format!("--share {}", share.text)));
        shares.push(share.spec.clone());
    }
}

fn set_boot_source(args: &BootArgs, spec: &mut VmSpec) {
    let boot = spec.boot_source.get_or_insert_default();
    replace(&mut boot.kernel_image_path, &args.kernel);
    replace(&mut boot.initrd_path, &args.initrd);
    replace(&mut boot.boot_args, &args.cmdline);
}

fn set_machine(args: &BootArgs, spec: &mut VmSpec) {
    let machine = spec.machine_config.get_or_insert_default();
    replace(&mut machine.vcpu_count, &args.cpus);
    replace(&mut machine.mem_size_mib, &args.memory.as_ref().map(|memory| memory.spec));
    replace(&mut machine.transport, &args.transport.map(Into::into));
    if args.hugepages {
        machine.huge_pages = Some(HugePages::Size2M);
    }
}

fn replace<T: Clone>(value: &mut Option<T>, flag: &Option<T>) {
    if flag.is_some() {
        value.clone_from(flag);
    }
}

/// The first of `disk0`, `disk1`, … that's free.
fn free_name<'a>(prefix: &str, taken: impl Iterator<Item = &'a str>) -> String {
    let taken: Vec<_> = taken.collect();
    let mut names = (0..).map(|number| format!("{prefix}{number}"));
    names.find(|name| !taken.contains(&name.as_str())).unwrap_or_default()
}

/// The flags that were given and set a single field, as they were typed.
fn single_flags(args: &BootArgs) -> Vec<(Field, String)> {
    let path = |path: &std::path::PathBuf| path.display().to_string();
    let values = [
        args.kernel.as_ref().map(path),
        args.initrd.as_ref().map(path),
        args.cmdline.clone(),
        args.cpus.map(|cpus| cpus.to_string()),
        args.memory.as_ref().map(|memory| memory.text.clone()),
        args.transport.map(|transport| format!("{transport:?}").to_lowercase()),
        args.hugepages.then(String::new),
        args.vsock.as_ref().map(|vsock| vsock.text.clone()),
        args.balloon.then(String::new),
        args.console.as_ref().map(|console| console.text.clone()),
    ];
    FIELD_FLAGS
        .iter()
        .zip(values)
        .filter_map(|((section, key, flag), value)| {
            let text = format!("{flag} {}", value?);
            Some((Field::new(*section, key), text.trim_end().to_owned()))
        })
        .collect()
}

impl Origins {
    /// What the user typed for a field: a flag and its value, or the file and the place in it.
    pub(crate) fn place(&self, field: &Field) -> String {
        if let Some(flag) = self.device_flag(field).or_else(|| self.given_flag(field)) {
            return flag;
        }
        match (&self.file, flag_name(field)) {
            (Some(file), _) => format!("{file}: {field}"),
            (None, Some(flag)) => flag.to_owned(),
            (None, None) => field.to_string(),
        }
    }

    fn device_flag(&self, field: &Field) -> Option<String> {
        let flags = match field.section {
            Section::Drives => &self.drives,
            Section::NetworkInterfaces => &self.nets,
            Section::Filesystems => return self.share_flag(field),
            _ => return None,
        };
        flags.get(field.index?)?.clone()
    }

    fn share_flag(&self, field: &Field) -> Option<String> {
        let is_of = |share: &Field| {
            share.index == field.index
                && field.key.strip_prefix(&share.key).is_some_and(|rest| rest.starts_with('.'))
        };
        let (_, text) = self.shares.iter().find(|(share, _)| is_of(share))?;
        Some(text.clone())
    }

    fn given_flag(&self, field: &Field) -> Option<String> {
        let (_, text) = self.flags.iter().find(|(flag, _)| sets(flag.section, &flag.key, field))?;
        Some(text.clone())
    }

    /// Says a configuration's error with the names that the user knows.
    fn explain(&self, error: ConfigError) -> CliError {
        let mut problem = error.problem();
        if let ConfigError::Duplicate { first, .. } = &error {
            problem = format!("{problem} by {}", self.place(first));
        }
        let place = error.field().map_or_else(String::new, |field| self.place(field));
        CliError::Config { place, problem, error: Box::new(error) }
    }
}

fn flag_name(field: &Field) -> Option<&'static str> {
    FIELD_FLAGS
        .iter()
        .find(|(section, key, _)| sets(*section, key, field))
        .map(|(_, _, flag)| *flag)
}

/// Whether a flag for `key` of `section` sets the field; an empty key stands for the section.
fn sets(section: Section, key: &str, field: &Field) -> bool {
    section == field.section && (key.is_empty() || key == field.key)
}

#[cfg(test)]
mod tests;
