//! The few system calls that need `unsafe`.
#![expect(unsafe_code, reason = "system calls that no crate wraps safely, or not at all")]

use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::process::CommandExt;
use std::process::Command;

use rustix::thread::UnshareFlags;

/// Blocks all signals in the calling thread, and in those that it starts from now on: they're
/// waited for by [`wait_signal`].
pub(crate) fn block_signals() {
    let mut set = std::mem::MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: `set` is filled before it's read, and the third pointer may be null.
    unsafe {
        libc::sigfillset(set.as_mut_ptr());
        libc::pthread_sigmask(libc::SIG_SETMASK, set.as_ptr(), std::ptr::null_mut());
    }
}

/// Blocks no signal in the calling thread.
pub(crate) fn unblock_signals() {
    let mut set = std::mem::MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: `set` is filled before it's read, and the third pointer may be null.
    unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        libc::pthread_sigmask(libc::SIG_SETMASK, set.as_ptr(), std::ptr::null_mut());
    }
}

/// Has a command's process begin with no signal blocked, whatever its parent blocks.
pub(crate) fn spawn_unblocked(command: &mut Command) -> &mut Command {
    let unblock = || {
        unblock_signals();
        Ok(())
    };
    // SAFETY: between fork and exec, only what's async-signal-safe is called: sigemptyset(3) and
    // pthread_sigmask(3).
    unsafe { command.pre_exec(unblock) }
}

/// Waits for any signal of those that are blocked. Returns its number and its sender's.
pub(crate) fn wait_signal() -> io::Result<i32> {
    let mut set = std::mem::MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: `set` is filled before it's read, and the second pointer may be null.
    let signal = unsafe {
        libc::sigfillset(set.as_mut_ptr());
        libc::sigwaitinfo(set.as_ptr(), std::ptr::null_mut())
    };
    if signal < 0 { Err(io::Error::last_os_error()) } else { Ok(signal) }
}

/// Sends any signal, real-time ones included, to a process.
pub(crate) fn kill(pid: i32, signal: i32) -> io::Result<()> {
    // SAFETY: `kill` takes no pointers.
    match unsafe { libc::kill(pid, signal) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Takes the calling thread out of namespaces that it shares, or of the process's root and working
/// directory.
pub(crate) fn unshare(flags: UnshareFlags) -> io::Result<()> {
    debug_assert!(!flags.contains(UnshareFlags::FILES));
    // SAFETY: the table of file descriptors stays shared.
    unsafe { rustix::thread::unshare_unsafe(flags) }.map_err(Into::into)
}

/// What `RNDADDENTROPY` takes, with room for `BYTES`.
#[repr(C)]
struct RandPoolInfo {
    entropy_bits: libc::c_int,
    bytes: libc::c_int,
    data: [u8; POOL_BYTES],
}

/// The most bytes that are credited at once.
const POOL_BYTES: usize = 256;

/// `_IOW('R', 0x03, int[2])`.
const RNDADDENTROPY: libc::Ioctl = 0x4008_5203;

/// `_IO('R', 0x07)`.
const RNDRESEEDCRNG: libc::Ioctl = 0x5207;

/// Gives the kernel's random number generator bytes that nobody else knows, credits them, and has
/// it reseed at once. Only the first 256 bytes are used.
pub(crate) fn add_entropy(random: impl AsFd, bytes: &[u8]) -> io::Result<()> {
    let used = bytes.get(..POOL_BYTES).unwrap_or(bytes);
    let count = libc::c_int::try_from(used.len()).unwrap_or(0);
    let mut pool = RandPoolInfo { entropy_bits: count * 8, bytes: count, data: [0; POOL_BYTES] };
    for (to, from) in pool.data.iter_mut().zip(used) {
        *to = *from;
    }
    let fd = random.as_fd().as_raw_fd();
    // SAFETY: `pool` is what this ioctl reads: two integers, then as many bytes as the second says,
    // which `data` holds; it outlives the call.
    let added = unsafe { libc::ioctl(fd, RNDADDENTROPY, &raw const pool) };
    if added < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: this ioctl takes no argument.
    let reseeded = unsafe { libc::ioctl(fd, RNDRESEEDCRNG) };
    if reseeded < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Takes over a file descriptor that the parent left to this process, by its number.
///
/// `None` when it isn't open.
pub(crate) fn take_inherited(number: i32) -> Option<std::os::fd::OwnedFd> {
    use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd};
    if number <= 2 {
        return None;
    }
    // SAFETY: the number isn't -1, and the borrow ends with the next statement; if nothing is open
    // by it, the kernel says so.
    let borrowed = unsafe { BorrowedFd::borrow_raw(number) };
    rustix::io::fcntl_setfd(borrowed, rustix::io::FdFlags::CLOEXEC).ok()?;
    // SAFETY: it's open, and nobody else in this process, which has just started, knows of it.
    Some(unsafe { OwnedFd::from_raw_fd(number) })
}
