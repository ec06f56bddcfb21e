//! Records of the journal: a byte for the kind, the fields as JSON with their length before them, and the content of a
//! small write.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use forebay_core::{ETag, Headers};
use serde::{Deserialize, Serialize};

use crate::frame::Format;

/// Contents up to this length lie in the journal itself.
pub(super) const INLINE_BYTES_MAX: u64 = 64 << 10;

/// Larger than any record: S3 bounds a key at 1 KiB and headers at some KiB.
const PAYLOAD_BYTES_MAX: usize = 1 << 20;

pub(super) const FORMAT: Format =
    Format { magic: b"FBSTAGE\0", version: 1, payload_bytes_max: PAYLOAD_BYTES_MAX };

const PUT: u8 = 1;
const DONE: u8 = 2;
const SHOWN: u8 = 3;

/// What happened to a mount's writes.
#[derive(Clone, Debug)]
pub(crate) enum Record {
    /// A content was acknowledged.
    Put(Box<Put>),
    /// The writes of a name up to this one are at the store, or beside it after a conflict.
    Done { key: String, seq: u64 },
    /// What clients were told of a content that the store calls otherwise.
    Shown(Shown),
}

/// A content that was acknowledged.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Put {
    /// Grows with each write of a mount.
    pub(crate) seq: u64,
    pub(crate) key: String,
    pub(crate) base: Base,
    pub(crate) headers: Headers,
    pub(crate) size_bytes: u64,
    /// MD5 of the content in hex: its tag, and what tells whether it is whole.
    pub(crate) md5: String,
    pub(crate) modified: SystemTime,
    /// The name of the file that holds the content; `None` when the record does.
    pub(crate) file: Option<String>,
    /// Empty where a file holds the content.
    #[serde(skip)]
    pub(crate) inline: Inline,
}

/// A content that a record holds.
#[derive(Clone, Debug)]
pub(crate) enum Inline {
    /// It is not in the log yet.
    Bytes(Bytes),
    /// It begins there in a log, which need not be the present one.
    At(Arc<File>, u64),
}

impl Inline {
    /// The content, of `len` bytes. Blocks on the disk.
    ///
    /// # Errors
    /// The disk's.
    fn load(&self, len: u64) -> io::Result<Bytes> {
        let (file, offset) = match self {
            Self::Bytes(bytes) => return Ok(bytes.clone()),
            Self::At(file, offset) => (file, *offset),
        };
        let mut content = vec![0; usize::try_from(len).map_err(io::Error::other)?];
        file.read_exact_at(&mut content, offset)?;
        Ok(content.into())
    }
}

impl Default for Inline {
    fn default() -> Self {
        Self::Bytes(Bytes::new())
    }
}

/// What must be at the store when a write is sent there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Base {
    /// Whatever is there.
    Any,
    /// Nothing.
    Absent,
    /// The content that clients know by this tag.
    Tag(String),
}

/// What clients know a content as, and the store.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Shown {
    pub(crate) key: String,
    /// The tag that was told when the write was acknowledged.
    pub(crate) tag: String,
    /// The tag that the store gave it.
    pub(crate) store_tag: String,
    pub(crate) modified: SystemTime,
}

impl Base {
    /// Whether it is the content that clients know by `tag`.
    pub(super) fn holds(&self, tag: &str) -> bool {
        match self {
            Self::Any => true,
            Self::Absent => false,
            Self::Tag(own) => own == tag,
        }
    }
}

impl Put {
    /// The tag that clients see.
    pub(crate) fn etag(&self) -> ETag {
        ETag::new(&self.md5)
    }

    /// How many bytes of the content the record holds.
    pub(super) fn inline_bytes(&self) -> u64 {
        if self.file.is_some() { 0 } else { self.size_bytes }
    }

    /// The content that the record holds. Blocks on the disk.
    ///
    /// # Errors
    /// The disk's.
    pub(super) fn inline(&self) -> io::Result<Bytes> {
        self.inline.load(self.inline_bytes())
    }
}

impl Record {
    /// Appends what [`Record::decode`] reads; a content comes last. Blocks on the disk where that is in another log.
    ///
    /// # Errors
    /// The disk's; what was appended is of no use then.
    pub(super) fn fill(&self, to: &mut Vec<u8>) -> io::Result<()> {
        match self {
            Self::Put(put) => {
                push(to, PUT, put);
                to.extend_from_slice(&put.inline()?);
            }
            Self::Done { key, seq } => push(to, DONE, &(key, seq)),
            Self::Shown(shown) => push(to, SHOWN, shown),
        }
        Ok(())
    }

    /// Says that the record ends at `end` of `log`, and so does the content it holds.
    pub(super) fn written(&mut self, log: &Arc<File>, end: u64) {
        if let Self::Put(put) = self
            && put.file.is_none()
        {
            put.inline = Inline::At(Arc::clone(log), end - put.size_bytes);
        }
    }

    pub(super) fn decode(payload: &[u8]) -> Option<Self> {
        let (kind, rest) = payload.split_first()?;
        let (length, rest) = rest.split_first_chunk()?;
        let (fields, content) = rest.split_at_checked(u32::from_le_bytes(*length) as usize)?;
        let record = match *kind {
            PUT => {
                let put: Put = serde_json::from_slice(fields).ok()?;
                // It stays where it is.
                return (put.inline_bytes() == content.len() as u64).then(|| Self::Put(Box::new(put)));
            }
            DONE => {
                let (key, seq) = serde_json::from_slice(fields).ok()?;
                Self::Done { key, seq }
            }
            SHOWN => Self::Shown(serde_json::from_slice(fields).ok()?),
            _ => return None,
        };
        content.is_empty().then_some(record)
    }
}

fn push(to: &mut Vec<u8>, kind: u8, fields: &impl Serialize) {
    to.push(kind);
    let start = to.len();
    to.extend_from_slice(&[0; 4]);
    serde_json::to_writer(&mut *to, fields).expect("strings, numbers and times are JSON");
    let length = (to.len() - start - 4) as u32;
    to[start..start + 4].copy_from_slice(&length.to_le_bytes());
}
