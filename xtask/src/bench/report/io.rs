//! The table of disks and network cards.

use std::fmt;

use serde::Serialize;

use super::super::io::{Contender, Load, Sample};
use super::{Bar, Spread, optional, ratio};

/// A bar: what at most may come out, of QEMU's.
const CPU_OF_QEMU: f64 = 1.0;

/// All samples of one contender with one load. Times are of one operation, in nanoseconds.
#[derive(Debug, Serialize)]
pub(super) struct Row {
    load: Load,
    contender: Contender,
    runs: usize,
    cpu_ns: Spread,
    /// Of the median of QEMU with the same load and the same kind of engine.
    cpu_of_qemu: Option<f64>,
    user_ns: Spread,
    system_ns: Spread,
}

/// Sums up samples, as far as there are any.
pub(super) fn rows(samples: &[Sample]) -> Vec<Row> {
    let mut rows: Vec<Row> = Load::ALL
        .into_iter()
        .flat_map(|load| Contender::of(load).iter().map(move |&contender| (load, contender)))
        .filter_map(|(load, contender)| Row::new(load, contender, samples))
        .collect();
    let medians: Vec<(Load, Contender, u64)> =
        rows.iter().map(|row| (row.load, row.contender, row.cpu_ns.median)).collect();
    for row in &mut rows {
        let key = (row.load, row.contender.baseline());
        let baseline = medians.iter().find(|(load, contender, _)| (*load, *contender) == key);
        row.cpu_of_qemu = baseline.map(|(.., median)| ratio(row.cpu_ns.median, *median));
    }
    rows
}

/// Returns the bars that rows are held to.
pub(super) fn bars(rows: &[Row]) -> impl Iterator<Item = Bar> {
    rows.iter().filter(|row| row.contender.has_bar()).filter_map(|row| {
        let name = format!("{}, of QEMU's", row.title());
        Some(Bar { name, unit: "", measured: row.cpu_of_qemu?, at_most: CPU_OF_QEMU })
    })
}

/// Writes the table.
pub(super) fn write(rows: &[Row], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let title = "CPU time per operation, in us";
    writeln!(
        f,
        "{title:<42} {:>8} {:>15} {:>7} {:>8} {:>8}",
        "median", "min-max", "of QEMU", "user", "system"
    )?;
    for row in rows {
        let cpu = row.cpu_ns;
        let us = |nanoseconds| ratio(nanoseconds, 1000);
        writeln!(
            f,
            "{:<42} {:>8.1} {:>15} {:>7} {:>8.1} {:>8.1}",
            row.title(),
            us(cpu.median),
            format!("{:.1}-{:.1}", us(cpu.min), us(cpu.max)),
            optional(row.cpu_of_qemu),
            us(row.user_ns.median),
            us(row.system_ns.median)
        )?;
    }
    writeln!(f)
}

impl Row {
    fn new(load: Load, contender: Contender, samples: &[Sample]) -> Option<Self> {
        let samples: Vec<&Sample> = samples
            .iter()
            .filter(|sample| sample.load == load && sample.contender == contender)
            .collect();
        let spread = |value: fn(&Sample) -> u64| {
            Spread::of(samples.iter().map(|sample| value(sample) * 1000 / sample.operations))
        };
        Some(Self {
            load,
            contender,
            runs: samples.len(),
            cpu_ns: spread(|sample| sample.user_us + sample.system_us)?,
            cpu_of_qemu: None,
            user_ns: spread(|sample| sample.user_us)?,
            system_ns: spread(|sample| sample.system_us)?,
        })
    }

    fn title(&self) -> String {
        format!("{}, {}", self.load.title(), self.contender.title())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(load: Load, contender: Contender, user_us: u64) -> Sample {
        Sample { load, contender, operations: 100, user_us, system_us: 1000 }
    }

    #[test]
    fn engines_are_compared_with_qemus_engine_of_the_same_kind() {
        let samples = [
            sample(Load::RandomRead, Contender::VmmSync, 2000),
            sample(Load::RandomRead, Contender::QemuThreads, 3000),
            sample(Load::RandomRead, Contender::VmmUring, 3000),
            sample(Load::RandomRead, Contender::QemuUring, 1000),
            sample(Load::RandomWrite, Contender::QemuUring, 9000),
        ];
        let rows = rows(&samples);
        assert_eq!(rows[0].cpu_ns.median, 30_000);
        let bars: Vec<f64> = bars(&rows).map(|bar| bar.measured).collect();
        assert_eq!(bars, [0.75, 2.0]);
    }
}
