//! What is counted for those who look from outside.

use std::sync::Arc;

use forebay_core::{ByteRange, Explained, Key, METRICS, Place};

use super::{Store, content, eventually, in_memory, on_disk, plain, read_all};
use crate::cache::{Cache, CachedFile, Class, Fetch, PAGE_BYTES, Treatment};

const SIZE: u64 = 3 * PAGE_BYTES;

fn open(cache: &Cache, mount: &str, store: &Arc<Store>) -> CachedFile {
    let fetch = Arc::clone(store) as Arc<dyn Fetch>;
    cache.file(&Arc::from(mount), (&content("a"), &plain()), SIZE, fetch)
}

fn opens(mount: &str) -> [u64; 3] {
    ["memory", "nvme", "store"].map(|tier| METRICS.cache_opens.with_label_values(&[mount, tier]).get())
}

#[tokio::test]
async fn open_file_counts_once_for_the_farthest_place_it_was_read_from() {
    let cache = Cache::open(&in_memory(8)).expect("opens");
    let (store, mount, all) = (Store::open(), "/seen-opens", ByteRange::new(0, SIZE));
    let first = open(&cache, mount, &store);
    read_all(&first, all).await;
    read_all(&first, all).await;
    assert_eq!(opens(mount), [0, 0, 0], "it is open");
    drop(first);
    assert_eq!(opens(mount), [0, 0, 1], "however often its pages were in memory afterwards");
    let second = open(&cache, mount, &store);
    assert!(second.try_read(all).is_some());
    drop(second);
    drop(open(&cache, mount, &store));
    assert_eq!(opens(mount), [1, 0, 1], "who reads nothing does not count");
}

/// What is known of a file of three pages.
fn explained(cache: &Cache, file: &CachedFile) -> Explained {
    file.explain(cache.named("/seen", &Key::parse("a").expect("a key"), &content("a")))
}

#[tokio::test]
async fn evicted_and_unread_parts_are_told_apart_from_what_is_there() {
    let cache = Cache::open(&in_memory(2)).expect("opens");
    let (store, page) = (Store::open(), |number| ByteRange::new(number * PAGE_BYTES, PAGE_BYTES));
    let file = open(&cache, "/seen", &store);
    assert_eq!(explained(&cache, &file).reasons, ["nobody read it of late"]);
    for number in 0..3 {
        read_all(&file, page(number)).await;
    }
    let Explained { parts, reasons, is_lent_whole, .. } = explained(&cache, &file);
    assert!(parts.iter().any(|part| part.place == Place::Memory));
    assert!(parts.iter().any(|part| part.place == Place::Store));
    assert_eq!(parts.iter().map(|part| part.range.len).sum::<u64>(), SIZE);
    assert_eq!(reasons, ["memory: evicted to make room"]);
    assert!(!is_lent_whole);
}

#[tokio::test]
async fn refusal_of_the_disk_is_told_with_its_cause() {
    let directory = tempfile::tempdir().expect("a directory");
    let cache = Cache::open(&on_disk(&directory, 2, 8)).expect("opens");
    let store = Store::open();
    let treatment = Treatment { quota_bytes: Some(PAGE_BYTES), pin: true, ..Treatment::default() };
    let class = Class::new("/seen", treatment);
    let fetch = Arc::clone(&store) as Arc<dyn Fetch>;
    // Two pages have room in memory and one on the disk.
    let size_bytes = 5 * PAGE_BYTES;
    let file = cache.file(&Arc::from("/seen"), (&content("a"), &class), size_bytes, fetch);
    read_all(&file, ByteRange::new(0, size_bytes)).await;
    let is_told = || explained(&cache, &file).reasons.iter().any(|reason| reason.contains("quota is full"));
    eventually("the refusal", is_told).await;
    let places: Vec<_> = explained(&cache, &file).parts.iter().map(|part| part.place).collect();
    assert!(places.contains(&Place::Store), "{places:?}");
}
