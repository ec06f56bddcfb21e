//! Copies and renames. Unless the store renames by itself ([`super::hierarchy`]), a rename is a copy and a deletion:
//! where it fails or is cut off in between, both names exist, and nothing of the source is lost.

use std::sync::Arc;

use forebay_core::{
    ByteRange, ETag, Entry, EntryKind, Error, ErrorKind, Headers, Key, ListQuery, Precondition, RenameMode,
    Result, Want,
};
use futures::stream::{self, TryStreamExt};

use super::Core;
use super::attributes::Existence;
use super::directory::{TREE_PAGE_KEYS, TREE_REQUESTS};
use super::lookup::not_found;
use super::request::Condition;
use crate::backend::{Object, Source};

/// How much is moved at once where the store cannot copy by itself.
const COPY_STEP_BYTES: u64 = 4 << 20;

impl Core {
    /// Copies one file inside the store.
    pub(super) async fn copy(
        &self,
        from: &Key,
        to: &Key,
        headers: Option<&Headers>,
        condition: &Precondition,
    ) -> Result<Entry> {
        self.check_key(to, 0)?;
        let source = self.look(from.as_str()).await?.ok_or_else(not_found)?;
        let change = self.change(to.as_str());
        let mut object = self.copy_inside(&source, to.as_str(), headers, condition).await?;
        if object.headers.is_none() {
            object.headers = headers.map(|headers| Arc::new(headers.clone())).or(source.headers);
        }
        self.ledger.release(to.as_str());
        self.ledger.forget_link(to.as_str());
        let entry = self.file_entry(&object);
        change.wrote_file(object, &entry);
        Ok(self.shown(to, entry))
    }

    pub(super) async fn rename(&self, from: &Key, to: &Key, mode: RenameMode) -> Result<()> {
        if from.is_root() || to.is_root() {
            return Err(Error::new(ErrorKind::InvalidArgument, "the root of a mount cannot be renamed"));
        }
        let parent = to.parent().expect("only the root has no parent");
        let (source, parent, target) = futures::future::join3(
            self.stat(from, Want::Any),
            self.require_directory(&parent),
            self.stat(to, Want::Any),
        )
        .await;
        let source = source?;
        if from == to {
            return Ok(());
        }
        if to.is_below(from) {
            let message = "a directory cannot be moved into itself";
            return Err(Error::new(ErrorKind::InvalidArgument, message));
        }
        parent?;
        if self.info.capability.native_rename {
            let target = match target {
                Ok(target) => Some(target.kind),
                Err(e) if e.kind() == ErrorKind::NotFound => None,
                Err(e) => return Err(e),
            };
            return self.rename_natively((from, to), (source.kind, target), mode).await;
        }
        match target {
            Ok(target) => self.check_target(to, (source.kind, target.kind), mode).await?,
            Err(e) if e.kind() == ErrorKind::NotFound => {}
            Err(e) => return Err(e),
        }
        match source.kind {
            EntryKind::File | EntryKind::Link => self.move_file(from, to, mode).await?,
            EntryKind::Directory => self.move_tree(from, to).await?,
        }
        self.keep_parent(from).await
    }

    /// # Errors
    /// As POSIX rename where something is at the new name.
    async fn check_target(&self, to: &Key, kinds: (EntryKind, EntryKind), mode: RenameMode) -> Result<()> {
        match (mode, kinds) {
            (RenameMode::NoReplace, _) => Err(exists()),
            (RenameMode::Replace, (EntryKind::File | EntryKind::Link, EntryKind::File | EntryKind::Link)) => {
                Ok(())
            }
            (RenameMode::Replace, (EntryKind::File | EntryKind::Link, EntryKind::Directory)) => {
                Err(Error::new(ErrorKind::IsDirectory, "a directory has the new name"))
            }
            (RenameMode::Replace, (EntryKind::Directory, EntryKind::File | EntryKind::Link)) => {
                Err(Error::new(ErrorKind::NotDirectory, "a file has the new name"))
            }
            (RenameMode::Replace, (EntryKind::Directory, EntryKind::Directory)) => {
                let prefix = to.directory_prefix();
                let first = self.first_below(&prefix, 2).await?;
                if first.iter().any(|object| object.key != prefix) {
                    return Err(Error::new(
                        ErrorKind::NotEmpty,
                        "the directory at the new name is not empty",
                    ));
                }
                Ok(())
            }
        }
    }

