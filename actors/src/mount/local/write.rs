//! Writes in progress: a whole replacement, staged beside the tree and renamed into it, or the stored file itself.
//!
//! A replacement that was published goes on as the stored file it has become, as a descriptor does on any local file
//! system: whoever keeps writing to it changes the file in place.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use bytes::Bytes;
use forebay_core::{ByteRange, Entry, Error, ErrorKind, Key, Lent, Precondition, Publish, Result, Staged};
use rustix::fs::{Mode, OFlags};

use super::disk::{Disk, entry_of};
use super::entry::MODE_BITS;
use super::publish::{FILE_MODE, PARENT_ATTEMPTS, set_owner};
use super::root::{checked, error};
use super::xattr;
use crate::staging::{StagingFile, blocking};

/// Larger pieces are written off the runtime's workers; smaller ones end in the page cache sooner than a task
/// switch takes.
const INLINE_WRITE_BYTES: usize = 256 << 10;

/// A whole new content.
pub(super) struct Replacement {
    disk: Arc<Disk>,
    key: Key,
    staged: Arc<StagingFile>,
    /// Set under the lock below.
    is_published: Arc<AtomicBool>,
    /// Taken by one publication at a time, in blocking tasks only.
    publishing: Arc<Mutex<()>>,
}

impl Replacement {
    pub(super) fn new(disk: Arc<Disk>, key: Key, staged: Arc<StagingFile>) -> Self {
        Self { disk, key, staged, is_published: Arc::default(), publishing: Arc::default() }
    }

    fn is_published(&self) -> bool {
        self.is_published.load(Ordering::Acquire)
    }
}

#[async_trait]
impl Staged for Replacement {
    async fn write_at(&self, offset: u64, bytes: Bytes) -> Result<()> {
        if self.is_published() {
            return write_in_place(&self.disk, &self.staged.file(), offset, bytes).await;
        }
        self.staged.write_at(offset, bytes).await
    }

    async fn truncate(&self, size_bytes: u64) -> Result<()> {
        if self.is_published() {
            return truncate_in_place(&self.staged.file(), size_bytes).await;
        }
        self.staged.truncate(size_bytes).await
    }

    fn size_bytes(&self) -> Result<u64> {
        self.staged.size_bytes()
    }

    fn file(&self) -> Lent {
        self.staged.lend()
    }

    async fn publish(&self, publish: Publish) -> Result<Entry> {
        let (disk, key, staged) = (Arc::clone(&self.disk), self.key.clone(), Arc::clone(&self.staged));
        let (is_published, publishing) = (Arc::clone(&self.is_published), Arc::clone(&self.publishing));
        blocking(move || {
            let _publishing = publishing.lock().expect("no panic under this lock");
            if is_published.load(Ordering::Acquire) {
                return republish(&staged.file(), &publish);
            }
            let outcome = disk.publish(&key, &staged, &publish);
            disk.changes()?.staging.count_publish(&outcome);
            is_published.store(outcome.is_ok(), Ordering::Release);
            outcome
        })
        .await
    }
}

/// The stored file itself, changed in place.
pub(super) struct Modification {
    file: Arc<File>,
    disk: Arc<Disk>,
    key: Key,
    /// The file before the change; `None` when it was made for it.
    before: Option<Entry>,
    is_published: AtomicBool,
}

