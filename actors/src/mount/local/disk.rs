//! The operations of a local mount as plain blocking functions. [`super::LocalMount`] decides which of them run
//! inline (lookups, which take microseconds) and which off the runtime's workers.

use std::fs::File;
use std::hash::{BuildHasher, RandomState};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::SystemTime;

use bytes::Bytes;
use forebay_core::{
    AttributeChange, Clock, Entry, EntryKind, Error, ErrorKind, Headers, Key, RenameMode, Result, Usage,
    Want, XattrMode,
};
use prometheus::IntCounter;
use rustix::fs::{
    AtFlags, CWD, Gid, Mode, OFlags, RenameFlags, Statx, Timespec, Timestamps, UTIME_OMIT, Uid,
};
use rustix::io::Errno;

use super::entry::{MODE_BITS, entry, kind};
use super::file::LocalFile;
use super::root::{OWN_DIRECTORY, Root, checked, error, make_root, proc_path, stat};
use super::snapshot::Snapshots;
use super::xattr;
use crate::staging::Staging;

/// How many locks all keys of a mount share.
const LOCKS: usize = 256;

/// File systems behind which a network or another process is: NFS, SMB (three kinds), FUSE, Ceph, 9P, AFS (two kinds),
/// Lustre, GPFS, `BeeGFS`. From Linux' `magic.h` and `statfs(2)`.
const REMOTE: [u64; 12] = [
    0x6969,
    0x517b,
    0xff53_4d42,
    0xfe53_4d42,
    0x6573_5546,
    0x00c3_6400,
    0x0102_1997,
    0x5346_414f,
    0x6b41_4653,
    0x0bd0_0bd0,
    0x4750_4653,
    0x1983_0326,
];

/// The kernel's magic numbers have 32 bits, the field that holds them is signed and as long as the machine's words.
const MAGIC_BITS: u64 = 0xffff_ffff;

/// A local directory with what is needed to change it.
pub(super) struct Disk {
    pub(super) root: Root,
    pub(super) locks: Locks,
    pub(super) snapshots: Snapshots,
    /// Whether any call may have to wait for another machine or process.
    pub(super) is_remote: bool,
    pub(super) clock: Clock,
    /// Whether S3 headers and implicit directories can be told.
    pub(super) keeps_xattrs: bool,
    /// `None` on read-only mounts: nothing is written there, not even by us.
    changes: Option<Changes>,
}

/// Where changes are prepared.
pub(super) struct Changes {
    pub(super) staging: Staging,
    /// Trees renamed out of sight on their way to deletion; emptied at start.
    pub(super) doomed: PathBuf,
}

/// Makes comparing and changing one name atomic among this gateway's writers. Held for a few system calls, in
/// blocking tasks only; two at a time only through [`Locks::both`].
pub(super) struct Locks {
    stripes: [Mutex<()>; LOCKS],
    hasher: RandomState,
}

impl Locks {
    fn new() -> Self {
        Self { stripes: [const { Mutex::new(()) }; LOCKS], hasher: RandomState::new() }
    }

    fn stripe(&self, key: &Key) -> usize {
        self.hasher.hash_one(key) as usize % LOCKS
    }

    fn take(&self, stripe: usize) -> MutexGuard<'_, ()> {
        self.stripes[stripe].lock().expect("no panic under this lock")
    }

    pub(super) fn one(&self, key: &Key) -> MutexGuard<'_, ()> {
        self.take(self.stripe(key))
    }

    fn both(&self, a: &Key, b: &Key) -> (MutexGuard<'_, ()>, Option<MutexGuard<'_, ()>>) {
        let (a, b) = (self.stripe(a), self.stripe(b));
        let first = self.take(a.min(b));
        (first, (a != b).then(|| self.take(a.max(b))))
    }
}

impl Disk {
    pub(super) fn open(path: &Path, staging: Option<(u64, &str)>, clock: Clock) -> Result<Self> {
        let at = |e: Error| e.at("open", path.display());
        let Some((limit_bytes, mount)) = staging else {
            let root = Root::open(path).map_err(at)?;
            return Self::new(root, true, None, clock);
        };
        make_root(path)?;
        let own = path.join(OWN_DIRECTORY);
        let staging = Staging::open(&own, limit_bytes, mount)?;
        let doomed = own.join("doomed");
        if let Err(e) = std::fs::remove_dir_all(&doomed)
            && e.kind() != std::io::ErrorKind::NotFound
        {
            tracing::warn!(path = %doomed.display(), error = %e, "deleted trees still take space");
        }
        std::fs::create_dir_all(&doomed).map_err(|e| at(e.into()))?;
        let root = Root::open(path).map_err(at)?;
        let keeps_xattrs = xattr::are_kept(root.directory(OWN_DIRECTORY)?).map_err(at)?;
        Self::new(root, keeps_xattrs, Some(Changes { staging, doomed }), clock)
    }

