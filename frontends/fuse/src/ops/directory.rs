//! Listing and making directories.
//!
//! A listing is read page by page as the kernel asks; only what may be asked for again is kept. An offset is the
//! number of entries before it, so it means the same entry as long as the listing goes on from its start.

use std::collections::VecDeque;
use std::ffi::OsStr;
use std::sync::Mutex;

use forebay_core::{AttributeChange, Entry, EntryKind, ErrorKind, ListItem, ListQuery, MkdirMode, NsPath};
use fuser::{Errno, INodeNo};

use crate::attr;
use crate::error::Failure;
use crate::handle::DirectoryHandle;
use crate::ops::create::NewFile;
use crate::ops::lookup::{Found, checked};
use crate::server::Server;

/// Names read from a store at once.
const PAGE_NAMES: usize = 1000;

/// One name of a directory.
#[derive(Clone)]
pub(crate) struct Listed {
    pub(crate) name: String,
    pub(crate) entry: Entry,
}

/// How far a listing has come.
#[derive(Default)]
pub(crate) struct Cursor {
    /// Offset of the first entry in `window`.
    base: u64,
    window: VecDeque<Listed>,
    /// Files whose directory of the same name, which would shadow them, may be on the next page.
    held: Vec<ListItem>,
    after: Option<String>,
    is_complete: bool,
}

impl Cursor {
    /// Takes a page in: hides files that a directory shadows, and names that Linux could not look up.
    fn extend(&mut self, page: &[ListItem], is_last: bool) {
        let last = page.last().map(|item| item.name.clone());
        let shadow = |item: &ListItem| format!("{}/", item.name);
        let mut shown = Vec::new();
        for item in std::mem::take(&mut self.held).into_iter().chain(page.iter().cloned()) {
            if item.name.ends_with('/') {
                shown.push(item);
                continue;
            }
            let shadow = shadow(&item);
            if page.binary_search_by(|other| other.name.cmp(&shadow)).is_ok() {
                continue;
            }
            let is_certain = is_last || last.as_ref().is_some_and(|last| *last >= shadow);
            if is_certain { shown.push(item) } else { self.held.push(item) }
        }
        let listed = shown.into_iter().filter_map(|item| {
            let name = item.name.trim_end_matches('/').to_owned();
            checked(OsStr::new(&name)).ok()?;
            Some(Listed { name, entry: item.entry })
        });
        self.window.extend(listed);
    }
}

impl Server {
    /// Opens a directory.
    pub(crate) fn opendir(&self, number: u64) -> Result<u64, Failure> {
        let inode = self.inode(number)?;
        if inode.kind != EntryKind::Directory {
            return Err(Failure::Refused(Errno::ENOTDIR, "this is not a directory"));
        }
        Ok(self.directories.insert(DirectoryHandle { inode, cursor: Mutex::default() }))
    }

    /// Waits until a crash cannot lose the directory's names. On a store a name is durable when the call that made
    /// it returns, on a local disk only now. A removed directory has none.
    pub(crate) async fn fsyncdir(&self, handle: u64) -> Result<(), Failure> {
        let handle = self.directories.find(handle).ok_or(Failure::Refused(Errno::EBADF, "no such handle"))?;
        let Some(path) = handle.inode.path() else { return Ok(()) };
        Ok(self.namespace.sync_directory(&self.context, &path).await?)
    }

    /// Entries of a directory from an offset on: at least one unless it ends there.
    pub(crate) async fn readdir(&self, handle: u64, offset: u64) -> Result<Batch, Failure> {
        let Some(handle) = self.directories.find(handle) else {
            return Err(Failure::Refused(Errno::EBADF, "no such handle"));
        };
        // Gone with an empty listing, as on any file system where the directory was removed meanwhile.
        let Some(path) = handle.inode.path() else { return Ok(Batch::default()) };
        let known = handle.cursor.lock().expect("no panic under this lock").take();
        let mut cursor = known.filter(|cursor| cursor.base <= offset && offset > 0).unwrap_or_default();
        while cursor.base + cursor.window.len() as u64 <= offset && !cursor.is_complete {
            self.next_page(&path, &mut cursor, offset).await?;
        }
        let skip = usize::try_from(offset - cursor.base).unwrap_or(usize::MAX);
        let entries = cursor.window.iter().skip(skip).cloned().collect();
        *handle.cursor.lock().expect("no panic under this lock") = Some(cursor);
        Ok(Batch { path: Some(path), directory: handle.inode.number, entries })
    }

    async fn next_page(&self, path: &NsPath, cursor: &mut Cursor, offset: u64) -> Result<(), Failure> {
        if cursor.base == 0 && cursor.window.is_empty() && cursor.after.is_none() {
            self.begin_listing(path, cursor).await?;
        }
        // The kernel has what lies before the offset; the page before it may be asked for again.
        let done = offset.saturating_sub(cursor.base).min(cursor.window.len() as u64);
        cursor.window.drain(..done as usize);
        cursor.base += done;
        let query = ListQuery {
            prefix: String::new(),
            shallow: true,
            start_after: cursor.after.clone(),
            limit: PAGE_NAMES,
        };
        let page = self.namespace.list_unfollowed(&self.context, path, &query).await?;
        cursor.after = page.items.last().map(|item| item.name.clone()).or(cursor.after.take());
        cursor.is_complete = !page.is_truncated;
        cursor.extend(&page.items, !page.is_truncated);
        Ok(())
    }

