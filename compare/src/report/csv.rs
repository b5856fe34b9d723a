//! A report for a spreadsheet: long, a line for each sample.
//!
//! | column     | of a sample                | of a curve's point                        | of an observation |
//! |------------|----------------------------|-------------------------------------------|-------------------|
//! | `row`      | the row's name             | `curve.pss`, `curve.host`, `curve.cpu`    | `isolation.NAME`  |
//! | `title`    | the name for people        | the same                                  | the same          |
//! | `workload` | what it belongs to         | `density`                                 | `isolation`       |
//! | `unit`     | what the number is         | `bytes`, `cpu-microseconds`               | `text`            |
//! | `way`      | the way                    | the way                                   | the way           |
//! | `sample`   | which one, from 0          | how many instances there were             | empty             |
//! | `value`    | the number, or the text    | the number                                | what was seen     |
//! | `outlier`  | `true` or `false`          | empty                                     | empty             |
//! | `outcome`  | `measured`, `said`, `failed`, `not-applicable` | `measured`            | the verdict: `own`, `shared`, … |
//! | `reason`   | why it failed or isn't there | empty                                   | what happened to the neighbours |
//!
//! A text that a spreadsheet would compute begins with `'`.

use std::io::Write;

use serde::Serialize;

use super::text::visible;
use crate::model::{Aspect, Cell, Curve, Outcome, Report, Row, Unit, WayId, Workload};

/// A line of the file.
#[derive(Default, Serialize)]
struct Line {
    row: String,
    title: String,
    workload: &'static str,
    unit: &'static str,
    way: &'static str,
    sample: Option<u32>,
    value: String,
    outlier: Option<bool>,
    outcome: &'static str,
    reason: String,
}

/// Writes a report.
///
/// # Errors
/// It can't be written there.
pub fn write(report: &Report, to: impl Write) -> Result<(), csv::Error> {
    let mut writer = csv::Writer::from_writer(to);
    let lines = report.rows.iter().flat_map(row).chain(report.curves.iter().flat_map(curve));
    for line in lines.chain(report.isolation.iter().flat_map(aspect)) {
        writer.serialize(line)?;
    }
    writer.flush()?;
    Ok(())
}

/// A text that no spreadsheet takes for a formula.
fn text(text: &str) -> String {
    let shown = visible(text);
    match shown.trim_start().chars().next() {
        Some('=' | '+' | '-' | '@' | '＝' | '＋' | '－' | '＠') => format!("'{shown}"),
        _ => shown,
    }
}

/// What `unit` says: as in the JSON file.
const fn unit(unit: Unit) -> &'static str {
    match unit {
        Unit::Microseconds => "microseconds",
        Unit::CpuMicroseconds => "cpu-microseconds",
        Unit::Nanoseconds => "nanoseconds",
        Unit::Bytes => "bytes",
        Unit::BytesPerSecond => "bytes-per-second",
        Unit::PerSecond => "per-second",
        Unit::PerMinute => "per-minute",
        Unit::Count => "count",
        Unit::Text => "text",
    }
}

fn row(row: &Row) -> impl Iterator<Item = Line> {
    row.cells.iter().flat_map(|found| cell(row, found))
}

fn cell(row: &Row, cell: &Cell) -> Vec<Line> {
    let line = || Line {
        row: text(&row.id),
        title: text(&row.title),
        workload: row.workload.name(),
        unit: unit(row.unit),
        way: cell.way.name(),
        ..Line::default()
    };
    let why = |outcome, reason: &str| vec![Line { outcome, reason: text(reason), ..line() }];
    match &cell.outcome {
        Outcome::Measured(figure) => (0..)
            .zip(&figure.samples)
            .map(|(index, sample)| Line {
                sample: Some(index),
                value: sample.to_string(),
                outlier: Some(figure.outliers.contains(&index)),
                outcome: "measured",
                ..line()
            })
            .collect(),
        Outcome::Said { text: said } => vec![Line { outcome: "said", value: text(said), ..line() }],
        Outcome::Failed { reason } => why("failed", reason),
        Outcome::NotApplicable { reason } => why("not-applicable", reason),
    }
}

