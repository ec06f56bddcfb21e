//! What one mount may hold, while its fetches are in flight, of what all mounts share.
//!
//! Shares follow dynamic thresholds (Choudhury and Hahne, 1998): a mount may take more while what it would hold is no
//! more than what would stay free. One mount alone gets half, `n` mounts whose stores hang get half of it less each
//! time and leave one part in `n + 1` to the others, and nothing has to be configured for a number of mounts.

use std::sync::Arc;

use forebay_core::METRICS;
use prometheus::{IntCounter, IntGauge};
use tokio::sync::futures::Notified;
use tokio::sync::{Notify, Semaphore, SemaphorePermit};

use super::filling::Filling;
use super::source::Source;
use super::sync::atomic::{AtomicU64, Ordering};

/// Fetches at once, of one mount, that share the places of [`Uncached`] with other mounts.
const UNCACHED_PER_MOUNT: usize = 4;
/// The same over all mounts.
const UNCACHED_SHARED: usize = 16;

/// Something that all mounts take from.
pub(crate) struct Pool {
    size: u64,
    taken: AtomicU64,
    /// Told when something was given back.
    freed: Notify,
}

/// What one mount holds of a pool.
pub(crate) struct Share {
    pool: Arc<Pool>,
    held: AtomicU64,
    gauge: IntGauge,
}

/// A part of a pool; dropping it gives it back.
pub(crate) struct Held {
    share: Arc<Share>,
    amount: u64,
}

/// Places for fetches whose page has no room in memory: bounds what the budget does not count.
pub(super) struct Uncached(Semaphore);

/// The shares of one mount.
pub(super) struct MountShare {
    fetching: Arc<Share>,
    ahead: Arc<Share>,
    /// Nobody else's, so that a mount always has a way.
    own: Semaphore,
    borrowed: Semaphore,
    filling: Filling,
    served: Served,
    opens: Opens,
}

/// Content bytes that readers of one mount were given, by where they were found.
pub(super) struct Served {
    pub(super) memory: IntCounter,
    pub(super) nvme: IntCounter,
    pub(super) store: IntCounter,
}

/// Files of one mount that were opened and read, by the farthest place that anything of them came from.
type Opens = [IntCounter; 3];

impl Served {
    fn new(mount: &str) -> Self {
        let bytes = |tier| METRICS.cache_served_bytes.with_label_values(&[mount, tier]);
        Self { memory: bytes("memory"), nvme: bytes("nvme"), store: bytes("store") }
    }
}

impl Pool {
    pub(crate) fn new(size: u64) -> Arc<Self> {
        Arc::new(Self { size, taken: AtomicU64::new(0), freed: Notify::new() })
    }
}

impl Share {
    pub(crate) fn new(pool: &Arc<Pool>, gauge: IntGauge) -> Arc<Self> {
        Arc::new(Self { pool: Arc::clone(pool), held: AtomicU64::new(0), gauge })
    }

    /// Most that one mount gets.
    pub(crate) fn limit(&self) -> u64 {
        self.pool.size / 2
    }

    /// Resolves when something was given back after this was called.
    pub(crate) fn freed(&self) -> Notified<'_> {
        self.pool.freed.notified()
    }

    /// A part of the pool, if the mount may have as much now.
    pub(crate) fn take(self: &Arc<Self>, amount: u64) -> Option<Held> {
        let held = self.held.fetch_add(amount, Ordering::AcqRel) + amount;
        let add = |taken: u64| (held.saturating_add(taken) <= self.pool.size).then(|| taken + amount);
        if self.pool.taken.fetch_update(Ordering::AcqRel, Ordering::Acquire, add).is_err() {
            self.held.fetch_sub(amount, Ordering::AcqRel);
            return None;
        }
        self.gauge.add(amount as i64);
        Some(Held { share: Arc::clone(self), amount })
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.share.gauge.sub(self.amount as i64);
        self.share.held.fetch_sub(self.amount, Ordering::AcqRel);
        self.share.pool.taken.fetch_sub(self.amount, Ordering::AcqRel);
        self.share.pool.freed.notify_waiters();
    }
}

impl Uncached {
    pub(super) fn new() -> Self {
        Self(Semaphore::new(UNCACHED_SHARED))
    }
}

