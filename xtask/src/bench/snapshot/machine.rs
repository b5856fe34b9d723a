//! Machines driven over their API, whose guests answer over vsock.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, ensure};
use rustix::fs::{Advice, fadvise};
use serde_json::{Value, json};

use super::super::contender::{CMDLINE, copy};
use super::super::measure::wait_for_mark;
use super::http::Api;
use crate::process;
use metering::Cgroup;

/// Where `guest-answer` listens.
const PORT: u32 = 52;

/// The size of the file system that snapshots are on, in bytes. Its file is sparse.
const DISK_BYTES: u64 = 8 << 30;

/// Programs and guests on a file system that costs next to nothing to read, and an ext4 file system
/// for snapshots: what is in the page cache can be dropped there, unlike in a tmpfs.
pub(super) struct Stage {
    dir: tempfile::TempDir,
}

impl Stage {
    /// Copies what is needed from `programs` and `artifacts`, and mounts the file system.
    ///
    /// # Errors
    ///
    /// Fails when something is missing, or without the right to mount.
    pub(super) fn new(programs: &Path, artifacts: &Path) -> Result<Self> {
        let dir = tempfile::tempdir().context("cannot create a temporary directory")?;
        let stage = Self { dir };
        copy(&programs.join("vmm"), &stage.path("vmm"))?;
        copy(&artifacts.join("lean/vmlinux"), &stage.path("vmlinux"))?;
        copy(&artifacts.join("lean/answer-initrd"), &stage.path("initrd"))?;
        let image = stage.path("disk.img");
        File::create(&image)
            .and_then(|file| file.set_len(DISK_BYTES))
            .and_then(|()| fs::create_dir(stage.path("disk")))
            .with_context(|| format!("cannot create {}", image.display()))?;
        process::run(Command::new("mkfs.ext4").arg("-q").arg(&image))?;
        process::run(
            Command::new("mount").args(["-o", "loop"]).arg(&image).arg(stage.path("disk")),
        )?;
        Ok(stage)
    }

    /// Returns where a file is that costs next to nothing to read and to write.
    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        // The lab ends soon anyway; the directory's own removal would fail without this.
        let _ = process::run(Command::new("umount").arg("--lazy").arg(self.path("disk")));
    }
}

/// The files of a snapshot.
#[derive(Clone)]
pub(super) struct Snapshot {
    pub(super) state: PathBuf,
    pub(super) memory: PathBuf,
    pub(super) working_set: PathBuf,
}

impl Snapshot {
    /// Names the files of the snapshot `name` in `dir`.
    pub(super) fn at(dir: &Path, name: &str) -> Self {
        let path = |kind| dir.join(format!("{name}.{kind}"));
        Self { state: path("state"), memory: path("mem"), working_set: path("ws") }
    }

    /// Has nothing of it in the page cache.
    ///
    /// # Errors
    ///
    /// Fails when a file can't be written back.
    pub(super) fn drop_from_cache(&self) -> Result<()> {
        for path in [&self.state, &self.memory, &self.working_set] {
            if !path.exists() {
                continue;
            }
            // Only what is written back can be dropped.
            let evict = || {
                let file = File::open(path)?;
                file.sync_all()?;
                fadvise(&file, 0, None, Advice::DontNeed).map_err(std::io::Error::from)
            };
            evict().with_context(|| format!("cannot drop {} from the cache", path.display()))?;
        }
        Ok(())
    }

    /// Deletes the files that are there.
    pub(super) fn delete(&self) {
        for path in [&self.state, &self.memory, &self.working_set] {
            // Those that aren't there needn't be.
            let _ = fs::remove_file(path);
        }
    }
}

/// A VMM that is driven over its API. Its cgroup kills it.
pub(super) struct Vmm {
    child: Child,
    /// The connection to its API.
    pub(super) api: Api,
    socket: PathBuf,
    vsock: PathBuf,
}

impl Vmm {
    /// Starts one in `cgroup`, which has no machine yet, and has it answer a first request.
    ///
    /// # Errors
    ///
    /// Fails when it doesn't.
    pub(super) fn start(stage: &Stage, cgroup: &Cgroup, name: &str) -> Result<Self> {
        let socket = stage.path(&format!("{name}.api"));
        let vsock = stage.path(&format!("{name}.vsock"));
        for path in [&socket, &vsock] {
            // Left by one that was killed.
            let _ = fs::remove_file(path);
        }
        let mut vmm = Command::new(stage.path("vmm"));
        vmm.arg("--api-sock").arg(&socket);
        let mut command = cgroup.enter(&vmm);
        // A pipe that stays open: the end of its input would be news to a console.
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let child = command.spawn().map_err(|error| process::spawn_error(&command, error))?;
        let mut api = Api::connect(&socket)?;
        api.get_root()?;
        Ok(Self { child, api, socket, vsock })
    }

