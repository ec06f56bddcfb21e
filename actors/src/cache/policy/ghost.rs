//! Fingerprints of what went, first in, first out.

use std::collections::{HashMap, VecDeque};

use crate::cache::page::KeyHash;

/// Memory for one ghost, its part of spare room in the tables included.
pub(in crate::cache) const GHOST_BYTES: u64 = 48;

/// Unit of a ghost's weight, so that four bytes hold it.
const UNIT_BYTES: u64 = 512;

/// The queue of ghosts, with an index.
#[derive(Default)]
pub(super) struct Ghosts {
    /// Oldest first.
    queue: VecDeque<Ghost>,
    /// The number of each one's place in the queue, counted from the first ghost ever. A ghost whose number is not
    /// its place any more was removed, and perhaps came back further on.
    numbers: HashMap<u32, u32, KeyHash>,
    /// Number of the oldest.
    first: u32,
    units: u64,
}

struct Ghost {
    fingerprint: u32,
    units: u32,
}

impl Ghosts {
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.numbers.len()
    }

    pub(super) fn contains(&self, fingerprint: u64) -> bool {
        self.numbers.contains_key(&short(fingerprint))
    }

    /// `false` when there is none.
    pub(super) fn remove(&mut self, fingerprint: u64) -> bool {
        let Some(number) = self.numbers.remove(&short(fingerprint)) else { return false };
        let place = number.wrapping_sub(self.first) as usize;
        self.units -= u64::from(self.queue[place].units);
        true
    }

    /// Adds one of `weight` bytes, and drops the oldest beyond `bytes_max` and `entries_max`.
    pub(super) fn insert(&mut self, fingerprint: u64, weight: u64, bytes_max: u64, entries_max: usize) {
        self.remove(fingerprint);
        let units = u32::try_from(weight.div_ceil(UNIT_BYTES)).unwrap_or(u32::MAX);
        self.numbers.insert(short(fingerprint), self.first.wrapping_add(self.queue.len() as u32));
        self.queue.push_back(Ghost { fingerprint: short(fingerprint), units });
        self.units += u64::from(units);
        while self.units * UNIT_BYTES > bytes_max
            || self.numbers.len() > entries_max
            || self.queue.len() > 2 * entries_max
        {
            self.pop();
        }
    }

    fn pop(&mut self) {
        let Some(ghost) = self.queue.pop_front() else { return };
        if self.numbers.get(&ghost.fingerprint) == Some(&self.first) {
            self.numbers.remove(&ghost.fingerprint);
            self.units -= u64::from(ghost.units);
        }
        self.first = self.first.wrapping_add(1);
    }
}

/// Half of the bits: one in 4000 strangers is taken for a ghost of a million.
fn short(fingerprint: u64) -> u32 {
    (fingerprint ^ fingerprint >> 32) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ghost_that_came_back_is_as_young_as_its_return() {
        let mut ghosts = Ghosts::default();
        for fingerprint in [1, 2, 1, 3] {
            ghosts.insert(fingerprint, 512, 3 * 512, 10);
        }
        assert!([1, 2, 3].iter().all(|fingerprint| ghosts.contains(*fingerprint)));
        ghosts.insert(4, 512, 3 * 512, 10);
        assert!(!ghosts.contains(2) && ghosts.contains(1));
        assert!(ghosts.remove(1) && !ghosts.remove(1));
        ghosts.insert(5, 512, 3 * 512, 10);
        assert!([3, 4, 5].iter().all(|fingerprint| ghosts.contains(*fingerprint)));
    }

    #[test]
    fn neither_bytes_nor_number_exceed_their_limits() {
        let mut ghosts = Ghosts::default();
        fastrand::seed(3);
        for _ in 0..10_000 {
            ghosts.insert(fastrand::u64(0..500), fastrand::u64(0..10_000), 1 << 20, 100);
            ghosts.remove(fastrand::u64(0..500));
            assert!(ghosts.len() <= 100 && ghosts.queue.len() <= 200);
            assert!(ghosts.units * UNIT_BYTES <= 1 << 20);
            let there: u64 = ghosts
                .numbers
                .values()
                .map(|number| u64::from(ghosts.queue[number.wrapping_sub(ghosts.first) as usize].units))
                .sum();
            assert_eq!(there, ghosts.units);
        }
    }
}
