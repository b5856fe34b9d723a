use super::*;
use crate::model::{Outcome, WayId};
use crate::report::text::columns;
use crate::testing;

fn drawn(report: &Report, width: usize) -> String {
    table(report, &TableOptions { width, ..TableOptions::default() })
}

/// The lines of the row that begins with a title.
fn lines_of<'a>(table: &'a str, title: &str) -> Vec<&'a str> {
    let mut lines = table.lines().skip_while(|line| !line.starts_with(title));
    lines.by_ref().take(3).collect()
}

#[test]
fn no_line_is_wider_than_the_terminal() {
    for width in [60, 80, 100, 120, 300] {
        for report in [testing::nginx(), testing::hostile("漢字\u{1b}[31m and much more text")] {
            let text = drawn(&report, width);
            let widest = text.lines().map(columns).max().unwrap();
            assert!(widest <= width.min(120), "{widest} of {width}:\n{text}");
        }
    }
}

#[test]
fn numbers_stand_in_their_ways_columns_with_interval_and_outliers() {
    let report = testing::nginx();
    let text = drawn(&report, 120);
    let row = lines_of(&text, "Start to first byte");
    let figure = report.row("start.first-byte").unwrap().figure(WayId::MicrovmCold).unwrap();
    let columns = Columns::of(&report, 120);
    let cell: String =
        row[0].chars().skip(columns.label + columns.each + 2).take(columns.each).collect();
    assert!(cell.starts_with(&quantity(Unit::Microseconds, figure.median)), "{cell:?}");
    assert!(cell.contains('±') || cell.contains('['), "{cell:?}");
    assert!(cell.contains("°1"), "{cell:?}");
}

#[test]
fn row_that_no_way_has_is_left_out_unless_there_is_no_other() {
    let mut report = testing::nginx();
    let row = report.rows.iter_mut().find(|row| row.id == "start.first-byte").unwrap();
    row.title = "PROBED".to_owned();
    for cell in &mut row.cells {
        cell.outcome = Outcome::NotApplicable { reason: "it's a server".to_owned() };
    }
    assert!(!drawn(&report, 80).contains("PROBED"));
    report.rows.retain(|row| row.id == "start.first-byte");
    assert!(drawn(&report, 80).contains("PROBED"));
}

#[test]
fn isolation_is_one_part_whatever_of_it_was_measured() {
    let mut report = testing::nginx();
    assert!(!report.isolation.is_empty());
    for measured in [true, false] {
        report.rows.retain(|row| measured || row.workload != Workload::Isolation);
        assert_eq!(drawn(&report, 80).matches("── isolation").count(), 1, "{measured}");
    }
    report.rows = testing::nginx().rows.into_iter().take(1).collect();
    report.rows[0].workload = Workload::Isolation;
    assert_eq!(drawn(&report, 80).matches("── isolation").count(), 1);
}

#[test]
fn bars_are_proportional_within_the_row() {
    let mut report = testing::nginx();
    let row = report.rows.iter_mut().find(|row| row.id == "cpu.loop").unwrap();
    row.title = "PROBED".to_owned();
    for (cell, value) in row.cells.iter_mut().zip([100.0, 50.0, 0.001, 0.0]) {
        cell.outcome = Outcome::Measured(crate::model::Figure::of(vec![value; 3]).unwrap());
    }
    for (unicode, bar, least) in [(true, '█', "▏"), (false, '#', "#")] {
        let text = table(&report, &TableOptions { width: 80, color: false, unicode });
        let lines: Vec<_> = text.lines().skip_while(|line| !line.starts_with("PROBED")).collect();
        let line: Vec<char> = lines[1].chars().collect();
        let columns = Columns::of(&report, 80);
        let cell = |way: usize| -> String {
            let start = columns.label + way * (columns.each + 1) + 1;
            line.iter().skip(start).take(columns.each).collect()
        };
        assert_eq!(cell(0), bar.to_string().repeat(columns.each));
        assert_eq!(cell(1).trim_end().chars().count(), columns.each.div_ceil(2));
        assert_eq!(cell(2).trim_end(), least);
        assert_eq!(cell(3).trim_end(), "");
    }
}

#[test]
fn failures_have_footnotes_and_what_is_not_there_a_dash() {
    let text = drawn(&testing::nginx(), 80);
    let fsync = lines_of(&text, "fsync")[0];
    let mark = fsync.split("failed").nth(1).unwrap().trim();
    let note = text.lines().find(|line| line.starts_with(mark)).unwrap();
    assert!(note.contains("No space left on device"), "{note}");
    assert!(lines_of(&text, "Image over the wire")[0].trim_end().ends_with('–'));
}

