//! One directory of the disk tier: one sparse file per content with a bitmap of its pages, evicted whole by unlink, kept
//! by S3-FIFO and by what is wanted of their classes; small contents are packed.
//!
//! Invariants:
//! - Blocks are reserved before they are written and come back when the last reader of a file lets go of it, so
//!   evicted files that are still read count against the cap.
//! - A file that is lent whole is complete, and all of it was read back and matched the checksums taken of the
//!   bytes that came from the store. It is not evicted while it is lent.
//! - A file that fails a read or a write is dropped, and its content comes from the store again.
//! - A directory that is silent (see `health.rs`) has nothing, and what it has keeps its place.
//! - Nothing is punched or truncated.
//! - What an earlier run left counts before anything new is written, and no page of it is served before it matched
//!   its checksum.

mod adopt;
mod counters;
mod directory;
mod health;
mod keeper;
mod log;
mod logger;
mod packed;
mod read;
mod record;
mod restore;
mod room;
mod shown;
mod small;
mod sparse;
mod steady;
mod writer;

use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, Weak};

use dashmap::{DashMap, Entry};
use forebay_core::Lent;
use rustix::process::Resource;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::{JoinError, spawn_blocking};

use self::counters::Counters;
use self::directory::Directory;
pub(super) use self::directory::{Taking, create as create_file};
use self::health::{Failure, Health};
use self::log::IndexLog;
pub(super) use self::logger::IndexLogger;
use self::packed::Packed;
pub(super) use self::packed::PackedObject;
use self::record::Record;
use self::room::Refusal;
use self::shown::Shown;
use self::sparse::Opened;
pub(super) use self::sparse::SparseFile;
pub(super) use self::writer::Offer;
use self::writer::Waiting;
use super::budget::Budget;
use super::class::Class;
use super::memory::MemoryTier;
use super::page::{ContentKey, KeyHash, PageKey};
use super::placement::Placement;
use super::policy::{Classed, Resident, Shelves, Use};
use super::tally::Tally;
use super::tasks::Tasks;
use super::trail::Cause;
use crate::config::{CacheConfig, CacheDirectory};

/// Unit in which file systems give out space.
const BLOCK_BYTES: u64 = 4096;

/// Pages that wait for the disk; more are not cached there.
pub(super) const WRITE_QUEUE_PAGES: usize = 32;

/// Small objects that wait for the disk; more are not cached there.
const PACKING_QUEUE_OBJECTS: usize = 1024;

/// The same while the disk is degraded.
const DEGRADED_WRITES: usize = 4;

/// Files adopted at once.
const ADOPTIONS: usize = 4;

/// Complete files of an earlier run that wait to be read back.
const EXAMINATION_QUEUE_FILES: usize = 64;

/// How a file is made; tests give other disks.
pub(super) type CreateFile = fn(&Path) -> io::Result<File>;

/// Files in one directory.
pub(super) struct NvmeTier {
    directory: Arc<Directory>,
    /// Where contents belong, and which directory this is.
    place: (Arc<Placement>, usize),
    log: IndexLog,
    /// Whether all that was left in the directory is back or gone. Nothing is written before.
    restored: watch::Sender<bool>,
    packed: Option<Packed>,
    files: DashMap<ContentKey, Arc<SparseFile>, KeyHash>,
    shelves: Mutex<Shelves<Weak<SparseFile>>>,
    /// Each file keeps a descriptor open, or may need one.
    files_max: usize,
    budget: Arc<Budget>,
    /// Bitmaps and checksums count there.
    memory: Arc<MemoryTier>,
    health: Arc<Health>,
    /// Held by who brings the directory below its watermark.
    evicting: Mutex<()>,
    adopting: Arc<Semaphore>,
    create: CreateFile,
    offers: mpsc::Sender<Waiting>,
    examinations: mpsc::Sender<Arc<SparseFile>>,
    packed_offers: mpsc::Sender<Waiting>,
    /// Files to unlink, as many as there were: their bytes count until they are gone.
    removals: mpsc::UnboundedSender<Arc<SparseFile>>,
    counters: Counters,
    shown: Shown,
}

