//! Test doubles: a mount in memory at `/`, and open files that answer at once, later, from a file, or fail.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, UNIX_EPOCH};

use async_trait::async_trait;
use bytes::Bytes;
use forebay_core::*;

/// A file of this tag, modified this many seconds after the epoch.
pub(crate) fn entry(etag: &str, seconds: u64) -> Entry {
    let time = UNIX_EPOCH + Duration::from_secs(seconds);
    Entry {
        file_id: FileId::of(&[etag.as_bytes()]),
        kind: EntryKind::File,
        size_bytes: 0,
        version: Version::Strong(Arc::from(etag)),
        etag: ETag::new(etag),
        modified: time,
        attributes: Attributes { mode: 0o644, uid: 0, gid: 0, accessed: time, changed: time },
        headers: None,
    }
}

fn directory() -> Entry {
    Entry { kind: EntryKind::Directory, ..entry("directory", 1) }
}

/// A principal who may do everything.
pub(crate) fn principal() -> Arc<Principal> {
    let grants = vec![Grant { prefix: NsPath::root(), permission: Permission::Write }];
    Arc::new(Principal { name: "tester".into(), grants })
}

/// A call of [`principal`].
pub(crate) fn context() -> Context {
    Context::new(principal())
}

/// The memory mount at `/`, holding these keys in the bucket `bkt`.
pub(crate) async fn namespace_with(keys: &[&str]) -> Arc<Namespace> {
    let mount = MemoryMount::default();
    mount.state().directories.insert("bkt".to_owned());
    for key in keys {
        let entry = Entry { size_bytes: 1, ..entry(key, 1) };
        mount.state().files.insert(format!("bkt/{key}"), (entry, Bytes::from_static(b"x")));
    }
    let mounts: [(NsPath, Arc<dyn Mount>); 1] = [(NsPath::root(), Arc::new(mount))];
    Arc::new(Namespace::new(MountTable::new(mounts).expect("one mount"), UNIX_EPOCH))
}

/// How [`Pieces`] answers.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Serve {
    AtOnce,
    Later,
    /// Later, and the cache keeps nothing of it.
    Uncached,
    Lent,
    FailsAt(u64),
}

/// An open file of patterned bytes.
#[derive(Clone)]
pub(crate) struct Pieces {
    bytes: Bytes,
    entry: Entry,
    serve: Serve,
    file: Arc<std::fs::File>,
    reads: Arc<AtomicU64>,
}

impl Pieces {
    pub(crate) fn new(size: usize, serve: Serve) -> Self {
        let bytes: Vec<u8> = (0..size).map(|i| (i % 251) as u8).collect();
        let mut file = tempfile::tempfile().expect("a temporary file");
        std::io::Write::write_all(&mut file, &bytes).expect("written");
        Self::of(Bytes::from(bytes), Entry { size_bytes: size as u64, ..entry("pieces", 1) }, serve, file)
    }

    fn of(bytes: Bytes, entry: Entry, serve: Serve, file: std::fs::File) -> Self {
        Self { bytes, entry, serve, file: Arc::new(file), reads: Arc::default() }
    }

    /// How often the store was asked.
    pub(crate) fn reads(&self) -> u64 {
        self.reads.load(Ordering::Relaxed)
    }

    pub(crate) fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    fn content(&self, range: ByteRange) -> Content {
        Content::from(self.bytes.slice(range.offset as usize..range.end() as usize))
    }
}

#[async_trait]
impl OpenFile for Pieces {
    fn entry(&self) -> &Entry {
        &self.entry
    }

    fn try_read(&self, range: ByteRange) -> Option<Content> {
        match self.serve {
            Serve::AtOnce => Some(self.content(range)),
            Serve::Later | Serve::Uncached | Serve::FailsAt(_) => None,
            Serve::Lent => {
                Some(Content::one(Extent::Lent(Lent::new(Arc::clone(&self.file), range, Arc::new(())))))
            }
        }
    }

    fn cached(&self, range: ByteRange) -> Cached {
        let bytes = if matches!(self.serve, Serve::Uncached) { 0 } else { range.len };
        Cached { bytes, ..Cached::default() }
    }

    async fn read(&self, range: ByteRange) -> Result<Content> {
        tokio::task::yield_now().await;
        self.reads.fetch_add(1, Ordering::Relaxed);
        match self.serve {
            Serve::FailsAt(at) if range.offset >= at => Err(Error::new(ErrorKind::Unavailable, "gone")),
            // Less than asked for, as the port allows.
            _ => Ok(self.content(ByteRange::new(range.offset, range.len.div_ceil(2)))),
        }
    }

    fn lend(&self) -> Option<Lent> {
        None
    }
}

/// What an upload will become, and its parts.
type Upload = (Key, Headers, BTreeMap<u32, (PartInfo, Bytes)>);

#[derive(Default)]
struct State {
    files: BTreeMap<String, (Entry, Bytes)>,
    directories: BTreeSet<String>,
    uploads: BTreeMap<String, Upload>,
}

