//! A mount over a store of flat keys: directories, identities, attributes and staged writes on top of what every
//! [`Backend`] can do.
//!
//! Invariants:
//! - A directory exists by its marker (`dir/`) or by a key below it, or as a directory of a hierarchical store; the
//!   mount's root always exists.
//! - Whatever this mount commits is in its attribute cache and in what it knows of listings, or is dropped from them,
//!   before the call returns; an answer that was under way meanwhile never overwrites it.
//! - A failure is never remembered; that a key is missing is remembered for a second at most.
//! - Reads name the version they belong to, so one open file never mixes two.
//! - A store request goes through the mount's [`Vitals`] and nothing else.
//!
//! Renames and the deletion of trees are many requests and not atomic, except where the store is hierarchical and
//! renames natively: there each is one. POSIX attributes, xattrs, what is a symbolic link, and identities kept through
//! renames and changes in place are in the store's [`Ledger`].

mod ahead;
mod attributes;
mod back;
mod bounded;
mod change;
mod directory;
mod file;
mod hierarchy;
mod link;
mod list;
mod lookup;
mod recent;
mod rename;
mod request;
mod siblings;
mod sync;
#[cfg(test)]
mod tests;
mod uploader;
mod work;
mod write;

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use arc_swap::ArcSwap;
use async_trait::async_trait;
use bytes::Bytes;
use forebay_core::{
    AttributeChange, Clock, Conflict, DeleteMode, Dirty, Entry, Error, ErrorKind, Headers, Key, ListPage,
    ListQuery, LostWrite, MkdirMode, Mount, MountInfo, MountState, NsPath, OpenFile, PartInfo, PendingWrite,
    Precondition, RenameMode, Result, Staged, SyncPage, SyncSpan, Target, UploadId, UploadInfo, Usage, Want,
    XattrMode,
};

use tokio::runtime::Handle;
use tokio::sync::Semaphore;

use self::ahead::SENDING_AT_ONCE;
use self::attributes::AttributeCache;
use self::recent::Recent;
use self::request::Condition;
use self::siblings::Siblings;
pub use self::uploader::Uploader;
use self::uploader::{Demand, Failures};
use self::work::Work;
use super::vitals::Vitals;
use crate::backend::{Backend, Source};
use crate::cache::{Cache, Class, Rules};
use crate::config::{Revalidate, WriteMode};
use crate::metadata::{Ledger, Listings};
use crate::staging::Staging;

/// Entries that a mount remembers the attributes of.
const REMEMBERED_ENTRIES: usize = 100_000;

/// What an object mount is made of.
pub struct Parts {
    /// What does not change while it lives.
    pub info: MountInfo,
    /// How long attributes may be trusted.
    pub revalidate: Revalidate,
    /// What is known of its directories over restarts; `None` where that is not worth it.
    pub listings: Option<Arc<Listings>>,
    /// What only we know of its entries.
    pub ledger: Arc<Ledger>,
    /// When writes are acknowledged.
    pub write: WriteMode,
    /// The store.
    pub backend: Arc<dyn Backend>,
    /// Where its content is cached.
    pub cache: Cache,
    /// How its content is treated there.
    pub rules: Arc<Rules>,
    /// Where its writes lie until they are published.
    pub staging: Staging,
    /// Who brings to the store what was acknowledged before.
    pub uploader: Uploader,
    /// Its limits, breaker and state.
    pub vitals: Arc<Vitals>,
    /// The time of day.
    pub clock: Clock,
    /// Space of the store, as far as it is known.
    pub usage: Box<dyn Fn() -> Usage + Send + Sync>,
}

/// A store of flat keys in the namespace, as the configuration wants it shown now. Handles of one mount share all
/// but that.
pub struct ObjectMount {
    info: MountInfo,
    core: Arc<Core>,
}

