//! How often one child may be restarted, and how long to wait before each time.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

/// Restarts within [`WINDOW`] before a child counts as degraded.
pub(super) const RESTARTS_MAX: usize = 5;
/// How far back restarts count, and how long a degraded child must live to count as well again.
pub(super) const WINDOW: Duration = Duration::from_mins(1);
/// Wait before the first restart of a window; each further one doubles it.
const BACK_OFF_MIN: Duration = Duration::from_millis(20);
/// Longest wait, and the pace at which a degraded child is retried.
pub(super) const BACK_OFF_MAX: Duration = Duration::from_secs(30);

/// The restarts of one child that still count.
#[derive(Debug, Default)]
pub(super) struct Budget {
    recent: VecDeque<Instant>,
}

impl Budget {
    /// Takes one restart and says how long to wait before it; `None` when the budget is used up.
    pub(super) fn spend(&mut self, now: Instant) -> Option<Duration> {
        while self.recent.front().is_some_and(|&at| now.duration_since(at) > WINDOW) {
            self.recent.pop_front();
        }
        if self.recent.len() >= RESTARTS_MAX {
            return None;
        }
        let doublings = self.recent.len() as u32;
        self.recent.push_back(now);
        Some(BACK_OFF_MIN.saturating_mul(1 << doublings).min(BACK_OFF_MAX))
    }

    /// Forgets all restarts.
    pub(super) fn reset(&mut self) {
        self.recent.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn back_off_doubles_until_the_budget_is_used_up() {
        let (mut budget, now) = (Budget::default(), Instant::now());
        let waits: Vec<_> = (0..RESTARTS_MAX).filter_map(|_| budget.spend(now)).collect();
        assert_eq!(waits, [20, 40, 80, 160, 320].map(Duration::from_millis));
        assert_eq!(budget.spend(now), None);
    }

    #[test]
    fn restarts_older_than_the_window_do_not_count() {
        let (mut budget, now) = (Budget::default(), Instant::now());
        while budget.spend(now).is_some() {}
        assert_eq!(budget.spend(now + WINDOW), None);
        assert_eq!(budget.spend(now + WINDOW + Duration::from_secs(1)), Some(BACK_OFF_MIN));
    }
}
