//! The requests that a mount sends to its store, each with what it means for the mount's memory.

use forebay_core::{
    ByteRange, ETag, Entry, Error, ErrorKind, FileId, Headers, Key, ListQuery, Precondition, Result,
};

use super::Core;
use super::attributes::Existence;
use crate::backend::{Object, ObjectPage, Source};
use crate::mount::vitals::{Load, Repeat};

/// What must hold when something is stored.
pub(super) enum Condition {
    /// What the caller asked for: refused by stores that do not check it.
    Asked(Precondition),
    /// What is safer: left out where the store does not check it.
    Own(Precondition),
}

impl Condition {
    /// Whatever is there is replaced.
    pub(super) const NONE: Self = Self::Own(Precondition::None);

    pub(super) fn is_none(&self) -> bool {
        match self {
            Self::Asked(condition) | Self::Own(condition) => *condition == Precondition::None,
        }
    }
}

impl Core {
    /// What lies at an exact name; `None` when nothing does.
    pub(super) async fn look(&self, name: &str) -> Result<Option<Object>> {
        if let Some(object) = self.pending(name) {
            return Ok(Some(object));
        }
        Ok(self.look_at_store(name).await?.map(|object| self.as_known(object)))
    }

    /// What the store has at an exact name, under the tag it gave it.
    pub(super) async fn look_at_store(&self, name: &str) -> Result<Option<Object>> {
        match self.vitals.run("stat", Repeat::Safe, || self.backend.stat(name)).await {
            Ok(object) => Ok(Some(object)),
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e),
        }
    }

    pub(super) async fn page(&self, query: &ListQuery) -> Result<ObjectPage> {
        let pending = self.pending_names(query);
        let page = self.vitals.run("list", Repeat::Safe, || self.backend.list(query)).await?;
        Ok(self.merge(query, &pending, page))
    }

    pub(super) async fn fetch(&self, name: &str, range: ByteRange, etag: &ETag) -> Result<bytes::Bytes> {
        match self.read_pending(name, range, etag).await? {
            Some(bytes) => Ok(bytes),
            None => self.fetch_stored(name, range, &self.store_tag(name, etag)).await,
        }
    }

    /// A part of the content that the store has under the tag it gave it.
    pub(super) async fn fetch_stored(
        &self,
        name: &str,
        range: ByteRange,
        etag: &ETag,
    ) -> Result<bytes::Bytes> {
        let call = || self.backend.read(name, range, etag);
        let bytes = self.vitals.run_loaded("read", Repeat::Safe, Load::Read(range.len), call).await?;
        if bytes.len() as u64 != range.len {
            let message = format!("the store sent {} bytes where {} were asked for", bytes.len(), range.len);
            return Err(Error::new(ErrorKind::Internal, message).at("read", name));
        }
        self.vitals.count_read(range.len);
        Ok(bytes)
    }

    /// The condition that is sent to the store, and whether it may be left out should the store refuse to check it.
    pub(super) fn sent<'a>(&self, condition: &'a Condition) -> (&'a Precondition, bool) {
        match condition {
            Condition::Asked(wanted) => (wanted, false),
            Condition::Own(wanted) if !self.backend.capability().checks(wanted) => {
                (&Precondition::None, false)
            }
            Condition::Own(wanted) => (wanted, *wanted != Precondition::None),
        }
    }

    /// Stores under an exact name, after what is pending of it; nothing is remembered yet.
    pub(super) async fn put(
        &self,
        name: &str,
        source: &Source,
        headers: &Headers,
        condition: &Condition,
    ) -> Result<Object> {
        self.settled(name).await?;
        let condition = match condition {
            Condition::Asked(wanted) => Condition::Asked(self.store_condition(name, wanted)),
            Condition::Own(wanted) => Condition::Own(self.store_condition(name, wanted)),
        };
        self.send_put(name, source, headers, &condition).await
    }

    /// Stores under an exact name, whatever is pending; the condition speaks of the store's own tags.
    pub(super) async fn send_put(
        &self,
        name: &str,
        source: &Source,
        headers: &Headers,
        condition: &Condition,
    ) -> Result<Object> {
        let (wanted, is_own) = self.sent(condition);
        let size_bytes = source.size_bytes();
        let send = async |condition: &Precondition| {
            let call = || self.backend.put(name, source, headers, condition);
            self.vitals.run_loaded("put", repeat(condition), Load::Write(size_bytes), call).await
        };
        let answer = match send(wanted).await {
            Err(e) if is_own && e.kind() == ErrorKind::Unsupported => send(&Precondition::None).await,
            answer => answer,
        };
        let object = answer?;
        self.vitals.count_written(size_bytes);
        Ok(object)
    }

    /// Stores a file. With an identity given it stays the file it was, else it is a new one.
    pub(super) async fn put_file(
        &self,
        key: &Key,
        source: &Source,
        headers: &Headers,
        (condition, identity): (&Condition, Option<FileId>),
    ) -> Result<Entry> {
        self.keep_file(key, headers, identity, self.put(key.as_str(), source, headers, condition)).await
    }

    /// As [`Core::put_file`], in whichever way the content gets to the store.
    pub(super) async fn keep_file(
        &self,
        key: &Key,
        headers: &Headers,
        identity: Option<FileId>,
        stored: impl Future<Output = Result<Object>>,
    ) -> Result<Entry> {
        let name = key.as_str();
        let change = self.change(name);
        let mut object = stored.await?;
        object.headers.get_or_insert_with(|| headers.clone().into());
        match identity {
            Some(identity) => self.ledger.keep(name, &object.etag, identity),
            None => self.ledger.release(name),
        }
        self.ledger.forget_link(name);
        let entry = self.file_entry(&object);
        change.wrote_file(object, &entry);
        Ok(entry)
    }

    /// Stores the marker of a directory.
    pub(super) async fn put_marker(&self, key: &Key, condition: &Condition) -> Result<Existence> {
        let name = key.directory_prefix();
        // Where a name is one or the other, a file that is still on its way is in the way.
        let mut at = self.is_hierarchical().then(|| key.clone());
        while let Some(file) = at {
            self.settled(file.as_str()).await?;
            at = file.parent();
        }
        let change = self.change(&name);
        let marker = self.put(&name, &Source { files: Vec::new() }, &Headers::default(), condition).await?;
        let existence = existence(&marker);
        change.wrote_directory(existence);
        Ok(existence)
    }

    /// Removes a file or marker by its exact name, with all that was remembered of it.
    pub(super) async fn remove(&self, name: &str) -> Result<()> {
        self.settled(name).await?;
        let change = self.change(name);
        self.vitals.run("delete", Repeat::Safe, || self.backend.delete(name)).await?;
        change.removed();
        self.ledger.forget(name);
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
        self.settled(&from.key).await?;
        self.settled(to).await?;
        let condition = self.store_condition(to, condition);
        let call = || self.backend.copy(&from.key, to, headers, &condition);
        self.vitals.run_loaded("copy", repeat(&condition), Load::Inside(from.size_bytes), call).await
    }
}

/// How a directory exists that the store shows like this.
pub(super) fn existence(directory: &Object) -> Existence {
    match (directory.inode, directory.is_prefix) {
        (Some(inode), _) => Existence::Real(inode),
        (None, true) => Existence::Implied,
        (None, false) => Existence::Marked,
    }
}

/// A conditional request that is sent again meets its own outcome.
fn repeat(condition: &Precondition) -> Repeat {
    match condition {
        Precondition::None => Repeat::Safe,
        Precondition::Absent | Precondition::Matches(_) => Repeat::Once,
    }
}
