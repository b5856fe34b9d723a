//! The guest-physical map, I/O ports and interrupts of the x86_64 machine.
//!
//! | guest-physical range | what lies there |
//! | --- | --- |
//! | `0x0000_0000..0x0000_1000` | nothing: Linux never uses page 0 |
//! | `0x0000_1000..0x0000_2000` | GDT |
//! | `0x0000_2000..0x0000_3000` | `boot_params`, the "zero page" (64-bit Linux protocol) |
//! | `0x0000_3000..0x0000_5000` | `hvm_start_info`, its module list and memory map (PVH) |
//! | `0x0000_5000..0x0000_6000` | `setup_data` list |
//! | `0x0000_8000..0x0000_e000` | page tables that map the first 4 GiB one to one |
//! | `0x0001_0000..0x0002_0000` | command line |
//! | `0x000a_0000..0x000e_0000` | nothing: on a PC, video memory and option ROMs |
//! | `0x000e_0000..0x000f_f000` | ACPI tables, the RSDP first |
//! | `0x000f_f000..0x0010_0000` | VM generation ID, reserved |
//! | `0x0010_0000..` | RAM: the kernel at its preferred address (usually 16 MiB), the initrd at the top |
//! | `0xc000_0000..0xe000_0000` | 32-bit PCI BARs |
//! | `0xe000_0000..0xe010_0000` | ECAM of PCI bus 0; up to `0xf000_0000` kept free for more buses |
//! | `0xf000_0000..0xf010_0000` | virtio-mmio register blocks |
//! | `0xfec0_0000..0xfec0_1000` | I/O APIC |
//! | `0xfee0_0000..0xfee0_1000` | local APIC and MSI doorbell |
//! | `0xfffb_c000..0xffff_0000` | KVM's identity map and TSS pages |
//! | `0x1_0000_0000..` | the rest of RAM, where there is more than 3 GiB |
//! | above RAM, 1 GiB aligned | 64-bit PCI BARs |
//! | above those | memory that devices bring |
//!
//! Everything below 1 MiB is only read while the kernel starts; Linux copies what it keeps. Only the
//! VM generation ID is read again, whenever the guest is told that it has changed.

use arch::{GuestRange, LayoutError, MemoryLayout, PAGE_SIZE};
use vm_memory::GuestAddress;

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

const fn range(start: u64, end: u64) -> GuestRange {
    GuestRange::from_bounds(GuestAddress(start), GuestAddress(end))
}

/// Global descriptor table.
pub const GDT: GuestRange = range(0x1000, 0x2000);
/// Linux's `boot_params`, one page (Linux Documentation/arch/x86/zero-page.rst).
pub const BOOT_PARAMS: GuestRange = range(0x2000, 0x3000);
/// PVH's `hvm_start_info` and the tables that it points to.
pub const START_INFO: GuestRange = range(0x3000, 0x5000);
/// Linux's `setup_data` list.
pub const SETUP_DATA: GuestRange = range(0x5000, 0x6000);
/// Initial page tables.
pub const PAGE_TABLES: GuestRange = range(0x8000, 0xe000);
/// Kernel command line with its terminating NUL.
pub const CMDLINE: GuestRange = range(0x1_0000, 0x2_0000);
/// RAM below the PC's video memory hole.
pub const CONVENTIONAL_RAM: GuestRange = range(0, 0xa_0000);
/// ACPI tables. Inside the area that ACPI 6.5 §5.2.5.1 has searched for an RSDP, so that a kernel
/// finds it even where the boot protocol's pointer is ignored.
pub const ACPI_TABLES: GuestRange = range(0xe_0000, 0xf_f000);
/// VM generation ID, at the start of a page that the guest uses for nothing else: what holds ACPI
/// tables is RAM again once they have been read.
pub const VM_GENERATION_ID: GuestRange = range(0xf_f000, 0x10_0000);
/// Where extended memory, and so the lowest address for a kernel, starts.
pub const HIGH_MEMORY: GuestAddress = GuestAddress(0x10_0000);

