//! One content seen through the cache.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use forebay_core::{ByteRange, Content, Error, ErrorKind, Extent, Lent, METRICS, Result};
use tokio::sync::OwnedSemaphorePermit;

use super::budget::Reservation;
use super::flight::Flight;
use super::memory::Use;
use super::nvme::SparseFile;
use super::page::{ContentKey, PAGE_BYTES, page_count, page_range, pages, within};
use super::{Fetch, Tiers};

/// Pages fetched ahead of a reader that reads pages in a row, so that a cold stream overlaps its round trips.
const READ_AHEAD_PAGES: u64 = 3;

/// No page was read yet.
const NONE: u64 = u64::MAX;

/// A handle on one content; reads go to memory, to disk, then to the store.
pub struct CachedFile {
    tiers: Arc<Tiers>,
    mount: Arc<str>,
    content: ContentKey,
    size_bytes: u64,
    fetch: Arc<dyn Fetch>,
    last_page: AtomicU64,
}

impl CachedFile {
    pub(super) fn new(
        tiers: Arc<Tiers>,
        mount: Arc<str>,
        content: ContentKey,
        size_bytes: u64,
        fetch: Arc<dyn Fetch>,
    ) -> Self {
        Self { tiers, mount, content, size_bytes, fetch, last_page: AtomicU64::new(NONE) }
    }

    /// All of `range` (as far as it lies inside the content) if no store has to be waited for. Extents on disk
    /// are lent; one that fails to be read is lent no more, so that [`CachedFile::read`] goes to the store.
    pub fn try_read(&self, range: ByteRange) -> Option<Content> {
        let range = range.clamp_to(self.size_bytes);
        let mut content = Content::default();
        if range.is_empty() {
            return Some(content);
        }
        for number in pages(range) {
            let wanted = within(range, number);
            content.push(match self.find(number)? {
                Found::Page(page) => Extent::Bytes(slice(&page, wanted)),
                Found::File(file) => Extent::Lent(file.lend_part(wanted)),
            });
        }
        for extent in content.extents() {
            match extent {
                Extent::Bytes(_) => self.tiers.memory_hits.inc(),
                Extent::Lent(_) => self.tiers.nvme_hits.inc(),
            }
        }
        self.read_ahead(range, *pages(range).end());
        Some(content)
    }

    /// The start of `range`: what of it lies in its first page, fetched if need be. Empty only if `range` has no
    /// byte inside the content. Cancel-safe: a fetch goes on for those who still wait.
    ///
    /// # Errors
    /// Those of [`Fetch::fetch`]; `Internal` when it panicked or returned another length.
    pub async fn read(&self, range: ByteRange) -> Result<Content> {
        let range = range.clamp_to(self.size_bytes);
        if range.is_empty() {
            return Ok(Content::default());
        }
        let number = *pages(range).start();
        let wanted = within(range, number);
        if let Some(bytes) = self.cached(number, wanted).await {
            self.read_ahead(range, number);
            return Ok(bytes.into());
        }
        METRICS.cache_misses.with_label_values(&[&self.mount]).inc();
        let flight = self.start(number, None);
        self.read_ahead(range, number);
        Ok(slice(&flight.await?, wanted).into())
    }

    /// The whole content as one verified local file, if the disk tier has it.
    pub fn lend(&self) -> Option<Lent> {
        self.tiers.nvme.as_ref()?.lend(self.content)
    }

    fn find(&self, number: u64) -> Option<Found> {
        let key = self.content.page(number);
        let is_again = self.last_page.load(Ordering::Relaxed) == number;
        let used = if is_again { Use::Again } else { Use::First };
        if let Some(page) = self.tiers.memory.get(key, used) {
            return Some(Found::Page(page));
        }
        self.tiers.nvme.as_ref()?.get(key, used).map(Found::File)
    }

    /// A part of a page, waiting for the disk if need be.
    async fn cached(&self, number: u64, wanted: ByteRange) -> Option<Bytes> {
        match self.find(number)? {
            Found::Page(page) => {
                self.tiers.memory_hits.inc();
                Some(slice(&page, wanted))
            }
            Found::File(file) => {
                let nvme = Arc::clone(self.tiers.nvme.as_ref()?);
                let bytes = self.tiers.run_blocking(move || nvme.read(&file, number, wanted)).await??;
                self.tiers.nvme_hits.inc();
                Some(bytes)
            }
        }
    }

    /// Joins or starts the fetch of a page.
    fn start(&self, number: u64, ahead: Option<Ahead>) -> Flight {
        let key = self.content.page(number);
        let range = page_range(number, self.size_bytes);
        let size_bytes = self.size_bytes;
        let landed = || self.tiers.memory.get(key, Use::First);
        self.tiers.flights.join(key, landed, || {
            METRICS.cache_fetches.with_label_values(&[&self.mount]).inc();
            let (tiers, fetch) = (Arc::clone(&self.tiers), Arc::clone(&self.fetch));
            let (place, reservation) = match ahead {
                Some(Ahead { place, reservation }) => (Some(place), Some(reservation)),
                None => (None, tiers.memory.reserve(range.len)),
            };
            async move {
                let _place = place;
                let Some(reservation) = reservation else {
                    tiers.memory_refusals.inc();
                    let _permit = tiers.uncached.acquire().await;
                    return fetch_exact(&*fetch, range).await;
                };
                let bytes = fetch_exact(&*fetch, range).await?;
                let bytes = tiers.memory.insert(key, bytes, reservation);
                if let Some(nvme) = &tiers.nvme {
                    nvme.offer(key, size_bytes, bytes.clone());
                }
                Ok(bytes)
            }
        })
    }

    /// Starts fetching what comes after page `number`: the rest of `range`, or the next pages when this one
    /// follows the one read before. Takes no more than the free read-ahead places and what the budget gives.
    fn read_ahead(&self, range: ByteRange, number: u64) {
        let last = self.last_page.load(Ordering::Relaxed);
        if last != number {
            self.last_page.store(number, Ordering::Relaxed);
        }
        let is_in_a_row = last != NONE && last + 1 == number;
        let wanted = if is_in_a_row { number + READ_AHEAD_PAGES } else { *pages(range).end() };
        let stop = wanted.min(number + READ_AHEAD_PAGES).min(page_count(self.size_bytes) - 1);
        for next in number + 1..=stop {
            let key = self.content.page(next);
            if self.tiers.contains(key) {
                continue;
            }
            let Ok(place) = Arc::clone(&self.tiers.ahead).try_acquire_owned() else { return };
            let page = page_range(next, self.size_bytes);
            let Some(reservation) = self.tiers.memory.reserve(page.len) else { return };
            drop(self.start(next, Some(Ahead { place, reservation })));
        }
    }
}

/// Where a page is cached.
enum Found {
    Page(Bytes),
    File(Arc<SparseFile>),
}

/// What a fetch ahead of its reader needs before it may start.
struct Ahead {
    place: OwnedSemaphorePermit,
    reservation: Reservation,
}

fn slice(page: &Bytes, wanted: ByteRange) -> Bytes {
    let start = (wanted.offset % PAGE_BYTES) as usize;
    page.slice(start..start + wanted.len as usize)
}

async fn fetch_exact(fetch: &dyn Fetch, range: ByteRange) -> Result<Bytes> {
    let bytes = fetch.fetch(range).await?;
    if bytes.len() as u64 == range.len {
        return Ok(bytes);
    }
    let message = format!("the store returned {} bytes of {} asked for", bytes.len(), range.len);
    Err(Error::new(ErrorKind::Internal, message))
}
