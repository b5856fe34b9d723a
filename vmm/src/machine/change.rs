//! Changes the devices of a machine that is there.

use api::ApiError;
use api::config::{DriveBackend, DriveSpec, NetSpec, PmemSpec, RateLimiter, TokenBucket, VmConfig};
use api::v1::{PatchDrive, PatchNet, PatchPmem};
use devices::virtio::vhost_user::{VhostUserControl, is_shared};

use super::registry::Handle;
use super::state::DeviceKey;
use super::{Machine, virtio};
use crate::error::VmmError;

impl Machine {
    /// Exchanges a drive's image or its limits.
    pub(crate) fn update_drive(&mut self, patch: &PatchDrive) -> Result<(), ApiError> {
        let Some(index) = self.config.drives.iter().position(|drive| drive.id == patch.drive_id)
        else {
            return Err(no_such("drive", &patch.drive_id));
        };
        let key = DeviceKey::Block(patch.drive_id.clone());
        let control = match self.devices.handle(&key) {
            Some(Handle::Block { control, .. }) => control,
            Some(Handle::VhostUser(control)) => return reload(control, patch),
            _ => return Err(no_such("drive", &patch.drive_id)),
        };
        let mut drive = self.config.drives[index].clone();
        if let Some(path) = &patch.path_on_host {
            if drive.image() != Some(path) {
                // What the other image builds upon, nobody says: nothing.
                // Nor what follows it.
                drive.backing.clear();
                drive.concat.clear();
            }
            drive.backend = DriveBackend::Image(path.clone());
            let disk = virtio::open_disk_instead(&*control.disk(), &drive, index)
                .map_err(|error| refuse(&error))?;
            control.change_disk(disk).map_err(|error| ApiError::from_chain(&error))?;
        }
        if let Some(limiter) = &patch.rate_limiter {
            control.update_rate_limit(&virtio::rate_limit(limiter));
            update(&mut drive.rate_limiter, limiter);
        }
        self.config.drives[index] = drive;
        Ok(())
    }

    /// Replaces a network interface's limits.
    pub(crate) fn update_net(&mut self, patch: &PatchNet) -> Result<(), ApiError> {
        let missing = || no_such("network interface", &patch.iface_id);
        let net = self.config.nets.iter_mut().find(|net| net.id == patch.iface_id);
        let net = net.ok_or_else(missing)?;
        let key = DeviceKey::Net(patch.iface_id.clone());
        let Some(Handle::Net { control, .. }) = self.devices.handle(&key) else {
            return Err(missing());
        };
        if let Some(limiter) = &patch.rx_rate_limiter {
            control.update_rx_limit(&virtio::rate_limit(limiter));
            update(&mut net.rx_rate_limiter, limiter);
        }
        if let Some(limiter) = &patch.tx_rate_limiter {
            control.update_tx_limit(&virtio::rate_limit(limiter));
            update(&mut net.tx_rate_limiter, limiter);
        }
        Ok(())
    }

    /// Adds a drive to the running guest, and returns its identifier.
    pub(crate) fn plug_drive(&mut self, spec: DriveSpec) -> Result<String, ApiError> {
        let drive = self.config.check_drive(spec)?;
        if drive.is_root {
            return Err(ApiError::bad_request(
                "is_root_device is for the drive that the guest boots from",
            ));
        }
        if drive.image().is_none() && !is_shared(&self.memory) {
            return Err(ApiError::bad_request(
                "a vhost-user drive needs memory that other processes can map, as a VM has it that is \
                 started with such a drive",
            ));
        }
        let key = DeviceKey::Block(drive.id.clone());
        self.plug(key, |config| config.drives.push(drive))
    }

    /// Adds a network interface to the running guest, and returns its identifier.
    pub(crate) fn plug_net(&mut self, spec: NetSpec) -> Result<String, ApiError> {
        let mut net = self.config.check_net(spec)?;
        virtio::choose_address(&mut net).map_err(|error| refuse(&error))?;
        let key = DeviceKey::Net(net.id.clone());
        self.plug(key, |config| config.nets.push(net))
    }

    /// Replaces the limit of persistent memory.
    pub(crate) fn update_pmem(&mut self, patch: &PatchPmem) -> Result<(), ApiError> {
        let missing = || no_such("pmem", &patch.id);
        let pmem = self.config.pmem.iter_mut().find(|pmem| pmem.id == patch.id);
        let pmem = pmem.ok_or_else(missing)?;
        let key = DeviceKey::Pmem(patch.id.clone());
        let Some(Handle::Pmem { control, .. }) = self.devices.handle(&key) else {
            return Err(missing());
        };
        if let Some(limiter) = &patch.rate_limiter {
            control.update(&virtio::rate_limit(limiter));
            update(&mut pmem.rate_limiter, limiter);
        }
        Ok(())
    }

