//! What a read returns: memory, or a range of a local file that is lent for as long as a guard lives.

use std::any::Any;
use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use rustix::io::ReadWriteFlags;

use crate::{ByteRange, DiskTurns};

/// Which local file it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileKey {
    /// Its file system.
    pub device: u64,
    inode: u64,
}

impl FileKey {
    /// That of an open file. May wait for its disk.
    ///
    /// # Errors
    /// The disk's.
    pub fn of(file: &File) -> io::Result<Self> {
        let metadata = file.metadata()?;
        Ok(Self { device: metadata.dev(), inode: metadata.ino() })
    }
}

/// The tier that lent a file: bounds the reads that wait for its disk, and hears of failed ones, so that it can stop
/// lending: the reader's next try then succeeds.
pub trait Lender: Send + Sync {
    /// A read of the loan failed with `error`, `TimedOut` if the disk did not answer in time. Must not block.
    fn read_failed(&self, error: &io::Error);

    /// Where reads wait for the disk.
    fn turns(&self) -> &DiskTurns;

    /// Which file it lent; known without the disk.
    fn key(&self) -> FileKey;
}

/// A local file that holds a file's bytes, lent by the tier that owns it.
///
/// Pinned (neither evicted nor truncated by its owner) until the last clone is dropped. A read-only loan is
/// complete and verified; a writable one is a staging file, or the stored file itself on a local mount.
#[derive(Clone)]
pub struct Lent {
    file: Arc<File>,
    range: ByteRange,
    lender: Option<Arc<dyn Lender>>,
    _guard: Arc<dyn Any + Send + Sync>,
}

impl Lent {
    /// Lends `range` of `file`; `guard` is dropped with the last clone.
    pub fn new(file: Arc<File>, range: ByteRange, guard: Arc<dyn Any + Send + Sync>) -> Self {
        Self { file, range, lender: None, _guard: guard }
    }

    /// Reads wait where `lender` says, and it is told when one fails.
    #[must_use]
    pub fn with_lender(self, lender: Arc<dyn Lender>) -> Self {
        Self { lender: Some(lender), ..self }
    }

    /// The file; its offset 0 is the content's offset 0.
    pub fn file(&self) -> &Arc<File> {
        &self.file
    }

    /// Which file it is. Waits for no disk if a lender knows.
    ///
    /// # Errors
    /// The disk's.
    pub fn key(&self) -> io::Result<FileKey> {
        self.lender.as_ref().map_or_else(|| FileKey::of(&self.file), |lender| Ok(lender.key()))
    }

    /// Which bytes of the file are lent.
    pub fn range(&self) -> ByteRange {
        self.range
    }

    /// A part of this loan; `range` counts from the start of the file.
    #[must_use]
    pub fn slice(&self, range: ByteRange) -> Self {
        let end = range.end().min(self.range.end());
        let offset = range.offset.clamp(self.range.offset, self.range.end());
        Self { range: ByteRange::new(offset, end.saturating_sub(offset)), ..self.clone() }
    }

    /// Reads the lent range, blocking on the disk.
    ///
    /// # Errors
    /// The disk's error, or `UnexpectedEof` when the file is shorter than what was lent.
    pub fn read(&self) -> io::Result<Bytes> {
        self.read_with(ReadWriteFlags::empty()).inspect_err(|error| self.raise(error))
    }

