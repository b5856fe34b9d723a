//! From samples to a table with the bars that they are held to.

mod containers;
mod io;
mod snapshot;

use std::fmt;

use serde::Serialize;

use super::What;
use super::contender::{Guest, Program};
use super::measure::{Sample, Samples};

/// A bar: what at most may come out.
const LEAN_CPU_SECONDS: f64 = 0.5;
const STOCK_CPU_OF_QEMU: f64 = 0.65;
const OWN_MEMORY_MIB: f64 = 3.0;
const VMM_BINARY_MIB: f64 = 4.0;

/// The results.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    rows: Vec<Row>,
    io: Vec<io::Row>,
    snapshots: Vec<snapshot::Row>,
    containers: Vec<containers::Row>,
    bars: Vec<Bar>,
    samples: Samples,
    #[serde(skip)]
    what: What,
}

/// All samples of one contender.
#[derive(Debug, Serialize)]
struct Row {
    guest: Guest,
    program: Program,
    runs: usize,
    cpu_us: Spread,
    /// Of QEMU's median with the same guest.
    cpu_of_qemu: Option<f64>,
    user_us: Spread,
    system_us: Spread,
    wall_us: Spread,
    own_memory_kib: Spread,
    /// Of QEMU's median with the same guest.
    own_memory_of_qemu: Option<f64>,
}

/// Median, least and greatest of some samples.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
struct Spread {
    median: u64,
    min: u64,
    max: u64,
}

/// A number that is promised, and what came out.
#[derive(Debug, Serialize)]
struct Bar {
    name: String,
    unit: &'static str,
    measured: f64,
    at_most: f64,
}

impl Report {
    /// Sums up `samples`; `vmm_bytes` is the size of the VMM's release build.
    pub(super) fn new(what: What, samples: Samples, vmm_bytes: u64) -> Self {
        let mut rows: Vec<Row> = Guest::of(what)
            .iter()
            .flat_map(|&guest| Program::ALL.map(|program| (guest, program)))
            .filter_map(|(guest, program)| Row::new(guest, program, &samples.boots))
            .collect();
        let baselines: Vec<(Guest, u64, u64)> = rows
            .iter()
            .filter(|row| row.program == Program::Qemu)
            .map(|row| (row.guest, row.cpu_us.median, row.own_memory_kib.median))
            .collect();
        for row in &mut rows {
            let baseline = baselines.iter().find(|(guest, ..)| *guest == row.guest);
            row.cpu_of_qemu = baseline.map(|(_, cpu, _)| ratio(row.cpu_us.median, *cpu));
            row.own_memory_of_qemu =
                baseline.map(|(.., memory)| ratio(row.own_memory_kib.median, *memory));
        }
        let io = io::rows(&samples.io);
        let mut bars = bars(what, &rows, vmm_bytes);
        bars.extend(io::bars(&io));
        let snapshots = snapshot::rows(&samples.snapshots);
        bars.extend(snapshot::bars(&snapshots));
        let containers = containers::rows(&samples.containers);
        bars.extend(containers::bars(&containers));
        Self { rows, io, snapshots, containers, bars, samples, what }
    }
}

impl Row {
    fn new(guest: Guest, program: Program, samples: &[Sample]) -> Option<Self> {
        let samples: Vec<&Sample> = samples
            .iter()
            .filter(|sample| sample.guest == guest && sample.program == program)
            .collect();
        let spread = |value: fn(&Sample) -> u64| Spread::of(samples.iter().map(|s| value(s)));
        Some(Self {
            guest,
            program,
            runs: samples.len(),
            cpu_us: spread(|sample| sample.user_us + sample.system_us)?,
            cpu_of_qemu: None,
            user_us: spread(|sample| sample.user_us)?,
            system_us: spread(|sample| sample.system_us)?,
            wall_us: spread(|sample| sample.wall_us)?,
            own_memory_kib: spread(|sample| sample.own_memory_kib)?,
            own_memory_of_qemu: None,
        })
    }
}

impl Spread {
    fn of(values: impl Iterator<Item = u64>) -> Option<Self> {
        let mut values: Vec<u64> = values.collect();
        values.sort_unstable();
        let middle = values.len() / 2;
        let upper = *values.get(middle)?;
        let median =
            if values.len() % 2 == 1 { upper } else { upper.midpoint(*values.get(middle - 1)?) };
        Some(Self { median, min: *values.first()?, max: *values.last()? })
    }
}

fn bars(what: What, rows: &[Row], vmm_bytes: u64) -> Vec<Bar> {
    let row = |guest, program| rows.iter().find(|r| r.guest == guest && r.program == program);
    let mut bars = Vec::new();
    let mut add = |name: &str, unit, measured: Option<f64>, at_most| {
        bars.extend(measured.map(|measured| Bar { name: name.into(), unit, measured, at_most }));
    };
    let lean = row(Guest::Lean, Program::Vmm);
    if what.has_boot() {
        let cpu = lean.map(|row| seconds(row.cpu_us.median));
        add("lean kernel to /init, CPU time", "s", cpu, LEAN_CPU_SECONDS);
        // By `vmctl`, which keeps unpacked kernels; the VMM by itself boots a bzImage as it is.
        let stock = row(Guest::Stock, Program::Vmctl).and_then(|row| row.cpu_of_qemu);
        let name = "Debian's kernel to /init by vmctl boot, of QEMU's";
        add(name, "", stock, STOCK_CPU_OF_QEMU);
    }
    if what.has_memory() {
        let memory = lean.map(|row| mib(row.own_memory_kib.median << 10));
        add("vmm's own memory, 1 vCPU and 128 MiB", "MiB", memory, OWN_MEMORY_MIB);
        add("vmm's release build", "MiB", Some(mib(vmm_bytes)), VMM_BINARY_MIB);
    }
    bars
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.what.has_boot() {
            self.write_boot(f)?;
        }
        if self.what.has_memory() {
            self.write_memory(f)?;
        }
        if !self.io.is_empty() {
            io::write(&self.io, f)?;
        }
        if !self.snapshots.is_empty() {
            snapshot::write(&self.snapshots, f)?;
        }
        if !self.containers.is_empty() {
            containers::write(&self.containers, f)?;
        }
        writeln!(f, "{:<58} {:>9} {:>9}", "Bar", "measured", "at most")?;
        for bar in &self.bars {
            let Bar { name, unit, measured, at_most } = bar;
            let verdict = if measured <= at_most {
                "met".to_owned()
            } else {
                format!("missed by {:.0} %", (measured / at_most - 1.0) * 100.0)
            };
            let line = format!("{name:<58} {measured:>9.2} {at_most:>9.2} {unit:<3}");
            writeln!(f, "{line}  {verdict}")?;
        }
        Ok(())
    }
}

