//! Hedged reads: a read that takes longer than 99 of 100 like it is sent a second time, and the first answer wins
//! (Dean and Barroso, "The Tail at Scale", 2013). The other is dropped, which cancels it.
//!
//! Never more than one in twenty reads is hedged, however slow the store becomes: what helps against stragglers would
//! finish off a store that is overloaded.

use std::array;
use std::pin::pin;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::time::Duration;

use forebay_core::{METRICS, Result};
use futures::future::{Either, select};
use prometheus::IntCounter;
use tokio::time::{Instant, timeout};

use super::is_worth_repeating;
use super::limits::{Gates, Leave};

/// Reads that earn one hedge.
const READS_PER_HEDGE: u32 = 20;
/// Most hedges that reads can save up.
const SAVED_MAX: u32 = 10;
/// Reads that the p99 is taken from: the latest ones.
const SAMPLES: usize = 256;
/// Reads between two looks at the samples.
const SAMPLES_PER_LOOK: usize = 32;
/// Upper ends of the size classes, in bytes: latency, a page, several pages.
const CLASSES: [u64; 2] = [128 << 10, 1 << 20];

/// The hedging of one mount.
pub(super) struct Hedging {
    /// One for each size class and one for what is larger; made when the first read asks.
    latencies: OnceLock<Box<[Latencies; CLASSES.len() + 1]>>,
    /// In reads.
    credit: AtomicU32,
    won: IntCounter,
    lost: IntCounter,
    refused: IntCounter,
}

impl Hedging {
    pub(super) fn new(mount: &str) -> Self {
        let counter = |outcome| METRICS.hedges.with_label_values(&[mount, outcome]);
        Self {
            latencies: OnceLock::new(),
            credit: AtomicU32::new(0),
            won: counter("won"),
            lost: counter("lost"),
            refused: counter("refused"),
        }
    }

    /// Sends a read of `size_bytes`, and a second one when the first is late.
    pub(super) async fn send<T, F, R>(&self, gates: &Gates, size_bytes: u64, call: &F) -> Result<T>
    where
        F: Fn() -> R,
        R: Future<Output = Result<T>>,
    {
        let all = self.latencies.get_or_init(|| Box::new(array::from_fn(|_| Latencies::new())));
        let latencies = &all[CLASSES.iter().filter(|end| size_bytes > **end).count()];
        self.earn();
        let began = Instant::now();
        let answer = match latencies.p99() {
            Some(late) => self.race(gates, (size_bytes, late), call).await,
            None => call().await,
        };
        if answer.is_ok() {
            latencies.record(began.elapsed());
        }
        answer
    }

    async fn race<T, F, R>(&self, gates: &Gates, (size_bytes, late): (u64, Duration), call: &F) -> Result<T>
    where
        F: Fn() -> R,
        R: Future<Output = Result<T>>,
    {
        let mut first = pin!(call());
        if let Ok(answer) = timeout(late, &mut first).await {
            return answer;
        }
        let Some(_leave) = self.take(gates, size_bytes) else {
            self.refused.inc();
            return first.await;
        };
        let (answer, outcome) = match select(first, pin!(call())).await {
            Either::Left((answer, _)) if is_answer(&answer) => (answer, &self.lost),
            Either::Right((answer, _)) if is_answer(&answer) => (answer, &self.won),
            Either::Left((_, second)) => (second.await, &self.won),
            Either::Right((_, first)) => (first.await, &self.lost),
        };
        outcome.inc();
        answer
    }

    fn earn(&self) {
        let most = READS_PER_HEDGE * SAVED_MAX;
        let one_more = |credit: u32| (credit < most).then_some(credit + 1);
        // Full is fine.
        self.credit.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more).unwrap_or_default();
    }

    fn take<'a>(&self, gates: &'a Gates, size_bytes: u64) -> Option<Leave<'a>> {
        let leave = gates.try_enter(size_bytes)?;
        let spend = |credit: u32| credit.checked_sub(READS_PER_HEDGE);
        self.credit.fetch_update(Ordering::Relaxed, Ordering::Relaxed, spend).ok()?;
        Some(leave)
    }
}

/// Whether this ends the race: the other request would be told the same.
fn is_answer<T>(answer: &Result<T>) -> bool {
    match answer {
        Ok(_) => true,
        Err(error) => !is_worth_repeating(error.kind()),
    }
}

/// The latest latencies of reads of one size class.
struct Latencies {
    micros: [AtomicU32; SAMPLES],
    taken: AtomicUsize,
    /// 0 until enough was seen.
    p99_micros: AtomicU32,
}

impl Latencies {
    fn new() -> Self {
        Self {
            micros: array::from_fn(|_| AtomicU32::new(0)),
            taken: AtomicUsize::new(0),
            p99_micros: AtomicU32::new(0),
        }
    }

