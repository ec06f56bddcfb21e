//! One object on its way to S3: a single PUT, or parts of one size in order, four at a time.

use std::sync::Arc;

use bytes::Bytes;
use forebay_core::{ByteRange, Error, ErrorKind, Result};
use opendal::options::WriteOptions;
use opendal::raw::{BoxedStaticFuture, OpWrite, Servicer, oio};
use opendal::{Buffer, Execute, Metadata, OperationContext};
use tokio::sync::Semaphore;

use super::super::error::from_opendal;
use crate::backend::Source;

/// Largest body of one request, unless an object needs larger ones to stay below 10000 parts.
pub(super) const PIECE_BYTES: u64 = 16 << 20;
/// Most parts of an object.
pub(super) const PARTS_MAX: u64 = 10_000;
/// Parts in flight.
const PARTS_AT_ONCE: u64 = 4;
/// Memory for bodies of one mount, in MiB.
const BUFFERS_MIB_MAX: u32 = 384;

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

/// Uploads of one mount; bounds the memory that all of them take.
pub(super) struct Uploads {
    buffers_mib: Semaphore,
}

impl Uploads {
    pub(super) fn new() -> Self {
        Self { buffers_mib: Semaphore::new(BUFFERS_MIB_MAX as usize) }
    }

    /// Stores `source` under `key`. Dropped or failed, it takes back the parts that the store knows of.
    pub(super) async fn send(
        &self,
        (service, context): (&Servicer, &OperationContext),
        key: &str,
        source: &Source,
        options: WriteOptions,
    ) -> Result<Metadata> {
        let size = source.size_bytes();
        let piece = PIECE_BYTES.max(size.div_ceil(PARTS_MAX).next_multiple_of(1 << 20));
        // The pieces in flight, one that waits for its turn, and one that is being read.
        let buffers = if size <= piece { size } else { piece * (PARTS_AT_ONCE + 2) };
        let mib = u32::try_from(buffers >> 20).unwrap_or(u32::MAX).clamp(1, BUFFERS_MIB_MAX);
        let _buffers = self.buffers_mib.acquire_many(mib).await.expect("the semaphore is never closed");
        let mut upload = Upload::begin((service, context), key, options)?;
        let source = Arc::new(source.clone());
        let mut offset = 0;
        while offset < size {
            let range = ByteRange::new(offset, piece).clamp_to(size);
            let source = Arc::clone(&source);
            let read = tokio::task::spawn_blocking(move || source.read(range)).await;
            let bytes = read
                .map_err(|e| Error::new(ErrorKind::Internal, "reading staged bytes panicked").because(e))??;
            upload.write(bytes).await?;
            offset = range.end();
        }
        upload.close().await
    }
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
        let options = WriteOptions { concurrent: PARTS_AT_ONCE as usize, ..options };
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
