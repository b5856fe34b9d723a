//! Shows how far a kernel's build is: a bar on a terminal, a line now and then elsewhere.

use std::io::{self, IsTerminal};
use std::time::{Duration, Instant};

use indicatif::{HumanDuration, ProgressBar, ProgressStyle};

/// What a build compiles, links and generates, counted once; only the bar's length depends on it.
const EXPECTED_STEPS: u64 = 2230;

/// Steps between two lines where there is no terminal.
const STEPS_PER_LINE: u64 = 250;

/// The progress of one build, on the standard error output.
pub(super) struct Progress {
    bar: ProgressBar,
    started: Instant,
    is_terminal: bool,
}

impl Progress {
    /// Starts the clock and draws the bar.
    pub(super) fn start() -> Self {
        let is_terminal = io::stderr().is_terminal();
        let bar =
            if is_terminal { ProgressBar::new(EXPECTED_STEPS) } else { ProgressBar::hidden() };
        let template = "guest kernel: {msg:12} [{bar:30}] {pos}/{len} {elapsed} (ETA {eta})";
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style.progress_chars("=> "));
        }
        bar.enable_steady_tick(Duration::from_millis(250));
        Self { bar, started: Instant::now(), is_terminal }
    }

    /// Says what the build does from now on.
    pub(super) fn stage(&self, stage: &'static str) {
        self.bar.set_message(stage);
        self.line(stage);
    }

    /// Counts a line that `make` printed, if it announces a step ("  CC      fs/ext4/super.o").
    pub(super) fn output_line(&self, line: &str) {
        if !line.starts_with("  ") {
            return;
        }
        self.bar.inc(1);
        let done = self.bar.position();
        if done > EXPECTED_STEPS {
            self.bar.set_length(done);
        }
        if done.is_multiple_of(STEPS_PER_LINE) {
            self.line(&format!("{done} of about {EXPECTED_STEPS} steps"));
        }
    }

    /// Takes the bar away and says how long it took.
    pub(super) fn finish(self) {
        self.bar.finish_and_clear();
        eprintln!("guest kernel: built in {}", HumanDuration(self.started.elapsed()));
    }

    fn line(&self, text: &str) {
        if !self.is_terminal {
            let seconds = self.started.elapsed().as_secs();
            eprintln!("guest kernel: {text} ({seconds} s)");
        }
    }
}
