//! What CPUID tells a guest: what the host's KVM supports, with the guest's own topology.
//!
//! All vCPUs are cores of one package, one thread each: APIC ID and core number are the vCPU's
//! index.

mod compat;
mod features;
#[cfg(test)]
mod tests;

use std::fmt;

use serde::{Deserialize, Serialize};

pub use compat::{CpuSnapshot, FeatureWord, IncompatibleCpu, XsaveComponent};

/// One leaf (and subleaf) of CPUID, as KVM exchanges it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CpuidEntry {
    /// Leaf: EAX before the instruction.
    pub function: u32,
    /// Subleaf: ECX before the instruction, where [`CpuidEntry::has_index`] says that it matters.
    pub index: u32,
    /// Whether the subleaf matters.
    pub has_index: bool,
    /// EAX after it.
    pub eax: u32,
    /// EBX after it.
    pub ebx: u32,
    /// ECX after it.
    pub ecx: u32,
    /// EDX after it.
    pub edx: u32,
}

/// A register of CPUID's answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Register {
    /// EAX.
    Eax,
    /// EBX.
    Ebx,
    /// ECX.
    Ecx,
    /// EDX.
    Edx,
}

impl fmt::Display for Register {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Eax => "EAX",
            Self::Ebx => "EBX",
            Self::Ecx => "ECX",
            Self::Edx => "EDX",
        })
    }
}

impl CpuidEntry {
    /// Returns one register of the answer.
    pub fn register(&self, register: Register) -> u32 {
        match register {
            Register::Eax => self.eax,
            Register::Ebx => self.ebx,
            Register::Ecx => self.ecx,
            Register::Edx => self.edx,
        }
    }

    /// Returns one register of the answer, to be changed.
    pub fn register_mut(&mut self, register: Register) -> &mut u32 {
        match register {
            Register::Eax => &mut self.eax,
            Register::Ebx => &mut self.ebx,
            Register::Ecx => &mut self.ecx,
            Register::Edx => &mut self.edx,
        }
    }
}

/// A vCPU's place among all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VcpuPlace {
    /// Its number, from 0.
    pub index: u8,
    /// How many there are.
    pub count: u8,
}

impl VcpuPlace {
    /// Returns how many low bits of an APIC ID number the cores.
    fn core_bits(self) -> u32 {
        u32::from(self.count.max(1)).next_power_of_two().trailing_zeros()
    }

    fn apic_id(self) -> u32 {
        self.index.into()
    }

    fn count(self) -> u32 {
        self.count.max(1).into()
    }
}

/// Leaf 1 ECX: MONITOR/MWAIT (SDM 2A, CPUID, as all leaves below 0x4000_0000).
const MONITOR: u32 = 1 << 3;
/// Leaf 1 ECX: VMX and SMX. Nested guests aren't offered: KVM's emulation of them is a large part
/// of what a guest could attack.
const VMX_SMX: u32 = 1 << 5 | 1 << 6;
/// Leaf 1 ECX: the debug store's 64-bit layout and CPL filter, and the capabilities of performance
/// monitoring (DTES64, DS-CPL, PDCM). Without leaf 0xa's counters they stand for nothing.
const PERFORMANCE: u32 = 1 << 2 | 1 << 4 | 1 << 15;
/// Leaf 1 ECX: the local APIC's timer has TSC-deadline mode. KVM's has, and says so elsewhere.
const TSC_DEADLINE: u32 = 1 << 24;
/// Leaf 1 ECX: the OS has set CR4.OSXSAVE. It hasn't yet; KVM keeps it up to date.
const OSXSAVE: u32 = 1 << 27;
/// Leaf 1 ECX: runs under a hypervisor.
const HYPERVISOR: u32 = 1 << 31;
/// Leaf 1 EDX: EBX 23:16 counts logical processors.
const HTT: u32 = 1 << 28;
/// Leaf 1 EDX: debug store, as [`PERFORMANCE`].
const DEBUG_STORE: u32 = 1 << 21;
/// Leaf 7.0 EBX and ECX: SGX and its launch control. Enclaves need memory that no guest here has.
const SGX: u32 = 1 << 2;
const SGX_LAUNCH_CONTROL: u32 = 1 << 30;
/// Leaf 0x8000_0001 ECX: the package's logical processors are cores (AMD APM 3 §E.4.2).
const CMP_LEGACY: u32 = 1 << 1;
/// Leaf 0x8000_0001 ECX: SVM, as [`VMX_SMX`].
const SVM: u32 = 1 << 2;
/// Leaf 0x8000_0001 ECX: AMD's extended performance counters of cores, northbridge and last-level
/// cache, as [`PERFORMANCE`].
const AMD_COUNTERS: u32 = 1 << 23 | 1 << 24 | 1 << 28;
/// The most that leaf 4's six bits for cores, less one, can say. Kernels prefer leaf 0xb.
const LEAF_4_CORES_MAX: u32 = 0x3f;

/// Leaves of the topology, made anew: the host's tell of the CPU that asked.
const EXTENDED_TOPOLOGY: [u32; 2] = [0xb, 0x1f];
/// AMD's own, left out: kernels prefer it to leaf 0xb, which says it all.
const AMD_EXTENDED_TOPOLOGY: u32 = 0x8000_0026;
/// First of the leaves that AMD defines.
const EXTENDED: u32 = 0x8000_0000;

/// Returns how wide a guest-physical address is, in bits (AMD APM 3 §E.4.7; SDM 2A likewise): what
/// the host says of its guests where it does, else its own width.
pub fn address_bits(host: &[CpuidEntry]) -> u8 {
    let eax = host.iter().find(|entry| entry.function == 0x8000_0008).map_or(36, |leaf| leaf.eax);
    let [own, _, guests, _] = eax.to_le_bytes();
    if guests != 0 { guests } else { own }
}

