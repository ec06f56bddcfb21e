//! Changes: resolved, checked, carried out by one mount, then told to the commit observers before they are
//! acknowledged.

use std::sync::Arc;

use bytes::Bytes;

use super::{Namespace, not_found};
use crate::{
    AttributeChange, ByteRange, Change, ChangeKind, Context, DeleteMode, Entry, Error, ErrorKind, Headers,
    Key, Lent, MkdirMode, Mount, MountState, NsPath, OWN_XATTRS, OpenFile, Permission, Precondition, Publish,
    RenameMode, Result, Staged, Target, UploadId, Want, XattrMode,
};

/// How much is read at once when a copy streams through.
const COPY_STEP_BYTES: u64 = 4 << 20;

/// A write in progress that tells the observers when it is published. Handles may share it.
pub struct Writer {
    namespace: Arc<Namespace>,
    staged: Arc<dyn Staged>,
    context: Context,
    /// `None` for parts: they are not visible when published.
    path: Option<NsPath>,
}

impl Writer {
    /// As [`Staged::write_at`].
    ///
    /// # Errors
    /// As [`Staged::write_at`].
    pub async fn write_at(&self, offset: u64, bytes: Bytes) -> Result<()> {
        self.staged.write_at(offset, bytes).await
    }

    /// As [`Staged::expect`].
    pub fn expect(&self, publish: &Publish, size_bytes: Option<u64>) {
        self.staged.expect(publish, size_bytes);
    }

    /// As [`Staged::truncate`].
    ///
    /// # Errors
    /// As [`Staged::truncate`].
    pub async fn truncate(&self, size_bytes: u64) -> Result<()> {
        self.staged.truncate(size_bytes).await
    }

    /// As [`Staged::size_bytes`].
    ///
    /// # Errors
    /// As [`Staged::size_bytes`].
    pub fn size_bytes(&self) -> Result<u64> {
        self.staged.size_bytes()
    }

    /// As [`Staged::file`].
    pub fn file(&self) -> Lent {
        self.staged.file()
    }

    /// Publishes and tells the observers; visible in all frontends when it returns.
    ///
    /// # Errors
    /// As [`Staged::publish`].
    pub async fn publish(&self, publish: Publish) -> Result<Entry> {
        let Some(path) = &self.path else { return self.staged.publish(publish).await };
        let entry = self.staged.publish(publish).await.map_err(|e| e.at("publish", path))?;
        self.namespace.tell(&self.context, path, ChangeKind::Written).await;
        Ok(entry)
    }
}

impl Namespace {
    fn writable(&self, context: &Context, path: &NsPath) -> Result<(Arc<dyn Mount>, Key)> {
        context.check(Permission::Write, path)?;
        let table = self.table();
        let Some((mount, key)) = table.owner(path) else { return Err(not_found(path)) };
        if mount.info().read_only {
            let message = format!("the mount {} is read-only", mount.info().name);
            return Err(Error::new(ErrorKind::ReadOnly, message).at("write", path));
        }
        Ok((Arc::clone(mount), key))
    }

    /// As [`Namespace::writable`], for calls that begin something: a mount that is being removed only finishes what
    /// was begun.
    fn beginnable(&self, context: &Context, path: &NsPath) -> Result<(Arc<dyn Mount>, Key)> {
        let (mount, key) = self.writable(context, path)?;
        match mount.state() {
            MountState::Draining | MountState::Gone => {
                let message =
                    format!("the mount {} is being removed and takes nothing new", mount.info().name);
                Err(Error::new(ErrorKind::ReadOnly, message).at("write", path))
            }
            MountState::Starting | MountState::Ready | MountState::Degraded { .. } => Ok((mount, key)),
        }
    }

    /// As [`Namespace::beginnable`], for calls that move or remove an entry: mount points stay where they are.
    fn removable(&self, context: &Context, path: &NsPath) -> Result<(Arc<dyn Mount>, Key)> {
        let (mount, key) = self.beginnable(context, path)?;
        if key.is_root() || self.table().is_above_mount(path) {
            let message = "a mount point cannot be moved or removed; change mounts.yaml instead";
            return Err(Error::new(ErrorKind::ReadOnly, message).at("remove", path));
        }
        Ok((mount, key))
    }

