//! Records of the ledger's log: a byte for the kind, then the fields.

use forebay_core::{ETag, FileId};

use crate::frame::{self, Format};
use crate::metadata::codec::{Reader, put_number, put_text};

/// Larger than any record: two names, or a name and its xattrs.
const PAYLOAD_BYTES_MAX: usize = 64 << 10;

pub(super) const FORMAT: Format =
    Format { magic: b"FBLEDGR\0", version: 1, payload_bytes_max: PAYLOAD_BYTES_MAX };

const GENERATION: u8 = 1;
const POSIX: u8 = 2;
const IDENTITY: u8 = 3;
const NO_IDENTITY: u8 = 4;
const MOVING: u8 = 5;
const MOVED: u8 = 6;
const STAYED: u8 = 7;
const REMOVED: u8 = 8;

/// What happened to names (keys; directories end in `/`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Record {
    /// Begins a log: which one it is.
    Generation(u64),
    /// This is what was set for the name, encoded; nothing where it is empty.
    Posix { name: Box<str>, posix: Box<[u8]> },
    /// The name keeps this identity for as long as it shows the tag.
    Identity { name: Box<str>, etag: ETag, id: FileId },
    /// The name has its own identity again.
    NoIdentity { name: Box<str> },
    /// A store is about to be told to move a name, and all below a directory.
    Moving { from: Box<str>, to: Box<str> },
    /// It did.
    Moved { from: Box<str>, to: Box<str> },
    /// It did not.
    Stayed { from: Box<str>, to: Box<str> },
    /// A directory and all below it are gone.
    Removed { directory: Box<str> },
}

impl Record {
    pub(super) fn encode(&self, to: &mut Vec<u8>) {
        frame::encode(to, |to| self.fill(to));
    }

    fn fill(&self, to: &mut Vec<u8>) {
        match self {
            Self::Generation(number) => {
                to.push(GENERATION);
                put_number(to, *number);
            }
            Self::Posix { name, posix } => {
                put(to, POSIX, &[name]);
                to.extend_from_slice(posix);
            }
            Self::Identity { name, etag, id } => {
                put(to, IDENTITY, &[name, etag.as_str()]);
                to.extend_from_slice(&id.as_u128().to_le_bytes());
            }
            Self::NoIdentity { name } => put(to, NO_IDENTITY, &[name]),
            Self::Moving { from, to: new } => put(to, MOVING, &[from, new]),
            Self::Moved { from, to: new } => put(to, MOVED, &[from, new]),
            Self::Stayed { from, to: new } => put(to, STAYED, &[from, new]),
            Self::Removed { directory } => put(to, REMOVED, &[directory]),
        }
    }

    pub(super) fn decode(payload: &[u8]) -> Option<Self> {
        let mut reader = Reader(payload);
        let kind = reader.byte()?;
        let text = |reader: &mut Reader<'_>| reader.text().map(Box::<str>::from);
        let record = match kind {
            GENERATION => Self::Generation(reader.number()?),
            POSIX => {
                let name = text(&mut reader)?;
                let posix = std::mem::take(&mut reader.0).into();
                Self::Posix { name, posix }
            }
            IDENTITY => Self::Identity {
                name: text(&mut reader)?,
                etag: ETag::new(reader.text()?),
                id: FileId::from_u128(u128::from_le_bytes(reader.bytes(16)?.try_into().ok()?)),
            },
            NO_IDENTITY => Self::NoIdentity { name: text(&mut reader)? },
            MOVING => Self::Moving { from: text(&mut reader)?, to: text(&mut reader)? },
            MOVED => Self::Moved { from: text(&mut reader)?, to: text(&mut reader)? },
            STAYED => Self::Stayed { from: text(&mut reader)?, to: text(&mut reader)? },
            REMOVED => Self::Removed { directory: text(&mut reader)? },
            _ => return None,
        };
        reader.0.is_empty().then_some(record)
    }
}

fn put(to: &mut Vec<u8>, kind: u8, texts: &[&str]) {
    to.push(kind);
    for text in texts {
        put_text(to, text);
    }
}
