//! One staged file: reserved, written at random, lent for passthrough, and gone with its last handle unless it was
//! moved to where it belongs.
//!
//! One that is going to be sent somewhere is in memory as long as it is short: it needs no disk at all then.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard};

use bytes::Bytes;
use forebay_core::{ByteRange, Error, ErrorKind, Lent, Result};
use md5::{Digest, Md5};

use super::back::in_memory;
use super::record::INLINE_BYTES_MAX;
use super::{Shared, blocking};

/// Larger pieces are written off the runtime's workers; smaller ones end in the page cache faster than a task
/// switch takes.
const INLINE_WRITE_BYTES: usize = 256 << 10;

/// What a file in memory may hold: what the journal holds, too.
const LIGHT_BYTES_MAX: u64 = INLINE_BYTES_MAX;
/// Files of a mount in memory. Above this, new ones are on the disk from the start.
pub(super) const LIGHT_FILES_MAX: u64 = 256;

/// How much is read at once to compute a digest afterwards.
const DIGEST_STEP_BYTES: usize = 1 << 20;

/// Unit of a file's block count.
const BLOCK_BYTES: u64 = 512;

/// A file in the staging directory.
pub struct StagingFile {
    shared: Arc<Shared>,
    /// Exchanged once, when it goes to the disk. Held for one operation on the file.
    place: RwLock<Place>,
    path: PathBuf,
    /// Taken around arithmetic only, so what a panic leaves is whole.
    state: Mutex<State>,
    writes: AtomicU64,
    was_lent: AtomicBool,
    /// Kept for parts only; taken around one piece.
    digest: Option<Mutex<Running>>,
}

enum Place {
    /// Where no disk is needed.
    Memory(Arc<File>),
    /// At the path, until it is moved.
    Disk(Arc<File>),
}

struct State {
    reserved_bytes: u64,
    is_in_staging: bool,
}

/// A digest of what was written so far, as long as it was written in order.
#[derive(Clone, Default)]
struct Running {
    hasher: Md5,
    next: u64,
    is_broken: bool,
}

