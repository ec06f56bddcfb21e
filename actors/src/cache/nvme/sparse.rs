//! One content as a sparse file, with its bitmap and checksums in memory.
//!
//! Invariants: a page's bit is set after its bytes are written and its checksum is kept, and never cleared. Its
//! reservations are dropped after its descriptor.

use std::any::Any;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use crc_fast::CrcAlgorithm;
use forebay_core::{ByteRange, Lent, LentAlarm, METRICS};
use tokio::time::Instant;

use crate::cache::budget::Reservation;
use crate::cache::class::Class;
use crate::cache::page::{ContentKey, PAGE_BYTES, page_count, page_range};
use crate::cache::policy::{Classed, GHOST_BYTES, GHOSTS_PER_ENTRY, Mark, Resident, Use};

/// What one file costs in memory beside its pages' bits and checksums, rounded up, and ghosts.
const FILE_OVERHEAD_BYTES: u64 = 512 + GHOSTS_PER_ENTRY as u64 * GHOST_BYTES;

/// Memory for the bitmap, the checksums and the rest of a file of `size_bytes`.
pub(super) fn index_bytes(size_bytes: u64) -> u64 {
    let pages = page_count(size_bytes);
    FILE_OVERHEAD_BYTES + pages * 4 + pages.div_ceil(64) * 8
}

/// A file of pages.
pub(in crate::cache) struct SparseFile {
    file: Arc<File>,
    path: PathBuf,
    content: ContentKey,
    size_bytes: u64,
    present: Box<[AtomicU64]>,
    checksums: Box<[AtomicU32]>,
    missing: AtomicU64,
    is_verified: AtomicBool,
    has_failed: AtomicBool,
    class: Arc<Class>,
    born: Instant,
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
        file: File,
        path: PathBuf,
        (content, size_bytes): (ContentKey, u64),
        (space, index): (Reservation, Reservation),
        class: &Arc<Class>,
    ) -> Self {
        let pages = page_count(size_bytes);
        Self {
            file: Arc::new(file),
            path,
            content,
            size_bytes,
            present: (0..pages.div_ceil(64)).map(|_| AtomicU64::new(0)).collect(),
            checksums: (0..pages).map(|_| AtomicU32::new(0)).collect(),
            missing: AtomicU64::new(pages),
            is_verified: AtomicBool::new(false),
            has_failed: AtomicBool::new(false),
            class: Arc::clone(class),
            born: Instant::now(),
            mark: Mark::default(),
            weight: AtomicU64::new(space.bytes()),
            loans: AtomicU32::new(0),
            space: Mutex::new(space),
            _index: index,
        }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn content(&self) -> ContentKey {
        self.content
    }

    pub(super) fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    pub(super) fn page_count(&self) -> u64 {
        self.checksums.len() as u64
    }

    pub(super) fn born(&self) -> Instant {
        self.born
    }

    /// Under the policy's mutex, see [`Resident::weight`].
    pub(super) fn add_weight(&self, bytes: u64) {
        self.weight.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(super) fn reserved(&self) -> u64 {
        self.space().bytes()
    }

    pub(super) fn has(&self, number: u64) -> bool {
        let word = self.present.get((number / 64) as usize);
        word.is_some_and(|word| word.load(Ordering::Acquire) >> (number % 64) & 1 == 1)
    }

    /// Writes a page into `space`; `true` when it was the last one missing.
    pub(super) fn write(&self, number: u64, bytes: &[u8], space: Reservation) -> io::Result<bool> {
        self.space().absorb(space);
        self.file.write_all_at(bytes, number * PAGE_BYTES)?;
        Ok(self.set_present(number, checksum(bytes)))
    }

    fn set_present(&self, number: u64, checksum: u32) -> bool {
        self.checksums[number as usize].store(checksum, Ordering::Relaxed);
        let bit = 1 << (number % 64);
        let before = self.present[(number / 64) as usize].fetch_or(bit, Ordering::AcqRel);
        before & bit == 0 && self.missing.fetch_sub(1, Ordering::AcqRel) == 1
    }

    /// Takes the file's bytes as they are for all of its pages.
    pub(super) fn fill_checksums(&self) -> io::Result<()> {
        for number in 0..self.page_count() {
            let bytes = self.extent(page_range(number, self.size_bytes)).read()?;
            self.set_present(number, checksum(&bytes));
        }
        Ok(())
    }

    /// Reads a part of page `number` and checks it if it is all of it.
    pub(super) fn read(self: &Arc<Self>, number: u64, range: ByteRange) -> io::Result<Bytes> {
        let bytes = self.extent(range).read()?;
        let expected = self.checksums[number as usize].load(Ordering::Relaxed);
        if range == page_range(number, self.size_bytes) && checksum(&bytes) != expected {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "checksum of a page does not match"));
        }
        Ok(bytes)
    }

    /// A part of the file for one read.
    pub(in crate::cache) fn lend_part(self: &Arc<Self>, range: ByteRange) -> Lent {
        let guard = Arc::clone(self) as Arc<dyn Any + Send + Sync>;
        Lent::new(Arc::clone(&self.file), range, guard).with_alarm(Arc::clone(self) as Arc<dyn LentAlarm>)
    }

    fn extent(&self, range: ByteRange) -> Lent {
        Lent::new(Arc::clone(&self.file), range, Arc::new(()))
    }

    /// The whole file, if complete and verified; not evicted until it is given back.
    pub(super) fn lend(self: &Arc<Self>) -> Option<Lent> {
        if !self.is_verified.load(Ordering::Acquire) {
            return None;
        }
        self.mark.count(Use::First);
        let whole = ByteRange::new(0, self.size_bytes);
        let guard = Arc::new(Loan::new(Arc::clone(self)));
        let alarm = Arc::clone(self) as Arc<dyn LentAlarm>;
        Some(Lent::new(Arc::clone(&self.file), whole, guard).with_alarm(alarm))
    }

    /// Whether a reader of a loan failed: nothing more may be read here.
    pub(super) fn has_failed(&self) -> bool {
        self.has_failed.load(Ordering::Relaxed)
    }

    pub(super) fn is_lent(&self) -> bool {
        self.loans.load(Ordering::Acquire) > 0
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
        self.content.fingerprint()
    }

    fn is_held(&self) -> bool {
        self.is_lent()
    }
}

impl Classed for SparseFile {
    fn class(&self) -> &Arc<Class> {
        &self.class
    }
}

impl LentAlarm for SparseFile {
    fn read_failed(&self, error: &io::Error) {
        self.has_failed.store(true, Ordering::Relaxed);
        tracing::warn!(path = %self.path.display(), %error, "a reader of a cached file failed");
    }
}

/// Pins a file while it is lent whole.
struct Loan(Arc<SparseFile>);

impl Loan {
    fn new(file: Arc<SparseFile>) -> Self {
        if file.loans.fetch_add(1, Ordering::AcqRel) == 0 {
            METRICS.cache_lent_files.with_label_values(&["nvme"]).inc();
        }
        Self(file)
    }
}

impl Drop for Loan {
    fn drop(&mut self) {
        if self.0.loans.fetch_sub(1, Ordering::AcqRel) == 1 {
            METRICS.cache_lent_files.with_label_values(&["nvme"]).dec();
        }
    }
}

/// CRC-32C.
fn checksum(bytes: &[u8]) -> u32 {
    crc_fast::checksum(CrcAlgorithm::Crc32Iscsi, bytes) as u32
}
