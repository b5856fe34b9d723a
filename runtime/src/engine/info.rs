//! What's known of containers and of the engine.

use super::{Engine, image_error};
use crate::assets::{AGENT, KERNEL};
use crate::error::RuntimeError;
use crate::options::{DiskUsage, EngineEvent, EventOptions, Info, ListOptions, Usage};
use crate::record::Status;
use crate::usage::disk_bytes;
use crate::{EventReader, inspect, vmm};

impl Engine {
    /// A container in the shape that `docker inspect` shows it in.
    ///
    /// # Errors
    /// There's no such container.
    pub fn inspect(&self, reference: &str) -> Result<serde_json::Value, RuntimeError> {
        let (record, state) = self.find(reference)?;
        let kernel = KERNEL.find(&self.paths).ok();
        Ok(inspect::container(&record, &state, &self.store.paths(&record.id), kernel.as_deref()))
    }

    /// What's known of the engine.
    ///
    /// # Errors
    /// A directory can't be read.
    pub fn info(&self) -> Result<Info, RuntimeError> {
        let listed = self.list(&ListOptions { all: true, ..ListOptions::default() })?;
        let count = |wanted: fn(Status) -> bool| {
            listed.iter().filter(|listed| wanted(listed.state.status)).count()
        };
        Ok(Info {
            running: count(|status| matches!(status, Status::Running | Status::Restarting)),
            paused: count(|status| status == Status::Paused),
            stopped: count(|status| !status.is_active()),
            images: self.images()?.usage().map_err(image_error)?.images,
            volumes: self.volumes()?.len(),
            data_root: self.paths.data().to_owned(),
            runtime_root: self.paths.run().to_owned(),
            kernel: KERNEL.find(&self.paths).ok(),
            agent: AGENT.find(&self.paths).ok(),
            vmm: vmm::find().ok(),
            templates: self.template_dirs()?.len(),
            rootless: !rustix::process::geteuid().is_root(),
        })
    }

    /// What's used on disk.
    ///
    /// # Errors
    /// A directory can't be read.
    pub fn disk_usage(&self) -> Result<DiskUsage, RuntimeError> {
        let listed = self.list(&ListOptions { all: true, ..ListOptions::default() })?;
        let mut containers = Usage { total: listed.len(), ..Usage::default() };
        for listed in &listed {
            let bytes = disk_bytes(&self.store.paths(&listed.state.summary.id).data);
            containers.size_bytes += bytes;
            if listed.is_running() {
                containers.active += 1;
            } else {
                containers.reclaimable_bytes += bytes;
            }
        }
        let mut volumes = Usage::default();
        for volume in self.volumes()? {
            let bytes = disk_bytes(&volume.mountpoint);
            volumes.total += 1;
            volumes.size_bytes += bytes;
            let is_used = |state: &crate::State| state.summary.mounts.contains(&volume.name);
            if listed.iter().any(|listed| is_used(&listed.state)) {
                volumes.active += 1;
            } else {
                volumes.reclaimable_bytes += bytes;
            }
        }
        let templates = self.template_dirs()?;
        let template_bytes = templates.iter().map(|dir| disk_bytes(dir)).sum();
        Ok(DiskUsage {
            images: self.image_usage(&listed)?,
            containers,
            volumes,
            templates: Usage {
                total: templates.len(),
                active: 0,
                size_bytes: template_bytes,
                reclaimable_bytes: template_bytes,
            },
        })
    }

    /// What happened, and what happens from now on.
    ///
    /// # Errors
    /// The file can't be read, or a filter is unknown.
    pub fn events(&self, options: &EventOptions) -> Result<EventReader, RuntimeError> {
        self.event_log().read(options.clone())
    }

    /// Appends an event, or warns that it couldn't be.
    pub(super) fn record_event(&self, event: &EngineEvent) {
        if let Err(error) = self.event_log().append(event) {
            log::warn!("an event can't be written: {error}");
        }
    }

    fn image_usage(&self, listed: &[crate::Listed]) -> Result<Usage, RuntimeError> {
        let store = self.images()?;
        let (images, usage) =
            (store.list().map_err(image_error)?, store.usage().map_err(image_error)?);
        let is_used = |id: &str| listed.iter().any(|it| it.state.summary.image_id == id);
        let (used, unused): (Vec<_>, Vec<_>) = images.iter().partition(|image| is_used(&image.id));
        // What unused images share with used ones isn't freed: never more than what's there.
        let kept: u64 = used.iter().map(|image| image.size_bytes).max().unwrap_or_default();
        let free: u64 = unused.iter().map(|image| image.size_bytes).sum();
        Ok(Usage {
            total: images.len(),
            active: used.len(),
            size_bytes: usage.size_bytes,
            reclaimable_bytes: match used.is_empty() {
                true => usage.size_bytes,
                false => free.min(usage.size_bytes.saturating_sub(kept)),
            },
        })
    }
}
