//! Amazon S3 and what speaks it, over `OpenDAL`'s service, below its `Operator`.
//!
//! Invariants:
//! - Keys stay byte-exact: the `Operator`, which trims and collapses paths, is not used, the mount's prefix is put
//!   before the key here, and keys that cannot survive the way (a leading `/`, `.` and `..` segments, characters
//!   that XML cannot hold) are refused before anything is sent.
//! - A read carries `If-Match`, and its answer's tag and length are checked again: a server that ignores
//!   conditions or ranges cannot mix contents.
//! - Conditional writes are refused on a server that was seen to ignore conditions; a probe object tells, once,
//!   before the first of them.
//! - Nothing is taken from the environment or from configuration files of other tools.
//!
//! Deliberately absent: retries and deadlines of whole requests (the mount's vitals have them), native copies
//! that replace headers or carry conditions (callers stream instead).

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use forebay_core::{ByteRange, Capability, ETag, Error, ErrorKind, Headers, ListQuery, Precondition, Result};
use futures::FutureExt;
use opendal::options::{CopyOptions, ListOptions, ReadOptions, WriteOptions};
use opendal::raw::{OpCopy, OpDelete, OpList, OpRead, OpReader, OpStat, Servicer, oio};
use opendal::{Builder as _, BytesRange, Executor, HttpTransporter, Metadata, OperationContext};
use tokio::sync::OnceCell;
use uuid::Uuid;

use super::error::from_opendal;
use super::{Backend, Object, ObjectPage, Source, check_marker, passed_group, require};
use crate::config::{MountLimits, S3StoreConfig};

mod headers;
mod transport;
mod upload;

use transport::Transport;
use upload::{Parts, Uploads};

/// Longest key, prefix included.
const KEY_BYTES_MAX: usize = 1024;
/// Most keys on a page of S3.
const PAGE_MAX: usize = 1000;
/// Largest object that one request copies.
const COPY_BYTES_MAX: u64 = 5 << 30;
/// Sorts after all names that a listing shows below a prefix.
const LAST: char = '\u{10ffff}';

/// A bucket, or what lies under a prefix of it.
pub struct S3 {
    service: Servicer,
    context: OperationContext,
    prefix: String,
    fingerprint: String,
    uploads: Uploads,
    /// Whether the server refuses writes whose condition does not hold; unknown before the first of them.
    checks_conditions: OnceCell<bool>,
}

impl S3 {
    /// A store with an HTTP client of its own. Sends nothing.
    ///
    /// # Errors
    /// `InvalidArgument` for options that make no sense together.
    pub fn new(config: &S3StoreConfig, limits: &MountLimits) -> Result<Self> {
        let endpoint = match &config.endpoint {
            Some(endpoint) => endpoint.trim_end_matches('/').to_owned(),
            None => format!("https://s3.{}.amazonaws.com", config.region),
        };
        let fingerprint = format!("s3:{endpoint}/{}/{}", config.bucket, config.prefix);
        let mut builder = opendal::services::S3::default()
            .bucket(&config.bucket)
            .endpoint(&endpoint)
            .region(&config.region)
            .disable_config_load()
            .disable_ec2_metadata();
        builder = match &config.credentials {
            Some((key, secret)) => builder.access_key_id(key).secret_access_key(secret.expose()),
            None => builder.skip_signature(),
        };
        if let Some(token) = &config.session_token {
            builder = builder.session_token(token.expose());
        }
        if config.is_virtual_host_style {
            builder = builder.enable_virtual_host_style();
        }
        let refused = |text: String| Error::new(ErrorKind::InvalidArgument, text);
        let service = builder.build().map_err(|e| refused(e.message().to_owned()))?;
        let transport = Transport::new(limits).map_err(|e| refused(e.to_string()))?;
        Ok(Self {
            service: Arc::new(service),
            context: OperationContext::from_parts(HttpTransporter::new(transport), Executor::with(Parts)),
            prefix: config.prefix.clone(),
            fingerprint,
            uploads: Uploads::new(),
            checks_conditions: OnceCell::new(),
        })
    }

    /// The bucket's key for one of the mount's.
    fn full(&self, key: &str) -> Result<String> {
        let full = format!("{}{key}", self.prefix);
        let refused = |text: &str| Err(Error::new(ErrorKind::InvalidName, text));
        if key.is_empty() || key.starts_with('/') || full.starts_with('/') {
            return refused("an S3 key may neither be empty nor start with `/`");
        }
        if full.split('/').any(|segment| matches!(segment, "." | "..")) {
            return refused("an S3 key may not contain the segments `.` or `..`");
        }
        if full.contains(|c| matches!(c, '\0'..='\u{1f}' | '\u{fffe}' | '\u{ffff}')) {
            return refused("an S3 key may not contain control characters: listings could not show it");
        }
        if full.len() > KEY_BYTES_MAX {
            let text = format!("an S3 key has at most {KEY_BYTES_MAX} bytes");
            return Err(Error::new(ErrorKind::NameTooLong, text));
        }
        Ok(full)
    }

