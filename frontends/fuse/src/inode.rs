//! The inodes that the kernel remembers, by number, by `FileId` and by path.
//!
//! Lock order: index, then one inode's state, then the map of numbers. No I/O and no await under either.
//! An inode lives while the kernel counts look-ups of it or a handle is open. Its `path` is where the namespace has
//! it now; it has none once it was removed, replaced, or set aside for an open that could not join (then only its
//! open handles and `/proc/self/fd` reach it).
//!
//! The kernel gives a directory one name, with all its children cached below it. So a directory inode changes its
//! path only by a rename that was seen; one that shows its `FileId` elsewhere is another inode. A rename may change
//! the `FileId` of directories (stores that know them by name only), and their inodes take the new one.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, RwLock, RwLockReadGuard, RwLockWriteGuard};

use dashmap::DashMap;
use forebay_core::{Entry, EntryKind, FileId, NsPath, OpenFile, Version};
use prometheus::IntGauge;
use tokio::sync::OwnedMutexGuard;

use crate::handle::Open;
use crate::writing::Writing;

/// The inode number of `/`.
pub(crate) const ROOT: u64 = 1;

/// The right to change which content an inode has: opens for write, publication, rename, removal.
pub(crate) type Turn = OwnedMutexGuard<()>;

/// One inode.
pub(crate) struct Inode {
    /// What the kernel and `stat` call it.
    pub(crate) number: u64,
    /// File, directory or symbolic link; never changes.
    pub(crate) kind: EntryKind,
    state: Mutex<State>,
    /// Made when first needed: most inodes are never written.
    turn: OnceLock<Arc<tokio::sync::Mutex<()>>>,
}

/// What changes about an inode.
pub(crate) struct State {
    /// Where it is.
    pub(crate) path: Option<NsPath>,
    /// Where it was last, once it is nowhere.
    pub(crate) left: Option<NsPath>,
    /// Which file it is.
    pub(crate) file_id: FileId,
    /// How the open handles are served.
    pub(crate) open: Option<Box<Open>>,
    /// The write in progress that all handles share.
    pub(crate) writing: Option<Arc<Writing>>,
    /// Which content the kernel's page cache may hold.
    pub(crate) cached: Option<Version>,
    /// For the open that follows a repeated look-up: see [`crate::ops::open::Repeats`].
    pub(crate) pinned: Option<Arc<dyn OpenFile>>,
    lookups: u64,
    /// A directory that was renamed since its `file_id` was read.
    is_moved: bool,
}

impl State {
    /// Whether the inode is what `entry` shows at its path.
    fn is(&self, entry: &Entry) -> bool {
        self.file_id == entry.file_id || (self.is_moved && entry.is_directory())
    }

    fn is_idle(&self) -> bool {
        self.lookups == 0 && self.open.is_none()
    }
}

impl Inode {
    fn new(number: u64, path: &NsPath, file_id: FileId, kind: EntryKind) -> Self {
        let state = State {
            path: Some(path.clone()),
            left: None,
            file_id,
            open: None,
            writing: None,
            cached: None,
            pinned: None,
            lookups: 1,
            is_moved: false,
        };
        Self { number, kind, state: Mutex::new(state), turn: OnceLock::new() }
    }

    /// The state; held briefly, never across an await.
    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no panic under this lock")
    }

    /// Where it is.
    pub(crate) fn path(&self) -> Option<NsPath> {
        self.lock().path.clone()
    }

    /// The write in progress.
    pub(crate) fn writing(&self) -> Option<Arc<Writing>> {
        self.lock().writing.clone()
    }

    /// Waits for the turn to change its content.
    pub(crate) async fn turn(&self) -> Turn {
        Arc::clone(self.turn.get_or_init(Arc::default)).lock_owned().await
    }
}

#[derive(Default)]
struct Index {
    by_id: HashMap<FileId, u64>,
    by_path: BTreeMap<Box<str>, u64>,
}

