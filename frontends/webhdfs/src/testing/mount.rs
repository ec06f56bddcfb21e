//! The smallest store that behaves: files and directories in memory, directories also implied by what lies below.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::SystemTime;

use async_trait::async_trait;
use bytes::Bytes;
use forebay_core::{
    AttributeChange, Attributes, ByteRange, Capability, Content, DeleteMode, ETag, Entry, EntryKind, Error,
    ErrorKind, FileId, Headers, Key, Lent, ListItem, ListPage, ListQuery, MkdirMode, Mount, MountInfo,
    MountState, OpenFile, PartInfo, Precondition, Publish, RenameMode, Result, Staged, Target, UploadId,
    UploadInfo, Usage, Version, Want, XattrMode,
};

const UNUSED: &str = "WebHDFS does not ask for this";

#[derive(Clone, Default)]
struct File {
    bytes: Bytes,
    mode: u32,
    xattrs: BTreeMap<String, Bytes>,
}

#[derive(Default)]
struct State {
    files: BTreeMap<String, File>,
    directories: BTreeSet<String>,
}

/// The store. Reads of files named `slow…` do not answer at once, and a file named `panic` panics.
pub(crate) struct MemoryMount {
    info: MountInfo,
    state: Arc<Mutex<State>>,
}

fn error(kind: ErrorKind) -> Error {
    Error::new(kind, format!("{kind:?}"))
}

fn entry(key: &str, kind: EntryKind, file: &File) -> Entry {
    let time = SystemTime::UNIX_EPOCH;
    Entry {
        file_id: FileId::of(&[key.as_bytes()]),
        kind,
        size_bytes: file.bytes.len() as u64,
        version: Version::Strong("1".into()),
        etag: ETag::new("1"),
        modified: time,
        attributes: Attributes { mode: file.mode, uid: 0, gid: 0, accessed: time, changed: time },
        headers: None,
    }
}

impl State {
    fn directory(&self, key: &str) -> Option<Entry> {
        let prefix = if key.is_empty() { String::new() } else { format!("{key}/") };
        let below = |name: &String| name.starts_with(&prefix);
        let exists = key.is_empty()
            || self.directories.contains(key)
            || self.files.keys().any(below)
            || self.directories.iter().any(below);
        exists.then(|| entry(key, EntryKind::Directory, &File { mode: 0o755, ..File::default() }))
    }

    fn file(&self, key: &str) -> Option<Entry> {
        self.files.get(key).map(|file| entry(key, EntryKind::File, file))
    }

    fn is_under_file(&self, key: &Key) -> bool {
        let mut ancestor = key.parent();
        while let Some(candidate) = ancestor {
            if self.files.contains_key(candidate.as_str()) && self.directory(candidate.as_str()).is_none() {
                return true;
            }
            // The key itself may be what makes an ancestor look like a directory.
            ancestor = candidate.parent();
        }
        false
    }

    fn stat(&self, key: &Key, want: Want) -> Result<Entry> {
        let text = key.as_str();
        let found = match want {
            Want::File => self.file(text),
            Want::Directory => self.directory(text),
            Want::Any | Want::Unfollowed => self.directory(text).or_else(|| self.file(text)),
        };
        found.ok_or_else(|| {
            error(if self.is_under_file(key) { ErrorKind::NotDirectory } else { ErrorKind::NotFound })
        })
    }
}

impl MemoryMount {
    pub(crate) fn new(name: &str, is_hierarchical: bool) -> Self {
        let capability = Capability {
            write: true,
            conditional_create: true,
            conditional_replace: true,
            native_copy: true,
            native_rename: true,
            headers: false,
            posix: true,
            hierarchical: is_hierarchical,
            key_bytes_max: 1024,
        };
        let mounted = SystemTime::UNIX_EPOCH;
        let info = MountInfo { name: name.into(), store: "memory", read_only: false, mounted, capability };
        Self { info, state: Arc::default() }
    }

    /// Puts an empty file there that WebHDFS would refuse to make.
    pub(crate) fn seed(&self, key: &str) {
        self.state().files.insert(key.to_owned(), File::default());
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no panic under this lock")
    }
}

struct Opened(Entry, Bytes, bool);

#[async_trait]
impl OpenFile for Opened {
    fn entry(&self) -> &Entry {
        &self.0
    }

    fn try_read(&self, range: ByteRange) -> Option<Content> {
        let range = range.offset as usize..range.end() as usize;
        (!self.2).then(|| self.1.slice(range).into())
    }

    async fn read(&self, range: ByteRange) -> Result<Content> {
        // Half of what is asked for, as a store may.
        let half = range.offset + range.len.div_ceil(2);
        Ok(self.1.slice(range.offset as usize..half as usize).into())
    }

