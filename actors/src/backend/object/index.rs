//! Directories of an HTTP server, read from the links in the pages that it makes of them (nginx, Apache, Caddy,
//! `python -m http.server`). A server that makes none still serves its files by name.

use std::collections::BTreeSet;

use forebay_core::{Error, ErrorKind, ListQuery, Result};
use futures::{StreamExt, TryStreamExt, stream};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use reqwest::Url;

use super::{Object, ObjectPage, ObjectStore};
use crate::backend::passed_group;
use crate::config::HttpCredential;

/// Longest page of a directory.
const PAGE_BYTES_MAX: usize = 32 << 20;
/// Files of one page of a listing that are looked at together.
const LOOKS_AT_ONCE: usize = 16;
/// Bytes that stay as they are in a URL's path.
const PATH: &AsciiSet = &NON_ALPHANUMERIC.remove(b'/').remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// Where the pages are.
pub(super) struct Index {
    pub(super) endpoint: Url,
    pub(super) credential: HttpCredential,
}

impl Index {
    /// The URL of a directory, whose key is empty or ends in `/`.
    fn url(&self, directory: &str) -> Result<Url> {
        let text = format!(
            "{}/{}",
            self.endpoint.as_str().trim_end_matches('/'),
            utf8_percent_encode(directory, PATH)
        );
        Url::parse(&text).map_err(|e| Error::new(ErrorKind::InvalidName, "this name makes no URL").because(e))
    }
}

impl ObjectStore {
    /// The names in a directory, those of directories ending in `/`; `None` where there is no page of it.
    pub(super) async fn index_of(&self, directory: &str) -> Result<Option<BTreeSet<String>>> {
        let Some(index) = &self.dialect.index else { return Ok(None) };
        let url = index.url(directory)?;
        let page = self.transport.page(url.as_str(), &index.credential, PAGE_BYTES_MAX).await?;
        Ok(page.map(|page| names(&page, &url)))
    }

    /// One page of a listing.
    pub(super) async fn list_index(&self, query: &ListQuery) -> Result<ObjectPage> {
        let base = query.prefix.rfind('/').map_or("", |slash| &query.prefix[..=slash]);
        let mut pending = self.children(base, query).await?;
        let mut found = Vec::new();
        while found.len() <= query.limit
            && let Some(name) = pending.pop()
        {
            if name.ends_with('/') && !query.shallow {
                let children = self.children(&name, query).await?;
                pending.extend(children);
            } else {
                found.push(name);
            }
        }
        let is_truncated = found.len() > query.limit;
        found.truncate(query.limit);
        let looks = found.into_iter().map(|name| async move { self.look_at(&name).await });
        let objects: Vec<Option<Object>> = stream::iter(looks).buffered(LOOKS_AT_ONCE).try_collect().await?;
        Ok(ObjectPage { objects: objects.into_iter().flatten().collect(), is_truncated })
    }

    /// Full names in a directory that the query has not passed, the first one last.
    async fn children(&self, directory: &str, query: &ListQuery) -> Result<Vec<String>> {
        let names = self.index_of(directory).await?.unwrap_or_default();
        let full = names.into_iter().rev().map(|name| format!("{directory}{name}"));
        Ok(full.filter(|name| name.starts_with(&query.prefix) && !is_passed(name, query)).collect())
    }

    /// A listed file as it is now; `None` when it is gone or may not be read.
    async fn look_at(&self, name: &str) -> Result<Option<Object>> {
        if name.ends_with('/') {
            return Ok(Some(Object::prefix(name)));
        }
        match self.head(name).await {
            Ok((object, _)) => Ok(Some(object)),
            Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::AccessDenied) => Ok(None),
            Err(e) => Err(e),
        }
    }
}

/// Whether the cursor is past `name` and, for a directory that is walked, past all below it.
fn is_passed(name: &str, query: &ListQuery) -> bool {
    let Some(after) = query.start_after.as_deref() else { return false };
    if query.shallow || !name.ends_with('/') {
        return name <= after || passed_group(query) == Some(name);
    }
    name < after && !after.starts_with(name)
}

/// What the links of a directory's page name inside that directory.
fn names(page: &str, directory: &Url) -> BTreeSet<String> {
    links(page).filter_map(|link| child(&link, directory)).collect()
}

/// The values of all `href` attributes.
fn links(page: &str) -> impl Iterator<Item = String> + '_ {
    let lower = page.to_ascii_lowercase();
    let starts: Vec<usize> = lower.match_indices("href").map(|(at, word)| at + word.len()).collect();
    starts.into_iter().filter_map(|at| {
        let value = page[at..].trim_start().strip_prefix('=')?.trim_start();
        let quote = value.chars().next().filter(|c| matches!(c, '"' | '\''))?;
        let (link, _) = value[1..].split_once(quote)?;
        let link = link.replace("&lt;", "<").replace("&gt;", ">").replace("&quot;", "\"");
        Some(link.replace("&#39;", "'").replace("&#x27;", "'").replace("&amp;", "&"))
    })
}

/// The name that a link gives to something directly in `directory`.
fn child(link: &str, directory: &Url) -> Option<String> {
    let url = directory.join(link).ok()?;
    if url.origin() != directory.origin() || url.query().is_some() {
        return None;
    }
    let name = percent_decode_str(url.path().strip_prefix(directory.path())?).decode_utf8().ok()?;
    let bare = name.strip_suffix('/').unwrap_or(&name);
    let is_child = !bare.is_empty() && !bare.contains('/') && !bare.contains('\0');
    (is_child && !matches!(bare, "." | "..")).then(|| name.into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_to_children_are_names_and_all_others_are_not() {
        let directory = Url::parse("http://h/data/a%20b/").expect("a URL");
        let page = r#"<A HREF = "../">up</A> <a href='?C=N;O=D'>sort</a> <a href="x&amp;y.txt">x</a>
            <a href="d/">d</a> <a href="/data/a%20b/abs%2520.bin">abs</a> <a href="http://other/x">o</a>
            <a href="d/deep">deep</a> <a href="./dot">dot</a> <a href="%C3%A4">umlaut</a> <a name="href">"#;
        let expected = ["abs%20.bin", "d/", "dot", "x&y.txt", "ä"];
        assert_eq!(names(page, &directory).into_iter().collect::<Vec<_>>(), expected);
    }
}
