//! The disk tier: one sparse file per content with a bitmap of its pages, evicted whole by unlink.
//!
//! Invariants:
//! - Blocks are reserved before they are written and come back when the last reader of a file lets go of it, so
//!   evicted files that are still read count against the cap.
//! - A file that is lent whole is complete, and all of it was read back and matched the checksums taken of the
//!   bytes that came from the store. It is not evicted while it is lent.
//! - A file that fails a read or a write is dropped, and its content comes from the store again.
//! - Nothing is punched or truncated.
//! - What an earlier run left counts before anything new is written, and no page of it is served before it matched
//!   its checksum.

mod directory;
mod health;
mod log;
mod logger;
mod record;
mod restore;
mod sparse;
mod writer;

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use bytes::Bytes;
use dashmap::{DashMap, Entry};
use forebay_core::{ByteRange, Error, ErrorKind, Lent, METRICS, Result};
use prometheus::IntCounter;
use rustix::process::Resource;
use tokio::sync::mpsc;

use self::directory::Directory;
pub(super) use self::directory::create as create_file;
use self::health::Health;
use self::log::IndexLog;
pub(super) use self::logger::IndexLogger;
use self::record::Record;
pub(super) use self::sparse::SparseFile;
use self::writer::Offer;
use super::budget::{Budget, Reservation};
use super::memory::{Use, spend};
use super::page::{ContentKey, KeyHash, PageKey, page_range};
use super::tasks::Tasks;
use crate::config::{CacheConfig, NvmeConfig};

/// Unit in which file systems give out space.
const BLOCK_BYTES: u64 = 4096;

/// Pages that wait for the disk; more are not cached there.
pub(super) const WRITE_QUEUE_PAGES: usize = 32;

/// Complete files of an earlier run that wait to be read back.
const EXAMINATION_QUEUE_FILES: usize = 64;

/// Most files a page may evict itself before it is refused.
const INLINE_EVICTIONS: usize = 8;

/// Most second chances one eviction grants before it takes the next file that is not lent.
const SECOND_CHANCES: usize = 128;

/// How a file is made; tests give other disks.
pub(super) type CreateFile = fn(&Path) -> io::Result<File>;

/// Files on a local disk.
pub(super) struct NvmeTier {
    directory: Directory,
    log: IndexLog,
    /// Whether all that an earlier run left is back or gone. Nothing is written before.
    is_restored: AtomicBool,
    files: DashMap<ContentKey, Arc<SparseFile>, KeyHash>,
    /// Oldest first; entries whose file is gone are skipped.
    queue: Mutex<VecDeque<Weak<SparseFile>>>,
    /// Each file keeps a descriptor open, or may need one.
    files_max: usize,
    budget: Arc<Budget>,
    /// Bitmaps and checksums count here.
    memory: Arc<Budget>,
    health: Health,
    create: CreateFile,
    tasks: Arc<Tasks>,
    offers: mpsc::Sender<Offer>,
    examinations: mpsc::Sender<Arc<SparseFile>>,
    counters: Counters,
}

struct Counters {
    evicted: IntCounter,
    evicted_inline: IntCounter,
    evicted_version: IntCounter,
    refused_full: IntCounter,
    refused_queue: IntCounter,
    refused_disk: IntCounter,
    damaged: IntCounter,
}

impl Counters {
    fn new() -> Self {
        let evictions = |cause| METRICS.cache_evictions.with_label_values(&["nvme", cause]);
        let refusals = |cause| METRICS.cache_refusals.with_label_values(&["nvme", cause]);
        Self {
            evicted: evictions("watermark"),
            evicted_inline: evictions("inline"),
            evicted_version: evictions("version"),
            refused_full: refusals("full"),
            refused_queue: refusals("queue"),
            refused_disk: refusals("disk"),
            damaged: METRICS.cache_damaged_pages.with_label_values(&["nvme"]),
        }
    }
}

