//! A file being written: which local file takes the writes, and when that becomes visible to the other frontends.
//!
//! Writes may bypass us (passthrough), so what changed is told by the local file's size and times ([`Stamp`]), which
//! the kernel keeps at full resolution since 6.13. Stores through a shared map show in the times only when a page is
//! first dirtied; a file that may be mapped is therefore synced before its stamp is taken.
//! Not seen: stores through a map that outlives its last descriptor. Where the stored file itself is mapped that does
//! not matter; on an object store they are lost, so programs there keep the descriptor open until they unmap.
//! A content is published once: closing again, or syncing in a loop, publishes nothing.

use std::fs::{File, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::SystemTime;

use bytes::Bytes;
use forebay_core::{Entry, Lent, NsPath, Publish, Version, Writer};

use crate::error::Failure;
use crate::inode::{Inode, Turn};
use crate::ops::read::read_file;
use crate::server::{Server, blocking};

/// How much is copied at once when content moves to another staging file.
const COPY_STEP_BYTES: usize = 4 << 20;

/// A state of a local file's content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stamp {
    size_bytes: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    pub(crate) fn of(file: &File) -> io::Result<Self> {
        let at = file.metadata()?;
        Ok(Self {
            size_bytes: at.len(),
            modified: (at.mtime(), at.mtime_nsec()),
            changed: (at.ctime(), at.ctime_nsec()),
        })
    }
}

/// How far a publication has to reach.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reach {
    /// Visible in all frontends.
    Visible,
    /// On stable storage as well.
    Durable,
}

/// What is known when a write begins.
pub(crate) struct Begin {
    /// What takes the writes and publishes.
    pub(crate) writer: Writer,
    /// Whether the writer's file is the stored file itself.
    pub(crate) is_in_place: bool,
    /// The file as the namespace shows it, or will.
    pub(crate) entry: Entry,
    /// Whether the present content is visible already.
    pub(crate) is_published: bool,
    /// A file that no other frontend has seen yet.
    pub(crate) is_new: bool,
}

/// A write in progress, shared by all handles of an inode.
pub(crate) struct Writing {
    writer: Writer,
    file: Lent,
    is_in_place: bool,
    may_be_mapped: AtomicBool,
    progress: Mutex<Progress>,
}

struct Progress {
    /// Handles that may write.
    handles: u32,
    entry: Entry,
    /// What the other frontends see; `None` before the first publication.
    published: Option<Stamp>,
    is_new: bool,
    /// Renamed since the write began: the writer's target is no longer the file's path.
    is_moved: bool,
}

impl Writing {
    pub(crate) fn new(begin: Begin) -> io::Result<Self> {
        let file = begin.writer.file();
        let published = begin.is_published.then(|| Stamp::of(file.file())).transpose()?;
        let progress =
            Progress { handles: 0, entry: begin.entry, published, is_new: begin.is_new, is_moved: false };
        Ok(Self {
            writer: begin.writer,
            file,
            is_in_place: begin.is_in_place,
            may_be_mapped: AtomicBool::new(false),
            progress: Mutex::new(progress),
        })
    }

