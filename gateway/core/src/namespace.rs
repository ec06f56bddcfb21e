//! One namespace over many mounts: resolves paths, checks grants, merges listings and tells observers of commits.
//!
//! The mount table is an immutable snapshot behind an atomic pointer: a call works on the table it began with.
//! No lock is held while a mount or an observer runs.

mod list;
mod sync;
mod table;
mod write;

use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use bytes::Bytes;

pub use self::table::MountTable;
use self::table::virtual_directory;
pub use self::write::{Writer, copy_range};
use crate::{
    Change, ChangeKind, CommitObserver, Context, Entry, Error, ErrorKind, Key, METRICS, Mount, MountInfo,
    MountState, NsPath, OpenFile, PartInfo, Permission, Result, UploadId, UploadInfo, Usage, Want,
};

/// How long a commit waits for one observer before it is acknowledged all the same.
const OBSERVER_DEADLINE: Duration = Duration::from_secs(2);

/// The same for all observers and all mounts of one new table together.
const TABLE_DEADLINE: Duration = Duration::from_secs(10);

/// The tree that all frontends serve.
pub struct Namespace {
    table: ArcSwap<MountTable>,
    /// Taken only to add an observer or to clone the list, never across an await.
    observers: RwLock<Vec<(String, Arc<dyn CommitObserver>)>>,
    since: SystemTime,
}

impl Namespace {
    /// A namespace over `table`; `since` is the time shown for directories above all mounts.
    pub fn new(table: MountTable, since: SystemTime) -> Self {
        Self { table: ArcSwap::from_pointee(table), observers: RwLock::default(), since }
    }

    /// The present mount table.
    pub fn table(&self) -> Arc<MountTable> {
        self.table.load_full()
    }

    /// Replaces the mount table for all calls that begin from now on, then tells the observers of every path whose
    /// mount came or went, and of those in `replaced`, where another store is now. Returns when they know, or after 10 s.
    pub async fn publish_table(&self, table: MountTable, replaced: &[NsPath]) {
        let now = Arc::new(table);
        let before = self.table.swap(Arc::clone(&now));
        let went = before.mounts().iter().filter(|(path, _)| now.at(path).is_none());
        let came = now.mounts().iter().filter(|(path, _)| before.at(path).is_none());
        let changed = went.chain(came).map(|(path, _)| path).chain(replaced);
        let told = async {
            for path in changed {
                // Whatever was known at and below it is of another mount, also where something is there now.
                self.committed(Change { origin: None, path: path.clone(), kind: ChangeKind::Removed }).await;
            }
        };
        if tokio::time::timeout(TABLE_DEADLINE, told).await.is_err() {
            tracing::warn!(
                "the commit observers were not told of all mounts that changed; what they cache ages"
            );
        }
    }

    /// Adds somebody to tell of every commit; `name` shows in metrics.
    pub fn observe(&self, name: &str, observer: Arc<dyn CommitObserver>) {
        self.observers.write().unwrap_or_else(PoisonError::into_inner).push((name.to_owned(), observer));
    }

    async fn committed(&self, change: Change) {
        let observers = self.observers.read().unwrap_or_else(PoisonError::into_inner).clone();
        for (name, observer) in observers {
            if tokio::time::timeout(OBSERVER_DEADLINE, observer.committed(&change)).await.is_err() {
                METRICS.observer_timeouts.with_label_values(&[&name]).inc();
                tracing::warn!(observer = name, path = %change.path, "a commit observer missed its deadline");
            }
        }
    }

    /// Mounts with their paths and states, in order of their paths.
    pub fn mounts(&self) -> Vec<(NsPath, MountInfo, MountState)> {
        let table = self.table.load();
        table
            .mounts()
            .iter()
            .map(|(path, mount)| (path.clone(), mount.info().clone(), mount.state()))
            .collect()
    }

