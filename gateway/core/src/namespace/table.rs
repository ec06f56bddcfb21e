//! The mount table: an immutable snapshot of which mount serves which path.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::SystemTime;

use crate::{
    Attributes, ETag, Entry, EntryKind, Error, ErrorKind, FileId, Key, Mount, NsPath, Result, Version,
};

/// Mounts by path. Nested mounts shadow what lies under them.
#[derive(Default)]
pub struct MountTable {
    /// Sorted by path, for listings.
    mounts: Vec<(NsPath, Arc<dyn Mount>)>,
    /// Index into `mounts`, by path text.
    by_path: HashMap<Box<str>, usize>,
    /// Every path with a mount point strictly below it, and `/`: directories in any case.
    above: HashSet<Box<str>>,
}

impl MountTable {
    /// A table of these mounts.
    ///
    /// # Errors
    /// `AlreadyExists` when two have one path.
    pub fn new(mounts: impl IntoIterator<Item = (NsPath, Arc<dyn Mount>)>) -> Result<Self> {
        let mut mounts: Vec<_> = mounts.into_iter().collect();
        mounts.sort_by(|(a, _), (b, _)| a.cmp(b));
        if let Some(pair) = mounts.windows(2).find(|pair| pair[0].0 == pair[1].0) {
            let message = format!("two mounts at {}", pair[0].0);
            return Err(Error::new(ErrorKind::AlreadyExists, message));
        }
        let by_path = mounts.iter().enumerate().map(|(i, (path, _))| (Box::from(path.as_str()), i)).collect();
        let mut above: HashSet<Box<str>> = HashSet::from([Box::from("/")]);
        above.extend(mounts.iter().flat_map(|(path, _)| path.ancestors().skip(1)).map(Box::from));
        Ok(Self { mounts, by_path, above })
    }

    /// All mounts in order of their paths.
    pub fn mounts(&self) -> &[(NsPath, Arc<dyn Mount>)] {
        &self.mounts
    }

    /// The mount at exactly `path`.
    pub fn at(&self, path: &NsPath) -> Option<&Arc<dyn Mount>> {
        self.by_path.get(path.as_str()).map(|&i| &self.mounts[i].1)
    }

    /// The mount that serves `path`, its path, and the key of `path` there.
    pub(crate) fn owner(&self, path: &NsPath) -> Option<(&Arc<dyn Mount>, Key)> {
        let index = *path.ancestors().find_map(|ancestor| self.by_path.get(ancestor))?;
        let (at, mount) = &self.mounts[index];
        path.relative_to(at).map(|key| (mount, key))
    }

    /// Mounts strictly below `path`.
    pub(crate) fn below<'a>(
        &'a self,
        path: &'a NsPath,
    ) -> impl Iterator<Item = &'a (NsPath, Arc<dyn Mount>)> {
        self.mounts.iter().filter(move |(at, _)| at != path && at.starts_with(path))
    }

    /// Whether `path` is a directory in any case because a mount point lies strictly below it.
    pub(crate) fn is_above_mount(&self, path: &NsPath) -> bool {
        self.above.contains(path.as_str())
    }
}

/// The entry of a directory that exists only because mounts lie below it.
pub(crate) fn virtual_directory(path: &NsPath, since: SystemTime) -> Entry {
    let identity: [&[u8]; 2] = [b"virtual", path.as_str().as_bytes()];
    Entry {
        file_id: FileId::of(&identity),
        kind: EntryKind::Directory,
        size_bytes: 0,
        version: Version::Strong(Arc::from("virtual")),
        etag: ETag::minted(&identity),
        modified: since,
        attributes: Attributes { mode: 0o755, uid: 0, gid: 0, accessed: since, changed: since },
        headers: None,
    }
}
