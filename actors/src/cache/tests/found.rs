//! Data sets that nobody named, through the cache: what is hit of them, and what is not taken for one.

use std::sync::Arc;

use forebay_core::{ByteRange, Key, NsPath};
use tempfile::{TempDir, tempdir};

use super::{Store, content, eventually, on_disk, read_all, tier};
use crate::cache::{Cache, ContentKey, Fetch, Rule, Rules};
use crate::config::{CacheConfig, NvmeConfig};

const FILES: usize = 400;
const FILE_BYTES: u64 = 16 << 10;
const MOUNT: &str = "/m";

/// A cache with room for a part of a data set on its disk, and hardly any memory; the mount says nothing of data sets.
struct Bench {
    cache: Cache,
    rules: Arc<Rules>,
    store: Arc<Store>,
    _directory: TempDir,
}

impl Bench {
    fn open(fitting: usize, packed_bytes: u64) -> Self {
        let directory = tempdir().expect("temporary directory");
        let nvme =
            NvmeConfig::in_one(directory.path().join("cache"), fitting as u64 * FILE_BYTES, packed_bytes);
        // An evictor is not started: a tier is filled to its cap.
        let config =
            CacheConfig { nvme: Some(nvme), high_percent: 100, low_percent: 90, ..on_disk(&directory, 1, 1) };
        let (cache, rules) = (Cache::open(&config).expect("opens"), Rules::in_memory());
        rules.set_mounts([(NsPath::parse(MOUNT).expect("a path"), Rule::default())]);
        Self { cache, rules, store: Store::open(), _directory: directory }
    }

    /// Opens and reads one file as a mount does; whether that needed the store.
    async fn read(&self, name: &str) -> bool {
        let (key, before) = (Key::parse(name).expect("a key"), self.store.fetches());
        let class = self.rules.class_of(MOUNT, &key);
        let fetch = Arc::clone(&self.store) as Arc<dyn Fetch>;
        let file = self.cache.file(&Arc::from(MOUNT), (&content(name), &class), FILE_BYTES, fetch);
        self.rules.opened(MOUNT, &key);
        read_all(&file, ByteRange::new(0, FILE_BYTES)).await;
        let tier = tier(&self.cache);
        eventually("the disk has taken what it was offered", || tier.is_settled()).await;
        self.cache.0.memory.forget(ContentKey::of(&content(name)), FILE_BYTES);
        self.store.fetches() == before
    }

    /// The part of what was read that was hit.
    async fn hits(&self, names: impl IntoIterator<Item = String>) -> f64 {
        let (mut hits, mut reads) = (0, 0);
        for name in names {
            hits += usize::from(self.read(&name).await);
            reads += 1;
        }
        f64::from(u32::try_from(hits).expect("few")) / f64::from(reads)
    }

    fn is_data_set(&self, name: &str) -> bool {
        self.rules.resolve(&NsPath::parse(MOUNT).expect("a path").join(name).expect("a path")).1.epoch
    }
}

fn shuffled(directory: &str) -> Vec<String> {
    let mut names: Vec<_> = (0..FILES).map(|number| format!("{directory}/{number}")).collect();
    fastrand::shuffle(&mut names);
    names
}

#[tokio::test]
async fn half_of_a_data_set_that_nobody_named_is_hit_from_the_third_epoch_on() {
    fastrand::seed(1);
    for packed_bytes in [0, 64 << 10] {
        let bench = Bench::open(FILES / 2, packed_bytes);
        let mut hits = Vec::new();
        for _ in 0..5 {
            hits.push(bench.hits(shuffled("set")).await);
        }
        println!("packed up to {packed_bytes}: {hits:?}");
        assert!(hits[2..].iter().all(|hits| *hits > 0.46), "{hits:?}");
        assert!(bench.is_data_set("set/1"));
    }
}

#[tokio::test]
async fn data_sets_of_two_jobs_at_once_are_told_apart_and_what_is_read_otherwise_is_none() {
    fastrand::seed(2);
    let bench = Bench::open(FILES, 0);
    bench.hits((0..2 * FILES).map(|number| format!("scan/{number}"))).await;
    let hot = |_| format!("hot/{}", (fastrand::f64().powi(4) * 1e3) as u32);
    let hot_hits = bench.hits((0..4 * FILES).map(hot)).await;
    assert!(!bench.is_data_set("scan/1") && !bench.is_data_set("hot/1"));
    assert!(hot_hits > 0.4, "{hot_hits}");
    let mut hits = 0.0;
    for _ in 0..4 {
        let together = shuffled("a").into_iter().zip(shuffled("b"));
        hits = bench.hits(together.flat_map(|(a, b)| [a, b])).await;
    }
    assert!(bench.is_data_set("a/1") && bench.is_data_set("b/1"));
    assert!(hits > 0.45, "{hits}");
    bench.hits((0..4 * FILES).map(hot)).await;
    assert!(!bench.is_data_set("hot/1") && bench.is_data_set("a/1") && bench.is_data_set("b/1"));
}

#[tokio::test]
async fn what_somebody_said_is_no_data_set_is_none() {
    fastrand::seed(3);
    let bench = Bench::open(FILES / 2, 0);
    let set = NsPath::parse("/m/set").expect("a path");
    bench.rules.set(&set, "epoch", Some("0")).await.expect("sets");
    for _ in 0..3 {
        bench.hits(shuffled("set")).await;
    }
    assert!(!bench.is_data_set("set/1"));
    assert_eq!(bench.rules.list().len(), 1);
    bench.rules.set(&set, "epoch", None).await.expect("takes back");
    for _ in 0..2 {
        bench.hits(shuffled("set")).await;
    }
    assert!(bench.is_data_set("set/1"));
    let listed = bench.rules.list();
    assert_eq!((listed.len(), listed[0].path.as_str(), listed[0].treatment.epoch), (1, "/m/set", true));
}