    /// An object, and the name of the write that stored it.
    async fn head(&self, key: &str) -> Result<(Object, Option<String>)> {
        let answer = self.service.stat_dyn(&self.context, &self.full(key)?, OpStat::new()).await;
        let metadata = answer.map_err(|e| refused_name(&e))?.into_metadata();
        let (headers, write) = headers::from_metadata(&metadata);
        let object = Object { headers: Some(Arc::new(headers)), ..describe(key.to_owned(), &metadata) };
        Ok((object, write))
    }

    async fn send(&self, full: &str, source: &Source, options: WriteOptions) -> Result<Metadata> {
        self.uploads.send((&self.service, &self.context), full, source, options).await
    }

    /// Tries out, once, whether conditions are checked.
    async fn require_conditions(&self) -> Result<()> {
        let checks = self.checks_conditions.get_or_try_init(async || {
            let full = self.full(&format!(".forebay-probe-{}", Uuid::new_v4()))?;
            let source = Source { files: Vec::new() };
            self.send(&full, &source, WriteOptions::default()).await?;
            let absent = WriteOptions { if_not_exists: true, ..WriteOptions::default() };
            let second = self.send(&full, &source, absent).await;
            self.remove(&full).await?;
            match second {
                Ok(_) => Ok(false),
                Err(error) if error.kind() == ErrorKind::PreconditionFailed => Ok(true),
                Err(error) if error.kind() == ErrorKind::Unsupported => Ok(false),
                Err(error) => Err(error),
            }
        });
        if *checks.await? {
            return Ok(());
        }
        Err(Error::new(ErrorKind::Unsupported, "this store ignores conditions of writes; write without one"))
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
        let mut deleter = self.service.delete_dyn(&self.context).map_err(|e| from_opendal(&e))?;
        deleter.delete_dyn(full, OpDelete::new()).await.map_err(|e| from_opendal(&e))?;
        deleter.close_dyn().await.map_err(|e| from_opendal(&e))
    }

