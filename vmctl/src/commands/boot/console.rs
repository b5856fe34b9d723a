//! Standard input on its way to the guest's console.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, IsTerminal, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::io::Errno;

use super::escape::{EscapeFilter, Request};
use crate::terminal::RawMode;

/// How much is read at once.
const READ_BYTES: usize = 4096;

/// How much typed input waits for a guest that doesn't read; what's typed beyond it is lost, as
/// with a terminal's own buffer. The escape sequences still work then.
const MAX_PENDING_BYTES: usize = 64 * 1024;

/// Passes standard input on to the VMM, and watches for escape sequences if it's a terminal.
#[derive(Debug)]
pub(crate) struct ConsoleInput {
    /// The pipe that's the VMM's standard input; closed once all input has gone through.
    guest: Option<File>,
    pending: VecDeque<u8>,
    /// Standard input has ended.
    ended: bool,
    terminal: Option<(RawMode, EscapeFilter)>,
}

impl ConsoleInput {
    /// Makes a terminal raw; `guest` is the writing end of the VMM's standard input.
    pub(crate) fn connect(guest: OwnedFd) -> io::Result<Self> {
        let flags = fcntl_getfl(&guest)?;
        fcntl_setfl(&guest, flags | OFlags::NONBLOCK)?;
        Ok(Self {
            guest: Some(File::from(guest)),
            pending: VecDeque::new(),
            ended: false,
            terminal: RawMode::enter()?.map(|raw| (raw, EscapeFilter::default())),
        })
    }

    /// Whether keys are watched for escape sequences.
    pub(crate) fn is_terminal(&self) -> bool {
        self.terminal.is_some() && io::stderr().is_terminal()
    }

    /// Standard input, if more of it is wanted: a file or a pipe waits for a slow guest, a
    /// terminal doesn't.
    pub(crate) fn source(&self) -> Option<BorrowedFd<'static>> {
        let has_room = self.pending.is_empty() || self.terminal.is_some();
        (!self.ended && has_room).then(rustix::stdio::stdin)
    }

    /// The VMM's end, if something waits to be written there.
    pub(crate) fn sink(&self) -> Option<BorrowedFd<'_>> {
        let guest = self.guest.as_ref()?;
        (!self.pending.is_empty()).then(|| guest.as_fd())
    }

    /// Reads once what's there, and returns what the escape sequences in it ask for.
    pub(crate) fn read(&mut self) -> Vec<Request> {
        let mut buffer = [0; READ_BYTES];
        // Not through the standard library's buffer: what that holds back, no poll would tell.
        let length = match rustix::io::read(rustix::stdio::stdin(), &mut buffer[..]) {
            Ok(length) => length,
            Err(Errno::INTR | Errno::AGAIN) => return Vec::new(),
            Err(errno) => {
                // A directory, or a terminal that was hung up: the VM runs on without input.
                log::warn!("standard input can't be read: {errno}");
                0
            }
        };
        let typed = &buffer[..length];
        let mut requests = Vec::new();
        match &mut self.terminal {
            None => self.pending.extend(typed),
            Some((_, filter)) => {
                let mut for_guest = Vec::with_capacity(length);
                requests = filter.feed(typed, &mut for_guest);
                let room = MAX_PENDING_BYTES.saturating_sub(self.pending.len());
                self.pending.extend(for_guest.into_iter().take(room));
            }
        }
        self.ended |= length == 0;
        self.write();
        requests
    }

    /// Writes as much as the VMM takes now.
    pub(crate) fn write(&mut self) {
        let Some(guest) = &mut self.guest else {
            self.pending.clear();
            return;
        };
        while !self.pending.is_empty() {
            match guest.write(self.pending.as_slices().0) {
                Ok(length) => drop(self.pending.drain(..length)),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(_) => {
                    // The VMM reads no more: its end is told elsewhere.
                    self.pending.clear();
                    self.guest = None;
                    return;
                }
            }
        }
        if self.ended {
            self.guest = None;
        }
    }

    /// Sets the terminal's modes again after this process was stopped and continued.
    pub(crate) fn resume(&self) -> io::Result<()> {
        match &self.terminal {
            Some((raw, _)) => raw.apply(),
            None => Ok(()),
        }
    }
}
