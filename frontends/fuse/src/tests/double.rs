//! A store for tests: files by key, each a real local file that can be lent.
//!
//! In place: a modification is the stored file itself, as on a local disk. Otherwise it is a copy, as on an object
//! store, and a publication is a new version.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{Seek, SeekFrom};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use async_trait::async_trait;
use bytes::Bytes;
use forebay_core::{
    AttributeChange, Attributes, ByteRange, Capability, Content, DeleteMode, ETag, Entry, EntryKind, Error,
    ErrorKind, FileId, Headers, Key, Lent, ListItem, ListPage, ListQuery, MkdirMode, Mount, MountInfo,
    MountState, OpenFile, PartInfo, Precondition, Publish, RenameMode, Result, Staged, Target, UploadId,
    UploadInfo, Usage, Want, XattrMode,
};

/// How the double behaves.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Traits {
    pub(crate) is_in_place: bool,
    pub(crate) lends: bool,
}

#[derive(Clone)]
struct Object {
    file_id: FileId,
    file: Arc<File>,
    version: u64,
    mode: u32,
    modified: Option<SystemTime>,
    /// Of a symbolic link.
    target: Option<Bytes>,
}

#[derive(Default)]
struct Tree {
    objects: BTreeMap<String, Object>,
    directories: BTreeSet<String>,
    publications: u64,
    synced: Vec<String>,
}

struct Shared {
    tree: Mutex<Tree>,
    directory: tempfile::TempDir,
    traits: Traits,
    lends: std::sync::atomic::AtomicBool,
    /// Publications of names that begin with `held` wait here.
    gate: tokio::sync::Semaphore,
    waiting: AtomicU64,
}

pub(crate) struct Double {
    info: MountInfo,
    shared: Arc<Shared>,
}

fn serial() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

fn missing() -> Error {
    Error::new(ErrorKind::NotFound, "no such entry")
}

fn unsupported<T>() -> Result<T> {
    Err(Error::new(ErrorKind::Unsupported, "not in the double"))
}

impl Object {
    fn new(file: Arc<File>) -> Self {
        let id = serial();
        let file_id = FileId::of(&[&id.to_le_bytes()]);
        Self { file_id, file, version: id, mode: 0o644, modified: None, target: None }
    }

    fn entry(&self) -> Entry {
        let metadata = self.file.metadata().expect("an open file");
        let modified = self.modified.unwrap_or_else(|| metadata.modified().expect("times"));
        let attributes =
            Attributes { mode: self.mode, uid: 0, gid: 0, accessed: modified, changed: modified };
        Entry {
            file_id: self.file_id,
            kind: if self.target.is_some() { EntryKind::Link } else { EntryKind::File },
            size_bytes: metadata.len(),
            version: forebay_core::Version::Strong(self.version.to_string().into()),
            etag: ETag::new(&self.version.to_string()),
            modified,
            attributes,
            headers: None,
        }
    }
}

fn directory_entry(key: &str) -> Entry {
    let now = SystemTime::UNIX_EPOCH;
    Entry {
        file_id: FileId::of(&[b"directory", key.as_bytes()]),
        kind: EntryKind::Directory,
        size_bytes: 0,
        version: forebay_core::Version::Strong("directory".into()),
        etag: ETag::new("directory"),
        modified: now,
        attributes: Attributes { mode: 0o755, uid: 0, gid: 0, accessed: now, changed: now },
        headers: None,
    }
}

impl Tree {
    fn is_directory(&self, key: &str) -> bool {
        let prefix = format!("{key}/");
        key.is_empty()
            || self.directories.contains(key)
            || self.objects.keys().any(|k| k.starts_with(&prefix))
    }

    fn stat(&self, key: &str) -> Result<Entry> {
        if self.is_directory(key) {
            return Ok(directory_entry(key));
        }
        self.objects.get(key).map(Object::entry).ok_or_else(missing)
    }
}

impl Shared {
    fn tree(&self) -> std::sync::MutexGuard<'_, Tree> {
        self.tree.lock().expect("no panic under this lock")
    }

    /// Holds what concerns a name that begins with `held`.
    async fn wait(&self, key: &str) {
        if key.starts_with("held") {
            self.waiting.fetch_add(1, Ordering::Relaxed);
            drop(self.gate.acquire().await);
        }
    }

    fn temporary(&self) -> Result<File> {
        Ok(tempfile::tempfile_in(self.directory.path())?)
    }
}

