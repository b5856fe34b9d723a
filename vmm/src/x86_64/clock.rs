//! The guest's time across a snapshot: kvmclock, and each vCPU's time-stamp counter.
//!
//! A Linux guest computes CLOCK_MONOTONIC and CLOCK_REALTIME from one of the two, whichever it
//! chose as its clock source, and checks it against the other. So both must come back as one: at
//! the instant at which kvmclock says what it said when the counter was read, plus *n* nanoseconds,
//! the counter has its saved value plus *n* nanoseconds' worth of cycles. That holds on any host,
//! whatever its own counter says (Linux's `Documentation/virt/kvm/devices/vcpu.rst` §4.1 has the
//! same equation).
//!
//! What *n* is, is [`ClockPolicy`]. All of it happens before any vCPU runs, and before any timer of
//! a local APIC is armed. A mere pause changes nothing: both go on meanwhile, as a real machine's
//! do, and the guest's watchdogs are told ([`crate::vcpu::VcpuHandle::resume`]).

use arch_x86_64::msrs::IA32_TSC;
use kvm_bindings::{KVM_CLOCK_HOST_TSC, KVM_CLOCK_REALTIME, kvm_clock_data};
use kvm_ioctls::{Cap, VcpuFd, VmFd};
use rustix::time::{ClockId, clock_gettime};

use super::state::{NameCall, SavedClock, SavedMsr, SavedTsc, StateError};
use super::{msrs, raw};

const NS_PER_SECOND: u64 = 1_000_000_000;

/// How close a counter's value is tied to kvmclock's, in nanoseconds, before nobody looks again; and
/// how often that's tried.
const CLOSE_NS: u64 = 5_000;
const MAX_LOOKS: u32 = 16;

/// What becomes of the guest's clocks over the gap between a snapshot and its restore.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum ClockPolicy {
    /// They advance by the gap, as the host's CLOCK_REALTIME measures it: the guest's wall clock is
    /// right at once on every vCPU, its CLOCK_MONOTONIC jumps forward, and timers that were due
    /// meanwhile fire together. They never go back, not even when the host's clock did: then they
    /// continue.
    #[default]
    Advance,
    /// They continue from the snapshot: the guest doesn't notice the gap, and its wall clock is
    /// behind by it until something in the guest (NTP, PTP) sets it.
    Continue,
}

/// Reads the VM's clock.
///
/// # Errors
/// [`StateError::Kvm`] when KVM refuses.
pub(super) fn save(vm: &VmFd) -> Result<SavedClock, StateError> {
    let clock = get(vm)?;
    // On a host whose own clock isn't its time-stamp counter KVM doesn't tell both at once.
    let realtime_ns =
        if clock.flags & KVM_CLOCK_REALTIME != 0 { clock.realtime } else { realtime_ns() };
    Ok(SavedClock { kvmclock_ns: clock.clock, realtime_ns })
}

/// Reads a vCPU's time-stamp counter.
///
/// # Errors
/// [`StateError::Kvm`] when KVM refuses.
pub(super) fn save_tsc(vm: &VmFd, vcpu: &VcpuFd) -> Result<SavedTsc, StateError> {
    let offset = raw::tsc_offset(vcpu).ok();
    let mut tied = look(vm, vcpu, offset)?;
    for _ in 1..MAX_LOOKS {
        if tied.uncertain_ns <= CLOSE_NS {
            break;
        }
        // This thread may have had to wait between the looks: the closest ones count.
        let again = look(vm, vcpu, offset)?;
        if again.uncertain_ns < tied.uncertain_ns {
            tied = again;
        }
    }
    let Tied { value, kvmclock_ns, .. } = tied;
    Ok(SavedTsc { khz: vcpu.get_tsc_khz().ok(), value, kvmclock_ns, offset })
}

fn look(vm: &VmFd, vcpu: &VcpuFd, offset: Option<u64>) -> Result<Tied, StateError> {
    let before = get(vm)?;
    let value = msrs::read_one(vcpu, IA32_TSC)?.unwrap_or_default();
    let after = get(vm)?;
    Ok(pair(before, value, after, offset))
}

