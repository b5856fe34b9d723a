//! Makes a machine out of a snapshot's files.

use std::path::Path;
use std::time::Instant;

use api::ApiError;
use api::config::{DriveSpec, HugePages, VmConfig, VmSpec};
use api::event::Event;
use api::v1::{LoadSnapshotParams, MemoryBackendType, NewIdentity};
use devices::GuestRam;
use snapshot::lazy::WorkingSet;
use snapshot::memory::MemoryFile;
use snapshot::{Kind, MemoryRegion, SnapshotHeader};
use vm_memory::GuestAddress;

use super::{LastSnapshot, parse_state};
use crate::error::VmmError;
use crate::host_probe;
use crate::machine::{MachineBuilder, MachineState, Overlays};
use crate::memory::{self, Backing, Pages};
use crate::service::metrics::Latency;
use crate::service::{VmState, Vmm, fault};
use crate::snapshot::{LazyMemory, Recorder};
use crate::status::monotonic_ns;
use crate::x86_64::ClockPolicy;

/// Guest memory, and who supplies its pages.
struct Loaded {
    memory: GuestRam,
    pager: Option<Pager>,
}

/// Who supplies the pages of a machine's memory, as long as it lives.
#[expect(dead_code, reason = "the handler of another process only has to be kept")]
pub(in crate::service) enum Pager {
    /// Another process.
    Handler(LazyMemory),
    /// This one, which notes what is touched first.
    Recorder(Recorder),
}

impl Vmm {
    /// Ends the recording of a working set, if there is one.
    pub(in crate::service) fn finish_recording(&self) {
        if let Some(Pager::Recorder(recorder)) = &self.pager {
            recorder.finish();
        }
    }

    /// Makes the machine that `params` names; it's paused unless it's to be resumed.
    pub(in crate::service) fn load_snapshot(
        &mut self,
        params: LoadSnapshotParams,
    ) -> Result<(), ApiError> {
        if !self.configuration.is_untouched() {
            return Err(ApiError::bad_request(
                "Loading a microVM snapshot not allowed after configuring boot-specific \
                 resources: load it in a VMM that was just started.",
            ));
        }
        if params.deprecated_keys {
            log::warn!(
                "PUT /snapshot/load: mem_file_path and enable_diff_snapshots are deprecated; \
                 use mem_backend and track_dirty_pages"
            );
        }
        let since = Instant::now();
        self.load(&params).map_err(|error| fault(&error))?;
        self.metrics.set_latency(Latency::LoadSnapshot, since.elapsed());
        let snapshot_path = params.snapshot_path.clone();
        self.restored_from = Some(snapshot_path.clone());
        self.status.send(&Event::SnapshotLoaded { snapshot_path, monotonic_ns: monotonic_ns() });
        if params.resume_vm { self.resume() } else { Ok(()) }
    }

    fn load(&mut self, params: &LoadSnapshotParams) -> Result<(), VmmError> {
        let failed = |error| VmmError::snapshot("load the snapshot", error);
        let file = snapshot::state::open(&params.snapshot_path).map_err(failed)?;
        if file.header.kind == Kind::Diff {
            let reason = "it is differential: merge it with the snapshot that it builds upon \
                          first (vmctl snapshot merge)";
            return Err(VmmError::snapshot("load the snapshot", reason));
        }
        let state = parse_state(&file.state)?;
        let mut config = adapt(state.config.clone(), params)?;
        host_probe::can_run_linux()?;
        // Removed again unless all else succeeds.
        let overlays = Overlays::create(&mut config.drives, &params.drive_overrides)?;
        let loaded = load_memory(&config, &file.header, params)?;
        self.use_config(&config)?;
        let clock = match params.clock_realtime {
            Some(false) => ClockPolicy::Continue,
            _ => ClockPolicy::Advance,
        };
        self.build(config, state, loaded, clock)?;
        overlays.keep();
        self.last_snapshot = Some(LastSnapshot(file.header.id));
        Ok(())
    }

    fn build(
        &mut self,
        config: VmConfig,
        state: MachineState,
        loaded: Loaded,
        clock: ClockPolicy,
    ) -> Result<(), VmmError> {
        let builder = MachineBuilder::new(config, self.surroundings());
        let machine = builder.restore(state, loaded.memory, clock)?;
        self.pager = loaded.pager;
        self.adopt(machine, VmState::Paused);
        Ok(())
    }
}

