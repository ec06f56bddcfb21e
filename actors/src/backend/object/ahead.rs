//! An object whose parts are sent while the rest of it still arrives.
//!
//! Deliberately absent: Google's writes under a condition, which go as one stream of known length.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use async_trait::async_trait;
use bytes::Bytes;
use forebay_core::{Error, ErrorKind, Headers, Precondition, Result};
use opendal::options::WriteOptions;

use super::dialect::Revision;
use super::upload::{self, PARTS_MAX, Upload};
use super::{Object, ObjectStore};
use crate::backend::uploads::{Uploads, no_memory};
use crate::backend::{Pending, Pieces};
use crate::cache::Held;

/// Longest part: shorter than those of an object that is here, so that the first one is soon complete.
const PIECE_BYTES: u64 = 8 << 20;

/// What goes as one request, whose digest is compared, still does.
pub(super) fn pieces(uploads: &Uploads) -> Pieces {
    let (piece_bytes, _) = upload::parts(uploads.limit_bytes());
    Pieces { piece_bytes: piece_bytes.min(PIECE_BYTES), whole_bytes_max: upload::PIECE_BYTES }
}

/// An upload in parts of one size.
pub(super) struct Ahead {
    store: Arc<ObjectStore>,
    key: String,
    headers: Headers,
    condition: Precondition,
    /// Names this write, where an answer that was lost would be in doubt.
    write: Option<String>,
    upload: Upload,
    piece_bytes: u64,
    size_bytes: u64,
    _memory: Held,
}

impl Ahead {
    pub(super) async fn begin(
        store: Arc<ObjectStore>,
        key: &str,
        headers: &Headers,
        condition: &Precondition,
    ) -> Result<Self> {
        let is_google = store.dialect.revision == Revision::Generation;
        let is_conditional = *condition != Precondition::None;
        if is_google && (is_conditional || store.lacks_parts.load(Ordering::Relaxed)) {
            return Err(no_parts());
        }
        let Pieces { piece_bytes, .. } = pieces(&store.uploads);
        let memory_bytes = upload::memory_bytes(piece_bytes).min(store.uploads.limit_bytes());
        let memory = store.uploads.try_take(memory_bytes).ok_or_else(no_memory)?;
        let parts_at_once = upload::parts_at_once(memory_bytes, piece_bytes);
        let full = store.full(key)?;
        let (options, write) = store.write_options(headers, condition)?;
        if is_conditional {
            store.require_heeded(condition).await?;
        }
        let options = WriteOptions { concurrent: parts_at_once, ..options };
        let upload = Upload::begin((&store.dialect.service, &store.context), &full, options)?;
        let (key, headers, condition) = (key.to_owned(), headers.clone(), condition.clone());
        Ok(Self {
            store,
            key,
            headers,
            condition,
            write,
            upload,
            piece_bytes,
            size_bytes: 0,
            _memory: memory,
        })
    }
}

#[async_trait]
impl Pending for Ahead {
    async fn feed(&mut self, bytes: Bytes) -> Result<()> {
        if self.size_bytes / self.piece_bytes >= PARTS_MAX {
            return Err(Error::new(ErrorKind::Unsupported, "an object this large needs larger parts"));
        }
        self.size_bytes += bytes.len() as u64;
        let sent = self.upload.write(bytes).await;
        sent.map_err(|e| if self.store.is_lack_of_parts(&e) { no_parts().because(e) } else { e })
    }

    async fn finish(&mut self) -> Result<Object> {
        if self.condition != Precondition::None {
            self.store.expect(&self.key, &self.condition).await?;
        }
        match self.upload.close().await {
            Ok(answer) => {
                self.store.stored(&self.key, (self.size_bytes, &self.headers), (&answer, false)).await
            }
            Err(error) => self.store.resolve(&self.key, self.write.as_ref(), error).await,
        }
    }

    async fn abandon(&mut self) {
        self.upload.abort().await;
    }
}

fn no_parts() -> Error {
    Error::new(ErrorKind::Unsupported, "this store does not take this object in parts")
}
