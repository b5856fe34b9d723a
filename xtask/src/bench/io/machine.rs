//! The machines that the loads run in: the same kernel, root disk, and device under load.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use serde_json::json;

use super::super::contender::{CMDLINE, copy};
use super::Contender;
use crate::process;

/// The size of the disk under load.
pub(super) const DISK_MIB: usize = 64;

/// The host's address on the TAP device, in a network of its own.
pub(super) const HOST_ADDRESS: &str = "172.30.0.1";

/// The TAP device, made once: it outlives the machines that are attached to it in turns.
const TAP: &str = "xtaskbench0";

/// The same card for everyone, so that nobody has to be asked for its address again.
const MAC: &str = "52:54:00:12:34:56";

const MEMORY_MIB: u64 = 512;

/// Finds the disk under load, or the card, in the guest and makes it ready.
pub(super) fn guest_setup(contender: Contender) -> &'static str {
    if contender.is_net() {
        "for i in /sys/class/net/*; do [ ! -e $i/device ] || card=${i##*/}; done; \
         ip addr add 172.30.0.2/24 dev $card && ip link set $card up && \
         ping -c 1 -W 60 172.30.0.1"
    } else {
        "disk=$(grep -lx bench /sys/block/vd*/serial) && disk=${disk%/serial} && \
         disk=/dev/${disk##*/} && [ -b $disk ]"
    }
}

/// What the machines are made of, on a file system that costs next to nothing to read. Only the
/// root disk stays where it is: nothing is read from it any more when a load is measured.
pub(super) struct Stage {
    dir: tempfile::TempDir,
    root_disk: PathBuf,
}

impl Stage {
    /// Copies what is needed from `programs` and `artifacts`, fills a disk and makes a TAP device.
    ///
    /// # Errors
    ///
    /// Fails when something is missing, or without the right to make a TAP device.
    pub(super) fn new(programs: &Path, artifacts: &Path) -> Result<Self> {
        let dir = tempfile::tempdir().context("cannot create a temporary directory")?;
        let stage = Self { dir, root_disk: artifacts.join("debian/root.img") };
        copy(&programs.join("vmm"), &stage.path("vmm"))?;
        copy(&artifacts.join("lean/vmlinux"), &stage.path("vmlinux"))?;
        copy(&artifacts.join("debian/shell-initrd"), &stage.path("initrd"))?;
        fill_disk(&stage.path("disk"))?;
        for contender in Contender::BLOCK.into_iter().chain(Contender::NET) {
            let file = stage.config_path(contender);
            fs::write(&file, stage.config(contender).to_string())
                .with_context(|| format!("cannot write {}", file.display()))?;
        }
        make_tap()?;
        Ok(stage)
    }

    /// Returns the command that starts the machine, its console on standard streams.
    pub(super) fn command(&self, contender: Contender) -> Command {
        if contender.baseline() == contender {
            return self.qemu(contender);
        }
        let mut command = Command::new(self.path("vmm"));
        command.arg("--no-api").arg("--config-file").arg(self.config_path(contender));
        command
    }

    fn qemu(&self, contender: Contender) -> Command {
        let mut command = Command::new("qemu-system-x86_64");
        command.args(["-M", "microvm", "-accel", "kvm", "-cpu", "host", "-smp", "1"]);
        command.args(["-m", &format!("{MEMORY_MIB}M"), "-nodefaults", "-no-user-config"]);
        command.args(["-no-reboot", "-display", "none", "-serial", "stdio"]);
        // The virtio of today, as ours, not the draft before 1.0.
        command.args(["-global", "virtio-mmio.force-legacy=off"]);
        command.arg("-kernel").arg(self.path("vmlinux"));
        command.arg("-initrd").arg(self.path("initrd"));
        command.args(["-append", CMDLINE]);
        let drive = |id: &str, path: &Path, more: &str| {
            format!("id={id},file={},format=raw,if=none,{more}", path.display())
        };
        command.args(["-drive", &drive("root", &self.root_disk, "readonly=on")]);
        command.args(["-device", "virtio-blk-device,drive=root,serial=root"]);
        if contender.is_net() {
            let tap = format!("tap,id=net,ifname={TAP},script=no,downscript=no,vhost=off");
            command.args(["-netdev", &tap]);
            command.args(["-device", &format!("virtio-net-device,netdev=net,mac={MAC}")]);
        } else {
            let aio = if contender == Contender::QemuUring { "io_uring" } else { "threads" };
            let more = format!("cache=writeback,aio={aio}");
            command.args(["-drive", &drive("bench", &self.path("disk"), &more)]);
            command.args(["-device", "virtio-blk-device,drive=bench,serial=bench"]);
        }
        command
    }

    /// Returns our VMM's configuration.
    fn config(&self, contender: Contender) -> serde_json::Value {
        let pci = matches!(contender, Contender::VmmUringPci | Contender::VmmNetPci);
        let engine = if contender == Contender::VmmSync { "Sync" } else { "Async" };
        let root = json!({
            "drive_id": "root", "path_on_host": self.root_disk, "is_read_only": true,
        });
        let mut config = json!({
            "boot-source": {
                "kernel_image_path": self.path("vmlinux"),
                "initrd_path": self.path("initrd"),
                "boot_args": CMDLINE,
            },
            "machine-config": {
                "vcpu_count": 1,
                "mem_size_mib": MEMORY_MIB,
                "transport": if pci { "pci" } else { "mmio" },
            },
            "drives": [root],
        });
        if contender.is_net() {
            config["network-interfaces"] =
                json!([{ "iface_id": "net", "host_dev_name": TAP, "guest_mac": MAC }]);
        } else {
            config["drives"] = json!([root, {
                "drive_id": "bench", "path_on_host": self.path("disk"),
                "cache_type": "Writeback", "io_engine": engine,
            }]);
        }
        config
    }

    fn config_path(&self, contender: Contender) -> PathBuf {
        self.path(&format!("{contender:?}.json"))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }
}

/// Fills a disk image: reading holes would be something else than reading.
fn fill_disk(path: &Path) -> Result<()> {
    let content = vec![0xa5; 1 << 20];
    let fill = || {
        let mut file = File::create(path)?;
        (0..DISK_MIB).try_for_each(|_| file.write_all(&content))
    };
    fill().with_context(|| format!("cannot write {}", path.display()))
}

fn make_tap() -> Result<()> {
    for arguments in [
        &["tuntap", "add", "dev", TAP, "mode", "tap", "vnet_hdr"][..],
        &["addr", "add", &format!("{HOST_ADDRESS}/24"), "dev", TAP],
        &["link", "set", "dev", TAP, "up"],
    ] {
        process::run(Command::new("ip").args(arguments))?;
    }
    Ok(())
}
