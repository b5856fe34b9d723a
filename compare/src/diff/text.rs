//! What has changed, for a terminal.

use super::{Change, Diff, FigureChange, Missing, Side, VerdictChange};
use crate::model::Verdict;
use crate::report::quantity::quantity;
use crate::report::text::{columns, cut, pad, visible, wrap};

impl Diff {
    /// All of it, regressions first, in lines of at most `width` columns.
    pub fn to_text(&self, width: usize) -> String {
        let mut lines = Vec::new();
        let mut section = |title: &str, items: Vec<String>| {
            if !items.is_empty() {
                lines.push(format!("{title} ({})", items.len()));
                lines.extend(items.iter().flat_map(|item| indented(item, width)));
                lines.push(String::new());
            }
        };
        section("Not the same conditions", self.warnings.clone());
        let worse = |change: &&FigureChange| change.change == Change::Worse;
        let of = |keep: &dyn Fn(&&FigureChange) -> bool| -> Vec<String> {
            table(&self.figures.iter().filter(keep).collect::<Vec<_>>(), width)
        };
        let mut regressions = of(&|change| change.regression);
        regressions.extend(self.missing.iter().filter(|it| it.regression).map(missing));
        regressions.extend(self.isolation.iter().filter(|it| it.regression).map(verdict));
        section("REGRESSIONS", regressions);
        section("Worse, within the threshold", of(&|change| worse(change) && !change.regression));
        section("Better", of(&|change| change.change == Change::Better));
        section("Different", of(&|change| change.change == Change::Different));
        let others = self.isolation.iter().filter(|it| !it.regression);
        section("Isolation", others.map(verdict).collect());
        section(
            "Too few samples to tell",
            of(&|it| it.change == Change::TooFew && it.old != it.new),
        );
        let others = self.missing.iter().filter(|it| !it.regression);
        section("In one of the two only", others.map(missing).collect());
        lines.extend(wrap(&self.summary(), width));
        lines.join("\n") + "\n"
    }

    /// How it came out, in a sentence.
    fn summary(&self) -> String {
        let noise = self.figures.iter().filter(|it| it.change == Change::Noise).count();
        let regressions = self.figures.iter().filter(|it| it.regression).count()
            + self.missing.iter().filter(|it| it.regression).count()
            + self.isolation.iter().filter(|it| it.regression).count();
        let percent = self.threshold * 100.0;
        let outcome = match regressions {
            0 => "no regression".to_owned(),
            1 => "1 regression".to_owned(),
            more => format!("{more} regressions"),
        };
        format!(
            "{} figures compared: {outcome} above {percent:.0} %, {noise} within noise.",
            self.figures.len()
        )
    }
}

/// An item of a list: further lines are indented.
fn indented(item: &str, width: usize) -> Vec<String> {
    if columns(item) + 2 <= width {
        return vec![format!("  {item}")];
    }
    let lines = wrap(item, width.saturating_sub(4).max(8));
    let first = |index: usize| if index == 0 { "  " } else { "    " };
    lines.iter().enumerate().map(|(index, line)| format!("{}{line}", first(index))).collect()
}

/// Changes, below each other. Rows have their names that stay: titles may be alike.
fn table(changes: &[&FigureChange], width: usize) -> Vec<String> {
    let titles: Vec<String> = changes.iter().map(|change| visible(&change.row)).collect();
    let longest = titles.iter().map(|title| columns(title)).max().unwrap_or(0);
    let longest = longest.min(width.saturating_sub(56).max(12));
    let line = |(change, title): (&&FigureChange, &String)| {
        let (old, new) = (quantity(change.unit, change.old), quantity(change.unit, change.new));
        format!(
            "{} {} {old:>10} → {new:<10} {}",
            pad(&cut(title, longest), longest),
            pad(change.way.title(), 13),
            percent(change),
        )
    };
    changes.iter().zip(&titles).map(line).map(|line| line.trim_end().to_owned()).collect()
}

/// `+12 % [+9..+15]`.
fn percent(change: &FigureChange) -> String {
    let of = |ratio: f64| (ratio - 1.0) * 100.0;
    match (change.ratio, change.interval) {
        (Some(ratio), Some((low, high))) if change.change != Change::TooFew => {
            format!("{:+.0} % [{:+.0}..{:+.0}]", of(ratio), of(low), of(high))
        }
        (Some(ratio), _) => format!("{:+.0} %", of(ratio)),
        (None, _) => String::new(),
    }
}

fn missing(missing: &Missing) -> String {
    let reason = missing.reason.as_deref().map(visible).unwrap_or_default();
    let what = match (missing.only_in, missing.regression) {
        (_, true) => "fails now",
        (Side::Old, false) => "isn't there any more",
        (Side::New, false) => "is new",
    };
    let because = if reason.is_empty() { String::new() } else { format!(": {reason}") };
    format!("{} of {} {what}{because}", visible(&missing.row), missing.way.title())
}

fn verdict(change: &VerdictChange) -> String {
    let now = change.new.map_or("not looked at", Verdict::name);
    let now = if change.regression { now.to_uppercase() } else { now.to_owned() };
    let value = visible(&change.value);
    let seen = if value.is_empty() { String::new() } else { format!(": {value}") };
    let title = visible(&change.title);
    format!("{title} of {}: {} before, {now} now{seen}", change.way.title(), change.old.name())
}
