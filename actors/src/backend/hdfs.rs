//! HDFS over WebHDFS: our own client, because those there are ignore the boolean of a rename.
//!
//! Invariants:
//! - A key that ends in `/` is a directory, any other a file; as in HDFS itself, a name is one or the other.
//! - Content is addressed by the file's number, which a tag begins with, so an open file is read on wherever it was
//!   moved, and never as another file of the same name.
//! - Names stay byte-exact: all is percent-encoded here, and what HDFS cannot hold is refused.
//!
//! Deliberately absent: retries and deadlines of whole requests (the mount's vitals have them), Kerberos, HttpFS
//! (which shows no file numbers), copies inside the store (HDFS has none), appending.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use forebay_core::{
    ByteRange, Capability, Clock, ETag, Error, ErrorKind, Headers, ListQuery, Precondition, RenameMode,
    Result,
};

use super::uploads::{UploadMemory, Uploads};
use super::{Backend, Object, ObjectPage, Pending, Pieces, Source, check_marker};
use crate::config::{HdfsStoreConfig, MountLimits};

mod ahead;
mod client;
mod entries;
mod error;
mod headers;
mod list;
mod path;
mod publish;
mod reap;
mod status;
mod turns;

use ahead::Ahead;
use client::Client;
use path::{Path, Root};
use status::Status;
use turns::Turns;

/// Age at which a temporary file belongs to no write any more: the longest deadline of the largest one is shorter.
const TEMPORARY_TTL: Duration = Duration::from_hours(72);

/// What one OPEN asks for: it costs three requests and a new client in the DataNode, 17 ms for 1 MiB and 50 ms for
/// this.
const REQUEST_BYTES: u64 = 8 << 20;

/// A directory of HDFS.
pub struct Hdfs {
    client: Arc<Client>,
    root: Root,
    fingerprint: String,
    turns: Turns,
    uploads: Uploads,
    clock: Clock,
    is_reaped: AtomicBool,
}

impl Hdfs {
    /// A store with an HTTP client of its own. Sends nothing.
    ///
    /// # Errors
    /// `InvalidArgument` for options that make no sense together.
    pub fn new(
        config: &HdfsStoreConfig,
        limits: &MountLimits,
        memory: &UploadMemory,
        clock: Clock,
    ) -> Result<Self> {
        let client = Client::new(config, limits)
            .map_err(|e| Error::new(ErrorKind::InvalidArgument, e.without_url().to_string()))?;
        let mut endpoints = config.endpoints.clone();
        endpoints.sort_unstable();
        Ok(Self {
            client: Arc::new(client),
            root: Root::new(&config.root),
            fingerprint: format!("hdfs:{}{}", endpoints.join(","), config.root),
            turns: Turns::default(),
            uploads: memory.of_mount(),
            clock,
            is_reaped: AtomicBool::new(false),
        })
    }

    /// What is under an exact key: a directory for one that ends in `/`, else a file.
    async fn look(&self, key: &str) -> Result<Option<(Path, Status)>> {
        let Some(path) = self.root.find(key) else { return Ok(None) };
        let found = self.client.look(&path).await?;
        Ok(found.filter(|status| is_meant(key, status)).map(|status| (path, status)))
    }

    /// Removes what earlier processes left behind, once and in the background.
    fn reap_once(&self) {
        if !self.is_reaped.swap(true, Ordering::Relaxed) {
            // Bounded by the client's deadlines, and there is nobody to tell its end to.
            tokio::spawn(reap::reap(
                Arc::clone(&self.client),
                self.root.own(),
                self.clock.now().checked_sub(TEMPORARY_TTL),
            ));
        }
    }
}

/// Whether a name of this kind is what `key` stands for.
fn is_meant(key: &str, status: &Status) -> bool {
    match status.kind {
        status::Kind::Directory => key.ends_with('/'),
        status::Kind::File => !key.ends_with('/'),
        status::Kind::Symlink => false,
    }
}

fn missing() -> Error {
    Error::new(ErrorKind::NotFound, "no such object")
}

fn changed() -> Error {
    Error::new(ErrorKind::Stale, "the file was replaced or changed")
}

