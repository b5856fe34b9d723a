//! The thread of a vCPU, and its handle.

use std::sync::Arc;
use std::thread::{Builder, JoinHandle};

use kvm_ioctls::VcpuFd;
use sys::signal::kick_signal;
use sys::thread_start::{self, Role};
use sys::vcpu_run::ImmediateExit;
use vmm_sys_util::signal::Killable;

use super::control::{Control, VcpuError, Wanted};
use super::{Vcpu, run};
use crate::error::VmmError;
use crate::stop::{StopReason, StopSignal};

/// A vCPU that has a thread. Dropping it stops and joins the thread.
///
/// No call here spins, and only [`VcpuHandle::wait_paused`] and [`VcpuHandle::call`] wait.
#[derive(Debug)]
pub struct VcpuHandle {
    control: Arc<Control>,
    thread: Option<JoinHandle<()>>,
}

/// Starts `vcpu` on a thread of its own, and lets it into the guest.
///
/// The process must have called [`sys::signal::install_kick_handler`] before.
///
/// # Errors
/// [`VmmError`] when the thread can't be made or the run page can't be mapped.
pub fn spawn(vcpu: Vcpu) -> Result<VcpuHandle, VmmError> {
    start(vcpu, Wanted::Run)
}

/// Starts `vcpu` on a thread of its own, paused: it enters the guest with the first
/// [`VcpuHandle::resume`].
///
/// # Errors
/// As [`spawn`].
pub fn spawn_paused(vcpu: Vcpu) -> Result<VcpuHandle, VmmError> {
    start(vcpu, Wanted::Pause)
}

fn start(vcpu: Vcpu, wanted: Wanted) -> Result<VcpuHandle, VmmError> {
    let immediate_exit = ImmediateExit::new(&vcpu.fd, vcpu.run_size_bytes)
        .map_err(|source| VmmError::os("map a vCPU's run page", source))?;
    let control = Control::new(vcpu.index, immediate_exit, wanted);
    let seen = Arc::clone(&control);
    let thread = Builder::new()
        .name(format!("vcpu{}", vcpu.index))
        .spawn(move || {
            thread_start::begin(Role::Vcpu);
            let end = End { control: Arc::clone(&seen), stop: Arc::clone(&vcpu.stop) };
            run::run_loop(vcpu, &seen);
            drop(end);
        })
        .map_err(|source| VmmError::os("start a vCPU's thread", source))?;
    Ok(VcpuHandle { control, thread: Some(thread) })
}

/// Says that a vCPU's thread is over, and ends the machine when it unwinds: nobody would notice
/// otherwise.
struct End {
    control: Arc<Control>,
    stop: Arc<StopSignal>,
}

impl Drop for End {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.stop.request(StopReason::Fault("a vCPU's thread panicked".to_owned()));
        }
        self.control.end();
    }
}

impl VcpuHandle {
    /// Returns the vCPU's number, from 0.
    pub fn index(&self) -> u8 {
        self.control.index()
    }

    /// Asks the vCPU to leave the guest and park; doesn't wait.
    ///
    /// The access of its last exit is completed first, so its state can be saved afterwards.
    pub fn request_pause(&self) {
        self.control.want(Wanted::Pause);
        self.kick();
    }

    /// Waits until the vCPU is parked. A device's register may be served meanwhile, on the vCPU's
    /// thread: the caller must hold no lock that a device takes there.
    ///
    /// # Errors
    /// [`VcpuError::NotPaused`] unless [`VcpuHandle::request_pause`] came before,
    /// [`VcpuError::Ended`] when the vCPU has ended the machine instead.
    pub fn wait_paused(&self) -> Result<(), VcpuError> {
        self.control.wait_parked()
    }

    /// Lets a paused vCPU run, and tells its guest's kernel of the pause. Takes a pause back that
    /// hasn't come about yet.
    pub fn resume(&self) {
        self.control.want(Wanted::Run);
    }

    /// Runs `work` with the paused vCPU's file descriptor, on the vCPU's own thread, and returns
    /// what it returned.
    ///
    /// # Errors
    /// [`VcpuError`] when the vCPU isn't parked, or has ended.
    pub fn call<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut VcpuFd) -> T + Send + 'static,
    ) -> Result<T, VcpuError> {
        self.control.call(work)
    }

    /// Asks the vCPU to leave the guest for good; doesn't wait.
    pub fn request_stop(&self) {
        self.control.want(Wanted::Stop);
        self.kick();
    }

    fn kick(&self) {
        if let Some(thread) = &self.thread
            && let Err(error) = thread.kill(kick_signal())
        {
            // The thread has ended already.
            log::debug!("vCPU {} wasn't kicked: {error}", self.index());
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
mod tests;
