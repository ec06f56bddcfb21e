//! What a store with directories of its own does in one request: look-ups, renames and the removal of trees.

use forebay_core::{DeleteMode, Entry, EntryKind, Error, ErrorKind, Key, RenameMode, Result, Want};

use super::Core;
use super::request::existence;
use crate::backend::Object;
use crate::mount::vitals::Repeat;

impl Core {
    /// Whether a name is a file or a directory, and never both.
    pub(super) fn is_hierarchical(&self) -> bool {
        self.info.capability.hierarchical
    }

    /// What a hierarchical store has under a name, or will have when what is pending is there.
    async fn either(&self, key: &Key) -> Result<Option<Object>> {
        if let Some(object) = self.pending(key.as_str()) {
            return Ok(Some(object));
        }
        // Looked at before the store is asked: what is uploaded meanwhile is in one of the two.
        let below = key.directory_prefix();
        let is_implied = self.staging.pending().is_any_below(&below);
        match self.vitals.run("stat", Repeat::Safe, || self.backend.find(key.as_str())).await {
            Ok(object) => Ok(Some(self.as_known(object))),
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(is_implied.then(|| Object::prefix(&below))),
            Err(e) => Err(e),
        }
    }

    /// Refuses a file in the place of a directory or below a file, as far as that is known without the store.
    pub(super) fn check_place(&self, key: &Key) -> Result<()> {
        if !self.is_hierarchical() {
            return Ok(());
        }
        let is_directory = |key: &Key| {
            let pending = self.staging.pending();
            if pending.latest(key.as_str()).is_some() {
                return Some(false);
            }
            if pending.is_any_below(&key.directory_prefix()) {
                return Some(true);
            }
            self.try_stat(key, Want::Any)?.ok().map(|entry| entry.is_directory())
        };
        if is_directory(key) == Some(true) {
            return Err(Error::new(ErrorKind::IsDirectory, "a directory has this name"));
        }
        let mut above = key.parent();
        while let Some(parent) = above.filter(|parent| !parent.is_root()) {
            if is_directory(&parent) == Some(false) {
                return Err(Error::new(ErrorKind::NotDirectory, format!("{parent} is a file")));
            }
            above = parent.parent();
        }
        Ok(())
    }

    /// The file or directory at `key` as a hierarchical store has it now; files without their headers.
    pub(super) async fn ask_for_either(&self, key: &Key) -> Result<Option<Entry>> {
        let token = self.attributes.token();
        let found = self.either(key).await?;
        let (name, now) = (key.as_str(), self.clock.now());
        let Some(object) = found else {
            self.learn_file(name, None, token, now);
            self.attributes.learn_directory(name, None, token, now);
            return Ok(None);
        };
        if object.key.ends_with('/') {
            let existence = existence(&object);
            self.learn_file(name, None, token, now);
            self.attributes.learn_directory(name, Some(existence), token, now);
            return Ok(Some(self.directory_entry(key, existence)));
        }
        let entry = self.file_entry(&object);
        self.attributes.learn_directory(name, None, token, now);
        self.learn_listed(key, &entry, token);
        Ok(Some(entry))
    }

    /// Removes a directory as `mode` says, or with [`DeleteMode::Tree`] the file of that name.
    pub(super) async fn delete_directory(&self, key: &Key, mode: DeleteMode) -> Result<bool> {
        self.settled_tree(key).await?;
        let Some(object) = self.either(key).await? else { return Ok(false) };
        let is_file = !object.key.ends_with('/');
        match mode {
            DeleteMode::Tree if !is_file => {
                let keys = [key.as_str()];
                let _change = self.change_trees(&keys);
                self.vitals.run("delete", Repeat::Safe, || self.backend.delete_tree(&object.key)).await?;
                self.ledger.forget_tree(&object.key);
                Ok(true)
            }
            DeleteMode::EmptyDirectory if is_file => {
                Err(Error::new(ErrorKind::NotDirectory, "this is a file"))
            }
            DeleteMode::Marker if is_file => Ok(false),
            // Its children go on keeping it.
            DeleteMode::Marker => match self.remove(&object.key).await {
                Err(e) if e.kind() == ErrorKind::NotEmpty => Ok(false),
                answer => answer.map(|()| true),
            },
            DeleteMode::Object | DeleteMode::File | DeleteMode::EmptyDirectory | DeleteMode::Tree => {
                self.remove(&object.key).await.map(|()| true)
            }
        }
    }

