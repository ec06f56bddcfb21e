//! One content as a sparse file, with its bitmap and checksums in memory.
//!
//! Invariants:
//! - A page's bit is set after its bytes are written and its checksum is kept. It is cleared only of a page that an
//!   earlier run left and that does not match its checksum.
//! - A page that an earlier run left is *suspect*: until all of it was read and matched its checksum, no byte of it
//!   is served or lent.
//! - The reservations are dropped after the descriptor.

use std::any::Any;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::SystemTime;

use bytes::Bytes;
use forebay_core::{ByteRange, DiskTurns, FileKey, Lender, Lent, METRICS};
use tokio::time::Instant;

use super::directory::reopen;
use super::health::{Failure, Health};
use super::record::{FileName, Record, checksum};
use super::steady;
use super::{blocks, is_damage};
use crate::cache::budget::Reservation;
use crate::cache::class::Class;
use crate::cache::page::{ContentKey, PAGE_BYTES, page_count, page_range};
use crate::cache::policy::{Classed, GHOST_BYTES, GHOSTS_PER_ENTRY, Mark, Resident, Use};

/// What one file costs in memory beside its pages' bits and checksums, rounded up, and ghosts.
const FILE_OVERHEAD_BYTES: u64 = 512 + GHOSTS_PER_ENTRY as u64 * GHOST_BYTES;

/// Memory for the bitmaps, the checksums and the rest of a file of `size_bytes`.
pub(super) fn index_bytes(size_bytes: u64) -> u64 {
    let pages = page_count(size_bytes);
    FILE_OVERHEAD_BYTES + pages * 4 + pages.div_ceil(64) * 16
}

/// The file itself, and which one it is, for who may not wait for the disk.
pub(super) struct Opened {
    file: Arc<File>,
    key: FileKey,
}

impl Opened {
    pub(super) fn new(file: File) -> io::Result<Self> {
        Ok(Self { key: FileKey::of(&file)?, file: Arc::new(file) })
    }
}

/// A file of pages.
pub(in crate::cache) struct SparseFile {
    /// A file that an earlier run left is opened for its first read.
    file: OnceLock<Opened>,
    path: PathBuf,
    /// Of the disk that it lies on.
    health: Arc<Health>,
    name: FileName,
    size_bytes: u64,
    present: Box<[AtomicU64]>,
    /// Pages whose blocks are an earlier run's; empty for a file of this run.
    suspect: Box<[AtomicU64]>,
    checksums: Box<[AtomicU32]>,
    missing: AtomicU64,
    is_verified: AtomicBool,
    /// Whether somebody was asked to read the rest of it back.
    is_examined: AtomicBool,
    has_failed: AtomicBool,
    /// Of a file of an earlier run it is known when somebody asks for it.
    class: OnceLock<Arc<Class>>,
    /// Class of a file that nobody asked for yet.
    unclaimed: Arc<Class>,
    /// `None` is before this machine was started.
    born: Option<Instant>,
    born_at: SystemTime,
    mark: Mark,
    /// What the policy counts it for.
    weight: AtomicU64,
    loans: AtomicU32,
    space: Mutex<Reservation>,
    _index: Reservation,
}

impl SparseFile {
    /// An empty file for a content of some length, with what is reserved for its blocks and its index.
    pub(super) fn new(
        file: Opened,
        place: (PathBuf, &Arc<Health>),
        (name, size_bytes): (FileName, u64),
        (space, index): (Reservation, Reservation),
        class: &Arc<Class>,
    ) -> Self {
        let restored = Self::restored(place, (name, size_bytes, steady::now()), (space, index), class);
        Self {
            file: OnceLock::from(file),
            suspect: Box::default(),
            class: OnceLock::from(Arc::clone(class)),
            ..restored
        }
    }

