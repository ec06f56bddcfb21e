//! An object whose parts are sent while the rest of it still arrives.
//!
//! Deliberately absent: Google's writes under a condition, which go as one stream of known length.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use async_trait::async_trait;
use bytes::Bytes;
use forebay_core::{Error, ErrorKind, Headers, Precondition, Result};

use super::dialect::Revision;
use super::upload::{self, PARTS_MAX, Upload};
use super::{Object, ObjectStore};
use crate::backend::{Pending, Pieces};

/// Length of a part: smaller than those of an object that is here, so that the first one is soon complete.
const PIECE_BYTES: u64 = 8 << 20;

/// What goes as one request, whose digest is compared, still does.
pub(super) const PIECES: Pieces = Pieces { piece_bytes: PIECE_BYTES, whole_bytes_max: upload::PIECE_BYTES };

/// An upload in parts of one size; its memory is bounded by whoever bounds how many there are.
pub(super) struct Ahead {
    store: Arc<ObjectStore>,
    key: String,
    headers: Headers,
    condition: Precondition,
    /// Names this write, where an answer that was lost would be in doubt.
    write: Option<String>,
    upload: Upload,
    size_bytes: u64,
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
        let full = store.full(key)?;
        let (options, write) = store.write_options(headers, condition)?;
        if is_conditional {
            store.require_heeded(condition).await?;
        }
        let upload = Upload::begin((&store.dialect.service, &store.context), &full, options)?;
        let (key, headers, condition) = (key.to_owned(), headers.clone(), condition.clone());
        Ok(Self { store, key, headers, condition, write, upload, size_bytes: 0 })
    }
}

#[async_trait]
impl Pending for Ahead {
    async fn feed(&mut self, bytes: Bytes) -> Result<()> {
        if self.size_bytes / PIECE_BYTES >= PARTS_MAX {
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
