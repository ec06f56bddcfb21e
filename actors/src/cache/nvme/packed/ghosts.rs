//! Packed objects that went of late: fingerprints in shards, counted in the memory budget.
//!
//! There is no queue: a ghost knows when it came, on a clock that goes on with the bytes of the ghosts that come, and is
//! none any more after as many bytes as the tier has. Old ones go when their table is full (the paper's own way).

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::table::Table;
use crate::cache::memory::MemoryTier;
use crate::cache::page::ContentKey;
use crate::cache::policy::GHOSTS_PER_ENTRY;

const SHARDS: usize = 64;

/// Ghosts in a shard however few objects there are.
const SHARD_GHOSTS_MIN: usize = 64;

/// Ticks of the clock in which a ghost grows too old: four bytes see it go round in 4096 times as many.
const LIFE_TICKS: u32 = 1 << 20;

/// All ghosts of one directory.
pub(super) struct Ghosts {
    shards: Box<[Mutex<Table<Ghost>>]>,
    memory: Arc<MemoryTier>,
    /// Bytes of all ghosts that ever came.
    passed_bytes: AtomicU64,
    tick_bytes: u64,
}

/// 8 bytes: with the table's load that is 10 to 24 each.
struct Ghost {
    fingerprint: u32,
    came: u32,
}

impl Ghosts {
    /// Of a tier of `capacity` bytes.
    pub(super) fn new(memory: Arc<MemoryTier>, capacity: u64) -> Self {
        let shards = (0..SHARDS).map(|_| Mutex::default()).collect();
        let tick_bytes = capacity.div_ceil(u64::from(LIFE_TICKS)).max(1);
        Self { shards, memory, passed_bytes: AtomicU64::new(0), tick_bytes }
    }

    #[cfg(test)]
    fn contains(&self, content: ContentKey) -> bool {
        let (fingerprint, now) = (fingerprint(content), self.now());
        let is_it = |ghost: &Ghost| ghost.fingerprint == fingerprint && ghost.age(now) <= LIFE_TICKS;
        self.shard(content).find(hash(fingerprint), is_it).is_some()
    }

    /// Takes a ghost away; whether there was one.
    pub(super) fn remove(&self, content: ContentKey) -> bool {
        let (fingerprint, now) = (fingerprint(content), self.now());
        let mut shard = self.shard(content);
        let found = shard.find_entry(hash(fingerprint), |ghost| ghost.fingerprint == fingerprint);
        found.is_ok_and(|found| found.remove().0.age(now) <= LIFE_TICKS)
    }

    /// Remembers an object of `bytes`, where `objects` are there: no more than twice as many are remembered, and none
    /// that there is no memory for.
    pub(super) fn remember(&self, content: ContentKey, bytes: u64, objects: usize) {
        self.passed_bytes.fetch_add(bytes, Ordering::Relaxed);
        let (fingerprint, now) = (fingerprint(content), self.now());
        let mut shard = self.shard(content);
        if let Some(ghost) = shard.find_mut(hash(fingerprint), |ghost| ghost.fingerprint == fingerprint) {
            ghost.came = now;
            return;
        }
        let count_max = (GHOSTS_PER_ENTRY * objects / SHARDS).max(SHARD_GHOSTS_MIN);
        if shard.is_full() || shard.len() >= count_max {
            shard.retain(|ghost| ghost.age(now) <= LIFE_TICKS);
        }
        if shard.len() >= count_max {
            let oldest = shard.iter().map(|ghost| ghost.age(now)).max().unwrap_or_default();
            shard.retain(|ghost| ghost.age(now) <= oldest / 2);
        }
        if shard.len() >= count_max {
            return;
        }
        if shard.make_room(&self.memory, |ghost| hash(ghost.fingerprint)).is_ok() {
            let ghost = Ghost { fingerprint, came: now };
            shard.insert_unique(hash(fingerprint), ghost, |ghost| hash(ghost.fingerprint));
        }
    }

    fn now(&self) -> u32 {
        (self.passed_bytes.load(Ordering::Relaxed) / self.tick_bytes) as u32
    }

    fn shard(&self, content: ContentKey) -> MutexGuard<'_, Table<Ghost>> {
        let shard = &self.shards[(content.bits() >> 96) as usize % SHARDS];
        shard.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Ghost {
    fn age(&self, now: u32) -> u32 {
        now.wrapping_sub(self.came)
    }
}

fn fingerprint(content: ContentKey) -> u32 {
    (content.bits() >> 64) as u32
}

fn hash(fingerprint: u32) -> u64 {
    u64::from(fingerprint).wrapping_mul(0x9E37_79B9_7F4A_7C15)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::CacheConfig;

    const OBJECT: u64 = 4096;

    fn ghosts(memory_bytes: u64, objects: u64) -> Ghosts {
        let config = CacheConfig { memory_bytes, nvme: None, high_percent: 90, low_percent: 50 };
        Ghosts::new(Arc::new(MemoryTier::new(&config)), objects * OBJECT)
    }

    fn content(number: u128) -> ContentKey {
        ContentKey::from_bits(number.wrapping_mul(0x9E37_79B9_7F4A_7C15_F39C_C060_5CED_C835))
    }

    #[test]
    fn ghost_is_one_for_as_many_bytes_as_the_tier_has_and_as_young_as_its_return() {
        let ghosts = ghosts(16 << 20, 1000);
        (0..1000).for_each(|number| ghosts.remember(content(number), OBJECT, 1000));
        assert!((0..1000).all(|number| ghosts.contains(content(number))));
        ghosts.remember(content(0), OBJECT, 1000);
        (1000..1500).for_each(|number| ghosts.remember(content(number), OBJECT, 1000));
        assert!(ghosts.contains(content(0)) && !ghosts.contains(content(1)) && ghosts.contains(content(600)));
        assert!(ghosts.remove(content(0)) && !ghosts.remove(content(0)) && !ghosts.contains(content(0)));
        assert!(!ghosts.remove(content(1)), "too old");
    }

    #[test]
    fn neither_number_nor_memory_exceed_their_limits() {
        let ghosts = ghosts(1 << 20, 1 << 20);
        for number in 0..200_000 {
            ghosts.remember(content(number), OBJECT, 5000);
        }
        let there = (0..200_000).filter(|number| ghosts.contains(content(*number))).count();
        assert!((2000..=2 * 5000).contains(&there), "{there}");
        let bytes = ghosts.memory.budget().used() / 10_000;
        assert!(bytes <= 24, "{bytes} bytes each");
    }

    #[test]
    fn without_memory_nothing_is_remembered_and_nothing_fails() {
        let ghosts = ghosts(4096, 1 << 40);
        (0..100_000).for_each(|number| ghosts.remember(content(number), OBJECT, 1 << 20));
        assert!(ghosts.memory.budget().used() <= 4096);
    }
}