    /// Moves a file or directory in one request. `kinds` are those of the source and of what has the new name.
    pub(super) async fn rename_natively(
        &self,
        (from, to): (&Key, &Key),
        kinds: (EntryKind, Option<EntryKind>),
        mode: RenameMode,
    ) -> Result<()> {
        self.check_key(to, 0)?;
        check_kinds(kinds, mode)?;
        self.settled_tree(from).await?;
        self.settled_tree(to).await?;
        let source = self.either(from).await?.ok_or_else(super::lookup::not_found)?;
        if source.key.ends_with('/') {
            return self.rename_tree(&source, (from, to), mode).await;
        }
        self.rename_file(&source, to, mode).await
    }

    async fn rename_file(&self, source: &Object, to: &Key, mode: RenameMode) -> Result<()> {
        let (old, new) = (source.key.as_str(), to.as_str());
        let (left, arrived) = (self.change(old), self.change(new));
        let moving = self.ledger.moving(old, new);
        self.send_rename(source, new, mode).await?;
        moving.done();
        self.carry_shown(old, new).await;
        left.moved();
        let moved = Object { key: new.to_owned(), ..source.clone() };
        let entry = self.file_entry(&moved);
        arrived.wrote_file(moved, &entry);
        Ok(())
    }

    async fn rename_tree(&self, source: &Object, (from, to): (&Key, &Key), mode: RenameMode) -> Result<()> {
        let (old, new) = (source.key.as_str(), to.directory_prefix());
        let keys = [from.as_str(), to.as_str()];
        let _change = self.change_trees(&keys);
        let moving = self.ledger.moving(old, &new);
        self.send_rename(source, &new, mode).await?;
        moving.done();
        self.carry_shown(old, &new).await;
        Ok(())
    }

    /// Clients know contents that were renamed as what they knew them as before.
    async fn carry_shown(&self, from: &str, to: &str) {
        if let Err(error) = self.staging.carry_shown(from, to).await {
            tracing::warn!(mount = &*self.label, from, to, %error, "renamed files change their tags once");
        }
    }

    /// Sent once: repeated, it would find the source gone. The backend resolves lost answers.
    async fn send_rename(&self, source: &Object, to: &str, mode: RenameMode) -> Result<()> {
        self.vitals.run("rename", Repeat::Once, || self.backend.rename(source, to, mode)).await
    }
}

/// # Errors
/// As POSIX rename where something is at the new name; whether a directory there is empty is the store's to say.
fn check_kinds(kinds: (EntryKind, Option<EntryKind>), mode: RenameMode) -> Result<()> {
    match (mode, kinds) {
        (_, (_, None))
        | (
            RenameMode::Replace,
            (EntryKind::File | EntryKind::Link, Some(EntryKind::File | EntryKind::Link))
            | (EntryKind::Directory, Some(EntryKind::Directory)),
        ) => Ok(()),
        (RenameMode::NoReplace, (_, Some(_))) => {
            Err(Error::new(ErrorKind::AlreadyExists, "a file or directory has the new name"))
        }
        (RenameMode::Replace, (EntryKind::File | EntryKind::Link, Some(EntryKind::Directory))) => {
            Err(Error::new(ErrorKind::IsDirectory, "a directory has the new name"))
        }
        (RenameMode::Replace, (EntryKind::Directory, Some(EntryKind::File | EntryKind::Link))) => {
            Err(Error::new(ErrorKind::NotDirectory, "a file has the new name"))
        }
    }
}
