//! What all ways run: one image, one set of limits.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use image::{Image, Images, NewImage};
use runtime::{ContainerConfig, Engine, ListOptions, Resolved};

use super::meter::Meter;
use super::networks::InstanceNetworks;
use super::process::system;
use super::scratch::Scratch;
use super::{NAME_PREFIX, PROBE_PATH, Spec, WayError};
use crate::interrupt::Interrupt;
use crate::model::ImageSummary;

/// What all ways run, and where.
#[derive(Debug)]
pub struct Subject {
    /// The containers' engine.
    pub engine: Engine,
    /// `vmctl`.
    pub vmctl: PathBuf,
    /// The image, as it was named.
    pub reference: String,
    /// The image's identifier.
    pub image_id: String,
    /// The same image with the program of our own in it, for VMs.
    pub probe_image: String,
    /// That program.
    pub probe: PathBuf,
    /// Processors of an instance.
    pub cpus: u32,
    /// Memory of an instance, in MiB.
    pub memory_mib: u32,
    // Taken back before the directory that its records are in.
    networks: Mutex<Option<Arc<InstanceNetworks>>>,
    /// Mounts and files.
    pub scratch: Scratch,
    /// Told by Ctrl-C.
    pub interrupt: Interrupt,
    pub(crate) meter: Meter,
    pub(crate) resolved: Mutex<HashMap<Vec<String>, Arc<Resolved>>>,
}

/// What a [`Subject`] is made of.
#[derive(Debug)]
pub struct SubjectOptions {
    /// The containers' engine.
    pub engine: Engine,
    /// `vmctl`.
    pub vmctl: PathBuf,
    /// The image: it's in the store already.
    pub reference: String,
    /// The program of our own.
    pub probe: PathBuf,
    /// Processors of an instance.
    pub cpus: u32,
    /// Memory of an instance, in MiB.
    pub memory_mib: u32,
    /// Told by Ctrl-C.
    pub interrupt: Interrupt,
}

impl Subject {
    /// Gets everything ready that's needed once, and takes back what a killed process has left.
    ///
    /// # Errors
    /// Another comparison runs, the image isn't there, or the disk is full.
    pub fn new(options: SubjectOptions) -> Result<Self, WayError> {
        let SubjectOptions { engine, vmctl, reference, probe, cpus, memory_mib, interrupt } =
            options;
        let info = engine.info().map_err(refused)?;
        let scratch = Scratch::create(&info.data_root)?;
        remove_leftovers(&engine);
        let images = engine.images().map_err(refused)?;
        let image = images.find(&reference).map_err(refused)?.image;
        let probe_image = add_probe(&images, &image, &probe, &scratch)?;
        Ok(Self {
            engine,
            vmctl,
            reference,
            image_id: image.id,
            probe_image,
            probe,
            cpus,
            memory_mib,
            networks: Mutex::default(),
            scratch,
            interrupt,
            meter: Meter::new(),
            resolved: Mutex::default(),
        })
    }

    /// What the image is, and what it takes.
    ///
    /// # Errors
    /// The image is gone.
    pub fn summary(&self) -> Result<ImageSummary, WayError> {
        let images = self.engine.images().map_err(refused)?;
        let image = images.find(&self.image_id).map_err(refused)?.image;
        let files = images.root_files(&self.image_id).map_err(refused)?.files;
        let sizes = files.iter().filter_map(|path| path.metadata().ok());
        Ok(ImageSummary {
            reference: self.reference.clone(),
            id: image.id,
            layers: u32::try_from(image.layer_bytes.len()).unwrap_or(u32::MAX),
            wire_bytes: image.compressed_bytes,
            disk_bytes: sizes.map(|metadata| metadata.blocks() * 512).sum(),
        })
    }

    /// Why CPU time and memory can't be counted, if so.
    pub fn meter_problem(&self) -> Option<&str> {
        self.meter.problem()
    }

    /// The network of containers and full VMs, which is made when it's needed first.
    pub(crate) fn networks(&self) -> Result<Arc<InstanceNetworks>, WayError> {
        let mut networks = self.networks.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(networks) = &*networks {
            return Ok(Arc::clone(networks));
        }
        let opened = Arc::new(InstanceNetworks::open(self.scratch.path())?);
        Ok(Arc::clone(networks.insert(opened)))
    }

    /// What the image and a command come to, by the rules of `vmctl run`: for containers, too.
    pub(crate) fn resolve(&self, spec: &Spec) -> Result<Arc<Resolved>, WayError> {
        let mut key = spec.command.clone();
        key.push(spec.probe.to_string());
        let mut known = self.resolved.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(resolved) = known.get(&key) {
            return Ok(Arc::clone(resolved));
        }
        let mut config =
            ContainerConfig { image: self.image_id.clone(), ..ContainerConfig::default() };
        if spec.probe {
            config.entrypoint = Some(vec![PROBE_PATH.to_owned()]);
        }
        config.command.clone_from(&spec.command);
        let created = self.engine.create(&config).map_err(refused)?;
        let found = self.engine.find(&created.id).map_err(refused);
        let removed = self.engine.remove(&created.id, true, true).map_err(refused);
        let resolved = Arc::new(found?.0.resolved);
        removed?;
        known.insert(key, Arc::clone(&resolved));
        Ok(resolved)
    }

