//! A circuit breaker: a store that keeps failing is left alone for a while instead of holding up every request.
//!
//! Closed until [`FAILURES_MAX`] failures in a row; then open, refusing at once; after a back-off (1 s, doubling
//! to 30 s) one request goes through as a probe and decides. Atomics only: it lies on the path of each request.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

/// Failures in a row that open the breaker.
const FAILURES_MAX: u32 = 5;
/// First time that an open breaker waits before its probe.
const BACK_OFF_MIN: Duration = Duration::from_secs(1);
/// Longest such time.
const BACK_OFF_MAX: Duration = Duration::from_secs(30);

/// The breaker of one mount.
pub(super) struct Breaker {
    since: Instant,
    failures: AtomicU32,
    /// Milliseconds after `since` at which a probe may go; 0 while closed.
    probe_at_ms: AtomicU64,
    is_probing: AtomicBool,
}

/// What a verdict changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    Opened,
    Closed,
    None,
}

/// Leave for one request. Dropped without a verdict (the caller went away) it changes nothing.
pub(super) struct Pass<'a> {
    breaker: &'a Breaker,
    is_probe: bool,
}

impl Breaker {
    pub(super) fn new() -> Self {
        Self {
            since: Instant::now(),
            failures: AtomicU32::new(0),
            probe_at_ms: AtomicU64::new(0),
            is_probing: AtomicBool::new(false),
        }
    }

    /// Leave to send a request, or the time until the next probe.
    pub(super) fn enter(&self) -> Result<Pass<'_>, Duration> {
        let probe_at = self.probe_at_ms.load(Ordering::Acquire);
        if probe_at == 0 {
            return Ok(Pass { breaker: self, is_probe: false });
        }
        let now = self.now_ms();
        if now < probe_at {
            return Err(Duration::from_millis(probe_at - now));
        }
        if self.is_probing.swap(true, Ordering::AcqRel) {
            return Err(Duration::ZERO);
        }
        Ok(Pass { breaker: self, is_probe: true })
    }

    pub(super) fn is_open(&self) -> bool {
        self.probe_at_ms.load(Ordering::Acquire) != 0
    }

    fn now_ms(&self) -> u64 {
        self.since.elapsed().as_millis() as u64
    }
}

impl Pass<'_> {
    /// The store answered.
    pub(super) fn succeed(self) -> Change {
        self.breaker.failures.store(0, Ordering::Release);
        // Only the probe closes: an answer to a request sent before the breaker opened says nothing new.
        if self.is_probe && self.breaker.probe_at_ms.swap(0, Ordering::AcqRel) != 0 {
            return Change::Closed;
        }
        Change::None
    }

    /// The store could not be reached or broke its contract.
    pub(super) fn fail(self) -> Change {
        let breaker = self.breaker;
        let failures = breaker.failures.fetch_add(1, Ordering::AcqRel) + 1;
        let is_open = breaker.is_open();
        if !self.is_probe && (failures < FAILURES_MAX || is_open) {
            return Change::None;
        }
        let doublings = failures.saturating_sub(FAILURES_MAX).min(10);
        let wait = BACK_OFF_MIN.saturating_mul(1 << doublings).min(BACK_OFF_MAX);
        let at = breaker.now_ms() + wait.as_millis() as u64;
        if breaker.probe_at_ms.swap(at, Ordering::AcqRel) == 0 { Change::Opened } else { Change::None }
    }
}

impl Drop for Pass<'_> {
    fn drop(&mut self) {
        if self.is_probe {
            self.breaker.is_probing.store(false, Ordering::Release);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn opened() -> Breaker {
        let breaker = Breaker::new();
        for i in 1..=FAILURES_MAX {
            let change = breaker.enter().map(Pass::fail).expect("closed");
            assert_eq!(change, if i == FAILURES_MAX { Change::Opened } else { Change::None });
        }
        breaker
    }

    #[tokio::test(start_paused = true)]
    async fn opens_after_failures_in_a_row_only() {
        let breaker = Breaker::new();
        for _ in 0..FAILURES_MAX * 2 {
            breaker.enter().map(Pass::fail).expect("closed");
            breaker.enter().map(Pass::succeed).expect("closed");
        }
        assert!(!breaker.is_open());
        assert!(opened().enter().is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn one_probe_decides_after_the_back_off() {
        let breaker = opened();
        tokio::time::advance(BACK_OFF_MIN).await;
        let probe = breaker.enter().map_err(drop).expect("a probe may go");
        assert!(breaker.enter().is_err(), "one at a time");
        assert_eq!(probe.fail(), Change::None);
        tokio::time::advance(BACK_OFF_MIN).await;
        assert!(breaker.enter().is_err(), "the back-off doubled");
        tokio::time::advance(BACK_OFF_MIN).await;
        assert_eq!(breaker.enter().map(Pass::succeed).ok(), Some(Change::Closed));
        assert!(breaker.enter().is_ok() && !breaker.is_open());
    }

    #[tokio::test(start_paused = true)]
    async fn abandoned_probe_makes_room_for_another() {
        let breaker = opened();
        tokio::time::advance(BACK_OFF_MIN).await;
        drop(breaker.enter().map_err(drop).expect("a probe may go"));
        assert!(breaker.enter().is_ok());
    }
}