impl Index {
    /// Forgets where `state` is, if the index still leads there.
    fn unlink(&mut self, number: u64, state: &mut State) {
        let Some(path) = state.path.take() else { return };
        if self.by_path.get(path.as_str()) == Some(&number) {
            self.by_path.remove(path.as_str());
        }
        state.left = Some(path);
    }

    fn forget_id(&mut self, number: u64, file_id: FileId) {
        if self.by_id.get(&file_id) == Some(&number) {
            self.by_id.remove(&file_id);
        }
    }

    /// Notes which file `state` is.
    fn identify(&mut self, number: u64, state: &mut State, file_id: FileId) {
        if state.file_id != file_id {
            self.forget_id(number, state.file_id);
            state.file_id = file_id;
        }
        state.is_moved = false;
        self.by_id.insert(file_id, number);
    }

    /// Numbers at and below a path, with their paths.
    fn subtree(&self, path: &NsPath) -> Vec<(Box<str>, u64)> {
        let at = self.by_path.get_key_value(path.as_str());
        let (first, end) = bounds_below(path);
        let below = self.by_path.range::<str, _>((
            std::ops::Bound::Included(first.as_str()),
            std::ops::Bound::Excluded(end.as_str()),
        ));
        at.into_iter().chain(below).map(|(path, &number)| (path.clone(), number)).collect()
    }
}

/// All paths below `path` lie from the first bound (included) to the second (excluded): `0` follows `/`.
fn bounds_below(path: &NsPath) -> (String, String) {
    let base = if path.is_root() { "" } else { path.as_str() };
    (format!("{base}/"), format!("{base}0"))
}

/// All inodes of a session.
pub(crate) struct InodeTable {
    by_number: DashMap<u64, Arc<Inode>>,
    index: RwLock<Index>,
    count: IntGauge,
}

impl InodeTable {
    /// A table that knows the root.
    pub(crate) fn new(count: IntGauge) -> Self {
        let root =
            Arc::new(Inode::new(ROOT, &NsPath::root(), FileId::of(&[b"fuse root"]), EntryKind::Directory));
        let table = Self { by_number: DashMap::new(), index: RwLock::default(), count };
        table.write().by_path.insert("/".into(), ROOT);
        table.by_number.insert(ROOT, root);
        table.count.set(1);
        table
    }