impl MountShare {
    /// Of `bytes` of memory for fetches in flight, and of `places` for fetches ahead of their readers.
    pub(super) fn new(mount: &str, bytes: &Arc<Pool>, places: &Arc<Pool>) -> Self {
        Self {
            fetching: Share::new(bytes, METRICS.cache_fetching_bytes.with_label_values(&[mount])),
            ahead: Share::new(places, METRICS.cache_read_ahead.with_label_values(&[mount])),
            own: Semaphore::new(1),
            borrowed: Semaphore::new(UNCACHED_PER_MOUNT),
            filling: Filling::default(),
            served: Served::new(mount),
            opens: Source::ALL.map(|source| METRICS.cache_opens.with_label_values(&[mount, source.label()])),
        }
    }

    /// Places for fetches that nobody waits for.
    pub(super) fn filling(&self) -> &Filling {
        &self.filling
    }

    /// Counts what readers are given.
    pub(super) fn served(&self) -> &Served {
        &self.served
    }

    /// Counts a file that was read and is closed.
    pub(super) fn closed(&self, farthest: Source) {
        self.opens[farthest as usize].inc();
    }

    /// Memory for a fetch of `bytes`.
    pub(super) fn take_memory(&self, bytes: u64) -> Option<Held> {
        self.fetching.take(bytes)
    }

    /// A place for a fetch ahead of its reader.
    pub(super) fn take_ahead(&self) -> Option<Held> {
        self.ahead.take(1)
    }

    /// Waits for a place for a fetch that is not kept: the mount's own, or one of those for all. Bounded by the
    /// deadlines of the fetches before it.
    pub(super) async fn uncached<'a>(&'a self, all: &'a Uncached) -> UncachedPlace<'a> {
        let borrow = async {
            let borrowed = self.borrowed.acquire().await;
            (borrowed, all.0.acquire().await)
        };
        tokio::select! {
            biased;
            own = self.own.acquire() => UncachedPlace(own.ok(), None),
            (borrowed, shared) = borrow => UncachedPlace(borrowed.ok(), shared.ok()),
        }
    }
}

/// Held while a fetch that is not kept is under way.
pub(super) struct UncachedPlace<'a>(
    #[expect(dead_code, reason = "held, never looked at")] Option<SemaphorePermit<'a>>,
    #[expect(dead_code, reason = "held, never looked at")] Option<SemaphorePermit<'a>>,
);

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures::FutureExt;
    use tokio::time::timeout;

    use super::*;

    fn mounts(count: usize, size: u64) -> Vec<MountShare> {
        let (bytes, places) = (Pool::new(size), Pool::new(size));
        (0..count).map(|i| MountShare::new(&format!("/share-{size}-{i}"), &bytes, &places)).collect()
    }

    fn take_all(mount: &MountShare) -> Vec<Held> {
        std::iter::from_fn(|| mount.take_memory(1)).collect()
    }

    #[test]
    fn mounts_that_hang_leave_a_part_to_each_other_one() {
        let mounts = mounts(11, 1000);
        let hung: Vec<_> = mounts[..9].iter().map(take_all).collect();
        assert_eq!(hung[0].len(), 500);
        let held: usize = hung.iter().map(Vec::len).sum();
        assert!(held < 1000, "{held}");
        assert!(!take_all(&mounts[9]).is_empty());
        drop(hung);
        assert_eq!(take_all(&mounts[10]).len(), 500, "all was given back");
        let gauge = METRICS.cache_fetching_bytes.with_label_values(&["/share-1000-0"]);
        assert_eq!(gauge.get(), 0);
    }

    #[test]
    fn one_large_part_fits_when_nothing_is_taken() {
        let mounts = mounts(1, 100);
        assert!(mounts[0].take_memory(101).is_none());
        let all = mounts[0].take_memory(100).expect("free");
        assert!(mounts[0].take_memory(1).is_none());
        drop(all);
        assert!(mounts[0].take_ahead().is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn mount_has_an_uncached_place_however_many_others_hang() {
        let (all, mounts) = (Uncached::new(), mounts(9, 1));
        let mut held = Vec::new();
        for mount in &mounts[..8] {
            while let Some(place) = mount.uncached(&all).now_or_never() {
                held.push(place);
            }
        }
        assert_eq!(held.len(), 16 + 8);
        let _own = mounts[8].uncached(&all).now_or_never().expect("its own");
        assert!(timeout(Duration::from_mins(1), mounts[8].uncached(&all)).await.is_err(), "and no more");
    }
}