impl Double {
    pub(crate) fn new(traits: Traits) -> Result<Arc<Self>> {
        let capability = Capability {
            write: true,
            conditional_create: true,
            conditional_replace: true,
            native_copy: true,
            native_rename: true,
            headers: false,
            posix: true,
            hierarchical: traits.is_in_place,
            key_bytes_max: 1024,
        };
        let info = MountInfo {
            name: "/m".into(),
            store: "double",
            read_only: false,
            mounted: SystemTime::UNIX_EPOCH,
            capability,
        };
        let shared = Shared {
            tree: Mutex::default(),
            directory: tempfile::tempdir()?,
            traits,
            lends: traits.lends.into(),
            gate: tokio::sync::Semaphore::new(0),
            waiting: AtomicU64::new(0),
        };
        Ok(Arc::new(Self { info, shared: Arc::new(shared) }))
    }

    /// From now on files are lent or not: caching of a file was finished, or it was evicted.
    pub(crate) fn lend_files(&self, lends: bool) {
        self.shared.lends.store(lends, Ordering::Relaxed);
    }

    /// How many publications and removals of names that begin with `held` have begun.
    pub(crate) fn held(&self) -> u64 {
        self.shared.waiting.load(Ordering::Relaxed)
    }

    /// Lets them go on.
    pub(crate) fn release(&self) {
        self.shared.gate.close();
    }

    /// How often anything was published.
    pub(crate) fn publications(&self) -> u64 {
        self.shared.tree().publications
    }

    /// The directories that were synced.
    pub(crate) fn synced(&self) -> Vec<String> {
        self.shared.tree().synced.clone()
    }
}

struct Opened {
    entry: Entry,
    file: Arc<File>,
    is_lent: bool,
    shared: Arc<Shared>,
    key: String,
}

#[async_trait]
impl OpenFile for Opened {
    fn entry(&self) -> &Entry {
        &self.entry
    }

    fn try_read(&self, _range: ByteRange) -> Option<Content> {
        None
    }

    async fn read(&self, range: ByteRange) -> Result<Content> {
        let present = self.shared.tree().objects.get(&self.key).map(|object| object.entry().version);
        if !self.is_lent && present.as_ref() != Some(&self.entry.version) {
            return Err(Error::new(ErrorKind::Stale, "the store keeps no old versions"));
        }
        // Short pieces, so that readers have to go on.
        let mut piece = vec![0; range.len.min(100_000) as usize];
        let len = self.file.read_at(&mut piece, range.offset)?;
        piece.truncate(len);
        Ok(Bytes::from(piece).into())
    }

    fn lend(&self) -> Option<Lent> {
        let range = ByteRange::new(0, self.entry.size_bytes);
        self.is_lent.then(|| Lent::new(Arc::clone(&self.file), range, Arc::new(())))
    }
}

struct Write {
    shared: Arc<Shared>,
    key: String,
    /// Present where the file keeps its identity.
    modifies: Option<FileId>,
    file: Arc<File>,
}

#[async_trait]
impl Staged for Write {
    async fn write_at(&self, offset: u64, bytes: Bytes) -> Result<()> {
        Ok(self.file.write_all_at(&bytes, offset)?)
    }

    async fn truncate(&self, size_bytes: u64) -> Result<()> {
        Ok(self.file.set_len(size_bytes)?)
    }

    fn size_bytes(&self) -> Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    fn file(&self) -> Lent {
        Lent::new(Arc::clone(&self.file), ByteRange::new(0, u64::MAX), Arc::new(()))
    }

    async fn publish(&self, publish: Publish) -> Result<Entry> {
        self.shared.wait(&self.key).await;
        let mut tree = self.shared.tree();
        let present = tree.objects.get(&self.key).cloned();
        if publish.condition == Precondition::Absent && present.is_some() {
            return Err(Error::new(ErrorKind::PreconditionFailed, "it exists"));
        }
        if let (true, Some(file_id)) = (self.shared.traits.is_in_place, self.modifies) {
            // The stored file, wherever it is now.
            let version = serial();
            tree.publications += 1;
            let mut stored = tree.objects.values_mut().filter(|object| object.file_id == file_id);
            let object = stored.next().ok_or_else(missing)?;
            object.version = version;
            return Ok(object.entry());
        }
        let file = if self.shared.traits.is_in_place {
            Arc::clone(&self.file)
        } else {
            // What is stored no longer changes with the staged file.
            let mut copy = self.shared.temporary()?;
            let mut from = self.file.try_clone()?;
            from.seek(SeekFrom::Start(0))?;
            std::io::copy(&mut from, &mut copy)?;
            Arc::new(copy)
        };
        let mut object = Object::new(file);
        object.mode = publish.mode.or(present.map(|present| present.mode)).unwrap_or(0o644);
        object.file_id = self.modifies.unwrap_or(object.file_id);
        tree.publications += 1;
        let entry = object.entry();
        tree.objects.insert(self.key.clone(), object);
        Ok(entry)
    }
}

