//! Names: byte-exact UTF-8, or refused. Nothing here trims, collapses, decodes or normalises.

use std::fmt;
use std::sync::Arc;

use crate::{Error, ErrorKind, Result};

/// Longest namespace path, in bytes (Linux `PATH_MAX`).
const PATH_BYTES_MAX: usize = 4096;

/// An absolute path in the namespace: `/` or `/segment/segment`, no trailing slash.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NsPath(Arc<str>);

/// A path inside one mount, relative to the mount's root: empty (the root itself) or `segment/segment`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key(Arc<str>);

fn check_segments(text: &str) -> Result<()> {
    if text.len() > PATH_BYTES_MAX {
        return Err(Error::new(
            ErrorKind::NameTooLong,
            format!("the path is longer than {PATH_BYTES_MAX} bytes"),
        ));
    }
    for segment in text.split('/') {
        let problem = match segment {
            "" => "an empty segment",
            "." => "the segment `.`",
            ".." => "the segment `..`",
            _ if segment.contains('\0') => "a NUL byte",
            _ => continue,
        };
        return Err(Error::new(ErrorKind::InvalidName, format!("a path may not contain {problem}")));
    }
    Ok(())
}

impl NsPath {
    /// The namespace's root, `/`.
    pub fn root() -> Self {
        Self(Arc::from("/"))
    }

    /// Accepts `/` or `/a/b` exactly as written.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidName`] for a relative path, a trailing slash, an empty, `.` or `..` segment or a NUL;
    /// [`ErrorKind::NameTooLong`] above 4096 bytes.
    pub fn parse(text: &str) -> Result<Self> {
        let Some(rest) = text.strip_prefix('/') else {
            return Err(Error::new(ErrorKind::InvalidName, "a path must start with `/`"));
        };
        if !rest.is_empty() {
            check_segments(rest)?;
        }
        Ok(Self(Arc::from(text)))
    }

    /// The path as text, starting with `/`.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether this is `/`.
    pub fn is_root(&self) -> bool {
        &*self.0 == "/"
    }

    /// The last segment; empty for the root.
    pub fn name(&self) -> &str {
        self.0.rsplit_once('/').map_or("", |(_, name)| name)
    }

    /// The containing directory; `None` for the root.
    pub fn parent(&self) -> Option<Self> {
        if self.is_root() {
            return None;
        }
        let cut = self.0.rfind('/').unwrap_or_default();
        Some(Self(Arc::from(if cut == 0 { "/" } else { &self.0[..cut] })))
    }

    /// This path with one or more segments added.
    ///
    /// # Errors
    /// As [`NsPath::parse`].
    pub fn join(&self, relative: &str) -> Result<Self> {
        let base = if self.is_root() { "" } else { &self.0 };
        Self::parse(&format!("{base}/{relative}"))
    }

    /// What follows `ancestor` in this path (the root key for the path itself); `None` when it is not below it.
    pub fn relative_to(&self, ancestor: &Self) -> Option<Key> {
        if ancestor.is_root() {
            return Some(Key(Arc::from(&self.0[1..])));
        }
        match self.0.strip_prefix(&*ancestor.0)? {
            "" => Some(Key::root()),
            rest => rest.strip_prefix('/').map(|key| Key(Arc::from(key))),
        }
    }

    /// Whether this is `ancestor` or lies below it.
    pub fn starts_with(&self, ancestor: &Self) -> bool {
        ancestor.is_root()
            || self.0.strip_prefix(&*ancestor.0).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }

    /// The first segment (the S3 bucket); `None` for the root.
    pub fn first(&self) -> Option<&str> {
        self.0[1..].split('/').next().filter(|segment| !segment.is_empty())
    }

    /// This path and its ancestors, longest first, ending with `/`, as text.
    pub fn ancestors(&self) -> impl Iterator<Item = &str> {
        let mut rest = Some(&*self.0);
        std::iter::from_fn(move || {
            let current = rest?;
            rest = match current.rfind('/') {
                Some(0) if current.len() > 1 => Some("/"),
                Some(0) | None => None,
                Some(cut) => Some(&current[..cut]),
            };
            Some(current)
        })
    }
}

impl Key {
    /// The mount's root.
    pub fn root() -> Self {
        Self(Arc::from(""))
    }

    /// Accepts the empty text or `a/b` exactly as written.
    ///
    /// # Errors
    /// As [`NsPath::parse`].
    pub fn parse(text: &str) -> Result<Self> {
        if !text.is_empty() {
            check_segments(text)?;
        }
        Ok(Self(Arc::from(text)))
    }

    /// The key as text, with neither a leading nor a trailing slash.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether this is the mount's root.
    pub fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    /// The last segment; empty for the root.
    pub fn name(&self) -> &str {
        self.0.rsplit_once('/').map_or(&self.0, |(_, name)| name)
    }

    /// The containing directory; `None` for the root.
    pub fn parent(&self) -> Option<Self> {
        if self.is_root() {
            return None;
        }
        Some(Self(Arc::from(self.0.rfind('/').map_or("", |cut| &self.0[..cut]))))
    }

    /// The prefix that all keys below this directory share: nothing for the root, else `a/b/`.
    pub fn directory_prefix(&self) -> String {
        if self.is_root() { String::new() } else { format!("{}/", self.0) }
    }

    /// Whether this key lies strictly below `ancestor`.
    pub fn is_below(&self, ancestor: &Self) -> bool {
        !self.is_root()
            && (ancestor.is_root()
                || self.0.strip_prefix(&*ancestor.0).is_some_and(|rest| rest.starts_with('/')))
    }

    /// This key with one or more segments added.
    ///
    /// # Errors
    /// As [`NsPath::parse`].
    pub fn join(&self, relative: &str) -> Result<Self> {
        Self::parse(&format!("{}{relative}", self.directory_prefix()))
    }
}

impl fmt::Display for NsPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for NsPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> NsPath {
        NsPath::parse(text).expect("valid path")
    }

    #[test]
    fn names_are_kept_byte_for_byte() {
        for text in ["/a", "/ a /b ", "/a%20b/+?#", "/ü/\u{1}\n"] {
            assert_eq!(path(text).as_str(), text);
        }
    }

    #[test]
    fn paths_that_two_frontends_could_read_differently_are_refused() {
        for text in ["", "a", "/a/", "//", "/a//b", "/.", "/a/../b", "/a\0"] {
            assert_eq!(NsPath::parse(text).map_err(|e| e.kind()), Err(ErrorKind::InvalidName), "{text:?}");
        }
        let long = format!("/{}", "x".repeat(5000));
        assert_eq!(NsPath::parse(&long).map_err(|e| e.kind()), Err(ErrorKind::NameTooLong));
    }

    #[test]
    fn ancestors_run_from_the_path_to_the_root() {
        assert_eq!(path("/a/b").ancestors().collect::<Vec<_>>(), ["/a/b", "/a", "/"]);
        assert_eq!(NsPath::root().ancestors().collect::<Vec<_>>(), ["/"]);
    }

    #[test]
    fn relation_respects_segment_borders() {
        assert!(!path("/ab").starts_with(&path("/a")));
        assert_eq!(path("/a/b").relative_to(&path("/a")).expect("below").as_str(), "b");
        assert!(path("/ab").relative_to(&path("/a")).is_none());
        assert_eq!(path("/a").relative_to(&NsPath::root()).expect("below").as_str(), "a");
    }
}
