//! Disks that fail, as far as a test in the process can make them; the rest is in `tests/faults/test_cache_disk.py`.

use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use forebay_core::ByteRange;
use tempfile::tempdir;
use tokio::sync::Mutex;

use super::disk::{disk_cache, files, fill};
use super::restart::{end, reopened};
use super::{Store, content, eventually, in_time, on_disk, open, read_all, read_page, tier};
use crate::cache::nvme::create_file;
use crate::cache::{Cache, Class, ContentKey, Fetch, PAGE_BYTES, Treatment};

#[tokio::test(start_paused = true)]
async fn failed_writes_bring_a_disk_down_and_it_comes_back_by_itself() {
    static FAILS: AtomicBool = AtomicBool::new(true);
    fn failing_disk(path: &Path) -> io::Result<File> {
        if FAILS.load(Ordering::SeqCst) {
            Err(io::ErrorKind::ReadOnlyFilesystem.into())
        } else {
            create_file(path)
        }
    }
    let directory = tempdir().expect("temporary directory");
    let cache = Cache::open_with(&on_disk(&directory, 4, 8), failing_disk).expect("opens");
    let store = Store::open();
    read_page(&open(&cache, "a", PAGE_BYTES, &store), 0).await;
    in_time("the disk is down", || tier(&cache).is_down()).await;
    read_page(&open(&cache, "b", PAGE_BYTES, &store), 0).await;
    FAILS.store(false, Ordering::SeqCst);
    in_time("the disk is back", || tier(&cache).is_ok()).await;
    read_page(&open(&cache, "c", PAGE_BYTES, &store), 0).await;
    in_time("it is written to", || files(&directory) == 1).await;
}

#[tokio::test(start_paused = true)]
async fn deleted_directory_is_made_again_and_what_lay_there_is_forgotten() {
    let directory = tempdir().expect("temporary directory");
    let (cache, store) = (Cache::open(&on_disk(&directory, 1, 8)).expect("opens"), Store::open());
    let key = |name: &str| ContentKey::of(&content(name)).page(0);
    for name in ["a", "b"] {
        read_page(&open(&cache, name, PAGE_BYTES, &store), 0).await;
        in_time("it is on disk", || tier(&cache).contains(key(name))).await;
    }
    tier(&cache).write_log();
    std::fs::remove_dir_all(directory.path().join("cache")).expect("deleted");
    // The next write finds that out.
    read_page(&open(&cache, "c", PAGE_BYTES, &store), 0).await;
    in_time("it is forgotten", || !tier(&cache).contains(key("a"))).await;
    in_time("the disk is back", || tier(&cache).is_ok() && tier(&cache).is_restored()).await;
    in_time("nothing counts", || tier(&cache).budget().used() == 0).await;
    for name in ["a", "b"] {
        read_page(&open(&cache, name, PAGE_BYTES, &store), 0).await;
        in_time("it is on disk again", || tier(&cache).contains(key(name))).await;
    }
    end(cache);
    // And the new directory outlives the gateway as the old one would have.
    let (cache, store) = (reopened(&directory, 8).await, Store::open());
    for name in ["a", "b"] {
        read_page(&open(&cache, name, PAGE_BYTES, &store), 0).await;
    }
    assert_eq!(store.fetches(), 0);
}

#[tokio::test]
async fn writes_that_hang_keep_nobody_waiting() {
    static HANGS: Mutex<()> = Mutex::const_new(());
    fn hanging_disk(path: &Path) -> io::Result<File> {
        let _hang = HANGS.blocking_lock();
        create_file(path)
    }
    let directory = tempdir().expect("temporary directory");
    let cache = Cache::open_with(&on_disk(&directory, 8, 64), hanging_disk).expect("opens");
    let (store, hang) = (Store::open(), HANGS.lock().await);
    let file = open(&cache, "a", 4 * PAGE_BYTES, &store);
    let loaded = tokio::spawn(async move { file.fill(ByteRange::new(0, 4 * PAGE_BYTES)).await });
    read_all(&open(&cache, "b", 4 * PAGE_BYTES, &store), ByteRange::new(0, 4 * PAGE_BYTES)).await;
    assert!(!loaded.is_finished(), "a load waits for the disk");
    tier(&cache).fall_silent();
    loaded.await.expect("no panic").expect("and for no disk that is silent");
    let held = Arc::clone(tier(&cache));
    drop(hang);
    eventually("it is probed back", || !held.is_down()).await;
}

#[tokio::test(start_paused = true)]
async fn packed_object_ages_by_the_time_that_passes_and_not_by_the_wall_clock() {
    let directory = tempdir().expect("temporary directory");
    let mut config = on_disk(&directory, 1, 64);
    config.memory_bytes += 256 << 10;
    config.nvme.as_mut().expect("configured").packed_bytes = 64 << 10;
    let (cache, store) = (Cache::open(&config).expect("opens"), Store::open());
    let ttl = Some(Duration::from_mins(10));
    let class = Class::new("/test", Treatment { ttl, ..Treatment::default() });
    let read = async || {
        let fetch = Arc::clone(&store) as Arc<dyn Fetch>;
        let file = cache.file(&Arc::from("/test"), (&content("a"), &class), 1000, fetch);
        read_all(&file, ByteRange::new(0, 1000)).await;
        store.fetches()
    };
    let key = ContentKey::of(&content("a"));
    assert_eq!(read().await, 1);
    in_time("it is packed", || tier(&cache).contains(key.page(0))).await;
    for (passed, fetches) in [(9, 1), (2, 2)] {
        cache.0.memory.forget(key, 1000);
        tokio::time::advance(Duration::from_mins(passed)).await;
        assert_eq!(read().await, fetches, "the wall clock has not moved");
    }
}

#[tokio::test]
async fn disk_that_failed_lately_lends_no_file_whole() {
    let directory = tempdir().expect("temporary directory");
    let (cache, store) = (disk_cache(&directory, 8), Store::open());
    let file = fill(&cache, "a", 1, &store).await;
    cache.0.memory.forget(ContentKey::of(&content("a")), PAGE_BYTES);
    tier(&cache).fall_silent();
    assert!(file.lend().is_none() && file.try_read(ByteRange::new(0, 1)).is_none());
    let fetches = store.fetches();
    read_page(&file, 0).await;
    assert_eq!(store.fetches(), fetches + 1, "it comes from the store");
    eventually("what was there is there again", || file.lend().is_some()).await;
}
