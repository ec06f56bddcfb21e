//! Who reads a file page after page, and how far to fetch ahead of each.
//!
//! A window of pages grows with what was read in a row: twice that, up to [`WINDOW_MAX`]. So what is fetched in vain
//! is never more than twice what was read, and random reads fetch nothing ahead. Who says beforehand how far it will
//! read gets [`WINDOW_ANNOUNCED`] at once, and nothing past that end.
//!
//! What is fetched and not yet read must not push itself out of a small memory tier: all streams together have an
//! [`Outlook`] of so many pages, each has at most what it leaves free, and [`WINDOW_MIN`] in any case.
//!
//! Pages at equal distances are a row as well, once the distance came twice.
//!
//! A file has a few streams at a time, because threads share a handle and the kernel reads ahead by itself. They
//! belong to the content, not to a handle: a client that asks for one range after the other reads on.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use dashmap::DashMap;

use super::page::{ContentKey, KeyHash};

/// Most pages ahead of one reader: 32 MiB in flight is 1.6 GB/s at 20 ms.
const WINDOW_MAX: u64 = 32;
/// Pages ahead of one reader however many others there are.
const WINDOW_MIN: u64 = 4;
/// Pages ahead of a reader that has said that it reads on.
const WINDOW_ANNOUNCED: u64 = 8;
/// Pages in a row that make a stream.
const RUN_MIN: u64 = 2;
/// Streams of one content at a time.
const STREAMS: usize = 4;
/// Pages at the same distance that make a stream.
const STRIDES_MIN: u64 = 3;
/// Longest such distance, in pages.
const STEP_MAX: u64 = 64;
/// Contents whose streams are remembered while nobody has them open.
const REMEMBERED: usize = 1024;
/// How far behind its stream a read may come: requests of one reader overtake each other.
const BEHIND: u64 = 2;
/// No page.
const NONE: u64 = u64::MAX;

/// Pages that were asked for ahead of readers and are not read yet, over all files.
pub(super) struct Outlook {
    limit: u64,
    taken: AtomicU64,
}

/// The streams of one content.
pub(super) struct Streams {
    slots: Mutex<Slots>,
    /// Handles on the content.
    open: AtomicUsize,
    /// Whether the content is to be dropped with its last handle.
    is_released: AtomicBool,
}

/// The streams of the contents that were opened last.
pub(super) struct Readings {
    streams: DashMap<ContentKey, Arc<Streams>, KeyHash>,
    order: Mutex<VecDeque<ContentKey>>,
    outlook: Arc<Outlook>,
}

/// Pages to fetch ahead: each `step`th one from `start` to before `end`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Window {
    pub(super) start: u64,
    pub(super) end: u64,
    pub(super) step: u64,
}

struct Slots {
    streams: [Stream; STREAMS],
    reads: u64,
    outlook: Arc<Outlook>,
}

#[derive(Clone, Copy)]
struct Stream {
    /// The page that continues the row.
    next: u64,
    /// From one page of the row to the next.
    step: u64,
    /// Pages in a row so far.
    run: u64,
    /// The first page that was not asked for yet.
    ahead: u64,
    /// Past the last page that was announced; 0 if nothing was.
    announced: u64,
    /// What it has of the outlook.
    held: u64,
    /// Number of the last read; the stream that was not used for longest makes room.
    used: u64,
}

impl Stream {
    const EMPTY: Self = Self { next: NONE, step: 1, run: 0, ahead: 0, announced: 0, held: 0, used: 0 };

    fn continues_at(&self, page: u64) -> bool {
        let is_near = match self.step {
            1 => page <= self.next && page + BEHIND >= self.next,
            step => page == self.next || page + step == self.next,
        };
        self.next != NONE && is_near
    }

    /// Whether `page` may be the second one of a row of distances.
    fn strides_to(&self, page: u64) -> bool {
        self.run == 1 && self.announced == 0 && page >= self.next && page - self.next < STEP_MAX
    }

    fn step_on(&mut self, page: u64) {
        self.next = page + self.step;
        self.run += 1;
    }

