use super::*;
use crate::report::text::columns;
use crate::testing;

/// Replaces the samples of a cell.
fn set(report: &mut Report, row: &str, way: WayId, outcome: Outcome) {
    let row = report.rows.iter_mut().find(|it| it.id == row).unwrap();
    let cell = row.cells.iter_mut().find(|cell| cell.way == way).unwrap();
    cell.outcome = outcome;
}

fn samples(report: &mut Report, row: &str, way: WayId, samples: Vec<f64>) {
    set(report, row, way, Outcome::Measured(Figure::of(samples).unwrap()));
}

fn around(middle: f64, count: u32) -> Vec<f64> {
    (0..count).map(|n| middle * (1.0 + 0.01 * (f64::from(n % 5) - 2.0))).collect()
}

/// The old samples of a cell, the new ones, and what is said of them.
fn compared(row: &str, old: Vec<f64>, new: Vec<f64>) -> (FigureChange, bool) {
    let (mut before, mut after) = (testing::nginx(), testing::nginx());
    samples(&mut before, row, WayId::Container, old);
    samples(&mut after, row, WayId::Container, new);
    let diff = diff(&before, &after, 0.10);
    let found = |it: &&FigureChange| it.row == row && it.way == WayId::Container;
    (diff.figures.iter().find(found).unwrap().clone(), diff.regressed())
}

#[test]
fn a_report_does_not_differ_from_itself() {
    let report = testing::nginx();
    let diff = diff(&report, &report, 0.0);
    assert!(!diff.regressed());
    assert_eq!((diff.warnings.len(), diff.missing.len(), diff.isolation.len()), (0, 0, 0));
    let quiet = |it: &FigureChange| matches!(it.change, Change::Noise | Change::TooFew);
    assert!(diff.figures.iter().all(quiet));
    assert_eq!(
        diff.figures.len(),
        report.rows.iter().flat_map(|it| WayId::ALL.map(|way| it.figure(way))).flatten().count()
    );
}

#[test]
fn times_that_grow_beyond_noise_and_threshold_are_a_regression() {
    let (change, regressed) = compared("stop", around(100.0, 12), around(120.0, 12));
    assert_eq!((change.change, change.regression, regressed), (Change::Worse, true, true));
    let (low, high) = change.interval.unwrap();
    assert!(low < 1.2 && 1.2 < high && low > 1.1, "{low} {high}");
    let (change, regressed) = compared("stop", around(120.0, 12), around(100.0, 12));
    assert_eq!((change.change, regressed), (Change::Better, false));
}

#[test]
fn rates_that_fall_are_a_regression_and_that_grow_are_none() {
    let (change, regressed) = compared("disk.fsync", around(120.0, 12), around(100.0, 12));
    assert_eq!((change.change, regressed), (Change::Worse, true));
    let (change, regressed) = compared("disk.fsync", around(100.0, 12), around(200.0, 12));
    assert_eq!((change.change, regressed), (Change::Better, false));
}

#[test]
fn worse_within_the_threshold_is_no_regression() {
    let (change, regressed) = compared("stop", around(100.0, 12), around(108.0, 12));
    assert_eq!((change.change, change.regression, regressed), (Change::Worse, false, false));
}

#[test]
fn a_difference_that_noise_explains_is_none() {
    let wide = |shift: f64| (0..12).map(|n| 100.0 + shift + f64::from(n * 7 % 12) * 10.0).collect();
    let (change, regressed) = compared("stop", wide(0.0), wide(20.0));
    assert!(change.ratio.unwrap() > 1.1);
    assert_eq!((change.change, regressed), (Change::Noise, false));
}

#[test]
fn of_few_samples_nothing_is_said() {
    for (old, new) in [(12, 4), (4, 12)] {
        let (change, regressed) = compared("stop", vec![100.0; old], vec![900.0; new]);
        assert_eq!((change.change, regressed), (Change::TooFew, false));
    }
}

#[test]
fn what_was_nothing_and_is_something_has_no_ratio_and_is_a_regression() {
    let (change, regressed) = compared("stop", vec![0.0; 12], around(5.0, 12));
    assert_eq!((change.ratio, change.change, regressed), (None, Change::Worse, true));
    let (change, regressed) = compared("stop", vec![0.0; 12], vec![0.0; 12]);
    assert_eq!((change.change, regressed), (Change::Noise, false));
}

#[test]
fn a_failure_where_there_was_a_number_is_a_regression_and_a_missing_row_is_told() {
    let (old, mut new) = (testing::nginx(), testing::nginx());
    let reason = || "it hung".to_owned();
    set(&mut new, "stop", WayId::FullVm, Outcome::Failed { reason: reason() });
    let changed = diff(&old, &new, 0.1);
    assert_eq!(changed.missing.len(), 1);
    assert_eq!(changed.missing[0].reason, Some(reason()));
    assert!(changed.regressed());
    assert!(!diff(&new, &old, 0.1).regressed());
    let mut new = testing::nginx();
    new.rows.retain(|row| row.id != "cpu.loop");
    let changed = diff(&old, &new, 0.1);
    assert_eq!(changed.missing.len(), 4);
    assert!(changed.missing.iter().all(|it| it.only_in == Side::Old && !it.regression));
    let changed = diff(&new, &old, 0.1);
    assert!(changed.missing.iter().all(|it| it.only_in == Side::New));
    assert!(!changed.regressed());
}

