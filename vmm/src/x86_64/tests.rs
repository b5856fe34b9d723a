//! State on its way through JSON into another VM. Any KVM will do: no guest kernel runs.

use std::sync::Arc;
use std::time::Duration;

use arch_x86_64::cpu_template::{Bitmap, CpuTemplate, CpuidModifier, MsrModifier};
use arch_x86_64::cpuid::{CpuidEntry, Register};
use arch_x86_64::msrs::{IA32_TSC, IA32_TSC_DEADLINE};
use kvm_bindings::{
    KVM_IRQCHIP_IOAPIC, KVM_IRQCHIP_PIC_SLAVE, KVM_MP_STATE_HALTED, kvm_ioapic_state, kvm_irqchip,
    kvm_irqchip__bindgen_ty_1, kvm_mp_state, kvm_pic_state,
};

use super::state::{SavedMsr, SavedTsc};
use super::*;
use crate::vcpu::testing::{CODE, DATA, TinyVm};
use crate::vcpu::{self, Vcpu};

/// `inc byte [DATA]; jmp $-4`
const COUNT: &[u8] = &[0xfe, 0x06, 0x00, 0x20, 0xeb, 0xfa];
const NS_PER_SECOND: u64 = 1_000_000_000;

struct Saved {
    vm: VmKvmState,
    vcpus: Vec<VcpuState>,
}

/// Creates a machine of two vCPUs: one that counts, and one that waits for its INIT.
fn machine() -> Option<(TinyVm, Vec<Vcpu>)> {
    let machine = TinyVm::new(COUNT)?;
    let vcpus = vec![machine.vcpu(0), machine.new_vcpu(1)];
    let cpuid = HostCpuid::read(&machine.kvm).unwrap();
    for vcpu in &vcpus {
        let place = VcpuPlace { index: vcpu.index, count: 2 };
        set_up_vcpu(&vcpu.fd, &cpuid, place, None).unwrap();
    }
    Some((machine, vcpus))
}

fn save(machine: &TinyVm, vcpus: &[Vcpu]) -> Saved {
    let reader = StateReader::new(&machine.kvm, Arc::clone(&machine.vm)).unwrap();
    let vcpus = vcpus.iter().map(|vcpu| reader.read_vcpu(vcpu.index, &vcpu.fd).unwrap()).collect();
    Saved { vm: reader.read_vm().unwrap(), vcpus }
}

/// Restores `saved` into a new machine, by way of JSON.
fn restored(saved: &Saved, policy: ClockPolicy) -> Result<(TinyVm, Vec<Vcpu>), StateError> {
    let json = serde_json::to_string(&(&saved.vm, &saved.vcpus)).unwrap();
    let (vm, states): (VmKvmState, Vec<VcpuState>) = serde_json::from_str(&json).unwrap();
    let machine = TinyVm::new(COUNT).expect("there was one before");
    let vcpus: Vec<_> = (0..2).map(|index| machine.new_vcpu(index)).collect();
    restore(&machine.vm, &vcpus, &states, &vm, policy)?;
    Ok((machine, vcpus))
}

fn msr(state: &mut VcpuState, index: u32) -> &mut SavedMsr {
    state.msrs.iter_mut().find(|msr| msr.index == index).unwrap()
}

/// Gives a vCPU what differs from its first state, one thing in each part.
fn disturb(machine: &TinyVm, vcpu: &Vcpu) {
    let mut regs = vcpu.fd.get_regs().unwrap();
    (regs.rax, regs.r15, regs.rip) = (0x1122_3344_5566_7788, u64::MAX, CODE + 4);
    vcpu.fd.set_regs(&regs).unwrap();
    let mut sregs = vcpu.fd.get_sregs().unwrap();
    (sregs.cr2, sregs.fs.base, sregs.gdt.limit) = (0xdead_b000, 0x1230, 0x77);
    vcpu.fd.set_sregs(&sregs).unwrap();
    let mut debug = vcpu.fd.get_debug_regs().unwrap();
    debug.db[3] = 0x4321;
    vcpu.fd.set_debug_regs(&debug).unwrap();
    let size = raw::XsaveSize::of(&machine.vm);
    let mut xsave = raw::xsave(&vcpu.fd, size).unwrap();
    // XMM5, and the bits that say that x87 and SSE registers are in use (SDM 1 §13.4).
    xsave[240..256].fill(0xa5);
    xsave[512] |= 3;
    raw::set_xsave(&vcpu.fd, size, &xsave).unwrap();
    let mut lapic = vcpu.fd.get_lapic().unwrap();
    // The error interrupt's vector (SDM 3A §11.4.1, Table 11-1).
    (lapic.regs[0x370], lapic.regs[0x372]) = (0x33, 1);
    // One-shot at a deadline far away: KVM takes the deadline in this mode only.
    lapic.regs[0x322] = 4;
    vcpu.fd.set_lapic(&lapic).unwrap();
    let mut xcrs = vcpu.fd.get_xcrs().unwrap();
    xcrs.xcrs[0].value |= 2;
    vcpu.fd.set_xcrs(&xcrs).unwrap();
    let mut events = vcpu.fd.get_vcpu_events().unwrap();
    events.nmi.masked = 1;
    vcpu.fd.set_vcpu_events(&events).unwrap();
    vcpu.fd.set_mp_state(kvm_mp_state { mp_state: KVM_MP_STATE_HALTED }).unwrap();
    let star = SavedMsr { index: 0xc000_0081, value: 0x0023_0010_0000_0000 };
    let deadline = SavedMsr { index: IA32_TSC_DEADLINE, value: u64::MAX / 2 };
    msrs::write(&vcpu.fd, &[star, deadline]).unwrap();
}

