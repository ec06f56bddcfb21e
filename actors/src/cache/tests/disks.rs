//! Several cache directories: who has what, and what one of them does to the others.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use forebay_core::{ByteRange, ErrorKind};
use rustix::fs::{CWD, FileType, Mode};
use tempfile::{TempDir, tempdir};

use super::{Store, content, eventually, in_memory, in_time, open, read_all, read_page};
use crate::cache::nvme::NvmeTier;
use crate::cache::{Cache, ContentKey, PAGE_BYTES};
use crate::config::{CacheConfig, CacheDirectory, NvmeConfig};
use crate::supervisor::Supervisor;

const FILES: u64 = 24;

/// A cache in these directories, each of so many pages; small objects are packed.
fn config(root: &TempDir, directories: &[(&str, u64)]) -> CacheConfig {
    let place = |(name, pages): &(&str, u64)| CacheDirectory {
        path: root.path().join(name),
        size_bytes: pages * PAGE_BYTES,
    };
    let directories = directories.iter().map(place).collect();
    let nvme = NvmeConfig { directories, packed_bytes: 64 << 10 };
    let memory = in_memory(1);
    CacheConfig { nvme: Some(nvme), memory_bytes: memory.memory_bytes + (256 << 10), ..memory }
}

/// Opens it once an earlier one let go of its locks, and waits for what comes back.
async fn opened(config: &CacheConfig) -> Cache {
    let mut cache = Cache::open(config).ok();
    while cache.is_none() {
        tokio::task::yield_now().await;
        cache = Cache::open(config).ok();
    }
    let cache = cache.expect("opened");
    let are_back = || cache.0.disks.directories().iter().all(|disk| disk.is_restored());
    eventually("what is left is back", are_back).await;
    cache
}

fn end(cache: Cache) {
    for disk in cache.0.disks.directories() {
        disk.write_log();
    }
    drop(cache);
}

fn disk<'a>(cache: &'a Cache, root: &TempDir, name: &str) -> &'a Arc<NvmeTier> {
    let is_it = |disk: &&Arc<NvmeTier>| disk.root() == root.path().join(name);
    cache.0.disks.directories().iter().find(is_it).expect("configured")
}

/// A page, or a small object.
fn size(number: u64) -> u64 {
    if number.is_multiple_of(2) { PAGE_BYTES } else { 10_000 + number }
}

fn key(number: u64) -> ContentKey {
    ContentKey::of(&content(&format!("file {number}")))
}

async fn read_all_files(cache: &Cache, store: &Arc<Store>) {
    for number in 0..FILES {
        let file = open(cache, &format!("file {number}"), size(number), store);
        read_all(&file, ByteRange::new(0, size(number))).await;
        let is_kept = || cache.0.disks.contains(key(number).page(0)) || is_away(cache, number);
        eventually("it is on its disk", is_kept).await;
    }
}

fn is_away(cache: &Cache, number: u64) -> bool {
    cache.0.disks.of(key(number)).is_some_and(|disk| disk.is_down())
}

fn held(disk: &NvmeTier) -> Vec<u64> {
    (0..FILES).filter(|number| disk.contains(key(*number).page(0))).collect()
}

#[tokio::test]
async fn contents_spread_over_the_directories_and_come_back_from_both() {
    let root = tempdir().expect("temporary directory");
    let (config, store) = (config(&root, &[("a", 64), ("b", 64)]), Store::open());
    let cache = opened(&config).await;
    read_all_files(&cache, &store).await;
    let (in_a, in_b) = (held(disk(&cache, &root, "a")), held(disk(&cache, &root, "b")));
    assert!(in_a.len() > 4 && in_b.len() > 4 && in_a.len() + in_b.len() == FILES as usize);
    end(cache);
    let (cache, store) = (opened(&config).await, Store::open());
    assert_eq!((held(disk(&cache, &root, "a")), held(disk(&cache, &root, "b"))), (in_a, in_b));
    read_all_files(&cache, &store).await;
    assert_eq!(store.fetches(), 0);
}

#[tokio::test]
async fn each_directory_keeps_its_own_cap_and_is_emptied_by_its_own_evictor() {
    let root = tempdir().expect("temporary directory");
    // What waits for the disks must not fill the memory.
    let config = CacheConfig { memory_bytes: 96 * PAGE_BYTES, ..config(&root, &[("a", 32), ("b", 8)]) };
    let cache = opened(&config).await;
    let supervisor = Supervisor::start("test").await.expect("starts");
    cache.start_evictors(&supervisor).await.expect("start");
    let names: Vec<_> = supervisor.children().into_iter().map(|child| child.name).collect();
    for name in ["a", "b"] {
        for actor in ["NvmeEvictor", "IndexLogger"] {
            let actor = format!("{actor}:{}", root.path().join(name).display());
            assert!(names.contains(&actor), "{actor} is not in {names:?}");
        }
    }
    let store = Store::open();
    for number in 0..120 {
        let file = open(&cache, &format!("page {number}"), PAGE_BYTES, &store);
        for _ in 0..2 {
            read_page(&file, 0).await;
            cache.0.memory.forget(ContentKey::of(&content(&format!("page {number}"))), PAGE_BYTES);
        }
        for disk in cache.0.disks.directories() {
            assert!(disk.budget().used() <= disk.budget().capacity());
        }
    }
    for disk in cache.0.disks.directories() {
        eventually("it is below its watermark", || !disk.budget().is_above_high()).await;
        eventually("it is used", || disk.budget().used() > disk.budget().capacity() / 2).await;
    }
}