    /// A file that an earlier run made at some time and left; its class is not known.
    pub(super) fn restored(
        (path, health): (PathBuf, &Arc<Health>),
        (name, size_bytes, born_at): (FileName, u64, SystemTime),
        (space, index): (Reservation, Reservation),
        unclaimed: &Arc<Class>,
    ) -> Self {
        // A clock that was put back makes it as old as can be.
        let age = steady::now().duration_since(born_at).ok();
        let pages = page_count(size_bytes);
        Self {
            file: OnceLock::new(),
            path,
            health: Arc::clone(health),
            name,
            size_bytes,
            present: bits(pages),
            suspect: bits(pages),
            checksums: (0..pages).map(|_| AtomicU32::new(0)).collect(),
            missing: AtomicU64::new(pages),
            is_verified: AtomicBool::new(false),
            is_examined: AtomicBool::new(false),
            has_failed: AtomicBool::new(false),
            class: OnceLock::new(),
            unclaimed: Arc::clone(unclaimed),
            born: age.and_then(|age| Instant::now().checked_sub(age)),
            born_at,
            mark: Mark::default(),
            weight: AtomicU64::new(space.bytes()),
            loans: AtomicU32::new(0),
            space: Mutex::new(space),
            _index: index,
        }
    }

    /// An earlier run noted that it wrote a page.
    pub(super) fn restore_page(&self, number: u64, checksum: u32) {
        if number < self.page_count() {
            self.suspect[(number / 64) as usize].fetch_or(1 << (number % 64), Ordering::Relaxed);
            self.set_present(number, checksum);
        }
    }

    /// Blocks that the pages take which are there.
    pub(super) fn bytes_present(&self) -> u64 {
        let pages = (0..self.page_count()).filter(|number| self.has(*number));
        pages.map(|number| blocks(page_range(number, self.size_bytes).len)).sum()
    }

    /// Adds what the file takes on the disk.
    pub(super) fn absorb(&self, space: Reservation) {
        self.space().absorb(space);
    }

    /// Whether its class is known.
    pub(super) fn is_claimed(&self) -> bool {
        self.class.get().is_some()
    }

    /// Counts it for a class from now on; `false` if that may not have so much. Under the policy's mutex, off its shelf.
    pub(super) fn claim(&self, class: &Arc<Class>) -> bool {
        self.space().recharge(class) && self.class.set(Arc::clone(class)).is_ok()
    }

