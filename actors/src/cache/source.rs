//! Where the bytes that readers of one open file were given came from.

use std::array;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

/// Where a page was found, nearest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Source {
    Memory,
    Nvme,
    Store,
}

impl Source {
    pub(super) const ALL: [Self; 3] = [Self::Memory, Self::Nvme, Self::Store];

    /// As metrics name it.
    pub(super) fn label(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Nvme => "nvme",
            Self::Store => "store",
        }
    }
}

/// What is noted of one open file: for each page its readers turn to, and not for each read of that page.
#[derive(Default)]
pub(super) struct Sources {
    /// Pages turned to, by [`Source`], that nobody was told of yet.
    pages: [AtomicU64; 3],
    /// The bits of those that anything came from.
    seen: AtomicU8,
}

impl Sources {
    /// Somebody was given something of `pages` more pages; a lost race loses some.
    pub(super) fn note(&self, source: Source, pages: u64) {
        let count = &self.pages[source as usize];
        count.store(count.load(Ordering::Relaxed) + pages, Ordering::Relaxed);
        let (seen, bit) = (self.seen.load(Ordering::Relaxed), 1 << source as u8);
        if seen & bit == 0 {
            self.seen.store(seen | bit, Ordering::Relaxed);
        }
    }

    /// The farthest place anything came from; `None` if nothing was read.
    pub(super) fn farthest(&self) -> Option<Source> {
        let seen = self.seen.load(Ordering::Relaxed);
        Source::ALL.into_iter().rev().find(|source| seen & 1 << *source as u8 != 0)
    }

    /// How many pages were turned to since the last call, by [`Source`].
    pub(super) fn take_pages(&self) -> [u64; 3] {
        array::from_fn(|source| self.pages[source].swap(0, Ordering::Relaxed))
    }
}
