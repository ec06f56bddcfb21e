//! Records of the journal: a byte for the kind, the fields as JSON with their length before them, and the content of a
//! small write.

use std::time::SystemTime;

use bytes::Bytes;
use forebay_core::{ETag, Headers};
use serde::{Deserialize, Serialize};

use crate::frame::Format;

/// Contents up to this length lie in the journal itself.
pub(super) const INLINE_BYTES_MAX: u64 = 32 << 10;

/// Larger than any record: S3 bounds a key at 1 KiB and headers at some KiB.
const PAYLOAD_BYTES_MAX: usize = 1 << 20;

pub(super) const FORMAT: Format =
    Format { magic: b"FBSTAGE\0", version: 1, payload_bytes_max: PAYLOAD_BYTES_MAX };

const PUT: u8 = 1;
const DONE: u8 = 2;
const SHOWN: u8 = 3;

/// What happened to a mount's writes.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Record {
    /// A content was acknowledged.
    Put(Box<Put>),
    /// The writes of a name up to this one are at the store, or beside it after a conflict.
    Done { key: String, seq: u64 },
    /// What clients were told of a content that the store calls otherwise.
    Shown(Shown),
}

/// A content that was acknowledged.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
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
    #[serde(skip)]
    pub(crate) inline: Bytes,
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
}

impl Record {
    pub(super) fn fill(&self, to: &mut Vec<u8>) {
        match self {
            Self::Put(put) => {
                push(to, PUT, put);
                to.extend_from_slice(&put.inline);
            }
            Self::Done { key, seq } => push(to, DONE, &(key, seq)),
            Self::Shown(shown) => push(to, SHOWN, shown),
        }
    }

    pub(super) fn decode(payload: &[u8]) -> Option<Self> {
        let (kind, rest) = payload.split_first()?;
        let (length, rest) = rest.split_first_chunk()?;
        let (fields, content) = rest.split_at_checked(u32::from_le_bytes(*length) as usize)?;
        let record = match *kind {
            PUT => {
                let put: Put = serde_json::from_slice(fields).ok()?;
                let expected = if put.file.is_some() { 0 } else { put.size_bytes };
                if expected != content.len() as u64 {
                    return None;
                }
                return Some(Self::Put(Box::new(Put { inline: Bytes::copy_from_slice(content), ..put })));
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
