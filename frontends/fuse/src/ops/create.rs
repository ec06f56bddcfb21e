//! Making files.
//!
//! Where files are changed in place, a new file is in the store at once. Elsewhere it is seen here at once and by the
//! other frontends when it is closed (or flushed or synced): a store is not sent an empty object first.

use std::ffi::OsStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use forebay_core::{
    Attributes, ETag, Entry, EntryKind, ErrorKind, FileId, NsPath, Precondition, Publish, Version,
};
use fuser::Errno;

use crate::attr;
use crate::error::Failure;
use crate::ops::lookup::Found;
use crate::ops::open::{Offer, Wish};
use crate::server::Server;
use crate::writing::{Begin, Writing};

/// What a new file will have.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NewFile {
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// Fails when the name is taken.
    pub(crate) is_exclusive: bool,
}

impl Server {
    /// Makes and opens a file, or opens the one that another frontend made in the meantime.
    pub(crate) async fn create(
        &self,
        parent: u64,
        name: &OsStr,
        new: NewFile,
        wish: Wish,
    ) -> Result<(Found, Offer), Failure> {
        let path = self.child(parent, name)?;
        if self.is_in_place(&path) {
            return match self.make(&path, new).await {
                Ok(entry) => self.open_made(&path, &entry, wish).await,
                Err(Failure::Namespace(e)) if is_taken(e.kind()) && !new.is_exclusive => {
                    let entry = self.stat(&path).await?;
                    self.open_made(&path, &entry, wish).await
                }
                Err(Failure::Namespace(e)) if is_taken(e.kind()) => Err(taken()),
                Err(e) => Err(e),
            };
        }
        let present = match self.table.at(&path).and_then(|inode| inode.writing()) {
            Some(writing) => Ok(writing.attributes()?.0),
            None => self.stat(&path).await,
        };
        match present {
            Ok(_) if new.is_exclusive => Err(taken()),
            Ok(entry) => self.open_made(&path, &entry, wish).await,
            Err(Failure::Namespace(e)) if e.kind() == ErrorKind::NotFound => {
                self.create_staged(&path, new, wish).await
            }
            Err(e) => Err(e),
        }
    }

    /// Makes an empty file without opening it.
    pub(crate) async fn mknod(&self, parent: u64, name: &OsStr, new: NewFile) -> Result<Found, Failure> {
        let path = self.child(parent, name)?;
        match self.make(&path, new).await {
            Ok(entry) => Ok(self.found(&self.table.remember(&path, &entry), &entry)),
            Err(Failure::Namespace(e)) if is_taken(e.kind()) => Err(taken()),
            Err(e) => Err(e),
        }
    }

    async fn make(&self, path: &NsPath, new: NewFile) -> Result<Entry, Failure> {
        let writer = self.namespace.replace(&self.context, path).await?;
        let publish = Publish {
            condition: Precondition::Absent,
            mode: Some(new.mode & 0o7777),
            owner: Some((new.uid, new.gid)),
            ..Publish::default()
        };
        Ok(writer.publish(publish).await?)
    }

    async fn open_made(&self, path: &NsPath, entry: &Entry, wish: Wish) -> Result<(Found, Offer), Failure> {
        if entry.kind == EntryKind::Link {
            // Made since the kernel looked: it looks again, and follows it.
            return Err(Failure::stale());
        }
        let inode = self.table.remember(path, entry);
        match self.open(inode.number, wish).await {
            Ok(offer) => {
                let found = self.found(&inode, entry);
                Ok((found, offer))
            }
            Err(e) => {
                self.table.forget(inode.number, 1);
                Err(e)
            }
        }
    }

    async fn create_staged(
        &self,
        path: &NsPath,
        new: NewFile,
        wish: Wish,
    ) -> Result<(Found, Offer), Failure> {
        let writer = self.namespace.replace(&self.context, path).await?;
        let entry = unpublished(path, new, self.clock.now());
        let begin =
            Begin { writer, is_in_place: false, entry: entry.clone(), is_published: false, is_new: true };
        let writing = Arc::new(Writing::new(begin)?);
        let metadata = writing.file().metadata()?;
        let inode = self.table.remember(path, &entry);
        let turn = inode.turn().await;
        let attr = attr::of_written(inode.number, &entry, &metadata, self.settings.owner);
        let found = Found { attr, ttl: std::time::Duration::ZERO };
        Ok((found, Offer::to_write(inode, writing, wish.as_writer(), turn)))
    }
}

fn is_taken(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::PreconditionFailed | ErrorKind::AlreadyExists | ErrorKind::IsDirectory)
}

fn taken() -> Failure {
    Failure::Refused(Errno::EEXIST, "the name is taken")
}

/// The entry of a file that no store knows yet.
fn unpublished(path: &NsPath, new: NewFile, now: SystemTime) -> Entry {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let serial = NEXT.fetch_add(1, Ordering::Relaxed).to_le_bytes();
    let identity: [&[u8]; 3] = [b"fuse unpublished", path.as_str().as_bytes(), &serial];
    Entry {
        file_id: FileId::of(&identity),
        kind: EntryKind::File,
        size_bytes: 0,
        version: Version::Strong("unpublished".into()),
        etag: ETag::minted(&identity),
        modified: now,
        attributes: Attributes {
            mode: new.mode & 0o7777,
            uid: new.uid,
            gid: new.gid,
            accessed: now,
            changed: now,
        },
        headers: None,
    }
}