    /// Begins with the dots and the files that only we know.
    async fn begin_listing(&self, path: &NsPath, cursor: &mut Cursor) -> Result<(), Failure> {
        let own = self.stat(path).await?;
        cursor.window.push_back(Listed { name: ".".into(), entry: own.clone() });
        cursor.window.push_back(Listed { name: "..".into(), entry: own });
        for (known, inode) in self.table.subtree(path) {
            let Some(writing) = inode.writing().filter(|writing| writing.is_new()) else { continue };
            let Ok(at) = NsPath::parse(&known) else { continue };
            if at.parent().as_ref() == Some(path) {
                let (entry, _) = writing.attributes()?;
                cursor.window.push_back(Listed { name: at.name().to_owned(), entry });
            }
        }
        Ok(())
    }

    /// Closes a directory.
    pub(crate) fn releasedir(&self, handle: u64) {
        self.directories.remove(handle);
    }

    /// What `readdir` shows of an entry without looking it up: its number may change when it is looked up.
    pub(crate) fn number_of(&self, batch: &Batch, listed: &Listed) -> INodeNo {
        match batch.child(listed) {
            Some(path) => INodeNo(self.table.number(&path, listed.entry.file_id)),
            None => INodeNo(batch.directory),
        }
    }

    /// What `readdirplus` shows of an entry, counted as a look-up unless it is one of the dots.
    pub(crate) fn plus(&self, batch: &Batch, listed: &Listed) -> Found {
        if let Some(path) = batch.child(listed) {
            return self.found(&self.table.remember(&path, &listed.entry), &listed.entry);
        }
        let attr = attr::of_entry(batch.directory, &listed.entry, self.settings.owner);
        Found { attr, ttl: self.settings.attr_ttl }
    }

    /// Makes a directory.
    pub(crate) async fn mkdir(&self, parent: u64, name: &OsStr, new: NewFile) -> Result<Found, Failure> {
        let path = self.child(parent, name)?;
        if self.is_new(&path) {
            return Err(Failure::Refused(Errno::EEXIST, "the name is taken"));
        }
        let mut entry = self.namespace.mkdir(&self.context, &path, MkdirMode::New).await?;
        let (mode, present) = (new.mode & 0o7777, entry.attributes);
        if (present.mode, present.uid, present.gid) != (mode, new.uid, new.gid) {
            let change = AttributeChange {
                mode: Some(mode),
                uid: Some(new.uid),
                gid: Some(new.gid),
                ..AttributeChange::default()
            };
            match self.namespace.set_attributes(&self.context, &path, change).await {
                Ok(changed) => entry = changed,
                Err(e) if e.kind() == ErrorKind::Unsupported => {}
                Err(e) => return Err(e.into()),
            }
        }
        Ok(self.found(&self.table.remember(&path, &entry), &entry))
    }
}

/// Entries that one `readdir` may answer with.
#[derive(Default)]
pub(crate) struct Batch {
    path: Option<NsPath>,
    directory: u64,
    pub(crate) entries: Vec<Listed>,
}

impl Batch {
    /// The path of an entry; `None` for the dots.
    fn child(&self, listed: &Listed) -> Option<NsPath> {
        if matches!(listed.name.as_str(), "." | "..") {
            return None;
        }
        self.path.as_ref()?.join(&listed.name).ok()
    }

    /// Whether a look-up is counted for an entry.
    pub(crate) fn is_counted(&self, listed: &Listed) -> bool {
        self.child(listed).is_some()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::SystemTime;

    use forebay_core::{Attributes, ETag, FileId, Version};

    use super::*;

    fn item(name: &str) -> ListItem {
        let now = SystemTime::UNIX_EPOCH;
        let kind = if name.ends_with('/') { EntryKind::Directory } else { EntryKind::File };
        let entry = Entry {
            file_id: FileId::of(&[name.as_bytes()]),
            kind,
            size_bytes: 0,
            version: Version::Strong(Arc::from("1")),
            etag: ETag::new("1"),
            modified: now,
            attributes: Attributes { mode: 0o644, uid: 0, gid: 0, accessed: now, changed: now },
            headers: None,
        };
        ListItem { name: name.to_owned(), is_prefix: false, entry }
    }

    fn shown(pages: &[&[&str]]) -> Vec<(String, EntryKind)> {
        let mut cursor = Cursor::default();
        for (i, page) in pages.iter().enumerate() {
            let items: Vec<_> = page.iter().map(|name| item(name)).collect();
            cursor.extend(&items, i + 1 == pages.len());
        }
        cursor.window.into_iter().map(|listed| (listed.name, listed.entry.kind)).collect()
    }

    #[test]
    fn a_directory_shadows_the_file_of_its_name_across_pages() {
        let directory = ("a".to_owned(), EntryKind::Directory);
        let other = ("a-b".to_owned(), EntryKind::File);
        assert_eq!(shown(&[&["a", "a-b", "a/"]]), [other.clone(), directory.clone()]);
        assert_eq!(shown(&[&["a", "a-b"], &["a/"]]), [other, directory]);
        assert_eq!(shown(&[&["a"], &["b"]]).len(), 2, "a file held back is shown in the end");
    }

    #[test]
    fn names_that_linux_cannot_look_up_are_left_out() {
        assert!(shown(&[&[&"x".repeat(256)]]).is_empty());
    }
}
