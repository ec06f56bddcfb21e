//! What the mounts acknowledged and their stores do not have yet.

use std::sync::Arc;

use forebay_core::{Conflict, Key, LostWrite, Mount, NsPath, PendingWrite, Result};
use futures::future::try_join_all;

use super::Mounts;

impl Mounts {
    /// Mounts of whose acknowledged contents some are not uploaded yet, with how many.
    pub fn backlog(&self) -> Vec<(NsPath, u64)> {
        let counted = self.handles().into_iter().map(|(path, handle)| (path, handle.backlog()));
        counted.filter(|(_, writes)| *writes > 0).collect()
    }

    /// Acknowledged contents that are not uploaded yet, by mount, what was written longest ago first.
    pub fn pending(&self) -> Vec<(NsPath, Vec<PendingWrite>)> {
        self.handles().into_iter().map(|(path, handle)| (path, handle.pending())).collect()
    }

    /// Where acknowledged contents lost against others since the mounts are there, by mount.
    pub fn conflicts(&self) -> Vec<(NsPath, Vec<Conflict>)> {
        self.handles().into_iter().map(|(path, handle)| (path, handle.conflicts())).collect()
    }

    /// Acknowledged contents that were lost since the mounts are there, by mount.
    pub fn lost(&self) -> Vec<(NsPath, Vec<LostWrite>)> {
        self.handles().into_iter().map(|(path, handle)| (path, handle.lost())).collect()
    }

    /// Waits until all that was acknowledged at and below `path` is at its store.
    ///
    /// # Errors
    /// As [`Mount::flush`].
    pub async fn flush(&self, path: &NsPath) -> Result<()> {
        let handles = self.handles();
        let above =
            handles.iter().filter_map(|(at, handle)| Some((handle, path.relative_to(at)?))).next_back();
        let below = handles.iter().filter(|(at, _)| at != path && at.starts_with(path));
        let below = below.map(|(_, handle)| (handle, Key::root()));
        let flushes =
            above.into_iter().chain(below).map(|(handle, key)| async move { handle.flush(&key).await });
        try_join_all(flushes).await.map(drop)
    }

    /// The handles in order of their paths, so that a mount comes after those that it lies in.
    fn handles(&self) -> Vec<(NsPath, Arc<dyn Mount>)> {
        let state = self.state();
        let handle = |(path, present): (&NsPath, &super::Present)| {
            (path.clone(), Arc::clone(present.mounted.handle()))
        };
        state.present.iter().map(handle).collect()
    }
}
