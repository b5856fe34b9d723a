//! The parts of the page with charts.

use maud::{Markup, PreEscaped, html};

use super::charts::{Measure, bars, curves, gantt, race as race_chart};
use super::{mark, shown, ways};
use crate::model::{Better, Report, Row, Unit, Workload};
use crate::report::quantity::{quantity, spread};

/// The widths of charts that fill the page: a screen's and a telephone's.
const WIDE: u32 = 1038;
const NARROW: u32 = 312;
/// Two beside each other.
const HALF: u32 = 490;

/// A chart in both widths, of which one is shown.
fn both(id: &str, (wide, narrow): (u32, u32), chart: impl Fn(&str, u32) -> String) -> Markup {
    html! {
        div class="wide" { (PreEscaped(chart(&format!("{id}-wide"), wide))) }
        div class="narrow" { (PreEscaped(chart(&format!("{id}-narrow"), narrow))) }
    }
}

/// The start-up race.
pub(super) fn race(report: &Report) -> Markup {
    if report.timelines.is_empty() {
        return html! {};
    }
    let ways = ways(report);
    html! {
        section id="race" aria-labelledby="race-heading" {
            h2 id="race-heading" { "The race" }
            p class="about" {
                "Each bar grows as that way’s start did: the recorded run with the median time. "
                "Lines across a bar are the steps on its way."
            }
            div class="card" {
                div class="controls" data-controls hidden {
                    button type="button" data-play { "Play" }
                    button type="button" data-restart { "From the start" }
                    fieldset {
                        legend class="unseen" { "Scale" }
                        label { input type="radio" name="scale" value="fast" checked; " the fast ones" }
                        label { input type="radio" name="scale" value="all"; " all of them" }
                    }
                    output data-clock aria-label="Time" {}
                    span class="pace" data-pace {}
                }
                (both("race-chart", (WIDE, NARROW), |id, width| race_chart(id, &report.timelines, &ways, width)))
            }
        }
    }
}

/// A chart for each row that could have numbers.
pub(super) fn measurements(report: &Report) -> Markup {
    let ways = ways(report);
    let groups = Workload::ALL.map(|workload| {
        let rows: Vec<&Row> = report.rows.iter().filter(|row| row.workload == workload).collect();
        (workload, rows)
    });
    let charted = |row: &&&Row| row.unit != Unit::Text && row.applies();
    let mut number = 0;
    html! {
        section id="measurements" aria-labelledby="measurements-heading" {
            h2 id="measurements-heading" { "What was measured" }
            p class="about" {
                "Bars are medians, the line across a bar’s end is the "
                (spread(report.settings.runs as usize))
                ", each dot is a sample, and rings are outliers, which count. × is how many times the first way’s "
                "it is. A bar that would make slivers of the others is broken off."
            }
            @for (workload, rows) in &groups {
                @if rows.iter().any(|row| charted(&row)) {
                    h3 { (title(*workload)) }
                    div class="grid" {
                        @for row in rows.iter().filter(charted) {
                            @let id = { number += 1; format!("bars-{number}") };
                            figure class="card" {
                                figcaption {
                                    strong { (shown(&row.title)) }
                                    @if let Some(hint) = hint(row.better) { span class="hint" { (hint) } }
                                }
                                (PreEscaped(bars(&id, row, &ways)))
                                @if let Some(note) = &row.note { p class="note" { (shown(note)) } }
                            }
                        }
                    }
                }
            }
        }
    }
}

/// A workload, for people.
pub(super) const fn title(workload: Workload) -> &'static str {
    match workload {
        Workload::Start => "Starting and stopping",
        Workload::Cpu => "Processor",
        Workload::Memory => "Memory’s pace",
        Workload::Disk => "Disk",
        Workload::Net => "Network",
        Workload::Syscall => "System calls",
        Workload::Density => "Memory and density",
        Workload::Web => "Web server",
        Workload::Isolation => "Isolation",
    }
}

/// Which numbers are good, in few words.
const fn hint(better: Better) -> Option<&'static str> {
    match better {
        Better::Lower => Some("less is better"),
        Better::Higher => Some("more is better"),
        Better::Neither => None,
    }
}

/// Where the time of a start goes.
pub(super) fn boot(report: &Report) -> Markup {
    if report.timelines.is_empty() {
        return html! {};
    }
    let ways = ways(report);
    html! {
        section id="boot" aria-labelledby="boot-heading" {
            h2 id="boot-heading" { "Where the time goes" }
            p class="about" {
                "The same starts, step by step. Each bar is as long as the page, whatever its start took: "
                "compare parts with their whole, not bars with each other."
            }
            div class="card" {
                (both("boot-chart", (WIDE, NARROW), |id, width| gantt(id, &report.timelines, &ways, width)))
            }
        }
    }
}

/// Curves over the number of instances.
pub(super) fn density(report: &Report) -> Markup {
    if report.curves.is_empty() {
        return html! {};
    }
    html! {
        section id="density" aria-labelledby="density-heading" {
            h2 id="density-heading" { "As instances are added" }
            div class="halves" {
                @for (index, measure) in Measure::ALL.into_iter().enumerate() {
                    @if measure != Measure::StartCpu || has_cpu(report) {
                        figure class="card" {
                            figcaption { strong { (measure.title()) } }
                            (both(&format!("curves-{index}"), (HALF, NARROW), |id, width| {
                                curves(id, &report.curves, measure, width)
                            }))
                        }
                    }
                }
                (slopes(report))
            }
        }
    }
}

/// What another instance takes.
fn slopes(report: &Report) -> Markup {
    html! {
        div class="card" {
            h3 { "Another one takes" }
            dl class="slopes" {
                @for curve in &report.curves {
                    div {
                        dt { (mark(curve.way)) (curve.way.title()) }
                        dd {
                            @if let (Some(each), Some(per_gib)) = (curve.bytes_per_instance, curve.instances_per_gib) {
                                strong { (quantity(Unit::Bytes, each)) } ": "
                                (quantity(Unit::Count, per_gib)) " in a GiB"
                            } @else { "no slope" }
                            span class="method" { "stopped by " (shown(&curve.stopped_by)) }
                        }
                    }
                }
            }
        }
    }
}

fn has_cpu(report: &Report) -> bool {
    report.curves.iter().flat_map(|curve| &curve.points).any(|point| point.start_cpu_us.is_some())
}
