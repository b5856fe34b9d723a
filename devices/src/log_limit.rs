//! Log lines that a guest can cause at will, and that must not fill the host's disk.

use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How long one burst of lines is counted.
const PERIOD: Duration = Duration::from_secs(10);

/// How many lines one burst may have.
const LINES: u32 = 8;

/// Lets a few lines through in each period and counts the rest. One per place that logs.
#[derive(Default)]
pub struct LogLimit(Mutex<Option<Burst>>);

struct Burst {
    start: Instant,
    lines: u32,
}

impl LogLimit {
    /// Creates a limit that has let nothing through yet.
    pub const fn new() -> Self {
        Self(Mutex::new(None))
    }

    /// Logs `what` as a warning, unless there were too many lately; then says how many were left
    /// out with the first line of the next period.
    pub fn warn(&self, what: fmt::Arguments<'_>) {
        match self.admit(Instant::now()) {
            Admission::Refused => {}
            Admission::Admitted { left_out: 0 } => log::warn!("{what}"),
            Admission::Admitted { left_out } => {
                log::warn!("{what} ({left_out} lines like this were left out)");
            }
        }
    }

    fn admit(&self, now: Instant) -> Admission {
        let mut burst = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match &mut *burst {
            Some(current) if now.duration_since(current.start) < PERIOD => {
                current.lines = current.lines.saturating_add(1);
                if current.lines > LINES {
                    return Admission::Refused;
                }
                Admission::Admitted { left_out: 0 }
            }
            ended => {
                let left_out =
                    ended.take().map_or(0, |previous| previous.lines.saturating_sub(LINES));
                *ended = Some(Burst { start: now, lines: 1 });
                Admission::Admitted { left_out }
            }
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Admission {
    Refused,
    Admitted { left_out: u32 },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn burst_is_cut_off_and_counted_in_the_next_period() {
        let limit = LogLimit::new();
        let start = Instant::now();
        for _ in 0..LINES {
            assert_eq!(limit.admit(start), Admission::Admitted { left_out: 0 });
        }
        for _ in 0..5 {
            assert_eq!(limit.admit(start), Admission::Refused);
        }
        assert_eq!(limit.admit(start + PERIOD), Admission::Admitted { left_out: 5 });
        assert_eq!(limit.admit(start + PERIOD), Admission::Admitted { left_out: 0 });
        assert_eq!(limit.admit(start + PERIOD * 9), Admission::Admitted { left_out: 0 });
    }
}
