//! The table of the API, snapshots, restores, clones and forks.

use std::fmt;

use serde::Serialize;

use super::super::snapshot::{Figure, GUESTS_MIB, Sample, clones};
use super::{Bar, Spread, ratio};

/// Bars: what at most may come out.
const READY_MS: f64 = 5.0;
const ANSWER_OF_BOOT: f64 = 0.1;
const CLONE_OF_GUEST: f64 = 0.1;

/// All samples of one figure. Values are in nanoseconds or KiB.
#[derive(Debug, Serialize)]
pub(super) struct Row {
    figure: Figure,
    guest_mib: u64,
    clones: u32,
    runs: usize,
    value: Spread,
}

/// Sums up samples, as far as there are any.
pub(super) fn rows(samples: &[Sample]) -> Vec<Row> {
    let mut rows = Vec::new();
    for figure in Figure::ALL {
        for guest_mib in [0].into_iter().chain(GUESTS_MIB) {
            for clones in [0].into_iter().chain(clones::COUNTS) {
                rows.extend(Row::new(figure, guest_mib, clones, samples));
            }
        }
    }
    rows
}

/// Returns the bars that rows are held to.
pub(super) fn bars(rows: &[Row]) -> Vec<Bar> {
    let median = |figure, guest_mib| {
        let mut found =
            rows.iter().filter(|row| row.figure == figure && row.guest_mib == guest_mib);
        found.next().map(|row| row.value.median)
    };
    let mut bars = Vec::new();
    let mut add = |name: String, unit, measured, at_most| {
        bars.push(Bar { name, unit, measured, at_most });
    };
    if let Some(ready) = median(Figure::Ready, 0) {
        add("exec to the API's first answer".to_owned(), "ms", ratio(ready, 1_000_000), READY_MS);
    }
    for guest_mib in GUESTS_MIB {
        for figure in [Figure::Answer, Figure::AnswerAhead] {
            let pair = median(figure, guest_mib).zip(median(Figure::BootAnswer, guest_mib));
            if let Some((answer, boot)) = pair {
                let name = format!("{}, {guest_mib} MiB, of a boot's", figure.title());
                add(name, "", ratio(answer, boot), ANSWER_OF_BOOT);
            }
        }
    }
    for row in rows.iter().filter(|row| row.figure == Figure::ClonePss) {
        let name = format!("{} of {}, of the guest's size", row.figure.title(), row.clones);
        add(name, "", ratio(row.value.median, row.guest_mib << 10), CLONE_OF_GUEST);
    }
    bars
}

/// Writes the table.
pub(super) fn write(rows: &[Row], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let title = "CPU time, but where elapsed time or memory is named";
    writeln!(f, "{title:<58} {:>9} {:>19}", "median", "min-max")?;
    for row in rows {
        let unit = row.figure.unit();
        let show = |value| ratio(value, unit.of);
        let spread = format!("{:.3}-{:.3}", show(row.value.min), show(row.value.max));
        let median = show(row.value.median);
        writeln!(f, "{:<58} {median:>9.3} {spread:>19} {}", row.title(), unit.name)?;
    }
    writeln!(f)
}

impl Row {
    fn new(figure: Figure, guest_mib: u64, clones: u32, samples: &[Sample]) -> Option<Self> {
        let of_this = |sample: &&Sample| {
            (sample.figure, sample.guest_mib, sample.clones) == (figure, guest_mib, clones)
        };
        let values = || samples.iter().filter(of_this).map(|sample| sample.value);
        let value = Spread::of(values())?;
        Some(Self { figure, guest_mib, clones, runs: values().count(), value })
    }

    fn title(&self) -> String {
        let guest = match self.guest_mib {
            0 => String::new(),
            mib => format!(", {mib} MiB"),
        };
        let clones = match self.clones {
            0 => String::new(),
            count => format!(", {count} clones"),
        };
        format!("{}{guest}{clones}", self.figure.title())
    }
}

/// How a value is shown.
struct Unit {
    name: &'static str,
    of: u64,
}

impl Figure {
    /// All figures, in the order of the table.
    const ALL: [Self; 17] = [
        Self::Ready,
        Self::Request,
        Self::Boot,
        Self::BootAnswer,
        Self::Load,
        Self::Answer,
        Self::AnswerCold,
        Self::AnswerRecording,
        Self::AnswerAhead,
        Self::Full,
        Self::Diff,
        Self::ForkPause,
        Self::ForkTotal,
        Self::CloneCpu,
        Self::CloneElapsed,
        Self::ClonePss,
        Self::CloneUnshared,
    ];

    fn title(self) -> &'static str {
        match self {
            Self::Ready => "exec to the API's first answer",
            Self::Request => "request, one of 1000 on a connection",
            Self::Boot => "exec to a booted guest",
            Self::BootAnswer => "exec, boot, answer over vsock",
            Self::Load => "exec to a loaded machine",
            Self::Answer => "exec, restore, answer over vsock",
            Self::AnswerCold => "the same, snapshot not cached",
            Self::AnswerRecording => "the same, working set recorded",
            Self::AnswerAhead => "the same, not cached, working set read ahead",
            Self::Full => "full snapshot",
            Self::Diff => "differential snapshot",
            Self::ForkPause => "fork: elapsed pause, memory in use",
            Self::ForkTotal => "fork: elapsed in all, memory in use",
            Self::CloneCpu => "exec, restore, answer, each",
            Self::CloneElapsed => "elapsed until all have answered",
            Self::ClonePss => "memory (PSS) of each",
            Self::CloneUnshared => "memory that's not shared, of each",
        }
    }

    fn unit(self) -> Unit {
        match self {
            Self::Request => Unit { name: "us", of: 1000 },
            Self::ClonePss | Self::CloneUnshared => Unit { name: "MiB", of: 1 << 10 },
            _ => Unit { name: "ms", of: 1_000_000 },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(figure: Figure, guest_mib: u64, clones: u32, value: u64) -> Sample {
        Sample { figure, guest_mib, clones, value }
    }

    #[test]
    fn restores_are_held_to_a_boot_of_the_same_guest_and_clones_to_its_size() {
        let samples = [
            sample(Figure::BootAnswer, 128, 0, 300),
            sample(Figure::BootAnswer, 1024, 0, 1000),
            sample(Figure::Answer, 128, 0, 20),
            sample(Figure::Answer, 128, 0, 40),
            sample(Figure::AnswerAhead, 1024, 0, 200),
            sample(Figure::ClonePss, 128, 8, 64 << 10),
        ];
        let rows = rows(&samples);
        assert_eq!(rows.len(), 5);
        let measured: Vec<f64> = bars(&rows).iter().map(|bar| bar.measured).collect();
        assert_eq!(measured, [0.1, 0.2, 0.5]);
        let figures = rows.iter().map(|row| row.figure).collect::<Vec<_>>();
        assert!(figures.iter().all(|figure| Figure::ALL.contains(figure)));
    }
}