    /// As [`Namespace::beginnable`], for calls that put a file: not where a mount point is or must lead through.
    fn replaceable(&self, context: &Context, path: &NsPath) -> Result<(Arc<dyn Mount>, Key)> {
        let (mount, key) = self.beginnable(context, path)?;
        if key.is_root() || self.table().is_above_mount(path) {
            return Err(Error::new(ErrorKind::IsDirectory, "a mount lies here or below").at("write", path));
        }
        Ok((mount, key))
    }

    async fn tell(&self, context: &Context, path: &NsPath, kind: ChangeKind) {
        self.committed(Change { origin: context.origin, path: path.clone(), kind }).await;
    }

    /// Starts a whole new content for `path`.
    ///
    /// # Errors
    /// As [`Mount::stage`]; `AccessDenied`, `ReadOnly`.
    pub async fn replace(self: &Arc<Self>, context: &Context, path: &NsPath) -> Result<Writer> {
        self.stage(context, path, Target::Replace).await
    }

    /// Starts a change of the present content of `path`, which keeps its identity.
    ///
    /// # Errors
    /// As [`Mount::stage`]; `AccessDenied`, `ReadOnly`.
    pub async fn modify(self: &Arc<Self>, context: &Context, path: &NsPath) -> Result<Writer> {
        self.stage(context, path, Target::Modify).await
    }

    /// Starts a part of a multipart upload; `checksum` is kept with it.
    ///
    /// # Errors
    /// As [`Mount::stage`]; `AccessDenied`, `ReadOnly`.
    pub async fn stage_part(
        self: &Arc<Self>,
        context: &Context,
        path: &NsPath,
        (upload, number): (&UploadId, u32),
        checksum: Option<(String, String)>,
    ) -> Result<Writer> {
        let (mount, key) = self.writable(context, path)?;
        let target = Target::Part { key, upload: upload.clone(), number, checksum };
        self.staged(context, (&mount, path), target, None).await
    }

    async fn stage(
        self: &Arc<Self>,
        context: &Context,
        path: &NsPath,
        target: impl FnOnce(Key) -> Target,
    ) -> Result<Writer> {
        let (mount, key) = self.replaceable(context, path)?;
        self.staged(context, (&mount, path), target(key), Some(path.clone())).await
    }

    async fn staged(
        self: &Arc<Self>,
        context: &Context,
        (mount, path): (&Arc<dyn Mount>, &NsPath),
        target: Target,
        told: Option<NsPath>,
    ) -> Result<Writer> {
        let staged = mount.stage(target).await.map_err(|e| e.at("write", path))?;
        Ok(Writer { namespace: Arc::clone(self), staged, context: context.clone(), path: told })
    }

    /// Makes a directory.
    ///
    /// # Errors
    /// As [`Mount::mkdir`]; `AccessDenied`, `ReadOnly`.
    pub async fn mkdir(&self, context: &Context, path: &NsPath, mode: MkdirMode) -> Result<Entry> {
        if self.table().is_above_mount(path) || self.table().at(path).is_some() {
            context.check(Permission::Write, path)?;
            return match mode {
                MkdirMode::New => {
                    Err(Error::new(ErrorKind::AlreadyExists, "the directory exists").at("mkdir", path))
                }
                MkdirMode::Parents => self.stat(context, path, Want::Directory).await,
            };
        }
        let (mount, key) = self.beginnable(context, path)?;
        let entry = mount.mkdir(&key, mode).await.map_err(|e| e.at("mkdir", path))?;
        self.tell(context, path, ChangeKind::Written).await;
        Ok(entry)
    }

    /// Makes a symbolic link.
    ///
    /// # Errors
    /// As [`Mount::symlink`]; `AccessDenied`, `ReadOnly`.
    pub async fn symlink(
        &self,
        context: &Context,
        path: &NsPath,
        target: &[u8],
        owner: (u32, u32),
    ) -> Result<Entry> {
        let (mount, key) = self.replaceable(context, path)?;
        let entry = mount.symlink(&key, target, owner).await.map_err(|e| e.at("symlink", path))?;
        self.tell(context, path, ChangeKind::Written).await;
        Ok(entry)
    }

