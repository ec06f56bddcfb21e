//! The disk tier: lending, adoption, faults.

use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::Arc;

use forebay_core::{ByteRange, ErrorKind, Extent};
use tempfile::{TempDir, tempdir};
use tokio::sync::Mutex;

use super::{
    HEAD, Store, bytes_of, content, eventually, expected, in_memory, on_disk, open, plain, read_all,
    read_page, tier,
};
use crate::cache::nvme::{WRITE_QUEUE_PAGES, create_file};
use crate::cache::{Cache, CachedFile, PAGE_BYTES};

/// A cache whose memory holds one page, so that older pages are read from the disk.
pub(super) fn disk_cache(directory: &TempDir, disk_pages: u64) -> Cache {
    Cache::open(&on_disk(directory, 1, disk_pages)).expect("opens")
}

/// Caches a file of `pages` pages on disk, one after the other so that none is refused.
pub(super) async fn fill(cache: &Cache, name: &str, pages: u64, store: &Arc<Store>) -> CachedFile {
    let file = open(cache, name, pages * PAGE_BYTES, store);
    let key = crate::cache::ContentKey::of(&content(name));
    let tier = tier(cache);
    for number in 0..pages {
        // Twice, because a full disk takes what is wanted again.
        for _ in 0..2 {
            read_page(&open(cache, name, pages * PAGE_BYTES, store), number).await;
        }
        eventually("the page is on disk", || tier.contains(key.page(number))).await;
    }
    eventually("the file is verified", || file.lend().is_some()).await;
    file
}

pub(super) fn files(directory: &TempDir) -> usize {
    std::fs::read_dir(directory.path().join("cache/clean")).expect("list").count()
}

#[tokio::test]
async fn second_gateway_on_the_directory_is_refused() {
    let directory = tempdir().expect("temporary directory");
    let first = disk_cache(&directory, 4);
    let refused = Cache::open(&on_disk(&directory, 1, 4)).err().expect("locked");
    assert_eq!(refused.kind(), ErrorKind::Busy);
    drop(first);
}

#[tokio::test]
async fn pages_on_disk_are_lent_without_a_fetch() {
    let directory = tempdir().expect("temporary directory");
    let (cache, store) = (disk_cache(&directory, 8), Store::open());
    let file = fill(&cache, "a", 3, &store).await;
    let fetches = store.fetches();
    let across = ByteRange::new(PAGE_BYTES - 5, 10);
    let lent = file.try_read(across).expect("on disk");
    assert!(matches!(lent.extents()[0], Extent::Lent(_)));
    assert!(bytes_of(&lent) == expected(across));
    read_all(&file, ByteRange::new(0, 3 * PAGE_BYTES)).await;
    assert_eq!(store.fetches(), fetches);
    let whole = file.lend().expect("complete");
    assert!(whole.read().expect("readable") == expected(ByteRange::new(0, 3 * PAGE_BYTES)));
}

#[tokio::test]
async fn lent_file_is_not_evicted_and_its_bytes_count() {
    let directory = tempdir().expect("temporary directory");
    let (cache, store) = (disk_cache(&directory, 4), Store::open());
    let loan = fill(&cache, "lent", 2, &store).await.lend().expect("complete");
    for number in 0..6 {
        fill(&cache, &format!("other {number}"), 1, &store).await;
    }
    let tier = tier(&cache);
    assert_eq!(tier.budget().used(), 4 * PAGE_BYTES);
    assert!(open(&cache, "lent", 2 * PAGE_BYTES, &store).lend().is_some());
    // Forgotten while lent: the name goes, the bytes stay until the loan ends.
    let before = tier.budget().used();
    cache.forget(&content("lent"), 2 * PAGE_BYTES);
    eventually("the name is gone", || files(&directory) == 2).await;
    assert_eq!(tier.budget().used(), before);
    assert!(loan.read().expect("still there") == expected(ByteRange::new(0, 2 * PAGE_BYTES)));
    drop(loan);
    eventually("its bytes are back", || tier.budget().used() == 2 * PAGE_BYTES).await;
}

#[tokio::test]
async fn full_of_lent_files_the_disk_refuses_and_reads_go_on() {
    let directory = tempdir().expect("temporary directory");
    let (cache, store) = (disk_cache(&directory, 2), Store::open());
    let _loan = fill(&cache, "lent", 2, &store).await.lend().expect("complete");
    let tier = tier(&cache);
    for number in 0..4 {
        let name = format!("other {number}");
        read_page(&open(&cache, &name, PAGE_BYTES, &store), 0).await;
    }
    assert_eq!(tier.budget().used(), 2 * PAGE_BYTES);
}

