//! Room on the disk: who makes it for whom, and why there is none.

use std::io;
use std::sync::{Arc, MutexGuard, PoisonError, TryLockError, Weak};

use super::{NvmeTier, SparseFile, blocks, sparse};
use crate::cache::budget::Reservation;
use crate::cache::class::Class;
use crate::cache::page::ContentKey;
use crate::cache::policy::{Claim, Classed, Mark, Resident, Shelves};
use crate::cache::trail::Cause;

/// Most files a page may evict itself before it is refused.
const INLINE_EVICTIONS: usize = 8;

/// Most of what may be evicted that the evictor takes at once, as a divisor: what is protected keeps the tier above its
/// watermark, and the rest should not pay for that with all it has.
const OPEN_DIVISOR: u64 = 4;

/// Why a page did not get onto the disk.
pub(super) enum Refusal {
    /// Nothing makes room for it.
    Full,
    /// Its data set has what it may have.
    Epoch,
    /// Its class has what it may have.
    Quota,
    /// The disk failed.
    Disk(io::Error),
}

impl Refusal {
    pub(super) fn cause(&self) -> Cause {
        match self {
            Self::Full => Cause::Full,
            Self::Epoch => Cause::Epoch,
            Self::Quota => Cause::Quota,
            Self::Disk(_) => Cause::Disk,
        }
    }
}

/// A file that may have to go, unless it is the one that room is made for.
struct Candidate<'a> {
    file: Arc<SparseFile>,
    keep: Option<&'a Arc<SparseFile>>,
}

impl Resident for Candidate<'_> {
    fn mark(&self) -> &Mark {
        self.file.mark()
    }

    fn weight(&self) -> u64 {
        self.file.weight()
    }

    fn fingerprint(&self) -> u64 {
        self.file.fingerprint()
    }

    fn is_held(&self) -> bool {
        self.file.is_held() || self.keep.is_some_and(|keep| Arc::ptr_eq(keep, &self.file))
    }
}

impl Classed for Candidate<'_> {
    fn class(&self) -> &Arc<Class> {
        self.file.class()
    }
}

impl NvmeTier {
    /// Room for one more file's bitmap, checksums and descriptor.
    pub(super) fn index(&self, size_bytes: u64, class: &Arc<Class>) -> Option<Reservation> {
        if self.files.len() >= self.files_max && !self.evict_inline(Claim::Of(class), None) {
            return None;
        }
        self.memory.reserve(sparse::index_bytes(size_bytes))
    }

    /// Room for `bytes` of a class, for `keep` if that is there already, by evicting at most `evictions_max` others.
    pub(super) fn reserve(
        &self,
        bytes: u64,
        class: &Arc<Class>,
        keep: Option<&Arc<SparseFile>>,
        evictions_max: usize,
    ) -> Result<Reservation, Refusal> {
        let mut evictions = 0;
        loop {
            let space = self.budget.try_reserve(bytes);
            let is_full = space.is_none();
            if let Some(charged) = space.and_then(|space| space.charge(class)) {
                return Ok(charged);
            }
            let claim = if is_full { Claim::Of(class) } else { Claim::Within(class) };
            if evictions >= evictions_max || !self.make_room(claim, keep) {
                return Err(self.refusal(class, bytes, is_full));
            }
            evictions += 1;
        }
    }

    /// Why a page of a class would find no room, as far as that is plain before it is tried: a data set that does not
    /// fit is refused most of its pages, and need not queue them.
    pub(super) fn closed_to(&self, class: &Arc<Class>, bytes: u64) -> Option<Refusal> {
        let bytes = blocks(bytes);
        let is_full = self.budget.used() + bytes > self.budget.capacity();
        let claim = match class.has_room(bytes) {
            true if is_full => Claim::Of(class),
            true => return None,
            false => Claim::Within(class),
        };
        let yields = self.shelves().first(claim).is_some()
            || self.packed.as_ref().is_some_and(|packed| packed.yields(claim));
        (!yields).then(|| self.refusal(class, bytes, is_full))
    }

    /// Evicts a file or a segment, of the form that has what goes first; `false` when there is neither.
    fn make_room(&self, claim: Claim<'_>, keep: Option<&Arc<SparseFile>>) -> bool {
        let files = self.shelves().first(claim);
        let segments = self.packed.as_ref().and_then(|packed| packed.first(claim));
        let of = |is_file| if is_file { self.evict_inline(claim, keep) } else { self.reclaim(claim) };
        let is_turn_of_files = match (files, segments) {
            (Some(files), Some(segments)) => files < segments,
            (files, _) => files.is_some(),
        };
        of(is_turn_of_files) || of(!is_turn_of_files)
    }