/// A counter's value, and what kvmclock shows at that instant, or so many nanoseconds beside it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Tied {
    value: u64,
    kvmclock_ns: u64,
    uncertain_ns: u64,
}

/// Ties the counter's `value`, read between two looks at kvmclock, to one instant of kvmclock.
///
/// The counter is the host's, scaled, plus `offset`. Without scaling, that is with nearly every
/// host, the value at the instant of the first look follows exactly, and lies where it was read. If
/// it doesn't, the middle between the looks is as close as one gets: a few microseconds.
fn pair(before: kvm_clock_data, value: u64, after: kvm_clock_data, offset: Option<u64>) -> Tied {
    let told = before.flags & after.flags & KVM_CLOCK_HOST_TSC != 0;
    if let Some(offset) = offset.filter(|_| told) {
        let exact = before.host_tsc.wrapping_add(offset);
        let read_after = value.wrapping_sub(exact);
        if read_after <= after.host_tsc.wrapping_sub(before.host_tsc) {
            return Tied { value: exact, kvmclock_ns: before.clock, uncertain_ns: 0 };
        }
    }
    let uncertain_ns = after.clock.saturating_sub(before.clock) / 2;
    Tied { value, kvmclock_ns: before.clock.saturating_add(uncertain_ns), uncertain_ns }
}

/// Sets the VM's clock as `policy` says. All vCPUs exist and have their frequency.
///
/// # Errors
/// [`StateError::Kvm`] when KVM refuses.
pub(super) fn restore(vm: &VmFd, saved: SavedClock, policy: ClockPolicy) -> Result<(), StateError> {
    let mut clock = kvm_clock_data { clock: saved.kvmclock_ns, ..Default::default() };
    if policy == ClockPolicy::Advance {
        let known = u32::try_from(vm.check_extension_int(Cap::AdjustClock)).unwrap_or_default();
        if known & KVM_CLOCK_REALTIME != 0 {
            // KVM adds the gap in the instant in which it sets the clock.
            clock.flags = KVM_CLOCK_REALTIME;
            clock.realtime = saved.realtime_ns;
        } else {
            let gap = realtime_ns().saturating_sub(saved.realtime_ns);
            clock.clock = clock.clock.saturating_add(gap);
        }
    }
    vm.set_clock(&clock).call("KVM_SET_CLOCK")
}

/// Gives all vCPUs their time-stamp counters, which agree afterwards as exactly as they did when
/// they were saved. The VM's clock is set.
///
/// # Errors
/// [`StateError::Kvm`] when KVM refuses.
pub(super) fn restore_tscs(vm: &VmFd, vcpus: &[(&VcpuFd, SavedTsc)]) -> Result<(), StateError> {
    let Some(&(first, saved_first)) = vcpus.first() else { return Ok(()) };
    let now = save_tsc(vm, first)?;
    for (vcpu, saved) in vcpus {
        match setting(now, saved_first, *saved) {
            Setting::Offset(offset) => {
                raw::set_tsc_offset(vcpu, offset).call("KVM_SET_DEVICE_ATTR")?;
            }
            Setting::Value(value) => msrs::write(vcpu, &[SavedMsr { index: IA32_TSC, value }])?,
        }
    }
    Ok(())
}

/// How a vCPU is given its counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Setting {
    /// By its distance from the host's: exactly.
    Offset(u64),
    /// By its value now. KVM takes writes within a second of each other for nearly the same value
    /// as meant to agree, and makes them agree.
    Value(u64),
}

/// Finds the setting for the vCPU of which `saved` is known, when of the first vCPU `first` was
/// saved and its counter stands at `now`.
fn setting(now: SavedTsc, first: SavedTsc, saved: SavedTsc) -> Setting {
    let target = value_at(first, now.kvmclock_ns);
    let relative = match (saved.offset, first.offset) {
        (Some(own), Some(first)) => own.wrapping_sub(first),
        _ => 0,
    };
    match now.offset {
        Some(offset) => {
            let change = target.wrapping_sub(now.value);
            Setting::Offset(offset.wrapping_add(change).wrapping_add(relative))
        }
        None => Setting::Value(target.wrapping_add(relative)),
    }
}

