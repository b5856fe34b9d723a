//! ACPI tables of a hardware-reduced machine (ACPI 6.5): RSDP, XSDT, FADT, MADT, MCFG, DSDT.

mod dsdt;
mod pci_hotplug;
#[cfg(test)]
mod tests;

use acpi_tables::fadt::{FADT, FADTBuilder, Flags, PmProfile};
use acpi_tables::gas::{AccessSize, AddressSpace, GAS};
use acpi_tables::madt::{EnabledStatus, IoApic, ProcessorLocalApic};
use acpi_tables::mcfg::MCFG;
use acpi_tables::rsdp::Rsdp;
use acpi_tables::sdt::Sdt;
use acpi_tables::xsdt::XSDT;
use acpi_tables::{Aml, AmlSink};
use arch::{BootError, GuestRange, MemoryLayout};
use vm_memory::GuestAddress;

use crate::boot_data::Write;
use crate::layout::{self, ports};

pub(crate) const OEM_ID: [u8; 6] = *b"VMCTL ";
pub(crate) const OEM_TABLE_ID: [u8; 8] = *b"VMCTL   ";
pub(crate) const OEM_REVISION: u32 = 1;

/// FADT, IA-PC boot architecture flags (ACPI 6.5 §5.2.9.3): no VGA to probe for, no PCIe power
/// states to manage. Neither a keyboard controller nor other legacy devices are announced: those
/// that exist are in the DSDT.
const BOOT_ARCH_NO_VGA: u16 = 1 << 2;
const BOOT_ARCH_NO_ASPM: u16 = 1 << 4;

/// Length of a table's header.
const HEADER_BYTES: u32 = 36;
/// Revision of ACPI 6.5's MADT. `acpi_tables` has one of revision 1, of which the flag "online
/// capable" isn't part.
const MADT_REVISION: u8 = 6;

/// Tables start at multiples of this.
const ALIGNMENT: u64 = 16;

/// What the tables have to say about a machine, beside its [`MemoryLayout`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Platform {
    /// How many vCPUs, at most 254: an xAPIC ID is a byte, and 255 means all.
    pub vcpus: u8,
    /// Whether there is a PCI bus, with hot-plug.
    pub pci: bool,
    /// virtio-mmio register blocks and their interrupts (GSIs).
    pub virtio_mmio: Vec<(GuestRange, u32)>,
}

/// Builds all tables, and returns them with the RSDP's address.
///
/// # Errors
/// [`BootError::TableTooLarge`] when they don't fit in their place.
pub(crate) fn build(
    layout: &MemoryLayout,
    platform: &Platform,
) -> Result<(Vec<Write>, GuestAddress), BootError> {
    let place = layout::ACPI_TABLES;
    let rsdp_address = place.start();
    let mut next = (place.start().0 + Rsdp::len() as u64).next_multiple_of(ALIGNMENT);
    let mut writes = Vec::new();
    let mut put = |what, bytes: Vec<u8>| {
        let address = GuestAddress(next);
        next = (next + bytes.len() as u64).next_multiple_of(ALIGNMENT);
        writes.push(Write { what, address, bytes });
        address.0
    };
    let dsdt = put("DSDT", dsdt::build(layout, platform));
    let mut xsdt = XSDT::new(OEM_ID, OEM_TABLE_ID, OEM_REVISION);
    xsdt.add_entry(put("FADT", bytes(&fadt(dsdt))));
    xsdt.add_entry(put("MADT", madt(platform.vcpus)));
    if platform.pci {
        xsdt.add_entry(put("MCFG", bytes(&mcfg(layout))));
    }
    let xsdt = put("XSDT", bytes(&xsdt));
    let bytes = bytes(&Rsdp::new(OEM_ID, xsdt));
    writes.push(Write { what: "RSDP", address: rsdp_address, bytes });
    if next > place.end().0 {
        return Err(BootError::TableTooLarge {
            table: "ACPI description",
            needed_bytes: usize::try_from(next - place.start().0).unwrap_or(usize::MAX),
            max_bytes: usize::try_from(place.size()).unwrap_or(usize::MAX),
        });
    }
    Ok((writes, rsdp_address))
}

/// The fixed description: hardware-reduced, so that everything but power is in the DSDT.
fn fadt(dsdt: u64) -> FADT {
    let port =
        |port: u16| GAS::new(AddressSpace::SystemIo, 8, 0, AccessSize::ByteAccess, port.into());
    let mut table = FADTBuilder::new(OEM_ID, OEM_TABLE_ID, OEM_REVISION)
        .dsdt_64(dsdt)
        .preferred_pm_profile(PmProfile::EnterpriseServer)
        .flag(Flags::HwReducedAcpi)
        .flag(Flags::ResetRegSup)
        .flag(Flags::Wbinvd)
        .flag(Flags::Headless)
        // Power and sleep buttons are devices, where there are any (ACPI 6.5 Table 5.10).
        .flag(Flags::PwrButton)
        .flag(Flags::SlpButton);
    table.iapc_boot_arch = (BOOT_ARCH_NO_VGA | BOOT_ARCH_NO_ASPM).into();
    table.reset_reg = port(ports::RESET);
    table.reset_value = ports::RESET_VALUE;
    table.sleep_control_reg = port(ports::SLEEP_CONTROL);
    table.sleep_status_reg = port(ports::SLEEP_STATUS);
    table.finalize()
}

/// Local APICs, of which the vCPU's index is the ID, and the one I/O APIC (ACPI 6.5 §5.2.12). No
/// flags: with hardware-reduced ACPI nobody uses the PC's pair of 8259s.
fn madt(vcpus: u8) -> Vec<u8> {
    let address = |address: GuestAddress| u32::try_from(address.0).unwrap_or(u32::MAX);
    let mut table =
        Sdt::new(*b"APIC", HEADER_BYTES, MADT_REVISION, OEM_ID, OEM_TABLE_ID, OEM_REVISION);
    table.append(address(layout::LOCAL_APIC).to_le());
    table.append(0_u32);
    for index in 0..vcpus {
        let local = ProcessorLocalApic::new(index, index, EnabledStatus::Enabled);
        table.append_slice(&bytes(&local));
    }
    table.append_slice(&bytes(&IoApic::new(0, address(layout::IOAPIC), 0)));
    table.as_slice().to_vec()
}

/// Where PCI's configuration space is: one bus for each MiB.
fn mcfg(layout: &MemoryLayout) -> MCFG {
    let mut table = MCFG::new(OEM_ID, OEM_TABLE_ID, OEM_REVISION);
    table.add_ecam(layout.pci_ecam.start().0, 0, 0, last_bus(layout));
    table
}

/// Returns the number of the last bus in the ECAM window.
fn last_bus(layout: &MemoryLayout) -> u8 {
    u8::try_from((layout.pci_ecam.size() >> 20).saturating_sub(1)).unwrap_or(u8::MAX)
}

fn bytes(table: &dyn Aml) -> Vec<u8> {
    let mut bytes = Vec::new();
    table.to_aml_bytes(&mut bytes);
    bytes
}

/// AML that is built already.
struct Built(Vec<u8>);

impl Aml for Built {
    fn to_aml_bytes(&self, sink: &mut dyn AmlSink) {
        sink.vec(&self.0);
    }
}
