//! Writing, and making what was written visible.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use fuser::Errno;
use rustix::fs::FallocateFlags;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::error::Failure;
use crate::handle::{FileHandle, Source};
use crate::inode::Inode;
use crate::kernel::Forget;
use crate::server::{Server, blocking};
use crate::writing::{Reach, Writing, sync};

/// Most files of one mount that are published at once when the session ends.
const PUBLISHED_AT_ONCE: usize = 16;

impl Server {
    fn file(&self, handle: u64) -> Result<Arc<FileHandle>, Failure> {
        self.files.find(handle).ok_or(Failure::Refused(Errno::EBADF, "no such handle"))
    }

    fn writable(&self, handle: u64) -> Result<(Arc<FileHandle>, Arc<Writing>), Failure> {
        let handle = self.file(handle)?;
        let writing = handle.writing.clone();
        Ok((handle, writing.ok_or(Failure::Refused(Errno::EBADF, "the handle may not write"))?))
    }

    /// Writes for an open file that is not passed through.
    pub(crate) async fn write(&self, handle: u64, offset: u64, bytes: Bytes) -> Result<u32, Failure> {
        let (handle, writing) = self.writable(handle)?;
        let len = bytes.len();
        // The kernel's idea of the end is old when another frontend appended.
        let offset = if handle.is_append { offset.max(writing.size_bytes()?) } else { offset };
        writing.write_at(offset, bytes).await?;
        self.counters.written_bytes.inc_by(len as u64);
        Ok(len as u32)
    }

    /// Publishes on `close`, whose error the application sees.
    pub(crate) async fn flush(&self, handle: u64) -> Result<(), Failure> {
        let handle = self.file(handle)?;
        let Some(writing) = &handle.writing else { return Ok(()) };
        self.publish_in_turn(&handle.inode, writing, Reach::Visible).await
    }

    /// Publishes, and waits until a crash cannot lose it; whoever wrote it, and however this handle was opened.
    pub(crate) async fn fsync(&self, handle: u64) -> Result<(), Failure> {
        let handle = self.file(handle)?;
        if let Some(writing) = handle.writing.clone().or_else(|| handle.inode.writing()) {
            self.publish_in_turn(&handle.inode, &writing, Reach::Durable).await?;
            return if writing.is_in_place() { Ok(()) } else { self.sync_attributes(&handle.inode).await };
        }
        // What is on a store is durable there, but for what it cannot keep.
        if !handle.inode.path().is_none_or(|path| self.is_in_place(&path)) {
            return self.sync_attributes(&handle.inode).await;
        }
        match &handle.source {
            Source::Written(writing) => sync(writing.file()).await,
            Source::Stored(file) => match file.lend() {
                Some(lent) => sync(lent.file()).await,
                None => Ok(()),
            },
        }
    }

    /// Waits until what was set for a file that lies on a store is durable.
    async fn sync_attributes(&self, inode: &Inode) -> Result<(), Failure> {
        match inode.path().and_then(|path| path.parent()) {
            Some(parent) => Ok(self.namespace.sync_directory(&self.context, &parent).await?),
            None => Ok(()),
        }
    }

    async fn publish_in_turn(&self, inode: &Inode, writing: &Writing, reach: Reach) -> Result<(), Failure> {
        let turn = inode.turn().await;
        self.publish(inode, writing, reach, &turn).await
    }

    /// Closes a handle. What `flush` could not publish is tried once more; then it is lost, and said so.
    pub(crate) async fn release(&self, handle: u64) {
        let Some(handle) = self.files.remove(handle) else { return };
        if let Some(writing) = &handle.writing {
            let turn = handle.inode.turn().await;
            if let Err(e) = self.publish(&handle.inode, writing, Reach::Visible, &turn).await {
                let path = handle.inode.path().map(|path| path.to_string());
                tracing::error!(path, error = %e, "what was written could not be published when it was closed");
            }
            if writing.released() {
                end(&handle, writing);
                // Stores through a shared map changed the times without the kernel's attributes following.
                self.kernel.forget_inode(handle.inode.number, Forget::Attributes).await;
            }
        }
        self.table.closed(&handle.inode);
    }

    /// Publishes everything that is being written; for the end of the session. No mount waits for another one.
    pub(crate) async fn publish_all(self: &Arc<Self>) {
        let mut rooms = HashMap::new();
        let mut tasks = JoinSet::new();
        for inode in self.table.writing() {
            let mount = inode.path().and_then(|path| self.mount(&path)).map(|mount| mount.name);
            let room = rooms.entry(mount).or_insert_with(|| Arc::new(Semaphore::new(PUBLISHED_AT_ONCE)));
            let (server, room) = (Arc::clone(self), Arc::clone(room));
            tasks.spawn(async move {
                let _room = room.acquire().await.expect("nothing closes it");
                server.publish_last(&inode).await;
            });
        }
        while let Some(done) = tasks.join_next().await {
            if let Err(e) = done {
                tracing::error!(error = %e, "a publication before unmounting died");
            }
        }
    }

    async fn publish_last(&self, inode: &Inode) {
        let turn = inode.turn().await;
        let Some(writing) = inode.writing() else { return };
        if let Err(e) = self.publish(inode, &writing, Reach::Durable, &turn).await {
            let path = inode.path().map(|path| path.to_string());
            tracing::error!(path, error = %e, "what was written could not be published before unmounting");
        }
    }

    /// Allocates, zeroes or punches a range of a file being written.
    pub(crate) async fn fallocate(
        &self,
        handle: u64,
        offset: u64,
        len: u64,
        mode: i32,
    ) -> Result<(), Failure> {
        let (_, writing) = self.writable(handle)?;
        let Some(mode) = FallocateFlags::from_bits(mode as u32) else {
            return Err(Failure::Refused(Errno::EOPNOTSUPP, "no such fallocate mode"));
        };
        blocking(move || {
            rustix::fs::fallocate(writing.file(), mode, offset, len).map_err(|e| {
                Failure::Refused(Errno::from_i32(e.raw_os_error()), "the disk refused fallocate")
            })
        })
        .await
    }
}

/// Ends the write of an inode whose last writing handle is closed. Readers keep its content.
fn end(handle: &FileHandle, writing: &Arc<Writing>) {
    let version = writing.published_version();
    let mut state = handle.inode.lock();
    if state.writing.as_ref().is_some_and(|present| Arc::ptr_eq(present, writing)) {
        let ended = state.writing.take();
        if let Some(open) = &mut state.open {
            open.version = version;
        }
        drop(state);
        // May delete a staging file, so not under the lock.
        drop(ended);
    }
}
