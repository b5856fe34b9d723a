//! A row of the table: a bar for each way, with the median's interval and all samples.

use plotters::prelude::*;

use super::{
    Area, Drawn, INK, MUTED, Name, PAPER, Side, TRACK, color, fill, pixels, share, style, svg,
    write,
};
use crate::model::{Figure, Outcome, Row, WayId};
use crate::report::quantity::{interval, quantity, spread, times};
use crate::report::text::visible;

/// The width, which fits a telephone's.
const WIDTH: i32 = 312;
/// Where medians end, and intervals begin after them.
const MIDDLE: i32 = 196;
/// The height of a way's part.
const LANE: i32 = 50;
/// The space at either end, for marks that stand on it.
const EDGE: i32 = 4;

/// Draws a row.
pub fn bars(id: &str, row: &Row, ways: &[WayId]) -> String {
    let title = visible(&row.title);
    let texts: Vec<_> = ways.iter().map(|way| describe(row, *way)).collect();
    let name = Name { id, title: &title, description: &texts.join("; ") };
    let height = LANE.unsigned_abs() * u32::try_from(ways.len()).unwrap_or(0);
    svg((WIDTH.unsigned_abs(), height.max(1)), &name, |area| {
        for (top, way) in (0..).map(|index| index * LANE).zip(ways) {
            lane(area, row, *way, top, ways)?;
        }
        Ok(())
    })
}

/// What a row says of a way, in words.
fn describe(row: &Row, way: WayId) -> String {
    let said = match row.cell(way) {
        None => "not measured".to_owned(),
        Some(Outcome::Measured(figure)) => {
            let low = quantity(row.unit, figure.low);
            let high = quantity(row.unit, figure.high);
            let outliers = match figure.outliers.len() {
                0 => String::new(),
                count => format!(", {count} of {} samples outliers", figure.samples.len()),
            };
            let median = quantity(row.unit, figure.median);
            match figure.samples.len() {
                1 => median,
                count => format!("{median}, {} {low} to {high}{outliers}", spread(count)),
            }
        }
        Some(Outcome::Said { text }) => visible(text),
        Some(Outcome::Failed { reason }) => format!("failed: {}", visible(reason)),
        Some(Outcome::NotApplicable { reason }) => format!("not applicable: {}", visible(reason)),
    };
    format!("{}: {said}", way.title())
}

/// The largest number of a figure that has a mark.
fn largest(figure: &Figure) -> f64 {
    figure.samples.iter().copied().chain([figure.high, figure.median]).fold(0.0, f64::max)
}

/// The number that fills the width, and from which on medians are out of scale. Two bars are always
/// drawn as they are; and outliers break no bar.
fn scale(row: &Row, ways: &[WayId]) -> Scale {
    let figures: Vec<&Figure> = ways.iter().filter_map(|way| row.figure(*way)).collect();
    let medians: Vec<f64> = figures.iter().map(|figure| figure.median).collect();
    let bound = if figures.len() > 2 { fill(medians) } else { f64::INFINITY };
    let within = figures.into_iter().filter(|figure| figure.median <= bound);
    Scale { bound, width: within.map(largest).fold(0.0, f64::max) }
}

/// See [`scale`].
#[derive(Clone, Copy)]
struct Scale {
    bound: f64,
    width: f64,
}

fn lane(area: &Area<'_>, row: &Row, way: WayId, top: i32, ways: &[WayId]) -> Drawn {
    let (ink, muted) = (style(INK, Side::Left, false), style(MUTED, Side::Right, false));
    write(area, way.title(), (0, top + 9), 130, &ink)?;
    let bar = [(EDGE, top + 20), (WIDTH - EDGE, top + 32)];
    match row.cell(way) {
        Some(Outcome::Measured(figure)) => {
            values(area, row, figure, top, ways)?;
            area.draw(&Rectangle::new(bar, TRACK.filled()))?;
            marks(area, figure, way, top, scale(row, ways))
        }
        Some(Outcome::Failed { reason }) => {
            let why = format!("failed: {}", visible(reason));
            write(area, &why, (0, top + 28), WIDTH, &style(MUTED, Side::Left, false))
        }
        Some(Outcome::NotApplicable { .. }) => write(area, "–", (WIDTH, top + 9), 20, &muted),
        Some(Outcome::Said { text }) => write(area, &visible(text), (WIDTH, top + 9), 190, &muted),
        None => write(area, "not measured", (WIDTH, top + 9), 190, &muted),
    }
}

/// The numbers, in columns: the median in bold, its interval, and how many times the first way's it
/// is.
fn values(area: &Area<'_>, row: &Row, figure: &Figure, top: i32, ways: &[WayId]) -> Drawn {
    let median = quantity(row.unit, figure.median);
    write(area, &median, (MIDDLE, top + 9), 100, &style(INK, Side::Right, true))?;
    let interval = interval(row.unit, figure, 8).unwrap_or_default();
    write(area, &interval, (MIDDLE + 6, top + 9), 78, &style(MUTED, Side::Left, false))?;
    let first = ways.iter().find_map(|way| row.figure(*way));
    if let Some(first) = first.filter(|it| it.median > 0.0 && !std::ptr::eq(*it, figure)) {
        let ratio = times(figure.median / first.median);
        write(area, &ratio, (WIDTH, top + 9), 90, &style(MUTED, Side::Right, false))?;
    }
    Ok(())
}

/// The bar, the interval as a line with ends, and a dot for each sample: a ring if it's an outlier.
fn marks(area: &Area<'_>, figure: &Figure, way: WayId, top: i32, scale: Scale) -> Drawn {
    let span = f64::from(WIDTH - 2 * EDGE);
    let place = |value: f64| EDGE + pixels(share(value, scale.width) * span);
    // What isn't nothing can be seen.
    let end = place(figure.median).max(EDGE + i32::from(figure.median > 0.0) * 2);
    area.draw(&Rectangle::new([(EDGE, top + 20), (end, top + 32)], color(way).filled()))?;
    if figure.median > scale.bound {
        return broken(area, top);
    }
    if figure.samples.len() < 2 {
        return Ok(());
    }
    let (low, high) = (place(figure.low), place(figure.high));
    for (line_color, width) in [(PAPER, 4), (INK, 2)] {
        let line = |from, to| PathElement::new(vec![from, to], line_color.stroke_width(width));
        area.draw(&line((low, top + 26), (high, top + 26)))?;
        area.draw(&line((low, top + 22), (low, top + 30)))?;
        area.draw(&line((high, top + 22), (high, top + 30)))?;
    }
    for (index, sample) in (0u32..).zip(&figure.samples) {
        let at = (place(*sample), top + 38);
        if figure.outliers.contains(&index) {
            area.draw(&Circle::new(at, 3, INK.stroke_width(1)))?;
        } else {
            area.draw(&Circle::new(at, 2, color(way).mix(0.6).filled()))?;
        }
    }
    Ok(())
}

/// Breaks a bar that would be longer than there's room, and says so.
fn broken(area: &Area<'_>, top: i32) -> Drawn {
    for at in [WIDTH - 40, WIDTH - 34] {
        let line = vec![(at - 3, top + 34), (at + 3, top + 18)];
        area.draw(&PathElement::new(line, PAPER.stroke_width(3)))?;
    }
    write(area, "out of scale", (WIDTH, top + 41), 120, &style(MUTED, Side::Right, false))
}
