//! The memory tier: whole pages under one byte budget, kept by S3-FIFO.
//!
//! Invariants:
//! - A page's bytes are counted until its last reader drops them, not only while the tier holds it.
//! - The policy's mutex is taken to insert and to evict, never on a hit.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use bytes::Bytes;
use dashmap::DashMap;
use tokio::time::Instant;

use super::budget::{Budget, Reservation};
use super::class::Class;
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
    /// Whose tally counts it when it goes.
    class: Arc<Class>,
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
    trail: Trail,
    /// That of the tier behind, which has this one at hand.
    disk_trail: Trail,
}

impl MemoryTier {
    pub(super) fn new(config: &CacheConfig) -> Self {
        Self {
            pages: DashMap::default(),
            policy: Mutex::new(S3Fifo::new(config.memory_bytes)),
            budget: Arc::new(Budget::new("memory", config.memory_bytes, config)),
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
            if let Some(page) = self.remove(key) {
                page.class.tally().memory.expired.inc();
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
            self.evict()?.class.tally().memory.evicted_inline.inc();
        }
        self.budget.try_reserve(bytes)
    }

    /// Keeps a page; returns its bytes tied to their reservation.
    pub(super) fn insert(
        &self,
        (key, class): (PageKey, &Arc<Class>),
        bytes: Bytes,
        reservation: Reservation,
        mark: Mark,
    ) -> Bytes {
        let bytes = Bytes::from_owner(Reserved { bytes, _reservation: reservation });
        let (class, born) = (Arc::clone(class), Instant::now());
        let page = Arc::new(Page { key, class, bytes: bytes.clone(), born, mark });
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
        let page = self.evict()?;
        page.class.tally().memory.evicted.inc();
        Some(page.weight())
    }

    fn evict(&self) -> Option<Arc<Page>> {
        loop {
            let page = self.policy().evict(Weak::upgrade)?;
            if self.pages.remove_if(&page.key, |_, kept| Arc::ptr_eq(kept, &page)).is_some() {
                self.trail.note(page.key.content, Cause::Evicted);
                return Some(page);
            }
        }
    }

    fn remove(&self, key: PageKey) -> Option<Arc<Page>> {
        let (_, page) = self.pages.remove(&key)?;
        self.policy().remove(&page, Weak::upgrade);
        Some(page)
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
            if let Some(page) = self.remove(key) {
                self.trail.note(content, Cause::Dropped);
                page.class.tally().memory.evicted_version.inc();
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
