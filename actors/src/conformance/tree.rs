//! Copies, renames and deletions, of files and of trees.

use bytes::Bytes;
use forebay_core::{DeleteMode, ErrorKind, Headers, Key, MkdirMode, Precondition, RenameMode, Result, Want};

use super::Outcome;
use super::site::{Site, content, ensure, ensure_refused, lacks};

/// Files of the trees that are moved and removed.
const TREE_FILES: usize = 40;
/// Files that one call removes.
const MANY_FILES: usize = 300;
const STREAMED: &str = "such copies go through the gateway";

fn headers(content_type: &str) -> Headers {
    Headers { content_type: Some(content_type.to_owned()), ..Headers::default() }
}

async fn copied(site: &Site, name: &str, new: Option<Headers>) -> Result<Outcome> {
    let (from, to) = (site.key(&format!("copy/{name}"))?, site.key(&format!("copy/{name} ä"))?);
    let content = content(1, 100_000);
    let old = headers("text/x-old");
    let publish = forebay_core::Publish { headers: Some(old.clone()), ..Default::default() };
    site.publish(&from, &content, publish).await?;
    let entry = match site.mount.copy(&from, &to, new.clone(), Precondition::None).await {
        Err(e) if e.kind() == ErrorKind::Unsupported => return Ok(lacks(STREAMED)),
        answer => answer?,
    };
    ensure(entry.size_bytes == content.len() as u64, || format!("the copy has {} bytes", entry.size_bytes))?;
    site.ensure_content(&to, &content).await?;
    site.ensure_content(&from, &content).await?;
    if site.mount.info().capability.headers {
        let wanted = new.unwrap_or(old).content_type;
        let seen = site.file(&to).await?.headers.and_then(|headers| headers.content_type.clone());
        ensure(seen == wanted, || format!("the copy has the content type {seen:?} instead of {wanted:?}"))?;
    }
    Ok(Outcome::Holds)
}

pub(super) async fn copies(site: &Site) -> Result<Outcome> {
    copied(site, "plain", None).await
}

pub(super) async fn copies_with_headers(site: &Site) -> Result<Outcome> {
    copied(site, "headers", Some(headers("text/x-new"))).await
}

/// How a store that cannot rename does it all the same.
fn renamed(site: &Site) -> Outcome {
    if site.mount.info().capability.native_rename {
        return Outcome::Holds;
    }
    lacks("a rename is copies and deletions: not atomic, and as long as its files are many")
}

async fn ensure_gone(site: &Site, key: &Key) -> Result<()> {
    ensure_refused(site.mount.stat(key, Want::Any).await, &[ErrorKind::NotFound], "a lookup of the old name")
}

pub(super) async fn renames(site: &Site) -> Result<Outcome> {
    let (from, to) = (site.key("rename/from")?, site.key("rename/to")?);
    let (first, second) = (content(1, 2_000), content(2, 3_000));
    site.put(&from, &first).await?;
    site.mount.rename(&from, &to, RenameMode::NoReplace).await?;
    site.ensure_content(&to, &first).await?;
    ensure_gone(site, &from).await?;
    site.put(&from, &second).await?;
    let taken = site.mount.rename(&from, &to, RenameMode::NoReplace).await;
    ensure_refused(taken, &[ErrorKind::AlreadyExists], "a rename over a file that it may not replace")?;
    site.ensure_content(&to, &first).await?;
    site.mount.rename(&from, &to, RenameMode::Replace).await?;
    site.ensure_content(&to, &second).await?;
    ensure_gone(site, &from).await?;
    Ok(renamed(site))
}

pub(super) async fn renames_trees(site: &Site) -> Result<Outcome> {
    let (from, to) = (site.key("tree/from")?, site.key("tree/to")?);
    let mut names: Vec<_> = (0..TREE_FILES).map(|number| format!("{}/ä {number:02}", number % 3)).collect();
    site.put_all(&from, &names).await?;
    site.mount.mkdir(&from.join("empty")?, MkdirMode::Parents).await?;
    site.mount.rename(&from, &to, RenameMode::NoReplace).await?;
    let seen = site.names(&to, false, 1_000).await?;
    names.push("empty/".to_owned());
    names.sort_unstable();
    ensure(seen == names, || format!("{} of {} names are at the new place", seen.len(), names.len()))?;
    site.ensure_content(&to.join("1/ä 01")?, "1/ä 01".as_bytes()).await?;
    ensure_gone(site, &from).await?;
    Ok(renamed(site))
}

pub(super) async fn deletes(site: &Site) -> Result<Outcome> {
    let key = site.key("delete/file")?;
    site.put(&key, &Bytes::from_static(b"x")).await?;
    ensure(site.mount.delete(&key, DeleteMode::File).await?, || "a file was not there to remove".to_owned())?;
    ensure_gone(site, &key).await?;
    ensure(!site.mount.delete(&key, DeleteMode::File).await?, || "a file was removed twice".to_owned())?;
    ensure(!site.mount.delete(&key, DeleteMode::Object).await?, || "an object was removed twice".to_owned())?;
    Ok(Outcome::Holds)
}

pub(super) async fn deletes_many(site: &Site) -> Result<Outcome> {
    let directory = site.key("delete/many")?;
    let names: Vec<_> = (0..MANY_FILES).map(|number| format!("{}/{number}", number % 5)).collect();
    site.put_all(&directory, &names).await?;
    ensure(site.mount.delete(&directory, DeleteMode::Tree).await?, || "a tree was not there".to_owned())?;
    let left = site.names(&directory, false, 1_000).await?;
    ensure(left.is_empty(), || format!("{} of {MANY_FILES} files were left", left.len()))?;
    ensure_gone(site, &directory).await?;
    Ok(Outcome::Holds)
}
