//! The top of the page: what was compared, and what came out, in three sentences with figures.

use maud::{Markup, html};

use super::findings::badge;
use super::{mark, shown};
use crate::model::{Host, Report, Row, Unit, Verdict, WayId};
use crate::report::quantity::{counted, quantity};

pub(super) fn header(report: &Report) -> Markup {
    // A full VM runs its own disk.
    let of_image = report.ways.iter().filter(|way| way.id != WayId::FullVm).count();
    html! {
        header {
            p class="eyebrow" { "vmctl compare" }
            h1 { (shown(&report.image.reference)) }
            p class="lead" {
                @if of_image == 0 {
                    "A full VM: measured on one host."
                } @else {
                    "The same image, the same bytes, " (in_ways(of_image))
                    @if of_image < report.ways.len() { ", and a full VM that does the same work" }
                    ": measured side by side on one host."
                }
            }
            p class="where" { (place(&report.host)) " · " (shown(&report.started_at)) }
        }
    }
}

fn in_ways(count: usize) -> String {
    match count {
        1 => "in one way".to_owned(),
        2 => "in two ways".to_owned(),
        3 => "in three ways".to_owned(),
        4 => "in four ways".to_owned(),
        more => format!("in {more} ways"),
    }
}

/// The host in few words.
fn place(host: &Host) -> String {
    let memory = quantity(Unit::Bytes, host.memory_bytes as f64);
    format!(
        "{}, {}, {memory}, Linux {}",
        shown(&host.cpu_model),
        counted(host.cpus, "CPU"),
        shown(&host.kernel)
    )
}

/// Why a reader should be careful, before any figure.
pub(super) fn caveats(report: &Report) -> Markup {
    let failures: Vec<_> =
        report.ways.iter().filter_map(|way| Some((way.id, way.failure.as_ref()?))).collect();
    if report.notes.is_empty() && failures.is_empty() && !report.interrupted {
        return html! {};
    }
    html! {
        aside class="notes" aria-label="Before you read the figures" {
            h2 { "Before you read the figures" }
            ul {
                @if report.interrupted { li { "The comparison was interrupted: what isn't here was not measured." } }
                @for (way, reason) in failures {
                    li { strong { (way.title()) } " failed: " (shown(reason)) }
                }
                @for note in &report.notes { li { (shown(note)) } }
            }
        }
    }
}

/// The lecture's idea, with this report's figures.
pub(super) fn idea(report: &Report) -> Markup {
    let usable = |id: &WayId| report.ways.iter().any(|way| way.id == *id && way.failure.is_none());
    let taken = |ways: &[WayId]| ways.iter().copied().find(usable);
    html! {
        section class="idea" aria-label="In short" {
            @if let Some(way) = taken(&[WayId::FullVm]) {
                (card(report, way, "A virtual machine", full_vm(report)))
            }
            @if let Some(way) = taken(&[WayId::Container]) {
                (card(report, way, "A container", "starts fast, and shares the host’s kernel."))
            }
            @if let Some(way) = taken(&[WayId::MicrovmWarm, WayId::MicrovmCold]) {
                (card(report, way, "A microVM", microvm(report, way)))
            }
        }
    }
}

/// What is said of a full VM: no more than was seen.
fn full_vm(report: &Report) -> &'static str {
    let seen = report.isolation.iter().flat_map(|aspect| &aspect.observations);
    let of_it: Vec<_> = seen.filter(|seen| seen.way == WayId::FullVm).collect();
    let lost = |verdict| matches!(verdict, Verdict::Shared | Verdict::Reached);
    if of_it.is_empty() || of_it.iter().any(|seen| lost(seen.verdict)) {
        return "has a kernel of its own, and costs the most.";
    }
    "isolates completely, and costs the most."
}

/// What is said of a microVM: no more than was measured.
fn microvm(report: &Report, way: WayId) -> &'static str {
    let row = |way| starts(report).iter().find_map(|(_, id)| report.row(id)?.figure(way));
    let median = |way| Some(row(way)?.median);
    let (own, container, full) = (median(way), median(WayId::Container), median(WayId::FullVm));
    match (own, container, full) {
        (Some(own), Some(container), _) if own <= container * 2.0 => {
            "has both good halves: a kernel of its own, and a container’s pace."
        }
        (Some(own), _, Some(full)) if own * 4.0 <= full => {
            "has a kernel of its own, in a fraction of a full machine’s time."
        }
        _ => "has a kernel of its own.",
    }
}

/// What a way takes to start: rows, the first of which that it has is shown. Where elapsed times mean
/// little, CPU time.
fn starts(report: &Report) -> &'static [(&'static str, &'static str)] {
    if report.host.emulated {
        return &[
            ("of CPU time to its first byte", "start.first-byte.cpu"),
            ("of CPU time until it’s ready", "start.ready.cpu"),
        ];
    }
    &[("to its first byte", "start.first-byte"), ("until it’s ready", "start.ready")]
}

/// What it takes of memory.
const MEMORY: [(&str, &str); 2] = [("of memory", "memory.pss"), ("of memory", "memory.host")];

fn card(report: &Report, way: WayId, subject: &str, predicate: &str) -> Markup {
    html! {
        article class={ "card idea-card " (way.name()) } {
            h2 { (mark(way)) (subject) }
            p class="claim" { (predicate) }
            dl {
                @for candidates in [starts(report), &MEMORY[..]] {
                    @if let Some((label, value)) = candidates.iter().find_map(|(label, id)| {
                        Some((label, value(report.row(id)?, way)?))
                    }) {
                        div { dt { (label) } dd { (value) } }
                    }
                }
            }
            (kernel(report, way))
        }
    }
}

fn value(row: &Row, way: WayId) -> Option<String> {
    Some(quantity(row.unit, row.figure(way)?.median))
}

/// Whose kernel it is, and in which way that was found.
fn kernel(report: &Report, way: WayId) -> Markup {
    let aspect = report.isolation.iter().find(|aspect| aspect.id == "kernel-release");
    let mut seen = aspect.iter().flat_map(|aspect| &aspect.observations);
    let seen = seen.find(|seen| seen.way == way);
    html! {
        p class="way" {
            @if let Some(seen) = seen {
                (badge(seen.verdict)) " kernel " (shown(&seen.value))
            }
            span { (way.title()) }
        }
    }
}
