//! What has changed from one report to another, beyond noise.

mod conditions;
mod text;

use serde::Serialize;

use crate::model::{Aspect, Better, Figure, Outcome, Report, Row, Unit, Verdict, WayId};
use crate::statistics::{ENOUGH, ratio_interval};

/// What has changed.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Diff {
    /// The change from which on a worse number is a regression: 0.1 for 10 %.
    pub threshold: f64,
    /// Why the two may not be comparable.
    pub warnings: Vec<String>,
    /// Each number that both have.
    pub figures: Vec<FigureChange>,
    /// What one has a number for and the other one hasn't.
    pub missing: Vec<Missing>,
    /// What is isolated otherwise than before.
    pub isolation: Vec<VerdictChange>,
}

/// A number that both have.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct FigureChange {
    /// The row's name.
    pub row: String,
    /// The row's name, for people.
    pub title: String,
    /// The way.
    pub way: WayId,
    /// What the numbers are.
    pub unit: Unit,
    /// The old median.
    pub old: f64,
    /// The new median.
    pub new: f64,
    /// The new one by the old one; none where the old one is 0.
    pub ratio: Option<f64>,
    /// The ratio's 95 % interval.
    pub interval: Option<(f64, f64)>,
    /// What it means.
    pub change: Change,
    /// Whether it's worse by more than the threshold.
    pub regression: bool,
}

/// What a difference of numbers means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Change {
    /// It may be noise.
    Noise,
    /// It's better than before, beyond noise.
    Better,
    /// It's worse than before, beyond noise.
    Worse,
    /// It's different, beyond noise, and neither is good or bad.
    Different,
    /// There are too few samples to tell.
    TooFew,
}

/// A number that one of them hasn't.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Missing {
    /// The row's name.
    pub row: String,
    /// The row's name, for people.
    pub title: String,
    /// The way.
    pub way: WayId,
    /// Which of the two has it.
    pub only_in: Side,
    /// Why the other one hasn't, where it says.
    pub reason: Option<String>,
    /// Whether it was measured before, and fails now.
    pub regression: bool,
}

/// One of the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Side {
    /// The first.
    Old,
    /// The second.
    New,
}

/// Something that's isolated otherwise than before.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct VerdictChange {
    /// The aspect's name.
    pub aspect: String,
    /// The aspect's name, for people.
    pub title: String,
    /// The way.
    pub way: WayId,
    /// What it was.
    pub old: Verdict,
    /// What it is; none if it wasn't looked at.
    pub new: Option<Verdict>,
    /// What was seen now.
    pub value: String,
    /// Whether the way isolates less than before.
    pub regression: bool,
}

/// Compares two reports; a worse number is a regression from `threshold` on, 0.1 for 10 %.
pub fn diff(old: &Report, new: &Report, threshold: f64) -> Diff {
    let mut diff = Diff {
        threshold,
        warnings: conditions::warnings(old, new),
        figures: Vec::new(),
        missing: Vec::new(),
        isolation: old.isolation.iter().flat_map(|aspect| verdicts(aspect, new)).collect(),
    };
    for row in &old.rows {
        let other = new.row(&row.id);
        for way in WayId::ALL {
            let Some(before) = row.figure(way) else { continue };
            match other.and_then(|other| other.figure(way)) {
                Some(after) => diff.figures.push(change(row, way, before, after, threshold)),
                None => diff.missing.push(missing(row, way, new, Side::Old)),
            }
        }
    }
    for row in &new.rows {
        let other = old.row(&row.id);
        let only_here = |way: &WayId| {
            row.figure(*way).is_some() && other.is_none_or(|other| other.figure(*way).is_none())
        };
        let ways = WayId::ALL.into_iter().filter(only_here);
        diff.missing.extend(ways.map(|way| missing(row, way, old, Side::New)));
    }
    diff
}

