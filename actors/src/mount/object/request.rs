//! The requests that a mount sends to its store, each with what it means for the mount's memory.

use forebay_core::{
    ByteRange, ETag, Entry, Error, ErrorKind, FileId, Headers, Key, ListQuery, Precondition, Result,
};

use super::Core;
use crate::backend::{Object, ObjectPage, Source};
use crate::mount::vitals::Repeat;

impl Core {
    /// What lies at an exact name; `None` when nothing does.
    pub(super) async fn look(&self, name: &str) -> Result<Option<Object>> {
        match self.vitals.run("stat", Repeat::Safe, || self.backend.stat(name)).await {
            Ok(object) => Ok(Some(object)),
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e),
        }
    }

    pub(super) async fn page(&self, query: &ListQuery) -> Result<ObjectPage> {
        self.vitals.run("list", Repeat::Safe, || self.backend.list(query)).await
    }

    pub(super) async fn fetch(&self, name: &str, range: ByteRange, etag: &ETag) -> Result<bytes::Bytes> {
        let call = || self.backend.read(name, range, etag);
        let bytes = self.vitals.run_sized("read", Repeat::Safe, range.len, call).await?;
        if bytes.len() as u64 != range.len {
            let message = format!("the store sent {} bytes where {} were asked for", bytes.len(), range.len);
            return Err(Error::new(ErrorKind::Internal, message).at("read", name));
        }
        self.vitals.count_read(range.len);
        Ok(bytes)
    }

    pub(super) async fn put(
        &self,
        name: &str,
        source: &Source,
        headers: &Headers,
        condition: &Precondition,
    ) -> Result<Object> {
        let size_bytes = source.size_bytes();
        let call = || self.backend.put(name, source, headers, condition);
        let object = self.vitals.run_sized("put", repeat(condition), size_bytes, call).await?;
        if object.size_bytes != size_bytes {
            let message = format!("the store keeps {} bytes of {size_bytes}", object.size_bytes);
            return Err(Error::new(ErrorKind::Internal, message).at("put", name));
        }
        self.vitals.count_written(size_bytes);
        Ok(object)
    }

    /// Stores a file. With an identity given it stays the file it was, else it is a new one.
    pub(super) async fn put_file(
        &self,
        key: &Key,
        source: &Source,
        headers: &Headers,
        (condition, identity): (&Precondition, Option<FileId>),
    ) -> Result<Entry> {
        let name = key.as_str();
        let change = self.attributes.change(name, self.clock.now());
        let mut object = self.put(name, source, headers, condition).await?;
        object.headers.get_or_insert_with(|| headers.clone().into());
        match identity {
            Some(identity) => self.identities.keep(name, &object.etag, identity),
            None => self.identities.release(name),
        }
        let entry = self.file_entry(&object);
        change.wrote_file(&entry);
        Ok(entry)
    }

    /// Stores the marker of a directory.
    pub(super) async fn put_marker(&self, key: &Key, condition: &Precondition) -> Result<()> {
        let name = key.directory_prefix();
        let change = self.attributes.change(&name, self.clock.now());
        self.put(&name, &Source { files: Vec::new() }, &Headers::default(), condition).await?;
        change.wrote_marker();
        Ok(())
    }

    /// Removes a file or marker by its exact name, with all that was remembered of it.
    pub(super) async fn remove(&self, name: &str) -> Result<()> {
        let change = self.attributes.change(name, self.clock.now());
        self.vitals.run("delete", Repeat::Safe, || self.backend.delete(name)).await?;
        change.removed();
        self.identities.release(name);
        self.overlay.forget(name);
        Ok(())
    }

    /// Copies inside the store; nothing is remembered yet.
    pub(super) async fn copy_inside(
        &self,
        from: &Object,
        to: &str,
        headers: Option<&Headers>,
        condition: &Precondition,
    ) -> Result<Object> {
        let call = || self.backend.copy(&from.key, to, headers, condition);
        self.vitals.run_sized("copy", repeat(condition), from.size_bytes, call).await
    }

    /// The condition, unless it is our own idea and the store knows none.
    pub(super) fn own_condition(&self, condition: Precondition) -> Precondition {
        if self.info.capability.conditional_write { condition } else { Precondition::None }
    }
}

/// A conditional request that is sent again meets its own outcome.
fn repeat(condition: &Precondition) -> Repeat {
    match condition {
        Precondition::None => Repeat::Safe,
        Precondition::Absent | Precondition::Matches(_) => Repeat::Once,
    }
}