impl Modification {
    /// Opens the file, making it if missing. Blocks on the disk.
    pub(super) fn open(disk: Arc<Disk>, key: Key) -> Result<Self> {
        let path = checked(&key)?;
        disk.changes()?;
        for _ in 0..PARENT_ATTEMPTS {
            match disk.root.at(path, OFlags::RDWR, Mode::empty()) {
                Ok(fd) => {
                    let (before, _) = entry_of(&fd)?;
                    return Ok(Self::new(File::from(fd), disk, key, Some(before)));
                }
                Err(e) if e.kind() == ErrorKind::NotFound => {}
                Err(e) => return Err(e),
            }
            drop(disk.make_parent(&key, false)?);
            let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL;
            match disk.root.at(path, flags, Mode::from_raw_mode(FILE_MODE)) {
                Ok(fd) => return Ok(Self::new(File::from(fd), disk, key, None)),
                Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::AlreadyExists) => {}
                Err(e) => return Err(e),
            }
        }
        Err(Error::new(ErrorKind::Busy, "the file is a link to nothing, or removed again and again"))
    }

    fn new(file: File, disk: Arc<Disk>, key: Key, before: Option<Entry>) -> Self {
        Self { file: Arc::new(file), disk, key, before, is_published: AtomicBool::new(false) }
    }

    /// A condition can only speak of the file before the change: by now it is changed.
    fn check(&self, condition: &Precondition) -> Result<()> {
        let holds = match (condition, &self.before) {
            (Precondition::None, _) | (Precondition::Absent, None) => true,
            (Precondition::Absent, Some(_)) | (Precondition::Matches(_), None) => false,
            (Precondition::Matches(tag), Some(before)) => before.etag == *tag,
        };
        if holds {
            return Ok(());
        }
        Err(Error::new(ErrorKind::PreconditionFailed, "the file was another one when the change began"))
    }
}

#[async_trait]
impl Staged for Modification {
    async fn write_at(&self, offset: u64, bytes: Bytes) -> Result<()> {
        write_in_place(&self.disk, &self.file, offset, bytes).await
    }

    async fn truncate(&self, size_bytes: u64) -> Result<()> {
        truncate_in_place(&self.file, size_bytes).await
    }

    fn size_bytes(&self) -> Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    fn file(&self) -> Lent {
        Lent::new(Arc::clone(&self.file), ByteRange::new(0, u64::MAX), Arc::new(()))
    }

    async fn publish(&self, publish: Publish) -> Result<Entry> {
        if self.is_published.load(Ordering::Acquire) {
            let file = Arc::clone(&self.file);
            return blocking(move || republish(&file, &publish)).await;
        }
        self.check(&publish.condition)?;
        let (file, disk, key) = (Arc::clone(&self.file), Arc::clone(&self.disk), self.key.clone());
        let is_new = self.before.is_none();
        let entry = blocking(move || {
            if let (true, Some(headers)) = (disk.keeps_xattrs, &publish.headers) {
                xattr::set_headers(&file, headers)?;
            }
            if is_new {
                set_owner(&file, &publish)?;
                let mode = Mode::from_raw_mode(publish.mode.unwrap_or(FILE_MODE) & MODE_BITS);
                rustix::fs::fchmod(&file, mode).map_err(error)?;
            }
            if publish.is_durable {
                file.sync_all()?;
                if is_new {
                    rustix::fs::fsync(disk.root.parent(&key)?).map_err(error)?;
                }
            }
            Ok(entry_of(&file)?.0)
        })
        .await?;
        self.is_published.store(true, Ordering::Release);
        Ok(entry)
    }
}

/// What is published already only has to reach the disk.
fn republish(file: &File, publish: &Publish) -> Result<Entry> {
    if publish.is_durable {
        file.sync_all()?;
    }
    Ok(entry_of(file)?.0)
}

async fn write_in_place(disk: &Disk, file: &Arc<File>, offset: u64, bytes: Bytes) -> Result<()> {
    if bytes.len() <= INLINE_WRITE_BYTES && !disk.is_remote {
        return Ok(file.write_all_at(&bytes, offset)?);
    }
    let file = Arc::clone(file);
    blocking(move || Ok(file.write_all_at(&bytes, offset)?)).await
}

async fn truncate_in_place(file: &Arc<File>, size_bytes: u64) -> Result<()> {
    let file = Arc::clone(file);
    blocking(move || Ok(file.set_len(size_bytes)?)).await
}