    /// Boots a guest, up to where it takes connections.
    ///
    /// # Errors
    ///
    /// Fails when it doesn't come up.
    pub(super) fn boot(&mut self, stage: &Stage, memory_mib: u64, tracked: bool) -> Result<()> {
        let boot = json!({
            "kernel_image_path": stage.path("vmlinux"),
            "initrd_path": stage.path("initrd"),
            "boot_args": CMDLINE,
        });
        let machine = json!({
            "vcpu_count": 1, "mem_size_mib": memory_mib, "track_dirty_pages": tracked,
        });
        self.api.request("PUT", "/boot-source", &boot)?;
        self.api.request("PUT", "/machine-config", &machine)?;
        let vsock = json!({ "guest_cid": 3, "uds_path": self.vsock });
        self.api.request("PUT", "/vsock", &vsock)?;
        self.api.request("PUT", "/actions", &json!({ "action_type": "InstanceStart" }))?;
        wait_for_mark(&mut self.child)
    }

    /// Loads a snapshot; `more` is added to the request.
    ///
    /// # Errors
    ///
    /// Fails when that fails.
    pub(super) fn load(&mut self, snapshot: &Snapshot, more: &Value) -> Result<()> {
        let mut body = json!({
            "snapshot_path": snapshot.state,
            "mem_backend": { "backend_type": "File", "backend_path": snapshot.memory },
            "vsock_override": { "uds_path": self.vsock },
        });
        if let (Some(body), Some(more)) = (body.as_object_mut(), more.as_object()) {
            body.extend(more.clone());
        }
        self.api.request("PUT", "/snapshot/load", &body).map(drop)
    }

    /// Pauses the machine or has it go on.
    ///
    /// # Errors
    ///
    /// Fails when it doesn't.
    pub(super) fn set_state(&mut self, state: &str) -> Result<()> {
        self.api.request("PATCH", "/vm", &json!({ "state": state })).map(drop)
    }

    /// Saves the machine, which is paused.
    ///
    /// # Errors
    ///
    /// Fails when that fails.
    pub(super) fn save(&mut self, snapshot: &Snapshot, kind: &str) -> Result<()> {
        let body = json!({
            "snapshot_type": kind,
            "snapshot_path": snapshot.state,
            "mem_file_path": snapshot.memory,
        });
        self.api.request("PUT", "/snapshot/create", &body).map(drop)
    }

    /// Asks the guest over vsock, and waits until it has done what `line` says.
    ///
    /// # Errors
    ///
    /// Fails when it doesn't answer.
    pub(super) fn ask(&self, line: &str) -> Result<()> {
        let ask = || {
            let stream = UnixStream::connect(&self.vsock)?;
            let mut stream = BufReader::new(stream);
            let mut answer = String::new();
            stream.get_mut().write_all(format!("CONNECT {PORT}\n").as_bytes())?;
            stream.read_line(&mut answer)?;
            stream.get_mut().write_all(format!("{line}\n").as_bytes())?;
            stream.read_line(&mut answer)?;
            Ok::<_, std::io::Error>(answer)
        };
        let answer = ask().context("the guest can't be asked")?;
        ensure!(
            answer.starts_with("OK ") && answer.ends_with("\nok\n"),
            "the guest answered {answer:?}"
        );
        Ok(())
    }

    /// The process.
    pub(super) fn process(&self) -> u32 {
        self.child.id()
    }

    /// Ends the machine by the API, and checks that it takes with it what it made.
    ///
    /// # Errors
    ///
    /// Fails when the process fails or leaves something behind.
    pub(super) fn end(mut self) -> Result<()> {
        self.api.request("POST", "/ext/v1/kill", &Value::Null)?;
        self.child.wait().context("cannot wait for a VMM")?;
        for path in [&self.socket, &self.vsock] {
            ensure!(!path.exists(), "a VMM left {} behind", path.display());
        }
        Ok(())
    }
}

impl Drop for Vmm {
    fn drop(&mut self) {
        // It may have ended by itself; a zombie is all that could be left, and it's reaped here.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
