//! Reads what Rust's test programs print, and counts.

use std::collections::{HashMap, VecDeque};
use std::fs::File;
use std::io::{self, Write};
use std::mem;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result};

/// In the reason for which a test is ignored that another one runs, as a process of its own.
const RUN_ALONE: &str = ": run alone by ";

/// The most lines kept of what a failed test printed.
const MAX_SAID: usize = 40;

/// A test that failed, and where to read about it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Failure {
    pub(super) name: String,
    pub(super) log: PathBuf,
    /// The last lines that it printed: who sees only the output sees why, too.
    pub(super) said: VecDeque<String>,
}

/// What came of some tests.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Results {
    pub(super) passed: usize,
    pub(super) failed: Vec<Failure>,
    /// Names and reasons.
    pub(super) skipped: Vec<(String, String)>,
}

impl Results {
    /// Counts a failure.
    pub(super) fn fail(&mut self, name: &str, log: &Path) {
        let said = VecDeque::new();
        self.failed.push(Failure { name: name.to_owned(), log: log.to_owned(), said });
    }

    /// Adds others.
    pub(super) fn add(&mut self, other: Self) {
        let Self { passed, failed, skipped } = other;
        self.passed += passed;
        self.failed.extend(failed);
        self.skipped.extend(skipped);
    }
}

/// Takes the output of test programs run with `--show-output`: logs it, parses it and shows the
/// lines that matter. Clones write to the same log and parser.
#[derive(Clone)]
pub(super) struct Sink {
    shared: Arc<Mutex<Shared>>,
    /// The beginning of a line whose end hasn't come yet.
    line: Vec<u8>,
    is_errors: bool,
}

struct Shared {
    name: String,
    log: File,
    parser: Parser,
    shows_each_test: bool,
}

impl Sink {
    /// Creates a sink that logs to `log`; `shows_each_test` as it ends, on standard error.
    ///
    /// # Errors
    ///
    /// Fails when the log can't be created.
    pub(super) fn new(name: &str, log: &Path, shows_each_test: bool) -> Result<Self> {
        let file = File::create(log).with_context(|| format!("cannot create {}", log.display()))?;
        let shared =
            Shared { name: name.to_owned(), log: file, parser: Parser::default(), shows_each_test };
        let shared = Arc::new(Mutex::new(shared));
        Ok(Self { shared, line: Vec::new(), is_errors: false })
    }

    /// Returns a sink for the programs' standard error, which is only logged.
    pub(super) fn for_errors(&self) -> Self {
        Self { shared: Arc::clone(&self.shared), line: Vec::new(), is_errors: true }
    }

    /// Returns the results. `problem` says how the program ended if not well: unless a test's
    /// failure explains it, that counts as a failure named after `name`.
    pub(super) fn finish(self, name: &str, problem: String, log: &Path) -> Results {
        let mut shared = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        let parser = mem::take(&mut shared.parser);
        let saw_summary = parser.saw_summary;
        let mut results = parser.finish(log);
        if !problem.is_empty() && results.failed.is_empty() {
            results.fail(&format!("{name} ({problem})"), log);
        } else if problem.is_empty() && !saw_summary {
            results.fail(&format!("{name} (ran no test)"), log);
        }
        results
    }
}

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut shared = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        shared.log.write_all(bytes)?;
        if self.is_errors {
            return Ok(bytes.len());
        }
        self.line.extend_from_slice(bytes);
        while let Some(end) = self.line.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.line.drain(..=end).collect();
            let line = String::from_utf8_lossy(&line);
            let line = line.trim_end();
            shared.parser.line(line);
            if shared.shows_each_test && line.starts_with("test ") {
                eprintln!("{}: {line}", shared.name);
            }
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Understands the output of any number of test programs, one after the other.
#[derive(Default)]
struct Parser {
    passed: usize,
    failed: Vec<String>,
    skipped: Vec<(String, String)>,
    /// The names listed since the last `failures:`.
    listed: Vec<String>,
    in_list: bool,
    /// The test whose output is being shown.
    shown: Option<String>,
    /// Whether that's of the failed ones.
    shows_failures: bool,
    /// The last lines of what the failed ones printed.
    said: HashMap<String, VecDeque<String>>,
    saw_summary: bool,
}

impl Parser {
    fn line(&mut self, line: &str) {
        if let Some(rest) = line.strip_prefix("test result: ") {
            self.summary(rest);
        } else if let Some(rest) = line.strip_prefix("test ") {
            self.ignored(rest);
        } else if line == "failures:" {
            // Printed twice: before the failed tests' output, and before their names.
            (self.in_list, self.shown, self.shows_failures) = (true, None, true);
            self.listed.clear();
        } else if line == "successes:" {
            (self.in_list, self.shown, self.shows_failures) = (false, None, false);
        } else if let Some(name) =
            line.strip_prefix("---- ").and_then(|line| line.strip_suffix(" stdout ----"))
        {
            (self.in_list, self.shown) = (false, Some(name.to_owned()));
        } else if let (Some(name), Some(reason)) = (&self.shown, line.strip_prefix("SKIPPED: ")) {
            self.skipped.push((name.clone(), reason.to_owned()));
            // It has been or will be counted as passed by a summary.
            self.passed = self.passed.wrapping_sub(1);
        } else if let (true, Some(name)) = (self.in_list, line.strip_prefix("    ")) {
            self.listed.push(name.to_owned());
        } else if line.eq_ignore_ascii_case("stack backtrace:") {
            // It's long, and says little that the message doesn't.
            self.shown = None;
        } else if let (Some(name), true) = (&self.shown, self.shows_failures) {
            let said = self.said.entry(name.clone()).or_default();
            if said.len() == MAX_SAID {
                said.pop_front();
            }
            said.push_back(line.to_owned());
        }
    }