fn set_chip(machine: &TinyVm, chip_id: u32, chip: kvm_irqchip__bindgen_ty_1) {
    machine.vm.set_irqchip(&kvm_irqchip { chip_id, pad: 0, chip }).unwrap();
}

#[test]
fn restored_state_is_the_saved_one() {
    let Some((first, vcpus)) = machine() else { return };
    vcpus.iter().for_each(|vcpu| disturb(&first, vcpu));
    let pic = kvm_pic_state { imr: 0xa5, ..Default::default() };
    set_chip(&first, KVM_IRQCHIP_PIC_SLAVE, kvm_irqchip__bindgen_ty_1 { pic });
    let mut ioapic = kvm_ioapic_state { base_address: 0xfec0_0000, ..Default::default() };
    ioapic.redirtbl[5].bits = 1 << 16 | 0x31;
    set_chip(&first, KVM_IRQCHIP_IOAPIC, kvm_irqchip__bindgen_ty_1 { ioapic });
    let mut before = save(&first, &vcpus);
    assert_eq!(before.vcpus[0].xsave[240..256], [0xa5; 16]);
    assert_eq!(msr(&mut before.vcpus[0], IA32_TSC_DEADLINE).value, u64::MAX / 2);
    assert!(before.vcpus[0].msrs.len() > 20, "{:?}", before.vcpus[0].msrs);
    let (second, vcpus) = restored(&before, ClockPolicy::default()).unwrap();
    let mut after = save(&second, &vcpus);
    for (before, after) in before.vcpus.iter().zip(&mut after.vcpus) {
        after.tsc = before.tsc;
        assert_eq!(before.msrs, after.msrs);
        // Part by part: the whole is too long to be read.
        let [before, after] = [before, &*after].map(|state| serde_json::to_value(state).unwrap());
        for (part, before) in before.as_object().unwrap() {
            assert_eq!(before, &after[part], "{part}");
        }
    }
    after.vm.clock = before.vm.clock;
    assert_eq!(before.vm, after.vm);
}

#[test]
fn restored_vcpu_goes_on_where_the_saved_one_was() {
    let Some((first, mut vcpus)) = machine() else { return };
    let waiting = vcpus.pop().unwrap();
    let handles = [vcpus.pop().unwrap(), waiting].map(|vcpu| vcpu::spawn(vcpu).unwrap());
    while first.byte(DATA) == 0 {
        std::thread::yield_now();
    }
    let reader = StateReader::new(&first.kvm, Arc::clone(&first.vm)).unwrap();
    assert!(matches!(reader.read_vcpus(&handles), Err(VmmError::Vcpu(_))), "they run");
    for vcpu in &handles {
        vcpu.request_pause();
        vcpu.wait_paused().unwrap();
    }
    let states = reader.read_vcpus(&handles).unwrap();
    let saved = Saved { vm: reader.read_vm().unwrap(), vcpus: states };
    let (second, vcpus) = restored(&saved, ClockPolicy::Advance).unwrap();
    let handles: Vec<_> = vcpus.into_iter().map(|vcpu| vcpu::spawn_paused(vcpu).unwrap()).collect();
    assert_eq!(second.byte(DATA), 0, "memory isn't part of this state");
    for vcpu in &handles {
        vcpu.wait_paused().unwrap();
        vcpu.resume();
    }
    while second.byte(DATA) == 0 {
        std::thread::yield_now();
    }
}

/// Says whether a vCPU's counter can differ from the host's, or why the test can't run.
fn has_own_tsc(machine: &TinyVm, vcpu: &Vcpu) -> bool {
    let Ok(before) = raw::tsc_offset(&vcpu.fd) else {
        println!("SKIPPED: this KVM doesn't tell the counter's offset");
        return false;
    };
    raw::set_tsc_offset(&vcpu.fd, before.wrapping_add(7)).unwrap();
    let own = raw::tsc_offset(&vcpu.fd) == Ok(before.wrapping_add(7));
    raw::set_tsc_offset(&vcpu.fd, before).unwrap();
    if !own {
        println!("SKIPPED: guests of this KVM, without hardware, have the host's counter");
    }
    own && clock::save_tsc(&machine.vm, &vcpu.fd).unwrap().khz.is_some()
}