    fn progress(&self) -> std::sync::MutexGuard<'_, Progress> {
        self.progress.lock().expect("no panic under this lock")
    }

    /// The local file that takes the writes.
    pub(crate) fn lent(&self) -> &Lent {
        &self.file
    }

    /// The local file that takes the writes.
    pub(crate) fn file(&self) -> &File {
        self.file.file()
    }

    /// Whether that is the stored file itself.
    pub(crate) fn is_in_place(&self) -> bool {
        self.is_in_place
    }

    /// Whether no other frontend has seen this file yet.
    pub(crate) fn is_new(&self) -> bool {
        self.progress().is_new
    }

    /// What the namespace knows of it, with the local file's size and times.
    pub(crate) fn attributes(&self) -> io::Result<(Entry, Metadata)> {
        Ok((self.progress().entry.clone(), self.file().metadata()?))
    }

    /// Which content the namespace has now; `None` when part of it is not published.
    pub(crate) fn published_version(&self) -> Option<Version> {
        let stamp = Stamp::of(self.file()).ok();
        let progress = self.progress();
        (progress.published == stamp && stamp.is_some()).then(|| progress.entry.version.clone())
    }

    /// Counts a handle that may write; `may_map` when it may read, too, and so may map.
    pub(crate) fn opened(&self, may_map: bool) {
        self.progress().handles += 1;
        if may_map {
            self.may_be_mapped.store(true, Ordering::Relaxed);
        }
    }

    /// Takes back one; `true` when it was the last.
    pub(crate) fn released(&self) -> bool {
        let mut progress = self.progress();
        progress.handles = progress.handles.saturating_sub(1);
        progress.handles == 0
    }

    /// Notes that the file is at another path now.
    pub(crate) fn moved(&self) {
        self.progress().is_moved = true;
    }

    /// Changes what the file will have when it is first published; `false` when it already was.
    pub(crate) fn change_new(&self, change: impl FnOnce(&mut Entry)) -> bool {
        let mut progress = self.progress();
        if progress.is_new {
            change(&mut progress.entry);
        }
        progress.is_new
    }

    /// Takes over attributes changed in the namespace, and the local file's times with them.
    pub(crate) fn changed_attributes(&self, entry: Entry, modified: Option<SystemTime>) -> io::Result<()> {
        let was_published = self.progress().published == Some(Stamp::of(self.file())?);
        if let Some(modified) = modified.filter(|_| !self.is_in_place) {
            self.file().set_modified(modified)?;
        }
        let stamp = Stamp::of(self.file())?;
        let mut progress = self.progress();
        progress.entry = entry;
        if was_published {
            progress.published = Some(stamp);
        }
        Ok(())
    }

    /// Writes at an offset.
    pub(crate) async fn write_at(&self, offset: u64, bytes: Bytes) -> Result<(), Failure> {
        Ok(self.writer.write_at(offset, bytes).await?)
    }

    /// Cuts or extends.
    pub(crate) async fn truncate(&self, size_bytes: u64) -> Result<(), Failure> {
        Ok(self.writer.truncate(size_bytes).await?)
    }

    /// Present length in bytes.
    pub(crate) fn size_bytes(&self) -> io::Result<u64> {
        Ok(self.file().metadata()?.len())
    }

    fn publication(&self, reach: Reach) -> Publish {
        let progress = self.progress();
        let new = progress.is_new.then_some(progress.entry.attributes);
        Publish {
            mode: new.map(|attributes| attributes.mode),
            owner: new.map(|attributes| (attributes.uid, attributes.gid)),
            is_durable: reach == Reach::Durable,
            ..Publish::default()
        }
    }

    fn must_sync_first(&self) -> bool {
        !self.is_in_place && self.may_be_mapped.load(Ordering::Relaxed)
    }
}

/// Waits until a local file is on its disk.
pub(crate) async fn sync(file: &File) -> Result<(), Failure> {
    let file = file.try_clone()?;
    blocking(move || Ok(file.sync_all()?)).await
}

impl Server {
    /// Makes what was written visible, if anything was. A removed or replaced file has nowhere to be visible.
    /// What is durable is not remembered: a stored file may have been written by others, or through a map, since.
    pub(crate) async fn publish(
        &self,
        inode: &Inode,
        writing: &Writing,
        reach: Reach,
        _turn: &Turn,
    ) -> Result<(), Failure> {
        let must_sync = reach == Reach::Durable && writing.is_in_place;
        let Some(path) = inode.path() else {
            // The stored file may have another name.
            return if must_sync { sync(writing.file()).await } else { Ok(()) };
        };
        if writing.must_sync_first() {
            let file = writing.file().try_clone()?;
            blocking(move || Ok(file.sync_data()?)).await?;
        }
        let stamp = Stamp::of(writing.file())?;
        let (is_visible, is_moved) = {
            let progress = writing.progress();
            (progress.published == Some(stamp), progress.is_moved)
        };
        if is_visible {
            return if must_sync { sync(writing.file()).await } else { Ok(()) };
        }
        let publish = writing.publication(reach);
        // The stored file itself has moved along.
        let entry = if is_moved && !writing.is_in_place {
            self.publish_moved(&path, writing, publish).await?
        } else {
            writing.writer.publish(publish).await?
        };
        self.table.rebind(inode, entry.file_id);
        inode.lock().cached = None;
        let mut progress = writing.progress();
        progress.entry = entry;
        progress.published = Some(stamp);
        progress.is_new = false;
        Ok(())
    }

    /// Publishes at the path a file was renamed to while open.
    async fn publish_moved(
        &self,
        path: &NsPath,
        writing: &Writing,
        publish: Publish,
    ) -> Result<Entry, Failure> {
        let writer = self.namespace.replace(&self.context, path).await?;
        let mut offset = 0;
        loop {
            let file = writing.file().try_clone()?;
            let piece = blocking(move || Ok(read_file(&file, offset, COPY_STEP_BYTES)?)).await?;
            if piece.is_empty() {
                break;
            }
            let len = piece.len() as u64;
            writer.write_at(offset, piece).await?;
            offset += len;
        }
        Ok(writer.publish(publish).await?)
    }
}