    /// What the mount that serves `path` is; `None` above all mounts.
    pub fn mount_info(&self, path: &NsPath) -> Option<MountInfo> {
        self.table.load().owner(path).map(|(mount, _)| mount.info().clone())
    }

    fn readable(&self, context: &Context, path: &NsPath) -> Result<(Arc<dyn Mount>, Key)> {
        context.check(Permission::Read, path)?;
        match self.table.load().owner(path) {
            Some((mount, key)) => Ok((Arc::clone(mount), key)),
            None => Err(not_found(path)),
        }
    }

    /// Looks at an entry if that needs no waiting.
    pub fn try_stat(&self, context: &Context, path: &NsPath, want: Want) -> Option<Result<Entry>> {
        if let Err(e) = check_traverse(context, path) {
            return Some(Err(e));
        }
        let table = self.table.load();
        match table.owner(path) {
            None if table.is_above_mount(path) => Some(self.virtual_entry(path, want)),
            None => Some(Err(not_found(path))),
            Some((mount, key)) => match mount.try_stat(&key, want)? {
                Err(e) if is_missing(&e) && table.is_above_mount(path) => {
                    Some(self.virtual_entry(path, want))
                }
                answer => Some(answer.map_err(|e| e.at("stat", path))),
            },
        }
    }

    /// Looks at an entry.
    ///
    /// # Errors
    /// As [`Mount::stat`]; `AccessDenied`.
    pub async fn stat(&self, context: &Context, path: &NsPath, want: Want) -> Result<Entry> {
        check_traverse(context, path)?;
        let table = self.table.load_full();
        let answer = match table.owner(path) {
            Some((mount, key)) => mount.stat(&key, want).await,
            None => Err(not_found(path)),
        };
        match answer {
            Err(e) if is_missing(&e) && table.is_above_mount(path) => self.virtual_entry(path, want),
            answer => answer.map_err(|e| e.at("stat", path)),
        }
    }

    fn virtual_entry(&self, path: &NsPath, want: Want) -> Result<Entry> {
        match want {
            Want::File => Err(Error::new(ErrorKind::NotFound, "no such file").at("stat", path)),
            Want::Directory | Want::Any | Want::Unfollowed => Ok(virtual_directory(path, self.since)),
        }
    }

    /// Opens the present version of a file.
    ///
    /// # Errors
    /// As [`Mount::open`]; `AccessDenied`.
    pub async fn open(&self, context: &Context, path: &NsPath, want: Want) -> Result<Arc<dyn OpenFile>> {
        let (mount, key) = self.readable(context, path)?;
        mount.open(&key, want).await.map_err(|e| e.at("open", path))
    }

    /// The target of a symbolic link.
    ///
    /// # Errors
    /// As [`Mount::read_link`]; `AccessDenied`.
    pub async fn read_link(&self, context: &Context, path: &NsPath) -> Result<Bytes> {
        check_traverse(context, path)?;
        let table = self.table.load_full();
        let Some((mount, key)) = table.owner(path) else { return Err(not_found(path)) };
        mount.read_link(&key).await.map_err(|e| e.at("read link", path))
    }

    /// As [`Namespace::open`], see [`OpenFile::as_data_set`]. For those who may write there: it concerns all who use the
    /// cache.
    ///
    /// # Errors
    /// As [`Namespace::open`].
    pub async fn open_as_data_set(
        &self,
        context: &Context,
        path: &NsPath,
        want: Want,
    ) -> Result<Arc<dyn OpenFile>> {
        context.check(Permission::Write, path)?;
        let file = self.open(context, path, want).await?;
        Ok(file.as_data_set().unwrap_or(file))
    }