    /// The record of its making.
    pub(super) fn made_record(&self) -> Record {
        let born_s = self.born_at.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |born| born.as_secs());
        Record::Made { file: self.name, size_bytes: self.size_bytes, born_s }
    }

    /// The records that stand for the file as it is.
    pub(super) fn records(&self, note: &mut dyn FnMut(Record)) {
        note(self.made_record());
        (0..self.page_count())
            .filter(|number| self.has(*number))
            .for_each(|number| note(self.page_record(number)));
    }

    pub(super) fn page_record(&self, number: u64) -> Record {
        let checksum = self.checksums[number as usize].load(Ordering::Relaxed);
        Record::Page { serial: self.name.serial, number, checksum }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn name(&self) -> FileName {
        self.name
    }

    pub(super) fn content(&self) -> ContentKey {
        self.name.content
    }

    pub(super) fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    pub(super) fn page_count(&self) -> u64 {
        self.checksums.len() as u64
    }

    pub(super) fn is_older_than(&self, oldest: Instant) -> bool {
        self.born.is_none_or(|born| born < oldest)
    }

    /// Under the policy's mutex, see [`Resident::weight`].
    pub(super) fn add_weight(&self, bytes: u64) {
        self.weight.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(super) fn reserved(&self) -> u64 {
        self.space().bytes()
    }

    pub(super) fn has(&self, number: u64) -> bool {
        is_set(&self.present, number)
    }

    /// Whether the page's blocks are an earlier run's, and nobody looked at them or they are damaged.
    pub(super) fn is_suspect(&self, number: u64) -> bool {
        is_set(&self.suspect, number)
    }

    /// Writes a page into `space`; `true` when it was the last one missing.
    pub(super) fn write(&self, number: u64, bytes: &[u8], space: Reservation) -> io::Result<bool> {
        self.absorb(space);
        self.file()?.write_all_at(bytes, number * PAGE_BYTES)?;
        let is_last = self.set_present(number, checksum(bytes));
        self.trust(number);
        Ok(is_last)
    }

    fn set_present(&self, number: u64, checksum: u32) -> bool {
        self.checksums[number as usize].store(checksum, Ordering::Relaxed);
        let bit = 1 << (number % 64);
        let before = self.present[(number / 64) as usize].fetch_or(bit, Ordering::AcqRel);
        before & bit == 0 && self.missing.fetch_sub(1, Ordering::AcqRel) == 1
    }

    fn trust(&self, number: u64) {
        if let Some(word) = self.suspect.get((number / 64) as usize) {
            word.fetch_and(!(1 << (number % 64)), Ordering::AcqRel);
        }
    }

    /// Drops a suspect page that is damaged. Its blocks stay, for the page to be written again.
    pub(super) fn drop_page(&self, number: u64) {
        let bit = 1 << (number % 64);
        let word = &self.present[(number / 64) as usize];
        if self.is_suspect(number) && word.fetch_and(!bit, Ordering::AcqRel) & bit != 0 {
            self.missing.fetch_add(1, Ordering::AcqRel);
        }
    }

    /// Takes the file's bytes as they are for all of its pages.
    pub(super) fn fill_checksums(&self) -> io::Result<()> {
        for number in 0..self.page_count() {
            let bytes = self.extent(page_range(number, self.size_bytes))?.read()?;
            self.set_present(number, checksum(&bytes));
            self.health.turns().note_answer();
        }
        Ok(())
    }

    /// Reads a part of page `number`, and checks it if it is all of it or the page is suspect.
    pub(super) fn read(&self, number: u64, range: ByteRange) -> io::Result<Bytes> {
        let page = page_range(number, self.size_bytes);
        let read = if self.is_suspect(number) { page } else { range };
        let bytes = self.extent(read)?.read()?;
        if read != page {
            return Ok(bytes);
        }
        if checksum(&bytes) != self.checksums[number as usize].load(Ordering::Relaxed) {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "checksum of a page does not match"));
        }
        self.trust(number);
        if range == page {
            return Ok(bytes);
        }
        // Copied: a few bytes must not hold a page's memory.
        let start = (range.offset - page.offset) as usize;
        Ok(Bytes::copy_from_slice(&bytes[start..start + range.len as usize]))
    }

    /// A part of page `number` for one read; `None` while it is suspect.
    pub(in crate::cache) fn lend_part(self: &Arc<Self>, number: u64, range: ByteRange) -> Option<Lent> {
        if self.is_suspect(number) {
            return None;
        }
        self.lend_range(range, Arc::clone(self) as Arc<dyn Any + Send + Sync>)
    }

    fn lend_range(self: &Arc<Self>, range: ByteRange, guard: Arc<dyn Any + Send + Sync>) -> Option<Lent> {
        let lender = Arc::clone(self) as Arc<dyn Lender>;
        Some(Lent::new(Arc::clone(&self.file.get()?.file), range, guard).with_lender(lender))
    }

    fn extent(&self, range: ByteRange) -> io::Result<Lent> {
        Ok(Lent::new(Arc::clone(self.file()?), range, Arc::new(())))
    }

    fn file(&self) -> io::Result<&Arc<File>> {
        if let Some(file) = self.file.get() {
            return Ok(&file.file);
        }
        let opened = Opened::new(reopen(&self.path)?)?;
        Ok(&self.file.get_or_init(|| opened).file)
    }

    /// The whole file, if complete and verified; not evicted until it is given back.
    pub(super) fn lend(self: &Arc<Self>) -> Option<Lent> {
        if !self.is_verified() {
            return None;
        }
        self.mark.count(Use::First);
        self.lend_range(ByteRange::new(0, self.size_bytes), Arc::new(Loan::new(Arc::clone(self))))
    }

    /// Whether it is complete and must be read back before it is lent; says so to one.
    pub(super) fn claim_examination(&self) -> bool {
        let is_complete = self.missing.load(Ordering::Acquire) == 0;
        let is_due = is_complete && !self.suspect.is_empty() && !self.is_verified.load(Ordering::Acquire);
        is_due && !self.is_examined.swap(true, Ordering::AcqRel)
    }

    /// Takes the claim back.
    pub(super) fn return_examination(&self) {
        self.is_examined.store(false, Ordering::Release);
    }

    /// Whether a reader of a loan failed: nothing more may be read here.
    pub(super) fn has_failed(&self) -> bool {
        self.has_failed.load(Ordering::Relaxed)
    }

    pub(super) fn is_lent(&self) -> bool {
        self.loans.load(Ordering::Acquire) > 0
    }

    pub(super) fn is_verified(&self) -> bool {
        self.is_verified.load(Ordering::Acquire)
    }

    pub(super) fn set_verified(&self) {
        self.is_verified.store(true, Ordering::Release);
    }

    /// Removes the name; the bytes stay until the last reader is gone.
    pub(super) fn unlink(&self) {
        if let Err(error) = std::fs::remove_file(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "cached file cannot be removed");
        }
    }

    fn space(&self) -> MutexGuard<'_, Reservation> {
        self.space.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Resident for SparseFile {
    fn mark(&self) -> &Mark {
        &self.mark
    }

    fn weight(&self) -> u64 {
        self.weight.load(Ordering::Relaxed)
    }

    fn fingerprint(&self) -> u64 {
        self.name.content.fingerprint()
    }

    fn is_held(&self) -> bool {
        self.is_lent()
    }
}

