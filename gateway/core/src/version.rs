//! Identity of files and of their contents.

use std::fmt;
use std::sync::Arc;

/// The lasting identity of a file or directory: what inodes, handles, pins and cached pages hang on.
///
/// It survives changes made in place and renames; whole replacement gives a new one (as rename-over does on
/// POSIX). 128 bits of BLAKE3, so that names chosen by an adversary cannot collide.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FileId(u128);

impl FileId {
    /// The identity made of `parts`, for example (store fingerprint, key, `ETag`). Part borders count.
    pub fn of(parts: &[&[u8]]) -> Self {
        let mut hasher = blake3::Hasher::new();
        for part in parts {
            hasher.update(&(part.len() as u64).to_le_bytes());
            hasher.update(part);
        }
        let mut bytes = [0; 16];
        bytes.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
        Self(u128::from_le_bytes(bytes))
    }

    /// The identity as a number.
    pub fn as_u128(self) -> u128 {
        self.0
    }

    /// The identity that was written down as this number.
    pub fn from_u128(number: u128) -> Self {
        Self(number)
    }
}

impl fmt::Display for FileId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Debug for FileId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// One content of a file. Two reads under an equal strong version see equal bytes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Version {
    /// The store vouches for it: an `ETag`, a generation, or (inode, ctime, size) on a local disk.
    Strong(Arc<str>),
    /// Size and modification time only: checked before and after each fill.
    Weak(Arc<str>),
}

impl Version {
    /// The version as the store names it.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Strong(text) | Self::Weak(text) => text,
        }
    }
}

/// An S3 entity tag, without its quotes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ETag(Arc<str>);

impl ETag {
    /// Takes a tag with or without its quotes.
    pub fn new(text: &str) -> Self {
        let text = text.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).unwrap_or(text);
        Self(Arc::from(text))
    }

    /// A tag for stores that have none of their own: 32 hex digits and `-1`, so that clients do not take it for
    /// an MD5 of the content.
    pub fn minted(parts: &[&[u8]]) -> Self {
        Self(Arc::from(format!("{}-1", FileId::of(parts))))
    }

    /// The tag without quotes.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The tag as HTTP carries it.
    pub fn quoted(&self) -> String {
        format!("\"{}\"", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identity_depends_on_part_borders() {
        assert_ne!(FileId::of(&[b"ab", b"c"]), FileId::of(&[b"a", b"bc"]));
        assert_eq!(FileId::of(&[b"ab"]), FileId::of(&[b"ab"]));
    }

    #[test]
    fn etag_is_quoted_once() {
        assert_eq!(ETag::new("\"x\"").quoted(), "\"x\"");
        assert_eq!(ETag::new("x"), ETag::new("\"x\""));
    }
}
