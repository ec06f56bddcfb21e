//! Writes: to a temporary name, then to the real one by one rename, which HDFS does atomically.
//!
//! Invariants:
//! - What is under a key is complete: its length was compared before it got the name.
//! - `Absent` is decided by the NameNode. `Matches` is a look just before the rename, under a lock of the key, so it
//!   is atomic among this gateway's writers and not among all clients of the cluster.
//! - A rename whose answer was lost is looked up by the file's number, never guessed.
//!
//! Temporary files lie in one directory below the mount's root (beside the target they would keep directories from
//! being empty, and none would ever find them after a crash). So a mount does not reach across encryption zones, and
//! a new file takes the erasure coding policy of the root.

use std::sync::Arc;

use forebay_core::{ETag, Error, ErrorKind, Headers, Precondition, RenameMode, Result};

use super::client::{BODY_BYTES, Client};
use super::path::Path;
use super::status::Status;
use super::{Hdfs, headers};
use crate::backend::{Object, Source, require};

/// Something under a temporary name; removed on drop unless it got its own.
pub(super) struct Temporary {
    client: Arc<Client>,
    pub(super) path: Path,
    /// Removed, or under its own name.
    is_gone: bool,
}

impl Temporary {
    /// Removes it, unless it got its own name.
    pub(super) async fn remove(&mut self) {
        if !std::mem::replace(&mut self.is_gone, true) {
            remove(&self.client, &self.path).await;
        }
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if self.is_gone {
            return;
        }
        let (client, path) = (Arc::clone(&self.client), self.path.clone());
        tokio::spawn(async move { remove(&client, &path).await });
    }
}

/// Bounded by the client's own deadlines; what it cannot remove is reaped by age.
async fn remove(client: &Client, path: &Path) {
    if let Err(error) = client.delete(path, true).await {
        tracing::warn!(%error, "a temporary file stays in HDFS until it is reaped");
    }
}

impl Hdfs {
    pub(super) async fn put_file(
        &self,
        key: &str,
        source: &Source,
        headers: &Headers,
        condition: &Precondition,
    ) -> Result<Object> {
        let path = self.root.path(key)?;
        self.expect(&path, condition).await?;
        let mut temporary = self.temporary();
        let room = self.uploads.take(source.size_bytes().min(BODY_BYTES)).await;
        self.client.create(&temporary.path, source).await?;
        drop(room);
        self.name(&mut temporary, (key, source.size_bytes()), headers, condition).await
    }

    /// Refuses, before the last byte, what can be known then.
    pub(super) async fn expect(&self, path: &Path, condition: &Precondition) -> Result<()> {
        if *condition == Precondition::None {
            return Ok(());
        }
        require(condition, self.tag_at(path).await?.as_ref())
    }

    /// Gives a file that was written whole its headers and its name.
    pub(super) async fn name(
        &self,
        temporary: &mut Temporary,
        (key, size_bytes): (&str, u64),
        headers: &Headers,
        condition: &Precondition,
    ) -> Result<Object> {
        headers::keep(&self.client, &temporary.path, headers).await?;
        let status = self.client.status(&temporary.path).await?;
        if status.length != size_bytes {
            let text = format!("HDFS kept {} of {size_bytes} bytes", status.length);
            return Err(Error::new(ErrorKind::Internal, text));
        }
        self.publish(temporary, &self.root.path(key)?, (&status, condition)).await?;
        Ok(status.file(key.to_owned(), Some(Arc::new(headers.clone()))))
    }

    /// Makes a directory. Where it must be absent, it comes into being elsewhere and is moved, so that of several
    /// makers one wins.
    pub(super) async fn put_directory(&self, key: &str, condition: &Precondition) -> Result<Object> {
        let path = self.root.path(key)?;
        let status = match condition {
            Precondition::None => {
                self.client.mkdirs(&path).await?;
                self.client.status(&path).await?
            }
            Precondition::Absent => {
                let mut temporary = self.temporary();
                self.client.mkdirs(&temporary.path).await?;
                let status = self.client.status(&temporary.path).await?;
                self.publish(&mut temporary, &path, (&status, condition)).await?;
                status
            }
            Precondition::Matches(_) => {
                let present = self.client.look(&path).await?.filter(Status::is_directory);
                require(condition, present.as_ref().map(|_| ETag::new("")).as_ref())?;
                present.ok_or_else(|| Error::new(ErrorKind::NotFound, "no such directory"))?
            }
        };
        Ok(status.directory(key))
    }

