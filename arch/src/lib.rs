//! What an architecture must provide to boot a guest: pure functions and plain values, never a KVM handle.
//!
//! The VMM drives one [`Arch`] in this order; each step only needs what the ones before returned:
//!
//! 1. [`Arch::memory_layout`] says where RAM and the device windows lie;
//! 2. [`Arch::load_kernel`] recognises a kernel file by its content and puts it into RAM;
//! 3. [`load_initrd`] puts the initial RAM disk above it;
//! 4. [`Arch::write_boot_data`] writes the boot protocol's structures and the machine's description,
//!    and returns the registers with which the boot vCPU starts.

mod boot;
mod initrd;
mod memory;

use std::io::{Read, Seek};

use vm_memory::{GuestMemoryBackend, ReadVolatile};

pub use boot::{BootError, BootInfo, BootProtocol, Image, KernelFormat, KernelInfo};
pub use initrd::{image_size, load_initrd};
pub use memory::{GuestRange, LayoutError, MemoryLayout, PAGE_SIZE};

/// One guest architecture.
pub trait Arch {
    /// The name users know it by, as `uname -m` prints it.
    const NAME: &'static str;
    /// How many vCPUs the tables and the topology of this crate can describe.
    const MAX_VCPUS: u8;

    /// What the machine's description (ACPI, FDT) has to say about its devices.
    type Platform;
    /// Registers of the boot vCPU at the kernel's first instruction.
    type BootState;

    /// Lays out `ram_bytes` of memory and the device windows in a guest-physical space of
    /// `address_bits` bits.
    ///
    /// # Errors
    /// Memory that isn't a multiple of a page, too little of it for the boot structures, or more
    /// than the address space holds.
    fn memory_layout(ram_bytes: u64, address_bits: u8) -> Result<MemoryLayout, LayoutError>;

    /// Recognises the kernel in `file` by its content and reads it directly into `memory`.
    ///
    /// # Errors
    /// Anything that isn't a 64-bit kernel of this architecture, and one that doesn't fit.
    fn load_kernel<M, F>(
        memory: &M,
        layout: &MemoryLayout,
        file: &mut F,
    ) -> Result<KernelInfo, BootError>
    where
        M: GuestMemoryBackend,
        F: Read + Seek + ReadVolatile;

    /// Writes the command line, the boot protocol's structures and the machine's description into
    /// `memory`, and returns how the boot vCPU must start.
    ///
    /// # Errors
    /// A command line that the kernel can't take, a platform that the tables have no room for.
    fn write_boot_data<M: GuestMemoryBackend>(
        memory: &M,
        layout: &MemoryLayout,
        boot: &BootInfo<'_>,
        platform: &Self::Platform,
    ) -> Result<Self::BootState, BootError>;
}