/// A store in memory. A key named `panic` panics when it is opened.
#[derive(Clone, Default)]
pub(crate) struct MemoryMount(Arc<Mutex<State>>);

impl MemoryMount {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().expect("no panic under this lock")
    }
}

fn next() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

fn missing() -> Error {
    Error::new(ErrorKind::NotFound, "no such file or directory")
}

fn unused() -> Error {
    Error::new(ErrorKind::Unsupported, "S3 does not use this")
}

fn holds(entry: Option<&Entry>, condition: &Precondition) -> Result<()> {
    let is_met = match condition {
        Precondition::None => true,
        Precondition::Absent => entry.is_none(),
        Precondition::Matches(tag) => entry.is_some_and(|entry| entry.etag == *tag),
    };
    if is_met {
        Ok(())
    } else {
        Err(Error::new(ErrorKind::PreconditionFailed, "the precondition does not hold"))
    }
}

impl State {
    fn put(&mut self, key: &Key, bytes: Bytes, publish: &Publish) -> Result<Entry> {
        holds(self.files.get(key.as_str()).map(|(entry, _)| entry), &publish.condition)?;
        let size_bytes = bytes.len() as u64;
        let headers = publish.headers.clone().map(Arc::new);
        let entry = Entry { size_bytes, headers, ..entry(&format!("tag{}", next()), 1000) };
        self.files.insert(key.as_str().to_owned(), (entry.clone(), bytes));
        Ok(entry)
    }
}

struct Write {
    mount: MemoryMount,
    target: Target,
    bytes: Mutex<Vec<u8>>,
}

#[async_trait]
impl Staged for Write {
    async fn write_at(&self, offset: u64, bytes: Bytes) -> Result<()> {
        let mut all = self.bytes.lock().expect("no panic under this lock");
        let end = offset as usize + bytes.len();
        if all.len() < end {
            all.resize(end, 0);
        }
        all[offset as usize..end].copy_from_slice(&bytes);
        Ok(())
    }

    async fn truncate(&self, _: u64) -> Result<()> {
        Err(unused())
    }

    fn size_bytes(&self) -> Result<u64> {
        Ok(self.bytes.lock().expect("no panic under this lock").len() as u64)
    }

    fn file(&self) -> Lent {
        unreachable!("S3 writes through the handle")
    }

    async fn publish(&self, publish: Publish) -> Result<Entry> {
        let bytes = Bytes::from(self.bytes.lock().expect("no panic under this lock").clone());
        let mut state = self.mount.state();
        match &self.target {
            Target::Replace(key) => state.put(key, bytes, &publish),
            Target::Modify(_) => Err(unused()),
            Target::Part { upload, number, checksum, .. } => {
                let entry = Entry { size_bytes: bytes.len() as u64, ..entry(&format!("part{number}"), 1000) };
                let part = PartInfo {
                    number: *number,
                    size_bytes: entry.size_bytes,
                    etag: entry.etag.clone(),
                    checksum: checksum.clone(),
                    modified: entry.modified,
                };
                let (_, _, parts) = state.uploads.get_mut(&upload.0).ok_or_else(no_upload)?;
                parts.insert(*number, (part, bytes));
                Ok(entry)
            }
        }
    }
}

fn no_upload() -> Error {
    Error::new(ErrorKind::NoSuchUpload, "no such upload")
}

#[async_trait]
impl Mount for MemoryMount {
    fn info(&self) -> &MountInfo {
        static INFO: std::sync::LazyLock<MountInfo> = std::sync::LazyLock::new(|| MountInfo {
            name: "/".into(),
            store: "double",
            read_only: false,
            mounted: UNIX_EPOCH,
            capability: Capability {
                write: true,
                conditional_create: true,
                conditional_replace: true,
                native_copy: true,
                native_rename: false,
                headers: true,
                posix: false,
                hierarchical: false,
                key_bytes_max: 1024,
            },
        });
        &INFO
    }

    fn state(&self) -> MountState {
        MountState::Ready
    }

    fn try_stat(&self, _: &Key, _: Want) -> Option<Result<Entry>> {
        None
    }

    async fn stat(&self, key: &Key, want: Want) -> Result<Entry> {
        let state = self.state();
        let file = state.files.get(key.as_str()).map(|(entry, _)| entry.clone());
        let below = format!("{}/", key.as_str());
        let is_directory = key.is_root()
            || state.directories.contains(key.as_str())
            || state.files.keys().any(|name| name.starts_with(&below));
        let found = match want {
            Want::File => file,
            Want::Directory => is_directory.then(directory),
            Want::Any | Want::Unfollowed => is_directory.then(directory).or(file),
        };
        found.ok_or_else(missing)
    }

    async fn open(&self, key: &Key, _: Want) -> Result<Arc<dyn OpenFile>> {
        assert!(key.name() != "panic", "asked to panic");
        let (entry, bytes) = self.state().files.get(key.as_str()).cloned().ok_or_else(missing)?;
        let file = tempfile::tempfile()?;
        Ok(Arc::new(Pieces::of(bytes, entry, Serve::Later, file)))
    }

