//! The ioctls of a vCPU that `kvm-ioctls` leaves to its user, or doesn't have.
#![expect(unsafe_code, reason = "KVM reads and writes buffers that the caller sizes")]

use kvm_bindings::{
    KVM_VCPU_TSC_CTRL, KVM_VCPU_TSC_OFFSET, KVMIO, Xsave, kvm_device_attr, kvm_xsave,
};
use kvm_ioctls::{Cap, VcpuFd, VmFd};
use vmm_sys_util::ioctl::ioctl_with_ref;
use vmm_sys_util::{errno, ioctl_iow_nr};

ioctl_iow_nr!(KVM_SET_DEVICE_ATTR, KVMIO, 0xe1, kvm_device_attr);
ioctl_iow_nr!(KVM_GET_DEVICE_ATTR, KVMIO, 0xe2, kvm_device_attr);

/// How many bytes a vCPU's extended state has on this host, for KVM's side of the exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct XsaveSize {
    bytes: usize,
    /// Whether KVM has the calls that carry more than 4096 bytes.
    extended: bool,
}

impl XsaveSize {
    /// Asks KVM for the size for vCPUs of `vm`.
    pub(super) fn of(vm: &VmFd) -> Self {
        let least = size_of::<kvm_xsave>();
        let bytes = usize::try_from(vm.check_extension_int(Cap::Xsave2)).unwrap_or(0);
        Self { bytes: bytes.max(least), extended: bytes != 0 }
    }

    pub(super) fn bytes(self) -> usize {
        self.bytes
    }

    /// Allocates a buffer of that size, at least, all zero.
    fn buffer(self) -> Result<Xsave, errno::Error> {
        let words = (self.bytes - size_of::<kvm_xsave>()).div_ceil(size_of::<u32>());
        Xsave::new(words).map_err(|_| errno::Error::new(libc::ENOMEM))
    }
}

/// Reads a vCPU's extended state, `size` bytes of it.
///
/// # Errors
/// KVM's error number.
pub(super) fn xsave(vcpu: &VcpuFd, size: XsaveSize) -> Result<Vec<u8>, errno::Error> {
    if !size.extended {
        let state = vcpu.get_xsave()?;
        return Ok(state.region.iter().flat_map(|word| word.to_le_bytes()).collect());
    }
    let mut buffer = size.buffer()?;
    // SAFETY: the buffer holds what KVM said that it needs for a vCPU of this VM. No feature that
    // would make it more is enabled afterwards: this process never calls arch_prctl(2).
    unsafe { vcpu.get_xsave2(&mut buffer) }?;
    let region = buffer.as_fam_struct_ref().xsave.region;
    let words = region.iter().chain(buffer.as_slice());
    let mut bytes: Vec<u8> = words.flat_map(|word| word.to_le_bytes()).collect();
    bytes.truncate(size.bytes);
    Ok(bytes)
}

/// Gives a vCPU an extended state. One shorter than `size` counts as zero from there on.
///
/// # Errors
/// EINVAL when it is longer than `size`, else KVM's error number.
pub(super) fn set_xsave(vcpu: &VcpuFd, size: XsaveSize, state: &[u8]) -> Result<(), errno::Error> {
    if state.len() > size.bytes {
        return Err(errno::Error::new(libc::EINVAL));
    }
    let mut buffer = size.buffer()?;
    let mut words = state.chunks(size_of::<u32>()).map(|chunk| {
        let mut word = [0; size_of::<u32>()];
        word.iter_mut().zip(chunk).for_each(|(to, from)| *to = *from);
        u32::from_le_bytes(word)
    });
    let mut legacy = kvm_xsave::default();
    legacy.region.iter_mut().zip(&mut words).for_each(|(to, from)| *to = from);
    buffer.as_mut_slice().iter_mut().zip(&mut words).for_each(|(to, from)| *to = from);
    // SAFETY: only the part of fixed size is replaced; the length that the buffer was allocated
    // with stays.
    unsafe { buffer.as_mut_fam_struct() }.xsave.region = legacy.region;
    // SAFETY: the buffer holds at least what KVM said that it reads for a vCPU of this VM, as in
    // `xsave`.
    unsafe { vcpu.set_xsave2(&buffer) }
}

/// Reads by how much the guest's time-stamp counter is ahead of the host's, scaled one
/// (Linux's `Documentation/virt/kvm/devices/vcpu.rst` §4.1).
///
/// # Errors
/// KVM's error number: kernels before 5.16 don't tell.
pub(super) fn tsc_offset(vcpu: &VcpuFd) -> Result<u64, errno::Error> {
    let mut offset = 0_u64;
    let attribute = tsc_offset_attribute(&raw mut offset as u64);
    // SAFETY:
    // - The attribute's address is that of a live u64 that nothing else refers to meanwhile.
    // - For this attribute KVM writes exactly eight bytes.
    let result = unsafe { ioctl_with_ref(vcpu, KVM_GET_DEVICE_ATTR(), &attribute) };
    if result == 0 { Ok(offset) } else { Err(errno::Error::last()) }
}

/// Sets what [`tsc_offset`] reads.
///
/// # Errors
/// KVM's error number.
pub(super) fn set_tsc_offset(vcpu: &VcpuFd, offset: u64) -> Result<(), errno::Error> {
    let attribute = tsc_offset_attribute(&raw const offset as u64);
    // SAFETY: the attribute's address is that of a live u64, and KVM reads exactly eight bytes.
    let result = unsafe { ioctl_with_ref(vcpu, KVM_SET_DEVICE_ATTR(), &attribute) };
    if result == 0 { Ok(()) } else { Err(errno::Error::last()) }
}

fn tsc_offset_attribute(address: u64) -> kvm_device_attr {
    kvm_device_attr {
        group: KVM_VCPU_TSC_CTRL,
        attr: KVM_VCPU_TSC_OFFSET.into(),
        addr: address,
        flags: 0,
    }
}
