//! A commit as all that is remembered of entries sees it: attributes and listings.

use std::time::SystemTime;

use forebay_core::Entry;

use super::Core;
use super::attributes::{Existence, Pending, PendingTrees, Token};
use crate::backend::Object;
use crate::cache::ContentId;
use crate::metadata::{Announced, Outcome};

/// A commit under way. Dropped without an outcome (failed, cancelled), it leaves nothing remembered of its key.
pub(super) struct Change<'a> {
    core: &'a Core,
    name: &'a str,
    attributes: Pending<'a>,
    listings: Option<Announced>,
}

/// A commit of whole trees under way.
pub(super) struct TreesChange<'a> {
    _attributes: PendingTrees<'a>,
    _listings: Option<Announced>,
}

impl Core {
    /// Announces a commit of `name` (a key, or a marker that ends in `/`), before the store is told.
    pub(super) fn change<'a>(&'a self, name: &'a str) -> Change<'a> {
        Change {
            core: self,
            name,
            attributes: self.attributes.change(name, self.clock.now()),
            listings: self.listings.as_ref().map(|listings| listings.announce(name)),
        }
    }

    /// Announces a commit of all that lies at and below the keys, before the store is told.
    pub(super) fn change_trees<'a>(&'a self, keys: &'a [&'a str]) -> TreesChange<'a> {
        TreesChange {
            _attributes: self.attributes.change_trees(keys),
            _listings: self.listings.as_ref().map(|listings| listings.announce_trees(keys)),
        }
    }

    /// Remembers what the store said of a file, see [`super::attributes::AttributeCache::learn_file`].
    pub(super) fn learn_file(&self, name: &str, value: Option<&Entry>, token: Token, since: SystemTime) {
        let before = self.attributes.learn_file(name, value.cloned(), token, since);
        // What is gone from a name of a hierarchical store may be the same file at another one.
        if value.is_some() || !self.info.capability.hierarchical {
            self.release_content(name, before, value);
        }
    }

    /// What a name showed before leaves the cache, if it shows something else now and did not move to another name.
    pub(super) fn release_content(&self, name: &str, before: Option<Entry>, now: Option<&Entry>) {
        let Some(before) = before else { return };
        let is_same = now.is_some_and(|now| (now.file_id, &now.version) == (before.file_id, &before.version));
        let moved_to = self.ledger.whereabouts(before.file_id, &before.etag);
        if !is_same && moved_to.is_none_or(|other| *other == *name) {
            let content = ContentId { file_id: before.file_id, version: before.version };
            self.cache.release(&content, before.size_bytes);
        }
    }
}

impl Change<'_> {
    /// The file is this one now.
    pub(super) fn wrote_file(self, object: Object, entry: &Entry) {
        let before = self.core.attributes.last_file(self.name);
        self.attributes.wrote_file(entry);
        self.core.release_content(self.name, before, Some(entry));
        if let Some(listings) = self.listings {
            listings.settle(Outcome::Wrote(object));
        }
    }

    /// The marker or directory is there now.
    pub(super) fn wrote_directory(self, existence: Existence) {
        self.attributes.wrote_directory(existence);
        if let Some(listings) = self.listings {
            listings.settle(Outcome::Marked);
        }
    }

    /// The file or marker is gone now.
    pub(super) fn removed(self) {
        let (core, name) = (self.core, self.name);
        let before = core.attributes.last_file(name);
        self.moved();
        core.release_content(name, before, None);
    }

    /// The file has another name now.
    pub(super) fn moved(self) {
        self.attributes.removed();
        if let Some(listings) = self.listings {
            listings.settle(Outcome::Removed);
        }
    }
}
