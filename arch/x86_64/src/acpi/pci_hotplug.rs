//! Hot-plug of PCI functions, in AML: a device for each slot, and what tells them of a change.
//!
//! The registers behind it are the VMM's own (`layout::ports::PCI_HOTPLUG`); the guest's operating
//! system knows only standard objects: `_ADR`, `_SUN`, `_EJ0` and the notifications.

use acpi_tables::Aml;
use acpi_tables::aml::{
    And, Arg, Device, Field, FieldAccessType, FieldEntry, FieldLockRule, FieldUpdateRule, If,
    Local, Method, MethodCall, Name, Notify, OpRegion, OpRegionSpace, Path, Scope, Store, ZERO,
};

use super::{Built, bytes};
use crate::layout::ports;

/// Slots of a bus without the host bridge's.
const SLOTS: std::ops::Range<u8> = 1..32;

/// `Notify`: look whether the device is there (ACPI 6.5 Table 5.162).
const DEVICE_CHECK: u8 = 1;
/// `Notify`: stop to use the device and eject it (ACPI 6.5 Table 5.162).
const EJECT_REQUEST: u8 = 3;

/// The registers' names: slots that a function came into, slots that are to be given up, slots that
/// were.
const REGISTERS: [[u8; 4]; 3] = [*b"PCAM", *b"PTGO", *b"PEJT"];
const CAME: &str = "PCAM";
const TO_GO: &str = "PTGO";
const EJECTED: &str = "PEJT";

const NOTIFY_SLOTS: &str = "PNFY";
const CHECK: &str = "PCHK";

/// Builds what goes into the scope of the host bridge.
pub(super) fn build() -> Vec<u8> {
    let mut aml = registers();
    aml.extend(SLOTS.flat_map(slot));
    aml.extend(notify_slots());
    aml.extend(check());
    Scope::raw(Path::new("\\_SB_.PCI0"), aml)
}

/// Calls the method that looks what has changed.
pub(super) fn call_check() -> Vec<u8> {
    bytes(&MethodCall::new(Path::new(&format!("\\_SB_.PCI0.{CHECK}")), vec![]))
}

/// The registers, each read and written as a double word.
fn registers() -> Vec<u8> {
    let name = || Path::new("PREG");
    let (base, count) = (ports::PCI_HOTPLUG.base, ports::PCI_HOTPLUG.count);
    let mut aml = bytes(&OpRegion::new(name(), OpRegionSpace::SystemIO, &base, &count));
    let fields = REGISTERS.map(|name| FieldEntry::Named(name, 32));
    aml.extend(bytes(&Field::new(
        name(),
        FieldAccessType::DWord,
        FieldLockRule::NoLock,
        FieldUpdateRule::WriteAsZeroes,
        fields.to_vec(),
    )));
    aml
}

/// A slot, whether a function is in it or not: there's no `_STA`, so that the operating system
/// looks into configuration space. By `_EJ0` it gives the function up (ACPI 6.5 §6.3.3).
fn slot(slot: u8) -> Vec<u8> {
    bytes(&Device::new(
        slot_name(slot),
        vec![
            // Function 0 of the device (ACPI 6.5 Table 6.2).
            &Name::new(Path::new("_ADR"), &(u32::from(slot) << 16)),
            &Name::new(Path::new("_SUN"), &slot),
            &Method::new(
                Path::new("_EJ0"),
                1,
                false,
                vec![&Store::new(&Path::new(EJECTED), &slot_bit(slot))],
            ),
        ],
    ))
}

/// Notifies each slot whose bit is set in the first argument with the second.
fn notify_slots() -> Vec<u8> {
    let notifications: Vec<_> = SLOTS
        .map(|slot| {
            let (name, bit) = (slot_name(slot), slot_bit(slot));
            let is_set = And::new(&ZERO, &Arg(0), &bit);
            Built(bytes(&If::new(&is_set, vec![&Notify::new(&name, &Arg(1))])))
        })
        .collect();
    let body = notifications.iter().map(|aml| aml as &dyn Aml).collect();
    bytes(&Method::new(Path::new(NOTIFY_SLOTS), 2, true, body))
}

/// Reads the registers, which clears them, and notifies. Serialized, so that two events at once
/// don't mix. What came is told first: a function that is to go at once again is known by then.
fn check() -> Vec<u8> {
    let (came, to_go) = (Local(0), Local(1));
    bytes(&Method::new(
        Path::new(CHECK),
        0,
        true,
        vec![
            &Store::new(&came, &Path::new(CAME)),
            &Store::new(&to_go, &Path::new(TO_GO)),
            &MethodCall::new(Path::new(NOTIFY_SLOTS), vec![&came, &DEVICE_CHECK]),
            &MethodCall::new(Path::new(NOTIFY_SLOTS), vec![&to_go, &EJECT_REQUEST]),
        ],
    ))
}

fn slot_name(slot: u8) -> Path {
    Path::new(&format!("S{slot:03}"))
}

fn slot_bit(slot: u8) -> u32 {
    1 << slot
}
