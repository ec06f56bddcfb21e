//! What a restart finds on the disk, and what it makes of damage.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use forebay_core::{ByteRange, Extent};
use tempfile::{TempDir, tempdir};

use super::disk::{disk_cache, files, fill};
use super::{HEAD, Store, bytes_of, content, eventually, expected, on_disk, open, read_all, read_page, tier};
use crate::cache::{Cache, Class, Fetch, PAGE_BYTES, Treatment};
use crate::supervisor::Supervisor;

/// Ends a gateway as a kill would, after its log was written.
pub(super) fn end(cache: Cache) {
    tier(&cache).write_log();
    drop(cache);
}

/// Opens the cache again once the tasks of the one before let go of the lock, and waits for what comes back.
pub(super) async fn reopened(directory: &TempDir, disk_pages: u64) -> Cache {
    let mut cache = Cache::open(&on_disk(directory, 1, disk_pages)).ok();
    while cache.is_none() {
        tokio::task::yield_now().await;
        cache = Cache::open(&on_disk(directory, 1, disk_pages)).ok();
    }
    let cache = cache.expect("opened");
    eventually("what is left is back", || tier(&cache).is_restored()).await;
    cache
}

fn only_file(directory: &TempDir) -> PathBuf {
    let clean = directory.path().join("cache/clean");
    std::fs::read_dir(clean).expect("list").next().expect("a file").expect("entry").path()
}

fn index(directory: &TempDir) -> PathBuf {
    directory.path().join("cache/index")
}

fn flip(path: &Path, at: u64) {
    let file = File::options().read(true).write(true).open(path).expect("open");
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).expect("read");
    file.write_all_at(&[byte[0] ^ 0x40], at).expect("write");
}

#[tokio::test]
async fn restart_serves_pages_from_disk_once_they_were_checked() {
    let directory = tempdir().expect("temporary directory");
    let store = Store::open();
    let cache = disk_cache(&directory, 8);
    drop(fill(&cache, "a", 3, &store).await);
    let used = tier(&cache).budget().used();
    end(cache);

    let (cache, store) = (reopened(&directory, 8).await, Store::open());
    assert_eq!(tier(&cache).budget().used(), used);
    let file = open(&cache, "a", 3 * PAGE_BYTES, &store);
    let part = ByteRange::new(PAGE_BYTES + 7, 10);
    assert!(file.try_read(part).is_none(), "suspect");
    read_all(&file, part).await;
    let lent = file.try_read(part).expect("checked");
    assert!(matches!(lent.extents()[0], Extent::Lent(_)));
    assert!(bytes_of(&lent) == expected(part));
    eventually("the whole file is checked and lent", || file.lend().is_some()).await;
    let whole = ByteRange::new(0, 3 * PAGE_BYTES);
    assert!(file.lend().expect("lent").read().expect("readable") == expected(whole));
    read_all(&file, whole).await;
    assert_eq!(store.fetches(), 0);
}

#[tokio::test]
async fn half_filled_file_goes_on_after_a_restart() {
    let directory = tempdir().expect("temporary directory");
    let (cache, store) = (disk_cache(&directory, 8), Store::open());
    let key = crate::cache::ContentKey::of(&content("a"));
    read_page(&open(&cache, "a", 3 * PAGE_BYTES, &store), 1).await;
    eventually("the page is on disk", || tier(&cache).contains(key.page(1))).await;
    end(cache);

    let (cache, store) = (reopened(&directory, 8).await, Store::open());
    drop(fill(&cache, "a", 3, &store).await);
    assert_eq!(store.fetches(), 2 + HEAD);
    assert_eq!(tier(&cache).budget().used(), 3 * PAGE_BYTES);
    end(cache);
    let (cache, store) = (reopened(&directory, 8).await, Store::open());
    read_all(&open(&cache, "a", 3 * PAGE_BYTES, &store), ByteRange::new(0, 3 * PAGE_BYTES)).await;
    assert_eq!(store.fetches(), 0);
}

#[tokio::test]
async fn what_no_record_names_is_removed() {
    let directory = tempdir().expect("temporary directory");
    let (cache, store) = (disk_cache(&directory, 8), Store::open());
    drop(fill(&cache, "logged", 1, &store).await);
    tier(&cache).write_log();
    drop(fill(&cache, "not logged", 1, &store).await);
    drop(cache);
    let clean = directory.path().join("cache/clean");
    std::fs::write(clean.join("foreign"), b"?").expect("write");
    std::fs::create_dir(clean.join("directory")).expect("mkdir");
    std::fs::write(directory.path().join("cache/notes"), b"mine").expect("write");

    let (cache, store) = (reopened(&directory, 8).await, Store::open());
    assert_eq!(files(&directory), 1);
    read_page(&open(&cache, "logged", PAGE_BYTES, &store), 0).await;
    assert_eq!(store.fetches(), 0);
    assert_eq!(tier(&cache).budget().used(), PAGE_BYTES);
    assert!(directory.path().join("cache/notes").exists());
}

