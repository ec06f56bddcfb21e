//! A tier without content: which pages would be there.

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use hashbrown::HashTable;

use crate::cache::class::{Class, Treatment};
use crate::cache::policy::{Claim, Classed, Mark, Resident, Shelves, Use};
use crate::config::CacheConfig;

/// Told apart from the page by what is remembered of a page that was wanted once.
const WANTED_ONCE: u64 = 0x5555_5555_5555_5555;

/// The pages of a tier of some size, scaled down by the sampling rate.
pub(super) struct Simulation {
    capacity: u64,
    high: u64,
    low: u64,
    used: u64,
    /// Whether what is wanted once stays out above the low watermark, and classes are told apart.
    is_disk: bool,
    has_evicted: bool,
    /// By their fingerprints, which are hashes.
    pages: HashTable<Page>,
    shelves: Shelves<u64>,
    plain: Arc<Class>,
    /// As the classes of the same names are treated, with quotas scaled down.
    classes: HashMap<Arc<str>, Weak<Class>>,
    shift: u32,
}

struct Page {
    fingerprint: u64,
    weight: u32,
    mark: Mark,
    class: Arc<Class>,
}

impl Resident for &Page {
    fn mark(&self) -> &Mark {
        &self.mark
    }

    fn weight(&self) -> u64 {
        u64::from(self.weight)
    }

    fn fingerprint(&self) -> u64 {
        self.fingerprint
    }
}

impl Classed for &Page {
    fn class(&self) -> &Arc<Class> {
        &self.class
    }
}

impl Simulation {
    /// A tier of `bytes`, of which one in 2^shift pages is seen.
    pub(super) fn new(bytes: u64, shift: u32, config: &CacheConfig, is_disk: bool) -> Self {
        let capacity = bytes >> shift;
        let part = |percent: u8| (u128::from(capacity) * u128::from(percent.min(100)) / 100) as u64;
        Self {
            capacity,
            high: part(config.high_percent),
            low: part(config.low_percent),
            used: 0,
            is_disk,
            has_evicted: false,
            pages: HashTable::new(),
            shelves: Shelves::new(capacity),
            plain: Class::new("", Treatment::default()),
            classes: HashMap::new(),
            shift,
        }
    }

    pub(super) fn pages(&self) -> usize {
        self.pages.len()
    }

    pub(super) fn has_evicted(&self) -> bool {
        self.has_evicted
    }

    /// Memory that it takes, as far as it grows with what it holds: the table, queues and ghosts.
    #[cfg(test)]
    pub(super) fn memory_bytes(&self) -> usize {
        let buckets = self.pages.capacity() * 8 / 7;
        let queued = 2 * self.pages.len() * size_of::<u64>();
        let ghosts = self.shelves.ghosts() * crate::cache::policy::GHOST_BYTES as usize;
        buckets * (size_of::<Page>() + 1) + queued + ghosts
    }

    /// Reads a page; whether it was there. It is afterwards, if the tier takes it.
    pub(super) fn read(&mut self, fingerprint: u64, weight: u64, class: &Arc<Class>) -> bool {
        let class = self.class_of(class);
        if let Some(page) = find(&self.pages, fingerprint) {
            page.mark.count(Use::First);
            return true;
        }
        if self.admits(fingerprint, weight, &class) && self.makes_room(weight, &class) {
            self.insert(fingerprint, weight, class);
            self.evict_to_low();
        }
        false
    }

    fn admits(&mut self, fingerprint: u64, weight: u64, class: &Arc<Class>) -> bool {
        let fingerprints = (fingerprint, fingerprint ^ WANTED_ONCE);
        !self.is_disk
            || self.used <= self.low
            || class.treatment().is_admitted_at_once()
            || self.shelves.is_wanted_again(class, fingerprints, weight)
    }

    fn makes_room(&mut self, weight: u64, class: &Arc<Class>) -> bool {
        loop {
            let is_full = self.used + weight > self.capacity;
            if !is_full && class.try_take(weight) {
                return true;
            }
            let claim = if is_full { Claim::Of(class) } else { Claim::Within(class) };
            if !self.evict(claim) {
                if is_full {
                    self.shelves.pass_over(class, weight);
                }
                return false;
            }
        }
    }

    fn insert(&mut self, fingerprint: u64, weight: u64, class: Arc<Class>) {
        self.used += weight;
        let weight = u32::try_from(weight).unwrap_or(u32::MAX);
        let page = Page { fingerprint, weight, mark: Mark::default(), class };
        self.shelves.insert(fingerprint, &&page, |key| find(&self.pages, *key));
        self.pages.insert_unique(fingerprint, page, |page| page.fingerprint);
    }

    fn evict(&mut self, claim: Claim<'_>) -> bool {
        self.has_evicted = true;
        let Some(victim) = self.shelves.evict(claim, |key| find(&self.pages, *key)) else { return false };
        let fingerprint = victim.fingerprint;
        self.forget(fingerprint);
        true
    }

    fn evict_to_low(&mut self) {
        if self.used > self.high {
            while self.used > self.low && self.evict(Claim::Watermark) {}
        }
    }

    fn forget(&mut self, fingerprint: u64) {
        if let Ok(found) = self.pages.find_entry(fingerprint, |page| page.fingerprint == fingerprint) {
            let (page, _) = found.remove();
            self.used -= u64::from(page.weight);
            page.class.give_back(u64::from(page.weight));
        }
    }

    /// Keeps half the size, and the pages of it that are `sampled`.
    pub(super) fn halve(&mut self, sampled: impl Fn(u64) -> bool) {
        let pages = self.pages.iter().map(|page| page.fingerprint);
        let gone: Vec<u64> = pages.filter(|fingerprint| !sampled(*fingerprint)).collect();
        for fingerprint in gone {
            if let Some(page) = find(&self.pages, fingerprint) {
                self.shelves.remove(&page, |key| find(&self.pages, *key));
            }
            self.forget(fingerprint);
        }
        (self.capacity, self.high, self.low) = (self.capacity / 2, self.high / 2, self.low / 2);
        self.shelves.set_capacity(self.capacity);
        self.shift += 1;
    }

    /// The copy of a class: memory knows no classes, and what is treated plainly is one.
    fn class_of(&mut self, class: &Arc<Class>) -> Arc<Class> {
        if !self.is_disk {
            return Arc::clone(&self.plain);
        }
        let treatment = class.treatment();
        if treatment.is_plain() {
            return Arc::clone(&self.plain);
        }
        let quota_bytes = treatment.quota_bytes.map(|bytes| bytes >> self.shift);
        let treatment = Treatment { quota_bytes, ..(*treatment).clone() };
        let copy = self.classes.get(class.name()).and_then(Weak::upgrade).unwrap_or_else(|| {
            let new = Class::new(class.name(), treatment.clone());
            self.classes.retain(|_, copy| copy.strong_count() > 0);
            self.classes.insert(Arc::clone(class.name()), Arc::downgrade(&new));
            new
        });
        if *copy.treatment() != treatment {
            copy.set_treatment(treatment);
        }
        copy.touch();
        copy
    }
}

fn find(pages: &HashTable<Page>, fingerprint: u64) -> Option<&Page> {
    pages.find(fingerprint, |page| page.fingerprint == fingerprint)
}
