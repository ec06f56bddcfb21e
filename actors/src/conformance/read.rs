//! Reads of ranges, and of files that change while they are open.

use forebay_core::{ByteRange, DeleteMode, Error, ErrorKind, OpenFile, Result, Want};

use super::Outcome;
use super::site::{Site, content, ensure, read};

/// Some pages of the cache, and an odd rest.
const SIZE_BYTES: usize = (3 << 20) + 123;
const PAGE: u64 = 1 << 20;

pub(super) async fn ranges(site: &Site) -> Result<Outcome> {
    let key = site.key("read/ranges")?;
    let content = content(1, SIZE_BYTES);
    site.put(&key, &content).await?;
    let file = site.mount.open(&key, Want::File).await?;
    let end = SIZE_BYTES as u64;
    ensure(file.entry().size_bytes == end, || "the open file has another size".to_owned())?;
    let ranges =
        [(end - 1, 1), (0, 1), (0, PAGE), (PAGE - 1, 2), (PAGE + 7, 2 * PAGE), (end - 500, 500), (0, end)];
    for (offset, len) in ranges {
        let seen = read(&*file, ByteRange::new(offset, len)).await?;
        ensure(seen == content[offset as usize..(offset + len) as usize], || {
            format!("{len} bytes from {offset} are not what was written there")
        })?;
    }
    let past = ByteRange::new(end + 1, 10).clamp_to(end);
    ensure(past.is_empty(), || "a range past the end is not empty".to_owned())?;
    Ok(Outcome::Holds)
}

/// The rest of `file`, begun with the first content: that content, or a refusal.
async fn ensure_unmixed(file: &dyn OpenFile, first: &[u8]) -> Result<()> {
    let rest = ByteRange::new(PAGE, SIZE_BYTES as u64 - PAGE);
    match read(file, rest).await {
        Ok(seen) if seen == first[PAGE as usize..] => Ok(()),
        Ok(_) => Err(Error::new(ErrorKind::Internal, "one open file showed bytes of two contents")),
        Err(e) if e.kind() == ErrorKind::Stale => Ok(()),
        Err(e) => Err(e),
    }
}

pub(super) async fn replaced(site: &Site) -> Result<Outcome> {
    let key = site.key("read/replaced")?;
    let (first, second) = (content(1, SIZE_BYTES), content(2, SIZE_BYTES));
    site.put(&key, &first).await?;
    let file = site.mount.open(&key, Want::File).await?;
    read(&*file, ByteRange::new(0, 100)).await?;
    site.put(&key, &second).await?;
    ensure_unmixed(&*file, &first).await?;
    site.ensure_content(&key, &second).await?;
    Ok(Outcome::Holds)
}

pub(super) async fn removed(site: &Site) -> Result<Outcome> {
    let key = site.key("read/removed")?;
    let first = content(3, SIZE_BYTES);
    site.put(&key, &first).await?;
    let file = site.mount.open(&key, Want::File).await?;
    read(&*file, ByteRange::new(0, 100)).await?;
    site.mount.delete(&key, DeleteMode::Object).await?;
    ensure_unmixed(&*file, &first).await?;
    Ok(Outcome::Holds)
}