    /// The first TCP port that the image exposes.
    ///
    /// # Errors
    /// The image's configuration can't be used.
    pub fn port(&self) -> Result<Option<u16>, WayError> {
        let spec = Spec { probe: true, command: vec!["idle".to_owned()], ..Spec::default() };
        let resolved = self.resolve(&spec)?;
        let mut ports: Vec<u16> = resolved
            .exposed
            .iter()
            .filter_map(|port| match port.split_once('/') {
                Some((number, "tcp")) => number.parse().ok(),
                Some(_) => None,
                None => port.parse().ok(),
            })
            .collect();
        ports.sort_unstable();
        Ok(ports.first().copied())
    }
}

impl Drop for Subject {
    fn drop(&mut self) {
        let removed =
            self.engine.images().map_err(refused).and_then(|images| {
                images.remove(&self.probe_image, true, &|_| None).map_err(refused)
            });
        if let Err(error) = removed {
            log::warn!("{}: {error}", self.probe_image);
        }
        if let Err(error) = self.engine.sweep_templates() {
            log::warn!("templates of {}: {error}", self.probe_image);
        }
    }
}

fn refused(error: impl std::fmt::Display) -> WayError {
    WayError::Unavailable(error.to_string())
}

/// Removes the instances of a process that was killed. There's no other one now: the scratch
/// directory has been locked.
fn remove_leftovers(engine: &Engine) {
    let all = ListOptions { all: true, ..ListOptions::default() };
    for listed in engine.list(&all).unwrap_or_default() {
        let summary = listed.state.summary;
        if summary.name.starts_with(NAME_PREFIX)
            && let Err(error) = engine.remove(&summary.id, true, true)
        {
            log::warn!("{} can't be removed: {error}", summary.name);
        }
    }
}

/// Makes the image with the program of our own in it: a layer more. Returns its identifier.
fn add_probe(
    images: &Images,
    image: &Image,
    probe: &Path,
    scratch: &Scratch,
) -> Result<String, WayError> {
    let path = scratch.path().join("probe.tar");
    let pack = || -> io::Result<File> {
        let file = File::create_new(&path)?;
        let mut archive = tar::Builder::new(&file);
        archive.mode(tar::HeaderMode::Deterministic);
        let mut header = tar::Header::new_ustar();
        let mut content = File::open(probe)?;
        header.set_size(content.metadata()?.len());
        header.set_mode(0o755);
        archive.append_data(&mut header, PROBE_PATH.trim_start_matches('/'), &mut content)?;
        archive.finish()?;
        drop(archive);
        File::open(&path)
    };
    let layer = pack().map_err(system(format!("pack {}", probe.display())))?;
    let image = NewImage {
        base: Some(image.id.clone()),
        layers: vec![layer],
        config: image.config.clone(),
        tags: Vec::new(),
    };
    Ok(images.add(image).map_err(refused)?.id)
}

/// Tells the host's kernel an instance's Ethernet address before the instance is there. Otherwise it
/// asks for it once a second, and a start could only be seen to end at full seconds.
#[derive(Debug)]
pub(crate) struct Neighbour {
    address: IpAddr,
    interface: String,
}

impl Neighbour {
    pub(crate) fn add(address: IpAddr, mac: [u8; 6], interface: &str) -> Result<Self, WayError> {
        let mac = network::mac_text(mac);
        ip(&["neighbour", "replace", &address.to_string(), "lladdr", &mac, "dev", interface])?;
        Ok(Self { address, interface: interface.to_owned() })
    }
}

impl Drop for Neighbour {
    fn drop(&mut self) {
        // The interface may be gone, and this with it.
        let _ = ip(&["neighbour", "delete", &self.address.to_string(), "dev", &self.interface]);
    }
}

/// Runs `ip`.
pub(crate) fn ip(arguments: &[&str]) -> Result<(), WayError> {
    // A terminal's Ctrl-C is for this program, which may just be taking things back by this one.
    let output = std::process::Command::new("ip").args(arguments).process_group(0).output();
    let output = output.map_err(system("start ip (package iproute2)"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(WayError::Program {
        program: format!("ip {}", arguments.join(" ")),
        status: output.status.to_string(),
        message: super::process::last(&String::from_utf8_lossy(&output.stderr)),
    })
}

/// An address and a port.
pub(crate) fn at(address: IpAddr, port: u16) -> SocketAddr {
    SocketAddr::new(address, port)
}