    pub(super) fn temporary(&self) -> Temporary {
        self.reap_once();
        Temporary { client: Arc::clone(&self.client), path: self.root.temporary(), is_gone: false }
    }

    async fn publish(
        &self,
        temporary: &mut Temporary,
        path: &Path,
        (status, condition): (&Status, &Precondition),
    ) -> Result<()> {
        let mode = match condition {
            Precondition::None | Precondition::Matches(_) => RenameMode::Replace,
            Precondition::Absent => RenameMode::NoReplace,
        };
        let _turn = self.turns.take(path).await;
        if let Precondition::Matches(_) = condition {
            require(condition, self.tag_at(path).await?.as_ref())?;
        }
        let mut moved = self.move_to(&temporary.path, path, (status.file_id, mode)).await;
        if moved.as_ref().is_err_and(|e| e.kind() == ErrorKind::NotFound) {
            self.client.mkdirs(&path.parent()).await?;
            moved = self.move_to(&temporary.path, path, (status.file_id, mode)).await;
        }
        moved.map_err(|e| match (e.kind(), condition) {
            (ErrorKind::AlreadyExists, Precondition::Absent) => {
                Error::new(ErrorKind::PreconditionFailed, "somebody else has the name").because(e)
            }
            (ErrorKind::NotFound, _) => {
                Error::new(ErrorKind::Internal, "a temporary file vanished before it was published")
                    .because(e)
            }
            _ => e,
        })?;
        temporary.is_gone = true;
        Ok(())
    }

    /// The tag of the file at `path`.
    async fn tag_at(&self, path: &Path) -> Result<Option<ETag>> {
        let found = self.client.look(path).await?;
        if found.as_ref().is_some_and(Status::is_directory) {
            return Err(Error::new(ErrorKind::IsDirectory, "a directory has this name"));
        }
        Ok(found.map(|status| status.tag()))
    }

    /// Renames what has `number`, and finds out what became of it where the answer was lost.
    pub(super) async fn move_to(
        &self,
        from: &Path,
        to: &Path,
        (number, mode): (u64, RenameMode),
    ) -> Result<()> {
        match self.client.rename(from, to, mode).await {
            Err(error) if is_lost(error.kind()) => self.resolve(from, to, (number, error)).await,
            // HDFS tells files from directories in its text only.
            Err(error) if error.kind() == ErrorKind::Internal => Err(self.mismatch(from, to, error).await),
            answer => answer,
        }
    }

    async fn resolve(&self, from: &Path, to: &Path, (number, error): (u64, Error)) -> Result<()> {
        let is_there = |found: Result<Option<Status>>| {
            found.map(|status| status.is_some_and(|status| status.file_id == number))
        };
        match (is_there(self.client.look(to).await), is_there(self.client.look(from).await)) {
            // Or neither here nor there: it was moved, and then replaced or moved on by somebody else.
            (Ok(true), _) | (Ok(false), Ok(false)) => Ok(()),
            (Ok(false), Ok(true)) | (Err(_), _) | (_, Err(_)) => Err(error),
        }
    }

    /// What a rename was refused for, if it is that one of the two names is a file and the other a directory.
    async fn mismatch(&self, from: &Path, to: &Path, error: Error) -> Error {
        let (source, target) = (self.client.look(from).await, self.client.look(to).await);
        let (Ok(Some(source)), Ok(Some(target))) = (source, target) else { return error };
        let kind = match (source.is_directory(), target.is_directory()) {
            (false, true) => ErrorKind::IsDirectory,
            (true, false) => ErrorKind::NotDirectory,
            (true, true) | (false, false) => return error,
        };
        Error::new(kind, "a file and a directory cannot replace each other").because(error)
    }
}

/// Whether a rename that failed like this may have been done all the same.
fn is_lost(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::Unavailable | ErrorKind::Timeout)
}
