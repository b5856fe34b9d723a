//! The DSDT: devices that no bus announces, in AML (ACPI 6.5 §20).

use acpi_tables::Aml;
use acpi_tables::aml::{
    AddressSpace, AddressSpaceCacheable, Arg, Device, EISAName, Equal, IO, If, Interrupt,
    Memory32Fixed, Method, Name, Notify, Package, Path, ResourceTemplate, Scope,
};
use acpi_tables::sdt::Sdt;
use arch::{GuestRange, MemoryLayout};

use super::{
    Built, HEADER_BYTES, OEM_ID, OEM_REVISION, OEM_TABLE_ID, Platform, bytes, last_bus, pci_hotplug,
};
use crate::layout::ports::{self, PortRange};
use crate::layout::{self, gsi};

/// `Notify` on a power button: it was pressed (ACPI 6.5 Table 5.165).
const BUTTON_PRESSED: u8 = 0x80;
/// `Notify` on a VM generation counter: it has changed (Microsoft's "Virtual Machine Generation
/// ID", 2012).
const GENERATION_CHANGED: u8 = 0x80;

/// Builds the table.
pub(super) fn build(layout: &MemoryLayout, platform: &Platform) -> Vec<u8> {
    let mut table = Sdt::new(*b"DSDT", HEADER_BYTES, 2, OEM_ID, OEM_TABLE_ID, OEM_REVISION);
    for vcpu in 0..platform.vcpus {
        table.append_slice(&processor(vcpu));
    }
    if platform.pci {
        table.append_slice(&pci_host_bridge(layout));
        table.append_slice(&ecam_reservation(layout));
        table.append_slice(&pci_hotplug::build());
    }
    for (index, (registers, interrupt)) in platform.virtio_mmio.iter().enumerate() {
        table.append_slice(&virtio_mmio(index, registers, *interrupt));
    }
    table.append_slice(&serial());
    table.append_slice(&ports_device("RTC0", &EISAName::new("PNP0B00"), ports::RTC));
    table.append_slice(&ports_device("PVPN", &"QEMU0001", ports::PVPANIC));
    table.append_slice(&power_button());
    table.append_slice(&generation_id());
    table.append_slice(&events(platform));
    table.append_slice(&soft_off());
    table.update_checksum();
    table.as_slice().to_vec()
}

fn in_system_bus(device: &dyn Aml) -> Vec<u8> {
    bytes(&Scope::new(Path::new("\\_SB_"), vec![device]))
}

/// A processor device, matched with the MADT's local APIC by its _UID.
fn processor(vcpu: u8) -> Vec<u8> {
    in_system_bus(&Device::new(
        Path::new(&format!("C{vcpu:03X}")),
        vec![&Name::new(Path::new("_HID"), &"ACPI0007"), &Name::new(Path::new("_UID"), &vcpu)],
    ))
}

/// The root of PCI, with the windows that BARs may be in. There's no _PRT: functions have MSI-X
/// only. There's no _OSC either, so that Linux leaves hot plug, power events and error reporting
/// alone: all of them belong to root ports, of which there are none.
fn pci_host_bridge(layout: &MemoryLayout) -> Vec<u8> {
    let window32 = AddressSpace::<u32>::new_memory(
        AddressSpaceCacheable::NotCacheable,
        true,
        low_u32(layout.pci_mmio32.start().0),
        low_u32(layout.pci_mmio32.end().0 - 1),
        None,
    );
    let window64 = AddressSpace::<u64>::new_memory(
        AddressSpaceCacheable::NotCacheable,
        true,
        layout.pci_mmio64.start().0,
        layout.pci_mmio64.end().0 - 1,
        None,
    );
    in_system_bus(&Device::new(
        Path::new("PCI0"),
        vec![
            &Name::new(Path::new("_HID"), &EISAName::new("PNP0A08")),
            &Name::new(Path::new("_CID"), &EISAName::new("PNP0A03")),
            &Name::new(Path::new("_SEG"), &0_u8),
            &Name::new(Path::new("_BBN"), &0_u8),
            &Name::new(Path::new("_UID"), &0_u8),
            &Name::new(Path::new("_CCA"), &1_u8),
            &Name::new(
                Path::new("_CRS"),
                &ResourceTemplate::new(vec![
                    &AddressSpace::<u16>::new_bus_number(0, last_bus(layout).into()),
                    // Configuration mechanism 1.
                    &IO::new(0xcf8, 0xcf8, 1, 8),
                    &window32,
                    &window64,
                ]),
            ),
        ],
    ))
}

/// Tells that nobody else may use the ECAM window (PCI Firmware 3.0 §4.1.2).
fn ecam_reservation(layout: &MemoryLayout) -> Vec<u8> {
    in_system_bus(&Device::new(
        Path::new("ECAM"),
        vec![
            &Name::new(Path::new("_HID"), &EISAName::new("PNP0C02")),
            &Name::new(Path::new("_UID"), &0_u8),
            &Name::new(
                Path::new("_CRS"),
                &ResourceTemplate::new(vec![&fixed_memory(&layout.pci_ecam)]),
            ),
        ],
    ))
}

