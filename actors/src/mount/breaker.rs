//! A circuit breaker: a store that keeps failing is left alone for a while instead of holding up every request.
//!
//! Closed until [`FAILURES_MAX`] failures in a row, those of one moment counted as one (a connection that breaks takes
//! many requests with it, which are sent again); then open, refusing at once; after a back-off (1 s, doubling
//! to 5 s) one request goes through as a probe and decides. Atomics only: it lies on the path of each request.
//!
//! The probe is the mount actor's: while a store hangs, a client's would wait for its whole deadline. Only when no
//! actor came for [`CLIENT_GRACE`], a client's request goes.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

/// Failures in a row that open the breaker.
const FAILURES_MAX: u32 = 5;
/// Failures closer than this to the one before are one with it.
const MOMENT: Duration = Duration::from_millis(50);
/// First time that an open breaker waits before its probe.
const BACK_OFF_MIN: Duration = Duration::from_secs(1);
/// Longest such time: a probe is cheap, and a store that is back should be used again soon.
const BACK_OFF_MAX: Duration = Duration::from_secs(5);
/// How much later than the mount's actor a client may probe.
const CLIENT_GRACE: Duration = Duration::from_secs(10);

/// The breaker of one mount.
pub(super) struct Breaker {
    since: Instant,
    /// In a row, while closed.
    failures: AtomicU32,
    /// Milliseconds after `since` of the last failure that was counted.
    failed_at_ms: AtomicU64,
    /// In a row, while open.
    failed_probes: AtomicU32,
    /// Milliseconds after `since` at which a probe may go; 0 while closed.
    probe_at_ms: AtomicU64,
    is_probing: AtomicBool,
    /// Counts closings: what was sent before the last of them says nothing about the store as it is now.
    generation: AtomicU32,
}

/// Who wants to send a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Caller {
    /// Somebody who wants something from the store.
    Client,
    /// The mount's actor.
    Prober,
}

/// How a request failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// With an answer or a broken connection, at once.
    Loud,
    /// With no answer until its deadline: each of them counts.
    Silent,
}

/// What a verdict changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    Opened,
    /// The probe failed.
    StillOpen,
    Closed,
    None,
}

/// Leave for one request. Dropped without a verdict (the caller went away) it changes nothing.
pub(super) struct Pass<'a> {
    breaker: &'a Breaker,
    is_probe: bool,
    generation: u32,
}

impl Breaker {
    pub(super) fn new() -> Self {
        Self {
            since: Instant::now(),
            failures: AtomicU32::new(0),
            failed_at_ms: AtomicU64::new(0),
            failed_probes: AtomicU32::new(0),
            probe_at_ms: AtomicU64::new(0),
            is_probing: AtomicBool::new(false),
            generation: AtomicU32::new(0),
        }
    }

    /// Leave to send a request, or the time until a probe may go.
    pub(super) fn enter(&self, caller: Caller) -> Result<Pass<'_>, Duration> {
        let generation = self.generation.load(Ordering::Acquire);
        let probe_at_ms = self.probe_at_ms.load(Ordering::Acquire);
        if probe_at_ms == 0 {
            return Ok(Pass { breaker: self, is_probe: false, generation });
        }
        let grace = match caller {
            Caller::Client => CLIENT_GRACE,
            Caller::Prober => Duration::ZERO,
        };
        let now = self.since.elapsed();
        let probe_at = Duration::from_millis(probe_at_ms);
        if now < probe_at + grace || self.is_probing.swap(true, Ordering::AcqRel) {
            return Err(probe_at.saturating_sub(now));
        }
        let probe = Pass { breaker: self, is_probe: true, generation };
        // Another probe may have ended in between: its verdict holds.
        if self.probe_at_ms.load(Ordering::Acquire) != probe_at_ms {
            return Err(Duration::ZERO);
        }
        Ok(probe)
    }

    /// Whether requests are refused.
    pub(super) fn is_open(&self) -> bool {
        self.probe_at_ms.load(Ordering::Acquire) != 0
    }

    /// Whether this failure is not one with the one before; said to one of those who ask at once.
    fn is_another_moment(&self) -> bool {
        let now = self.since.elapsed().as_millis() as u64 + 1;
        let last = self.failed_at_ms.load(Ordering::Acquire);
        let is_later = last == 0 || now >= last + MOMENT.as_millis() as u64;
        is_later && self.failed_at_ms.compare_exchange(last, now, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }

    /// The time in `wait` from now, as `probe_at_ms` has it.
    fn probe_in(&self, wait: Duration) -> u64 {
        (self.since.elapsed() + wait).as_millis() as u64
    }
}