    /// Adds persistent memory to the running guest, and returns its identifier.
    pub(crate) fn plug_pmem(&mut self, spec: PmemSpec) -> Result<String, ApiError> {
        let pmem = self.config.check_pmem(spec)?;
        if pmem.is_root {
            return Err(ApiError::bad_request(
                "root_device is for the memory that the guest boots from",
            ));
        }
        let key = DeviceKey::Pmem(pmem.id.clone());
        self.plug(key, |config| config.pmem.push(pmem))
    }

    /// Asks the guest to give persistent memory up.
    pub(crate) fn unplug_pmem(&mut self, id: &str) -> Result<(), ApiError> {
        self.unplug(&DeviceKey::Pmem(id.to_owned()))
    }

    /// Makes the device `key` of the configuration that `add` makes, and tells the guest.
    pub(super) fn plug(
        &mut self,
        key: DeviceKey,
        add: impl FnOnce(&mut VmConfig),
    ) -> Result<String, ApiError> {
        if self.devices.handle(&key).is_some() {
            return Err(ApiError::bad_request(format!(
                "this VM has a {} of the identifier {:?} already",
                noun(&key),
                key.name()
            )));
        }
        let mut config = self.config.clone();
        add(&mut config);
        let memory = virtio::MemoryPlace { window: self.devices.memory(), at: None };
        let made = virtio::make(&config, &key, &self.around, None, memory)
            .map_err(|error| refuse(&error))?;
        let id = key.name().to_owned();
        self.devices.plug(key, made).map_err(|error| refuse(&error))?;
        self.config = config;
        Ok(id)
    }

    /// Asks the guest to give a drive up.
    pub(crate) fn unplug_drive(&mut self, id: &str) -> Result<(), ApiError> {
        self.unplug(&DeviceKey::Block(id.to_owned()))
    }

    /// Asks the guest to give a network interface up.
    pub(crate) fn unplug_net(&mut self, id: &str) -> Result<(), ApiError> {
        self.unplug(&DeviceKey::Net(id.to_owned()))
    }

    pub(super) fn unplug(&mut self, key: &DeviceKey) -> Result<(), ApiError> {
        if self.devices.handle(key).is_none() {
            return Err(no_such(noun(key), key.name()));
        }
        if self.devices.request_unplug(key) {
            return Ok(());
        }
        Err(ApiError::bad_request(
            "devices come and go over PCI only: this VM was started with the transport mmio",
        ))
    }

    /// Drops the devices that the guest has given up, and returns their identifiers.
    pub(crate) fn remove_ejected(&mut self) -> Vec<String> {
        let removed = self.devices.remove_ejected();
        for key in &removed {
            match key {
                DeviceKey::Block(id) => self.config.drives.retain(|drive| drive.id != *id),
                DeviceKey::Net(id) => self.config.nets.retain(|net| net.id != *id),
                DeviceKey::Pmem(id) => self.config.pmem.retain(|pmem| pmem.id != *id),
                DeviceKey::Fs(id) => self.config.filesystems.retain(|fs| fs.id != *id),
                _ => {}
            }
        }
        removed.iter().map(|key| key.name().to_owned()).collect()
    }
}

/// Has a drive's back end tell its configuration anew; nothing else of it can be changed here.
fn reload(control: &VhostUserControl, patch: &PatchDrive) -> Result<(), ApiError> {
    if patch.path_on_host.is_some() || patch.rate_limiter.is_some() {
        return Err(ApiError::bad_request(
            "a vhost-user drive has no image and no limits here: its back end changes them",
        ));
    }
    control.reload().map(drop).map_err(|error| ApiError::from_chain(&error))
}

/// Returns what a client calls a device of this kind.
fn noun(key: &DeviceKey) -> &'static str {
    match key {
        DeviceKey::Block(_) => "drive",
        DeviceKey::Net(_) => "network interface",
        DeviceKey::Fs(_) => "file system",
        other => other.kind(),
    }
}

fn no_such(kind: &str, id: &str) -> ApiError {
    ApiError::bad_request(format!("this VM has no {kind} of the identifier {id:?}"))
}

fn refuse(error: &VmmError) -> ApiError {
    ApiError::from_chain(error)
}

/// Changes the limits that `patch` mentions; one of size 0 is lifted.
fn update(limiter: &mut RateLimiter, patch: &RateLimiter) {
    let set = |old: &mut Option<TokenBucket>, new: Option<TokenBucket>| {
        if let Some(new) = new {
            *old = (new.size != 0 && new.refill_time != 0).then_some(new);
        }
    };
    set(&mut limiter.bandwidth, patch.bandwidth);
    set(&mut limiter.ops, patch.ops);
}
