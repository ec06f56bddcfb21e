//! The admin API's types, shared by the handlers and the commands.
//!
//! | request | answer |
//! |---|---|
//! | `GET /api/v1/mounts` | `[MountView]` |
//! | `POST /api/v1/mounts` with a `NewMount` | `ReloadView`; the mount is in the configuration file then |
//! | `DELETE /api/v1/mounts?path=&force=` | `ReloadView`; the mount is out of the configuration file then |
//! | `POST /api/v1/reload` | `ReloadView` |
//! | `GET /api/v1/pending` | `[PendingView]`; at most 1000 of each mount |
//! | `GET /api/v1/conflicts` | `[ConflictView]`; the last 100 of each mount since it is there |
//! | `GET /api/v1/lost` | `[LostView]`; the same |
//! | `POST /api/v1/flush?path=` | 204, when all that was acknowledged at and below the path is at its store |
//! | `GET /api/v1/actors` | supervised actors with restarts and causes |
//! | `GET /api/v1/entries?path=` | `EntryView` |
//! | `DELETE /api/v1/entries?path=&recursive=` | 204 |
//! | `GET /api/v1/list?path=&recursive=&after=` | `ListView`; ask again with `after=next` |
//! | `GET /api/v1/content?path=` | the bytes |
//! | `PUT /api/v1/content?path=` | `EntryView`; nothing is visible before the whole body is there |
//! | `PUT /api/v1/copy?path=&to=` | `EntryView` |
//! | `POST /api/v1/loads?path=&transfers=&bandwidth=` | `JobStatus`; it goes on by itself, over restarts too |
//! | `POST /api/v1/syncs?path=` | `JobStatus`; the same |
//! | `GET /api/v1/jobs` | `[JobStatus]` |
//! | `GET /api/v1/jobs/ID` | `JobStatus` |
//! | `DELETE /api/v1/jobs/ID` | `JobStatus`; ends an open job, forgets one that has ended |
//! | `GET /api/v1/rules` | `[RuleStatus]` |
//! | `PATCH /api/v1/rules?path=` with a `Rule` | `[RuleStatus]`; what the body does not name stays |
//! | `DELETE /api/v1/rules?path=&setting=` | `[RuleStatus]`; the setting, as an xattr is named, is left open |
//! | `DELETE /api/v1/cached?path=` | `FreedView`; what was cached at and below the path is not any more |
//! | `GET /api/v1/explain?path=` | `ExplainView` |
//! | `POST /api/v1/copies?from=&to=&transfers=&verify=&checksum=&move=` | `CopyEvent`, one JSON object a line |

use std::collections::BTreeMap;
use std::time::SystemTime;

use forebay_actors::cache::Treatment;
use forebay_actors::mounts::{Applied, MountStatus};
use forebay_core::{
    Conflict, Entry, EntryKind, LostWrite, MountState, NsPath, PendingWrite, Place, Placed, calendar,
};
use serde::{Deserialize, Serialize};

use crate::reload;

/// A mount and its state.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct MountView {
    pub(crate) path: String,
    pub(crate) store: String,
    pub(crate) read_only: bool,
    /// `starting`, `ready`, `degraded`, `draining` or `gone`.
    pub(crate) state: String,
    /// Why it is not ready.
    pub(crate) reason: Option<String>,
}

impl MountView {
    pub(crate) fn new(status: MountStatus) -> Self {
        let state = match &status.state {
            MountState::Starting => "starting",
            MountState::Ready => "ready",
            MountState::Degraded { .. } => "degraded",
            MountState::Draining => "draining",
            MountState::Gone => "gone",
        };
        let since = status.dirty.as_ref().map(reload::since).unwrap_or_default();
        Self {
            path: status.path.to_string(),
            store: status.info.store.to_owned(),
            read_only: status.info.read_only,
            state: state.to_owned(),
            reason: status.reason.map(|reason| reason + &since),
        }
    }
}

/// A mount to be added.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewMount {
    pub(crate) path: String,
    /// The store, as `s3://bucket/prefix`, `file:///directory` or `memory:`.
    pub(crate) url: String,
    /// Further options of the store, as in the configuration file.
    #[serde(default)]
    pub(crate) options: BTreeMap<String, String>,
    #[serde(default)]
    pub(crate) read_only: bool,
}

/// What a reload came to; mounts by their paths.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct ReloadView {
    pub(crate) added: Vec<String>,
    /// The same store with other options: nothing that is open noticed.
    pub(crate) changed: Vec<String>,
    /// Another store at the same path.
    pub(crate) replaced: Vec<String>,
    pub(crate) removed: Vec<String>,
    /// Removed, but not gone before what was begun is finished.
    pub(crate) draining: Vec<DrainingView>,
    pub(crate) unchanged: usize,
    /// Mounts that are not there although they are written, and why; reload to try again.
    pub(crate) failed: Vec<String>,
    /// What did not take effect, and why.
    pub(crate) warnings: Vec<String>,
}

