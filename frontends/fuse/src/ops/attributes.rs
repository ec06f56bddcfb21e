//! Changing size and attributes; the space of a store.

use std::sync::Arc;
use std::time::SystemTime;

use forebay_core::{AttributeChange, EntryKind, ErrorKind, Usage};
use fuser::{Errno, TimeOrNow};

use crate::error::Failure;
use crate::inode::Inode;
use crate::ops::lookup::Found;
use crate::server::Server;
use crate::writing::Reach;

/// Shown where no store says how big it is: programs that check for space go on.
const UNKNOWN_SPACE: Usage =
    Usage { capacity_bytes: 1 << 50, free_bytes: 1 << 50, files: 1 << 32, free_files: 1 << 32 };

/// What `chmod`, `chown`, `utimensat` and `truncate` ask for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Changes {
    pub(crate) mode: Option<u32>,
    pub(crate) uid: Option<u32>,
    pub(crate) gid: Option<u32>,
    pub(crate) size_bytes: Option<u64>,
    pub(crate) accessed: Option<TimeOrNow>,
    pub(crate) modified: Option<TimeOrNow>,
}

impl Changes {
    fn attributes(&self, now: SystemTime) -> AttributeChange {
        let time = |time: TimeOrNow| match time {
            TimeOrNow::SpecificTime(time) => time,
            TimeOrNow::Now => now,
        };
        AttributeChange {
            mode: self.mode.map(|mode| mode & 0o7777),
            uid: self.uid,
            gid: self.gid,
            accessed: self.accessed.map(time),
            modified: self.modified.map(time),
        }
    }

    /// Whether a file that is not published yet needs its publication first for this.
    fn is_dated(&self) -> bool {
        matches!(self.modified, Some(TimeOrNow::SpecificTime(_)))
    }
}

impl Server {
    /// Changes what is asked for and answers with the attributes that result.
    pub(crate) async fn setattr(&self, number: u64, changes: Changes) -> Result<Found, Failure> {
        let inode = self.inode(number)?;
        if let Some(size_bytes) = changes.size_bytes {
            self.set_size(&inode, size_bytes).await?;
        }
        let change = changes.attributes(self.clock.now());
        if change != AttributeChange::default() {
            self.set_attributes(&inode, change, changes.is_dated()).await?;
        }
        self.getattr(number).await
    }

    async fn set_size(&self, inode: &Arc<Inode>, size_bytes: u64) -> Result<(), Failure> {
        match inode.kind {
            EntryKind::File => {}
            EntryKind::Directory => return Err(Failure::Refused(Errno::EISDIR, "this is a directory")),
            EntryKind::Link => return Err(Failure::Refused(Errno::EINVAL, "this is a symbolic link")),
        }
        let turn = inode.turn().await;
        if let Some(writing) = inode.writing() {
            return writing.truncate(size_bytes).await;
        }
        let path = inode.path().ok_or_else(Failure::stale)?;
        let writing = self.begin(inode, &path, size_bytes == 0).await?;
        writing.truncate(size_bytes).await?;
        self.publish(inode, &writing, Reach::Visible, &turn).await
    }

    async fn set_attributes(
        &self,
        inode: &Arc<Inode>,
        change: AttributeChange,
        is_dated: bool,
    ) -> Result<(), Failure> {
        let Some(path) = inode.path() else { return Ok(()) };
        if inode.kind == EntryKind::Link {
            self.namespace.set_link_attributes(&self.context, &path, change).await?;
            return Ok(());
        }
        let writing = inode.writing();
        if let Some(writing) = writing.as_ref().filter(|writing| !writing.is_in_place()) {
            let is_kept = !is_dated
                && writing.change_new(|entry| {
                    let attributes = &mut entry.attributes;
                    attributes.mode = change.mode.unwrap_or(attributes.mode);
                    attributes.uid = change.uid.unwrap_or(attributes.uid);
                    attributes.gid = change.gid.unwrap_or(attributes.gid);
                });
            if is_kept {
                return Ok(());
            }
            // Else its publication would overwrite what is set now.
            let turn = inode.turn().await;
            self.publish(inode, writing, Reach::Visible, &turn).await?;
        }
        match self.namespace.set_attributes(&self.context, &path, change).await {
            Ok(entry) => {
                if let Some(writing) = writing {
                    writing.changed_attributes(entry, change.modified)?;
                }
                Ok(())
            }
            // `chmod` on a store without modes succeeds: tools that save by way of a temporary file insist.
            Err(e) if e.kind() == ErrorKind::Unsupported => Ok(()),
            Err(e) => Err(e.into()),
        }
    }

    /// The space of the store that serves an inode.
    pub(crate) async fn statfs(&self, number: u64) -> Result<Usage, Failure> {
        let Some(path) = self.inode(number)?.path() else { return Ok(UNKNOWN_SPACE) };
        match self.namespace.usage(&path).await {
            Ok(usage) => Ok(usage.unwrap_or(UNKNOWN_SPACE)),
            Err(e) if e.kind() == ErrorKind::Unsupported => Ok(UNKNOWN_SPACE),
            Err(e) => Err(e.into()),
        }
    }
}
