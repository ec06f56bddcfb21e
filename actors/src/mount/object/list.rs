//! Listings: the store's pages, as entries. Names that the namespace refuses (`a//b`, `..`) are left out.

use std::collections::HashSet;

use forebay_core::{Entry, Key, ListItem, ListPage, ListQuery, Result};

use super::Core;
use super::attributes::{Answer, Token};
use super::request::existence;
use crate::backend::{Object, ObjectPage};

impl Core {
    pub(super) async fn list(&self, query: &ListQuery) -> Result<ListPage> {
        let mut query = query.clone();
        loop {
            let token = self.attributes.token();
            let page = self.page(&query).await?;
            let last = page.objects.last().map(|object| object.key.clone());
            if query.shallow {
                self.learn_plain_files(&page, token);
            }
            let items: Vec<_> =
                page.objects.into_iter().filter_map(|object| self.item(object, token)).collect();
            // An empty page ends a listing, so one full of refused names must not be shown.
            if !items.is_empty() || !page.is_truncated {
                return Ok(ListPage { is_truncated: page.is_truncated, items });
            }
            query.start_after = last;
        }
    }

    /// Remembers of which listed files there is no directory of the same name: `a/` would have come after `a`.
    fn learn_plain_files(&self, page: &ObjectPage, token: Token) {
        let now = self.clock.now();
        let end = page.objects.last().filter(|_| page.is_truncated).map(|object| object.key.as_str());
        let directories: HashSet<&str> =
            page.objects.iter().filter_map(|object| object.key.strip_suffix('/')).collect();
        for object in page.objects.iter().filter(|object| !object.key.ends_with('/')) {
            let name = object.key.as_str();
            let is_covered =
                end.is_none_or(|end| end.strip_prefix(name).map_or(name < end, |rest| rest >= "/"));
            if is_covered && !directories.contains(name) {
                self.attributes.learn_directory(name, None, token, now);
            }
        }
    }

    fn item(&self, object: Object, token: Token) -> Option<ListItem> {
        let now = self.clock.now();
        let directory = object.key.strip_suffix('/');
        let key = Key::parse(directory.unwrap_or(&object.key)).ok().filter(|key| !key.is_root())?;
        let entry = if directory.is_some() {
            let existence = existence(&object);
            self.attributes.learn_directory(key.as_str(), Some(existence), token, now);
            self.directory_entry(&key, existence)
        } else {
            let entry = self.file_entry(&object);
            self.learn_listed(&key, &entry, token);
            entry
        };
        let entry = self.shown(&key, entry);
        Some(ListItem { name: object.key, is_prefix: object.is_prefix, entry })
    }

    /// Remembers a listed file, but never instead of one that is known with its headers.
    pub(super) fn learn_listed(&self, key: &Key, entry: &Entry, token: Token) {
        let now = self.clock.now();
        let is_known = self
            .attributes
            .file(key.as_str(), now)
            .and_then(Answer::found)
            .is_some_and(|known| known.etag == entry.etag && known.headers.is_some());
        if !is_known {
            self.attributes.learn_file(key.as_str(), Some(entry.clone()), token, now);
        }
    }
}
