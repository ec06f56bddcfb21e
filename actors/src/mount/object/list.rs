//! Listings: the store's pages, as entries. Names that the namespace refuses (`a//b`, `..`) are left out.

use std::collections::HashSet;

use forebay_core::{Entry, Key, ListItem, ListPage, ListQuery, Result, Want};

use super::Core;
use super::attributes::{Answer, Token};
use super::request::existence;
use crate::backend::{Object, ObjectPage};

impl Core {
    /// One page of names; `want` says whether symbolic links show as what they are.
    pub(super) async fn list(&self, query: &ListQuery, want: Want) -> Result<ListPage> {
        let mut query = query.clone();
        loop {
            let (page, token) = self.known_or_asked(&query).await?;
            let last = page.objects.last().map(|object| object.key.clone());
            let items: Vec<_> =
                page.objects.into_iter().filter_map(|object| self.item(object, token, want)).collect();
            // An empty page ends a listing, so one full of refused names must not be shown.
            if !items.is_empty() || !page.is_truncated {
                return Ok(ListPage { is_truncated: page.is_truncated, items });
            }
            query.start_after = last;
        }
    }

    /// The page, and the token that was taken before the store was asked for it, if it was.
    async fn known_or_asked(&self, query: &ListQuery) -> Result<(ObjectPage, Option<Token>)> {
        if let Some(page) = self.known_page(query).await {
            return Ok((page, None));
        }
        let token = self.attributes.token();
        let page = self.learned_page(query).await?;
        if query.shallow {
            self.learn_plain_files(&page, token);
        }
        Ok((page, Some(token)))
    }

    /// The page out of the metadata store, if it has all of it and that may be trusted.
    async fn known_page(&self, query: &ListQuery) -> Option<ObjectPage> {
        let listings = self.kept_listings()?;
        let trusting = self.attributes.trusting(self.clock.now());
        listings.page(query, move |directory, since| trusting.covers(directory, since)).await
    }

    /// The page as the store has it now, which the metadata store is told.
    async fn learned_page(&self, query: &ListQuery) -> Result<ObjectPage> {
        let Some(listings) = self.kept_listings() else { return self.page(query).await };
        let asked = (listings.token(), self.clock.now());
        let page = self.page(query).await?;
        listings.learn(query, &page, asked);
        Ok(page)
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

    /// The item of an object; `token` was taken before the store was asked for it, if it was now.
    fn item(&self, object: Object, token: Option<Token>, want: Want) -> Option<ListItem> {
        let now = self.clock.now();
        let directory = object.key.strip_suffix('/');
        let key = Key::parse(directory.unwrap_or(&object.key)).ok().filter(|key| !key.is_root())?;
        let entry = if directory.is_some() {
            let existence = existence(&object);
            if let Some(token) = token {
                self.attributes.learn_directory(key.as_str(), Some(existence), token, now);
            }
            self.directory_entry(&key, existence)
        } else {
            let entry = self.file_entry(&object);
            if let Some(token) = token {
                self.learn_listed(&key, &entry, token);
            }
            entry
        };
        let entry = self.as_wanted(&key, entry, want);
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
            self.learn_file(key.as_str(), Some(entry), token, now);
        }
    }
}
