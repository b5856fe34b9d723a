//! Token buckets that limit a device's bytes and operations per second.
//!
//! A bucket holds up to `size` tokens and refills, evenly, from empty to full in `refill_time_ms`:
//! the rate that lasts is `size / refill_time_ms`. `one_time_burst` tokens come on top, are spent
//! first, and never come back.
//!
//! **Overdraft.** A request that wants more tokens than a bucket can ever hold passes once the
//! bucket is full, and leaves it in debt. The debt is refilled at the same rate before anything
//! else passes, so large requests don't get more than the rate either.

mod budget;

use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};
use serde::{Deserialize, Serialize};

pub use budget::ByteBudget;

/// What one bucket holds and how fast it refills.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TokenBucketConfig {
    /// How many tokens (bytes or operations) the bucket holds. 0 means no limit.
    pub size: u64,
    /// How many tokens can be spent once, before those of the bucket.
    pub one_time_burst: u64,
    /// Milliseconds from empty to full. 0 means no limit; more than about 146 years counts as that.
    pub refill_time_ms: u64,
}

/// Limits of one device (or of one direction of it). Both apply at once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RateLimiterConfig {
    /// Limits bytes.
    pub bandwidth: Option<TokenBucketConfig>,
    /// Limits operations.
    pub ops: Option<TokenBucketConfig>,
}

/// Tells the time since a moment of its own choice; never goes back.
pub type Clock = Box<dyn Fn() -> Duration + Send>;

/// Admits requests at the rates of its [`RateLimiterConfig`].
///
/// While there is no limit it admits everything at the cost of one look at a flag. Several workers
/// share the buckets by [`share`](Self::share), each with a timer of its own, so that no worker
/// takes another's wake-up. Limits can change at any time, by a [`RateLimitControl`].
pub struct RateLimiter {
    limits: Option<Limits>,
}

struct Limits {
    shared: Arc<Shared>,
    timer: Arc<OwnedFd>,
    blocked: bool,
}

/// What all users of the same buckets share.
struct Shared {
    /// There is a bucket: the lock must be taken.
    limited: AtomicBool,
    buckets: Mutex<Buckets>,
}

impl RateLimiter {
    /// Creates a limiter, its buckets full.
    ///
    /// # Errors
    /// When the timer can't be made.
    pub fn new(config: &RateLimiterConfig) -> io::Result<Self> {
        Self::with_clock(config, monotonic())
    }

    /// Creates a limiter whose buckets refill by `clock`. Its timer stays the host's.
    ///
    /// # Errors
    /// When the timer can't be made.
    pub fn with_clock(config: &RateLimiterConfig, clock: Clock) -> io::Result<Self> {
        let now = clock();
        let bandwidth = config.bandwidth.and_then(|config| Bucket::new(&config, now));
        let ops = config.ops.and_then(|config| Bucket::new(&config, now));
        let limited = AtomicBool::new(bandwidth.is_some() || ops.is_some());
        let buckets = Mutex::new(Buckets { clock, bandwidth, ops, timers: Vec::new() });
        let limits = Limits::new(Arc::new(Shared { limited, buckets }))?;
        Ok(Self { limits: Some(limits) })
    }

    /// Creates a limiter that admits everything, for ever: it has no timer and no control.
    pub fn unlimited() -> Self {
        Self { limits: None }
    }

    /// Creates a limiter over the same buckets, with a timer of its own, for another worker.
    ///
    /// # Errors
    /// When the timer can't be made.
    pub fn share(&self) -> io::Result<Self> {
        let limits = match &self.limits {
            Some(limits) => Some(Limits::new(Arc::clone(&limits.shared))?),
            None => None,
        };
        Ok(Self { limits })
    }

    /// Returns what changes the limits, for all who share them.
    pub fn control(&self) -> RateLimitControl {
        RateLimitControl(self.limits.as_ref().map(|limits| Arc::clone(&limits.shared)))
    }

