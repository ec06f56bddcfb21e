//! One file from the source to the target: recognised, copied by the store, or streamed; then compared.

use forebay_core::{
    ByteRange, DeleteMode, ETag, Error, ErrorKind, MkdirMode, OpenFile, Precondition, Publish, Result, Want,
    Writer,
};
use md5::{Digest as _, Md5};

use super::compare::{digest, is_copied, is_digest, marked};
use super::walk::Task;
use super::{Ending, Job};

/// How much is read at once.
const STEP_BYTES: u64 = 4 << 20;
/// What became of a file.
enum Copied {
    /// It was there.
    Already,
    /// Its content is there now; whether that was compared.
    Now { is_verified: bool },
}

/// Copies one file or directory.
pub(super) async fn transfer(job: &Job, task: &Task) -> Result<()> {
    if task.source.is_directory() {
        let make = || job.namespace.mkdir(&job.context, &task.to, MkdirMode::Parents);
        return job.patience.retry(make).await.map(drop);
    }
    match job.patience.retry(|| attempt_copy(job, task)).await? {
        Copied::Already => job.progress.count_skipped(task.source.size_bytes),
        Copied::Now { is_verified } => job.progress.count_copied(is_verified),
    }
    match job.ending {
        Ending::Keep => Ok(()),
        Ending::Remove => remove_source(job, task).await,
    }
}

async fn attempt_copy(job: &Job, task: &Task) -> Result<Copied> {
    if is_copied(job, task).await? {
        return Ok(Copied::Already);
    }
    let is_verified =
        if job.is_within_one_mount() { copy_inside(job, task).await? } else { stream(job, task).await? };
    Ok(Copied::Now { is_verified })
}

/// Copies by the store, which answers for the content; equal digests prove it.
async fn copy_inside(job: &Job, task: &Task) -> Result<bool> {
    let _writing = job.writes.acquire().await.expect("the semaphore is never closed");
    let paths = (&task.from, &task.to);
    let copy = job.namespace.copy(&job.context, paths, None, Precondition::None).await?;
    job.progress.count_written(copy.size_bytes);
    let is_proven = is_digest(&copy.etag) && copy.etag == task.source.etag;
    if is_proven || !job.verify {
        return Ok(is_proven);
    }
    let source = job.namespace.open(&job.context, &task.from, Want::File).await?;
    let expected = digest(&*source).await?;
    verify(job, task, &expected).await.map(|()| true)
}

/// Streams through the gateway, hashing what is read.
async fn stream(job: &Job, task: &Task) -> Result<bool> {
    let reading = job.reads.acquire().await.expect("the semaphore is never closed");
    let file = job.namespace.open(&job.context, &task.from, Want::File).await?;
    let writer = job.namespace.replace(&job.context, &task.to).await?;
    // A file that was lent is not taken over by the cache: a copy of a tree would push out what others read, and
    // reading back has to ask the store.
    drop(writer.file());
    let mut written = Written { job, bytes: 0 };
    let md5 = pour(&*file, &writer, &mut written).await?;
    let is_proven_read = !is_digest(&file.entry().etag) || file.entry().etag.as_str() == md5;
    if job.verify && !is_proven_read {
        let message = "what was read is not what the source's tag says; stores that encrypt with keys of their own \
                       show such tags: copy without --verify";
        return Err(Error::new(ErrorKind::BadChecksum, message).at("copy", &task.from));
    }
    drop(reading);
    let _writing = job.writes.acquire().await.expect("the semaphore is never closed");
    let headers = Some(marked(job, &task.from, file.entry()));
    let copy = writer.publish(Publish { headers, is_durable: true, ..Publish::default() }).await?;
    written.keep();
    if copy.size_bytes != file.entry().size_bytes {
        let message = format!("the copy has {} bytes of {}", copy.size_bytes, file.entry().size_bytes);
        return Err(Error::new(ErrorKind::Internal, message).at("copy", &task.from));
    }
    if copy.etag == ETag::new(&md5) {
        return Ok(is_proven_read);
    }
    // Where the tag is a digest and another one, something is wrong or the store encrypts: look.
    if job.verify || is_digest(&copy.etag) {
        verify(job, task, &md5).await.map(|()| is_proven_read)
    } else {
        Ok(false)
    }
}

/// Copies all bytes and returns their MD5 in hex.
async fn pour(file: &dyn OpenFile, writer: &Writer, written: &mut Written<'_>) -> Result<String> {
    let size_bytes = file.entry().size_bytes;
    let mut hasher = Md5::new();
    while written.bytes < size_bytes {
        let step = ByteRange::new(written.bytes, STEP_BYTES.min(size_bytes - written.bytes));
        for piece in file.read_bytes(step).await? {
            hasher.update(&piece);
            let (offset, len) = (written.bytes, piece.len() as u64);
            writer.write_at(offset, piece).await?;
            written.count(len);
        }
    }
    Ok(hex::encode(hasher.finalize()))
}

/// Reads the copy back.
async fn verify(job: &Job, task: &Task, expected: &str) -> Result<()> {
    let copy = job.namespace.open(&job.context, &task.to, Want::File).await?;
    if digest(&*copy).await? == expected {
        return Ok(());
    }
    Err(Error::new(ErrorKind::BadChecksum, "the copy reads back differently").at("verify", &task.to))
}

/// Removes the source if it still is what was copied.
async fn remove_source(job: &Job, task: &Task) -> Result<()> {
    let present = job.namespace.stat(&job.context, &task.from, Want::File).await?;
    if present.etag != task.source.etag {
        let message = "it was changed while it was moved; the copy has its earlier content";
        return Err(Error::new(ErrorKind::Stale, message).at("remove", &task.from));
    }
    job.namespace.delete(&job.context, &task.from, DeleteMode::Object).await.map(drop)
}

/// Bytes of one attempt; taken back from the progress unless it succeeds.
struct Written<'a> {
    job: &'a Job,
    bytes: u64,
}

impl Written<'_> {
    fn count(&mut self, bytes: u64) {
        self.bytes += bytes;
        self.job.progress.count_written(bytes);
    }

    fn keep(mut self) {
        self.bytes = 0;
    }
}

impl Drop for Written<'_> {
    fn drop(&mut self) {
        self.job.progress.take_back(self.bytes);
    }
}