    fn lend(&self) -> Option<Lent> {
        None
    }
}

struct Write {
    state: Arc<Mutex<State>>,
    key: Key,
    buffer: Mutex<Vec<u8>>,
}

impl Write {
    fn buffer(&self) -> MutexGuard<'_, Vec<u8>> {
        self.buffer.lock().expect("no panic under this lock")
    }
}

#[async_trait]
impl Staged for Write {
    async fn write_at(&self, offset: u64, bytes: Bytes) -> Result<()> {
        let mut buffer = self.buffer();
        let end = offset as usize + bytes.len();
        if buffer.len() < end {
            buffer.resize(end, 0);
        }
        buffer[offset as usize..end].copy_from_slice(&bytes);
        Ok(())
    }

    async fn truncate(&self, size_bytes: u64) -> Result<()> {
        self.buffer().resize(size_bytes as usize, 0);
        Ok(())
    }

    fn size_bytes(&self) -> Result<u64> {
        Ok(self.buffer().len() as u64)
    }

    fn file(&self) -> Lent {
        panic!("{UNUSED}")
    }

    async fn publish(&self, publish: Publish) -> Result<Entry> {
        let mut state = self.state.lock().expect("no panic under this lock");
        let key = self.key.as_str();
        if publish.condition == Precondition::Absent && state.files.contains_key(key) {
            return Err(error(ErrorKind::PreconditionFailed));
        }
        let before = state.files.get(key).cloned().unwrap_or_default();
        let mode = publish.mode.unwrap_or(before.mode);
        let file = File { bytes: Bytes::from(self.buffer().clone()), mode, ..before };
        state.files.insert(key.to_owned(), file);
        state.stat(&self.key, Want::File)
    }
}

#[async_trait]
impl Mount for MemoryMount {
    fn info(&self) -> &MountInfo {
        &self.info
    }

    fn state(&self) -> MountState {
        MountState::Ready
    }

    fn try_stat(&self, key: &Key, want: Want) -> Option<Result<Entry>> {
        assert!(key.name() != "panic", "on purpose");
        (!key.name().starts_with("slow")).then(|| self.state().stat(key, want))
    }

    async fn stat(&self, key: &Key, want: Want) -> Result<Entry> {
        assert!(key.name() != "slow-panic", "on purpose");
        self.state().stat(key, want)
    }

    async fn open(&self, key: &Key, want: Want) -> Result<Arc<dyn OpenFile>> {
        let state = self.state();
        let entry = state.stat(key, want)?;
        if entry.is_directory() {
            return Err(error(ErrorKind::IsDirectory));
        }
        let bytes = state.files[key.as_str()].bytes.clone();
        Ok(Arc::new(Opened(entry, bytes, key.name().starts_with("slow"))))
    }

    async fn list(&self, query: &ListQuery) -> Result<ListPage> {
        let state = self.state();
        let directories = state.directories.iter().map(|name| (format!("{name}/"), None));
        let files = state.files.iter().map(|(name, file)| (name.clone(), Some(file)));
        let mut items = BTreeMap::new();
        for (name, file) in directories.chain(files).filter(|(name, _)| name.starts_with(&query.prefix)) {
            let rest = &name[query.prefix.len()..];
            let cut = rest.find('/').filter(|_| query.shallow);
            let shown = cut.map_or(name.as_str(), |cut| &name[..=query.prefix.len() + cut]).to_owned();
            if rest.is_empty() || query.start_after.as_ref().is_some_and(|after| shown <= *after) {
                continue;
            }
            let entry = match file {
                Some(file) if !shown.ends_with('/') => entry(&shown, EntryKind::File, file),
                _ => entry(&shown, EntryKind::Directory, &File { mode: 0o755, ..File::default() }),
            };
            items.insert(shown.clone(), ListItem { name: shown, is_prefix: cut.is_some(), entry });
        }
        let is_truncated = items.len() > query.limit;
        Ok(ListPage { items: items.into_values().take(query.limit).collect(), is_truncated })
    }

    async fn stage(&self, target: Target) -> Result<Arc<dyn Staged>> {
        let (key, bytes) = match target {
            Target::Replace(key) => (key, Vec::new()),
            Target::Modify(key) => {
                let state = self.state();
                let file = state.files.get(key.as_str()).ok_or_else(|| error(ErrorKind::NotFound))?;
                (key.clone(), file.bytes.to_vec())
            }
            Target::Part { .. } => panic!("{UNUSED}"),
        };
        Ok(Arc::new(Write { state: Arc::clone(&self.state), key, buffer: Mutex::new(bytes) }))
    }

    async fn mkdir(&self, key: &Key, _: MkdirMode) -> Result<Entry> {
        let mut state = self.state();
        if state.is_under_file(key) {
            return Err(error(ErrorKind::NotDirectory));
        }
        state.directories.insert(key.as_str().to_owned());
        state.stat(key, Want::Directory)
    }

