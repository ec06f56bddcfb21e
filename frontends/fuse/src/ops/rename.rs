//! Moving and removing.
//!
//! A staged write publishes under the path it began with, so it is published before its file moves, and holds still
//! (its turn is taken) until it has moved.

use std::ffi::OsStr;

use forebay_core::{DeleteMode, Error, ErrorKind, NsPath, RenameMode};
use fuser::{Errno, RenameFlags};

use crate::error::Failure;
use crate::inode::Turn;
use crate::server::Server;
use crate::writing::Reach;

impl Server {
    /// Renames within a mount.
    pub(crate) async fn rename(
        &self,
        (parent, name): (u64, &OsStr),
        (new_parent, new_name): (u64, &OsStr),
        flags: RenameFlags,
    ) -> Result<(), Failure> {
        let mode = if flags.is_empty() {
            RenameMode::Replace
        } else if flags == RenameFlags::RENAME_NOREPLACE {
            RenameMode::NoReplace
        } else {
            return Err(Failure::Refused(Errno::EINVAL, "exchange and whiteout are not supported"));
        };
        let from = self.child(parent, name)?;
        let to = self.child(new_parent, new_name)?;
        if from == to {
            return Ok(());
        }
        let target_is_new = self.is_new(&to);
        if target_is_new && mode == RenameMode::NoReplace {
            return Err(Error::new(ErrorKind::AlreadyExists, "the target exists").into());
        }
        let turns = if to < from {
            let target = self.turn_of_target(&to).await;
            (self.publish_subtree(&from).await?, target)
        } else {
            let turns = self.publish_subtree(&from).await?;
            (turns, self.turn_of_target(&to).await)
        };
        self.namespace.rename(&self.context, &from, &to, mode).await?;
        self.table.renamed(&from, &to);
        drop(turns);
        Ok(())
    }

    /// Keeps a staged write at `to` from publishing over what is moved there: once the turn is given back it has no
    /// path any more.
    async fn turn_of_target(&self, to: &NsPath) -> Option<Turn> {
        let inode = self.table.at(to)?;
        inode.writing().filter(|writing| !writing.is_in_place())?;
        Some(inode.turn().await)
    }

    /// Publishes all staged writes at and below a path, and keeps them from publishing again until their turns are
    /// given back. Only renames take more than one turn, all in the order of paths.
    async fn publish_subtree(&self, path: &NsPath) -> Result<Vec<Turn>, Failure> {
        let mut turns = Vec::new();
        for (_, inode) in self.table.subtree(path) {
            let Some(writing) = inode.writing().filter(|writing| !writing.is_in_place()) else { continue };
            let turn = inode.turn().await;
            self.publish(&inode, &writing, Reach::Visible, &turn).await?;
            turns.push(turn);
        }
        Ok(turns)
    }

    /// Whether a file at `path` is known here only.
    pub(crate) fn is_new(&self, path: &NsPath) -> bool {
        self.table.at(path).and_then(|inode| inode.writing()).is_some_and(|writing| writing.is_new())
    }

    /// Removes a file. Open handles keep it.
    pub(crate) async fn unlink(&self, parent: u64, name: &OsStr) -> Result<(), Failure> {
        let path = self.child(parent, name)?;
        // A write in progress must not publish what is being removed.
        let turn = match self.table.at(&path) {
            Some(inode) if inode.writing().is_some() => Some(inode.turn().await),
            Some(_) | None => None,
        };
        if !self.is_new(&path) && !self.namespace.delete(&self.context, &path, DeleteMode::File).await? {
            return Err(Error::new(ErrorKind::NotFound, "no such file").into());
        }
        self.table.removed(&path);
        drop(turn);
        Ok(())
    }

    /// Removes an empty directory.
    pub(crate) async fn rmdir(&self, parent: u64, name: &OsStr) -> Result<(), Failure> {
        let path = self.child(parent, name)?;
        let is_new = |inode: &crate::inode::Inode| inode.writing().is_some_and(|writing| writing.is_new());
        if self.table.subtree(&path).iter().any(|(_, inode)| is_new(inode)) {
            return Err(Error::new(ErrorKind::NotEmpty, "the directory has a file that is being made").into());
        }
        if !self.namespace.delete(&self.context, &path, DeleteMode::EmptyDirectory).await? {
            return Err(Error::new(ErrorKind::NotFound, "no such directory").into());
        }
        self.table.removed(&path);
        Ok(())
    }
}
