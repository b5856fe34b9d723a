//! Work done inside: arithmetic, memory, system calls, disks.

use std::sync::Arc;

use compare_probe::results::{CpuResult, DiskResult, MemoryResult, SyscallResult};

use super::{Running, Session};
use crate::model::{WayId, Workload};
use crate::ways::{Runner, WayError};

/// How often the arithmetic loop goes round at a scale of 1.
const ITERATIONS: f64 = 20e6;

/// How often a system call is made.
const CALLS: f64 = 200e3;

/// How much memory is copied, in bytes, whatever the scale: less would be the cache's. And how often.
const MEMORY_BYTES: &str = "33554432";
const ROUNDS: f64 = 4.0;

/// How large a file is, in bytes, at least and at a scale of 1, and how many random reads and writes
/// there are.
const LEAST_FILE_BYTES: f64 = (1 << 20) as f64;
const FILE_BYTES: f64 = (32 << 20) as f64;
const OPERATIONS: f64 = 2000.0;

/// The size of a random read or write, in bytes.
const BLOCK: &str = "4096";

impl Session<'_> {
    /// Lets an instance of each way do the work again and again.
    pub(super) fn inside(&mut self, workload: Workload) {
        let mut ways: Vec<(Arc<dyn Runner>, Running)> = Vec::new();
        for runner in self.runners.iter().cloned() {
            self.observer.progress(&format!("{}: {} starts", workload.name(), runner.id().title()));
            match self.idle(&*runner, false) {
                Ok(running) => ways.push((runner, running)),
                Err(WayError::Interrupted) => return,
                Err(error) => self.table.fail(workload, runner.id(), &error),
            }
        }
        self.rounds(workload, ways, |session, runner, running, round| {
            let work = match workload {
                Workload::Cpu => Session::cpu,
                Workload::Memory => Session::memory,
                Workload::Syscall => Session::syscalls,
                _ => Session::disk,
            };
            work(session, runner.id(), running, round.run.is_some())
        });
    }

    fn amount(&self, of: f64) -> String {
        // At least one of whatever it is.
        format!("{:.0}", (of * self.plan.scale).max(1.0))
    }

    fn cpu(&mut self, way: WayId, running: &Running, counts: bool) -> Result<(), WayError> {
        let before = running.instance.cpu_us();
        let result: CpuResult =
            running.probe(&["cpu", "--iterations", &self.amount(ITERATIONS)])?;
        let after = running.instance.cpu_us();
        if counts {
            self.table.add("cpu.loop", way, result.elapsed_ns as f64 / 1000.0);
            if let (Some(before), Some(after)) = (before, after) {
                self.table.add("cpu.loop.cpu", way, after.saturating_sub(before) as f64);
            }
        }
        Ok(())
    }

    fn memory(&mut self, way: WayId, running: &Running, counts: bool) -> Result<(), WayError> {
        let rounds = self.amount(ROUNDS);
        let result: MemoryResult =
            running.probe(&["memory", "--bytes", MEMORY_BYTES, "--rounds", &rounds])?;
        if counts {
            self.table.add("memory.bandwidth", way, result.bytes_per_second);
            self.table.add("memory.latency", way, result.ns_per_load);
            self.table.add("memory.page", way, result.ns_per_page);
        }
        Ok(())
    }

    fn syscalls(&mut self, way: WayId, running: &Running, counts: bool) -> Result<(), WayError> {
        for (kind, id) in [
            ("getppid", "syscall.getppid"),
            ("openclose", "syscall.openclose"),
            ("pipe", "syscall.pipe"),
        ] {
            let count = self.amount(CALLS);
            let result: SyscallResult =
                running.probe(&["syscall", "--count", &count, "--kind", kind])?;
            if counts {
                self.table.add(id, way, result.ns_per_call);
            }
        }
        Ok(())
    }

    fn disk(&mut self, way: WayId, running: &Running, counts: bool) -> Result<(), WayError> {
        // Where every image has a directory: its root.
        let bytes = self.amount(FILE_BYTES.max(LEAST_FILE_BYTES / self.plan.scale));
        let operations = self.amount(OPERATIONS);
        let words = ["disk", "--dir", "/", "--bytes", &bytes, "--block", BLOCK];
        let mut words: Vec<_> =
            words.into_iter().chain(["--operations", &operations, "--direct"]).collect();
        // A full VM's disk may have one where the image has none.
        if self.by_fio == Some(false) {
            words.push("--no-fio");
        }
        let result: DiskResult = running.probe(&words)?;
        self.by_fio.get_or_insert(result.tool.starts_with("fio"));
        if !counts {
            return Ok(());
        }
        self.table.add("disk.sequential-read", way, result.sequential_read.bytes_per_second);
        self.table.add("disk.sequential-write", way, result.sequential_write.bytes_per_second);
        self.table.add("disk.random-read", way, result.random_read.operations_per_second);
        self.table.add("disk.random-write", way, result.random_write.operations_per_second);
        self.table.add("disk.fsync", way, result.fsync.median_ns as f64);
        let direct = match (result.direct, &result.direct_error) {
            (true, _) => "past the instance's own cache".to_owned(),
            (false, Some(error)) => format!("through its cache ({error})"),
            (false, None) => "through its cache".to_owned(),
        };
        self.note(format!(
            "Disk, {}: measured by {}, random reads and writes {direct}.",
            way.title(),
            result.tool
        ));
        Ok(())
    }

    /// Adds a note that isn't there yet.
    pub(super) fn note(&mut self, text: String) {
        if !self.findings.notes.contains(&text) {
            self.findings.notes.push(text);
        }
    }
}