    fn read(&self) -> RwLockReadGuard<'_, Index> {
        self.index.read().expect("no panic under this lock")
    }

    fn write(&self) -> RwLockWriteGuard<'_, Index> {
        self.index.write().expect("no panic under this lock")
    }

    /// The inode of a number.
    pub(crate) fn by_number(&self, number: u64) -> Option<Arc<Inode>> {
        self.by_number.get(&number).map(|inode| Arc::clone(&inode))
    }

    /// The inode that a file or directory is known by.
    pub(crate) fn by_id(&self, file_id: FileId) -> Option<Arc<Inode>> {
        let number = *self.read().by_id.get(&file_id)?;
        self.by_number(number)
    }

    /// All inodes that are being written.
    pub(crate) fn writing(&self) -> Vec<Arc<Inode>> {
        // Dropping an inode takes its state before the map, so no state is taken while the map is held.
        let all: Vec<_> = self.by_number.iter().map(|inode| Arc::clone(&inode)).collect();
        all.into_iter().filter(|inode| inode.writing().is_some()).collect()
    }

    /// The number that a look-up of `path` would show now.
    pub(crate) fn number(&self, path: &NsPath, file_id: FileId) -> u64 {
        let index = self.read();
        let known = index.by_path.get(path.as_str()).or_else(|| index.by_id.get(&file_id));
        known.copied().unwrap_or_else(|| number_of(file_id))
    }

    /// The inode that the kernel knows at a path.
    pub(crate) fn at(&self, path: &NsPath) -> Option<Arc<Inode>> {
        let number = *self.read().by_path.get(path.as_str())?;
        self.by_number(number)
    }

    /// Inodes known at and below a path, with their paths.
    pub(crate) fn subtree(&self, path: &NsPath) -> Vec<(Box<str>, Arc<Inode>)> {
        let known = self.read().subtree(path);
        known.into_iter().filter_map(|(path, number)| Some((path, self.by_number(number)?))).collect()
    }

    /// The inode of what is at `path`, counted as looked up once more.
    ///
    /// A file that is being written and not published stays at its path whatever the store shows there: its
    /// publication will replace that.
    pub(crate) fn remember(&self, path: &NsPath, entry: &Entry) -> Arc<Inode> {
        if let Some(inode) = self.recall(path, entry.file_id) {
            return inode;
        }
        let mut index = self.write();
        let holder = index.by_path.get(path.as_str()).copied().and_then(|number| self.by_number(number));
        if let Some(holder) = holder {
            let mut state = holder.lock();
            if state.writing.as_ref().is_some_and(|writing| !writing.is_in_place()) || holder.number == ROOT {
                state.lookups += 1;
                drop(state);
                return holder;
            }
            if state.is(entry) {
                state.lookups += 1;
                index.identify(holder.number, &mut state, entry.file_id);
                drop(state);
                return holder;
            }
            index.unlink(holder.number, &mut state);
        }
        let known = index.by_id.get(&entry.file_id).copied().and_then(|number| self.by_number(number));
        let inode = match known.filter(|inode| inode.kind == entry.kind && !entry.is_directory()) {
            Some(inode) => {
                let mut state = inode.lock();
                index.unlink(inode.number, &mut state);
                state.path = Some(path.clone());
                state.lookups += 1;
                drop(state);
                inode
            }
            None => self.insert(path, entry),
        };
        index.by_path.insert(path.as_str().into(), inode.number);
        index.by_id.insert(entry.file_id, inode.number);
        inode
    }

    /// The common case of [`InodeTable::remember`]: nothing changed since the last look-up.
    fn recall(&self, path: &NsPath, file_id: FileId) -> Option<Arc<Inode>> {
        let index = self.read();
        let inode = self.by_number(*index.by_id.get(&file_id)?)?;
        let mut state = inode.lock();
        if state.path.as_ref() != Some(path) {
            return None;
        }
        state.lookups += 1;
        drop(state);
        Some(inode)
    }

    fn insert(&self, path: &NsPath, entry: &Entry) -> Arc<Inode> {
        let mut number = number_of(entry.file_id);
        while self.by_number.contains_key(&number) || number <= ROOT {
            number = (number + 1) & NUMBER_MASK;
        }
        let inode = Arc::new(Inode::new(number, path, entry.file_id, entry.kind));
        self.by_number.insert(number, Arc::clone(&inode));
        self.count.inc();
        inode
    }

    /// Takes back `count` look-ups.
    pub(crate) fn forget(&self, number: u64, count: u64) {
        if number == ROOT {
            return;
        }
        let Some(inode) = self.by_number(number) else { return };
        let mut state = inode.lock();
        state.lookups = state.lookups.saturating_sub(count);
        let is_idle = state.is_idle();
        drop(state);
        if is_idle {
            self.drop_idle(&inode);
        }
    }

    /// Takes back one open handle; after the last the inode can be opened in another mode.
    pub(crate) fn closed(&self, inode: &Inode) {
        let mut state = inode.lock();
        let Some(open) = &mut state.open else { return };
        open.handles = open.handles.saturating_sub(1);
        if open.handles > 0 {
            return;
        }
        let last = state.open.take();
        let is_idle = state.is_idle();
        drop(state);
        // Closes files, so not under the lock.
        drop(last);
        if is_idle {
            self.drop_idle(inode);
        }
    }

    /// Drops an inode that nobody needs any more.
    fn drop_idle(&self, inode: &Inode) {
        let mut index = self.write();
        let mut state = inode.lock();
        if !state.is_idle() || inode.number == ROOT || self.by_number.remove(&inode.number).is_none() {
            return;
        }
        index.unlink(inode.number, &mut state);
        index.forget_id(inode.number, state.file_id);
        self.count.dec();
    }

    /// Takes an inode out of the tree: the next look-up of its file makes a new one.
    pub(crate) fn set_aside(&self, inode: &Inode) {
        let mut index = self.write();
        let mut state = inode.lock();
        index.unlink(inode.number, &mut state);
        index.forget_id(inode.number, state.file_id);
    }

    /// Notes that another file is at the inode's path now, or none.
    pub(crate) fn replaced(&self, inode: &Inode) {
        self.write().unlink(inode.number, &mut inode.lock());
    }

    /// Notes that an inode's content was published as a whole new file.
    pub(crate) fn rebind(&self, inode: &Inode, file_id: FileId) {
        self.write().identify(inode.number, &mut inode.lock(), file_id);
    }

    /// Whether an inode is what the namespace shows at its path.
    pub(crate) fn is_still(&self, inode: &Inode, entry: &Entry) -> bool {
        let (is_same, is_moved) = {
            let state = inode.lock();
            (state.is(entry), state.is_moved)
        };
        if is_same && is_moved {
            self.rebind(inode, entry.file_id);
        }
        is_same
    }

    /// Notes that `path` is gone with all below it.
    pub(crate) fn removed(&self, path: &NsPath) {
        let mut index = self.write();
        for (path, number) in index.subtree(path) {
            match self.by_number(number) {
                Some(inode) if number != ROOT => index.unlink(number, &mut inode.lock()),
                Some(_) => {}
                None => drop(index.by_path.remove(&path)),
            }
        }
    }

    /// Notes that `from` is now `to`, with all below it; what was at `to` is replaced.
    pub(crate) fn renamed(&self, from: &NsPath, to: &NsPath) {
        self.removed(to);
        let mut index = self.write();
        for (old, number) in index.subtree(from) {
            let Some(inode) = self.by_number(number) else { continue };
            let mut state = inode.lock();
            index.unlink(number, &mut state);
            let Ok(new) = NsPath::parse(&format!("{to}{}", &old[from.as_str().len()..])) else { continue };
            if let Some(writing) = &state.writing {
                writing.moved();
            }
            index.by_path.insert(new.as_str().into(), number);
            state.path = Some(new);
            state.is_moved = inode.kind == EntryKind::Directory;
        }
    }
}

