//! The port to a store of flat keys, as small as what all of them can do.
//!
//! Keys are exact: no implementation trims, collapses or decodes them. A key that ends in `/` is a directory
//! marker. Local directories are not a backend: [`crate::mount`] serves them natively.
//!
//! A backend sends one request and says how it ended; deadlines, retries and limits are the mount's vitals'.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::SystemTime;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use forebay_core::{
    ByteRange, Capability, ETag, Error, ErrorKind, Headers, ListQuery, Precondition, RenameMode, Result,
};
use md5::{Digest, Md5};

use crate::cache::PAGE_BYTES;

#[cfg(test)]
mod conformance;
mod deadline;
mod error;
mod exchange;
mod hdfs;
mod memory;
mod object;
mod uploads;

pub use exchange::Exchange;
pub use hdfs::Hdfs;
#[cfg(test)]
pub(crate) use hdfs::tests as hdfs_tests;
pub use memory::Memory;
pub use object::ObjectStore;
pub use uploads::UploadMemory;

/// How much is read at once to be digested.
const DIGEST_STEP_BYTES: u64 = 1 << 20;

/// The smallest question that only a healthy store can answer.
static PROBE: ListQuery = ListQuery { prefix: String::new(), shallow: true, start_after: None, limit: 1 };

/// An object as its store shows it.
#[derive(Clone, Debug)]
pub struct Object {
    /// Exact key; ends in `/` for markers and prefixes.
    pub key: String,
    /// Stands for all keys below it, not for itself.
    pub is_prefix: bool,
    /// Length.
    pub size_bytes: u64,
    /// The store's own tag, or one derived from what its listing shows; empty for prefixes.
    pub etag: ETag,
    /// The tag is made of length and time of change only.
    pub is_weak: bool,
    /// Last modification; the epoch for prefixes.
    pub modified: SystemTime,
    /// Headers, where the request returns them.
    pub headers: Option<Arc<Headers>>,
    /// The number that the store gives a file or directory for good, through renames, if it does.
    pub inode: Option<u64>,
}

impl Object {
    /// The item that stands for all keys that start with `key`, which ends in `/`.
    pub fn prefix(key: &str) -> Self {
        Self {
            key: key.to_owned(),
            is_prefix: true,
            size_bytes: 0,
            etag: ETag::new(""),
            is_weak: false,
            modified: SystemTime::UNIX_EPOCH,
            headers: None,
            inode: None,
        }
    }
}

/// One page of objects in byte order.
#[derive(Clone, Debug, Default)]
pub struct ObjectPage {
    /// At most as many as asked for.
    pub objects: Vec<Object>,
    /// There may be more. Never true for an empty page.
    pub is_truncated: bool,
}

/// Bytes of an MD5.
const MD5_BYTES: usize = 16;

/// What a put stores: files one after the other.
#[derive(Clone, Debug)]
pub struct Source {
    /// Whole files with their lengths in bytes.
    files: Vec<(Arc<File>, u64)>,
    /// The MD5 of the joined files, where it was told.
    md5: Option<[u8; MD5_BYTES]>,
}

impl Source {
    /// `files` with their lengths in bytes.
    pub fn new(files: Vec<(Arc<File>, u64)>) -> Self {
        Self { files, md5: None }
    }

    /// Says what [`Source::md5`] is, so that nobody computes it.
    #[must_use]
    pub fn with_md5(self, md5: [u8; MD5_BYTES]) -> Self {
        Self { md5: Some(md5), ..self }
    }

    /// Length in bytes.
    pub fn size_bytes(&self) -> u64 {
        self.files.iter().map(|(_, len)| len).sum()
    }

    /// The MD5 of the joined files; blocks on the disk unless it was told.
    ///
    /// # Errors
    /// As [`Source::read`].
    pub fn md5(&self) -> io::Result<[u8; MD5_BYTES]> {
        if let Some(md5) = self.md5 {
            return Ok(md5);
        }
        let (mut digest, mut offset, size_bytes) = (Md5::new(), 0, self.size_bytes());
        while offset < size_bytes {
            let step = ByteRange::new(offset, DIGEST_STEP_BYTES).clamp_to(size_bytes);
            digest.update(self.read(step)?);
            offset = step.end();
        }
        Ok(digest.finalize().into())
    }

