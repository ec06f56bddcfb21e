//! When is a file the copy of another? By equal tags that are digests, by the mark that a copy carries, or by reading
//! both.

use forebay_core::{ByteRange, ETag, Entry, FileId, Headers, NsPath, OpenFile, Result, Want};
use md5::{Digest as _, Md5};

use super::Job;
use super::walk::Task;

/// User metadata of a copy: which content of which file it is a copy of.
const MARK: &str = "forebay-source";
/// How much is read at once to compare contents.
const READ_BYTES: u64 = 1 << 20;

/// Whether a tag is the MD5 of its content, as far as its form tells.
pub(super) fn is_digest(etag: &ETag) -> bool {
    let text = etag.as_str();
    text.len() == 32 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// Names one content of one file.
fn mark(path: &NsPath, entry: &Entry) -> String {
    let size = entry.size_bytes.to_le_bytes();
    FileId::of(&[path.as_str().as_bytes(), entry.etag.as_str().as_bytes(), &size]).to_string()
}

/// The headers of a copy of `entry`, with its mark where the target keeps it.
pub(super) fn marked(job: &Job, path: &NsPath, entry: &Entry) -> Headers {
    let mut headers = entry.headers.as_deref().cloned().unwrap_or_default();
    if job.target.capability.headers {
        headers.user.insert(MARK.to_owned(), mark(path, entry));
    }
    headers
}

/// Whether the target already is a copy of the source.
pub(super) async fn is_copied(job: &Job, task: &Task) -> Result<bool> {
    let Some(target) = &task.target else { return Ok(false) };
    if target.is_directory() || target.size_bytes != task.source.size_bytes {
        return Ok(false);
    }
    if is_digest(&target.etag) && target.etag == task.source.etag {
        return Ok(true);
    }
    if job.checksum {
        let source = job.namespace.open(&job.context, &task.from, Want::File).await?;
        let target = job.namespace.open(&job.context, &task.to, Want::File).await?;
        return Ok(digest(&*source).await? == digest(&*target).await?);
    }
    if !job.target.capability.headers {
        return Ok(false);
    }
    let target = job.namespace.stat(&job.context, &task.to, Want::File).await?;
    let known = target.headers.as_deref().and_then(|headers| headers.user.get(MARK).cloned());
    Ok(known.is_some_and(|known| known == mark(&task.from, &task.source)))
}

/// The MD5 of a file, in hex.
pub(super) async fn digest(file: &dyn OpenFile) -> Result<String> {
    let size_bytes = file.entry().size_bytes;
    let (mut hasher, mut done) = (Md5::new(), 0);
    while done < size_bytes {
        for piece in file.read_bytes(ByteRange::new(done, READ_BYTES.min(size_bytes - done))).await? {
            hasher.update(&piece);
            done += piece.len() as u64;
        }
    }
    Ok(hex::encode(hasher.finalize()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_md5_tags_prove_equality() {
        assert!(is_digest(&ETag::new("d41d8cd98f00b204e9800998ecf8427e")));
        for other in ["d41d8cd98f00b204e9800998ecf8427e-1", "0x8DD", "D41D8CD98F00B204E9800998ECF8427E", ""] {
            assert!(!is_digest(&ETag::new(other)), "{other}");
        }
    }
}
