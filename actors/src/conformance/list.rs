//! Listings: complete and in byte order whatever the page, shallow or not, from any name on.

use std::collections::BTreeSet;

use bytes::Bytes;
use forebay_core::{DeleteMode, ErrorKind, Key, ListQuery, MkdirMode, Result, Want};

use super::site::{Site, ensure, ensure_refused, lacks};
use super::{Depth, Outcome};

/// Names around `/` in the order of bytes, a directory in a directory, and beyond ASCII.
const NAMES: [&str; 10] =
    ["d!", "d-", "d/a", "d/b/1", "d/b/2", "d/c", "d0", "e/f/g", "z", "ä/last-\u{10fffd}"];
/// Names of the check of long listings.
const MANY: usize = 1_100;
const MANY_THOROUGH: usize = 10_000;

/// What a listing of `names` below `prefix` should show, relative to the same root.
fn expected(names: &[String], prefix: &str, shallow: bool) -> Vec<String> {
    let shown = names.iter().filter_map(|name| {
        let rest = name.strip_prefix(prefix)?;
        let end = rest.find('/').filter(|_| shallow).map_or(rest.len(), |slash| slash + 1);
        Some(format!("{prefix}{}", &rest[..end]))
    });
    shown.collect::<BTreeSet<_>>().into_iter().collect()
}

async fn prepared(site: &Site, name: &str) -> Result<(Key, Vec<String>)> {
    let (directory, names) = (site.key(name)?, NAMES.map(str::to_owned).to_vec());
    site.put_all(&directory, &names).await?;
    Ok((directory, names))
}

pub(super) async fn order(site: &Site) -> Result<Outcome> {
    let (directory, names) = prepared(site, "order").await?;
    let base = directory.directory_prefix();
    for (prefix, shallow) in
        [("", false), ("", true), ("d", true), ("d/", true), ("d/b/", false), ("no", true)]
    {
        let expected = expected(&names, prefix, shallow);
        for limit in [1, 2, 3, 1_000] {
            let items = site.items(&format!("{base}{prefix}"), shallow, limit).await?;
            let seen: Vec<_> = items.iter().map(|item| item.name[base.len()..].to_owned()).collect();
            ensure(seen == expected, || {
                format!("pages of {limit} below {prefix:?} show {seen:?} instead of {expected:?}")
            })?;
        }
    }
    Ok(Outcome::Holds)
}

/// A cursor before, inside and after groups, and on names that do not exist.
pub(super) async fn start_after(site: &Site) -> Result<Outcome> {
    let (directory, names) = prepared(site, "after").await?;
    let base = directory.directory_prefix();
    for shallow in [true, false] {
        let all = expected(&names, "", shallow);
        for after in ["!", "c", "d", "d!", "d/", "d/b/1", "d/zzz", "d0", "e/f", "m", "z", "\u{10ffff}"] {
            let is_passed = |name: &String| {
                **name <= *after || (shallow && name.ends_with('/') && after.starts_with(&**name))
            };
            let expected = all.iter().find(|name| !is_passed(name));
            let start_after = Some(format!("{base}{after}"));
            let query = ListQuery { prefix: base.clone(), shallow, start_after, limit: 1 };
            let page = site.mount.list(&query).await?;
            let seen = page.items.first().map(|item| item.name[base.len()..].to_owned());
            ensure(seen.as_ref() == expected, || {
                format!("after {after:?} comes {seen:?} instead of {expected:?} (shallow: {shallow})")
            })?;
        }
    }
    Ok(Outcome::Holds)
}

pub(super) async fn many(site: &Site) -> Result<Outcome> {
    let directory = site.key("many")?;
    let count = if site.depth >= Depth::Thorough { MANY_THOROUGH } else { MANY };
    let names: Vec<_> = (0..count).map(|number| format!("{:03}/{number:06}", number % 7)).collect();
    site.put_all(&directory, &names).await?;
    let expected = expected(&names, "", false);
    for limit in [1_000, 777] {
        let seen = site.names(&directory, false, limit).await?;
        ensure(seen == expected, || {
            format!("{} of {count} names are listed in pages of {limit}", seen.len())
        })?;
    }
    Ok(Outcome::Holds)
}

/// `x` beside `x/y`, as object stores have them.
pub(super) async fn one_name(site: &Site) -> Result<Outcome> {
    let directory = site.key("same")?;
    site.put(&directory.join("x")?, &Bytes::from_static(b"file")).await?;
    match site.put(&directory.join("x/y")?, &Bytes::from_static(b"below")).await {
        Err(e)
            if matches!(
                e.kind(),
                ErrorKind::NotDirectory | ErrorKind::InvalidName | ErrorKind::Unsupported
            ) =>
        {
            site.ensure_content(&directory.join("x")?, b"file").await?;
            return Ok(lacks("the second of the two is refused: a name is a file or a directory"));
        }
        answer => answer?,
    };
    site.ensure_content(&directory.join("x")?, b"file").await?;
    site.ensure_content(&directory.join("x/y")?, b"below").await?;
    let seen = site.names(&directory, true, 1_000).await?;
    if seen == ["x"] {
        return Ok(lacks("the store hides in listings what lies below the name of a file; use other names"));
    }
    ensure(seen == ["x", "x/"], || format!("the listing shows {seen:?} instead of \"x\" and \"x/\""))?;
    Ok(Outcome::Holds)
}

pub(super) async fn directories(site: &Site) -> Result<Outcome> {
    let (parent, empty) = (site.key("directories")?, site.key("directories/empty")?);
    site.mount.mkdir(&empty, MkdirMode::Parents).await?;
    site.mount.mkdir(&empty, MkdirMode::Parents).await?;
    let again = site.mount.mkdir(&empty, MkdirMode::New).await;
    ensure_refused(again, &[ErrorKind::AlreadyExists], "a directory made twice")?;
    let entry = site.mount.stat(&empty, Want::Any).await?;
    ensure(entry.is_directory(), || "an empty directory looks like a file".to_owned())?;
    let seen = site.names(&parent, true, 10).await?;
    ensure(seen == ["empty/"], || format!("an empty directory is listed as {seen:?}"))?;
    site.put(&empty.join("file")?, &Bytes::from_static(b"x")).await?;
    let full = site.mount.delete(&empty, DeleteMode::EmptyDirectory).await;
    ensure_refused(full, &[ErrorKind::NotEmpty], "the removal of a directory with a file as an empty one")?;
    site.mount.delete(&empty.join("file")?, DeleteMode::File).await?;
    let removed = site.mount.delete(&empty, DeleteMode::EmptyDirectory).await?;
    ensure(removed, || "a directory vanished with its last file".to_owned())?;
    Ok(Outcome::Holds)
}
