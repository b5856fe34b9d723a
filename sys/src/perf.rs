//! Perf events (`perf_event_open(2)`), for their interrupts alone.
#![expect(unsafe_code, reason = "perf_event_open and its ioctls")]

use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

use libc::{c_int, c_ulong};

use crate::file_mapping::FileMapping;
use crate::memory::PAGE_SIZE;

/// `struct perf_event_attr` as it was at first (`linux/perf_event.h`).
#[repr(C)]
#[derive(Default)]
struct Attributes {
    kind: u32,
    size: u32,
    config: u64,
    sample_period: u64,
    sample_type: u64,
    read_format: u64,
    flags: u64,
    wakeup_events: u32,
    breakpoint_type: u32,
    breakpoint_address: u64,
}

const TYPE_TRACEPOINT: u32 = 2;
const DISABLED: u64 = 1;
const FLAG_FD_CLOEXEC: c_ulong = 8;
/// `_IO('$', 0)` and `_IOW('$', 6, char *)`.
const ENABLE: c_ulong = 0x2400;
const SET_FILTER: c_ulong = 0x4008_2406;

/// Interrupts a CPU each time that a tracepoint is hit on it.
///
/// The interrupt is one that the CPU sends itself, and is pending when the tracepoint's code goes on;
/// while interrupts are disabled, it stays so. It does nothing.
#[derive(Debug)]
pub struct TracepointInterrupt {
    // Unmapped first. Events that can't be written down wake nobody, and it's for waking that the
    // interrupt is sent.
    _buffer: FileMapping,
    _event: File,
}

impl TracepointInterrupt {
    /// Begins with it: `tracepoint` is the number that tracefs has (`events/SYSTEM/NAME/id`), and
    /// `filter` the condition on its fields that must hold (`fd == 1 && count > 10`).
    ///
    /// # Errors
    /// Whatever the kernel reports: that there's no such tracepoint or CPU, that the filter doesn't
    /// fit, or that this process may not (`CAP_PERFMON`).
    pub fn open(tracepoint: u64, cpu: c_int, filter: &CStr) -> io::Result<Self> {
        let attributes = Attributes {
            kind: TYPE_TRACEPOINT,
            size: u32::try_from(size_of::<Attributes>()).unwrap_or(0),
            config: tracepoint,
            sample_period: 1,
            flags: DISABLED,
            wakeup_events: 1,
            ..Attributes::default()
        };
        let (every_process, no_group): (c_int, c_int) = (-1, -1);
        // SAFETY: the attributes are as long as they say, and are only read.
        let event = unsafe {
            libc::syscall(
                libc::SYS_perf_event_open,
                &raw const attributes,
                every_process,
                cpu,
                no_group,
                FLAG_FD_CLOEXEC,
            )
        };
        let event = RawFd::try_from(check(event)?).map_err(io::Error::other)?;
        // SAFETY: the descriptor is new and nobody else's.
        let event = File::from(unsafe { OwnedFd::from_raw_fd(event) });
        // One page that says how full the buffer is, and the buffer, which starts anew when it's
        // full since it can't be written to here.
        let buffer = FileMapping::new(&event, 2 * PAGE_SIZE, 2 * PAGE_SIZE, false)?;
        // SAFETY: the filter ends with a zero, and is only read.
        check(unsafe { libc::ioctl(event.as_raw_fd(), SET_FILTER, filter.as_ptr()) }.into())?;
        // SAFETY: it takes a number.
        check(unsafe { libc::ioctl(event.as_raw_fd(), ENABLE, 0) }.into())?;
        Ok(Self { _buffer: buffer, _event: event })
    }
}

fn check(result: libc::c_long) -> io::Result<libc::c_long> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

#[cfg(test)]
mod tests {
    use rustix::process::getppid;
    use rustix::thread::{CpuSet, gettid, sched_getcpu, sched_setaffinity};

    use super::*;

    /// How many interrupts CPUs have sent themselves for work that couldn't be done at once.
    fn sent() -> u64 {
        let text = std::fs::read_to_string("/proc/interrupts").unwrap();
        let line = text.lines().find_map(|line| line.trim_start().strip_prefix("IWI:")).unwrap();
        line.split_whitespace().map_while(|word| word.parse::<u64>().ok()).sum()
    }

    #[test]
    #[ignore = "needs root: perf events of tracepoints"]
    fn each_hit_that_the_filter_lets_through_interrupts_the_cpu() {
        let id = "/sys/kernel/tracing/events/syscalls/sys_enter_getppid/id";
        let id = std::fs::read_to_string(id).unwrap().trim().parse().unwrap();
        let cpu = sched_getcpu();
        let mut here = CpuSet::new();
        here.set(cpu);
        sched_setaffinity(None, &here).unwrap();
        let cpu = c_int::try_from(cpu).unwrap();
        let interrupts = |filter: String| {
            let filter = std::ffi::CString::new(filter).unwrap();
            let _event = TracepointInterrupt::open(id, cpu, &filter).unwrap();
            let before = sent();
            for _ in 0..1000 {
                let _ = getppid();
            }
            sent() - before
        };
        let own = gettid().as_raw_nonzero();
        let (all, none) = (
            interrupts(format!("common_pid == {own}")),
            interrupts(format!("common_pid != {own}")),
        );
        assert!(all >= 1000 && none < 500, "{all} {none}");

        TracepointInterrupt::open(id, cpu, c"no_such_field == 1").unwrap_err();
        TracepointInterrupt::open(u64::MAX, cpu, c"common_pid == 1").unwrap_err();
    }
}