#[tokio::test]
async fn disk_full_keeps_serving_and_leaves_no_file() {
    fn full_disk(_: &Path) -> io::Result<File> {
        File::options().read(true).write(true).open("/dev/full")
    }
    let directory = tempdir().expect("temporary directory");
    let cache = Cache::open_with(&on_disk(&directory, 1, 8), full_disk).expect("opens");
    let store = Store::open();
    let file = open(&cache, "a", 4 * PAGE_BYTES, &store);
    read_page(&file, 0).await;
    let tier = tier(&cache);
    eventually("the disk is left alone", || tier.is_down()).await;
    read_all(&file, ByteRange::new(0, 4 * PAGE_BYTES)).await;
    assert!(file.lend().is_none());
    eventually("nothing stays reserved", || tier.budget().used() == 0).await;
}

#[tokio::test]
async fn damaged_page_comes_from_the_store_again() {
    let directory = tempdir().expect("temporary directory");
    let (cache, store) = (disk_cache(&directory, 8), Store::open());
    let file = fill(&cache, "a", 2, &store).await;
    let clean = directory.path().join("cache/clean");
    let path = std::fs::read_dir(clean).expect("list").next().expect("a file").expect("entry").path();
    let damaged = File::options().write(true).open(path).expect("open");
    std::os::unix::fs::FileExt::write_all_at(&damaged, b"damage", 100).expect("write");
    let fetches = store.fetches();
    read_page(&file, 0).await;
    assert_eq!(store.fetches(), fetches + 1 + HEAD);
    assert!(file.lend().is_none(), "the file is dropped");
}

#[tokio::test]
async fn truncated_file_comes_from_the_store_again() {
    let directory = tempdir().expect("temporary directory");
    let (cache, store) = (disk_cache(&directory, 8), Store::open());
    let file = fill(&cache, "a", 2, &store).await;
    let clean = directory.path().join("cache/clean");
    let path = std::fs::read_dir(clean).expect("list").next().expect("a file").expect("entry").path();
    File::options().write(true).open(path).expect("open").set_len(10).expect("truncate");
    let lent = file.try_read(ByteRange::new(50, 10)).expect("lent");
    assert!(lent.read().is_err());
    assert!(file.try_read(ByteRange::new(50, 10)).is_none(), "not lent again");
    assert!(file.lend().is_none());
    read_all(&file, ByteRange::new(50, 10)).await;
    eventually("the failed file is unlinked", || files(&directory) == 1).await;
}

#[tokio::test]
async fn pages_past_the_write_queue_are_served_and_not_kept_on_disk() {
    static SLOW: Mutex<()> = Mutex::const_new(());
    fn slow_disk(path: &Path) -> io::Result<File> {
        let _wait = SLOW.blocking_lock();
        create_file(path)
    }
    let directory = tempdir().expect("temporary directory");
    let cache = Cache::open_with(&on_disk(&directory, 8, 64), slow_disk).expect("opens");
    let store = Store::open();
    let stalled = SLOW.lock().await;
    for number in 0..50 {
        let file = open(&cache, &format!("file {number}"), 10, &store);
        file.read(ByteRange::new(0, 10)).await.expect("served");
    }
    drop(stalled);
    // One page is with the writer, the others fill the queue.
    eventually("what was queued is written", || files(&directory) >= WRITE_QUEUE_PAGES).await;
    let last = open(&cache, "last", 10, &store);
    last.read(ByteRange::new(0, 10)).await.expect("served");
    eventually("the disk is used again", || last.lend().is_some()).await;
    assert!(files(&directory) <= WRITE_QUEUE_PAGES + 2);
}

#[tokio::test]
async fn published_file_is_adopted_by_rename() {
    let directory = tempdir().expect("temporary directory");
    let (cache, store) = (disk_cache(&directory, 8), Store::open());
    let (staged, size) = (directory.path().join("staged"), PAGE_BYTES + 9);
    std::fs::write(&staged, expected(ByteRange::new(0, size))).expect("write");
    assert!(cache.adopt((&content("a"), &plain()), &staged, size).await.expect("adopted"));
    assert!(!staged.exists());
    let file = open(&cache, "a", size, &store);
    assert!(file.lend().is_some());
    read_all(&file, ByteRange::new(0, size)).await;
    assert_eq!(store.fetches(), 0);
}

#[tokio::test]
async fn adoption_is_refused_without_room_or_tier_and_for_another_length() {
    let directory = tempdir().expect("temporary directory");
    let cache = disk_cache(&directory, 1);
    let staged = directory.path().join("staged");
    std::fs::write(&staged, vec![0; 2 * PAGE_BYTES as usize]).expect("write");
    assert!(!cache.adopt((&content("a"), &plain()), &staged, 2 * PAGE_BYTES).await.expect("no room"));
    let error = cache.adopt((&content("a"), &plain()), &staged, 5).await.expect_err("another length");
    assert_eq!(error.kind(), ErrorKind::Incomplete);
    let memory = Cache::open(&in_memory(1)).expect("opens");
    assert!(!memory.adopt((&content("a"), &plain()), &staged, 2 * PAGE_BYTES).await.expect("no tier"));
    assert!(staged.exists());
}