    /// Spends `ops` operations and `bytes` bytes, or neither.
    ///
    /// Returns whether both were there. If not, the [`timer`](Self::timer) becomes readable when
    /// it's worth another try; until then the answer to the same request stays no.
    pub fn consume(&mut self, ops: u64, bytes: u64) -> bool {
        let Some(limits) = &mut self.limits else { return true };
        limits.blocked = false;
        if !limits.shared.limited.load(Ordering::Acquire) {
            return true;
        }
        let mut buckets = limits.shared.lock();
        let Err(wait) = buckets.consume(ops, bytes) else { return true };
        // Under the lock: limits that are lifted right now must wake this timer, too.
        match arm(&limits.timer, wait) {
            Ok(()) => {
                limits.blocked = true;
                false
            }
            Err(error) => {
                // Blocking without a wake-up would stall the device for good.
                log::error!("can't arm a rate limiter's timer, request admitted: {error}");
                true
            }
        }
    }

    /// Tells whether the last request was refused and the timer hasn't been acknowledged since.
    pub fn is_blocked(&self) -> bool {
        self.limits.as_ref().is_some_and(|limits| limits.blocked)
    }

    /// Returns the file descriptor to wait on for being readable; none when there never is a limit.
    pub fn timer(&self) -> Option<BorrowedFd<'_>> {
        self.limits.as_ref().map(|limits| limits.timer.as_fd())
    }

    /// Takes note that the timer was readable; call it before trying again.
    pub fn acknowledge(&mut self) {
        let Some(limits) = &mut self.limits else { return };
        limits.blocked = false;
        // It fails only when nothing had expired, and then there is nothing to take note of.
        let _ = rustix::io::read(&limits.timer, &mut [0u8; 8]);
    }
}

/// Returns a clock that starts now.
fn monotonic() -> Clock {
    let start = Instant::now();
    Box::new(move || start.elapsed())
}

impl Limits {
    fn new(shared: Arc<Shared>) -> io::Result<Self> {
        let timer = Arc::new(new_timer()?);
        let mut buckets = shared.lock();
        buckets.timers.retain(|timer| timer.strong_count() > 0);
        buckets.timers.push(Arc::downgrade(&timer));
        drop(buckets);
        Ok(Self { shared, timer, blocked: false })
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Buckets> {
        self.buckets.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Changes the limits of a device while it works, and remembers its budget with a saved machine.
#[derive(Clone)]
pub struct RateLimitControl(Option<Arc<Shared>>);

/// What is left of a limiter's tokens.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RateLimiterState {
    /// Of bytes; `None` without such a limit.
    pub bandwidth: Option<BucketState>,
    /// Of operations.
    pub ops: Option<BucketState>,
}

/// What is left in one bucket.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct BucketState {
    /// Tokens; below 0 after a request larger than the bucket.
    pub tokens: i64,
    /// Tokens of the one-time burst.
    pub burst: u64,
}

impl RateLimitControl {
    /// Replaces the limits that `config` mentions by new ones, their buckets full: of size 0, a limit
    /// is lifted. Limits that it doesn't mention stay as they are. Who waits tries again at once.
    pub fn update(&self, config: &RateLimiterConfig) {
        let Some(shared) = &self.0 else { return };
        let mut buckets = shared.lock();
        let now = (buckets.clock)();
        if let Some(config) = &config.bandwidth {
            buckets.bandwidth = Bucket::new(config, now);
        }
        if let Some(config) = &config.ops {
            buckets.ops = Bucket::new(config, now);
        }
        let limited = buckets.bandwidth.is_some() || buckets.ops.is_some();
        shared.limited.store(limited, Ordering::Release);
        for timer in buckets.timers.iter().filter_map(Weak::upgrade) {
            if let Err(error) = arm(&timer, Duration::from_nanos(1)) {
                log::error!("can't tell who waits of new rate limits: {error}");
            }
        }
    }

