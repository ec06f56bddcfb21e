//! Whole writes, and that every way to look at what was written agrees.

use bytes::Bytes;
use forebay_core::{Error, ErrorKind, Key, Publish, Result, Target};

use super::Outcome;
use super::site::{CHUNKED_BYTES, Site, content, ensure, lacks};

/// Sizes around nothing, a sector and a page.
const SMALL_SIZES: [usize; 5] = [1, 511, 4_096, 65_537, 1 << 20];

async fn put_and_compare(site: &Site, name: &str, content: &Bytes) -> Result<()> {
    let key = site.key(name)?;
    let entry = site.put(&key, content).await?;
    ensure(entry.size_bytes == content.len() as u64, || {
        format!("{} bytes were written and {} stored", content.len(), entry.size_bytes)
    })?;
    site.ensure_content(&key, content).await
}

/// The first write of all.
pub(super) async fn small(site: &Site) -> Result<Outcome> {
    for size in SMALL_SIZES {
        match put_and_compare(site, &format!("write/{size}"), &content(size as u64, size)).await {
            Err(e) if matches!(e.kind(), ErrorKind::Unsupported | ErrorKind::ReadOnly) => {
                return Ok(lacks("writes are refused; say `read_only: true` in mounts.yaml"));
            }
            answer => answer?,
        }
    }
    Ok(Outcome::Holds)
}

pub(super) async fn empty(site: &Site) -> Result<Outcome> {
    put_and_compare(site, "write/empty", &Bytes::new()).await?;
    Ok(Outcome::Holds)
}

pub(super) async fn chunked(site: &Site) -> Result<Outcome> {
    put_and_compare(site, "write/chunked", &content(1, CHUNKED_BYTES)).await?;
    Ok(Outcome::Holds)
}

/// Another content takes the place of the first whole, also a shorter one.
pub(super) async fn replaced(site: &Site) -> Result<Outcome> {
    let key = site.key("write/replaced")?;
    let before = site.put(&key, &content(2, 5_000)).await?;
    let after = site.put(&key, &content(3, 300)).await?;
    ensure(before.etag != after.etag, || "two contents have one ETag".to_owned())?;
    site.ensure_content(&key, &content(3, 300)).await?;
    Ok(Outcome::Holds)
}

/// A change in place, as APPEND and FUSE make it.
pub(super) async fn changed(site: &Site) -> Result<Outcome> {
    let key = site.key("write/changed")?;
    site.put(&key, &content(4, 1_000)).await?;
    let staged = site.mount.stage(Target::Modify(key.clone())).await?;
    staged.write_at(1_000, content(5, 500)).await?;
    staged.publish(Publish::default()).await?;
    let joined = [content(4, 1_000), content(5, 500)].concat();
    site.ensure_content(&key, &joined).await?;
    Ok(Outcome::Holds)
}

/// What the write answered, a lookup and the listing say the same.
pub(super) async fn agreement(site: &Site) -> Result<Outcome> {
    for size in [0, 1, 70_000, CHUNKED_BYTES] {
        let key = site.key(&format!("agree/{size}"))?;
        let written = site.put(&key, &content(6, size)).await?;
        agree(site, &key, (written.size_bytes, written.etag.quoted())).await?;
    }
    Ok(Outcome::Holds)
}

async fn agree(site: &Site, key: &Key, written: (u64, String)) -> Result<()> {
    let (looked, listed) = (site.file(key).await?, site.listed(key).await?);
    let of = |entry: &forebay_core::Entry| (entry.size_bytes, entry.etag.quoted());
    for (what, seen) in [("a lookup", of(&looked)), ("the listing", of(&listed))] {
        if seen != written {
            let message = format!("the write answered {written:?} and {what} {seen:?}");
            return Err(Error::new(ErrorKind::Internal, message));
        }
    }
    ensure(looked.modified == listed.modified, || {
        "a lookup and the listing show different times of modification".to_owned()
    })
}