    fn refusal(&self, class: &Arc<Class>, bytes: u64, is_full: bool) -> Refusal {
        if is_full {
            self.shelves().pass_over(class, bytes);
            if let Some(packed) = &self.packed {
                packed.pass_over(class, bytes);
            }
        }
        match (class.treatment().epoch, is_full) {
            (true, _) => Refusal::Epoch,
            (false, true) => Refusal::Full,
            (false, false) => Refusal::Quota,
        }
    }

    /// As [`NvmeTier::reserve`], for a page.
    pub(super) fn reserve_page(
        &self,
        bytes: u64,
        class: &Arc<Class>,
        keep: Option<&Arc<SparseFile>>,
    ) -> Result<Reservation, Refusal> {
        self.reserve(blocks(bytes), class, keep, INLINE_EVICTIONS)
    }

    /// Evicts down to the low watermark if above the high one, unless somebody does. Waits for the disk.
    pub(in crate::cache) fn evict_to_low(&self) {
        // Whoever does may hang.
        let only_one = match self.evicting.try_lock() {
            Ok(only_one) => only_one,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return,
        };
        if !self.budget.is_above_high() || self.health.is_silent() {
            return;
        }
        let open = self.shelves().open_bytes();
        let excess = self.budget.excess();
        let excess = excess.saturating_sub(self.reclaim_share(excess));
        let mut goal = excess.min(open.div_ceil(OPEN_DIVISOR));
        while goal > 0 {
            let Some(file) = self.evict(Claim::Watermark, None) else { return };
            file.class().tally().nvme.evicted.inc();
            goal = goal.saturating_sub(file.reserved());
        }
        drop(only_one);
    }

    /// As [`NvmeTier::evict`]; whether there was one.
    fn evict_inline(&self, claim: Claim<'_>, keep: Option<&Arc<SparseFile>>) -> bool {
        let evicted = self.evict(claim, keep);
        evicted.inspect(|file| file.class().tally().nvme.evicted_inline.inc()).is_some()
    }

    /// Unlinks the next file that makes room for `claim` and is neither lent nor `keep`.
    fn evict(&self, claim: Claim<'_>, keep: Option<&Arc<SparseFile>>) -> Option<Arc<SparseFile>> {
        let find = |file: &Weak<SparseFile>| Some(Candidate { file: file.upgrade()?, keep });
        loop {
            let file = self.shelves().evict(claim, find)?.file;
            if self.discard(&file) {
                self.note(file.content(), Cause::Evicted);
                return Some(file);
            }
        }
    }

    /// Puts a file that is new in the map on its shelf.
    pub(super) fn enqueue(&self, file: &Arc<SparseFile>) {
        self.shelves().insert(Arc::downgrade(file), file, Weak::upgrade);
        // Whoever took it off the map meanwhile did not find it on its shelf.
        if !self.files.get(&file.content()).is_some_and(|kept| Arc::ptr_eq(&kept, file)) {
            self.dequeue(file);
        }
    }

    /// Takes a file that goes for another reason than room off its shelf.
    pub(super) fn dequeue(&self, file: &Arc<SparseFile>) {
        self.shelves().remove(file, Weak::upgrade);
    }

    /// Counts `bytes` more for a file.
    pub(super) fn grow(&self, file: &SparseFile, bytes: u64) {
        if self.shelves().grow(file.class(), file.mark(), bytes) {
            file.add_weight(bytes);
        }
    }

    /// Whether the policy has exactly the files that are there, and counts them for what they hold.
    #[cfg(test)]
    pub(in crate::cache) fn is_consistent(&self) -> bool {
        let held: u64 = self.files.iter().map(|file| file.reserved()).sum();
        self.shelves().totals() == (self.files.len(), held)
    }

    /// Remembers why a content is not here.
    pub(super) fn note(&self, content: ContentKey, cause: Cause) {
        self.memory.disk_trail().note(content, cause);
    }

    pub(super) fn shelves(&self) -> MutexGuard<'_, Shelves<Weak<SparseFile>>> {
        self.shelves.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
