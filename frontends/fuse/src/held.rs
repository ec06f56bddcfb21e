//! Small files held in memory while they are open, so that their handles keep what they opened when the file is
//! replaced or removed in a store that keeps no old versions.
//!
//! A larger file that is not lent is read piece by piece, and answers ESTALE once its version is gone.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use forebay_core::{ByteRange, Content, Entry, Lent, OpenFile, Result};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::error::Failure;
use crate::ops::read::read_stored;

/// Largest file that is held: what a store's cache fetches at once in any case.
const FILE_BYTES_MAX: u64 = 1 << 20;
/// Most bytes held by one session.
const BYTES_MAX: usize = 64 << 20;

/// The room for held files.
pub(crate) struct Room(Arc<Semaphore>);

/// A held file.
struct Held {
    entry: Entry,
    bytes: Bytes,
    _room: OwnedSemaphorePermit,
}

impl Room {
    pub(crate) fn new() -> Self {
        Self(Arc::new(Semaphore::new(BYTES_MAX)))
    }

    /// The file held in memory if it is small and there is room, else as it was.
    ///
    /// # Errors
    /// As [`OpenFile::read`].
    pub(crate) async fn hold(
        &self,
        file: Arc<dyn OpenFile>,
    ) -> std::result::Result<Arc<dyn OpenFile>, Failure> {
        let size_bytes = file.entry().size_bytes;
        if size_bytes == 0 || size_bytes > FILE_BYTES_MAX {
            return Ok(file);
        }
        let Ok(room) = Arc::clone(&self.0).try_acquire_many_owned(size_bytes as u32) else { return Ok(file) };
        let pieces = read_stored(&*file, ByteRange::new(0, size_bytes)).await?;
        let bytes = match pieces.as_slice() {
            [piece] => piece.clone(),
            pieces => pieces
                .iter()
                .fold(BytesMut::new(), |mut all, piece| {
                    all.extend_from_slice(piece);
                    all
                })
                .freeze(),
        };
        Ok(Arc::new(Held { entry: file.entry().clone(), bytes, _room: room }))
    }
}

impl Held {
    fn slice(&self, range: ByteRange) -> Content {
        let range = range.clamp_to(self.bytes.len() as u64);
        self.bytes.slice(range.offset as usize..range.end() as usize).into()
    }
}

#[async_trait]
impl OpenFile for Held {
    fn entry(&self) -> &Entry {
        &self.entry
    }

    fn try_read(&self, range: ByteRange) -> Option<Content> {
        Some(self.slice(range))
    }

    async fn read(&self, range: ByteRange) -> Result<Content> {
        Ok(self.slice(range))
    }

    fn lend(&self) -> Option<Lent> {
        None
    }
}
