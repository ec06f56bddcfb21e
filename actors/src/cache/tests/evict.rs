//! The caps, with evictors, without them and with ones that panic.

use std::sync::Arc;
use std::time::Duration;

use forebay_core::ByteRange;
use tempfile::tempdir;

use super::{Store, content, eventually, in_memory, on_disk, open, read_all, read_page, tier};
use crate::cache::{Cache, Class, Fetch, PAGE_BYTES, Treatment};
use crate::supervisor::Supervisor;

const CAPACITY_PAGES: u64 = 8;

/// Reads three times what the tiers hold, in files of two pages, and looks at the caps all the while.
async fn read_three_times_capacity(cache: &Cache) {
    let store = Store::open();
    for number in 0..CAPACITY_PAGES * 3 / 2 {
        let file = open(cache, &format!("file {number}"), 2 * PAGE_BYTES, &store);
        read_all(&file, ByteRange::new(0, 2 * PAGE_BYTES)).await;
        assert_caps(cache);
    }
}

fn assert_caps(cache: &Cache) {
    let memory = cache.0.memory.budget();
    assert!(memory.used() <= memory.capacity());
    for nvme in cache.0.disks.directories() {
        assert!(nvme.budget().used() <= nvme.budget().capacity());
    }
}

#[tokio::test]
async fn memory_stays_under_its_cap_without_an_evictor() {
    let cache = Cache::open(&in_memory(CAPACITY_PAGES)).expect("opens");
    read_three_times_capacity(&cache).await;
    assert!(cache.0.memory.budget().used() >= (CAPACITY_PAGES - 1) * PAGE_BYTES, "the tier is used");
}

#[tokio::test]
async fn disk_stays_under_its_cap_without_an_evictor() {
    let directory = tempdir().expect("temporary directory");
    let cache = Cache::open(&on_disk(&directory, 64, CAPACITY_PAGES)).expect("opens");
    let store = Store::open();
    for number in 0..CAPACITY_PAGES * 3 {
        let name = format!("file {number}");
        let file = open(&cache, &name, PAGE_BYTES, &store);
        // Twice, because a full disk takes what is wanted again.
        for _ in 0..2 {
            read_page(&open(&cache, &name, PAGE_BYTES, &store), 0).await;
        }
        eventually("the page is on disk", || file.lend().is_some()).await;
        assert_caps(&cache);
    }
    let held = std::fs::read_dir(directory.path().join("cache/clean")).expect("list").count() as u64;
    assert_eq!(held, CAPACITY_PAGES, "evicted files are unlinked");
}

#[tokio::test]
async fn evictors_bring_both_tiers_below_the_high_watermark() {
    let directory = tempdir().expect("temporary directory");
    let cache = Cache::open(&on_disk(&directory, CAPACITY_PAGES, CAPACITY_PAGES)).expect("opens");
    let supervisor = Supervisor::start("test").await.expect("starts");
    cache.start_evictors(&supervisor).await.expect("start");
    read_three_times_capacity(&cache).await;
    assert_settles(&cache).await;
    supervisor.stop(Duration::from_secs(5)).await;
}

async fn assert_settles(cache: &Cache) {
    let nvme = tier(cache);
    eventually("memory is below its watermark", || !cache.0.memory.budget().is_above_high()).await;
    eventually("the disk is below its watermark", || !nvme.budget().is_above_high()).await;
}

#[tokio::test]
async fn evictor_that_panicked_is_restarted_and_evicts() {
    let directory = tempdir().expect("temporary directory");
    let cache = Cache::open(&on_disk(&directory, CAPACITY_PAGES, CAPACITY_PAGES)).expect("opens");
    let supervisor = Supervisor::start("test").await.expect("starts");
    cache.start_evictors(&supervisor).await.expect("start");
    for name in ["MemoryEvictor", "NvmeEvictor", "IndexLogger"] {
        assert!(supervisor.panic_child(name).await.expect("running"));
    }
    read_three_times_capacity(&cache).await;
    eventually("all are back", || supervisor.children().iter().all(|child| child.restarts == 1)).await;
    read_three_times_capacity(&cache).await;
    assert_settles(&cache).await;
    supervisor.stop(Duration::from_secs(5)).await;
}

