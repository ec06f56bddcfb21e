//! The port to staging: one handle for every kind of write.
//!
//! S3 PUT and parts, WebHDFS CREATE and APPEND, and FUSE writes all fill a [`Staged`] and publish it. Dropping it
//! unpublished discards it. Where the store is a local disk and the target is [`Target::Modify`], the staged file
//! is the stored file itself and changes are seen at once, as on any local file system.

use std::fmt;
use std::time::SystemTime;

use async_trait::async_trait;
use bytes::Bytes;
use serde::Serialize;

use crate::{ETag, Entry, Headers, Key, Lent, Result};

/// What a write will become.
#[derive(Clone, Debug)]
pub enum Target {
    /// A whole new content: a new file identity.
    Replace(Key),
    /// The present content, changed: the file keeps its identity. The staged file starts as a copy of it (or is it).
    Modify(Key),
    /// A part of a multipart upload.
    Part {
        /// The upload's key.
        key: Key,
        /// The upload.
        upload: UploadId,
        /// 1 to 10000.
        number: u32,
        /// A checksum to keep with the part: algorithm and value as S3 names them.
        checksum: Option<(String, String)>,
    },
}

/// What must hold at the moment of publication.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Precondition {
    /// Nothing.
    #[default]
    None,
    /// There is no file yet (`If-None-Match: *`).
    Absent,
    /// The present file has this tag (`If-Match`).
    Matches(ETag),
}

/// How a staged write is published.
#[derive(Clone, Debug, Default)]
pub struct Publish {
    /// What must hold.
    pub condition: Precondition,
    /// S3 headers to keep with the file; `None` keeps what a modified file has.
    pub headers: Option<Headers>,
    /// Permission bits for a new file.
    pub mode: Option<u32>,
    /// Owner and group for a new file.
    pub owner: Option<(u32, u32)>,
    /// Whether to wait until a local disk has it; network stores are durable when they answer.
    pub is_durable: bool,
}

/// A write in progress. Handles may share it.
#[async_trait]
pub trait Staged: Send + Sync {
    /// Writes at an offset; a gap before it reads as zeros.
    ///
    /// # Errors
    /// `NoSpace` when the staging quota or disk is full.
    async fn write_at(&self, offset: u64, bytes: Bytes) -> Result<()>;

    /// Tells how the write is going to be published, and its length where it is known, so that it may be sent to the
    /// store while it still arrives. A hint, given before the first byte; what is published in the end decides.
    fn expect(&self, _publish: &Publish, _size_bytes: Option<u64>) {}

    /// Cuts or extends (with zeros).
    ///
    /// # Errors
    /// As [`Staged::write_at`].
    async fn truncate(&self, size_bytes: u64) -> Result<()>;

    /// Present length in bytes.
    ///
    /// # Errors
    /// The staging disk's.
    fn size_bytes(&self) -> Result<u64>;

    /// The local file behind it, readable and writable (FUSE passthrough). Writes to it count as writes.
    fn file(&self) -> Lent;

    /// Makes the staged content visible under its target, atomically, and returns what is there then. May be
    /// called again after further writes; without any it does nothing and returns the last answer.
    ///
    /// For parts the entry's `etag` is the MD5 of the part.
    ///
    /// # Errors
    /// `PreconditionFailed`, `IsDirectory`, `NotDirectory`, `NoSpace`, and whatever the store answers; nothing is
    /// visible then.
    async fn publish(&self, publish: Publish) -> Result<Entry>;
}

/// What a mount holds that its store does not have: what is lost when the mount is given up.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Dirty {
    /// Writes in progress.
    pub writes: u64,
    /// Multipart uploads that were neither completed nor aborted.
    pub uploads: u64,
    /// Bytes staged for both.
    pub bytes: u64,
    /// When the oldest of them began.
    pub since: Option<SystemTime>,
}

impl Dirty {
    /// Whether nothing would be lost.
    pub fn is_clean(&self) -> bool {
        self.writes == 0 && self.uploads == 0
    }

    /// Counts `bytes` of something that began at `since`.
    pub fn add(&mut self, bytes: u64, since: SystemTime) {
        self.bytes += bytes;
        self.since = Some(self.since.map_or(since, |oldest| oldest.min(since)));
    }
}

impl fmt::Display for Dirty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let several = |count: u64| if count == 1 { "" } else { "s" };
        match (self.writes, self.uploads) {
            (writes, 0) => write!(f, "{writes} write{} in progress", several(writes))?,
            (0, uploads) => write!(f, "{uploads} multipart upload{}", several(uploads))?,
            (writes, uploads) => write!(
                f,
                "{writes} write{} in progress and {uploads} multipart upload{}",
                several(writes),
                several(uploads)
            )?,
        }
        write!(f, " ({} bytes)", self.bytes)
    }
}

/// An acknowledged content that is not at its store yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PendingWrite {
    /// Of what.
    pub key: String,
    /// Length of the latest content.
    pub size_bytes: u64,
    /// When the first of them was acknowledged.
    pub since: SystemTime,
    /// Uploads that failed.
    pub attempts: u32,
    /// Why the last one did.
    pub error: Option<String>,
}

/// An acknowledged content whose file somebody else had changed at the store before it came there: both are kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conflict {
    /// Of what; there is the content of the others.
    pub key: String,
    /// Where ours is.
    pub beside: String,
    /// When it was stored there.
    pub at: SystemTime,
}

/// An acknowledged content that the staging disk lost before its store had it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LostWrite {
    /// Of what.
    pub key: String,
    /// How long it was.
    pub size_bytes: u64,
    /// When it was acknowledged.
    pub since: SystemTime,
    /// What became of it.
    pub cause: String,
}

/// Names a multipart upload.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct UploadId(pub String);

impl fmt::Debug for UploadId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

/// A multipart upload in progress.
#[derive(Clone, Debug)]
pub struct UploadInfo {
    /// What it will become.
    pub key: Key,
    /// Its name.
    pub upload: UploadId,
    /// When it was started.
    pub started: SystemTime,
    /// S3 headers it was started with.
    pub headers: Headers,
}

/// A staged part.
#[derive(Clone, Debug)]
pub struct PartInfo {
    /// 1 to 10000.
    pub number: u32,
    /// Length.
    pub size_bytes: u64,
    /// MD5 of the part, in hex.
    pub etag: ETag,
    /// The checksum kept with it: algorithm and value.
    pub checksum: Option<(String, String)>,
    /// When it was staged.
    pub modified: SystemTime,
}
