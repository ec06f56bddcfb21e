//! Listings: one page over the mount that owns a path and the mounts nested below it, merged in byte order.
//!
//! Stateless and in constant memory: each source is asked for one page after the cursor; names up to the lowest
//! end of a truncated page are certain, and the cursor moves there.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::table::virtual_directory;
use super::{MountTable, Namespace, check_traverse};
use crate::{Context, Key, ListItem, ListPage, ListQuery, Mount, NsPath, Permission, Result, Want};

/// What a listing shows of symbolic links.
#[derive(Clone, Copy)]
enum Links {
    /// What they lead to.
    Followed,
    /// Themselves.
    Unfollowed,
}

/// A mount asked for names; `name` of an item is `outer` + its name in the mount without `inner`.
struct Source<'a> {
    mount: &'a Arc<dyn Mount>,
    /// What the mount's names start with and the listing's do not: the listed path's key in the owner.
    inner: String,
    /// What the listing's names start with and the mount's do not: a nested mount's path below the listed one.
    outer: String,
    links: Links,
}

impl Source<'_> {
    /// This source's part of `query`, after `cursor`; `None` when nothing of it can match.
    fn query(&self, query: &ListQuery, cursor: Option<&str>) -> Option<ListQuery> {
        let prefix = match query.prefix.strip_prefix(&self.outer) {
            Some(rest) => rest,
            None if self.outer.starts_with(&query.prefix) => "",
            None => return None,
        };
        let start_after = match cursor {
            None => None,
            Some(cursor) => match cursor.strip_prefix(&self.outer) {
                Some(rest) => Some(rest).filter(|rest| !rest.is_empty()),
                None if *cursor < *self.outer => None,
                None => return None,
            },
        };
        Some(ListQuery {
            prefix: format!("{}{prefix}", self.inner),
            shallow: query.shallow,
            start_after: start_after.map(|after| format!("{}{after}", self.inner)),
            limit: query.limit,
        })
    }

    async fn page(&self, query: &ListQuery, cursor: Option<&str>) -> Result<ListPage> {
        let Some(mut query) = self.query(query, cursor) else { return Ok(ListPage::default()) };
        loop {
            let mut page = match self.links {
                Links::Followed => self.mount.list(&query).await?,
                Links::Unfollowed => self.mount.list_unfollowed(&query).await?,
            };
            // The listed directory's own marker is not below it.
            page.items.retain(|item| item.name.len() > self.inner.len());
            if page.items.is_empty() && page.is_truncated {
                query.start_after = Some(self.inner.clone());
                continue;
            }
            if !self.inner.is_empty() || !self.outer.is_empty() {
                for item in &mut page.items {
                    item.name = format!("{}{}", self.outer, &item.name[self.inner.len()..]);
                }
            }
            return Ok(page);
        }
    }
}

impl Namespace {
    /// One page of the names below `base`, relative to it (`query.prefix` and `start_after` are, too).
    ///
    /// A principal that may only traverse `base` sees what leads to its grants.
    ///
    /// # Errors
    /// As [`Mount::list`]; `AccessDenied`.
    pub async fn list(&self, context: &Context, base: &NsPath, query: &ListQuery) -> Result<ListPage> {
        self.visible(context, base, (query, Links::Followed)).await
    }

    /// As [`Namespace::list`], with symbolic links shown as what they are, wherever they lead.
    ///
    /// # Errors
    /// As [`Namespace::list`].
    pub async fn list_unfollowed(
        &self,
        context: &Context,
        base: &NsPath,
        query: &ListQuery,
    ) -> Result<ListPage> {
        self.visible(context, base, (query, Links::Unfollowed)).await
    }

    async fn visible(
        &self,
        context: &Context,
        base: &NsPath,
        asked: (&ListQuery, Links),
    ) -> Result<ListPage> {
        check_traverse(context, base)?;
        let table = self.table();
        let page = self.merged(&table, base, asked).await.map_err(|e| e.at("list", base))?;
        if context.principal.may(Permission::Read, base) {
            return Ok(page);
        }
        let allowed = |item: &ListItem| {
            base.join(item.name.trim_end_matches('/')).is_ok_and(|path| context.principal.may_traverse(&path))
        };
        let is_truncated = page.is_truncated;
        let last = page.items.last().cloned();
        let mut items: Vec<_> = page.items.into_iter().filter(allowed).collect();
        if is_truncated && items.is_empty() {
            // An empty page could not carry the cursor; one name that may not be opened is the lesser leak.
            items.extend(last);
        }
        Ok(ListPage { items, is_truncated })
    }