fn curve(curve: &Curve) -> impl Iterator<Item = Line> {
    curve.points.iter().flat_map(|point| {
        let line = |row: &str, title: &str, of: Unit, value: String| {
            curve_line(curve.way, point.instances, row, title, of, value)
        };
        let cpu = point.start_cpu_us.map(|cpu| {
            line("curve.cpu", "CPU time to start the last", Unit::CpuMicroseconds, cpu.to_string())
        });
        let (pss, host) = (point.pss_bytes.to_string(), point.host_bytes.to_string());
        [
            line("curve.pss", "Memory of all (PSS)", Unit::Bytes, pss),
            line("curve.host", "Memory of the host", Unit::Bytes, host),
        ]
        .into_iter()
        .chain(cpu)
    })
}

fn curve_line(way: WayId, instances: u32, row: &str, title: &str, of: Unit, value: String) -> Line {
    Line {
        row: row.to_owned(),
        title: title.to_owned(),
        workload: Workload::Density.name(),
        unit: unit(of),
        way: way.name(),
        sample: Some(instances),
        value,
        outcome: "measured",
        ..Line::default()
    }
}

fn aspect(aspect: &Aspect) -> impl Iterator<Item = Line> {
    aspect.observations.iter().map(|observation| Line {
        row: text(&format!("isolation.{}", aspect.id)),
        title: text(&aspect.title),
        workload: Workload::Isolation.name(),
        unit: unit(Unit::Text),
        way: observation.way.name(),
        value: text(&observation.value),
        outcome: observation.verdict.name(),
        reason: text(observation.neighbours.as_deref().unwrap_or_default()),
        ..Line::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;

    fn table(report: &Report) -> Vec<csv::StringRecord> {
        let mut written = Vec::new();
        write(report, &mut written).unwrap();
        let mut reader = csv::ReaderBuilder::new().has_headers(false).from_reader(&*written);
        reader.records().map(Result::unwrap).collect()
    }

    #[test]
    fn each_sample_has_a_line() {
        let report = testing::nginx();
        let table = table(&report);
        let header = "row,title,workload,unit,way,sample,value,outlier,outcome,reason";
        assert_eq!(table[0].iter().collect::<Vec<_>>().join(","), header);
        let figure = report.row("start.first-byte").unwrap().figure(WayId::MicrovmCold).unwrap();
        let lines: Vec<_> = table
            .iter()
            .filter(|line| &line[0] == "start.first-byte" && &line[4] == "microvm-cold")
            .collect();
        let values: Vec<f64> = lines.iter().map(|line| line[6].parse().unwrap()).collect();
        assert_eq!(values, figure.samples);
        let outliers: Vec<u32> = lines
            .iter()
            .filter(|line| &line[7] == "true")
            .map(|line| line[5].parse().unwrap())
            .collect();
        assert_eq!(outliers, figure.outliers);
        assert!(!outliers.is_empty());
    }

    #[test]
    fn failures_points_and_observations_are_there_with_their_words() {
        let table = table(&testing::nginx());
        let has = |wanted: &[(usize, &str)]| {
            table.iter().any(|line| wanted.iter().all(|(index, text)| &line[*index] == *text))
        };
        assert!(has(&[
            (0, "churn"),
            (4, "full-vm"),
            (6, ""),
            (8, "failed"),
            (9, "no second run within 60 s")
        ]));
        assert!(has(&[(0, "image.wire"), (4, "full-vm"), (8, "not-applicable")]));
        assert!(has(&[(0, "filesystem"), (6, "ext4 on one disk of 2 GiB"), (8, "said")]));
        assert!(has(&[(0, "curve.pss"), (4, "microvm-warm"), (5, "100"), (8, "measured")]));
        assert!(has(&[(0, "isolation.kernel-release"), (4, "container"), (8, "shared")]));
        assert!(has(&[(0, "isolation.proc-sys"), (8, "reached")]));
    }

    #[test]
    fn no_text_is_a_formula() {
        let payloads =
            ["=1+1", "+1", "-1", "@SUM(A1)", " =1", "\t=1", "\r=1", "＝1+1", "\"\n=cmd|' /C'!A0"];
        for payload in payloads {
            for line in table(&testing::hostile(payload)).iter().skip(1) {
                for (index, cell) in line.iter().enumerate().filter(|(index, _)| *index != 5) {
                    let number = index == 6 && cell.parse::<f64>().is_ok() && &line[3] != "text";
                    let first = cell.trim_start().chars().next();
                    let formula = matches!(first, Some('=' | '+' | '-' | '@' | '＝'));
                    assert!(number || !formula, "{cell:?}");
                    assert!(!cell.chars().any(char::is_control), "{cell:?}");
                }
            }
        }
    }
}