/// What the mount, its open files and its writes share.
struct Core {
    info: MountInfo,
    label: Arc<str>,
    /// How its content is treated in the cache.
    rules: Arc<Rules>,
    /// When writes are acknowledged; changes with the configuration.
    write: ArcSwap<WriteMode>,
    backend: Arc<dyn Backend>,
    cache: Cache,
    staging: Staging,
    vitals: Arc<Vitals>,
    clock: Clock,
    usage: Box<dyn Fn() -> Usage + Send + Sync>,
    attributes: AttributeCache,
    /// What is known of directories.
    listings: Option<Arc<Listings>>,
    /// What only we know of entries.
    ledger: Arc<Ledger>,
    siblings: Siblings,
    work: Work,
    /// Writes that may be sent while they still arrive.
    sending: Arc<Semaphore>,
    /// What could not be brought to the store.
    failures: Failures,
    /// Who waits for what.
    demand: Demand,
    /// What was brought there under another name.
    conflicts: Recent<Conflict>,
    /// What this disk lost.
    lost: Recent<LostWrite>,
    /// Whether writes wait for the store that need not, which was said.
    is_waiting: AtomicBool,
    /// User and group of the process: they own what nobody was given.
    owner: (u32, u32),
}

impl ObjectMount {
    /// A mount over `parts`. Sends nothing to the store.
    ///
    /// # Panics
    /// Outside a Tokio runtime: what must be finished runs on the one it is opened on.
    pub fn open(parts: Parts) -> Arc<Self> {
        let Parts { info, revalidate, listings, ledger, write, backend, .. } = parts;
        let Parts { cache, rules, staging, uploader, vitals, clock, usage, .. } = parts;
        let owner = (rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw());
        let (label, limit) = (Arc::<str>::from(info.name.as_str()), REMEMBERED_ENTRIES);
        let told = (Arc::clone(&rules), Arc::clone(&label));
        let core = Arc::new(Core {
            label,
            rules,
            info: info.clone(),
            write: ArcSwap::from_pointee(write),
            backend,
            cache,
            staging,
            vitals,
            clock,
            usage,
            attributes: AttributeCache::new(revalidate, told, limit, info.capability.hierarchical),
            listings,
            ledger,
            siblings: Siblings::new(),
            work: Work::new(Handle::current()),
            sending: Arc::new(Semaphore::new(SENDING_AT_ONCE)),
            failures: Failures::default(),
            demand: Demand::default(),
            conflicts: Recent::default(),
            lost: Recent::default(),
            is_waiting: AtomicBool::new(false),
            owner,
        });
        core.keep_listings();
        core.work.start(Ledger::tend(Arc::downgrade(&core.ledger)));
        uploader.add(&core);
        Arc::new(Self { info, core })
    }

    /// Another handle on this mount; from now on all of them trust attributes for `revalidate`, stage at most
    /// `staging_bytes` and acknowledge writes as `write` says. What is pending is uploaded in any case.
    pub fn changed(
        &self,
        read_only: bool,
        (revalidate, write): (Revalidate, WriteMode),
        staging_bytes: u64,
    ) -> Arc<Self> {
        self.core.attributes.set_revalidate(revalidate);
        self.core.keep_listings();
        self.core.write.store(Arc::new(write));
        self.core.staging.set_limit(staging_bytes);
        let info = MountInfo { read_only, capability: self.core.backend.capability(), ..self.info.clone() };
        Arc::new(Self { info, core: Arc::clone(&self.core) })
    }

    /// Finds this mount again for as long as anything of it is open.
    pub(super) fn recall(&self) -> Box<dyn Fn() -> Option<Arc<Self>> + Send + Sync> {
        let (info, core) = (self.info.clone(), Arc::downgrade(&self.core));
        Box::new(move || core.upgrade().map(|core| Arc::new(Self { info: info.clone(), core })))
    }
}

impl Core {
    /// What is known of directories, where that is worth keeping.
    fn kept_listings(&self) -> Option<&Arc<Listings>> {
        self.listings.as_ref().filter(|_| self.attributes.keeps_listings())
    }

