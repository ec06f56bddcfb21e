//! Directories: made by their markers, removed with what lies below them.

use forebay_core::{
    DeleteMode, Entry, Error, ErrorKind, Key, ListQuery, MkdirMode, Precondition, Result, Want,
};
use futures::stream::{self, TryStreamExt};

use super::Core;
use super::attributes::{Answer, Existence};
use super::lookup::Detail;
use super::request::Condition;

/// Requests of one deletion or rename of a tree in flight.
pub(super) const TREE_REQUESTS: usize = 16;

/// Keys per page when a tree is walked.
pub(super) const TREE_PAGE_KEYS: usize = 1000;

impl Core {
    pub(super) async fn mkdir(&self, key: &Key, mode: MkdirMode) -> Result<Entry> {
        self.check_key(key, 1)?;
        let existence = match mode {
            MkdirMode::New => self.make_new(key).await?,
            MkdirMode::Parents if key.is_root() => Existence::Implied,
            MkdirMode::Parents => self.make_with_parents(key).await?,
        };
        Ok(self.shown(key, self.directory_entry(key, existence)))
    }

    async fn make_new(&self, key: &Key) -> Result<Existence> {
        self.require_free(key).await?;
        match self.put_marker(key, &Condition::Own(Precondition::Absent)).await {
            Err(e) if e.kind() == ErrorKind::PreconditionFailed => Err(exists()),
            answer => {
                // What was set for a directory that vanished at the store.
                self.ledger.forget_attributes(&key.directory_prefix());
                answer
            }
        }
    }

    /// # Errors
    /// `AlreadyExists`; `NotFound` and `NotDirectory` of the parent.
    pub(super) async fn require_free(&self, key: &Key) -> Result<()> {
        let Some(parent) = key.parent() else { return Err(exists()) };
        self.require_directory(&parent).await?;
        match self.stat(key, Want::Any).await {
            Ok(_) => Err(exists()),
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(()),
            Err(e) => Err(e),
        }
    }

    async fn make_with_parents(&self, key: &Key) -> Result<Existence> {
        if let Some(existence) = self.own_existence(key) {
            return Ok(existence);
        }
        if self.is_hierarchical() {
            // The store looks for files in the way itself.
            return self.put_marker(key, &Condition::NONE).await;
        }
        let (prefix, mut parents) = (key.directory_prefix(), Vec::new());
        let mut above = key.parent().filter(|parent| !parent.is_root());
        while let Some(parent) = above {
            above = parent.parent().filter(|parent| !parent.is_root());
            parents.push(parent);
        }
        let (own, marker, parents) = futures::future::try_join3(
            self.blocking_file(key),
            self.look(&prefix),
            futures::future::try_join_all(parents.iter().map(|parent| self.blocking_file(parent))),
        )
        .await?;
        if parents.contains(&true) {
            return Err(Error::new(ErrorKind::NotDirectory, "an ancestor is a file"));
        }
        if own {
            return Err(exists());
        }
        match marker {
            Some(_) => Ok(Existence::Marked),
            None => self.put_marker(key, &Condition::NONE).await,
        }
    }

    /// Whether there is a file and no directory at `key`.
    async fn blocking_file(&self, key: &Key) -> Result<bool> {
        if let Some(Answer::There(_)) = self.attributes.directory(key.as_str(), self.clock.now()) {
            return Ok(false);
        }
        Ok(self.find_file(key, Detail::Plain).await?.is_some() && self.find_directory(key).await?.is_none())
    }

    /// # Errors
    /// `NotFound`, `NotDirectory`.
    pub(super) async fn require_directory(&self, key: &Key) -> Result<()> {
        if self.find_directory(key).await?.is_some() {
            return Ok(());
        }
        match self.find_file(key, Detail::Plain).await? {
            Some(_) => Err(Error::new(ErrorKind::NotDirectory, format!("{key} is a file"))),
            None => Err(Error::new(ErrorKind::NotFound, format!("there is no directory {key}"))),
        }
    }

    /// How the directory exists, if it is known to stay without what lies below it.
    fn own_existence(&self, key: &Key) -> Option<Existence> {
        let known = self.attributes.directory(key.as_str(), self.clock.now())?;
        known.found().filter(|existence| existence.is_own())
    }

