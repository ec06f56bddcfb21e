//! Which identity a name has where it is not simply the one its store shows: after changes in place and renames.
//!
//! An identity belongs to one name at a time. Where a name's own identity was carried away by a rename, the next
//! file of that name and content gets a fresh one, so two files never share an inode.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use forebay_core::{ETag, FileId};

/// A bounded table of names (keys; directories end in `/`) that keep another identity than their own.
pub(super) struct Identities {
    /// Taken for a few look-ups, never across an await.
    table: Mutex<Table>,
    /// Names in the table; 0 saves the lock.
    len: AtomicUsize,
    limit: usize,
}

#[derive(Default)]
struct Table {
    kept: HashMap<Arc<str>, (ETag, FileId)>,
    /// Changes in place under way: the tag they began with.
    changing: HashMap<Arc<str>, (ETag, FileId)>,
    owners: HashMap<FileId, Arc<str>>,
    order: VecDeque<Arc<str>>,
    /// Begins anywhere: what earlier runs minted must not come again.
    minted: u64,
}

/// While it lives, whatever replaces the content of a name has the name's present identity.
pub(crate) struct Changing<'a> {
    identities: &'a Identities,
    name: Arc<str>,
}

impl Identities {
    pub(super) fn new(limit: usize) -> Self {
        let table = Table { minted: fastrand::u64(..), ..Table::default() };
        Self { table: Mutex::new(table), len: AtomicUsize::new(0), limit }
    }

    /// The identity of what `name` shows now, whose own would be `natural`; whether it was made up just now.
    pub(super) fn resolve(&self, name: &str, etag: &ETag, natural: FileId) -> (FileId, bool) {
        if self.len.load(Ordering::Acquire) == 0 {
            return (natural, false);
        }
        let mut table = self.table();
        if let Some((base, id)) = table.changing.get(name)
            && base != etag
        {
            return (*id, false);
        }
        if let Some((kept, id)) = table.kept.get(name)
            && kept == etag
        {
            return (*id, false);
        }
        match table.owners.get(&natural) {
            Some(owner) if **owner != *name => {
                table.minted = table.minted.wrapping_add(1);
                let count = table.minted.to_le_bytes();
                let id = FileId::of(&[b"again", &natural.as_u128().to_le_bytes(), &count]);
                self.insert(&mut table, name, etag, id);
                (id, true)
            }
            Some(_) | None => (natural, false),
        }
    }

    /// Announces that the content of `name`, now tagged `etag`, is about to change in place.
    pub(super) fn changing(&self, name: &str, etag: &ETag, id: FileId) -> Changing<'_> {
        let name: Arc<str> = Arc::from(name);
        let mut table = self.table();
        table.changing.insert(Arc::clone(&name), (etag.clone(), id));
        self.count(&table);
        Changing { identities: self, name }
    }

    /// Whether `name` keeps this identity with this tag.
    pub(super) fn keeps(&self, name: &str, etag: &ETag, id: FileId) -> bool {
        self.table().kept.get(name).is_some_and(|(kept, kept_id)| kept == etag && *kept_id == id)
    }

    /// Whether `name` keeps any identity.
    pub(super) fn keeps_any(&self, name: &str) -> bool {
        self.len.load(Ordering::Acquire) > 0 && self.table().kept.contains_key(name)
    }

    /// Whether `name`, or anything below it where it ends in `/`, keeps an identity.
    pub(super) fn holds(&self, name: &str) -> bool {
        self.len.load(Ordering::Acquire) > 0 && {
            let table = self.table();
            table.kept.contains_key(name)
                || (name.ends_with('/') && table.kept.keys().any(|kept| kept.starts_with(name)))
        }
    }

    /// All names with what they keep.
    pub(super) fn for_each(&self, mut look: impl FnMut(&str, &ETag, FileId)) {
        self.table().kept.iter().for_each(|(name, (etag, id))| look(name, etag, *id));
    }

    /// Gives `name` an identity for as long as it shows `etag`.
    pub(super) fn keep(&self, name: &str, etag: &ETag, id: FileId) {
        self.insert(&mut self.table(), name, etag, id);
    }

    /// The name that an identity moved to with the content tagged `etag`, if it did.
    pub(super) fn whereabouts(&self, id: FileId, etag: &ETag) -> Option<Arc<str>> {
        let table = self.table();
        let name = table.owners.get(&id)?;
        table.kept.get(name).filter(|(kept, _)| kept == etag).map(|_| Arc::clone(name))
    }

    /// Gives up what `name` kept: it is gone or a new file.
    pub(super) fn release(&self, name: &str) {
        if self.len.load(Ordering::Acquire) > 0 {
            let mut table = self.table();
            table.remove(name);
            self.count(&table);
        }
    }

    /// What `from` kept is kept by `to`, whose own is given up; both are files, or both end in `/` and stand for all
    /// below them. Contents keep their tags.
    pub(super) fn rename(&self, from: &str, to: &str) {
        if self.len.load(Ordering::Acquire) == 0 {
            return;
        }
        let mut table = self.table();
        let is_at = |name: &str, at: &str| name == at || (at.ends_with('/') && name.starts_with(at));
        let replaced: Vec<_> = table.kept.keys().filter(|name| is_at(name, to)).cloned().collect();
        for name in replaced {
            table.remove(&name);
        }
        let moved = table.kept.iter().filter(|(name, _)| is_at(name, from));
        let moved: Vec<_> = moved.map(|(name, (etag, id))| (Arc::clone(name), etag.clone(), *id)).collect();
        for (name, etag, id) in moved {
            table.remove(&name);
            self.insert(&mut table, &format!("{to}{}", &name[from.len()..]), &etag, id);
        }
        self.count(&table);
    }

    /// Gives up what a directory and all below it kept.
    pub(super) fn forget_tree(&self, directory: &str) {
        if self.len.load(Ordering::Acquire) == 0 {
            return;
        }
        let mut table = self.table();
        let gone: Vec<_> = table.kept.keys().filter(|name| name.starts_with(directory)).cloned().collect();
        for name in gone {
            table.remove(&name);
        }
        self.count(&table);
    }

    fn insert(&self, table: &mut Table, name: &str, etag: &ETag, id: FileId) {
        table.remove(name);
        let name: Arc<str> = Arc::from(name);
        table.kept.insert(Arc::clone(&name), (etag.clone(), id));
        table.owners.insert(id, Arc::clone(&name));
        table.order.push_back(name);
        if table.order.len() > self.limit.saturating_mul(2) {
            let Table { order, kept, .. } = table;
            order.retain(|name| is_held(kept, name));
        }
        while table.kept.len() > self.limit
            && let Some(oldest) = table.order.pop_front()
        {
            if is_held(&table.kept, &oldest) {
                table.remove(&oldest);
            }
        }
        self.count(table);
    }

    fn count(&self, table: &Table) {
        self.len.store(table.kept.len() + table.changing.len(), Ordering::Release);
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().expect("no panic under this lock")
    }
}