    fn new(root: Root, keeps_xattrs: bool, changes: Option<Changes>, clock: Clock) -> Result<Self> {
        let file_system = rustix::fs::fstatfs(root.fd()).map_err(error)?.f_type;
        Ok(Self {
            root,
            locks: Locks::new(),
            snapshots: Snapshots::default(),
            is_remote: REMOTE.contains(&(file_system as u64 & MAGIC_BITS)),
            clock,
            keeps_xattrs,
            changes,
        })
    }

    pub(super) fn changes(&self) -> Result<&Changes> {
        self.changes.as_ref().ok_or_else(|| Error::new(ErrorKind::ReadOnly, "the mount is read-only"))
    }

    /// Looks at an entry. S3 headers come with it where a file is asked for as such ([`Want::File`]): the others
    /// who ask have no use for them, and reading them takes as long as the rest.
    pub(super) fn stat(&self, key: &Key, want: Want) -> Result<Entry> {
        let path = checked(key)?;
        if want == Want::File {
            match self.root.at(path, OFlags::RDONLY, Mode::empty()) {
                Ok(fd) => return wanted(entry_of(&fd)?.0, want),
                // Its attributes may be looked at all the same.
                Err(e) if e.kind() == ErrorKind::AccessDenied => {}
                Err(e) => return Err(e),
            }
        }
        let (_, stat) = match want {
            Want::Unfollowed => self.root.look_unfollowed(path)?,
            Want::File | Want::Directory | Want::Any => self.root.look(path)?,
        };
        wanted(entry(&stat, None)?, want)
    }

    /// Opens a file; headers as for [`Disk::stat`], the counter as for [`LocalFile::new`].
    pub(super) fn open_file(&self, key: &Key, want: Want, served_bytes: &IntCounter) -> Result<LocalFile> {
        let follow = if want == Want::Unfollowed { OFlags::NOFOLLOW } else { OFlags::empty() };
        let fd = match self.root.at(checked(key)?, OFlags::RDONLY | follow, Mode::empty()) {
            Err(e) if want == Want::Unfollowed && e.kind() == ErrorKind::InvalidName => {
                return Err(Error::new(ErrorKind::Stale, "this is a symbolic link by now").because(e));
            }
            answer => answer?,
        };
        let stat = stat(&fd)?;
        let headers = if want == Want::File { headers_of(&fd, &stat)? } else { None };
        let entry = wanted(entry(&stat, headers)?, want)?;
        if entry.is_directory() {
            return Err(Error::new(ErrorKind::IsDirectory, "this is a directory"));
        }
        Ok(LocalFile::new(File::from(fd), (entry, stat), self.is_remote, served_bytes.clone()))
    }

    /// Moves within the mount. The source's parent stays a directory.
    pub(super) fn rename(&self, from: &Key, to: &Key, mode: RenameMode) -> Result<()> {
        checked(from)?;
        checked(to)?;
        if from.is_root() || to.is_root() || to.is_below(from) {
            return Err(Error::new(ErrorKind::InvalidArgument, "a directory cannot be moved into itself"));
        }
        if from == to {
            return self.stat(from, Want::Unfollowed).map(drop);
        }
        let (source, destination) = (self.root.parent(from)?, self.root.parent(to)?);
        let flags = match mode {
            RenameMode::NoReplace => RenameFlags::NOREPLACE,
            RenameMode::Replace => RenameFlags::empty(),
        };
        let done = {
            let _locks = self.locks.both(from, to);
            rustix::fs::renameat_with(&source, from.name(), &destination, to.name(), flags)
        };
        match (done, mode) {
            (Ok(()), _) => self.keep_parent(from),
            (Err(Errno::EXIST), RenameMode::Replace) => Err(error(Errno::NOTEMPTY)),
            (Err(e), _) => Err(error(e)),
        }
    }

    /// Waits until the names in a directory are on the disk.
    pub(super) fn sync_directory(&self, key: &Key) -> Result<()> {
        rustix::fs::fsync(self.root.directory(checked(key)?)?).map_err(error)
    }

    pub(super) fn set_attributes(&self, key: &Key, change: AttributeChange) -> Result<Entry> {
        let (fd, _) = self.root.look(checked(key)?)?;
        change_attributes(&fd, change)
    }

    /// As [`Disk::set_attributes`], of a link itself.
    pub(super) fn set_link_attributes(&self, key: &Key, change: AttributeChange) -> Result<Entry> {
        let (fd, _) = self.root.look_unfollowed(checked(key)?)?;
        change_attributes(&fd, change)
    }

