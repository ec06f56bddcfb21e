//! Reading what the kernel does not read by itself.

use std::fs::File;
use std::io;

use bytes::{Bytes, BytesMut};
use forebay_core::{ByteRange, OpenFile};
use fuser::Errno;
use rustix::io::ReadWriteFlags;

use crate::error::Failure;
use crate::handle::{FileHandle, Source};
use crate::server::{Server, blocking};

/// Reads up to `len` bytes at `offset`; fewer only at the end of the file. Blocks on the disk.
pub(crate) fn read_file(file: &File, offset: u64, len: usize) -> io::Result<Bytes> {
    pread(file, offset, len, ReadWriteFlags::empty())
}

/// The same from the page cache; `None` when the disk would be waited for.
fn try_read_file(file: &File, offset: u64, len: usize) -> io::Result<Option<Bytes>> {
    match pread(file, offset, len, ReadWriteFlags::NOWAIT) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(e) if e.kind() == io::ErrorKind::WouldBlock => Ok(None),
        // Filesystems without RWF_NOWAIT say so.
        Err(e) if e.raw_os_error() == Some(rustix::io::Errno::OPNOTSUPP.raw_os_error()) => Ok(None),
        Err(e) => Err(e),
    }
}

fn pread(file: &File, offset: u64, len: usize, flags: ReadWriteFlags) -> io::Result<Bytes> {
    let mut buffer = BytesMut::zeroed(len);
    let mut done = 0;
    while done < len {
        let mut slices = [io::IoSliceMut::new(&mut buffer[done..])];
        match rustix::io::preadv2(file, &mut slices, offset + done as u64, flags) {
            Ok(0) => break,
            Ok(n) => done += n,
            Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
    }
    buffer.truncate(done);
    Ok(buffer.freeze())
}

impl Server {
    /// Reads for an open file. The pieces together are what was asked for, or reach the end of the file.
    pub(crate) async fn read(&self, handle: u64, offset: u64, len: u32) -> Result<Vec<Bytes>, Failure> {
        let Some(handle) = self.files.find(handle) else {
            return Err(Failure::Refused(Errno::EBADF, "no such handle"));
        };
        let pieces = read_handle(&handle, ByteRange::new(offset, len.into())).await?;
        self.counters.read_bytes.inc_by(pieces.iter().map(|piece| piece.len() as u64).sum());
        Ok(pieces)
    }
}

async fn read_handle(handle: &FileHandle, range: ByteRange) -> Result<Vec<Bytes>, Failure> {
    let writing = match (handle.inode.writing(), &handle.source) {
        (Some(writing), _) => writing,
        (None, Source::Written(writing)) => std::sync::Arc::clone(writing),
        (None, Source::Stored(file)) => return read_stored(&**file, range).await,
    };
    let len = usize::try_from(range.len).unwrap_or(usize::MAX);
    if let Some(bytes) = try_read_file(writing.file(), range.offset, len)? {
        return Ok(vec![bytes]);
    }
    let bytes = blocking(move || Ok(read_file(writing.file(), range.offset, len)?)).await?;
    Ok(vec![bytes])
}

/// Reads all of `range` that lies inside the file.
pub(crate) async fn read_stored(file: &dyn OpenFile, range: ByteRange) -> Result<Vec<Bytes>, Failure> {
    let mut rest = range.clamp_to(file.entry().size_bytes);
    if rest.is_empty() {
        return Ok(Vec::new());
    }
    // A loan whose disk fails is taken back, and the file reads it from elsewhere.
    if let Some(content) = file.try_read(rest)
        && let Ok(Some(pieces)) = content.try_bytes()
    {
        return Ok(pieces);
    }
    let mut pieces = Vec::new();
    while !rest.is_empty() {
        let read = file.read_bytes(rest).await?;
        let len = read.iter().map(|piece| piece.len() as u64).sum();
        if len == 0 {
            return Err(Failure::Refused(Errno::EIO, "a store read nothing inside a file"));
        }
        pieces.extend(read);
        rest = ByteRange::new(rest.offset + len, rest.len.saturating_sub(len));
    }
    Ok(pieces)
}
