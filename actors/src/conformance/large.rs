//! Objects that no single request of S3 can hold. They are sparse: what lies between the ends is zeros.

use forebay_core::{ByteRange, Error, ErrorKind, Publish, Result, Target, Want};

use super::Outcome;
use super::site::{Site, content, ensure, read};

/// More than 5 GiB, and no multiple of anything.
const SIZE_BYTES: u64 = (5 << 30) + 12_345;
const PIECE: usize = 4_321;

pub(super) async fn five_gib(site: &Site) -> Result<Outcome> {
    match write(site).await {
        Err(e) if e.kind() == ErrorKind::NoSpace => {
            Ok(Outcome::NotTried { why: format!("there is no room for {SIZE_BYTES} bytes: {e}") })
        }
        answer => answer.map(|()| Outcome::Holds),
    }
}

async fn write(site: &Site) -> Result<()> {
    let key = site.key("large/5-gib")?;
    let staged = site.mount.stage(Target::Replace(key.clone())).await?;
    staged.truncate(SIZE_BYTES).await?;
    let pieces = [0, (1 << 32) - 1_000, SIZE_BYTES - PIECE as u64];
    for (seed, offset) in (0..).zip(pieces) {
        staged.write_at(offset, content(seed, PIECE)).await?;
    }
    let entry = staged.publish(Publish::default()).await?;
    drop(staged);
    let (looked, listed) = (site.file(&key).await?, site.listed(&key).await?);
    for (what, size) in
        [("write", entry.size_bytes), ("lookup", looked.size_bytes), ("listing", listed.size_bytes)]
    {
        if size != SIZE_BYTES {
            let message = format!("the {what} shows {size} bytes of {SIZE_BYTES}");
            return Err(Error::new(ErrorKind::Internal, message));
        }
    }
    ensure(looked.etag == listed.etag, || "a lookup and the listing show different ETags".to_owned())?;
    let file = site.mount.open(&key, Want::File).await?;
    for (seed, offset) in (0..).zip(pieces) {
        let seen = read(&*file, ByteRange::new(offset, PIECE as u64)).await?;
        ensure(seen == content(seed, PIECE), || format!("the bytes from {offset} are not what was written"))?;
    }
    let gap = read(&*file, ByteRange::new(3 << 30, 1_000)).await?;
    ensure(gap.iter().all(|byte| *byte == 0), || "what was not written is not zeros".to_owned())
}
