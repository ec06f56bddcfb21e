//! One object on its way to S3: a single PUT, or parts of one size in order, four at a time.

use std::sync::Arc;

use bytes::Bytes;
use forebay_core::{ByteRange, Error, ErrorKind, Result};
use opendal::options::WriteOptions;
use opendal::raw::{BoxedStaticFuture, OpWrite, Servicer, oio};
use opendal::{Buffer, Execute, Metadata, OperationContext};

use super::super::error::from_opendal;
use crate::backend::Source;
use crate::backend::uploads::Uploads;

/// Largest body of one request, unless an object needs larger ones to stay below 10000 parts.
pub(super) const PIECE_BYTES: u64 = 16 << 20;
/// Most parts of an object.
pub(super) const PARTS_MAX: u64 = 10_000;
/// The smallest part that all stores take, but for the last one.
const PIECE_BYTES_MIN: u64 = 5 << 20;
/// Parts in flight, at most.
const PARTS_AT_ONCE: u64 = 4;
/// Beside them one part waits for its turn, and one is being read.
const PIECES_BESIDE: u64 = 2;

/// Whether this takes more than one request.
pub(super) fn is_in_parts(source: &Source) -> bool {
    source.size_bytes() > PIECE_BYTES
}

/// Runs the parts of an upload on the present runtime. `OpenDAL` holds a handle of each and cancels it on drop.
pub(super) struct Parts;

impl Execute for Parts {
    fn execute(&self, part: BoxedStaticFuture<()>) {
        tokio::spawn(part);
    }
}

/// How an upload that has `memory_bytes` is cut: the length of its parts, and how many are sent at once.
pub(super) fn parts(memory_bytes: u64) -> (u64, usize) {
    let piece_bytes = memory_bytes / (PARTS_AT_ONCE + PIECES_BESIDE);
    let piece_bytes = (piece_bytes >> 20 << 20).clamp(PIECE_BYTES_MIN, PIECE_BYTES);
    (piece_bytes, parts_at_once(memory_bytes, piece_bytes))
}

/// How many parts may be sent at once.
pub(super) fn parts_at_once(memory_bytes: u64, piece_bytes: u64) -> usize {
    (memory_bytes / piece_bytes).saturating_sub(PIECES_BESIDE).clamp(1, PARTS_AT_ONCE) as usize
}

/// What an upload in parts takes at most.
pub(super) fn memory_bytes(piece_bytes: u64) -> u64 {
    piece_bytes * (PARTS_AT_ONCE + PIECES_BESIDE)
}

/// Stores `source` under `key`. Dropped or failed, it takes back the parts that the store knows of.
pub(super) async fn send(
    uploads: &Uploads,
    (service, context): (&Servicer, &OperationContext),
    key: &str,
    source: &Source,
    options: WriteOptions,
) -> Result<Metadata> {
    let size = source.size_bytes();
    let is_whole = !is_in_parts(source);
    let room = uploads.take(if is_whole { size } else { memory_bytes(PIECE_BYTES) }).await;
    let (part, concurrent) = parts(room.bytes);
    // Of what has more parts than a store takes, parts are longer than the memory was reserved for.
    let piece =
        if is_whole { size.max(1) } else { part.max(size.div_ceil(PARTS_MAX).next_multiple_of(1 << 20)) };
    let mut upload = Upload::begin((service, context), key, WriteOptions { concurrent, ..options })?;
    let source = Arc::new(source.clone());
    let mut offset = 0;
    while offset < size {
        let range = ByteRange::new(offset, piece).clamp_to(size);
        let source = Arc::clone(&source);
        let read = tokio::task::spawn_blocking(move || source.read(range)).await;
        let bytes =
            read.map_err(|e| Error::new(ErrorKind::Internal, "reading staged bytes panicked").because(e))??;
        upload.write(bytes).await?;
        offset = range.end();
    }
    upload.close().await
}

/// An upload that is aborted unless it was closed.
pub(super) struct Upload {
    writer: Option<oio::Writer>,
}

impl Upload {
    /// Sends nothing yet.
    pub(super) fn begin(
        (service, context): (&Servicer, &OperationContext),
        key: &str,
        options: WriteOptions,
    ) -> Result<Self> {
        let (args, _) =
            OpWrite::from_options(&service.capability_dyn(), options).map_err(|e| from_opendal(&e))?;
        let writer = service.write_dyn(context, key, args).map_err(|e| from_opendal(&e))?;
        Ok(Self { writer: Some(writer) })
    }

    /// Sends one more part; waits while as many as may be are in flight.
    pub(super) async fn write(&mut self, bytes: Bytes) -> Result<()> {
        self.writer().write_dyn(Buffer::from(bytes)).await.map_err(|e| from_opendal(&e))
    }

    /// Waits for the parts in flight and makes them an object.
    pub(super) async fn close(&mut self) -> Result<Metadata> {
        let metadata = self.writer().close_dyn().await.map_err(|e| from_opendal(&e))?;
        self.writer = None;
        Ok(metadata)
    }

    /// Takes back the parts that the store knows of, unless it was closed.
    pub(super) async fn abort(&mut self) {
        if let Some(writer) = self.writer.take() {
            abort(writer).await;
        }
    }

    fn writer(&mut self) -> &mut oio::Writer {
        self.writer.as_mut().expect("taken only after it was closed")
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        if let Some(writer) = self.writer.take() {
            // Bounded by the transport's own deadlines.
            tokio::spawn(abort(writer));
        }
    }
}

/// Parts that this cannot take back are the bucket's lifecycle rule's, like those of any client that lost its power.
async fn abort(mut writer: oio::Writer) {
    if let Err(error) = writer.abort_dyn().await {
        tracing::warn!(error = error.message(), "parts of a failed upload stay in the store");
    }
}
