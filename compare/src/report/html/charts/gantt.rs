//! Where the time of a start goes.

use plotters::prelude::*;

use super::{
    Area, Drawn, INK, MUTED, Name, ON_PALE, PAPER, Side, color, end, median_run, pixels, share,
    style, svg, width_of, write,
};
use crate::model::{Timeline, Unit, WayId};
use crate::report::quantity::quantity;
use crate::report::text::{cut, visible};

/// A line of texts.
const LINE: i32 = 19;

/// Steps that are drawn; a hostile way may report any number of them.
const MOST: usize = 24;

/// Draws the steps of each way's median start, each on its own scale.
pub fn gantt(id: &str, timelines: &[Timeline], ways: &[WayId], width: u32) -> String {
    let runs: Vec<Timeline> =
        ways.iter().filter_map(|way| median_run(timelines, *way)).map(bounded).collect();
    let texts: Vec<_> = runs.iter().map(describe).collect();
    let name = Name { id, title: "Where the time of a start goes", description: &texts.join("; ") };
    let pixels = i32::try_from(width).unwrap_or(i32::MAX);
    let lanes: Vec<Lane> = runs.iter().map(|run| Lane::of(run, pixels)).collect();
    let height: i32 = lanes.iter().map(Lane::height).sum();
    svg((width, height.unsigned_abs().max(1)), &name, |area| {
        let mut top = 0;
        for lane in &lanes {
            lane.draw(area, top, pixels)?;
            top += lane.height();
        }
        Ok(())
    })
}

fn bounded(mut run: Timeline) -> Timeline {
    run.steps.truncate(MOST);
    run
}

/// A run in words.
fn describe(run: &Timeline) -> String {
    let steps = parts(run).into_iter().map(|part| format!("{} {}", part.name, part.took()));
    let steps: Vec<_> = steps.collect();
    format!("{}: {}", run.way.title(), steps.join(", "))
}

/// The time up to a step.
struct Part {
    name: String,
    from: f64,
    to: f64,
}

impl Part {
    fn took(&self) -> String {
        quantity(Unit::Microseconds, (self.to - self.from).max(0.0))
    }
}

/// What a run consists of: each step takes the time since the one before it.
fn parts(run: &Timeline) -> Vec<Part> {
    let mut from = 0.0;
    let parts = run.steps.iter().filter_map(|step| {
        let part = Part { name: visible(&step.name), from, to: step.at_us };
        from = step.at_us;
        // The command's start is where the clock starts.
        (step.at_us > 0.0).then_some(part)
    });
    parts.collect()
}

/// A way's part of the chart.
struct Lane {
    way: WayId,
    total: f64,
    parts: Vec<Part>,
    /// Lines of the parts' numbers, names and times.
    legend: Vec<String>,
}

impl Lane {
    fn of(run: &Timeline, width: i32) -> Self {
        let parts = parts(run);
        let mut legend: Vec<String> = Vec::new();
        for (index, part) in parts.iter().enumerate() {
            let item = format!("{} {} {}", index + 1, cut(&part.name, 34), part.took());
            match legend.last_mut() {
                Some(line) if width_of(&format!("{line} · {item}")) <= width => {
                    *line = format!("{line} · {item}");
                }
                _ => legend.push(item),
            }
        }
        Self { way: run.way, total: end(run), parts, legend }
    }

    fn height(&self) -> i32 {
        24 + 24 + LINE * i32::try_from(self.legend.len()).unwrap_or(0) + 22
    }

    fn draw(&self, area: &Area<'_>, top: i32, width: i32) -> Drawn {
        let title = self.way.title();
        write(area, title, (0, top + 10), width / 2, &style(INK, Side::Left, true))?;
        let total = quantity(Unit::Microseconds, self.total);
        write(area, &total, (width, top + 10), width / 2, &style(INK, Side::Right, true))?;
        for (index, part) in self.parts.iter().enumerate() {
            self.part(area, index, part, top + 22, width)?;
        }
        for (index, line) in (0..).zip(&self.legend) {
            let at = (0, top + 58 + LINE * index);
            write(area, line, at, width, &style(MUTED, Side::Left, false))?;
        }
        Ok(())
    }

    /// A part of the bar, with its number where there's room for it.
    fn part(&self, area: &Area<'_>, index: usize, part: &Part, top: i32, width: i32) -> Drawn {
        let place = |at: f64| pixels(share(at, self.total) * f64::from(width));
        let (from, to) = (place(part.from), place(part.to));
        let shade = if index.is_multiple_of(2) { 1.0 } else { 0.72 };
        let fill = color(self.way).mix(shade).filled();
        // A gap of a pixel shows where one part ends, in print too.
        area.draw(&Rectangle::new([(from, top), ((to - 1).max(from + 1), top + 22)], fill))?;
        let number = (index + 1).to_string();
        if to - from > width_of(&number) + 4 {
            let at = (from.midpoint(to), top + 11);
            let pale = shade < 1.0 || self.way == WayId::FullVm;
            let color = if pale { ON_PALE } else { PAPER };
            write(area, &number, at, 30, &style(color, Side::Middle, true))?;
        }
        Ok(())
    }
}
