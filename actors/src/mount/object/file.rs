//! An open file: one version, read through the cache.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use forebay_core::{
    ByteRange, Cached, Content, ETag, Entry, Error, ErrorKind, Explained, FileId, Key, Lent, OpenFile, Result,
};

use super::Core;
use crate::cache::{CachedFile, ContentId, Fetch, Named};

/// One version of a file of an object mount.
pub(super) struct ObjectFile {
    entry: Entry,
    content: CachedFile,
    named: Named,
}

/// Where the bytes of that version come from.
struct VersionFetch {
    core: Arc<Core>,
    key: Key,
    file_id: FileId,
    etag: ETag,
    named: Named,
}

impl ObjectFile {
    pub(super) fn new(core: &Arc<Core>, key: &Key, entry: Entry) -> Self {
        let id = ContentId { file_id: entry.file_id, version: entry.version.clone() };
        let named = core.cache.named(&core.label, key, &id);
        let fetch = VersionFetch {
            core: Arc::clone(core),
            key: key.clone(),
            file_id: entry.file_id,
            etag: entry.etag.clone(),
            named,
        };
        let content =
            core.cache.file(&core.label, (&id, &core.class_of(key)), entry.size_bytes, Arc::new(fetch));
        Self { entry, content, named }
    }

    /// Starts fetching the first page, as far as the mount may fetch ahead.
    pub(super) fn fetch_start(&self) {
        self.content.fetch_start();
    }
}

#[async_trait]
impl OpenFile for ObjectFile {
    fn entry(&self) -> &Entry {
        &self.entry
    }

    fn as_data_set(&self) -> Option<Arc<dyn OpenFile>> {
        let (entry, content) = (self.entry.clone(), self.content.as_data_set());
        Some(Arc::new(Self { entry, content, named: self.named }))
    }

    fn expect(&self, range: ByteRange) {
        self.content.expect(range);
    }

    fn try_read(&self, range: ByteRange) -> Option<Content> {
        self.content.try_read(range)
    }

    async fn read(&self, range: ByteRange) -> Result<Content> {
        self.content.read(range).await
    }

    fn lend(&self) -> Option<Lent> {
        self.content.lend()
    }

    fn cached(&self, range: ByteRange) -> Cached {
        self.content.cached_bytes(range)
    }

    fn explain(&self) -> Explained {
        self.content.explain(self.named)
    }

    fn free(&self) -> u64 {
        self.content.free()
    }

    async fn fill(&self, range: ByteRange) -> Result<u64> {
        self.content.fill(range).await
    }
}

#[async_trait]
impl Fetch for VersionFetch {
    fn request_bytes(&self) -> u64 {
        self.core.backend.request_bytes()
    }

    async fn fetch(&self, range: ByteRange) -> Result<Bytes> {
        let name = self.key.as_str();
        self.core.cache.note_fetch(self.named, range.len);
        let mut answer = self.core.fetch(name, range, &self.etag).await;
        if is_other_content(&answer) {
            self.core.attributes.doubt_file(name);
            // A file that was renamed is read on where it went.
            if let Some(moved) = self.core.ledger.whereabouts(self.file_id, &self.etag) {
                answer = self.core.fetch(&moved, range, &self.etag).await;
            }
        }
        match answer {
            Err(e) if e.kind() == ErrorKind::NotFound => {
                let message = "the file was removed since it was opened; open it again";
                Err(Error::new(ErrorKind::Stale, message).because(e))
            }
            answer => answer,
        }
    }
}

fn is_other_content<T>(answer: &Result<T>) -> bool {
    answer.as_ref().is_err_and(|e| matches!(e.kind(), ErrorKind::Stale | ErrorKind::NotFound))
}
