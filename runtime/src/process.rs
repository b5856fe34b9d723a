//! Processes, told apart from later ones that have the same number.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde::{Deserialize, Serialize};

/// A process: its number, and when it started, in which boot of this host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessIdentity {
    /// Its number.
    pub pid: i32,
    /// In clock ticks since the host's boot (`/proc/PID/stat`, field 22).
    start_ticks: u64,
    boot_id: String,
}

/// A process that was there when it was looked for, whatever becomes of its number.
#[derive(Debug)]
pub struct LiveProcess {
    pidfd: OwnedFd,
}

impl ProcessIdentity {
    /// Identifies a process that's known to be there: a child that wasn't waited for.
    ///
    /// # Errors
    /// There's no such process.
    pub fn of(pid: u32) -> io::Result<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
        let (_, start_ticks) = parse_stat(&stat)
            .ok_or_else(|| io::Error::other(format!("/proc/{pid}/stat: {stat:?}")))?;
        let pid = i32::try_from(pid).map_err(io::Error::other)?;
        Ok(Self { pid, start_ticks, boot_id: boot_id() })
    }

    /// Takes hold of the process; none if it has ended.
    pub fn open(&self) -> Option<LiveProcess> {
        if self.boot_id != boot_id() {
            return None;
        }
        // First the descriptor: if the number is the process's own afterwards, it was before.
        let pidfd = pidfd_open(Pid::from_raw(self.pid)?, PidfdFlags::empty()).ok()?;
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid)).ok()?;
        let (state, start_ticks) = parse_stat(&stat)?;
        let runs = start_ticks == self.start_ticks && !matches!(state, 'Z' | 'X');
        runs.then_some(LiveProcess { pidfd })
    }
}

impl LiveProcess {
    /// Sends a signal. A process that has ended is no failure.
    ///
    /// # Errors
    /// It's another user's.
    pub fn signal(&self, signal: Signal) -> io::Result<()> {
        match pidfd_send_signal(&self.pidfd, signal) {
            Ok(()) | Err(Errno::SRCH) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Waits for its end, for as long as `timeout` unless that's none; returns whether it has
    /// ended.
    ///
    /// # Errors
    /// What the system says.
    pub fn wait(&self, timeout: Option<std::time::Duration>) -> io::Result<bool> {
        let deadline = timeout.map(|timeout| std::time::Instant::now() + timeout);
        loop {
            let left = deadline
                .map(|deadline| deadline.saturating_duration_since(std::time::Instant::now()))
                .and_then(|left| Timespec::try_from(left).ok());
            match poll(&mut [PollFd::new(&self.pidfd, PollFlags::IN)], left.as_ref()) {
                Ok(ready) => return Ok(ready != 0),
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }
}

/// Reads the state and the start time. The program's name comes before both, in parentheses, and
/// may have anything in it.
fn parse_stat(stat: &str) -> Option<(char, u64)> {
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_ascii_whitespace();
    let state = fields.next()?.chars().next()?;
    // Field 3 is gone; the 19th after it is field 22.
    let start_ticks = fields.nth(18)?.parse().ok()?;
    Some((state, start_ticks))
}

fn boot_id() -> String {
    let text = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    text.trim().to_owned()
}

#[cfg(test)]
mod tests {
    use std::process::Command;
    use std::time::Duration;

    use super::*;

    #[test]
    fn programs_name_may_look_like_fields() {
        let stat = "42 (a) R 9 (b) S 1 42 42 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 98765 1 2";
        assert_eq!(parse_stat(stat), Some(('S', 98765)));
        assert_eq!(parse_stat("42 (short) S 1"), None);
        assert_eq!(parse_stat(""), None);
    }

    #[test]
    fn process_is_found_while_it_runs_and_not_after() {
        let mut child = Command::new("sleep").arg("1000").spawn().unwrap();
        let identity = ProcessIdentity::of(child.id()).unwrap();
        let process = identity.open().expect("it runs");
        assert!(!process.wait(Some(Duration::ZERO)).unwrap());
        process.signal(Signal::KILL).unwrap();
        assert!(process.wait(None).unwrap());
        assert!(identity.open().is_none(), "nobody has waited for it yet, but it has ended");
        child.wait().unwrap();
        assert!(identity.open().is_none());
        process.signal(Signal::KILL).unwrap();
    }

    #[test]
    fn reused_number_is_another_process() {
        let own = ProcessIdentity::of(std::process::id()).unwrap();
        assert!(own.open().is_some());
        let earlier = ProcessIdentity { start_ticks: own.start_ticks - 1, ..own.clone() };
        assert!(earlier.open().is_none());
        let other_boot = ProcessIdentity { boot_id: "before".to_owned(), ..own };
        assert!(other_boot.open().is_none());
    }
}