#[test]
fn clock_advances_by_the_gap_or_not_at_all() {
    const GAP_NS: u64 = 20 * NS_PER_SECOND;
    let Some((first, vcpus)) = machine() else { return };
    let mut before = save(&first, &vcpus);
    before.vm.clock.realtime_ns -= GAP_NS;
    for (policy, least) in [(ClockPolicy::Advance, GAP_NS), (ClockPolicy::Continue, 0)] {
        let (second, vcpus) = restored(&before, policy).unwrap();
        let after = save(&second, &vcpus);
        let elapsed_ns = after.vm.clock.kvmclock_ns - before.vm.clock.kvmclock_ns;
        // How long the test took comes on top.
        let most = least + 10 * NS_PER_SECOND;
        assert!((least..most).contains(&elapsed_ns), "{policy:?}: {elapsed_ns} ns");
    }
}

#[test]
fn counters_advance_as_the_clock_does_and_agree() {
    let Some((first, vcpus)) = machine() else { return };
    if !has_own_tsc(&first, &vcpus[0]) {
        return;
    }
    let mut before = save(&first, &vcpus);
    before.vm.clock.realtime_ns -= 20 * NS_PER_SECOND;
    for policy in [ClockPolicy::Advance, ClockPolicy::Continue] {
        let (second, vcpus) = restored(&before, policy).unwrap();
        let after = save(&second, &vcpus);
        for (before, after) in before.vcpus.iter().zip(&after.vcpus) {
            let drift_ns = drift_ns(before.tsc, after.tsc);
            assert!(drift_ns.abs() < 100_000, "{policy:?}: {drift_ns} ns");
        }
        let offsets: Vec<_> = after.vcpus.iter().map(|vcpu| vcpu.tsc.offset).collect();
        assert!(offsets.windows(2).all(|pair| pair[0] == pair[1]), "{offsets:?}");
    }
}

/// Returns how far a counter went ahead of kvmclock between two looks.
fn drift_ns(before: SavedTsc, after: SavedTsc) -> i128 {
    let cycles = i128::from(after.value) - i128::from(before.value);
    let ns = cycles * 1_000_000 / i128::from(before.khz.unwrap());
    ns - (i128::from(after.kvmclock_ns) - i128::from(before.kvmclock_ns))
}

#[test]
fn clock_does_not_go_back_when_the_hosts_did() {
    let Some((first, vcpus)) = machine() else { return };
    let mut before = save(&first, &vcpus);
    before.vm.clock.realtime_ns += 3600 * NS_PER_SECOND;
    let (second, vcpus) = restored(&before, ClockPolicy::Advance).unwrap();
    let elapsed_ns =
        save(&second, &vcpus).vm.clock.kvmclock_ns.checked_sub(before.vm.clock.kvmclock_ns);
    assert!(elapsed_ns.is_some_and(|ns| ns < 60 * NS_PER_SECOND), "{elapsed_ns:?}");
}

#[test]
fn difference_between_two_vcpus_counters_is_kept() {
    let Some((first, vcpus)) = machine() else { return };
    if !has_own_tsc(&first, &vcpus[0]) {
        return;
    }
    let mut before = save(&first, &vcpus);
    let zero = before.vcpus[0].tsc.offset.unwrap();
    before.vcpus[1].tsc.offset = Some(zero.wrapping_sub(12_345));
    let (second, vcpus) = restored(&before, ClockPolicy::Advance).unwrap();
    let after = save(&second, &vcpus);
    let [zero, one] = [0, 1].map(|index| after.vcpus[index].tsc.offset.unwrap());
    assert_eq!(zero.wrapping_sub(one), 12_345);
}

