//! The object stores of the clouds, and HTTP servers, over `OpenDAL`'s services, below its `Operator`.
//!
//! Invariants:
//! - Keys stay byte-exact: the `Operator`, which trims and collapses paths, is not used, the mount's prefix is put
//!   before the key here, and keys that cannot survive the way (a leading `/`, `.` and `..` segments, characters
//!   that XML cannot hold) are refused before anything is sent.
//! - A read carries its condition, and its answer's tag and length are checked again: a server that ignores
//!   conditions or ranges cannot mix contents. Where the tag is weak, it is compared once more after the last byte.
//! - A store's word is not taken for conditional writes and the order of listings: both are tried out, once, before
//!   they are relied on ([`trial`]), unless the operator says how it is.
//! - What a service never does here: append, which some S3 servers answer by overwriting.
//!
//! Deliberately absent: retries and deadlines of whole requests (the mount's vitals have them), native copies
//! that replace headers or carry conditions (callers stream instead).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use forebay_core::{ByteRange, Capability, ETag, Error, ErrorKind, Headers, ListQuery, Precondition, Result};
use futures::Stream;
use opendal::options::{CopyOptions, WriteOptions};
use opendal::raw::{OpCopy, OpDelete, OpRead, OpReader, OpStat, oio};
use opendal::{Buffer, BytesRange, Executor, HttpTransporter, Metadata, OperationContext};
use uuid::Uuid;

use super::deadline::{Pace, exactly};
use super::error::from_opendal;
use super::uploads::{UploadMemory, Uploads};
use super::{Backend, MD5_BYTES, Object, ObjectPage, Pending, Pieces, Source, check_marker, require};
use crate::config::{MountLimits, ObjectStoreConfig, Quirks};

mod ahead;
mod dialect;
mod headers;
mod index;
mod listing;
mod services;
mod transport;
mod trial;
mod upload;

use ahead::Ahead;
use dialect::{Dialect, Listing, Revision};
use listing::Parked;
use transport::Transport;
use trial::Trial;
use upload::Parts;

/// A bucket, container or directory, or what lies under a prefix of it.
pub struct ObjectStore {
    dialect: Dialect,
    context: OperationContext,
    transport: Transport,
    pace: Pace,
    uploads: Uploads,
    trial: Trial,
    parked: Parked,
    /// The store refused an upload in parts.
    lacks_parts: AtomicBool,
}

impl ObjectStore {
    /// A store with an HTTP client of its own. Sends nothing.
    ///
    /// # Errors
    /// `InvalidArgument` for options that make no sense together.
    pub fn new(
        config: &ObjectStoreConfig,
        (limits, quirks): (&MountLimits, Quirks),
        memory: &UploadMemory,
    ) -> Result<Self> {
        let transport = Transport::new(limits)
            .map_err(|e| Error::new(ErrorKind::InvalidArgument, "no HTTP client can be made").because(e))?;
        let sender = HttpTransporter::new(transport.clone());
        Ok(Self {
            dialect: services::dialect(config)?,
            context: OperationContext::from_parts(sender, Executor::with(Parts)),
            transport,
            pace: Pace::new(limits),
            uploads: memory.of_mount(),
            trial: Trial::new(quirks),
            parked: Parked::default(),
            lacks_parts: AtomicBool::new(false),
        })
    }

    /// The store's key for one of the mount's.
    fn full(&self, key: &str) -> Result<String> {
        let full = format!("{}{key}", self.dialect.prefix);
        let refused = |text: String| Err(Error::new(ErrorKind::InvalidName, text));
        if key.is_empty() || key.starts_with('/') || full.starts_with('/') {
            return refused("a key may neither be empty nor start with `/`".to_owned());
        }
        if full.split('/').any(|segment| matches!(segment, "." | "..")) {
            return refused("a key may not contain the segments `.` or `..`".to_owned());
        }
        if full.contains(|c| matches!(c, '\0'..='\u{1f}' | '\u{fffe}' | '\u{ffff}')) {
            return refused(
                "a key may not contain control characters: listings could not show it".to_owned(),
            );
        }
        if let Some(other) = full.chars().find(|c| self.dialect.forbidden.contains(c)) {
            return refused(format!("this store takes `{other}` in a key for another character"));
        }
        if full.len() > self.dialect.key_bytes_max {
            let text = format!("this store takes keys of at most {} bytes", self.dialect.key_bytes_max);
            return Err(Error::new(ErrorKind::NameTooLong, text));
        }
        Ok(full)
    }

