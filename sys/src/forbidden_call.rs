//! The last words of a process of which a thread made a system call that its filter forbids.
//!
//! The kernel sends that thread SIGSYS instead of carrying the call out. The handler here says which
//! thread and which call it was, wherever somebody may look for it, and ends the process. It does
//! only what a signal handler may (signal-safety(7)): loads of atomics, `prctl`, `writev`, `_exit`.
#![expect(unsafe_code, reason = "libc's signal interface is unsafe")]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicI32, Ordering};

use libc::{c_int, c_void, siginfo_t};

/// No descriptor.
const NONE: RawFd = -1;

/// Where a line about it goes, besides standard error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Destination {
    /// The log's file.
    Log,
    /// The metrics' file.
    Metrics,
    /// The process that started this one.
    Parent,
    /// The file of events.
    EventLog,
}

static FILES: [AtomicI32; 4] = [const { AtomicI32::new(NONE) }; 4];

/// A line around the description of what happened, which is plain ASCII without quotes or
/// backslashes.
#[derive(Clone, Debug)]
pub struct Line {
    /// What comes before it.
    pub before: String,
    /// What comes after it, with the newline.
    pub after: String,
}

/// How the process ends.
#[derive(Clone, Debug)]
pub struct LastWords {
    /// For people: standard error and the log.
    pub log: Line,
    /// For programs that read metrics; it stands alone.
    pub metrics: String,
    /// For programs that read events.
    pub event: Line,
    /// The process's exit code.
    pub exit_code: u8,
}

static WORDS: OnceLock<LastWords> = OnceLock::new();

/// Has a line go to `file` as well, or to nobody any more. The descriptor must stay open until the
/// next call for the same destination.
pub fn tell(destination: Destination, file: Option<BorrowedFd<'_>>) {
    let fd = file.map_or(NONE, |file| file.as_raw_fd());
    if let Some(slot) = FILES.get(destination as usize) {
        slot.store(fd, Ordering::Relaxed);
    }
}

/// Handles SIGSYS from now on, for all threads. Of several calls the first one's words count.
///
/// # Errors
/// When the handler can't be installed.
pub fn install_handler(words: LastWords) -> io::Result<()> {
    let _ = WORDS.set(words);
    // SAFETY: all zeros are a valid `sigaction`: no flags, an empty mask, the default handler.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction =
        last_words as extern "C" fn(c_int, *mut siginfo_t, *mut c_void) as libc::sighandler_t;
    action.sa_flags = libc::SA_SIGINFO;
    // SAFETY:
    // - `action` is initialised; its handler has the signature that SA_SIGINFO asks for, and does
    //   only what is allowed in one.
    // - A null old action is allowed and means that it isn't wanted.
    let result = unsafe { libc::sigaction(libc::SIGSYS, &action, std::ptr::null_mut()) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

extern "C" fn last_words(_signal: c_int, info: *mut siginfo_t, _context: *mut c_void) {
    // SAFETY: the kernel passes SA_SIGINFO's handler a whole `siginfo_t`, aligned for the pointers
    // in it. SIGSYS's fields come after three integers and padding to 16 bytes: the call's address,
    // then its number (Linux's `include/uapi/asm-generic/siginfo.h`, `_sigsys`).
    let number = unsafe { info.cast::<u8>().add(24).cast::<c_int>().read() };
    let mut text = Text::default();
    text.push(b"the thread ");
    text.push_name();
    text.push(b" made system call ");
    text.push_number(number.unsigned_abs());
    text.push(b", which its filter forbids");
    let Some(words) = WORDS.get() else { end(1) };
    let around =
        |line: &'static Line| [line.before.as_bytes(), text.bytes(), line.after.as_bytes()];
    write(libc::STDERR_FILENO, around(&words.log));
    let [log, metrics, parent, event_log] = &FILES;
    write(log.load(Ordering::Relaxed), around(&words.log));
    write(metrics.load(Ordering::Relaxed), [words.metrics.as_bytes(), b"", b""]);
    write(parent.load(Ordering::Relaxed), around(&words.event));
    write(event_log.load(Ordering::Relaxed), around(&words.event));
    end(words.exit_code)
}

/// Writes once; what isn't taken is lost.
fn write(fd: RawFd, parts: [&[u8]; 3]) {
    if fd == NONE {
        return;
    }
    let vectors = parts
        .map(|part| libc::iovec { iov_base: part.as_ptr().cast_mut().cast(), iov_len: part.len() });
    // SAFETY: there are three vectors, each of a slice that lives until the call has returned; it
    // only reads them. A descriptor that is closed makes it fail, and another file's gets a line.
    let _ = unsafe { libc::writev(fd, vectors.as_ptr(), 3) };
}

fn end(code: u8) -> ! {
    // SAFETY: `_exit` may be called at any point; nothing runs after it.
    unsafe { libc::_exit(c_int::from(code)) }
}

/// A line in the making, on the stack.
struct Text {
    bytes: [u8; 128],
    len: usize,
}

impl Default for Text {
    fn default() -> Self {
        Self { bytes: [0; 128], len: 0 }
    }
}

impl Text {
    fn bytes(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or_default()
    }

    /// Appends what fits.
    fn push(&mut self, bytes: &[u8]) {
        for byte in bytes {
            if let Some(place) = self.bytes.get_mut(self.len) {
                *place = *byte;
                self.len += 1;
            }
        }
    }

    fn push_number(&mut self, number: u32) {
        if number >= 10 {
            self.push_number(number / 10);
        }
        self.push(&[b'0' + u8::try_from(number % 10).unwrap_or_default()]);
    }

    /// Appends the calling thread's name, or what can be told of it.
    fn push_name(&mut self) {
        let mut name = [0_u8; 16];
        // SAFETY: PR_GET_NAME writes 16 bytes at most, which `name` has.
        unsafe { libc::prctl(libc::PR_GET_NAME, name.as_mut_ptr()) };
        for byte in name.iter().take_while(|byte| **byte != 0) {
            let plain = byte.is_ascii_alphanumeric() || b"-_.".contains(byte);
            self.push(&[if plain { *byte } else { b'?' }]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_takes_what_fits_and_numbers_of_any_length() {
        let mut text = Text::default();
        text.push_number(0);
        text.push(b" ");
        text.push_number(u32::MAX);
        assert_eq!(text.bytes(), b"0 4294967295");
        text.push(&[b'.'; 200]);
        assert_eq!(text.bytes().len(), 128);
    }

    #[test]
    fn siginfo_has_the_number_where_the_handler_reads_it() {
        // Not in libc's siginfo_t: held against the kernel by vmm's tests of its filters.
        assert_eq!((size_of::<siginfo_t>(), align_of::<siginfo_t>()), (128, 8));
    }
}