    async fn list(&self, query: &ListQuery) -> Result<ListPage> {
        let state = self.state();
        let files = state.files.iter().map(|(name, (entry, _))| (name.clone(), entry.clone()));
        let markers = state.directories.iter().map(|name| (format!("{name}/"), directory()));
        let all: BTreeMap<String, Entry> = files.chain(markers).collect();
        let mut items: BTreeMap<String, ListItem> = BTreeMap::new();
        for (name, entry) in all.into_iter().filter(|(name, _)| name.starts_with(&query.prefix)) {
            let cut = name[query.prefix.len()..].find('/').filter(|_| query.shallow);
            let shown = cut.map_or(name.clone(), |at| name[..=query.prefix.len() + at].to_owned());
            let is_prefix = cut.is_some();
            let entry = if is_prefix { directory() } else { entry };
            items.insert(shown.clone(), ListItem { name: shown, is_prefix, entry });
        }
        let is_after = |name: &str| match query.start_after.as_deref() {
            None => true,
            Some(after) if name <= after => false,
            Some(after) => {
                !(query.shallow && after.ends_with('/') && after != query.prefix && name.starts_with(after))
            }
        };
        let mut rest: Vec<ListItem> = items.into_values().filter(|item| is_after(&item.name)).collect();
        let is_truncated = rest.len() > query.limit;
        rest.truncate(query.limit);
        Ok(ListPage { items: rest, is_truncated })
    }

    async fn stage(&self, target: Target) -> Result<Arc<dyn Staged>> {
        Ok(Arc::new(Write { mount: self.clone(), target, bytes: Mutex::default() }))
    }

    async fn mkdir(&self, key: &Key, _: MkdirMode) -> Result<Entry> {
        self.state().directories.insert(key.as_str().to_owned());
        Ok(directory())
    }

    async fn delete(&self, key: &Key, mode: DeleteMode) -> Result<bool> {
        let below = format!("{}/", key.as_str());
        let mut state = self.state();
        match mode {
            DeleteMode::Object | DeleteMode::File => Ok(state.files.remove(key.as_str()).is_some()),
            DeleteMode::EmptyDirectory if state.files.keys().any(|name| name.starts_with(&below)) => {
                Err(Error::new(ErrorKind::NotEmpty, "the directory has children"))
            }
            DeleteMode::Marker | DeleteMode::EmptyDirectory | DeleteMode::Tree => {
                Ok(state.directories.remove(key.as_str()))
            }
        }
    }

    async fn rename(&self, _: &Key, _: &Key, _: RenameMode) -> Result<()> {
        Err(unused())
    }

    async fn copy(&self, _: &Key, _: &Key, _: Option<Headers>, _: Precondition) -> Result<Entry> {
        Err(unused())
    }

    async fn set_attributes(&self, _: &Key, _: AttributeChange) -> Result<Entry> {
        Err(unused())
    }

    async fn xattrs(&self, _: &Key) -> Result<Vec<(String, Bytes)>> {
        Err(unused())
    }

    async fn set_xattr(&self, _: &Key, _: &str, _: Option<Bytes>, _: XattrMode) -> Result<()> {
        Err(unused())
    }

    async fn usage(&self) -> Result<Usage> {
        Err(unused())
    }

    async fn create_upload(&self, key: &Key, headers: Headers) -> Result<UploadId> {
        let id = format!("upload{}", next());
        self.state().uploads.insert(id.clone(), (key.clone(), headers, BTreeMap::new()));
        Ok(UploadId(id))
    }

    async fn uploads(&self, prefix: &str) -> Result<Vec<UploadInfo>> {
        let state = self.state();
        let all = state.uploads.iter().filter(|(_, (key, _, _))| key.as_str().starts_with(prefix));
        Ok(all
            .map(|(id, (key, headers, _))| UploadInfo {
                key: key.clone(),
                upload: UploadId(id.clone()),
                started: UNIX_EPOCH,
                headers: headers.clone(),
            })
            .collect())
    }

    async fn parts(&self, _: &Key, upload: &UploadId) -> Result<Vec<PartInfo>> {
        let state = self.state();
        let (_, _, parts) = state.uploads.get(&upload.0).ok_or_else(no_upload)?;
        Ok(parts.values().map(|(part, _)| part.clone()).collect())
    }

    async fn complete_upload(
        &self,
        key: &Key,
        upload: &UploadId,
        numbers: &[u32],
        condition: Precondition,
    ) -> Result<Entry> {
        let mut state = self.state();
        let (_, headers, parts) = state.uploads.get(&upload.0).cloned().ok_or_else(no_upload)?;
        let whole: Vec<u8> = numbers.iter().flat_map(|number| parts[number].1.to_vec()).collect();
        let publish = Publish { condition, headers: Some(headers), ..Publish::default() };
        let entry = state.put(key, Bytes::from(whole), &publish)?;
        state.uploads.remove(&upload.0);
        Ok(entry)
    }

    async fn abort_upload(&self, _: &Key, upload: &UploadId) -> Result<()> {
        self.state().uploads.remove(&upload.0).map(|_| ()).ok_or_else(no_upload)
    }
}
