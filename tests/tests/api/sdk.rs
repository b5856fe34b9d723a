//! The crate `fctools`, an SDK for Firecracker: it starts our `vmm` as its own with its own flags,
//! and takes a VM through its life with its own requests and snapshots.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, ensure};
use fctools::process_spawner::DirectProcessSpawner;
use fctools::runtime::tokio::TokioRuntime;
use fctools::vm::api::VmApi;
use fctools::vm::configuration::{InitMethod, VmConfiguration, VmConfigurationData};
use fctools::vm::models::{
    BalloonDevice, BootSource, CreateSnapshot, Drive, EntropyDevice, LoggerSystem,
    MachineConfiguration, SnapshotType, UpdateBalloonDevice, UpdateBalloonStatistics, UpdateDrive,
    VsockDevice,
};
use fctools::vm::shutdown::{VmShutdownAction, VmShutdownMethod};
use fctools::vm::snapshot::PrepareVmFromSnapshotOptions;
use fctools::vm::{Vm, VmState};
use fctools::vmm::arguments::{VmmApiSocket, VmmArguments, VmmLogLevel};
use fctools::vmm::executor::unrestricted::UnrestrictedVmmExecutor;
use fctools::vmm::installation::VmmInstallation;
use fctools::vmm::ownership::VmmOwnershipModel;
use fctools::vmm::resource::system::ResourceSystem;
use fctools::vmm::resource::{CreatedResourceType, MovedResourceType, Resource, ResourceType};
use integration_tests::{PATIENCE, artifacts};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::workshop::Workshop;

type SdkVm = Vm<UnrestrictedVmmExecutor, DirectProcessSpawner, TokioRuntime>;

type Resources = ResourceSystem<DirectProcessSpawner, TokioRuntime>;

/// The identifier that the SDK gives the VM.
const ID: &str = "sdk-vm-1";

const BOOT_ARGS: &str = "console=ttyS0 quiet reboot=k panic=-1 rdinit=/init";

fn executor(directory: &Path, socket: &str) -> Result<UnrestrictedVmmExecutor> {
    let arguments = VmmArguments::new(VmmApiSocket::Enabled(directory.join(socket)))
        .log_level(VmmLogLevel::Info)
        .show_log_level()
        .show_log_origin()
        .enable_boot_timer()
        .api_max_payload_bytes(100_000)
        .mmds_size_limit(60_000);
    Ok(UnrestrictedVmmExecutor::new(arguments).id(ID.to_owned().try_into().map_err(problem)?))
}

fn resources() -> Resources {
    ResourceSystem::new(DirectProcessSpawner, TokioRuntime, VmmOwnershipModel::Shared)
}

/// A file that is there.
fn existing(resources: &mut Resources, path: PathBuf) -> Result<Resource> {
    let moved = ResourceType::Moved(MovedResourceType::HardLinkedOrCopied);
    resources.create_resource(path, moved).map_err(problem)
}

/// A file or socket that the VMM makes.
fn produced(resources: &mut Resources, path: PathBuf) -> Result<Resource> {
    resources.create_resource(path, ResourceType::Produced).map_err(problem)
}

/// The SDK's errors aren't anyhow's.
fn problem(error: impl std::error::Error) -> anyhow::Error {
    anyhow!("fctools: {error}")
}

/// Describes a VM with all that the SDK knows, unless it's for a configuration file: in one, the SDK
/// gives some keys names that Firecracker doesn't have.
fn configuration(
    resources: &mut Resources,
    directory: &Path,
    by: &InitMethod,
) -> Result<VmConfigurationData> {
    let mut data = plain_configuration(resources, directory)?;
    if *by != InitMethod::ViaApiCalls {
        return Ok(data);
    }
    let log = directory.join("vmm.log");
    let log = resources
        .create_resource(log, ResourceType::Created(CreatedResourceType::File))
        .map_err(problem)?;
    data.balloon_device = Some(BalloonDevice {
        amount_mib: 0,
        deflate_on_oom: true,
        stats_polling_interval_s: Some(1),
    });
    data.vsock_device =
        Some(VsockDevice { guest_cid: 3, uds: produced(resources, directory.join("v.sock"))? });
    data.logger_system = Some(LoggerSystem {
        logs: Some(log),
        level: Some(VmmLogLevel::Debug),
        show_level: Some(true),
        show_log_origin: Some(true),
        module: None,
    });
    data.entropy_device = Some(EntropyDevice { rate_limiter: None });
    Ok(data)
}