    /// Past the last page to fetch while a reader is at `page`.
    fn window_end(&self, page: u64) -> u64 {
        let run_min = if self.step == 1 { RUN_MIN } else { STRIDES_MIN };
        let grown = if self.run < run_min { 0 } else { (2 * self.run).min(WINDOW_MAX) * self.step };
        match self.announced {
            0 => page + 1 + grown,
            end => (page + 1 + grown.max(WINDOW_ANNOUNCED)).min(end),
        }
    }
}

impl Outlook {
    /// Of at most `limit` pages, but for the least that each stream has.
    pub(super) fn new(limit: u64) -> Arc<Self> {
        Arc::new(Self { limit, taken: AtomicU64::new(0) })
    }

    /// How many more pages a stream may ask for that has `held`: up to what would stay free then.
    fn more(&self, held: u64) -> u64 {
        let free = self.limit.saturating_sub(self.taken.load(Ordering::Relaxed));
        (free.saturating_sub(held) / 2).max(WINDOW_MIN.saturating_sub(held))
    }

    /// A stream that had `before` has `now`.
    fn change(&self, before: u64, now: u64) {
        self.taken.fetch_add(now, Ordering::Relaxed);
        self.taken.fetch_sub(before, Ordering::Relaxed);
    }
}

impl Streams {
    pub(super) fn new(outlook: &Arc<Outlook>) -> Self {
        let outlook = Arc::clone(outlook);
        let slots = Slots { streams: [Stream::EMPTY; STREAMS], reads: 0, outlook };
        Self { slots: Mutex::new(slots), open: AtomicUsize::new(0), is_released: AtomicBool::new(false) }
    }

    /// Somebody is going to read all of `pages`, in order.
    pub(super) fn announce(&self, pages: Range<u64>) {
        let stream = Stream { next: pages.start, announced: pages.end, ahead: pages.start, ..Stream::EMPTY };
        self.slots().replace(stream);
    }

    /// Somebody reads `page` and wants what comes before `wanted_end` as well: the pages to fetch ahead of it, of
    /// which [`Streams::asked`] says afterwards how many were.
    pub(super) fn read(&self, page: u64, wanted_end: u64) -> Window {
        let mut slots = self.slots();
        let slot = slots.follow(page);
        let stream = &slots.streams[slot];
        if stream.step > 1 && wanted_end > page + 1 {
            return Window { start: page + 1, end: wanted_end.min(page + 1 + WINDOW_MAX), step: 1 };
        }
        let start = stream.ahead.max(page + stream.step);
        let end = stream.window_end(page).max(wanted_end.min(page + 1 + WINDOW_MAX));
        let most = slots.outlook.more(stream.held) * stream.step;
        Window { start, end: end.min(start + most), step: stream.step }
    }

    /// What comes before `end` was asked for on behalf of the reader at `page`.
    pub(super) fn asked(&self, page: u64, end: u64) {
        let mut slots = self.slots();
        if let Some(slot) = slots.streams.iter().position(|stream| stream.continues_at(page)) {
            let stream = &mut slots.streams[slot];
            // Up to the next page of the row.
            let end = page + end.saturating_sub(page).next_multiple_of(stream.step);
            stream.ahead = stream.ahead.max(end);
            slots.settle(slot);
        }
    }

    /// Nobody has the content open: leaves the outlook to others.
    fn rest(&self) {
        let mut slots = self.slots();
        let held: u64 = slots.streams.iter_mut().map(|stream| std::mem::take(&mut stream.held)).sum();
        slots.outlook.change(held, 0);
    }

    fn slots(&self) -> MutexGuard<'_, Slots> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Slots {
    fn tick(&mut self) -> u64 {
        self.reads += 1;
        self.reads
    }

    /// The stream that `page` belongs to, with that page read.
    fn follow(&mut self, page: u64) -> usize {
        let now = self.tick();
        if let Some(slot) = self.streams.iter().position(|stream| stream.continues_at(page)) {
            let stream = &mut self.streams[slot];
            if stream.next == page {
                stream.step_on(page);
            }
            stream.used = now;
            self.settle(slot);
            return slot;
        }
        if let Some(slot) = self.streams.iter().position(|stream| stream.strides_to(page)) {
            let stream = &mut self.streams[slot];
            stream.step = page + 1 - stream.next;
            stream.step_on(page);
            (stream.ahead, stream.used) = (stream.next, now);
            self.settle(slot);
            return slot;
        }
        self.replace(Stream { next: page + 1, run: 1, ahead: page + 1, ..Stream::EMPTY })
    }