#[async_trait]
impl Backend for Hdfs {
    fn kind(&self) -> &'static str {
        "hdfs"
    }

    fn capability(&self) -> Capability {
        Capability {
            write: true,
            conditional_create: true,
            conditional_replace: true,
            native_copy: false,
            native_rename: true,
            headers: true,
            posix: false,
            hierarchical: true,
            key_bytes_max: self.root.key_bytes_max(),
        }
    }

    fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    /// A look at the root, which need not be there yet: a listing of it may be long.
    async fn probe(&self, _may_write: bool) -> Result<()> {
        match self.client.look(&self.root.whole()).await? {
            Some(status) if !status.is_directory() => {
                Err(Error::new(ErrorKind::NotDirectory, "`root` is a file in HDFS; name a directory"))
            }
            Some(_) | None => Ok(()),
        }
    }

    fn request_bytes(&self) -> u64 {
        REQUEST_BYTES
    }

    async fn stat(&self, key: &str) -> Result<Object> {
        let (_, status) = self.look(key).await?.ok_or_else(missing)?;
        if status.is_directory() {
            return Ok(status.directory(key));
        }
        // By number, so that headers and version are of one file.
        let headers = headers::read(&self.client, &Path::of_number(status.file_id)).await?;
        Ok(status.file(key.to_owned(), Some(headers)))
    }

    fn check_name(&self, name: &str) -> Result<()> {
        if name.is_empty() { Ok(()) } else { self.root.path(name).map(drop) }
    }

    async fn find(&self, name: &str) -> Result<Object> {
        let path = self.root.find(name).ok_or_else(missing)?;
        let status = self.client.status(&path).await?;
        match status.kind {
            status::Kind::Directory => Ok(status.directory(&format!("{name}/"))),
            status::Kind::File => Ok(status.file(name.to_owned(), None)),
            status::Kind::Symlink => Err(missing()),
        }
    }

    async fn read(&self, key: &str, range: ByteRange, etag: &ETag) -> Result<Bytes> {
        if range.is_empty() {
            return Ok(Bytes::new());
        }
        let number = status::number(etag).ok_or_else(changed)?;
        let path = Path::of_number(number);
        let bytes = match self.client.open(&path, range).await {
            Err(e) if e.kind() == ErrorKind::NotFound => {
                return Err(if self.look(key).await?.is_some() { changed() } else { missing() });
            }
            Err(e) if e.kind() == ErrorKind::RangeNotSatisfiable => return Err(changed().because(e)),
            answer => answer?,
        };
        // After the bytes: a file that was truncated and appended to in between would have mixed them.
        match self.client.look(&path).await? {
            Some(status) if status.tag() == *etag => Ok(bytes),
            Some(_) | None => Err(changed()),
        }
    }

    async fn list(&self, query: &ListQuery) -> Result<ObjectPage> {
        list::page(&self.client, &self.root, query).await
    }

    async fn put(
        &self,
        key: &str,
        source: &Source,
        headers: &Headers,
        condition: &Precondition,
    ) -> Result<Object> {
        check_marker(key, source)?;
        if key.ends_with('/') {
            return self.put_directory(key, condition).await;
        }
        self.put_file(key, source, headers, condition).await
    }

    fn ahead(&self) -> Option<Pieces> {
        Some(ahead::PIECES)
    }

    async fn begin(
        self: Arc<Self>,
        key: &str,
        headers: &Headers,
        condition: &Precondition,
    ) -> Result<Box<dyn Pending>> {
        Ok(Box::new(Ahead::begin(self, key, headers, condition).await?))
    }

    async fn delete(&self, key: &str) -> Result<()> {
        let Some((path, _)) = self.look(key).await? else { return Ok(()) };
        let _turn = self.turns.take(&path).await;
        self.client.delete(&path, false).await.map(drop)
    }

    async fn delete_tree(&self, key: &str) -> Result<()> {
        let Some((path, _)) = self.look(key).await? else { return Ok(()) };
        self.client.delete(&path, true).await.map(drop)
    }

    async fn rename(&self, from: &Object, to: &str, mode: RenameMode) -> Result<()> {
        let number = from
            .inode
            .ok_or_else(|| Error::new(ErrorKind::Internal, "an object of HDFS without its number"))?;
        let (source, target) = (self.root.path(&from.key)?, self.root.path(to)?);
        let _turn = self.turns.take(&target).await;
        self.move_to(&source, &target, (number, mode)).await
    }

    async fn copy(
        &self,
        from: &str,
        _to: &str,
        _headers: Option<&Headers>,
        _condition: &Precondition,
    ) -> Result<Object> {
        self.look(from).await?.ok_or_else(missing)?;
        Err(Error::new(ErrorKind::Unsupported, "HDFS copies nothing by itself: this copy has to be streamed"))
    }
}

#[cfg(test)]
pub(crate) mod tests;
