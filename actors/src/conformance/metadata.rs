//! What is kept beside the content: S3 headers, user metadata, POSIX attributes.

use bytes::Bytes;
use forebay_core::{AttributeChange, EntryKind, Headers, Publish, RenameMode, Result, Want};

use super::Outcome;
use super::site::{Site, ensure, lacks};

fn headers() -> Headers {
    Headers {
        content_type: Some("text/x-test; charset=utf-8".into()),
        cache_control: Some("max-age=60, no-transform".into()),
        content_disposition: Some("attachment; filename=\"x y\"".into()),
        content_encoding: Some("zstd".into()),
        content_language: Some("de".into()),
        expires: Some("Thu, 01 Dec 2044 16:00:00 GMT".into()),
        user: [
            ("colour", "blue"),
            ("name", "Jörg ☃ 🎉"),
            ("with-dashes_and_more", " padded "),
            ("empty", ""),
            ("looks-encoded", "=?UTF-8?B?eA==?="),
            ("long", &"long ".repeat(150)),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into(),
    }
}

async fn kept(site: &Site, name: &str, headers: Headers) -> Result<Outcome> {
    let key = site.key(name)?;
    let publish = Publish { headers: Some(headers.clone()), ..Publish::default() };
    site.publish(&key, &Bytes::from_static(b"x"), publish).await?;
    let seen = site.file(&key).await?.headers;
    if !site.mount.info().capability.headers {
        return Ok(lacks("headers and user metadata are accepted and not kept"));
    }
    ensure(seen.as_deref() == Some(&headers), || format!("{headers:?} came back as {seen:?}"))?;
    Ok(Outcome::Holds)
}

pub(super) async fn headers_are_kept(site: &Site) -> Result<Outcome> {
    kept(site, "metadata/headers", Headers { user: [].into(), ..headers() }).await
}

pub(super) async fn user_metadata_is_kept(site: &Site) -> Result<Outcome> {
    kept(site, "metadata/user", headers()).await
}

async fn links_are_kept(site: &Site) -> Result<()> {
    let (made, link, target) = (site.key("metadata/made")?, site.key("metadata/link")?, b"../no\xff/where");
    let owner = (rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw());
    site.mount.symlink(&made, target, owner).await?;
    site.mount.rename(&made, &link, RenameMode::NoReplace).await?;
    let read = site.mount.read_link(&link).await?;
    ensure(read == target[..], || format!("a link to {:?} leads to {read:?}", target.escape_ascii()))?;
    site.put(&link, &Bytes::from_static(b"x")).await?;
    let kind = site.mount.stat(&link, Want::Unfollowed).await?.kind;
    ensure(kind == EntryKind::File, || "a link that was replaced is still one".to_owned())
}

pub(super) async fn attributes_are_kept(site: &Site) -> Result<Outcome> {
    let key = site.key("metadata/posix")?;
    site.put(&key, &Bytes::from_static(b"x")).await?;
    site.mount
        .set_attributes(&key, AttributeChange { mode: Some(0o640), ..AttributeChange::default() })
        .await?;
    let mode = site.file(&key).await?.attributes.mode;
    ensure(mode == 0o640, || format!("mode 0640 came back as {mode:04o}"))?;
    links_are_kept(site).await?;
    if !site.mount.info().capability.posix {
        return Ok(lacks(
            "mode, owner, times, xattrs and what is a link are kept beside the store, by the gateway",
        ));
    }
    Ok(Outcome::Holds)
}
