//! What one mount may have in flight: operations, bytes, bandwidth. Whoever finds a limit reached waits, in order and
//! for a bounded time.
//!
//! Bandwidth is waited for first: a request that may not move yet should not keep a place from one that may.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use forebay_core::{Error, ErrorKind, METRICS, Result};
use prometheus::{IntCounter, IntGauge};
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::{Instant, sleep_until, timeout_at};

use super::Load;
use crate::config::MountLimits;

/// Requests that wait, per place among the operations.
const WAITERS_PER_PLACE: usize = 64;
/// Bytes of one permit of the bytes in flight.
const PERMIT_BYTES: u64 = 1 << 10;
/// What counts of a large body among the bytes in flight: it is sent in pieces, and its backend bounds their memory.
const WRITE_BYTES_MAX: u64 = 16 << 20;
/// Bandwidth that a quiet mount saves up.
const BURST: Duration = Duration::from_millis(250);

/// The limits of one mount and what is taken of them.
pub(super) struct Gates {
    limits: MountLimits,
    places: Semaphore,
    bytes: Semaphore,
    bytes_permits: u32,
    reads: Option<Bandwidth>,
    writes: Option<Bandwidth>,
    waiters: Semaphore,
    bytes_in_flight: IntGauge,
    operations_counts: Counts,
    bytes_counts: Counts,
    bandwidth_counts: Counts,
}

/// How often a limit was reached.
struct Counts {
    what: &'static str,
    waited: IntCounter,
    refused: IntCounter,
}

/// What one request holds while it is in flight.
pub(super) struct Leave<'a> {
    _place: SemaphorePermit<'a>,
    _bytes: Option<SemaphorePermit<'a>>,
    gauge: &'a IntGauge,
    size_bytes: i64,
}

impl Gates {
    pub(super) fn new(mount: &str, limits: &MountLimits) -> Self {
        let counter =
            |limit, outcome| METRICS.mount_limit_reached.with_label_values(&[mount, limit, outcome]);
        let counts = |limit, what| Counts {
            what,
            waited: counter(limit, "waited"),
            refused: counter(limit, "refused"),
        };
        let permits = limits.bytes_in_flight.div_ceil(PERMIT_BYTES).max(1);
        let bytes_permits = u32::try_from(permits).unwrap_or(u32::MAX);
        Self {
            places: Semaphore::new(limits.operations),
            bytes: Semaphore::new(bytes_permits as usize),
            bytes_permits,
            reads: limits.read_bandwidth.map(Bandwidth::new),
            writes: limits.write_bandwidth.map(Bandwidth::new),
            waiters: Semaphore::new(limits.operations.saturating_mul(WAITERS_PER_PLACE)),
            bytes_in_flight: METRICS.mount_bytes_in_flight.with_label_values(&[mount]),
            operations_counts: counts("operations", "requests to this store are in flight"),
            bytes_counts: counts("bytes", "bytes to or from this store are in flight"),
            bandwidth_counts: counts("bandwidth", "requests wait for the bandwidth of this mount"),
            limits: limits.clone(),
        }
    }

    pub(super) fn limits(&self) -> &MountLimits {
        &self.limits
    }

    /// Waits until a request may be sent.
    ///
    /// # Errors
    /// `Busy` after the queue deadline, or at once when that is certain or too many wait already.
    pub(super) async fn enter(&self, load: Load) -> Result<Leave<'_>> {
        let until = Instant::now() + self.limits.queue_deadline;
        let (size_bytes, bandwidth) = match load {
            Load::Nothing | Load::Inside(_) => (0, None),
            Load::Read(bytes) => (bytes, self.reads.as_ref()),
            Load::Write(bytes) => (bytes, self.writes.as_ref()),
        };
        if let Some(bandwidth) = bandwidth {
            self.wait_for_bandwidth(bandwidth, size_bytes, until).await?;
        }
        let size_bytes = match load {
            Load::Write(bytes) => bytes.min(WRITE_BYTES_MAX),
            Load::Nothing | Load::Inside(_) | Load::Read(_) => size_bytes,
        };
        let permits = u32::try_from(size_bytes.div_ceil(PERMIT_BYTES)).unwrap_or(u32::MAX);
        let bytes = match permits.min(self.bytes_permits) {
            0 => None,
            permits => Some(self.acquire((&self.bytes, permits), &self.bytes_counts, until).await?),
        };
        let place = self.acquire((&self.places, 1), &self.operations_counts, until).await?;
        Ok(Leave::new(place, bytes, &self.bytes_in_flight, size_bytes))
    }

    /// A place for one more request beside those that entered, if there is one at once.
    pub(super) fn try_enter(&self, size_bytes: u64) -> Option<Leave<'_>> {
        let permits = u32::try_from(size_bytes.div_ceil(PERMIT_BYTES)).unwrap_or(u32::MAX);
        let bytes = self.bytes.try_acquire_many(permits.min(self.bytes_permits)).ok()?;
        let place = self.places.try_acquire().ok()?;
        if let Some(bandwidth) = &self.reads {
            bandwidth.reserve(size_bytes, Instant::now())?;
        }
        Some(Leave::new(place, Some(bytes), &self.bytes_in_flight, size_bytes))
    }

    async fn wait_for_bandwidth(&self, bandwidth: &Bandwidth, bytes: u64, until: Instant) -> Result<()> {
        let Some(at) = bandwidth.reserve(bytes, until) else { return Err(self.bandwidth_counts.refuse()) };
        if at <= Instant::now() {
            return Ok(());
        }
        let _waiter = self.waiters.try_acquire().map_err(|_| self.bandwidth_counts.refuse())?;
        self.bandwidth_counts.waited.inc();
        sleep_until(at).await;
        Ok(())
    }

    async fn acquire<'a>(
        &'a self,
        (semaphore, permits): (&'a Semaphore, u32),
        counts: &Counts,
        until: Instant,
    ) -> Result<SemaphorePermit<'a>> {
        if let Ok(permit) = semaphore.try_acquire_many(permits) {
            return Ok(permit);
        }
        let _waiter = self.waiters.try_acquire().map_err(|_| counts.refuse())?;
        counts.waited.inc();
        match timeout_at(until, semaphore.acquire_many(permits)).await {
            Ok(permit) => Ok(permit.expect("the semaphore is never closed")),
            Err(_) => Err(counts.refuse()),
        }
    }
}

