//! Listings: the store's pages, sorted, with stores that cannot start where they are told to continued from where
//! they stopped.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use forebay_core::{Error, ErrorKind, ListQuery, Result};
use futures::FutureExt;
use opendal::options::ListOptions;
use opendal::raw::{OpList, oio};

use super::dialect::{Listing, Revision};
use super::trial::TRIAL_PREFIX;
use super::{Object, ObjectPage, ObjectStore, from_opendal};
use crate::backend::{PROBE, passed_group};

/// Most keys on a page of S3, and as many as are asked of the others.
const PAGE_MAX: usize = 1000;
/// Sorts after all names that a listing shows below a prefix.
const LAST: char = '\u{10ffff}';
/// Listings that may be continued, of one mount.
const PARKED_MAX: usize = 64;
/// Most names that are sorted here where the store does not.
const UNORDERED_MAX: usize = 200_000;

/// Listings that stopped at the end of a store's page. None holds names that were not shown: each page is asked
/// for when it is wanted, so it shows what was committed before.
#[derive(Default)]
pub(super) struct Parked(Mutex<VecDeque<Stopped>>);

/// A listing that was shown up to and with the name `last`.
struct Stopped {
    prefix: String,
    shallow: bool,
    last: String,
    lister: oio::Lister,
}

impl Parked {
    fn lock(&self) -> MutexGuard<'_, VecDeque<Stopped>> {
        // Each change is one call on the queue, so a poisoned one is still whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self, query: &ListQuery) -> Option<oio::Lister> {
        let after = query.start_after.as_ref()?;
        let mut parked = self.lock();
        let is_it =
            |one: &Stopped| one.last == *after && one.shallow == query.shallow && one.prefix == query.prefix;
        let place = parked.iter().position(is_it)?;
        parked.remove(place).map(|stopped| stopped.lister)
    }

    fn put(&self, stopped: Stopped) {
        let mut parked = self.lock();
        if parked.len() >= PARKED_MAX {
            parked.pop_front();
        }
        parked.push_back(stopped);
    }
}

/// One page as the store sent it.
struct StorePage {
    /// In order, after the query's cursor.
    objects: Vec<Object>,
    /// The last name of the store's page, shown or not.
    last: Option<String>,
    /// The store has more.
    has_more: bool,
}

impl ObjectStore {
    /// One page without the objects of trials.
    pub(super) async fn list_visible(&self, query: &ListQuery) -> Result<ObjectPage> {
        let mut query = query.clone();
        loop {
            let mut page = self.list_stored(&query).await?;
            let last = page.objects.last().map(|object| object.key.clone());
            page.objects.retain(|object| !object.key.starts_with(TRIAL_PREFIX));
            if !page.objects.is_empty() || !page.is_truncated {
                return Ok(page);
            }
            query.start_after = last;
        }
    }

    /// The names of one page.
    pub(super) async fn stored_names(&self, query: &ListQuery) -> Result<Vec<String>> {
        let page = self.list_stored(query).await?;
        Ok(page.objects.into_iter().map(|object| object.key).collect())
    }

    pub(super) async fn list_stored(&self, query: &ListQuery) -> Result<ObjectPage> {
        // No key of a mount starts with a slash, and the services take none.
        if self.dialect.prefix.is_empty() && query.prefix.starts_with('/') {
            return Ok(ObjectPage::default());
        }
        let page = match self.dialect.listing {
            Listing::Index => return self.list_index(query).await,
            Listing::StartAfter | Listing::Continuation if self.trial.is_unordered() => {
                self.list_and_sort(query).await
            }
            Listing::StartAfter => self.list_from(query).await,
            Listing::Continuation => self.list_on(query).await,
        };
        page.map_err(missing_bucket)
    }

    /// Asks for one name. Not grouped: Azurite needs 14 s to group 7,000.
    pub(super) async fn list_one(&self) -> Result<()> {
        if self.dialect.listing == Listing::Index {
            return self.list_index(&PROBE).await.map(drop);
        }
        let query = ListQuery { shallow: false, ..PROBE.clone() };
        let mut lister = self.lister(&query, None, 1)?;
        self.store_page(&mut lister, &query, 1).await.map(drop).map_err(missing_bucket)
    }

    /// A page of a store that starts after any name.
    async fn list_from(&self, query: &ListQuery) -> Result<ObjectPage> {
        let limit = query.limit.min(PAGE_MAX);
        let start_after = match passed_group(query) {
            Some(group) => Some(format!("{}{group}{LAST}", self.dialect.prefix)),
            None => query.start_after.as_ref().map(|after| format!("{}{after}", self.dialect.prefix)),
        };
        // One more tells whether there is more without asking for another page.
        let asked = limit.saturating_add(1).min(PAGE_MAX);
        let mut lister = self.lister(query, start_after, asked)?;
        let page = self.store_page(&mut lister, query, asked).await?;
        let mut objects = page.objects;
        let is_truncated = page.has_more || objects.len() > limit;
        objects.truncate(limit);
        Ok(ObjectPage { objects, is_truncated })
    }