    /// Returns what is left in the buckets.
    pub fn save(&self) -> RateLimiterState {
        let Some(shared) = &self.0 else { return RateLimiterState::default() };
        let mut buckets = shared.lock();
        let now = (buckets.clock)();
        let save = |bucket: &mut Option<Bucket>| bucket.as_mut().map(|bucket| bucket.save(now));
        RateLimiterState { bandwidth: save(&mut buckets.bandwidth), ops: save(&mut buckets.ops) }
    }

    /// Puts as much into the buckets as there was. A bucket never gets more than it holds, and one
    /// that wasn't there stays full.
    pub fn restore(&self, state: &RateLimiterState) {
        let Some(shared) = &self.0 else { return };
        let mut buckets = shared.lock();
        let now = (buckets.clock)();
        if let (Some(bucket), Some(saved)) = (&mut buckets.bandwidth, &state.bandwidth) {
            bucket.restore(saved, now);
        }
        if let (Some(bucket), Some(saved)) = (&mut buckets.ops, &state.ops) {
            bucket.restore(saved, now);
        }
    }
}

impl fmt::Debug for RateLimiter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RateLimiter")
            .field("limited", &self.limits.is_some())
            .field("blocked", &self.is_blocked())
            .finish()
    }
}

fn new_timer() -> io::Result<OwnedFd> {
    let flags = TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK;
    Ok(timerfd_create(TimerfdClockId::Monotonic, flags)?)
}

