//! What the tiers would hit if they were larger: an estimate from a sample of the pages.
//!
//! Pages are sampled by a hash of their key (SHARDS, Waldspurger et al., FAST'15) and fed to small copies of each tier
//! as large as the tier at 1, 2 and 4 times its size, scaled down by the sampling rate (miniature simulation, ATC'17).
//! The copies are the policy itself, with its classes and the disk's admission, over entries without content.
//!
//! Invariants:
//! - A read of a page that is not sampled costs one comparison; one that is sampled takes the mutex if it is free, and
//!   is not counted otherwise.
//! - The largest copy of a tier has at most [`PAGES_MAX`] pages: beyond that the sampling rate is halved, and what is
//!   not sampled any more goes. So a tier's copies take less than a MiB however large it is.
//! - Nothing is shown before there are [`READS_MIN`] reads, nor of a copy that evicts and has less than [`PAGES_MIN`].
//!
//! Not modelled: TTLs, packed objects (they count as others do), files (each page goes by itself), and the part of the
//! memory tier that its neighbours' indexes take. Pages fetched ahead count as fetched when they are read.

mod simulation;

use std::array;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, TryLockError};

use forebay_core::METRICS;

use self::simulation::Simulation;
use super::class::Class;
use super::memory::PAGE_OVERHEAD_BYTES;
use super::nvme::blocks;
use super::page::PageKey;
use super::source::Source;
use crate::config::CacheConfig;

/// Sizes of the copies, as multiples of the tier's, and their labels.
const SIZES: [(u64, &str); 3] = [(1, "1x"), (2, "2x"), (4, "4x")];

/// One page of so many is sampled at first, as a power of two. More would be closer, but each takes a mutex
/// and three look-ups.
const FIRST_SHIFT: u32 = 3;

/// Most pages of the largest copy.
const PAGES_MAX: usize = 3500;

/// Fewer pages in a copy say too little of the policy.
const PAGES_MIN: usize = 64;

/// Least reads of sampled pages for an estimate.
const READS_MIN: f64 = 1000.0;

/// After so many reads of sampled pages the older ones count for half.
const READS_HALVED: f64 = 65_536.0;

/// Reads of sampled pages from one showing of the estimate to the next.
const READS_SHOWN: u64 = 256;

/// The estimates of one cache.
pub(super) struct Shadow {
    /// Pages whose hash is below are sampled, for one tier at least.
    threshold: Apart<AtomicU64>,
    /// Reads of pages by where they were found, sampled or not, that the model was not told of.
    reads: [AtomicU64; 3],
    /// Never waited for, and held for a few look-ups.
    model: Mutex<Model>,
}

/// On cache lines of its own: every read looks at the threshold, and what is beside it changes all the time.
#[repr(align(128))]
struct Apart<T>(T);

/// A read of one sampled page.
pub(super) struct PageRead<'a> {
    pub(super) key: PageKey,
    pub(super) bytes: u64,
    pub(super) class: &'a Arc<Class>,
    pub(super) source: Source,
}

struct Model {
    memory: Tier,
    nvme: Option<Tier>,
}

/// The copies of one tier, and what was counted of late.
struct Tier {
    label: &'static str,
    /// Whether what memory has is not asked of it.
    is_behind: bool,
    /// One of 2^shift pages is sampled.
    shift: u32,
    copies: [Simulation; 3],
    /// Reads of sampled pages that each copy would answer, and all of them.
    hits: [f64; 3],
    reads: f64,
    /// Reads of all pages that the tier, or one before it, did answer, and all of them; scaled down as the sample.
    all_hits: f64,
    all_reads: f64,
    until_shown: u64,
}

impl Shadow {
    pub(super) fn new(config: &CacheConfig) -> Self {
        let copies = |bytes: u64, is_disk| {
            SIZES.map(|(times, _)| Simulation::new(bytes * times, FIRST_SHIFT, config, is_disk))
        };
        let memory = Tier::new("memory", copies(config.memory_bytes, false), false);
        let nvme = config.nvme.as_ref().map(|nvme| Tier::new("nvme", copies(nvme.size_bytes(), true), true));
        let threshold = Apart(AtomicU64::new(threshold(FIRST_SHIFT)));
        Self { threshold, reads: Default::default(), model: Mutex::new(Model { memory, nvme }) }
    }

    /// Whether reads of a page are to be told.
    pub(super) fn samples(&self, key: PageKey) -> bool {
        hash(key.fingerprint()) < self.threshold.0.load(Ordering::Relaxed)
    }

    /// Counts reads of pages by [`Source`], those included that are told with [`Shadow::read`].
    pub(super) fn count(&self, pages: [u64; 3]) {
        for (reads, pages) in self.reads.iter().zip(pages).filter(|(_, pages)| *pages > 0) {
            reads.fetch_add(pages, Ordering::Relaxed);
        }
    }

