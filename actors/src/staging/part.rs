//! A part of a multipart upload being written.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use forebay_core::{
    Attributes, Entry, EntryKind, Error, ErrorKind, FileId, Lent, PartInfo, Publish, Result, Staged, Version,
};

use super::upload::PartRecord;
use super::{Shared, StagingFile, blocking};

/// Published once: a part is whole or not there.
pub(super) struct StagedPart {
    shared: Arc<Shared>,
    directory: PathBuf,
    number: u32,
    file: Arc<StagingFile>,
    checksum: Option<(String, String)>,
    /// Taken to read or set the answer only.
    published: Arc<Mutex<Option<Entry>>>,
}

impl StagedPart {
    pub(super) fn new(
        shared: Arc<Shared>,
        directory: PathBuf,
        number: u32,
        (file, checksum): (Arc<StagingFile>, Option<(String, String)>),
    ) -> Self {
        Self { shared, directory, number, file, checksum, published: Arc::default() }
    }

    fn entry_of(part: &PartInfo) -> Entry {
        Entry {
            file_id: FileId::of(&[b"part", part.etag.as_str().as_bytes()]),
            kind: EntryKind::File,
            size_bytes: part.size_bytes,
            version: Version::Strong(part.etag.as_str().into()),
            etag: part.etag.clone(),
            modified: part.modified,
            attributes: Attributes {
                mode: 0o600,
                uid: 0,
                gid: 0,
                accessed: part.modified,
                changed: part.modified,
            },
            headers: None,
        }
    }

    fn refuse_published(&self) -> Result<()> {
        match &*self.published.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(_) => Err(Error::new(ErrorKind::InvalidArgument, "the part was published already")),
            None => Ok(()),
        }
    }
}

#[async_trait]
impl Staged for StagedPart {
    async fn write_at(&self, offset: u64, bytes: Bytes) -> Result<()> {
        self.refuse_published()?;
        self.file.write_at(offset, bytes).await
    }

    async fn truncate(&self, size_bytes: u64) -> Result<()> {
        self.refuse_published()?;
        self.file.truncate(size_bytes).await
    }

    fn size_bytes(&self) -> Result<u64> {
        self.file.size_bytes()
    }

    fn file(&self) -> Lent {
        self.file.lend()
    }

    async fn publish(&self, publish: Publish) -> Result<Entry> {
        let (shared, directory, number) = (Arc::clone(&self.shared), self.directory.clone(), self.number);
        let (file, checksum) = (Arc::clone(&self.file), self.checksum.clone());
        let published = Arc::clone(&self.published);
        blocking(move || {
            let mut published = published.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(entry) = &*published {
                return Ok(entry.clone());
            }
            file.settle()?;
            if publish.is_durable {
                file.file().sync_data()?;
            }
            let record = PartRecord {
                data: String::new(),
                size_bytes: file.size_bytes()?,
                md5: file.md5()?,
                checksum,
                modified: file.file().metadata()?.modified()?,
            };
            let entry = Self::entry_of(&shared.commit_part(&directory, number, &file, record)?);
            *published = Some(entry.clone());
            Ok(entry)
        })
        .await
    }
}
