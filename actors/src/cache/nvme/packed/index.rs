//! Where packed objects lie: a hash table in shards, counted in the memory budget.
//!
//! A hit takes its shard's lock for reading and bumps one counter.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use super::table::{Full, Table};
use crate::cache::memory::MemoryTier;
use crate::cache::page::ContentKey;
use crate::cache::policy::Use;
use crate::cache::trail::Trail;

const SHARDS: usize = 64;

/// Top of the use counter: two bits, above the length.
pub(super) const USES_MAX: u8 = 3;
const USES_SHIFT: u32 = 30;

/// Where one object lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::cache::nvme) struct Place {
    pub(in crate::cache::nvme) segment: u32,
    /// Of its header, in the segment.
    pub(in crate::cache::nvme) offset: u32,
    /// Of the object, without its header.
    pub(in crate::cache::nvme) length: u32,
}

/// One object. 32 bytes: with the table's load between 7/16 and 7/8 that is 38 to 75 each.
struct Entry {
    /// As words, so that entries are not padded.
    key: [u32; 4],
    segment: u32,
    offset: u32,
    /// Uses since it was placed, and the object's length.
    uses_and_length: AtomicU32,
    born_s: u32,
}

/// All objects.
pub(super) struct Index {
    shards: Box<[RwLock<Table<Entry>>]>,
    memory: Arc<MemoryTier>,
}

impl Entry {
    fn new(key: [u32; 4], place: Place, born_s: u32, uses: u8) -> Self {
        let Place { segment, offset, length } = place;
        let uses_and_length = AtomicU32::new(u32::from(uses) << USES_SHIFT | length);
        Self { key, segment, offset, uses_and_length, born_s }
    }

    fn place(&self) -> Place {
        let length = self.uses_and_length.load(Ordering::Relaxed) & ((1 << USES_SHIFT) - 1);
        Place { segment: self.segment, offset: self.offset, length }
    }

    fn uses(&self) -> u8 {
        (self.uses_and_length.load(Ordering::Relaxed) >> USES_SHIFT) as u8
    }

    /// Counts a use; a lost race loses one.
    fn count(&self) {
        if self.uses() < USES_MAX {
            let before = self.uses_and_length.load(Ordering::Relaxed);
            self.uses_and_length.store(before + (1 << USES_SHIFT), Ordering::Relaxed);
        }
    }

    fn content(&self) -> ContentKey {
        ContentKey::from_bits(self.key.iter().rev().fold(0, |bits, word| bits << 32 | u128::from(*word)))
    }
}

fn words(content: ContentKey) -> [u32; 4] {
    std::array::from_fn(|at| (content.bits() >> (32 * at)) as u32)
}

fn hash(key: [u32; 4]) -> u64 {
    u64::from(key[1]) << 32 | u64::from(key[0])
}

impl Index {
    pub(super) fn new(memory: Arc<MemoryTier>) -> Self {
        Self { shards: (0..SHARDS).map(|_| RwLock::default()).collect(), memory }
    }

    /// Where an object lies, and when it was fetched.
    pub(super) fn find(&self, content: ContentKey, used: Use) -> Option<(Place, u32)> {
        let key = words(content);
        let shard = self.read(key);
        let entry = shard.find(hash(key), |entry| entry.key == key)?;
        if used == Use::First {
            entry.count();
        }
        Some((entry.place(), entry.born_s))
    }

    pub(super) fn contains(&self, content: ContentKey) -> bool {
        self.find(content, Use::Again).is_some()
    }

    /// Uses since it was placed; `None` if it is not there.
    pub(super) fn uses(&self, content: ContentKey, place: Place) -> Option<u8> {
        let key = words(content);
        let shard = self.read(key);
        let entry = shard.find(hash(key), |entry| entry.key == key && entry.place() == place)?;
        Some(entry.uses())
    }

    /// Places an object, anew if it is there; where it was. An error when there is no memory for it.
    pub(super) fn insert(
        &self,
        content: ContentKey,
        place: Place,
        born_s: u32,
    ) -> Result<Option<Place>, Full> {
        let key = words(content);
        let mut shard = self.write(key);
        let new = Entry::new(key, place, born_s, 0);
        if let Some(entry) = shard.find_mut(hash(key), |entry| entry.key == key) {
            return Ok(Some(std::mem::replace(entry, new).place()));
        }
        shard.make_room(&self.memory, |entry| hash(entry.key))?;
        shard.insert_unique(hash(key), new, |entry| hash(entry.key));
        Ok(None)
    }