    /// Removes an entry, of symbolic links the link itself; `false` if there was none.
    ///
    /// # Errors
    /// As [`Mount::delete`]; `AccessDenied`, `ReadOnly` (also for mount points and what holds them).
    pub async fn delete(&self, context: &Context, path: &NsPath, mode: DeleteMode) -> Result<bool> {
        let (mount, key) = self.removable(context, path)?;
        let answer = mount.delete(&key, mode).await.map_err(|e| e.at("delete", path));
        // A tree that failed half-way has changed, too.
        if !matches!(answer, Ok(false)) {
            self.tell(context, path, ChangeKind::Removed).await;
        }
        answer
    }

    /// Moves a file or directory within one mount.
    ///
    /// # Errors
    /// As [`Mount::rename`]; `CrossMount`, `AccessDenied`, `ReadOnly`.
    pub async fn rename(
        &self,
        context: &Context,
        from: &NsPath,
        to: &NsPath,
        mode: RenameMode,
    ) -> Result<()> {
        let (source, from_key) = self.removable(context, from)?;
        let (destination, to_key) = self.removable(context, to)?;
        if !Arc::ptr_eq(&source, &destination) {
            let message = format!("{to} is on another mount; copy and delete instead");
            return Err(Error::new(ErrorKind::CrossMount, message).at("rename", from));
        }
        source.rename(&from_key, &to_key, mode).await.map_err(|e| e.at("rename", from))?;
        self.tell(context, from, ChangeKind::Renamed { to: to.clone() }).await;
        Ok(())
    }

    /// Copies one file: inside the store where it can, else streamed through. `headers` replace the source's.
    ///
    /// # Errors
    /// As [`Mount::copy`]; `AccessDenied`, `ReadOnly`.
    pub async fn copy(
        self: &Arc<Self>,
        context: &Context,
        (from, to): (&NsPath, &NsPath),
        headers: Option<Headers>,
        condition: Precondition,
    ) -> Result<Entry> {
        let (source, from_key) = self.readable(context, from)?;
        let (destination, to_key) = self.replaceable(context, to)?;
        if Arc::ptr_eq(&source, &destination) {
            match source.copy(&from_key, &to_key, headers.clone(), condition.clone()).await {
                Err(e) if e.kind() == ErrorKind::Unsupported => {}
                answer => {
                    let entry = answer.map_err(|e| e.at("copy", from))?;
                    self.tell(context, to, ChangeKind::Written).await;
                    return Ok(entry);
                }
            }
        }
        let file = source.open(&from_key, Want::File).await.map_err(|e| e.at("copy", from))?;
        let writer = self.replace(context, to).await?;
        copy_range(&*file, ByteRange::new(0, file.entry().size_bytes), &writer).await?;
        let headers = headers.or_else(|| file.entry().headers.as_deref().cloned());
        writer.publish(Publish { condition, headers, is_durable: true, ..Publish::default() }).await
    }

    /// Changes POSIX attributes.
    ///
    /// # Errors
    /// As [`Mount::set_attributes`]; `AccessDenied`, `ReadOnly`.
    pub async fn set_attributes(
        &self,
        context: &Context,
        path: &NsPath,
        change: AttributeChange,
    ) -> Result<Entry> {
        let (mount, key) = self.writable(context, path)?;
        let entry = mount.set_attributes(&key, change).await.map_err(|e| e.at("set attributes", path))?;
        self.tell(context, path, ChangeKind::Attributes).await;
        Ok(entry)
    }

    /// Changes owner and times of a symbolic link.
    ///
    /// # Errors
    /// As [`Mount::set_link_attributes`]; `AccessDenied`, `ReadOnly`.
    pub async fn set_link_attributes(
        &self,
        context: &Context,
        path: &NsPath,
        change: AttributeChange,
    ) -> Result<Entry> {
        let (mount, key) = self.writable(context, path)?;
        let entry =
            mount.set_link_attributes(&key, change).await.map_err(|e| e.at("set attributes", path))?;
        self.tell(context, path, ChangeKind::Attributes).await;
        Ok(entry)
    }

