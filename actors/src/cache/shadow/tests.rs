//! Estimates against tiers that see every page.

use std::collections::HashMap;

use forebay_core::{FileId, Version};

use super::*;
use crate::cache::ContentId;
use crate::cache::class::Treatment;
use crate::cache::page::ContentKey;
use crate::config::NvmeConfig;

const PAGE: u64 = 4096;
/// What a page of the memory tier weighs.
const IN_MEMORY: u64 = PAGE + PAGE_OVERHEAD_BYTES;

fn config(memory_pages: u64, disk_pages: u64) -> CacheConfig {
    let nvme = NvmeConfig::in_one("/nowhere".into(), disk_pages * PAGE, 0);
    CacheConfig {
        memory_bytes: memory_pages * IN_MEMORY,
        nvme: (disk_pages > 0).then_some(nvme),
        high_percent: 95,
        low_percent: 90,
    }
}

/// A cache that sees every page, and its shadow.
struct Pair {
    shadow: Shadow,
    exact: [Simulation; 3],
    hits: [f64; 3],
    reads: f64,
    keys: HashMap<u64, PageKey>,
}

impl Pair {
    /// Of the tier behind, if there is one.
    fn new(config: &CacheConfig) -> Self {
        let bytes = config.nvme.as_ref().map_or(config.memory_bytes, NvmeConfig::size_bytes);
        let exact = SIZES.map(|(times, _)| Simulation::new(bytes * times, 0, config, config.nvme.is_some()));
        Self { shadow: Shadow::new(config), exact, hits: [0.0; 3], reads: 0.0, keys: HashMap::new() }
    }

    fn read(&mut self, object: u64, class: &Arc<Class>) {
        let key = *self.keys.entry(object).or_insert_with(|| {
            let file_id = FileId::of(&[&object.to_le_bytes()]);
            ContentKey::of(&ContentId { file_id, version: Version::Strong("1".into()) }).page(0)
        });
        let is_disk = self.model(|model| model.nvme.is_some());
        let weight = if is_disk { PAGE } else { IN_MEMORY };
        let found = self.exact.each_mut().map(|exact| exact.read(key.fingerprint(), weight, class));
        for (hits, is_found) in self.hits.iter_mut().zip(found) {
            *hits += f64::from(u8::from(is_found));
        }
        self.reads += 1.0;
        let source = match (found[0], is_disk) {
            (true, true) => Source::Nvme,
            (true, false) => Source::Memory,
            (false, _) => Source::Store,
        };
        self.shadow.count(array::from_fn(|at| u64::from(at == source as usize)));
        if self.shadow.samples(key) {
            self.shadow.read(&PageRead { key, bytes: PAGE, class, source });
        }
    }

    fn model<T>(&self, look: impl FnOnce(&Model) -> T) -> T {
        look(&self.shadow.model.lock().expect("no panic under this lock"))
    }

    fn estimates(&self) -> [Option<f64>; 3] {
        self.model(|model| model.nvme.as_ref().unwrap_or(&model.memory).estimates())
    }

    /// Asserts that the estimates of the larger sizes are within three points of what they really hit. That of its own
    /// size is not helped by what the tier does hit.
    fn assert_close(&self) {
        let points = [4.0, 3.0, 3.0];
        for (((hits, estimate), (_, size)), points) in
            self.hits.iter().zip(self.estimates()).zip(SIZES).zip(points)
        {
            let (exact, estimate) = (hits / self.reads, estimate.expect("enough reads"));
            assert!(
                (exact - estimate).abs() * 100.0 <= points,
                "{size}: {exact:.4} is, {estimate:.4} is said"
            );
        }
    }
}

fn plain() -> Arc<Class> {
    Class::new("/", Treatment::default())
}

/// One of `objects` by a zipf law with an exponent of 1, approximately.
fn zipf(objects: u64, chance: &mut fastrand::Rng) -> u64 {
    ((objects as f64).powf(chance.f64()) as u64).min(objects - 1)
}

#[test]
fn estimates_of_either_tier_are_close_for_a_zipf_law() {
    for config in [config(2_000, 0), config(8, 2_000)] {
        let (mut pair, class, mut chance) = (Pair::new(&config), plain(), fastrand::Rng::with_seed(7));
        for _ in 0..300_000 {
            pair.read(zipf(50_000, &mut chance), &class);
        }
        pair.assert_close();
    }
}

#[test]
fn data_set_is_estimated_as_it_is_kept() {
    let (mut pair, mut chance) = (Pair::new(&config(8, 4_000)), fastrand::Rng::with_seed(7));
    let class = Class::new("/set", Treatment { epoch: true, ..Treatment::default() });
    let mut members: Vec<u64> = (0..10_000).collect();
    for _ in 0..6 {
        chance.shuffle(&mut members);
        for member in &members {
            pair.read(*member, &class);
        }
    }
    pair.assert_close();
    let [own, twice, _] = pair.estimates().map(Option::unwrap_or_default);
    assert!(own > 0.25 && twice > 0.6, "without the class both are hardly more than nothing: {own} {twice}");
}

#[test]
fn nothing_is_said_before_there_is_enough_to_say() {
    let (mut pair, class, mut chance) = (Pair::new(&config(2_000, 0)), plain(), fastrand::Rng::with_seed(7));
    for _ in 0..4_000 {
        pair.read(zipf(50_000, &mut chance), &class);
    }
    assert_eq!(pair.estimates(), [None; 3]);
    let (mut small, mut numbers) = (Pair::new(&config(100, 0)), 0_u64..);
    for number in numbers.by_ref().take(40_000) {
        small.read(number, &class);
    }
    assert_eq!(small.estimates()[0], None, "a copy of a dozen pages");
}

#[test]
fn memory_is_bounded_however_much_is_read() {
    let (mut pair, class) = (Pair::new(&config(1 << 20, 1 << 24)), plain());
    for number in 0..200_000 {
        pair.read(number, &class);
        pair.read(number / 3, &class);
    }
    pair.model(|model| {
        for tier in [Some(&model.memory), model.nvme.as_ref()].into_iter().flatten() {
            let bytes: usize = tier.copies.iter().map(Simulation::memory_bytes).sum();
            assert!(bytes < 1 << 20, "{}: {bytes}", tier.label);
            assert!(tier.copies.iter().all(|copy| copy.pages() <= PAGES_MAX));
            assert!(tier.shift > FIRST_SHIFT, "{}", tier.label);
        }
    });
}