fn virtio_mmio(index: usize, registers: &GuestRange, interrupt: u32) -> Vec<u8> {
    in_system_bus(&Device::new(
        Path::new(&format!("V{index:03X}")),
        vec![
            &Name::new(Path::new("_HID"), &"LNRO0005"),
            &Name::new(Path::new("_UID"), &index),
            &Name::new(Path::new("_CCA"), &1_u8),
            &Name::new(
                Path::new("_CRS"),
                &ResourceTemplate::new(vec![&fixed_memory(registers), &edge(interrupt)]),
            ),
        ],
    ))
}

fn serial() -> Vec<u8> {
    in_system_bus(&Device::new(
        Path::new("COM1"),
        vec![
            &Name::new(Path::new("_HID"), &EISAName::new("PNP0501")),
            &Name::new(Path::new("_UID"), &0_u8),
            &Name::new(
                Path::new("_CRS"),
                &ResourceTemplate::new(vec![&io(ports::COM1), &edge(gsi::COM1)]),
            ),
        ],
    ))
}

/// A device that is a few ports and nothing else.
fn ports_device(name: &str, hardware_id: &dyn Aml, ports: PortRange) -> Vec<u8> {
    in_system_bus(&Device::new(
        Path::new(name),
        vec![
            &Name::new(Path::new("_HID"), hardware_id),
            &Name::new(Path::new("_UID"), &0_u8),
            &Name::new(Path::new("_CRS"), &ResourceTemplate::new(vec![&io(ports)])),
        ],
    ))
}

/// A power button, which an event presses.
fn power_button() -> Vec<u8> {
    in_system_bus(&Device::new(
        Path::new("PWRB"),
        vec![
            &Name::new(Path::new("_HID"), &EISAName::new("PNP0C0C")),
            &Name::new(Path::new("_UID"), &0_u8),
        ],
    ))
}

/// The VM generation ID: where in memory it is (Microsoft's "Virtual Machine Generation ID", 2012).
/// Drivers know the compatible name; every VMM has a name of its own before that.
fn generation_id() -> Vec<u8> {
    let address = layout::VM_GENERATION_ID.start().0;
    in_system_bus(&Device::new(
        Path::new("VGEN"),
        vec![
            &Name::new(Path::new("_HID"), &"VMCT0001"),
            &Name::new(Path::new("_CID"), &"VM_Gen_Counter"),
            &Name::new(Path::new("_DDN"), &"VM_Gen_Counter"),
            &Name::new(
                Path::new("ADDR"),
                &Package::new(vec![&low_u32(address), &low_u32(address >> 32)]),
            ),
        ],
    ))
}

/// The generic event device (ACPI 6.5 §5.6.9). Each sort of event has an interrupt of its own, so
/// that nothing has to be read to tell them apart.
fn events(platform: &Platform) -> Vec<u8> {
    let notify = |device: &str, value: u8| bytes(&Notify::new(&Path::new(device), &value));
    let mut events = vec![
        (gsi::GED, notify("\\_SB_.PWRB", BUTTON_PRESSED)),
        (gsi::VM_GENERATION_ID, notify("\\_SB_.VGEN", GENERATION_CHANGED)),
    ];
    if platform.pci {
        events.push((gsi::PCI_HOTPLUG, pci_hotplug::call_check()));
    }
    let interrupts: Vec<_> = events.iter().map(|(gsi, _)| edge(*gsi)).collect();
    let handlers: Vec<_> = events
        .into_iter()
        .map(|(gsi, action)| {
            Built(bytes(&If::new(&Equal::new(&Arg(0), &gsi), vec![&Built(action)])))
        })
        .collect();
    let interrupts = interrupts.iter().map(|interrupt| interrupt as &dyn Aml).collect();
    let handlers = handlers.iter().map(|handler| handler as &dyn Aml).collect();
    in_system_bus(&Device::new(
        Path::new("GED_"),
        vec![
            &Name::new(Path::new("_HID"), &"ACPI0013"),
            &Name::new(Path::new("_UID"), &0_u8),
            &Name::new(Path::new("_CRS"), &ResourceTemplate::new(interrupts)),
            &Method::new(Path::new("_EVT"), 1, true, handlers),
        ],
    ))
}

/// The sleep type of S5, soft off (ACPI 6.5 §7.4.2).
fn soft_off() -> Vec<u8> {
    bytes(&Name::new(
        Path::new("_S5_"),
        &Package::new(vec![&ports::S5_SLEEP_TYPE, &0_u8, &0_u8, &0_u8]),
    ))
}

fn io(ports: PortRange) -> IO {
    IO::new(ports.base, ports.base, 1, ports.count)
}

/// An edge-triggered, active-high, unshared interrupt.
fn edge(gsi: u32) -> Interrupt {
    Interrupt::new(true, true, false, false, gsi)
}

fn fixed_memory(range: &GuestRange) -> Memory32Fixed {
    Memory32Fixed::new(true, low_u32(range.start().0), low_u32(range.size()))
}

/// Returns an address of the gap below 4 GiB as 32 bits.
fn low_u32(address: u64) -> u32 {
    u32::try_from(address).unwrap_or(u32::MAX)
}
