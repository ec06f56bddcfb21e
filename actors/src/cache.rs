//! The two cache tiers behind every mount that does not lend its own files: pages in memory, and sparse files and
//! packed small objects on a local disk.
//!
//! Invariants:
//! - Content is immutable: pages are keyed by ([`ContentId`], page number), so a new version never meets old pages.
//! - Space is reserved before a fetch or a write starts and the hard caps are enforced inline; the evictors only
//!   keep distance from the caps. Without them, and without room, reads are served uncached.
//! - One fetch for a page at a time, whoever asks (two for the first of several: its first bytes come apart). It runs
//!   in a task of the cache, so no reader can cancel it for the others, and its error reaches all who wait and is not
//!   remembered.
//! - A hit bumps one counter. No map guard is held across an await.
//! - What stays is decided by S3-FIFO, and on the disk by what is wanted of each class first, see `policy.rs`. A disk
//!   with space takes everything; above its low watermark it takes what is wanted a second time while its ghosts
//!   remember it, what is packed or belongs to a file that is there, and what is pinned or a data set. In memory all
//!   classes are alike.
//! - A broken disk loses hits, never reads, and no other disk's hits.
//! - What a mount's fetches in flight hold of the budget and of the places is a share, see `share.rs`.

mod budget;
mod class;
mod disks;
mod evictor;
mod file;
mod filling;
mod flight;
mod memory;
#[cfg(all(test, feature = "shuttle"))]
mod model;
mod nvme;
mod page;
mod passes;
mod placement;
mod policy;
mod rules;
mod shadow;
mod share;
mod source;
mod stream;
mod sync;
mod tally;
mod tasks;
mod trail;

use std::path::Path;
use std::sync::{Arc, Weak};

use async_trait::async_trait;
use bytes::Bytes;
use dashmap::DashMap;
use forebay_core::{ByteRange, Cached, FileId, Key, METRICS, Result, Version};
use prometheus::IntCounter;
use tokio::runtime::Handle;

use self::disks::Disks;
use self::evictor::MemoryEvictor;
use self::flight::Flights;
use self::memory::MemoryTier;
use self::nvme::{CreateFile, NvmeTier};
use self::page::{PageKey, pages, within};
use self::shadow::Shadow;
use self::share::{MountShare, Uncached};
use self::stream::{Outlook, Readings};
use self::tasks::Tasks;
use self::trail::Fetches;
use crate::config::CacheConfig;
use crate::supervisor::Supervisor;

pub use self::class::{Class, DecidedBy, Priority, Treatment};
pub use self::file::CachedFile;
pub use self::page::PAGE_BYTES;
pub use self::rules::{Rule, RuleStatus, Rules, Trust, Trusted};
pub use self::trail::Named;

pub(crate) use self::page::ContentKey;
pub(crate) use self::share::{Held, Pool, Share};

/// Most fetches ahead of their readers at once, over all files of all mounts.
const READ_AHEAD_FETCHES: u64 = 64;

/// Memory for fetches in flight, as a divisor of the memory tier: the rest stays for what is cached.
const FETCHING_DIVISOR: u64 = 2;

/// Pages fetched ahead and not yet read, as a divisor of the memory tier's: more would push each other out.
const OUTLOOK_DIVISOR: u64 = 2;

/// Least memory for fetches in flight, in pages, as far as the tier has it.
const FETCHING_PAGES_MIN: u64 = 16;

/// One immutable content: one version of one file.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ContentId {
    /// Which file.
    pub file_id: FileId,
    /// Which of its versions.
    pub version: Version,
}

/// Where the bytes of one content come from on a miss.
#[async_trait]
pub trait Fetch: Send + Sync {
    /// Exactly the bytes of `range`, which lies inside the content and inside one page, or several of them.
    ///
    /// # Errors
    /// `Stale` when the store no longer has this content; whatever else the store answers. Errors reach every
    /// reader that waits for the page and are not cached.
    async fn fetch(&self, range: ByteRange) -> Result<Bytes>;

