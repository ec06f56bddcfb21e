//! Misses: single flight, errors, read-ahead, ranges.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use bytes::Bytes;
use forebay_core::{ByteRange, ErrorKind, Result};
use futures::future::join_all;
use tokio::sync::Semaphore;

use super::{HEAD, Store, bytes_of, content, eventually, expected, in_memory, open, read_all, read_page};
use crate::cache::page::HEAD_BYTES;
use crate::cache::{Cache, Fetch, PAGE_BYTES};

#[tokio::test]
async fn hundred_readers_of_a_cold_page_make_one_fetch_though_the_first_leaves() {
    let cache = Cache::open(&in_memory(4)).expect("opens");
    let store = Store::closed();
    let file = Arc::new(open(&cache, "a", PAGE_BYTES, &store));
    let reader = || {
        let file = Arc::clone(&file);
        tokio::spawn(async move { read_page(&file, 0).await })
    };
    let first = reader();
    eventually("the fetch starts", || store.fetches() == 1).await;
    let others: Vec<_> = (0..99).map(|_| reader()).collect();
    tokio::task::yield_now().await;
    first.abort();
    assert!(first.await.expect_err("aborted").is_cancelled());
    store.gate.add_permits(1);
    for other in join_all(others).await {
        other.expect("served");
    }
    assert_eq!(store.fetches(), 1);
    assert!(file.try_read(ByteRange::new(0, PAGE_BYTES)).is_some());
}

#[tokio::test]
async fn fetch_goes_on_when_all_readers_leave() {
    let cache = Cache::open(&in_memory(4)).expect("opens");
    let store = Store::closed();
    let file = Arc::new(open(&cache, "a", 10, &store));
    let only = tokio::spawn({
        let file = Arc::clone(&file);
        async move { file.read(ByteRange::new(0, 10)).await.map(|_| ()) }
    });
    eventually("the fetch starts", || store.fetches() == 1).await;
    only.abort();
    store.gate.add_permits(1);
    eventually("the page is kept", || file.try_read(ByteRange::new(0, 10)).is_some()).await;
    assert_eq!(store.fetches(), 1);
}

#[tokio::test]
async fn error_reaches_all_waiters_and_is_not_remembered() {
    let cache = Cache::open(&in_memory(4)).expect("opens");
    let store = Store::closed();
    store.is_failing.store(true, Ordering::SeqCst);
    let file = open(&cache, "a", PAGE_BYTES, &store);
    let range = ByteRange::new(0, PAGE_BYTES);
    let (answers, ()) = tokio::join!(join_all((0..10).map(|_| file.read(range))), async {
        eventually("the fetch starts", || store.fetches() == 1).await;
        store.gate.add_permits(1);
    });
    for answer in answers {
        assert_eq!(answer.err().expect("failed").kind(), ErrorKind::Unavailable);
    }
    assert_eq!(store.fetches(), 1);
    store.is_failing.store(false, Ordering::SeqCst);
    store.gate.add_permits(1);
    read_page(&file, 0).await;
    assert_eq!(store.fetches(), 2);
    assert_eq!(cache.0.memory.budget().used() / PAGE_BYTES, 1, "the failed fetch gave its bytes back");
}

#[tokio::test]
async fn panic_in_a_fetch_is_an_internal_error_for_all_and_frees_the_page() {
    let cache = Cache::open(&in_memory(4)).expect("opens");
    let store = Store::open();
    store.is_panicking.store(true, Ordering::SeqCst);
    let file = open(&cache, "a", PAGE_BYTES, &store);
    for answer in join_all((0..10).map(|_| file.read(ByteRange::new(0, 1)))).await {
        assert_eq!(answer.err().expect("failed").kind(), ErrorKind::Internal);
    }
    assert_eq!(cache.0.memory.budget().used(), 0);
    store.is_panicking.store(false, Ordering::SeqCst);
    read_page(&file, 0).await;
}

#[tokio::test]
async fn ranges_span_pages_and_end_with_the_content() {
    let cache = Cache::open(&in_memory(8)).expect("opens");
    let store = Store::open();
    let size = 2 * PAGE_BYTES + 7;
    let file = open(&cache, "a", size, &store);
    let all = ByteRange::new(0, size);
    assert!(file.try_read(all).is_none());
    read_all(&file, all).await;
    let content = file.try_read(all).expect("all pages are in memory");
    assert_eq!(content.extents().len(), 3);
    assert!(bytes_of(&content) == expected(all));
    let across = ByteRange::new(PAGE_BYTES - 3, PAGE_BYTES + 6);
    assert!(bytes_of(&file.try_read(across).expect("in memory")) == expected(across));
    let tail = file.try_read(ByteRange::new(size - 2, 100)).expect("cut at the end");
    assert!(bytes_of(&tail) == expected(ByteRange::new(size - 2, 2)));
    assert_eq!(store.fetches(), 3 + HEAD);
}