impl NvmeTier {
    /// Directory `number` of the configuration, with the tasks that look after it, which begin with what an earlier
    /// run left. Where it was taken, `taken` says whether it is new; one that was not is down until it can be.
    ///
    /// # Panics
    /// Without a disk tier in `config` that has such a directory.
    pub(super) fn open(
        config: &CacheConfig,
        (placement, number): (Arc<Placement>, usize),
        (directory, taken): (Arc<Directory>, Option<bool>),
        (memory, tasks): (Arc<MemoryTier>, &Arc<Tasks>),
        create: CreateFile,
    ) -> Arc<Self> {
        let nvme = config.nvme.as_ref().expect("there is a disk tier");
        let CacheDirectory { path, size_bytes } = &nvme.directories[number];
        let shown = path.display().to_string();
        let (offers, queue) = mpsc::channel(WRITE_QUEUE_PAGES);
        let (examinations, examined) = mpsc::channel(EXAMINATION_QUEUE_FILES);
        let (packed_offers, packing) = mpsc::channel(PACKING_QUEUE_OBJECTS);
        let (removals, removed) = mpsc::unbounded_channel();
        let health = Arc::new(Health::new(&shown, tasks.runtime().clone()));
        let limits = (nvme.packed_bytes, *size_bytes);
        let files = rustix::process::getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
        let tier = Arc::new(Self {
            log: IndexLog::new(directory.index().to_owned()),
            packed: Packed::new(directory.segments(), limits, Arc::clone(&memory), (&health, create)),
            restored: watch::Sender::new(taken == Some(true)),
            directory,
            files: DashMap::default(),
            shelves: Mutex::new(Shelves::new(*size_bytes)),
            files_max: usize::try_from(files / 2).unwrap_or(usize::MAX) / nvme.directories.len(),
            budget: Arc::new(Budget::of_directory(&shown, *size_bytes, config)),
            place: (placement, number),
            memory,
            health,
            evicting: Mutex::default(),
            adopting: Arc::new(Semaphore::new(ADOPTIONS)),
            create,
            offers,
            examinations,
            packed_offers,
            removals,
            counters: Counters::new(),
            shown: Shown::new(),
        });
        if taken.is_none() {
            tier.health.fall_silent();
        }
        tasks.spawn(keeper::run(Arc::downgrade(&tier)));
        tasks.spawn(writer::run(Arc::downgrade(&tier), queue));
        tasks.spawn(writer::pack(Arc::downgrade(&tier), packing));
        tasks.spawn(writer::examine(Arc::downgrade(&tier), examined));
        tasks.spawn(writer::remove(Arc::downgrade(&tier), removed));
        tier
    }

    /// The directory.
    pub(super) fn root(&self) -> &Path {
        self.directory.root()
    }

    pub(super) fn budget(&self) -> &Arc<Budget> {
        &self.budget
    }

    pub(super) fn is_restored(&self) -> bool {
        *self.restored.borrow()
    }

    /// Waits until what an earlier run left is back, or the disk does not answer.
    pub(super) async fn restored(&self) {
        let mut restored = self.restored.subscribe();
        tokio::select! {
            // The sender lives as long as this.
            _ = restored.wait_for(|is_restored| *is_restored) => {}
            () = self.health.silence() => {}
        }
    }

    /// Brings the index log up to date. Waits for the disk.
    pub(super) fn write_log(&self) {
        // Before that the log still knows more than the tier.
        if !self.is_restored() || self.is_down() {
            return;
        }
        let live = |note: &mut dyn FnMut(Record)| {
            let files: Vec<_> = self.files.iter().map(|file| Arc::clone(&file)).collect();
            for file in files {
                file.records(note);
            }
            if let Some(packed) = &self.packed {
                packed.records(note);
            }
        };
        self.show();
        if let Err(error) = self.log.write(&self.budget, live) {
            let log = self.directory.index().display();
            tracing::warn!(%log, %error, "index of the disk cache is not written: a restart finds less");
        }
    }