impl Classed for SparseFile {
    fn class(&self) -> &Arc<Class> {
        self.class.get().unwrap_or(&self.unclaimed)
    }
}

impl Lender for SparseFile {
    fn read_failed(&self, error: &io::Error) {
        if error.kind() == io::ErrorKind::TimedOut {
            // The file may be as good as ever.
            self.health.miss_deadline();
            return;
        }
        self.has_failed.store(true, Ordering::Relaxed);
        if !is_damage(error) {
            self.health.fail(Failure::Read);
        }
        tracing::warn!(path = %self.path.display(), %error, "a reader of a cached file failed");
    }

    fn turns(&self) -> &DiskTurns {
        self.health.turns()
    }

    fn key(&self) -> FileKey {
        self.file.get().expect("what is lent is open").key
    }
}

/// Pins a file while it is lent whole.
struct Loan(Arc<SparseFile>);

impl Loan {
    fn new(file: Arc<SparseFile>) -> Self {
        if file.loans.fetch_add(1, Ordering::AcqRel) == 0 {
            METRICS.cache_lent_files.with_label_values(&["nvme"]).inc();
            METRICS.cache_lent_bytes.with_label_values(&["nvme"]).add(file.size_bytes as i64);
        }
        Self(file)
    }
}

impl Drop for Loan {
    fn drop(&mut self) {
        if self.0.loans.fetch_sub(1, Ordering::AcqRel) == 1 {
            METRICS.cache_lent_files.with_label_values(&["nvme"]).dec();
            METRICS.cache_lent_bytes.with_label_values(&["nvme"]).sub(self.0.size_bytes as i64);
        }
    }
}

fn bits(count: u64) -> Box<[AtomicU64]> {
    (0..count.div_ceil(64)).map(|_| AtomicU64::new(0)).collect()
}

fn is_set(bits: &[AtomicU64], number: u64) -> bool {
    bits.get((number / 64) as usize)
        .is_some_and(|word| word.load(Ordering::Acquire) >> (number % 64) & 1 == 1)
}
