//! The parts of the page that are tables.

use maud::{Markup, html};

use super::{mark, shown, ways};
use crate::model::{Aspect, Outcome, Report, Row, Verdict, WayId, Workload};
use crate::report::quantity::{interval, quantity, spread};

/// A verdict's word; only what reached the host is in capitals.
fn word(verdict: Verdict) -> String {
    match verdict {
        Verdict::Reached => "REACHED".to_owned(),
        verdict => verdict.name().to_owned(),
    }
}

/// What a verdict means.
const MEANINGS: [(Verdict, &str); 6] = [
    (Verdict::Own, "the instance has one of its own"),
    (Verdict::Contained, "it was done, and nobody outside noticed"),
    (Verdict::Refused, "it was tried, in vain"),
    (Verdict::Shared, "the instance and the host have the same"),
    (
        Verdict::Reached,
        "it was done, and the host or a neighbour noticed, or has the same thing that was changed",
    ),
    (Verdict::Unclear, "it was not found out, or is neither"),
];

/// A verdict, with a form for each meaning.
pub(super) fn badge(verdict: Verdict) -> Markup {
    html! { span class={ "badge " (verdict.name()) } { (word(verdict)) } }
}

/// The isolation matrix.
pub(super) fn isolation(report: &Report) -> Markup {
    if report.isolation.is_empty() {
        return html! {};
    }
    let ways = ways(report);
    html! {
        section id="isolation" aria-labelledby="isolation-heading" {
            h2 id="isolation-heading" { "What each one isolates" }
            p class="about" { "Tried out in running instances, and looked at from the host and from a neighbour." }
            div class="card scroll" tabindex="0" role="region" aria-label="Isolation, a table that scrolls" {
                table class="matrix" {
                    caption class="unseen" { "What each way isolates from the host" }
                    thead { (heads("Aspect", &ways)) }
                    tbody { @for aspect in &report.isolation { (line(aspect, &ways)) } }
                }
            }
            dl class="meanings" {
                @for (verdict, meaning) in MEANINGS { div { dt { (badge(verdict)) } dd { (meaning) } } }
            }
        }
    }
}

/// The head of a table with a column for each way.
fn heads(first: &str, ways: &[WayId]) -> Markup {
    html! {
        tr {
            th scope="col" { (first) }
            @for way in ways { th scope="col" { (mark(*way)) (way.title()) } }
        }
    }
}

fn line(aspect: &Aspect, ways: &[WayId]) -> Markup {
    html! {
        tr {
            th scope="row" {
                (shown(&aspect.title))
                span class="method" {
                    (shown(&aspect.method))
                    @if let Some(host) = aspect.host.as_ref().filter(|host| !host.is_empty()) {
                        "; the host: " (shown(host))
                    }
                }
            }
            @for way in ways {
                td {
                    @if let Some(seen) = aspect.observations.iter().find(|seen| seen.way == *way) {
                        (badge(seen.verdict))
                        span class="seen" { (shown(&seen.value)) }
                        @if let Some(neighbours) = &seen.neighbours {
                            span class="neighbours" { "Outside: " (shown(neighbours)) }
                        }
                    } @else { "–" }
                }
            }
        }
    }
}

/// All rows, as a table.
pub(super) fn all_rows(report: &Report) -> Markup {
    let ways = ways(report);
    html! {
        section id="rows" aria-labelledby="rows-heading" {
            h2 id="rows-heading" { "All rows" }
            div class="card scroll" tabindex="0" role="region" aria-label="All rows, a table that scrolls" {
                table class="rows" {
                    caption {
                        "Medians with their " (spread(report.settings.runs as usize))
                        "s; in brackets, the number of outliers"
                    }
                    thead { (heads("Measurement", &ways)) }
                    @for workload in Workload::ALL {
                        (group(report, workload, &ways))
                    }
                }
            }
        }
    }
}

fn group(report: &Report, workload: Workload, ways: &[WayId]) -> Markup {
    let rows: Vec<&Row> = report.rows.iter().filter(|row| row.workload == workload).collect();
    html! {
        @if !rows.is_empty() {
            tbody {
                tr class="group" {
                    th scope="rowgroup" colspan=(ways.len() + 1) { (super::sections::title(workload)) }
                }
                @for row in rows {
                    tr {
                        th scope="row" { (shown(&row.title)) }
                        @for way in ways { td { (cell(row, *way)) } }
                    }
                }
            }
        }
    }
}

fn cell(row: &Row, way: WayId) -> Markup {
    html! {
        @match row.cell(way) {
            None => { span class="muted" { "not measured" } }
            Some(Outcome::Measured(figure)) => {
                strong { (quantity(row.unit, figure.median)) }
                @if let Some(interval) = interval(row.unit, figure, usize::MAX) { " " span class="muted" { (interval) } }
                @if !figure.outliers.is_empty() { " " span class="muted" { "(" (figure.outliers.len()) ")" } }
            }
            Some(Outcome::Said { text }) => (shown(text)),
            Some(Outcome::Failed { reason }) => { strong { "failed" } ": " (shown(reason)) }
            Some(Outcome::NotApplicable { reason }) => { "– " span class="muted" { (shown(reason)) } }
        }
    }
}