/// Lets `timer` expire once after `wait`, which isn't zero (that would disarm it).
fn arm(timer: &OwnedFd, wait: Duration) -> io::Result<()> {
    let once = Itimerspec {
        it_interval: Timespec { tv_sec: 0, tv_nsec: 0 },
        it_value: Timespec {
            tv_sec: i64::try_from(wait.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: wait.subsec_nanos().into(),
        },
    };
    timerfd_settime(timer, TimerfdTimerFlags::empty(), &once)?;
    Ok(())
}

struct Buckets {
    clock: Clock,
    bandwidth: Option<Bucket>,
    ops: Option<Bucket>,
    /// Of everybody who may wait for tokens.
    timers: Vec<Weak<OwnedFd>>,
}

impl Buckets {
    /// Spends from both buckets or from none; `Err` is how long it takes until both have enough.
    fn consume(&mut self, ops: u64, bytes: u64) -> Result<(), Duration> {
        let now = (self.clock)();
        let mut wait = None;
        for (bucket, tokens) in [(&mut self.bandwidth, bytes), (&mut self.ops, ops)] {
            if let Some(bucket) = bucket {
                bucket.refill(now);
                wait = wait.max(bucket.wait_for(tokens));
            }
        }
        if let Some(wait) = wait {
            return Err(wait);
        }
        for (bucket, tokens) in [(&mut self.bandwidth, bytes), (&mut self.ops, ops)] {
            if let Some(bucket) = bucket {
                bucket.spend(tokens);
            }
        }
        Ok(())
    }
}

/// The longest refill time, in nanoseconds. A level then stays below 2^126 either way.
const MAX_REFILL_NS: u64 = 1 << 62;

/// One bucket. Its level counts in tokens times `refill_ns`, so that a nanosecond adds exactly
/// `size` and no fraction of a token is ever lost.
struct Bucket {
    size: u64,
    refill_ns: u64,
    burst: u64,
    level: i128,
    refilled_at: Duration,
}

impl Bucket {
    /// Creates a full bucket; none when `config` means no limit.
    fn new(config: &TokenBucketConfig, now: Duration) -> Option<Self> {
        let refill_ns = config.refill_time_ms.saturating_mul(1_000_000).min(MAX_REFILL_NS);
        if config.size == 0 || refill_ns == 0 {
            return None;
        }
        let mut bucket = Self {
            size: config.size,
            refill_ns,
            burst: config.one_time_burst,
            level: 0,
            refilled_at: now,
        };
        bucket.level = bucket.scaled(config.size);
        Some(bucket)
    }

    /// Converts tokens to the level's unit: below 2^126 by [`MAX_REFILL_NS`].
    fn scaled(&self, tokens: u64) -> i128 {
        i128::from(tokens).saturating_mul(i128::from(self.refill_ns))
    }

    fn save(&mut self, now: Duration) -> BucketState {
        self.refill(now);
        let tokens = self.level.div_euclid(i128::from(self.refill_ns));
        let tokens = i64::try_from(tokens).unwrap_or(if tokens < 0 { i64::MIN } else { i64::MAX });
        BucketState { tokens, burst: self.burst }
    }

    fn restore(&mut self, saved: &BucketState, now: Duration) {
        let level = i128::from(saved.tokens).saturating_mul(i128::from(self.refill_ns));
        self.level = level.min(self.scaled(self.size));
        self.burst = saved.burst.min(self.burst);
        self.refilled_at = now;
    }

    fn refill(&mut self, now: Duration) {
        let elapsed = now.saturating_sub(self.refilled_at).as_nanos();
        let gain =
            i128::try_from(elapsed).unwrap_or(i128::MAX).saturating_mul(i128::from(self.size));
        self.level = self.level.saturating_add(gain).min(self.scaled(self.size));
        self.refilled_at = self.refilled_at.max(now);
    }

    /// Tells how long it takes until a request for `tokens` passes; none if it passes now.
    fn wait_for(&self, tokens: u64) -> Option<Duration> {
        // The overdraft: no request waits for more than a full bucket.
        let needed = self.scaled(tokens.saturating_sub(self.burst).min(self.size));
        let missing = u128::try_from(needed.saturating_sub(self.level)).ok().filter(|&n| n > 0)?;
        // Requests for nothing pass, except while a debt is left: they are requests all the same.
        let wait_ns = missing.div_ceil(u128::from(self.size));
        Some(Duration::from_nanos(u64::try_from(wait_ns).unwrap_or(u64::MAX)))
    }

    /// Returns how many tokens could be spent now without a debt.
    fn available(&self) -> u64 {
        let level = self.level.max(0).div_euclid(i128::from(self.refill_ns));
        u64::try_from(level).unwrap_or(u64::MAX).saturating_add(self.burst)
    }

    fn spend(&mut self, tokens: u64) {
        let from_burst = tokens.min(self.burst);
        self.burst = self.burst.saturating_sub(from_burst);
        self.level = self.level.saturating_sub(self.scaled(tokens.saturating_sub(from_burst)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::event::{PollFd, PollFlags, poll};
    use std::sync::atomic::{AtomicU64, Ordering};

    /// A clock that stands still until a test moves it.
    #[derive(Clone, Default)]
    pub(super) struct HandClock(Arc<AtomicU64>);

    impl HandClock {
        pub(super) fn advance(&self, ms: u64) {
            self.0.fetch_add(ms, Ordering::Relaxed);
        }

        pub(super) fn clock(&self) -> Clock {
            let ms = Arc::clone(&self.0);
            Box::new(move || Duration::from_millis(ms.load(Ordering::Relaxed)))
        }
    }

    fn bucket(size: u64, one_time_burst: u64, refill_time_ms: u64) -> Option<TokenBucketConfig> {
        Some(TokenBucketConfig { size, one_time_burst, refill_time_ms })
    }

    fn limiter(
        bandwidth: Option<TokenBucketConfig>,
        ops: Option<TokenBucketConfig>,
    ) -> (RateLimiter, HandClock) {
        let clock = HandClock::default();
        let config = RateLimiterConfig { bandwidth, ops };
        (RateLimiter::with_clock(&config, clock.clock()).unwrap(), clock)
    }

    /// Says how long the armed timer has still to run.
    fn remaining(limiter: &RateLimiter) -> Duration {
        let left = rustix::time::timerfd_gettime(limiter.timer().unwrap()).unwrap().it_value;
        Duration::new(u64::try_from(left.tv_sec).unwrap(), u32::try_from(left.tv_nsec).unwrap())
    }

    #[test]
    fn limiter_without_limits_admits_everything() {
        for config in [None, bucket(0, 7, 100), bucket(100, 7, 0)] {
            let (mut limiter, _) = limiter(config, config);
            assert!(limiter.consume(u64::MAX, u64::MAX));
            assert!(limiter.share().unwrap().consume(u64::MAX, u64::MAX));
        }
    }

    #[test]
    fn bucket_admits_its_size_and_then_its_rate() {
        let (mut limiter, clock) = limiter(bucket(1000, 0, 100), None);
        assert!(limiter.consume(1, 1000));
        assert!(!limiter.consume(1, 1));
        assert!(limiter.is_blocked());
        clock.advance(50);
        assert!(limiter.consume(1, 500));
        assert!(!limiter.consume(1, 1));
        clock.advance(10_000);
        assert!(limiter.consume(1, 1000), "an idle bucket is full");
        assert!(!limiter.consume(1, 1), "but never holds more than its size");
    }

    #[test]
    fn burst_is_spent_first_and_never_comes_back() {
        let (mut limiter, clock) = limiter(None, bucket(10, 5, 100));
        assert!(limiter.consume(15, 0));
        assert!(!limiter.consume(1, 0));
        clock.advance(1000);
        assert!(limiter.consume(10, 0));
        assert!(!limiter.consume(1, 0));
    }

    #[test]
    fn request_refused_by_one_bucket_spends_nothing_of_the_other() {
        let (mut limiter, _) = limiter(bucket(1000, 0, 100), bucket(1, 0, 100));
        assert!(limiter.consume(1, 400));
        assert!(!limiter.consume(1, 400));
        assert!(limiter.consume(0, 600));
    }

    #[test]
    fn request_larger_than_the_bucket_passes_when_it_is_full_and_leaves_a_debt() {
        let (mut limiter, clock) = limiter(bucket(1000, 0, 100), None);
        assert!(limiter.consume(1, 1));
        assert!(!limiter.consume(1, 5000));
        clock.advance(1);
        assert!(limiter.consume(1, 5000));
        clock.advance(400);
        assert!(!limiter.consume(1, 1), "4000 bytes of debt take 400 ms");
        clock.advance(1);
        assert!(limiter.consume(1, 10));
    }

    #[test]
    fn timer_runs_as_long_as_the_slower_bucket_needs() {
        let (mut limiter, _) = limiter(bucket(1000, 0, 100_000), bucket(1, 0, 1_000_000));
        assert!(limiter.consume(1, 1000));
        assert!(!limiter.consume(1, 500));
        let left = remaining(&limiter);
        assert!(left > Duration::from_secs(900) && left <= Duration::from_secs(1000), "{left:?}");
        assert!(!limiter.consume(0, 500));
        assert!(remaining(&limiter) <= Duration::from_secs(50));
    }

    #[test]
    fn timer_becomes_readable_and_quiet_again_once_acknowledged() {
        let (mut limiter, clock) = limiter(None, bucket(1, 0, 1));
        assert!(limiter.consume(1, 0));
        assert!(!limiter.consume(1, 0));
        let timer = limiter.timer().unwrap();
        poll(&mut [PollFd::new(&timer, PollFlags::IN)], None).unwrap();
        clock.advance(1);
        limiter.acknowledge();
        assert!(!limiter.is_blocked());
        let timer = limiter.timer().unwrap();
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        assert_eq!(poll(&mut [PollFd::new(&timer, PollFlags::IN)], Some(&now)).unwrap(), 0);
        assert!(limiter.consume(1, 0));
    }

    #[test]
    fn shared_limiters_spend_the_same_tokens_and_wake_on_their_own() {
        let (mut first, _) = limiter(None, bucket(2, 0, 1_000_000));
        let mut second = first.share().unwrap();
        assert!(first.consume(2, 0));
        assert!(!second.consume(1, 0));
        assert!(second.is_blocked() && !first.is_blocked());
        assert!(remaining(&second) > Duration::ZERO);
        assert_eq!(remaining(&first), Duration::ZERO);
    }

    #[test]
    fn extreme_configurations_neither_overflow_nor_block_for_ever() {
        for config in [
            bucket(u64::MAX, u64::MAX, u64::MAX),
            bucket(u64::MAX, 0, 1),
            bucket(1, 0, u64::MAX),
            bucket(1, u64::MAX, 1),
        ] {
            let (mut limiter, clock) = limiter(config, config);
            for _ in 0..4 {
                while limiter.consume(u64::MAX, u64::MAX) {}
                assert!(remaining(&limiter) > Duration::ZERO);
                clock.advance(1 << 60);
            }
        }
    }

    #[test]
    fn new_limits_hold_at_once_and_wake_who_waits_for_the_old() {
        let (mut first, _) = limiter(None, bucket(1, 0, 1_000_000));
        let mut second = first.share().unwrap();
        assert!(first.consume(1, 0) && !second.consume(1, 0));
        first.control().update(&RateLimiterConfig { bandwidth: bucket(10, 0, 1000), ops: None });
        assert!(!second.consume(1, 0), "the limit of operations wasn't mentioned");
        first.control().update(&RateLimiterConfig { bandwidth: None, ops: bucket(0, 0, 0) });
        let timer = second.timer().unwrap();
        let patience = Timespec { tv_sec: 20, tv_nsec: 0 };
        let woken = poll(&mut [PollFd::new(&timer, PollFlags::IN)], Some(&patience));
        assert_eq!(woken.unwrap(), 1);
        second.acknowledge();
        assert!(second.consume(100, 10));
        assert!(!first.consume(1, 1), "the new limit of bytes is everybody's");
        first.control().update(&RateLimiterConfig { bandwidth: bucket(0, 0, 0), ops: None });
        assert!(second.consume(u64::MAX, u64::MAX));
    }

    #[test]
    fn budget_survives_a_save_and_never_exceeds_its_bucket() {
        let (mut old, _) = limiter(bucket(1000, 50, 100), bucket(10, 0, 100));
        assert!(old.consume(3, 350));
        let saved = old.control().save();
        assert_eq!(saved.bandwidth, Some(BucketState { tokens: 700, burst: 0 }));
        assert_eq!(saved.ops, Some(BucketState { tokens: 7, burst: 0 }));

        let (mut new, _) = limiter(bucket(1000, 50, 100), bucket(10, 0, 100));
        new.control().restore(&saved);
        assert!(!new.consume(8, 1) && new.consume(7, 700) && !new.consume(0, 1));
        assert_eq!(new.control().save().bandwidth, Some(BucketState { tokens: 0, burst: 0 }));

        let hostile = |tokens| Some(BucketState { tokens, burst: u64::MAX });
        for tokens in [i64::MAX, i64::MIN] {
            let state = RateLimiterState { bandwidth: hostile(tokens), ops: hostile(tokens) };
            let (mut new, clock) = limiter(bucket(1000, 50, u64::MAX), bucket(10, 0, 100));
            new.control().restore(&state);
            assert_eq!(new.consume(10, 1050), tokens > 0);
            assert!(!new.consume(1, 1));
            clock.advance(1 << 40);
            let _ = new.consume(1, 1);
        }
    }

    #[test]
    fn slow_trickle_of_refills_loses_no_fraction_of_a_token() {
        let (mut limiter, clock) = limiter(None, bucket(3, 0, 1000));
        assert!(limiter.consume(3, 0));
        for _ in 0..333 {
            clock.advance(1);
            assert!(!limiter.consume(1, 0));
        }
        clock.advance(1);
        assert!(limiter.consume(1, 0));
    }
}