#[tokio::test]
async fn evicted_and_forgotten_files_do_not_come_back() {
    let directory = tempdir().expect("temporary directory");
    let (cache, store) = (disk_cache(&directory, 2), Store::open());
    for name in ["evicted", "forgotten", "kept"] {
        drop(fill(&cache, name, 1, &store).await);
        tier(&cache).write_log();
    }
    cache.forget(&content("forgotten"), PAGE_BYTES);
    eventually("its name is gone", || files(&directory) == 1).await;
    end(cache);

    let (cache, store) = (reopened(&directory, 2).await, Store::open());
    assert_eq!(tier(&cache).budget().used(), PAGE_BYTES);
    read_page(&open(&cache, "kept", PAGE_BYTES, &store), 0).await;
    assert_eq!(store.fetches(), 0);
}

#[tokio::test]
async fn smaller_tier_keeps_the_newest_files_and_evicts_the_oldest_of_them_first() {
    let directory = tempdir().expect("temporary directory");
    let (cache, store) = (disk_cache(&directory, 8), Store::open());
    for number in 0..5 {
        drop(fill(&cache, &format!("file {number}"), 1, &store).await);
    }
    end(cache);

    let (cache, store) = (reopened(&directory, 3).await, Store::open());
    assert_eq!((files(&directory), tier(&cache).budget().used()), (3, 3 * PAGE_BYTES));
    drop(fill(&cache, "new", 1, &store).await);
    let has = |name: &str| tier(&cache).contains(crate::cache::ContentKey::of(&content(name)).page(0));
    assert!(!has("file 1") && !has("file 2") && has("file 3") && has("file 4") && has("new"));
}

#[tokio::test]
async fn damaged_page_is_fetched_again_and_the_others_stay() {
    let directory = tempdir().expect("temporary directory");
    let (cache, store) = (disk_cache(&directory, 8), Store::open());
    drop(fill(&cache, "a", 3, &store).await);
    end(cache);
    flip(&only_file(&directory), PAGE_BYTES + 12345);

    let (cache, store) = (reopened(&directory, 8).await, Store::open());
    let file = open(&cache, "a", 3 * PAGE_BYTES, &store);
    read_all(&file, ByteRange::new(PAGE_BYTES, 1)).await;
    assert_eq!(store.fetches(), 1);
    eventually("the page is there again and all of it is lent", || file.lend().is_some()).await;
    read_all(&file, ByteRange::new(0, 3 * PAGE_BYTES)).await;
    assert_eq!(store.fetches(), 1);
    assert_eq!(tier(&cache).budget().used(), 3 * PAGE_BYTES, "written into the same blocks");
}

#[tokio::test]
async fn damaged_file_is_not_lent_whole() {
    let directory = tempdir().expect("temporary directory");
    let (cache, store) = (disk_cache(&directory, 8), Store::open());
    drop(fill(&cache, "a", 2, &store).await);
    end(cache);
    flip(&only_file(&directory), 2 * PAGE_BYTES - 1);

    let (cache, store) = (reopened(&directory, 8).await, Store::open());
    let file = open(&cache, "a", 2 * PAGE_BYTES, &store);
    let key = crate::cache::ContentKey::of(&content("a"));
    eventually("the damage is found", || file.lend().is_none() && !tier(&cache).contains(key.page(1))).await;
    assert!(file.lend().is_none());
    assert!(tier(&cache).contains(key.page(0)));
    read_all(&file, ByteRange::new(0, 2 * PAGE_BYTES)).await;
    assert_eq!(store.fetches(), 1);
}

/// A content of a few bytes, cached and logged.
async fn cache_small(directory: &TempDir, name: &str, size_bytes: u64) {
    let cache = reopened(directory, 8).await;
    let file = open(&cache, name, size_bytes, &Store::open());
    read_all(&file, ByteRange::new(0, size_bytes)).await;
    eventually("it is on disk", || file.lend().is_some()).await;
    end(cache);
}