    pub(super) async fn delete(&self, key: &Key, mode: DeleteMode) -> Result<bool> {
        if key.is_root() {
            return Err(Error::new(ErrorKind::InvalidArgument, "the root of a mount cannot be removed"));
        }
        match mode {
            DeleteMode::Object => self.delete_object(key).await,
            DeleteMode::Marker | DeleteMode::EmptyDirectory | DeleteMode::Tree if self.is_hierarchical() => {
                self.delete_directory(key, mode).await
            }
            DeleteMode::Marker => {
                let name = key.directory_prefix();
                if self.look(&name).await?.is_none() {
                    return Ok(false);
                }
                self.remove(&name).await?;
                Ok(true)
            }
            DeleteMode::File => {
                if self.delete_object(key).await? {
                    self.keep_parent(key).await?;
                    return Ok(true);
                }
                match self.find_directory(key).await? {
                    Some(_) => Err(Error::new(ErrorKind::IsDirectory, "this is a directory")),
                    None => Ok(false),
                }
            }
            DeleteMode::EmptyDirectory => self.delete_empty(key).await,
            DeleteMode::Tree => {
                let is_removed = self.delete_tree(key).await? || self.delete_object(key).await?;
                if is_removed {
                    self.keep_parent(key).await?;
                }
                Ok(is_removed)
            }
        }
    }

    async fn delete_object(&self, key: &Key) -> Result<bool> {
        let known = self.attributes.file(key.as_str(), self.clock.now()).and_then(Answer::found);
        if known.is_none() && self.ask_for_file(key).await?.is_none() {
            return Ok(false);
        }
        self.remove(key.as_str()).await?;
        Ok(true)
    }

    async fn delete_empty(&self, key: &Key) -> Result<bool> {
        let name = key.directory_prefix();
        let first = self.first_below(&name, 2).await?;
        if first.iter().any(|object| object.key != name) {
            return Err(Error::new(ErrorKind::NotEmpty, "the directory is not empty"));
        }
        if first.is_empty() {
            return match self.find_file(key, Detail::Plain).await? {
                Some(_) => Err(Error::new(ErrorKind::NotDirectory, "this is a file")),
                None => Ok(false),
            };
        }
        self.remove(&name).await?;
        self.keep_parent(key).await?;
        Ok(true)
    }

    /// Removes all that lies below a directory, files before markers, so that it stays a directory until it is
    /// empty; `false` when there is none.
    async fn delete_tree(&self, key: &Key) -> Result<bool> {
        let mut query = ListQuery {
            prefix: key.directory_prefix(),
            shallow: false,
            start_after: None,
            limit: TREE_PAGE_KEYS,
        };
        let mut markers = Vec::new();
        loop {
            let page = self.page(&query).await?;
            let names: Vec<String> = page.objects.into_iter().map(|object| object.key).collect();
            query.start_after = names.last().cloned().or(query.start_after);
            let (directories, files) = names.into_iter().partition::<Vec<_>, _>(|name| name.ends_with('/'));
            self.remove_all(files).await?;
            markers.extend(directories);
            if !page.is_truncated {
                break;
            }
        }
        let is_found = query.start_after.is_some();
        markers.reverse();
        self.remove_all(markers).await?;
        self.ledger.forget_directories(&query.prefix);
        Ok(is_found)
    }

    /// Removes exact names, some at a time.
    pub(super) async fn remove_all(&self, names: Vec<String>) -> Result<()> {
        stream::iter(names.into_iter().map(Ok))
            .try_for_each_concurrent(TREE_REQUESTS, |name| async move { self.remove(&name).await })
            .await
    }

    /// Gives the parent of something removed a marker where it would no longer exist.
    pub(super) async fn keep_parent(&self, key: &Key) -> Result<()> {
        let Some(parent) = key.parent().filter(|parent| !parent.is_root()) else { return Ok(()) };
        if self.is_hierarchical()
            || self.own_existence(&parent).is_some()
            || !self.first_below(&parent.directory_prefix(), 1).await?.is_empty()
        {
            return Ok(());
        }
        self.put_marker(&parent, &Condition::NONE).await.map(drop)
    }
}

pub(super) fn exists() -> Error {
    Error::new(ErrorKind::AlreadyExists, "a file or directory has this name")
}
