//! What is counted for those who look from outside.

use std::sync::Arc;

use forebay_core::{ByteRange, METRICS};

use super::{Store, content, in_memory, plain, read_all};
use crate::cache::{Cache, CachedFile, Fetch, PAGE_BYTES};

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
    let (store, mount, all) = (Store::open(), "/seen", ByteRange::new(0, SIZE));
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