    /// An object, and the name of the write that stored it.
    async fn head(&self, key: &str) -> Result<(Object, Option<String>)> {
        let full = self.full(key)?;
        if self.dialect.listing == Listing::Index && key.ends_with('/') {
            let is_there = self.index_of(key).await?.is_some();
            let missing = || Error::new(ErrorKind::NotFound, "no such directory");
            let directory = Object { is_prefix: false, ..Object::prefix(key) };
            return if is_there { Ok((directory, None)) } else { Err(missing()) };
        }
        let answer = self.dialect.service.stat_dyn(&self.context, &full, OpStat::new()).await;
        let metadata = answer.map_err(|e| refused_name(&e))?.into_metadata();
        let (headers, write) = headers::from_metadata(&metadata, self.dialect.metadata_names);
        let object = Object { headers: Some(Arc::new(headers)), ..self.describe(key.to_owned(), &metadata) };
        Ok((object, write))
    }

    fn describe(&self, key: String, metadata: &Metadata) -> Object {
        let (etag, is_weak) = self.dialect.revision.of(metadata);
        Object {
            key,
            is_prefix: false,
            size_bytes: metadata.content_length(),
            etag,
            is_weak,
            modified: metadata.last_modified().map_or(SystemTime::UNIX_EPOCH, |at| whole_seconds(at.into())),
            headers: None,
            inode: None,
        }
    }

    async fn send(&self, full: &str, source: &Source, options: WriteOptions) -> Result<Metadata> {
        let target = (&self.dialect.service, &self.context);
        let is_google = self.dialect.revision == Revision::Generation;
        if !is_google || !upload::is_in_parts(source) || has_condition(&options) {
            return upload::send(&self.uploads, target, full, source, options).await;
        }
        // Google takes large objects in parts at once through its XML API, which emulators lack, or as one stream
        // through its JSON API, which the service below uses for writes with a condition. No object has the
        // generation 1.
        let one_stream = WriteOptions { if_version_not_match: Some("1".to_owned()), ..options.clone() };
        if !self.lacks_parts.load(Ordering::Relaxed) {
            match upload::send(&self.uploads, target, full, source, options).await {
                Err(error) if self.is_lack_of_parts(&error) => {}
                answer => return answer,
            }
        }
        upload::send(&self.uploads, target, full, source, one_stream).await
    }

    /// Whether an upload in parts failed because the store takes none, which is remembered.
    fn is_lack_of_parts(&self, error: &Error) -> bool {
        let is_google = self.dialect.revision == Revision::Generation;
        let is_lack = is_google && matches!(error.kind(), ErrorKind::Internal | ErrorKind::Unsupported);
        if is_lack {
            tracing::info!(store = self.fingerprint(), %error, "the store takes no parts");
            self.lacks_parts.store(true, Ordering::Relaxed);
        }
        is_lack
    }

    /// How to write under `condition`, and the name of this write if it has one.
    fn write_options(
        &self,
        headers: &Headers,
        condition: &Precondition,
    ) -> Result<(WriteOptions, Option<String>)> {
        let write = (*condition != Precondition::None).then(|| Uuid::new_v4().to_string());
        let mut options = headers::to_options(headers, write.as_deref(), &self.dialect);
        self.dialect.revision.require(condition, &mut options, &self.dialect.service)?;
        Ok((options, write))
    }

    /// What became of a write that failed: the answer may be lost and the write done; repeated, its own condition
    /// would refuse it.
    async fn resolve(&self, key: &str, write: Option<&String>, error: Error) -> Result<Object> {
        if write.is_none() || !is_ambiguous(error.kind()) {
            return Err(error);
        }
        match self.head(key).await {
            Ok((object, stored_by)) if stored_by.as_ref() == write => Ok(object),
            Ok(_) | Err(_) => Err(error),
        }
    }

    /// Refuses what the store would refuse after the last byte, and what some stores (moto) do not refuse at all:
    /// conditions on uploads in parts. Those that check them decide in the end, atomically.
    async fn expect(&self, key: &str, condition: &Precondition) -> Result<()> {
        match self.head(key).await {
            Ok((object, _)) => require(condition, Some(&object.etag)),
            Err(error) if error.kind() == ErrorKind::NotFound => require(condition, None),
            Err(error) => Err(error),
        }
    }

    async fn remove(&self, full: &str) -> Result<()> {
        let mut deleter = self.dialect.service.delete_dyn(&self.context).map_err(|e| from_opendal(&e))?;
        deleter.delete_dyn(full, OpDelete::new()).await.map_err(|e| from_opendal(&e))?;
        deleter.close_dyn().await.map_err(|e| from_opendal(&e))
    }

