//! The disk tier: one sparse file per content with a bitmap of its pages, evicted whole by unlink, kept by S3-FIFO and
//! by what is wanted of their classes.
//!
//! Invariants:
//! - Blocks are reserved before they are written and come back when the last reader of a file lets go of it, so
//!   evicted files that are still read count against the cap.
//! - A file that is lent whole is complete, and all of it was read back and matched the checksums taken of the
//!   bytes that came from the store. It is not evicted while it is lent.
//! - A file that fails a read or a write is dropped, and its content comes from the store again.
//! - Nothing is punched or truncated.

mod directory;
mod health;
mod room;
mod sparse;
mod writer;

use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::{Arc, Mutex, Weak};

use bytes::Bytes;
use dashmap::{DashMap, Entry};
use forebay_core::{ByteRange, Error, ErrorKind, Lent, METRICS, Result};
use prometheus::{IntCounter, IntGauge};
use rustix::process::Resource;
use tokio::sync::mpsc;
use tokio::time::Instant;

use self::directory::Directory;
pub(super) use self::directory::create as create_file;
use self::health::Health;
use self::room::Refusal;
pub(super) use self::sparse::SparseFile;
pub(super) use self::writer::Offer;
use self::writer::Waiting;
use super::budget::Budget;
use super::class::Class;
use super::memory::MemoryTier;
use super::page::{ContentKey, KeyHash, PageKey, page_range};
use super::policy::{Classed, Resident, Shelves, Use};
use super::tasks::Tasks;
use crate::config::{CacheConfig, NvmeConfig};

/// Unit in which file systems give out space.
const BLOCK_BYTES: u64 = 4096;

/// Pages that wait for the disk; more are not cached there.
pub(super) const WRITE_QUEUE_PAGES: usize = 32;

/// How a file is made; tests give other disks.
pub(super) type CreateFile = fn(&Path) -> io::Result<File>;

/// Files on a local disk.
pub(super) struct NvmeTier {
    directory: Directory,
    files: DashMap<ContentKey, Arc<SparseFile>, KeyHash>,
    shelves: Mutex<Shelves<Weak<SparseFile>>>,
    /// Each file keeps a descriptor open.
    files_max: usize,
    budget: Arc<Budget>,
    /// Bitmaps and checksums count there.
    memory: Arc<MemoryTier>,
    health: Health,
    create: CreateFile,
    tasks: Arc<Tasks>,
    offers: mpsc::Sender<Waiting>,
    counters: Counters,
}

struct Counters {
    evicted: IntCounter,
    evicted_inline: IntCounter,
    evicted_version: IntCounter,
    expired: IntCounter,
    refused_full: IntCounter,
    refused_queue: IntCounter,
    refused_disk: IntCounter,
    refused_quota: IntCounter,
    refused_epoch: IntCounter,
    refused_admission: IntCounter,
    waiting: IntGauge,
}

impl Counters {
    fn new() -> Self {
        let evictions = |cause| METRICS.cache_evictions.with_label_values(&["nvme", cause]);
        let refusals = |cause| METRICS.cache_refusals.with_label_values(&["nvme", cause]);
        Self {
            evicted: evictions("watermark"),
            evicted_inline: evictions("inline"),
            evicted_version: evictions("version"),
            expired: evictions("expired"),
            refused_full: refusals("full"),
            refused_queue: refusals("queue"),
            refused_disk: refusals("disk"),
            refused_quota: refusals("quota"),
            refused_epoch: refusals("epoch"),
            refused_admission: refusals("admission"),
            waiting: METRICS.cache_write_queue.with_label_values(&["nvme"]),
        }
    }
}

impl NvmeTier {
    /// Takes the directory, starts emptying it of what an earlier run left, and starts the writer.
    pub(super) fn open(
        (nvme, config): (&NvmeConfig, &CacheConfig),
        memory: Arc<MemoryTier>,
        tasks: &Arc<Tasks>,
        create: CreateFile,
    ) -> Result<Arc<Self>> {
        let (directory, leftovers) = Directory::open(&nvme.directory)?;
        tasks.spawn_blocking(move || directory::remove(&leftovers));
        METRICS.cache_lent_files.with_label_values(&["nvme"]).set(0);
        let (offers, queue) = mpsc::channel(WRITE_QUEUE_PAGES);
        let limit = rustix::process::getrlimit(Resource::Nofile).current;
        let tier = Arc::new(Self {
            directory,
            files: DashMap::default(),
            shelves: Mutex::new(Shelves::new(nvme.size_bytes)),
            files_max: limit.map_or(usize::MAX, |files| (files / 2) as usize),
            budget: Arc::new(Budget::new("nvme", nvme.size_bytes, config)),
            memory,
            health: Health::new(),
            create,
            tasks: Arc::clone(tasks),
            offers,
            counters: Counters::new(),
        });
        tasks.spawn(writer::run(Arc::downgrade(&tier), queue));
        Ok(tier)
    }

