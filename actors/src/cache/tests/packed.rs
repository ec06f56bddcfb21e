//! Small objects in segments.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use forebay_core::ByteRange;
use tempfile::{TempDir, tempdir};

use super::disk::files;
use super::restart::end;
use super::{Store, content, eventually, on_disk, open, read_all, tier};
use crate::cache::{Cache, ContentKey};
use crate::config::CacheConfig;
use crate::supervisor::Supervisor;

const OBJECT: u64 = 16 << 10;

fn config(directory: &TempDir, disk_pages: u64) -> CacheConfig {
    let mut config = on_disk(directory, 1, disk_pages);
    // Room for the index beside one page.
    config.memory_bytes += 256 << 10;
    if let Some(nvme) = &mut config.nvme {
        nvme.packed_bytes = 64 << 10;
    }
    config
}

async fn opened(directory: &TempDir, disk_pages: u64) -> Cache {
    let mut cache = Cache::open(&config(directory, disk_pages)).ok();
    while cache.is_none() {
        tokio::task::yield_now().await;
        cache = Cache::open(&config(directory, disk_pages)).ok();
    }
    let cache = cache.expect("opened");
    eventually("what is left is back", || tier(&cache).is_restored()).await;
    cache
}

fn is_cached(cache: &Cache, name: &str) -> bool {
    tier(cache).contains(ContentKey::of(&content(name)).page(0))
}

/// Caches an object and waits until it is in a segment.
async fn pack(cache: &Cache, name: &str, store: &Arc<Store>) {
    read_object(cache, name, store).await;
    eventually("it is packed", || is_cached(cache, name)).await;
}

async fn read_object(cache: &Cache, name: &str, store: &Arc<Store>) {
    read_all(&open(cache, name, OBJECT, store), ByteRange::new(0, OBJECT)).await;
}

fn segments(directory: &TempDir) -> Vec<PathBuf> {
    let listed = std::fs::read_dir(directory.path().join("cache/segments")).expect("list");
    listed.map(|entry| entry.expect("entry").path()).collect()
}

/// Drops what memory holds of some objects.
fn forget_in_memory(cache: &Cache, names: &[String]) {
    for name in names {
        cache.0.memory.forget(ContentKey::of(&content(name)), OBJECT);
    }
}

fn names(count: usize) -> Vec<String> {
    (0..count).map(|number| format!("object {number}")).collect()
}

#[tokio::test]
async fn small_objects_share_a_segment_and_are_read_from_it_before_and_after_a_restart() {
    let directory = tempdir().expect("temporary directory");
    let (mut cache, store) = (opened(&directory, 16).await, Store::open());
    for name in names(12) {
        pack(&cache, &name, &store).await;
    }
    assert_eq!((files(&directory), segments(&directory).len()), (0, 1));
    let (used, written) = (tier(&cache).budget().used(), 12 * (OBJECT + 32));
    assert!(
        (written + (128 << 10)..written + (144 << 10)).contains(&used),
        "blocks, and half a segment aside"
    );
    for _ in 0..2 {
        forget_in_memory(&cache, &names(12));
        for name in names(12) {
            read_object(&cache, &name, &store).await;
            assert!(open(&cache, &name, OBJECT, &store).lend().is_none());
        }
        end(cache);
        cache = opened(&directory, 16).await;
    }
    assert_eq!(store.fetches(), 12);
    pack(&cache, "new", &store).await;
    assert_eq!(segments(&directory).len(), 2, "an earlier run's segment is not appended to");
}

#[tokio::test]
async fn forgotten_object_is_fetched_again_and_stays_forgotten() {
    let directory = tempdir().expect("temporary directory");
    let (cache, store) = (opened(&directory, 16).await, Store::open());
    for name in ["a", "b"] {
        pack(&cache, name, &store).await;
    }
    tier(&cache).write_log();
    cache.forget(&content("a"), OBJECT);
    assert!(!is_cached(&cache, "a") && is_cached(&cache, "b"));
    end(cache);
    let cache = opened(&directory, 16).await;
    assert!(!is_cached(&cache, "a") && is_cached(&cache, "b"));
}

#[tokio::test]
async fn damaged_object_is_fetched_again_and_the_others_stay() {
    let directory = tempdir().expect("temporary directory");
    for is_cut in [false, true] {
        let (cache, store) = (opened(&directory, 16).await, Store::open());
        for name in names(3) {
            pack(&cache, &name, &store).await;
        }
        end(cache);
        let newest = segments(&directory).into_iter().max().expect("a segment");
        let segment = File::options().write(true).open(newest).expect("open");
        if is_cut {
            segment.set_len(3 * OBJECT).expect("cut");
        } else {
            segment.write_all_at(b"damage", 2 * OBJECT + 1000).expect("write");
        }
        let (cache, store) = (opened(&directory, 16).await, Store::open());
        for name in names(3) {
            read_object(&cache, &name, &store).await;
        }
        assert_eq!(store.fetches(), 1, "cut {is_cut}");
        for name in names(3) {
            eventually("what was fetched again is packed", || is_cached(&cache, &name)).await;
        }
        for name in names(3) {
            cache.forget(&content(&name), OBJECT);
        }
        end(cache);
    }
}

