//! Ctrl-C: everything that waits stops waiting.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::low_level::pipe;

/// Tells whether it's time to end. Clones tell the same.
#[derive(Clone, Debug)]
pub struct Interrupt {
    // A byte comes with the first signal, and is never taken out: everybody who polls sees it.
    arrived: Arc<UnixStream>,
    sender: Arc<UnixStream>,
}

impl Interrupt {
    /// One that tells only when it's [told](Self::tell).
    ///
    /// # Errors
    /// There are no file descriptors left.
    pub fn new() -> io::Result<Self> {
        let (arrived, sender) = UnixStream::pair()?;
        // Whoever sends again and again is never held up.
        sender.set_nonblocking(true)?;
        Ok(Self { arrived: Arc::new(arrived), sender: Arc::new(sender) })
    }

    /// One that tells when this process is asked to end: SIGINT, SIGTERM, SIGHUP.
    ///
    /// # Errors
    /// The signals can't be caught.
    pub fn by_signals() -> io::Result<Self> {
        let interrupt = Self::new()?;
        for signal in [SIGINT, SIGTERM, SIGHUP] {
            pipe::register(signal, interrupt.sender.try_clone()?)?;
        }
        Ok(interrupt)
    }

    /// Tells everybody.
    pub fn tell(&self) {
        // A full socket has told.
        let _ = io::Write::write(&mut &*self.sender, b"!");
    }

    /// Whether it has been told.
    pub fn is_told(&self) -> bool {
        let mut fds = [PollFd::new(&*self.arrived, PollFlags::IN)];
        poll(&mut fds, Some(&Timespec::default())).is_ok_and(|ready| ready > 0)
    }

    /// Waits until it's told.
    pub fn wait(&self) {
        let mut fds = [PollFd::new(&*self.arrived, PollFlags::IN)];
        while !matches!(poll(&mut fds, None), Ok(1..)) {}
    }

    /// What becomes readable then.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.arrived.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clones_tell_the_same_and_go_on_telling() {
        let interrupt = Interrupt::new().unwrap();
        let other = interrupt.clone();
        assert!(!other.is_told());
        interrupt.tell();
        assert!(other.is_told() && other.is_told() && interrupt.is_told());
    }
}
