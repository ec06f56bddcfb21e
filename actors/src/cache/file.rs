//! One content seen through the cache.

mod explain;
mod fill;

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::{Buf, Bytes, BytesMut};
use forebay_core::{ByteRange, Content, Error, ErrorKind, Extent, Lent, METRICS, Result};
use futures::FutureExt;

use super::budget::Reservation;
use super::class::Class;
use super::disks::Home;
use super::flight::Flight;
use super::nvme::{NvmeTier, Offer, PackedObject, SparseFile};
use super::page::{ContentKey, HEAD_BYTES, PAGE_BYTES, PageKey, page_count, page_range, pages, within};
use super::policy::{Mark, Use};
use super::shadow::PageRead;
use super::share::{Held, MountShare};
use super::source::{Source, Sources};
use super::stream::{Readings, Streams};
use super::{Fetch, Tiers};

/// Of contents up to this length all pages are asked for with their first bytes: what counts is when the last one is
/// there. Of longer ones nothing shares the link with the first bytes but the rest of their page: two pages more cost
/// 4 ms at 200 MB/s.
const AT_ONCE_BYTES: u64 = 8 * PAGE_BYTES;

/// No page was read yet.
const NONE: u64 = u64::MAX;

/// A handle on one content; reads go to memory, to disk, then to the store.
pub struct CachedFile {
    tiers: Arc<Tiers>,
    mount: Arc<str>,
    share: Arc<MountShare>,
    class: Arc<Class>,
    content: ContentKey,
    home: Home,
    size_bytes: u64,
    fetch: Arc<dyn Fetch>,
    last_page: AtomicU64,
    streams: Arc<Streams>,
    sources: Sources,
}

impl CachedFile {
    pub(super) fn new(
        tiers: Arc<Tiers>,
        (mount, share): (Arc<str>, Arc<MountShare>),
        (content, class): (ContentKey, Arc<Class>),
        size_bytes: u64,
        fetch: Arc<dyn Fetch>,
    ) -> Self {
        class.touch();
        let (last_page, streams) = (AtomicU64::new(NONE), tiers.readings.of(content));
        let (home, sources) = (tiers.disks.home_of(content), Sources::default());
        Self { tiers, mount, share, class, content, home, size_bytes, fetch, last_page, streams, sources }
    }

    /// Another handle on the content, which is treated as part of a data set.
    #[must_use]
    pub fn as_data_set(&self) -> Self {
        let (tiers, fetch) = (Arc::clone(&self.tiers), Arc::clone(&self.fetch));
        let mount = (Arc::clone(&self.mount), Arc::clone(&self.share));
        Self::new(tiers, mount, (self.content, self.class.as_data_set()), self.size_bytes, fetch)
    }

    /// Somebody is going to read all of `range` in order: its pages are fetched ahead from its first read on.
    pub fn expect(&self, range: ByteRange) {
        let range = range.clamp_to(self.size_bytes);
        if range.len > PAGE_BYTES {
            self.streams.announce(*pages(range).start()..pages(range).end() + 1);
        }
    }

    /// Somebody is going to open this content soon: its first page is fetched, if there is a place and room for it.
    pub fn fetch_start(&self) {
        if self.size_bytes > 0 {
            self.fetch_ahead(0..1);
        }
    }

    /// All of `range` (as far as it lies inside the content) if no store has to be waited for. Extents on disk
    /// are lent; one that fails to be read is lent no more, so that [`CachedFile::read`] goes to the store.
    pub fn try_read(&self, range: ByteRange) -> Option<Content> {
        let range = range.clamp_to(self.size_bytes);
        let mut content = Content::default();
        if range.is_empty() {
            return Some(content);
        }
        let (mut memory_hits, mut memory_bytes) = (0, 0);
        for number in pages(range) {
            let wanted = within(range, number);
            content.push(match self.find(number)? {
                Found::Page(page) => {
                    memory_hits += 1;
                    memory_bytes += wanted.len;
                    Extent::Bytes(slice(page, wanted))
                }
                Found::File(file) => Extent::Lent(file.lend_part(number, wanted)?),
                Found::Packed(object) => {
                    let object = self.disk()?.try_read_packed(&object)?;
                    Extent::Bytes(slice(object, wanted))
                }
            });
        }
        let (nvme_hits, nvme_bytes) =
            (content.extents().len() as u64 - memory_hits, content.len() - memory_bytes);
        // Even nothing added to a counter costs what adding costs.
        if memory_hits > 0 {
            self.tiers.memory_hits.inc_by(memory_hits);
            self.share.served().memory.inc_by(memory_bytes);
        }
        if nvme_hits > 0 {
            self.tiers.nvme_hits.inc_by(nvme_hits);
            self.share.served().nvme.inc_by(nvme_bytes);
        }
        let source = if nvme_hits > 0 { Source::Nvme } else { Source::Memory };
        self.turn(range, (range, source), *pages(range).end());
        Some(content)
    }