impl Report {
    fn write_boot(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let title = "CPU time from exec to /init, in s";
        writeln!(
            f,
            "{title:<36} {:>7} {:>15} {:>7} {:>7} {:>7} {:>8}",
            "median", "min-max", "of QEMU", "user", "system", "elapsed*"
        )?;
        for row in &self.rows {
            let cpu = row.cpu_us;
            writeln!(
                f,
                "{:<36} {:>7.3} {:>15} {:>7} {:>7.3} {:>7.3} {:>8.3}",
                row.title(),
                seconds(cpu.median),
                format!("{:.3}-{:.3}", seconds(cpu.min), seconds(cpu.max)),
                optional(row.cpu_of_qemu),
                seconds(row.user_us.median),
                seconds(row.system_us.median),
                seconds(row.wall_us.min)
            )?;
        }
        writeln!(f, "* the least; the lab's clock leaps while this machine is waited for\n")
    }

    fn write_memory(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let title = "Memory besides the guest's, in MiB";
        writeln!(f, "{title:<36} {:>7} {:>15} {:>7}", "median", "min-max", "of QEMU")?;
        for row in &self.rows {
            let memory = row.own_memory_kib;
            writeln!(
                f,
                "{:<36} {:>7.2} {:>15} {:>7}",
                row.title(),
                mib(memory.median << 10),
                format!("{:.2}-{:.2}", mib(memory.min << 10), mib(memory.max << 10)),
                optional(row.own_memory_of_qemu)
            )?;
        }
        writeln!(f)
    }
}

impl Row {
    fn title(&self) -> String {
        let (guest, memory) = (self.guest.title(), self.guest.memory_mib());
        format!("{guest}, {memory} MiB, {}", self.program.title())
    }
}

fn optional(ratio: Option<f64>) -> String {
    ratio.map_or_else(String::new, |ratio| format!("{ratio:.2}"))
}

#[expect(clippy::cast_precision_loss, reason = "a few digits are shown")]
fn ratio(part: u64, whole: u64) -> f64 {
    part as f64 / whole as f64
}

fn seconds(microseconds: u64) -> f64 {
    ratio(microseconds, 1_000_000)
}

fn mib(bytes: u64) -> f64 {
    ratio(bytes, 1 << 20)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(guest: Guest, program: Program, user_us: u64) -> Sample {
        let (system_us, wall_us, own_memory_kib) = (100_000, 2_000_000, 2048);
        Sample { guest, program, user_us, system_us, wall_us, own_memory_kib }
    }

    #[test]
    fn median_is_the_middle_or_between_the_two_middle_ones() {
        let spread = |values: &[u64]| Spread::of(values.iter().copied());
        assert_eq!(spread(&[9, 1, 5]), Some(Spread { median: 5, min: 1, max: 9 }));
        assert_eq!(spread(&[4, 8]), Some(Spread { median: 6, min: 4, max: 8 }));
        assert_eq!(spread(&[]), None);
    }

    #[test]
    fn contenders_are_compared_with_qemu_on_the_same_guest() {
        let samples = vec![
            sample(Guest::Lean, Program::Vmm, 500_000),
            sample(Guest::Lean, Program::Qemu, 1_100_000),
            sample(Guest::Stock, Program::Vmctl, 700_000),
            sample(Guest::Stock, Program::Qemu, 1_900_000),
        ];
        let samples = Samples {
            boots: samples,
            io: Vec::new(),
            snapshots: Vec::new(),
            containers: Vec::new(),
        };
        let report = Report::new(What::All, samples, 1 << 20);
        let ratios: Vec<Option<f64>> = report.rows.iter().map(|row| row.cpu_of_qemu).collect();
        assert_eq!(ratios, [Some(0.5), Some(1.0), Some(0.4), Some(1.0)]);

        let text = report.to_string();
        let verdicts: Vec<&str> =
            text.lines().filter(|line| line.contains("  met") || line.contains("missed")).collect();
        assert_eq!(verdicts.len(), 4, "{text}");
        assert!(verdicts[0].ends_with("missed by 20 %") && verdicts[1].ends_with("met"), "{text}");
    }

    #[test]
    fn what_was_not_measured_has_no_bar() {
        let samples = vec![sample(Guest::Lean, Program::Vmm, 1)];
        let samples = Samples {
            boots: samples,
            io: Vec::new(),
            snapshots: Vec::new(),
            containers: Vec::new(),
        };
        let report = Report::new(What::Memory, samples, 1 << 20);
        assert_eq!(report.bars.len(), 2);
        assert!(report.rows[0].own_memory_of_qemu.is_none());
        assert!(!report.to_string().contains("CPU time"));
    }
}