#[tokio::test]
async fn what_no_record_names_is_removed() {
    let directory = tempdir().expect("temporary directory");
    let (cache, store) = (opened(&directory, 16).await, Store::open());
    tier(&cache).write_log();
    pack(&cache, "not logged", &store).await;
    drop(cache);
    std::fs::write(directory.path().join("cache/segments/foreign"), b"?").expect("write");
    let cache = opened(&directory, 16).await;
    assert!(segments(&directory).is_empty());
    assert_eq!(tier(&cache).budget().used(), 0);
}

#[tokio::test]
async fn segments_go_when_nothing_is_packed_any_more() {
    let directory = tempdir().expect("temporary directory");
    let (cache, store) = (opened(&directory, 16).await, Store::open());
    pack(&cache, "a", &store).await;
    end(cache);
    let cache = super::restart::reopened(&directory, 16).await;
    assert!(segments(&directory).is_empty() && !is_cached(&cache, "a"));
    assert_eq!(tier(&cache).budget().used(), 0);
}

#[tokio::test]
async fn cap_holds_used_objects_stay_and_no_more_than_twice_what_is_new_is_written() {
    let directory = tempdir().expect("temporary directory");
    let (cache, store) = (opened(&directory, 8).await, Store::open());
    let supervisor = Supervisor::start("test").await.expect("starts");
    cache.start_evictors(&supervisor).await.expect("start");
    let carried = || forebay_core::METRICS.cache_packed_bytes.with_label_values(&["carried"]).get();
    let before = carried();
    let count = 3 * (8 << 20) / OBJECT as usize;
    for (number, name) in names(count).iter().enumerate() {
        // Twice, because a full tier admits what is wanted again.
        read_object(&cache, name, &store).await;
        forget_in_memory(&cache, std::slice::from_ref(name));
        read_object(&cache, name, &store).await;
        if number % 8 == 0 {
            forget_in_memory(&cache, &["object 0".to_owned()]);
            read_object(&cache, "object 0", &store).await;
        }
        assert!(tier(&cache).budget().used() <= 8 << 20);
    }
    let carried = carried() - before;
    assert!(is_cached(&cache, "object 0"), "{carried} bytes carried forward");
    assert!(!is_cached(&cache, "object 1"));
    assert!((OBJECT..count as u64 * OBJECT).contains(&carried), "{carried} bytes carried forward");
    supervisor.stop(Duration::from_secs(5)).await;
}

#[tokio::test]
async fn files_and_segments_make_room_for_each_other() {
    let directory = tempdir().expect("temporary directory");
    let (cache, store) = (opened(&directory, 8).await, Store::open());
    let large = |number: usize| (format!("large {number}"), 1_u64 << 20);
    for round in 0..3 {
        for number in 0..8 {
            let (name, size) = large(100 * round + number);
            read_all(&open(&cache, &name, size, &store), ByteRange::new(0, size)).await;
            read_all(&open(&cache, &name, size, &store), ByteRange::new(0, size)).await;
        }
        let small: Vec<_> = (0..80).map(|number| format!("small {round} {number}")).collect();
        for name in &small {
            read_object(&cache, name, &store).await;
            forget_in_memory(&cache, &small);
            read_object(&cache, name, &store).await;
        }
        assert!(tier(&cache).budget().used() <= 8 << 20);
    }
    eventually("both forms are there", || files(&directory) > 0 && !segments(&directory).is_empty()).await;
}

#[tokio::test]
async fn any_byte_of_a_segment_may_be_cut_off_or_changed() {
    const SIZE: u64 = 10;
    let (directory, all) = (tempdir().expect("temporary directory"), ByteRange::new(0, SIZE));
    for at in 0..3 * (32 + SIZE) {
        for is_cut in [false, true] {
            let (cache, store) = (opened(&directory, 16).await, Store::open());
            for name in names(3) {
                cache.forget(&content(&name), SIZE);
                read_all(&open(&cache, &name, SIZE, &store), all).await;
                eventually("it is packed", || is_cached(&cache, &name)).await;
            }
            end(cache);
            let number = |path: &PathBuf| u32::from_str_radix(path.file_name()?.to_str()?, 16).ok();
            let newest = segments(&directory).into_iter().max_by_key(number).expect("a segment");
            let segment = File::options().read(true).write(true).open(newest).expect("open");
            if is_cut {
                segment.set_len(at).expect("cut");
            } else {
                let mut byte = [0];
                segment.read_exact_at(&mut byte, at).expect("read");
                segment.write_all_at(&[byte[0] ^ 0x40], at).expect("write");
            }
            let (cache, store) = (opened(&directory, 16).await, Store::open());
            for name in names(3) {
                read_all(&open(&cache, &name, SIZE, &store), all).await;
            }
            let lost = if is_cut { 3 - at / (32 + SIZE) } else { 1 };
            assert_eq!(store.fetches() as u64, lost, "byte {at}, cut {is_cut}");
            eventually("nothing waits for the disk", || tier(&cache).is_settled()).await;
            end(cache);
        }
    }
}
