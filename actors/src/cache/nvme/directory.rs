//! The directory of the disk tier: owned by one gateway at a time.
//!
//! It holds the lock, the index log and, below `clean` and `segments`, the files. Nothing else in it is touched.

use std::fs::{DirBuilder, File, Metadata, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::time::Instant;

use forebay_core::{Error, ErrorKind, Result};
use rustix::fs::FlockOperation;
use rustix::io::Errno;
use tokio::runtime::Handle;

use super::record::FileName;
use crate::cache::page::ContentKey;

const LOCK: &str = "lock";
const CLEAN: &str = "clean";
const INDEX: &str = "index";
const SEGMENTS: &str = "segments";

/// One directory; locked once it is taken, unlocked when dropped.
pub(in crate::cache) struct Directory {
    root: PathBuf,
    clean: PathBuf,
    index: PathBuf,
    segments: PathBuf,
    serials: AtomicU64,
    /// Held for a look or a change by who takes or probes it.
    taken: Mutex<Option<Taken>>,
}

/// What was locked.
struct Taken {
    lock: File,
    device: u64,
    /// Of `clean`.
    inode: u64,
}

impl Directory {
    /// Touches nothing yet.
    pub(super) fn new(root: &Path) -> Self {
        Self {
            root: root.to_owned(),
            clean: root.join(CLEAN),
            index: root.join(INDEX),
            segments: root.join(SEGMENTS),
            serials: AtomicU64::new(0),
            taken: Mutex::default(),
        }
    }

    /// Makes the directory if need be and locks it. One that was taken before and is not there any more is made again
    /// on the same file system only: on another one its disk is not mounted, and what is below must not be filled.
    ///
    /// # Errors
    /// `Busy` when another gateway uses it; otherwise the disk's error.
    pub(super) fn take(&self) -> Result<()> {
        let failed = |e: io::Error| Error::from(e).at("open cache directory", self.root.display());
        let mut taken = self.taken();
        let device = taken.as_ref().map(|taken| taken.device);
        if device.is_some_and(|device| !self.may_be_made_on(device)) {
            let message = "it was on another file system: mount its disk, or restart to use this one";
            return Err(
                Error::new(ErrorKind::Unavailable, message).at("open cache directory", self.root.display())
            );
        }
        let mut builder = DirBuilder::new();
        builder.recursive(true).mode(0o700).create(&self.root).map_err(failed)?;
        let lock = lock(&self.root.join(LOCK)).map_err(failed)?.ok_or_else(|| {
            Error::new(ErrorKind::Busy, "another gateway uses it, give each gateway a directory of its own")
                .at("open cache directory", self.root.display())
        })?;
        builder.create(&self.clean).and_then(|()| builder.create(&self.segments)).map_err(failed)?;
        let clean = std::fs::metadata(&self.clean).map_err(failed)?;
        *taken = Some(Taken { lock, device: clean.dev(), inode: clean.ino() });
        Ok(())
    }

    /// Whether what is there is what was taken. Waits for the disk.
    pub(super) fn is_there(&self) -> bool {
        let taken = self.taken();
        let Some(taken) = taken.as_ref() else { return false };
        let is_lock = |found: &Metadata| {
            taken.lock.metadata().is_ok_and(|lock| (lock.dev(), lock.ino()) == (found.dev(), found.ino()))
        };
        let is_clean = |found: &Metadata| (taken.device, taken.inode) == (found.dev(), found.ino());
        std::fs::metadata(self.root.join(LOCK)).is_ok_and(|found| is_lock(&found))
            && std::fs::metadata(&self.clean).is_ok_and(|found| is_clean(&found))
            && self.segments.is_dir()
    }

    fn may_be_made_on(&self, device: u64) -> bool {
        let nearest = self.root.ancestors().find_map(|path| std::fs::metadata(path).ok());
        nearest.is_some_and(|nearest| nearest.dev() == device) || self.root.join(LOCK).exists()
    }

    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    /// Where the files lie.
    pub(super) fn path(&self) -> &Path {
        &self.clean
    }

    /// Where the segments lie.
    pub(super) fn segments(&self) -> &Path {
        &self.segments
    }

    /// Where the index log lies.
    pub(super) fn index(&self) -> &Path {
        &self.index
    }

    /// Whether it is taken, and lies on this device.
    pub(super) fn is_on(&self, device: u64) -> bool {
        self.taken().as_ref().is_some_and(|taken| taken.device == device)
    }

    /// Whether it is taken and an earlier run left nothing.
    pub(super) fn is_new(&self) -> bool {
        let is_empty =
            |path: &Path| std::fs::read_dir(path).is_ok_and(|mut entries| entries.next().is_none());
        is_empty(&self.clean) && is_empty(&self.segments) && !self.index.exists()
    }

    fn taken(&self) -> MutexGuard<'_, Option<Taken>> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A name never given before, so that unlinking an old file of a content cannot hit its new one.
    pub(super) fn name(&self, content: ContentKey) -> FileName {
        FileName { content, serial: self.serials.fetch_add(1, Ordering::Relaxed) }
    }

    /// Gives no name up to `serial` any more.
    pub(super) fn skip(&self, serial: u64) {
        self.serials.fetch_max(serial.saturating_add(1), Ordering::Relaxed);
    }

    pub(super) fn at(&self, name: FileName) -> PathBuf {
        self.clean.join(name.to_string())
    }
}

/// A directory that is being taken on a thread of its own: its disk may hang.
pub(in crate::cache) struct Taking {
    directory: Arc<Directory>,
    answer: mpsc::Receiver<Result<bool>>,
}

impl Taking {
    /// Begins to take `root`.
    pub(in crate::cache) fn begin(root: &Path, runtime: &Handle) -> Self {
        let directory = Arc::new(Directory::new(root));
        let (sender, answer) = mpsc::channel();
        let wanted = Arc::clone(&directory);
        runtime.spawn_blocking(move || {
            let taken = wanted.take().map(|()| wanted.is_new());
            if let Err(mpsc::SendError(Err(error))) = sender.send(taken) {
                tracing::warn!(%error, "a cache disk answers again, and its directory cannot be used");
            }
        });
        Self { directory, answer }
    }

    /// Waits for it until `deadline`: whether the directory is new.
    ///
    /// # Errors
    /// As [`Directory::take`]; `Timeout`, and it is taken as soon as its disk answers.
    pub(in crate::cache) fn wait(self, deadline: Instant) -> (Arc<Directory>, Result<bool>) {
        let left = deadline.saturating_duration_since(Instant::now());
        let taken = self.answer.recv_timeout(left).unwrap_or_else(|_| {
            Err(Error::new(ErrorKind::Timeout, "its disk does not answer")
                .at("open cache directory", self.directory.root().display()))
        });
        (self.directory, taken)
    }
}

/// Makes a new file for pages.
pub(in crate::cache) fn create(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(path)
}

/// Opens a file of an earlier run.
pub(super) fn reopen(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).open(path)
}

