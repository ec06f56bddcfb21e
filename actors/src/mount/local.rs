//! A local directory as a mount. Its files are lent as they are; nothing of them is cached.
//!
//! Invariants:
//! - What a client names lies beneath the root, whatever links say (module `root`).
//! - A replacement is staged on the same file system and renamed into place: readers see the old or the new file,
//!   and conditions hold atomically among this gateway's writers. Others who write to the directory are not locked
//!   out.
//! - Lookups and opens run inline: they take microseconds, less than handing them to another thread. Whatever may
//!   wait for a disk (listings, syncs, copies, deletes) runs off the runtime's workers. Where the directory lies on a
//!   network file system, lookups and opens do, too, under the mount's deadlines and breaker, so that a server that
//!   hangs costs this mount only.
//!
//! One file system: directories on other file systems mounted beneath the root are served, but nothing can be
//! renamed into them.

mod disk;
mod entry;
mod file;
mod list;
mod publish;
mod remove;
mod root;
mod snapshot;
mod write;
mod xattr;

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use forebay_core::{
    AttributeChange, Capability, Clock, DeleteMode, Dirty, Entry, Error, ErrorKind, Headers, Key, ListPage,
    ListQuery, METRICS, MkdirMode, Mount, MountInfo, MountState, OpenFile, PartInfo, Precondition, Publish,
    RenameMode, Result, Staged, Target, UploadId, UploadInfo, Usage, Want, XattrMode,
};
use prometheus::IntCounter;

use self::disk::Disk;
use self::file::LocalFile;
use self::publish::concatenate;
use self::write::{Modification, Replacement};
use super::vitals::{Repeat, Vitals};
use crate::config::{MountConfig, StoreConfig};
use crate::staging::{Staging, blocking};

/// A mounted local directory.
pub struct LocalMount {
    info: MountInfo,
    vitals: Arc<Vitals>,
    disk: Arc<Disk>,
    served_bytes: IntCounter,
}

impl LocalMount {
    /// Opens the directory, making it if missing. Blocks on the disk.
    ///
    /// # Errors
    /// `InvalidArgument` when the store is not a local directory; `Busy` when another gateway writes there; the
    /// disk's.
    pub fn open(config: &MountConfig, vitals: Arc<Vitals>, clock: Clock) -> Result<Arc<Self>> {
        let StoreConfig::Fs { root } = &config.store else {
            return Err(Error::new(ErrorKind::InvalidArgument, "not a local directory"));
        };
        let name = config.path.to_string();
        let staging = (!config.read_only).then_some((config.limits.staging_bytes, name.as_str()));
        let mounted = clock.now();
        let disk = Arc::new(Disk::open(root, staging, clock)?);
        let capability = Capability {
            write: true,
            conditional_create: true,
            conditional_replace: true,
            native_copy: true,
            native_rename: true,
            headers: disk.keeps_xattrs,
            posix: true,
            hierarchical: true,
            key_bytes_max: root::KEY_BYTES_MAX,
        };
        let info = MountInfo { name, store: "fs", read_only: config.read_only, mounted, capability };
        let served_bytes = METRICS.cache_served_bytes.with_label_values(&[&info.name, "local"]);
        Ok(Arc::new(Self { info, vitals, disk, served_bytes }))
    }

    /// Whether the directory need not be opened anew for another handle: it must where it was opened for reading only
    /// and is to be written to.
    pub(super) fn takes(&self, read_only: bool) -> bool {
        read_only || self.disk.changes().is_ok()
    }

    /// Another handle on this directory, which [`LocalMount::takes`] it; from now on all stage at most `staging_bytes`.
    pub(super) fn changed(&self, read_only: bool, staging_bytes: u64) -> Arc<Self> {
        if let Ok(changes) = self.disk.changes() {
            changes.staging.set_limit(staging_bytes);
        }
        let info = MountInfo { read_only, ..self.info.clone() };
        let (vitals, disk) = (Arc::clone(&self.vitals), Arc::clone(&self.disk));
        Arc::new(Self { info, vitals, disk, served_bytes: self.served_bytes.clone() })
    }

