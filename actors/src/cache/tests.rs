//! The cache as its users see it; each file is one subject.

mod class;
mod disk;
mod disks;
mod evict;
mod faults;
mod fetch;
mod fill;
mod found;
mod packed;
mod packed_class;
mod restart;
mod seen;

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use forebay_core::{ByteRange, Content, Error, ErrorKind, FileId, Result, Version};
use tempfile::TempDir;
use tokio::sync::Semaphore;

use super::nvme::NvmeTier;
use super::{Cache, CachedFile, Class, ContentId, Fetch, PAGE_BYTES, Treatment};
use crate::config::{CacheConfig, NvmeConfig};

/// What the first page of several costs beside its own fetch: the one of its head.
const HEAD: usize = 1;

/// What the tests fetch from.
struct Store {
    fetches: AtomicUsize,
    is_failing: AtomicBool,
    is_panicking: AtomicBool,
    /// One permit for each fetch that may return.
    gate: Semaphore,
}

impl Store {
    fn open() -> Arc<Self> {
        Self::with_permits(Semaphore::MAX_PERMITS)
    }

    fn closed() -> Arc<Self> {
        Self::with_permits(0)
    }

    fn with_permits(permits: usize) -> Arc<Self> {
        Arc::new(Self {
            fetches: AtomicUsize::new(0),
            is_failing: AtomicBool::new(false),
            is_panicking: AtomicBool::new(false),
            gate: Semaphore::new(permits),
        })
    }

    fn fetches(&self) -> usize {
        self.fetches.load(Ordering::SeqCst)
    }
}

#[async_trait]
impl Fetch for Store {
    async fn fetch(&self, range: ByteRange) -> Result<Bytes> {
        self.fetches.fetch_add(1, Ordering::SeqCst);
        self.gate.acquire().await.expect("never closed").forget();
        assert!(!self.is_panicking.load(Ordering::SeqCst), "panicked on purpose");
        if self.is_failing.load(Ordering::SeqCst) {
            return Err(Error::new(ErrorKind::Unavailable, "the store is away"));
        }
        Ok(expected(range))
    }
}

/// Byte `i` is `i` modulo a prime, so that no two pages and no two blocks are equal.
fn expected(range: ByteRange) -> Bytes {
    const PERIOD: u64 = 251;
    static PATTERN: LazyLock<Bytes> =
        LazyLock::new(|| (0..PERIOD as u8).collect::<Vec<_>>().repeat(32 << 12).into());
    let start = (range.offset % PERIOD) as usize;
    PATTERN.slice(start..start + range.len as usize)
}

fn content(name: &str) -> ContentId {
    ContentId { file_id: FileId::of(&[name.as_bytes()]), version: Version::Strong("1".into()) }
}

/// The class of what the tests do not treat specially.
fn plain() -> Arc<Class> {
    static PLAIN: LazyLock<Arc<Class>> = LazyLock::new(|| Class::new("/test", Treatment::default()));
    Arc::clone(&PLAIN)
}

fn in_memory(pages: u64) -> CacheConfig {
    // A little more, for what pages and files on disk cost beside their bytes.
    let memory_bytes = pages * PAGE_BYTES + 32 * 1024;
    CacheConfig { memory_bytes, nvme: None, high_percent: 95, low_percent: 80 }
}

fn on_disk(directory: &TempDir, memory_pages: u64, disk_pages: u64) -> CacheConfig {
    let nvme = NvmeConfig::in_one(directory.path().join("cache"), disk_pages * PAGE_BYTES, 0);
    CacheConfig { nvme: Some(nvme), ..in_memory(memory_pages) }
}

/// The first directory of the disk tier.
fn tier(cache: &Cache) -> &Arc<NvmeTier> {
    cache.0.disks.directories().first().expect("configured")
}

fn open(cache: &Cache, name: &str, size_bytes: u64, store: &Arc<Store>) -> CachedFile {
    cache.file(
        &Arc::from("/test"),
        (&content(name), &plain()),
        size_bytes,
        Arc::clone(store) as Arc<dyn Fetch>,
    )
}

fn bytes_of(content: &Content) -> Vec<u8> {
    content.read().expect("readable").concat()
}

/// Reads all of `range` piece by piece and checks each byte.
async fn read_all(file: &CachedFile, range: ByteRange) {
    let mut at = range.offset;
    while at < range.end() {
        let piece = file.read(ByteRange::new(at, range.end() - at)).await.expect("served");
        assert!(!piece.is_empty());
        assert!(bytes_of(&piece) == expected(ByteRange::new(at, piece.len())), "wrong bytes at {at}");
        at += piece.len();
    }
}

async fn read_page(file: &CachedFile, number: u64) {
    read_all(file, ByteRange::new(number * PAGE_BYTES, PAGE_BYTES)).await;
}

/// The same under paused time, which goes on while the others wait.
async fn in_time(what: &str, condition: impl Fn() -> bool) {
    let deadline = std::time::Instant::now() + Duration::from_secs(20);
    while !condition() {
        assert!(std::time::Instant::now() < deadline, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Waits for a condition that other tasks bring about.
async fn eventually(what: &str, condition: impl Fn() -> bool) {
    let holds = async {
        while !condition() {
            tokio::task::yield_now().await;
        }
    };
    let deadline = Duration::from_secs(20);
    assert!(tokio::time::timeout(deadline, holds).await.is_ok(), "not within {deadline:?}: {what}");
}
