//! A hash table that grows only as far as the memory budget lets it.

use std::ops::{Deref, DerefMut};

use hashbrown::HashTable;

use crate::cache::budget::Reservation;
use crate::cache::memory::MemoryTier;

/// Entries that the smallest table has room for.
const ENTRIES_MIN: usize = 7;

/// What an allocation may take beside its entries and a byte for each.
const EXTRA_BYTES: usize = 64;

/// One shard's table.
pub(super) struct Table<T> {
    entries: HashTable<T>,
    /// What it had room for when it was built: what is removed does not always give its place back.
    room: usize,
    memory: Option<Reservation>,
}

/// There is no memory for one more entry.
#[derive(Debug)]
pub(super) struct Full;

impl<T> Default for Table<T> {
    fn default() -> Self {
        Self { entries: HashTable::new(), room: 0, memory: None }
    }
}

impl<T> Table<T> {
    /// Whether the next entry needs a new table.
    pub(super) fn is_full(&self) -> bool {
        self.entries.len() >= self.entries.capacity()
    }

    /// Makes room for one more entry: in a table of twice the size if seven eighths of this one are taken, otherwise in
    /// one of the same size without what removed entries left.
    pub(super) fn make_room(&mut self, memory: &MemoryTier, hash: impl Fn(&T) -> u64) -> Result<(), Full> {
        if !self.is_full() {
            return Ok(());
        }
        let is_taken = self.entries.len() >= self.room - self.room / 8;
        let room = if is_taken { (2 * self.room).max(ENTRIES_MIN) } else { self.room };
        let places = (room * 8 / 7 + 1).next_power_of_two();
        // Both are there until all of the old one is in the new one.
        let mut reserved =
            memory.reserve((places * (1 + size_of::<T>()) + EXTRA_BYTES) as u64).ok_or(Full)?;
        let mut entries = HashTable::with_capacity(room);
        for entry in self.entries.drain() {
            entries.insert_unique(hash(&entry), entry, &hash);
        }
        reserved.shrink_to(entries.allocation_size() as u64);
        (self.room, self.entries) = (entries.capacity(), entries);
        self.memory = Some(reserved);
        Ok(())
    }
}

impl<T> Deref for Table<T> {
    type Target = HashTable<T>;

    fn deref(&self) -> &HashTable<T> {
        &self.entries
    }
}

impl<T> DerefMut for Table<T> {
    fn deref_mut(&mut self) -> &mut HashTable<T> {
        &mut self.entries
    }
}