    /// Puts a stream in the place of the one that was not used for longest; which place that is.
    fn replace(&mut self, stream: Stream) -> usize {
        let now = self.tick();
        let oldest = self.streams.iter().enumerate().min_by_key(|(_, stream)| stream.used);
        let slot = oldest.map_or(0, |(slot, _)| slot);
        self.outlook.change(self.streams[slot].held, 0);
        self.streams[slot] = Stream { used: now, ..stream };
        slot
    }

    /// Takes or gives back what changed of a stream's part in the outlook.
    fn settle(&mut self, slot: usize) {
        let stream = &mut self.streams[slot];
        let held = stream.ahead.saturating_sub(stream.next) / stream.step;
        self.outlook.change(stream.held, held);
        stream.held = held;
    }
}

impl Readings {
    pub(super) fn new(outlook: &Arc<Outlook>) -> Self {
        Self { streams: DashMap::default(), order: Mutex::default(), outlook: Arc::clone(outlook) }
    }

    /// The streams of a content.
    pub(super) fn of(&self, content: ContentKey) -> Arc<Streams> {
        if let Some(streams) = self.streams.get(&content) {
            return opened(&streams);
        }
        let fresh = || Arc::new(Streams::new(&self.outlook));
        let streams = opened(&self.streams.entry(content).or_insert_with(fresh));
        let mut order = self.order.lock().unwrap_or_else(PoisonError::into_inner);
        order.push_back(content);
        // What is open stays, and has its turn again: for each that comes up to two go.
        for _ in 0..order.len().saturating_sub(REMEMBERED).min(2) {
            let Some(oldest) = order.pop_front() else { break };
            let is_closed = |_: &ContentKey, streams: &Arc<Streams>| streams.open.load(Ordering::SeqCst) == 0;
            if self.streams.remove_if(&oldest, is_closed).is_none() && self.streams.contains_key(&oldest) {
                order.push_back(oldest);
            }
        }
        streams
    }

    /// A handle of a content is closed; whether it was the last one and the content is to be dropped.
    pub(super) fn close(streams: &Streams) -> bool {
        if streams.open.fetch_sub(1, Ordering::SeqCst) > 1 {
            return false;
        }
        streams.rest();
        streams.is_released.swap(false, Ordering::SeqCst)
    }

    /// A content is to be dropped: at once if `true`, else by who closes it last.
    pub(super) fn release(&self, content: ContentKey) -> bool {
        self.streams.get(&content).is_none_or(|streams| {
            streams.is_released.store(true, Ordering::SeqCst);
            streams.open.load(Ordering::SeqCst) == 0 && streams.is_released.swap(false, Ordering::SeqCst)
        })
    }
}

/// One more handle; called while the table holds the content, so that it is not taken out as closed.
fn opened(streams: &Arc<Streams>) -> Arc<Streams> {
    streams.open.fetch_add(1, Ordering::SeqCst);
    Arc::clone(streams)
}