fn lock(path: &Path) -> io::Result<Option<File>> {
    let file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path)?;
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(Some(file)),
        Err(Errno::WOULDBLOCK) => Ok(None),
        Err(e) => Err(e.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(root: &Path) -> Result<Directory> {
        let directory = Directory::new(root);
        directory.take().map(|()| directory)
    }

    #[test]
    fn second_gateway_is_refused_until_the_first_is_gone() {
        let root = tempfile::tempdir().expect("temporary directory");
        let first = taken(root.path()).expect("free");
        let refused = taken(root.path()).err().expect("locked");
        assert_eq!(refused.kind(), ErrorKind::Busy);
        assert!(refused.to_string().contains("another gateway"), "{refused}");
        drop(first);
        assert!(taken(root.path()).is_ok());
    }

    #[test]
    fn names_go_on_after_those_of_earlier_runs() {
        let root = tempfile::tempdir().expect("temporary directory");
        let directory = taken(root.path()).expect("free");
        assert!(directory.is_new());
        directory.skip(41);
        let name = directory.name(ContentKey::from_bits(7));
        assert_eq!(name.serial, 42);
        std::fs::write(directory.at(name), b"").expect("write");
        assert!(!directory.is_new());
    }

    #[test]
    fn deleted_directory_is_noticed_and_made_again() {
        let parent = tempfile::tempdir().expect("temporary directory");
        let root = parent.path().join("cache");
        let directory = taken(&root).expect("free");
        assert!(directory.is_there());
        std::fs::remove_dir_all(&root).expect("removed");
        assert!(!directory.is_there());
        directory.take().expect("made again");
        assert!(directory.is_there() && directory.is_new());
        assert_eq!(taken(&root).err().expect("locked").kind(), ErrorKind::Busy);
    }

    #[test]
    fn directory_of_a_disk_that_is_not_mounted_is_not_made_below() {
        let parent = tempfile::tempdir().expect("temporary directory");
        let root = parent.path().join("cache");
        let directory = taken(&root).expect("free");
        directory.taken().as_mut().expect("taken").device += 1;
        std::fs::remove_dir_all(&root).expect("removed");
        let refused = directory.take().expect_err("another file system");
        assert!(refused.to_string().contains("mount its disk"), "{refused}");
        assert!(!root.exists());
        // A cache directory that is there is a disk that was mounted again.
        std::fs::create_dir(&root).and_then(|()| std::fs::write(root.join(LOCK), b"")).expect("made");
        directory.take().expect("taken");
    }
}