    /// The lister of a query, and the cursor to start it after.
    fn lister(&self, query: &ListQuery) -> Result<oio::Lister> {
        let start_after = match passed_group(query) {
            Some(group) => Some(format!("{}{group}{LAST}", self.prefix)),
            None => query.start_after.as_ref().map(|after| format!("{}{after}", self.prefix)),
        };
        let args = OpList::from(ListOptions {
            // One more tells whether there is more without asking for another page.
            limit: Some(query.limit.saturating_add(1).min(PAGE_MAX)),
            start_after,
            recursive: !query.shallow,
            ..ListOptions::default()
        });
        let full = format!("{}{}", self.prefix, query.prefix);
        self.service.list_dyn(&self.context, &full, args).map_err(|e| from_opendal(&e))
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

fn describe(key: String, metadata: &Metadata) -> Object {
    Object {
        key,
        is_prefix: false,
        size_bytes: metadata.content_length(),
        etag: ETag::new(metadata.etag().unwrap_or_default()),
        modified: metadata.last_modified().map_or(SystemTime::UNIX_EPOCH, |at| whole_seconds(at.into())),
        headers: None,
        inode: None,
    }
}

/// Listings show milliseconds, HEAD shows seconds: what all show is equal.
fn whole_seconds(at: SystemTime) -> SystemTime {
    let since = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    SystemTime::UNIX_EPOCH + Duration::from_secs(since.as_secs())
}

/// The `len` bytes of a stream: neither fewer nor, from a server that ignores ranges, more.
async fn exactly(mut stream: Box<dyn oio::ReadStreamDyn>, len: u64) -> Result<Bytes> {
    let mut content = BytesMut::with_capacity(len as usize);
    loop {
        let buffer = stream.read_dyn().await.map_err(|e| from_opendal(&e))?;
        if buffer.is_empty() {
            break;
        }
        if (content.len() + buffer.len()) as u64 > len {
            return Err(Error::new(ErrorKind::Internal, "the store sent more than the range asked for"));
        }
        buffer.for_each(|piece| content.extend_from_slice(&piece));
    }
    if (content.len() as u64) < len {
        return Err(Error::new(ErrorKind::Unavailable, "the store closed the connection early"));
    }
    Ok(content.freeze())
}

fn changed() -> Error {
    Error::new(ErrorKind::Stale, "the object was replaced")
}

#[async_trait]
impl Backend for S3 {
    fn kind(&self) -> &'static str {
        "s3"
    }

    fn capability(&self) -> Capability {
        Capability {
            conditional_write: self.checks_conditions.get().copied().unwrap_or(true),
            native_rename: false,
            headers: true,
            posix: false,
            hierarchical: false,
            key_bytes_max: KEY_BYTES_MAX - self.prefix.len(),
        }
    }

    fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    async fn stat(&self, key: &str) -> Result<Object> {
        self.head(key).await.map(|(object, _)| object)
    }

    async fn read(&self, key: &str, range: ByteRange, etag: &ETag) -> Result<Bytes> {
        if range.is_empty() {
            return Ok(Bytes::new());
        }
        let options = ReadOptions { if_match: Some(etag.quoted()), ..ReadOptions::default() };
        let (_, args, _): (BytesRange, OpRead, OpReader) = options.into();
        let reader =
            self.service.read_dyn(&self.context, &self.full(key)?, args).map_err(|e| from_opendal(&e))?;
        let opened = reader.open_dyn(BytesRange::new(range.offset, Some(range.len))).await;
        let (answer, stream) = opened.map_err(|e| match from_opendal(&e) {
            error if error.kind() == ErrorKind::PreconditionFailed => changed(),
            error if error.kind() == ErrorKind::RangeNotSatisfiable => changed(),
            error => error,
        })?;
        let metadata = answer.into_metadata();
        let seen = metadata.as_ref().and_then(Metadata::etag);
        if seen.is_some_and(|seen| ETag::new(seen) != *etag) {
            return Err(changed());
        }
        exactly(stream, range.len).await
    }

    async fn list(&self, query: &ListQuery) -> Result<ObjectPage> {
        // No key of a mount starts with a slash, and the service below takes none.
        if self.prefix.is_empty() && query.prefix.starts_with('/') {
            return Ok(ObjectPage::default());
        }
        let limit = query.limit.min(PAGE_MAX);
        let mut lister = self.lister(query)?;
        let mut objects = Vec::new();
        let mut is_truncated = false;
        // The store's pages are in order, but within a page prefixes come before objects. The first entry of a
        // page is waited for, the others are at hand, so waiting again means that the page ends: it is sorted
        // and returned, short as it may be.
        loop {
            let entry = if objects.is_empty() {
                lister.next_dyn().await
            } else {
                let Some(entry) = lister.next_dyn().now_or_never() else {
                    is_truncated = true;
                    break;
                };
                entry
            };
            let Some(entry) = entry.map_err(|e| from_opendal(&e))? else { break };
            let Some(key) = entry.path().strip_prefix(&self.prefix) else { continue };
            if key.is_empty()
                || key.starts_with('/')
                || query.start_after.as_deref().is_some_and(|after| key <= after)
            {
                continue;
            }
            let metadata = entry.metadata();
            objects.push(match metadata.last_modified() {
                Some(_) => describe(key.to_owned(), metadata),
                None => Object::prefix(key),
            });
        }
        objects.sort_unstable_by(|a, b| a.key.cmp(&b.key));
        is_truncated |= objects.len() > limit;
        objects.truncate(limit);
        Ok(ObjectPage { objects, is_truncated })
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
        if *condition != Precondition::None {
            self.require_conditions().await?;
            if upload::is_in_parts(source) {
                self.expect(key, condition).await?;
            }
        }
        let write = (*condition != Precondition::None).then(|| Uuid::new_v4().to_string());
        let mut options = headers::to_options(headers, write.as_deref());
        match condition {
            Precondition::None => {}
            Precondition::Absent => options.if_not_exists = true,
            Precondition::Matches(etag) => options.if_match = Some(etag.quoted()),
        }
        let sent = self.send(&full, source, options).await;
        match sent {
            Ok(metadata) => {
                let (object, _) = self.head(key).await?;
                let own = metadata.etag().map(ETag::new);
                // Somebody else replaced it already; what was stored here is not what they stored.
                if let Some(etag) = own.clone().filter(|own| *own != object.etag) {
                    let (size_bytes, headers) = (source.size_bytes(), Some(Arc::new(headers.clone())));
                    return Ok(Object { size_bytes, etag, headers, ..object });
                }
                if own.is_some() && object.size_bytes != source.size_bytes() {
                    let text =
                        format!("the store kept {} of {} bytes", object.size_bytes, source.size_bytes());
                    return Err(Error::new(ErrorKind::Internal, text));
                }
                Ok(object)
            }
            // The answer may be lost and the write done; repeated, its own condition would refuse it.
            Err(error) if write.is_some() && is_ambiguous(error.kind()) => match self.head(key).await {
                Ok((object, stored_by)) if stored_by == write => Ok(object),
                Ok(_) | Err(_) => Err(error),
            },
            Err(error) => Err(error),
        }
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
        if headers.is_some() || *condition != Precondition::None || size_bytes > COPY_BYTES_MAX {
            return Err(Error::new(ErrorKind::Unsupported, "this copy has to be streamed"));
        }
        let options = CopyOptions { source_content_length_hint: Some(size_bytes), ..CopyOptions::default() };
        let mut copier = OpCopy::from_options(&self.service.capability_dyn(), options)
            .and_then(|args| self.service.copy_dyn(&self.context, &source, &target, args))
            .map_err(|e| from_opendal(&e))?;
        while copier.next_dyn().await.map_err(|e| from_opendal(&e))?.is_some() {}
        copier.close_dyn().await.map_err(|e| from_opendal(&e))?;
        self.stat(to).await
    }
}

/// Whether a write that failed like this may have been done all the same.
fn is_ambiguous(kind: ErrorKind) -> bool {
    matches!(
        kind,
        ErrorKind::Unavailable | ErrorKind::Timeout | ErrorKind::Busy | ErrorKind::PreconditionFailed
    )
}