/// Describes a VM with a drive and nothing else.
fn plain_configuration(resources: &mut Resources, directory: &Path) -> Result<VmConfigurationData> {
    Ok(VmConfigurationData {
        boot_source: BootSource {
            kernel_image: existing(resources, artifacts::lean_kernel())?,
            boot_args: Some(BOOT_ARGS.to_owned()),
            initrd: Some(existing(resources, artifacts::lean_initrd())?),
        },
        drives: vec![Drive {
            drive_id: "data".to_owned(),
            is_root_device: false,
            cache_type: None,
            partuuid: None,
            is_read_only: Some(false),
            block: Some(existing(resources, directory.join("data.img"))?),
            rate_limiter: None,
            io_engine: None,
            socket: None,
        }],
        machine_configuration: MachineConfiguration {
            vcpu_count: 1,
            mem_size_mib: 128,
            smt: Some(false),
            track_dirty_pages: Some(true),
            huge_pages: None,
        },
        cpu_template: None,
        network_interfaces: Vec::new(),
        balloon_device: None,
        vsock_device: None,
        logger_system: None,
        metrics_system: None,
        mmds_configuration: None,
        entropy_device: None,
    })
}

/// Boots by requests, or by a configuration file that the SDK writes.
async fn boot(directory: &Path, by: InitMethod) -> Result<SdkVm> {
    let mut resources = resources();
    let data = configuration(&mut resources, directory, &by)?;
    // It has one VMM and none of the other programs, which nothing here asks for.
    let installation = VmmInstallation::new::<PathBuf>(
        artifacts::vmm(),
        "/nonexistent".into(),
        "/nonexistent".into(),
    );
    let configuration = VmConfiguration::New { init_method: by, data };
    let executor = executor(directory, "one.sock")?;
    let mut vm =
        Vm::prepare(executor, resources, installation, configuration).await.map_err(problem)?;
    vm.start(PATIENCE).await.map_err(problem)?;
    Ok(vm)
}

/// Waits until the guest has printed `expected`.
async fn wait_for(console: &mut (impl AsyncReadExt + Unpin), expected: &str) -> Result<()> {
    let read = async {
        let mut text = Vec::new();
        while !String::from_utf8_lossy(&text).contains(expected) {
            let count = console.read_buf(&mut text).await?;
            let so_far = String::from_utf8_lossy(&text);
            ensure!(count != 0, "the console ended before {expected:?}: {so_far}");
        }
        Ok(())
    };
    tokio::time::timeout(PATIENCE, read).await.with_context(|| format!("{expected:?}"))?
}

/// Asks for what the SDK can ask of a running VM.
async fn ask_around(vm: &mut SdkVm, directory: &Path) -> Result<()> {
    let info = vm.get_info().await.map_err(problem)?;
    ensure!(info.id == ID && !info.is_paused, "{info:?}");
    let version = vm.get_firecracker_version().await.map_err(problem)?;
    ensure!(version == info.vmm_version, "{version}, {info:?}");
    let machine = vm.get_machine_configuration().await.map_err(problem)?;
    ensure!((machine.vcpu_count, machine.mem_size_mib) == (1, 128), "{machine:?}");
    ensure!(machine.track_dirty_pages == Some(true), "{machine:?}");

    vm.create_mmds(json!({ "a": { "b": 1 } })).await.map_err(problem)?;
    vm.update_mmds(json!({ "a": { "c": "2" } })).await.map_err(problem)?;
    let metadata = vm.get_mmds_untyped().await.map_err(problem)?;
    ensure!(metadata == json!({ "a": { "b": 1, "c": "2" } }), "{metadata}");

    vm.update_balloon_device(UpdateBalloonDevice { amount_mib: 8 }).await.map_err(problem)?;
    let balloon = vm.get_balloon_device().await.map_err(problem)?;
    ensure!(balloon.amount_mib == 8, "{balloon:?}");
    let often = UpdateBalloonStatistics { stats_polling_interval_s: 2 };
    vm.update_balloon_statistics(often).await.map_err(problem)?;
    let statistics = vm.get_balloon_statistics().await.map_err(problem)?;
    ensure!(statistics.target_mib == 8, "{statistics:?}");

    let resources = vm.get_resource_system_mut();
    let image = existing(resources, directory.join("other.img"))?;
    image.start_initialization_with_same_path().map_err(problem)?;
    resources.synchronize().await.map_err(problem)?;
    let update =
        UpdateDrive { drive_id: "data".to_owned(), block: Some(image), rate_limiter: None };
    vm.update_drive(update).await.map_err(problem)?;
    vm.flush_metrics().await.map_err(problem)
}

