//! A file's bytes on their way to a client: hits without a crossing, misses with a small read-ahead.
//!
//! Java's client never says how much it wants and drops the connection at every seek, so at most one read is under
//! way ahead of what the client took, and that only while the cache keeps what is read; reads grow only while it goes on
//! reading.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use forebay_core::{ByteRange, Error, ErrorKind, OpenFile, Result};
use futures::{Stream, stream};

use crate::call::Frontend;
use crate::crossing::Pending;
use crate::metrics::READ_BYTES;

/// Largest piece that actix is given at once (its cheapest size, see the README's benchmarks).
const PIECE_BYTES: usize = 64 << 10;

/// First read of a miss.
const FIRST_STEP_BYTES: u64 = 128 << 10;

/// Largest read: one cache page.
const LAST_STEP_BYTES: u64 = 1 << 20;

/// Most that is taken from the cache at once.
const HIT_BYTES: u64 = 256 << 10;

/// One download.
pub(crate) struct Download {
    file: Arc<dyn OpenFile>,
    frontend: Arc<Frontend>,
    /// What is not read yet.
    rest: ByteRange,
    /// Read and not yet taken.
    ready: VecDeque<Bytes>,
    /// The read under way.
    ahead: Option<Pending<Result<Vec<Bytes>>>>,
    step_bytes: u64,
}

impl Download {
    pub(crate) fn new(file: Arc<dyn OpenFile>, range: ByteRange, frontend: Arc<Frontend>) -> Self {
        let ready = VecDeque::new();
        Self { file, frontend, rest: range, ready, ahead: None, step_bytes: FIRST_STEP_BYTES }
    }

    /// The bytes, in pieces.
    pub(crate) fn into_stream(self) -> impl Stream<Item = Result<Bytes>> + Send {
        stream::try_unfold(self, |mut download| async move {
            let piece = download.next().await.inspect_err(|e| {
                // The status is sent; all that is left is to break off.
                tracing::warn!(error = %e, "a download broke off");
            })?;
            Ok(piece.map(|piece| (piece, download)))
        })
    }

    async fn next(&mut self) -> Result<Option<Bytes>> {
        loop {
            if let Some(piece) = self.take() {
                return Ok(Some(piece));
            }
            if self.rest.is_empty() && self.ahead.is_none() {
                return Ok(None);
            }
            if self.ahead.is_none() {
                if let Some(pieces) = self.hit() {
                    self.received(pieces)?;
                    continue;
                }
                self.start();
            }
            let Some(ahead) = self.ahead.take() else { continue };
            let pieces = ahead.await.map_err(|_| Error::new(ErrorKind::Internal, "a read task died"))??;
            let before = self.rest;
            self.received(pieces)?;
            let read = ByteRange::new(before.offset, before.len - self.rest.len);
            // What the cache has no room for is in no budget, and a slow client holds it for long.
            let is_kept = self.file.cached(read).bytes == read.len;
            // The first read may be all that the client wants; from the second on it is reading on.
            if is_kept && self.step_bytes > FIRST_STEP_BYTES && !self.rest.is_empty() {
                self.start();
            }
            self.step_bytes = (self.step_bytes * 2).min(LAST_STEP_BYTES);
        }
    }

    fn take(&mut self) -> Option<Bytes> {
        let first = self.ready.front_mut()?;
        let piece =
            if first.len() > PIECE_BYTES { first.split_to(PIECE_BYTES) } else { self.ready.pop_front()? };
        READ_BYTES.inc_by(piece.len() as u64);
        Some(piece)
    }

    /// What is at hand. A loan whose disk fails is not: it is taken back, and read from elsewhere.
    fn hit(&self) -> Option<Vec<Bytes>> {
        let range = ByteRange::new(self.rest.offset, self.rest.len.min(HIT_BYTES));
        self.file.try_read(range)?.try_bytes().ok()?
    }

    fn start(&mut self) {
        let range = ByteRange::new(self.rest.offset, self.rest.len.min(self.step_bytes));
        let file = Arc::clone(&self.file);
        let read = async move { file.read_bytes(range).await };
        self.ahead = Some(self.frontend.crossing.read(read));
    }

    fn received(&mut self, pieces: Vec<Bytes>) -> Result<()> {
        let len: u64 = pieces.iter().map(|piece| piece.len() as u64).sum();
        if len == 0 || len > self.rest.len {
            return Err(Error::new(ErrorKind::Internal, "a read returned no bytes or too many"));
        }
        self.rest = ByteRange::new(self.rest.offset + len, self.rest.len - len);
        self.ready.extend(pieces.into_iter().filter(|piece| !piece.is_empty()));
        Ok(())
    }
}
