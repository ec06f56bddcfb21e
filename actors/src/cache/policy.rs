//! What stays in a tier: S3-FIFO (Yang et al., "FIFO queues are all you need for cache eviction", SOSP'23), by bytes.
//!
//! A newcomer waits in a small queue of a tenth of the bytes. If it was used twice there it moves to the main queue,
//! otherwise it goes and leaves a fingerprint in the ghost queue, and comes straight to the main queue if it is wanted
//! again soon. The main queue gives a second chance for each use.
//!
//! Invariants:
//! - A hit touches the [`Mark`] of its entry and nothing else; the queues, which their owner keeps under a mutex, are
//!   for insertion and eviction.
//! - The bytes of a queue are those of its entries that are still [`Mark::is_queued`], whatever leaves in whichever order.
//! - Ghosts never outnumber [`GHOSTS_PER_ENTRY`] for each entry, or [`GHOSTS_MIN`].
//!
//! Ghosts stand for as many bytes as the tier has, a tenth more than in the paper: a page that a full disk turns away is
//! remembered as long as the paper's small and ghost queue together would (cloudPhysics, 5000 objects: hit ratio .241
//! instead of .234; and .250 instead of .246 in one tier alone).
//!
//! Shares are of the bytes that are there and not of the capacity: a tier that is kept below its high watermark would
//! otherwise never fill its main queue, and squeeze out the small one.

mod ghost;
mod shelves;

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

pub(super) use self::ghost::GHOST_BYTES;
use self::ghost::Ghosts;
#[cfg(test)]
pub(super) use self::shelves::IDLE;
pub(super) use self::shelves::{Claim, Classed, Rank, Shelves, Turn, pass_over, rank};

/// The small queue's part of the bytes.
pub(super) const SMALL_DIVISOR: u64 = 10;

/// Uses in the small queue that bring an entry to the main one.
const PROMOTION_USES: u8 = 2;

/// Top of the use counter: two bits.
const USES_MAX: u8 = 3;

/// Count of an entry that nobody has read yet: its first use is what brought it in, and counts for nothing.
const UNREAD: u8 = 0x40;

/// Beside no use, or [`UNREAD`]: somebody wants to hear of the second use.
const WAITING: u8 = 0x80;

const UNREAD_WAITING: u8 = UNREAD | WAITING;

/// Most entries that one eviction lets stay for their uses before it takes the next one whatever its use.
const CHANCES: usize = 512;

/// Ghosts for each entry: as many as there are of its own size, and again where they are smaller.
pub(super) const GHOSTS_PER_ENTRY: usize = 2;

/// Ghosts however few entries there are.
const GHOSTS_MIN: usize = 4096;

/// What an entry carries for its policy.
#[derive(Debug, Default)]
pub(super) struct Mark {
    uses: AtomicU8,
    /// Changed under the policy's mutex only.
    place: AtomicU8,
}

/// Whether a read is a use of its page. Small reads of one page in a row are one use: they would make every page
/// of a stream look often used.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Use {
    First,
    Again,
}

/// What became of a use.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Counted {
    /// Nothing else.
    Plainly,
    /// It is the second one of an entry of which that was to be told, and is told once.
    Waiting,
}

/// Where an entry is queued.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum Place {
    Nowhere = 0,
    Small = 1,
    Main = 2,
}

impl Mark {
    /// Of an entry that nobody has asked for yet, `is_unread`, or that [`Counted::Waiting`] is to tell of.
    pub(super) fn new(is_unread: bool, is_waiting: bool) -> Self {
        let uses = if is_unread { UNREAD } else { 0 };
        Self {
            uses: AtomicU8::new(if is_waiting { uses | WAITING } else { uses }),
            place: AtomicU8::default(),
        }
    }

    /// Counts a use, up to three; a lost race loses one.
    pub(super) fn count(&self, kind: Use) -> Counted {
        let uses = self.uses.load(Ordering::Relaxed);
        if kind == Use::Again || uses == USES_MAX {
            return Counted::Plainly;
        }
        let (next, counted) = match uses {
            UNREAD => (0, Counted::Plainly),
            UNREAD_WAITING => (WAITING, Counted::Plainly),
            WAITING => (1, Counted::Waiting),
            uses => (uses + 1, Counted::Plainly),
        };
        self.uses.store(next, Ordering::Relaxed);
        counted
    }

