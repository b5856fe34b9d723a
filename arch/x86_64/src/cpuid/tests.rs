use super::*;

fn leaf(function: u32, eax: u32, ebx: u32, ecx: u32, edx: u32) -> CpuidEntry {
    CpuidEntry { function, eax, ebx, ecx, edx, ..CpuidEntry::default() }
}

fn host() -> Vec<CpuidEntry> {
    vec![
        // "AuthenticAMD"
        leaf(0, 0x1f, 0x6874_7541, 0x444d_4163, 0x6974_6e65),
        leaf(1, 0x000a_0655, 0x5510_0800, u32::MAX, !HTT),
        CpuidEntry { has_index: true, ..leaf(4, 0x7c00_4121, 7, 8, 9) },
        CpuidEntry { index: 3, has_index: true, ..leaf(4, 0x7c00_4163, 7, 8, 9) },
        CpuidEntry { has_index: true, ..leaf(7, 0, u32::MAX, u32::MAX, u32::MAX) },
        leaf(0xa, 1, 2, 3, 4),
        CpuidEntry { has_index: true, ..leaf(0xb, 99, 99, 99, 99) },
        leaf(0x4000_0000, 0x4000_0001, 0x4b4d_564b, 0x564b_4d56, 0x4d),
        leaf(0x8000_0001, 1, 2, u32::MAX, 4),
        leaf(0x8000_0008, 0x0000_302e, 0, 0xffff, 0),
        leaf(0x8000_000a, 1, 2, 3, 4),
        leaf(0x8000_001f, 1, 2, 3, 4),
        leaf(0x8000_0022, 1, 2, 3, 4),
        CpuidEntry { has_index: true, ..leaf(0x8000_0026, 1, 2, 3, 4) },
        leaf(0x8000_001e, 77, 77, 77, 0),
    ]
}