    /// Makes a symbolic link. Its parent must be there.
    pub(super) fn symlink(&self, key: &Key, target: &[u8], (uid, gid): (u32, u32)) -> Result<Entry> {
        checked(key)?;
        let parent = self.root.parent(key)?;
        let _lock = self.locks.one(key);
        rustix::fs::symlinkat(target, &parent, key.name()).map_err(error)?;
        let (uid, gid) = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
        if let Err(e) = rustix::fs::chownat(&parent, key.name(), uid, gid, AtFlags::SYMLINK_NOFOLLOW) {
            rustix::fs::unlinkat(&parent, key.name(), AtFlags::empty()).map_err(error)?;
            return Err(error(e));
        }
        self.stat(key, Want::Unfollowed)
    }

    /// The target of a symbolic link.
    pub(super) fn read_link(&self, key: &Key) -> Result<Bytes> {
        let (fd, stat) = self.root.look_unfollowed(checked(key)?)?;
        if kind(&stat) != Some(EntryKind::Link) {
            return Err(Error::new(ErrorKind::InvalidArgument, "not a symbolic link"));
        }
        let target = rustix::fs::readlinkat(fd, c"", Vec::new()).map_err(error)?;
        Ok(Bytes::from(target.into_bytes()))
    }

    pub(super) fn xattrs(&self, key: &Key) -> Result<Vec<(String, Bytes)>> {
        let (fd, _) = self.root.look(checked(key)?)?;
        xattr::all(&fd)
    }

    pub(super) fn set_xattr(
        &self,
        key: &Key,
        name: &str,
        value: Option<&[u8]>,
        mode: XattrMode,
    ) -> Result<()> {
        let (fd, _) = self.root.look(checked(key)?)?;
        xattr::set(&fd, name, value, mode)
    }

    pub(super) fn usage(&self) -> Result<Usage> {
        let usage = rustix::fs::fstatvfs(self.root.fd()).map_err(error)?;
        Ok(Usage {
            capacity_bytes: usage.f_blocks * usage.f_frsize,
            free_bytes: usage.f_bavail * usage.f_frsize,
            files: usage.f_files,
            free_files: usage.f_favail,
        })
    }
}

fn change_attributes(fd: impl AsFd, change: AttributeChange) -> Result<Entry> {
    let path = proc_path(&fd);
    if change.uid.is_some() || change.gid.is_some() {
        let (uid, gid) = (change.uid.map(Uid::from_raw), change.gid.map(Gid::from_raw));
        rustix::fs::chownat(CWD, &*path, uid, gid, AtFlags::empty()).map_err(error)?;
    }
    if let Some(mode) = change.mode {
        let mode = Mode::from_raw_mode(mode & MODE_BITS);
        rustix::fs::chmodat(CWD, &*path, mode, AtFlags::empty()).map_err(error)?;
    }
    if change.accessed.is_some() || change.modified.is_some() {
        let times = Timestamps {
            last_access: timespec(change.accessed),
            last_modification: timespec(change.modified),
        };
        rustix::fs::utimensat(CWD, &*path, &times, AtFlags::empty()).map_err(error)?;
    }
    entry(&stat(&fd)?, None)
}

/// The entry of an open file or directory, with its headers.
pub(super) fn entry_of(fd: impl AsFd) -> Result<(Entry, Statx)> {
    let stat = stat(&fd)?;
    Ok((entry(&stat, headers_of(&fd, &stat)?)?, stat))
}

fn headers_of(fd: impl AsFd, stat: &Statx) -> Result<Option<Arc<Headers>>> {
    if kind(stat) == Some(EntryKind::File) { xattr::headers(fd) } else { Ok(None) }
}

fn wanted(entry: Entry, want: Want) -> Result<Entry> {
    match (entry.kind, want) {
        (_, Want::Any | Want::Unfollowed)
        | (EntryKind::File, Want::File)
        | (EntryKind::Directory, Want::Directory) => Ok(entry),
        (EntryKind::File | EntryKind::Link, Want::Directory) => {
            Err(Error::new(ErrorKind::NotFound, "there is a file of this name, not a directory"))
        }
        (EntryKind::Directory | EntryKind::Link, Want::File) => {
            Err(Error::new(ErrorKind::NotFound, "there is a directory of this name, not a file"))
        }
    }
}

fn timespec(time: Option<SystemTime>) -> Timespec {
    let Some(time) = time else { return Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT } };
    match time.duration_since(SystemTime::UNIX_EPOCH) {
        Ok(since) => Timespec { tv_sec: since.as_secs() as i64, tv_nsec: since.subsec_nanos().into() },
        Err(e) => {
            let before = e.duration();
            let borrow = u32::from(before.subsec_nanos() > 0);
            let nanos = borrow * 1_000_000_000 - before.subsec_nanos();
            Timespec { tv_sec: -(before.as_secs() as i64) - i64::from(borrow), tv_nsec: nanos.into() }
        }
    }
}
