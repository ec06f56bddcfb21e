//! LISTSTATUS and `LISTSTATUS_BATCH`: pages of the namespace's listing, in constant memory however long it is.

use std::collections::HashSet;
use std::sync::Arc;

use bytes::Bytes;
use forebay_core::{Error, ErrorKind, ListItem, ListQuery, NsPath, Result as CoreResult, Want};
use futures::{StreamExt, TryStreamExt, stream};

use crate::call::Call;
use crate::config::ColonPolicy;
use crate::error::Result;
use crate::json::FileStatus;
use crate::ops::read;
use crate::reply::Reply;

/// Names per page, and per batch (HDFS's `dfs.ls.limit`).
const PAGE_NAMES: usize = 1000;

const OPENING: &str = "{\"FileStatuses\":{\"FileStatus\":[\n";
const CLOSING: &str = "\n]}}\n";

/// One page of a directory, as it is shown.
struct Page {
    items: Vec<ListItem>,
    /// Where the next page starts; `None` after the last.
    next: Option<String>,
}

/// LISTSTATUS. A file lists as itself.
pub(crate) async fn list(call: Arc<Call>) -> Result<Reply> {
    let entry = call.stat(&call.path).await.map_err(|e| read::missing(&call, e))?;
    if !entry.is_directory() {
        let status = FileStatus::new(&entry, "", &call.frontend.names).to_json();
        return Ok(Reply::Json(format!("{OPENING}{status}{CLOSING}")));
    }
    let first = page(&call, None).await?;
    let text = statuses(&call, &first.items, ",\n");
    let Some(next) = first.next else {
        return Ok(Reply::Json(format!("{OPENING}{text}{CLOSING}")));
    };
    let is_begun = !text.is_empty();
    let opening = stream::iter([Ok(Bytes::from(format!("{OPENING}{text}")))]);
    let closing = stream::iter([Ok(Bytes::from_static(CLOSING.as_bytes()))]);
    Ok(Reply::JsonStream(opening.chain(rest(call, next, is_begun)).chain(closing).boxed()))
}

/// The pages after the first; each crosses to the main runtime when the client took the one before.
fn rest(
    call: Arc<Call>,
    next: String,
    is_begun: bool,
) -> impl stream::Stream<Item = CoreResult<Bytes>> + Send {
    stream::try_unfold((call, Some(next), is_begun), |(call, next, is_begun)| async move {
        let Some(next) = next else { return Ok(None) };
        let crossed = Arc::clone(&call);
        let pending = call.frontend.crossing.read(async move { page(&crossed, Some(next)).await });
        let page = pending.await.map_err(|_| Error::new(ErrorKind::Internal, "a listing task died"))??;
        let text = statuses(&call, &page.items, ",\n");
        let is_now_begun = is_begun || !text.is_empty();
        let text = if is_begun && !text.is_empty() { format!(",\n{text}") } else { text };
        Ok(Some((Bytes::from(text), (call, page.next, is_now_begun))))
    })
    .inspect_err(|e: &Error| tracing::warn!(error = %e, "a listing broke off"))
}

/// `LISTSTATUS_BATCH` after the name `startAfter`. What remains is counted as 1: clients only ask whether it is 0.
pub(crate) async fn batch(call: &Call) -> Result<Reply> {
    let entry = call.stat(&call.path).await.map_err(|e| read::missing(call, e))?;
    let (text, remaining) = if entry.is_directory() {
        let start = match call.params.text("startafter") {
            Some(name) => Some(cursor(call, name).await?),
            None => None,
        };
        let mut page = page(call, start).await?;
        while let (true, Some(next)) = (page.items.is_empty(), page.next.clone()) {
            page = self::page(call, Some(next)).await?;
        }
        (statuses(call, &page.items, ","), u8::from(page.next.is_some()))
    } else {
        (FileStatus::new(&entry, "", &call.frontend.names).to_json(), 0)
    };
    Ok(Reply::Json(format!(
        "{{\"DirectoryListing\":{{\"partialListing\":{{\"FileStatuses\":{{\"FileStatus\":[{text}]}}}},\
         \"remainingEntries\":{remaining}}}}}"
    )))
}

/// Where a listing goes on after the child `name`: directories sort as `name/`.
async fn cursor(call: &Call, name: &str) -> Result<String> {
    let path = call.path.join(name)?;
    match call.stat(&path).await {
        Ok(entry) if entry.is_directory() => Ok(format!("{name}/")),
        Ok(_) => Ok(name.to_owned()),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(name.to_owned()),
        Err(e) => Err(e.into()),
    }
}

async fn page(call: &Call, start_after: Option<String>) -> CoreResult<Page> {
    let query = ListQuery { prefix: String::new(), shallow: true, start_after, limit: PAGE_NAMES };
    let page = call.namespace().list(&call.context, &call.path, &query).await?;
    let next = page.items.last().filter(|_| page.is_truncated).map(|item| item.name.clone());
    let mut items = unshadowed(call, page.items, next.as_deref()).await?;
    if call.frontend.colon == ColonPolicy::Hide {
        items.retain(|item| !item.name.contains(':'));
    }
    Ok(Page { items, next })
}

/// Leaves out files that a directory of the same name shadows. `name/` sorts after `name`, with other names between
/// them perhaps, so the directory of a file near the end of a page may be on a later one.
async fn unshadowed(call: &Call, items: Vec<ListItem>, next: Option<&str>) -> CoreResult<Vec<ListItem>> {
    if call.namespace().mount_info(&call.path).is_none_or(|info| info.capability.hierarchical) {
        return Ok(items);
    }
    let directories: HashSet<String> =
        items.iter().filter_map(|item| item.name.strip_suffix('/')).map(str::to_owned).collect();
    let mut shown = Vec::with_capacity(items.len());
    for item in items {
        let is_later =
            next.is_some_and(|next| !item.name.ends_with('/') && *next < *format!("{}/", item.name));
        let is_shadowed = directories.contains(&item.name)
            || is_later && is_directory(call, &call.path.join(&item.name)?).await?;
        if !is_shadowed {
            shown.push(item);
        }
    }
    Ok(shown)
}

async fn is_directory(call: &Call, path: &NsPath) -> CoreResult<bool> {
    match call.namespace().stat(&call.context, path, Want::Directory).await {
        Ok(_) => Ok(true),
        Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotDirectory) => Ok(false),
        Err(e) => Err(e),
    }
}

fn statuses(call: &Call, items: &[ListItem], separator: &str) -> String {
    let status = |item: &ListItem| {
        FileStatus::new(&item.entry, item.name.trim_end_matches('/'), &call.frontend.names).to_json()
    };
    items.iter().map(status).collect::<Vec<_>>().join(separator)
}
