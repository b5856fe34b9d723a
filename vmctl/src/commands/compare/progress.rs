//! Says on standard error what goes on: in a line that changes on a terminal, in a line for each
//! group of measurements elsewhere.

use std::io::{IsTerminal, stderr};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use compare::workloads::Observer;
use indicatif::ProgressBar;

use crate::errors::notice;

/// How often the line moves.
const TICK: Duration = Duration::from_millis(120);

/// Tells the progress.
pub(super) struct Progress {
    quiet: bool,
    bar: Option<ProgressBar>,
    last: Mutex<String>,
}

impl Progress {
    pub(super) fn new(quiet: bool) -> Self {
        let bar = (!quiet && stderr().is_terminal()).then(|| {
            let bar = ProgressBar::new_spinner();
            bar.enable_steady_tick(TICK);
            bar
        });
        Self { quiet, bar, last: Mutex::default() }
    }

    pub(super) fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

impl Observer for Progress {
    fn progress(&self, text: &str) {
        if let Some(bar) = &self.bar {
            bar.set_message(text.to_owned());
            return;
        }
        if self.quiet {
            return;
        }
        let group = text.split([',', ':']).next().unwrap_or(text).to_owned();
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if *last != group {
            notice(&format!("Measuring: {group}"));
            *last = group;
        }
    }
}