    async fn merged(
        &self,
        table: &MountTable,
        base: &NsPath,
        (query, links): (&ListQuery, Links),
    ) -> Result<ListPage> {
        let nested: Vec<(Key, &Arc<dyn Mount>)> =
            table.below(base).filter_map(|(at, mount)| Some((at.relative_to(base)?, mount))).collect();
        let owner = table.owner(base).map(|(mount, key)| Source {
            mount,
            inner: key.directory_prefix(),
            outer: String::new(),
            links,
        });
        if let (Some(owner), true) = (&owner, nested.is_empty()) {
            return owner.page(query, query.start_after.as_deref()).await;
        }
        let mut sources: Vec<Source<'_>> = owner.into_iter().collect();
        let mut points = BTreeMap::new();
        for (key, mount) in nested {
            let outer = key.directory_prefix();
            match outer.strip_prefix(&query.prefix) {
                Some(rest) if query.shallow && !rest.is_empty() => {
                    let cut = rest.find('/').map_or(rest.len(), |slash| slash + 1);
                    let name = format!("{}{}", query.prefix, &rest[..cut]);
                    let item = self.mount_point(base, &name, (cut == rest.len()).then_some(mount)).await?;
                    points.insert(name, item);
                }
                _ => sources.push(Source { mount, inner: String::new(), outer, links }),
            }
        }
        merge(&sources, points, query).await
    }

    /// The item of a directory that is a mount point or leads to one.
    async fn mount_point(
        &self,
        base: &NsPath,
        name: &str,
        mount: Option<&Arc<dyn Mount>>,
    ) -> Result<ListItem> {
        let path = base.join(name.trim_end_matches('/'))?;
        let entry = match mount {
            // A store that does not answer must not take the listing above it down.
            Some(mount) => mount.stat(&Key::root(), Want::Directory).await.ok(),
            None => None,
        };
        let entry = entry.unwrap_or_else(|| virtual_directory(&path, self.since));
        Ok(ListItem { name: name.to_owned(), is_prefix: true, entry })
    }
}

/// Which source shows a name: the mount nested deepest on its way.
fn is_shadowed(
    name: &str,
    source: usize,
    sources: &[Source<'_>],
    points: &BTreeMap<String, ListItem>,
) -> bool {
    let inside = |outer: &str| name.starts_with(outer) || outer.strip_suffix('/') == Some(name);
    let own = sources[source].outer.len();
    sources.iter().any(|other| other.outer.len() > own && inside(&other.outer))
        || points.keys().any(|point| point.strip_suffix('/') == Some(name))
}

async fn merge(
    sources: &[Source<'_>],
    points: BTreeMap<String, ListItem>,
    query: &ListQuery,
) -> Result<ListPage> {
    let mut cursor = query.start_after.clone();
    let mut found = Vec::new();
    loop {
        let mut names: BTreeMap<String, ListItem> = BTreeMap::new();
        let mut bound: Option<String> = None;
        for (i, source) in sources.iter().enumerate() {
            let page = source.page(query, cursor.as_deref()).await?;
            if let (true, Some(last)) = (page.is_truncated, page.items.last())
                && bound.as_ref().is_none_or(|bound| last.name < *bound)
            {
                bound = Some(last.name.clone());
            }
            let shown = page.items.into_iter().filter(|item| !is_shadowed(&item.name, i, sources, &points));
            names.extend(shown.map(|item| (item.name.clone(), item)));
        }
        let after = |name: &String| cursor.as_ref().is_none_or(|cursor| name > cursor);
        names.extend(
            points.iter().filter(|(name, _)| after(name)).map(|(name, item)| (name.clone(), item.clone())),
        );
        let certain = |name: &String| bound.as_ref().is_none_or(|bound| name <= bound);
        let mut rest = names.into_iter().filter(|(name, _)| certain(name)).map(|(_, item)| item);
        found.extend(rest.by_ref().take(query.limit - found.len()));
        let is_more = rest.next().is_some() || bound.is_some();
        if found.len() == query.limit || !is_more {
            return Ok(ListPage { is_truncated: is_more && !found.is_empty(), items: found });
        }
        cursor = bound;
    }
}