/// Where RAM below 4 GiB ends at the latest and the window for devices starts.
pub const MMIO_GAP: GuestRange = range(3 * GIB, 4 * GIB);
/// 32-bit PCI BARs.
pub const PCI_MMIO32: GuestRange = range(MMIO_GAP.start().0, 0xe000_0000);
/// PCI configuration space of bus 0: 32 devices of 8 functions of 4 KiB. One bus, because Linux
/// probes each device number of every bus, and each probe is an exit.
pub const PCI_ECAM: GuestRange = range(0xe000_0000, 0xe010_0000);
/// virtio-mmio register blocks.
pub const VIRTIO_MMIO: GuestRange = range(0xf000_0000, 0xf010_0000);
/// Size of one virtio-mmio register block in bytes.
pub const VIRTIO_MMIO_SLOT_SIZE: u64 = PAGE_SIZE;
/// I/O APIC registers, at the address that KVM emulates them at (Intel 82093AA §3.0).
pub const IOAPIC: GuestAddress = GuestAddress(0xfec0_0000);
/// Local APIC registers at their reset address (SDM 3A §11.4.1).
pub const LOCAL_APIC: GuestAddress = GuestAddress(0xfee0_0000);
/// Page that KVM on VMX uses while a vCPU isn't paged yet (`KVM_SET_IDENTITY_MAP_ADDR`).
pub const KVM_IDENTITY_MAP: GuestAddress = GuestAddress(0xfffb_c000);
/// Three pages that KVM on VMX needs for real mode (`KVM_SET_TSS_ADDR`).
pub const KVM_TSS: GuestAddress = GuestAddress(0xfffb_d000);

/// Least RAM that holds the boot structures; a kernel needs more.
pub const MIN_RAM_BYTES: u64 = MIB;
/// Largest window for 64-bit BARs.
const PCI_MMIO64_MAX_BYTES: u64 = 64 * GIB;
/// Smallest window for 64-bit BARs, and its alignment.
const PCI_MMIO64_MIN_BYTES: u64 = GIB;

/// Where Linux's direct map of memory ends with page tables of four levels.
const DEVICE_MEMORY_END: u64 = 64 << 40;

/// I/O port ranges, as first port and number of ports.
pub mod ports {
    /// An I/O port range.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct PortRange {
        /// First port.
        pub base: u16,
        /// Number of ports.
        pub count: u8,
    }

    /// Serial port COM1, a 16550.
    pub const COM1: PortRange = PortRange { base: 0x3f8, count: 8 };
    /// i8042 keyboard controller's data port.
    pub const I8042_DATA: PortRange = PortRange { base: 0x60, count: 1 };
    /// i8042 keyboard controller's command and status port.
    pub const I8042_COMMAND: PortRange = PortRange { base: 0x64, count: 1 };
    /// Real-time clock's index and data port.
    pub const RTC: PortRange = PortRange { base: 0x70, count: 2 };
    /// pvpanic's event port, where QEMU's has always been.
    pub const PVPANIC: PortRange = PortRange { base: 0x505, count: 1 };
    /// ACPI sleep control (+0), sleep status (+1) and reset (+2) registers.
    pub const ACPI: PortRange = PortRange { base: 0x600, count: 3 };
    /// PCI hot-plug registers: slots that a function came into (+0), slots to be given up (+4), slots
    /// given up (+8), 32 bits each. Only the DSDT's own AML uses them.
    pub const PCI_HOTPLUG: PortRange = PortRange { base: 0x610, count: 12 };
    /// Sleep control register (ACPI 6.5 §4.8.3.7): the guest powers off by writing
    /// [`SLEEP_S5_VALUE`].
    pub const SLEEP_CONTROL: u16 = ACPI.base;
    /// Sleep status register (ACPI 6.5 §4.8.3.7); reads as 0, "not woken".
    pub const SLEEP_STATUS: u16 = ACPI.base + 1;
    /// Reset register (ACPI 6.5 §4.8.3.6): the guest resets by writing [`RESET_VALUE`].
    pub const RESET: u16 = ACPI.base + 2;
    /// Sleep type of S5, soft off, as the DSDT's `\_S5` package gives it.
    pub const S5_SLEEP_TYPE: u8 = 5;
    /// What a guest writes to [`SLEEP_CONTROL`] to power off: SLP_TYP in bits 4:2, SLP_EN in bit 5.
    pub const SLEEP_S5_VALUE: u8 = S5_SLEEP_TYPE << 2 | 1 << 5;
    /// What a guest writes to [`RESET`].
    pub const RESET_VALUE: u8 = 1;
}