/// Gets guest memory from where `params` says.
fn load_memory(
    config: &VmConfig,
    header: &SnapshotHeader,
    params: &LoadSnapshotParams,
) -> Result<Loaded, VmmError> {
    let failed = |error| VmmError::snapshot("load the snapshot's memory", error);
    let pages = match config.machine.huge_pages {
        HugePages::None => Pages::Ordinary,
        HugePages::Size2M => Pages::Huge2M,
    };
    let backing = Backing { pages, tracked: config.machine.track_dirty_pages };
    let path = &params.mem_backend.backend_path;
    match params.mem_backend.backend_type {
        MemoryBackendType::File => {
            let file = MemoryFile::open_for(path, header).map_err(failed)?;
            if let Some(path) = &params.working_set_path {
                let working_set = WorkingSet::load(path, &file).map_err(failed)?;
                working_set
                    .read_ahead(&file)
                    .map_err(|source| VmmError::os("read the working set ahead", source))?;
            }
            if let Some(path) = &params.record_working_set_path {
                return record(file, path, &backing);
            }
            let memory = match pages {
                Pages::Ordinary => memory::map_snapshot(&file, &backing)?,
                Pages::Huge2M => memory::load(&file, &backing)?,
            };
            Ok(Loaded { memory, pager: None })
        }
        MemoryBackendType::Uffd => {
            if params.working_set_path.is_some() || params.record_working_set_path.is_some() {
                let reason = "with the backend Uffd, the working set is the page fault handler's \
                              business: leave working_set_path and record_working_set_path out";
                return Err(VmmError::snapshot("load the snapshot's memory", reason));
            }
            let memory = memory::allocate(&ranges(&header.regions), &backing)?;
            let lazy = LazyMemory::connect(&memory, path)
                .map_err(|error| VmmError::snapshot("load the snapshot's memory", error))?;
            Ok(Loaded { memory, pager: Some(Pager::Handler(lazy)) })
        }
    }
}

/// Allocates memory whose pages this process supplies out of `file`, and notes those that are
/// touched first in the working set at `path`.
fn record(file: MemoryFile, path: &Path, backing: &Backing) -> Result<Loaded, VmmError> {
    let memory = memory::allocate(&ranges(file.regions()), backing)?;
    let recorder = Recorder::start(&memory, file, path)
        .map_err(|error| VmmError::snapshot("record the working set", error))?;
    Ok(Loaded { memory, pager: Some(Pager::Recorder(recorder)) })
}

fn ranges(regions: &[MemoryRegion]) -> Vec<(GuestAddress, u64)> {
    regions.iter().map(|region| (GuestAddress(region.guest_address), region.size_bytes)).collect()
}

/// Changes the snapshot's configuration as `params` says, and checks all of it: it comes from a
/// file.
fn adapt(mut spec: VmSpec, params: &LoadSnapshotParams) -> Result<VmConfig, VmmError> {
    // They are a process's and not a machine's: this one has its own.
    (spec.logger, spec.metrics) = (None, None);
    let unknown = |what: &str, id: &str| {
        let reason = format!("the snapshot has no {what} of the identifier {id:?}");
        VmmError::snapshot("change the snapshot's configuration", reason)
    };
    for change in &params.network_overrides {
        let net = spec.network_interfaces.iter_mut().find(|net| net.iface_id == change.iface_id);
        let net = net.ok_or_else(|| unknown("network interface", &change.iface_id))?;
        net.host_dev_name.clone_from(&change.host_dev_name);
        net.socket.clone_from(&change.socket);
    }
    for change in params.drive_overrides.iter().filter(|change| !change.overlay) {
        let drive = spec.drives.iter_mut().find(|drive| drive.drive_id == change.drive_id);
        let drive: &mut DriveSpec = drive.ok_or_else(|| unknown("drive", &change.drive_id))?;
        drive.path_on_host = Some(change.path_on_host.clone());
        if change.format.is_some() {
            drive.format = change.format;
        }
        if let Some(files) = &change.concat {
            drive.concat.clone_from(files);
        }
    }
    if let Some(change) = &params.vsock_override {
        let vsock = spec.vsock.as_mut().ok_or_else(|| unknown("socket device", "vsock"))?;
        vsock.uds_path.clone_from(&change.uds_path);
    }
    if let Some(change) = &params.console_override {
        let console = spec.console.get_or_insert_default();
        console.mode = change.mode;
        console.path.clone_from(&change.path);
    }
    if let Some(identity) = &params.new_identity {
        change_identity(&mut spec, identity).map_err(|id| unknown("network interface", &id))?;
    }
    spec.machine_config.get_or_insert_default().track_dirty_pages = Some(params.track_dirty_pages);
    Ok(spec.validate()?)
}

/// Gives interfaces and sockets new addresses, or names the interface that there isn't.
fn change_identity(spec: &mut VmSpec, identity: &NewIdentity) -> Result<(), String> {
    for change in &identity.mac_addresses {
        let net = spec.network_interfaces.iter_mut().find(|net| net.iface_id == change.iface_id);
        let net = net.ok_or_else(|| change.iface_id.clone())?;
        net.guest_mac = Some(change.guest_mac.to_string());
    }
    if let (Some(cid), Some(vsock)) = (identity.guest_cid, &mut spec.vsock) {
        vsock.guest_cid = cid.into();
    }
    Ok(())
}
