//! What CPUID tells a guest: what the host's KVM supports, with the guest's own topology.
//!
//! All vCPUs are cores of one package, one thread each: APIC ID and core number are the vCPU's
//! index.

/// One leaf (and subleaf) of CPUID, as KVM exchanges it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
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
/// Leaf 1 ECX: the local APIC's timer has TSC-deadline mode. KVM's has, and says so elsewhere.
const TSC_DEADLINE: u32 = 1 << 24;
/// Leaf 1 ECX: the OS has set CR4.OSXSAVE. It hasn't yet; KVM keeps it up to date.
const OSXSAVE: u32 = 1 << 27;
/// Leaf 1 ECX: runs under a hypervisor.
const HYPERVISOR: u32 = 1 << 31;
/// Leaf 1 EDX: EBX 23:16 counts logical processors.
const HTT: u32 = 1 << 28;
/// Leaf 0x8000_0001 ECX: the package's logical processors are cores (AMD APM 3 §E.4.2).
const CMP_LEGACY: u32 = 1 << 1;

/// Leaves of the topology, made anew: the host's tell of the CPU that asked.
const EXTENDED_TOPOLOGY: [u32; 2] = [0xb, 0x1f];

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
    let mut entries: Vec<_> = host
        .iter()
        .filter(|entry| !EXTENDED_TOPOLOGY.contains(&entry.function))
        .map(|entry| adapt(*entry, place))
        .collect();
    for function in EXTENDED_TOPOLOGY.into_iter().filter(|function| *function <= max_leaf) {
        entries.extend(topology(function, place));
    }
    entries
}

