//! Listings in byte order, one page at a time, walking the tree from the cursor; what a page costs does not depend on
//! its position. The order of each directory is made in [`super::entries`].

use forebay_core::{ListQuery, Result};

use super::client::Client;
use super::entries::{Entries, Wanted};
use super::path::{OWN_DIRECTORY, Path, Root};
use super::status::Status;
use crate::backend::{Object, ObjectPage};

/// One page of names; a prefix under which nothing can be is an empty page.
pub(super) async fn page(client: &Client, root: &Root, query: &ListQuery) -> Result<ObjectPage> {
    let (directory, filter) = query.prefix.rsplit_once('/').unwrap_or(("", &query.prefix));
    if query.prefix.starts_with('/') {
        return Ok(ObjectPage::default());
    }
    let Some(path) = root.directory(directory) else { return Ok(ObjectPage::default()) };
    let Some(status) = client.look(&path).await?.filter(Status::is_directory) else {
        return Ok(ObjectPage::default());
    };
    let prefix = if directory.is_empty() { String::new() } else { format!("{directory}/") };
    let mut walk = Walk { client, query, stack: Vec::new() };
    let own = walk.enter((path, prefix.clone()), &status, filter).await?;
    let mut objects: Vec<Object> =
        own.filter(|_| filter.is_empty() && !prefix.is_empty()).into_iter().collect();
    while objects.len() <= query.limit {
        let Some(object) = walk.next().await? else { break };
        objects.push(object);
    }
    let is_truncated = objects.len() > query.limit;
    objects.truncate(query.limit);
    Ok(ObjectPage { objects, is_truncated })
}

/// A walk over the tree, in order.
struct Walk<'a> {
    client: &'a Client,
    query: &'a ListQuery,
    /// The directories from the listed one down to the one being read.
    stack: Vec<Level>,
}

/// A directory being walked.
struct Level {
    path: Path,
    /// What the names of its entries start with.
    prefix: String,
    entries: Entries,
}

impl Walk<'_> {
    /// The next item.
    async fn next(&mut self) -> Result<Option<Object>> {
        while let Some(level) = self.stack.last_mut() {
            let Some((name, status)) = level.entries.next(self.client).await? else {
                self.stack.pop();
                continue;
            };
            let full = format!("{}{name}", level.prefix);
            if !lets(self.query, &full) {
                continue;
            }
            if !status.is_directory() {
                return Ok(Some(status.file(full, None)));
            }
            if self.query.shallow {
                return Ok(Some(Object { is_prefix: true, ..status.directory(&full) }));
            }
            let path = level.path.join(&status.path_suffix);
            if let Some(empty) = self.enter((path, full), &status, "").await? {
                return Ok(Some(empty));
            }
        }
        Ok(None)
    }

    /// Goes into a directory; returns its own item if it is empty.
    async fn enter(
        &mut self,
        (path, prefix): (Path, String),
        status: &Status,
        filter: &str,
    ) -> Result<Option<Object>> {
        let cursor = self.query.start_after.as_deref();
        if status.children_num == Some(0) {
            return Ok(cursor.is_none_or(|cursor| *prefix > *cursor).then(|| status.directory(&prefix)));
        }
        let from = match Below::of(cursor, &prefix, filter) {
            Below::Nothing => return Ok(None),
            Below::Start => None,
            Below::At(name) => Some(name),
        };
        let hidden = if prefix.is_empty() { OWN_DIRECTORY } else { "" };
        let wanted = Wanted { filter, from, hidden };
        let entries = Entries::open(self.client, path.clone(), status.children_num, wanted).await?;
        self.stack.push(Level { path, prefix, entries });
        Ok(None)
    }
}

/// Where a listing goes on, as seen from one directory.
#[derive(Debug, PartialEq, Eq)]
enum Below<'a> {
    /// At its first name that is meant.
    Start,
    /// Near this bare name.
    At(&'a str),
    /// Past all its names.
    Nothing,
}

impl<'a> Below<'a> {
    fn of(cursor: Option<&'a str>, prefix: &str, filter: &str) -> Self {
        let Some(cursor) = cursor else { return Self::Start };
        match cursor.strip_prefix(prefix) {
            None if *cursor < *prefix => Self::Start,
            Some(rest) if *rest <= *filter => Self::Start,
            Some(rest) if rest.starts_with(filter) => Self::At(rest.split('/').next().unwrap_or(rest)),
            Some(_) | None => Self::Nothing,
        }
    }
}

/// Whether an entry comes after the cursor, or something below it may.
fn lets(query: &ListQuery, full: &str) -> bool {
    query.start_after.as_deref().is_none_or(|cursor| {
        *full > *cursor || (!query.shallow && full.ends_with('/') && cursor.starts_with(full))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cursor_says_where_each_directory_goes_on() {
        for (cursor, prefix, filter, expected) in [
            (None, "", "", Below::Start),
            (None, "d/", "ab", Below::Start),
            (Some("d/"), "d/", "", Below::Start),
            (Some("d/x/y"), "d/", "", Below::At("x")),
            (Some("c"), "d/", "", Below::Start),
            (Some("e"), "d/", "", Below::Nothing),
            (Some("d/aa"), "d/", "ab", Below::Start),
            (Some("d/abc"), "d/", "ab", Below::At("abc")),
            (Some("d/b"), "d/", "ab", Below::Nothing),
        ] {
            assert_eq!(Below::of(cursor, prefix, filter), expected, "{cursor:?} {prefix} {filter}");
        }
    }
}