#[async_trait]
impl Mount for Double {
    fn info(&self) -> &MountInfo {
        &self.info
    }

    fn state(&self) -> MountState {
        MountState::Ready
    }

    fn try_stat(&self, _key: &Key, _want: Want) -> Option<Result<Entry>> {
        None
    }

    async fn stat(&self, key: &Key, _want: Want) -> Result<Entry> {
        self.shared.tree().stat(key.as_str())
    }

    async fn open(&self, key: &Key, want: Want) -> Result<Arc<dyn OpenFile>> {
        let tree = self.shared.tree();
        let object = tree.objects.get(key.as_str()).ok_or_else(missing)?;
        if want == Want::Unfollowed && object.target.is_some() {
            return Err(Error::new(ErrorKind::Stale, "a link by now"));
        }
        let is_lent = self.shared.lends.load(Ordering::Relaxed);
        let (shared, key) = (Arc::clone(&self.shared), key.as_str().to_owned());
        Ok(Arc::new(Opened { entry: object.entry(), file: Arc::clone(&object.file), is_lent, shared, key }))
    }

    async fn list(&self, query: &ListQuery) -> Result<ListPage> {
        let tree = self.shared.tree();
        let mut names = BTreeMap::new();
        let files = tree.objects.keys().map(|key| (key.clone(), key.clone()));
        let markers = tree.directories.iter().map(|key| (format!("{key}/"), key.clone()));
        for (name, key) in files.chain(markers) {
            let Some(rest) = name.strip_prefix(&query.prefix).filter(|rest| !rest.is_empty()) else {
                continue;
            };
            match rest.find('/') {
                Some(cut) => {
                    let name = format!("{}{}", query.prefix, &rest[..=cut]);
                    names.insert(name.clone(), directory_entry(name.trim_end_matches('/')));
                }
                None => drop(names.insert(name.clone(), tree.stat(&key)?)),
            }
        }
        let after = |name: &String| query.start_after.as_ref().is_none_or(|after| name > after);
        let mut items = names.into_iter().filter(|(name, _)| after(name));
        let listed: Vec<_> = items
            .by_ref()
            .take(query.limit)
            .map(|(name, entry)| ListItem { is_prefix: name.ends_with('/'), name, entry })
            .collect();
        Ok(ListPage { items: listed, is_truncated: items.next().is_some() })
    }

    async fn stage(&self, target: Target) -> Result<Arc<dyn Staged>> {
        let shared = Arc::clone(&self.shared);
        match target {
            Target::Replace(key) => {
                let file = Arc::new(shared.temporary()?);
                Ok(Arc::new(Write { shared, key: key.as_str().to_owned(), modifies: None, file }))
            }
            Target::Modify(key) => {
                let object = shared.tree().objects.get(key.as_str()).cloned().ok_or_else(missing)?;
                let file = if shared.traits.is_in_place {
                    object.file
                } else {
                    let copy = shared.temporary()?;
                    let mut content = vec![0; object.file.metadata()?.size() as usize];
                    object.file.read_exact_at(&mut content, 0)?;
                    copy.write_all_at(&content, 0)?;
                    Arc::new(copy)
                };
                let modifies = Some(object.file_id);
                Ok(Arc::new(Write { shared, key: key.as_str().to_owned(), modifies, file }))
            }
            Target::Part { .. } => unsupported(),
        }
    }

    async fn mkdir(&self, key: &Key, _mode: MkdirMode) -> Result<Entry> {
        let mut tree = self.shared.tree();
        if tree.stat(key.as_str()).is_ok() {
            return Err(Error::new(ErrorKind::AlreadyExists, "it exists"));
        }
        tree.directories.insert(key.as_str().to_owned());
        Ok(directory_entry(key.as_str()))
    }

