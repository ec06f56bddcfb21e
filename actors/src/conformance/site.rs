//! Where the checks work, and the few steps that all of them are made of.

use std::sync::Arc;

use bytes::Bytes;
use forebay_core::{
    ByteRange, Entry, Error, ErrorKind, Key, ListItem, ListQuery, Mount, OpenFile, Precondition, Publish,
    Result, Target, Want,
};
use futures::stream::{self, TryStreamExt};
use uuid::Uuid;

use super::{DIRECTORY_PREFIX, Depth, Outcome};

/// How much is staged at once.
const PIECE_BYTES: usize = 4 << 20;
/// Files written at once where there are many.
const WRITERS: usize = 16;
/// A size that stores take in several parts.
pub(super) const CHUNKED_BYTES: usize = 17 << 20;

/// The mount and the suite's directory in it.
pub(super) struct Site {
    pub(super) mount: Arc<dyn Mount>,
    pub(super) root: Key,
    pub(super) depth: Depth,
}

/// `len` bytes that nothing compresses and that differ by `seed`.
pub(super) fn content(seed: u64, len: usize) -> Bytes {
    let mut bytes = vec![0; len];
    fastrand::Rng::with_seed(seed).fill(&mut bytes);
    Bytes::from(bytes)
}

/// Fails with what was seen unless `holds`.
pub(super) fn ensure(holds: bool, seen: impl FnOnce() -> String) -> Result<()> {
    if holds { Ok(()) } else { Err(Error::new(ErrorKind::Internal, seen())) }
}

/// Fails unless `answer` is an error of one of `kinds`.
pub(super) fn ensure_refused<T>(answer: Result<T>, kinds: &[ErrorKind], what: &str) -> Result<()> {
    match answer {
        Ok(_) => Err(Error::new(ErrorKind::Internal, format!("{what} was accepted"))),
        Err(e) if kinds.contains(&e.kind()) => Ok(()),
        Err(e) => {
            let message = format!("{what} was refused as {}", e.kind().as_str());
            Err(Error::new(ErrorKind::Internal, message).because(e))
        }
    }
}

/// What a store lacks.
pub(super) fn lacks(instead: &str) -> Outcome {
    Outcome::Lacks { instead: instead.to_owned() }
}

impl Site {
    pub(super) fn new(mount: Arc<dyn Mount>, depth: Depth) -> Self {
        let root = Key::parse(&format!("{DIRECTORY_PREFIX}{}", Uuid::new_v4())).expect("a legal name");
        Self { mount, root, depth }
    }

    /// A name below the suite's directory.
    pub(super) fn key(&self, name: &str) -> Result<Key> {
        self.root.join(name)
    }

    /// Writes a whole file.
    pub(super) async fn publish(&self, key: &Key, content: &Bytes, publish: Publish) -> Result<Entry> {
        let staged = self.mount.stage(Target::Replace(key.clone())).await?;
        let mut offset = 0;
        for piece in content.chunks(PIECE_BYTES) {
            staged.write_at(offset, content.slice_ref(piece)).await?;
            offset += piece.len() as u64;
        }
        staged.publish(publish).await
    }

    /// Writes a whole file under a condition.
    pub(super) async fn put_if(&self, key: &Key, content: &Bytes, condition: Precondition) -> Result<Entry> {
        self.publish(key, content, Publish { condition, ..Publish::default() }).await
    }

    /// Writes a whole file.
    pub(super) async fn put(&self, key: &Key, content: &Bytes) -> Result<Entry> {
        self.put_if(key, content, Precondition::None).await
    }

    /// Writes many small files below `directory`; the content of each is its name.
    pub(super) async fn put_all(&self, directory: &Key, names: &[String]) -> Result<()> {
        stream::iter(names.iter().map(Ok))
            .try_for_each_concurrent(WRITERS, |name| async move {
                let key = directory.join(name)?;
                self.put(&key, &Bytes::copy_from_slice(name.as_bytes())).await.map(drop)
            })
            .await
    }

    /// Looks at a file.
    pub(super) async fn file(&self, key: &Key) -> Result<Entry> {
        self.mount.stat(key, Want::File).await
    }

    /// A file as its listing shows it.
    pub(super) async fn listed(&self, key: &Key) -> Result<Entry> {
        let query =
            ListQuery { prefix: key.as_str().to_owned(), shallow: true, start_after: None, limit: 10 };
        let found = self.mount.list(&query).await?.items.into_iter().find(|item| item.name == key.as_str());
        found.map(|item| item.entry).ok_or_else(|| {
            Error::new(ErrorKind::Internal, format!("the listing does not show {:?}", key.name()))
        })
    }

    /// A whole file.
    pub(super) async fn get(&self, key: &Key) -> Result<Vec<u8>> {
        let file = self.mount.open(key, Want::File).await?;
        read(&*file, ByteRange::new(0, file.entry().size_bytes)).await
    }

    /// Fails unless a file holds exactly `content`.
    pub(super) async fn ensure_content(&self, key: &Key, content: &[u8]) -> Result<()> {
        let seen = self.get(key).await?;
        ensure(seen == content, || {
            format!(
                "{:?} reads as {} bytes that are not the {} written",
                key.name(),
                seen.len(),
                content.len()
            )
        })
    }

    /// All items of a listing below `prefix` (of the mount), page by page, with the pages checked.
    pub(super) async fn items(&self, prefix: &str, shallow: bool, limit: usize) -> Result<Vec<ListItem>> {
        let mut query = ListQuery { prefix: prefix.to_owned(), shallow, start_after: None, limit };
        let mut items: Vec<ListItem> = Vec::new();
        loop {
            let page = self.mount.list(&query).await?;
            ensure(page.items.len() <= limit, || {
                format!("a page of {limit} names holds {}", page.items.len())
            })?;
            ensure(!page.is_truncated || !page.items.is_empty(), || {
                "an empty page says that there is more".to_owned()
            })?;
            for item in page.items {
                let before = items.last().map(|item| item.name.as_str());
                ensure(before.is_none_or(|before| *before < *item.name), || {
                    format!("{:?} is listed after {before:?}", item.name)
                })?;
                items.push(item);
            }
            if !page.is_truncated {
                return Ok(items);
            }
            query.start_after = items.last().map(|item| item.name.clone());
        }
    }

    /// As [`Site::items`]: the names below `directory`, relative to it.
    pub(super) async fn names(&self, directory: &Key, shallow: bool, limit: usize) -> Result<Vec<String>> {
        let prefix = directory.directory_prefix();
        let items = self.items(&prefix, shallow, limit).await?;
        Ok(items
            .into_iter()
            .filter(|item| item.name != prefix)
            .map(|item| item.name[prefix.len()..].to_owned())
            .collect())
    }
}

/// Exactly `range` of an open file.
pub(super) async fn read(file: &dyn OpenFile, range: ByteRange) -> Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(range.len as usize);
    while (bytes.len() as u64) < range.len {
        let done = bytes.len() as u64;
        let rest = ByteRange::new(range.offset + done, (range.len - done).min(PIECE_BYTES as u64));
        for piece in file.read_bytes(rest).await? {
            bytes.extend_from_slice(&piece);
        }
        ensure(bytes.len() as u64 > done, || "a read inside the file returned nothing".to_owned())?;
    }
    ensure(bytes.len() as u64 == range.len, || "a read returned more than it was asked for".to_owned())?;
    Ok(bytes)
}
