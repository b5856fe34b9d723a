use super::*;
use crate::model::{Report, Step};
use crate::testing;

fn all(report: &Report) -> Vec<String> {
    let ways: Vec<_> = report.ways.iter().map(|way| way.id).collect();
    let mut charts: Vec<String> = report.rows.iter().map(|row| bars("bars", row, &ways)).collect();
    charts.extend(Measure::ALL.map(|measure| curves("curves", &report.curves, measure, 480)));
    charts.push(gantt("gantt", &report.timelines, &ways, 720));
    charts.push(race("race", &report.timelines, &ways, 720));
    charts
}

#[test]
fn each_chart_has_a_name_and_says_its_numbers() {
    let report = testing::nginx();
    for chart in all(&report) {
        assert!(chart.starts_with("<svg xmlns=") && chart.trim_end().ends_with("</svg>"));
        let head = chart.split_once('>').unwrap().0;
        assert!(head.contains("role=\"img\""), "{head}");
        for id in
            head.split("aria-labelledby=\"").nth(1).unwrap().split('"').next().unwrap().split(' ')
        {
            assert!(chart.contains(&format!("id=\"{id}\"")), "{id}");
        }
    }
    let bars = bars("stop", report.row("disk.fsync").unwrap(), &WayId::ALL);
    assert!(bars.contains("container: 2,325/s, 95 % interval"), "{bars}");
    assert!(bars.contains("full VM: failed: fio: fsync"), "{bars}");
}

#[test]
fn bars_are_as_long_as_their_medians() {
    let report = testing::nginx();
    let chart = bars("x", report.row("web.latency").unwrap(), &WayId::ALL);
    let widths: Vec<f64> = chart
        .lines()
        .filter(|line| line.starts_with("<rect") && !line.contains("#EEF0F3"))
        .map(|line| {
            line.split("width=\"").nth(1).unwrap().split('"').next().unwrap().parse().unwrap()
        })
        .collect();
    assert_eq!(widths.len(), 4);
    let median = |way| report.row("web.latency").unwrap().figure(way).unwrap().median;
    let row = report.row("web.latency").unwrap();
    let samples = WayId::ALL.iter().flat_map(|way| &row.figure(*way).unwrap().samples);
    let longest = samples.copied().fold(0.0, f64::max);
    for (width, way) in widths.iter().zip(WayId::ALL) {
        let expected = median(way) / longest * 304.0;
        assert!((width - expected).abs() <= 1.0, "{way}: {width}, not {expected}");
    }
}

#[test]
fn a_bar_that_would_dwarf_the_others_is_broken_and_says_so() {
    let report = testing::nginx();
    for (row, broken) in [("start.first-byte", true), ("web.latency", false)] {
        let row = report.row(row).unwrap();
        assert_eq!(bars("x", row, &WayId::ALL).contains("out of scale"), broken);
        // Of two, the one is what the other is compared with.
        assert!(!bars("x", row, &[WayId::Container, WayId::FullVm]).contains("out of scale"));
    }
    // An outlier is shown where it is.
    let mut row = report.row("web.latency").unwrap().clone();
    let samples = [vec![100.0; 9], vec![90_000.0]].concat();
    let figure = crate::model::Figure::of(samples).unwrap();
    row.cells[3].outcome = crate::model::Outcome::Measured(figure);
    assert!(!bars("x", &row, &WayId::ALL).contains("out of scale"));
}

#[test]
fn samples_are_dots_and_outliers_rings() {
    let report = testing::nginx();
    let row = report.row("web.requests").unwrap();
    let chart = bars("x", row, &WayId::ALL);
    let rings =
        chart.lines().filter(|line| line.starts_with("<circle") && line.contains("fill=\"none\""));
    let outliers: usize =
        WayId::ALL.iter().map(|way| row.figure(*way).unwrap().outliers.len()).sum();
    assert!(outliers > 0);
    assert_eq!(rings.count(), outliers);
    assert_eq!(chart.matches("<circle").count(), 48);
}

#[test]
fn the_race_has_the_median_runs_times_and_lanes_beyond_the_scale_say_so() {
    let report = testing::nginx();
    let chart = race("race", &report.timelines, &WayId::ALL, 720);
    for way in WayId::ALL {
        let mut ends: Vec<f64> =
            report.timelines.iter().filter(|run| run.way == way).map(end).collect();
        ends.sort_by(f64::total_cmp);
        assert!(chart.contains(&format!("data-end=\"{}\"", ends[5])), "{way}");
    }
    let arrows: Vec<_> = chart.split("data-beyond").skip(1).collect();
    let shown = arrows.iter().filter(|it| it.starts_with(" visibility=\"visible\""));
    assert_eq!((arrows.len(), shown.count()), (4, 1));
    // A step out of the scale is there for who looks at all of them.
    assert!(chart.contains("data-name=\"systemd started\""));
    assert!(chart.contains("× this width"), "{chart}");
}

