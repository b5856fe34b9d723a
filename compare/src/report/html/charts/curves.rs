//! What becomes of the host as instances are added.

use plotters::prelude::*;

use super::{Drawn, INK, LINE, MUTED, Name, Side, color, style, svg, write};
use crate::model::{Curve, Point, Unit, WayId};
use crate::report::quantity::{Scale, quantity};

/// The height.
const HEIGHT: u32 = 280;
/// Room at the right for the lines' names.
const NAMES: u32 = 104;
/// The least distance of two names, in pixels.
const APART: i32 = 15;

/// No host has more bytes or microseconds.
const MOST: f64 = 1e18;

/// From which ratio of the largest to the least on an axis is logarithmic.
const LOGARITHMIC: f64 = 30.0;

/// What is drawn over the number of instances.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Measure {
    /// The host's memory that's gone.
    Host,
    /// The proportional set size of all processes.
    Pss,
    /// CPU time to start the last one.
    StartCpu,
}

impl Measure {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Host, Self::Pss, Self::StartCpu];

    /// The name, for people.
    pub const fn title(self) -> &'static str {
        match self {
            Self::Host => "Memory that the host has less",
            Self::Pss => "Memory of all instances (PSS)",
            Self::StartCpu => "CPU time to start one more",
        }
    }

    const fn unit(self) -> Unit {
        match self {
            Self::Host | Self::Pss => Unit::Bytes,
            Self::StartCpu => Unit::CpuMicroseconds,
        }
    }

    const fn of(self, point: &Point) -> Option<f64> {
        match self {
            Self::Host => Some(point.host_bytes as f64),
            Self::Pss => Some(point.pss_bytes as f64),
            Self::StartCpu => point.start_cpu_us,
        }
    }
}

/// A way's points.
struct Line {
    way: WayId,
    points: Vec<(f64, f64)>,
}

/// Draws curves of a measure.
pub fn curves(id: &str, curves: &[Curve], measure: Measure, width: u32) -> String {
    let line = |curve: &Curve| {
        let points = curve.points.iter().filter_map(|point| {
            // Far outside of a chart, plotters' sums of pixels overflow.
            Some((f64::from(point.instances), measure.of(point)?.clamp(0.0, MOST)))
        });
        Line { way: curve.way, points: points.collect() }
    };
    let mut lines: Vec<Line> = curves.iter().map(line).collect();
    lines.retain(|line| !line.points.is_empty());
    let texts: Vec<_> = lines.iter().map(|line| describe(line, measure)).collect();
    let axis = Axis::of(&lines, measure);
    let description =
        format!("Over the number of instances{}. {}", axis.remark(), texts.join("; "));
    let title = format!("{}{}", measure.title(), axis.remark());
    let name = Name { id, title: &title, description: &description };
    svg((width, HEIGHT), &name, |area| draw(area, &lines, &axis))
}

/// The upward axis: in the unit in which its largest number is read most easily, or logarithmic.
struct Axis {
    unit: Unit,
    scale: Scale,
    logarithmic: bool,
    range: std::ops::Range<f64>,
}

impl Axis {
    fn of(lines: &[Line], measure: Measure) -> Self {
        let values = || lines.iter().flat_map(|line| &line.points).map(|point| point.1);
        let largest = values().fold(1.0, f64::max);
        let least = values().fold(largest, f64::min);
        // Memory begins at nothing, or slopes couldn't be compared.
        let logarithmic =
            measure == Measure::StartCpu && least > 0.0 && largest / least > LOGARITHMIC;
        let scale = Scale::of(measure.unit(), largest);
        let range = match logarithmic {
            true => least.log10().floor()..largest.log10().ceil(),
            false => 0.0..largest / scale.size * 1.04,
        };
        Self { unit: measure.unit(), scale, logarithmic, range }
    }

