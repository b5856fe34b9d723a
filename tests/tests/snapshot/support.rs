//! What the tests of this suite share: a directory with snapshots in it, and VMs out of them.

use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use api::action::VmmAction;
use api::config::{BalloonSpec, DriveSpec, EntropySpec, VmSpec, VsockSpec};
use api::ext::{ForkParams, ForkReport};
use api::v1::{
    BalloonUpdate, CreateSnapshotParams, LoadSnapshotParams, MemoryBackend, MemoryBackendType,
    SnapshotType, VsockOverride,
};
use integration_tests::PATIENCE;
use integration_tests::api_vm::ApiVm;
use integration_tests::guest::Guest;
use integration_tests::transfer::random_bytes;
use integration_tests::vsock;
use tempfile::TempDir;

/// A guest in a VM that's driven over its API.
pub(crate) type ApiGuest = Guest<ApiVm>;

/// The scratch disk's name on the host's side.
pub(crate) const SCRATCH: &str = "scratch";

/// The port at which the guest sends back what it gets.
pub(crate) const ECHO_PORT: u32 = 5000;

/// The size of the scratch disk in bytes.
const SCRATCH_BYTES: u64 = 64 << 20;

/// Where one test keeps its VMs' sockets, disks and snapshots.
pub(crate) struct Place {
    directory: TempDir,
    name: String,
}

impl Place {
    /// Makes one for the test `name`.
    pub(crate) fn new(name: &str) -> Result<Self> {
        Ok(Self { directory: tempfile::tempdir()?, name: name.to_owned() })
    }

    /// Returns the directory.
    pub(crate) fn path(&self) -> &Path {
        self.directory.path()
    }

    /// Returns the path of a file in it.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.path().join(name)
    }

    /// Starts a `vmm`, told from the test's others by `suffix`.
    pub(crate) fn vmm(&self, suffix: &str) -> Result<ApiVm> {
        ApiVm::spawn(&format!("{}_{suffix}", self.name), self.path())
    }

    /// Boots what `spec` describes.
    pub(crate) fn boot(&self, suffix: &str, spec: VmSpec) -> Result<ApiGuest> {
        self.vmm(suffix)?.boot(spec)
    }

    /// Brings back what is in `pair`, with memory mapped from its file.
    pub(crate) fn restore(&self, suffix: &str, pair: &Pair) -> Result<ApiGuest> {
        self.vmm(suffix)?.restore(pair.load())
    }

    /// Names a snapshot's files.
    pub(crate) fn pair(&self, name: &str) -> Pair {
        Pair {
            state: self.file(&format!("{name}.state")),
            memory: self.file(&format!("{name}.memory")),
        }
    }

    /// Makes an empty disk and describes it as the drive [`SCRATCH`].
    pub(crate) fn scratch(&self) -> Result<DriveSpec> {
        self.drive(SCRATCH, SCRATCH_BYTES)
    }

    /// Makes an empty disk of so many bytes and describes it.
    pub(crate) fn drive(&self, id: &str, bytes: u64) -> Result<DriveSpec> {
        let path = self.file(&format!("{id}.img"));
        File::create(&path)?.set_len(bytes)?;
        Ok(DriveSpec { drive_id: id.to_owned(), path_on_host: Some(path), ..DriveSpec::default() })
    }

    /// Describes the socket device whose Unix socket has this name.
    pub(crate) fn vsock(&self, name: &str) -> VsockSpec {
        VsockSpec { vsock_id: None, guest_cid: 42, uds_path: self.file(name) }
    }

    /// Adds a scratch disk, sockets, randomness and a balloon to `spec`.
    pub(crate) fn with_devices(&self, mut spec: VmSpec) -> Result<VmSpec> {
        spec.drives.push(self.scratch()?);
        spec.vsock = Some(self.vsock("vsock"));
        spec.entropy = Some(EntropySpec::default());
        spec.balloon = Some(BalloonSpec::default());
        Ok(spec)
    }

    /// Lists the names of the files in the directory, sorted.
    pub(crate) fn listing(&self) -> Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in std::fs::read_dir(self.path())? {
            names.push(entry?.file_name().to_string_lossy().into_owned());
        }
        names.sort();
        Ok(names)
    }
}

/// The two files of a snapshot.
#[derive(Clone, Debug)]
pub(crate) struct Pair {
    /// The state file.
    pub(crate) state: PathBuf,
    /// The memory file.
    pub(crate) memory: PathBuf,
}

impl Pair {
    /// Has the paused machine saved to these files.
    pub(crate) fn create(&self, guest: &mut ApiGuest, snapshot_type: SnapshotType) -> Result<()> {
        guest.vm.api.create_snapshot(self.create_params(snapshot_type)).context("create a snapshot")
    }

    /// Has the machine paused, saved to these files, and resumed.
    pub(crate) fn take(&self, guest: &mut ApiGuest, snapshot_type: SnapshotType) -> Result<()> {
        guest.vm.api.pause()?;
        self.create(guest, snapshot_type)?;
        guest.vm.api.resume()?;
        Ok(())
    }