    pub(super) fn budget(&self) -> &Arc<Budget> {
        &self.budget
    }

    /// Whether nothing waits for the disk or is being written.
    #[cfg(test)]
    pub(super) fn is_settled(self: &Arc<Self>) -> bool {
        // The writer and those who verify hold the tier.
        self.offers.capacity() == WRITE_QUEUE_PAGES && Arc::strong_count(self) == 1
    }

    pub(super) fn is_broken(&self) -> bool {
        self.health.is_broken()
    }

    /// The file, if it has the page and is not older than `oldest`; counts as use if `used`.
    pub(super) fn get(&self, key: PageKey, used: Use, oldest: Option<Instant>) -> Option<Arc<SparseFile>> {
        let file = self.usable(key.content, oldest)?;
        file.mark().count(used);
        file.has(key.number).then_some(file)
    }

    pub(super) fn contains(&self, key: PageKey) -> bool {
        self.files.get(&key.content).is_some_and(|file| file.has(key.number))
    }

    /// The whole content, if all of it is there and verified, and not older than `oldest`.
    pub(super) fn lend(&self, content: ContentKey, oldest: Option<Instant>) -> Option<Lent> {
        self.usable(content, oldest)?.lend()
    }

    fn usable(&self, content: ContentKey, oldest: Option<Instant>) -> Option<Arc<SparseFile>> {
        let file = Arc::clone(&*self.files.get(&content)?);
        let is_expired = oldest.is_some_and(|oldest| file.born() < oldest);
        if is_expired {
            self.counters.expired.inc();
        }
        if is_expired || file.has_failed() {
            self.drop_unusable(&file);
            return None;
        }
        Some(file)
    }

    /// Drops a file without waiting for the disk.
    fn drop_unusable(&self, file: &Arc<SparseFile>) {
        if self.detach(file) {
            let file = Arc::clone(file);
            self.tasks.spawn_blocking(move || file.unlink());
        }
    }

    /// Queues a page for the disk, or counts a refusal when nothing makes room for it, or the disk is behind or broken.
    pub(super) fn offer(&self, offer: Offer) {
        let bytes = offer.bytes.len() as u64;
        if self.is_broken() {
            self.counters.refused_disk.inc();
        } else if let Some(refusal) = self.closed_to(&offer.class, bytes) {
            self.refuse(&refusal);
        } else if self.offers.try_send(Waiting::new(offer, &self.counters.waiting)).is_err() {
            self.counters.refused_queue.inc();
        }
    }

    /// As [`NvmeTier::offer`], waiting for a place in the queue and until the page was tried.
    pub(super) async fn keep(&self, offer: Offer) {
        if self.is_broken() || self.contains(offer.key) {
            return;
        }
        let (waiting, done) = Waiting::new(offer, &self.counters.waiting).followed();
        if self.offers.send(waiting).await.is_ok() {
            // Nothing is ever sent: the offer is dropped.
            done.await.unwrap_or_default();
        }
    }

    /// Whether a page of `bytes` that was just fetched is worth a write, or a refusal to count: there is space to
    /// spare, it belongs to what is there, its class says so, or it is wanted again.
    pub(super) fn admits(&self, key: PageKey, class: &Arc<Class>, bytes: u64) -> bool {
        let is_again = || {
            let fingerprints = (key.content.fingerprint(), key.fingerprint());
            self.shelves().is_wanted_again(class, fingerprints, bytes)
        };
        let is_admitted = self.budget.excess() == 0
            || self.files.contains_key(&key.content)
            || class.treatment().is_admitted_at_once()
            || is_again();
        if !is_admitted {
            self.counters.refused_admission.inc();
        }
        is_admitted
    }

    /// Reads `range`, which lies in page `number`, waiting for the disk; a whole page is checked. `None` when that
    /// fails: the file is dropped then.
    pub(super) fn read(&self, file: &Arc<SparseFile>, number: u64, range: ByteRange) -> Option<Bytes> {
        match file.read(number, range) {
            Ok(bytes) => Some(bytes),
            Err(error) => {
                tracing::warn!(file = %file.path().display(), page = number, %error, "cached file dropped: read failed");
                self.discard(file);
                None
            }
        }
    }

    /// Drops a content. Its file goes once the last reader lets go of it.
    pub(super) fn forget(&self, content: ContentKey) {
        if let Some((_, file)) = self.files.remove(&content) {
            self.dequeue(&file);
            self.counters.evicted_version.inc();
            self.tasks.spawn_blocking(move || file.unlink());
        }
    }

    /// Writes a page; the file if that completed it. Waits for the disk.
    fn write(&self, offer: &Offer) -> Option<Arc<SparseFile>> {
        if !self.health.is_writable(self.directory.path()) {
            self.counters.refused_disk.inc();
            return None;
        }
        self.place(offer).unwrap_or_else(|refusal| {
            self.refuse(&refusal);
            None
        })
    }