    /// Finds this directory again for as long as anything is being written there.
    pub(super) fn recall(&self) -> Box<dyn Fn() -> Option<Arc<Self>> + Send + Sync> {
        let (info, vitals, disk) = (self.info.clone(), Arc::clone(&self.vitals), Arc::downgrade(&self.disk));
        let served_bytes = self.served_bytes.clone();
        Box::new(move || {
            let (disk, vitals) = (disk.upgrade()?, Arc::clone(&vitals));
            Some(Arc::new(Self { info: info.clone(), vitals, disk, served_bytes: served_bytes.clone() }))
        })
    }

    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Disk) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let disk = Arc::clone(&self.disk);
        blocking(move || work(&disk)).await
    }

    /// Runs a lookup: inline, or as a request to a store where a network is between.
    async fn look<T: Send + 'static>(
        &self,
        operation: &'static str,
        work: impl Fn(&Disk) -> Result<T> + Clone + Send + Sync + 'static,
    ) -> Result<T> {
        if !self.disk.is_remote {
            return work(&self.disk);
        }
        self.vitals.run(operation, Repeat::Safe, || self.blocking(work.clone())).await
    }

    async fn open_file(&self, key: &Key, want: Want) -> Result<LocalFile> {
        let (key, served_bytes) = (key.clone(), self.served_bytes.clone());
        self.look("open", move |disk| disk.open_file(&key, want, &served_bytes)).await
    }

    fn staging(&self) -> Result<&Staging> {
        Ok(&self.disk.changes()?.staging)
    }
}

#[async_trait]
impl Mount for LocalMount {
    fn info(&self) -> &MountInfo {
        &self.info
    }

    fn state(&self) -> MountState {
        self.vitals.state()
    }

    fn try_stat(&self, key: &Key, want: Want) -> Option<Result<Entry>> {
        (!self.disk.is_remote).then(|| self.disk.stat(key, want))
    }

    async fn stat(&self, key: &Key, want: Want) -> Result<Entry> {
        let key = key.clone();
        self.look("stat", move |disk| disk.stat(&key, want)).await
    }

    async fn open(&self, key: &Key, want: Want) -> Result<Arc<dyn OpenFile>> {
        Ok(Arc::new(self.open_file(key, want).await?))
    }

    async fn list(&self, query: &ListQuery) -> Result<ListPage> {
        let query = query.clone();
        self.blocking(move |disk| disk.list(&query)).await
    }

    async fn list_unfollowed(&self, query: &ListQuery) -> Result<ListPage> {
        let query = query.clone();
        self.blocking(move |disk| disk.list_unfollowed(&query)).await
    }

    async fn stage(&self, target: Target) -> Result<Arc<dyn Staged>> {
        match target {
            Target::Replace(key) => {
                root::checked(&key)?;
                let staged = self.staging()?.file().await?;
                Ok(Arc::new(Replacement::new(Arc::clone(&self.disk), key, staged)))
            }
            Target::Modify(key) => {
                let disk = Arc::clone(&self.disk);
                Ok(Arc::new(blocking(move || Modification::open(disk, key)).await?))
            }
            Target::Part { key, upload, number, checksum } => {
                self.staging()?.stage_part(&key, &upload, number, checksum).await
            }
        }
    }

    async fn mkdir(&self, key: &Key, mode: MkdirMode) -> Result<Entry> {
        let key = key.clone();
        self.blocking(move |disk| disk.mkdir(&key, mode)).await
    }

    async fn symlink(&self, key: &Key, target: &[u8], owner: (u32, u32)) -> Result<Entry> {
        let (key, target) = (key.clone(), target.to_vec());
        self.blocking(move |disk| disk.symlink(&key, &target, owner)).await
    }

    async fn read_link(&self, key: &Key) -> Result<Bytes> {
        let key = key.clone();
        self.look("read link", move |disk| disk.read_link(&key)).await
    }

    async fn delete(&self, key: &Key, mode: DeleteMode) -> Result<bool> {
        let key = key.clone();
        self.blocking(move |disk| disk.delete(&key, mode)).await
    }

