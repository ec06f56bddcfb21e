//! Looking at entries: from memory where that may be trusted, else from the store.

use std::sync::Arc;

use forebay_core::{
    Attributes, ETag, Entry, EntryKind, Error, ErrorKind, FileId, Key, ListQuery, Result, Version, Want,
};

use super::Core;
use super::attributes::{Answer, Existence, Found};
use super::file::ObjectFile;
use super::request::existence;
use crate::backend::Object;

/// Tag of all directories: the MD5 of nothing, which is what S3 shows for a marker.
const DIRECTORY_TAG: &str = "d41d8cd98f00b204e9800998ecf8427e";

/// Permission bits of all symbolic links.
const LINK_MODE: u32 = 0o777;

/// Whether a file's S3 headers are needed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Detail {
    /// Size, version and times are enough.
    Plain,
    /// Headers too, where the store keeps them.
    Headers,
}

impl Core {
    pub(super) fn try_stat(&self, key: &Key, want: Want) -> Option<Result<Entry>> {
        if key.is_root() {
            return Some(match want {
                Want::File => Err(not_found()),
                Want::Directory | Want::Any | Want::Unfollowed => Ok(self.shown(key, self.root_entry())),
            });
        }
        let found = match want {
            Want::File => self.remembered_file(key, Detail::Headers)?.found(),
            Want::Directory => self.remembered_directory(key)?.found(),
            Want::Any | Want::Unfollowed => {
                self.attributes.any(key.as_str(), self.clock.now())?.found().map(|found| match found {
                    Found::Directory(existence) => self.directory_entry(key, existence),
                    Found::File(entry) => entry,
                })
            }
        };
        Some(found.map(|entry| self.as_wanted(key, entry, want)).ok_or_else(not_found))
    }

    pub(super) async fn stat(&self, key: &Key, want: Want) -> Result<Entry> {
        if let Some(answer) = self.try_stat(key, want) {
            return answer;
        }
        if (want != Want::File || !self.info.capability.headers)
            && self.recall(key).await
            && let Some(answer) = self.try_stat(key, want)
        {
            return answer;
        }
        let found = match want {
            Want::File => self.find_file(key, Detail::Headers).await?,
            Want::Directory => self.find_directory(key).await?,
            Want::Any | Want::Unfollowed => self.find_any(key).await?,
        };
        found.map(|entry| self.as_wanted(key, entry, want)).ok_or_else(not_found)
    }

    /// Remembers what the metadata store knows of `key`, where nothing else is remembered; whether it knew anything.
    async fn recall(&self, key: &Key) -> bool {
        let Some(listings) = self.kept_listings() else { return false };
        let (token, now) = (self.attributes.token(), self.clock.now());
        let (trusting, own) = (self.attributes.trusting(now), key.clone());
        let known = listings.look(key.as_str(), move |since| trusting.covers(own.as_str(), since)).await;
        let Some([file, directory]) = known else { return false };
        let name = key.as_str();
        let is_known = file.is_some() || directory.is_some();
        if let Some(file) = file.filter(|_| self.attributes.file(name, now).is_none()) {
            let entry = file.object.map(|object| self.file_entry(&object));
            self.learn_file(name, entry.as_ref(), token, file.since);
        }
        if let Some(directory) = directory.filter(|_| self.attributes.directory(name, now).is_none()) {
            let existence = directory.object.map(|object| existence(&object));
            self.attributes.learn_directory(name, existence, token, directory.since);
        }
        is_known
    }

    /// The directory at `key`, else the file.
    async fn find_any(&self, key: &Key) -> Result<Option<Entry>> {
        if self.is_hierarchical() {
            return self.ask_for_either(key).await;
        }
        match futures::future::join(self.find_directory(key), self.find_file(key, Detail::Plain)).await {
            (Ok(Some(directory)), _) => Ok(Some(directory)),
            (Ok(None), file) => file,
            // What is written here is seen here, also while the store cannot say whether a directory has the name.
            (Err(_), Ok(Some(file))) if self.pending(key.as_str()).is_some() => Ok(Some(file)),
            (Err(e), _) => Err(e),
        }
    }

    /// The entry that WebHDFS and FUSE see, not yet overlaid, and the name its attributes are kept under.
    pub(super) async fn named(&self, key: &Key) -> Result<(String, Entry)> {
        if key.is_root() {
            return Ok((String::new(), self.root_entry()));
        }
        let entry = self.find_any(key).await?.ok_or_else(not_found)?;
        Ok((entry_name(key, &entry), entry))
    }

    /// The file at `key`, remembered or asked for.
    pub(super) async fn find_file(&self, key: &Key, detail: Detail) -> Result<Option<Entry>> {
        match self.remembered_file(key, detail) {
            Some(answer) => Ok(answer.found()),
            None if detail == Detail::Plain && self.is_hierarchical() => {
                Ok(self.ask_for_either(key).await?.filter(|entry| !entry.is_directory()))
            }
            None => self.ask_for_file(key).await,
        }
    }

    /// The file at `key` as the store has it now.
    pub(super) async fn ask_for_file(&self, key: &Key) -> Result<Option<Entry>> {
        let token = self.attributes.token();
        let found = self.look(key.as_str()).await?.map(|object| self.file_entry(&object));
        self.learn_file(key.as_str(), found.as_ref(), token, self.clock.now());
        Ok(found)
    }

