//! Makes containers: what was asked for, what the image says, and what's on the host, together.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use image::{Image, Platform};

use super::defaults::image_defaults;
use super::{Engine, image_error, network_error};
use crate::config::{ContainerConfig, MountKind, MountSpec, PortSpec};
use crate::error::{ErrorKind, RuntimeError, file};
use crate::options::Created;
use crate::paths::SHORT_ID;
use crate::record::{ContainerRecord, MountPoint, Resolved, Summary};
use crate::volumes::Volumes;
use crate::{DEFAULT_NETWORK, check, resolve};

impl Engine {
    /// Creates a container, without starting it. The image must be there.
    ///
    /// # Errors
    /// The configuration makes no sense, the name is taken, the image isn't there, there's no
    /// command, the source of a bind isn't there.
    pub fn create(&self, config: &ContainerConfig) -> Result<Created, RuntimeError> {
        check::config(config)?;
        check_ports(&config.ports)?;
        let image = self.images()?.find(&config.image).map_err(image_error)?.image;
        check_platform(config, &image)?;
        let mut resolved = resolve::resolve(config, &image_defaults(&image)?)?;
        self.check_networks(config)?;
        let specs = mount_specs(config, &resolved)?;
        for spec in &specs {
            provide_source(spec)?;
        }
        let registry = self.store.registry()?;
        registry.sweep()?;
        let id = registry.new_id()?;
        let name = registry.choose_name(config.name.as_deref())?;
        if resolved.hostname.is_empty() {
            id.get(..SHORT_ID).unwrap_or_default().clone_into(&mut resolved.hostname);
        }
        let volumes = self.volume_store();
        let mut made = MadeVolumes { volumes: &volumes, names: Vec::new() };
        let mounts = specs.iter().map(|spec| made.mount(spec)).collect::<Result<_, _>>()?;
        let created = SystemTime::now();
        let record =
            ContainerRecord { id, name, created, config: config.clone(), resolved, mounts };
        if let Err(error) = registry.enter(&record) {
            let _ = registry.remove(&record.id);
            return Err(error);
        }
        let new_volumes = made.keep();
        drop(registry);
        for volume in new_volumes {
            self.emit("volume", "create", &volume, [("driver", "local".to_owned())]);
        }
        self.emit_container("create", &Summary::of(&record), []);
        let ContainerRecord { id, name, .. } = record;
        Ok(Created { id, name, warnings: warnings(config) })
    }

    /// Sees that each network is there, by the name that it was given.
    fn check_networks(&self, config: &ContainerConfig) -> Result<(), RuntimeError> {
        for network in resolve::networks(config) {
            let name = network.network.as_str();
            if name == "host" || name.starts_with("container:") {
                return Err(RuntimeError::invalid(format!(
                    "the network {name} can't be had: a container is a virtual machine, with a \
                     network card of its own"
                )));
            }
            if name != DEFAULT_NETWORK {
                self.networks()?.get(name).map_err(network_error)?;
            }
        }
        Ok(())
    }
}

/// Volumes that were made for a container, removed if it doesn't come to be.
struct MadeVolumes<'a> {
    volumes: &'a Volumes,
    names: Vec<String>,
}

impl MadeVolumes<'_> {
    fn mount(&mut self, spec: &MountSpec) -> Result<MountPoint, RuntimeError> {
        let mut point = MountPoint {
            kind: spec.kind,
            name: None,
            anonymous: false,
            source: spec.source.as_ref().map(PathBuf::from),
            target: spec.target.clone(),
            read_only: spec.read_only,
            copy_up: false,
            tmpfs_size_bytes: spec.tmpfs_size_bytes,
            tmpfs_mode: spec.tmpfs_mode,
        };
        if spec.kind == MountKind::Volume {
            let (volume, is_new) = self.volumes.provide(spec.source.as_deref(), &spec.labels)?;
            if is_new {
                self.names.push(volume.name.clone());
            }
            point.name = Some(volume.name);
            point.source = Some(volume.mountpoint);
            point.anonymous = spec.source.is_none();
            point.copy_up = !spec.no_copy;
        }
        Ok(point)
    }

    fn keep(mut self) -> Vec<String> {
        std::mem::take(&mut self.names)
    }
}

impl Drop for MadeVolumes<'_> {
    fn drop(&mut self) {
        for name in &self.names {
            if let Err(error) = self.volumes.remove(name) {
                log::warn!("volume {name} can't be removed: {error}");
            }
        }
    }
}