    async fn sync_directory(&self, key: &Key) -> Result<()> {
        let key = key.clone();
        self.blocking(move |disk| disk.sync_directory(&key)).await
    }

    async fn rename(&self, from: &Key, to: &Key, mode: RenameMode) -> Result<()> {
        let (from, to) = (from.clone(), to.clone());
        self.blocking(move |disk| disk.rename(&from, &to, mode)).await
    }

    async fn copy(
        &self,
        from: &Key,
        to: &Key,
        headers: Option<Headers>,
        condition: Precondition,
    ) -> Result<Entry> {
        let source = self.open_file(from, Want::File).await?;
        let size_bytes = source.entry().size_bytes;
        let staged = self.staging()?.file().await?;
        staged.truncate(size_bytes).await?;
        let to = to.clone();
        self.blocking(move |disk| {
            let headers = headers.or_else(|| source.entry().headers.as_deref().cloned());
            concatenate(&[(source.file(), size_bytes)], &staged.file())?;
            source.check()?;
            let publish = Publish { condition, headers, is_durable: true, ..Publish::default() };
            disk.publish(&to, &staged, &publish)
        })
        .await
    }

    async fn set_attributes(&self, key: &Key, change: AttributeChange) -> Result<Entry> {
        let key = key.clone();
        self.blocking(move |disk| disk.set_attributes(&key, change)).await
    }

    async fn set_link_attributes(&self, key: &Key, change: AttributeChange) -> Result<Entry> {
        let key = key.clone();
        self.blocking(move |disk| disk.set_link_attributes(&key, change)).await
    }

    async fn xattrs(&self, key: &Key) -> Result<Vec<(String, Bytes)>> {
        let key = key.clone();
        self.look("xattrs", move |disk| disk.xattrs(&key)).await
    }

    async fn set_xattr(&self, key: &Key, name: &str, value: Option<Bytes>, mode: XattrMode) -> Result<()> {
        let (key, name) = (key.clone(), name.to_owned());
        self.blocking(move |disk| disk.set_xattr(&key, &name, value.as_deref(), mode)).await
    }

    async fn usage(&self) -> Result<Usage> {
        self.blocking(Disk::usage).await
    }

    async fn dirty(&self) -> Result<Dirty> {
        match self.staging() {
            Ok(staging) => staging.dirty().await,
            Err(_) => Ok(Dirty::default()),
        }
    }

    async fn create_upload(&self, key: &Key, headers: Headers) -> Result<UploadId> {
        root::checked(key)?;
        self.staging()?.create_upload(key, headers, self.disk.clock.now()).await
    }

    async fn uploads(&self, prefix: &str) -> Result<Vec<UploadInfo>> {
        if self.disk.changes().is_err() { Ok(Vec::new()) } else { self.staging()?.uploads(prefix).await }
    }

    async fn parts(&self, key: &Key, upload: &UploadId) -> Result<Vec<PartInfo>> {
        self.staging()?.parts(key, upload).await
    }

    async fn complete_upload(
        &self,
        key: &Key,
        upload: &UploadId,
        parts: &[u32],
        condition: Precondition,
    ) -> Result<Entry> {
        let staging = self.staging()?;
        let taken = staging.take_parts(key, upload, parts).await?;
        let staged = staging.file().await?;
        staged.truncate(taken.files.iter().map(|(_, len)| len).sum()).await?;
        let target = key.clone();
        let publish =
            Publish { condition, headers: Some(taken.headers), is_durable: true, ..Publish::default() };
        let entry = self
            .blocking(move |disk| {
                concatenate(&taken.files, &staged.file())?;
                disk.publish(&target, &staged, &publish)
            })
            .await?;
        match staging.abort_upload(key, upload).await {
            // Completed twice at once: either answer is true.
            Err(e) if e.kind() != ErrorKind::NoSuchUpload => Err(e),
            Ok(()) | Err(_) => Ok(entry),
        }
    }

    async fn abort_upload(&self, key: &Key, upload: &UploadId) -> Result<()> {
        self.staging()?.abort_upload(key, upload).await
    }
}

#[cfg(test)]
mod tests;