    /// Tells of a read of a page that is sampled.
    pub(super) fn read(&self, read: &PageRead<'_>) {
        let mut model = match self.model.try_lock() {
            Ok(model) => model,
            // A copy that is off by one page is still a copy.
            Err(TryLockError::Poisoned(poisoned)) => PoisonError::into_inner(poisoned),
            Err(TryLockError::WouldBlock) => return,
        };
        let Model { memory, nvme } = &mut *model;
        let [in_memory, on_disk, in_store] = [0, 1, 2].map(|at| self.reads[at].swap(0, Ordering::Relaxed));
        let reads = in_memory + on_disk + in_store;
        memory.count(in_memory, reads);
        memory.read(read, read.bytes + PAGE_OVERHEAD_BYTES);
        if let Some(nvme) = nvme {
            nvme.count(in_memory + on_disk, reads);
            nvme.read(read, blocks(read.bytes));
        }
        let shift = nvme.as_ref().map_or(memory.shift, |nvme| nvme.shift.min(memory.shift));
        if self.threshold.0.load(Ordering::Relaxed) != threshold(shift) {
            self.threshold.0.store(threshold(shift), Ordering::Relaxed);
        }
    }
}

impl Tier {
    fn new(label: &'static str, copies: [Simulation; 3], is_behind: bool) -> Self {
        Self {
            label,
            is_behind,
            shift: FIRST_SHIFT,
            copies,
            hits: [0.0; 3],
            reads: 0.0,
            all_hits: 0.0,
            all_reads: 0.0,
            until_shown: READS_SHOWN,
        }
    }

    /// Counts reads of pages, sampled or not.
    fn count(&mut self, hits: u64, reads: u64) {
        let sampled = (1_u64 << self.shift) as f64;
        self.all_hits += hits as f64 / sampled;
        self.all_reads += reads as f64 / sampled;
    }

    /// Replays a read of a page that may be sampled.
    fn read(&mut self, read: &PageRead<'_>, weight: u64) {
        let fingerprint = read.key.fingerprint();
        if hash(fingerprint) >= threshold(self.shift) {
            return;
        }
        self.reads += 1.0;
        let is_found_before = self.is_behind && read.source == Source::Memory;
        for (copy, hits) in self.copies.iter_mut().zip(&mut self.hits) {
            if is_found_before || copy.read(fingerprint, weight, read.class) {
                *hits += 1.0;
            }
        }
        if self.copies.iter().any(|copy| copy.pages() > PAGES_MAX) {
            self.shift += 1;
            let below = threshold(self.shift);
            self.copies.iter_mut().for_each(|copy| copy.halve(|fingerprint| hash(fingerprint) < below));
            // A read counts as much as one of later.
            self.halve_counts();
        }
        self.until_shown -= 1;
        if self.until_shown == 0 {
            self.until_shown = READS_SHOWN;
            self.show();
        }
    }

    fn show(&mut self) {
        for (ratio, (_, size)) in self.estimates().into_iter().zip(SIZES) {
            if let Some(ratio) = ratio {
                METRICS.cache_shadow_hit_ratio.with_label_values(&[self.label, size]).set(ratio);
            }
        }
        if self.reads >= READS_HALVED {
            self.halve_counts();
        }
    }

    fn halve_counts(&mut self) {
        let totals = [&mut self.reads, &mut self.all_hits, &mut self.all_reads];
        self.hits.iter_mut().chain(totals).for_each(|count| *count /= 2.0);
    }

    /// What can be said by now.
    fn estimates(&self) -> [Option<f64>; 3] {
        let ratios = self.ratios();
        array::from_fn(|at| {
            let copy = &self.copies[at];
            let is_telling = self.reads >= READS_MIN && (copy.pages() >= PAGES_MIN || !copy.has_evicted());
            is_telling.then_some(ratios[at])
        })
    }

    /// The estimates: what the copy of its own size hits, and what the tier does hit with what the larger ones hit more
    /// than that. Whether the most read pages are in the sample makes most of its error, and they are hits in every
    /// copy: so the difference is right where its terms are not, and what the sample has too many or too few of them
    /// counts as hits (SHARDS-adj).
    fn ratios(&self) -> [f64; 3] {
        let surplus = self.reads - self.all_reads;
        let own = (self.hits[0] - surplus) / self.all_reads;
        let measured = self.all_hits / self.all_reads;
        let [_, twice, four_times] = self.hits.map(|hits| measured + (hits - self.hits[0]) / self.all_reads);
        [own, twice, four_times].map(|ratio| ratio.clamp(0.0, 1.0))
    }
}

/// Hashes below are those of one in 2^shift pages.
fn threshold(shift: u32) -> u64 {
    u64::MAX >> shift
}

fn hash(fingerprint: u64) -> u64 {
    (fingerprint ^ fingerprint >> 32).wrapping_mul(0xD6E8_FEB8_6659_FD93)
}

#[cfg(test)]
mod tests;
