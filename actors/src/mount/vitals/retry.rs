//! How often a mount may repeat: a store in trouble must not get a multiple of its usual load.
//!
//! A token bucket as in Finagle's `RetryBudget`: each request earns a fraction of a repetition, each repetition
//! spends one, and a trickle comes by itself so that quiet mounts repeat, too. Beside it, only a part of the
//! operations in flight may be repetitions at the same time.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use forebay_core::METRICS;
use prometheus::IntCounter;
use tokio::time::Instant;

use crate::config::MountLimits;

/// Wait before the first repetition; each further one doubles it, and each is spread over ±50 %.
const BACK_OFF_MIN: Duration = Duration::from_millis(50);
/// Longest such wait.
const BACK_OFF_MAX: Duration = Duration::from_secs(5);
/// Repetitions that come by themselves, per second.
const TRICKLE_PER_SECOND: f64 = 1.0;
/// What the trickle fills up to, and what a mount starts with.
const FLOOR: f64 = 10.0;
/// Most repetitions that requests can save up.
const SAVED_MAX: f64 = 100.0;
/// One of this many operations in flight may be a repetition.
const OPERATIONS_PER_RETRY: usize = 4;

/// The repetitions that one mount has left.
pub(super) struct RetryBudget {
    purse: Mutex<Purse>,
    under_way: AtomicUsize,
    sent: IntCounter,
    refused: IntCounter,
}

struct Purse {
    retries: f64,
    filled: Instant,
}

/// Leave for one repetition, from its back-off to its end.
pub(super) struct Retry<'a>(&'a AtomicUsize);

impl RetryBudget {
    pub(super) fn new(mount: &str) -> Self {
        let counter = |outcome| METRICS.retries.with_label_values(&[mount, outcome]);
        Self {
            purse: Mutex::new(Purse { retries: FLOOR, filled: Instant::now() }),
            under_way: AtomicUsize::new(0),
            sent: counter("sent"),
            refused: counter("refused"),
        }
    }

    /// A request is sent for the first time.
    pub(super) fn earn(&self, limits: &MountLimits) {
        self.change(|purse| {
            let earned = purse.retries + f64::from(limits.retry_percent) / 100.0;
            purse.retries = earned.min(SAVED_MAX).max(purse.retries);
        });
    }

    /// Leave to repeat a request, if there is any.
    pub(super) fn take(&self, limits: &MountLimits) -> Option<Retry<'_>> {
        let most = limits.operations.div_ceil(OPERATIONS_PER_RETRY);
        let one_more = |now: usize| (now < most).then_some(now + 1);
        if self.under_way.fetch_update(Ordering::AcqRel, Ordering::Acquire, one_more).is_err() {
            self.refused.inc();
            return None;
        }
        let retry = Retry(&self.under_way);
        let is_paid = self.change(|purse| {
            let is_paid = purse.retries >= 1.0;
            purse.retries -= f64::from(u8::from(is_paid));
            is_paid
        });
        let counter = if is_paid { &self.sent } else { &self.refused };
        counter.inc();
        is_paid.then_some(retry)
    }

    fn change<T>(&self, change: impl FnOnce(&mut Purse) -> T) -> T {
        let mut purse = self.purse.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let trickled = purse.retries + now.duration_since(purse.filled).as_secs_f64() * TRICKLE_PER_SECOND;
        purse.retries = trickled.min(FLOOR).max(purse.retries);
        purse.filled = now;
        change(&mut purse)
    }
}

impl Drop for Retry<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

/// The wait before repetition number `attempt`, counted from 1.
pub(super) fn back_off(attempt: usize) -> Duration {
    let doublings = u32::try_from(attempt - 1).unwrap_or(u32::MAX).min(16);
    let wait = BACK_OFF_MIN.saturating_mul(1 << doublings).min(BACK_OFF_MAX);
    wait.mul_f64(0.5 + fastrand::f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spend_all(budget: &RetryBudget, limits: &MountLimits) -> usize {
        (0..1000).take_while(|_| budget.take(limits).is_some()).count()
    }

    #[tokio::test(start_paused = true)]
    async fn repetitions_are_a_share_of_the_requests_and_a_few_more() {
        let (budget, limits) = (RetryBudget::new("/budget"), MountLimits::default());
        assert_eq!(spend_all(&budget, &limits), 10, "the floor");
        (0..205).for_each(|_| budget.earn(&limits));
        assert_eq!(spend_all(&budget, &limits), 20, "10 %");
        tokio::time::advance(Duration::from_secs(3)).await;
        assert_eq!(spend_all(&budget, &limits), 3, "the trickle");
        tokio::time::advance(Duration::from_hours(1)).await;
        assert_eq!(spend_all(&budget, &limits), 10, "no more than the floor by itself");
        (0..1_000_000).for_each(|_| budget.earn(&limits));
        assert_eq!(spend_all(&budget, &limits), 100, "no more than what may be saved");
        let refused = METRICS.retries.with_label_values(&["/budget", "refused"]).get();
        assert_eq!(refused, 5);
    }

    #[tokio::test(start_paused = true)]
    async fn only_a_part_of_the_operations_repeats_at_once() {
        let limits = MountLimits { operations: 16, ..MountLimits::default() };
        let budget = RetryBudget::new("/at-once");
        let under_way: Vec<_> = (0..8).filter_map(|_| budget.take(&limits)).collect();
        assert_eq!(under_way.len(), 4);
        drop(under_way);
        assert!(budget.take(&limits).is_some());
    }

    #[test]
    fn back_off_doubles_up_to_its_cap_and_is_spread() {
        for (attempt, base) in [(1, BACK_OFF_MIN), (3, BACK_OFF_MIN * 4), (60, BACK_OFF_MAX)] {
            let waits: Vec<_> = (0..100).map(|_| back_off(attempt)).collect();
            assert!(waits.iter().all(|wait| *wait >= base / 2 && *wait <= base * 3 / 2));
            assert!(waits.iter().max() > waits.iter().min());
        }
    }
}
