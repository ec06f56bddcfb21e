//! The port to a mount: everything that a frontend can ask of one store, and nothing of how it is done.
//!
//! Directories exist by themselves (local disks), by a marker or by a child (object stores). Where both a file
//! and a directory have one name, [`Want`] says which is meant. No method is called with a lock held; all are
//! cancel-safe: dropping the future leaves either the old or the new state.
//!
//! Symbolic links are followed as far as they stay in the mount, except by those who say that they are not (FUSE,
//! whose kernel follows them). Where nothing can be followed, on object stores, others see a file with the target's
//! text.

use std::sync::Arc;
use std::time::SystemTime;

use async_trait::async_trait;
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::{
    AttributeChange, ByteRange, Conflict, Content, Dirty, Entry, Error, ErrorKind, Headers, Key, Lent,
    LostWrite, PartInfo, PendingWrite, Precondition, Result, Staged, SyncPage, SyncSpan, Target, UploadId,
    UploadInfo,
};

/// What a store can do by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[expect(clippy::struct_excessive_bools, reason = "independent facts about a store, printed as a table")]
pub struct Capability {
    /// Takes writes at all.
    pub write: bool,
    /// Refuses, atomically, a write that must be the first of its name (`If-None-Match: *`).
    pub conditional_create: bool,
    /// Refuses, atomically, a write that must replace one known content (`If-Match`).
    pub conditional_replace: bool,
    /// Copies files without their bytes passing through here.
    pub native_copy: bool,
    /// Renames files and directories atomically.
    pub native_rename: bool,
    /// Keeps S3 headers and user metadata.
    pub headers: bool,
    /// Keeps POSIX attributes and xattrs across restarts.
    pub posix: bool,
    /// Has real directories, so a file and a directory cannot share a name.
    pub hierarchical: bool,
    /// Longest key in bytes.
    pub key_bytes_max: usize,
}

impl Capability {
    /// Whether a write under `condition` is refused where it does not hold.
    pub fn checks(&self, condition: &Precondition) -> bool {
        match condition {
            Precondition::None => true,
            Precondition::Absent => self.conditional_create,
            Precondition::Matches(_) => self.conditional_replace,
        }
    }
}

/// What does not change while a handle on a mount lives; when the configuration changes, the mount gets another one.
#[derive(Clone, Debug, Serialize)]
pub struct MountInfo {
    /// Name in logs and metrics: the path it is mounted at.
    pub name: String,
    /// Kind of store: `fs`, `memory`, `s3`.
    pub store: &'static str,
    /// Refuses every change.
    pub read_only: bool,
    /// When it was mounted; the modification time of its root where the store has none.
    #[serde(skip)]
    pub mounted: SystemTime,
    /// What its store can do.
    pub capability: Capability,
}

/// Where a mount stands, with the reason in plain words.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "state", rename_all = "lowercase")]
pub enum MountState {
    /// Not probed yet; requests are served.
    Starting,
    /// The last probe succeeded.
    Ready,
    /// Probes or requests fail; requests may fail fast.
    Degraded {
        /// Why.
        reason: String,
    },
    /// Finishes what is open and takes nothing new.
    Draining,
    /// Removed.
    Gone,
}

/// Which of a file and a directory of one name is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Want {
    /// The file (S3 key without a trailing slash).
    File,
    /// The directory (S3 key with a trailing slash).
    Directory,
    /// The directory if there is one, else the file (WebHDFS).
    Any,
    /// As [`Want::Any`], with a symbolic link shown as what it is (FUSE).
    Unfollowed,
}

/// Whether parents are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MkdirMode {
    /// The parent must exist and the directory must not (POSIX mkdir).
    New,
    /// Parents are made and an existing directory is fine (mkdir -p).
    Parents,
}

/// What a delete may remove, and what stays of the parents.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeleteMode {
    /// An S3 object: parents that exist only through it vanish with it.
    Object,
    /// An S3 directory marker (`key/`): the same, and children do not hinder it.
    Marker,
    /// A file or a symbolic link; its parent stays a directory.
    File,
    /// An empty directory; its parent stays a directory.
    EmptyDirectory,
    /// A file, a symbolic link or a directory with all below it; its parent stays a directory.
    Tree,
}

