//! The table: which rows there are, and what has been found for them.

use std::collections::BTreeMap;

use crate::model::{Better, Cell, Figure, Outcome, Row, Unit, WayId, Workload};
use crate::ways::WayError;

/// A row that there can be.
struct Known {
    id: &'static str,
    title: &'static str,
    workload: Workload,
    unit: Unit,
    better: Better,
    note: Option<&'static str>,
}

const fn row(
    id: &'static str,
    title: &'static str,
    workload: Workload,
    unit: Unit,
    better: Better,
) -> Known {
    Known { id, title, workload, unit, better, note: None }
}

const fn noted(row: Known, note: &'static str) -> Known {
    Known { note: Some(note), ..row }
}

use Better::{Higher, Lower, Neither};
use Unit::{
    Bytes, BytesPerSecond, Count, CpuMicroseconds, Microseconds, Nanoseconds, PerMinute, PerSecond,
    Text,
};

/// All rows, in the table's order.
const ROWS: &[Known] = &[
    row("start.first-byte", "start, first byte", Workload::Start, Microseconds, Lower),
    noted(
        row(
            "start.first-byte.cpu",
            "first byte, CPU time",
            Workload::Start,
            CpuMicroseconds,
            Lower,
        ),
        "of all processes on the host: the runtime's, the VMM's, the guest's",
    ),
    noted(
        row("start.ready", "start, ready", Workload::Start, Microseconds, Lower),
        "a server's first answer; a full VM's login prompt",
    ),
    row("start.ready.cpu", "ready, CPU time", Workload::Start, CpuMicroseconds, Lower),
    row("stop", "stop", Workload::Start, Microseconds, Lower),
    row("stop.cpu", "stop, CPU time", Workload::Start, CpuMicroseconds, Lower),
    noted(
        row("churn", "starts and stops a minute", Workload::Start, PerMinute, Higher),
        "one after another: start, first byte or readiness, stop",
    ),
    row("image.disk", "image on disk", Workload::Start, Bytes, Lower),
    row("image.wire", "image over the wire", Workload::Start, Bytes, Lower),
    row("filesystem", "root file system", Workload::Start, Text, Neither),
    noted(
        row("memory.pss", "memory of one, PSS", Workload::Start, Bytes, Lower),
        "pages that several processes share count in parts",
    ),
    row("cpu.loop", "arithmetic loop", Workload::Cpu, Microseconds, Lower),
    row("cpu.loop.cpu", "loop, host's CPU time", Workload::Cpu, CpuMicroseconds, Lower),
    row("memory.bandwidth", "memory copy", Workload::Memory, BytesPerSecond, Higher),
    row("memory.latency", "memory load", Workload::Memory, Nanoseconds, Lower),
    row("memory.page", "fresh page of memory", Workload::Memory, Nanoseconds, Lower),
    row("syscall.getppid", "getppid()", Workload::Syscall, Nanoseconds, Lower),
    row("syscall.openclose", "open() and close()", Workload::Syscall, Nanoseconds, Lower),
    row("syscall.pipe", "a byte through a pipe", Workload::Syscall, Nanoseconds, Lower),
    row("disk.sequential-read", "sequential reads", Workload::Disk, BytesPerSecond, Higher),
    row("disk.sequential-write", "sequential writes", Workload::Disk, BytesPerSecond, Higher),
    row("disk.random-read", "random 4 KiB reads", Workload::Disk, PerSecond, Higher),
    row("disk.random-write", "random 4 KiB writes", Workload::Disk, PerSecond, Higher),
    row("disk.fsync", "fsync()", Workload::Disk, Nanoseconds, Lower),
    row("net.latency", "TCP round trip", Workload::Net, Nanoseconds, Lower),
    row("net.up", "TCP, host to instance", Workload::Net, BytesPerSecond, Higher),
    row("net.down", "TCP, instance to host", Workload::Net, BytesPerSecond, Higher),
    row("web.requests", "HTTP requests", Workload::Web, PerSecond, Higher),
    row("web.latency", "an HTTP request", Workload::Web, Nanoseconds, Lower),
    row("web.cpu", "host's CPU time a request", Workload::Web, CpuMicroseconds, Lower),
    noted(
        row("memory.host", "another one's host memory", Workload::Density, Bytes, Lower),
        "the slope, as instances are added, of the host's available memory or of the PSS, whichever is \
         larger",
    ),
    row("density.per-gib", "instances in a GiB", Workload::Density, Count, Higher),
    noted(
        row("isolation.host-calls", "host's calls for 10,000", Workload::Isolation, Count, Lower),
        "system calls that the host's kernel serves for 10,000 of the workload's: all of a \
         container's, the VMM's few",
    ),
];

