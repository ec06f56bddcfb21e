//! Where packed objects lie: a hash table in shards, counted in the memory budget.
//!
//! A hit takes its shard's lock for reading and bumps one counter.

use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use hashbrown::HashTable;

use crate::cache::budget::Reservation;
use crate::cache::memory::MemoryTier;
use crate::cache::page::ContentKey;
use crate::cache::policy::Use;
use crate::cache::trail::Trail;

const SHARDS: usize = 64;

/// Top of the use counter.
const USES_MAX: u8 = 3;

/// Where one object lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::cache::nvme) struct Place {
    pub(in crate::cache::nvme) segment: u32,
    /// Of its header, in the segment.
    pub(in crate::cache::nvme) offset: u32,
    /// Of the object, without its header.
    pub(in crate::cache::nvme) length: u32,
}

/// One object. 36 bytes: with the table's load between 7/16 and 7/8 that is 42 to 85 each.
struct Entry {
    /// As words, so that entries are not padded.
    key: [u32; 4],
    place: Place,
    born_s: u32,
    uses: AtomicU8,
}

/// All objects.
pub(super) struct Index {
    shards: Box<[RwLock<Shard>]>,
    memory: Arc<MemoryTier>,
}

#[derive(Default)]
struct Shard {
    table: HashTable<Entry>,
    memory: Option<Reservation>,
}

impl Entry {
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
        let entry = shard.table.find(hash(key), |entry| entry.key == key)?;
        let count = entry.uses.load(Ordering::Relaxed);
        if used == Use::First && count < USES_MAX {
            entry.uses.store(count + 1, Ordering::Relaxed);
        }
        Some((entry.place, entry.born_s))
    }

    pub(super) fn contains(&self, content: ContentKey) -> bool {
        self.find(content, Use::Again).is_some()
    }

    /// Uses since it was placed; `None` if it is not there.
    pub(super) fn uses(&self, content: ContentKey, place: Place) -> Option<u8> {
        let key = words(content);
        let shard = self.read(key);
        let entry = shard.table.find(hash(key), |entry| entry.key == key && entry.place == place)?;
        Some(entry.uses.load(Ordering::Relaxed))
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
        if let Some(entry) = shard.table.find_mut(hash(key), |entry| entry.key == key) {
            entry.uses = AtomicU8::new(0);
            entry.born_s = born_s;
            return Ok(Some(std::mem::replace(&mut entry.place, place)));
        }
        shard.make_room(&self.memory)?;
        let entry = Entry { key, place, born_s, uses: AtomicU8::new(0) };
        shard.table.insert_unique(hash(key), entry, |entry| hash(entry.key));
        Ok(None)
    }

    /// Moves an object if it is still at `from`.
    pub(super) fn replace(&self, content: ContentKey, from: Place, to: Place) -> bool {
        let key = words(content);
        let mut shard = self.write(key);
        let found = shard.table.find_mut(hash(key), |entry| entry.key == key && entry.place == from);
        found.is_some_and(|entry| {
            (entry.place, entry.uses) = (to, AtomicU8::new(0));
            true
        })
    }

    /// Forgets an object, or only one that is at `place`.
    pub(super) fn remove(&self, content: ContentKey, place: Option<Place>) -> Option<Place> {
        let key = words(content);
        let mut shard = self.write(key);
        let is_it = |entry: &Entry| entry.key == key && place.is_none_or(|place| entry.place == place);
        let found = shard.table.find_entry(hash(key), is_it).ok()?;
        Some(found.remove().0.place)
    }

    /// What became of objects that are not here.
    pub(super) fn trail(&self) -> &Trail {
        self.memory.disk_trail()
    }

    pub(super) fn len(&self) -> usize {
        let len = |shard: &RwLock<Shard>| shard.read().unwrap_or_else(PoisonError::into_inner).table.len();
        self.shards.iter().map(len).sum()
    }

    /// Shows every object, with no lock held.
    pub(super) fn each(&self, mut show: impl FnMut(ContentKey, Place, u32)) {
        for shard in &self.shards {
            let shard = shard.read().unwrap_or_else(PoisonError::into_inner);
            let entries = shard.table.iter().map(|entry| (entry.content(), entry.place, entry.born_s));
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
            shard.write().unwrap_or_else(PoisonError::into_inner).table.retain(|entry| keeps(entry.place));
        }
    }

    fn read(&self, key: [u32; 4]) -> RwLockReadGuard<'_, Shard> {
        self.shards[key[3] as usize % SHARDS].read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self, key: [u32; 4]) -> RwLockWriteGuard<'_, Shard> {
        self.shards[key[3] as usize % SHARDS].write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// There is no memory for one more object.
#[derive(Debug)]
pub(super) struct Full;

impl Shard {
    /// Reserves what the table grows by with its next entry.
    fn make_room(&mut self, memory: &Arc<MemoryTier>) -> Result<(), Full> {
        if self.table.len() < self.table.capacity() {
            return Ok(());
        }
        // The old table is there until all of it is in the new one, which is twice as large.
        let before = self.table.allocation_size() as u64;
        let mut grown = memory.reserve(2 * before + 8 * size_of::<Entry>() as u64).ok_or(Full)?;
        self.table.reserve(1, |entry| hash(entry.key));
        grown.shrink_to(self.table.allocation_size() as u64);
        self.memory = Some(grown);
        Ok(())
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
        assert!(!index.replace(content(1), place(5), place(9)));
        assert!(index.replace(content(1), place(0), place(9)));
        assert_eq!(index.uses(content(1), place(9)), Some(0));
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