    async fn delete(&self, key: &Key, mode: DeleteMode) -> Result<bool> {
        let mut state = self.state();
        let prefix = key.directory_prefix();
        let is_empty = !state.files.keys().chain(&state.directories).any(|name| name.starts_with(&prefix));
        match mode {
            DeleteMode::File => return Ok(state.files.remove(key.as_str()).is_some()),
            DeleteMode::EmptyDirectory if !is_empty => return Err(error(ErrorKind::NotEmpty)),
            DeleteMode::EmptyDirectory => return Ok(state.directories.remove(key.as_str())),
            DeleteMode::Tree => {}
            DeleteMode::Object | DeleteMode::Marker => panic!("{UNUSED}"),
        }
        state.files.retain(|name, _| name != key.as_str() && !name.starts_with(&prefix));
        state.directories.retain(|name| name != key.as_str() && !name.starts_with(&prefix));
        Ok(true)
    }

    async fn rename(&self, from: &Key, to: &Key, mode: RenameMode) -> Result<()> {
        let mut state = self.state();
        let source = state.stat(from, Want::Any)?;
        if let Ok(there) = state.stat(to, Want::Any) {
            match mode {
                RenameMode::NoReplace => return Err(error(ErrorKind::AlreadyExists)),
                RenameMode::Replace if !there.is_directory() => drop(state.files.remove(to.as_str())),
                RenameMode::Replace => {
                    let prefix = to.directory_prefix();
                    if state.files.keys().any(|name| name.starts_with(&prefix)) {
                        return Err(error(ErrorKind::NotEmpty));
                    }
                    state.directories.remove(to.as_str());
                }
            }
        }
        let moved = |name: &str| -> Option<String> {
            if name == from.as_str() {
                return Some(to.as_str().to_owned());
            }
            let rest = name.strip_prefix(&from.directory_prefix())?;
            source.is_directory().then(|| format!("{}{rest}", to.directory_prefix()))
        };
        let files = std::mem::take(&mut state.files).into_iter();
        state.files = files.map(|(name, file)| (moved(&name).unwrap_or(name), file)).collect();
        let directories = std::mem::take(&mut state.directories).into_iter();
        state.directories = directories.map(|name| moved(&name).unwrap_or(name)).collect();
        Ok(())
    }

    async fn copy(&self, _: &Key, _: &Key, _: Option<Headers>, _: Precondition) -> Result<Entry> {
        panic!("{UNUSED}")
    }

    async fn set_attributes(&self, key: &Key, change: AttributeChange) -> Result<Entry> {
        let mut state = self.state();
        if let (Some(mode), Some(file)) = (change.mode, state.files.get_mut(key.as_str())) {
            file.mode = mode;
        }
        state.stat(key, Want::Any)
    }

    async fn xattrs(&self, key: &Key) -> Result<Vec<(String, Bytes)>> {
        let state = self.state();
        Ok(state.files[key.as_str()].xattrs.iter().map(|(k, v)| (k.clone(), v.clone())).collect())
    }

    async fn set_xattr(&self, key: &Key, name: &str, value: Option<Bytes>, mode: XattrMode) -> Result<()> {
        let mut state = self.state();
        let file = state.files.get_mut(key.as_str()).ok_or_else(|| error(ErrorKind::NotFound))?;
        match (mode, file.xattrs.contains_key(name)) {
            (XattrMode::Create, true) => return Err(error(ErrorKind::AlreadyExists)),
            (XattrMode::Replace, false) => return Err(error(ErrorKind::NotFound)),
            (XattrMode::Any | XattrMode::Create | XattrMode::Replace, _) => {}
        }
        match value {
            Some(value) => file.xattrs.insert(name.to_owned(), value),
            None => file.xattrs.remove(name),
        };
        Ok(())
    }

    async fn usage(&self) -> Result<Usage> {
        panic!("{UNUSED}")
    }

    async fn create_upload(&self, _: &Key, _: Headers) -> Result<UploadId> {
        panic!("{UNUSED}")
    }

    async fn uploads(&self, _: &str) -> Result<Vec<UploadInfo>> {
        panic!("{UNUSED}")
    }

    async fn parts(&self, _: &Key, _: &UploadId) -> Result<Vec<PartInfo>> {
        panic!("{UNUSED}")
    }

    async fn complete_upload(&self, _: &Key, _: &UploadId, _: &[u32], _: Precondition) -> Result<Entry> {
        panic!("{UNUSED}")
    }

    async fn abort_upload(&self, _: &Key, _: &UploadId) -> Result<()> {
        panic!("{UNUSED}")
    }
}