/// What happens to a file at the destination of a rename.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RenameMode {
    /// It is an error.
    NoReplace,
    /// A file, or an empty directory under a directory, is replaced.
    Replace,
}

/// How an xattr is set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum XattrMode {
    /// Create or replace.
    Any,
    /// Must not exist.
    Create,
    /// Must exist.
    Replace,
}

/// One page of a listing is asked for. Names are compared as bytes, directories as `name/`.
#[derive(Clone, Debug)]
pub struct ListQuery {
    /// All names start with this; may end anywhere inside a segment.
    pub prefix: String,
    /// Group what lies below a `/` after the prefix into one directory item.
    pub shallow: bool,
    /// Only names after this one. A name that ends in `/` is also past everything below it when `shallow`.
    pub start_after: Option<String>,
    /// Most items on the page; at least 1.
    pub limit: usize,
}

/// One name in a listing.
#[derive(Clone, Debug)]
pub struct ListItem {
    /// Relative to the listed mount or path; ends in `/` for directories (prefixes and empty-directory markers).
    pub name: String,
    /// Stands for all names below it (S3: a common prefix), not for itself.
    pub is_prefix: bool,
    /// What is there. Directories on object stores carry the mount's own time.
    pub entry: Entry,
}

/// Items in byte order of their names.
#[derive(Clone, Debug, Default)]
pub struct ListPage {
    /// At most as many as asked for.
    pub items: Vec<ListItem>,
    /// There may be more after the last item. Never true for an empty page.
    pub is_truncated: bool,
}

/// Space of a store, in bytes and files; for statfs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Usage {
    /// Size of the store.
    pub capacity_bytes: u64,
    /// Free space.
    pub free_bytes: u64,
    /// Most files.
    pub files: u64,
    /// Files that can still be made.
    pub free_files: u64,
}

/// How many bytes of a part of one version are at hand without its store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Cached {
    /// In memory.
    pub memory_bytes: u64,
    /// On a local disk.
    pub disk_bytes: u64,
    /// In either.
    pub bytes: u64,
    /// In the lowest tier there is, where content stays longest.
    pub kept_bytes: u64,
}

/// A request with this header, over S3 or WebHDFS, is told where its bytes were found.
pub const EXPLAIN_HEADER: &str = "x-forebay-explain";

/// The header that tells it: [`Cached::word`].
pub const CACHE_HEADER: &str = "x-forebay-cache";

/// Begin of the names of xattrs that are ours; what follows, where it can be set, is a [`Mount::cache_setting`]. They are
/// not listed: whoever copies all xattrs does not want them.
pub const OWN_XATTRS: &str = "user.forebay.";

/// What a request with this header and the value 1, over S3 or WebHDFS, brings into the cache is kept there as a part of
/// a data set; see [`OpenFile::as_data_set`].
pub const EPOCH_HEADER: &str = "x-forebay-epoch";

/// Where a page of a version lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Place {
    /// In memory only.
    Memory,
    /// In both tiers.
    MemoryAndDisk,
    /// In a file of its own on the cache's disk.
    Disk,
    /// Among small objects on the cache's disk.
    Segment,
    /// It is being fetched.
    OnItsWay,
    /// In the store only.
    Store,
    /// In a local file, which is the store.
    Local,
}

/// A part of a version that lies in one place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Placed {
    /// Which part.
    pub range: ByteRange,
    /// Where it is.
    pub place: Place,
}

/// What is known of how a version is cached.
#[derive(Clone, Debug, Default)]
pub struct Explained {
    /// Its first parts, in order.
    pub parts: Vec<Placed>,
    /// Whether all of it is one verified local file.
    pub is_lent_whole: bool,
    /// Requests that were sent for it, since it or another version of the file was first fetched of late.
    pub fetched_requests: u64,
    /// What they asked for.
    pub fetched_bytes: u64,
    /// Why what is missing is missing, as far as it is remembered.
    pub reasons: Vec<String>,
}

impl Cached {
    /// Where a read of `wanted_bytes`, of which this tells, finds them, as `x-forebay-cache` says it.
    pub fn word(&self, wanted_bytes: u64) -> &'static str {
        if self.bytes < wanted_bytes {
            "miss"
        } else if self.memory_bytes == wanted_bytes {
            "hit-memory"
        } else {
            "hit-disk"
        }
    }
}