/// Returns the counter's value when kvmclock has `kvmclock_ns`.
fn value_at(saved: SavedTsc, kvmclock_ns: u64) -> u64 {
    // Without a stable frequency nothing better is known than that it mustn't go back.
    let khz = i128::from(saved.khz.unwrap_or_default());
    let elapsed_ns = i128::from(kvmclock_ns) - i128::from(saved.kvmclock_ns);
    let cycles = elapsed_ns * khz / 1_000_000;
    // The counter wraps: the low 64 bits of the two's complement are what is added.
    let [low @ .., _, _, _, _, _, _, _, _] = cycles.to_le_bytes();
    saved.value.wrapping_add(u64::from_le_bytes(low))
}

fn get(vm: &VmFd) -> Result<kvm_clock_data, StateError> {
    vm.get_clock().call("KVM_GET_CLOCK")
}

fn realtime_ns() -> u64 {
    let now = clock_gettime(ClockId::Realtime);
    let seconds = u64::try_from(now.tv_sec).unwrap_or_default();
    let nanoseconds = u64::try_from(now.tv_nsec).unwrap_or_default();
    seconds.saturating_mul(NS_PER_SECOND).saturating_add(nanoseconds)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 2 GHz: two cycles a nanosecond.
    const KHZ: u32 = 2_000_000;

    fn tsc(value: u64, kvmclock_ns: u64, offset: Option<u64>) -> SavedTsc {
        SavedTsc { khz: Some(KHZ), value, kvmclock_ns, offset }
    }

    #[test]
    fn counter_advances_with_kvmclock_wherever_the_hosts_counter_stands() {
        let saved = tsc(5000, 1000, Some(77));
        for (now_ns, expected) in
            [(1000, 5000), (1001, 5002), (20_000_001_000, 40_000_005_000), (999, 4998)]
        {
            let new = tsc(900, now_ns, Some(0_u64.wrapping_sub(100)));
            // Host's counter + offset: 900 is 1000 - 100 now.
            let offset = u64::wrapping_sub(expected, 1000);
            assert_eq!(setting(new, saved, saved), Setting::Offset(offset));
            assert_eq!(setting(tsc(900, now_ns, None), saved, saved), Setting::Value(expected));
        }
    }

    #[test]
    fn vcpus_keep_their_distance_to_the_cycle_and_agree_when_it_is_unknown() {
        let now = tsc(0, 1000, Some(10));
        let (first, second) = (tsc(5000, 1000, Some(70)), tsc(5003, 1001, Some(60)));
        assert_eq!(setting(now, first, first), Setting::Offset(5010));
        assert_eq!(setting(now, first, second), Setting::Offset(5000));
        let second = SavedTsc { offset: None, ..second };
        assert_eq!(setting(now, first, second), Setting::Offset(5010));
    }

    #[test]
    fn counter_of_an_unknown_frequency_continues() {
        let saved = SavedTsc { khz: None, ..tsc(5000, 1000, None) };
        assert_eq!(value_at(saved, u64::MAX), 5000);
        assert_eq!(value_at(tsc(u64::MAX, 0, None), 1), 1, "it wraps");
    }

    #[test]
    fn reading_is_exact_unless_the_counter_is_scaled() {
        let clock = |clock, host_tsc| kvm_clock_data {
            clock,
            host_tsc,
            flags: KVM_CLOCK_HOST_TSC,
            ..Default::default()
        };
        let (before, after) = (clock(1000, 8000), clock(1100, 8200));
        let offset = Some(0_u64.wrapping_sub(3000));
        let tied = |value, kvmclock_ns, uncertain_ns| Tied { value, kvmclock_ns, uncertain_ns };
        for value in [5000, 5123, 5200] {
            assert_eq!(pair(before, value, after, offset), tied(5000, 1000, 0));
        }
        for value in [4999, 5201, 90_000] {
            assert_eq!(pair(before, value, after, offset), tied(value, 1050, 50));
        }
        assert_eq!(pair(before, 5100, after, None), tied(5100, 1050, 50));
        let silent = kvm_clock_data { flags: 0, ..after };
        assert_eq!(pair(before, 5100, silent, offset), tied(5100, 1050, 50));
    }
}
