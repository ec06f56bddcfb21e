//! Extended attributes: `user.*` as the store keeps them, three of our own that are read-only, and those that say how
//! what lies at and below a path is cached.

use std::ffi::OsStr;

use bytes::Bytes;
use forebay_core::{ByteRange, EntryKind, ErrorKind, NsPath, OWN_XATTRS, Want, XattrMode};
use fuser::Errno;

use crate::error::Failure;
use crate::ops::lookup::checked;
use crate::server::Server;
use crate::writing::Reach;

/// The tag that S3 clients see.
const ETAG: &str = "user.etag";
/// The path of the mount that serves the file.
const MOUNT: &str = "user.forebay.mount";
/// Where a read of the whole file would find it: `hit-memory`, `hit-disk` or `miss`. Not listed: whoever copies all
/// attributes does not want it.
const CACHE: &str = "user.forebay.cache";

/// The names that can be kept; `security.*`, `system.*` and `trusted.*` are answered without asking a store, since
/// the kernel asks for them on every write.
fn kept(name: &OsStr) -> Result<&str, Failure> {
    let name = checked(name)?;
    if !name.starts_with("user.") {
        return Err(Failure::Refused(Errno::EOPNOTSUPP, "only user.* attributes are kept"));
    }
    Ok(name)
}

fn missing() -> Failure {
    Failure::Refused(Errno::NO_XATTR, "no such attribute")
}

impl Server {
    async fn own_xattr(&self, path: &NsPath, name: &str) -> Result<Option<Bytes>, Failure> {
        match name {
            ETAG => Ok(Some(Bytes::from(self.stat(path).await?.etag.as_str().to_owned()))),
            MOUNT => Ok(self.mount(path).map(|mount| Bytes::from(mount.name))),
            CACHE => Ok(Some(Bytes::from_static(self.whereabouts(path).await?.as_bytes()))),
            _ => {
                let setting = name.strip_prefix(OWN_XATTRS);
                let said = setting.map(|name| self.namespace.cache_setting(&self.context, path, name));
                Ok(said.transpose()?.flatten().map(Bytes::from))
            }
        }
    }

    async fn whereabouts(&self, path: &NsPath) -> Result<&'static str, Failure> {
        let file = self.namespace.open(&self.context, path, Want::File).await?;
        let size_bytes = file.entry().size_bytes;
        Ok(file.found(ByteRange::new(0, size_bytes)))
    }

    async fn store_xattrs(&self, path: &NsPath) -> Result<Vec<(String, Bytes)>, Failure> {
        match self.namespace.xattrs(&self.context, path).await {
            Ok(xattrs) => Ok(xattrs),
            Err(e) if e.kind() == ErrorKind::Unsupported => Ok(Vec::new()),
            // A file that is being made has none yet.
            Err(e) if e.kind() == ErrorKind::NotFound && self.is_new(path) => Ok(Vec::new()),
            Err(e) => Err(e.into()),
        }
    }

    /// The value of one attribute.
    pub(crate) async fn getxattr(&self, number: u64, name: &OsStr) -> Result<Bytes, Failure> {
        let name = kept(name)?;
        let Some(path) = self.inode(number)?.path() else { return Err(missing()) };
        if let Some(value) = self.own_xattr(&path, name).await? {
            return Ok(value);
        }
        let found = self.store_xattrs(&path).await?.into_iter().find(|(kept, _)| kept == name);
        found.map(|(_, value)| value).ok_or_else(missing)
    }

    /// All names, each with a NUL after it.
    pub(crate) async fn listxattr(&self, number: u64) -> Result<Bytes, Failure> {
        let inode = self.inode(number)?;
        if inode.kind == EntryKind::Link {
            // Linux keeps none named user.* with links.
            return Ok(Bytes::new());
        }
        let Some(path) = inode.path() else { return Ok(Bytes::new()) };
        let mut names: Vec<String> =
            self.store_xattrs(&path).await?.into_iter().map(|(name, _)| name).collect();
        if self.mount(&path).is_some() {
            names.extend([ETAG.to_owned(), MOUNT.to_owned()]);
        }
        Ok(names.iter().flat_map(|name| name.bytes().chain([0])).collect())
    }

    /// Sets an attribute for the user `caller`, or removes it where `value` is `None`.
    pub(crate) async fn setxattr(
        &self,
        number: u64,
        (name, value): (&OsStr, Option<Bytes>),
        mode: XattrMode,
        caller: u32,
    ) -> Result<(), Failure> {
        let name = kept(name)?;
        if [ETAG, MOUNT, CACHE].contains(&name) {
            return Err(Failure::Refused(Errno::EPERM, "this attribute is read-only"));
        }
        let inode = self.inode(number)?;
        let path = inode.path().ok_or_else(Failure::stale)?;
        let is_setting = name.starts_with(OWN_XATTRS);
        // What the file modes allow is not enough: it concerns all who use the cache.
        if is_setting && ![0, rustix::process::getuid().as_raw()].contains(&caller) {
            let message = "root and the user of the gateway say how content is cached";
            return Err(Failure::Refused(Errno::EPERM, message));
        }
        if let Some(writing) = inode.writing().filter(|writing| writing.is_new() && !is_setting) {
            // The store has to know the file to keep anything with it.
            let turn = inode.turn().await;
            self.publish(&inode, &writing, Reach::Visible, &turn).await?;
        }
        let is_removal = value.is_none();
        match self.namespace.set_xattr(&self.context, &path, (name, value), mode).await {
            Ok(()) => Ok(()),
            Err(e) if e.kind() == ErrorKind::NotFound && (is_removal || mode == XattrMode::Replace) => {
                Err(missing())
            }
            Err(e) => Err(e.into()),
        }
    }
}