    fn p99(&self) -> Option<Duration> {
        match self.p99_micros.load(Ordering::Relaxed) {
            0 => None,
            micros => Some(Duration::from_micros(micros.into())),
        }
    }

    fn record(&self, latency: Duration) {
        let micros = u32::try_from(latency.as_micros()).unwrap_or(u32::MAX).max(1);
        let number = self.taken.fetch_add(1, Ordering::Relaxed);
        self.micros[number % SAMPLES].store(micros, Ordering::Relaxed);
        if number >= SAMPLES && number.is_multiple_of(SAMPLES_PER_LOOK) {
            let mut sorted = self.micros.each_ref().map(|sample| sample.load(Ordering::Relaxed));
            sorted.sort_unstable();
            self.p99_micros.store(sorted[SAMPLES * 99 / 100], Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use forebay_core::{Error, ErrorKind};

    use super::*;
    use crate::config::MountLimits;

    const PAGE: u64 = 1 << 20;

    /// In milliseconds, with how it ends.
    type Latency = std::result::Result<u64, u64>;

    struct Reads {
        hedging: Hedging,
        gates: Gates,
        sent: AtomicUsize,
    }

    impl Reads {
        fn new(mount: &str) -> Self {
            let limits = MountLimits { hedge: true, operations: 2, ..MountLimits::default() };
            Self {
                hedging: Hedging::new(mount),
                gates: Gates::new(mount, &limits),
                sent: AtomicUsize::new(0),
            }
        }

        /// One read whose requests take `latencies`, in the order they are sent.
        async fn read(&self, latencies: &[Latency]) -> (Result<usize>, Duration) {
            let (began, first) = (Instant::now(), self.sent.load(Ordering::SeqCst));
            let call = || async {
                let number = self.sent.fetch_add(1, Ordering::SeqCst) - first;
                let (Ok(ms) | Err(ms)) = latencies[number];
                tokio::time::sleep(Duration::from_millis(ms)).await;
                let failed = |_| Error::new(ErrorKind::Unavailable, "no luck");
                latencies[number].map(|_| number).map_err(failed)
            };
            let answer = self.hedging.send(&self.gates, PAGE, &call).await;
            (answer, began.elapsed())
        }

        async fn learn(&self) {
            for _ in 0..SAMPLES + SAMPLES_PER_LOOK {
                self.read(&[Ok(10)]).await.0.expect("answered");
            }
        }
    }

    fn count(mount: &str, outcome: &str) -> u64 {
        METRICS.hedges.with_label_values(&[mount, outcome]).get()
    }

    #[tokio::test(start_paused = true)]
    async fn late_read_is_sent_again_and_the_first_answer_wins() {
        let reads = Reads::new("/hedge");
        reads.learn().await;
        let (answer, took) = reads.read(&[Ok(1000), Ok(10)]).await;
        assert_eq!((answer.expect("answered"), took), (1, Duration::from_millis(20)));
        let (answer, took) = reads.read(&[Ok(15), Ok(1000)]).await;
        assert_eq!((answer.expect("answered"), took), (0, Duration::from_millis(15)));
        assert_eq!((count("/hedge", "won"), count("/hedge", "lost")), (1, 1));
    }

    #[tokio::test(start_paused = true)]
    async fn failure_of_one_waits_for_the_other() {
        let reads = Reads::new("/hedge-failure");
        reads.learn().await;
        let (answer, took) = reads.read(&[Err(12), Ok(50)]).await;
        assert_eq!((answer.expect("answered"), took), (1, Duration::from_millis(60)));
        let (answer, _) = reads.read(&[Err(30), Err(10)]).await;
        assert!(answer.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn slow_store_gets_one_hedge_in_twenty_reads_at_most() {
        let reads = Reads::new("/hedge-bound");
        reads.learn().await;
        let before = reads.sent.load(Ordering::SeqCst);
        reads.hedging.credit.store(0, Ordering::SeqCst);
        for slow in 0..200 {
            reads.read(&[Ok(1000 + slow), Ok(1000)]).await.0.expect("answered");
        }
        let hedges = reads.sent.load(Ordering::SeqCst) - before - 200;
        assert!((1..=10).contains(&hedges), "{hedges}");
        assert!(count("/hedge-bound", "refused") > 0);
    }

    #[tokio::test(start_paused = true)]
    async fn full_mount_and_unknown_latency_hedge_nothing() {
        let reads = Arc::new(Reads::new("/hedge-full"));
        reads.read(&[Ok(1000)]).await.0.expect("answered");
        reads.learn().await;
        let _held = [reads.gates.try_enter(1), reads.gates.try_enter(1)].map(|leave| leave.expect("room"));
        reads.read(&[Ok(1000)]).await.0.expect("answered");
        assert_eq!(count("/hedge-full", "refused"), 1);
    }
}
