//! Opening: what an open needs is prepared first (it may wait for a store), then admitted under the inode's lock,
//! where the mode is chosen and the handle counted before the kernel hears of it.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use forebay_core::{EntryKind, ErrorKind, FileKey, Lent, NsPath, OpenFile, Version, Want};
use fuser::{BackingId, Errno, FopenFlags, OpenAccMode, OpenFlags};
use rustix::fs::OFlags;

use crate::counters::OpenMode;
use crate::error::Failure;
use crate::handle::{FileHandle, Mode, Need, Open, Source};
use crate::inode::{Inode, State, Turn};
use crate::server::Server;
use crate::writing::{Begin, Writing};

/// How the application opens a file.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wish {
    access: OpenAccMode,
    pub(crate) truncates: bool,
    appends: bool,
}

impl Wish {
    pub(crate) fn of(flags: OpenFlags) -> Self {
        let has = |flag: OFlags| flags.0 as u32 & flag.bits() != 0;
        Self { access: flags.acc_mode(), truncates: has(OFlags::TRUNC), appends: has(OFlags::APPEND) }
    }

    /// The same for a file that was just made: whoever made it publishes it.
    pub(crate) fn as_writer(self) -> Self {
        let access = match self.access {
            OpenAccMode::O_RDONLY => OpenAccMode::O_RDWR,
            OpenAccMode::O_WRONLY | OpenAccMode::O_RDWR => self.access,
        };
        Self { access, ..self }
    }

    pub(crate) fn writes(self) -> bool {
        self.access != OpenAccMode::O_RDONLY || self.truncates
    }
}

/// What an open found, to be admitted.
pub(crate) struct Offer {
    pub(crate) inode: Arc<Inode>,
    source: Source,
    lent: Option<Lent>,
    wish: Wish,
    /// Held by opens that may write, until they are admitted.
    turn: Option<Turn>,
}

impl Offer {
    /// An open of the file being written, by somebody who may write.
    pub(crate) fn to_write(inode: Arc<Inode>, writing: Arc<Writing>, wish: Wish, turn: Turn) -> Self {
        let lent = Some(writing.lent().clone());
        Self { inode, source: Source::Written(writing), lent, wish, turn: Some(turn) }
    }

    fn to_read(inode: Arc<Inode>, source: Source, wish: Wish) -> Self {
        let lent = match &source {
            Source::Stored(file) => whole(&**file),
            Source::Written(writing) => Some(writing.lent().clone()),
        };
        Self { inode, source, lent, wish, turn: None }
    }
}

/// The loan of a whole file, if its store lends one.
fn whole(file: &dyn OpenFile) -> Option<Lent> {
    let is_whole = |lent: &Lent| lent.range().offset == 0 && lent.range().len == file.entry().size_bytes;
    file.lend().filter(is_whole)
}

/// An admitted open.
pub(crate) struct Opened {
    pub(crate) handle: u64,
    pub(crate) flags: FopenFlags,
    /// How the kernel is to serve it.
    pub(crate) mode: Mode,
}

/// Whether the kernel may read and write local files by itself, and on which file systems it will not.
pub(crate) struct Passthrough {
    is_on: AtomicBool,
    /// Devices whose files the kernel refused (overlayfs, another FUSE, no privilege).
    refused: Mutex<HashSet<u64>>,
}

impl Passthrough {
    pub(crate) fn new() -> Self {
        Self { is_on: AtomicBool::new(false), refused: Mutex::default() }
    }

    /// Turns it on, once the kernel has agreed to it.
    pub(crate) fn enable(&self) {
        self.is_on.store(true, Ordering::Relaxed);
    }

    fn back(
        &self,
        file: &File,
        key: FileKey,
        open_backing: impl FnOnce(BorrowedFd<'_>) -> io::Result<BackingId>,
    ) -> Option<Arc<BackingId>> {
        let refused = || self.refused.lock().expect("no panic under this lock");
        if !self.is_on.load(Ordering::Relaxed) || refused().contains(&key.device) {
            return None;
        }
        match open_backing(file.as_fd()) {
            Ok(backing) => Some(Arc::new(backing)),
            Err(e) => {
                let device = key.device;
                tracing::info!(device, error = %e, "no passthrough on this file system: reads are buffered");
                refused().insert(device);
                None
            }
        }
    }
}

/// Paths that were replaced a moment ago, so that opens on their way are answered ESTALE and repeated by the kernel.
///
/// It repeats once. Against a file that is replaced all the time the repetition would lose the race, too; so
/// look-ups of these paths keep the version they found, and an open that follows gets that one.
pub(crate) struct Repeats(Mutex<HashMap<NsPath, Instant>>);

/// Most paths remembered; beyond it a repetition may lose the race.
const REPEATS_MAX: usize = 1024;
/// The kernel repeats at once.
const REPEAT_WITHIN: Duration = Duration::from_secs(1);

impl Repeats {
    pub(crate) fn new() -> Self {
        Self(Mutex::default())
    }

