//! Which classes make room for which.
//!
//! What is treated plainly is one shelf, where use alone decides. A class with a wish of its own has a shelf of its
//! own, and whoever needs room takes from the first shelf that yields to its class: the lowest priority first, of one
//! priority data sets that are idle, then what is not protected, the larger shelf first, and data sets in use last, for
//! classes of a higher priority only. A data set is idle when nobody read it for [`IDLE`], or while others were refused
//! half as much as it holds: who trains on one set after the other need not wait.
//!
//! Pinned content makes room for nobody: a newcomer stays out instead. A data set in use makes none for its own
//! members: of a set that is read in shuffled order again and again, any part is as good as another, and one that
//! stays is hit once an epoch (the `MinIO` cache of `CoorDL`, VLDB'21).

use std::cell::RefCell;
use std::cmp::Reverse;
use std::sync::Arc;
use std::time::Duration;

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

/// Classes that yield to a claim, those to take from first first.
pub(in crate::cache) type Rank = (Priority, Standing);

/// A shelf that yields to a claim, the one to take from first first: by rank, then the larger one.
pub(in crate::cache) type Turn = (Rank, Reverse<u64>);

/// Whether a class of some priority may be disturbed.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::cache) enum Standing {
    Idle,
    Open,
    InUse,
}

/// When a class yields to a claim; `None` if it does not.
pub(in crate::cache) fn rank(of: &Arc<Class>, claim: Claim<'_>) -> Option<Rank> {
    let treatment = of.treatment();
    if treatment.pin {
        return None;
    }
    let standing = match treatment.epoch {
        true if of.idle() >= IDLE || of.is_passed_over() => Standing::Idle,
        true => Standing::InUse,
        false => Standing::Open,
    };
    let is_own = |class: &Arc<Class>| of.is_kin(class);
    let yields = match (claim, standing) {
        (Claim::Within(class), Standing::Idle | Standing::Open) => is_own(class),
        (Claim::Of(class), Standing::Idle | Standing::Open) => {
            is_own(class) || class.treatment().priority >= treatment.priority
        }
        (Claim::Of(class), Standing::InUse) => class.treatment().priority > treatment.priority,
        (Claim::Watermark, Standing::Idle | Standing::Open) => true,
        (Claim::Within(_) | Claim::Watermark, Standing::InUse) => false,
    };
    yields.then_some((treatment.priority, standing))
}

/// Notes that a newcomer of some bytes found no room where others are: data sets that nobody reads are idle soon.
pub(in crate::cache) fn pass_over<'a>(
    (newcomer, bytes): (&Arc<Class>, u64),
    others: impl Iterator<Item = &'a Arc<Class>>,
) {
    let wanted = newcomer.treatment();
    if !wanted.epoch {
        return;
    }
    for class in others.filter(|class| !Arc::ptr_eq(class, newcomer)) {
        let treatment = class.treatment();
        if treatment.epoch && treatment.priority <= wanted.priority {
            class.pass_over(bytes);
        }
    }
}

impl<K> Shelf<K> {
    fn new(class: &Arc<Class>, capacity: u64) -> Self {
        Self { class: Arc::clone(class), queues: S3Fifo::new(capacity) }
    }

    fn is_plain(&self) -> bool {
        self.class.treatment().is_plain()
    }

    /// Whether it is empty and nothing can come.
    fn is_left(&self) -> bool {
        self.queues.entries() == 0 && Arc::strong_count(&self.class) == 1
    }

    fn rank(&self, claim: Claim<'_>) -> Option<Rank> {
        rank(&self.class, claim)
    }
}

impl<K> Shelves<K> {
    /// Empty shelves for a tier of `capacity` bytes.
    pub(in crate::cache) fn new(capacity: u64) -> Self {
        Self { capacity, plain: S3Fifo::new(capacity), own: Vec::new() }
    }

    /// For a tier that has another size now.
    pub(in crate::cache) fn set_capacity(&mut self, capacity: u64) {
        self.capacity = capacity;
        self.plain.set_capacity(capacity);
        self.own.iter_mut().for_each(|shelf| shelf.queues.set_capacity(capacity));
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
        let mut turns: Vec<_> = self.turns(claim).collect();
        turns.sort_unstable();
        for (_, at) in turns {
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

    /// Shelves that make room for `claim`, by their number; the common one has none.
    fn turns(&self, claim: Claim<'_>) -> impl Iterator<Item = (Turn, Option<usize>)> {
        let own = self.own.iter().enumerate().filter_map(move |(at, shelf)| {
            let rank = shelf.rank(claim).filter(|_| shelf.queues.entries() > 0)?;
            Some(((rank, Reverse(shelf.queues.bytes())), Some(at)))
        });
        let has_plain = self.plain.entries() > 0 && plain_yields(claim);
        let plain = ((Priority::Normal, Standing::Open), Reverse(self.plain.bytes()));
        own.chain(has_plain.then_some((plain, None)))
    }

    /// When the first of what makes room for `claim` has its turn; `None` when nothing does.
    pub(in crate::cache) fn first(&self, claim: Claim<'_>) -> Option<Turn> {
        self.turns(claim).map(|(turn, _)| turn).min()
    }

    /// See [`pass_over`].
    pub(in crate::cache) fn pass_over(&self, class: &Arc<Class>, bytes: u64) {
        pass_over((class, bytes), self.own.iter().map(|shelf| &shelf.class));
    }

    /// Bytes of what makes room for the evictor.
    pub(in crate::cache) fn open_bytes(&self) -> u64 {
        let own = self.own.iter().filter_map(|shelf| {
            shelf.rank(Claim::Watermark)?;
            Some(shelf.queues.bytes())
        });
        self.plain.bytes() + own.sum::<u64>()
    }

    /// Entries and bytes of all shelves.
    #[cfg(test)]
    pub(in crate::cache) fn totals(&self) -> (usize, u64) {
        let all = || self.own.iter().map(|shelf| &shelf.queues).chain([&self.plain]);
        (all().map(S3Fifo::entries).sum(), all().map(S3Fifo::bytes).sum())
    }

    /// How many ghosts all shelves have.
    #[cfg(test)]
    pub(in crate::cache) fn ghosts(&self) -> usize {
        self.own.iter().map(|shelf| &shelf.queues).chain([&self.plain]).map(S3Fifo::ghosts).sum()
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

    /// Puts what is treated plainly by now on the common shelf, and takes away shelves that nobody can use any more.
    fn dissolve_plain<R: Classed>(&mut self, find: &impl Fn(&K) -> Option<R>) {
        while let Some(at) = self.own.iter().position(|shelf| shelf.is_plain() || shelf.is_left()) {
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
