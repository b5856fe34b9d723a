//! Whether a container is started again after its process's end, and when: Docker's rules.

use std::time::Duration;

use crate::RestartPolicy;

/// The first delay; each is twice the one before, up to the last.
const FIRST_DELAY: Duration = Duration::from_millis(100);
const LAST_DELAY: Duration = Duration::from_secs(60);

/// A process that ran for so long begins with the first delay again.
const LONG_RUN: Duration = Duration::from_secs(10);

/// The delays between a container's restarts.
#[derive(Debug)]
pub(super) struct Backoff {
    next: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self { next: FIRST_DELAY }
    }
}

impl Backoff {
    /// How long to wait after a process that ran for so long.
    pub(super) fn delay(&mut self, ran: Duration) -> Duration {
        if ran >= LONG_RUN {
            self.next = FIRST_DELAY;
        }
        let delay = self.next;
        self.next = delay.saturating_mul(2).min(LAST_DELAY);
        delay
    }
}

/// Whether the policy wants the container started again, which has been `restarts` times.
pub(super) const fn is_wanted(policy: RestartPolicy, exit_code: i32, restarts: u32) -> bool {
    match policy {
        RestartPolicy::No => false,
        RestartPolicy::OnFailure { max_retries } => {
            exit_code != 0 && (max_retries == 0 || restarts < max_retries)
        }
        RestartPolicy::Always | RestartPolicy::UnlessStopped => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_up_to_a_minute_and_begin_anew_after_a_long_run() {
        let mut backoff = Backoff::default();
        let delays: Vec<_> = (0..12).map(|_| backoff.delay(Duration::ZERO).as_millis()).collect();
        assert_eq!(delays[..4], [100, 200, 400, 800]);
        assert_eq!(delays[10..], [60_000, 60_000]);
        assert_eq!(backoff.delay(LONG_RUN), FIRST_DELAY);
    }

    #[test]
    fn policies_are_dockers() {
        let on_failure = |max_retries| RestartPolicy::OnFailure { max_retries };
        assert!(!is_wanted(RestartPolicy::No, 1, 0));
        assert!(!is_wanted(on_failure(0), 0, 0));
        assert!(is_wanted(on_failure(0), 1, 1000));
        assert!(is_wanted(on_failure(2), 1, 1) && !is_wanted(on_failure(2), 1, 2));
        assert!(is_wanted(RestartPolicy::Always, 0, 9));
        assert!(is_wanted(RestartPolicy::UnlessStopped, 0, 9));
    }
}