    /// Reads the lent range if the page cache holds all of it; `None` when the disk would be waited for.
    ///
    /// # Errors
    /// As [`Lent::read`].
    pub fn try_read(&self) -> io::Result<Option<Bytes>> {
        match self.read_with(ReadWriteFlags::NOWAIT) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => Ok(None),
            // Filesystems without RWF_NOWAIT (tmpfs) say so.
            Err(e) if e.raw_os_error() == Some(rustix::io::Errno::OPNOTSUPP.raw_os_error()) => Ok(None),
            Err(e) => {
                self.raise(&e);
                Err(e)
            }
        }
    }

    /// Reads the lent range, waiting for the disk off the runtime's workers, as long as its lender allows.
    ///
    /// # Errors
    /// As [`Lent::read`], or `TimedOut`.
    pub async fn load(self) -> io::Result<Bytes> {
        if let Some(bytes) = self.try_read()? {
            return Ok(bytes);
        }
        let Some(lender) = self.lender.clone() else {
            return tokio::task::spawn_blocking(move || self.read()).await.map_err(io::Error::other)?;
        };
        let answer = lender.turns().run(move || self.read()).await;
        answer.inspect_err(|error| lender.read_failed(error))?
    }

    fn raise(&self, error: &io::Error) {
        if let Some(lender) = &self.lender {
            lender.read_failed(error);
        }
    }

    fn read_with(&self, flags: ReadWriteFlags) -> io::Result<Bytes> {
        let want = usize::try_from(self.range.len).map_err(io::Error::other)?;
        let mut buffer = BytesMut::zeroed(want);
        let mut done = 0;
        while done < want {
            let mut slices = [io::IoSliceMut::new(&mut buffer[done..])];
            match rustix::io::preadv2(&self.file, &mut slices, self.range.offset + done as u64, flags) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(n) => done += n,
                Err(rustix::io::Errno::INTR) => {}
                Err(e) => return Err(e.into()),
            }
        }
        Ok(buffer.freeze())
    }
}

/// One run of bytes.
#[derive(Clone)]
pub enum Extent {
    /// In memory.
    Bytes(Bytes),
    /// In a local file.
    Lent(Lent),
}

impl Extent {
    /// Number of bytes.
    pub fn len(&self) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes.len() as u64,
            Self::Lent(lent) => lent.range().len,
        }
    }

    /// Whether there are no bytes.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// The answer to one read: extents in order.
#[derive(Clone, Default)]
pub struct Content(Vec<Extent>);

impl Content {
    /// Content of one extent.
    pub fn one(extent: Extent) -> Self {
        Self(vec![extent])
    }

    /// Adds an extent at the end.
    pub fn push(&mut self, extent: Extent) {
        self.0.push(extent);
    }

    /// Number of bytes.
    pub fn len(&self) -> u64 {
        self.0.iter().map(Extent::len).sum()
    }

    /// Whether there are no bytes.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The extents in order.
    pub fn extents(&self) -> &[Extent] {
        &self.0
    }

    /// The bytes, if none of them has to be waited for. A single memory extent is not copied.
    ///
    /// # Errors
    /// As [`Lent::read`].
    pub fn try_bytes(&self) -> io::Result<Option<Vec<Bytes>>> {
        let mut pieces = Vec::with_capacity(self.0.len());
        for extent in &self.0 {
            match extent {
                Extent::Bytes(bytes) => pieces.push(bytes.clone()),
                Extent::Lent(lent) => match lent.try_read()? {
                    Some(bytes) => pieces.push(bytes),
                    None => return Ok(None),
                },
            }
        }
        Ok(Some(pieces))
    }

    /// The bytes in pieces, read off the runtime's workers where a disk has to be waited for.
    ///
    /// # Errors
    /// As [`Lent::load`].
    pub async fn into_bytes(self) -> crate::Result<Vec<Bytes>> {
        let mut pieces = Vec::with_capacity(self.0.len());
        for extent in self.0 {
            pieces.push(match extent {
                Extent::Bytes(bytes) => bytes,
                Extent::Lent(lent) => lent.load().await?,
            });
        }
        Ok(pieces)
    }

    /// The bytes in pieces; blocks on the disk for lent extents, so call it off the runtime's workers.
    ///
    /// # Errors
    /// As [`Lent::read`].
    pub fn read(&self) -> io::Result<Vec<Bytes>> {
        self.0
            .iter()
            .map(|extent| match extent {
                Extent::Bytes(bytes) => Ok(bytes.clone()),
                Extent::Lent(lent) => lent.read(),
            })
            .collect()
    }
}

impl From<Bytes> for Content {
    fn from(bytes: Bytes) -> Self {
        Self::one(Extent::Bytes(bytes))
    }
}