/// One version of a file, open for reading. All reads return bytes of this version.
#[async_trait]
pub trait OpenFile: Send + Sync {
    /// The file as it was opened.
    fn entry(&self) -> &Entry;

    /// The same version for a reader who reads a data set whole again and again: what it brings into the cache is admitted
    /// at once and pushes out none of its own. `None` where nothing is cached.
    fn as_data_set(&self) -> Option<Arc<dyn OpenFile>> {
        None
    }

    /// A reader is going to read all of `range` in order. A hint: what fetches ahead need not find out by itself.
    fn expect(&self, _range: ByteRange) {}

    /// Reads without waiting: `None` when a store or a disk would have to be waited for. Never blocks, never
    /// takes a lock that is held over I/O. The range must lie inside the file.
    fn try_read(&self, range: ByteRange) -> Option<Content>;

    /// Reads the start of `range`: at least one byte, at most all of it (a cache page is a natural piece). The
    /// range must lie inside the file and not be empty.
    ///
    /// # Errors
    /// `Stale` when the store no longer has this version; `Unavailable`, `Timeout`, `Busy`.
    async fn read(&self, range: ByteRange) -> Result<Content>;

    /// As [`OpenFile::read`], with lent content read from its file. A loan whose disk fails is taken back by its
    /// tier, so the range is asked for once more.
    ///
    /// # Errors
    /// As [`OpenFile::read`].
    async fn read_bytes(&self, range: ByteRange) -> Result<Vec<Bytes>> {
        match self.read(range).await?.into_bytes().await {
            Ok(pieces) => Ok(pieces),
            Err(_) => self.read(range).await?.into_bytes().await,
        }
    }

    /// The whole content as a local file, complete and verified, if there is one.
    fn lend(&self) -> Option<Lent>;

    /// How much of `range` is cached. All of it where the file lies on a local disk anyway.
    fn cached(&self, range: ByteRange) -> Cached {
        let bytes = range.clamp_to(self.entry().size_bytes).len;
        Cached { memory_bytes: 0, disk_bytes: bytes, bytes, kept_bytes: bytes }
    }

    /// Where `range` of it is found by a read that begins now, as `x-forebay-cache` and the xattr say it.
    fn found(&self, range: ByteRange) -> &'static str {
        let range = range.clamp_to(self.entry().size_bytes);
        self.cached(range).word(range.len)
    }

    /// Where it lies, and why not nearer. Counts as no use.
    fn explain(&self) -> Explained {
        let range = ByteRange::new(0, self.entry().size_bytes);
        let parts = if range.is_empty() { Vec::new() } else { vec![Placed { range, place: Place::Local }] };
        Explained { parts, is_lent_whole: true, ..Explained::default() }
    }

    /// Drops what is cached of it; how many bytes that were. Readers keep what they hold.
    fn free(&self) -> u64 {
        0
    }

    /// Brings `range` into the cache, behind all who wait for what they read; returns when the cache has kept it or
    /// cannot. The bytes that came from the store.
    ///
    /// # Errors
    /// As [`OpenFile::read`].
    async fn fill(&self, _range: ByteRange) -> Result<u64> {
        Ok(0)
    }
}

/// A store in the namespace.
#[async_trait]
pub trait Mount: Send + Sync {
    /// What does not change.
    fn info(&self) -> &MountInfo;

    /// Where it stands.
    fn state(&self) -> MountState;

    /// Looks at an entry without waiting; `None` when the answer is not at hand or no longer fresh.
    fn try_stat(&self, key: &Key, want: Want) -> Option<Result<Entry>>;

    /// Looks at an entry. The mount's root always exists.
    ///
    /// # Errors
    /// `NotFound`, `NotDirectory` (an ancestor is a file), and whatever the store answers.
    async fn stat(&self, key: &Key, want: Want) -> Result<Entry>;

    /// Opens the present version of a file.
    ///
    /// # Errors
    /// As [`Mount::stat`], and `IsDirectory`; `Stale` where a symbolic link is that shall not be followed.
    async fn open(&self, key: &Key, want: Want) -> Result<Arc<dyn OpenFile>>;

    /// One page of names.
    ///
    /// # Errors
    /// Whatever the store answers. A missing prefix is an empty page.
    async fn list(&self, query: &ListQuery) -> Result<ListPage>;

