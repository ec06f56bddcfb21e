//! The port to a store of flat keys, as small as what all of them can do.
//!
//! Keys are exact: no implementation trims, collapses or decodes them. A key that ends in `/` is a directory
//! marker. Local directories are not a backend: [`crate::mount`] serves them natively.

use std::fs::File;
use std::sync::Arc;
use std::time::SystemTime;

use async_trait::async_trait;
use bytes::Bytes;
use forebay_core::{ByteRange, Capability, ETag, Headers, ListQuery, Precondition, Result};

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
    /// Last modification; the epoch for prefixes.
    pub modified: SystemTime,
    /// Headers, where the request returns them.
    pub headers: Option<Arc<Headers>>,
}

/// One page of objects in byte order.
#[derive(Clone, Debug, Default)]
pub struct ObjectPage {
    /// At most as many as asked for.
    pub objects: Vec<Object>,
    /// There may be more. Never true for an empty page.
    pub is_truncated: bool,
}

/// What a put stores: files one after the other.
#[derive(Clone, Debug)]
pub struct Source {
    /// Whole files with their lengths in bytes.
    pub files: Vec<(Arc<File>, u64)>,
}

impl Source {
    /// Length in bytes.
    pub fn size_bytes(&self) -> u64 {
        self.files.iter().map(|(_, len)| len).sum()
    }
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
    /// `PreconditionFailed`; otherwise as [`Backend::stat`].
    async fn put(
        &self,
        key: &str,
        source: &Source,
        headers: &Headers,
        condition: &Precondition,
    ) -> Result<Object>;

    /// Removes an exact key; missing is fine.
    ///
    /// # Errors
    /// As [`Backend::stat`].
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
}
