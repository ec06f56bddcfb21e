//! Which classes make room for which.
//!
//! What is treated plainly is one shelf, where use alone decides. A class with a wish of its own has a shelf of its
//! own, and whoever needs room takes from the first shelf, in this order, that yields to its class:
//! - data sets that were idle for [`IDLE`], and after them what is not protected, the lowest priority first, and of
//!   two shelves of one priority the larger one;
//! - data sets in use, for classes of a higher priority than theirs only.
//!
//! Pinned content makes room for nobody: a newcomer stays out instead. A data set in use makes none for its own
//! members: of a set that is read in shuffled order again and again, any part is as good as another, and one that
//! stays is hit once an epoch (the `MinIO` cache of `CoorDL`, VLDB'21).

use std::cell::RefCell;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::{Mark, Resident, S3Fifo};
use crate::cache::class::{Class, Priority, Treatment};

/// A data set of which nobody read for so long makes room for others.
pub(in crate::cache) const IDLE: Duration = Duration::from_mins(5);

/// An entry of some class.
pub(in crate::cache) trait Classed: Resident {
    /// Its class, as long as it is queued.
    fn class(&self) -> &Arc<Class>;
}

impl<R: Classed> Classed for Arc<R> {
    fn class(&self) -> &Arc<Class> {
        (**self).class()
    }
}

/// All shelves of one kind of entries. Keys are as in [`S3Fifo`].
pub(in crate::cache) struct Shelves<K> {
    capacity: u64,
    plain: S3Fifo<K>,
    own: Vec<Shelf<K>>,
}

struct Shelf<K> {
    class: Arc<Class>,
    queues: S3Fifo<K>,
    last_used: Instant,
}

