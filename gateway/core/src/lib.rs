//! The heart of Forebay: one namespace over many mounts, and the ports through which it is served.
//!
//! Invariants:
//! - Frontends see [`Namespace`] and the types of this crate, and nothing of stores, caches or actors.
//! - Nothing here opens a socket or a file. A [`Lent`] file was opened by the tier that lends it.
//! - Names are byte-exact UTF-8 or refused, never changed.
//! - One open file or one read never mixes versions.

mod access;
mod change;
mod clock;
mod content;
mod disk;
mod entry;
mod error;
mod metrics;
mod mount;
mod namespace;
mod path;
mod range;
mod staging;
mod sync;
mod version;

pub use access::{Access, AccessBuilder, Context, Grant, Origin, Permission, Principal, Secret};
pub use change::{Change, ChangeKind, CommitObserver};
pub use clock::{Clock, ManualClock, calendar};
pub use content::{Content, Extent, FileKey, Lender, Lent};
pub use disk::DiskTurns;
pub use entry::{AttributeChange, Attributes, Entry, EntryKind, Headers};
pub use error::{Error, ErrorKind, Result};
pub use metrics::{METRICS, Metrics};
pub use mount::{
    CACHE_HEADER, Cached, Capability, DeleteMode, EPOCH_HEADER, EXPLAIN_HEADER, Explained, ListItem,
    ListPage, ListQuery, MkdirMode, Mount, MountInfo, MountState, OWN_XATTRS, OpenFile, Place, Placed,
    RenameMode, Usage, Want, XattrMode,
};
pub use namespace::{MountTable, Namespace, Writer, copy_range};
pub use path::{Key, NsPath};
pub use range::ByteRange;
pub use staging::{
    Conflict, Dirty, LostWrite, PartInfo, PendingWrite, Precondition, Publish, Staged, Target, UploadId,
    UploadInfo,
};
pub use sync::{SyncPage, SyncSpan, SyncTotals};
pub use version::{ETag, FileId, Version};
