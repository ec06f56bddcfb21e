//! The memory tier: whole pages under one byte budget, evicted first in, first out with a second chance.
//!
//! Invariants:
//! - A page's bytes are counted until its last reader drops them, not only while the tier holds it.
//! - The queue's mutex is taken to insert and to evict, never on a hit.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use bytes::Bytes;
use dashmap::DashMap;
use forebay_core::METRICS;
use prometheus::IntCounter;

use super::budget::{Budget, Reservation};
use super::page::{ContentKey, KeyHash, PageKey, page_count};
use crate::config::CacheConfig;

/// What a page costs beside its bytes: map and queue entries, headers and counters, rounded up.
const PAGE_OVERHEAD_BYTES: u64 = 256;

/// Most pages a fetch may evict itself before it goes uncached.
const INLINE_EVICTIONS: usize = 64;

/// Most second chances one eviction grants before it takes the next page whatever its use.
const SECOND_CHANCES: usize = 128;

/// Top of the use counter: two bits.
const FREQUENCY_MAX: u8 = 3;

struct Page {
    bytes: Bytes,
    frequency: AtomicU8,
}

/// Whether a read is a use of its page. Small reads of one page in a row are one use: they would make every page
/// of a stream look often used.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Use {
    First,
    Again,
}

impl Use {
    /// Counts up to [`FREQUENCY_MAX`]; a lost race loses one use.
    pub(super) fn count(self, frequency: &AtomicU8) {
        let uses = frequency.load(Ordering::Relaxed);
        if self == Self::First && uses < FREQUENCY_MAX {
            frequency.store(uses + 1, Ordering::Relaxed);
        }
    }
}

/// Takes one use for a second chance; `false` when there was none.
pub(super) fn spend(frequency: &AtomicU8) -> bool {
    let uses = frequency.load(Ordering::Relaxed);
    frequency.store(uses.saturating_sub(1), Ordering::Relaxed);
    uses > 0
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
    /// Oldest first. Entries whose page is gone are skipped, and swept when they outnumber the pages.
    queue: Mutex<VecDeque<(PageKey, Weak<Page>)>>,
    budget: Arc<Budget>,
    evictions: IntCounter,
    inline_evictions: IntCounter,
    version_evictions: IntCounter,
}

impl MemoryTier {
    pub(super) fn new(config: &CacheConfig) -> Self {
        let evictions = |cause| METRICS.cache_evictions.with_label_values(&["memory", cause]);
        Self {
            pages: DashMap::default(),
            queue: Mutex::default(),
            budget: Arc::new(Budget::new("memory", config.memory_bytes, config)),
            evictions: evictions("watermark"),
            inline_evictions: evictions("inline"),
            version_evictions: evictions("version"),
        }
    }

    pub(super) fn budget(&self) -> &Arc<Budget> {
        &self.budget
    }

    /// The page.
    pub(super) fn get(&self, key: PageKey, used: Use) -> Option<Bytes> {
        let page = self.pages.get(&key)?;
        used.count(&page.frequency);
        Some(page.bytes.clone())
    }

    pub(super) fn contains(&self, key: PageKey) -> bool {
        self.pages.contains_key(&key)
    }

    /// Room for a page of `bytes`, if need be by evicting a bounded number of others.
    pub(super) fn reserve(&self, bytes: u64) -> Option<Reservation> {
        let bytes = bytes + PAGE_OVERHEAD_BYTES;
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
    pub(super) fn insert(&self, key: PageKey, bytes: Bytes, reservation: Reservation) -> Bytes {
        let bytes = Bytes::from_owner(Reserved { bytes, _reservation: reservation });
        let page = Arc::new(Page { bytes: bytes.clone(), frequency: AtomicU8::new(0) });
        let entry = (key, Arc::downgrade(&page));
        self.pages.insert(key, page);
        let mut queue = self.queue();
        if queue.len() > 2 * self.pages.len() + SECOND_CHANCES {
            queue.retain(|(_, page)| page.strong_count() > 0);
        }
        queue.push_back(entry);
        bytes
    }

    /// Evicts the next page for the watermarks; its length, or `None` when there is none.
    pub(super) fn evict_one(&self) -> Option<u64> {
        let freed = self.evict()?;
        self.evictions.inc();
        Some(freed)
    }

    fn evict(&self) -> Option<u64> {
        let mut chances = SECOND_CHANCES;
        loop {
            let (key, weak) = self.queue().pop_front()?;
            let Some(page) = weak.upgrade() else { continue };
            if chances > 0 && spend(&page.frequency) {
                chances -= 1;
                self.queue().push_back((key, weak));
                continue;
            }
            if self.pages.remove_if(&key, |_, kept| Arc::ptr_eq(kept, &page)).is_some() {
                return Some(page.bytes.len() as u64 + PAGE_OVERHEAD_BYTES);
            }
        }
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
            if self.pages.remove(&key).is_some() {
                self.version_evictions.inc();
            }
        }
    }

    fn queue(&self) -> MutexGuard<'_, VecDeque<(PageKey, Weak<Page>)>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