    /// How much one request should ask for where more than a page is wanted, in bytes: as many pages go together.
    fn request_bytes(&self) -> u64 {
        PAGE_BYTES
    }
}

/// The cache of one gateway. Clones share it.
#[derive(Clone)]
pub struct Cache(Arc<Tiers>);

/// What all handles share.
struct Tiers {
    memory: Arc<MemoryTier>,
    disks: Disks,
    flights: Arc<Flights>,
    uncached: Uncached,
    /// Memory for fetches in flight, in bytes.
    fetching: Arc<Pool>,
    /// Places for fetches ahead of their readers.
    ahead: Arc<Pool>,
    readings: Readings,
    /// What each mount holds of the pools. Open files and fetches keep it, so that the series of a mount that is
    /// gone are not written any more.
    shares: DashMap<Arc<str>, Weak<MountShare>>,
    shadow: Shadow,
    fetches: Fetches,
    memory_hits: IntCounter,
    nvme_hits: IntCounter,
}

impl Cache {
    /// Opens both tiers; what an earlier run left on disk comes back by and by.
    ///
    /// # Errors
    /// `Busy` when another gateway owns a directory of the disk tier; the disk's error when none can be opened.
    ///
    /// # Panics
    /// Outside a Tokio runtime: fetches and disk writes run on the one it is opened on.
    pub fn open(config: &CacheConfig) -> Result<Self> {
        Self::open_with(config, nvme::create_file)
    }

    fn open_with(config: &CacheConfig, create: CreateFile) -> Result<Self> {
        let tasks = Arc::new(Tasks::new(Handle::current()));
        let memory = Arc::new(MemoryTier::new(config));
        let disks = Disks::open(config, &memory, &tasks, create)?;
        Ok(Self(Arc::new(Tiers {
            memory,
            disks,
            flights: Arc::new(Flights::new(tasks)),
            uncached: Uncached::new(),
            fetching: Pool::new(fetching_bytes(config.memory_bytes)),
            ahead: Pool::new(READ_AHEAD_FETCHES),
            readings: Readings::new(&Outlook::new(config.memory_bytes / PAGE_BYTES / OUTLOOK_DIVISOR)),
            shares: DashMap::new(),
            shadow: Shadow::new(config),
            fetches: Fetches::new(),
            nvme_hits: METRICS.cache_hits.with_label_values(&["nvme"]),
            memory_hits: METRICS.cache_hits.with_label_values(&["memory"]),
        })))
    }

    /// Starts an evictor for memory and each cache directory, and what keeps the indexes of these.
    ///
    /// # Errors
    /// As [`Supervisor::child`].
    pub async fn start_evictors(&self, supervisor: &Supervisor) -> Result<()> {
        let memory = Arc::clone(&self.0.memory);
        supervisor.child("MemoryEvictor", move || (MemoryEvictor, Arc::clone(&memory))).await?;
        self.0.disks.start_actors(supervisor).await
    }

    /// A handle on one content of `size_bytes`, which is treated as its class says; `fetch` fills its misses, which
    /// count for the mount `mount`.
    pub fn file(
        &self,
        mount: &Arc<str>,
        (content, class): (&ContentId, &Arc<Class>),
        size_bytes: u64,
        fetch: Arc<dyn Fetch>,
    ) -> CachedFile {
        let mount = (Arc::clone(mount), self.0.share(mount));
        let content = (ContentKey::of(content), Arc::clone(class));
        CachedFile::new(Arc::clone(&self.0), mount, content, size_bytes, fetch)
    }

    /// What a mount calls a content now.
    pub fn named(&self, mount: &str, key: &Key, content: &ContentId) -> Named {
        Named::new(mount, key, ContentKey::of(content))
    }

    /// A request for `bytes` of a content goes to its store.
    pub fn note_fetch(&self, named: Named, bytes: u64) {
        self.0.fetches.note(named, bytes);
    }