impl Pass<'_> {
    /// The store answered.
    pub(super) fn succeed(self) -> Change {
        let breaker = self.breaker;
        if !self.is_probe {
            breaker.failures.store(0, Ordering::Release);
            // Only the probe closes: an answer to a request sent before the breaker opened says nothing new.
            return Change::None;
        }
        breaker.failures.store(0, Ordering::Release);
        breaker.failed_probes.store(0, Ordering::Release);
        breaker.generation.fetch_add(1, Ordering::AcqRel);
        breaker.probe_at_ms.store(0, Ordering::Release);
        Change::Closed
    }

    /// The store could not be reached or broke its contract.
    pub(super) fn fail(self, failure: Failure) -> Change {
        let breaker = self.breaker;
        if self.is_probe {
            let failed = breaker.failed_probes.fetch_add(1, Ordering::AcqRel) + 1;
            let wait = BACK_OFF_MIN.saturating_mul(1 << failed.min(8)).min(BACK_OFF_MAX);
            breaker.probe_at_ms.store(breaker.probe_in(wait), Ordering::Release);
            return Change::StillOpen;
        }
        if self.generation != breaker.generation.load(Ordering::Acquire) {
            return Change::None;
        }
        if failure == Failure::Loud && !breaker.is_another_moment() {
            return Change::None;
        }
        if breaker.failures.fetch_add(1, Ordering::AcqRel) + 1 < FAILURES_MAX {
            return Change::None;
        }
        let at = breaker.probe_in(BACK_OFF_MIN);
        match breaker.probe_at_ms.compare_exchange(0, at, Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => Change::Opened,
            Err(_) => Change::None,
        }
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
    use std::sync::Arc;

    use super::Caller::{Client, Prober};
    use super::Failure::{Loud, Silent};
    use super::*;

    fn opened() -> Breaker {
        let breaker = Breaker::new();
        for i in 1..=FAILURES_MAX {
            let change = breaker.enter(Client).map(|pass| pass.fail(Silent)).expect("closed");
            assert_eq!(change, if i == FAILURES_MAX { Change::Opened } else { Change::None });
        }
        breaker
    }

    #[tokio::test(start_paused = true)]
    async fn opens_after_failures_in_a_row_only() {
        let breaker = Breaker::new();
        for _ in 0..FAILURES_MAX * 2 {
            breaker.enter(Client).map(|pass| pass.fail(Silent)).expect("closed");
            breaker.enter(Client).map(Pass::succeed).expect("closed");
        }
        assert!(breaker.enter(Client).is_ok());
        assert!(opened().enter(Client).is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn failures_of_one_moment_are_one() {
        let breaker = Breaker::new();
        for moment in 1..=FAILURES_MAX {
            for _ in 0..64 {
                assert!(!breaker.is_open());
                let change = breaker.enter(Client).map(|pass| pass.fail(Loud)).expect("closed");
                if moment == FAILURES_MAX {
                    assert_eq!(change, Change::Opened);
                    return;
                }
            }
            tokio::time::advance(MOMENT).await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn one_probe_decides_after_the_back_off() {
        let breaker = opened();
        tokio::time::advance(BACK_OFF_MIN).await;
        let probe = breaker.enter(Prober).map_err(drop).expect("a probe may go");
        assert!(breaker.enter(Prober).is_err(), "one at a time");
        assert_eq!(probe.fail(Silent), Change::StillOpen);
        tokio::time::advance(BACK_OFF_MIN).await;
        assert!(breaker.enter(Prober).is_err(), "the back-off doubled");
        tokio::time::advance(BACK_OFF_MIN).await;
        assert_eq!(breaker.enter(Prober).map(Pass::succeed).ok(), Some(Change::Closed));
        assert!(breaker.enter(Client).is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn clients_probe_only_when_no_actor_does() {
        let breaker = opened();
        tokio::time::advance(BACK_OFF_MIN).await;
        assert!(breaker.enter(Client).is_err());
        tokio::time::advance(CLIENT_GRACE).await;
        assert_eq!(breaker.enter(Client).map(Pass::succeed).ok(), Some(Change::Closed));
    }

    #[tokio::test(start_paused = true)]
    async fn abandoned_probe_makes_room_for_another() {
        let breaker = opened();
        tokio::time::advance(BACK_OFF_MIN).await;
        drop(breaker.enter(Prober).map_err(drop).expect("a probe may go"));
        assert!(breaker.enter(Prober).is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn requests_sent_before_the_store_came_back_neither_open_nor_slow_anything() {
        let breaker = Breaker::new();
        let old: Vec<_> = (0..64).map(|_| breaker.enter(Client).map_err(drop).expect("closed")).collect();
        let (before, after): (Vec<_>, Vec<_>) = old.into_iter().enumerate().partition(|(i, _)| i % 2 == 0);
        let opened = before.into_iter().map(|(_, pass)| pass.fail(Silent));
        assert_eq!(opened.filter(|change| *change == Change::Opened).count(), 1);
        tokio::time::advance(BACK_OFF_MIN).await;
        assert_eq!(breaker.enter(Prober).map(|pass| pass.fail(Silent)).ok(), Some(Change::StillOpen));
        tokio::time::advance(BACK_OFF_MIN * 2).await;
        assert_eq!(breaker.enter(Prober).map(Pass::succeed).ok(), Some(Change::Closed));
        assert!(after.into_iter().all(|(_, pass)| pass.fail(Silent) == Change::None));
        assert!(breaker.enter(Client).is_ok());
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn many_who_come_at_once_get_one_probe_between_them() {
        let breaker = Arc::new(opened());
        tokio::time::sleep(BACK_OFF_MIN).await;
        let callers: Vec<_> = (0..64)
            .map(|_| {
                let breaker = Arc::clone(&breaker);
                tokio::spawn(async move { breaker.enter(Prober).map(|pass| pass.fail(Silent)).is_ok() })
            })
            .collect();
        let mut probes = 0;
        for caller in callers {
            probes += usize::from(caller.await.expect("no panic"));
        }
        assert_eq!(probes, 1, "the failed probe's back-off holds for all");
    }
}