    /// Whether the policy still has it.
    pub(super) fn is_queued(&self) -> bool {
        self.place() != Place::Nowhere
    }

    fn uses(&self) -> u8 {
        match self.uses.load(Ordering::Relaxed) {
            UNREAD | UNREAD_WAITING | WAITING => 0,
            uses => uses,
        }
    }

    fn place(&self) -> Place {
        match self.place.load(Ordering::Relaxed) {
            1 => Place::Small,
            2 => Place::Main,
            _ => Place::Nowhere,
        }
    }

    fn set(&self, place: Place) {
        self.place.store(place as u8, Ordering::Relaxed);
    }
}

/// An entry as the policy sees it.
pub(super) trait Resident {
    /// Its own, and of one policy only.
    fn mark(&self) -> &Mark;

    /// Its bytes; while it is queued they change under the policy's mutex only, with [`S3Fifo::grow`].
    fn weight(&self) -> u64;

    /// What is remembered of it when it goes.
    fn fingerprint(&self) -> u64;

    /// Whether it may not go now.
    fn is_held(&self) -> bool {
        false
    }
}

impl<R: Resident> Resident for Arc<R> {
    fn mark(&self) -> &Mark {
        (**self).mark()
    }

    fn weight(&self) -> u64 {
        (**self).weight()
    }

    fn fingerprint(&self) -> u64 {
        (**self).fingerprint()
    }

    fn is_held(&self) -> bool {
        (**self).is_held()
    }
}

/// The queues of one kind of entries. `K` leads to an entry and to no other that comes later: a weak pointer, or a
/// place with its generation. What is gone is skipped.
pub(super) struct S3Fifo<K> {
    small: Queue<K>,
    main: Queue<K>,
    ghosts: Ghosts,
    capacity: u64,
    has_evicted: bool,
}

struct Queue<K> {
    keys: VecDeque<K>,
    bytes: u64,
    /// Entries; there may be more keys, of what was removed.
    entries: usize,
}

impl<K> Queue<K> {
    fn new() -> Self {
        Self { keys: VecDeque::new(), bytes: 0, entries: 0 }
    }

    fn enter(&mut self, key: K, weight: u64) {
        self.keys.push_back(key);
        self.bytes += weight;
        self.entries += 1;
    }

    fn leave(&mut self, weight: u64) {
        self.bytes -= weight;
        self.entries -= 1;
    }
}

impl<K> S3Fifo<K> {
    /// Empty queues for a tier of `capacity` bytes.
    pub(super) fn new(capacity: u64) -> Self {
        Self {
            small: Queue::new(),
            main: Queue::new(),
            ghosts: Ghosts::default(),
            capacity,
            has_evicted: false,
        }
    }

    /// For a tier that has another size now.
    fn set_capacity(&mut self, capacity: u64) {
        self.capacity = capacity;
    }

    /// Bytes of what is queued.
    pub(super) fn bytes(&self) -> u64 {
        self.small.bytes + self.main.bytes
    }

    /// Entries that are queued.
    pub(super) fn entries(&self) -> usize {
        self.small.entries + self.main.entries
    }

    /// How many ghosts there are.
    #[cfg(test)]
    fn ghosts(&self) -> usize {
        self.ghosts.len()
    }

    /// Queues a new entry, which `key` leads to.
    pub(super) fn insert(&mut self, key: K, entry: &impl Resident) {
        let is_back = self.ghosts.remove(entry.fingerprint());
        let is_filling = !self.has_evicted && self.small.bytes >= self.capacity / SMALL_DIVISOR;
        if is_back || is_filling {
            entry.mark().set(Place::Main);
            self.main.enter(key, entry.weight());
        } else {
            entry.mark().set(Place::Small);
            self.small.enter(key, entry.weight());
        }
    }

