//! Who reads a file page after page, and how far to fetch ahead of each.
//!
//! A window of pages grows with what was read in a row: twice that, up to [`WINDOW_MAX`]. So what is fetched in vain
//! is never more than twice what was read, and random reads fetch nothing ahead. Who says beforehand how far it will
//! read gets [`WINDOW_ANNOUNCED`] at once, and nothing past that end.
//!
//! A file has a few streams at a time, because threads share a handle and the kernel reads ahead by itself.

use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Most pages ahead of one reader: 32 MiB in flight is 1.6 GB/s at 20 ms.
const WINDOW_MAX: u64 = 32;
/// Pages ahead of a reader that has said that it reads on.
const WINDOW_ANNOUNCED: u64 = 8;
/// Pages in a row that make a stream.
const RUN_MIN: u64 = 2;
/// Streams of one handle at a time.
const STREAMS: usize = 4;
/// How far behind its stream a read may come: requests of one reader overtake each other.
const BEHIND: u64 = 2;
/// No page.
const NONE: u64 = u64::MAX;

/// The streams of one open file.
pub(super) struct Streams(Mutex<Slots>);

struct Slots {
    streams: [Stream; STREAMS],
    reads: u64,
}

#[derive(Clone, Copy)]
struct Stream {
    /// The page that continues the row.
    next: u64,
    /// Pages in a row so far.
    run: u64,
    /// The first page that was not asked for yet.
    ahead: u64,
    /// Past the last page that was announced; 0 if nothing was.
    announced: u64,
    /// Number of the last read; the stream that was not used for longest makes room.
    used: u64,
}

impl Stream {
    const EMPTY: Self = Self { next: NONE, run: 0, ahead: 0, announced: 0, used: 0 };

    fn continues_at(&self, page: u64) -> bool {
        self.next != NONE && page <= self.next && page + BEHIND >= self.next
    }

    /// Past the last page to fetch while a reader is at `page`.
    fn window_end(&self, page: u64) -> u64 {
        let grown = if self.run < RUN_MIN { 0 } else { (2 * self.run).min(WINDOW_MAX) };
        match self.announced {
            0 => page + 1 + grown,
            end => (page + 1 + grown.max(WINDOW_ANNOUNCED)).min(end),
        }
    }
}

impl Streams {
    pub(super) fn new() -> Self {
        Self(Mutex::new(Slots { streams: [Stream::EMPTY; STREAMS], reads: 0 }))
    }

    /// Somebody is going to read all of `pages`, in order.
    pub(super) fn announce(&self, pages: Range<u64>) {
        let mut slots = self.slots();
        let stream = Stream { next: pages.start, announced: pages.end, ahead: pages.start, ..Stream::EMPTY };
        slots.replace(stream);
    }

    /// Somebody reads `page` and wants what comes before `wanted_end` as well: the pages to fetch ahead of it, of
    /// which [`Streams::asked`] says afterwards how many were.
    pub(super) fn read(&self, page: u64, wanted_end: u64) -> Range<u64> {
        let mut slots = self.slots();
        let stream = match slots.streams.iter().position(|stream| stream.continues_at(page)) {
            Some(slot) => {
                let now = slots.tick();
                let stream = &mut slots.streams[slot];
                if stream.next == page {
                    stream.next = page + 1;
                    stream.run += 1;
                }
                stream.used = now;
                stream
            }
            None => slots.replace(Stream { next: page + 1, run: 1, ahead: page + 1, ..Stream::EMPTY }),
        };
        let end = stream.window_end(page).max(wanted_end.min(page + 1 + WINDOW_MAX));
        stream.ahead.max(page + 1)..end
    }

    /// What comes before `end` was asked for on behalf of the reader at `page`.
    pub(super) fn asked(&self, page: u64, end: u64) {
        let mut slots = self.slots();
        if let Some(stream) = slots.streams.iter_mut().find(|stream| stream.continues_at(page)) {
            stream.ahead = stream.ahead.max(end);
        }
    }

    fn slots(&self) -> MutexGuard<'_, Slots> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Slots {
    fn tick(&mut self) -> u64 {
        self.reads += 1;
        self.reads
    }

    /// Puts a stream in the place of the one that was not used for longest.
    fn replace(&mut self, stream: Stream) -> &mut Stream {
        let now = self.tick();
        let oldest = self.streams.iter().enumerate().min_by_key(|(_, stream)| stream.used);
        let slot = oldest.map_or(0, |(slot, _)| slot);
        self.streams[slot] = Stream { used: now, ..stream };
        &mut self.streams[slot]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads `page` and asks for all that is to be fetched; how many pages that were.
    fn read(streams: &Streams, page: u64) -> u64 {
        let ahead = streams.read(page, page + 1);
        streams.asked(page, ahead.end);
        ahead.end.saturating_sub(ahead.start)
    }

    #[test]
    fn window_grows_with_what_was_read_up_to_its_cap() {
        let streams = Streams::new();
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
        let streams = Streams::new();
        fastrand::seed(7);
        let fetched: u64 = (0..1000).map(|_| read(&streams, fastrand::u64(0..100_000))).sum();
        assert!(fetched <= 16, "{fetched}");
        assert_eq!([900, 800, 700, 600, 500, 400].map(|page| read(&streams, page)), [0; 6]);
    }

    #[test]
    fn threads_of_one_handle_are_streams_of_their_own() {
        let streams = Streams::new();
        for step in 0..8 {
            for thread in 0..STREAMS as u64 {
                let fetched = read(&streams, thread * 1000 + step);
                assert_eq!(fetched > 0, step > 0, "thread {thread}, step {step}");
            }
        }
    }

    #[test]
    fn reads_that_overtake_each_other_are_one_stream() {
        let streams = Streams::new();
        let fetched: u64 = [0, 1, 2, 1, 3, 2, 4, 5, 4].map(|page| read(&streams, page)).iter().sum();
        assert_eq!(fetched, 5 + 2 * 6 - 1);
    }

    #[test]
    fn announced_range_is_fetched_at_once_and_not_past_its_end() {
        let streams = Streams::new();
        streams.announce(10..22);
        assert_eq!(streams.read(10, 11), 11..19);
        streams.asked(10, 15);
        assert_eq!(streams.read(11, 12), 15..20, "what could not be asked for comes next");
        streams.asked(11, 20);
        let fetched: u64 = (12..22).map(|page| read(&streams, page)).sum();
        assert_eq!(fetched, 2);
    }

    #[test]
    fn what_one_read_wants_is_fetched_though_it_is_the_first() {
        let streams = Streams::new();
        assert_eq!(streams.read(5, 8), 6..8);
        assert_eq!(streams.read(500, 10_000), 501..501 + WINDOW_MAX);
    }
}