/// Tells whether a staged file was changed: by our own writes, or by others through a lent descriptor.
///
/// Stores through a memory map count when the kernel sees the first of them after the last write-back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    writes: u64,
    size_bytes: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl StagingFile {
    pub(super) fn create(shared: Arc<Shared>, has_digest: bool) -> Result<Self> {
        let path = shared.write_path();
        let place = Place::Disk(Arc::new(create(&path)?));
        Ok(Self::new(shared, path, place, has_digest))
    }

    /// As [`StagingFile::create`], in memory at first. Does not block.
    pub(super) fn create_light(shared: Arc<Shared>) -> Result<Self> {
        let path = shared.write_path();
        let place = Place::Memory(Arc::new(in_memory()?));
        shared.light_files.fetch_add(1, Ordering::Relaxed);
        Ok(Self::new(shared, path, place, false))
    }

    fn new(shared: Arc<Shared>, path: PathBuf, place: Place, has_digest: bool) -> Self {
        Self {
            shared,
            place: RwLock::new(place),
            path,
            state: Mutex::new(State { reserved_bytes: 0, is_in_staging: true }),
            writes: AtomicU64::new(0),
            was_lent: AtomicBool::new(false),
            digest: has_digest.then(Mutex::default),
        }
    }

    fn place(&self) -> RwLockReadGuard<'_, Place> {
        self.place.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_light(&self) -> bool {
        matches!(&*self.place(), Place::Memory(_))
    }

    /// Puts a file that was in memory where [`StagingFile::path`] says. Blocks on the disk.
    ///
    /// # Errors
    /// The disk's; it stays in memory then.
    pub(super) fn settle_down(&self) -> Result<()> {
        let mut place = self.place.write().unwrap_or_else(PoisonError::into_inner);
        let Place::Memory(from) = &*place else { return Ok(()) };
        let to = create(&self.path)?;
        let mut content = vec![0; usize::try_from(from.metadata()?.len()).map_err(io::Error::other)?];
        let copied = from.read_exact_at(&mut content, 0).and_then(|()| to.write_all_at(&content, 0));
        if let Err(e) = copied {
            fs::remove_file(&self.path)?;
            return Err(e.into());
        }
        *place = Place::Disk(Arc::new(to));
        self.shared.light_files.fetch_sub(1, Ordering::Relaxed);
        Ok(())
    }

    /// Runs `work`, which may wait for the disk that the file is on.
    pub(crate) async fn run<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(&Self) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        if self.is_light() {
            return work(self);
        }
        let this = Arc::clone(self);
        blocking(move || work(&this)).await
    }

    /// Writes at an offset; a gap before it reads as zeros.
    ///
    /// # Errors
    /// `NoSpace` above the quota or when the disk is full.
    pub async fn write_at(self: &Arc<Self>, offset: u64, bytes: Bytes) -> Result<()> {
        self.refuse_moved()?;
        let end = offset.checked_add(bytes.len() as u64).filter(|end| i64::try_from(*end).is_ok());
        let end = end.ok_or_else(|| Error::new(ErrorKind::InvalidArgument, "the write ends past 2^63"))?;
        self.reserve_to(end)?;
        let is_outgrown = end > LIGHT_BYTES_MAX && self.is_light();
        if bytes.len() <= INLINE_WRITE_BYTES && !is_outgrown {
            return self.write_now(offset, &bytes);
        }
        let this = Arc::clone(self);
        blocking(move || {
            if is_outgrown {
                this.settle_down()?;
            }
            this.write_now(offset, &bytes)
        })
        .await
    }

    fn write_now(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        self.writes.fetch_add(1, Ordering::AcqRel);
        self.place().file().write_all_at(bytes, offset)?;
        if let Some(digest) = &self.digest {
            digest.lock().unwrap_or_else(PoisonError::into_inner).add(offset, bytes);
        }
        Ok(())
    }

    /// Cuts or extends (with zeros).
    ///
    /// # Errors
    /// As [`StagingFile::write_at`].
    pub async fn truncate(self: &Arc<Self>, size_bytes: u64) -> Result<()> {
        self.refuse_moved()?;
        self.reserve_to(size_bytes)?;
        let this = Arc::clone(self);
        blocking(move || {
            if size_bytes > LIGHT_BYTES_MAX {
                this.settle_down()?;
            }
            this.writes.fetch_add(1, Ordering::AcqRel);
            this.place().file().set_len(size_bytes)?;
            if let Some(digest) = &this.digest {
                digest.lock().unwrap_or_else(PoisonError::into_inner).is_broken = true;
            }
            this.settle()
        })
        .await
    }

    /// Present length in bytes.
    ///
    /// # Errors
    /// The disk's.
    pub fn size_bytes(&self) -> Result<u64> {
        Ok(self.place().file().metadata()?.len())
    }

    /// What changes with the content.
    ///
    /// # Errors
    /// The disk's.
    pub fn stamp(&self) -> Result<Stamp> {
        let writes = self.writes.load(Ordering::Acquire);
        let metadata = self.place().file().metadata()?;
        Ok(Stamp {
            writes,
            size_bytes: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        })
    }

    /// The file, for whoever publishes it.
    pub fn file(&self) -> Arc<File> {
        Arc::clone(self.place().file())
    }

    /// Where the file lies until it is moved, unless it is in memory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Lends the file for reading and writing; the loan keeps it alive. Writes through it are counted against the
    /// quota by [`StagingFile::settle`], when they are published.
    pub fn lend(self: &Arc<Self>) -> Lent {
        self.was_lent.store(true, Ordering::Release);
        // How much is written through it nobody knows.
        if let Err(error) = self.settle_down() {
            tracing::warn!(%error, path = %self.path.display(), "a staged file stays in memory");
        }
        if let Some(digest) = &self.digest {
            digest.lock().unwrap_or_else(PoisonError::into_inner).is_broken = true;
        }
        let guard: Arc<Self> = Arc::clone(self);
        Lent::new(self.file(), ByteRange::new(0, u64::MAX), guard)
    }

    /// Whether somebody else may still write to it: a memory map outlives the loan it was made from.
    pub fn was_lent(&self) -> bool {
        self.was_lent.load(Ordering::Acquire)
    }

    /// Adjusts what is reserved to what the file takes now. Blocks on the disk.
    ///
    /// # Errors
    /// `NoSpace` when writes through a lent descriptor went past the quota.
    pub fn settle(&self) -> Result<()> {
        let metadata = self.place().file().metadata()?;
        let needed = metadata.len().max(metadata.blocks() * BLOCK_BYTES);
        let mut state = self.state();
        if needed > state.reserved_bytes {
            self.shared.space.reserve(needed - state.reserved_bytes)?;
        } else {
            self.shared.space.release(state.reserved_bytes - needed);
        }
        state.reserved_bytes = needed;
        Ok(())
    }

    /// Says that the file was renamed to where it belongs: it stays there and no longer counts as staged.
    pub fn moved(&self) {
        let mut state = self.state();
        state.is_in_staging = false;
        self.shared.space.release(std::mem::take(&mut state.reserved_bytes));
    }

    /// Whether it was renamed to where it belongs.
    pub fn is_moved(&self) -> bool {
        !self.state().is_in_staging
    }

    /// The MD5 of the content, in hex. Blocks on the disk where it was not written from start to end.
    ///
    /// # Errors
    /// The disk's.
    pub fn md5(&self) -> Result<String> {
        let size_bytes = self.size_bytes()?;
        if let Some(digest) = &self.digest {
            let running = digest.lock().unwrap_or_else(PoisonError::into_inner).clone();
            if !running.is_broken && running.next == size_bytes {
                return Ok(hex::encode(running.hasher.finalize()));
            }
        }
        let mut hasher = Md5::new();
        let mut buffer = vec![0; DIGEST_STEP_BYTES];
        let (file, mut offset) = (self.file(), 0);
        loop {
            match file.read_at(&mut buffer, offset) {
                Ok(0) => return Ok(hex::encode(hasher.finalize())),
                Ok(n) => {
                    hasher.update(&buffer[..n]);
                    offset += n as u64;
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e.into()),
            }
        }
    }

    /// A file that belongs to somebody else is not written to.
    fn refuse_moved(&self) -> Result<()> {
        if self.is_moved() {
            return Err(Error::new(ErrorKind::InvalidArgument, "the write was published already"));
        }
        Ok(())
    }

    fn reserve_to(&self, end: u64) -> Result<()> {
        let mut state = self.state();
        if end > state.reserved_bytes {
            self.shared.space.reserve(end - state.reserved_bytes)?;
            state.reserved_bytes = end;
        }
        Ok(())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn create(path: &Path) -> io::Result<File> {
    File::options().read(true).write(true).create_new(true).open(path)
}

impl Place {
    fn file(&self) -> &Arc<File> {
        let (Self::Memory(file) | Self::Disk(file)) = self;
        file
    }
}

impl Running {
    fn add(&mut self, offset: u64, bytes: &[u8]) {
        self.is_broken |= offset != self.next;
        if !self.is_broken {
            self.hasher.update(bytes);
            self.next += bytes.len() as u64;
        }
    }
}

impl Drop for StagingFile {
    fn drop(&mut self) {
        let state = self.state.get_mut().unwrap_or_else(PoisonError::into_inner);
        if !state.is_in_staging {
            return;
        }
        self.shared.space.release(state.reserved_bytes);
        if let Place::Memory(_) = self.place.get_mut().unwrap_or_else(PoisonError::into_inner) {
            self.shared.light_files.fetch_sub(1, Ordering::Relaxed);
            return;
        }
        if let Err(e) = fs::remove_file(&self.path) {
            tracing::warn!(path = %self.path.display(), error = %e, "a staged file stays until the next start");
        }
    }
}
