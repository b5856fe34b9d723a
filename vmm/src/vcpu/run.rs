//! A vCPU's loop.

use std::sync::atomic::Ordering;

use super::Vcpu;
use super::exit::{self, After};
use super::thread::Control;
use crate::stop::StopReason;

/// Runs the guest on the calling thread until the machine stops.
///
/// Whoever wants the vCPU out sets `control`'s flag, then the run page's, then sends the signal;
/// the loop looks at `control` each time before it enters the guest.
pub(super) fn run_loop(mut vcpu: Vcpu, control: &Control) {
    while !control.stop.load(Ordering::Acquire) {
        match vcpu.fd.run() {
            Ok(reason) => {
                if let After::Stop(reason) = exit::dispatch(reason, &vcpu.buses) {
                    vcpu.stop.request(reason);
                    return;
                }
            }
            Err(error) if error.errno() == libc::EINTR || error.errno() == libc::EAGAIN => {}
            Err(error) => {
                vcpu.stop
                    .request(StopReason::Fault(format!("can't run vCPU {}: {error}", vcpu.index)));
                return;
            }
        }
    }
}
