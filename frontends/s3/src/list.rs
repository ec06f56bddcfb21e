//! Pages of a bucket's keys: prefixes, delimiters, look-ahead and opaque tokens over [`Namespace::list`].
//!
//! For the delimiter `/` the namespace groups by itself and nothing below a prefix is visited. Other delimiters are
//! grouped here, and the names of a group are skipped by seeking past it. Nothing is held but the page.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use forebay_core::{Context, Entry, ListItem, ListQuery, Namespace, NsPath, Result};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use s3s::dto::EncodingType;
use s3s::{S3Result, s3_error};

/// Most names on a page, whatever the client asks for.
const KEYS_MAX: usize = 1000;
/// What a URL-encoded key keeps as it is.
const KEPT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~').remove(b'/');
/// Sorts after what can follow a group's prefix in a name.
const PAST_GROUP: char = char::MAX;

/// One page is asked for.
pub(crate) struct Query {
    pub(crate) bucket: NsPath,
    pub(crate) prefix: String,
    pub(crate) delimiter: Option<String>,
    /// Only names after this one; a common prefix stands for all names below it.
    pub(crate) after: Option<String>,
    pub(crate) max_keys: usize,
}

/// One page of a listing.
#[derive(Default)]
pub(crate) struct Page {
    pub(crate) objects: Vec<(String, Entry)>,
    pub(crate) prefixes: Vec<String>,
    pub(crate) is_truncated: bool,
    /// The last key or prefix, where the next page starts.
    pub(crate) last: Option<String>,
}

impl Page {
    fn count(&self) -> usize {
        self.objects.len() + self.prefixes.len()
    }

    /// Whether `prefix` was grouped last; groups are contiguous, so an older one cannot come back.
    fn ends_with(&self, prefix: &str) -> bool {
        self.prefixes.last().is_some_and(|last| last == prefix)
    }
}

impl Query {
    /// The common prefix that `name` belongs to.
    fn group<'a>(&self, name: &'a str) -> Option<&'a str> {
        let delimiter = self.delimiter.as_deref()?;
        let rest = name.get(self.prefix.len()..)?;
        rest.find(delimiter).map(|at| &name[..self.prefix.len() + at + delimiter.len()])
    }

    /// Adds an item; `false` when the page was full before it.
    fn add(&self, page: &mut Page, item: ListItem) -> bool {
        let group = self.group(&item.name);
        if group.is_some_and(|group| page.ends_with(group) || self.after.as_deref() == Some(group)) {
            return true;
        }
        if page.count() == self.max_keys {
            page.is_truncated = true;
            return false;
        }
        if let Some(group) = group.map(str::to_owned) {
            page.last = Some(group.clone());
            page.prefixes.push(group);
        } else {
            page.last = Some(item.name.clone());
            page.objects.push((item.name, item.entry));
        }
        true
    }

    /// Whether the namespace groups by itself.
    fn is_shallow(&self) -> bool {
        self.delimiter.as_deref() == Some("/")
    }

    /// Where to go on after `name`: past its whole group.
    fn seek(&self, name: &str) -> String {
        match self.group(name) {
            Some(group) if self.is_shallow() => group.to_owned(),
            Some(group) => format!("{group}{PAST_GROUP}"),
            None => name.to_owned(),
        }
    }
}

/// Lists one page.
///
/// # Errors
/// As [`Namespace::list`].
pub(crate) async fn page(namespace: &Namespace, context: &Context, query: &Query) -> Result<Page> {
    let mut page = Page::default();
    if query.max_keys == 0 {
        return Ok(page);
    }
    let mut cursor = query.after.as_deref().map(|after| {
        let is_group = query.group(after) == Some(after);
        if is_group { query.seek(after) } else { after.to_owned() }
    });
    loop {
        let names = ListQuery {
            prefix: query.prefix.clone(),
            shallow: query.is_shallow(),
            start_after: cursor,
            limit: query.max_keys + 1 - page.count(),
        };
        let found = namespace.list(context, &query.bucket, &names).await?;
        cursor = found.items.last().map(|item| query.seek(&item.name));
        for item in found.items {
            if !query.add(&mut page, item) {
                return Ok(page);
            }
        }
        if !found.is_truncated || cursor.is_none() {
            return Ok(page);
        }
    }
}

/// The number of names to list: 1000 at most.
///
/// # Errors
/// `InvalidArgument` for a negative number.
pub(crate) fn limit(asked: Option<i32>) -> S3Result<usize> {
    match asked.map(usize::try_from) {
        None => Ok(KEYS_MAX),
        Some(Ok(number)) => Ok(number.min(KEYS_MAX)),
        Some(Err(_)) => Err(s3_error!(InvalidArgument, "the maximum must not be negative")),
    }
}

