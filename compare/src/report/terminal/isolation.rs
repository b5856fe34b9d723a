//! What each way isolates, in words.

use super::Table;
use super::style::Style;
use crate::model::{Aspect, Observation, Verdict, WayId, Workload};
use crate::report::text::{pad, visible, wrap_to};

impl Table<'_> {
    /// Draws the matrix.
    pub(super) fn isolation(&mut self) {
        let report = self.report;
        if report.isolation.is_empty() {
            return;
        }
        // What was measured of it stands right above.
        if !report.rows.iter().any(|row| row.workload == Workload::Isolation) {
            self.group(Workload::Isolation.name());
        }
        for aspect in &report.isolation {
            self.aspect(aspect);
        }
        self.lines.push(String::new());
        self.paragraph(
            "own: the instance has one of its own. shared: it has the host's. refused: tried, in \
             vain. contained: done, and nobody outside noticed. REACHED: done, and the host or a \
             neighbour noticed, or has the same thing that was changed. unclear: not found out.",
            0,
        );
    }

    fn aspect(&mut self, aspect: &Aspect) {
        let ways: Vec<WayId> = self.report.ways.iter().map(|way| way.id).collect();
        let cells: Vec<(Verdict, Vec<String>)> =
            ways.iter().map(|way| self.observation(aspect, *way)).collect();
        let label = wrap_to(&visible(&aspect.title), self.columns.label, 3);
        let height = cells.iter().map(|cell| cell.1.len()).chain([label.len()]).max().unwrap_or(0);
        for index in 0..height {
            let mut line = pad(label.get(index).map_or("", String::as_str), self.columns.label);
            for (verdict, texts) in &cells {
                let text = pad(texts.get(index).map_or("", String::as_str), self.columns.each);
                line.push(' ');
                line.push_str(&match index {
                    0 => self.style.verdict(*verdict, &text),
                    _ => Style::dim(&self.style, &text),
                });
            }
            self.lines.push(line);
        }
    }

    /// The verdict, then what was seen.
    fn observation(&mut self, aspect: &Aspect, way: WayId) -> (Verdict, Vec<String>) {
        let seen = aspect.observations.iter().find(|seen| seen.way == way);
        let Some(Observation { value, verdict, neighbours, .. }) = seen else {
            return (Verdict::Unclear, Vec::new());
        };
        let word = match verdict {
            Verdict::Reached => {
                let what = neighbours.as_deref().unwrap_or(value);
                format!("REACHED{}", self.footnote(&format!("{}: {what}", aspect.title)))
            }
            verdict => verdict.name().to_owned(),
        };
        let mut lines = vec![word];
        lines.extend(wrap_to(&visible(value), self.columns.each, 2));
        (*verdict, lines)
    }
}
