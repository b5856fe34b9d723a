//! How it was measured, how to repeat it, and the raw data.

use maud::{Markup, html};

use super::{mark, shown};
use crate::model::{Report, Unit};
use crate::report::quantity::{counted, quantity};
use crate::statistics::ENOUGH;

pub(super) fn section(report: &Report) -> Markup {
    html! {
        section id="method" aria-labelledby="method-heading" {
            h2 id="method-heading" { "How it was measured" }
            div class="columns" {
                div class="card" { h3 { "Where" } (facts(&host(report))) }
                div class="card" { h3 { "What" } (facts(&image(report))) }
                div class="card" {
                    h3 { "By what" }
                    dl class="facts" {
                        @for way in &report.ways {
                            div { dt { (mark(way.id)) (way.id.title()) } dd { (shown(&way.detail)) } }
                        }
                    }
                }
            }
            (statistics(report))
            div class="card" {
                h3 { "Once more" }
                pre tabindex="0" aria-label="The command that repeats it" { code { (command(&report.command_line)) } }
                p data-download hidden {
                    button type="button" data-json { "Download the raw data (JSON)" }
                    span class="hint" { " vmctl compare --diff compares two of them" }
                }
            }
        }
    }
}

fn facts(facts: &[(&str, String)]) -> Markup {
    html! {
        dl class="facts" {
            @for (name, value) in facts { div { dt { (name) } dd { (value) } } }
        }
    }
}

fn host(report: &Report) -> Vec<(&'static str, String)> {
    let host = &report.host;
    let or_none = |text: &Option<String>| text.as_deref().map_or_else(|| "none".to_owned(), shown);
    let kind = match (host.counts_instructions, host.emulated) {
        (true, _) => "emulated, its clock counts instructions",
        (false, true) => "emulated",
        (false, false) => "not emulated",
    };
    vec![
        ("Processor", format!("{}, {}", shown(&host.cpu_model), counted(host.cpus, "CPU"))),
        ("Memory", quantity(Unit::Bytes, host.memory_bytes as f64)),
        ("Kernel", format!("{} ({})", shown(&host.kernel), shown(&host.architecture))),
        ("KVM", or_none(&host.kvm_module)),
        ("Frequency governor", or_none(&host.cpu_governor)),
        ("Load at the beginning", format!("{:.2}", host.load)),
        ("The host itself", kind.to_owned()),
        ("vmctl", shown(&host.vmctl_version)),
    ]
}

fn image(report: &Report) -> Vec<(&'static str, String)> {
    let (image, settings) = (&report.image, &report.settings);
    let mut facts = vec![
        ("Image", shown(&image.reference)),
        ("Its identifier", shown(&image.id)),
        ("Layers", image.layers.to_string()),
        ("Over the wire", quantity(Unit::Bytes, image.wire_bytes as f64)),
        ("On disk", quantity(Unit::Bytes, image.disk_bytes as f64)),
        (
            "Each instance",
            format!("{}, {} MiB", counted(settings.cpus, "CPU"), settings.memory_mib),
        ),
        ("From", shown(&report.started_at)),
        ("To", shown(&report.finished_at)),
    ];
    if !settings.command.is_empty() {
        facts.insert(1, ("Command", command(&settings.command)));
    }
    facts
}

/// The statistics, in plain words.
fn statistics(report: &Report) -> Markup {
    let settings = &report.settings;
    html! {
        div class="card prose" {
            h3 { "What the figures mean" }
            p {
                "Each figure was taken " strong { (counted(settings.runs, "time")) } ", after "
                (counted(settings.warm_ups, "run")) " that didn’t count. The ways took turns, so that what "
                "disturbs the host disturbs them all alike. Sizes, density and isolation were found once, one "
                "way after the other."
            }
            p {
                "A figure is the " strong { "median" } ": half of the samples are below it, half above. "
                @if (settings.runs as usize) < ENOUGH {
                    "Beside it is the samples’ " strong { "range" } ", from the least to the largest: from fewer "
                    "than five samples it can’t be told how far the median is to be trusted. Don’t make much of "
                    "small differences; " code { "--runs" } " takes more."
                } @else {
                    "Its " strong { "95 % interval" } " is the bootstrap’s: samples were drawn anew from the "
                    "samples, 2,000 times, and 95 % of these medians are within it. If two intervals don’t "
                    "overlap, the difference is hardly chance; if they do, don’t make much of it."
                }
            }
            p {
                "An " strong { "outlier" } " is farther from the middle half of the samples than one and a half "
                "times that half is wide. Outliers are shown, and they count: what happens on a real host now "
                "and then happens to your users too."
            }
        }
    }
}

/// A command, as a shell takes it.
fn command(words: &[String]) -> String {
    let plain = |word: &str| {
        !word.is_empty()
            && word.chars().all(|it| it.is_ascii_alphanumeric() || "-_./:=@%+,".contains(it))
    };
    let quoted = words.iter().map(|word| {
        let word = shown(word);
        if plain(&word) { word } else { format!("'{}'", word.replace('\'', "'\\''")) }
    });
    quoted.collect::<Vec<_>>().join(" ")
}