/// Global system interrupts (GSIs): pins of the one I/O APIC, then MSI routes.
pub mod gsi {
    /// Pins of KVM's I/O APIC.
    pub const IOAPIC_PINS: u32 = 24;
    /// Keyboard, as on every PC.
    pub const I8042: u32 = 1;
    /// COM1, as on every PC.
    pub const COM1: u32 = 4;
    /// Real-time clock, as on every PC.
    pub const RTC: u32 = 8;
    /// ACPI's generic event device, when the power button is pressed; the PC's SCI, which
    /// hardware-reduced ACPI doesn't have.
    pub const GED: u32 = 9;
    /// ACPI's generic event device, when the VM generation ID has changed; COM2's on a PC.
    pub const VM_GENERATION_ID: u32 = 3;
    /// ACPI's generic event device, when PCI functions come or are to go. A virtio-mmio device's
    /// where there's no PCI.
    pub const PCI_HOTPLUG: u32 = 16;
    /// Edge-triggered lines for virtio-mmio devices: every pin that no PC device claims. 0 to 2
    /// belong to the timer, the keyboard and the PIC cascade.
    pub const VIRTIO_MMIO: [u32; 17] =
        [5, 6, 7, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23];
    /// First number for an MSI route, after the I/O APIC's pins.
    pub const FIRST_MSI: u32 = IOAPIC_PINS;
}

