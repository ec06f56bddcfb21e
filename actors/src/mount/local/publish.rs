//! How a staged file becomes visible: dressed (headers, mode, owner), synced where asked for, and renamed into place
//! under the lock of its name. Parents are made on the way and marked as implicit, so that a delete of the object
//! can take them along, as on an object store.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use forebay_core::{Entry, Error, ErrorKind, Key, MkdirMode, Precondition, Publish, Result, Want};
use rustix::fs::{CWD, Gid, Mode, OFlags, RenameFlags, Uid};
use rustix::io::Errno;

use super::disk::{Disk, entry_of};
use super::entry::MODE_BITS;
use super::root::{checked, error};
use super::xattr;
use crate::staging::StagingFile;

/// Permission bits of a new file.
pub(super) const FILE_MODE: u32 = 0o644;

/// Permission bits of a new directory.
const DIRECTORY_MODE: u32 = 0o755;

/// How often parents are made again when a delete takes them away before they are used.
pub(super) const PARENT_ATTEMPTS: usize = 64;

impl Disk {
    /// Makes a staged file visible as `key`.
    pub(super) fn publish(&self, key: &Key, staged: &StagingFile, publish: &Publish) -> Result<Entry> {
        checked(key)?;
        staged.settle()?;
        let file = staged.file();
        self.dress(&file, publish)?;
        if publish.is_durable {
            file.sync_all()?;
        }
        let parent = match self.put_in_place(key, staged, publish) {
            Ok(parent) => parent,
            Err(e) => {
                self.prune(key);
                return Err(e);
            }
        };
        staged.moved();
        if publish.is_durable {
            rustix::fs::fsync(&parent).map_err(error)?;
        }
        Ok(entry_of(file)?.0)
    }

    /// Gives a new file its headers, owner and mode.
    fn dress(&self, file: &Arc<File>, publish: &Publish) -> Result<()> {
        if let (Some(headers), true) = (&publish.headers, self.keeps_xattrs) {
            xattr::set_headers(file, headers)?;
        }
        set_owner(file, publish)?;
        let mode = Mode::from_raw_mode(publish.mode.unwrap_or(FILE_MODE) & MODE_BITS);
        rustix::fs::fchmod(file, mode).map_err(error)
    }

    fn put_in_place(&self, key: &Key, staged: &StagingFile, publish: &Publish) -> Result<OwnedFd> {
        let flags = match publish.condition {
            Precondition::Absent => RenameFlags::NOREPLACE,
            Precondition::None | Precondition::Matches(_) => RenameFlags::empty(),
        };
        for _ in 0..PARENT_ATTEMPTS {
            let parent = self.make_parent(key, publish.is_durable)?;
            let _lock = self.locks.one(key);
            self.check(key, &publish.condition)?;
            match rustix::fs::renameat_with(CWD, staged.path(), &parent, key.name(), flags) {
                Ok(()) => return Ok(parent),
                // The parent was removed since it was opened.
                Err(Errno::NOENT) => {}
                Err(Errno::EXIST) => return Err(exists_already()),
                Err(e) => return Err(error(e)),
            }
        }
        Err(Error::new(ErrorKind::Busy, "the parent directory was removed again and again"))
    }

    /// Whether `condition` holds for what is there now; call it under the lock of `key`.
    pub(super) fn check(&self, key: &Key, condition: &Precondition) -> Result<()> {
        let tag = match condition {
            Precondition::None => return Ok(()),
            Precondition::Absent => None,
            Precondition::Matches(tag) => Some(tag),
        };
        match (self.stat(key, Want::Any), tag) {
            (Ok(entry), _) if entry.is_directory() => Err(error(Errno::ISDIR)),
            (Ok(entry), Some(tag)) if entry.etag == *tag => Ok(()),
            (Ok(_), Some(_)) => Err(Error::new(ErrorKind::PreconditionFailed, "the file has another tag")),
            (Ok(_), None) => Err(exists_already()),
            (Err(e), None) if e.kind() == ErrorKind::NotFound => Ok(()),
            (Err(e), Some(_)) if e.kind() == ErrorKind::NotFound => {
                Err(Error::new(ErrorKind::PreconditionFailed, "there is no file that the tag could match"))
            }
            (Err(e), _) => Err(e),
        }
    }