    /// `range` of the joined files; blocks on the disk.
    ///
    /// # Errors
    /// The disk's error, or `UnexpectedEof` when a file is shorter than it should be.
    pub fn read(&self, range: ByteRange) -> io::Result<Bytes> {
        let mut content = BytesMut::zeroed(usize::try_from(range.len).map_err(io::Error::other)?);
        let mut start = 0;
        for (file, len) in &self.files {
            let from = range.offset.clamp(start, start + len);
            let to = range.end().clamp(start, start + len);
            if from < to {
                let (at, end) = ((from - range.offset) as usize, (to - range.offset) as usize);
                file.read_exact_at(&mut content[at..end], from - start)?;
            }
            start += len;
        }
        if range.end() > start {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(content.freeze())
    }
}

/// Refuses content under a key that ends in `/`: markers are empty, and listings show them so.
fn check_marker(key: &str, source: &Source) -> Result<()> {
    if key.ends_with('/') && source.size_bytes() > 0 {
        return Err(Error::new(ErrorKind::InvalidArgument, "a directory marker has no content"));
    }
    Ok(())
}

/// Whether `condition` holds for what is there.
fn require(condition: &Precondition, present: Option<&ETag>) -> Result<()> {
    let holds = match condition {
        Precondition::None => true,
        Precondition::Absent => present.is_none(),
        Precondition::Matches(etag) => present == Some(etag),
    };
    if holds {
        return Ok(());
    }
    Err(Error::new(ErrorKind::PreconditionFailed, "the object is not as the condition says"))
}

/// The group (a prefix that ends in `/`) that a shallow listing has passed as a whole, because its cursor is the
/// group's name or lies inside it.
fn passed_group(query: &ListQuery) -> Option<&str> {
    let after = query.start_after.as_deref().filter(|_| query.shallow)?;
    let slash = after.strip_prefix(&query.prefix)?.find('/')?;
    Some(&after[..=query.prefix.len() + slash])
}

/// How a store takes objects whose content is still arriving.
#[derive(Clone, Copy, Debug)]
pub struct Pieces {
    /// How much is fed at once.
    pub piece_bytes: u64,
    /// Objects up to this size are put whole, in one request.
    pub whole_bytes_max: u64,
}

/// An object that is sent to its store while the rest of it still arrives here. Dropped, it is taken back.
#[async_trait]
pub trait Pending: Send {
    /// Sends what comes next: [`Pieces::piece_bytes`] of it, or less at the end. Answers when there is room for more,
    /// which may be before the store has it. After an error nothing but [`Pending::abandon`] makes sense.
    ///
    /// # Errors
    /// As [`Backend::stat`].
    async fn feed(&mut self, bytes: Bytes) -> Result<()>;

    /// Waits until the store has all that was fed, and makes it visible, as [`Backend::put`] does.
    ///
    /// # Errors
    /// As [`Backend::put`].
    async fn finish(&mut self) -> Result<Object>;

    /// Takes back what the store has of an object that was not finished.
    async fn abandon(&mut self);
}

/// A store of flat keys.
#[async_trait]
pub trait Backend: Send + Sync {
    /// Kind of store in logs and `forebay mounts`.
    fn kind(&self) -> &'static str;

    /// What it can do.
    fn capability(&self) -> Capability;

    /// Names the store itself (not the mount), so that content cached from another store is never served for it.
    fn fingerprint(&self) -> &str;

    /// How much one read should ask for where more than a page of the cache is wanted: more where a request costs
    /// more than its bytes.
    fn request_bytes(&self) -> u64 {
        PAGE_BYTES
    }

    /// Whether a listing may start after any name at the price of a page.
    fn starts_anywhere(&self) -> bool {
        true
    }

    /// Asks for something small that only a healthy store can answer; with `may_write` the first call also tries
    /// out what the store's word is not taken for.
    ///
    /// # Errors
    /// As [`Backend::stat`].
    async fn probe(&self, _may_write: bool) -> Result<()> {
        self.list(&PROBE).await.map(drop)
    }