/// Inode numbers keep 63 bits: programs read them as signed.
const NUMBER_MASK: u64 = u64::MAX >> 1;

fn number_of(file_id: FileId) -> u64 {
    file_id.as_u128() as u64 & NUMBER_MASK
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use forebay_core::{Attributes, ETag};

    use super::*;

    fn table() -> InodeTable {
        InodeTable::new(IntGauge::new("inodes", "help").expect("a good name"))
    }

    fn path(text: &str) -> NsPath {
        NsPath::parse(text).expect("valid path")
    }

    fn entry(id: &str, kind: EntryKind) -> Entry {
        let now = SystemTime::UNIX_EPOCH;
        Entry {
            file_id: FileId::of(&[id.as_bytes()]),
            kind,
            size_bytes: 0,
            version: Version::Strong("1".into()),
            etag: ETag::new("1"),
            modified: now,
            attributes: Attributes { mode: 0o644, uid: 0, gid: 0, accessed: now, changed: now },
            headers: None,
        }
    }

    #[test]
    fn one_file_keeps_its_number_and_another_gets_its_own() {
        let table = table();
        let first = table.remember(&path("/a"), &entry("x", EntryKind::File));
        assert_eq!(table.remember(&path("/a"), &entry("x", EntryKind::File)).number, first.number);
        let second = table.remember(&path("/a"), &entry("y", EntryKind::File));
        assert_ne!(second.number, first.number);
        assert_eq!(first.path(), None, "replaced");
        assert_eq!(second.path(), Some(path("/a")));
    }

    #[test]
    fn inode_is_dropped_when_every_lookup_is_taken_back() {
        let table = table();
        let number = table.remember(&path("/a"), &entry("x", EntryKind::File)).number;
        table.remember(&path("/a"), &entry("x", EntryKind::File));
        table.forget(number, 1);
        assert!(table.by_number(number).is_some());
        table.forget(number, 1);
        assert!(table.by_number(number).is_none() && table.at(&path("/a")).is_none());
        assert_eq!(table.count.get(), 1, "the root");
    }

    #[test]
    fn a_renamed_directory_takes_its_subtree_along_and_nothing_else() {
        let table = table();
        let directory = table.remember(&path("/m/a"), &entry("d", EntryKind::Directory));
        let inside = table.remember(&path("/m/a/b/c"), &entry("x", EntryKind::File));
        let beside = table.remember(&path("/m/a0"), &entry("y", EntryKind::File));
        let target = table.remember(&path("/m/z"), &entry("t", EntryKind::Directory));
        table.renamed(&path("/m/a"), &path("/m/z"));
        assert_eq!(directory.path(), Some(path("/m/z")));
        assert_eq!(inside.path(), Some(path("/m/z/b/c")));
        assert_eq!(beside.path(), Some(path("/m/a0")));
        assert_eq!(target.path(), None);
        assert_eq!(table.at(&path("/m/z/b/c")).map(|inode| inode.number), Some(inside.number));
    }

    #[test]
    fn a_file_found_at_another_path_moves_there() {
        let table = table();
        let inode = table.remember(&path("/a"), &entry("x", EntryKind::File));
        assert_eq!(table.remember(&path("/b"), &entry("x", EntryKind::File)).number, inode.number);
        assert_eq!(inode.path(), Some(path("/b")));
        assert!(table.at(&path("/a")).is_none());
    }

    #[test]
    fn a_directory_moved_with_its_parent_takes_the_identity_of_its_new_name() {
        let table = table();
        let inside = table.remember(&path("/a/x"), &entry("dir a/x", EntryKind::Directory));
        table.renamed(&path("/a"), &path("/b"));
        assert!(table.is_still(&inside, &entry("dir b/x", EntryKind::Directory)));
        assert!(!table.is_still(&inside, &entry("dir c", EntryKind::Directory)), "taken once");
        table.renamed(&path("/b"), &path("/c"));
        let found = table.remember(&path("/c/x"), &entry("dir c/x", EntryKind::Directory));
        assert_eq!((found.number, found.path()), (inside.number, Some(path("/c/x"))));
    }

    #[test]
    fn a_new_directory_does_not_take_the_inode_of_one_that_moved_away() {
        let table = table();
        let moved = table.remember(&path("/a/x"), &entry("dir a/x", EntryKind::Directory));
        let child = table.remember(&path("/a/x/y"), &entry("dir a/x/y", EntryKind::Directory));
        table.renamed(&path("/a"), &path("/b"));
        let new = table.remember(&path("/a/x"), &entry("dir a/x", EntryKind::Directory));
        assert_ne!(new.number, moved.number);
        assert_eq!(moved.path(), Some(path("/b/x")));
        assert_eq!(child.path(), Some(path("/b/x/y")));
        assert_eq!(table.at(&path("/b/x")).map(|inode| inode.number), Some(moved.number));
        let again = table.remember(&path("/b/x"), &entry("dir b/x", EntryKind::Directory));
        assert_eq!(again.number, moved.number, "and it keeps its own");
    }

    #[test]
    fn a_set_aside_inode_is_not_found_again() {
        let table = table();
        let old = table.remember(&path("/a"), &entry("x", EntryKind::File));
        table.set_aside(&old);
        let new = table.remember(&path("/a"), &entry("x", EntryKind::File));
        assert_ne!(new.number, old.number);
        table.forget(old.number, 1);
        assert_eq!(table.at(&path("/a")).map(|inode| inode.number), Some(new.number));
    }
}