    /// Opens the directory that will hold `key`, making what is missing of it.
    pub(super) fn make_parent(&self, key: &Key, is_durable: bool) -> Result<OwnedFd> {
        self.make_directory(&key.parent().unwrap_or_else(Key::root), is_durable)
    }

    fn make_directory(&self, key: &Key, is_durable: bool) -> Result<OwnedFd> {
        let is_missing = |e: &Error| e.kind() == ErrorKind::NotFound;
        for _ in 0..PARENT_ATTEMPTS {
            match self.root.directory(key.as_str()) {
                Err(e) if is_missing(&e) && !key.is_root() => {}
                answer => return answer,
            }
            let ends = key.as_str().match_indices('/').map(|(slash, _)| slash).chain([key.as_str().len()]);
            for end in ends {
                match self.make_one(&Key::parse(&key.as_str()[..end])?, is_durable) {
                    // Its parent was removed since it was made: begin again.
                    Err(e) if is_missing(&e) => break,
                    answer => answer?,
                }
            }
        }
        Err(Error::new(
            ErrorKind::NotDirectory,
            "an ancestor is a link to nothing, or removed again and again",
        ))
    }

    /// Makes a directory, as an implicit one, unless something of its name is there.
    fn make_one(&self, key: &Key, is_durable: bool) -> Result<()> {
        let parent = self.root.parent(key)?;
        let _lock = self.locks.one(key);
        match rustix::fs::mkdirat(&parent, key.name(), Mode::from_raw_mode(DIRECTORY_MODE)) {
            Err(Errno::EXIST) => return Ok(()),
            answer => answer.map_err(error)?,
        }
        if self.keeps_xattrs {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let made = rustix::fs::openat(&parent, key.name(), flags, Mode::empty()).map_err(error)?;
            xattr::set_implicit(made)?;
        }
        if is_durable {
            rustix::fs::fsync(&parent).map_err(error)?;
        }
        Ok(())
    }

    /// Makes a directory that exists by itself; parents made on the way exist through it only.
    pub(super) fn mkdir(&self, key: &Key, mode: MkdirMode) -> Result<Entry> {
        checked(key)?;
        if key.is_root() {
            return match mode {
                MkdirMode::New => Err(error(Errno::EXIST)),
                MkdirMode::Parents => self.stat(key, Want::Directory),
            };
        }
        for _ in 0..PARENT_ATTEMPTS {
            let parent = match mode {
                MkdirMode::New => self.root.parent(key)?,
                MkdirMode::Parents => self.make_parent(key, false)?,
            };
            let _lock = self.locks.one(key);
            match (rustix::fs::mkdirat(&parent, key.name(), Mode::from_raw_mode(DIRECTORY_MODE)), mode) {
                (Ok(()), _) => {}
                (Err(Errno::EXIST), MkdirMode::Parents) => match self.root.directory(key.as_str()) {
                    Ok(directory) => xattr::set_explicit(directory)?,
                    Err(e) if e.kind() == ErrorKind::NotDirectory => return Err(error(Errno::EXIST)),
                    Err(e) => return Err(e),
                },
                (Err(Errno::NOENT), MkdirMode::Parents) => continue,
                (Err(e), _) => return Err(error(e)),
            }
            return self.stat(key, Want::Directory);
        }
        Err(Error::new(ErrorKind::Busy, "the parent directory was removed again and again"))
    }
}

/// Gives a new file its owner.
pub(super) fn set_owner(file: impl AsFd, publish: &Publish) -> Result<()> {
    let Some((uid, gid)) = publish.owner else { return Ok(()) };
    rustix::fs::fchown(file, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid))).map_err(error)
}

/// Appends whole files to an empty one; inside the kernel, and without copying where the file system shares blocks.
///
/// # Errors
/// `Stale` when a source is shorter than it was.
pub(super) fn concatenate(sources: &[(Arc<File>, u64)], target: &File) -> Result<()> {
    let mut target = target;
    for (source, len) in sources {
        if io::copy(&mut io::Read::take(&**source, *len), &mut target)? != *len {
            return Err(Error::new(ErrorKind::Stale, "a source became shorter while it was copied"));
        }
    }
    Ok(())
}

fn exists_already() -> Error {
    Error::new(ErrorKind::PreconditionFailed, "the file exists already")
}