    /// Whether nothing waits for the disk or is being written.
    #[cfg(test)]
    pub(super) fn is_settled(self: &Arc<Self>) -> bool {
        // The writer and those who verify hold the tier.
        let is_packed = self.packed_offers.capacity() == PACKING_QUEUE_OBJECTS;
        self.offers.capacity() == WRITE_QUEUE_PAGES && is_packed && Arc::strong_count(self) == 1
    }

    /// Whether it takes nothing.
    pub(super) fn is_down(&self) -> bool {
        self.health.is_down()
    }

    /// Whether nothing of it failed lately.
    #[cfg(test)]
    pub(super) fn is_ok(&self) -> bool {
        self.health.is_ok()
    }

    #[cfg(test)]
    pub(super) fn fall_silent(&self) {
        self.health.fall_silent();
    }

    /// Waits for work that may block on the disk and no reader waits for: of each kind there are few at a time, so that
    /// a disk that hangs holds few threads.
    ///
    /// # Errors
    /// The panic of `work`.
    pub(super) async fn in_background<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(&Self) -> T + Send + 'static,
    ) -> std::result::Result<T, JoinError> {
        let tier = Arc::clone(self);
        self.health.watch_over(spawn_blocking(move || work(&tier))).await
    }

    /// The same until the disk is silent: `None` then, and the work ends when it can.
    pub(super) async fn unless_silent<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(&Self) -> T + Send + 'static,
    ) -> Option<std::result::Result<T, JoinError>> {
        tokio::select! {
            biased;
            () = self.health.silence() => None,
            done = self.in_background(work) => Some(done),
        }
    }

    /// Whether a content belongs here.
    fn is_home_of(&self, content: ContentKey) -> bool {
        let (placement, number) = &self.place;
        placement.home(content) == *number
    }

    /// The file, if it has the page and is not older than its class may be; counts as use if `used`.
    pub(super) fn get(&self, key: PageKey, used: Use, class: &Arc<Class>) -> Option<Arc<SparseFile>> {
        let file = self.usable(key.content, class)?;
        file.mark().count(used);
        file.has(key.number).then_some(file)
    }

    pub(super) fn contains(&self, key: PageKey) -> bool {
        let is_in_file = || self.files.get(&key.content).is_some_and(|file| file.has(key.number));
        !self.health.is_silent() && (is_in_file() || self.contains_packed(key.content))
    }

    /// Whether all of a content is there and verified.
    pub(super) fn is_whole(&self, content: ContentKey) -> bool {
        self.files.get(&content).is_some_and(|file| file.is_verified())
    }

    /// The whole content, if all of it is there and verified, and not older than its class may be. Nothing on a disk
    /// that failed lately: who reads it from the kernel cannot be helped.
    pub(super) fn lend(&self, content: ContentKey, class: &Arc<Class>) -> Option<Lent> {
        if !self.health.is_ok() {
            return None;
        }
        let file = self.usable(content, class)?;
        if file.claim_examination() && self.examinations.try_send(Arc::clone(&file)).is_err() {
            file.return_examination();
        }
        file.lend()
    }

    fn usable(&self, content: ContentKey, class: &Arc<Class>) -> Option<Arc<SparseFile>> {
        if self.health.is_silent() {
            return None;
        }
        let file = Arc::clone(&*self.files.get(&content)?);
        let is_expired = class.oldest().is_some_and(|oldest| file.is_older_than(oldest));
        if is_expired {
            class.tally().nvme.expired.inc();
            self.note(content, Cause::Expired);
        }
        let is_refused = !file.is_claimed() && !self.claim(&file, class);
        if is_expired || is_refused || file.has_failed() {
            self.drop_unusable(&file);
            return None;
        }
        Some(file)
    }

    /// Drops a file without waiting for the disk.
    fn drop_unusable(&self, file: &Arc<SparseFile>) {
        if self.detach(file) {
            self.remove_later(Arc::clone(file));
        }
    }

    /// Queues a page for the disk, or counts a refusal when nothing makes room for it, or the disk is behind or broken.
    pub(super) fn offer(&self, offer: Offer) {
        let bytes = offer.bytes.len() as u64;
        let content = offer.key.content;
        if self.is_down() {
            offer.class.tally().nvme.refused_disk.inc();
            return self.note(content, Cause::Disk);
        }
        if let Some(refusal) = self.closed_to(&offer.class, bytes) {
            return self.refuse((content, &offer.class), &refusal);
        }
        let queue = self.queue_of(&offer);
        let waiting = queue.max_capacity() - queue.capacity();
        if self.health.is_degraded() && waiting >= DEGRADED_WRITES {
            offer.class.tally().nvme.refused_disk.inc();
            return;
        }
        if let Err(error) = queue.try_send(Waiting::new(offer, &self.counters.waiting)) {
            error.into_inner().offer.class.tally().nvme.refused_queue.inc();
            self.note(content, Cause::Queue);
        }
    }

    fn queue_of(&self, offer: &Offer) -> &mpsc::Sender<Waiting> {
        if self.packs(offer.size_bytes).is_some() { &self.packed_offers } else { &self.offers }
    }

    /// As [`NvmeTier::offer`], waiting for a place in the queue and until the page was tried.
    pub(super) async fn keep(&self, offer: Offer) {
        if self.is_down() || self.contains(offer.key) {
            return;
        }
        let (queue, silence) = (self.queue_of(&offer), self.health.silence());
        let (waiting, done) = Waiting::new(offer, &self.counters.waiting).followed();
        let tried = async {
            if queue.send(waiting).await.is_ok() {
                // Nothing is ever sent: the offer is dropped.
                done.await.unwrap_or_default();
            }
        };
        tokio::select! {
            () = tried => {}
            () = silence => {}
        }
    }

    /// Whether a page of `bytes` that was just fetched, of a content of `size_bytes`, is worth a write, or a refusal to
    /// count: there is space to spare, it is packed, it belongs to what is there, its class says so, or it is wanted again.
    pub(super) fn admits(&self, key: PageKey, class: &Arc<Class>, (size_bytes, bytes): (u64, u64)) -> bool {
        let is_again = || {
            let fingerprints = (key.content.fingerprint(), key.fingerprint());
            self.shelves().is_wanted_again(class, fingerprints, bytes)
        };
        let is_admitted = self.budget.excess() == 0
            || self.packs(size_bytes).is_some()
            || self.files.contains_key(&key.content)
            || class.treatment().is_admitted_at_once()
            || is_again();
        if !is_admitted {
            class.tally().nvme.refused_admission.inc();
            self.note(key.content, Cause::Admission);
        }
        is_admitted
    }

    /// Drops a content. Its file goes once the last reader lets go of it.
    pub(super) fn forget(&self, content: ContentKey) {
        let packed_for = self.packed.as_ref().and_then(|packed| packed.class_of(content));
        if self.forget_packed(content) {
            self.note(content, Cause::Dropped);
            packed_for.map_or_else(Tally::unclaimed, |class| class.tally()).nvme.evicted_version.inc();
        }
        if let Some((_, file)) = self.files.remove(&content) {
            self.log.note(Record::Gone { serial: file.name().serial });
            self.dequeue(&file);
            self.note(content, Cause::Dropped);
            file.class().tally().nvme.evicted_version.inc();
            self.remove_later(file);
        }
    }

    fn remove_later(&self, file: Arc<SparseFile>) {
        // Without who removes it, it is removed by the next start.
        self.removals.send(file).unwrap_or_default();
    }

    /// Writes a page; the file if that completed it. Waits for the disk.
    fn write(&self, offer: &Offer) -> Option<Arc<SparseFile>> {
        if !self.health.is_writable(self.directory.path()) {
            offer.class.tally().nvme.refused_disk.inc();
            self.note(offer.key.content, Cause::Disk);
            return None;
        }
        self.place(offer).unwrap_or_else(|refusal| {
            self.refuse((offer.key.content, &offer.class), &refusal);
            None
        })
    }

    fn place(&self, offer: &Offer) -> std::result::Result<Option<Arc<SparseFile>>, Refusal> {
        let Offer { key, class, bytes, .. } = offer;
        let mut present = self.files.get(&key.content).map(|file| Arc::clone(&file));
        if let Some(refused) = present.take_if(|file| !file.is_claimed() && !self.claim(file, class)) {
            self.discard(&refused);
        }
        if present.as_ref().is_some_and(|file| file.has(key.number)) {
            return Ok(None);
        }
        // A damaged page of an earlier run has its blocks.
        let has_blocks = present.as_ref().is_some_and(|file| file.is_suspect(key.number));
        let needed = if has_blocks { 0 } else { bytes.len() as u64 };
        // A file belongs to the class it was made for.
        let class = present.as_ref().map_or(class, |file| file.class());
        let space = self.reserve_page(needed, class, present.as_ref())?;
        let file = match present {
            Some(file) => file,
            None => self.create(offer)?,
        };
        self.grow(&file, space.bytes());
        match file.write(key.number, bytes, space) {
            Ok(is_complete) => {
                self.log.note(file.page_record(key.number));
                Ok(is_complete.then_some(file))
            }
            Err(error) => {
                self.discard(&file);
                Err(Refusal::Disk(error))
            }
        }
    }

    fn refuse(&self, (content, class): (ContentKey, &Arc<Class>), refusal: &Refusal) {
        self.note(content, refusal.cause());
        let tally = class.tally();
        match refusal {
            Refusal::Full => tally.nvme.refused_full.inc(),
            Refusal::Epoch => tally.nvme.refused_epoch.inc(),
            Refusal::Quota => tally.nvme.refused_quota.inc(),
            Refusal::Disk(error) => {
                tally.nvme.refused_disk.inc();
                self.health.fail(Failure::Write);
                tracing::warn!(directory = %self.root().display(), %error, "a write to the disk cache failed");
            }
        }
    }

    /// A file for a content that had none.
    fn create(&self, offer: &Offer) -> std::result::Result<Arc<SparseFile>, Refusal> {
        let (content, size_bytes) = (offer.key.content, offer.size_bytes);
        let index = self.index(size_bytes, &offer.class).ok_or(Refusal::Full)?;
        let space = self.budget.try_reserve(0).and_then(|space| space.charge(&offer.class));
        let space = space.ok_or(Refusal::Full)?;
        let name = self.directory.name(content);
        let path = self.directory.at(name);
        let file = (self.create)(&path).and_then(Opened::new).map_err(Refusal::Disk)?;
        let place = (path, &self.health);
        let file = Arc::new(SparseFile::new(file, place, (name, size_bytes), (space, index), &offer.class));
        match self.files.entry(content) {
            Entry::Occupied(adopted) => {
                file.unlink();
                return Ok(Arc::clone(adopted.get()));
            }
            Entry::Vacant(place) => drop(place.insert(Arc::clone(&file))),
        }
        self.log.note(file.made_record());
        self.enqueue(&file);
        Ok(file)
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
            self.log.note(Record::Gone { serial: file.name().serial });
            self.dequeue(file);
        }
        removed.is_some()
    }
}

/// Whether a read failed because of what the file holds, and not because of the disk.
fn is_damage(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof)
}

/// What a file of `bytes` takes.
pub(super) fn blocks(bytes: u64) -> u64 {
    bytes.next_multiple_of(BLOCK_BYTES)
}

#[cfg(test)]
mod bench;
