//! Open files and directories.
//!
//! The first open of an inode fixes how its bytes are served; [`Open`] says so until the last handle is released.
//! The kernel allows one backing file per inode, so every later open must join or be refused.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use dashmap::DashMap;
use forebay_core::{FileKey, Lent, OpenFile, Version};
use fuser::BackingId;

use crate::inode::Inode;
use crate::ops::directory::Cursor;
use crate::writing::Writing;

/// Where the bytes of an open file come from.
#[derive(Clone)]
pub(crate) enum Source {
    /// A version in a store or cache.
    Stored(Arc<dyn OpenFile>),
    /// The local file that is being written.
    Written(Arc<Writing>),
}

/// How the open handles of an inode are served.
#[derive(Clone)]
pub(crate) enum Mode {
    /// By the kernel, from a local file. Dropping the id before the last release fails opens that are on their way.
    Passthrough(Arc<BackingId>),
    /// By us, through the kernel's page cache.
    Buffered,
}

/// What all open handles of an inode share.
pub(crate) struct Open {
    pub(crate) handles: u32,
    pub(crate) mode: Mode,
    /// The local file behind it, if there is one.
    pub(crate) file: Option<FileKey>,
    /// Which content was opened; `None` while it is written.
    pub(crate) version: Option<Version>,
    /// Keeps the local file as it is while the kernel uses it.
    pub(crate) _lent: Option<Lent>,
    /// What a handle made without a path (`/proc/self/fd`) reads.
    pub(crate) source: Source,
}

/// What an open needs of the inode.
pub(crate) struct Need<'a> {
    pub(crate) file: Option<FileKey>,
    /// The content to read; `None` to write.
    pub(crate) version: Option<&'a Version>,
}

impl Open {
    /// Whether another open can be served as this one is: from the same local file, or, to read, the same content.
    pub(crate) fn can_serve(&self, need: &Need<'_>) -> bool {
        let is_same_file = self.file.is_some() && self.file == need.file;
        is_same_file || (need.version.is_some() && self.version.as_ref() == need.version)
    }
}

/// An open file.
pub(crate) struct FileHandle {
    pub(crate) inode: Arc<Inode>,
    pub(crate) source: Source,
    /// Present when it may write.
    pub(crate) writing: Option<Arc<Writing>>,
    /// Writes go to the end, wherever the kernel thinks that is.
    pub(crate) is_append: bool,
}

/// An open directory.
pub(crate) struct DirectoryHandle {
    pub(crate) inode: Arc<Inode>,
    /// Taken out while a listing goes on.
    pub(crate) cursor: Mutex<Option<Cursor>>,
}

/// Numbers for open things. A number is never used twice.
pub(crate) struct Slab<T> {
    open: DashMap<u64, Arc<T>>,
    next: AtomicU64,
}

impl<T> Slab<T> {
    pub(crate) fn new() -> Self {
        Self { open: DashMap::new(), next: AtomicU64::new(1) }
    }

    /// Keeps `handle` and names it.
    pub(crate) fn insert(&self, handle: T) -> u64 {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        self.open.insert(number, Arc::new(handle));
        number
    }

    pub(crate) fn find(&self, number: u64) -> Option<Arc<T>> {
        self.open.get(&number).map(|handle| Arc::clone(&handle))
    }

    pub(crate) fn remove(&self, number: u64) -> Option<Arc<T>> {
        self.open.remove(&number).map(|(_, handle)| handle)
    }
}