    /// Counts `bytes` more for an entry; `false` if it is not queued any more.
    pub(super) fn grow(&mut self, mark: &Mark, bytes: u64) -> bool {
        match mark.place() {
            Place::Nowhere => return false,
            Place::Small => self.small.bytes += bytes,
            Place::Main => self.main.bytes += bytes,
        }
        true
    }

    /// Forgets an entry that goes for another reason than room. `find` as for [`S3Fifo::evict`].
    pub(super) fn remove<R: Resident>(&mut self, entry: &R, find: impl Fn(&K) -> Option<R>) {
        let queue = match entry.mark().place() {
            Place::Nowhere => return,
            Place::Small => &mut self.small,
            Place::Main => &mut self.main,
        };
        entry.mark().set(Place::Nowhere);
        queue.leave(entry.weight());
        if queue.keys.len() > 2 * queue.entries + CHANCES {
            queue.keys.retain(|key| find(key).is_some_and(|entry| entry.mark().is_queued()));
        }
    }

    /// Takes the next entry to go off its queue; `None` when none may go. `find` gives the entry that a key leads to.
    pub(super) fn evict<R: Resident>(&mut self, find: impl Fn(&K) -> Option<R>) -> Option<R> {
        self.has_evicted = true;
        let (mut chances, mut held) = (CHANCES, 0);
        // Each key once as long as there are chances, and once more for those whose chances were used up.
        for _ in 0..2 * (self.small.keys.len() + self.main.keys.len()) + CHANCES {
            let is_small = self.small.entries > 0
                && (self.small.bytes * SMALL_DIVISOR >= self.bytes() || held >= self.main.entries);
            let queue = if is_small { &mut self.small } else { &mut self.main };
            let key = queue.keys.pop_front()?;
            let Some(entry) = find(&key).filter(|entry| entry.mark().is_queued()) else { continue };
            let (mark, weight) = (entry.mark(), entry.weight());
            queue.leave(weight);
            let uses = mark.uses();
            if entry.is_held() {
                held += 1;
                mark.set(Place::Main);
                self.main.enter(key, weight);
            } else if is_small && uses >= PROMOTION_USES {
                mark.uses.store(0, Ordering::Relaxed);
                mark.set(Place::Main);
                self.main.enter(key, weight);
            } else if !is_small && uses > 0 && chances > 0 {
                chances -= 1;
                mark.uses.store(uses - 1, Ordering::Relaxed);
                self.main.enter(key, weight);
            } else {
                mark.set(Place::Nowhere);
                if is_small {
                    self.remember(entry.fingerprint(), weight);
                }
                return Some(entry);
            }
        }
        None
    }

    /// Moves what is `wanted` to the same queues of `other`.
    fn extract<R: Resident>(
        &mut self,
        find: impl Fn(&K) -> Option<R>,
        wanted: impl Fn(&R) -> bool,
        other: &mut Self,
    ) {
        for (from, to) in [(&mut self.small, &mut other.small), (&mut self.main, &mut other.main)] {
            for key in std::mem::take(&mut from.keys) {
                let Some(entry) = find(&key).filter(|entry| entry.mark().is_queued()) else { continue };
                if wanted(&entry) {
                    from.leave(entry.weight());
                    to.enter(key, entry.weight());
                } else {
                    from.keys.push_back(key);
                }
            }
        }
    }

    /// Whether something that is not here was wanted shortly before, or went for room.
    fn is_ghost(&self, fingerprint: u64) -> bool {
        self.ghosts.contains(fingerprint)
    }

    /// Takes a ghost away, if it is there.
    fn forget(&mut self, fingerprint: u64) -> bool {
        self.ghosts.remove(fingerprint)
    }

    /// Remembers something that is not here.
    fn remember(&mut self, fingerprint: u64, weight: u64) {
        let entries_max = (GHOSTS_PER_ENTRY * self.entries()).max(GHOSTS_MIN);
        self.ghosts.insert(fingerprint, weight, self.capacity, entries_max);
    }
}

#[cfg(test)]
mod tests;