#[test]
fn isolation_that_is_lost_is_always_a_regression() {
    use Verdict::{Contained, Own, Reached, Refused, Shared, Unclear};
    for (before, after, regression) in [
        (Own, Shared, true),
        (Refused, Reached, true),
        (Contained, Shared, true),
        (Contained, Reached, true),
        (Shared, Reached, true),
        (Unclear, Reached, true),
        (Shared, Own, false),
        (Reached, Contained, false),
        (Own, Unclear, false),
        (Refused, Contained, false),
    ] {
        let (mut old, mut new) = (testing::nginx(), testing::nginx());
        old.isolation[3].observations[1].verdict = before;
        new.isolation[3].observations[1].verdict = after;
        let changed = diff(&old, &new, 1000.0);
        assert_eq!(changed.isolation.len(), 1, "{before:?} {after:?}");
        assert_eq!(changed.regressed(), regression, "{before:?} {after:?}");
    }
}

#[test]
fn unlike_hosts_and_settings_are_warned_of() {
    let (old, mut new) = (testing::nginx(), testing::nginx());
    new.host.cpu_model = "another\u{1b}[2J".to_owned();
    new.settings.memory_mib = 512;
    new.ways[0].detail = "runc 1.3.0".to_owned();
    new.interrupted = true;
    let warnings = diff(&old, &new, 0.1).warnings;
    assert_eq!(warnings.len(), 4, "{warnings:#?}");
    for words in ["another\\e[2J", "512 MiB now", "runc 1.3.0 now", "the new comparison was interr"]
    {
        assert!(warnings.iter().any(|it| it.contains(words)), "{words}: {warnings:#?}");
    }
}

#[test]
fn text_has_regressions_by_name_and_fits_the_width() {
    let (old, mut new) = (testing::nginx(), testing::nginx());
    samples(&mut new, "stop", WayId::Container, around(90_000.0, 12));
    samples(&mut new, "cpu.loop", WayId::FullVm, around(400_000.0, 12));
    new.isolation[0].observations[1].verdict = Verdict::Shared;
    new.rows.retain(|row| row.id != "churn");
    let diff = diff(&old, &new, 0.1);
    for width in [80, 100] {
        let text = diff.to_text(width);
        assert!(text.lines().all(|line| columns(line) <= width), "{text}");
        let (head, rest) = text.split_once("Better (1)").unwrap();
        assert!(head.contains("REGRESSIONS (2)\n  stop"), "{text}");
        assert!(head.contains("→ 89.5 ms"), "{text}");
        assert!(head.contains("Kernel release of microVM, cold: own before, SHARED now"), "{text}");
        assert!(rest.contains("churn of container isn't there any more"), "{text}");
        assert!(rest.contains("2 regressions above 10 %"), "{text}");
    }
    let hostile = testing::hostile("\u{1b}[2J\u{202e}");
    let text = super::diff(&testing::nginx(), &hostile, 0.1).to_text(80);
    assert!(!text.contains('\u{1b}') && !text.contains('\u{202e}'));
}

#[test]
fn it_is_json_too() {
    let (old, mut new) = (testing::nginx(), testing::nginx());
    samples(&mut new, "stop", WayId::Container, around(90_000.0, 12));
    let json = serde_json::to_value(diff(&old, &new, 0.1)).unwrap();
    let stop = json["figures"].as_array().unwrap().iter().find(|it| it["row"] == "stop").unwrap();
    assert_eq!((&stop["change"], &stop["regression"]), (&"worse".into(), &true.into()));
    assert_eq!(stop["way"], "container");
}

#[test]
fn a_way_that_can_not_be_gone_any_more_is_a_regression() {
    let (before, mut after) = (testing::nginx(), testing::nginx());
    let way = after.ways.iter_mut().find(|way| way.id == WayId::Container).unwrap();
    way.failure = Some("crun isn't there".to_owned());
    // As it's without a runner: nothing was measured, nothing failed.
    for row in &mut after.rows {
        row.cells.retain(|cell| cell.way != WayId::Container);
    }
    for aspect in &mut after.isolation {
        aspect.observations.retain(|seen| seen.way != WayId::Container);
    }
    let found = diff(&before, &after, 0.10);
    assert!(found.regressed());
    let reason = found.missing[0].reason.as_deref();
    assert_eq!((reason, found.missing[0].regression), (Some("crun isn't there"), true));
    assert!(found.isolation.iter().all(|change| change.regression));
    // The other way round it's none.
    assert!(!diff(&after, &before, 0.10).regressed());
}

#[test]
fn other_work_is_warned_of() {
    let (before, mut after) = (testing::nginx(), testing::nginx());
    after.settings.scale = 0.05;
    after.settings.port = Some(81);
    let warnings = diff(&before, &after, 0.10).warnings;
    assert_eq!(warnings.len(), 2, "{warnings:?}");
    assert!(warnings[0].contains("scale") && warnings[1].contains("port"), "{warnings:?}");
}
