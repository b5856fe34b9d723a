//! The rows of the table.

use super::Table;
use super::style::Style;
use crate::model::{Better, Figure, Outcome, Report, Row, Unit};
use crate::report::quantity::{interval, quantity};
use crate::report::text::{columns, cut, pad, visible, wrap_to};

/// Widths, in columns of a terminal.
pub(super) struct Columns {
    /// All of it.
    pub(super) total: usize,
    /// The column with the rows' names.
    pub(super) label: usize,
    /// Each way's column, without the space before it.
    pub(super) each: usize,
}

impl Columns {
    /// Divides a width.
    pub(super) fn of(report: &Report, width: usize) -> Self {
        let ways = report.ways.len().max(1);
        let label = (width / 4).clamp(17, 28);
        let each = ((width - label) / ways).saturating_sub(1).clamp(8, 40);
        Self { total: width, label, each }
    }
}

/// How a line of a cell is shown.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Text,
    Bar,
    Failure,
}

/// The lines of a cell.
type Lines = Vec<(Kind, String)>;

impl Table<'_> {
    /// Draws a row: names and numbers, then bars.
    pub(super) fn row(&mut self, row: &Row) {
        let ways: Vec<_> = self.report.ways.iter().map(|way| way.id).collect();
        let largest = ways
            .iter()
            .filter_map(|way| row.figure(*way))
            .map(|figure| figure.median)
            .fold(0.0, f64::max);
        let cells: Vec<Lines> = ways
            .iter()
            .map(|way| row.cell(*way).map_or_else(Vec::new, |it| self.cell(row, it, largest)))
            .collect();
        let mut label = wrap_to(&visible(&row.title), self.columns.label, 2);
        label.extend(hint(row.better).map(str::to_owned));
        self.draw(&label, &align(cells));
    }

    fn cell(&mut self, row: &Row, outcome: &Outcome, largest: f64) -> Lines {
        match outcome {
            Outcome::Measured(figure) => self.figure(row.unit, figure, largest),
            Outcome::Said { text } => {
                let lines = wrap_to(&visible(text), self.columns.each, 4);
                lines.into_iter().map(|line| (Kind::Text, line)).collect()
            }
            Outcome::Failed { reason } => {
                vec![(Kind::Failure, format!("failed{}", self.footnote(reason)))]
            }
            Outcome::NotApplicable { .. } => vec![(Kind::Text, "–".to_owned())],
        }
    }

    /// A number, its interval and outliers where they fit, and its bar.
    fn figure(&self, unit: Unit, figure: &Figure, largest: f64) -> Lines {
        let width = self.columns.each;
        let interval = interval(unit, figure, width).map(|interval| self.style.interval(&interval));
        let outliers = figure.outliers.len();
        let outliers = (outliers > 0).then(|| self.style.outlier(outliers));
        let mut lines: Vec<String> = vec![quantity(unit, figure.median)];
        for more in [interval, outliers].into_iter().flatten() {
            match lines.last_mut() {
                Some(last) if columns(last) + 1 + columns(&more) <= width => {
                    *last = format!("{last} {more}");
                }
                _ => lines.push(more),
            }
        }
        let mut lines: Lines =
            lines.into_iter().map(|line| (Kind::Text, cut(&line, width))).collect();
        lines.push((Kind::Bar, self.style.bar_of(figure.median / largest, width)));
        lines
    }

    fn draw(&mut self, label: &[String], cells: &[Lines]) {
        let height = cells.iter().map(Vec::len).chain([label.len()]).max().unwrap_or(0);
        for index in 0..height {
            let first = label.get(index).map_or("", String::as_str);
            let mut line = pad(first, self.columns.label);
            if index > 0 && first.starts_with("  ") {
                line = self.style.dim(&line);
            }
            for cell in cells {
                line.push(' ');
                let empty = (Kind::Text, String::new());
                let (kind, text) = cell.get(index).unwrap_or(&empty);
                let paint = match kind {
                    Kind::Text => Style::plain,
                    Kind::Bar => Style::bar,
                    Kind::Failure => Style::failure,
                };
                line.push_str(&paint(&self.style, &pad(text, self.columns.each)));
            }
            self.lines.push(line);
        }
    }
}

/// Puts the bars of all cells on the same line: the last.
fn align(mut cells: Vec<Lines>) -> Vec<Lines> {
    let height = cells.iter().map(Vec::len).max().unwrap_or(0);
    for cell in &mut cells {
        if let Some(bar) = cell.pop_if(|(kind, _)| *kind == Kind::Bar) {
            cell.resize(height - 1, (Kind::Text, String::new()));
            cell.push(bar);
        }
    }
    cells
}

/// Which numbers are good, in a few words.
const fn hint(better: Better) -> Option<&'static str> {
    match better {
        Better::Lower => Some("  less is better"),
        Better::Higher => Some("  more is better"),
        Better::Neither => None,
    }
}
