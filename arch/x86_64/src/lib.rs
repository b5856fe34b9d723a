//! Boot protocols, ACPI tables, CPUID and register values for x86_64.

mod acpi;
mod boot_data;
pub mod cpu_template;
pub mod cpuid;
pub mod e820;
mod kernel;
pub mod layout;
pub mod msrs;
pub mod page_tables;
pub mod registers;
#[cfg(test)]
mod tests;

use std::io::{Read, Seek};

use arch::{Arch, BootError, BootInfo, BootProtocol, KernelInfo, LayoutError, MemoryLayout};
use vm_memory::{Bytes, GuestMemoryBackend, ReadVolatile};

pub use acpi::Platform;

use boot_data::Write;
use registers::BootState;

/// The x86_64 machine: ACPI, hardware-reduced; PCI or virtio-mmio; no firmware.
#[derive(Clone, Copy, Debug)]
pub struct X86_64;

impl Arch for X86_64 {
    const NAME: &'static str = "x86_64";
    const MAX_VCPUS: u8 = 254;

    type Platform = Platform;
    type BootState = BootState;

    fn memory_layout(ram_bytes: u64, address_bits: u8) -> Result<MemoryLayout, LayoutError> {
        layout::memory_layout(ram_bytes, address_bits)
    }

    fn load_kernel<M, F>(
        memory: &M,
        layout: &MemoryLayout,
        file: &mut F,
    ) -> Result<KernelInfo, BootError>
    where
        M: GuestMemoryBackend,
        F: Read + Seek + ReadVolatile,
    {
        kernel::load(memory, layout, file)
    }

    fn write_boot_data<M: GuestMemoryBackend>(
        memory: &M,
        layout: &MemoryLayout,
        boot: &BootInfo<'_>,
        platform: &Platform,
    ) -> Result<BootState, BootError> {
        let (mut writes, rsdp) = acpi::build(layout, platform)?;
        writes.push(cmdline(boot)?);
        let map = e820::memory_map(layout);
        let state = BootState::new(boot.kernel.protocol, boot.kernel.entry);
        match boot.kernel.protocol {
            BootProtocol::Linux64 => {
                writes.extend(boot_data::linux(boot, &map, rsdp)?);
                let address = layout::PAGE_TABLES.start();
                let bytes = page_tables::identity_map(address);
                writes.push(Write { what: "page tables", address, bytes });
            }
            BootProtocol::Pvh => writes.push(boot_data::pvh(boot, &map, rsdp)?),
        }
        let address = layout::GDT.start();
        writes.push(Write { what: "GDT", address, bytes: state.gdt().to_vec() });
        for Write { what, address, bytes } in writes {
            memory.write_slice(&bytes, address).map_err(|source| BootError::GuestMemory {
                what,
                address,
                source,
            })?;
        }
        Ok(state)
    }
}

/// Checks the command line and terminates it.
fn cmdline(boot: &BootInfo<'_>) -> Result<Write, BootError> {
    let place = layout::CMDLINE;
    let room = usize::try_from(place.size()).unwrap_or(usize::MAX) - 1;
    let max_bytes = boot.kernel.cmdline_max_bytes.min(room);
    let bytes = boot.cmdline.len();
    if bytes > max_bytes {
        let reason = format!("has {bytes} bytes; this kernel takes {max_bytes}");
        return Err(BootError::Cmdline { reason });
    }
    if boot.cmdline.contains('\0') {
        return Err(BootError::Cmdline { reason: "contains a NUL byte".to_owned() });
    }
    let mut bytes = boot.cmdline.as_bytes().to_vec();
    bytes.push(0);
    Ok(Write { what: "command line", address: place.start(), bytes })
}