#[tokio::test]
async fn pages_that_readers_hold_count_and_reads_go_on_uncached() {
    let cache = Cache::open(&in_memory(2)).expect("opens");
    let store = Store::open();
    let mut held = Vec::new();
    for number in 0..6 {
        let file = open(&cache, &format!("file {number}"), PAGE_BYTES, &store);
        held.push(file.read(ByteRange::new(0, PAGE_BYTES)).await.expect("served"));
        assert_caps(&cache);
    }
    assert_eq!(store.fetches(), 6);
    drop(held);
    assert_eq!(cache.0.memory.budget().used(), 0, "evicted pages went with their last readers");
}

#[tokio::test]
async fn used_page_outlives_unused_ones() {
    let cache = Cache::open(&in_memory(3)).expect("opens");
    let store = Store::open();
    // Each open counts once, however many reads it makes of the page.
    let hot = || open(&cache, "hot", PAGE_BYTES, &store);
    read_page(&hot(), 0).await;
    for number in 0..3 {
        read_page(&hot(), 0).await;
        read_page(&open(&cache, &format!("cold {number}"), PAGE_BYTES, &store), 0).await;
    }
    assert!(hot().try_read(ByteRange::new(0, 1)).is_some());
    assert_eq!(store.fetches(), 4);
}

#[tokio::test]
async fn stream_pushes_out_nothing_that_is_used() {
    let cache = Cache::open(&in_memory(20)).expect("opens");
    let store = Store::open();
    let hot = |number: u64| open(&cache, &format!("hot {number}"), PAGE_BYTES, &store);
    for number in (0..10).chain(0..10).chain(0..10) {
        read_page(&hot(number), 0).await;
    }
    let stream = open(&cache, "stream", 200 * PAGE_BYTES, &store);
    read_all(&stream, ByteRange::new(0, 200 * PAGE_BYTES)).await;
    let kept = (0..10).filter(|number| hot(*number).try_read(ByteRange::new(0, 1)).is_some()).count();
    assert_eq!(kept, 10);
}

/// Readers, writers of new versions, changes of treatment of a class and of a part of it, and evictors at once.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn policy_and_tiers_agree_whatever_happens_at_once() {
    let directory = tempdir().expect("temporary directory");
    let cache = Cache::open(&on_disk(&directory, 32, 16)).expect("opens");
    let supervisor = Supervisor::start("test").await.expect("starts");
    cache.start_evictors(&supervisor).await.expect("start");
    let quota_bytes = Some(8 * PAGE_BYTES);
    let whole = Class::new("/a", Treatment { quota_bytes, ..Treatment::default() });
    let part = whole.part_below("/a/set");
    let classes = [Arc::clone(&whole), Class::new("/b", Treatment::default()), Arc::clone(&part)];
    let store = Store::open();
    let tasks: Vec<_> = (0..4u64)
        .map(|seed| {
            let (cache, store, classes) = (cache.clone(), Arc::clone(&store), classes.clone());
            let (whole, part) = (Arc::clone(&whole), Arc::clone(&part));
            tokio::spawn(async move {
                let mut random = fastrand::Rng::with_seed(seed);
                for step in 0..300 {
                    let name = format!("file {}", random.u64(0..12));
                    let class = &classes[random.usize(0..3)];
                    let fetch = Arc::clone(&store) as Arc<dyn Fetch>;
                    let id = content(&name);
                    let file = cache.file(&Arc::from("/test"), (&id, class), 3 * PAGE_BYTES, fetch);
                    read_page(&file, random.u64(0..3)).await;
                    match random.u8(0..8) {
                        0 => cache.forget(&id, 3 * PAGE_BYTES),
                        1 => whole.set_treatment(Treatment {
                            epoch: step % 2 == 0,
                            quota_bytes,
                            ..Treatment::default()
                        }),
                        2 => part.set_read_as_data_set(step % 2 == 0),
                        _ => assert_caps(&cache),
                    }
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.expect("no panic");
    }
    assert!(part.disk_bytes() <= whole.disk_bytes() && whole.disk_bytes() <= 8 * PAGE_BYTES);
    let nvme = tier(&cache);
    eventually("the disk's shelves are what is there", || nvme.is_consistent()).await;
    eventually("memory's queues are what is there", || cache.0.memory.is_consistent()).await;
    supervisor.stop(Duration::from_secs(5)).await;
}
