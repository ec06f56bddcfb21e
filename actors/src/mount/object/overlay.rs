//! POSIX attributes and xattrs, which stores of flat keys do not keep: a bounded table in memory, so they end with
//! the process or when 100,000 other names were changed since.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::SystemTime;

use bytes::Bytes;
use forebay_core::{AttributeChange, ETag, Entry, Error, ErrorKind, Result, XattrMode};

use super::bounded::Bounded;

/// Most bytes of names and values of xattrs per entry; what ext4 gives with one block.
const XATTR_BYTES_MAX: usize = 4096;

/// Attributes by name (keys; directories end in `/`).
pub(super) struct Overlay {
    table: Bounded<Posix>,
    /// Whether anything was ever set; most stores are only read and written.
    is_used: AtomicBool,
}

#[derive(Default)]
struct Posix {
    mode: Option<u32>,
    uid: Option<u32>,
    gid: Option<u32>,
    accessed: Option<SystemTime>,
    /// Holds for the content with this tag only.
    modified: Option<(ETag, SystemTime)>,
    changed: Option<SystemTime>,
    xattrs: BTreeMap<String, Bytes>,
}

impl Overlay {
    pub(super) fn new(limit: usize) -> Self {
        Self { table: Bounded::new(limit), is_used: AtomicBool::new(false) }
    }

    pub(super) fn is_used(&self) -> bool {
        self.is_used.load(Ordering::Acquire)
    }

    fn update<R>(&self, name: &str, change: impl FnOnce(&mut Posix) -> R) -> R {
        self.is_used.store(true, Ordering::Release);
        self.table.update(name, change)
    }

    /// Puts what was set for `name` over what the store shows.
    pub(super) fn apply(&self, name: &str, entry: &mut Entry) {
        self.table.read(name, |posix| {
            let attributes = &mut entry.attributes;
            attributes.mode = posix.mode.unwrap_or(attributes.mode);
            attributes.uid = posix.uid.unwrap_or(attributes.uid);
            attributes.gid = posix.gid.unwrap_or(attributes.gid);
            attributes.accessed = posix.accessed.unwrap_or(attributes.accessed);
            attributes.changed =
                posix.changed.map_or(attributes.changed, |changed| changed.max(attributes.changed));
            if let Some((etag, modified)) = &posix.modified
                && *etag == entry.etag
            {
                entry.modified = *modified;
            }
        });
    }

    /// Sets attributes; a modification time holds until the content changes.
    pub(super) fn change(&self, name: &str, change: &AttributeChange, etag: &ETag, now: SystemTime) {
        self.update(name, |posix| {
            posix.mode = change.mode.or(posix.mode);
            posix.uid = change.uid.or(posix.uid);
            posix.gid = change.gid.or(posix.gid);
            posix.accessed = change.accessed.or(posix.accessed);
            if let Some(modified) = change.modified {
                posix.modified = Some((etag.clone(), modified));
            }
            posix.changed = Some(now);
        });
    }

    /// What was set for `from` is set for `to` alone; `etag` is the tag of the content there.
    pub(super) fn rename(&self, from: &str, to: &str, etag: &ETag) {
        let moved = self.table.remove(from);
        self.table.remove(to);
        if let Some(mut moved) = moved {
            if let Some((tag, _)) = &mut moved.modified {
                *tag = etag.clone();
            }
            self.update(to, |posix| *posix = moved);
        }
    }

    /// As [`Overlay::rename`] for a directory and all below it, whose contents keep their tags.
    pub(super) fn rename_tree(&self, from: &str, to: &str) {
        if !self.is_used() {
            return;
        }
        self.forget_tree(to);
        for (name, moved) in self.table.take_below(from) {
            self.update(&format!("{to}{}", &name[from.len()..]), |posix| *posix = moved);
        }
    }

    /// Forgets a directory and all below it.
    pub(super) fn forget_tree(&self, directory: &str) {
        if self.is_used() {
            drop(self.table.take_below(directory));
        }
    }

    pub(super) fn forget(&self, name: &str) {
        self.table.remove(name);
    }

    pub(super) fn xattrs(&self, name: &str) -> Vec<(String, Bytes)> {
        let all = |posix: &Posix| posix.xattrs.iter().map(|(k, v)| (k.clone(), v.clone())).collect();
        self.table.read(name, all).unwrap_or_default()
    }

    pub(super) fn set_xattr(
        &self,
        name: &str,
        xattr: &str,
        value: Option<Bytes>,
        mode: XattrMode,
    ) -> Result<()> {
        self.update(name, |posix| {
            let is_there = posix.xattrs.contains_key(xattr);
            let Some(value) = value else {
                return posix.xattrs.remove(xattr).map(|_| ()).ok_or_else(no_xattr);
            };
            match mode {
                XattrMode::Create if is_there => {
                    return Err(Error::new(ErrorKind::AlreadyExists, "the xattr exists"));
                }
                XattrMode::Replace if !is_there => return Err(no_xattr()),
                XattrMode::Any | XattrMode::Create | XattrMode::Replace => {}
            }
            let others = posix.xattrs.iter().filter(|(k, _)| *k != xattr).map(|(k, v)| k.len() + v.len());
            if others.sum::<usize>() + xattr.len() + value.len() > XATTR_BYTES_MAX {
                let message = format!("the xattrs of an entry take at most {XATTR_BYTES_MAX} bytes");
                return Err(Error::new(ErrorKind::NoSpace, message));
            }
            posix.xattrs.insert(xattr.to_owned(), value);
            Ok(())
        })
    }
}

fn no_xattr() -> Error {
    Error::new(ErrorKind::NotFound, "there is no such xattr")
}
