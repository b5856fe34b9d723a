//! The table of containers.

use std::fmt;

use serde::Serialize;

use super::super::containers::{COUNTS, Contender, Figure, Sample};
use super::{Bar, Spread, ratio};

/// Bars: what at most may come out.
const WARM_CPU_OF_PODMAN: f64 = 2.0;
const WARM_ELAPSED_OF_PODMAN: f64 = 1.0;
const IDLE_MIB: f64 = 40.0;
const IMAGE_OF_COMPRESSED: f64 = 2.5;

/// All samples of one figure.
#[derive(Debug, Serialize)]
pub(super) struct Row {
    figure: Figure,
    contender: Contender,
    count: u32,
    runs: usize,
    value: Spread,
    /// Of podman's median.
    of_podman: Option<f64>,
}

/// Sums up samples, as far as there are any.
pub(super) fn rows(samples: &[Sample]) -> Vec<Row> {
    let mut rows: Vec<Row> = Vec::new();
    for figure in Figure::ALL {
        for count in [0].into_iter().chain(COUNTS) {
            for contender in Contender::ALL {
                rows.extend(Row::new(figure, contender, count, samples));
            }
        }
    }
    let podman: Vec<_> = rows
        .iter()
        .filter(|row| row.contender == Contender::Podman)
        .map(|row| (row.figure, row.count, row.value.median))
        .collect();
    for row in &mut rows {
        let same =
            podman.iter().find(|(figure, count, _)| (*figure, *count) == (row.figure, row.count));
        row.of_podman = same.map(|(.., median)| ratio(row.value.median, *median));
    }
    rows
}

/// Returns the bars that rows are held to.
pub(super) fn bars(rows: &[Row]) -> Vec<Bar> {
    let warm = |figure, count| {
        rows.iter()
            .find(|row| (row.figure, row.contender, row.count) == (figure, Contender::Warm, count))
    };
    let mut bars = Vec::new();
    let mut add = |name: &str, unit, measured: Option<f64>, at_most| {
        bars.extend(measured.map(|measured| Bar { name: name.into(), unit, measured, at_most }));
    };
    let of_podman = |figure| warm(figure, 0).and_then(|row| row.of_podman);
    let median = |figure, count| warm(figure, count).map(|row| row.value.median);
    add("warm vmctl run, CPU time of podman run's", "", of_podman(Figure::Run), WARM_CPU_OF_PODMAN);
    let name = "warm vmctl run, elapsed to output, of podman's";
    add(name, "", of_podman(Figure::FirstByteElapsed), WARM_ELAPSED_OF_PODMAN);
    let memory = median(Figure::Memory, 1).map(|kib| ratio(kib, 1 << 10));
    add("memory of an idle container, all told", "MiB", memory, IDLE_MIB);
    let image = median(Figure::ImageOfCompressed, 0).map(|thousandths| ratio(thousandths, 1000));
    add("images' root file systems, of their compressed layers", "", image, IMAGE_OF_COMPRESSED);
    bars
}

/// Writes the table.
pub(super) fn write(rows: &[Row], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let title = "CPU time, but where elapsed time, memory or space is named";
    writeln!(f, "{title:<58} {:>9} {:>19} {:>13}", "median", "min-max", "of podman's")?;
    for row in rows {
        let unit = row.figure.unit();
        let show = |value| ratio(value, unit.of);
        let spread = format!("{:.2}-{:.2}", show(row.value.min), show(row.value.max));
        let of_podman = super::optional(row.of_podman);
        let median = show(row.value.median);
        let title = row.title();
        writeln!(f, "{title:<58} {median:>9.2} {spread:>19} {:<3} {of_podman:>9}", unit.name)?;
    }
    writeln!(f)
}

impl Row {
    fn new(figure: Figure, contender: Contender, count: u32, samples: &[Sample]) -> Option<Self> {
        let of_this = |sample: &&Sample| {
            (sample.figure, sample.contender, sample.count) == (figure, contender, count)
        };
        let values = || samples.iter().filter(of_this).map(|sample| sample.value);
        let value = Spread::of(values())?;
        Some(Self { figure, contender, count, runs: values().count(), value, of_podman: None })
    }

    fn title(&self) -> String {
        let count = match self.count {
            0 => String::new(),
            1 => ", 1 container".to_owned(),
            count => format!(", {count} containers"),
        };
        format!("{}{count}, {}", self.figure.title(), self.contender.title())
    }
}

/// How a value is shown.
struct Unit {
    name: &'static str,
    of: u64,
}

impl Figure {
    /// All figures, in the order of the table.
    const ALL: [Self; 11] = [
        Self::Run,
        Self::RunWithoutNetwork,
        Self::FirstByte,
        Self::FirstByteElapsed,
        Self::Exec,
        Self::Pull,
        Self::Start,
        Self::Stop,
        Self::Memory,
        Self::Disk,
        Self::ImageOfCompressed,
    ];

    fn title(self) -> &'static str {
        match self {
            Self::Run => "run --rm true",
            Self::RunWithoutNetwork => "run --rm --network=none true",
            Self::FirstByte => "run to the first byte of output",
            Self::FirstByteElapsed => "elapsed to the first byte",
            Self::Exec => "exec true",
            Self::Pull => "pull",
            Self::Start => "start, each",
            Self::Stop => "stop, each",
            Self::Memory => "memory (PSS), each",
            Self::Disk => "space on disk, each",
            Self::ImageOfCompressed => "images' roots, of compressed layers",
        }
    }

    fn unit(self) -> Unit {
        match self {
            Self::Memory | Self::Disk => Unit { name: "MiB", of: 1 << 10 },
            Self::ImageOfCompressed => Unit { name: "", of: 1000 },
            _ => Unit { name: "ms", of: 1000 },
        }
    }
}

impl Contender {
    fn title(self) -> &'static str {
        match self {
            Self::Cold => "vmctl, booted",
            Self::Warm => "vmctl",
            Self::Podman => "podman",
            Self::Crun => "crun",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn warm_starts_are_held_to_podmans_and_memory_to_its_bar() {
        let sample = |figure, contender, count, value| Sample { figure, contender, count, value };
        let samples = [
            sample(Figure::Run, Contender::Warm, 0, 300),
            sample(Figure::Run, Contender::Podman, 0, 200),
            sample(Figure::Memory, Contender::Warm, 1, 80 << 10),
            sample(Figure::ImageOfCompressed, Contender::Warm, 0, 2000),
        ];
        let rows = rows(&samples);
        let measured: Vec<f64> = bars(&rows).iter().map(|bar| bar.measured).collect();
        assert_eq!(measured, [1.5, 80.0, 2.0]);
    }
}