#[tokio::test]
async fn directory_that_is_added_takes_its_share_and_what_belongs_there_now_is_dropped_elsewhere() {
    let root = tempdir().expect("temporary directory");
    let store = Store::open();
    let cache = opened(&config(&root, &[("a", 64)])).await;
    read_all_files(&cache, &store).await;
    end(cache);
    let (cache, store) = (opened(&config(&root, &[("b", 64), ("a", 64)])).await, Store::open());
    let stayed = held(disk(&cache, &root, "a"));
    assert!(held(disk(&cache, &root, "b")).is_empty());
    assert!((4..FILES as usize - 4).contains(&stayed.len()), "{stayed:?}");
    let files = std::fs::read_dir(root.path().join("a/clean")).expect("list").count();
    assert_eq!(files, stayed.iter().filter(|number| size(**number) == PAGE_BYTES).count());
    read_all_files(&cache, &store).await;
    assert_eq!(store.fetches(), FILES as usize - stayed.len(), "what stayed is not fetched again");
    assert_eq!(held(disk(&cache, &root, "a")), stayed);
    end(cache);
    // And gone again: its own contents are fetched again, the others stay.
    let (cache, store) = (opened(&config(&root, &[("a", 64)])).await, Store::open());
    read_all_files(&cache, &store).await;
    assert_eq!(store.fetches(), FILES as usize - stayed.len());
}

#[tokio::test]
async fn adopted_file_goes_to_its_home() {
    let root = tempdir().expect("temporary directory");
    let cache = opened(&config(&root, &[("a", 64), ("b", 64)])).await;
    for number in (0..FILES).step_by(2) {
        let (staged, name) = (root.path().join("staged"), format!("file {number}"));
        std::fs::write(&staged, super::expected(ByteRange::new(0, PAGE_BYTES))).expect("write");
        let adopted = cache.adopt((&content(&name), &super::plain()), &staged, PAGE_BYTES).await;
        assert!(adopted.expect("adopted"));
        assert!(open(&cache, &name, PAGE_BYTES, &Store::open()).lend().is_some());
    }
    assert!(!held(disk(&cache, &root, "a")).is_empty() && !held(disk(&cache, &root, "b")).is_empty());
}

/// A directory that cannot be made, for root neither.
fn block(path: &Path) {
    std::fs::write(path, b"a file").expect("write");
}

#[tokio::test(start_paused = true)]
async fn directory_that_cannot_be_opened_is_taken_in_when_it_can() {
    let root = tempdir().expect("temporary directory");
    let (config, store) = (config(&root, &[("a", 64), ("b", 64)]), Store::open());
    let cache = opened(&config).await;
    read_all_files(&cache, &store).await;
    let in_b = held(disk(&cache, &root, "b"));
    end(cache);
    let (b, away) = (root.path().join("b"), root.path().join("away"));
    while Cache::open(&config).is_err() {
        tokio::task::yield_now().await;
    }
    std::fs::rename(&b, &away).expect("taken away");
    block(&b);

    let (cache, store) = (Cache::open(&config).expect("starts with the other one"), Store::open());
    let (disk_a, disk_b) = (disk(&cache, &root, "a"), disk(&cache, &root, "b"));
    assert!(disk_b.is_down() && !disk_a.is_down());
    eventually("the other one is back", || disk_a.is_restored()).await;
    read_all_files(&cache, &store).await;
    assert_eq!(store.fetches(), in_b.len(), "what is away comes from the store");
    assert!(held(disk_b).is_empty());

    std::fs::remove_file(&b).and_then(|()| std::fs::rename(&away, &b)).expect("brought back");
    in_time("it is taken in", || disk_b.is_restored() && !disk_b.is_down()).await;
    assert_eq!(held(disk_b), in_b, "what lay there is found again");
    let fetches = store.fetches();
    read_all_files(&cache, &store).await;
    assert_eq!(store.fetches(), fetches);
}

#[tokio::test]
async fn directory_whose_disk_hangs_at_start_is_down_until_it_answers() {
    let root = tempdir().expect("temporary directory");
    let lock = root.path().join("a/lock");
    std::fs::create_dir(root.path().join("a")).expect("made");
    // Who opens a pipe to write waits for its reader.
    rustix::fs::mknodat(CWD, &lock, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).expect("a pipe");
    let cache = Cache::open(&config(&root, &[("a", 64)])).expect("starts without");
    let (disk, store) = (disk(&cache, &root, "a"), Store::open());
    assert!(disk.is_down() && !disk.is_restored());
    read_page(&open(&cache, "early", PAGE_BYTES, &store), 0).await;
    let _reader = File::open(lock).expect("opens");
    in_time("it is taken in", || disk.is_restored() && !disk.is_down()).await;
    read_all_files(&cache, &store).await;
    assert_eq!(held(disk).len(), FILES as usize);
}

#[tokio::test]
async fn without_any_directory_the_cache_does_not_open_nor_with_one_of_another_gateway() {
    let root = tempdir().expect("temporary directory");
    for name in ["a", "b"] {
        block(&root.path().join(name));
    }
    let refused = Cache::open(&config(&root, &[("a", 64), ("b", 64)])).err().expect("no directory");
    assert!(refused.to_string().contains(&root.path().join("a").display().to_string()), "{refused}");
    let first = opened(&config(&root, &[("c", 64)])).await;
    let refused = Cache::open(&config(&root, &[("d", 64), ("c", 64)])).err().expect("locked");
    assert_eq!(refused.kind(), ErrorKind::Busy);
    drop(first);
}