#[tokio::test]
async fn empty_reads_fetch_nothing() {
    let cache = Cache::open(&in_memory(8)).expect("opens");
    let store = Store::open();
    let empty = open(&cache, "empty", 0, &store);
    assert!(empty.read(ByteRange::new(0, 10)).await.expect("served").is_empty());
    assert!(empty.lend().is_none());
    let file = open(&cache, "a", 10, &store);
    assert!(file.try_read(ByteRange::new(5, 0)).expect("nothing to wait for").is_empty());
    assert!(file.read(ByteRange::new(10, 10)).await.expect("served").is_empty());
    assert_eq!(store.fetches(), 0);
}

#[tokio::test]
async fn store_that_returns_too_little_is_an_error() {
    struct Short;
    #[async_trait::async_trait]
    impl crate::cache::Fetch for Short {
        async fn fetch(&self, range: ByteRange) -> forebay_core::Result<bytes::Bytes> {
            Ok(expected(ByteRange::new(range.offset, range.len - 1)))
        }
    }
    let cache = Cache::open(&in_memory(2)).expect("opens");
    let file = cache.file(&Arc::from("/test"), (&super::content("a"), &super::plain()), 10, Arc::new(Short));
    let error = file.read(ByteRange::new(0, 10)).await.err().expect("refused");
    assert_eq!(error.kind(), ErrorKind::Internal);
}

#[tokio::test]
async fn only_readers_of_pages_in_a_row_are_read_ahead_for() {
    let cache = Cache::open(&in_memory(16)).expect("opens");
    let store = Store::open();
    let random = open(&cache, "random", 16 * PAGE_BYTES, &store);
    for number in [0, 7, 3, 9] {
        random.read(ByteRange::new(number * PAGE_BYTES, 10)).await.expect("served");
    }
    assert_eq!(store.fetches(), 4 + HEAD);
    let sequential = open(&cache, "sequential", 16 * PAGE_BYTES, &store);
    sequential.read(ByteRange::new(0, 10)).await.expect("served");
    assert_eq!(store.fetches(), 5 + 2 * HEAD);
    sequential.read(ByteRange::new(PAGE_BYTES, 10)).await.expect("served");
    eventually("four pages come ahead", || {
        sequential.try_read(ByteRange::new(2 * PAGE_BYTES, 4 * PAGE_BYTES)).is_some()
    })
    .await;
}

#[tokio::test]
async fn expected_range_is_fetched_ahead_from_its_first_read() {
    let cache = Cache::open(&in_memory(64)).expect("opens");
    let store = Store::closed();
    let file = open(&cache, "a", 32 * PAGE_BYTES, &store);
    file.expect(ByteRange::new(4 * PAGE_BYTES, 6 * PAGE_BYTES));
    assert_eq!(store.fetches(), 0);
    let ((), ()) = tokio::join!(read_page(&file, 4), async {
        eventually("all of it is asked for", || store.fetches() == 6).await;
        store.gate.add_permits(6);
    });
    read_all(&file, ByteRange::new(4 * PAGE_BYTES, 6 * PAGE_BYTES)).await;
    assert_eq!(store.fetches(), 6, "and no more");
}

#[tokio::test]
async fn first_bytes_of_a_long_content_wait_for_no_page() {
    let cache = Cache::open(&in_memory(8)).expect("opens");
    let store = Store::closed();
    let file = open(&cache, "a", 2 * PAGE_BYTES, &store);
    let range = ByteRange::new(0, PAGE_BYTES);
    let (first, ()) = tokio::join!(file.read(range), async {
        eventually("head and page are asked for", || store.fetches() == 1 + HEAD).await;
        // The head is asked for first, and the gate is fair.
        store.gate.add_permits(1);
    });
    let first = bytes_of(&first.expect("served"));
    assert!(first == expected(ByteRange::new(0, HEAD_BYTES)));
    assert!(file.try_read(range).is_none(), "the page is still on its way");
    store.gate.add_permits(1);
    read_page(&file, 0).await;
    assert_eq!(store.fetches(), 1 + HEAD);
}

#[tokio::test]
async fn window_of_a_long_content_waits_for_its_first_bytes() {
    let cache = Cache::open(&in_memory(64)).expect("opens");
    let store = Store::closed();
    let file = open(&cache, "a", 32 * PAGE_BYTES, &store);
    file.expect(ByteRange::new(0, 32 * PAGE_BYTES));
    let (first, ()) = tokio::join!(file.read(ByteRange::new(0, PAGE_BYTES)), async {
        eventually("head and page are asked for", || store.fetches() == 1 + HEAD).await;
        tokio::task::yield_now().await;
        assert_eq!(store.fetches(), 1 + HEAD);
        store.gate.add_permits(1);
    });
    assert_eq!(first.expect("served").len(), HEAD_BYTES);
    eventually("the window is asked for", || store.fetches() == 1 + HEAD + 8).await;
    store.gate.add_permits(Semaphore::MAX_PERMITS / 2);
}

