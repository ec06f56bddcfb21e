//! Syncs: a piece of a mount is compared with its store, then the commit observers are told what changed there.

use std::sync::{Arc, PoisonError};

use super::Namespace;
use crate::{
    Change, ChangeKind, Context, Error, ErrorKind, Key, Mount, NsPath, Result, SyncPage, SyncSpan, Want,
};

impl Namespace {
    /// Where a sync of `path` has to look: there or, for each mount below, at its root.
    ///
    /// # Errors
    /// `NotFound` when no mount is at or below it; `InvalidArgument` when all of them are local.
    pub fn synced_paths(&self, path: &NsPath) -> Result<Vec<NsPath>> {
        let table = self.table();
        let own = table.owner(path).map(|(mount, _)| (path, mount));
        let mounts: Vec<_> =
            own.into_iter().chain(table.below(path).map(|(at, mount)| (at, mount))).collect();
        if mounts.is_empty() {
            return Err(Error::new(ErrorKind::NotFound, "no mount is here").at("sync", path));
        }
        let synced = mounts.into_iter().filter(|(_, mount)| mount.remembers());
        let paths: Vec<NsPath> = synced.map(|(at, _)| at.clone()).collect();
        if paths.is_empty() {
            let message = "this is a local directory: its changes are seen as they are made";
            return Err(Error::new(ErrorKind::InvalidArgument, message).at("sync", path));
        }
        Ok(paths)
    }

    /// Syncs a piece of the mount that serves `path`, as [`Mount::sync`], and tells the commit observers.
    ///
    /// # Errors
    /// As [`Mount::sync`]; `AccessDenied`.
    pub async fn sync(&self, context: &Context, path: &NsPath, span: &SyncSpan) -> Result<SyncPage> {
        let (mount, key) = self.readable(context, path)?;
        let page = mount.sync(&key, span).await.map_err(|e| e.at("sync", path))?;
        let is_watched = !self.observers.read().unwrap_or_else(PoisonError::into_inner).is_empty();
        for (key, is_there) in page.changes.iter().filter(|_| is_watched) {
            self.tell_found(&mount, key, *is_there).await;
        }
        Ok(page)
    }

    /// Where the rest of a sync may be parted, see [`Mount::sync_splits`].
    ///
    /// # Errors
    /// As [`Mount::sync_splits`]; `AccessDenied`.
    pub async fn sync_splits(&self, context: &Context, path: &NsPath, after: &str) -> Result<Vec<String>> {
        let (mount, key) = self.readable(context, path)?;
        mount.sync_splits(&key, after).await.map_err(|e| e.at("sync", path))
    }

    /// Tells of what was found at the store. What is there again by now is not told to be gone.
    async fn tell_found(&self, mount: &Arc<dyn Mount>, key: &Key, is_there: bool) {
        let table = self.table();
        let at = table.mounts().iter().find(|(_, other)| Arc::ptr_eq(other, mount));
        let Some(path) = at.and_then(|(at, _)| at.join(key.as_str()).ok()) else { return };
        // What lies under a nested mount is not shown.
        if !table.owner(&path).is_some_and(|(owner, _)| Arc::ptr_eq(owner, mount)) {
            return;
        }
        let is_gone =
            !is_there && mount.stat(key, Want::Any).await.is_err_and(|e| e.kind() == ErrorKind::NotFound);
        let kind = if is_gone { ChangeKind::Removed } else { ChangeKind::Written };
        self.committed(Change { origin: None, path, kind }).await;
    }
}