    /// Waits until the names in a directory, and the attributes set for it and for them, are on stable storage.
    ///
    /// # Errors
    /// As [`Mount::sync_directory`]; `AccessDenied`.
    pub async fn sync_directory(&self, context: &Context, path: &NsPath) -> Result<()> {
        context.check(Permission::Read, path)?;
        let table = self.table.load_full();
        let Some((mount, key)) = table.owner(path) else { return Ok(()) };
        match mount.sync_directory(&key).await {
            Err(e) if is_missing(&e) && table.is_above_mount(path) => Ok(()),
            answer => answer.map_err(|e| e.at("sync", path)),
        }
    }

    /// All xattrs of an entry.
    ///
    /// # Errors
    /// As [`Mount::xattrs`]; `AccessDenied`.
    pub async fn xattrs(&self, context: &Context, path: &NsPath) -> Result<Vec<(String, Bytes)>> {
        check_traverse(context, path)?;
        let table = self.table.load_full();
        let Some((mount, key)) = table.owner(path) else { return Ok(Vec::new()) };
        mount.xattrs(&key).await.map_err(|e| e.at("xattrs", path))
    }

    /// What was said of how the content at and below `path` is cached; see [`Mount::cache_setting`].
    ///
    /// # Errors
    /// `AccessDenied`.
    pub fn cache_setting(&self, context: &Context, path: &NsPath, name: &str) -> Result<Option<String>> {
        check_traverse(context, path)?;
        let table = self.table.load();
        Ok(table.owner(path).and_then(|(mount, key)| mount.cache_setting(&key, name)))
    }

    /// Space of the store that serves `path`; `None` above all mounts.
    ///
    /// # Errors
    /// As [`Mount::usage`].
    pub async fn usage(&self, path: &NsPath) -> Result<Option<Usage>> {
        let table = self.table.load_full();
        match table.owner(path) {
            Some((mount, _)) => mount.usage().await.map(Some).map_err(|e| e.at("usage", path)),
            None => Ok(None),
        }
    }

    /// Multipart uploads in progress below `base` whose path continues with `prefix`, as (path, upload).
    ///
    /// # Errors
    /// As [`Mount::uploads`]; `AccessDenied`.
    pub async fn uploads(
        &self,
        context: &Context,
        base: &NsPath,
        prefix: &str,
    ) -> Result<Vec<(NsPath, UploadInfo)>> {
        context.check(Permission::Read, base)?;
        let table = self.table.load_full();
        let mut found = Vec::new();
        for (at, mount) in table.mounts() {
            let inside = if let Some(key) = base.relative_to(at) {
                format!("{}{prefix}", key.directory_prefix())
            } else if at.starts_with(base) {
                String::new()
            } else {
                continue;
            };
            for upload in mount.uploads(&inside).await.map_err(|e| e.at("uploads", base))? {
                let path = at.join(upload.key.as_str())?;
                let owned =
                    table.at(at).is_some() && table.owner(&path).is_some_and(|(m, _)| Arc::ptr_eq(m, mount));
                if owned && path.relative_to(base).is_some_and(|key| key.as_str().starts_with(prefix)) {
                    found.push((path, upload));
                }
            }
        }
        found.sort_by(|(a, x), (b, y)| (a, &x.upload).cmp(&(b, &y.upload)));
        Ok(found)
    }

    /// The parts of an upload in order of number.
    ///
    /// # Errors
    /// As [`Mount::parts`]; `AccessDenied`.
    pub async fn parts(&self, context: &Context, path: &NsPath, upload: &UploadId) -> Result<Vec<PartInfo>> {
        let (mount, key) = self.readable(context, path)?;
        mount.parts(&key, upload).await.map_err(|e| e.at("parts", path))
    }
}

fn check_traverse(context: &Context, path: &NsPath) -> Result<()> {
    if context.principal.may_traverse(path) { Ok(()) } else { context.check(Permission::Read, path) }
}

fn is_missing(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotDirectory)
}

fn not_found(path: &NsPath) -> Error {
    Error::new(ErrorKind::NotFound, "no mount serves this path").at("resolve", path)
}

#[cfg(all(test, feature = "shuttle"))]
mod model;
#[cfg(test)]
mod tests;