/// A mount that is removed and still holds something.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct DrainingView {
    pub(crate) path: String,
    pub(crate) holds: String,
}

impl ReloadView {
    pub(crate) fn new(applied: &Applied, failed: Vec<String>, warnings: Vec<String>) -> Self {
        let names = |paths: &[NsPath]| paths.iter().map(ToString::to_string).collect();
        let draining = applied.draining.iter().map(|(path, dirty)| DrainingView {
            path: path.to_string(),
            holds: format!("{dirty}{}", reload::since(dirty)),
        });
        Self {
            added: names(&applied.added),
            changed: names(&applied.changed),
            replaced: names(&applied.replaced),
            removed: names(&applied.removed),
            draining: draining.collect(),
            unchanged: applied.unchanged,
            failed,
            warnings,
        }
    }
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
            EntryKind::Link => "link",
        };
        Self {
            name,
            kind: kind.to_owned(),
            size_bytes: entry.size_bytes,
            modified: rfc3339(entry.modified),
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

/// What `free` came to.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct FreedView {
    pub(crate) files: u64,
    pub(crate) bytes: u64,
    /// Files that could not be looked at.
    pub(crate) failed: u64,
}

/// How a file is served, and why.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct ExplainView {
    pub(crate) path: String,
    /// The mount that serves it, and its kind of store.
    pub(crate) mount: String,
    pub(crate) store: String,
    pub(crate) size_bytes: u64,
    pub(crate) etag: String,
    /// `strong`, or `weak` where the store shows no more than time and length.
    pub(crate) version: String,
    /// The longest path with a rule, and how all that belongs to it is treated.
    pub(crate) rule: String,
    pub(crate) treatment: Treatment,
    pub(crate) memory_bytes: u64,
    pub(crate) disk_bytes: u64,
    pub(crate) missing_bytes: u64,
    /// Where its first parts lie.
    pub(crate) parts: Vec<PartView>,
    /// Whether it is a local file as a whole, which is read without a copy.
    pub(crate) is_lent_whole: bool,
    /// What was fetched of this version of late.
    pub(crate) fetched_requests: u64,
    pub(crate) fetched_bytes: u64,
    /// Why what is missing is missing, as far as it is remembered.
    pub(crate) reasons: Vec<String>,
    /// What a read would do now, in words.
    pub(crate) read: String,
}

/// An acknowledged content that is not at its store yet.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct PendingView {
    pub(crate) path: String,
    pub(crate) size_bytes: u64,
    /// RFC 3339.
    pub(crate) since: String,
    /// Uploads that failed.
    pub(crate) attempts: u32,
    /// Why the last one did.
    pub(crate) error: Option<String>,
}

impl PendingView {
    pub(crate) fn new(mount: &NsPath, write: &PendingWrite) -> Self {
        Self {
            path: below(mount, &write.key),
            size_bytes: write.size_bytes,
            since: rfc3339(write.since),
            attempts: write.attempts,
            error: write.error.clone(),
        }
    }
}

/// An acknowledged content that lost against another one: both are at the store.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct ConflictView {
    /// Where the other one is.
    pub(crate) path: String,
    /// Where the acknowledged one is.
    pub(crate) beside: String,
    /// RFC 3339.
    pub(crate) at: String,
}

impl ConflictView {
    pub(crate) fn new(mount: &NsPath, conflict: &Conflict) -> Self {
        Self {
            path: below(mount, &conflict.key),
            beside: below(mount, &conflict.beside),
            at: rfc3339(conflict.at),
        }
    }
}

/// An acknowledged content that the staging disk lost before its store had it.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct LostView {
    pub(crate) path: String,
    pub(crate) size_bytes: u64,
    /// RFC 3339.
    pub(crate) since: String,
    /// What became of it.
    pub(crate) cause: String,
}

impl LostView {
    pub(crate) fn new(mount: &NsPath, write: &LostWrite) -> Self {
        Self {
            path: below(mount, &write.key),
            size_bytes: write.size_bytes,
            since: rfc3339(write.since),
            cause: write.cause.clone(),
        }
    }
}

fn below(mount: &NsPath, key: &str) -> String {
    format!("{}/{key}", mount.as_str().trim_end_matches('/'))
}

fn rfc3339(time: SystemTime) -> String {
    humantime::format_rfc3339_seconds(calendar(time)).to_string()
}

/// A part of a file that lies in one place.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct PartView {
    pub(crate) first_byte: u64,
    pub(crate) last_byte: u64,
    pub(crate) place: Place,
}

impl PartView {
    /// Of what is not empty.
    pub(crate) fn new(part: &Placed) -> Self {
        Self { first_byte: part.range.offset, last_byte: part.range.end() - 1, place: part.place }
    }
}

/// Why a request failed.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct ErrorView {
    pub(crate) error: String,
    /// What is wrong with a configuration, a line each.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) problems: Vec<String>,
}
