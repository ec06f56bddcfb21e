//! Small objects in segments, treated as their classes are.

use std::sync::Arc;
use std::time::Duration;

use forebay_core::ByteRange;
use tempfile::{TempDir, tempdir};

use super::restart::end;
use super::{Store, content, eventually, on_disk, plain, read_all, tier};
use crate::cache::policy::IDLE;
use crate::cache::{Cache, CachedFile, Class, ContentKey, Fetch, Priority, Treatment};

const OBJECT: u64 = 32 << 10;
const DISK_PAGES: u64 = 8;

/// As many as fill the tier, and more.
const MANY: u64 = 400;

/// A cache whose disk packs everything and whose memory holds nothing for long, and its store.
struct Bench {
    cache: Cache,
    store: Arc<Store>,
}

impl Bench {
    async fn open(directory: &TempDir) -> Self {
        let mut config = on_disk(directory, 1, DISK_PAGES);
        config.memory_bytes += 256 << 10;
        config.nvme.as_mut().expect("configured").packed_bytes = 64 << 10;
        let mut cache = Cache::open(&config).ok();
        while cache.is_none() {
            tokio::task::yield_now().await;
            cache = Cache::open(&config).ok();
        }
        let cache = cache.expect("opened");
        eventually("what is left is back", || tier(&cache).is_restored()).await;
        Self { cache, store: Store::open() }
    }

    fn file(&self, name: &str, class: &Arc<Class>) -> CachedFile {
        let fetch = Arc::clone(&self.store) as Arc<dyn Fetch>;
        self.cache.file(&Arc::from("/test"), (&content(name), class), OBJECT, fetch)
    }

    /// Reads objects twice, so that a full disk takes them if it may; the cap holds all the while.
    async fn read(&self, prefix: &str, count: u64, class: &Arc<Class>) {
        for number in 0..count {
            let name = format!("{prefix} {number}");
            for _ in 0..2 {
                read_all(&self.file(&name, class), ByteRange::new(0, OBJECT)).await;
                let tier = tier(&self.cache);
                eventually("the disk has taken what it was offered", || tier.is_settled()).await;
                assert!(tier.budget().used() <= tier.budget().capacity());
                self.cache.0.memory.forget(ContentKey::of(&content(&name)), OBJECT);
            }
        }
    }

    fn kept(&self, prefix: &str, count: u64) -> u64 {
        let key = |number| ContentKey::of(&content(&format!("{prefix} {number}"))).page(0);
        (0..count).filter(|number| tier(&self.cache).contains(key(*number))).count() as u64
    }
}

fn class(treatment: Treatment) -> Arc<Class> {
    Class::new("/class", treatment)
}

fn epoch() -> Treatment {
    Treatment { epoch: true, ..Treatment::default() }
}

#[tokio::test]
async fn pinned_objects_stay_from_the_moment_their_class_is_pinned() {
    let directory = tempdir().expect("temporary directory");
    let (bench, class) = (Bench::open(&directory).await, class(Treatment::default()));
    bench.read("early", 50, &class).await;
    class.set_treatment(Treatment { pin: true, ..Treatment::default() });
    bench.read("other", MANY, &plain()).await;
    assert_eq!(bench.kept("early", 50), 50);
    assert!(bench.kept("other", MANY) > 100);
    class.set_treatment(Treatment::default());
    bench.read("newcomer", MANY, &plain()).await;
    assert!(bench.kept("early", 50) < 50, "what is pinned no more goes like anything else");
}

#[tokio::test(start_paused = true)]
async fn data_set_fills_the_tier_evicts_none_of_its_own_and_makes_room_when_idle() {
    let directory = tempdir().expect("temporary directory");
    let (bench, data_set) = (Bench::open(&directory).await, class(epoch()));
    bench.read("other", 100, &plain()).await;
    bench.read("member", MANY, &data_set).await;
    let kept = bench.kept("member", MANY);
    assert!(kept * (OBJECT + 32) > (DISK_PAGES << 20) / 10 * 9, "{kept}");
    assert_eq!(bench.kept("member", kept), kept, "those that came first");
    bench.read("other", 100, &plain()).await;
    assert_eq!((bench.kept("other", 100), bench.kept("member", kept)), (0, kept));
    tokio::time::advance(IDLE + Duration::from_secs(1)).await;
    bench.read("other", 100, &plain()).await;
    assert!(bench.kept("other", 100) > 90 && bench.kept("member", kept) < kept);
}

#[tokio::test]
async fn quota_holds_and_its_class_makes_room_for_itself() {
    const QUOTA: u64 = 2 << 20;
    let directory = tempdir().expect("temporary directory");
    let quota = Treatment { quota_bytes: Some(QUOTA), ..Treatment::default() };
    let (bench, class) = (Bench::open(&directory).await, class(quota));
    bench.read("other", 50, &plain()).await;
    for round in 0..4 {
        bench.read(&format!("member {round}"), 60, &class).await;
        assert!((QUOTA / 2..=QUOTA).contains(&class.disk_bytes()), "{}", class.disk_bytes());
    }
    assert!(bench.kept("member 3", 60) > 20, "the last ones came in");
    assert_eq!(bench.kept("other", 50), 50);
}

#[tokio::test]
async fn low_priority_goes_first_and_high_priority_takes_from_a_data_set_in_use() {
    let directory = tempdir().expect("temporary directory");
    let with = |priority| class(Treatment { priority, ..Treatment::default() });
    let (low, high) = (with(Priority::Low), with(Priority::High));
    let bench = Bench::open(&directory).await;
    bench.read("low", 100, &low).await;
    bench.read("set", MANY, &class(epoch())).await;
    let kept = bench.kept("set", MANY);
    assert_eq!(bench.kept("low", 100), 0);
    bench.read("low", 20, &low).await;
    assert_eq!((bench.kept("low", 20), bench.kept("set", MANY)), (0, kept));
    bench.read("high", 40, &high).await;
    assert_eq!(bench.kept("high", 40), 40);
    assert!(bench.kept("set", MANY) < kept);
}

#[tokio::test]
async fn dead_space_of_a_data_set_in_use_is_for_its_own_members() {
    let directory = tempdir().expect("temporary directory");
    let (bench, data_set) = (Bench::open(&directory).await, class(epoch()));
    bench.read("member", MANY, &data_set).await;
    let kept = bench.kept("member", MANY);
    // All but every fourth.
    for number in (0..kept).filter(|number| number % 4 > 0) {
        bench.cache.forget(&content(&format!("member {number}")), OBJECT);
    }
    bench.read("new", kept / 2, &data_set).await;
    assert_eq!(bench.kept("new", kept / 2), kept / 2);
    assert_eq!(bench.kept("member", kept), kept.div_ceil(4), "what was alive was carried forward");
}

#[tokio::test]
async fn segment_of_an_earlier_run_belongs_to_the_class_that_reads_from_it() {
    let directory = tempdir().expect("temporary directory");
    let treatment = Treatment { pin: true, ..Treatment::default() };
    let bench = Bench::open(&directory).await;
    bench.read("pinned", 7, &class(treatment.clone())).await;
    let Bench { cache, .. } = bench;
    end(cache);
    let (bench, class) = (Bench::open(&directory).await, class(treatment));
    assert_eq!((bench.kept("pinned", 7), class.disk_bytes()), (7, 0));
    bench.read("pinned", 1, &class).await;
    assert!(class.disk_bytes() >= 7 * OBJECT);
    bench.read("other", MANY, &plain()).await;
    assert_eq!((bench.kept("pinned", 7), bench.store.fetches() as u64 >= MANY), (7, true));
}
