//! The memory tier: whole pages under one byte budget, kept by S3-FIFO.
//!
//! Invariants:
//! - A page's bytes are counted until its last reader drops them, not only while the tier holds it.
//! - The policy's mutex is taken to insert and to evict, never on a hit.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use bytes::Bytes;
use dashmap::DashMap;
use forebay_core::METRICS;
use prometheus::IntCounter;
use tokio::time::Instant;

use super::budget::{Budget, Reservation};
use super::page::{ContentKey, KeyHash, PageKey, page_count};
use super::policy::{Counted, GHOST_BYTES, GHOSTS_PER_ENTRY, Mark, Resident, S3Fifo, Use};
use super::trail::{Cause, Trail};
use crate::config::CacheConfig;

/// What a page costs beside its bytes: map and queue entries, headers and counters, rounded up, and ghosts.
pub(super) const PAGE_OVERHEAD_BYTES: u64 = 256 + GHOSTS_PER_ENTRY as u64 * GHOST_BYTES;

/// Most pages a fetch may evict itself before it goes uncached.
const INLINE_EVICTIONS: usize = 64;

struct Page {
    key: PageKey,
    bytes: Bytes,
    born: Instant,
    mark: Mark,
}

impl Resident for Page {
    fn mark(&self) -> &Mark {
        &self.mark
    }

    fn weight(&self) -> u64 {
        self.bytes.len() as u64 + PAGE_OVERHEAD_BYTES
    }

    fn fingerprint(&self) -> u64 {
        self.key.fingerprint()
    }
}

/// A page that was found.
pub(super) struct Hit {
    pub(super) bytes: Bytes,
    /// Whether this is its second use, and it was not worth the disk before.
    pub(super) is_worth_disk: bool,
}

/// Bytes with the reservation that must outlive them.
struct Reserved {
    bytes: Bytes,
    _reservation: Reservation,
}

impl AsRef<[u8]> for Reserved {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// Pages in memory.
pub(super) struct MemoryTier {
    pages: DashMap<PageKey, Arc<Page>, KeyHash>,
    policy: Mutex<S3Fifo<Weak<Page>>>,
    budget: Arc<Budget>,
    evictions: IntCounter,
    inline_evictions: IntCounter,
    version_evictions: IntCounter,
    expired: IntCounter,
    trail: Trail,
    /// That of the tier behind, which has this one at hand.
    disk_trail: Trail,
}

impl MemoryTier {
    pub(super) fn new(config: &CacheConfig) -> Self {
        let evictions = |cause| METRICS.cache_evictions.with_label_values(&["memory", cause]);
        Self {
            pages: DashMap::default(),
            policy: Mutex::new(S3Fifo::new(config.memory_bytes)),
            budget: Arc::new(Budget::new("memory", config.memory_bytes, config)),
            evictions: evictions("watermark"),
            inline_evictions: evictions("inline"),
            version_evictions: evictions("version"),
            expired: evictions("expired"),
            trail: Trail::new(),
            disk_trail: Trail::new(),
        }
    }

    pub(super) fn budget(&self) -> &Arc<Budget> {
        &self.budget
    }

    /// The page, if it is not older than `oldest`.
    pub(super) fn get(&self, key: PageKey, used: Use, oldest: Option<Instant>) -> Option<Hit> {
        let page = self.pages.get(&key)?;
        if oldest.is_some_and(|oldest| page.born < oldest) {
            drop(page);
            if self.remove(key) {
                self.expired.inc();
                self.trail.note(key.content, Cause::Expired);
            }
            return None;
        }
        Some(Hit { is_worth_disk: page.mark.count(used) == Counted::Waiting, bytes: page.bytes.clone() })
    }

    /// What became of what was here.
    pub(super) fn trail(&self) -> &Trail {
        &self.trail
    }

    /// What became of what was on the disk, or should have come there.
    pub(super) fn disk_trail(&self) -> &Trail {
        &self.disk_trail
    }

    pub(super) fn contains(&self, key: PageKey) -> bool {
        self.pages.contains_key(&key)
    }

    /// Room for a page of `bytes`.
    pub(super) fn reserve_page(&self, bytes: u64) -> Option<Reservation> {
        self.reserve(bytes + PAGE_OVERHEAD_BYTES)
    }

    /// Room for `bytes`, if need be by evicting a bounded number of pages.
    pub(super) fn reserve(&self, bytes: u64) -> Option<Reservation> {
        for _ in 0..INLINE_EVICTIONS {
            if let Some(reservation) = self.budget.try_reserve(bytes) {
                return Some(reservation);
            }
            self.evict()?;
            self.inline_evictions.inc();
        }
        self.budget.try_reserve(bytes)
    }

    /// Keeps a page; returns its bytes tied to their reservation.
    pub(super) fn insert(&self, key: PageKey, bytes: Bytes, reservation: Reservation, mark: Mark) -> Bytes {
        let bytes = Bytes::from_owner(Reserved { bytes, _reservation: reservation });
        let page = Arc::new(Page { key, bytes: bytes.clone(), born: Instant::now(), mark });
        if let Some(old) = self.pages.insert(key, Arc::clone(&page)) {
            self.policy().remove(&old, Weak::upgrade);
        }
        self.policy().insert(Arc::downgrade(&page), &page);
        // Whoever took it off the map meanwhile did not find it in its queue.
        if !self.pages.get(&key).is_some_and(|kept| Arc::ptr_eq(&kept, &page)) {
            self.policy().remove(&page, Weak::upgrade);
        }
        bytes
    }

    /// Evicts the next page for the watermarks; its length, or `None` when there is none.
    pub(super) fn evict_one(&self) -> Option<u64> {
        let freed = self.evict()?;
        self.evictions.inc();
        Some(freed)
    }

    fn evict(&self) -> Option<u64> {
        loop {
            let page = self.policy().evict(Weak::upgrade)?;
            if self.pages.remove_if(&page.key, |_, kept| Arc::ptr_eq(kept, &page)).is_some() {
                self.trail.note(page.key.content, Cause::Evicted);
                return Some(page.weight());
            }
        }
    }

    fn remove(&self, key: PageKey) -> bool {
        let removed = self.pages.remove(&key);
        if let Some((_, page)) = &removed {
            self.policy().remove(page, Weak::upgrade);
        }
        removed.is_some()
    }

    /// Drops the pages of a content of `size_bytes`.
    pub(super) fn forget(&self, content: ContentKey, size_bytes: u64) {
        let mut keys: Vec<_> = Vec::new();
        let count = page_count(size_bytes);
        if count > self.pages.len() as u64 {
            keys.extend(self.pages.iter().map(|page| *page.key()).filter(|key| key.content == content));
        } else {
            keys.extend((0..count).map(|number| content.page(number)));
        }
        for key in keys {
            if self.remove(key) {
                self.trail.note(content, Cause::Dropped);
                self.version_evictions.inc();
            }
        }
    }

    /// Whether the policy has exactly the pages that are there.
    #[cfg(test)]
    pub(super) fn is_consistent(&self) -> bool {
        let bytes: u64 = self.pages.iter().map(|page| page.weight()).sum();
        let policy = self.policy();
        (policy.entries(), policy.bytes()) == (self.pages.len(), bytes)
    }

    fn policy(&self) -> MutexGuard<'_, S3Fifo<Weak<Page>>> {
        self.policy.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
