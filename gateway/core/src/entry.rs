//! What the namespace knows about a file or directory.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use crate::{ETag, FileId, Version};

/// File, directory or symbolic link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum EntryKind {
    /// A file (an S3 object).
    File,
    /// A directory (an S3 common prefix or marker).
    Directory,
    /// A symbolic link; shown to those only who do not have links followed ([`crate::Want::Unfollowed`]).
    Link,
}

/// HTTP headers and user metadata that S3 clients store with an object.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Headers {
    /// `Content-Type`.
    pub content_type: Option<String>,
    /// `Cache-Control`.
    pub cache_control: Option<String>,
    /// `Content-Disposition`.
    pub content_disposition: Option<String>,
    /// `Content-Encoding`, without `aws-chunked`.
    pub content_encoding: Option<String>,
    /// `Content-Language`.
    pub content_language: Option<String>,
    /// `Expires`, as sent.
    pub expires: Option<String>,
    /// `x-amz-meta-*`, names in lower case without the prefix.
    pub user: BTreeMap<String, String>,
}

/// POSIX attributes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attributes {
    /// Permission bits, without the file type.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Last access.
    pub accessed: SystemTime,
    /// Last change of attributes.
    pub changed: SystemTime,
}

/// A change of POSIX attributes; `None` leaves a value as it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AttributeChange {
    /// Permission bits.
    pub mode: Option<u32>,
    /// Owner.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
    /// Last access.
    pub accessed: Option<SystemTime>,
    /// Last modification.
    pub modified: Option<SystemTime>,
}

/// A file or directory as it stood when it was looked at.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Lasting identity.
    pub file_id: FileId,
    /// File, directory or symbolic link.
    pub kind: EntryKind,
    /// Length in bytes; 0 for directories, of a link that of its target's text.
    pub size_bytes: u64,
    /// Which content this is.
    pub version: Version,
    /// The tag that S3 clients see; equal in PUT, HEAD, GET and List.
    pub etag: ETag,
    /// Last modification of the content.
    pub modified: SystemTime,
    /// POSIX attributes.
    pub attributes: Attributes,
    /// S3 headers; `None` where they were not asked for (listings) or none are kept.
    pub headers: Option<Arc<Headers>>,
}

impl Entry {
    /// Whether this is a directory.
    pub fn is_directory(&self) -> bool {
        self.kind == EntryKind::Directory
    }
}