/// The mounts that were asked for, then the image's volumes where nothing else is.
fn mount_specs(
    config: &ContainerConfig,
    resolved: &Resolved,
) -> Result<Vec<MountSpec>, RuntimeError> {
    let mut specs = config.mounts.clone();
    for spec in &mut specs {
        spec.target = clean_target(&spec.target);
    }
    let mut taken: BTreeSet<_> = specs.iter().map(|spec| spec.target.clone()).collect();
    if taken.len() < specs.len() {
        return Err(RuntimeError::invalid("two mounts have the same path in the container"));
    }
    for target in &resolved.volumes {
        let is_path = target.starts_with('/')
            && !target.contains('\0')
            && !target.split('/').any(|part| part == "..");
        let target = clean_target(target);
        if !is_path || target == "/" {
            return Err(RuntimeError::failed(
                ErrorKind::Image,
                format!("the image's volume {target:?} is no absolute path"),
            ));
        }
        if taken.insert(target.clone()) {
            specs.push(MountSpec { target, ..MountSpec::default() });
        }
    }
    Ok(specs)
}

/// A path without what means nothing in it.
fn clean_target(target: &str) -> String {
    let parts: Vec<_> = target.split('/').filter(|part| !part.is_empty() && *part != ".").collect();
    format!("/{}", parts.join("/"))
}

/// Sees that the source of a bind is there.
fn provide_source(spec: &MountSpec) -> Result<(), RuntimeError> {
    let Some(source) = spec.source.as_ref().filter(|_| spec.kind == MountKind::Bind) else {
        return Ok(());
    };
    let path = Path::new(source);
    match fs::metadata(path) {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            if spec.create_source {
                return fs::create_dir_all(path).map_err(file("create", path));
            }
            Err(RuntimeError::failed(
                ErrorKind::SourceMissing,
                format!("bind source path does not exist: {source}"),
            ))
        }
        Err(error) => Err(file("look at", path)(error)),
    }
}

/// Refuses ports that can't be had, whatever listens on the host.
fn check_ports(ports: &[PortSpec]) -> Result<(), RuntimeError> {
    let mut taken = BTreeSet::new();
    for port in ports {
        if port.container_port == 0 {
            return Err(RuntimeError::invalid("invalid port: 0"));
        }
        let Some(number) = port.host_port.filter(|number| *number != 0) else { continue };
        if !taken.insert((port.host_ip, number, port.protocol)) {
            return Err(RuntimeError::failed(
                ErrorKind::PortInUse,
                format!("port {number}/{} is published twice", port.protocol),
            ));
        }
    }
    Ok(())
}

/// Refuses an image of another platform than the one that's asked for, and one that can't run here.
fn check_platform(config: &ContainerConfig, image: &Image) -> Result<(), RuntimeError> {
    let has = &image.config;
    let name = |os: &str, architecture: &str| format!("{os}/{architecture}");
    let wrong = |wanted: String| {
        RuntimeError::failed(
            ErrorKind::Image,
            format!(
                "the image {} is for {}, not for {wanted}",
                config.image,
                name(&has.os, &has.architecture)
            ),
        )
    };
    let differs = |platform: &Platform| {
        let other = |has: &str, wanted: &str| !has.is_empty() && has != wanted;
        other(&has.os, &platform.os) || other(&has.architecture, &platform.architecture)
    };
    if let Some(text) = &config.platform {
        let wanted = text.parse::<Platform>().map_err(RuntimeError::invalid)?;
        if differs(&wanted) {
            return Err(wrong(text.clone()));
        }
    }
    let host = Platform::host();
    if differs(&host) {
        return Err(wrong(format!("this host ({host})")));
    }
    Ok(())
}

/// What was asked for and won't be done, or is unwise.
fn warnings(config: &ContainerConfig) -> Vec<String> {
    let mut warnings = Vec::new();
    let on_none = config.networks.iter().any(|network| network.network == "none");
    if on_none && (!config.ports.is_empty() || config.publish_all) {
        warnings.push("Published ports are discarded when using none network mode".to_owned());
    }
    let host_cpus = std::thread::available_parallelism().map_or(1, usize::from);
    let cpus = config.nano_cpus.unwrap_or_default().div_ceil(1_000_000_000);
    if cpus > host_cpus as u64 {
        warnings.push(format!(
            "The host has {host_cpus} CPUs: the container's {cpus} virtual ones share them"
        ));
    }
    let info = rustix::system::sysinfo();
    #[expect(clippy::useless_conversion, reason = "narrower than u64 on 32-bit hosts")]
    let host_bytes = u64::from(info.totalram).saturating_mul(u64::from(info.mem_unit));
    if config.memory_bytes.is_some_and(|bytes| bytes > host_bytes) {
        warnings.push("The container may use more memory than the host has".to_owned());
    }
    warnings
}
