//! Staging: where every write of a mount lies until it is published.
//!
//! Invariants:
//! - Space is reserved before it is written, for all writes and parts of a mount together; what is reserved counts
//!   holes as if they were written.
//! - `writes/` holds what nobody was promised: a file there vanishes with its [`StagingFile`], or at the next open
//!   of the directory after a crash. Nothing in it is ever read back.
//! - `uploads/<id>/` holds multipart uploads, which survive a restart. A part exists once its record is renamed into
//!   place; the record names the data, so the two can never disagree.
//! - `pending/` holds the larger contents that were acknowledged and are not at the store yet; the journal beside it
//!   names them and holds the small ones. `damaged/` holds those that are no longer what was acknowledged. See
//!   `back.rs`.
//! - One process owns the directory, by a lock on it.

mod back;
mod file;
mod journal;
mod part;
mod record;
mod space;
mod table;
mod upload;

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use forebay_core::{Dirty, Error, ErrorKind, METRICS, Result};
use rustix::fs::FlockOperation;
use uuid::Uuid;

pub(crate) use self::back::{Back, Content, Sharing};
use self::file::LIGHT_FILES_MAX;
pub use self::file::{StagingFile, Stamp};
pub(crate) use self::record::{Base, Inline, Put, Shown};
use self::space::Space;
pub(crate) use self::table::{Backlog, Table};
pub use self::upload::Parts;

/// Permission bits of a directory that is nobody else's business.
const PRIVATE: u32 = 0o700;

/// The staging directory of one mount. Clones share it.
#[derive(Clone)]
pub struct Staging(Arc<Shared>);

struct Shared {
    writes: PathBuf,
    uploads: PathBuf,
    space: Space,
    mount: String,
    /// Writes that are not on the disk.
    light_files: AtomicU64,
    /// Taken to change the set of parts, in blocking tasks only.
    commits: Mutex<()>,
    back: Back,
    _lock: File,
}

impl Staging {
    /// Opens `directory`, makes it if missing, removes what unpublished writes left and counts the uploads in
    /// progress against `limit_bytes`. Blocks on the disk.
    ///
    /// # Errors
    /// `Busy` when another gateway uses the directory; the disk's.
    pub fn open(directory: &Path, limit_bytes: u64, mount: &str) -> Result<Self> {
        let at = |e: io::Error| Error::from(e).at("open staging directory", directory.display());
        let (writes, uploads) = (directory.join("writes"), directory.join("uploads"));
        // What is staged has no permissions of its own yet, so nobody else may look.
        make_directory(&writes, PRIVATE).map_err(at)?;
        make_directory(&uploads, PRIVATE).map_err(at)?;
        let lock = File::create(directory.join("lock")).map_err(at)?;
        if let Err(e) = rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            let message = "another gateway uses this staging directory; give each its own `var` directory";
            return Err(Error::new(ErrorKind::Busy, message)
                .because(io::Error::from(e))
                .at("open staging directory", directory.display()));
        }
        empty(&writes).map_err(at)?;
        let space = Space::new(limit_bytes, mount);
        let commits = Mutex::new(());
        let (back, pending_bytes) = Back::open(directory, mount).map_err(at)?;
        let (mount, light_files) = (mount.to_owned(), AtomicU64::new(0));
        let shared = Shared { writes, uploads, space, mount, light_files, commits, back, _lock: lock };
        let kept_bytes = shared.reap_uploads().map_err(at)?;
        shared.space.take(kept_bytes + pending_bytes);
        Ok(Self(Arc::new(shared)))
    }

    /// An empty file for a write in progress.
    ///
    /// # Errors
    /// The disk's.
    pub async fn file(&self) -> Result<Arc<StagingFile>> {
        let shared = Arc::clone(&self.0);
        blocking(move || Ok(Arc::new(StagingFile::create(shared, false)?))).await
    }

    /// As [`Staging::file`], of a content that is going to be sent to a store: in memory while it is short.
    ///
    /// # Errors
    /// The disk's.
    pub(crate) async fn light_file(&self) -> Result<Arc<StagingFile>> {
        if self.0.light_files.load(Ordering::Relaxed) >= LIGHT_FILES_MAX {
            return self.file().await;
        }
        Ok(Arc::new(StagingFile::create_light(Arc::clone(&self.0))?))
    }

    /// What was acknowledged and is not at the store yet.
    pub(crate) fn pending(&self) -> &Arc<Table> {
        self.0.back.table()
    }

    /// Exchanges the quota for what is written from now on.
    pub fn set_limit(&self, limit_bytes: u64) {
        self.0.space.set_limit(limit_bytes);
    }

    /// What lies here and in no store: files of writes in progress, acknowledged contents that are not uploaded yet, and
    /// multipart uploads with their parts.
    ///
    /// # Errors
    /// The disk's.
    pub async fn dirty(&self) -> Result<Dirty> {
        let shared = Arc::clone(&self.0);
        blocking(move || {
            // Those in memory are short, and new.
            let mut dirty = Dirty { writes: shared.light_files.load(Ordering::Relaxed), ..Dirty::default() };
            for entry in fs::read_dir(&shared.writes)? {
                // What was published or dropped meanwhile is not in progress any more.
                let Ok(metadata) = entry?.metadata() else { continue };
                if metadata.is_file() {
                    dirty.writes += 1;
                    dirty.add(metadata.len(), metadata.created().or_else(|_| metadata.modified())?);
                }
            }
            let Backlog { objects, bytes, since, .. } = shared.back.table().backlog();
            dirty.writes += objects;
            if let Some(since) = since {
                dirty.add(bytes, since);
            }
            shared.count_uploads(&mut dirty)?;
            Ok(dirty)
        })
        .await
    }

    /// Bytes reserved by writes in progress and parts.
    pub fn used_bytes(&self) -> u64 {
        self.0.space.used_bytes()
    }

    /// Counts an attempt to publish in the metrics.
    pub fn count_publish<T>(&self, outcome: &Result<T>) {
        let outcome = match outcome {
            Ok(_) => "ok",
            Err(e) => e.kind().as_str(),
        };
        METRICS.staging_publishes.with_label_values(&[&self.0.mount, outcome]).inc();
    }
}

impl Shared {
    fn write_path(&self) -> PathBuf {
        self.writes.join(Uuid::new_v4().simple().to_string())
    }
}

/// Runs `work`, which waits for a disk, off the runtime's workers.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|e| Error::new(ErrorKind::Internal, "a disk task died").because(e))?
}

/// Makes a directory of `mode` with those that it lies in, unless it is there. Once this returns it stays, whenever the
/// machine stops. Blocks on the disk.
///
/// # Errors
/// The disk's.
pub fn make_directory(path: &Path, mode: u32) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    parent.map_or(Ok(()), |parent| make_directory(parent, mode))?;
    match DirBuilder::new().mode(mode).create(path) {
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => return Ok(()),
        answer => answer?,
    }
    File::open(parent.unwrap_or(Path::new(".")))?.sync_all()
}

/// Replaces the file at `path`, which has `text` or its old content whenever the machine stops.
pub(crate) fn replace(path: &Path, text: &[u8]) -> Result<()> {
    let new = path.with_extension("new");
    let mut file = File::create(&new)?;
    std::io::Write::write_all(&mut file, text)?;
    file.sync_all()?;
    std::fs::rename(&new, path)?;
    if let Some(directory) = path.parent() {
        File::open(directory)?.sync_all()?;
    }
    Ok(())
}

/// Removes all that `directory` holds.
fn empty(directory: &Path) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            fs::remove_dir_all(entry.path())?;
        } else {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
