//! How many system calls the host's kernel serves for an instance's: counted by its own tracing
//! (Documentation/trace/ftrace.rst).

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use rustix::mount::{MountFlags, mount};

use super::super::Session;
use super::{Pair, Seen};
use crate::model::Verdict;

/// Where tracing is.
const TRACING: &str = "/sys/kernel/tracing";

/// How many calls the workload makes.
const CALLS: u32 = 10_000;

/// The aspect's name, title and method.
pub(super) fn titles() -> impl Iterator<Item = (String, String, &'static str)> {
    [
        ("seen-from-host", "processes on the host", "the host's /proc, of the instance's cgroup"),
        (
            "host-system-calls",
            "host's system calls",
            "raw_syscalls:sys_enter on the host, while the instance makes 10,000 system calls, less \
             what the same program needs for one",
        ),
    ]
    .into_iter()
    .map(|(id, title, method)| (id.to_owned(), title.to_owned(), method))
}

impl Session<'_> {
    pub(super) fn calls(&mut self, pair: &Pair<'_>, seen: &mut Seen) {
        let id = "host-system-calls";
        match self.count_calls(pair) {
            Ok(count) => {
                let verdict =
                    if count * 2 > u64::from(CALLS) { Verdict::Shared } else { Verdict::Own };
                seen.add(id, pair.way, format!("{count} for {CALLS} of its own"), verdict);
                self.table.add("isolation.host-calls", pair.way, count as f64);
            }
            Err(reason) => seen.add(id, pair.way, reason, Verdict::Unclear),
        }
    }

    /// What the many calls need more than one does.
    fn count_calls(&mut self, pair: &Pair<'_>) -> Result<u64, String> {
        let mut counts = [0, 0];
        for (count, calls) in counts.iter_mut().zip([1, CALLS + 1]) {
            let mut threads = threads_of(std::process::id());
            for process in pair.subject.instance.processes() {
                threads.extend(threads_of(process));
                // Docker has a process beside the container start what's run in it.
                threads.extend(parent_of(process).map(threads_of).unwrap_or_default());
            }
            threads.sort_unstable();
            threads.dedup();
            let trace = Trace::start(&threads).map_err(|error| format!("no tracing: {error}"))?;
            let calls = calls.to_string();
            let done = pair.subject.probe_output(&["syscall", "--count", &calls]);
            *count = trace.stop().map_err(|error| format!("no tracing: {error}"))?;
            let output = done.map_err(|error| super::super::describe(&error))?;
            if output.code != 0 {
                return Err(format!("the program failed: {}", crate::ways::last(&output.stderr)));
            }
        }
        Ok(counts[1].saturating_sub(counts[0]))
    }
}

/// The threads of a process.
fn threads_of(process: u32) -> Vec<u32> {
    let entries = fs::read_dir(format!("/proc/{process}/task")).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

/// The process that a process belongs to, but for the first one of all.
fn parent_of(process: u32) -> Option<u32> {
    let status = fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let parent = status.lines().find_map(|line| line.strip_prefix("PPid:"))?;
    parent.trim().parse().ok().filter(|parent| *parent > 1)
}

/// Tracing of some threads, and of what they start.
struct Trace {
    dir: PathBuf,
}

impl Trace {
    fn start(threads: &[u32]) -> io::Result<Self> {
        let instances = Path::new(TRACING).join("instances");
        if !instances.is_dir() {
            mount("tracefs", TRACING, "tracefs", MountFlags::empty(), None)?;
        }
        let dir = instances.join("vmctl-compare");
        // One that a killed process has left.
        let _ = fs::remove_dir(&dir);
        fs::create_dir(&dir)?;
        let trace = Self { dir };
        let list: Vec<_> = threads.iter().map(u32::to_string).collect();
        for (file, value) in [
            ("tracing_on", "0"),
            // Only the number of events is wanted.
            ("buffer_size_kb", "16"),
            ("options/event-fork", "1"),
            ("set_event_pid", &list.join(" ")),
            ("events/raw_syscalls/sys_enter/enable", "1"),
            ("tracing_on", "1"),
        ] {
            fs::write(trace.dir.join(file), value)?;
        }
        Ok(trace)
    }

    /// Ends it; returns how many events there were.
    fn stop(self) -> io::Result<u64> {
        fs::write(self.dir.join("tracing_on"), "0")?;
        let mut sum = 0;
        for entry in fs::read_dir(self.dir.join("per_cpu"))? {
            sum += events(&fs::read_to_string(entry?.path().join("stats"))?);
        }
        Ok(sum)
    }
}

impl Drop for Trace {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.dir);
    }
}

/// The events of one processor's buffer, those that were overwritten included.
fn events(stats: &str) -> u64 {
    let value = |name: &str| -> u64 {
        let line = stats.lines().find_map(|line| line.strip_prefix(name));
        line.and_then(|line| line.trim().parse().ok()).unwrap_or(0)
    };
    value("entries:") + value("overrun:") + value("dropped events:")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parent_is_found_and_the_first_process_is_none() {
        let mut child = std::process::Command::new("sleep").arg("100").spawn().unwrap();
        assert_eq!(parent_of(child.id()), Some(std::process::id()));
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(parent_of(1), None);
        assert_eq!(parent_of(u32::MAX), None);
    }

    #[test]
    fn overwritten_events_count() {
        let stats = "entries: 300\noverrun: 9700\ncommit overrun: 5\nbytes: 64\n\
                     oldest event ts: 1.5\nnow ts: 2.5\ndropped events: 2\nread events: 0\n";
        assert_eq!(events(stats), 10_002);
        assert_eq!(events(""), 0);
    }

    #[test]
    fn this_process_has_a_thread() {
        assert!(threads_of(std::process::id()).contains(&std::process::id()));
    }
}
