//! Distributions: how starts are spread, and not only their medians.

use std::fmt::Write;

use super::quantity::quantity;
use super::text::{columns, cut, pad, visible, wrap};
use crate::model::{Figure, Report, Row, WayId, Workload};
use crate::statistics::quantile;

/// Bars of a histogram, from nothing to the most.
const BLOCKS: [char; 9] = [' ', '▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
const ASCII_BLOCKS: [char; 9] = [' ', '.', ':', '-', '=', '+', '*', '%', '#'];

/// How many bars there are.
const BARS: usize = 32;

/// The quantiles that are shown.
const QUANTILES: [(&str, f64); 5] =
    [("min", 0.0), ("median", 0.5), ("p90", 0.9), ("p99", 0.99), ("max", 1.0)];

/// The starts' rows as quantiles and histograms, at most 80 columns wide.
pub fn distributions(report: &Report, unicode: bool) -> String {
    let mut text = String::new();
    let rows = report.rows.iter().filter(|row| row.workload == Workload::Start);
    for row in rows.filter(|row| row.cells.iter().any(|cell| row.figure(cell.way).is_some())) {
        // Sizes are no distributions.
        let is_spread = |way: &WayId| row.figure(*way).is_some_and(|it| it.samples.len() > 1);
        let ways: Vec<_> = report.ways.iter().map(|way| way.id).filter(is_spread).collect();
        if !ways.is_empty() {
            add_row(&mut text, row, &ways, unicode);
        }
    }
    for way in report.ways.iter().filter(|way| way.failure.is_some()) {
        let reason = way.failure.as_deref().unwrap_or_default();
        let _ = writeln!(text, "{}: {}", way.id.title(), visible(reason));
    }
    for note in &report.notes {
        for line in wrap(&format!("Note: {}", visible(note)), 80) {
            let _ = writeln!(text, "{line}");
        }
    }
    text
}

fn add_row(text: &mut String, row: &Row, ways: &[WayId], unicode: bool) {
    let figures: Vec<(WayId, &Figure)> =
        ways.iter().filter_map(|way| Some((*way, row.figure(*way)?))).collect();
    let all = figures.iter().flat_map(|(_, figure)| figure.samples.iter().copied());
    let (low, high) = all.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), sample| {
        (low.min(sample), high.max(sample))
    });
    let mut header = visible(&row.title);
    // A long name has a line of its own.
    if columns(&header) > 16 {
        let _ = writeln!(text, "{}", cut(&header, 80));
        header.clear();
    }
    header = pad(&header, 16);
    for (name, _) in QUANTILES {
        let _ = write!(header, "{name:>10}");
    }
    let _ = writeln!(text, "{header}{:>8}", "runs");
    for (way, figure) in &figures {
        let mut sorted = figure.samples.clone();
        sorted.sort_by(f64::total_cmp);
        let _ = write!(text, "  {:<14}", way.title());
        for (_, fraction) in QUANTILES {
            let _ = write!(text, "{:>10}", quantity(row.unit, quantile(&sorted, fraction)));
        }
        let _ = writeln!(text, "{:>8}", sorted.len());
    }
    // On one scale, so that the ways can be seen side by side.
    for (way, figure) in &figures {
        let bars = histogram(&figure.samples, low, high, unicode);
        let _ = writeln!(text, "  {:<14}  |{bars}|", way.title());
    }
    let ends = (quantity(row.unit, low), quantity(row.unit, high));
    let _ = writeln!(text, "  {:<14}  {:<17}{:>17}\n", "", ends.0, ends.1);
}

/// How many samples there are in each part of a range, as bars.
fn histogram(samples: &[f64], low: f64, high: f64, unicode: bool) -> String {
    let mut counts = [0_usize; BARS];
    for sample in samples {
        let place = if high > low { (sample - low) / (high - low) } else { 0.0 };
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it's 0 to 1")]
        let bar = (place.clamp(0.0, 1.0) * (BARS - 1) as f64).round() as usize;
        counts[bar] += 1;
    }
    let most = counts.iter().copied().max().unwrap_or(0).max(1);
    let blocks = if unicode { BLOCKS } else { ASCII_BLOCKS };
    // A single sample is still seen.
    counts.iter().map(|count| blocks[(count * (BLOCKS.len() - 1)).div_ceil(most)]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_histogram_shows_where_samples_are() {
        let bars = histogram(&[0.0, 0.0, 0.0, 0.0, 10.0], 0.0, 10.0, true);
        assert_eq!(bars.chars().count(), BARS);
        assert!(bars.starts_with('█') && bars.ends_with('▂'), "{bars:?}");
        assert_eq!(bars.trim_matches(['█', '▂']).trim(), "");
        assert_eq!(histogram(&[5.0], 5.0, 5.0, false).trim(), "#");
    }

    #[test]
    fn starts_are_shown_by_quantiles_and_sizes_are_not() {
        let report = crate::testing::nginx();
        let text = distributions(&report, true);
        assert!(text.contains("median") && text.contains("p99"), "{text}");
        assert!(!text.contains("image on disk"), "{text}");
        assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
    }
}