    /// `NAME ... ignored`, or `NAME ... ignored, REASON`.
    fn ignored(&mut self, rest: &str) {
        let Some((name, outcome)) = rest.split_once(" ... ") else { return };
        let Some(reason) = outcome.strip_prefix("ignored") else { return };
        let reason = reason.strip_prefix(", ").unwrap_or("no reason given");
        if reason.contains(RUN_ALONE) {
            return;
        }
        self.skipped.push((name.to_owned(), reason.to_owned()));
    }

    /// `ok. 2 passed; 0 failed; 1 ignored; …`
    fn summary(&mut self, rest: &str) {
        let passed = rest.split([' ', ';']).zip(rest.split([' ', ';']).skip(1));
        let count = passed.filter(|(_, word)| *word == "passed").find_map(|(n, _)| n.parse().ok());
        self.passed = self.passed.wrapping_add(count.unwrap_or(0));
        self.failed.append(&mut self.listed);
        (self.in_list, self.shown, self.saw_summary) = (false, None, true);
    }

    fn finish(mut self, log: &Path) -> Results {
        let failed = self.failed.into_iter().chain(self.listed).map(|name| Failure {
            said: self.said.remove(&name).unwrap_or_default(),
            name,
            log: log.to_owned(),
        });
        let failed = failed.collect();
        Results { passed: self.passed, failed, skipped: self.skipped }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OUTPUT: &str = "\
running 5 tests
test a ... ok
test b ... FAILED
test c ... ignored, needs two hosts
test d ... ok
test e ... ignored, counts files: run alone by a

successes:

---- d stdout ----
SKIPPED: no io_uring

successes:
    a
    d

failures:

---- b stdout ----
    indented, but no name

failures:
    b

test result: FAILED. 2 passed; 1 failed; 2 ignored; 0 measured; 0 filtered out; finished in 0.01s
";

    fn sink(dir: &tempfile::TempDir, output: &str) -> (Sink, PathBuf) {
        let log = dir.path().join("log");
        let mut sink = Sink::new("suite", &log, false).unwrap();
        // In pieces, as a pipe delivers it.
        for piece in output.as_bytes().chunks(7) {
            sink.write_all(piece).unwrap();
        }
        (sink, log)
    }

    #[test]
    fn each_test_is_counted_once_and_skipped_ones_with_their_reasons() {
        let dir = tempfile::tempdir().unwrap();
        let (sink, log) = sink(&dir, &OUTPUT.repeat(2));
        let results = sink.finish("suite", "exit status: 101".to_owned(), &log);
        let skipped = [("c", "needs two hosts"), ("d", "no io_uring")]
            .map(|(name, reason)| (name.to_owned(), reason.to_owned()));
        assert_eq!(results.passed, 2);
        assert_eq!(results.failed.iter().map(|f| f.name.as_str()).collect::<Vec<_>>(), ["b", "b"]);
        assert_eq!(results.skipped, [skipped.clone(), skipped].concat());
        assert_eq!(std::fs::read_to_string(log).unwrap(), OUTPUT.repeat(2));
    }

    #[test]
    fn failed_test_has_the_last_lines_that_it_printed() {
        let dir = tempfile::tempdir().unwrap();
        let many = "line\n".repeat(MAX_SAID + 1) + "last";
        for (printed, count, last) in [
            ("    indented, but no name", 1, "    indented, but no name"),
            (&many, MAX_SAID, "last"),
        ] {
            let (written, log) = sink(
                &dir,
                &OUTPUT.replace("    indented, but no name\n\n", &format!("{printed}\n")),
            );
            let results = written.finish("suite", "exit status: 101".to_owned(), &log);
            let said = &results.failed[0].said;
            assert_eq!((said.len(), said.back().map(String::as_str)), (count, Some(last)));
        }
    }

    #[test]
    fn program_that_dies_without_a_failed_test_is_a_failure() {
        let dir = tempfile::tempdir().unwrap();
        let (sink, log) = sink(&dir, "running 2 tests\ntest a ... ok\n");
        let results = sink.finish("suite", "signal: 6".to_owned(), &log);
        assert_eq!(results.failed[0].name, "suite (signal: 6)");
    }

    #[test]
    fn program_whose_tests_are_all_filtered_out_is_no_failure() {
        let dir = tempfile::tempdir().unwrap();
        let summary =
            "test result: ok. 0 passed; 0 failed; 0 ignored; 0 measured; 9 filtered out\n";
        let (sink, log) = sink(&dir, summary);
        assert_eq!(sink.finish("suite", String::new(), &log), Results::default());
    }

    #[test]
    fn program_that_prints_nothing_is_a_failure() {
        let dir = tempfile::tempdir().unwrap();
        let (sink, log) = sink(&dir, "");
        let results = sink.finish("suite", String::new(), &log);
        assert_eq!(results.failed[0].name, "suite (ran no test)");
    }
}