    /// Tells the metadata store whether it is.
    fn keep_listings(&self) {
        if let Some(listings) = &self.listings {
            listings.keep(self.attributes.keeps_listings());
        }
    }

    fn class_of(&self, key: &Key) -> Arc<Class> {
        self.rules.class_of(&self.label, key)
    }

    /// Where a key lies in the namespace.
    fn path(&self, key: &Key) -> Result<NsPath> {
        let root = NsPath::parse(&self.label)?;
        if key.is_root() { Ok(root) } else { root.join(key.as_str()) }
    }

    /// Refuses keys that the store could not hold; `suffix_bytes` is what a marker adds.
    fn check_key(&self, key: &Key, suffix_bytes: usize) -> Result<()> {
        let most = self.info.capability.key_bytes_max;
        if key.as_str().len() + suffix_bytes > most {
            let message = format!("the store takes keys of at most {most} bytes");
            return Err(Error::new(ErrorKind::NameTooLong, message));
        }
        self.backend.check_name(key.as_str())
    }

    async fn complete_upload(
        self: &Arc<Self>,
        key: &Key,
        upload: &UploadId,
        numbers: &[u32],
        condition: Precondition,
    ) -> Result<Entry> {
        let parts = self.staging.take_parts(key, upload, numbers).await?;
        let source = Source::new(parts.files);
        let condition = Condition::Asked(condition);
        let result = self.put_file(key, &source, &parts.headers, (&condition, None)).await;
        self.staging.count_publish(&result);
        let entry = result?;
        match self.staging.abort_upload(key, upload).await {
            // Somebody else completed or aborted it in the meantime; the file is published all the same.
            Err(e) if e.kind() == ErrorKind::NoSuchUpload => {}
            answer => answer?,
        }
        Ok(self.shown(key, entry))
    }
}

#[async_trait]
impl Mount for ObjectMount {
    fn info(&self) -> &MountInfo {
        &self.info
    }

    fn state(&self) -> MountState {
        self.core.vitals.state()
    }

    fn try_stat(&self, key: &Key, want: Want) -> Option<Result<Entry>> {
        self.core.try_stat(key, want)
    }

    async fn stat(&self, key: &Key, want: Want) -> Result<Entry> {
        self.core.stat(key, want).await
    }

    async fn open(&self, key: &Key, want: Want) -> Result<Arc<dyn OpenFile>> {
        let file: Arc<dyn OpenFile> = Arc::new(self.core.open(key, want).await?);
        self.core.opened(key, want);
        Ok(file)
    }

    async fn list(&self, query: &ListQuery) -> Result<ListPage> {
        self.core.list(query, Want::Any).await
    }

    async fn list_unfollowed(&self, query: &ListQuery) -> Result<ListPage> {
        self.core.list(query, Want::Unfollowed).await
    }

    async fn stage(&self, target: Target) -> Result<Arc<dyn Staged>> {
        match target {
            Target::Replace(key) => self.core.replace(key).await,
            Target::Modify(key) => self.core.modify(key).await,
            Target::Part { key, upload, number, checksum } => {
                self.core.staging.stage_part(&key, &upload, number, checksum).await
            }
        }
    }

    async fn mkdir(&self, key: &Key, mode: MkdirMode) -> Result<Entry> {
        self.core.mkdir(key, mode).await
    }

    async fn symlink(&self, key: &Key, target: &[u8], owner: (u32, u32)) -> Result<Entry> {
        let (core, key, target) = (Arc::clone(&self.core), key.clone(), Bytes::copy_from_slice(target));
        self.core.work.finish(async move { core.symlink(&key, target, owner).await }).await
    }

    async fn read_link(&self, key: &Key) -> Result<Bytes> {
        self.core.read_link(key).await
    }

    async fn delete(&self, key: &Key, mode: DeleteMode) -> Result<bool> {
        let (core, key) = (Arc::clone(&self.core), key.clone());
        self.core.work.finish(async move { core.delete(&key, mode).await }).await
    }

