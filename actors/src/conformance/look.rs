//! What can be told without writing: from what is in the store already.

use forebay_core::{ByteRange, ErrorKind, Key, ListItem, ListQuery, Result, Want};

use super::Outcome;
use super::site::{Site, ensure, read};

/// Names that are looked at of a store.
const NAMES: usize = 1_000;
/// Pages that they are asked for in.
const PAGE: usize = 100;
/// Most bytes that are read of a file.
const READ_BYTES: u64 = 64 << 10;
/// How often a comparison is repeated for a file that somebody changes meanwhile.
const ATTEMPTS: usize = 3;

fn nothing(what: &str) -> Outcome {
    Outcome::NotTried { why: format!("there is no {what} to look at: --write") }
}

async fn first_file(site: &Site) -> Result<Option<ListItem>> {
    let query = ListQuery { prefix: String::new(), shallow: false, start_after: None, limit: NAMES };
    let page = site.mount.list(&query).await?;
    Ok(page.items.into_iter().find(|item| !item.entry.is_directory()))
}

/// The first names come in order and page by page, and the same whatever the size of the page.
pub(super) async fn order(site: &Site) -> Result<Outcome> {
    let mut query = ListQuery { prefix: String::new(), shallow: false, start_after: None, limit: PAGE };
    let mut names: Vec<String> = Vec::new();
    while names.len() < NAMES {
        let page = site.mount.list(&query).await?;
        for item in page.items {
            ensure(names.last().is_none_or(|last| *last < item.name), || {
                format!("{:?} is listed after {:?}", item.name, names.last())
            })?;
            names.push(item.name);
        }
        if !page.is_truncated {
            break;
        }
        query.start_after = names.last().cloned();
    }
    if names.len() < 2 { Ok(nothing("pair of names")) } else { Ok(Outcome::Holds) }
}

/// The first file is as its listing shows it.
pub(super) async fn agreement(site: &Site) -> Result<Outcome> {
    let mut seen = String::new();
    for _ in 0..ATTEMPTS {
        let Some(item) = first_file(site).await? else { return Ok(nothing("file")) };
        let entry = match site.mount.stat(&Key::parse(&item.name)?, Want::File).await {
            // Removed since it was listed.
            Err(e) if e.kind() == ErrorKind::NotFound => continue,
            answer => answer?,
        };
        if (entry.size_bytes, &entry.etag) == (item.entry.size_bytes, &item.entry.etag) {
            return Ok(Outcome::Holds);
        }
        let shown =
            |entry: &forebay_core::Entry| format!("{} bytes {}", entry.size_bytes, entry.etag.quoted());
        seen = format!(
            "{:?} is listed with {} and looked up with {}",
            item.name,
            shown(&item.entry),
            shown(&entry)
        );
    }
    ensure(seen.is_empty(), || seen)?;
    Ok(nothing("file that stays"))
}

/// The start and the end of the first file can be read, and overlapping reads agree.
pub(super) async fn reads(site: &Site) -> Result<Outcome> {
    let Some(item) = first_file(site).await? else { return Ok(nothing("file")) };
    let file = match site.mount.open(&Key::parse(&item.name)?, Want::File).await {
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(nothing("file that stays")),
        answer => answer?,
    };
    let size_bytes = file.entry().size_bytes;
    if size_bytes == 0 {
        return Ok(nothing("file with content"));
    }
    let start = read(&*file, ByteRange::new(0, size_bytes.min(READ_BYTES))).await?;
    let middle = start.len() / 2;
    let again = read(&*file, ByteRange::new(middle as u64, (start.len() - middle) as u64)).await?;
    ensure(start[middle..] == again, || format!("two reads of {:?} differ", item.name))?;
    read(&*file, ByteRange::new(size_bytes - 1, 1)).await?;
    Ok(Outcome::Holds)
}
