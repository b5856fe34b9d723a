//! The flags of `vmctl boot`.

use std::path::PathBuf;

use api::config::Transport;
use clap::{Args, ValueEnum};

use super::devices::{ConsoleArg, DiskArg, MemoryArg, NetArg, ShareArg, VsockArg};

/// Boots a guest kernel as a virtual machine and connects this terminal to its console.
///
/// The VM ends when the guest powers off or reboots (exit code 0), panics (3), or fails (1). On a
/// terminal, Ctrl-A x ends it at once and Ctrl-A h lists what else there is. SIGTERM, SIGINT and
/// SIGHUP press the guest's power button; a second one ends the VM at once.
#[derive(Debug, Default, Args)]
pub(crate) struct BootArgs {
    /// The kernel image: a bzImage, or an uncompressed vmlinux (ELF).
    #[arg(long, value_name = "PATH", help_heading = "Boot")]
    pub(crate) kernel: Option<PathBuf>,

    /// The initial RAM disk.
    #[arg(long, value_name = "PATH", help_heading = "Boot")]
    pub(crate) initrd: Option<PathBuf>,

    /// Whether a bzImage is unpacked on the host, once for all boots, instead of in the guest at
    /// each: `auto` where that's possible, or `off`.
    ///
    /// Unpacked kernels are in ~/.cache/vmctl/unpacked, keyed by content. The code that unpacks a
    /// kernel in the guest is also what randomizes its address (KASLR): `off` keeps that.
    #[arg(long, value_name = "WHEN", default_value = "auto", help_heading = "Boot")]
    pub(crate) kernel_cache: KernelCache,