/// Compares two numbers.
fn change(row: &Row, way: WayId, old: &Figure, new: &Figure, threshold: f64) -> FigureChange {
    let ratio = (old.median != 0.0).then(|| new.median / old.median);
    let interval = ratio_interval(&old.samples, &new.samples);
    let change = meaning(row.better, old, new, interval);
    // A rate that's halved is as bad as a time that's doubled.
    let worse_by = match (row.better, ratio) {
        (Better::Higher, Some(ratio)) => 1.0 / ratio,
        (_, Some(ratio)) => ratio,
        (_, None) => f64::INFINITY,
    };
    FigureChange {
        row: row.id.clone(),
        title: row.title.clone(),
        way,
        unit: row.unit,
        old: old.median,
        new: new.median,
        ratio,
        interval,
        change,
        regression: change == Change::Worse && worse_by > 1.0 + threshold,
    }
}

/// Whether two numbers differ beyond noise, and in which direction.
fn meaning(better: Better, old: &Figure, new: &Figure, interval: Option<(f64, f64)>) -> Change {
    if old.samples.len() < ENOUGH || new.samples.len() < ENOUGH {
        return Change::TooFew;
    }
    let apart = old.high < new.low || new.high < old.low;
    let excludes_1 = interval.is_none_or(|(low, high)| low > 1.0 || high < 1.0);
    if !apart || !excludes_1 {
        return Change::Noise;
    }
    match (better, new.median > old.median) {
        (Better::Neither, _) => Change::Different,
        (Better::Lower, true) | (Better::Higher, false) => Change::Worse,
        (Better::Lower, false) | (Better::Higher, true) => Change::Better,
    }
}

/// A number of `row`'s that `other` hasn't.
fn missing(row: &Row, way: WayId, other: &Report, only_in: Side) -> Missing {
    let outcome = other.row(&row.id).and_then(|row| row.cell(way));
    let of_way = failure(other, way);
    let reason = match outcome {
        Some(Outcome::Failed { reason } | Outcome::NotApplicable { reason }) => {
            Some(reason.clone())
        }
        _ => of_way.map(str::to_owned),
    };
    let failed = matches!(outcome, Some(Outcome::Failed { .. })) || of_way.is_some();
    Missing {
        row: row.id.clone(),
        title: row.title.clone(),
        way,
        only_in,
        reason,
        regression: failed && only_in == Side::Old,
    }
}

/// Why a way couldn't be gone at all, if so.
fn failure(report: &Report, way: WayId) -> Option<&str> {
    report.ways.iter().find(|it| it.id == way)?.failure.as_deref()
}

/// The verdicts of an aspect that are others than before.
fn verdicts(aspect: &Aspect, new: &Report) -> Vec<VerdictChange> {
    let other = new.isolation.iter().find(|other| other.id == aspect.id);
    let changed = aspect.observations.iter().filter_map(|before| {
        let mut after = other.iter().flat_map(|other| &other.observations);
        let after = after.find(|after| after.way == before.way);
        let verdict = after.map(|after| after.verdict);
        (verdict != Some(before.verdict)).then(|| VerdictChange {
            aspect: aspect.id.clone(),
            title: aspect.title.clone(),
            way: before.way,
            old: before.verdict,
            new: verdict,
            value: after.map(|after| after.value.clone()).unwrap_or_default(),
            regression: match verdict {
                Some(after) => isolates_less(before.verdict, after),
                None => failure(new, before.way).is_some(),
            },
        })
    });
    changed.collect()
}

/// Whether the second verdict is the worse one. Nothing is worse than to reach the host.
const fn isolates_less(old: Verdict, new: Verdict) -> bool {
    match new {
        Verdict::Reached => !matches!(old, Verdict::Reached),
        Verdict::Shared => matches!(old, Verdict::Own | Verdict::Refused | Verdict::Contained),
        Verdict::Own | Verdict::Refused | Verdict::Contained | Verdict::Unclear => false,
    }
}

impl Diff {
    /// Whether something is worse than it may be.
    pub fn regressed(&self) -> bool {
        self.figures.iter().any(|change| change.regression)
            || self.missing.iter().any(|missing| missing.regression)
            || self.isolation.iter().any(|change| change.regression)
    }
}

#[cfg(test)]
mod tests;
