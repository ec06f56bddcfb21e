//! Content that is brought into the cache before anybody reads it.

use futures::FutureExt;

use super::*;

const WHOLE: ByteRange = ByteRange { offset: 0, len: 5 * PAGE_BYTES / 2 };

#[tokio::test]
async fn what_is_filled_is_on_the_disk_when_the_fill_returns_and_is_not_fetched_again() {
    let directory = tempfile::tempdir().expect("a directory");
    let cache = Cache::open(&on_disk(&directory, 2, 100)).expect("opens");
    let store = Store::open();
    let file = open(&cache, "filled", WHOLE.len, &store);
    assert_eq!(file.cached_bytes(WHOLE), forebay_core::Cached::default());
    assert_eq!(file.fill(WHOLE).await.expect("fills"), WHOLE.len);
    assert_eq!((file.cached_bytes(WHOLE).disk_bytes, file.cached_bytes(WHOLE).bytes), (WHOLE.len, WHOLE.len));
    let fetches = store.fetches();
    read_all(&file, WHOLE).await;
    assert_eq!(file.fill(WHOLE).await.expect("is there"), 0);
    assert_eq!(store.fetches(), fetches);
}

#[tokio::test]
async fn without_a_disk_memory_is_filled() {
    let cache = Cache::open(&in_memory(4)).expect("opens");
    let file = open(&cache, "filled", WHOLE.len, &Store::open());
    assert_eq!(file.fill(WHOLE).await.expect("fills"), WHOLE.len);
    assert_eq!((file.cached_bytes(WHOLE).memory_bytes, file.cached_bytes(WHOLE).disk_bytes), (WHOLE.len, 0));
}

#[tokio::test]
async fn what_the_cache_has_no_room_for_is_not_shown_as_cached() {
    let directory = tempfile::tempdir().expect("a directory");
    let cache = Cache::open(&on_disk(&directory, 1, 1)).expect("opens");
    let file = open(&cache, "large", WHOLE.len, &Store::open());
    file.fill(WHOLE).await.expect("fills what fits");
    assert_eq!(file.cached_bytes(WHOLE).disk_bytes, PAGE_BYTES);
}

#[tokio::test]
async fn errors_of_the_store_reach_the_filler() {
    let cache = Cache::open(&in_memory(4)).expect("opens");
    let store = Store::open();
    store.is_failing.store(true, Ordering::SeqCst);
    let file = open(&cache, "failing", WHOLE.len, &store);
    assert_eq!(file.fill(WHOLE).await.map_err(|e| e.kind()), Err(ErrorKind::Unavailable));
}

#[tokio::test]
async fn a_filler_waits_behind_readers() {
    let cache = Cache::open(&in_memory(64)).expect("opens");
    let store = Store::closed();
    let reader = open(&cache, "read", PAGE_BYTES, &store);
    let mut read = Box::pin(reader.read(ByteRange::new(0, 1)));
    assert!(read.as_mut().now_or_never().is_none());
    let files: Vec<_> = (0..8).map(|i| open(&cache, &format!("filled {i}"), PAGE_BYTES, &store)).collect();
    let work = files.iter().map(|file| file.fill(ByteRange::new(0, PAGE_BYTES)));
    let mut filled = Box::pin(futures::future::join_all(work));
    assert!(filled.as_mut().now_or_never().is_none());
    eventually("the reader's fetch and two more", || store.fetches() == 3).await;
    store.gate.add_permits(100);
    read.await.expect("reads");
    assert!(filled.await.iter().all(Result::is_ok));
}