/// Returns the entries for the vCPU at `place` out of what the host's KVM supports.
pub fn guest_entries(host: &[CpuidEntry], place: VcpuPlace) -> Vec<CpuidEntry> {
    let max_leaf = host.iter().find(|entry| entry.function == 0).map_or(0, |leaf| leaf.eax);
    let amd = is_amd(host);
    let is_topology =
        |function| EXTENDED_TOPOLOGY.contains(&function) || function == AMD_EXTENDED_TOPOLOGY;
    let mut entries: Vec<_> = host
        .iter()
        .filter(|entry| !is_topology(entry.function))
        .map(|entry| match entry.function {
            ..EXTENDED => adapt(*entry, place),
            EXTENDED.. => adapt_extended(*entry, place, amd),
        })
        .collect();
    for function in EXTENDED_TOPOLOGY.into_iter().filter(|function| *function <= max_leaf) {
        entries.extend(topology(function, place));
    }
    entries
}

/// Says whether the CPU is AMD's or Hygon's, which count cores in the extended leaves. On Intel's
/// those fields are reserved.
fn is_amd(host: &[CpuidEntry]) -> bool {
    matches!(vendor(host).as_str(), "AuthenticAMD" | "HygonGenuine")
}

/// Returns the vendor's name as leaf 0 spells it; empty without one.
fn vendor(entries: &[CpuidEntry]) -> String {
    let bytes = |leaf: &CpuidEntry| [leaf.ebx, leaf.edx, leaf.ecx].map(u32::to_le_bytes).concat();
    let bytes = entries.iter().find(|entry| entry.function == 0).map(bytes).unwrap_or_default();
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Changes what depends on the vCPU, and hides what a guest can't use.
fn adapt(mut entry: CpuidEntry, place: VcpuPlace) -> CpuidEntry {
    let last = place.count() - 1;
    match entry.function {
        0x1 => {
            entry.ecx &= !(MONITOR | VMX_SMX | PERFORMANCE | OSXSAVE);
            entry.ecx |= TSC_DEADLINE | HYPERVISOR;
            entry.ebx = entry.ebx & 0x0000_ffff | place.count() << 16 | place.apic_id() << 24;
            entry.edx = set_if(entry.edx & !DEBUG_STORE, HTT, last != 0);
        }
        // Caches: EAX 25:14 counts their sharers less one, 31:26 the package's cores less one.
        0x4 if entry.eax & 0x1f != 0 => {
            let cores = last.min(LEAF_4_CORES_MAX);
            entry.eax = entry.eax & 0x3fff | sharers(entry, last) << 14 | cores << 26;
        }
        // MONITOR isn't offered, no performance counters are, no SGX enclaves are.
        0x5 | 0xa | 0x12 => entry = blank(entry),
        0x7 if entry.index == 0 => {
            entry.ebx &= !SGX;
            entry.ecx &= !SGX_LAUNCH_CONTROL;
        }
        _ => {}
    }
    entry
}

/// Does the same in the leaves that AMD defines.
fn adapt_extended(mut entry: CpuidEntry, place: VcpuPlace, amd: bool) -> CpuidEntry {
    let last = place.count() - 1;
    match entry.function {
        0x8000_0001 => {
            entry.ecx &= !(SVM | AMD_COUNTERS);
            entry.ecx = set_if(entry.ecx, CMP_LEGACY, amd && last != 0);
        }
        // ECX: number of cores less one, and how many bits of the APIC ID count them.
        0x8000_0008 => entry.ecx = if amd { last | place.core_bits() << 12 } else { 0 },
        // No SVM, no memory encryption and no performance counters are offered.
        0x8000_000a | 0x8000_001f | 0x8000_0022 => entry = blank(entry),
        // AMD's caches, as in leaf 4 (AMD APM 3 §E.4.15).
        0x8000_001d if entry.eax & 0x1f != 0 => {
            entry.eax = entry.eax & 0x3fff | sharers(entry, last) << 14;
        }
        // EAX: APIC ID. EBX: core number, one thread each. ECX: node 0, the only one.
        0x8000_001e => {
            (entry.eax, entry.ebx, entry.ecx) = (place.apic_id(), place.apic_id(), 0);
        }
        _ => {}
    }
    entry
}

/// Returns how many other vCPUs share a cache: none the first two levels, all of them the last.
fn sharers(cache: CpuidEntry, others: u32) -> u32 {
    let level = cache.eax >> 5 & 0x7;
    if level < 3 { 0 } else { others }
}

/// Empties an entry: the leaf exists and offers nothing.
fn blank(entry: CpuidEntry) -> CpuidEntry {
    let CpuidEntry { function, index, has_index, .. } = entry;
    CpuidEntry { function, index, has_index, ..CpuidEntry::default() }
}

/// Describes threads, cores and the end of the list (SDM 3A §10.9.1, Table 10-1).
fn topology(function: u32, place: VcpuPlace) -> [CpuidEntry; 3] {
    const THREAD: u32 = 1 << 8;
    const CORE: u32 = 2 << 8;
    let level = |index, eax, ebx, kind| CpuidEntry {
        function,
        index,
        has_index: true,
        eax,
        ebx,
        ecx: kind | index,
        edx: place.apic_id(),
    };
    [level(0, 0, 1, THREAD), level(1, place.core_bits(), place.count(), CORE), level(2, 0, 0, 0)]
}

fn set_if(register: u32, bit: u32, on: bool) -> u32 {
    if on { register | bit } else { register & !bit }
}