#[tokio::test]
async fn hung_store_holds_a_share_of_memory_and_places_and_others_go_on() {
    const PAGES: u64 = 200;
    let cache = Cache::open(&in_memory(64)).expect("opens");
    let (hung, well) = (Store::closed(), Store::open());
    let mount: Arc<str> = Arc::from("/hung");
    let fetch = Arc::clone(&hung) as Arc<dyn crate::cache::Fetch>;
    let stuck =
        Arc::new(cache.file(&mount, (&super::content("stuck"), &super::plain()), PAGES * PAGE_BYTES, fetch));
    let readers: Vec<_> = (0..PAGES)
        .map(|number| {
            let stuck = Arc::clone(&stuck);
            tokio::spawn(async move { read_page(&stuck, number).await })
        })
        .collect();
    eventually("all it may send is sent", || hung.fetches() >= 16 + 5).await;
    tokio::task::yield_now().await;
    let used = cache.0.memory.budget().used();
    assert!(used <= 17 * PAGE_BYTES, "half of half of the tier: {used}");
    let file = open(&cache, "well", 40 * PAGE_BYTES, &well);
    read_all(&file, ByteRange::new(0, 40 * PAGE_BYTES)).await;
    assert!(file.try_read(ByteRange::new(0, 40 * PAGE_BYTES)).is_some(), "all of it was cached");
    hung.gate.add_permits(Semaphore::MAX_PERMITS / 2);
    for reader in join_all(readers).await {
        reader.expect("served in the end");
    }
    let gauge = forebay_core::METRICS.cache_fetching_bytes.with_label_values(&["/hung"]);
    eventually("all is given back", || gauge.get() == 0).await;
}

#[tokio::test]
async fn long_range_is_fetched_concurrently_and_not_past_its_end() {
    let cache = Cache::open(&in_memory(16)).expect("opens");
    let store = Store::closed();
    let file = open(&cache, "a", 8 * PAGE_BYTES, &store);
    let ((), ()) = tokio::join!(read_all(&file, ByteRange::new(0, 2 * PAGE_BYTES)), async {
        eventually("both pages are asked for", || store.fetches() == 2 + HEAD).await;
        store.gate.add_permits(2 + HEAD);
        store.gate.add_permits(Semaphore::MAX_PERMITS / 2);
    });
}

#[tokio::test]
async fn forgotten_content_is_fetched_again() {
    let cache = Cache::open(&in_memory(8)).expect("opens");
    let store = Store::open();
    let (kept, gone) = (open(&cache, "kept", 10, &store), open(&cache, "gone", 10, &store));
    let range = ByteRange::new(0, 10);
    read_all(&kept, range).await;
    read_all(&gone, range).await;
    cache.forget(&super::content("gone"), 10);
    assert!(gone.try_read(range).is_none());
    assert!(kept.try_read(range).is_some());
    cache.forget(&super::content("kept"), u64::MAX);
    assert!(kept.try_read(range).is_none());
    assert_eq!(cache.0.memory.budget().used(), 0);
}

/// A store whose requests cost more than their bytes; keeps the ranges it was asked for.
#[derive(Default)]
struct Slow(Mutex<Vec<ByteRange>>);

#[async_trait]
impl Fetch for Slow {
    fn request_bytes(&self) -> u64 {
        8 * PAGE_BYTES
    }

    async fn fetch(&self, range: ByteRange) -> Result<Bytes> {
        self.0.lock().expect("no panic").push(range);
        tokio::task::yield_now().await;
        Ok(expected(range))
    }
}

#[tokio::test]
async fn pages_come_together_where_the_store_prefers_long_requests() {
    let cache = Cache::open(&in_memory(256)).expect("opens");
    let (slow, size_bytes) = (Arc::new(Slow::default()), 100 * PAGE_BYTES + 5);
    let fetch = Arc::clone(&slow) as Arc<dyn Fetch>;
    let file = cache.file(&Arc::from("/slow"), (&content("long"), &super::plain()), size_bytes, fetch);
    read_all(&file, ByteRange::new(0, size_bytes)).await;
    let mut asked = slow.0.lock().expect("no panic").clone();
    asked.sort_by_key(|range| range.offset);
    assert!(asked.windows(2).all(|pair| pair[0].end() == pair[1].offset), "each byte once: {asked:?}");
    assert_eq!(asked.last().map(|range| range.end()), Some(size_bytes));
    assert!(asked.len() < 30, "{} requests for 101 pages", asked.len());
}