    /// The start of `range`: what of it lies in its first page, or in what comes first of that; fetched if need be.
    /// Empty only if `range` has no byte inside the content. Cancel-safe: a fetch goes on for those who still wait.
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
        if let Some((bytes, source)) = self.cached(number, wanted).await {
            self.turn(range, (wanted, source), number);
            return Ok(bytes.into());
        }
        METRICS.cache_misses.with_label_values(&[&self.mount]).inc();
        let _waiting = self.share.filling().wait_for_store();
        let flight = self.start(number, None);
        if let Some(head) = self.head(wanted) {
            if self.last_page.load(Ordering::Relaxed) != number {
                self.note(wanted, Source::Store);
            }
            if self.size_bytes <= AT_ONCE_BYTES {
                self.fetch_window(range, number);
            }
            let head = head.await?;
            self.fetch_window(range, number);
            let wanted = ByteRange::new(wanted.offset, wanted.len.min(HEAD_BYTES - wanted.offset));
            return Ok(self.fetched(slice(head, wanted)));
        }
        self.turn(range, (wanted, Source::Store), number);
        Ok(self.fetched(slice(flight.await?, wanted)))
    }

    /// What a reader had to wait for the store for.
    fn fetched(&self, bytes: Bytes) -> Content {
        self.share.served().store.inc_by(bytes.len() as u64);
        bytes.into()
    }

    /// The flight of the content's first bytes, if it is under way and `wanted` begins in them.
    fn head(&self, wanted: ByteRange) -> Option<Flight> {
        let begins_in_head = wanted.offset < HEAD_BYTES && self.size_bytes > PAGE_BYTES;
        begins_in_head.then(|| self.tiers.flights.find(self.content.head())).flatten()
    }

    /// The whole content as one verified local file, if the disk tier has it.
    pub fn lend(&self) -> Option<Lent> {
        let lent = self.disk()?.lend(self.content, &self.class)?;
        // Who has the whole file need not ask for its pages, and they are not told.
        self.sources.note(Source::Nvme, 0);
        Some(lent)
    }

    /// The directory of the disk tier that the content belongs to.
    fn disk(&self) -> Option<&Arc<NvmeTier>> {
        self.tiers.disks.at(self.home)
    }

    fn find(&self, number: u64) -> Option<Found> {
        let key = self.content.page(number);
        let is_again = self.last_page.load(Ordering::Relaxed) == number;
        let used = if is_again { Use::Again } else { Use::First };
        let oldest = self.class.oldest();
        if let Some(hit) = self.tiers.memory.get(key, used, oldest) {
            if hit.is_worth_disk {
                self.offer(key, hit.bytes.clone());
            }
            return Some(Found::Page(hit.bytes));
        }
        let nvme = self.disk()?;
        let packed = || nvme.find_packed(key, used, &self.class).map(Found::Packed);
        nvme.get(key, used, &self.class).map(Found::File).or_else(packed)
    }

    /// Puts a page on the disk that was not worth it when it was fetched.
    fn offer(&self, key: PageKey, bytes: Bytes) {
        if let Some(nvme) = self.disk() {
            nvme.offer(Offer { key, class: Arc::clone(&self.class), size_bytes: self.size_bytes, bytes });
        }
    }

    /// A part of a page, waiting for the disk if need be.
    async fn cached(&self, number: u64, wanted: ByteRange) -> Option<(Bytes, Source)> {
        match self.find(number)? {
            Found::Page(page) => {
                self.tiers.memory_hits.inc();
                self.share.served().memory.inc_by(wanted.len);
                Some((slice(page, wanted), Source::Memory))
            }
            Found::Packed(object) => {
                let bytes = self.disk()?.read_packed(object).await?;
                self.tiers.nvme_hits.inc();
                self.share.served().nvme.inc_by(wanted.len);
                Some((slice(bytes, wanted), Source::Nvme))
            }
            Found::File(file) => {
                let bytes = self.disk()?.read(file, number, wanted).await?;
                self.tiers.nvme_hits.inc();
                self.share.served().nvme.inc_by(wanted.len);
                Some((bytes, Source::Nvme))
            }
        }
    }

    /// Joins or starts the fetch of a page.
    fn start(&self, number: u64, ahead: Option<Ahead>) -> Flight {
        let key = self.content.page(number);
        let range = page_range(number, self.size_bytes);
        let size_bytes = self.size_bytes;
        let (class, is_ahead) = (&self.class, ahead.is_some());
        let landed = || Some(self.tiers.memory.get(key, Use::First, class.oldest())?.bytes);
        self.tiers.flights.join(key, landed, || {
            METRICS.cache_fetches.with_label_values(&[&self.mount]).inc();
            let (tiers, share) = (Arc::clone(&self.tiers), Arc::clone(&self.share));
            let (place, room, run) = match ahead {
                Some(Ahead { place, room, run }) => (Some(place), Some(room), run),
                None => (None, self.room(range.len), None),
            };
            let (class, fetch, home) = (Arc::clone(&self.class), Arc::clone(&self.fetch), self.home);
            let head = room.as_ref().and_then(|_| self.start_head(number));
            async move {
                let _place = place;
                let Some(Room { reservation, held }) = room else {
                    class.tally().memory.refused.inc();
                    let _place = share.uncached(&tiers.uncached).await;
                    return fetch_exact(&*fetch, range).await;
                };
                let bytes = match (head, run) {
                    (Some(head), _) => fetch_after(&*fetch, head, range).await?,
                    (None, Some(run)) => run.page(range).await?,
                    (None, None) => fetch_exact(&*fetch, range).await?,
                };
                let nvme = tiers.disks.at(home);
                let admitting = nvme.filter(|nvme| nvme.admits(key, &class, (size_bytes, range.len)));
                let mark = Mark::new(is_ahead, nvme.is_some() && admitting.is_none());
                let bytes = tiers.memory.insert((key, &class), bytes, reservation, mark);
                drop(held);
                if let Some(nvme) = admitting {
                    nvme.offer(Offer { key, class, size_bytes, bytes: bytes.clone() });
                }
                Ok(bytes)
            }
        })
    }

    /// Starts the fetch of the first bytes of a content of several pages: whoever begins to read it should not wait
    /// for a whole page, which takes 5 ms more at 200 MB/s. Costs one more request for such a content.
    fn start_head(&self, number: u64) -> Option<Flight> {
        if number > 0 || self.size_bytes <= PAGE_BYTES {
            return None;
        }
        let fetch = Arc::clone(&self.fetch);
        let work = || async move { fetch_exact(&*fetch, ByteRange::new(0, HEAD_BYTES)).await };
        Some(self.tiers.flights.join(self.content.head(), || None, work))
    }

    /// Memory for a page in flight, within the mount's share.
    fn room(&self, bytes: u64) -> Option<Room> {
        let held = self.share.take_memory(bytes)?;
        Some(Room { reservation: self.tiers.memory.reserve_page(bytes)?, held })
    }

    /// A reader of `range` was given a part of it, and is at page `number` now: once for all small reads of that,
    /// notes it and starts fetching what comes after it.
    fn turn(&self, range: ByteRange, (given, source): (ByteRange, Source), number: u64) {
        if self.last_page.load(Ordering::Relaxed) != number {
            self.note(given, source);
            self.fetch_window(range, number);
        }
    }

    /// Tells those who count reads of pages.
    fn note(&self, given: ByteRange, source: Source) {
        self.sources.note(source, pages(given).count() as u64);
        for number in pages(given) {
            let key = self.content.page(number);
            if self.tiers.shadow.samples(key) {
                let (class, bytes) = (&self.class, page_range(number, self.size_bytes).len);
                self.tiers.shadow.count(self.sources.take_pages());
                self.tiers.shadow.read(&PageRead { key, bytes, class, source });
            }
        }
    }

    /// Starts fetching pages after `number`: the rest of `range`, and what lies in the window of a reader
    /// of pages in a row. Takes no more than the mount's share of the places and of the budget.
    fn fetch_window(&self, range: ByteRange, number: u64) {
        self.last_page.store(number, Ordering::Relaxed);
        self.class.touch();
        if self.size_bytes <= PAGE_BYTES {
            return;
        }
        let window = self.streams.read(number, pages(range).end() + 1);
        let (count, together) = (page_count(self.size_bytes), self.fetch.request_bytes() / PAGE_BYTES);
        let end = window.end.min(count);
        if window.step > 1 {
            let pages = (window.start..end).step_by(window.step as usize);
            let asked = pages.take_while(|page| self.fetch_ahead(*page..page + 1) > *page).last();
            self.streams.asked(number, asked.map_or(window.start, |page| page + window.step));
            return;
        }
        // Long requests wait until all of one lies in the window, as long as there are pages ahead of the reader.
        let is_short = window.start + together > end && end < count;
        if together > 1 && is_short && window.start > number + 1 {
            return;
        }
        let mut asked = window.start;
        while asked < end {
            let stop = end.min(asked + together.max(1));
            asked = self.fetch_ahead(asked..stop);
            if asked < stop && !self.tiers.contains(self.content.page(asked)) {
                break;
            }
        }
        self.streams.asked(number, asked.max(window.start));
    }

    /// Fetches pages before they are read, up to one that is cached or on its way, and as far as there are places and
    /// room; returns the first page that was not asked for.
    fn fetch_ahead(&self, wanted: Range<u64>) -> u64 {
        let is_there = |number: u64| self.tiers.contains(self.content.page(number));
        let start = wanted.clone().find(|number| !is_there(*number)).unwrap_or(wanted.end);
        let claim = |number: u64| if is_there(number) { None } else { self.ahead(number) };
        let claimed: Vec<Ahead> = (start..wanted.end).map_while(claim).collect();
        let end = start + claimed.len() as u64;
        let run = (claimed.len() > 1).then(|| self.run(start..end));
        for (number, ahead) in (start..end).zip(claimed) {
            drop(self.start(number, Some(Ahead { run: run.clone(), ..ahead })));
        }
        end
    }

    fn ahead(&self, number: u64) -> Option<Ahead> {
        let place = self.share.take_ahead()?;
        let room = self.room(page_range(number, self.size_bytes).len)?;
        Some(Ahead { place, room, run: None })
    }

    /// One fetch for several pages.
    fn run(&self, wanted: Range<u64>) -> Run {
        let offset = wanted.start * PAGE_BYTES;
        let range =
            ByteRange::new(offset, (wanted.end - wanted.start) * PAGE_BYTES).clamp_to(self.size_bytes);
        let fetch = Arc::clone(&self.fetch);
        Run { offset, bytes: async move { fetch_exact(&*fetch, range).await }.boxed().shared() }
    }
}

