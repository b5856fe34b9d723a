//! The container's processes, as `ps -ef` lists them.

use std::fs;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use agent_proto::ProcessInfo;
use agent_proto::limits::{MAX_COMMAND_BYTES, MAX_PROCESSES};

use crate::cgroup;
use crate::fault::Result;
use crate::paths::ROOT;
use crate::users::Databases;

/// Clock ticks of `/proc/PID/stat` in a second (`USER_HZ`), on every architecture of ours.
const TICKS_PER_SECOND: u64 = 100;

/// What all command lines together may take, so that the list fits a frame.
const COMMANDS_BYTES: usize = 384 << 10;

/// Lists them, by their numbers in the container.
pub(crate) fn processes() -> Result<Vec<ProcessInfo>> {
    let users = Databases::read(std::path::Path::new(ROOT)).unwrap_or_default();
    let uptime = uptime().as_secs();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let mut left = COMMANDS_BYTES;
    let mut list: Vec<ProcessInfo> = cgroup::processes()
        .into_iter()
        .filter_map(|pid| {
            let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
            let command = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
            let mut process = parse(&status, &stat, &command, uptime, now)?;
            if process.parent != 0 {
                process.parent = inner_pid(i32::try_from(process.parent).ok()?).unwrap_or(0);
            }
            if let Ok(uid) = process.user.parse() {
                process.user = users.user_name(uid);
            }
            Some(process)
        })
        .take(MAX_PROCESSES)
        .collect();
    list.sort_unstable_by_key(|process| process.pid);
    for process in &mut list {
        if process.command.len() > left {
            process.command = "…".into();
        }
        left = left.saturating_sub(process.command.len());
    }
    Ok(list)
}

/// Returns a process's number in the innermost PID namespace that it's in.
pub(crate) fn inner_pid(pid: i32) -> Option<u32> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let numbers: Vec<&str> = field(&status, "NSpid:")?.split_whitespace().collect();
    // One number: it's the agent's own, not in the container.
    (numbers.len() > 1).then(|| numbers.last()?.parse().ok()).flatten()
}

pub(crate) fn uptime() -> Duration {
    let text = fs::read_to_string("/proc/uptime").unwrap_or_default();
    let seconds = text.split(' ').next().and_then(|seconds| seconds.parse().ok());
    seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok()).unwrap_or_default()
}

/// Reads one process's files. `parent` is its number outside of the container.
fn parse(status: &str, stat: &str, cmdline: &[u8], uptime: u64, now: u64) -> Option<ProcessInfo> {
    // The name is in parentheses, and may have some itself.
    let (before, after) = stat.rsplit_once(") ")?;
    let (_, name) = before.split_once(" (")?;
    // From the third field on (proc_pid_stat(5)).
    let fields: Vec<&str> = after.split(' ').collect();
    let number = |position: usize| fields.get(position.checked_sub(3)?)?.parse::<u64>().ok();
    let ticks = number(14)?.saturating_add(number(15)?);
    let started = number(22)? / TICKS_PER_SECOND;
    let boot = now.saturating_sub(uptime);
    let age = uptime.saturating_sub(started).max(1);
    let used_percent = ticks.saturating_mul(100) / TICKS_PER_SECOND / age;
    Some(ProcessInfo {
        user: field(status, "Uid:")?.split_whitespace().nth(1)?.to_owned(),
        pid: field(status, "NSpid:")?.split_whitespace().last()?.parse().ok()?,
        parent: field(status, "PPid:")?.trim().parse().ok()?,
        cpu_percent: u32::try_from(used_percent).unwrap_or(u32::MAX),
        started_at_s: boot.saturating_add(started),
        terminal: terminal(fields.get(4)?.parse().ok()?),
        cpu_time_ms: ticks.saturating_mul(1000 / TICKS_PER_SECOND),
        command: command_line(cmdline).unwrap_or_else(|| format!("[{name}]")),
    })
}

fn field<'a>(status: &'a str, name: &str) -> Option<&'a str> {
    status.lines().find_map(|line| line.strip_prefix(name))
}

/// Names a terminal by its device number: major 136 is the first of Unix98's.
fn terminal(device: i64) -> String {
    let device = u32::try_from(device).unwrap_or(0);
    let (major, minor) = (device >> 8 & 0xfff, device & 0xff | device >> 12 & 0xfff00);
    match major {
        136..=143 => format!("pts/{}", (major - 136) * 256 + minor),
        _ => "?".into(),
    }
}

fn command_line(bytes: &[u8]) -> Option<String> {
    let bytes = bytes.get(..MAX_COMMAND_BYTES).unwrap_or(bytes);
    let text = String::from_utf8_lossy(bytes).replace('\0', " ");
    let text = text.trim_end();
    (!text.is_empty()).then(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const STATUS: &str = "Name:\tsh\nPPid:\t40\nUid:\t33\t34\t33\t33\nNSpid:\t57\t7\n";

    #[test]
    fn a_process_is_read_from_its_files() {
        let stat = "57 (sh) -c) S 40 57 57 34817 57 4194560 1 0 0 0 150 50 0 0 20 0 1 0 1000 9 9";
        let process = parse(STATUS, stat, b"sh\0-c\0a b\0", 110, 1_000_000).unwrap();
        assert_eq!((process.pid, process.parent, &*process.user), (7, 40, "34"));
        assert_eq!((process.cpu_time_ms, process.cpu_percent), (2000, 2));
        assert_eq!((process.started_at_s, &*process.terminal), (999_900, "pts/1"));
        assert_eq!(process.command, "sh -c a b");
        assert_eq!(parse(STATUS, stat, b"", 1, 1).unwrap().command, "[sh) -c]");
    }

    #[test]
    fn files_that_are_cut_short_are_no_process() {
        for (status, stat) in [("", "57 (sh) S 1"), (STATUS, "57 (sh"), (STATUS, "57 (sh) S 1 2 3")]
        {
            assert!(parse(status, stat, b"", 1, 1).is_none(), "{status:?} {stat:?}");
        }
    }
}