    /// As [`Mount::list`], with symbolic links shown as what they are, wherever they lead.
    ///
    /// # Errors
    /// As [`Mount::list`].
    async fn list_unfollowed(&self, query: &ListQuery) -> Result<ListPage> {
        self.list(query).await
    }

    /// Starts a write. Nothing is visible before [`Staged::publish`].
    ///
    /// # Errors
    /// `NoSpace`, `NoSuchUpload`; for [`Target::Modify`] as [`Mount::open`].
    async fn stage(&self, target: Target) -> Result<Arc<dyn Staged>>;

    /// Makes a directory.
    ///
    /// # Errors
    /// `AlreadyExists`, `NotFound` (parent), `NotDirectory`.
    async fn mkdir(&self, key: &Key, mode: MkdirMode) -> Result<Entry>;

    /// Makes a symbolic link to `target`, kept byte for byte and not looked at, that belongs to `owner` (user, group).
    ///
    /// # Errors
    /// `AlreadyExists`, `NotFound` (parent), `NotDirectory`, `NoSpace`; `Unsupported`.
    async fn symlink(&self, _key: &Key, _target: &[u8], _owner: (u32, u32)) -> Result<Entry> {
        Err(Error::new(ErrorKind::Unsupported, "the store keeps no symbolic links"))
    }

    /// The target of a symbolic link.
    ///
    /// # Errors
    /// As [`Mount::stat`]; `InvalidArgument` where something else is.
    async fn read_link(&self, key: &Key) -> Result<Bytes> {
        self.stat(key, Want::Unfollowed).await?;
        Err(Error::new(ErrorKind::InvalidArgument, "not a symbolic link"))
    }

    /// Removes an entry, of symbolic links the link itself; `false` if there was none. For [`DeleteMode::Object`] and
    /// [`DeleteMode::Marker`] there is only what listings show.
    ///
    /// # Errors
    /// `NotEmpty`, `IsDirectory`, `NotDirectory`, `PreconditionFailed`.
    async fn delete(&self, key: &Key, mode: DeleteMode) -> Result<bool>;

    /// Waits until the names in a directory, and the attributes set for it and for them, are on stable storage. What a
    /// store keeps is there at once.
    ///
    /// # Errors
    /// As [`Mount::stat`], and the disk's.
    async fn sync_directory(&self, _key: &Key) -> Result<()> {
        Ok(())
    }

    /// Moves a file or a directory with all below it. The destination's parent must be a directory.
    ///
    /// # Errors
    /// `NotFound`, `AlreadyExists`, `NotEmpty`, `IsDirectory`, `NotDirectory`, `InvalidArgument` (into itself).
    async fn rename(&self, from: &Key, to: &Key, mode: RenameMode) -> Result<()>;

    /// Copies one file inside the store; `headers` replace the source's. `Unsupported` makes the caller stream.
    ///
    /// # Errors
    /// As [`Mount::open`] and [`Staged::publish`].
    async fn copy(
        &self,
        from: &Key,
        to: &Key,
        headers: Option<Headers>,
        condition: Precondition,
    ) -> Result<Entry>;

    /// Changes POSIX attributes.
    ///
    /// # Errors
    /// As [`Mount::stat`].
    async fn set_attributes(&self, key: &Key, change: AttributeChange) -> Result<Entry>;

    /// Changes owner and times of a symbolic link.
    ///
    /// # Errors
    /// As [`Mount::stat`]; `Unsupported` for a mode.
    async fn set_link_attributes(&self, key: &Key, change: AttributeChange) -> Result<Entry> {
        self.set_attributes(key, change).await?;
        self.stat(key, Want::Unfollowed).await
    }

    /// All xattrs (`user.*`) of an entry by name, in byte order.
    ///
    /// # Errors
    /// As [`Mount::stat`].
    async fn xattrs(&self, key: &Key) -> Result<Vec<(String, Bytes)>>;

    /// Sets an xattr, or removes it where `value` is `None`.
    ///
    /// # Errors
    /// As [`Mount::stat`]; `AlreadyExists` or `NotFound` against `mode`; `NoSpace` when too large.
    async fn set_xattr(&self, key: &Key, name: &str, value: Option<Bytes>, mode: XattrMode) -> Result<()>;

