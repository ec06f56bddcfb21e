//! The directory of the disk tier: owned by one gateway at a time.
//!
//! It holds the lock, the index log and, below `clean` and `segments`, the files. Nothing else in it is touched.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use forebay_core::{Error, ErrorKind, Result};
use rustix::fs::FlockOperation;
use rustix::io::Errno;

use super::record::FileName;
use crate::cache::page::ContentKey;

const LOCK: &str = "lock";
const CLEAN: &str = "clean";
const INDEX: &str = "index";
const SEGMENTS: &str = "segments";

/// A locked directory; unlocked when dropped.
pub(super) struct Directory {
    clean: PathBuf,
    index: PathBuf,
    segments: PathBuf,
    device: u64,
    serials: AtomicU64,
    _lock: File,
}

impl Directory {
    /// Locks `root`, making it if need be.
    pub(super) fn open(root: &Path) -> Result<Self> {
        let failed = |e: io::Error| Error::from(e).at("open cache directory", root.display());
        let mut builder = DirBuilder::new();
        builder.recursive(true).mode(0o700).create(root).map_err(failed)?;
        let lock = lock(&root.join(LOCK)).map_err(failed)?.ok_or_else(|| {
            Error::new(ErrorKind::Busy, "another gateway uses it, give each gateway a directory of its own")
                .at("open cache directory", root.display())
        })?;
        let (clean, index) = (root.join(CLEAN), root.join(INDEX));
        let segments = root.join(SEGMENTS);
        builder.create(&clean).and_then(|()| builder.create(&segments)).map_err(failed)?;
        let device = std::fs::metadata(&clean).map_err(failed)?.dev();
        Ok(Self { clean, index, segments, device, serials: AtomicU64::new(0), _lock: lock })
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

    pub(super) fn device(&self) -> u64 {
        self.device
    }

    /// Whether an earlier run left nothing.
    pub(super) fn is_new(&self) -> bool {
        let is_empty =
            |path: &Path| std::fs::read_dir(path).is_ok_and(|mut entries| entries.next().is_none());
        is_empty(&self.clean) && is_empty(&self.segments) && !self.index.exists()
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

    #[test]
    fn second_gateway_is_refused_until_the_first_is_gone() {
        let root = tempfile::tempdir().expect("temporary directory");
        let first = Directory::open(root.path()).expect("free");
        let refused = Directory::open(root.path()).err().expect("locked");
        assert_eq!(refused.kind(), ErrorKind::Busy);
        assert!(refused.to_string().contains("another gateway"), "{refused}");
        drop(first);
        assert!(Directory::open(root.path()).is_ok());
    }

    #[test]
    fn names_go_on_after_those_of_earlier_runs() {
        let root = tempfile::tempdir().expect("temporary directory");
        let directory = Directory::open(root.path()).expect("free");
        assert!(directory.is_new());
        directory.skip(41);
        let name = directory.name(ContentKey::from_bits(7));
        assert_eq!(name.serial, 42);
        std::fs::write(directory.at(name), b"").expect("write");
        assert!(!directory.is_new());
    }
}