/// Whether the table holds that very `Arc`: a name that was kept again stands in the order twice.
fn is_held(kept: &HashMap<Arc<str>, (ETag, FileId)>, name: &Arc<str>) -> bool {
    kept.get_key_value(name).is_some_and(|(held, _)| Arc::ptr_eq(held, name))
}

impl Table {
    fn remove(&mut self, name: &str) {
        if let Some((_, id)) = self.kept.remove(name)
            && self.owners.get(&id).is_some_and(|owner| **owner == *name)
        {
            self.owners.remove(&id);
        }
    }
}

impl Drop for Changing<'_> {
    fn drop(&mut self) {
        let mut table = self.identities.table();
        table.changing.remove(&self.name);
        self.identities.count(&table);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(text: &str) -> FileId {
        FileId::of(&[text.as_bytes()])
    }

    fn resolve(identities: &Identities, name: &str, etag: &ETag, natural: FileId) -> FileId {
        identities.resolve(name, etag, natural).0
    }

    #[test]
    fn kept_identity_ends_with_the_content_it_was_kept_for() {
        let identities = Identities::new(10);
        let (old, new) = (ETag::new("old"), ETag::new("new"));
        identities.keep("a", &old, id("kept"));
        assert_eq!(resolve(&identities, "a", &old, id("own")), id("kept"));
        assert_eq!(resolve(&identities, "a", &new, id("own")), id("own"));
    }

    #[test]
    fn identity_that_moved_away_is_not_given_out_again() {
        let identities = Identities::new(10);
        let etag = ETag::new("empty");
        identities.keep("log.1", &etag, id("log"));
        let (fresh, is_made_up) = identities.resolve("log", &etag, id("log"));
        assert!(is_made_up);
        assert_ne!(fresh, id("log"));
        assert_eq!(resolve(&identities, "log", &etag, id("log")), fresh);
        assert_eq!(resolve(&identities, "log.1", &etag, id("log.1")), id("log"));
    }

    #[test]
    fn content_that_changes_in_place_is_known_before_its_tag_is() {
        let identities = Identities::new(10);
        let (old, new) = (ETag::new("old"), ETag::new("new"));
        let changing = identities.changing("a", &old, id("a"));
        assert_eq!(resolve(&identities, "a", &new, id("other")), id("a"));
        drop(changing);
        assert_eq!(resolve(&identities, "a", &new, id("other")), id("other"));
    }

    #[test]
    fn a_name_that_is_kept_again_and_again_pushes_nobody_out() {
        let identities = Identities::new(2);
        let etag = ETag::new("tag");
        identities.keep("quiet", &etag, id("quiet"));
        for _ in 0..20 {
            identities.keep("log", &etag, id("log"));
        }
        assert_eq!(resolve(&identities, "quiet", &etag, id("own")), id("quiet"));
        assert_eq!(resolve(&identities, "log", &etag, id("own")), id("log"));
        assert!(identities.table().order.len() <= 4);
    }

    #[test]
    fn renamed_tree_carries_its_identities_and_replaces_others() {
        let identities = Identities::new(10);
        let etag = ETag::new("tag");
        for name in ["a/x", "a/y/z", "ab/x", "b/old"] {
            identities.keep(name, &etag, id(name));
        }
        identities.rename("a/", "b/");
        let own = |name: &str| resolve(&identities, name, &etag, id("own"));
        assert_eq!([own("b/x"), own("b/y/z"), own("ab/x")], [id("a/x"), id("a/y/z"), id("ab/x")]);
        assert_eq!([own("a/x"), own("b/old")], [id("own"); 2]);
        identities.rename("ab/x", "a/x");
        assert_eq!([own("a/x"), own("ab/x")], [id("ab/x"), id("own")]);
        identities.forget_tree("b/");
        assert_eq!(own("b/x"), id("own"));
    }

    #[test]
    fn table_is_bounded() {
        let identities = Identities::new(2);
        let etag = ETag::new("e");
        for name in ["a", "b", "c"] {
            identities.keep(name, &etag, id(name));
        }
        assert_eq!(identities.len.load(Ordering::Relaxed), 2);
    }
}