/// What has been found so far.
#[derive(Debug, Default)]
pub(crate) struct Table {
    samples: BTreeMap<(&'static str, WayId), Vec<f64>>,
    others: BTreeMap<(&'static str, WayId), Outcome>,
}

impl Table {
    /// Adds a sample.
    pub(crate) fn add(&mut self, id: &str, way: WayId, value: f64) {
        self.samples.entry((known(id).id, way)).or_default().push(value);
    }

    /// Says something that's no number.
    pub(crate) fn say(&mut self, id: &str, way: WayId, text: String) {
        self.others.insert((known(id).id, way), Outcome::Said { text });
    }

    /// Notes that there's nothing to be measured.
    pub(crate) fn not_applicable(&mut self, id: &str, way: WayId, reason: &str) {
        let outcome = Outcome::NotApplicable { reason: reason.to_owned() };
        self.others.insert((known(id).id, way), outcome);
    }

    /// Notes that a workload's rows couldn't be measured. Samples that there are stay.
    pub(crate) fn fail(&mut self, workload: Workload, way: WayId, error: &WayError) {
        let reason = describe(error);
        for known in ROWS.iter().filter(|known| known.workload == workload) {
            let outcome = Outcome::Failed { reason: reason.clone() };
            self.others.entry((known.id, way)).or_insert(outcome);
        }
    }

    /// The rows that something is known of, of these ways.
    pub(crate) fn rows(&self, ways: &[WayId]) -> Vec<Row> {
        let rows = ROWS.iter().map(|known| {
            let cells = ways.iter().filter_map(|way| self.cell(known, *way)).collect();
            Row {
                id: known.id.to_owned(),
                title: known.title.to_owned(),
                workload: known.workload,
                unit: known.unit,
                better: known.better,
                note: known.note.map(str::to_owned),
                cells,
            }
        });
        rows.filter(|row| !row.cells.is_empty()).collect()
    }

    fn cell(&self, known: &Known, way: WayId) -> Option<Cell> {
        let samples = self.samples.get(&(known.id, way));
        let figure = samples.and_then(|samples| Figure::of(samples.clone()));
        let outcome = match figure {
            Some(figure) => Outcome::Measured(figure),
            None => self.others.get(&(known.id, way))?.clone(),
        };
        Some(Cell { way, outcome })
    }
}

fn known(id: &str) -> &'static Known {
    let found = ROWS.iter().find(|known| known.id == id);
    // Only our own names come here.
    found.unwrap_or_else(|| unreachable!("no row is called {id}"))
}

/// An error with its cause.
pub(crate) fn describe(error: &WayError) -> String {
    match std::error::Error::source(error) {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_have_what_was_found_in_the_order_of_the_table() {
        let mut table = Table::default();
        table.add("cpu.loop", WayId::Container, 3.0);
        table.add("cpu.loop", WayId::Container, 5.0);
        table.add("start.first-byte", WayId::MicrovmWarm, 1.0);
        let late = WayError::Late { what: "it".to_owned(), seconds: 1 };
        table.fail(Workload::Cpu, WayId::MicrovmWarm, &late);
        table.fail(Workload::Start, WayId::MicrovmWarm, &late);
        let rows = table.rows(&WayId::ALL);
        let ids: Vec<_> = rows.iter().map(|row| row.id.as_str()).collect();
        assert_eq!(ids[..2], ["start.first-byte", "start.first-byte.cpu"]);
        assert_eq!(ids[ids.len() - 2..], ["cpu.loop", "cpu.loop.cpu"]);
        let cpu = &rows[ids.len() - 2];
        assert_eq!(cpu.figure(WayId::Container).unwrap().median, 4.0);
        let failed = Outcome::Failed { reason: "it took more than 1 s".to_owned() };
        assert_eq!(cpu.cell(WayId::MicrovmWarm), Some(&failed));
        // A failure doesn't hide what was measured before.
        assert!(rows[0].figure(WayId::MicrovmWarm).is_some());
        assert!(table.rows(&[WayId::FullVm]).is_empty());
    }

    #[test]
    fn names_are_told_apart() {
        let ids: std::collections::BTreeSet<_> = ROWS.iter().map(|known| known.id).collect();
        assert_eq!(ids.len(), ROWS.len());
    }
}
