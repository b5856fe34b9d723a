//! Reads and writes model-specific registers, any number of them.

use arch_x86_64::msrs::{IA32_TSC, IA32_TSC_DEADLINE, UNLISTED_MSRS, is_saved};
use kvm_bindings::{KVM_MAX_MSR_ENTRIES, Msrs, kvm_msr_entry};
use kvm_ioctls::{Kvm, VcpuFd};

use super::state::{NameCall, SavedMsr, StateError};

/// The most registers that a saved state may have: several times what any KVM knows.
const MAX_SAVED: usize = 4096;

/// Lists the registers that make up a vCPU's state on this host.
///
/// # Errors
/// [`StateError::Kvm`] when KVM doesn't tell.
pub(super) fn to_save(kvm: &Kvm) -> Result<Vec<u32>, StateError> {
    let listed = kvm.get_msr_index_list().call("KVM_GET_MSR_INDEX_LIST")?;
    let listed = listed.as_slice().iter().copied();
    let mut indices: Vec<_> = listed
        .chain(UNLISTED_MSRS.iter().cloned().flatten())
        .filter(|msr| is_saved(*msr))
        .collect();
    indices.sort_unstable();
    indices.dedup();
    Ok(indices)
}

/// Reads `indices`, leaving out what this vCPU doesn't have.
///
/// # Errors
/// [`StateError::Kvm`] when KVM refuses more than single registers.
pub(super) fn read(vcpu: &VcpuFd, indices: &[u32]) -> Result<Vec<SavedMsr>, StateError> {
    let mut values = Vec::with_capacity(indices.len());
    let mut rest = indices;
    while !rest.is_empty() {
        let (chunk, _) = rest.split_at(rest.len().min(KVM_MAX_MSR_ENTRIES));
        let entries: Vec<_> = chunk.iter().map(|index| entry(*index, 0)).collect();
        let mut msrs = list(&entries)?;
        let count = vcpu.get_msrs(&mut msrs).call("KVM_GET_MSRS")?;
        let read = msrs.as_slice().iter().take(count);
        values.extend(read.map(|msr| SavedMsr { index: msr.index, value: msr.data }));
        // KVM stops at the first that it can't read.
        let done = if count < chunk.len() { count + 1 } else { count };
        rest = rest.get(done..).unwrap_or_default();
    }
    Ok(values)
}

/// Reads one register.
///
/// # Errors
/// [`StateError::Kvm`] when KVM refuses; `None` when this vCPU doesn't have it.
pub(super) fn read_one(vcpu: &VcpuFd, index: u32) -> Result<Option<u64>, StateError> {
    Ok(read(vcpu, &[index])?.first().map(|msr| msr.value))
}

/// Gives a vCPU saved registers, the deadline of its timer last: KVM arms the timer with it, by the
/// time-stamp counter and the local APIC's mode. The counter itself isn't written here.
///
/// # Errors
/// [`StateError::RefusedMsr`] when KVM refuses a register that has another value now,
/// [`StateError::Malformed`] when there are impossibly many.
pub(super) fn restore(vcpu: &VcpuFd, saved: &[SavedMsr]) -> Result<(), StateError> {
    if saved.len() > MAX_SAVED {
        return Err(StateError::malformed(format!("{} model-specific registers", saved.len())));
    }
    let is_deadline = |msr: &&SavedMsr| msr.index == IA32_TSC_DEADLINE;
    let others = saved.iter().filter(|msr| msr.index != IA32_TSC && !is_deadline(msr));
    let ordered: Vec<_> = others.chain(saved.iter().filter(is_deadline)).copied().collect();
    write(vcpu, &ordered)
}

/// Writes registers in order.
///
/// # Errors
/// As [`restore`].
pub(super) fn write(vcpu: &VcpuFd, msrs: &[SavedMsr]) -> Result<(), StateError> {
    let mut rest = msrs;
    while !rest.is_empty() {
        let (chunk, _) = rest.split_at(rest.len().min(KVM_MAX_MSR_ENTRIES));
        let entries: Vec<_> = chunk.iter().map(|msr| entry(msr.index, msr.value)).collect();
        let count = vcpu.set_msrs(&list(&entries)?).call("KVM_SET_MSRS")?;
        let mut done = count;
        if let Some(refused) = chunk.get(count) {
            let SavedMsr { index, value } = *refused;
            // What can't be set but has the value already is no loss.
            if read_one(vcpu, index)? != Some(value) {
                return Err(StateError::RefusedMsr { index, value });
            }
            done += 1;
        }
        rest = rest.get(done..).unwrap_or_default();
    }
    Ok(())
}

fn entry(index: u32, data: u64) -> kvm_msr_entry {
    kvm_msr_entry { index, data, ..Default::default() }
}

fn list(entries: &[kvm_msr_entry]) -> Result<Msrs, StateError> {
    Msrs::from_entries(entries)
        .map_err(|_| StateError::malformed("more registers than KVM takes at once"))
}
