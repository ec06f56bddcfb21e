//! A local file, open for reading: its own bytes are lent, none are copied.
//!
//! A version is told by (mtime, size) while the file is open. Its ctime says more than is needed here: it also moves
//! when the file is renamed, replaced under its name or given other attributes, and an open file outlives all that.

use std::fs::File;
use std::sync::Arc;

use async_trait::async_trait;
use forebay_core::{ByteRange, Content, Entry, Error, ErrorKind, Extent, Lent, OpenFile, Result};
use prometheus::IntCounter;
use rustix::fs::Statx;

use super::root::stat;
use crate::staging::blocking;

/// One version of a local file.
pub(super) struct LocalFile {
    entry: Entry,
    whole: Lent,
    opened: Statx,
    is_remote: bool,
    served_bytes: IntCounter,
}

impl LocalFile {
    /// `opened` is what `file` looked like when `entry` was made of it; `is_remote` that a network is between.
    /// What readers are given is counted in `served_bytes`.
    pub(super) fn new(
        file: File,
        (entry, opened): (Entry, Statx),
        is_remote: bool,
        served_bytes: IntCounter,
    ) -> Self {
        let range = ByteRange::new(0, entry.size_bytes);
        let whole = Lent::new(Arc::new(file), range, Arc::new(()));
        Self { entry, whole, opened, is_remote, served_bytes }
    }

    /// The file itself.
    pub(super) fn file(&self) -> Arc<File> {
        Arc::clone(self.whole.file())
    }

    /// # Errors
    /// `Stale` once the file was written to.
    pub(super) fn check(&self) -> Result<()> {
        check(self.whole.file(), &self.opened)
    }

    fn part(&self, range: ByteRange) -> Content {
        self.served_bytes.inc_by(range.len);
        Content::one(Extent::Lent(self.whole.slice(range)))
    }
}

#[async_trait]
impl OpenFile for LocalFile {
    fn entry(&self) -> &Entry {
        &self.entry
    }

    fn try_read(&self, range: ByteRange) -> Option<Content> {
        if self.is_remote {
            return None;
        }
        self.check().ok()?;
        Some(self.part(range))
    }

    async fn read(&self, range: ByteRange) -> Result<Content> {
        if self.is_remote {
            let (file, opened) = (self.file(), self.opened);
            blocking(move || check(&file, &opened)).await?;
        } else {
            self.check()?;
        }
        Ok(self.part(range))
    }

    fn lend(&self) -> Option<Lent> {
        Some(self.whole.clone())
    }
}

fn check(file: &File, opened: &Statx) -> Result<()> {
    let now = stat(file)?;
    let stamp = |stat: &Statx| (stat.stx_mtime.tv_sec, stat.stx_mtime.tv_nsec, stat.stx_size);
    if stamp(&now) == stamp(opened) {
        return Ok(());
    }
    Err(Error::new(ErrorKind::Stale, "the file was changed in place since it was opened"))
}