    /// Sets or removes an xattr, or says how what lies at and below `path` is cached, where it is one of ours.
    ///
    /// # Errors
    /// As [`Mount::set_xattr`] and [`Mount::set_cache_setting`]; `AccessDenied`, `ReadOnly`.
    pub async fn set_xattr(
        &self,
        context: &Context,
        path: &NsPath,
        (name, value): (&str, Option<Bytes>),
        mode: XattrMode,
    ) -> Result<()> {
        if let Some(setting) = name.strip_prefix(OWN_XATTRS) {
            return self.set_cache_setting(context, path, (setting, value), mode).await;
        }
        let (mount, key) = self.writable(context, path)?;
        mount.set_xattr(&key, name, value, mode).await.map_err(|e| e.at("set xattr", path))?;
        self.tell(context, path, ChangeKind::Attributes).await;
        Ok(())
    }

    /// For those who may write there, also where the mount takes no writes: the content stays.
    async fn set_cache_setting(
        &self,
        context: &Context,
        path: &NsPath,
        (name, value): (&str, Option<Bytes>),
        mode: XattrMode,
    ) -> Result<()> {
        let failed = |kind, message| Error::new(kind, message).at("set cache setting", path);
        context.check(Permission::Write, path)?;
        let table = self.table.load_full();
        let Some((mount, key)) = table.owner(path) else { return Err(not_found(path)) };
        let is_said = mount.cache_setting(&key, name).is_some();
        match mode {
            XattrMode::Create if is_said => {
                return Err(failed(ErrorKind::AlreadyExists, "it is said already"));
            }
            XattrMode::Replace if !is_said => return Err(failed(ErrorKind::NotFound, "it was not said")),
            XattrMode::Any | XattrMode::Create | XattrMode::Replace => {}
        }
        let value = value.as_deref().map(std::str::from_utf8).transpose();
        let value = value.map_err(|e| failed(ErrorKind::InvalidArgument, "it must be a word").because(e))?;
        mount.set_cache_setting(&key, name, value).await.map_err(|e| e.at("set cache setting", path))
    }

    /// Starts a multipart upload.
    ///
    /// # Errors
    /// As [`Mount::create_upload`]; `AccessDenied`, `ReadOnly`.
    pub async fn create_upload(
        &self,
        context: &Context,
        path: &NsPath,
        headers: Headers,
    ) -> Result<UploadId> {
        let (mount, key) = self.replaceable(context, path)?;
        mount.create_upload(&key, headers).await.map_err(|e| e.at("create upload", path))
    }

    /// Publishes the parts as one file.
    ///
    /// # Errors
    /// As [`Mount::complete_upload`]; `AccessDenied`, `ReadOnly`.
    pub async fn complete_upload(
        &self,
        context: &Context,
        path: &NsPath,
        (upload, parts): (&UploadId, &[u32]),
        condition: Precondition,
    ) -> Result<Entry> {
        let (mount, key) = self.writable(context, path)?;
        let answer = mount.complete_upload(&key, upload, parts, condition).await;
        let entry = answer.map_err(|e| e.at("complete upload", path))?;
        self.tell(context, path, ChangeKind::Written).await;
        Ok(entry)
    }

    /// Forgets a multipart upload and its parts.
    ///
    /// # Errors
    /// As [`Mount::abort_upload`]; `AccessDenied`, `ReadOnly`.
    pub async fn abort_upload(&self, context: &Context, path: &NsPath, upload: &UploadId) -> Result<()> {
        let (mount, key) = self.writable(context, path)?;
        mount.abort_upload(&key, upload).await.map_err(|e| e.at("abort upload", path))
    }
}

/// Appends `range` of an open file to the start of what a writer has: used to copy files and to make parts of them.
///
/// # Errors
/// As [`OpenFile::read`] and [`Writer::write_at`].
pub async fn copy_range(file: &dyn OpenFile, range: ByteRange, writer: &Writer) -> Result<()> {
    let mut written = 0;
    while written < range.len {
        let step = ByteRange::new(range.offset + written, (range.len - written).min(COPY_STEP_BYTES));
        for piece in file.read_bytes(step).await? {
            let len = piece.len() as u64;
            writer.write_at(written, piece).await?;
            written += len;
        }
    }
    Ok(())
}