    /// A page of a store that only goes on where it stopped; from another place it is read from the start.
    async fn list_on(&self, query: &ListQuery) -> Result<ObjectPage> {
        let limit = query.limit.min(PAGE_MAX);
        let mut lister = match self.parked.take(query) {
            Some(lister) => lister,
            None => self.lister(query, None, limit)?,
        };
        loop {
            let page = self.store_page(&mut lister, query, limit).await?;
            let Some(last) = page.last.filter(|_| page.has_more) else {
                return Ok(ObjectPage { objects: page.objects, is_truncated: false });
            };
            // Everything on this page lies before the cursor.
            if page.objects.is_empty() {
                continue;
            }
            let (prefix, shallow) = (query.prefix.clone(), query.shallow);
            self.parked.put(Stopped { prefix, shallow, last, lister });
            return Ok(ObjectPage { objects: page.objects, is_truncated: true });
        }
    }

    /// A page of a store whose order is not that of the bytes: all of it, sorted here.
    async fn list_and_sort(&self, query: &ListQuery) -> Result<ObjectPage> {
        let mut lister = self.lister(query, None, PAGE_MAX)?;
        let mut objects = Vec::new();
        loop {
            let page = self.store_page(&mut lister, query, PAGE_MAX).await?;
            objects.extend(page.objects);
            if objects.len() > UNORDERED_MAX {
                let text = format!(
                    "the store lists without order, and here are more than {UNORDERED_MAX} names to sort"
                );
                return Err(Error::new(ErrorKind::Unsupported, text));
            }
            if !page.has_more {
                break;
            }
        }
        objects.sort_unstable_by(|a, b| a.key.cmp(&b.key));
        let is_truncated = objects.len() > query.limit;
        objects.truncate(query.limit);
        Ok(ObjectPage { objects, is_truncated })
    }

    fn lister(&self, query: &ListQuery, start_after: Option<String>, limit: usize) -> Result<oio::Lister> {
        let args = OpList::from(ListOptions {
            limit: Some(limit),
            start_after,
            recursive: !query.shallow,
            ..ListOptions::default()
        });
        let full = format!("{}{}", self.dialect.prefix, query.prefix);
        self.dialect.service.list_dyn(&self.context, &full, args).map_err(|e| from_opendal(&e))
    }

    /// The next page of `asked` names at most. The store's pages are in order, but within a page prefixes come
    /// before objects. The first entry of a page is waited for, the others are at hand, so waiting again means
    /// that the page ends.
    async fn store_page(
        &self,
        lister: &mut oio::Lister,
        query: &ListQuery,
        asked: usize,
    ) -> Result<StorePage> {
        let (mut objects, mut last, mut seen) = (Vec::new(), None::<String>, 0);
        let has_more = loop {
            let entry = match seen {
                0 => lister.next_dyn().await,
                // A full page; looking further would send a request and drop it. An emulator of Google's counts
                // names and prefixes apart, so its pages may be fuller.
                seen if seen == asked && self.dialect.revision != Revision::Generation => break true,
                _ => match lister.next_dyn().now_or_never() {
                    Some(entry) => entry,
                    None => break true,
                },
            };
            let Some(entry) = entry.map_err(|e| from_opendal(&e))? else { break false };
            seen += 1;
            let Some(key) = entry.path().strip_prefix(&self.dialect.prefix) else { continue };
            if key.is_empty() || key.starts_with('/') {
                continue;
            }
            if last.as_deref().is_none_or(|last| last < key) {
                last = Some(key.to_owned());
            }
            if query.start_after.as_deref().is_some_and(|after| key <= after || is_inside(query, key)) {
                continue;
            }
            let metadata = entry.metadata();
            objects.push(match metadata.last_modified() {
                Some(_) => self.describe(key.to_owned(), metadata),
                None => Object::prefix(key),
            });
        };
        objects.sort_unstable_by(|a, b| a.key.cmp(&b.key));
        Ok(StorePage { objects, last, has_more })
    }
}

/// What a missing bucket or container answers is no answer: a missing prefix is an empty page.
fn missing_bucket(error: Error) -> Error {
    match error.kind() {
        ErrorKind::NotFound => Error::new(ErrorKind::Unavailable, error.to_string()),
        _ => error,
    }
}

/// Whether `key` is the group that the cursor lies in, which a listing has passed as a whole.
fn is_inside(query: &ListQuery, key: &str) -> bool {
    passed_group(query) == Some(key)
}
