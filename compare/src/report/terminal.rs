//! A report in a terminal: one table, a column for each way.

mod cells;
mod isolation;
mod style;

use std::env;

use self::cells::Columns;
use self::style::Style;
use super::quantity::{counted, quantity};
use super::text::{ascii, cut, pad, visible, wrap};
use crate::model::{Curve, Host, Report, Row, Unit, Workload};
use crate::statistics::ENOUGH;

/// Narrower, nothing can be read; wider, nothing gets better.
const WIDTHS: std::ops::RangeInclusive<usize> = 60..=120;

/// How a table is drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TableOptions {
    /// Columns of the terminal.
    pub width: usize,
    /// Whether colours help: nothing is said by them alone.
    pub color: bool,
    /// Whether the terminal has more than ASCII.
    pub unicode: bool,
}

impl Default for TableOptions {
    fn default() -> Self {
        Self { width: 80, color: false, unicode: true }
    }
}

impl TableOptions {
    /// What suits where the table goes: colours on terminals whose owner wants some, and more than
    /// ASCII where the locale has it.
    pub fn of_environment(width: usize, terminal: bool) -> Self {
        Self::of(width, terminal, |name| env::var(name).ok().filter(|value| !value.is_empty()))
    }

    fn of(width: usize, terminal: bool, variable: impl Fn(&str) -> Option<String>) -> Self {
        // The first of them that's set is the one that counts.
        let locale = ["LC_ALL", "LC_CTYPE", "LANG"].into_iter().find_map(&variable);
        let locale = locale.unwrap_or_default().to_ascii_lowercase();
        let dumb = variable("TERM").is_some_and(|term| term == "dumb");
        Self {
            width,
            color: terminal && !dumb && variable("NO_COLOR").is_none(),
            unicode: locale.contains("utf-8") || locale.contains("utf8"),
        }
    }
}

/// Draws the table.
pub fn table(report: &Report, options: &TableOptions) -> String {
    let mut table = Table {
        report,
        style: Style { color: options.color, unicode: options.unicode },
        columns: Columns::of(report, options.width.clamp(*WIDTHS.start(), *WIDTHS.end())),
        lines: Vec::new(),
        footnotes: Vec::new(),
    };
    table.title();
    table.header();
    table.measurements();
    table.isolation();
    table.density();
    table.legend();
    table.notes();
    let text = table.lines.iter().map(|line| format!("{}\n", line.trim_end())).collect::<String>();
    if options.unicode { text } else { keep_escapes(&text) }
}