    /// What was said of how the content at and below `key` is cached: `name` is that of the xattr
    /// `user.forebay.NAME`. `None` where nothing was said of exactly this.
    fn cache_setting(&self, _key: &Key, _name: &str) -> Option<String> {
        None
    }

    /// Says it, or takes it back where `value` is `None`.
    ///
    /// # Errors
    /// `InvalidArgument` for a name or a value that there is not; `NoSpace` when too much is said; `Unsupported` where
    /// nothing is cached.
    async fn set_cache_setting(&self, _key: &Key, _name: &str, _value: Option<&str>) -> Result<()> {
        Err(Error::new(ErrorKind::Unsupported, "the content of this mount is not cached"))
    }

    /// Space of the store.
    ///
    /// # Errors
    /// Whatever the store answers.
    async fn usage(&self) -> Result<Usage>;

    /// What would be lost if the mount were given up now. Mounts that stage nothing hold nothing.
    ///
    /// # Errors
    /// The staging disk's.
    async fn dirty(&self) -> Result<Dirty> {
        Ok(Dirty::default())
    }

    /// How many names have contents that were acknowledged and are not at the store yet.
    fn backlog(&self) -> u64 {
        0
    }

    /// What was acknowledged and is not at the store yet, what was written longest ago first; at most a page of it.
    fn pending(&self) -> Vec<PendingWrite> {
        Vec::new()
    }

    /// Where an acknowledged content lost against another one since the mount is there, the last at the end; at most a
    /// page of it.
    fn conflicts(&self) -> Vec<Conflict> {
        Vec::new()
    }

    /// Acknowledged contents that were lost before the store had them, the last at the end; at most a page of them.
    fn lost(&self) -> Vec<LostWrite> {
        Vec::new()
    }

    /// Waits until all that was acknowledged at and below `key` is at the store.
    ///
    /// # Errors
    /// What keeps it from getting there for good.
    async fn flush(&self, _key: &Key) -> Result<()> {
        Ok(())
    }

    /// Whether it remembers what its store said, so that there is something to sync.
    fn remembers(&self) -> bool {
        false
    }

    /// Compares what is remembered of the names at and below `key` with what the store has, and makes it right: the first
    /// piece of `span`. Content of files that changed or went leaves the cache. Goes on if nobody waits.
    ///
    /// # Errors
    /// As [`Mount::list`]; `Unsupported` unless [`Mount::remembers`].
    async fn sync(&self, _key: &Key, _span: &SyncSpan) -> Result<SyncPage> {
        Err(Error::new(ErrorKind::Unsupported, "nothing of this store is remembered"))
    }

    /// Names after `after`, in order, at which the rest of a sync of `key` may be parted to be compared side by side; none
    /// where that is not worth it.
    ///
    /// # Errors
    /// As [`Mount::list`].
    async fn sync_splits(&self, _key: &Key, _after: &str) -> Result<Vec<String>> {
        Ok(Vec::new())
    }

    /// Starts a multipart upload. Its state survives a restart.
    ///
    /// # Errors
    /// `NoSpace`.
    async fn create_upload(&self, key: &Key, headers: Headers) -> Result<UploadId>;

    /// Uploads in progress whose key starts with `prefix`, in order of (key, id).
    ///
    /// # Errors
    /// The staging disk's.
    async fn uploads(&self, prefix: &str) -> Result<Vec<UploadInfo>>;

    /// The parts of an upload in order of number.
    ///
    /// # Errors
    /// `NoSuchUpload` also when the upload belongs to another key.
    async fn parts(&self, key: &Key, upload: &UploadId) -> Result<Vec<PartInfo>>;

    /// Publishes the numbered parts, in the given order, as one file, and forgets the upload.
    ///
    /// # Errors
    /// `NoSuchUpload`, `InvalidPart` (a number that was not staged), and as [`Staged::publish`].
    async fn complete_upload(
        &self,
        key: &Key,
        upload: &UploadId,
        parts: &[u32],
        condition: Precondition,
    ) -> Result<Entry>;

    /// Forgets an upload and its parts.
    ///
    /// # Errors
    /// `NoSuchUpload`.
    async fn abort_upload(&self, key: &Key, upload: &UploadId) -> Result<()>;
}
