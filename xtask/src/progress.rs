//! Says what a long task is doing: a spinner on a terminal, a line before and after elsewhere.

use std::io::{self, IsTerminal};
use std::time::{Duration, Instant};

use anyhow::Result;
use indicatif::{ProgressBar, ProgressStyle};

/// Does a piece of work with its title on the standard error output, and then how long it took.
///
/// # Errors
///
/// Fails as `work` does.
pub(crate) fn step<T>(title: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
    let started = Instant::now();
    let spinner = if io::stderr().is_terminal() {
        let spinner = ProgressBar::new_spinner();
        if let Ok(style) = ProgressStyle::with_template("{spinner} {msg} ({elapsed})") {
            spinner.set_style(style);
        }
        spinner.set_message(title.to_owned());
        spinner.enable_steady_tick(Duration::from_millis(100));
        spinner
    } else {
        eprintln!("{title} ...");
        ProgressBar::hidden()
    };
    let result = work();
    spinner.finish_and_clear();
    let seconds = started.elapsed().as_secs_f64();
    match result {
        Ok(_) => eprintln!("{title}: done in {seconds:.1} s"),
        Err(_) => eprintln!("{title}: failed after {seconds:.1} s"),
    }
    result
}