    fn paths(&self) -> MutexGuard<'_, HashMap<NsPath, Instant>> {
        self.0.lock().expect("no panic under this lock")
    }

    /// Notes that opens of `path` fail, because another file is there now.
    pub(crate) fn expect(&self, path: &NsPath) {
        let mut paths = self.paths();
        if paths.len() >= REPEATS_MAX {
            paths.retain(|_, since| since.elapsed() < REPEAT_WITHIN);
        }
        if paths.len() < REPEATS_MAX {
            paths.insert(path.clone(), Instant::now());
        }
    }

    /// Whether an open of `path` is being repeated.
    pub(crate) fn is_expected(&self, path: &NsPath) -> bool {
        let mut paths = self.paths();
        let is_recent = paths.get(path).is_some_and(|since| since.elapsed() < REPEAT_WITHIN);
        if !is_recent {
            paths.remove(path);
        }
        is_recent
    }
}

impl Server {
    /// Prepares an open.
    pub(crate) async fn open(&self, number: u64, wish: Wish) -> Result<Offer, Failure> {
        let inode = self.inode(number)?;
        match inode.kind {
            EntryKind::File => {}
            EntryKind::Directory => return Err(Failure::Refused(Errno::EISDIR, "this is a directory")),
            EntryKind::Link => return Err(Failure::Refused(Errno::ELOOP, "this is a symbolic link")),
        }
        if wish.writes() {
            let turn = inode.turn().await;
            return self.open_to_write(inode, wish, turn).await;
        }
        if let Some(writing) = inode.writing() {
            return Ok(Offer::to_read(inode, Source::Written(writing), wish));
        }
        let kept = inode.lock().pinned.clone();
        let Some(path) = inode.path() else {
            let (open, left) = {
                let state = inode.lock();
                (state.open.as_ref().map(|open| open.source.clone()), state.left.clone())
            };
            if let Some(source) = open.or(kept.map(Source::Stored)) {
                return Ok(Offer::to_read(inode, source, wish));
            }
            if let Some(left) = left {
                self.repeats.expect(&left);
            }
            return Err(Failure::stale());
        };
        // By name only: a look for the file's S3 headers would cost a request that nobody here needs.
        let file = match self.namespace.open(&self.context, &path, Want::Unfollowed).await {
            Err(e) if e.kind() == ErrorKind::IsDirectory => None,
            file => Some(file?),
        };
        let known = inode.lock().file_id;
        for file in [file, kept].into_iter().flatten().filter(|file| file.entry().file_id == known) {
            let source = match self.source(&inode, file).await {
                // It was replaced before it could be held.
                Err(e) if e.errno() == Errno::ESTALE => continue,
                source => source?,
            };
            if !self.repeats.is_expected(&path) {
                drop(inode.lock().pinned.take());
            }
            return Ok(Offer::to_read(inode, source, wish));
        }
        self.table.replaced(&inode);
        self.repeats.expect(&path);
        Err(Failure::stale())
    }

    /// Where an open for reading gets its bytes: as other handles do, from a lent file, from memory if it is small.
    /// What the kernel's page cache may hold already is not fetched for this.
    async fn source(&self, inode: &Inode, file: Arc<dyn OpenFile>) -> Result<Source, Failure> {
        {
            let state = inode.lock();
            let version = Some(&file.entry().version);
            if let Some(open) = state.open.as_ref().filter(|open| open.version.as_ref() == version) {
                return Ok(open.source.clone());
            }
            if state.cached.as_ref() == version {
                return Ok(Source::Stored(file));
            }
        }
        Ok(Source::Stored(self.secured(file).await?))
    }

    /// A file whose content stays what it is: lent, or held where it is small.
    pub(crate) async fn secured(&self, file: Arc<dyn OpenFile>) -> Result<Arc<dyn OpenFile>, Failure> {
        if whole(&*file).is_some() { Ok(file) } else { self.room.hold(file).await }
    }

    /// Prepares an open for writing: joins the write in progress or begins one.
    pub(crate) async fn open_to_write(
        &self,
        inode: Arc<Inode>,
        wish: Wish,
        turn: Turn,
    ) -> Result<Offer, Failure> {
        if let Some(writing) = inode.writing() {
            if wish.truncates {
                writing.truncate(0).await?;
            }
            return Ok(Offer::to_write(inode, writing, wish, turn));
        }
        let path = inode.path().ok_or_else(Failure::stale)?;
        let writing = self.begin(&inode, &path, wish.truncates).await?;
        if wish.truncates && writing.is_in_place() {
            writing.truncate(0).await?;
        }
        Ok(Offer::to_write(inode, Arc::new(writing), wish, turn))
    }

