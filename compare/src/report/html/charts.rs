//! Charts, as SVG.
//!
//! Each says by a title and a description what it shows. They are drawn in the colours of the light
//! scheme; [`STYLE`] replaces these by custom properties of CSS, so that a page has them in its own
//! scheme. Nothing is said by colours alone: each mark has its name beside it.

mod bars;
mod curves;
mod gantt;
mod race;

use maud::html;
use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

pub use self::bars::bars;
pub use self::curves::{Measure, curves};
pub use self::gantt::gantt;
pub use self::race::race;
use crate::model::{Timeline, WayId};
use crate::report::text::cut;

/// The style sheet of the charts, for every page that shows some.
pub const STYLE: &str = include_str!("../../../../resources/reports/charts.css");

/// The script that runs races: for pages with controls as [`super::page`] has them.
pub const RACE_SCRIPT: &str = include_str!("../../../../resources/reports/race.js");

/// Texts.
const INK: RGBColor = RGBColor(0x1b, 0x1f, 0x24);
/// Texts of less weight.
const MUTED: RGBColor = RGBColor(0x5b, 0x64, 0x70);
/// Lines behind the data.
const LINE: RGBColor = RGBColor(0xdd, 0xe1, 0xe6);
/// What a bar would fill if it were as long as the longest.
const TRACK: RGBColor = RGBColor(0xee, 0xf0, 0xf3);
/// Texts on a bar.
const PAPER: RGBColor = RGBColor(0xff, 0xff, 0xfe);

/// Texts on a pale bar.
const ON_PALE: RGBColor = RGBColor(0x1b, 0x1f, 0x25);

/// A way whose numbers are so many times the next one's is out of scale: beside it, the others would
/// be slivers.
const OUT_OF_SCALE: f64 = 6.0;

/// The size of texts, in pixels.
const SIZE: f64 = 13.0;
/// How wide a character is, by its size, in the widest of the usual fonts.
const ASPECT: f64 = 0.62;

/// A way's colour: of those that Okabe and Ito chose so that everybody can tell them apart.
const fn color(way: WayId) -> RGBColor {
    match way {
        WayId::Container => RGBColor(0xd5, 0x5e, 0x00),
        WayId::MicrovmCold => RGBColor(0x00, 0x72, 0xb2),
        WayId::MicrovmWarm => RGBColor(0x00, 0x9e, 0x73),
        WayId::FullVm => RGBColor(0xcc, 0x79, 0xa7),
    }
}

/// Where a chart is drawn.
type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
/// Whether it could be drawn; into memory it always can.
type Drawn = Result<(), Box<dyn std::error::Error>>;

/// What a chart is, for those who don't see it.
struct Name<'a> {
    /// A name in the page, of letters, digits and dashes.
    id: &'a str,
    title: &'a str,
    description: &'a str,
}

/// Draws a chart. What can't be drawn is left out of it; its description says it all the same.
fn svg(size: (u32, u32), name: &Name<'_>, draw: impl FnOnce(&Area<'_>) -> Drawn) -> String {
    let mut drawn = String::new();
    {
        let area = SVGBackend::with_string(&mut drawn, size).into_drawing_area();
        let _ = draw(&area);
        let _ = area.present();
    }
    let body = drawn.split_once('>').map_or("", |(_, body)| body);
    format!("{}{body}", head("chart", size, name))
}

/// The beginning of a chart, with its name.
fn head(class: &str, (width, height): (u32, u32), name: &Name<'_>) -> String {
    let id: String =
        name.id.chars().map(|it| if it.is_ascii_alphanumeric() { it } else { '-' }).collect();
    let texts = html! {
        title id=(format!("{id}-title")) { (name.title) }
        desc id=(format!("{id}-text")) { (name.description) }
    };
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" class=\"{class}\" role=\"img\" \
         aria-labelledby=\"{id}-title {id}-text\" width=\"{width}\" height=\"{height}\" \
         viewBox=\"0 0 {width} {height}\">{}",
        texts.into_string()
    )
}

/// How a text stands to its place.
#[derive(Clone, Copy)]
enum Side {
    Left,
    Middle,
    Right,
}

/// A text's style; plotters takes a font's size to be 1.24 times what SVG takes.
fn style(color: RGBColor, side: Side, bold: bool) -> TextStyle<'static> {
    let weight = if bold { FontStyle::Bold } else { FontStyle::Normal };
    let horizontal = match side {
        Side::Left => HPos::Left,
        Side::Middle => HPos::Center,
        Side::Right => HPos::Right,
    };
    let font = FontDesc::new(FontFamily::SansSerif, SIZE * 1.24, weight);
    TextStyle {
        color: color.to_backend_color(),
        ..TextStyle::from(font).pos(Pos::new(horizontal, VPos::Center))
    }
}

/// Writes a text of at most so many pixels.
fn write(area: &Area<'_>, text: &str, at: (i32, i32), width: i32, style: &TextStyle<'_>) -> Drawn {
    area.draw_text(&fitting(text, width), style, at)?;
    Ok(())
}

/// Cuts a text to about so many pixels.
fn fitting(text: &str, width: i32) -> String {
    cut(text, pixels(f64::from(width) / (SIZE * ASPECT)).try_into().unwrap_or(0))
}

/// About how wide a text is, in pixels.
fn width_of(text: &str) -> i32 {
    pixels(crate::report::text::columns(text) as f64 * SIZE * ASPECT)
}

/// A place in pixels. Numbers that are none are at 0.
#[expect(clippy::cast_possible_truncation, reason = "it saturates")]
fn pixels(place: f64) -> i32 {
    place.round() as i32
}

/// A number as a part of the largest: between 0 and 1.
fn share(value: f64, largest: f64) -> f64 {
    let share = value / largest;
    if share.is_finite() { share.clamp(0.0, 1.0) } else { 0.0 }
}

/// The number that fills a chart's width: the largest, or the one next to it if that's far less.
fn fill(mut largest_of_each: Vec<f64>) -> f64 {
    largest_of_each.sort_by(f64::total_cmp);
    match largest_of_each[..] {
        [.., next, last] if next > 0.0 && last > next * OUT_OF_SCALE => next,
        [.., last] => last,
        [] => 0.0,
    }
}

/// The start of a way that took the median time; of an even number the faster of the two.
/// Nothing that came after the workload was ready is in it.
fn median_run(timelines: &[Timeline], way: WayId) -> Option<Timeline> {
    let mut runs: Vec<Timeline> =
        timelines.iter().filter(|run| run.way == way).map(started).collect();
    runs.retain(|run| !run.steps.is_empty());
    runs.sort_by(|one, other| end(one).total_cmp(&end(other)));
    let middle = runs.len().checked_sub(1)? / 2;
    Some(runs.swap_remove(middle))
}

/// A start without what came after it.
fn started(run: &Timeline) -> Timeline {
    let mut run = run.clone();
    let last = ["ready", "first byte"]
        .iter()
        .find_map(|name| run.steps.iter().rposition(|step| step.name == *name));
    if let Some(last) = last {
        run.steps.truncate(last + 1);
    }
    run
}

/// When a start was over.
fn end(run: &Timeline) -> f64 {
    run.steps.last().map_or(0.0, |step| step.at_us)
}

#[cfg(test)]
mod tests;