    async fn rename(&self, from: &Key, to: &Key, mode: RenameMode) -> Result<()> {
        let (core, from, to) = (Arc::clone(&self.core), from.clone(), to.clone());
        self.core.work.finish(async move { core.rename(&from, &to, mode).await }).await
    }

    async fn copy(
        &self,
        from: &Key,
        to: &Key,
        headers: Option<Headers>,
        condition: Precondition,
    ) -> Result<Entry> {
        self.core.copy(from, to, headers.as_ref(), &condition).await
    }

    async fn set_attributes(&self, key: &Key, change: AttributeChange) -> Result<Entry> {
        let (name, entry) = self.core.named(key).await?;
        self.core.ledger.change(&name, &change, &entry.etag, self.core.clock.now())?;
        Ok(self.core.shown(key, entry))
    }

    async fn xattrs(&self, key: &Key) -> Result<Vec<(String, Bytes)>> {
        let (name, _) = self.core.named(key).await?;
        Ok(self.core.ledger.xattrs(&name))
    }

    async fn set_xattr(&self, key: &Key, name: &str, value: Option<Bytes>, mode: XattrMode) -> Result<()> {
        let (entry_name, _) = self.core.named(key).await?;
        self.core.ledger.set_xattr(&entry_name, name, value, mode)
    }

    fn cache_setting(&self, key: &Key, name: &str) -> Option<String> {
        self.core.rules.get(&self.core.path(key).ok()?, name)
    }

    async fn set_cache_setting(&self, key: &Key, name: &str, value: Option<&str>) -> Result<()> {
        self.core.rules.set(&self.core.path(key)?, name, value).await
    }

    async fn sync_directory(&self, _key: &Key) -> Result<()> {
        self.core.ledger.sync().await
    }

    async fn usage(&self) -> Result<Usage> {
        Ok((self.core.usage)())
    }

    async fn dirty(&self) -> Result<Dirty> {
        self.core.staging.dirty().await
    }

    fn backlog(&self) -> u64 {
        self.core.staging.pending().backlog().objects
    }

    fn pending(&self) -> Vec<PendingWrite> {
        self.core.pending_writes()
    }

    fn conflicts(&self) -> Vec<Conflict> {
        self.core.conflicts.list()
    }

    fn lost(&self) -> Vec<LostWrite> {
        self.core.lost.list()
    }

    async fn flush(&self, key: &Key) -> Result<()> {
        self.core.flush(key).await
    }

    fn remembers(&self) -> bool {
        true
    }

    async fn sync(&self, key: &Key, span: &SyncSpan) -> Result<SyncPage> {
        let (core, key, span) = (Arc::clone(&self.core), key.clone(), span.clone());
        self.core.work.finish(async move { core.sync(&key, span).await }).await
    }

    async fn sync_splits(&self, key: &Key, after: &str) -> Result<Vec<String>> {
        self.core.sync_splits(key, after).await
    }

    async fn create_upload(&self, key: &Key, headers: Headers) -> Result<UploadId> {
        self.core.check_key(key, 0)?;
        self.core.staging.create_upload(key, headers, self.core.clock.now()).await
    }

    async fn uploads(&self, prefix: &str) -> Result<Vec<UploadInfo>> {
        self.core.staging.uploads(prefix).await
    }

    async fn parts(&self, key: &Key, upload: &UploadId) -> Result<Vec<PartInfo>> {
        self.core.staging.parts(key, upload).await
    }

    async fn complete_upload(
        &self,
        key: &Key,
        upload: &UploadId,
        parts: &[u32],
        condition: Precondition,
    ) -> Result<Entry> {
        self.core.complete_upload(key, upload, parts, condition).await
    }

    async fn abort_upload(&self, key: &Key, upload: &UploadId) -> Result<()> {
        self.core.staging.abort_upload(key, upload).await
    }
}