#[test]
fn a_way_that_failed_says_so_above_its_column() {
    let mut report = testing::nginx();
    report.ways[0].failure = Some("neither crun nor runc is installed".to_owned());
    let text = drawn(&report, 80);
    assert!(text.contains("failed¹"), "{text}");
    assert!(text.contains("¹ neither crun nor runc is installed"), "{text}");
}

#[test]
fn isolation_is_in_words_and_what_reached_the_host_in_capitals() {
    let text = drawn(&testing::nginx(), 80);
    let kernel = lines_of(&text, "Kernel release");
    let words: Vec<_> = kernel[0].split_whitespace().skip(2).collect();
    assert_eq!(words, ["shared", "own", "own", "own"]);
    assert!(text.contains("REACHED"));
    let flat = text.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(flat.contains("the host's value was 11, and was put back"), "{text}");
}

#[test]
fn without_colour_there_is_no_escape_and_with_it_the_same_words() {
    let report = testing::nginx();
    let plain = drawn(&report, 80);
    assert!(!plain.contains('\u{1b}'));
    let colored = table(&report, &TableOptions { color: true, ..TableOptions::default() });
    assert!(colored.contains("\u{1b}[1;31mREACHED"));
    let mut stripped = String::new();
    for (index, part) in colored.split('\u{1b}').enumerate() {
        stripped += if index == 0 { part } else { part.split_once('m').unwrap().1 };
    }
    let trimmed: Vec<_> = stripped.lines().map(str::trim_end).collect();
    assert_eq!(trimmed, plain.lines().collect::<Vec<_>>());
}

#[test]
fn ascii_terminals_get_ascii() {
    for report in [testing::nginx(), testing::hostile("漢字 ± é")] {
        let options = TableOptions { width: 80, color: false, unicode: false };
        let text = table(&report, &options);
        assert!(text.is_ascii(), "{:?}", text.chars().find(|character| !character.is_ascii()));
        assert!(text.lines().all(|line| line.len() <= 80));
    }
    let options = TableOptions { width: 80, color: false, unicode: false };
    let text = table(&testing::nginx(), &options);
    assert!(text.contains("failed[1]") && text.contains("+-"), "{text}");
}

#[test]
fn what_an_instance_says_cannot_command_the_terminal() {
    let payload = "\u{1b}]0;owned\u{7}\u{1b}[2J\r\n\u{9b}H\u{202e}";
    let text = drawn(&testing::hostile(payload), 80);
    let obeyed =
        |character: char| (character.is_control() && character != '\n') || character == '\u{202e}';
    assert!(!text.chars().any(obeyed));
    assert!(text.contains("\\e]0;"));
}

#[test]
fn slopes_host_and_notes_are_at_the_end() {
    let text = drawn(&testing::nginx(), 80);
    let flat = text.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(flat.contains("instances per GiB; 100 ran, stopped by the bound of 100"), "{text}");
    assert!(flat.contains("virtual machines by kvm_amd, frequency governor performance"));
    assert!(flat.contains("These figures are invented"));
    assert!(flat.contains("Again: vmctl compare --runs 12"));
    let first = text.lines().next().unwrap();
    assert!(first.starts_with("docker.io/library/nginx:1.27 on AMD Ryzen"), "{first}");
}

#[test]
fn an_empty_report_is_drawn_too() {
    let mut report = testing::nginx();
    report.ways.clear();
    report.rows.clear();
    report.curves.clear();
    report.isolation.clear();
    report.interrupted = true;
    assert!(drawn(&report, 80).contains("Interrupted"));
}

#[test]
fn colours_and_signs_follow_the_environment() {
    let options = |terminal, set: &[(&str, &str)]| {
        let find = |name: &str| {
            set.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
        };
        let options = TableOptions::of(80, terminal, find);
        (options.color, options.unicode)
    };
    assert_eq!(options(true, &[("LANG", "de_DE.UTF-8")]), (true, true));
    assert_eq!(options(true, &[("LANG", "C"), ("LC_ALL", "C.utf8")]), (true, true));
    assert_eq!(options(true, &[("LANG", "de_DE.UTF-8"), ("LC_ALL", "C")]), (true, false));
    assert_eq!(options(true, &[("NO_COLOR", "1")]), (false, false));
    assert_eq!(options(true, &[("TERM", "dumb")]), (false, false));
    assert_eq!(options(false, &[("LANG", "C.UTF-8")]), (false, true));
}

#[test]
fn the_same_reason_has_one_footnote() {
    let mut report = testing::nginx();
    for row in report.rows.iter_mut().filter(|row| row.id.starts_with("disk.")) {
        let reason = "the disk is full".to_owned();
        row.cells[1].outcome = Outcome::Failed { reason };
    }
    let text = drawn(&report, 80);
    assert_eq!(text.matches("the disk is full").count(), 1, "{text}");
    assert_eq!(text.matches("failed¹").count(), 5, "{text}");
}
