//! Times of many repetitions.

use std::time::Duration;

use crate::results::Latency;

/// Sums up how long each of many repetitions took.
pub fn latency(mut times: Vec<Duration>) -> Latency {
    times.sort_unstable();
    let Some(last) = times.len().checked_sub(1) else {
        return Latency::default();
    };
    // The nearest rank: a time that was really measured.
    let at = |percent: usize| nanoseconds(times[(last * percent).div_ceil(100)]);
    Latency { count: times.len() as u64, min_ns: at(0), median_ns: at(50), p99_ns: at(99) }
}

/// A duration in nanoseconds, as results have it.
pub(crate) fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// How many of something per second. A clock that doesn't move counts as one nanosecond: a number
/// that's too high rather than one that JSON doesn't have.
pub(crate) fn per_second(count: u64, elapsed: Duration) -> f64 {
    count as f64 / elapsed.max(Duration::from_nanos(1)).as_secs_f64()
}

/// How long each of many took, in nanoseconds.
pub(crate) fn nanoseconds_each(count: u64, elapsed: Duration) -> f64 {
    elapsed.as_nanos() as f64 / count.max(1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn latency_is_of_measured_times_by_rank() {
        let times = (1..=101).rev().map(Duration::from_nanos).collect();
        let expected = Latency { count: 101, min_ns: 1, median_ns: 51, p99_ns: 100 };
        assert_eq!(latency(times), expected);
    }

    #[test]
    fn latency_of_nothing_is_zero() {
        assert_eq!(latency(Vec::new()), Latency::default());
    }

    #[test]
    fn rate_of_a_clock_that_stands_still_is_finite() {
        assert!(per_second(10, Duration::ZERO).is_finite());
        assert!(nanoseconds_each(0, Duration::ZERO).is_finite());
    }
}