/// Lays out `ram_bytes` of RAM around the gap below 4 GiB, and above it the windows for 64-bit BARs and
/// for devices' memory.
///
/// Devices' memory is in no memory map and belongs to no PCI bridge: their drivers add it. Linux needs
/// no hot-pluggable range in an SRAT for that, only room in its direct map, which is 64 TiB
/// (arch/x86/mm/init_64.c, `arch_get_mappable_range`).
///
/// # Errors
/// See [`LayoutError`].
pub fn memory_layout(ram_bytes: u64, address_bits: u8) -> Result<MemoryLayout, LayoutError> {
    if ram_bytes < MIN_RAM_BYTES {
        return Err(LayoutError::TooSmall { ram_bytes, min_bytes: MIN_RAM_BYTES });
    }
    if !ram_bytes.is_multiple_of(PAGE_SIZE) {
        return Err(LayoutError::Unaligned { ram_bytes });
    }
    // SDM 3A §4.1.4: at most 52 bits. Below 4 GiB the window for BARs has no place.
    let space_end = 1_u64 << address_bits.clamp(32, 52);
    let max_bytes = space_end.saturating_sub(MMIO_GAP.size() + PCI_MMIO64_MIN_BYTES);
    if ram_bytes > max_bytes {
        return Err(LayoutError::TooLarge { ram_bytes, max_bytes, address_bits });
    }

    let low_bytes = ram_bytes.min(MMIO_GAP.start().0);
    let high_end = MMIO_GAP.end().0 + (ram_bytes - low_bytes);
    let mut ram = vec![range(0, low_bytes)];
    if high_end > MMIO_GAP.end().0 {
        ram.push(range(MMIO_GAP.end().0, high_end));
    }
    let window_start = high_end.next_multiple_of(PCI_MMIO64_MIN_BYTES);
    // Where there isn't enough for both windows, they get half each.
    let half = (space_end - window_start) / 2 / PCI_MMIO64_MIN_BYTES * PCI_MMIO64_MIN_BYTES;
    let window_end = window_start + half.clamp(PCI_MMIO64_MIN_BYTES, PCI_MMIO64_MAX_BYTES);
    Ok(MemoryLayout {
        ram,
        pci_ecam: PCI_ECAM,
        pci_mmio32: PCI_MMIO32,
        pci_mmio64: range(window_start, window_end),
        device_memory: range(window_end, space_end.min(DEVICE_MEMORY_END)),
        virtio_mmio: VIRTIO_MMIO,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fixed_areas_do_not_overlap() {
        let areas = [
            GDT,
            BOOT_PARAMS,
            START_INFO,
            SETUP_DATA,
            PAGE_TABLES,
            CMDLINE,
            ACPI_TABLES,
            VM_GENERATION_ID,
            PCI_MMIO32,
            PCI_ECAM,
            VIRTIO_MMIO,
            range(IOAPIC.0, IOAPIC.0 + PAGE_SIZE),
            range(LOCAL_APIC.0, LOCAL_APIC.0 + PAGE_SIZE),
            range(KVM_IDENTITY_MAP.0, KVM_IDENTITY_MAP.0 + PAGE_SIZE),
            range(KVM_TSS.0, KVM_TSS.0 + 3 * PAGE_SIZE),
        ];
        for (i, a) in areas.iter().enumerate() {
            for b in &areas[i + 1..] {
                assert!(!a.overlaps(b), "{a} and {b}");
            }
        }
        assert!(areas[..6].iter().all(|area| CONVENTIONAL_RAM.encloses(area)));
        assert!(areas[8..].iter().all(|area| MMIO_GAP.encloses(area)));
    }

    #[test]
    fn ram_splits_at_the_gap() {
        let gap = MMIO_GAP.start().0;
        for (bytes, expected) in [
            (MIB, vec![(0, MIB)]),
            (128 * MIB, vec![(0, 128 * MIB)]),
            (gap - PAGE_SIZE, vec![(0, gap - PAGE_SIZE)]),
            (gap, vec![(0, gap)]),
            (gap + PAGE_SIZE, vec![(0, gap), (4 * GIB, PAGE_SIZE)]),
            (5 * GIB, vec![(0, gap), (4 * GIB, 2 * GIB)]),
            (1024 * GIB, vec![(0, gap), (4 * GIB, 1021 * GIB)]),
        ] {
            let layout = memory_layout(bytes, 46).unwrap();
            let ram: Vec<_> = layout.ram.iter().map(|r| (r.start().0, r.size())).collect();
            assert_eq!(ram, expected, "{bytes:#x} bytes");
            assert_eq!(layout.ram_bytes(), bytes);
        }
    }

    #[test]
    fn window_for_64_bit_bars_lies_above_ram_and_below_the_end_of_the_address_space() {
        for (bytes, bits, expected) in [
            (128 * MIB, 46, (4 * GIB, 68 * GIB)),
            (5 * GIB, 46, (6 * GIB, 70 * GIB)),
            (5 * GIB + PAGE_SIZE, 46, (7 * GIB, 71 * GIB)),
            (60 * GIB, 36, (61 * GIB, 62 * GIB)),
            (62 * GIB, 36, (63 * GIB, 64 * GIB)),
            (MIB, 60, (4 * GIB, 68 * GIB)),
        ] {
            let window = memory_layout(bytes, bits).unwrap().pci_mmio64;
            assert_eq!((window.start().0, window.end().0), expected, "{bytes:#x}, {bits} bits");
        }
    }

    #[test]
    fn memory_of_devices_lies_above_the_window_for_bars() {
        for (bytes, bits, expected) in [
            (128 * MIB, 46, (68 * GIB, 64 << 40)),
            (128 * MIB, 52, (68 * GIB, 64 << 40)),
            (60 * GIB, 36, (62 * GIB, 64 * GIB)),
            (128 * MIB, 36, (34 * GIB, 64 * GIB)),
        ] {
            let window = memory_layout(bytes, bits).unwrap().device_memory;
            assert_eq!((window.start().0, window.end().0), expected, "{bytes:#x}, {bits} bits");
        }
        assert!(memory_layout(62 * GIB, 36).unwrap().device_memory.is_empty(), "RAM goes first");
        assert!(memory_layout(65 << 40, 52).unwrap().device_memory.is_empty());
    }

    #[test]
    fn memory_that_cannot_be_laid_out_is_refused() {
        for (bytes, bits, expected) in [
            (0, 46, LayoutError::TooSmall { ram_bytes: 0, min_bytes: MIB }),
            (MIB - 1, 46, LayoutError::TooSmall { ram_bytes: MIB - 1, min_bytes: MIB }),
            (MIB + 1, 46, LayoutError::Unaligned { ram_bytes: MIB + 1 }),
            (
                62 * GIB + PAGE_SIZE,
                36,
                LayoutError::TooLarge {
                    ram_bytes: 62 * GIB + PAGE_SIZE,
                    max_bytes: 62 * GIB,
                    address_bits: 36,
                },
            ),
            (
                u64::MAX - 4095,
                255,
                LayoutError::TooLarge {
                    ram_bytes: u64::MAX - 4095,
                    max_bytes: (1 << 52) - 2 * GIB,
                    address_bits: 255,
                },
            ),
            (
                3 * GIB,
                0,
                LayoutError::TooLarge { ram_bytes: 3 * GIB, max_bytes: 2 * GIB, address_bits: 0 },
            ),
        ] {
            assert_eq!(memory_layout(bytes, bits), Err(expected));
        }
    }

    #[test]
    fn virtio_lines_are_io_apic_pins_of_no_other_device() {
        let taken = [gsi::I8042, gsi::COM1, gsi::RTC, gsi::GED, gsi::VM_GENERATION_ID];
        assert!(!taken.contains(&gsi::PCI_HOTPLUG));
        assert!(gsi::VIRTIO_MMIO.iter().all(|gsi| *gsi < gsi::IOAPIC_PINS && !taken.contains(gsi)));
        assert!(gsi::VIRTIO_MMIO.is_sorted_by(|a, b| a < b));
    }
}
