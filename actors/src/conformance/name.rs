//! Names: stored byte for byte or refused with a clear error, and two of them never become one.

use bytes::Bytes;
use forebay_core::{ErrorKind, Key, Result};

use super::Outcome;
use super::site::{Site, ensure, lacks};

/// Names that some store, protocol or library takes for others.
const NAMES: &[&str] = &[
    "plain",
    "PLAIN",
    " a",
    "a ",
    " a ",
    "  ",
    "a b",
    "a  b",
    "a\u{a0}b",
    "\u{200b}a",
    "a%20b",
    "a+b",
    "a%2Bb",
    "a%2fb",
    "a%2Fb",
    "%",
    "%%",
    "%00",
    "%zz",
    "%2e%2e",
    "a\\b",
    "\\",
    "a:b",
    "C:",
    "2024-01-01T00:00:00",
    "\"",
    "'",
    "`",
    "<a>",
    "&",
    "&amp;",
    "?",
    "a?b=c&d",
    "#",
    "*",
    "|",
    "~",
    "$HOME",
    "!",
    "(a)",
    "[a]",
    "{a}",
    "^",
    ";",
    ",",
    "=",
    "@",
    "k=v",
    "-rf",
    ".hidden",
    "..x",
    "x..",
    "...",
    "x.",
    "\u{e9}",
    "e\u{301}",
    "ä",
    "a\u{308}",
    "中文",
    "🎉",
    "👩‍👩‍👧",
    "\u{202e}rtl",
    "a\tb",
    "a\nb",
    "a\r",
    "\u{1}",
    "\u{1b}[0m",
    "\u{7f}",
    "\u{85}",
    "\u{fffd}",
    "\u{ffff}",
    "\u{10ffff}",
    "con",
    "aux.txt",
    "desktop.ini",
    " d/x",
    "d /x",
    "d%2fx/y",
    "a+d/c d",
    "x.snapshot",
    ".snapshot",
    "_",
    "._x",
    "null",
    "undefined",
    "0",
];
/// What no store ever gets to see.
const REFUSED: &[&str] = &["/a", "a/", "a//b", ".", "..", "a/../b", "a/./b", "a\0b"];
/// How a name that a store cannot hold is refused.
const CLEAR: &[ErrorKind] = &[ErrorKind::InvalidName, ErrorKind::NameTooLong, ErrorKind::InvalidArgument];
/// Length of the segments of a long key.
const SEGMENT_BYTES: usize = 100;

/// Writes `name` with itself as content; `false` when it was refused clearly.
async fn stored(site: &Site, key: &Key, name: &str) -> Result<bool> {
    match site.put(key, &Bytes::copy_from_slice(name.as_bytes())).await {
        Ok(_) => Ok(true),
        Err(e) if CLEAR.contains(&e.kind()) => Ok(false),
        Err(e) => Err(e.at("write", format!("{name:?}"))),
    }
}

pub(super) async fn exact(site: &Site) -> Result<Outcome> {
    for name in REFUSED {
        ensure(Key::parse(name).is_err(), || format!("{name:?} was not refused"))?;
    }
    let directory = site.key("names")?;
    let (mut kept, mut refused) = (Vec::new(), Vec::new());
    for name in NAMES {
        let to = if stored(site, &directory.join(name)?, name).await? { &mut kept } else { &mut refused };
        to.push(*name);
    }
    for name in &kept {
        let content =
            site.get(&directory.join(name)?).await.map_err(|e| e.at("read", format!("{name:?}")))?;
        ensure(content == name.as_bytes(), || {
            format!("{name:?} reads as {:?}: two names became one", String::from_utf8_lossy(&content))
        })?;
    }
    let listed = site.names(&directory, false, 1_000).await?;
    kept.sort_unstable();
    if let Some(name) = kept.iter().find(|name| !listed.iter().any(|listed| listed == *name)) {
        ensure(false, || format!("the listing does not show {name:?}"))?;
    }
    ensure(listed.len() == kept.len(), || {
        let strange = listed.iter().find(|name| !kept.contains(&&***name));
        format!("the listing shows {strange:?}, which was never written")
    })?;
    if refused.is_empty() {
        return Ok(Outcome::Holds);
    }
    let shown: Vec<_> = refused.iter().map(|name| format!("{name:?}")).collect();
    Ok(lacks(&format!("refused with a clear error: {}", shown.join(" "))))
}

/// A key of exactly `len` bytes below `directory`.
fn long_key(directory: &Key, len: usize) -> Result<Key> {
    let mut text = directory.as_str().to_owned();
    while text.len() + 1 < len {
        let segment = (len - text.len() - 1).min(SEGMENT_BYTES);
        // A rest of one byte has no room for a slash and a name.
        let segment = if len - text.len() - 1 - segment == 1 { segment - 1 } else { segment };
        text.push('/');
        text.push_str(&"x".repeat(segment));
    }
    Key::parse(&text)
}

pub(super) async fn long(site: &Site) -> Result<Outcome> {
    let directory = site.key("long")?;
    let mut refused = Vec::new();
    for (what, name) in [
        ("a segment of 255 bytes", "s".repeat(255)),
        ("a segment of 255 bytes beyond ASCII", format!("{}x", "ä".repeat(127))),
        ("a segment of 256 bytes", "t".repeat(256)),
    ] {
        let key = directory.join(&name)?;
        if stored(site, &key, &name).await? {
            site.ensure_content(&key, name.as_bytes()).await?;
        } else {
            refused.push(what);
        }
    }
    let longest = site.mount.info().capability.key_bytes_max.min(4_000);
    let key = long_key(&directory, longest)?;
    if stored(site, &key, "long").await? {
        site.ensure_content(&key, b"long").await?;
    } else {
        refused.push("the longest key");
    }
    let listed = site.names(&directory, false, 1_000).await?;
    ensure(listed.len() == 4 - refused.len(), || {
        format!("{} of {} are listed", listed.len(), 4 - refused.len())
    })?;
    if refused.is_empty() {
        return Ok(Outcome::Holds);
    }
    Ok(lacks(&format!("refused with a clear error: {}", refused.join(", "))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_keys_have_exactly_the_length_asked_for() {
        let directory = Key::parse("d").expect("legal");
        for len in 4..1_100 {
            assert_eq!(long_key(&directory, len).expect("legal").as_str().len(), len, "{len}");
        }
    }
}