    /// Drops what is cached of a content of `size_bytes`. Readers keep what they hold.
    #[cfg(test)]
    fn forget(&self, content: &ContentId, size_bytes: u64) {
        self.0.forget(ContentKey::of(content), size_bytes);
    }

    /// Drops what is cached of a content of `size_bytes` that no name stands for any more, once nobody has it open.
    pub fn release(&self, content: &ContentId, size_bytes: u64) {
        let content = ContentKey::of(content);
        if self.0.readings.release(content) {
            self.0.forget(content, size_bytes);
        }
    }

    /// How much of a content of `size_bytes` the lowest tier holds.
    pub(crate) fn kept_bytes(&self, content: ContentKey, size_bytes: u64) -> u64 {
        let disk = self.0.disks.of(content);
        self.0.cached_bytes(content, disk, ByteRange::new(0, size_bytes)).kept_bytes
    }

    /// Waits until what an earlier run left is back, as far as its disks answer.
    pub(crate) async fn restored(&self) {
        self.0.disks.restored().await;
    }

    /// Makes the file at `source`, which must hold all of the content and never change again, the cached file of
    /// a content, by rename. `false`, and `source` untouched, when there is no disk tier, no room, or another
    /// file system between them and the content's directory. `false` as well when the disk does not answer; once it
    /// does, `source` is taken if it is still there.
    ///
    /// # Errors
    /// The disk's error, `Incomplete` when `source` has another length; `source` is then untouched or gone.
    pub async fn adopt(
        &self,
        (content, class): (&ContentId, &Arc<Class>),
        source: &Path,
        size_bytes: u64,
    ) -> Result<bool> {
        let key = ContentKey::of(content);
        let Some(nvme) = self.0.disks.of(key) else { return Ok(false) };
        let adopted = nvme.adopt((key, Arc::clone(class)), source.to_owned(), size_bytes).await;
        adopted.map_err(|e| e.at("adopt", source.display()))
    }
}

/// How much of a memory tier fetches in flight may hold.
fn fetching_bytes(memory_bytes: u64) -> u64 {
    (memory_bytes / FETCHING_DIVISOR).max(FETCHING_PAGES_MIN * PAGE_BYTES).min(memory_bytes)
}

impl Tiers {
    fn share(&self, mount: &Arc<str>) -> Arc<MountShare> {
        if let Some(share) = self.shares.get(mount).and_then(|share| share.upgrade()) {
            return share;
        }
        let mut place = self.shares.entry(Arc::clone(mount)).or_default();
        place.upgrade().unwrap_or_else(|| {
            let share = Arc::new(MountShare::new(mount, &self.fetching, &self.ahead));
            *place = Arc::downgrade(&share);
            share
        })
    }

    fn forget(&self, content: ContentKey, size_bytes: u64) {
        self.memory.forget(content, size_bytes);
        self.disks.forget(content);
    }

    /// How much of `range` of a content is at hand; `disk` is the directory it belongs to.
    fn cached_bytes(&self, content: ContentKey, disk: Option<&Arc<NvmeTier>>, range: ByteRange) -> Cached {
        let mut cached = Cached::default();
        if range.is_empty() {
            return cached;
        }
        for number in pages(range) {
            let (key, bytes) = (content.page(number), within(range, number).len);
            let is_in_memory = self.memory.contains(key);
            let is_on_disk = disk.is_some_and(|disk| disk.contains(key));
            cached.memory_bytes += if is_in_memory { bytes } else { 0 };
            cached.disk_bytes += if is_on_disk { bytes } else { 0 };
            cached.bytes += if is_in_memory || is_on_disk { bytes } else { 0 };
        }
        cached.kept_bytes = if self.disks.is_empty() { cached.memory_bytes } else { cached.disk_bytes };
        cached
    }

    /// Whether the page is cached or on its way.
    fn contains(&self, key: PageKey) -> bool {
        self.memory.contains(key) || self.disks.contains(key) || self.flights.contains(key)
    }
}

#[cfg(test)]
mod tests;