impl Counts {
    fn refuse(&self) -> Error {
        self.refused.inc();
        Error::new(ErrorKind::Busy, format!("too many {}", self.what))
    }
}

impl<'a> Leave<'a> {
    fn new(
        place: SemaphorePermit<'a>,
        bytes: Option<SemaphorePermit<'a>>,
        gauge: &'a IntGauge,
        size_bytes: u64,
    ) -> Self {
        let size_bytes = i64::try_from(size_bytes).unwrap_or(i64::MAX);
        gauge.add(size_bytes);
        Self { _place: place, _bytes: bytes, gauge, size_bytes }
    }
}

impl Drop for Leave<'_> {
    fn drop(&mut self) {
        self.gauge.sub(self.size_bytes);
    }
}

/// Bytes per second, taken for a whole request before it is sent: the average holds, a large request delays those
/// after it and not itself.
struct Bandwidth {
    bytes_per_second: u64,
    /// When all that was taken is paid for.
    paid_at: Mutex<Instant>,
}

impl Bandwidth {
    fn new(bytes_per_second: u64) -> Self {
        Self { bytes_per_second: bytes_per_second.max(1), paid_at: Mutex::new(Instant::now()) }
    }

    /// Takes `bytes` and says when they may move; takes nothing if that is after `until`.
    fn reserve(&self, bytes: u64, until: Instant) -> Option<Instant> {
        let now = Instant::now();
        let mut paid_at = self.paid_at.lock().unwrap_or_else(PoisonError::into_inner);
        let at = now.checked_sub(BURST).map_or(*paid_at, |earliest| earliest.max(*paid_at));
        if at > until {
            return None;
        }
        *paid_at = at + Duration::from_secs_f64(bytes as f64 / self.bytes_per_second as f64);
        Some(at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn gates(mount: &str, change: impl FnOnce(&mut MountLimits)) -> Gates {
        let mut limits = MountLimits::default();
        change(&mut limits);
        Gates::new(mount, &limits)
    }

    fn reached(mount: &str, limit: &str, outcome: &str) -> u64 {
        METRICS.mount_limit_reached.with_label_values(&[mount, limit, outcome]).get()
    }

    async fn refused(gates: &Gates, load: Load) -> Duration {
        let began = Instant::now();
        let error = gates.enter(load).await.err().expect("refused");
        assert_eq!(error.kind(), ErrorKind::Busy);
        began.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn bytes_in_flight_are_bounded_and_a_larger_request_goes_alone() {
        let gates = gates("/bytes", |limits| limits.bytes_in_flight = 4 * MIB);
        let small = gates.enter(Load::Read(MIB)).await.expect("room");
        assert_eq!(METRICS.mount_bytes_in_flight.with_label_values(&["/bytes"]).get(), MIB as i64);
        assert_eq!(refused(&gates, Load::Write(100 * MIB)).await, gates.limits().queue_deadline);
        assert!(gates.enter(Load::Inside(100 * MIB)).await.is_ok(), "moves nothing here");
        drop(small);
        let large = gates.enter(Load::Write(100 * MIB)).await.expect("alone");
        assert_eq!(refused(&gates, Load::Read(1)).await, gates.limits().queue_deadline);
        drop(large);
        assert_eq!(METRICS.mount_bytes_in_flight.with_label_values(&["/bytes"]).get(), 0);
        assert_eq!((reached("/bytes", "bytes", "waited"), reached("/bytes", "bytes", "refused")), (2, 2));
    }

    #[tokio::test(start_paused = true)]
    async fn bandwidth_is_kept_on_average_and_its_wait_is_bounded() {
        let gates = gates("/bandwidth", |limits| limits.read_bandwidth = Some(10 * MIB));
        let began = Instant::now();
        for _ in 0..50 {
            gates.enter(Load::Read(MIB)).await.expect("in time");
        }
        let took = began.elapsed().as_secs_f64();
        assert!((4.5..=5.0).contains(&took), "{took}");
        gates.enter(Load::Write(1000 * MIB)).await.expect("the other direction is not limited");
        gates.enter(Load::Read(1000 * MIB)).await.expect("goes, and delays the next");
        assert_eq!(refused(&gates, Load::Read(MIB)).await, Duration::ZERO, "it could not be in time");
        assert_eq!(reached("/bandwidth", "bandwidth", "refused"), 1);
        assert!(reached("/bandwidth", "bandwidth", "waited") > 40);
    }

    #[tokio::test(start_paused = true)]
    async fn places_are_bounded_and_so_are_those_who_wait_for_them() {
        let gates = gates("/places", |limits| limits.operations = 1);
        let _held = gates.enter(Load::Nothing).await.expect("room");
        let waits = (0..=WAITERS_PER_PLACE).map(|_| refused(&gates, Load::Nothing));
        let waits = futures::future::join_all(waits).await;
        assert_eq!(waits.iter().filter(|wait| wait.is_zero()).count(), 1);
        assert!(waits.iter().all(|wait| *wait <= gates.limits().queue_deadline));
        assert!(gates.try_enter(1).is_none());
    }
}
