//! Names to inodes, and the attributes of inodes.

use std::ffi::OsStr;
use std::sync::Arc;
use std::time::Duration;

use forebay_core::{Entry, EntryKind, Error, ErrorKind, NsPath, OpenFile, Permission, Want};
use fuser::{AccessFlags, Errno, FileAttr};

use crate::attr;
use crate::error::Failure;
use crate::handle::Source;
use crate::inode::{Inode, ROOT};
use crate::server::Server;

/// Longest name of one directory entry on Linux.
const NAME_BYTES_MAX: usize = 255;

/// How often a version is looked for that is still there when it is read.
const KEEP_ATTEMPTS: usize = 4;

/// Attributes, and how long the kernel may trust them.
pub(crate) struct Found {
    pub(crate) attr: FileAttr,
    pub(crate) ttl: Duration,
}

/// A name as the namespace takes it.
pub(crate) fn checked(name: &OsStr) -> Result<&str, Failure> {
    if name.len() > NAME_BYTES_MAX {
        return Err(Failure::Refused(Errno::ENAMETOOLONG, "the name is longer than 255 bytes"));
    }
    name.to_str().ok_or(Failure::Refused(Errno::EILSEQ, "the name is not UTF-8"))
}

impl Server {
    /// The path of `name` in a directory.
    pub(crate) fn child(&self, parent: u64, name: &OsStr) -> Result<NsPath, Failure> {
        Ok(self.path(parent)?.join(checked(name)?)?)
    }

    /// What the namespace shows at a path, from memory where it can.
    pub(crate) async fn stat(&self, path: &NsPath) -> Result<Entry, Failure> {
        match self.namespace.try_stat(&self.context, path, Want::Unfollowed) {
            Some(answer) => Ok(answer?),
            None => Ok(self.namespace.stat(&self.context, path, Want::Unfollowed).await?),
        }
    }

    /// Looks a name up and counts the look-up.
    pub(crate) async fn lookup(&self, parent: u64, name: &OsStr) -> Result<Found, Failure> {
        let path = self.child(parent, name)?;
        if let Some(writing) = self.table.at(&path).and_then(|inode| inode.writing())
            && !writing.is_in_place()
        {
            // The store may not know it yet, or shows what this write will replace.
            let (entry, metadata) = writing.attributes()?;
            let inode = self.table.remember(&path, &entry);
            let attr = attr::of_written(inode.number, &entry, &metadata, self.settings.owner);
            return Ok(Found { attr, ttl: Duration::ZERO });
        }
        if self.repeats.is_expected(&path)
            && let Some(file) = self.keep(&path).await
        {
            let inode = self.table.remember(&path, file.entry());
            let found = self.found(&inode, file.entry());
            inode.lock().pinned = Some(file);
            return Ok(found);
        }
        let entry = self.stat(&path).await?;
        Ok(self.found(&self.table.remember(&path, &entry), &entry))
    }

    /// A version of a file that is replaced again and again, opened and, if it is small, held.
    async fn keep(&self, path: &NsPath) -> Option<Arc<dyn OpenFile>> {
        for _ in 0..KEEP_ATTEMPTS {
            let file = self.namespace.open(&self.context, path, Want::Unfollowed).await.ok()?;
            match self.secured(file).await {
                Ok(file) => return Some(file),
                Err(e) if e.errno() == Errno::ESTALE => {}
                Err(_) => return None,
            }
        }
        None
    }

    /// The attributes of an inode whose entry was just read.
    pub(crate) fn found(&self, inode: &Inode, entry: &Entry) -> Found {
        let owner = self.settings.owner;
        if let Some(writing) = inode.writing()
            && let Ok(metadata) = writing.file().metadata()
        {
            let attr = attr::of_written(inode.number, entry, &metadata, owner);
            return Found { attr, ttl: Duration::ZERO };
        }
        Found { attr: attr::of_entry(inode.number, entry, owner), ttl: self.settings.attr_ttl }
    }

    /// The attributes of an inode, also of one that only open handles still reach.
    pub(crate) async fn getattr(&self, number: u64) -> Result<Found, Failure> {
        let inode = self.inode(number)?;
        let Some(path) = inode.path() else { return self.unlinked(&inode) };
        if let Some(writing) = inode.writing()
            && !writing.is_in_place()
        {
            let (entry, _) = writing.attributes()?;
            return Ok(self.found(&inode, &entry));
        }
        match self.stat(&path).await {
            Ok(entry) if number == ROOT || self.table.is_still(&inode, &entry) => {
                Ok(self.found(&inode, &entry))
            }
            Ok(_) => {
                self.table.replaced(&inode);
                self.unlinked(&inode)
            }
            Err(Failure::Namespace(e)) if e.kind() == ErrorKind::NotFound && inode.lock().open.is_some() => {
                self.unlinked(&inode)
            }
            Err(e) => Err(e),
        }
    }

    /// The attributes of a file that has no name any more.
    fn unlinked(&self, inode: &Arc<Inode>) -> Result<Found, Failure> {
        let Some(source) = inode.lock().open.as_ref().map(|open| open.source.clone()) else {
            return Err(Failure::stale());
        };
        let owner = self.settings.owner;
        let attr = match (source, inode.writing()) {
            (_, Some(writing)) | (Source::Written(writing), None) => {
                let (entry, metadata) = writing.attributes()?;
                attr::of_written(inode.number, &entry, &metadata, owner)
            }
            (Source::Stored(file), None) => attr::of_entry(inode.number, file.entry(), owner),
        };
        Ok(Found { attr: FileAttr { nlink: 0, ..attr }, ttl: Duration::ZERO })
    }

    /// Whether the owner of the mount may do what `access(2)` asks about.
    pub(crate) async fn access(&self, number: u64, mask: AccessFlags) -> Result<(), Failure> {
        let path = self.path(number)?;
        if mask.contains(AccessFlags::W_OK) {
            if !self.context.principal.may(Permission::Write, &path) {
                return Err(Error::new(ErrorKind::AccessDenied, "no grant to write here").into());
            }
            if self.mount(&path).is_some_and(|mount| mount.read_only) {
                return Err(Error::new(ErrorKind::ReadOnly, "the mount is read-only").into());
            }
        }
        if mask.contains(AccessFlags::X_OK) && self.inode(number)?.kind != EntryKind::Directory {
            let found = self.getattr(number).await?;
            if found.attr.perm & 0o111 == 0 {
                return Err(Error::new(ErrorKind::AccessDenied, "the file is not executable").into());
            }
        }
        Ok(())
    }
}
