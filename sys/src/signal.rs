//! Signals as file descriptors, and the one that kicks a vCPU out of the guest.
#![expect(unsafe_code, reason = "libc's signal interface is unsafe")]

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsRawFd, FromRawFd, RawFd};

use libc::{c_int, signalfd_siginfo};

/// A non-blocking file descriptor that becomes readable when one of its signals is pending for the
/// process.
#[derive(Debug)]
pub struct SignalFd(File);

impl SignalFd {
    /// Blocks `signals` for the calling thread, and for all that it starts from now on, and opens
    /// a descriptor that reports them.
    ///
    /// # Errors
    /// When a number is no signal, or no descriptor can be made.
    pub fn new(signals: &[c_int]) -> io::Result<Self> {
        let set = vmm_sys_util::signal::create_sigset(signals).map_err(io::Error::from)?;
        // SAFETY:
        // - `set` is an initialised signal set.
        // - A null old set is allowed and means that it isn't wanted.
        let result = unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &set, std::ptr::null_mut()) };
        if result != 0 {
            return Err(io::Error::from_raw_os_error(result));
        }
        // SAFETY: `set` is an initialised signal set; -1 asks for a new descriptor.
        let fd = unsafe { libc::signalfd(-1, &set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: `fd` was just opened, and nobody else owns it.
        Ok(Self(unsafe { File::from_raw_fd(fd) }))
    }

    /// Takes the next pending signal's number; `None` when there is none.
    ///
    /// # Errors
    /// When the descriptor can't be read.
    pub fn next(&self) -> io::Result<Option<c_int>> {
        let mut bytes = [0; size_of::<signalfd_siginfo>()];
        match (&self.0).read(&mut bytes) {
            Ok(count) if count == bytes.len() => {
                // `ssi_signo` is the structure's first field (signalfd(2)).
                let [a, b, c, d, ..] = bytes;
                Ok(c_int::try_from(u32::from_ne_bytes([a, b, c, d])).ok())
            }
            Ok(_) => Ok(None),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error),
        }
    }
}

impl AsRawFd for SignalFd {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

/// The signal that interrupts `KVM_RUN`.
pub fn kick_signal() -> c_int {
    vmm_sys_util::signal::SIGRTMIN()
}

/// Installs an empty handler for [`kick_signal`]: it brings a vCPU out of `KVM_RUN`, and nothing
/// else comes of it.
///
/// A vCPU's thread is also kicked while it serves a device, whose system calls then go on as if
/// nothing had happened (`SA_RESTART`, signal(7)). `KVM_RUN` isn't among those that can be restarted.
///
/// # Errors
/// When the handler can't be installed.
pub fn install_kick_handler() -> io::Result<()> {
    extern "C" fn nothing(_: c_int) {}
    // SAFETY: all zeros are a valid `sigaction`: no flags, an empty mask, the default handler.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = nothing as extern "C" fn(c_int) as libc::sighandler_t;
    action.sa_flags = libc::SA_RESTART;
    // SAFETY:
    // - `action` is initialised, and its handler touches nothing: it may run at any point.
    // - A null old action is allowed and means that it isn't wanted.
    let result = unsafe { libc::sigaction(kick_signal(), &action, std::ptr::null_mut()) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signal_fd_reports_a_signal_sent_to_the_process_once() {
        // Signal masks are per thread and the test's threads share the process: raise it here.
        let signal = libc::SIGURG;
        let descriptor = SignalFd::new(&[signal]).unwrap();
        assert_eq!(descriptor.next().unwrap(), None);
        // SAFETY: raising a blocked signal has no effect on memory.
        assert_eq!(unsafe { libc::raise(signal) }, 0);
        assert_eq!(descriptor.next().unwrap(), Some(signal));
        assert_eq!(descriptor.next().unwrap(), None);
    }

    #[test]
    fn kick_interrupts_no_system_call_of_a_device() {
        install_kick_handler().unwrap();
        let (reader, writer) = std::io::pipe().unwrap();
        let (started, on_start) = std::sync::mpsc::channel();
        let thread = std::thread::spawn(move || {
            started.send(()).unwrap();
            let mut byte = [0];
            (rustix::io::read(&reader, &mut byte), byte)
        });
        on_start.recv().unwrap();
        for _ in 0..100 {
            vmm_sys_util::signal::Killable::kill(&thread, kick_signal()).unwrap();
            std::thread::yield_now();
        }
        rustix::io::write(&writer, &[7]).unwrap();
        assert_eq!(thread.join().unwrap(), (Ok(1), [7]));
    }

    #[test]
    fn impossible_signal_is_refused() {
        assert!(SignalFd::new(&[4096]).is_err());
    }
}