    const fn remark(&self) -> &'static str {
        if self.logarithmic { " (each line is ten times the one below)" } else { "" }
    }

    /// Where a value is.
    fn place(&self, value: f64) -> f64 {
        if self.logarithmic { value.log10() } else { value / self.scale.size }
    }

    /// What stands at a place.
    fn label(&self, place: f64) -> String {
        match (self.logarithmic, place) {
            (true, place) if (place - place.round()).abs() > 0.01 => String::new(),
            (true, place) => brief(&quantity(self.unit, 10_f64.powf(place.round()))),
            (false, 0.0) => "0".to_owned(),
            (false, place) => format!("{}{}", rounded(place), self.scale.suffix),
        }
    }
}

/// A number of an axis, without the digits that adding has left.
fn rounded(number: f64) -> f64 {
    (number * 1e6).round() / 1e6
}

/// A round quantity without digits after the point.
fn brief(quantity: &str) -> String {
    quantity.replace(".00 ", " ").replace(".0 ", " ")
}

fn describe(line: &Line, measure: Measure) -> String {
    let said = |point: Option<&(f64, f64)>| {
        let (x, y) = point.copied().unwrap_or_default();
        format!("{} with {x}", quantity(measure.unit(), y))
    };
    let (first, last) = (said(line.points.first()), said(line.points.last()));
    format!("{}: from {first} to {last}", line.way.title())
}

fn draw(area: &super::Area<'_>, lines: &[Line], axis: &Axis) -> Drawn {
    let numbers = lines.iter().flat_map(|line| &line.points).map(|point| point.0);
    let most = numbers.fold(1.0, f64::max);
    let mut chart = ChartBuilder::on(area)
        .margin_top(10)
        .margin_right(NAMES)
        .x_label_area_size(42)
        .y_label_area_size(66)
        .build_cartesian_2d(0.0..most, axis.range.clone())?;
    let font = style(MUTED, Side::Middle, false);
    chart
        .configure_mesh()
        .disable_x_mesh()
        .light_line_style(TRANSPARENT)
        .bold_line_style(LINE)
        .axis_style(LINE)
        .x_labels(5)
        .y_labels(5)
        .x_label_formatter(&|value| format!("{}", rounded(*value)))
        .y_label_formatter(&|place| axis.label(*place))
        .label_style(font.clone())
        .axis_desc_style(font)
        .x_desc("instances")
        .draw()?;
    let mut names = Vec::new();
    for line in lines {
        let points: Vec<_> = line.points.iter().map(|(x, y)| (*x, axis.place(*y))).collect();
        chart.draw_series(LineSeries::new(points.clone(), color(line.way).stroke_width(2)))?;
        let coordinates: Vec<_> = points.iter().map(|it| chart.backend_coord(it)).collect();
        for (x, y) in &coordinates {
            mark(area, line.way, (*x, *y))?;
        }
        names.extend(coordinates.last().map(|(x, y)| (*y, *x, line.way)));
    }
    label(area, names)
}

/// A point's mark: each way has a form of its own.
fn mark(area: &super::Area<'_>, way: WayId, at: (i32, i32)) -> Drawn {
    let (x, y) = at;
    let fill = color(way).filled();
    match way {
        WayId::Container => area.draw(&Circle::new(at, 4, fill))?,
        WayId::MicrovmCold => {
            area.draw(&Rectangle::new([(x - 4, y - 4), (x + 4, y + 4)], fill))?;
        }
        WayId::MicrovmWarm => {
            let corners = vec![(x - 5, y + 4), (x + 5, y + 4), (x, y - 5)];
            area.draw(&Polygon::new(corners, fill))?;
        }
        WayId::FullVm => {
            let corners = vec![(x - 5, y), (x, y - 5), (x + 5, y), (x, y + 5)];
            area.draw(&Polygon::new(corners, fill))?;
        }
    }
    Ok(())
}

/// Writes the lines' names at their ends, none over another.
fn label(area: &super::Area<'_>, mut names: Vec<(i32, i32, WayId)>) -> Drawn {
    names.sort_unstable_by_key(|(y, _, _)| *y);
    let mut lowest = i32::MIN;
    for (y, x, way) in names {
        let y = y.max(lowest).max(8);
        lowest = y.saturating_add(APART);
        write(area, way.title(), (x + 9, y), 120, &style(INK, Side::Left, false))?;
    }
    Ok(())
}