impl NvmeTier {
    /// Takes the directory and starts the writer, which begins with what an earlier run left.
    pub(super) fn open(
        (nvme, config): (&NvmeConfig, &CacheConfig),
        memory: Arc<Budget>,
        tasks: &Arc<Tasks>,
        create: CreateFile,
    ) -> Result<Arc<Self>> {
        let directory = Directory::open(&nvme.directory)?;
        METRICS.cache_lent_files.with_label_values(&["nvme"]).set(0);
        METRICS.cache_restore_ms.with_label_values(&["nvme"]).set(0);
        let (offers, queue) = mpsc::channel(WRITE_QUEUE_PAGES);
        let (examinations, examined) = mpsc::channel(EXAMINATION_QUEUE_FILES);
        let limit = rustix::process::getrlimit(Resource::Nofile).current;
        let tier = Arc::new(Self {
            log: IndexLog::new(directory.index().to_owned()),
            is_restored: AtomicBool::new(directory.is_new()),
            directory,
            files: DashMap::default(),
            queue: Mutex::default(),
            files_max: limit.map_or(usize::MAX, |files| (files / 2) as usize),
            budget: Arc::new(Budget::new("nvme", nvme.size_bytes, config)),
            memory,
            health: Health::new(),
            create,
            tasks: Arc::clone(tasks),
            offers,
            examinations,
            counters: Counters::new(),
        });
        tasks.spawn(writer::run(Arc::downgrade(&tier), queue));
        tasks.spawn(writer::examine(Arc::downgrade(&tier), examined));
        Ok(tier)
    }

    pub(super) fn budget(&self) -> &Arc<Budget> {
        &self.budget
    }

    pub(super) fn is_restored(&self) -> bool {
        self.is_restored.load(Ordering::Acquire)
    }

    /// Brings the index log up to date. Waits for the disk.
    pub(super) fn write_log(&self) {
        // Before that the log still knows more than the tier.
        if !self.is_restored() {
            return;
        }
        let live = |note: &mut dyn FnMut(Record)| {
            let files: Vec<_> = self.files.iter().map(|file| Arc::clone(&file)).collect();
            for file in files {
                file.records(note);
            }
        };
        if let Err(error) = self.log.write(&self.budget, live) {
            let log = self.directory.index().display();
            tracing::warn!(%log, %error, "index of the disk cache is not written: a restart finds less");
        }
    }

    pub(super) fn is_broken(&self) -> bool {
        self.health.is_broken()
    }

    /// The file, if it has the page; counts as use if `used`.
    pub(super) fn get(&self, key: PageKey, used: Use) -> Option<Arc<SparseFile>> {
        let file = Arc::clone(&*self.files.get(&key.content)?);
        if file.has_failed() {
            self.drop_failed(&file);
            return None;
        }
        used.count(file.frequency());
        file.has(key.number).then_some(file)
    }

    pub(super) fn contains(&self, key: PageKey) -> bool {
        self.files.get(&key.content).is_some_and(|file| file.has(key.number))
    }

    /// The whole content, if all of it is there and verified.
    pub(super) fn lend(&self, content: ContentKey) -> Option<Lent> {
        let file = Arc::clone(&*self.files.get(&content)?);
        if file.has_failed() {
            self.drop_failed(&file);
            return None;
        }
        if file.claim_examination() && self.examinations.try_send(Arc::clone(&file)).is_err() {
            file.return_examination();
        }
        file.lend()
    }

    /// Drops a file without waiting for the disk.
    fn drop_failed(&self, file: &Arc<SparseFile>) {
        if self.detach(file) {
            let file = Arc::clone(file);
            self.tasks.spawn_blocking(move || file.unlink());
        }
    }

    /// Queues a page for the disk, or counts a refusal when the disk is behind or broken.
    pub(super) fn offer(&self, key: PageKey, size_bytes: u64, bytes: Bytes) {
        if self.is_broken() {
            self.counters.refused_disk.inc();
        } else if self.offers.try_send(Offer { key, size_bytes, bytes }).is_err() {
            self.counters.refused_queue.inc();
        }
    }

