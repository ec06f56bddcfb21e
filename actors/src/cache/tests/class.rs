//! What classes are treated like: who stays, who goes, and who does not come in.

use std::sync::Arc;
use std::time::Duration;

use forebay_core::ByteRange;
use tempfile::{TempDir, tempdir};

use super::{Store, content, eventually, on_disk, plain, read_all, tier};
use crate::cache::policy::IDLE;
use crate::cache::{Cache, CachedFile, Class, ContentKey, Fetch, PAGE_BYTES, Priority, Treatment};

const DISK_PAGES: u64 = 8;

/// A cache whose memory holds nothing for long, and its store.
struct Bench {
    cache: Cache,
    store: Arc<Store>,
    _directory: TempDir,
}

impl Bench {
    fn open() -> Self {
        let directory = tempdir().expect("temporary directory");
        let cache = Cache::open(&on_disk(&directory, 2, DISK_PAGES)).expect("opens");
        Self { cache, store: Store::open(), _directory: directory }
    }

    fn file(&self, name: &str, class: &Arc<Class>) -> CachedFile {
        let fetch = Arc::clone(&self.store) as Arc<dyn Fetch>;
        self.cache.file(&Arc::from("/test"), (&content(name), class), PAGE_BYTES, fetch)
    }

    /// Reads files of a page each twice, so that a full disk takes them if it may.
    async fn read(&self, prefix: &str, count: u64, class: &Arc<Class>) {
        for number in 0..count {
            for _ in 0..2 {
                let file = self.file(&format!("{prefix} {number}"), class);
                read_all(&file, ByteRange::new(0, PAGE_BYTES)).await;
                self.settle().await;
            }
        }
    }

    /// Waits until nothing is on its way to the disk: pages there hold their memory.
    async fn settle(&self) {
        let tier = tier(&self.cache);
        eventually("the disk has taken what it was offered", || tier.is_settled()).await;
    }

    fn kept(&self, prefix: &str, count: u64) -> usize {
        let tier = tier(&self.cache);
        let is_kept =
            |number: &u64| tier.contains(ContentKey::of(&content(&format!("{prefix} {number}"))).page(0));
        (0..count).filter(is_kept).count()
    }
}

fn class(treatment: Treatment) -> Arc<Class> {
    Class::new("/class", treatment)
}

fn epoch() -> Treatment {
    Treatment { epoch: true, ..Treatment::default() }
}

#[tokio::test]
async fn pinned_content_stays_and_the_cap_holds() {
    let bench = Bench::open();
    let pinned = class(Treatment { pin: true, ..Treatment::default() });
    bench.read("pinned", 5, &pinned).await;
    bench.read("other", 20, &plain()).await;
    assert_eq!(bench.kept("pinned", 5), 5);
    assert_eq!(bench.kept("other", 20), 3);
    bench.read("pinned more", 20, &pinned).await;
    assert_eq!(bench.kept("pinned", 5) + bench.kept("pinned more", 20), DISK_PAGES as usize);
    assert_eq!(bench.kept("other", 20), 0);
    // What is pinned no more goes like anything else.
    pinned.set_treatment(Treatment::default());
    bench.read("newcomer", 6, &plain()).await;
    assert!(bench.kept("newcomer", 6) > 0);
}

#[tokio::test]
async fn content_that_was_there_is_pinned_with_its_class() {
    let bench = Bench::open();
    let class = class(Treatment::default());
    bench.read("early", 5, &class).await;
    class.set_treatment(Treatment { pin: true, ..Treatment::default() });
    bench.read("other", 20, &plain()).await;
    assert_eq!(bench.kept("early", 5), 5);
}

#[tokio::test]
async fn data_set_pushes_out_others_and_none_of_its_own() {
    let bench = Bench::open();
    bench.read("other", 8, &plain()).await;
    let data_set = class(epoch());
    bench.read("member", 20, &data_set).await;
    assert_eq!(bench.kept("member", 8), 8, "those that came first");
    assert_eq!(data_set.disk_bytes(), DISK_PAGES * PAGE_BYTES);
    bench.read("other", 8, &plain()).await;
    assert_eq!(bench.kept("other", 8), 0);
}

#[tokio::test]
async fn part_of_a_class_that_is_read_as_a_data_set_takes_from_its_quota_and_evicts_none_of_its_own() {
    let bench = Bench::open();
    let class = class(Treatment { quota_bytes: Some(4 * PAGE_BYTES), ..Treatment::default() });
    let part = class.as_data_set();
    assert!(Arc::ptr_eq(&part, &class.as_data_set()) && Arc::ptr_eq(&part, &part.as_data_set()));
    bench.read("other", 8, &plain()).await;
    // A first touch is enough, above the watermark too.
    for number in 0..6 {
        let file = bench.file(&format!("member {number}"), &class).as_data_set();
        read_all(&file, ByteRange::new(0, PAGE_BYTES)).await;
        bench.settle().await;
    }
    assert_eq!((bench.kept("member", 4), bench.kept("member", 6)), (4, 4), "those that came first");
    assert_eq!((part.disk_bytes(), class.disk_bytes()), (4 * PAGE_BYTES, 4 * PAGE_BYTES));
    bench.read("same class", 4, &class).await;
    assert_eq!((bench.kept("member", 4), bench.kept("same class", 4)), (4, 0));
    class.set_treatment(Treatment { ttl: Some(Duration::ZERO), ..Treatment::default() });
    assert!(part.treatment().epoch && part.treatment().ttl == Some(Duration::ZERO));
}

