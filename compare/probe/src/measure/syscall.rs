//! System calls.

use std::fs::File;
use std::io::{Read, Write};
use std::str::FromStr;

use super::{MAX_COUNT, timed};
use crate::ProbeError;
use crate::distribution::{nanoseconds, nanoseconds_each};
use crate::error::in_range;
use crate::results::{SyscallResult, Text};

/// Which system calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SyscallKind {
    /// `getppid`, which does next to nothing: what's measured is the way into the kernel and back.
    GetPpid,
    /// `openat` of `/proc/self/status`, and `close`.
    OpenClose,
    /// `write` of a byte into a pipe, and `read` of it.
    Pipe,
}

impl SyscallKind {
    /// The name, as on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::GetPpid => "getppid",
            Self::OpenClose => "openclose",
            Self::Pipe => "pipe",
        }
    }
}

impl FromStr for SyscallKind {
    type Err = ProbeError;

    fn from_str(name: &str) -> Result<Self, ProbeError> {
        [Self::GetPpid, Self::OpenClose, Self::Pipe]
            .into_iter()
            .find(|kind| kind.name() == name)
            .ok_or_else(|| {
                ProbeError::Argument(format!("{name:?} is not getppid, openclose or pipe"))
            })
    }
}

/// Makes system calls.
///
/// # Errors
///
/// It's 0 times or absurdly often, or one fails.
pub fn syscall(kind: SyscallKind, count: u64) -> Result<SyscallResult, ProbeError> {
    in_range("--count", count, 1, MAX_COUNT)?;
    let (done, elapsed, cpu) = match kind {
        SyscallKind::GetPpid => timed(|| {
            for _ in 0..count {
                std::hint::black_box(rustix::process::getppid());
            }
            Ok(())
        }),
        SyscallKind::OpenClose => timed(|| {
            for _ in 0..count {
                File::open("/proc/self/status").map_err(ProbeError::system("open a file"))?;
            }
            Ok(())
        }),
        SyscallKind::Pipe => {
            let (mut reader, mut writer) =
                std::io::pipe().map_err(ProbeError::system("make a pipe"))?;
            timed(|| {
                let mut byte = [7];
                for _ in 0..count {
                    writer
                        .write_all(&byte)
                        .and_then(|()| reader.read_exact(&mut byte))
                        .map_err(ProbeError::system("use a pipe"))?;
                }
                Ok(())
            })
        }
    };
    done?;
    Ok(SyscallResult {
        kind: Text::from(kind.name()),
        count,
        elapsed_ns: nanoseconds(elapsed),
        cpu_ns: nanoseconds(cpu),
        ns_per_call: nanoseconds_each(count, elapsed),
    })
}