    /// Moves an object if it is still at `from`, and leaves it so many uses.
    pub(super) fn replace(&self, content: ContentKey, from: Place, (to, uses): (Place, u8)) -> bool {
        let key = words(content);
        let mut shard = self.write(key);
        let found = shard.find_mut(hash(key), |entry| entry.key == key && entry.place() == from);
        found.is_some_and(|entry| {
            *entry = Entry::new(key, to, entry.born_s, uses);
            true
        })
    }

    /// Forgets an object, or only one that is at `place`.
    pub(super) fn remove(&self, content: ContentKey, place: Option<Place>) -> Option<Place> {
        let key = words(content);
        let mut shard = self.write(key);
        let is_it = |entry: &Entry| entry.key == key && place.is_none_or(|place| entry.place() == place);
        let found = shard.find_entry(hash(key), is_it).ok()?;
        Some(found.remove().0.place())
    }

    /// What became of objects that are not here.
    pub(super) fn trail(&self) -> &Trail {
        self.memory.disk_trail()
    }

    pub(super) fn len(&self) -> usize {
        let len = |shard: &RwLock<Table<Entry>>| shard.read().unwrap_or_else(PoisonError::into_inner).len();
        self.shards.iter().map(len).sum()
    }

    /// Shows every object, with no lock held.
    pub(super) fn each(&self, mut show: impl FnMut(ContentKey, Place, u32)) {
        for shard in &self.shards {
            let shard = shard.read().unwrap_or_else(PoisonError::into_inner);
            let entries = shard.iter().map(|entry| (entry.content(), entry.place(), entry.born_s));
            let entries: Vec<_> = entries.collect();
            drop(shard);
            for (content, place, born_s) in entries {
                show(content, place, born_s);
            }
        }
    }

    /// Forgets what `keeps` does not want.
    pub(super) fn retain(&self, mut keeps: impl FnMut(Place) -> bool) {
        for shard in &self.shards {
            shard.write().unwrap_or_else(PoisonError::into_inner).retain(|entry| keeps(entry.place()));
        }
    }

    fn read(&self, key: [u32; 4]) -> RwLockReadGuard<'_, Table<Entry>> {
        self.shards[key[3] as usize % SHARDS].read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self, key: [u32; 4]) -> RwLockWriteGuard<'_, Table<Entry>> {
        self.shards[key[3] as usize % SHARDS].write().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::CacheConfig;

    fn index(memory_bytes: u64) -> Index {
        let config = CacheConfig { memory_bytes, nvme: None, high_percent: 90, low_percent: 50 };
        Index::new(Arc::new(MemoryTier::new(&config)))
    }

    fn content(number: u128) -> ContentKey {
        ContentKey::from_bits(number.wrapping_mul(0x9E37_79B9_7F4A_7C15_F39C_C060_5CED_C835))
    }

    fn place(offset: u32) -> Place {
        Place { segment: 1, offset, length: 10 }
    }

    #[test]
    fn objects_are_found_moved_and_forgotten() {
        let index = index(1 << 20);
        assert!(index.find(content(1), Use::First).is_none());
        assert_eq!(index.insert(content(1), place(0), 7).expect("room"), None);
        assert_eq!(index.find(content(1), Use::First), Some((place(0), 7)));
        assert_eq!(index.uses(content(1), place(0)), Some(1));
        assert!(!index.replace(content(1), place(5), (place(9), 0)));
        assert!(index.replace(content(1), place(0), (place(9), 2)));
        assert_eq!(index.uses(content(1), place(9)), Some(2));
        for _ in 0..5 {
            assert_eq!(index.find(content(1), Use::First), Some((place(9), 7)));
        }
        assert_eq!(index.uses(content(1), place(9)), Some(3));
        assert_eq!(index.remove(content(1), Some(place(0))), None);
        let mut seen = Vec::new();
        index.each(|content, place, born_s| seen.push((content, place, born_s)));
        assert_eq!(seen, [(content(1), place(9), 7)]);
        assert_eq!(index.remove(content(1), None), Some(place(9)));
        assert!(!index.contains(content(1)));
    }

    #[test]
    fn an_object_costs_less_than_a_hundred_bytes_and_the_budget_knows() {
        let index = index(1 << 30);
        let mut worst: f64 = 0.0;
        for number in 0..200_000 {
            index.insert(content(number), place(number as u32), 0).expect("room");
            if number > 20_000 {
                worst = worst.max(index.memory.budget().used() as f64 / number as f64);
            }
        }
        assert!((40.0..100.0).contains(&worst), "{worst} bytes");
    }

    #[test]
    fn without_memory_nothing_more_is_placed() {
        let index = index(64 << 10);
        let placed =
            (0..100_000).take_while(|number| index.insert(content(*number), place(0), 0).is_ok()).count();
        assert!((100..2000).contains(&placed), "{placed}");
        assert!(index.memory.budget().used() <= 64 << 10);
    }
}
