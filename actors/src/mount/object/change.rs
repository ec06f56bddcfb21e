//! A commit as all that is remembered of entries sees it: attributes and listings.

use forebay_core::Entry;

use super::Core;
use super::attributes::{Existence, Pending, PendingTrees};
use crate::backend::Object;
use crate::metadata::{Announced, Outcome};

/// A commit under way. Dropped without an outcome (failed, cancelled), it leaves nothing remembered of its key.
pub(super) struct Change<'a> {
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
}

impl Change<'_> {
    /// The file is this one now.
    pub(super) fn wrote_file(self, object: Object, entry: &Entry) {
        self.attributes.wrote_file(entry);
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
        self.attributes.removed();
        if let Some(listings) = self.listings {
            listings.settle(Outcome::Removed);
        }
    }
}