/// Who asks for room.
#[derive(Clone, Copy)]
pub(in crate::cache) enum Claim<'a> {
    /// A newcomer of a class.
    Of(&'a Arc<Class>),
    /// A newcomer of a class whose quota is full: its own members must make room.
    Within(&'a Arc<Class>),
    /// The evictor.
    Watermark,
}

/// Shelves that yield to a claim, those to take from first first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Rank {
    Open(Priority, Standing),
    InUse(Priority),
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Standing {
    Idle,
    Busy,
}

impl<K> Shelf<K> {
    fn new(class: &Arc<Class>, capacity: u64) -> Self {
        Self { class: Arc::clone(class), queues: S3Fifo::new(capacity), last_used: Instant::now() }
    }

    fn is_idle(&mut self) -> bool {
        if self.class.take_touched() {
            self.last_used = Instant::now();
        }
        self.last_used.elapsed() >= IDLE
    }

    fn rank(&mut self, claim: Claim<'_>) -> Option<Rank> {
        let treatment = self.class.treatment();
        if treatment.pin {
            return None;
        }
        let priority = treatment.priority;
        let is_in_use = treatment.epoch && !self.is_idle();
        let standing = if treatment.epoch { Standing::Idle } else { Standing::Busy };
        match claim {
            Claim::Within(class) if !Arc::ptr_eq(class, &self.class) => None,
            Claim::Of(class) if is_in_use => {
                (class.treatment().priority > priority).then_some(Rank::InUse(priority))
            }
            Claim::Of(class) if Arc::ptr_eq(class, &self.class) => Some(Rank::Open(priority, standing)),
            Claim::Of(class) => {
                (class.treatment().priority >= priority).then_some(Rank::Open(priority, standing))
            }
            Claim::Within(_) | Claim::Watermark if is_in_use => None,
            Claim::Within(_) | Claim::Watermark => Some(Rank::Open(priority, standing)),
        }
    }
}

impl<K> Shelves<K> {
    /// Empty shelves for a tier of `capacity` bytes.
    pub(in crate::cache) fn new(capacity: u64) -> Self {
        Self { capacity, plain: S3Fifo::new(capacity), own: Vec::new() }
    }

    /// As [`S3Fifo::insert`], on the shelf of the entry's class.
    pub(in crate::cache) fn insert<R: Classed>(&mut self, key: K, entry: &R, find: impl Fn(&K) -> Option<R>) {
        let class = entry.class();
        if !class.treatment().is_plain() {
            self.give_shelf(class, &find);
        }
        self.of(class).insert(key, entry);
    }

    /// As [`S3Fifo::grow`].
    pub(in crate::cache) fn grow(&mut self, class: &Arc<Class>, mark: &Mark, bytes: u64) -> bool {
        self.of(class).grow(mark, bytes)
    }

    /// As [`S3Fifo::remove`].
    pub(in crate::cache) fn remove<R: Classed>(&mut self, entry: &R, find: impl Fn(&K) -> Option<R>) {
        self.of(entry.class()).remove(entry, find);
    }

    /// Takes the next entry that makes room for `claim`; `None` when none does.
    pub(in crate::cache) fn evict<R: Classed>(
        &mut self,
        claim: Claim<'_>,
        find: impl Fn(&K) -> Option<R>,
    ) -> Option<R> {
        self.dissolve_plain(&find);
        let mut ranked: Vec<_> = (0..self.own.len())
            .filter(|at| self.own[*at].queues.entries() > 0)
            .collect::<Vec<_>>()
            .into_iter()
            .filter_map(|at| {
                Some((self.own[at].rank(claim)?, u64::MAX - self.own[at].queues.bytes(), Some(at)))
            })
            .collect();
        if plain_yields(claim) {
            let rank = Rank::Open(Priority::Normal, Standing::Busy);
            ranked.push((rank, u64::MAX - self.plain.bytes(), None));
        }
        ranked.sort_unstable();
        for (.., at) in ranked {
            let victim = match at {
                Some(at) => self.own[at].queues.evict(&find),
                None => self.evict_plain(&find),
            };
            if victim.is_some() {
                return victim;
            }
        }
        None
    }

    /// Bytes of what makes room for the evictor.
    pub(in crate::cache) fn open_bytes(&mut self) -> u64 {
        let own = self.own.iter_mut().filter_map(|shelf| {
            shelf.rank(Claim::Watermark)?;
            Some(shelf.queues.bytes())
        });
        self.plain.bytes() + own.sum::<u64>()
    }

    /// Whether something of a class is a ghost; it is one from now on. What was wanted once is told from what is
    /// wanted again, without keeping it.
    pub(in crate::cache) fn is_wanted_again(
        &mut self,
        class: &Arc<Class>,
        (entry, part): (u64, u64),
        weight: u64,
    ) -> bool {
        let queues = self.of(class);
        if queues.is_ghost(entry) {
            return true;
        }
        let is_again = queues.forget(part);
        // The entry that it brings is one that came back.
        queues.remember(if is_again { entry } else { part }, weight);
        is_again
    }

    fn of(&mut self, class: &Arc<Class>) -> &mut S3Fifo<K> {
        match self.own.iter().position(|shelf| Arc::ptr_eq(&shelf.class, class)) {
            Some(at) => &mut self.own[at].queues,
            None => &mut self.plain,
        }
    }

    /// A class that has no shelf yet gets one, with what is there of it.
    fn give_shelf<R: Classed>(&mut self, class: &Arc<Class>, find: &impl Fn(&K) -> Option<R>) {
        if self.own.iter().any(|shelf| Arc::ptr_eq(&shelf.class, class)) {
            return;
        }
        let mut new = Shelf::new(class, self.capacity);
        self.plain.extract(find, |entry| Arc::ptr_eq(entry.class(), class), &mut new.queues);
        self.own.push(new);
    }

    /// Puts what is treated plainly by now on the common shelf, and takes away what is empty.
    fn dissolve_plain<R: Classed>(&mut self, find: &impl Fn(&K) -> Option<R>) {
        while let Some(at) = self.own.iter().position(|shelf| shelf.class.treatment().is_plain()) {
            let mut old = self.own.swap_remove(at);
            old.queues.extract(find, |_| true, &mut self.plain);
        }
    }

    /// Evicts from the common shelf, but for classes that are not treated plainly any more: they get theirs.
    fn evict_plain<R: Classed>(&mut self, find: &impl Fn(&K) -> Option<R>) -> Option<R> {
        let strays = RefCell::new(Vec::new());
        let victim = self.plain.evict(|key| {
            let entry = find(key)?;
            let is_stray = !entry.class().treatment().is_plain();
            if is_stray {
                strays.borrow_mut().push(Arc::clone(entry.class()));
            }
            Some(Plain { entry, is_stray })
        });
        for class in strays.into_inner() {
            self.give_shelf(&class, find);
        }
        victim.map(|plain| plain.entry)
    }
}

/// An entry of the common shelf, which stays there if it does not belong there.
struct Plain<R> {
    entry: R,
    is_stray: bool,
}

impl<R: Classed> Resident for Plain<R> {
    fn mark(&self) -> &Mark {
        self.entry.mark()
    }

    fn weight(&self) -> u64 {
        self.entry.weight()
    }

    fn fingerprint(&self) -> u64 {
        self.entry.fingerprint()
    }

    fn is_held(&self) -> bool {
        self.is_stray || self.entry.is_held()
    }
}

/// Whether the common shelf makes room for a claim.
fn plain_yields(claim: Claim<'_>) -> bool {
    match claim {
        Claim::Of(class) => class.treatment().priority >= Treatment::default().priority,
        Claim::Within(_) => false,
        Claim::Watermark => true,
    }
}