#[tokio::test(start_paused = true)]
async fn idle_data_set_makes_room() {
    let bench = Bench::open();
    let (first, second) = (class(epoch()), class(epoch()));
    bench.read("first", 8, &first).await;
    bench.read("early", 1, &second).await;
    assert_eq!((bench.kept("first", 8), bench.kept("early", 1)), (8, 0));
    tokio::time::advance(IDLE + Duration::from_secs(1)).await;
    bench.read("second", 8, &second).await;
    assert_eq!((bench.kept("first", 8), bench.kept("second", 8)), (0, 8));
}

#[tokio::test]
async fn data_set_that_is_passed_over_makes_room_and_one_that_is_read_meanwhile_does_not() {
    let bench = Bench::open();
    let (first, second) = (class(epoch()), class(epoch()));
    bench.read("first", 8, &first).await;
    for round in 0..4 {
        // A validation set between two epochs.
        bench.read(&format!("validation {round}"), 1, &second).await;
        bench.read("first", 1, &first).await;
    }
    assert_eq!(bench.kept("first", 8), 8);
    bench.read("plain", 8, &plain()).await;
    assert_eq!(bench.kept("first", 8), 8, "only data sets are waited for");
    // Half of what the first has was refused after four of these.
    bench.read("second", 8, &second).await;
    assert_eq!((bench.kept("first", 8), bench.kept("second", 8)), (4, 4));
    bench.read("first", 1, &first).await;
    bench.read("third", 1, &class(epoch())).await;
    assert_eq!((bench.kept("first", 8), bench.kept("second", 8)), (4, 4), "it is in use again");
}

#[tokio::test]
async fn priority_decides_between_classes() {
    let bench = Bench::open();
    let with = |epoch, priority| class(Treatment { epoch, priority, ..Treatment::default() });
    bench.read("set", 8, &class(epoch())).await;
    bench.read("high", 2, &with(false, Priority::High)).await;
    assert_eq!((bench.kept("high", 2), bench.kept("set", 8)), (2, 6), "also against a data set in use");
    bench.read("low", 8, &with(false, Priority::Low)).await;
    bench.read("plain", 8, &plain()).await;
    assert_eq!((bench.kept("low", 8), bench.kept("plain", 8)), (0, 0));
    assert_eq!((bench.kept("high", 2), bench.kept("set", 8)), (2, 6));
}

#[tokio::test]
async fn low_priority_goes_first_and_displaces_nothing() {
    let bench = Bench::open();
    let low = class(Treatment { priority: Priority::Low, ..Treatment::default() });
    bench.read("low", 4, &low).await;
    bench.read("plain", 8, &plain()).await;
    assert_eq!((bench.kept("low", 4), bench.kept("plain", 8)), (0, 8));
    bench.read("low", 4, &low).await;
    assert_eq!((bench.kept("low", 4), bench.kept("plain", 8)), (0, 8));
}

#[tokio::test]
async fn quota_holds_and_its_class_makes_room_for_itself() {
    let bench = Bench::open();
    let quota_bytes = Some(3 * PAGE_BYTES);
    let class = class(Treatment { quota_bytes, ..Treatment::default() });
    bench.read("other", 4, &plain()).await;
    for round in 0..4 {
        bench.read(&format!("member {round}"), 3, &class).await;
        assert!(class.disk_bytes() <= 3 * PAGE_BYTES);
    }
    let members = |round: usize| bench.kept(&format!("member {round}"), 3);
    assert_eq!((0..4).map(members).sum::<usize>(), 3);
    assert!(members(3) > 0, "the last ones came in");
    assert_eq!(bench.kept("other", 4), 4);
    class.set_treatment(Treatment { quota_bytes, ..epoch() });
    bench.read("too many", 3, &class).await;
    assert_eq!((0..4).map(members).sum::<usize>(), 3, "a data set keeps what it has");
}

#[tokio::test(start_paused = true)]
async fn content_is_not_served_past_its_time_to_live() {
    let bench = Bench::open();
    let class = class(Treatment { ttl: Some(Duration::from_mins(1)), ..Treatment::default() });
    bench.read("a", 4, &class).await;
    let (all, fetches) = (ByteRange::new(0, PAGE_BYTES), bench.store.fetches());
    let is_there = |name| bench.file(name, &class).try_read(all).is_some();
    tokio::time::advance(Duration::from_secs(50)).await;
    assert!(is_there("a 0") && is_there("a 3"));
    assert!(bench.file("a 0", &class).lend().is_some());
    tokio::time::advance(Duration::from_secs(11)).await;
    assert!(bench.file("a 0", &class).lend().is_none());
    assert!(!is_there("a 1") && !is_there("a 3"));
    read_all(&bench.file("a 3", &class), all).await;
    assert_eq!(bench.store.fetches(), fetches + 1);
    // A shorter life holds for what is there already.
    class.set_treatment(Treatment { ttl: Some(Duration::ZERO), ..Treatment::default() });
    tokio::time::advance(Duration::from_secs(1)).await;
    assert!(!is_there("a 3"));
}

#[tokio::test]
async fn full_disk_takes_what_is_wanted_again_and_no_scan() {
    let bench = Bench::open();
    bench.read("hot", 8, &plain()).await;
    for number in 0..40 {
        read_all(&bench.file(&format!("scan {number}"), &plain()), ByteRange::new(0, PAGE_BYTES)).await;
        bench.settle().await;
    }
    assert_eq!((bench.kept("hot", 8), bench.kept("scan", 40)), (8, 0));
    // The memory of 2 pages has forgotten it, the ghosts of 8 have not.
    read_all(&bench.file("scan 36", &plain()), ByteRange::new(0, PAGE_BYTES)).await;
    bench.settle().await;
    assert_eq!((bench.kept("hot", 8), bench.kept("scan", 40)), (7, 1));
}