    /// Looks at an exact key.
    ///
    /// # Errors
    /// `NotFound`, `AccessDenied`, `Unavailable`, `Timeout`, `Busy`.
    async fn stat(&self, key: &str) -> Result<Object>;

    /// Exactly the bytes of `range`, which lies inside the object, of the content tagged `etag`.
    ///
    /// # Errors
    /// `Stale` if the object has another tag by now; otherwise as [`Backend::stat`].
    async fn read(&self, key: &str, range: ByteRange, etag: &ETag) -> Result<Bytes>;

    /// One page of keys; semantics of [`ListQuery`].
    ///
    /// # Errors
    /// As [`Backend::stat`]; nothing there is an empty page.
    async fn list(&self, query: &ListQuery) -> Result<ObjectPage>;

    /// Stores an object atomically and says what is there then, as a `stat` would.
    ///
    /// # Errors
    /// `PreconditionFailed`; `InvalidArgument` for a marker with content; otherwise as [`Backend::stat`].
    async fn put(
        &self,
        key: &str,
        source: &Source,
        headers: &Headers,
        condition: &Precondition,
    ) -> Result<Object>;

    /// What [`Backend::begin`] is for; `None` where it is not there.
    fn ahead(&self) -> Option<Pieces> {
        None
    }

    /// Begins to store an object whose content is not all here yet. Nothing is visible before [`Pending::finish`],
    /// which decides about `condition`.
    ///
    /// # Errors
    /// As [`Backend::put`]; `Unsupported` where the object has to be put whole.
    async fn begin(
        self: Arc<Self>,
        _key: &str,
        _headers: &Headers,
        _condition: &Precondition,
    ) -> Result<Box<dyn Pending>> {
        Err(Error::new(ErrorKind::Unsupported, "this store takes whole objects only"))
    }

    /// Removes an exact key; missing is fine.
    ///
    /// # Errors
    /// `NotEmpty` for a directory of a hierarchical store that has entries; otherwise as [`Backend::stat`].
    async fn delete(&self, key: &str) -> Result<()>;

    /// Copies an object inside the store; `headers` replace the source's. `Unsupported` makes the caller stream.
    ///
    /// # Errors
    /// As [`Backend::put`].
    async fn copy(
        &self,
        from: &str,
        to: &str,
        headers: Option<&Headers>,
        condition: &Precondition,
    ) -> Result<Object>;

    /// Refuses names that the store is known not to hold, so that a write to one fails when it begins and not when it
    /// ends. Sends nothing.
    ///
    /// # Errors
    /// `InvalidName`, `NameTooLong`.
    fn check_name(&self, _name: &str) -> Result<()> {
        Ok(())
    }

    /// What has this name in a hierarchical store: the file, or the directory as `name/`. Without headers.
    ///
    /// # Errors
    /// As [`Backend::stat`]; `Unsupported` where names may have both.
    async fn find(&self, _name: &str) -> Result<Object> {
        Err(Error::new(ErrorKind::Unsupported, "a name of this store may be a file and a directory"))
    }

    /// Removes a directory (a key that ends in `/`) of a hierarchical store with all below it, in one step; missing
    /// is fine.
    ///
    /// # Errors
    /// As [`Backend::stat`]; `Unsupported` where directories are not the store's own.
    async fn delete_tree(&self, _key: &str) -> Result<()> {
        Err(Error::new(ErrorKind::Unsupported, "this store removes no trees by itself"))
    }

    /// Moves a file, or a directory with all below it, atomically; both keys end in `/`, or none. Neither content,
    /// headers nor tags change. The target's parent must exist.
    ///
    /// # Errors
    /// `NotFound` for a missing source or parent; `AlreadyExists`, `NotEmpty`, `IsDirectory`, `NotDirectory` by
    /// what is at the target; `Unsupported` unless [`Capability::native_rename`].
    async fn rename(&self, _from: &Object, _to: &str, _mode: RenameMode) -> Result<()> {
        Err(Error::new(ErrorKind::Unsupported, "this store renames nothing by itself"))
    }
}