impl Drop for Slots {
    fn drop(&mut self) {
        self.outlook.change(self.streams.iter().map(|stream| stream.held).sum(), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads `page` and asks for all that is to be fetched; how many pages that were.
    fn read(streams: &Streams, page: u64) -> u64 {
        let Window { start, end, step } = streams.read(page, page + 1);
        streams.asked(page, end);
        end.saturating_sub(start).div_ceil(step)
    }

    fn in_a_row(pages: Range<u64>) -> Window {
        Window { start: pages.start, end: pages.end, step: 1 }
    }

    #[test]
    fn window_grows_with_what_was_read_up_to_its_cap() {
        let streams = Streams::new(&Outlook::new(1000));
        let mut asked = 0;
        for page in 0..100 {
            asked += read(&streams, page);
            let ahead = asked.saturating_sub(page);
            assert!(ahead <= (2 * (page + 1)).min(WINDOW_MAX), "{ahead} pages ahead at {page}");
        }
        assert_eq!(asked, 98 + WINDOW_MAX, "each page from the third on once, and a full window in the end");
    }

    #[test]
    fn random_reads_fetch_nothing_ahead() {
        let streams = Streams::new(&Outlook::new(1000));
        fastrand::seed(7);
        let fetched: u64 = (0..1000).map(|_| read(&streams, fastrand::u64(0..100_000))).sum();
        assert!(fetched <= 16, "{fetched}");
        assert_eq!([900, 800, 700, 600, 500, 400].map(|page| read(&streams, page)), [0; 6]);
    }

    #[test]
    fn threads_of_one_handle_are_streams_of_their_own() {
        let streams = Streams::new(&Outlook::new(1000));
        for step in 0..8 {
            for thread in 0..STREAMS as u64 {
                let fetched = read(&streams, thread * 1000 + step);
                assert_eq!(fetched > 0, step > 0, "thread {thread}, step {step}");
            }
        }
    }

    #[test]
    fn reads_that_overtake_each_other_are_one_stream() {
        let streams = Streams::new(&Outlook::new(1000));
        let fetched: u64 = [0, 1, 2, 1, 3, 2, 4, 5, 4].map(|page| read(&streams, page)).iter().sum();
        assert_eq!(fetched, 5 + 2 * 6 - 1);
    }

    #[test]
    fn announced_range_is_fetched_at_once_and_not_past_its_end() {
        let streams = Streams::new(&Outlook::new(1000));
        streams.announce(10..22);
        assert_eq!(streams.read(10, 11), in_a_row(11..19));
        streams.asked(10, 15);
        assert_eq!(streams.read(11, 12), in_a_row(15..20), "what could not be asked for comes next");
        streams.asked(11, 20);
        let fetched: u64 = (12..22).map(|page| read(&streams, page)).sum();
        assert_eq!(fetched, 2);
    }

    #[test]
    fn what_one_read_wants_is_fetched_though_it_is_the_first() {
        let streams = Streams::new(&Outlook::new(1000));
        assert_eq!(streams.read(5, 8), in_a_row(6..8));
        assert_eq!(streams.read(500, 10_000), in_a_row(501..501 + WINDOW_MAX));
    }

    #[test]
    fn many_streams_share_what_memory_holds_and_each_has_a_little() {
        let outlook = Outlook::new(64);
        let files: Vec<_> = (0..100).map(|_| Streams::new(&outlook)).collect();
        for page in 0..40 {
            for file in &files {
                read(file, page);
            }
            let taken = outlook.taken.load(Ordering::Relaxed);
            assert!(taken <= 64 + 100 * WINDOW_MIN, "{taken}");
        }
        assert!(files.iter().all(|file| read(file, 40) > 0), "nobody goes without");
        drop(files);
        assert_eq!(outlook.taken.load(Ordering::Relaxed), 0);
        let alone = Streams::new(&outlook);
        for page in 0..40 {
            read(&alone, page);
        }
        assert!(outlook.taken.load(Ordering::Relaxed) >= 20, "one alone goes far");
    }

    #[test]
    fn pages_at_equal_distances_are_fetched_ahead_and_those_between_are_not() {
        let streams = Streams::new(&Outlook::new(1000));
        assert_eq!([3, 10].map(|page| read(&streams, page)), [0, 0], "a distance that came once");
        let window = streams.read(17, 18);
        assert_eq!((window.start, window.step), (24, 7));
        streams.asked(17, window.end);
        let mut asked = (window.end - 24).div_ceil(7);
        for page in (24..700).step_by(7) {
            asked += read(&streams, page);
        }
        assert_eq!(asked, (700 - 24) / 7 + 1 + WINDOW_MAX, "each page once, and a full window in the end");
    }

    #[test]
    fn a_client_that_asks_for_one_range_after_the_other_reads_on() {
        let readings = Readings::new(&Outlook::new(1000));
        let content = ContentKey::of(&crate::cache::ContentId {
            file_id: forebay_core::FileId::of(&[b"a"]),
            version: forebay_core::Version::Strong("1".into()),
        });
        for page in 0..8 {
            let streams = readings.of(content);
            assert_eq!(read(&streams, page) > 0, page > 0, "{page}");
            Readings::close(&streams);
            assert_eq!(readings.outlook.taken.load(Ordering::Relaxed), 0, "nobody has it open");
        }
    }
}
