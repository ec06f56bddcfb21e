//! The policy against an obvious model, and what it is for.

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use super::*;

struct Entry {
    mark: Mark,
    weight: u64,
    number: u64,
    is_held: bool,
}

impl Resident for Entry {
    fn mark(&self) -> &Mark {
        &self.mark
    }

    fn weight(&self) -> u64 {
        self.weight
    }

    fn fingerprint(&self) -> u64 {
        self.number
    }

    fn is_held(&self) -> bool {
        self.is_held
    }
}

/// A cache in the policy's hands.
struct Shelf {
    policy: S3Fifo<Weak<Entry>>,
    entries: HashMap<u64, Arc<Entry>>,
    capacity: u64,
}

impl Shelf {
    fn new(capacity: u64) -> Self {
        Self { policy: S3Fifo::new(capacity), entries: HashMap::new(), capacity }
    }

    fn evict(&mut self) -> Option<u64> {
        let victim = self.policy.evict(Weak::upgrade)?;
        assert!(self.entries.remove(&victim.number).is_some(), "evicted once");
        Some(victim.number)
    }

    /// Uses an entry, or brings it in; whether it was there.
    fn access(&mut self, number: u64, weight: u64) -> bool {
        if let Some(entry) = self.entries.get(&number) {
            entry.mark.count(Use::First);
            return true;
        }
        while self.policy.bytes() + weight > self.capacity {
            self.evict().expect("something goes");
        }
        self.insert(number, weight, false);
        false
    }

    fn insert(&mut self, number: u64, weight: u64, is_held: bool) {
        let entry = Arc::new(Entry { mark: Mark::default(), weight, number, is_held });
        self.policy.insert(Arc::downgrade(&entry), &entry);
        self.entries.insert(number, entry);
    }

    fn remove(&mut self, number: u64) {
        if let Some(entry) = self.entries.remove(&number) {
            self.policy.remove(&entry, Weak::upgrade);
        }
    }
}

/// The paper's algorithm in plain lists of (number, weight, uses).
#[derive(Default)]
struct Model {
    small: Vec<(u64, u64, u8)>,
    main: Vec<(u64, u64, u8)>,
    ghosts: Vec<(u64, u64)>,
    has_evicted: bool,
}

fn bytes(list: &[(u64, u64, u8)]) -> u64 {
    list.iter().map(|entry| entry.1).sum()
}

impl Model {
    fn access(&mut self, number: u64, weight: u64, capacity: u64) -> bool {
        if let Some(entry) = self.small.iter_mut().chain(&mut self.main).find(|entry| entry.0 == number) {
            entry.2 = (entry.2 + 1).min(3);
            return true;
        }
        while bytes(&self.small) + bytes(&self.main) + weight > capacity {
            self.evict(capacity);
        }
        let ghosts = self.ghosts.len();
        self.ghosts.retain(|ghost| ghost.0 != number);
        let is_filling = !self.has_evicted && bytes(&self.small) >= capacity / 10;
        let is_back = self.ghosts.len() < ghosts;
        if is_back || is_filling { &mut self.main } else { &mut self.small }.push((number, weight, 0));
        false
    }

    fn evict(&mut self, capacity: u64) {
        self.has_evicted = true;
        loop {
            let all = bytes(&self.small) + bytes(&self.main);
            let is_small = !self.small.is_empty() && (bytes(&self.small) * 10 >= all || self.main.is_empty());
            if is_small {
                let (number, weight, uses) = self.small.remove(0);
                if uses >= 2 {
                    self.main.push((number, weight, 0));
                    continue;
                }
                self.ghosts.push((number, weight.next_multiple_of(512)));
                while self.ghosts.iter().map(|ghost| ghost.1).sum::<u64>() > capacity {
                    self.ghosts.remove(0);
                }
                return;
            }
            let (number, weight, uses) = self.main.remove(0);
            if uses == 0 {
                return;
            }
            self.main.push((number, weight, uses - 1));
        }
    }

    fn remove(&mut self, number: u64) {
        self.small.retain(|entry| entry.0 != number);
        self.main.retain(|entry| entry.0 != number);
    }
}

