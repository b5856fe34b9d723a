//! What is known about a kernel once it is loaded, and why one may be refused.

use std::fmt;
use std::io;

use vm_memory::{GuestAddress, GuestMemoryError};

use crate::memory::GuestRange;

/// File format of a kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KernelFormat {
    /// Linux/x86 `bzImage`: a setup header and a kernel that unpacks itself.
    BzImage,
    /// An ELF executable, such as `vmlinux`.
    Elf,
}

impl fmt::Display for KernelFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::BzImage => "bzImage",
            Self::Elf => "ELF",
        })
    }
}

/// Contract between the VMM and the kernel's first instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BootProtocol {
    /// Linux/x86's 64-bit boot protocol: long mode, `boot_params` in RSI.
    Linux64,
    /// The x86/HVM direct boot ABI ("PVH"): 32-bit protected mode, `hvm_start_info` in EBX.
    Pvh,
}

impl fmt::Display for BootProtocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Linux64 => "Linux 64-bit",
            Self::Pvh => "PVH",
        })
    }
}

/// A kernel that lies in guest memory, ready to be entered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KernelInfo {
    /// What the file was.
    pub format: KernelFormat,
    /// How to enter it.
    pub protocol: BootProtocol,
    /// Address of its first instruction.
    pub entry: GuestAddress,
    /// Where the file's bytes were put.
    pub loaded: GuestRange,
    /// What the kernel needs for itself until it manages memory: [`KernelInfo::loaded`], its BSS,
    /// room to unpack. Nothing else may be placed here.
    pub reserved: GuestRange,
    /// First address that no byte of the initial RAM disk may have.
    pub initrd_end_max: GuestAddress,
    /// Longest command line that it takes, in bytes without the terminating NUL.
    pub cmdline_max_bytes: usize,
    /// Version as the kernel file states it.
    pub version: Option<String>,
    /// Header that the boot protocol hands back to the kernel: Linux/x86's setup header, whose
    /// first byte is the file's byte 0x1f1. Empty where the format has none.
    pub boot_header: Vec<u8>,
}

/// Everything that the boot structures tell a kernel, apart from the machine's description.
#[derive(Clone, Copy, Debug)]
pub struct BootInfo<'a> {
    /// The loaded kernel.
    pub kernel: &'a KernelInfo,
    /// Where the initial RAM disk lies.
    pub initrd: Option<GuestRange>,
    /// The kernel's command line.
    pub cmdline: &'a str,
    /// Secret bytes for the kernel's random number generator; empty for none.
    pub rng_seed: &'a [u8],
}

/// A file that goes into guest memory at boot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Image {
    /// The kernel.
    Kernel,
    /// The initial RAM disk.
    Initrd,
}

impl fmt::Display for Image {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Kernel => "kernel",
            Self::Initrd => "initrd",
        })
    }
}

/// Why a kernel, its initial RAM disk or its command line was refused.
#[derive(Debug, thiserror::Error)]
pub enum BootError {
    /// The file can't be read: a directory, a pipe, a failing disk.
    #[error("cannot read the {image}")]
    Read {
        /// Which file.
        image: Image,
        /// What the operating system said.
        source: io::Error,
    },
    /// The file has no bytes.
    #[error("the {image} is empty")]
    Empty {
        /// Which file.
        image: Image,
    },
    /// The file ends before what its own headers announce.
    #[error(
        "the kernel is truncated: {part} goes up to byte {needed_bytes}, the file ends at byte \
         {file_bytes}"
    )]
    Truncated {
        /// What is cut off.
        part: &'static str,
        /// Where it should end.
        needed_bytes: u64,
        /// Where the file ends.
        file_bytes: u64,
    },
    /// The content is no kernel format known here.
    #[error("the kernel is not a kernel image but {found}")]
    Unrecognised {
        /// What the content looks like.
        found: &'static str,
    },
    /// A kernel, but one that only runs in 32-bit mode.
    #[error("the kernel is a 32-bit {format}; only 64-bit kernels can be booted")]
    Not64Bit {
        /// What it is.
        format: KernelFormat,
    },
    /// A kernel for another architecture.
    #[error("the kernel is built for {found}, the guest is {expected}")]
    WrongMachine {
        /// Architecture of the kernel.
        found: &'static str,
        /// Architecture of the guest.
        expected: &'static str,
    },
    /// A kernel of the right kind that lacks something needed to boot it.
    #[error("the kernel cannot be booted: {reason}")]
    Unsupported {
        /// What is missing.
        reason: String,
    },
    /// Headers that contradict themselves or the file.
    #[error("the kernel is malformed: {reason}")]
    Malformed {
        /// The contradiction.
        reason: String,
    },
    /// Guest memory has no room for it.
    #[error("the {image} does not fit into {} MiB of guest memory{}", mib(*ram_bytes), needs(*needed_bytes))]
    DoesNotFit {
        /// Which file.
        image: Image,
        /// Size of the guest's memory.
        ram_bytes: u64,
        /// The least guest memory with which it fits; `None` if no amount helps.
        needed_bytes: Option<u64>,
    },
    /// The command line can't be handed over.
    #[error("the kernel command line {reason}")]
    Cmdline {
        /// What is wrong with it.
        reason: String,
    },
    /// The machine's description exceeds the place reserved for it.
    #[error("the {table} needs {needed_bytes} bytes, {max_bytes} are reserved for it")]
    TableTooLarge {
        /// Which structure.
        table: &'static str,
        /// Its size.
        needed_bytes: usize,
        /// Its place's size.
        max_bytes: usize,
    },
    /// Guest memory isn't what the layout says.
    #[error("cannot write {what} to guest memory at {:#x}", address.0)]
    GuestMemory {
        /// What was written.
        what: &'static str,
        /// Where.
        address: GuestAddress,
        /// What `vm-memory` said.
        source: GuestMemoryError,
    },
}

fn mib(bytes: u64) -> u64 {
    bytes.div_ceil(1 << 20)
}

fn needs(bytes: Option<u64>) -> String {
    match bytes {
        Some(bytes) => format!(": at least {} MiB are needed", mib(bytes)),
        None => ", and would not with more".to_owned(),
    }
}
