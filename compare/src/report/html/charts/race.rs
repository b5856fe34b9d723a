//! The race of the starts: each way's bar grows as its recorded start did.
//!
//! What is drawn is its end, which is all that those see who don't run its script or want nothing to
//! move. The script finds the times in `data-` attributes.

use maud::{Markup, html};

use super::{Name, end, fill, head, median_run, share};
use crate::model::{Step, Timeline, Unit, WayId};
use crate::report::quantity::{quantity, times};
use crate::report::text::{cut, visible};

/// The height of a way's part.
const LANE: u32 = 58;
/// How much longer than the last bar the chart is.
const ROOM: f64 = 1.08;
/// Steps that are drawn; a hostile way may report any number of them.
const MOST: usize = 24;

/// Draws the race of each way's median start.
pub fn race(id: &str, timelines: &[Timeline], ways: &[WayId], width: u32) -> String {
    let runs: Vec<Timeline> = ways.iter().filter_map(|way| median_run(timelines, *way)).collect();
    let texts: Vec<_> = runs
        .iter()
        .map(|run| format!("{}: {}", run.way.title(), quantity(Unit::Microseconds, end(run))))
        .collect();
    let name = Name { id, title: "The race of the starts", description: &texts.join("; ") };
    let (scale, slowest) = scales(&runs);
    let count = u32::try_from(runs.len()).unwrap_or(0);
    let body = html! {
        g data-race data-width=(width) data-scale=(scale) data-slowest=(slowest) {
            @for (index, run) in (0..).zip(&runs) {
                (lane(run, index * LANE, width, scale))
            }
            line class="axis" x1="0" x2=(width) y1=(count * LANE + 2) y2=(count * LANE + 2) {}
            text class="muted" x="0" y=(count * LANE + 18) { "0" }
            text class="muted" x=(width) y=(count * LANE + 18) text-anchor="end" data-axis {
                (quantity(Unit::Microseconds, scale))
            }
        }
    };
    format!(
        "{}{}</svg>\n",
        head("chart race", (width, count * LANE + 24), &name),
        body.into_string()
    )
}

/// What the width stands for, in microseconds: for those that can be seen beside each other, and for
/// the slowest of all. There's a little room behind the last one.
fn scales(runs: &[Timeline]) -> (f64, f64) {
    let ends: Vec<f64> = runs.iter().map(end).collect();
    let slowest = ends.iter().copied().fold(1.0, f64::max);
    (fill(ends).max(1.0) * ROOM, slowest * ROOM)
}

/// A way's part: its name, when it was ready, its bar, and a line for each step.
fn lane(run: &Timeline, top: u32, width: u32, scale: f64) -> Markup {
    let end = end(run);
    let place = |at: f64| format!("{:.1}", share(at, scale) * f64::from(width));
    let beyond = end > scale;
    let last = run.steps.last().map_or("", |step| &step.name);
    let ready = format!("{} after {}", cut(&visible(last), 24), quantity(Unit::Microseconds, end));
    let far = format!(", {} this width", times(end / scale));
    html! {
        g class=(run.way.name()) data-lane data-end=(end) {
            text class="strong" x="0" y=(top + 16) { (run.way.title()) }
            text x=(width) y=(top + 16) text-anchor="end" data-label data-text=(ready) {
                (ready) @if beyond && width > 500 { (far) }
            }
            rect class="track" x="0" y=(top + 24) width=(width) height="20" rx="3" {}
            rect class="bar" x="0" y=(top + 24) width=(place(end)) height="20" rx="3" data-bar {}
            @for step in run.steps.iter().take(MOST) {
                @if step.at_us > 0.0 && step.at_us < end {
                    (line(step, top, &place(step.at_us), step.at_us < scale))
                }
            }
            path class="beyond" data-beyond visibility=(if beyond { "visible" } else { "hidden" })
                d=(format!("M{} {}l7 5l-7 5", width.saturating_sub(16), top + 29)) {}
        }
    }
}

/// A line across a bar, at what was reached on the way.
fn line(step: &Step, top: u32, x: &str, seen: bool) -> Markup {
    let name = cut(&visible(&step.name), 24);
    html! {
        line class="step" data-step=(step.at_us) data-name=(name) x1=(x) x2=(x)
            y1=(top + 24) y2=(top + 44) visibility=(if seen { "visible" } else { "hidden" }) {
            title { (name) }
        }
    }
}