impl Drop for CachedFile {
    fn drop(&mut self) {
        if Readings::close(&self.streams) {
            self.tiers.forget(self.content, self.size_bytes);
        }
        if let Some(farthest) = self.sources.farthest() {
            self.share.closed(farthest);
            self.tiers.shadow.count(self.sources.take_pages());
        }
    }
}

/// Where a page is cached.
enum Found {
    Page(Bytes),
    File(Arc<SparseFile>),
    Packed(PackedObject),
}

/// Memory for a page in flight: what it keeps, and the mount's share until it is there.
struct Room {
    reservation: Reservation,
    held: Held,
}

/// What a fetch ahead of its reader needs before it may start.
struct Ahead {
    place: Held,
    room: Room,
    /// The fetch that the page comes with, where several come together.
    run: Option<Run>,
}

/// A fetch of several pages, driven by those who wait for one of them.
#[derive(Clone)]
struct Run {
    offset: u64,
    bytes: Flight,
}

impl Run {
    /// One of its pages, copied: a page that is evicted must free its memory.
    async fn page(self, range: ByteRange) -> Result<Bytes> {
        let start = (range.offset - self.offset) as usize;
        Ok(Bytes::copy_from_slice(&self.bytes.await?[start..start + range.len as usize]))
    }
}

fn slice(mut page: Bytes, wanted: ByteRange) -> Bytes {
    page.advance((wanted.offset % PAGE_BYTES) as usize);
    page.truncate(wanted.len as usize);
    page
}

/// The first page: its head, which is under way, and the rest.
async fn fetch_after(fetch: &dyn Fetch, head: Flight, range: ByteRange) -> Result<Bytes> {
    let rest = ByteRange::new(HEAD_BYTES, range.len - HEAD_BYTES);
    let (head, rest) = futures::try_join!(head, fetch_exact(fetch, rest))?;
    let mut page = BytesMut::with_capacity(range.len as usize);
    page.extend_from_slice(&head);
    page.extend_from_slice(&rest);
    Ok(page.freeze())
}

async fn fetch_exact(fetch: &dyn Fetch, range: ByteRange) -> Result<Bytes> {
    let bytes = fetch.fetch(range).await?;
    if bytes.len() as u64 == range.len {
        return Ok(bytes);
    }
    let message = format!("the store returned {} bytes of {} asked for", bytes.len(), range.len);
    Err(Error::new(ErrorKind::Internal, message))
}