#[tokio::test]
async fn any_byte_of_a_file_may_be_cut_off_or_changed() {
    const SIZE: u64 = 40;
    let directory = tempdir().expect("temporary directory");
    for at in 0..SIZE {
        for is_cut in [false, true] {
            cache_small(&directory, "a", SIZE).await;
            if is_cut {
                let file = File::options().write(true).open(only_file(&directory)).expect("open");
                file.set_len(at).expect("cut");
            } else {
                flip(&only_file(&directory), at);
            }
            let (cache, store) = (reopened(&directory, 8).await, Store::open());
            // One byte that is not the damaged one: a part of the page is checked like all of it.
            let file = open(&cache, "a", SIZE, &store);
            read_all(&file, ByteRange::new((at + 1) % SIZE, 1)).await;
            assert_eq!(store.fetches(), 1, "byte {at}, cut {is_cut}");
            read_all(&file, ByteRange::new(0, SIZE)).await;
        }
    }
}

#[tokio::test]
async fn any_byte_of_the_log_may_be_cut_off_or_changed() {
    let directory = tempdir().expect("temporary directory");
    cache_small(&directory, "a", 40).await;
    cache_small(&directory, "b", 50).await;
    let log = std::fs::read(index(&directory)).expect("log");
    let clean = directory.path().join("cache/clean");
    let saved: Vec<_> = std::fs::read_dir(&clean)
        .expect("list")
        .map(|entry| entry.expect("entry").path())
        .map(|path| (path.clone(), std::fs::read(path).expect("read")))
        .collect();
    let mut kept = [false; 3];
    for at in 0..log.len() {
        for is_cut in [false, true] {
            let mut damaged = log.clone();
            if is_cut {
                damaged.truncate(at);
            } else {
                damaged[at] ^= 4;
            }
            std::fs::write(index(&directory), damaged).expect("write");
            for (path, bytes) in &saved {
                std::fs::write(path, bytes).expect("write");
            }
            let (cache, store) = (reopened(&directory, 8).await, Store::open());
            for (name, size) in [("a", 40), ("b", 50)] {
                read_all(&open(&cache, name, size, &store), ByteRange::new(0, size)).await;
            }
            kept[2 - store.fetches()] = true;
        }
    }
    assert_eq!(kept, [true, true, false], "the first of two stays where the second is damaged");
}

#[tokio::test]
async fn logger_notes_what_is_cached_and_a_panicked_one_is_restarted() {
    let directory = tempdir().expect("temporary directory");
    let (cache, store) = (disk_cache(&directory, 16), Store::open());
    let supervisor = Supervisor::start("test").await.expect("starts");
    cache.start_evictors(&supervisor).await.expect("start");
    drop(fill(&cache, "before", 1, &store).await);
    eventually("there is a log", || index(&directory).exists()).await;
    assert!(supervisor.panic_child("IndexLogger").await.expect("running"));
    drop(fill(&cache, "after", 1, &store).await);
    let written = || std::fs::metadata(index(&directory)).expect("log").len();
    eventually("both are noted", || written() >= 16 + 2 * (49 + 29)).await;
    supervisor.stop(Duration::from_secs(5)).await;
    drop(cache);

    let (cache, store) = (reopened(&directory, 16).await, Store::open());
    for name in ["before", "after"] {
        read_page(&open(&cache, name, PAGE_BYTES, &store), 0).await;
    }
    assert_eq!(store.fetches(), 0);
}

#[tokio::test]
async fn restored_file_counts_for_the_class_that_asks_for_it_and_obeys_its_ttl_and_quota() {
    let directory = tempdir().expect("temporary directory");
    let (cache, store) = (disk_cache(&directory, 8), Store::open());
    for name in ["kept", "expired", "over quota"] {
        drop(fill(&cache, name, 1, &store).await);
    }
    end(cache);

    let (cache, store) = (reopened(&directory, 8).await, Store::open());
    let read = async |name: &str, treatment: Treatment| {
        let class = Class::new(name, treatment);
        let fetch = Arc::clone(&store) as Arc<dyn Fetch>;
        let file = cache.file(&Arc::from("/test"), (&content(name), &class), PAGE_BYTES, fetch);
        read_page(&file, 0).await;
        (store.fetches(), class)
    };
    let kept = Treatment { pin: true, ttl: Some(Duration::from_hours(1)), ..Treatment::default() };
    let (fetches, class) = read("kept", kept).await;
    assert_eq!((fetches, class.disk_bytes()), (0, PAGE_BYTES));
    let expired = Treatment { ttl: Some(Duration::from_nanos(1)), ..Treatment::default() };
    assert_eq!(read("expired", expired).await.0, 1);
    let small = Treatment { quota_bytes: Some(PAGE_BYTES / 2), ..Treatment::default() };
    let (fetches, class) = read("over quota", small).await;
    assert_eq!((fetches, class.disk_bytes()), (2, 0));
}