fn find(entries: &[CpuidEntry], function: u32, index: u32) -> CpuidEntry {
    let found: Vec<_> =
        entries.iter().filter(|entry| entry.function == function && entry.index == index).collect();
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
    assert_eq!(one.ecx, !(MONITOR | OSXSAVE | VMX_SMX | PERFORMANCE));
    assert_eq!(one.edx, !(DEBUG_STORE | HTT));
    let seven = find(&entries, 7, 0);
    assert_eq!((seven.ebx, seven.ecx, seven.edx), (!SGX, !SGX_LAUNCH_CONTROL, u32::MAX));
    assert_eq!(find(&entries, 0x8000_0001, 0).ecx, !(SVM | AMD_COUNTERS | CMP_LEGACY));
    for function in [0x8000_000a, 0x8000_001f, 0x8000_0022] {
        assert_eq!(find(&entries, function, 0), leaf(function, 0, 0, 0, 0));
    }
    assert!(entries.iter().all(|entry| entry.function != AMD_EXTENDED_TOPOLOGY));
    assert_eq!(find(&entries, 0xa, 0), leaf(0xa, 0, 0, 0, 0));
    let hypervisor = *host().iter().find(|entry| entry.function == 0x4000_0000).unwrap();
    assert_eq!(find(&entries, 0x4000_0000, 0), hypervisor);
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

#[test]
fn fields_that_only_amd_has_stay_zero_on_other_cpus() {
    let place = VcpuPlace { index: 1, count: 4 };
    let mut intel = host();
    // "GenuineIntel"
    (intel[0].ebx, intel[0].edx, intel[0].ecx) = (0x756e_6547, 0x4965_6e69, 0x6c65_746e);
    for (host, cores, legacy) in [(intel, 0, 0), (host(), 3 | 2 << 12, CMP_LEGACY)] {
        let entries = guest_entries(&host, place);
        assert_eq!(find(&entries, 0x8000_0008, 0).ecx, cores);
        assert_eq!(find(&entries, 0x8000_0001, 0).ecx & CMP_LEGACY, legacy);
    }
}

#[test]
fn more_cores_than_leaf_4_can_count_are_its_most() {
    for (count, cores) in [(64, 63), (65, 63), (254, 63)] {
        let entries = guest_entries(&host(), VcpuPlace { index: 0, count });
        let last_level = find(&entries, 4, 3).eax;
        assert_eq!(last_level >> 26, cores, "{count} vCPUs");
        assert_eq!(last_level >> 14 & 0xfff, u32::from(count) - 1, "{count} vCPUs");
    }
}

/// What a guest of `host` sees, and the header of its snapshot.
fn snapshot(host: &[CpuidEntry]) -> CpuSnapshot {
    let guest = guest_entries(host, VcpuPlace { index: 0, count: 2 });
    CpuSnapshot::new(&guest, host, 4096)
}

fn change(host: &mut [CpuidEntry], function: u32, index: u32, change: impl Fn(&mut CpuidEntry)) {
    change(host.iter_mut().find(|leaf| (leaf.function, leaf.index) == (function, index)).unwrap());
}

#[test]
fn guest_goes_on_on_the_same_and_on_a_richer_host() {
    let mut host = host();
    change(&mut host, 7, 0, |leaf| (leaf.ebx, leaf.ecx, leaf.edx) = (1 << 5, 0, 0));
    let snapshot = snapshot(&host);
    assert_eq!(snapshot.vendor, "AuthenticAMD");
    snapshot.check(&host, 4096).unwrap();
    change(&mut host, 7, 0, |leaf| leaf.ebx = u32::MAX);
    snapshot.check(&host, 8192).unwrap();
    // Switched by the guest's kernel, or the VM's own.
    change(&mut host, 1, 0, |leaf| {
        leaf.ecx &= !(OSXSAVE | HYPERVISOR | TSC_DEADLINE);
        leaf.edx &= !(1 << 9 | HTT);
    });
    change(&mut host, 0x8000_0001, 0, |leaf| leaf.ecx &= !CMP_LEGACY);
    snapshot.check(&host, 4096).unwrap();
    let json = serde_json::to_string(&snapshot).unwrap();
    assert_eq!(serde_json::from_str::<CpuSnapshot>(&json).unwrap(), snapshot);
}

#[test]
fn missing_features_are_all_named() {
    let mut host = host();
    let snapshot = snapshot(&host);
    change(&mut host, 1, 0, |leaf| leaf.ecx &= !(1 << 23 | 1 << 28));
    change(&mut host, 7, 0, |leaf| (leaf.ebx, leaf.edx) = (!(1 << 16), !(1 << 12)));
    host.retain(|leaf| leaf.function != 0x8000_0001);
    let Err(IncompatibleCpu::MissingFeatures(names)) = snapshot.check(&host, 4096) else {
        panic!("it was found fit");
    };
    assert_eq!(names[..4], ["popcnt", "avx", "avx512f", "CPUID 0x7.0 EDX bit 12"]);
    assert_eq!(names[4], "lahf_lm");
    assert_eq!(names.last().unwrap(), "de");
}

#[test]
fn feature_that_only_a_template_gave_is_not_asked_of_the_next_host() {
    let mut host = host();
    change(&mut host, 7, 0, |leaf| leaf.ebx = 0);
    let mut guest = host.clone();
    change(&mut guest, 7, 0, |leaf| leaf.ebx = 1 << 5);
    CpuSnapshot::new(&guest, &host, 4096).check(&host, 4096).unwrap();
}

#[test]
fn other_vendor_narrower_addresses_and_smaller_or_moved_state_are_refused() {
    let component =
        |index, eax, ebx, ecx| CpuidEntry { index, has_index: true, ..leaf(0xd, eax, ebx, ecx, 0) };
    let mut first = host();
    first.extend([component(2, 256, 576, 0), component(9, 8, 832, 0), component(11, 16, 0, 1)]);
    let snapshot = snapshot(&first);
    snapshot.check(&first, 4096).unwrap();

    let mut intel = first.clone();
    change(&mut intel, 0, 0, |leaf| leaf.ebx = 0x756e_6547);
    let error = snapshot.check(&intel, 4096).unwrap_err();
    assert!(matches!(error, IncompatibleCpu::Vendor { .. }), "{error}");

    let mut narrow = first.clone();
    change(&mut narrow, 0x8000_0008, 0, |leaf| leaf.eax = 0x2828);
    let error = snapshot.check(&narrow, 4096).unwrap_err();
    assert!(matches!(error, IncompatibleCpu::AddressBits { host: 40, .. }), "{error}");

    let error = snapshot.check(&first, 4095).unwrap_err();
    assert!(matches!(error, IncompatibleCpu::XsaveSize { saved: 4096, host: 4095 }), "{error}");

    let mut moved = first.clone();
    change(&mut moved, 0xd, 9, |leaf| leaf.ebx = 2688);
    // A supervisor's component isn't in the standard format.
    change(&mut moved, 0xd, 11, |leaf| leaf.eax = 24);
    let error = snapshot.check(&moved, 4096).unwrap_err();
    assert_eq!(error, IncompatibleCpu::XsaveLayout { number: 9 });
}