#[test]
fn state_that_does_not_fit_is_an_error() {
    let Some((first, vcpus)) = machine() else { return };
    let damage = |damage: &dyn Fn(&mut Saved)| {
        let mut saved = save(&first, &vcpus);
        damage(&mut saved);
        restored(&saved, ClockPolicy::Continue).map(|_| ()).unwrap_err()
    };
    let malformed = |error: StateError| {
        assert!(matches!(error, StateError::Malformed { .. }), "{error}");
    };
    malformed(damage(&|saved| saved.vcpus[0].xsave.resize(1 << 20, 0)));
    malformed(damage(&|saved| saved.vcpus[0].cpuid.resize(1000, CpuidEntry::default())));
    malformed(damage(&|saved| saved.vcpus.swap(0, 1)));
    malformed(damage(&|saved| {
        saved.vcpus[1].msrs.resize(10_000, SavedMsr { index: 0x174, value: 0 });
    }));
    let error = damage(&|saved| saved.vcpus.truncate(1));
    assert!(matches!(error, StateError::VcpuCount { saved: 1, created: 2 }), "{error}");
    let unknown = SavedMsr { index: 0x1234_5678, value: 7 };
    let error = damage(&|saved| saved.vcpus[0].msrs.insert(0, unknown));
    assert!(matches!(error, StateError::RefusedMsr { index: 0x1234_5678, value: 7 }), "{error}");
    // CR0.PG without CR0.PE.
    let error = damage(&|saved| saved.vcpus[0].sregs.0.cr0 = 1 << 31);
    assert!(matches!(error, StateError::Kvm { call: "KVM_SET_SREGS", .. }), "{error}");
    let error = damage(&|saved| saved.vcpus[0].xcrs.0.nr_xcrs = u32::MAX);
    assert!(matches!(error, StateError::Kvm { call: "KVM_SET_XCRS", .. }), "{error}");
}

#[test]
fn shorter_extended_state_counts_as_zero_from_its_end_on() {
    let Some((first, vcpus)) = machine() else { return };
    let mut saved = save(&first, &vcpus);
    saved.vcpus[0].xsave.truncate(577);
    let (second, vcpus) = restored(&saved, ClockPolicy::Continue).unwrap();
    let after = save(&second, &vcpus);
    assert_eq!(after.vcpus[0].xsave[..512], saved.vcpus[0].xsave[..512]);
}

#[test]
fn time_stamp_counter_is_tied_to_kvmclock_not_to_when_it_was_read() {
    let Some((first, vcpus)) = machine() else { return };
    let one = clock::save_tsc(&first.vm, &vcpus[0].fd).unwrap();
    std::thread::sleep(Duration::from_millis(20));
    let two = clock::save_tsc(&first.vm, &vcpus[0].fd).unwrap();
    let drift_ns = drift_ns(one, two);
    assert!(drift_ns.abs() < 1_000_000, "{drift_ns} ns: {one:?} {two:?}");
    assert!(!msrs::to_save(&first.kvm).unwrap().contains(&IA32_TSC));
}

#[test]
fn template_changes_what_the_guest_sees_of_cpuid_and_msrs() {
    let Some(machine) = TinyVm::new(COUNT) else { return };
    let vcpu = machine.new_vcpu(0);
    // The start of the CPU's name.
    let name = u32::from_le_bytes(*b"vmct");
    let template = CpuTemplate {
        cpuid: vec![CpuidModifier {
            leaf: 0x8000_0002,
            subleaf: 0,
            has_subleaf: false,
            registers: vec![(Register::Eax, Bitmap { mask: u32::MAX, value: name })],
        }],
        // IA32_SYSENTER_EIP.
        msrs: vec![MsrModifier { index: 0x176, bits: Bitmap { mask: 0xff00, value: 0x1200 } }],
        kvm_capabilities: Vec::new(),
    };
    let host = HostCpuid::read(&machine.kvm).unwrap();
    let cpuid = host.clone().with_template(template).unwrap();
    set_up_vcpu(&vcpu.fd, &cpuid, VcpuPlace { index: 0, count: 1 }, None).unwrap();
    let state = &mut save(&machine, &[vcpu]).vcpus[0];
    assert_eq!(msr(state, 0x176).value, 0x1200);
    let leaf = state.cpuid().iter().find(|entry| entry.function == 0x8000_0002).unwrap();
    assert_eq!(leaf.eax, name);
    let snapshot = cpuid.snapshot(state.cpuid());
    host.check(&snapshot).unwrap();
}

#[test]
fn template_for_another_host_is_refused() {
    let Some(machine) = TinyVm::new(COUNT) else { return };
    let vcpu = machine.new_vcpu(0);
    let host = HostCpuid::read(&machine.kvm).unwrap();
    let bits = Bitmap { mask: 1, value: 1 };
    let msrs = vec![MsrModifier { index: 0x1234_5678, bits }];
    let cpuid = host.clone().with_template(CpuTemplate { msrs, ..CpuTemplate::default() }).unwrap();
    let place = VcpuPlace { index: 0, count: 1 };
    let error = set_up_vcpu(&vcpu.fd, &cpuid, place, None).unwrap_err();
    assert!(error.to_string().contains("0x12345678"), "{error}");
    for (capability, there) in [
        (KvmCapability::Needed(3), true),
        (KvmCapability::Needed(u32::MAX), false),
        (KvmCapability::Waived(u32::MAX), true),
    ] {
        let kvm_capabilities = vec![capability];
        let template = CpuTemplate { kvm_capabilities, ..CpuTemplate::default() };
        assert_eq!(check_capabilities(&machine.kvm, &template).is_ok(), there, "{capability}");
    }
}
