//! What a `check` script prints: a line for each step, `ok TEXT`, `not yet TEXT: HINT` or
//! `skipped TEXT: REASON`. Other lines are remarks.

use std::fmt::Write as _;

/// The most steps that are shown.
const MAX_STEPS: usize = 200;

/// A line of a check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Line {
    /// A step that's done.
    Ok(String),
    /// A step that isn't, and what may help.
    NotYet(String, Option<String>),
    /// A step that can't be done here, and why not.
    Skipped(String, Option<String>),
    /// Anything else that it prints.
    Remark(String),
}

/// What a check has found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Steps {
    lines: Vec<Line>,
    left_out: usize,
}

impl Line {
    /// Reads a line. Of a text, the hint begins behind the first colon and blank.
    pub(super) fn parse(line: &str) -> Self {
        let with_hint = |text: &str| match text.split_once(": ") {
            Some((text, hint)) => (text.trim().to_owned(), Some(hint.trim().to_owned())),
            None => (text.trim().to_owned(), None),
        };
        if let Some(text) = line.strip_prefix("ok ") {
            return Self::Ok(text.trim().to_owned());
        }
        if let Some(text) = line.strip_prefix("not yet ") {
            let (text, hint) = with_hint(text);
            return Self::NotYet(text, hint);
        }
        if let Some(text) = line.strip_prefix("skipped ") {
            let (text, reason) = with_hint(text);
            return Self::Skipped(text, reason);
        }
        Self::Remark(line.to_owned())
    }
}

impl Steps {
    pub(super) fn add(&mut self, line: &str) {
        let line = Line::parse(line);
        // A step always counts, whatever remarks there are.
        if self.lines.len() < MAX_STEPS {
            self.lines.push(line);
        } else {
            self.left_out += 1;
            if matches!(line, Line::NotYet(..)) {
                self.lines.push(line);
                self.lines.truncate(MAX_STEPS + 1);
            }
        }
    }

    fn count(&self, wanted: impl Fn(&Line) -> bool) -> usize {
        self.lines.iter().filter(|line| wanted(line)).count()
    }

    fn done(&self) -> usize {
        self.count(|line| matches!(line, Line::Ok(_)))
    }

    fn open(&self) -> usize {
        self.count(|line| matches!(line, Line::NotYet(..)))
    }

    /// Whether there's any step at all.
    pub(super) fn is_empty(&self) -> bool {
        self.done() + self.open() == 0
    }

    /// Whether all of the exercise is done.
    pub(super) fn all_done(&self) -> bool {
        !self.is_empty() && self.open() == 0
    }

    /// All lines and the sum of them.
    pub(super) fn text(&self) -> String {
        let mut text = String::new();
        // Writing to a string can't fail.
        for line in &self.lines {
            let _ = match line {
                Line::Ok(step) => writeln!(text, "ok       {step}"),
                Line::NotYet(step, hint) => writeln!(text, "not yet  {step}{}", below(hint)),
                Line::Skipped(step, reason) => writeln!(text, "skipped  {step}{}", below(reason)),
                Line::Remark(line) => writeln!(text, "         {line}"),
            };
        }
        if self.left_out > 0 {
            let _ = writeln!(text, "         and {} lines more", self.left_out);
        }
        let (done, open) = (self.done(), self.open());
        let _ = write!(text, "\n{done} of {} done", done + open);
        match self.count(|line| matches!(line, Line::Skipped(..))) {
            0 => text.push('\n'),
            skipped => {
                let _ = writeln!(text, ", {skipped} skipped");
            }
        }
        text
    }
}

fn below(hint: &Option<String>) -> String {
    hint.as_ref().map(|hint| format!("\n         -> {hint}")).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn steps(lines: &[&str]) -> Steps {
        let mut steps = Steps::default();
        lines.iter().for_each(|line| steps.add(line));
        steps
    }

    #[test]
    fn lines_are_told_apart() {
        let text = |text: &str| text.to_owned();
        assert_eq!(Line::parse("ok it runs: yes"), Line::Ok(text("it runs: yes")));
        let not_yet = Line::NotYet(text("it runs"), Some(text("start it: now")));
        assert_eq!(Line::parse("not yet it runs: start it: now"), not_yet);
        assert_eq!(Line::parse("not yet at 10:30"), Line::NotYet(text("at 10:30"), None));
        let skipped = Line::Skipped(text("podman"), Some(text("not there")));
        assert_eq!(Line::parse("skipped podman: not there"), skipped);
        for remark in ["okay", "ok", "", "notyet x", "warning: ok x", " ok x"] {
            assert_eq!(Line::parse(remark), Line::Remark(text(remark)));
        }
    }

    #[test]
    fn summary_counts_what_is_done() {
        let some = steps(&["ok a", "not yet b: do it", "skipped c: no podman", "a remark"]);
        let expected = "ok       a\nnot yet  b\n         -> do it\nskipped  c\n         -> no podman\n         \
                        a remark\n\n1 of 2 done, 1 skipped\n";
        assert_eq!(some.text(), expected);
        assert!(!some.all_done());
        assert!(steps(&["ok a", "skipped b"]).all_done());
    }

    #[test]
    fn check_without_a_step_is_not_done() {
        for lines in [&[][..], &["all is well"], &["skipped a: b"]] {
            assert!(steps(lines).is_empty() && !steps(lines).all_done(), "{lines:?}");
        }
    }

    #[test]
    fn step_behind_too_many_lines_still_counts() {
        let mut lines = vec!["ok a"; 5 * MAX_STEPS];
        lines.push("not yet b");
        let steps = steps(&lines);
        assert!(!steps.all_done());
        assert!(steps.lines.len() <= MAX_STEPS + 1);
        assert!(steps.text().contains("lines more"), "{}", steps.text());
    }
}