#[test]
fn what_came_after_ready_is_no_part_of_a_start() {
    let step = |name: &str, at_us| Step { name: name.to_owned(), at_us };
    let steps = vec![step("first byte", 5.0), step("ready", 9.0), step("stopped", 700.0)];
    let run = Timeline { way: WayId::Container, run: 0, steps };
    assert_eq!(end(&median_run(&[run], WayId::Container).unwrap()), 9.0);
}

#[test]
fn charts_of_nothing_and_of_absurd_numbers_are_charts() {
    let mut report = testing::nginx();
    for timeline in &mut report.timelines {
        timeline.steps[1].at_us = -1e300;
        timeline.steps.last_mut().unwrap().at_us = 1e300;
    }
    for point in report.curves.iter_mut().flat_map(|curve| &mut curve.points) {
        (point.instances, point.host_bytes, point.pss_bytes) = (u32::MAX, u64::MAX, 0);
        point.start_cpu_us = Some(-1e300);
    }
    for row in &mut report.rows {
        for cell in &mut row.cells {
            if let crate::model::Outcome::Measured(figure) = &mut cell.outcome {
                (figure.median, figure.low, figure.high) = (-5.0, 1e308, -1e308);
            }
        }
    }
    assert!(all(&report).iter().all(|chart| chart.contains("</svg>")));
    report.timelines.clear();
    report.curves.clear();
    report.ways.clear();
    assert!(all(&report).iter().all(|chart| chart.contains("</svg>")));
}

#[test]
fn texts_of_an_attacker_stay_texts() {
    let payload =
        "</text></title><script>alert(1)</script><img src=x onerror=alert(1)>\" onload=\"x";
    for chart in all(&testing::hostile(payload)) {
        assert!(!chart.contains("<script") && !chart.contains("<img"), "{chart}");
        assert!(!chart.contains("\" onload=\""), "{chart}");
    }
}

/// The heights of a chart's line at its points, from the left.
fn heights(chart: &str) -> Vec<i32> {
    let stroke = "stroke=\"#D55E00\"";
    let line = chart.lines().find(|it| it.starts_with("<polyline") && it.contains(stroke)).unwrap();
    let points = line.split("points=\"").nth(1).unwrap().split('"').next().unwrap();
    points.split_whitespace().map(|it| it.split(',').nth(1).unwrap().parse().unwrap()).collect()
}

#[test]
fn curves_are_straight_where_memory_grows_evenly_and_where_times_grow_tenfold() {
    let mut curve = testing::nginx().curves.swap_remove(0);
    curve.points.truncate(4);
    for (index, point) in (1u32..).zip(&mut curve.points) {
        point.instances = index;
        point.host_bytes = u64::from(index) << 30;
        point.start_cpu_us = Some(10_f64.powf(f64::from(index) + 2.0));
    }
    for (measure, remark) in [(Measure::Host, false), (Measure::StartCpu, true)] {
        let chart = curves("x", std::slice::from_ref(&curve), measure, 480);
        let heights = heights(&chart);
        let steps: Vec<i32> = heights.windows(2).map(|pair| pair[0] - pair[1]).collect();
        assert!(steps.iter().all(|step| (step - steps[0]).abs() <= 1 && *step > 20), "{steps:?}");
        assert_eq!(chart.contains("ten times the one below"), remark);
    }
    let chart = curves("x", std::slice::from_ref(&curve), Measure::StartCpu, 480);
    for label in ["1 ms", "10 ms", "100 ms", "1 s"] {
        assert!(chart.lines().any(|line| line.trim() == label), "{label}: {chart}");
    }
}

#[test]
fn steps_take_the_time_since_the_one_before() {
    let step = |name: &str, at_us| Step { name: name.to_owned(), at_us };
    let steps = vec![step("command", 0.0), step("kernel", 2000.0), step("ready", 5000.0)];
    let run = Timeline { way: WayId::MicrovmCold, run: 0, steps };
    let chart = gantt("x", &[run], &[WayId::MicrovmCold], 300);
    assert!(chart.contains("microVM, cold: kernel 2.00 ms, ready 3.00 ms"), "{chart}");
    let edges: Vec<(f64, f64)> = chart
        .lines()
        .filter(|line| line.starts_with("<rect"))
        .map(|line| {
            let number = |name: &str| -> f64 {
                let text = line.split(&format!(" {name}=\"")).nth(1).unwrap();
                text.split('"').next().unwrap().parse().unwrap()
            };
            (number("x"), number("width"))
        })
        .collect();
    assert_eq!(edges, [(0.0, 119.0), (120.0, 179.0)]);
}
