//! From keys to the paths of HDFS, as they stand in URLs.
//!
//! Every byte but letters, digits and `-._~` is percent-encoded, in paths and in query values alike: `+`, `%`, `;`
//! and what is not ASCII reach the NameNode as they are.

use forebay_core::{Error, ErrorKind, Result};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use uuid::Uuid;

/// Where writes lie until they are published, below the mount's root; no key leads there.
pub(super) const OWN_DIRECTORY: &str = ".forebay-tmp";
/// What a NameNode keeps for itself at its root.
const RESERVED: &str = ".reserved";
/// Longest path of HDFS, in characters.
const PATH_CHARS_MAX: usize = 8000;
/// Longest name of HDFS by default (`dfs.namenode.fs-limits.max-component-length`), in bytes.
const NAME_BYTES_MAX: usize = 255;

const VALUE: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');
const PATH: &AsciiSet = &VALUE.remove(b'/');

/// A path, percent-encoded: `/` or `/a%20b/c`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Path(String);

impl Path {
    /// The file with this number, whatever its name is by now.
    pub(super) fn of_number(number: u64) -> Self {
        Self(format!("/{RESERVED}/.inodes/{number}"))
    }

    /// As it stands in a URL, also as a query value.
    pub(super) fn as_str(&self) -> &str {
        &self.0
    }

    /// The path of a name in this directory.
    pub(super) fn join(&self, name: &str) -> Self {
        let base = self.0.strip_suffix('/').unwrap_or(&self.0);
        Self(format!("{base}/{}", utf8_percent_encode(name, PATH)))
    }

    /// The containing directory; the root's is the root.
    pub(super) fn parent(&self) -> Self {
        match self.0.rsplit_once('/') {
            Some(("", _)) | None => Self("/".to_owned()),
            Some((parent, _)) => Self(parent.to_owned()),
        }
    }
}

/// Text as a query value.
pub(super) fn value(text: &str) -> String {
    utf8_percent_encode(text, VALUE).to_string()
}

/// The mounted directory.
pub(super) struct Root {
    /// Empty for `/`.
    text: String,
}

impl Root {
    pub(super) fn new(root: &str) -> Self {
        Self { text: root.trim_end_matches('/').to_owned() }
    }

    /// Longest key below it.
    pub(super) fn key_bytes_max(&self) -> usize {
        PATH_CHARS_MAX.saturating_sub(self.text.chars().count() + 1)
    }

    /// The path of a key (with or without its trailing slash), which HDFS can hold.
    ///
    /// # Errors
    /// `InvalidName`, `NameTooLong`.
    pub(super) fn path(&self, key: &str) -> Result<Path> {
        let bare = key.strip_suffix('/').unwrap_or(key);
        let refused = |text: &str| Err(Error::new(ErrorKind::InvalidName, text));
        let first = bare.split('/').next().unwrap_or_default();
        if first == OWN_DIRECTORY {
            return refused("this name is the gateway's own");
        }
        if self.text.is_empty() && first == RESERVED {
            return refused("`/.reserved` is the NameNode's own");
        }
        for segment in bare.split('/') {
            if matches!(segment, "" | "." | "..") {
                return refused("HDFS takes no empty, `.` or `..` segments");
            }
            if segment.contains([':', '\0']) {
                return refused("HDFS takes no `:` and no NUL in names");
            }
            if segment.len() > NAME_BYTES_MAX {
                let text = format!("HDFS takes names of at most {NAME_BYTES_MAX} bytes");
                return Err(Error::new(ErrorKind::NameTooLong, text));
            }
        }
        Ok(self.below(bare))
    }

    /// The path of a key that is looked for: where HDFS cannot hold the name, nothing is there.
    pub(super) fn find(&self, key: &str) -> Option<Path> {
        self.path(key).ok()
    }

    /// The mounted directory itself.
    pub(super) fn whole(&self) -> Path {
        self.below("")
    }

    /// The mounted directory, or a directory in it: empty, or a key without its trailing slash.
    pub(super) fn directory(&self, key: &str) -> Option<Path> {
        if key.is_empty() { Some(self.whole()) } else { self.find(key) }
    }

    /// Where writes lie until they are published.
    pub(super) fn own(&self) -> Path {
        self.below(OWN_DIRECTORY)
    }

    /// A name there that nobody else has.
    pub(super) fn temporary(&self) -> Path {
        self.below(&format!("{OWN_DIRECTORY}/{}", Uuid::new_v4().simple()))
    }

    fn below(&self, relative: &str) -> Path {
        let text = match (self.text.as_str(), relative) {
            ("", "") => "/".to_owned(),
            (root, "") => root.to_owned(),
            (root, relative) => format!("{root}/{relative}"),
        };
        Path(utf8_percent_encode(&text, PATH).to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_is_encoded_and_no_name_becomes_another() {
        let root = Root::new("/data lake/");
        let path = |key| root.path(key).expect("valid");
        assert_eq!(path("a+b %;é/x").as_str(), "/data%20lake/a%2Bb%20%25%3B%C3%A9/x");
        assert_eq!(path("d/"), path("d"));
        assert_eq!(path("d/e").parent(), path("d"));
        assert_eq!(Root::new("/").path("x").expect("valid").parent().as_str(), "/");
        assert_eq!(value("a+b &/"), "a%2Bb%20%26%2F");
    }

    #[test]
    fn names_that_hdfs_cannot_hold_are_refused_before_anything_is_sent() {
        let root = Root::new("/");
        let long = "x".repeat(256);
        for (key, kind) in [
            ("", ErrorKind::InvalidName),
            ("/a", ErrorKind::InvalidName),
            ("a//b", ErrorKind::InvalidName),
            ("a/../b", ErrorKind::InvalidName),
            ("12:00", ErrorKind::InvalidName),
            (".forebay-tmp/x", ErrorKind::InvalidName),
            (".reserved/.inodes/16385", ErrorKind::InvalidName),
            (long.as_str(), ErrorKind::NameTooLong),
        ] {
            assert_eq!(root.path(key).map_err(|e| e.kind()), Err(kind), "{key}");
        }
        assert!(Root::new("/data").path(".reserved/x").is_ok());
    }
}