    /// Reads `range`, which lies in page `number`, waiting for the disk; a whole page is checked. `None` when that
    /// fails: the file is dropped then.
    pub(super) fn read(&self, file: &Arc<SparseFile>, number: u64, range: ByteRange) -> Option<Bytes> {
        match file.read(number, range) {
            Ok(bytes) => Some(bytes),
            Err(error) if file.is_suspect(number) && is_damage(&error) => {
                tracing::warn!(file = %file.path().display(), page = number, %error, "page of an earlier run dropped");
                self.counters.damaged.inc();
                file.drop_page(number);
                None
            }
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
            self.log.note(Record::Gone { serial: file.name().serial });
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
        let number = offer.key.number;
        let written = self.file(offer.key.content, offer.size_bytes).and_then(|file| {
            if file.has(number) {
                return Ok(None);
            }
            // A damaged page of an earlier run has its blocks.
            let bytes = if file.is_suspect(number) { 0 } else { blocks(offer.bytes.len() as u64) };
            let Some(space) = self.reserve(bytes, &file) else {
                if file.is_empty() {
                    self.discard(&file);
                }
                return Err(Refusal::Full);
            };
            match file.write(number, &offer.bytes, space) {
                Ok(is_complete) => {
                    self.log.note(file.page_record(number));
                    Ok(is_complete.then_some(file))
                }
                Err(error) => {
                    self.discard(&file);
                    Err(Refusal::Disk(error))
                }
            }
        });
        written.unwrap_or_else(|refusal| {
            self.refuse(&refusal);
            None
        })
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
            Refusal::Disk(error) => {
                self.counters.refused_disk.inc();
                self.health.break_down();
                let directory = self.directory.path().display();
                tracing::warn!(%directory, %error, "disk cache takes no pages for a while: write failed");
            }
        }
    }

    /// The file of a content, made if missing.
    fn file(&self, content: ContentKey, size_bytes: u64) -> std::result::Result<Arc<SparseFile>, Refusal> {
        if let Some(file) = self.files.get(&content) {
            return Ok(Arc::clone(&file));
        }
        let index = self.index(size_bytes).ok_or(Refusal::Full)?;
        let space = self.budget.try_reserve(0).ok_or(Refusal::Full)?;
        let name = self.directory.name(content);
        let path = self.directory.at(name);
        let file = (self.create)(&path).map_err(Refusal::Disk)?;
        let file = Arc::new(SparseFile::new(file, path, (name, size_bytes), (space, index)));
        match self.files.entry(content) {
            Entry::Occupied(adopted) => {
                file.unlink();
                return Ok(Arc::clone(adopted.get()));
            }
            Entry::Vacant(place) => drop(place.insert(Arc::clone(&file))),
        }
        self.log.note(Record::Made { file: name, size_bytes });
        self.enqueue(&file);
        Ok(file)
    }

    /// Room for one more file's bitmap, checksums and descriptor.
    fn index(&self, size_bytes: u64) -> Option<Reservation> {
        if self.files.len() >= self.files_max {
            self.evict(None)?;
            self.counters.evicted_inline.inc();
        }
        self.memory.try_reserve(sparse::index_bytes(size_bytes))
    }

    fn enqueue(&self, file: &Arc<SparseFile>) {
        let mut queue = self.queue();
        if queue.len() > 2 * self.files.len() + SECOND_CHANCES {
            queue.retain(|file| file.strong_count() > 0);
        }
        queue.push_back(Arc::downgrade(file));
    }

    /// Room for `bytes` of `file`, if need be by evicting a bounded number of others.
    fn reserve(&self, bytes: u64, file: &Arc<SparseFile>) -> Option<Reservation> {
        for _ in 0..INLINE_EVICTIONS {
            if let Some(space) = self.budget.try_reserve(bytes) {
                return Some(space);
            }
            self.evict(Some(file))?;
            self.counters.evicted_inline.inc();
        }
        self.budget.try_reserve(bytes)
    }

