//! A vCPU's loop.

use kvm_ioctls::VcpuFd;

use super::Vcpu;
use super::control::{Control, Wake};
use super::exit::{self, After};
use crate::stop::StopReason;

/// Runs the guest on the calling thread until the machine stops.
///
/// `KVM_RUN` comes back with EINTR only when nothing is left to complete, so a vCPU parks with the
/// access of its last exit done: see [`Control`].
pub(super) fn run_loop(mut vcpu: Vcpu, control: &Control) {
    // A vCPU that starts paused is given its state before its first KVM_RUN.
    let mut look = true;
    loop {
        if look && !go_on(&mut vcpu.fd, control) {
            return;
        }
        look = false;
        match vcpu.fd.run() {
            Ok(reason) => {
                if let After::Stop(reason) = exit::dispatch(reason, &vcpu.buses) {
                    vcpu.stop.request(reason);
                    return;
                }
            }
            Err(error) if error.errno() == libc::EINTR => look = true,
            // A vCPU that waited for its INIT has had it.
            Err(error) if error.errno() == libc::EAGAIN => {}
            Err(error) => {
                vcpu.stop
                    .request(StopReason::Fault(format!("can't run vCPU {}: {error}", vcpu.index)));
                return;
            }
        }
    }
}

/// Parks the vCPU for as long as that's wanted. Returns whether it is to run.
fn go_on(fd: &mut VcpuFd, control: &Control) -> bool {
    match control.park(fd) {
        Wake::Undisturbed => true,
        Wake::Stop => false,
        Wake::Resumed => {
            tell_of_pause(fd, control.index());
            true
        }
    }
}

/// Tells the guest's kernel that this vCPU stood still, so that its watchdogs don't take the time
/// for a lock-up (Linux's `Documentation/virt/kvm/api.rst` §4.70).
fn tell_of_pause(fd: &VcpuFd, index: u8) {
    match fd.kvmclock_ctrl() {
        Ok(()) => {}
        // This guest doesn't use kvmclock on this vCPU, or not yet: there's nowhere to tell it.
        Err(error) if error.errno() == libc::EINVAL => {}
        Err(error) => log::warn!("can't tell the guest that vCPU {index} was paused: {error}"),
    }
}