/// A continuation token: opaque to clients, the last name to us.
pub(crate) fn token(last: &str) -> String {
    URL_SAFE_NO_PAD.encode(last)
}

/// The name in a token.
///
/// # Errors
/// `InvalidArgument` for what [`token`] did not make.
pub(crate) fn from_token(token: &str) -> S3Result<String> {
    let name = URL_SAFE_NO_PAD.decode(token).ok().and_then(|bytes| String::from_utf8(bytes).ok());
    name.ok_or_else(|| s3_error!(InvalidArgument, "the continuation token provided is incorrect"))
}

/// How names are written in a listing.
#[derive(Clone, Copy)]
pub(crate) struct Encoding {
    is_url: bool,
}

impl Encoding {
    /// What the client asked for.
    ///
    /// # Errors
    /// `InvalidArgument` for any encoding but `url`.
    pub(crate) fn new(asked: Option<&EncodingType>) -> S3Result<Self> {
        match asked.map(EncodingType::as_str) {
            None => Ok(Self { is_url: false }),
            Some(EncodingType::URL) => Ok(Self { is_url: true }),
            Some(_) => Err(s3_error!(InvalidArgument, "the only encoding method is url")),
        }
    }

    /// A name as the listing writes it.
    pub(crate) fn write(self, name: &str) -> String {
        if self.is_url { utf8_percent_encode(name, KEPT).to_string() } else { name.to_owned() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{context, namespace_with};

    const KEYS: &[&str] = &["a-1", "a-2", "a/b/c", "a/d", "a0", "b", "c--x", "c--y", "é"];

    async fn all(delimiter: Option<&str>, prefix: &str, max_keys: usize) -> (Vec<String>, usize) {
        let namespace = namespace_with(KEYS).await;
        let mut names = Vec::new();
        let mut after = None;
        for pages in 1.. {
            let query = Query {
                bucket: NsPath::parse("/bkt").expect("valid"),
                prefix: prefix.to_owned(),
                delimiter: delimiter.map(str::to_owned),
                after,
                max_keys,
            };
            let page = page(&namespace, &context(), &query).await.expect("listed");
            let mut on_page: Vec<String> = page.objects.into_iter().map(|(name, _)| name).collect();
            on_page.extend(page.prefixes);
            assert!(on_page.len() <= max_keys);
            names.extend(on_page);
            if !page.is_truncated {
                names.sort();
                return (names, pages);
            }
            after = Some(from_token(&token(&page.last.expect("a full page has a last name"))).expect("ours"));
        }
        unreachable!("listings end")
    }

    #[tokio::test]
    async fn pages_of_any_size_add_up_to_the_same_names() {
        for delimiter in [None, Some("/"), Some("-"), Some("--"), Some("b"), Some("b/")] {
            for prefix in ["", "a", "a/", "c-"] {
                let (whole, pages) = all(delimiter, prefix, 1000).await;
                assert_eq!(pages, 1);
                for max_keys in 1..4 {
                    let (names, _) = all(delimiter, prefix, max_keys).await;
                    assert_eq!(names, whole, "{delimiter:?} {prefix:?} {max_keys}");
                }
            }
        }
    }

    #[tokio::test]
    async fn names_are_grouped_by_any_delimiter() {
        assert_eq!(all(Some("/"), "", 10).await.0, ["a-1", "a-2", "a/", "a0", "b", "c--x", "c--y", "é"]);
        assert_eq!(all(Some("-"), "", 10).await.0, ["a-", "a/b/c", "a/d", "a0", "b", "c-", "é"]);
        assert_eq!(all(Some("/"), "a/", 10).await.0, ["a/b/", "a/d"]);
    }

    #[tokio::test]
    async fn last_full_page_is_not_truncated() {
        assert_eq!(all(None, "", KEYS.len()).await.1, 1);
        assert_eq!(all(None, "zzz", 1).await, (Vec::new(), 1));
    }

    #[test]
    fn foreign_tokens_and_encodings_are_refused() {
        assert!(from_token("!!").is_err());
        assert!(Encoding::new(Some(&EncodingType::from_static("base64"))).is_err());
        let url = Encoding::new(Some(&EncodingType::from_static("url"))).expect("known");
        assert_eq!(url.write("a b/+\u{1}é"), "a%20b/%2B%01%C3%A9");
        assert!(limit(Some(-1)).is_err());
    }
}