    /// Has the machine paused and saved to these files, and kills the `vmm`.
    pub(crate) fn take_and_kill(
        &self,
        mut guest: ApiGuest,
        snapshot_type: SnapshotType,
    ) -> Result<()> {
        guest.vm.api.pause()?;
        self.create(&mut guest, snapshot_type)?;
        guest.vm.kill()
    }

    /// Has the running machine forked to these files.
    pub(crate) fn fork(&self, guest: &mut ApiGuest) -> Result<ForkReport> {
        let params = ForkParams {
            snapshot_path: self.state.clone(),
            mem_file_path: self.memory.clone(),
            drives: Vec::new(),
        };
        guest.vm.api.fork(params).context("fork")
    }

    /// Describes the request that saves a machine to these files.
    pub(crate) fn create_params(&self, snapshot_type: SnapshotType) -> CreateSnapshotParams {
        CreateSnapshotParams {
            snapshot_type,
            snapshot_path: self.state.clone(),
            mem_file_path: self.memory.clone(),
        }
    }

    /// Describes the request that brings the machine back, with memory mapped from its file.
    pub(crate) fn load(&self) -> LoadSnapshotParams {
        self.load_from(MemoryBackendType::File, &self.memory)
    }

    /// The same with memory from elsewhere.
    pub(crate) fn load_from(
        &self,
        backend_type: MemoryBackendType,
        path: &Path,
    ) -> LoadSnapshotParams {
        let backend = MemoryBackend { backend_type, backend_path: path.to_owned() };
        LoadSnapshotParams::new(self.state.clone(), backend)
    }

    /// The same as [`load`](Self::load) with another socket for the guest's sockets.
    pub(crate) fn load_with_socket(&self, uds_path: PathBuf) -> LoadSnapshotParams {
        LoadSnapshotParams { vsock_override: Some(VsockOverride { uds_path }), ..self.load() }
    }

    /// Reads all of both files and finds nothing wrong.
    pub(crate) fn verify(&self) -> Result<()> {
        let verify = snapshot::Verify::Content;
        let report = snapshot::inspect(&self.state, Some(&self.memory), verify)?;
        ensure!(report.problems.is_empty(), "{report}");
        Ok(())
    }
}

/// What a Debian guest does with the devices of [`Place::with_devices`].
pub(crate) trait Devices {
    /// Has the guest send back what connections to [`ECHO_PORT`] carry.
    fn start_echo(&mut self) -> Result<()>;

    /// Requires progress of every device: disk, sockets (whose Unix socket is `socket`), randomness
    /// and balloon. That of the serial port shows by itself.
    fn check_devices(&mut self, socket: &Path) -> Result<()>;
}

impl Devices for ApiGuest {
    fn start_echo(&mut self) -> Result<()> {
        self.run(&format!(
            "socat -d -d VSOCK-LISTEN:{ECHO_PORT},fork PIPE 2>/tmp/echo & \
             until grep -q 'listening on' /tmp/echo; do sleep 0.1; done"
        ))?;
        Ok(())
    }

    fn check_devices(&mut self, socket: &Path) -> Result<()> {
        self.run(
            "head -c 262144 /dev/urandom >/tmp/check && \
             dd if=/tmp/check of=/dev/vdb bs=64k seek=512 conv=fsync 2>/dev/null && \
             dd if=/dev/vdb bs=64k skip=512 count=4 iflag=direct 2>/dev/null | cmp - /tmp/check",
        )
        .context("the disk")?;
        echo(socket).context("the sockets")?;
        ensure!(self.run("head -c 64 /dev/hwrng | wc -c")? == "64", "the source of randomness");
        for amount_mib in [32, 0] {
            self.vm.api.act(&VmmAction::UpdateBalloon(BalloonUpdate { amount_mib }))?;
            // What the guest says that it has handed over, in pages of 4 KiB.
            let wanted = format!("}} {}", amount_mib * 256);
            let deadline = Instant::now() + PATIENCE;
            while !self.vm.api.metrics()?.lines().any(|line| {
                line.starts_with("vmctl_balloon_actual_pages") && line.ends_with(&wanted)
            }) {
                ensure!(Instant::now() < deadline, "the balloon of {amount_mib} MiB");
                std::thread::sleep(Duration::from_millis(100));
            }
        }
        Ok(())
    }
}

/// Sends the guest something and gets it back.
pub(crate) fn echo(socket: &Path) -> Result<()> {
    let mut stream = vsock::connect(socket, ECHO_PORT)?.context("nobody listens in the guest")?;
    let sent = random_bytes(32 << 10)?;
    stream.get_mut().write_all(&sent)?;
    let mut back = vec![0; sent.len()];
    stream.read_exact(&mut back)?;
    ensure!(back == sent, "the guest sent back something else");
    Ok(())
}