    /// What a put stored, given what the store answered to it, and whether the answer's digest is the content's.
    async fn stored(
        &self,
        key: &str,
        (size_bytes, headers): (u64, &Headers),
        (answer, is_digested): (&Metadata, bool),
    ) -> Result<Object> {
        let (own, is_weak) = self.dialect.revision.of(answer);
        // An answer with the content's digest, its tag and its time (Azure, Google) needs no second look, unless the
        // store makes up a content type.
        if let (true, true, Some(modified)) =
            (is_digested, headers.content_type.is_some(), answer.last_modified())
        {
            return Ok(Object {
                key: key.to_owned(),
                is_prefix: false,
                size_bytes,
                etag: own,
                is_weak,
                modified: whole_seconds(modified.into()),
                headers: Some(Arc::new(headers.clone())),
                inode: None,
            });
        }
        let (object, _) = self.head(key).await?;
        if own.as_str().is_empty() {
            return Ok(object);
        }
        // Somebody else replaced it already; what was stored here is not what they stored.
        if own != object.etag {
            let headers = Some(Arc::new(headers.clone()));
            return Ok(Object { size_bytes, etag: own, headers, ..object });
        }
        if object.size_bytes != size_bytes {
            let text = format!("the store kept {} of {size_bytes} bytes", object.size_bytes);
            return Err(Error::new(ErrorKind::Internal, text));
        }
        Ok(object)
    }

    /// Whether one request stored what was sent; `None` where the answer has no digest.
    async fn compare(&self, source: &Source, answer: &Metadata) -> Result<Option<bool>> {
        let told = match (answer.content_md5(), answer.etag()) {
            _ if upload::is_in_parts(source) => None,
            (Some(md5), _) => STANDARD.decode(md5).ok(),
            (None, Some(etag)) if self.trial.has_md5_tags() => hex::decode(ETag::new(etag).as_str()).ok(),
            (None, _) => None,
        };
        let Some(told) = told.filter(|told| told.len() == MD5_BYTES) else { return Ok(None) };
        let source = source.clone();
        let digest = tokio::task::spawn_blocking(move || source.md5()).await;
        let digest =
            digest.map_err(|e| Error::new(ErrorKind::Internal, "a digest panicked").because(e))??;
        Ok(Some(told == digest))
    }

    /// Takes back the wrong bytes that a write under a condition stored: no repetition would replace them.
    async fn take_back(&self, key: &str, full: &str, write: Option<&String>) -> Result<()> {
        let (_, stored_by) = self.head(key).await?;
        if write.is_some() && stored_by.as_ref() == write { self.remove(full).await } else { Ok(()) }
    }
}

/// A HEAD has no body to say why it was refused; what is neither missing, forbidden nor temporary is a name that
/// this store cannot hold (`MinIO`: a segment above 255 bytes). It must not count as a failure of the store.
fn refused_name(error: &opendal::Error) -> Error {
    let is_silent = error.kind() == opendal::ErrorKind::Unexpected && error.message().is_empty();
    if is_silent && !error.is_temporary() {
        return Error::new(ErrorKind::InvalidName, "the store refuses this name");
    }
    from_opendal(error)
}

/// Listings show milliseconds, HEAD shows seconds: what all show is equal.
fn whole_seconds(at: SystemTime) -> SystemTime {
    let since = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    SystemTime::UNIX_EPOCH + Duration::from_secs(since.as_secs())
}

/// The body of a read, as its chunks come.
fn chunks(stream: Box<dyn oio::ReadStreamDyn>) -> impl Stream<Item = Result<Buffer>> {
    futures::stream::try_unfold(stream, |mut stream| async move {
        let buffer = stream.read_dyn().await.map_err(|e| from_opendal(&e))?;
        Ok((!buffer.is_empty()).then_some((buffer, stream)))
    })
}

fn changed() -> Error {
    Error::new(ErrorKind::Stale, "the object was replaced")
}