    /// The directory at `key`, remembered or asked for.
    pub(super) async fn find_directory(&self, key: &Key) -> Result<Option<Entry>> {
        if key.is_root() {
            return Ok(Some(self.root_entry()));
        }
        if let Some(answer) = self.remembered_directory(key) {
            return Ok(answer.found());
        }
        if self.is_hierarchical() {
            return Ok(self.ask_for_either(key).await?.filter(Entry::is_directory));
        }
        let token = self.attributes.token();
        let prefix = key.directory_prefix();
        let found = self
            .first_below(&prefix, 1)
            .await?
            .first()
            .map(|first| if first.key == prefix { Existence::Marked } else { Existence::Implied });
        self.attributes.learn_directory(key.as_str(), found, token, self.clock.now());
        Ok(found.map(|existence| self.directory_entry(key, existence)))
    }

    /// The first keys that start with `prefix`.
    pub(super) async fn first_below(&self, prefix: &str, limit: usize) -> Result<Vec<Object>> {
        let query = ListQuery { prefix: prefix.to_owned(), shallow: false, start_after: None, limit };
        Ok(self.page(&query).await?.objects)
    }

    fn remembered_file(&self, key: &Key, detail: Detail) -> Option<Answer<Entry>> {
        let answer = self.attributes.file(key.as_str(), self.clock.now())?;
        let needs_headers = detail == Detail::Headers && self.info.capability.headers;
        match &answer {
            Answer::There(entry) if needs_headers && entry.headers.is_none() => None,
            Answer::There(_) | Answer::Missing => Some(answer),
        }
    }

    fn remembered_directory(&self, key: &Key) -> Option<Answer<Entry>> {
        Some(match self.attributes.directory(key.as_str(), self.clock.now())? {
            Answer::There(existence) => Answer::There(self.directory_entry(key, existence)),
            Answer::Missing => Answer::Missing,
        })
    }

    /// Opens the present version of a file.
    pub(super) async fn open(self: &Arc<Self>, key: &Key, want: Want) -> Result<ObjectFile> {
        let entry = self.stat(key, want).await?;
        match entry.kind {
            EntryKind::File => Ok(ObjectFile::new(self, key, entry)),
            EntryKind::Directory => Err(Error::new(ErrorKind::IsDirectory, "this is a directory")),
            EntryKind::Link => Err(Error::new(ErrorKind::Stale, "this is a symbolic link by now")),
        }
    }

    /// An object as the namespace shows a file, without what was set over it.
    pub(super) fn file_entry(&self, object: &Object) -> Entry {
        let (tag, store) = (object.etag.as_str(), self.backend.fingerprint().as_bytes());
        let own = match object.inode {
            Some(inode) => FileId::of(&[store, b"inode", &inode.to_le_bytes()]),
            None => FileId::of(&[store, object.key.as_bytes(), tag.as_bytes()]),
        };
        Entry {
            file_id: self.ledger.resolve(&object.key, &object.etag, own),
            kind: EntryKind::File,
            size_bytes: object.size_bytes,
            version: if object.is_weak {
                Version::Weak(Arc::from(tag))
            } else {
                Version::Strong(Arc::from(tag))
            },
            etag: object.etag.clone(),
            modified: object.modified,
            attributes: self.attributes_of(0o644, object.modified),
            headers: object.headers.clone(),
        }
    }

    /// A directory as the namespace shows it, without what was set over it.
    pub(super) fn directory_entry(&self, key: &Key, existence: Existence) -> Entry {
        let store = self.backend.fingerprint().as_bytes();
        let own = match existence {
            Existence::Real(inode) => FileId::of(&[store, b"inode", &inode.to_le_bytes()]),
            Existence::Implied | Existence::Marked => {
                FileId::of(&[store, key.as_str().as_bytes(), b"directory"])
            }
        };
        let etag = ETag::new(DIRECTORY_TAG);
        Entry {
            file_id: self.ledger.resolve(&key.directory_prefix(), &etag, own),
            kind: EntryKind::Directory,
            size_bytes: 0,
            version: Version::Strong(Arc::from(DIRECTORY_TAG)),
            etag,
            modified: self.info.mounted,
            attributes: self.attributes_of(0o755, self.info.mounted),
            headers: None,
        }
    }

    /// The mount's root, which is there whatever the store has.
    pub(super) fn root_entry(&self) -> Entry {
        self.directory_entry(&Key::root(), Existence::Implied)
    }

    /// An entry with the attributes that were set for it.
    pub(super) fn shown(&self, key: &Key, mut entry: Entry) -> Entry {
        if self.ledger.is_used() {
            self.ledger.apply(&entry_name(key, &entry), &mut entry);
        }
        entry
    }

    /// As [`Core::shown`], and a symbolic link as what it is to those who do not have links followed.
    pub(super) fn as_wanted(&self, key: &Key, mut entry: Entry, want: Want) -> Entry {
        if want != Want::Unfollowed {
            return self.shown(key, entry);
        }
        if self.ledger.is_used() && self.ledger.apply(&entry_name(key, &entry), &mut entry) {
            entry.kind = EntryKind::Link;
            // A file with the same content is another entry: it may come to this name.
            entry.file_id = FileId::of(&[b"link", &entry.file_id.as_u128().to_le_bytes()]);
            entry.attributes.mode = LINK_MODE;
        }
        entry
    }

    fn attributes_of(&self, mode: u32, time: std::time::SystemTime) -> Attributes {
        let (uid, gid) = self.owner;
        Attributes { mode, uid, gid, accessed: time, changed: time }
    }
}

/// The name that an entry's identity and attributes are kept under.
fn entry_name(key: &Key, entry: &Entry) -> String {
    match entry.kind {
        EntryKind::File | EntryKind::Link => key.as_str().to_owned(),
        EntryKind::Directory => key.directory_prefix(),
    }
}

pub(super) fn not_found() -> Error {
    Error::new(ErrorKind::NotFound, "no such file or directory")
}
