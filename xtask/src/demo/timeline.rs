//! The boot's timeline: from `vmctl boot --timeline` to a table with a bar.

use std::fmt::Write;

/// The names, in `vmctl`'s file and in our table, of what `vmctl` and the VMM report.
const EVENTS: &[(&str, &str)] = &[
    ("command_started", "vmctl started"),
    ("process_started", "VMM process started"),
    ("vm_created", "VM created"),
    ("kernel_entered", "kernel entered"),
];

/// The width of the bar, in characters.
const BAR: u64 = 40;

/// Something that the boot has reached.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Step {
    pub(super) name: &'static str,
    /// When, by `CLOCK_MONOTONIC`.
    pub(super) at_ns: u64,
}

/// Finds the steps in a timeline's JSON lines. Other events aren't steps.
pub(super) fn parse(lines: &str) -> Vec<Step> {
    lines
        .lines()
        .filter_map(|line| {
            let event: serde_json::Value = serde_json::from_str(line).ok()?;
            let (_, name) = EVENTS.iter().find(|(key, _)| event["event"] == *key)?;
            Some(Step { name, at_ns: event["monotonic_ns"].as_u64()? })
        })
        .collect()
}

/// Draws the steps as a table: when each was reached since the first, and how long it took, in
/// figures and as a piece of the bar.
pub(super) fn table(steps: &[Step]) -> String {
    let start = steps.first().map_or(0, |step| step.at_ns);
    let total = steps.last().map_or(0, |step| step.at_ns - start).max(1);
    let column = |at_ns: u64| usize::try_from((at_ns - start) * BAR / total).unwrap_or_default();

    let mut table = format!("{:<20} {:>9} {:>9}\n", "", "at", "took");
    let mut previous = start;
    for step in steps {
        let (from, to) = (column(previous), column(step.at_ns));
        // A step too short to be seen is still shown.
        let bar =
            if step.at_ns > previous { "#".repeat((to - from).max(1)) } else { String::new() };
        let line = format!(
            "{:<20} {:>7.3} s {:>7.3} s  {}{bar}",
            step.name,
            seconds(step.at_ns - start),
            seconds(step.at_ns - previous),
            " ".repeat(from),
        );
        let _ = writeln!(table, "{}", line.trim_end());
        previous = step.at_ns;
    }
    table
}

fn seconds(nanoseconds: u64) -> f64 {
    std::time::Duration::from_nanos(nanoseconds).as_secs_f64()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_read_and_other_lines_are_not() {
        let lines = r#"{"event":"command_started","monotonic_ns":5}
{"event":"from_the_future"}
no JSON
{"event":"vm_created","monotonic_ns":9}"#;
        let expected =
            [Step { name: "vmctl started", at_ns: 5 }, Step { name: "VM created", at_ns: 9 }];
        assert_eq!(parse(lines), expected);
    }

    #[test]
    fn pieces_of_the_bar_follow_one_another() {
        let second = 1_000_000_000;
        let steps =
            [("a", 7), ("b", 8), ("c", 11)].map(|(name, at)| Step { name, at_ns: at * second });
        let expected = "                            at      took
a                      0.000 s   0.000 s
b                      1.000 s   1.000 s  ##########
c                      4.000 s   3.000 s            ##############################
";
        assert_eq!(table(&steps), expected);
    }
}