/// Small numbers often, large ones seldom.
fn skewed(below: u64) -> u64 {
    let share: f64 = fastrand::f64();
    (below as f64 * share * share * share) as u64
}

#[test]
fn policy_does_what_the_papers_algorithm_does() {
    const CAPACITY: u64 = 200 * 1024;
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    fastrand::seed(seed);
    let (mut shelf, mut model) = (Shelf::new(CAPACITY), Model::default());
    let mut hits = 0;
    for step in 0..30_000 {
        let number = skewed(1000);
        if fastrand::u8(..) == 0 {
            shelf.remove(number);
            model.remove(number);
        }
        let weight = 512 + number * 37 % 3000;
        let is_hit = shelf.access(number, weight);
        assert_eq!(is_hit, model.access(number, weight, CAPACITY), "step {step}, {number}");
        hits += u32::from(is_hit);
        assert_eq!(shelf.policy.bytes(), bytes(&model.small) + bytes(&model.main));
        assert_eq!(shelf.policy.entries(), shelf.entries.len());
        assert_eq!(shelf.policy.ghosts(), model.ghosts.len());
    }
    assert!(hits > 10_000, "{hits}: a test that never hits tests nothing");
}

#[test]
fn scan_does_not_push_out_what_is_used() {
    let mut shelf = Shelf::new(100);
    for _ in 0..4 {
        for number in 0..50 {
            shelf.access(number, 1);
        }
    }
    for number in 1000..10_000 {
        shelf.access(number, 1);
    }
    let kept = (0..50).filter(|number| shelf.entries.contains_key(number)).count();
    assert!(kept >= 50, "{kept}");
}

#[test]
fn held_entries_stay_and_all_held_evicts_nothing() {
    let mut shelf = Shelf::new(100);
    (0..10).for_each(|number| shelf.insert(number, 1, true));
    assert_eq!(shelf.evict(), None);
    (10..20).for_each(|number| shelf.insert(number, 1, false));
    let mut gone: Vec<_> = std::iter::from_fn(|| shelf.evict()).collect();
    gone.sort_unstable();
    assert_eq!(gone, (10..20).collect::<Vec<_>>());
    assert_eq!(shelf.policy.entries(), 10);
}

#[test]
fn eviction_ends_though_everything_was_used() {
    let mut shelf = Shelf::new(100_000);
    (0..10_000).for_each(|number| shelf.insert(number, 1, false));
    for entry in shelf.entries.values() {
        for _ in 0..5 {
            entry.mark.count(Use::First);
        }
    }
    assert!(shelf.evict().is_some());
}

#[test]
fn growth_counts_until_the_entry_goes() {
    let mut policy = S3Fifo::new(1000);
    let entry = Arc::new(Entry { mark: Mark::default(), weight: 10, number: 1, is_held: false });
    policy.insert(Arc::downgrade(&entry), &entry);
    assert!(policy.grow(&entry.mark, 0));
    policy.remove(&entry, Weak::upgrade);
    assert!(!policy.grow(&entry.mark, 7));
    assert_eq!((policy.bytes(), policy.entries()), (0, 0));
}

#[test]
fn keys_of_what_was_removed_do_not_pile_up() {
    let mut shelf = Shelf::new(1 << 20);
    for number in 0..100_000 {
        shelf.insert(number, 1, false);
        shelf.remove(number);
    }
    assert!(shelf.policy.small.keys.len() <= CHANCES + 1);
}

#[test]
fn use_that_brought_an_entry_in_does_not_count() {
    let (ahead, asked) = (Mark::new(true, true), Mark::new(false, true));
    assert_eq!(ahead.count(Use::First), Counted::Plainly);
    assert_eq!(asked.count(Use::Again), Counted::Plainly);
    for mark in [&ahead, &asked] {
        assert_eq!((mark.uses(), mark.count(Use::First), mark.uses()), (0, Counted::Waiting, 1));
        assert_eq!(mark.count(Use::First), Counted::Plainly, "told once");
    }
    (0..5).for_each(|_| assert_eq!(asked.count(Use::First), Counted::Plainly));
    assert_eq!(asked.uses(), USES_MAX);
    let unread = Mark::new(true, false);
    assert_eq!((unread.count(Use::First), unread.uses()), (Counted::Plainly, 0));
}