    /// The kernel's command line, which the guest gets exactly as given.
    ///
    /// Without this flag it's `console=ttyS0 reboot=k panic=-1` and, with a disk,
    /// `root=/dev/vda rw` (`ro` for a read-only disk). `--dry-run` shows it.
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true, help_heading = "Boot")]
    pub(crate) cmdline: Option<String>,

    /// A block device; may be given several times. The first is the guest's /dev/vda.
    ///
    /// Options: `ro`; `engine=sync|uring`, how requests are made (the best there is unless given);
    /// `cache=writeback|unsafe|direct`; `iops=N` and `bw=SIZE`, limits per second; `serial=TEXT`, at
    /// most 20 bytes; `queues=N`; `format=raw|qcow2` (raw unless given, never guessed); `id=NAME`.
    /// A comma in a value is written twice.
    #[arg(long = "disk", value_name = "PATH[,OPTION...]", help_heading = "Devices")]
    pub(crate) disks: Vec<DiskArg>,

    /// A network interface on an existing TAP; may be given several times.
    ///
    /// With `socket=PATH` in place of the TAP, it's on the network that a process gives which
    /// listens there, without root (`passt --socket PATH`).
    ///
    /// Options: `mac=ADDRESS` (the guest chooses one unless given); `queues=N` pairs, for a TAP made
    /// with multi_queue; `rx-bw=SIZE`, `tx-bw=SIZE`, `rx-pps=N`, `tx-pps=N`, limits per second as
    /// the guest sees the directions; `id=NAME`.
    #[arg(long = "net", value_name = "tap=NAME[,OPTION...]", help_heading = "Devices")]
    pub(crate) nets: Vec<NetArg>,

    /// A directory, or a single file, of the host's; may be given several times. The guest has all of
    /// them in one by `mount -t virtiofs shares DIR`.
    ///
    /// Each is called NAME there: its number, from 0, unless given. With `:ro` the guest may only
    /// read. A path with `=` in it starts with `./` or `/`.
    #[arg(long = "share", value_name = "[NAME=]DIR[:ro]", help_heading = "Devices")]
    pub(crate) shares: Vec<ShareArg>,

    /// Sockets between host and guest: the guest's context identifier, and the Unix socket on the
    /// host (connect to it and send `CONNECT PORT`).
    #[arg(long, value_name = "cid=N,path=SOCKET", help_heading = "Devices")]
    pub(crate) vsock: Option<VsockArg>,

    /// A source of randomness for the guest.
    #[arg(long, help_heading = "Devices")]
    pub(crate) rng: bool,

    /// A balloon: the guest returns memory that it frees to the host, and never runs out for it.
    #[arg(long, help_heading = "Devices")]
    pub(crate) balloon: bool,

    /// Where the guest's console goes: `stdio`, `file=PATH`, `socket=PATH` or `none`.
    ///
    /// A detached VM's goes to a socket, which `vmctl vm console` connects to.
    ///
    /// Option: `device=serial|virtio`, the device that the guest sees (ttyS0 or hvc0; serial
    /// unless given).
    #[arg(
        long,
        value_name = "stdio|file=PATH|socket=PATH|none[,OPTION]",
        help_heading = "Devices"
    )]
    pub(crate) console: Option<ConsoleArg>,

    /// vCPUs, from 1 to 32 [default: 1]
    #[arg(long, value_name = "N", allow_negative_numbers = true, help_heading = "Machine")]
    pub(crate) cpus: Option<u64>,

    /// Memory, such as 128M or 2G, in whole MiB; the host only gives what the guest uses
    /// [default: 512M]
    #[arg(long, value_name = "SIZE", help_heading = "Machine")]
    pub(crate) memory: Option<MemoryArg>,

    /// How virtio devices are attached [default: pci]
    #[arg(long, value_name = "KIND", help_heading = "Machine")]
    pub(crate) transport: Option<TransportArg>,

    /// Takes guest memory from the host's reserved 2 MiB pages.
    #[arg(long, help_heading = "Machine")]
    pub(crate) hugepages: bool,

    /// A configuration file in the format of Firecracker's --config-file. Other flags replace what
    /// it says; --disk, --net and --share add to its lists.
    #[arg(long, value_name = "FILE", help_heading = "Running")]
    pub(crate) config: Option<PathBuf>,

    /// Checks the configuration, prints it as JSON that --config reads, and boots nothing.
    #[arg(long, help_heading = "Running")]
    pub(crate) dry_run: bool,

    /// The VM's name, by which `vmctl vm` finds it; one is made up unless given.
    #[arg(long, value_name = "NAME", help_heading = "Running")]
    pub(crate) name: Option<String>,

    /// Leaves the VM to itself once its kernel runs, and prints its identifier.
    #[arg(short, long, help_heading = "Running")]
    pub(crate) detach: bool,

    /// The Unix socket of the VM's HTTP API; one in the runtime directory unless given.
    #[arg(long, value_name = "PATH", help_heading = "Running")]
    pub(crate) api_socket: Option<PathBuf>,

    /// Writes when each step of the boot was reached, as JSON lines (CLOCK_MONOTONIC, in ns).
    #[arg(long, value_name = "FILE", help_heading = "Running")]
    pub(crate) timeline: Option<PathBuf>,

    /// How long the guest has to power off once its power button is pressed, in seconds; 0 ends
    /// the VM at once.
    #[arg(
        long,
        value_name = "SECONDS",
        default_value_t = 30,
        allow_negative_numbers = true,
        help_heading = "Running"
    )]
    pub(crate) shutdown_timeout: u32,
}

/// When a bzImage is unpacked on the host.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum KernelCache {
    /// Where it's possible
    #[default]
    Auto,
    /// Never
    Off,
}

/// How virtio devices are attached, as the flag has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum TransportArg {
    /// PCI functions with MSI-X
    Pci,
    /// Memory-mapped registers
    Mmio,
}

impl From<TransportArg> for Transport {
    fn from(arg: TransportArg) -> Self {
        match arg {
            TransportArg::Pci => Self::Pci,
            TransportArg::Mmio => Self::Mmio,
        }
    }
}