/// The same in ASCII; the colours' escapes stay.
fn keep_escapes(text: &str) -> String {
    let lines = text.split('\n').map(|line| {
        let parts: Vec<_> = line.split('\u{1b}').map(ascii).collect();
        parts.join("\u{1b}")
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// A table while it's being drawn.
struct Table<'a> {
    report: &'a Report,
    style: Style,
    columns: Columns,
    lines: Vec<String>,
    footnotes: Vec<String>,
}

impl Table<'_> {
    /// The number of a footnote; the same text has the same one.
    fn footnote(&mut self, text: &str) -> String {
        let text = visible(text);
        let place = self.footnotes.iter().position(|known| *known == text);
        let place = place.unwrap_or_else(|| {
            self.footnotes.push(text);
            self.footnotes.len() - 1
        });
        self.style.superscript(place + 1)
    }

    /// Adds a text, broken to the width, each further line indented.
    fn paragraph(&mut self, text: &str, indent: usize) {
        let width = self.columns.total.saturating_sub(indent);
        for (index, line) in wrap(text, width).into_iter().enumerate() {
            let indent = if index == 0 { 0 } else { indent };
            self.lines.push(format!("{}{line}", " ".repeat(indent)));
        }
    }

    /// A line with the name of what follows.
    fn group(&mut self, name: &str) {
        let rest = self.columns.total.saturating_sub(name.len() + 4);
        let line = format!("── {name} {}", "─".repeat(rest));
        self.lines.push(self.style.dim(&line));
    }

    fn title(&mut self) {
        let report = self.report;
        let title = format!("{} on {}", visible(&report.image.reference), host_name(&report.host));
        for line in wrap(&title, self.columns.total) {
            self.lines.push(self.style.bold(&line));
        }
        if report.interrupted {
            self.paragraph("Interrupted: what isn't here was not measured.", 0);
        }
        self.lines.push(String::new());
    }

    /// The ways' names, and by what they were taken.
    fn header(&mut self) {
        let ways = self.report.ways.clone();
        let mut titles = Vec::new();
        let mut details = Vec::new();
        for way in &ways {
            let mark = way.failure.as_ref().map(|reason| self.footnote(reason));
            let title = match mark {
                Some(mark) => format!("{}: failed{mark}", way.id.title()),
                None => way.id.title().to_owned(),
            };
            titles.push(wrap(&title, self.columns.each));
            let detail = wrap(&visible(&way.detail), self.columns.each);
            details.push(detail.iter().map(|line| cut(line, self.columns.each)).take(3).collect());
        }
        self.beside(&[], &titles, Style::bold);
        self.beside(&[], &details, Style::dim);
    }

    /// Puts texts beside each other: the first column's and the ways'.
    fn beside(
        &mut self,
        label: &[String],
        cells: &[Vec<String>],
        paint: impl Fn(&Style, &str) -> String,
    ) {
        let height = cells.iter().map(Vec::len).chain([label.len()]).max().unwrap_or(0);
        for index in 0..height {
            let first = label.get(index).map_or("", String::as_str);
            let mut line = pad(first, self.columns.label);
            for cell in cells {
                let text = cell.get(index).map_or("", String::as_str);
                line.push(' ');
                line.push_str(&paint(&self.style, &pad(text, self.columns.each)));
            }
            self.lines.push(line);
        }
    }

    fn measurements(&mut self) {
        let report = self.report;
        for workload in Workload::ALL {
            let of_workload = report.rows.iter().filter(|row| row.workload == workload);
            let (applicable, others): (Vec<&Row>, Vec<&Row>) =
                of_workload.partition(|row| row.applies());
            // A server's first byte, say, is no way's. Where all rows are like that, they're shown
            // to have been looked for.
            let rows = if applicable.is_empty() { others } else { applicable };
            if rows.is_empty() {
                continue;
            }
            self.group(workload.name());
            for row in rows {
                self.row(row);
            }
        }
    }

    /// What another instance takes, by the curves' slopes.
    fn density(&mut self) {
        let curves = &self.report.curves;
        if curves.is_empty() {
            return;
        }
        self.lines.push(String::new());
        self.group("as instances are added");
        for curve in curves {
            self.paragraph(&slope(curve), 2);
        }
    }

    /// What the signs mean that are in the table.
    fn legend(&mut self) {
        self.lines.push(String::new());
        let settings = &self.report.settings;
        let (outlier, plus) = (self.style.outlier(2), self.style.interval("±1.2"));
        let spread = match settings.runs as usize {
            ..ENOUGH => "the samples' range, for fewer than five have no 95 % interval",
            _ => "the median's 95 % interval",
        };
        self.paragraph(
            &format!(
                "Medians of {} in turns, after {} to warm up; {} and {} MiB for each instance. Sizes, \
                 density and isolation are found once. {plus} or [low–high]: {spread}. {outlier}: two \
                 samples are outliers, and count. Bars compare within a row. –: there's no such thing.",
                counted(settings.runs, "run"),
                settings.warm_ups,
                counted(settings.cpus, "CPU"),
                settings.memory_mib,
            ),
            0,
        );
        for (index, text) in std::mem::take(&mut self.footnotes).into_iter().enumerate() {
            let mark = self.style.superscript(index + 1);
            self.paragraph(&format!("{mark} {text}"), 2);
        }
    }

    /// What the host is, and what a reader should know.
    fn notes(&mut self) {
        let report = self.report;
        self.lines.push(String::new());
        self.paragraph(&host(&report.host), 0);
        for note in &report.notes {
            self.paragraph(&format!("- {}", visible(note)), 2);
        }
        let command: Vec<_> = report.command_line.iter().map(|word| visible(word)).collect();
        self.paragraph(&format!("Again: {}", command.join(" ")), 2);
    }
}

/// The host in few words.
fn host_name(host: &Host) -> String {
    let memory = quantity(Unit::Bytes, host.memory_bytes as f64);
    let cpu = visible(&host.cpu_model);
    let cpus = counted(host.cpus, "CPU");
    format!("{cpu} ({cpus}, {memory}), Linux {}", visible(&host.kernel))
}

/// What the host is, in a sentence.
pub(super) fn host(host: &Host) -> String {
    let mut text = format!(
        "Host: {}, {}",
        visible(&host.architecture),
        if host.emulated { "itself an emulated machine" } else { "not emulated" },
    );
    if let Some(module) = &host.kvm_module {
        text += &format!(", virtual machines by {}", visible(module));
    }
    if let Some(governor) = &host.cpu_governor {
        text += &format!(", frequency governor {}", visible(governor));
    }
    text += &format!(", load {:.2} at the beginning", host.load);
    if host.counts_instructions {
        text += "; its clock counts instructions, so only ratios mean something";
    }
    format!("{text}. vmctl {}.", visible(&host.vmctl_version))
}

/// A curve in a sentence.
fn slope(curve: &Curve) -> String {
    let way = curve.way.title();
    let most = curve.points.iter().map(|point| point.instances).max().unwrap_or(0);
    let stopped = visible(&curve.stopped_by);
    let (Some(each), Some(per_gib)) = (curve.bytes_per_instance, curve.instances_per_gib) else {
        return format!("{way}: no slope from {most} instances; stopped by {stopped}.");
    };
    format!(
        "{way}: {} for another instance, {} instances per GiB; {most} ran, stopped by {stopped}.",
        quantity(Unit::Bytes, each),
        quantity(Unit::Count, per_gib),
    )
}

#[cfg(test)]
mod tests;