/// Pauses the VM, saves it, and ends it; returns the VM that comes out of the snapshot, running.
async fn save_and_restore(mut vm: SdkVm, directory: &Path) -> Result<SdkVm> {
    vm.pause().await.map_err(problem)?;
    ensure!(vm.get_state() == VmState::Paused, "{}", vm.get_state());
    ensure!(vm.get_info().await.map_err(problem)?.is_paused, "not paused");
    let resources = vm.get_resource_system_mut();
    let create = CreateSnapshot {
        snapshot_type: Some(SnapshotType::Full),
        snapshot: produced(resources, directory.join("vm.state"))?,
        mem_file: produced(resources, directory.join("vm.mem"))?,
    };
    let mut snapshot = vm.create_snapshot(create).await.map_err(problem)?;
    // What the VM has produced goes with it.
    let (state, memory) = (directory.join("copy.state"), directory.join("copy.mem"));
    snapshot.copy(&TokioRuntime, state, memory).await.map_err(problem)?;
    vm.resume().await.map_err(problem)?;
    vm.pause().await.map_err(problem)?;
    vm.shutdown([kill()]).await.map_err(problem)?;

    let options = PrepareVmFromSnapshotOptions {
        executor: executor(directory, "two.sock")?,
        process_spawner: DirectProcessSpawner,
        runtime: TokioRuntime,
        moved_resource_type: MovedResourceType::HardLinkedOrCopied,
        ownership_model: VmmOwnershipModel::Shared,
        enable_diff_snapshots: Some(true),
        resume_vm: Some(true),
    };
    let mut restored = snapshot.prepare_vm(&mut vm, options).await.map_err(problem)?;
    vm.cleanup().await.map_err(problem)?;
    restored.start(PATIENCE).await.map_err(problem)?;
    Ok(restored)
}

fn run(life: impl Future<Output = Result<()>>) -> Result<()> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(life)
}

fn kill() -> VmShutdownAction {
    VmShutdownAction { method: VmShutdownMethod::Kill, timeout: Some(PATIENCE), graceful: false }
}

/// Has the guest power itself off from its shell; the SDK waits for the process's end.
fn by_serial() -> VmShutdownAction {
    VmShutdownAction {
        method: VmShutdownMethod::WriteToSerial(b"poweroff -f\n".to_vec()),
        timeout: Some(PATIENCE),
        graceful: true,
    }
}

#[test]
fn sdk_takes_a_vm_through_its_life_by_its_own_requests_and_snapshots() -> Result<()> {
    let workshop = Workshop::new()?;
    let directory = workshop.path();
    run(async {
        let mut vm = boot(directory, InitMethod::ViaApiCalls).await?;
        let pipes = vm.take_pipes().map_err(problem)?;
        let (mut console, mut input) = (pipes.stdout.into_inner(), pipes.stdin.into_inner());
        wait_for(&mut console, "@@ready@@").await?;
        input.write_all(b"echo $((6 * 7))-is-it\n").await?;
        wait_for(&mut console, "42-is-it").await?;
        ask_around(&mut vm, directory).await?;

        let mut restored = save_and_restore(vm, directory).await?;
        let info = restored.get_info().await.map_err(problem)?;
        ensure!(info.id == ID && !info.is_paused, "{info:?}");
        let outcome = restored.shutdown([by_serial()]).await.map_err(problem)?;
        ensure!(outcome.is_fully_graceful(), "{outcome:?}");
        restored.cleanup().await.map_err(problem)
    })
}

#[test]
fn sdk_boots_a_vm_by_its_own_configuration_file() -> Result<()> {
    let workshop = Workshop::new()?;
    let directory = workshop.path();
    run(async {
        let file = InitMethod::ViaJsonConfiguration(directory.join("config.json"));
        let mut vm = boot(directory, file).await?;
        let info = vm.get_info().await.map_err(problem)?;
        ensure!(info.id == ID && !info.is_paused, "{info:?}");
        let mut console = vm.take_pipes().map_err(problem)?.stdout.into_inner();
        wait_for(&mut console, "@@ready@@").await?;
        vm.shutdown([kill()]).await.map_err(problem)?;
        vm.cleanup().await.map_err(problem)
    })
}