    /// Where nothing may be replaced, the store decides for small files, so that of two who rename to one name
    /// (commits of table formats) one wins; larger files are copied in the store, right after a look.
    async fn move_file(&self, from: &Key, to: &Key, mode: RenameMode) -> Result<()> {
        self.check_key(to, 0)?;
        let object = self.look(from.as_str()).await?.ok_or_else(not_found)?;
        let condition = match mode {
            RenameMode::NoReplace if object.size_bytes <= COPY_STEP_BYTES => {
                Condition::Own(Precondition::Absent)
            }
            RenameMode::NoReplace | RenameMode::Replace => Condition::NONE,
        };
        let moved = self.copy_to(&object, to.as_str(), &condition).await;
        moved.map_err(|e| if e.kind() == ErrorKind::PreconditionFailed { exists() } else { e })?;
        self.remove_copied(from.as_str(), &object.etag).await
    }

    /// Removes a file that was copied, unless another content was stored there since.
    async fn remove_copied(&self, name: &str, etag: &ETag) -> Result<()> {
        if self.look(name).await?.is_some_and(|present| present.etag == *etag) {
            return self.remove(name).await;
        }
        self.attributes.doubt_file(name);
        Ok(())
    }

    /// Copies all below `from`, then removes what was copied; what came to `from` meanwhile stays.
    async fn move_tree(&self, from: &Key, to: &Key) -> Result<()> {
        let (old, new) = (from.directory_prefix(), to.directory_prefix());
        let identity = self.directory_entry(from, Existence::Implied);
        let mut query =
            ListQuery { prefix: old.clone(), shallow: false, start_after: None, limit: TREE_PAGE_KEYS };
        let mut copied = Vec::new();
        loop {
            let page = self.page(&query).await?;
            query.start_after = page.objects.last().map(|object| object.key.clone());
            let names: Vec<_> =
                page.objects.iter().map(|object| (object.key.clone(), object.etag.clone())).collect();
            stream::iter(page.objects.into_iter().map(Ok))
                .try_for_each_concurrent(TREE_REQUESTS, |object| {
                    let target = format!("{new}{}", &object.key[old.len()..]);
                    async move { self.copy_to(&object, &target, &Condition::NONE).await }
                })
                .await?;
            copied.extend(names);
            if !page.is_truncated {
                break;
            }
        }
        self.ledger.keep(&new, &identity.etag, identity.file_id);
        self.ledger.carry_directories(&old, &new);
        let (markers, files) = copied.into_iter().partition::<Vec<_>, _>(|(name, _)| name.ends_with('/'));
        stream::iter(files.into_iter().map(Ok))
            .try_for_each_concurrent(TREE_REQUESTS, |(name, etag)| async move {
                self.remove_copied(&name, &etag).await
            })
            .await?;
        self.remove_all(markers.into_iter().rev().map(|(name, _)| name).collect()).await?;
        self.ledger.forget_directories(&old);
        Ok(())
    }

    /// Copies a file or marker; a file at the new name is the one it was at the old.
    async fn copy_to(&self, from: &Object, to: &str, condition: &Condition) -> Result<()> {
        let change = self.change(to);
        if to.ends_with('/') {
            self.copy_or_stream(from, to, condition).await?;
            change.wrote_directory(Existence::Marked);
            return Ok(());
        }
        let identity = self.file_entry(from).file_id;
        let mut object = self.copy_or_stream(from, to, condition).await?;
        if object.size_bytes != from.size_bytes {
            let message = format!("the copy has {} bytes of {}", object.size_bytes, from.size_bytes);
            return Err(Error::new(ErrorKind::Internal, message).at("copy", &from.key));
        }
        object.headers = object.headers.or_else(|| from.headers.clone());
        self.ledger.keep(to, &object.etag, identity);
        self.ledger.carry((&from.key, &from.etag), (to, &object.etag));
        let entry = self.file_entry(&object);
        change.wrote_file(object, &entry);
        Ok(())
    }

    async fn copy_or_stream(&self, from: &Object, to: &str, condition: &Condition) -> Result<Object> {
        let (Condition::Asked(asked) | Condition::Own(asked)) = condition;
        match self.copy_inside(from, to, None, asked).await {
            Err(e) if e.kind() == ErrorKind::Unsupported => {}
            answer => return answer,
        }
        let from = self.look(&from.key).await?.ok_or_else(not_found)?;
        let file = self.staging.light_file().await?;
        let mut done = 0;
        while done < from.size_bytes {
            let step = ByteRange::new(done, (from.size_bytes - done).min(COPY_STEP_BYTES));
            file.write_at(done, self.fetch(&from.key, step, &from.etag).await?).await?;
            done += step.len;
        }
        let source = Source::new(vec![(file.file(), from.size_bytes)]);
        self.put(to, &source, &from.headers.unwrap_or_default(), condition).await
    }
}

fn exists() -> Error {
    Error::new(ErrorKind::AlreadyExists, "a file or directory has the new name")
}