    fn place(&self, offer: &Offer) -> std::result::Result<Option<Arc<SparseFile>>, Refusal> {
        let Offer { key, class, bytes, .. } = offer;
        let present = self.files.get(&key.content).map(|file| Arc::clone(&file));
        if present.as_ref().is_some_and(|file| file.has(key.number)) {
            return Ok(None);
        }
        // A file belongs to the class it was made for.
        let class = present.as_ref().map_or(class, |file| file.class());
        let space = self.reserve_page(bytes.len() as u64, class, present.as_ref())?;
        let file = match present {
            Some(file) => file,
            None => self.create(offer)?,
        };
        self.grow(&file, space.bytes());
        match file.write(key.number, bytes, space) {
            Ok(is_complete) => Ok(is_complete.then_some(file)),
            Err(error) => {
                self.discard(&file);
                Err(Refusal::Disk(error))
            }
        }
    }

    /// Reads a complete file back, and lets it be lent or drops it.
    fn verify(&self, file: &Arc<SparseFile>) {
        for number in 0..file.page_count() {
            if self.read(file, number, page_range(number, file.size_bytes())).is_none() {
                return;
            }
        }
        file.set_verified();
    }

    fn refuse(&self, refusal: &Refusal) {
        match refusal {
            Refusal::Full => self.counters.refused_full.inc(),
            Refusal::Epoch => self.counters.refused_epoch.inc(),
            Refusal::Quota => self.counters.refused_quota.inc(),
            Refusal::Disk(error) => {
                self.counters.refused_disk.inc();
                self.health.break_down();
                let directory = self.directory.path().display();
                tracing::warn!(%directory, %error, "disk cache takes no pages for a while: write failed");
            }
        }
    }

    /// A file for a content that had none.
    fn create(&self, offer: &Offer) -> std::result::Result<Arc<SparseFile>, Refusal> {
        let (content, size_bytes) = (offer.key.content, offer.size_bytes);
        let index = self.index(size_bytes, &offer.class).ok_or(Refusal::Full)?;
        let space = self.budget.try_reserve(0).and_then(|space| space.charge(&offer.class));
        let space = space.ok_or(Refusal::Full)?;
        let path = self.directory.name(content);
        let file = (self.create)(&path).map_err(Refusal::Disk)?;
        let file = Arc::new(SparseFile::new(file, path, (content, size_bytes), (space, index), &offer.class));
        match self.files.entry(content) {
            Entry::Occupied(adopted) => {
                file.unlink();
                return Ok(Arc::clone(adopted.get()));
            }
            Entry::Vacant(place) => drop(place.insert(Arc::clone(&file))),
        }
        self.enqueue(&file);
        Ok(file)
    }

    /// Makes `source` the file of a content; see [`super::Cache::adopt`]. Waits for the disk.
    pub(super) fn adopt(
        &self,
        (content, class): (ContentKey, &Arc<Class>),
        source: &Path,
        size_bytes: u64,
    ) -> Result<bool> {
        let found = std::fs::symlink_metadata(source)?;
        if found.len() != size_bytes {
            let message = format!("file to adopt has {} bytes, its content {size_bytes}", found.len());
            return Err(Error::new(ErrorKind::Incomplete, message));
        }
        if size_bytes == 0 || found.dev() != self.directory.device() || self.is_broken() {
            return Ok(false);
        }
        let bytes = blocks(size_bytes).max(found.blocks() * 512);
        if bytes > self.budget.capacity() {
            self.counters.refused_full.inc();
            return Ok(false);
        }
        let Some(index) = self.index(size_bytes, class) else { return Ok(false) };
        let space = match self.reserve(bytes, class, None, usize::MAX) {
            Ok(space) => space,
            Err(refusal) => {
                self.refuse(&refusal);
                return Ok(false);
            }
        };
        let path = self.directory.name(content);
        let opened = File::open(source)?;
        let file = Arc::new(SparseFile::new(opened, path, (content, size_bytes), (space, index), class));
        file.fill_checksums()?;
        std::fs::rename(source, file.path())?;
        file.set_verified();
        if let Some(old) = self.files.insert(content, Arc::clone(&file)) {
            self.dequeue(&old);
            old.unlink();
        }
        self.enqueue(&file);
        Ok(true)
    }

    /// Takes a file off the tier and unlinks it; `false` when it was off already. Waits for the disk.
    fn discard(&self, file: &Arc<SparseFile>) -> bool {
        let is_ours = self.detach(file);
        if is_ours {
            file.unlink();
        }
        is_ours
    }

    fn detach(&self, file: &Arc<SparseFile>) -> bool {
        let removed = self.files.remove_if(&file.content(), |_, kept| Arc::ptr_eq(kept, file));
        if removed.is_some() {
            self.dequeue(file);
        }
        removed.is_some()
    }
}

fn blocks(bytes: u64) -> u64 {
    bytes.next_multiple_of(BLOCK_BYTES)
}