/// Changes what depends on the vCPU, and hides what a guest can't use.
fn adapt(host: CpuidEntry, place: VcpuPlace) -> CpuidEntry {
    let mut entry = host;
    let last = place.count() - 1;
    match entry.function {
        0x1 => {
            entry.ecx = entry.ecx & !(MONITOR | OSXSAVE) | TSC_DEADLINE | HYPERVISOR;
            entry.ebx = entry.ebx & 0x0000_ffff | place.count() << 16 | place.apic_id() << 24;
            entry.edx = set_if(entry.edx, HTT, last != 0);
        }
        // Caches: EAX 25:14 counts their sharers less one, 31:26 the package's cores less one.
        0x4 if entry.eax & 0x1f != 0 => {
            let level = entry.eax >> 5 & 0x7;
            let sharers = if level < 3 { 0 } else { last };
            entry.eax = entry.eax & 0x3fff | sharers << 14 | last << 26;
        }
        // MONITOR isn't offered, no performance counters are, no SGX enclaves are.
        0x5 | 0xa | 0x12 => {
            entry = CpuidEntry {
                function: host.function,
                index: host.index,
                has_index: host.has_index,
                ..CpuidEntry::default()
            };
        }
        0x8000_0001 => entry.ecx = set_if(entry.ecx, CMP_LEGACY, last != 0),
        // ECX: number of cores less one, and how many bits of the APIC ID count them.
        0x8000_0008 => entry.ecx = last | place.core_bits() << 12,
        // AMD's caches, as in leaf 4 (AMD APM 3 §E.4.15).
        0x8000_001d if entry.eax & 0x1f != 0 => {
            let level = entry.eax >> 5 & 0x7;
            let sharers = if level < 3 { 0 } else { last };
            entry.eax = entry.eax & 0x3fff | sharers << 14;
        }
        // EAX: APIC ID. EBX: core number, one thread each. ECX: node 0, the only one.
        0x8000_001e => {
            (entry.eax, entry.ebx, entry.ecx) = (place.apic_id(), place.apic_id(), 0);
        }
        _ => {}
    }
    entry
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

#[cfg(test)]
mod tests {
    use super::*;

    fn leaf(function: u32, eax: u32, ebx: u32, ecx: u32, edx: u32) -> CpuidEntry {
        CpuidEntry { function, eax, ebx, ecx, edx, ..CpuidEntry::default() }
    }

    fn host() -> Vec<CpuidEntry> {
        vec![
            leaf(0, 0x1f, 0, 0, 0),
            leaf(1, 0x000a_0655, 0x5510_0800, 0xffff_ffff, 0),
            CpuidEntry { has_index: true, ..leaf(4, 0x7c00_4121, 7, 8, 9) },
            CpuidEntry { index: 3, has_index: true, ..leaf(4, 0x7c00_4163, 7, 8, 9) },
            leaf(0xa, 1, 2, 3, 4),
            CpuidEntry { has_index: true, ..leaf(0xb, 99, 99, 99, 99) },
            leaf(0x4000_0000, 0x4000_0001, 0x4b4d_564b, 0x564b_4d56, 0x4d),
            leaf(0x8000_0008, 0x0000_302e, 0, 0xffff, 0),
            leaf(0x8000_001e, 77, 77, 77, 0),
        ]
    }

    fn find(entries: &[CpuidEntry], function: u32, index: u32) -> CpuidEntry {
        let found: Vec<_> = entries
            .iter()
            .filter(|entry| entry.function == function && entry.index == index)
            .collect();
        assert_eq!(found.len(), 1, "leaf {function:#x}.{index}: {found:?}");
        *found[0]
    }

    #[test]
    fn every_vcpu_has_its_own_apic_id_in_a_package_of_all() {
        for (count, bits) in [(1, 0), (2, 1), (3, 2), (8, 3), (32, 5)] {
            for index in [0, count - 1] {
                let entries = guest_entries(&host(), VcpuPlace { index, count });
                let id = u32::from(index);
                let one = find(&entries, 1, 0);
                assert_eq!(one.ebx, id << 24 | u32::from(count) << 16 | 0x0800);
                assert_eq!(one.edx & HTT != 0, count > 1);
                for function in EXTENDED_TOPOLOGY {
                    let thread = find(&entries, function, 0);
                    assert_eq!((thread.eax, thread.ebx, thread.ecx), (0, 1, 0x100));
                    let core = find(&entries, function, 1);
                    assert_eq!((core.eax, core.ebx, core.ecx), (bits, count.into(), 0x201));
                    assert_eq!((thread.edx, core.edx), (id, id));
                    assert_eq!(find(&entries, function, 2).ebx, 0);
                }
                let amd = find(&entries, 0x8000_0008, 0);
                assert_eq!(amd.ecx, (u32::from(count) - 1) | bits << 12);
                assert_eq!(find(&entries, 0x8000_001e, 0).eax, id);
            }
        }
    }

    #[test]
    fn only_the_last_level_cache_is_shared() {
        let entries = guest_entries(&host(), VcpuPlace { index: 1, count: 4 });
        assert_eq!(find(&entries, 4, 0).eax, 3 << 26 | 0x0121);
        assert_eq!(find(&entries, 4, 3).eax, 3 << 26 | 3 << 14 | 0x0163);
    }

    #[test]
    fn guest_knows_its_hypervisor_and_sees_nothing_that_it_cannot_use() {
        let entries = guest_entries(&host(), VcpuPlace { index: 0, count: 1 });
        let one = find(&entries, 1, 0);
        assert_ne!(one.ecx & HYPERVISOR, 0);
        assert_ne!(one.ecx & TSC_DEADLINE, 0);
        assert_eq!(one.ecx & (MONITOR | OSXSAVE), 0);
        assert_eq!(find(&entries, 0xa, 0), leaf(0xa, 0, 0, 0, 0));
        assert_eq!(find(&entries, 0x4000_0000, 0), host()[6]);
    }

    #[test]
    fn topology_leaves_stay_out_of_a_cpu_that_ends_below_them() {
        let mut host = host();
        host[0].eax = 0xb;
        let entries = guest_entries(&host, VcpuPlace { index: 0, count: 2 });
        assert!(entries.iter().all(|entry| entry.function != 0x1f));
        assert!(entries.iter().any(|entry| entry.function == 0xb));
    }

    #[test]
    fn width_of_guest_addresses_is_the_hosts_unless_it_says_otherwise() {
        assert_eq!(address_bits(&host()), 46);
        assert_eq!(address_bits(&[leaf(0x8000_0008, 0x0028_3030, 0, 0, 0)]), 40);
        assert_eq!(address_bits(&[]), 36);
    }
}