#[async_trait]
impl Backend for ObjectStore {
    fn kind(&self) -> &'static str {
        self.dialect.kind
    }

    fn capability(&self) -> Capability {
        let (revision, service) = (self.dialect.revision, &self.dialect.service);
        let heeded = self.trial.heeded();
        let replace = Precondition::Matches(ETag::new(""));
        Capability {
            write: service.capability_dyn().write,
            conditional_create: heeded.create && revision.can_require(&Precondition::Absent, service),
            conditional_replace: heeded.replace && revision.can_require(&replace, service),
            native_copy: self.dialect.copy_bytes_max > 0,
            native_rename: false,
            headers: true,
            posix: false,
            hierarchical: false,
            key_bytes_max: self.dialect.key_bytes_max - self.dialect.prefix.len(),
        }
    }

    fn fingerprint(&self) -> &str {
        &self.dialect.fingerprint
    }

    fn starts_anywhere(&self) -> bool {
        self.dialect.listing == Listing::StartAfter && !self.trial.is_unordered()
    }

    async fn probe(&self, may_write: bool) -> Result<()> {
        self.list_one().await?;
        if may_write && self.dialect.service.capability_dyn().write {
            self.try_out().await?;
        }
        Ok(())
    }

    async fn stat(&self, key: &str) -> Result<Object> {
        self.head(key).await.map(|(object, _)| object)
    }

    async fn read(&self, key: &str, range: ByteRange, etag: &ETag) -> Result<Bytes> {
        if range.is_empty() {
            return Ok(Bytes::new());
        }
        let revision = self.dialect.revision;
        let (_, args, _): (BytesRange, OpRead, OpReader) = revision.read_options(etag).into();
        let reader = self.dialect.service.read_dyn(&self.context, &self.full(key)?, args);
        let reader = reader.map_err(|e| from_opendal(&e))?;
        let opened = reader.open_dyn(BytesRange::new(range.offset, Some(range.len))).await;
        let (answer, stream) = opened.map_err(|e| match from_opendal(&e) {
            error if error.kind() == ErrorKind::PreconditionFailed => changed(),
            error if error.kind() == ErrorKind::RangeNotSatisfiable => changed(),
            error => error,
        })?;
        if answer.into_metadata().is_some_and(|answer| revision.is_other(&answer, etag)) {
            return Err(changed());
        }
        let bytes = exactly(chunks(stream), range.len, self.pace).await?;
        if revision.is_weak(etag) && self.stat(key).await?.etag != *etag {
            return Err(changed());
        }
        Ok(bytes)
    }

    async fn list(&self, query: &ListQuery) -> Result<ObjectPage> {
        self.list_visible(query).await
    }

    async fn put(
        &self,
        key: &str,
        source: &Source,
        headers: &Headers,
        condition: &Precondition,
    ) -> Result<Object> {
        check_marker(key, source)?;
        let full = self.full(key)?;
        let (options, write) = self.write_options(headers, condition)?;
        if *condition != Precondition::None {
            self.require_heeded(condition).await?;
            if upload::is_in_parts(source) {
                self.expect(key, condition).await?;
            }
        }
        match self.send(&full, source, options).await {
            Ok(answer) => {
                let is_intact = self.compare(source, &answer).await?;
                if is_intact == Some(false) {
                    self.take_back(key, &full, write.as_ref()).await?;
                    let text = "other bytes arrived at the store than were sent";
                    return Err(Error::new(ErrorKind::Unavailable, text));
                }
                let size_bytes = source.size_bytes();
                self.stored(key, (size_bytes, headers), (&answer, is_intact == Some(true))).await
            }
            Err(error) => self.resolve(key, write.as_ref(), error).await,
        }
    }

    fn ahead(&self) -> Option<Pieces> {
        Some(ahead::pieces(&self.uploads))
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
        self.remove(&self.full(key)?).await
    }

    async fn copy(
        &self,
        from: &str,
        to: &str,
        headers: Option<&Headers>,
        condition: &Precondition,
    ) -> Result<Object> {
        let (source, target) = (self.full(from)?, self.full(to)?);
        let size_bytes = self.stat(from).await?.size_bytes;
        let is_plain = headers.is_none() && *condition == Precondition::None;
        if !is_plain || size_bytes > self.dialect.copy_bytes_max {
            return Err(Error::new(ErrorKind::Unsupported, "this copy has to be streamed"));
        }
        let service = &self.dialect.service;
        let options = CopyOptions { source_content_length_hint: Some(size_bytes), ..CopyOptions::default() };
        let mut copier = OpCopy::from_options(&service.capability_dyn(), options)
            .and_then(|args| service.copy_dyn(&self.context, &source, &target, args))
            .map_err(|e| from_opendal(&e))?;
        while copier.next_dyn().await.map_err(|e| from_opendal(&e))?.is_some() {}
        copier.close_dyn().await.map_err(|e| from_opendal(&e))?;
        let copy = self.stat(to).await?;
        if copy.size_bytes != size_bytes {
            let text = format!(
                "the store copied {} of {size_bytes} bytes; the copy has to be streamed",
                copy.size_bytes
            );
            return Err(Error::new(ErrorKind::Unsupported, text));
        }
        Ok(copy)
    }
}

fn has_condition(options: &WriteOptions) -> bool {
    options.if_not_exists || options.if_version_match.is_some()
}

/// Whether a write that failed like this may have been done all the same.
fn is_ambiguous(kind: ErrorKind) -> bool {
    matches!(
        kind,
        ErrorKind::Unavailable | ErrorKind::Timeout | ErrorKind::Busy | ErrorKind::PreconditionFailed
    )
}
