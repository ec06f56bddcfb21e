//! Deletion by mode, and what becomes of the parents: an S3 object takes the parents along that exist only through
//! it; any other delete leaves its parent a directory in its own right.

use std::fs;

use forebay_core::{DeleteMode, ErrorKind, Key, Result, Want};
use rustix::fs::{AtFlags, CWD, RenameFlags};
use rustix::io::Errno;
use uuid::Uuid;

use super::disk::Disk;
use super::root::{checked, error};
use super::xattr;

impl Disk {
    /// Removes what `mode` allows; `false` if there was none. Links are removed, never followed. As an object there is
    /// only what S3 shows: neither a link to a directory nor one to nothing.
    pub(super) fn delete(&self, key: &Key, mode: DeleteMode) -> Result<bool> {
        checked(key)?;
        let want = match mode {
            DeleteMode::Object | DeleteMode::Marker => Want::Any,
            DeleteMode::File | DeleteMode::EmptyDirectory | DeleteMode::Tree => Want::Unfollowed,
        };
        let is_directory = match (self.stat(key, want), mode) {
            (Ok(entry), _) => entry.is_directory(),
            (Err(e), _) if e.kind() == ErrorKind::NotFound => return Ok(false),
            (Err(e), DeleteMode::Object | DeleteMode::Marker) if e.kind() == ErrorKind::NotDirectory => {
                return Ok(false);
            }
            (Err(e), _) => return Err(e),
        };
        let removed = match mode {
            DeleteMode::Object if is_directory => Ok(false),
            DeleteMode::File if is_directory => Err(error(Errno::ISDIR)),
            DeleteMode::Object | DeleteMode::File => found(self.unlink(key, AtFlags::empty())),
            DeleteMode::EmptyDirectory => found(self.unlink(key, AtFlags::REMOVEDIR)),
            DeleteMode::Marker => self.remove_marker(key),
            DeleteMode::Tree => match self.unlink(key, AtFlags::empty()) {
                Err(e) if e.kind() == ErrorKind::IsDirectory => self.remove_tree(key),
                answer => found(answer),
            },
        }?;
        if removed {
            match mode {
                DeleteMode::Object | DeleteMode::Marker => self.prune(key),
                DeleteMode::File | DeleteMode::EmptyDirectory | DeleteMode::Tree => self.keep_parent(key)?,
            }
        }
        Ok(removed)
    }

    fn unlink(&self, key: &Key, flags: AtFlags) -> Result<()> {
        let parent = self.root.parent(key)?;
        let _lock = self.locks.one(key);
        match rustix::fs::unlinkat(parent, key.name(), flags) {
            Err(Errno::EXIST) => Err(error(Errno::NOTEMPTY)),
            answer => answer.map_err(error),
        }
    }

    /// Takes a directory's own existence; while it has children, it goes on existing through them.
    fn remove_marker(&self, key: &Key) -> Result<bool> {
        match self.unlink(key, AtFlags::REMOVEDIR) {
            Err(e) if e.kind() == ErrorKind::NotDirectory => Ok(false),
            Err(e) if e.kind() == ErrorKind::NotEmpty => {
                let _lock = self.locks.one(key);
                let directory = self.root.directory(key.as_str())?;
                let was_explicit = !xattr::is_implicit(&directory)?;
                if was_explicit && self.keeps_xattrs {
                    xattr::set_implicit(&directory)?;
                }
                Ok(was_explicit)
            }
            answer => found(answer),
        }
    }

    /// Renames the tree out of sight, which is atomic, and then frees its space.
    fn remove_tree(&self, key: &Key) -> Result<bool> {
        let parent = self.root.parent(key)?;
        let doomed = self.changes()?.doomed.join(Uuid::new_v4().simple().to_string());
        {
            let _lock = self.locks.one(key);
            match rustix::fs::renameat_with(&parent, key.name(), CWD, &doomed, RenameFlags::NOREPLACE) {
                Err(Errno::NOENT) => return Ok(false),
                answer => answer.map_err(error)?,
            }
        }
        if let Err(e) = fs::remove_dir_all(&doomed).or_else(|e| match e.kind() {
            std::io::ErrorKind::NotADirectory => fs::remove_file(&doomed),
            _ => Err(e),
        }) {
            tracing::warn!(path = %doomed.display(), error = %e, "a deleted tree takes space until the next start");
        }
        Ok(true)
    }

    /// Removes the empty implicit parents of what is gone. The delete itself is done, so trouble is only logged.
    pub(super) fn prune(&self, key: &Key) {
        let mut next = key.parent();
        while let Some(directory) = next.take().filter(|directory| !directory.is_root()) {
            match self.prune_one(&directory) {
                Ok(true) => next = directory.parent(),
                Ok(false) => {}
                Err(e) => tracing::warn!(key = %directory, error = %e, "an implicit directory stays"),
            }
        }
    }

    fn prune_one(&self, key: &Key) -> Result<bool> {
        // `mkdir` takes this lock, too, to make the directory explicit.
        let _lock = self.locks.one(key);
        let directory = match self.root.directory(key.as_str()) {
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(true),
            Err(e) if e.kind() == ErrorKind::NotDirectory => return Ok(false),
            answer => answer?,
        };
        let parent = self.root.parent(key)?;
        if !xattr::is_implicit(&directory)? {
            return Ok(false);
        }
        match rustix::fs::unlinkat(parent, key.name(), AtFlags::REMOVEDIR) {
            Ok(()) | Err(Errno::NOENT) => Ok(true),
            Err(Errno::NOTEMPTY | Errno::EXIST | Errno::NOTDIR) => Ok(false),
            Err(e) => Err(error(e)),
        }
    }

    /// Makes the parent of what is gone a directory in its own right.
    pub(super) fn keep_parent(&self, key: &Key) -> Result<()> {
        match self.root.parent(key) {
            Ok(parent) => xattr::set_explicit(parent),
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(()),
            Err(e) => Err(e),
        }
    }
}

fn found(answer: Result<()>) -> Result<bool> {
    match answer {
        Ok(()) => Ok(true),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(false),
        Err(e) => Err(e),
    }
}