    async fn symlink(&self, key: &Key, target: &[u8], _owner: (u32, u32)) -> Result<Entry> {
        let file = self.shared.temporary()?;
        file.write_all_at(target, 0)?;
        let mut tree = self.shared.tree();
        if tree.stat(key.as_str()).is_ok() {
            return Err(Error::new(ErrorKind::AlreadyExists, "it exists"));
        }
        let target = Some(Bytes::copy_from_slice(target));
        let object = Object { target, mode: 0o777, ..Object::new(Arc::new(file)) };
        let entry = object.entry();
        tree.objects.insert(key.as_str().to_owned(), object);
        Ok(entry)
    }

    async fn read_link(&self, key: &Key) -> Result<Bytes> {
        let tree = self.shared.tree();
        let object = tree.objects.get(key.as_str()).ok_or_else(missing)?;
        object.target.clone().ok_or_else(|| Error::new(ErrorKind::InvalidArgument, "no link"))
    }

    async fn delete(&self, key: &Key, mode: DeleteMode) -> Result<bool> {
        self.shared.wait(key.as_str()).await;
        let mut tree = self.shared.tree();
        let below = format!("{}/", key.as_str());
        if mode == DeleteMode::EmptyDirectory {
            if tree.objects.keys().chain(&tree.directories).any(|k| k.starts_with(&below)) {
                return Err(Error::new(ErrorKind::NotEmpty, "it has children"));
            }
            return Ok(tree.directories.remove(key.as_str()));
        }
        Ok(tree.objects.remove(key.as_str()).is_some())
    }

    async fn sync_directory(&self, key: &Key) -> Result<()> {
        self.shared.tree().synced.push(key.as_str().to_owned());
        Ok(())
    }

    async fn rename(&self, from: &Key, to: &Key, mode: RenameMode) -> Result<()> {
        let mut tree = self.shared.tree();
        if mode == RenameMode::NoReplace && tree.stat(to.as_str()).is_ok() {
            return Err(Error::new(ErrorKind::AlreadyExists, "it exists"));
        }
        tree.stat(from.as_str())?;
        let new = |key: &String| {
            let rest = key.strip_prefix(from.as_str())?;
            (rest.is_empty() || rest.starts_with('/')).then(|| format!("{}{rest}", to.as_str()))
        };
        let moved: Vec<_> = tree.objects.keys().filter_map(|key| Some((key.clone(), new(key)?))).collect();
        for (old, new) in moved {
            let object = tree.objects.remove(&old).ok_or_else(missing)?;
            tree.objects.insert(new, object);
        }
        let moved: Vec<_> =
            tree.directories.iter().filter_map(|key| Some((key.clone(), new(key)?))).collect();
        for (old, new) in moved {
            tree.directories.remove(&old);
            tree.directories.insert(new);
        }
        Ok(())
    }

    async fn copy(
        &self,
        _from: &Key,
        _to: &Key,
        _headers: Option<Headers>,
        _condition: Precondition,
    ) -> Result<Entry> {
        unsupported()
    }

    async fn set_attributes(&self, key: &Key, change: AttributeChange) -> Result<Entry> {
        let mut tree = self.shared.tree();
        let Some(object) = tree.objects.get_mut(key.as_str()) else { return tree.stat(key.as_str()) };
        object.mode = change.mode.unwrap_or(object.mode);
        object.modified = change.modified.or(object.modified);
        Ok(object.entry())
    }

    async fn xattrs(&self, key: &Key) -> Result<Vec<(String, Bytes)>> {
        self.shared.tree().stat(key.as_str()).map(|_| Vec::new())
    }

    async fn set_xattr(
        &self,
        _key: &Key,
        _name: &str,
        _value: Option<Bytes>,
        _mode: XattrMode,
    ) -> Result<()> {
        unsupported()
    }

    async fn usage(&self) -> Result<Usage> {
        unsupported()
    }

    async fn create_upload(&self, _key: &Key, _headers: Headers) -> Result<UploadId> {
        unsupported()
    }

    async fn uploads(&self, _prefix: &str) -> Result<Vec<UploadInfo>> {
        unsupported()
    }

    async fn parts(&self, _key: &Key, _upload: &UploadId) -> Result<Vec<PartInfo>> {
        unsupported()
    }

    async fn complete_upload(
        &self,
        _key: &Key,
        _upload: &UploadId,
        _parts: &[u32],
        _condition: Precondition,
    ) -> Result<Entry> {
        unsupported()
    }

    async fn abort_upload(&self, _key: &Key, _upload: &UploadId) -> Result<()> {
        unsupported()
    }
}
