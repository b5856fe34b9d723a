//! Work whose time is measured.

mod cpu;
mod disk;
mod fio;
mod memory;
mod syscall;

use std::time::{Duration, Instant};

pub use cpu::cpu;
pub use disk::{DiskJob, disk};
pub use memory::memory;
pub use syscall::{SyscallKind, syscall};

use rustix::time::{ClockId, clock_gettime};

/// The most repetitions of anything.
const MAX_COUNT: u64 = 1 << 40;

/// Does the work, and returns how long it took, and the processor time that it took.
fn timed<T>(work: impl FnOnce() -> T) -> (T, Duration, Duration) {
    let (cpu, clock) = (cpu_time(), Instant::now());
    let done = work();
    let (elapsed, cpu) = (clock.elapsed(), cpu_time().saturating_sub(cpu));
    (done, elapsed, cpu)
}

/// The processor time of this process.
fn cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    let seconds = u64::try_from(time.tv_sec).unwrap_or_default();
    Duration::new(seconds, u32::try_from(time.tv_nsec).unwrap_or_default())
}
