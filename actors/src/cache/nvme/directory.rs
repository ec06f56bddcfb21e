//! The directory of the disk tier: owned by one gateway at a time, empty at each start.
//!
//! Files of an earlier run are moved aside at once and removed in the background, so that a large leftover delays
//! nothing. Nothing but our own names is touched.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use forebay_core::{Error, ErrorKind, Result};
use rustix::fs::FlockOperation;
use rustix::io::Errno;

use crate::cache::page::ContentKey;

const LOCK: &str = "lock";
const CLEAN: &str = "clean";
const STALE: &str = "stale-";

/// A locked directory; unlocked when dropped.
pub(super) struct Directory {
    clean: PathBuf,
    device: u64,
    names: AtomicU64,
    _lock: File,
}

impl Directory {
    /// Locks `root`, making it if need be, and returns what earlier runs left in it.
    pub(super) fn open(root: &Path) -> Result<(Self, Vec<PathBuf>)> {
        let failed = |e: io::Error| Error::from(e).at("open cache directory", root.display());
        let mut builder = DirBuilder::new();
        builder.recursive(true).mode(0o700).create(root).map_err(failed)?;
        let lock = lock(&root.join(LOCK)).map_err(failed)?.ok_or_else(|| {
            Error::new(ErrorKind::Busy, "another gateway uses it, give each gateway a directory of its own")
                .at("open cache directory", root.display())
        })?;
        let clean = root.join(CLEAN);
        if clean.exists() {
            let aside = root.join(format!("{STALE}{}", uuid::Uuid::new_v4().simple()));
            std::fs::rename(&clean, aside).map_err(failed)?;
        }
        builder.create(&clean).map_err(failed)?;
        let device = std::fs::metadata(&clean).map_err(failed)?.dev();
        let leftovers = leftovers(root).map_err(failed)?;
        Ok((Self { clean, device, names: AtomicU64::new(0), _lock: lock }, leftovers))
    }

    pub(super) fn path(&self) -> &Path {
        &self.clean
    }

    pub(super) fn device(&self) -> u64 {
        self.device
    }

    /// A name never given before, so that unlinking an old file of a content cannot hit its new one.
    pub(super) fn name(&self, content: ContentKey) -> PathBuf {
        self.clean.join(format!("{content}-{}", self.names.fetch_add(1, Ordering::Relaxed)))
    }
}

/// Makes a new file for pages.
pub(in crate::cache) fn create(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(path)
}

/// Removes leftovers of earlier runs.
pub(super) fn remove(leftovers: &[PathBuf]) {
    for path in leftovers {
        if let Err(error) = std::fs::remove_dir_all(path) {
            tracing::warn!(path = %path.display(), %error, "leftovers of an earlier run stay in the cache directory");
        }
    }
}

fn lock(path: &Path) -> io::Result<Option<File>> {
    let file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path)?;
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(Some(file)),
        Err(Errno::WOULDBLOCK) => Ok(None),
        Err(e) => Err(e.into()),
    }
}

fn leftovers(root: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(root)? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with(STALE) {
            found.push(entry.path());
        }
    }
    Ok(found)
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
    fn leftovers_are_moved_aside_and_foreign_files_stay() {
        let root = tempfile::tempdir().expect("temporary directory");
        std::fs::create_dir(root.path().join(CLEAN)).expect("mkdir");
        std::fs::write(root.path().join(CLEAN).join("old"), b"old").expect("write");
        std::fs::write(root.path().join("notes"), b"mine").expect("write");
        let (directory, leftovers) = Directory::open(root.path()).expect("free");
        assert_eq!(std::fs::read_dir(directory.path()).expect("list").count(), 0);
        assert_eq!(leftovers.len(), 1);
        remove(&leftovers);
        assert!(!leftovers[0].exists());
        assert!(root.path().join("notes").exists());
    }
}