    /// Begins a write that all open handles can follow; else sets the inode aside.
    pub(crate) async fn begin(
        &self,
        inode: &Inode,
        path: &NsPath,
        truncates: bool,
    ) -> Result<Writing, Failure> {
        let entry = self.stat(path).await?;
        if entry.file_id != inode.lock().file_id {
            self.table.replaced(inode);
            return Err(Failure::stale());
        }
        let is_in_place = self.is_in_place(path);
        // Nothing of the present content is needed, so that a store's copy is not fetched.
        let is_fresh = truncates && !is_in_place;
        let writer = if is_fresh {
            self.namespace.replace(&self.context, path).await?
        } else {
            self.namespace.modify(&self.context, path).await?
        };
        let file = Some(writer.file().key()?);
        let can_join =
            inode.lock().open.as_ref().is_none_or(|open| open.can_serve(&Need { file, version: None }));
        if !can_join {
            self.table.set_aside(inode);
            return Err(Failure::stale());
        }
        let begin = Begin { writer, is_in_place, entry, is_published: !is_fresh, is_new: false };
        Ok(Writing::new(begin)?)
    }

    /// Admits an open: chooses or joins the inode's mode and counts the handle.
    pub(crate) fn admit(
        &self,
        mut offer: Offer,
        open_backing: impl FnOnce(BorrowedFd<'_>) -> io::Result<BackingId>,
    ) -> Result<Opened, Failure> {
        let inode = Arc::clone(&offer.inode);
        let mut state = inode.lock();
        if let (Some(writing), false) = (&state.writing, offer.wish.writes()) {
            // It began while this open was prepared.
            offer.lent = Some(writing.lent().clone());
            offer.source = Source::Written(Arc::clone(writing));
        }
        let file = offer.lent.as_ref().map(Lent::key).transpose()?;
        let version = match &offer.source {
            Source::Stored(file) => Some(file.entry().version.clone()),
            Source::Written(_) => None,
        };
        let need = Need { file, version: version.as_ref() };
        if state.open.as_ref().is_some_and(|open| !open.can_serve(&need)) {
            drop(state);
            self.table.set_aside(&inode);
            return Err(Failure::stale());
        }
        let mode = if let Some(open) = &mut state.open {
            open.handles += 1;
            open.mode.clone()
        } else {
            let backing = offer.lent.as_ref().zip(file);
            let backing =
                backing.and_then(|(lent, key)| self.passthrough.back(lent.file(), key, open_backing));
            let mode = backing.map_or(Mode::Buffered, Mode::Passthrough);
            state.open = Some(Box::new(Open {
                handles: 1,
                mode: mode.clone(),
                file,
                version: version.clone(),
                _lent: offer.lent.clone(),
                source: offer.source.clone(),
            }));
            mode
        };
        let flags = flags(&mut state, &offer, &mode, version);
        let writing = join_writing(&mut state, &offer);
        let opened = match (&mode, &offer.source) {
            (Mode::Passthrough(_), _) => OpenMode::Passthrough,
            (Mode::Buffered, Source::Stored(_)) => OpenMode::Buffered,
            (Mode::Buffered, Source::Written(_)) => OpenMode::Staged,
        };
        let stored_bytes = match &offer.source {
            Source::Stored(file) => file.entry().size_bytes,
            Source::Written(_) => 0,
        };
        self.counters.opened(opened, stored_bytes);
        drop(state);
        let Offer { source, wish, turn, .. } = offer;
        let handle = self.files.insert(FileHandle { inode, source, writing, is_append: wish.appends });
        drop(turn);
        Ok(Opened { handle, flags, mode })
    }
}

/// What the kernel is told about an open. `KEEP_CACHE` with passthrough would fail the open.
fn flags(state: &mut State, offer: &Offer, mode: &Mode, version: Option<Version>) -> FopenFlags {
    if offer.wish.writes() {
        state.cached = None;
        return FopenFlags::empty();
    }
    let mut flags = FopenFlags::FOPEN_NOFLUSH;
    if let (Mode::Buffered, Some(version @ Version::Strong(_))) = (mode, version) {
        if state.cached.as_ref() == Some(&version) {
            flags |= FopenFlags::FOPEN_KEEP_CACHE;
        }
        state.cached = Some(version);
    }
    flags
}

/// Makes an admitted open for writing part of the inode's write.
fn join_writing(state: &mut State, offer: &Offer) -> Option<Arc<Writing>> {
    let (Source::Written(writing), true) = (&offer.source, offer.wish.writes()) else { return None };
    writing.opened(offer.wish.access == OpenAccMode::O_RDWR);
    state.writing = Some(Arc::clone(writing));
    if let Some(open) = &mut state.open {
        open.version = None;
    }
    Some(Arc::clone(writing))
}
