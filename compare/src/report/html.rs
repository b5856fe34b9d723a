//! A report as one page that needs nothing else: no network, no other file.
//!
//! All texts of the report are an attacker's, so each goes through [`visible`], and through the
//! template's escapes or the chart's. Should one get through all the same, the page's policy runs no
//! script and applies no style but the two whose hashes it has, and asks for nothing from anywhere.

pub mod charts;
mod findings;
mod method;
mod sections;
mod summary;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use maud::{DOCTYPE, Markup, PreEscaped, html};
use sha2::{Digest, Sha256};

use super::text::visible;
use crate::model::{Report, WayId};

/// The page's style sheet.
const STYLE: &str = include_str!("../../../resources/reports/page.css");
/// The page's script, without the race's.
const SCRIPT: &str = include_str!("../../../resources/reports/page.js");

/// Writes the page.
pub fn page(report: &Report) -> String {
    let style = format!("{}{STYLE}", charts::STYLE);
    let script = format!("{}{SCRIPT}", charts::RACE_SCRIPT);
    let title =
        format!("{}: container and virtual machine, measured", shown(&report.image.reference));
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta http-equiv="Content-Security-Policy" content=(policy(&style, &script));
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="referrer" content="no-referrer";
                title { (title) }
                style { (PreEscaped(&style)) }
            }
            body {
                a class="skip" href="#measurements" { "Skip to the measurements" }
                (summary::header(report))
                main {
                    (summary::idea(report))
                    (summary::caveats(report))
                    (sections::race(report))
                    (sections::measurements(report))
                    (sections::boot(report))
                    (sections::density(report))
                    (findings::isolation(report))
                    (findings::all_rows(report))
                    (method::section(report))
                }
                footer { "Made by vmctl " (shown(&report.host.vmctl_version)) ". This page asks for nothing from any network." }
                script type="application/json" id="report" { (PreEscaped(embedded(report))) }
                script { (PreEscaped(&script)) }
            }
        }
    }
    .into_string()
}

/// What the page may do: be styled by its own style sheet, and run its own script.
fn policy(style: &str, script: &str) -> String {
    format!(
        "default-src 'none'; script-src {}; style-src {}; base-uri 'none'; form-action 'none'",
        source(script),
        source(style)
    )
}

/// A text by its hash.
fn source(text: &str) -> String {
    format!("'sha256-{}'", STANDARD.encode(Sha256::digest(text)))
}

/// The report as JSON in which nothing ends the element that it stands in.
fn embedded(report: &Report) -> String {
    // A report has no map with keys that aren't texts, and numbers that are none become null.
    let json = serde_json::to_string(report).unwrap_or_default();
    let mut safe = String::with_capacity(json.len());
    for character in json.chars() {
        match character {
            '<' => safe.push_str("\\u003c"),
            '>' => safe.push_str("\\u003e"),
            '&' => safe.push_str("\\u0026"),
            '\u{2028}' => safe.push_str("\\u2028"),
            '\u{2029}' => safe.push_str("\\u2029"),
            _ => safe.push(character),
        }
    }
    safe
}

/// Somebody else's text, without what a browser obeys; the template escapes the rest.
fn shown(text: &str) -> String {
    visible(text)
}

/// The ways, in the report's order.
fn ways(report: &Report) -> Vec<WayId> {
    report.ways.iter().map(|way| way.id).collect()
}

/// A way's mark, which has its colour and its form.
fn mark(way: WayId) -> Markup {
    html! { span class={ "mark " (way.name()) } aria-hidden="true" {} }
}

#[cfg(test)]
mod tests;
