//! The thread of a vCPU, and its handle.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{Builder, JoinHandle};

use sys::signal::kick_signal;
use sys::vcpu_run::ImmediateExit;
use vmm_sys_util::signal::Killable;

use super::{Vcpu, run};
use crate::error::VmmError;
use crate::stop::{StopReason, StopSignal};

/// What others ask of a vCPU's thread.
#[derive(Default)]
pub(super) struct Control {
    /// Leave the loop.
    pub(super) stop: AtomicBool,
}

/// A running vCPU. Dropping it stops and joins its thread.
pub struct VcpuHandle {
    control: Arc<Control>,
    immediate_exit: ImmediateExit,
    thread: Option<JoinHandle<()>>,
}

/// Starts `vcpu` on a thread of its own.
///
/// The process must have called [`sys::signal::install_kick_handler`] before.
///
/// # Errors
/// [`VmmError`] when the thread can't be made or the run page can't be mapped.
pub fn spawn(vcpu: Vcpu) -> Result<VcpuHandle, VmmError> {
    let immediate_exit = ImmediateExit::new(&vcpu.fd, vcpu.run_size_bytes)
        .map_err(|source| VmmError::os("map a vCPU's run page", source))?;
    let control = Arc::new(Control::default());
    let seen = Arc::clone(&control);
    let thread = Builder::new()
        .name(format!("vcpu{}", vcpu.index))
        .spawn(move || {
            let _guard = EndOnPanic(Arc::clone(&vcpu.stop));
            run::run_loop(vcpu, &seen);
        })
        .map_err(|source| VmmError::os("start a vCPU's thread", source))?;
    Ok(VcpuHandle { control, immediate_exit, thread: Some(thread) })
}

/// Ends the machine when its vCPU's thread unwinds: nobody would notice otherwise.
struct EndOnPanic(Arc<StopSignal>);

impl Drop for EndOnPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.request(StopReason::Fault("a vCPU's thread panicked".to_owned()));
        }
    }
}

impl VcpuHandle {
    /// Asks the vCPU to leave the guest for good; doesn't wait.
    pub fn request_stop(&self) {
        self.control.stop.store(true, Ordering::Release);
        self.immediate_exit.set(true);
        if let Some(thread) = &self.thread
            && let Err(error) = thread.kill(kick_signal())
        {
            // The thread has ended already.
            log::debug!("a vCPU wasn't kicked: {error}");
        }
    }
}

impl Drop for VcpuHandle {
    fn drop(&mut self) {
        self.request_stop();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            log::error!("a vCPU's thread had panicked");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn panic_of_a_vcpu_ends_the_machine_and_its_orderly_end_does_not() {
        let stop = Arc::new(StopSignal::new().unwrap());
        drop(EndOnPanic(Arc::clone(&stop)));
        assert_eq!(stop.reason(), None);
        let guard = EndOnPanic(Arc::clone(&stop));
        let thread = std::thread::spawn(move || {
            let _guard = guard;
            panic!("as a bug would");
        });
        assert!(thread.join().is_err());
        assert!(matches!(stop.reason(), Some(StopReason::Fault(_))));
    }
}
