//! One staged file: reserved, written at random, lent for passthrough, and gone with its last handle unless it was
//! moved to where it belongs.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use forebay_core::{ByteRange, Error, ErrorKind, Lent, Result};
use md5::{Digest, Md5};

use super::{Shared, blocking};

/// Larger pieces are written off the runtime's workers; smaller ones end in the page cache faster than a task
/// switch takes.
const INLINE_WRITE_BYTES: usize = 256 << 10;

/// How much is read at once to compute a digest afterwards.
const DIGEST_STEP_BYTES: usize = 1 << 20;

/// Unit of a file's block count.
const BLOCK_BYTES: u64 = 512;

/// A file in the staging directory.
pub struct StagingFile {
    shared: Arc<Shared>,
    file: Arc<File>,
    path: PathBuf,
    /// Taken around arithmetic only, so what a panic leaves is whole.
    state: Mutex<State>,
    writes: AtomicU64,
    was_lent: AtomicBool,
    /// Kept for parts only; taken around one piece.
    digest: Option<Mutex<Running>>,
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
        let file = File::options().read(true).write(true).create_new(true).open(&path)?;
        Ok(Self {
            shared,
            file: Arc::new(file),
            path,
            state: Mutex::new(State { reserved_bytes: 0, is_in_staging: true }),
            writes: AtomicU64::new(0),
            was_lent: AtomicBool::new(false),
            digest: has_digest.then(Mutex::default),
        })
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
        if bytes.len() <= INLINE_WRITE_BYTES {
            return self.write_now(offset, &bytes);
        }
        let this = Arc::clone(self);
        blocking(move || this.write_now(offset, &bytes)).await
    }

    fn write_now(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        self.writes.fetch_add(1, Ordering::AcqRel);
        self.file.write_all_at(bytes, offset)?;
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
            this.writes.fetch_add(1, Ordering::AcqRel);
            this.file.set_len(size_bytes)?;
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
        Ok(self.file.metadata()?.len())
    }

    /// What changes with the content.
    ///
    /// # Errors
    /// The disk's.
    pub fn stamp(&self) -> Result<Stamp> {
        let writes = self.writes.load(Ordering::Acquire);
        let metadata = self.file.metadata()?;
        Ok(Stamp {
            writes,
            size_bytes: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        })
    }

    /// The file, for whoever publishes it.
    pub fn file(&self) -> &Arc<File> {
        &self.file
    }

    /// Where the file lies until it is moved.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Lends the file for reading and writing; the loan keeps it alive. Writes through it are counted against the
    /// quota by [`StagingFile::settle`], when they are published.
    pub fn lend(self: &Arc<Self>) -> Lent {
        self.was_lent.store(true, Ordering::Release);
        if let Some(digest) = &self.digest {
            digest.lock().unwrap_or_else(PoisonError::into_inner).is_broken = true;
        }
        let guard: Arc<Self> = Arc::clone(self);
        Lent::new(Arc::clone(&self.file), ByteRange::new(0, u64::MAX), guard)
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
        let metadata = self.file.metadata()?;
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
        let mut offset = 0;
        loop {
            match self.file.read_at(&mut buffer, offset) {
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
        if let Err(e) = fs::remove_file(&self.path) {
            tracing::warn!(path = %self.path.display(), error = %e, "a staged file stays until the next start");
        }
    }
}
