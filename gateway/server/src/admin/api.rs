//! The admin API's types, shared by the handlers and the commands.
//!
//! | request | answer |
//! |---|---|
//! | `GET /api/v1/mounts` | `[MountView]` |
//! | `GET /api/v1/actors` | supervised actors with restarts and causes |
//! | `GET /api/v1/entries?path=` | `EntryView` |
//! | `DELETE /api/v1/entries?path=&recursive=` | 204 |
//! | `GET /api/v1/list?path=&recursive=&after=` | `ListView`; ask again with `after=next` |
//! | `GET /api/v1/content?path=` | the bytes |
//! | `PUT /api/v1/content?path=` | `EntryView`; nothing is visible before the whole body is there |
//! | `PUT /api/v1/copy?path=&to=` | `EntryView` |

use forebay_core::{Entry, EntryKind, calendar};
use serde::{Deserialize, Serialize};

/// A mount and its state.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct MountView {
    pub(crate) path: String,
    pub(crate) store: String,
    pub(crate) read_only: bool,
    pub(crate) state: String,
    /// Why it is degraded.
    pub(crate) reason: Option<String>,
}

/// A file or directory.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct EntryView {
    /// Path, or in listings the name relative to the listed directory; directories end in `/` there.
    pub(crate) name: String,
    pub(crate) kind: String,
    pub(crate) size_bytes: u64,
    /// RFC 3339.
    pub(crate) modified: String,
    /// Without quotes.
    pub(crate) etag: String,
    /// Permission bits.
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// 32 hex digits.
    pub(crate) file_id: String,
}

impl EntryView {
    pub(crate) fn new(name: String, entry: &Entry) -> Self {
        let kind = match entry.kind {
            EntryKind::File => "file",
            EntryKind::Directory => "directory",
        };
        Self {
            name,
            kind: kind.to_owned(),
            size_bytes: entry.size_bytes,
            modified: humantime::format_rfc3339_seconds(calendar(entry.modified)).to_string(),
            etag: entry.etag.as_str().to_owned(),
            mode: entry.attributes.mode,
            uid: entry.attributes.uid,
            gid: entry.attributes.gid,
            file_id: entry.file_id.to_string(),
        }
    }
}

/// One page of a listing.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct ListView {
    pub(crate) items: Vec<EntryView>,
    /// What to pass as `after` for the next page.
    pub(crate) next: Option<String>,
}

/// Why a request failed.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct ErrorView {
    pub(crate) error: String,
}