    /// Makes `source` the file of a content; see [`super::Cache::adopt`]. Waits for the disk.
    pub(super) fn adopt(&self, content: ContentKey, source: &Path, size_bytes: u64) -> Result<bool> {
        let found = std::fs::symlink_metadata(source)?;
        if found.len() != size_bytes {
            let message = format!("file to adopt has {} bytes, its content {size_bytes}", found.len());
            return Err(Error::new(ErrorKind::Incomplete, message));
        }
        let takes_files = self.is_restored() && !self.is_broken();
        if size_bytes == 0 || found.dev() != self.directory.device() || !takes_files {
            return Ok(false);
        }
        let bytes = blocks(size_bytes).max(found.blocks() * 512);
        let Some(index) = self.index(size_bytes) else { return Ok(false) };
        let Some(space) = self.make_room(bytes) else {
            self.counters.refused_full.inc();
            return Ok(false);
        };
        let name = self.directory.name(content);
        let opened = File::open(source)?;
        let file =
            Arc::new(SparseFile::new(opened, self.directory.at(name), (name, size_bytes), (space, index)));
        file.fill_checksums()?;
        std::fs::rename(source, file.path())?;
        file.set_verified();
        if let Some(old) = self.files.insert(content, Arc::clone(&file)) {
            self.log.note(Record::Gone { serial: old.name().serial });
            old.unlink();
        }
        file.records(&mut |record| self.log.note(record));
        self.enqueue(&file);
        Ok(true)
    }

    /// Room for a whole file, by evicting as many others as that takes.
    fn make_room(&self, bytes: u64) -> Option<Reservation> {
        if bytes > self.budget.capacity() {
            return None;
        }
        loop {
            if let Some(space) = self.budget.try_reserve(bytes) {
                return Some(space);
            }
            self.evict(None)?;
            self.counters.evicted_inline.inc();
        }
    }

    /// Evicts down to the low watermark if above the high one. Waits for the disk.
    pub(super) fn evict_to_low(&self) {
        if !self.budget.is_above_high() {
            return;
        }
        let mut goal = self.budget.excess();
        while goal > 0 {
            let Some(freed) = self.evict(None) else { return };
            self.counters.evicted.inc();
            goal = goal.saturating_sub(freed);
        }
    }

    /// Unlinks the next file that is neither lent nor `keep`; its bytes.
    fn evict(&self, keep: Option<&Arc<SparseFile>>) -> Option<u64> {
        let mut chances = SECOND_CHANCES;
        let steps = self.queue().len() + SECOND_CHANCES;
        for _ in 0..steps {
            let weak = self.queue().pop_front()?;
            let Some(file) = weak.upgrade() else { continue };
            if file.is_lent() || keep.is_some_and(|keep| Arc::ptr_eq(keep, &file)) {
                self.queue().push_back(weak);
            } else if chances > 0 && spend(file.frequency()) {
                chances -= 1;
                self.queue().push_back(weak);
            } else if self.discard(&file) {
                return Some(file.reserved());
            }
        }
        None
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
        let is_ours = self.files.remove_if(&file.content(), |_, kept| Arc::ptr_eq(kept, file)).is_some();
        if is_ours {
            self.log.note(Record::Gone { serial: file.name().serial });
        }
        is_ours
    }

    fn queue(&self) -> MutexGuard<'_, VecDeque<Weak<SparseFile>>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Why a page did not get onto the disk.
enum Refusal {
    Full,
    Disk(io::Error),
}

/// Whether a read failed because of what the file holds, and not because of the disk.
fn is_damage(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof)
}

fn blocks(bytes: u64) -> u64 {
    bytes.next_multiple_of(BLOCK_BYTES)
}
