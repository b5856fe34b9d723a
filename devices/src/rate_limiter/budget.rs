//! A bucket for what is dropped rather than kept waiting.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use super::{Bucket, Clock, TokenBucketConfig, monotonic};

/// Admits bytes as fast as a token bucket is filled. Any thread may ask.
pub struct ByteBudget(Mutex<State>);

struct State {
    bucket: Bucket,
    clock: Clock,
}

impl ByteBudget {
    /// Creates a budget with a full bucket; none if `config` means no limit.
    pub fn new(config: &TokenBucketConfig) -> Option<Self> {
        Self::with_clock(config, monotonic())
    }

    /// The same by another clock, for tests.
    pub fn with_clock(config: &TokenBucketConfig, clock: Clock) -> Option<Self> {
        let bucket = Bucket::new(config, clock())?;
        Some(Self(Mutex::new(State { bucket, clock })))
    }

    /// Returns how many of `wanted` bytes may pass now, and takes note that they do.
    pub fn admit(&self, wanted: usize) -> usize {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let now: Duration = (state.clock)();
        state.bucket.refill(now);
        let there = usize::try_from(state.bucket.available()).unwrap_or(usize::MAX);
        let admitted = wanted.min(there);
        state.bucket.spend(u64::try_from(admitted).unwrap_or(u64::MAX));
        admitted
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::HandClock;
    use super::*;

    fn budget(size: u64, one_time_burst: u64, refill_time_ms: u64) -> (ByteBudget, HandClock) {
        let clock = HandClock::default();
        let config = TokenBucketConfig { size, one_time_burst, refill_time_ms };
        (ByteBudget::with_clock(&config, clock.clock()).unwrap(), clock)
    }

    #[test]
    fn what_is_over_the_budget_is_not_admitted_until_time_has_passed() {
        let (budget, clock) = budget(100, 0, 1000);
        assert_eq!([budget.admit(60), budget.admit(60), budget.admit(1)], [60, 40, 0]);
        clock.advance(15);
        assert_eq!(budget.admit(10), 1);
        clock.advance(5);
        assert_eq!(budget.admit(10), 1, "halves of bytes add up");
        clock.advance(100_000);
        assert_eq!(budget.admit(1000), 100);
    }

    #[test]
    fn burst_is_admitted_once_beyond_the_bucket() {
        let (budget, clock) = budget(10, 5, 1000);
        assert_eq!(budget.admit(100), 15);
        clock.advance(100_000);
        assert_eq!(budget.admit(100), 10);
    }

    #[test]
    fn largest_bucket_admits_everything_and_an_empty_one_is_no_budget() {
        let (budget, _clock) = budget(u64::MAX, u64::MAX, u64::MAX);
        assert_eq!(budget.admit(usize::MAX), usize::MAX);
        let config =
            |size, refill_time_ms| TokenBucketConfig { size, one_time_burst: 7, refill_time_ms };
        assert!(ByteBudget::new(&config(0, 1)).is_none());
        assert!(ByteBudget::new(&config(1, 0)).is_none());
    }
}
