//! What a running job does: names in batches, files of a batch side by side, pages of a file a few at a time.

use std::sync::Arc;

use forebay_core::{ByteRange, Entry, ListQuery, METRICS, NsPath, OpenFile, Result, Want};
use futures::{StreamExt, TryStreamExt, stream};

use super::Shared;
use super::job::{Job, JobState};
use super::pace::Pace;
use crate::cache::PAGE_BYTES;
use crate::patience::Patience;

/// Names of a batch: what is done again after a restart.
const BATCH: usize = 256;
/// Pages of one file under way.
const PAGES: usize = 8;

/// A job at work.
struct Run {
    shared: Arc<Shared>,
    job: Arc<Job>,
    path: NsPath,
    transfers: usize,
    pace: Pace,
    patience: Patience,
}

/// Runs a job to its end.
pub(super) async fn run(shared: Arc<Shared>, job: Arc<Job>) {
    let worked = tokio::select! {
        worked = work(&shared, &job) => worked,
        () = job.ended() => return,
    };
    let now = shared.clock.now();
    match worked {
        Ok(()) => job.end(JobState::Done, now),
        Err(e) => job.fail(text(&e), now),
    }
    if let Err(e) = shared.store.save(&job).await {
        tracing::error!(job = job.status().id, error = %e, "the end of a job is not on the disk: it will be run again");
    }
}

pub(super) fn text(error: &forebay_core::Error) -> String {
    match std::error::Error::source(error) {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}

async fn work(shared: &Arc<Shared>, job: &Arc<Job>) -> Result<()> {
    let status = job.status();
    if status.sync.is_some() {
        return super::sync::work(shared, job).await;
    }
    let run = Run {
        shared: Arc::clone(shared),
        job: Arc::clone(job),
        path: job.path()?,
        transfers: status.transfers,
        pace: Pace::new(status.bandwidth),
        patience: Patience::new(),
    };
    let look = || run.shared.namespace.stat(&run.shared.context, &run.path, Want::Any);
    let entry = run.patience.retry(look).await?;
    if entry.is_directory() { run.load_tree(status.cursor).await } else { run.load_one(&entry).await }
}

impl Run {
    async fn load_one(&self, entry: &Entry) -> Result<()> {
        self.job.count(|totals| {
            totals.found_files = 1;
            totals.found_bytes = entry.size_bytes;
            totals.is_walked = true;
        });
        self.load(&self.path).await;
        self.job.finish_batch(None);
        self.shared.store.save(&self.job).await
    }

    async fn load_tree(&self, cursor: Option<String>) -> Result<()> {
        let mut query =
            ListQuery { prefix: String::new(), shallow: false, start_after: cursor, limit: BATCH };
        loop {
            let list = || self.shared.namespace.list(&self.shared.context, &self.path, &query);
            let page = self.patience.retry(list).await?;
            let cursor = page.items.last().map(|item| item.name.clone());
            let mut files = Vec::with_capacity(page.items.len());
            for item in page.items.iter().filter(|item| !item.entry.is_directory()) {
                files.push(self.path.join(&item.name)?);
                self.job.count(|totals| {
                    totals.found_files += 1;
                    totals.found_bytes += item.entry.size_bytes;
                });
            }
            self.job.count(|totals| totals.is_walked = !page.is_truncated);
            stream::iter(&files).for_each_concurrent(self.transfers, |path| self.load(path)).await;
            self.job.finish_batch(cursor.clone());
            self.shared.store.save(&self.job).await?;
            if !page.is_truncated {
                return Ok(());
            }
            query.start_after = cursor;
        }
    }

    async fn load(&self, path: &NsPath) {
        match self.patience.retry(|| self.load_file(path)).await {
            Ok(cached_bytes) => {
                METRICS.load_files.with_label_values(&["ok"]).inc();
                self.job.count(|totals| {
                    totals.files += 1;
                    totals.cached_bytes += cached_bytes;
                });
            }
            Err(e) => {
                METRICS.load_files.with_label_values(&["failed"]).inc();
                self.job.count_failure(path, text(&e));
            }
        }
    }

    /// Loads the present version of a file; how much of it the cache keeps then.
    async fn load_file(&self, path: &NsPath) -> Result<u64> {
        let file = self.shared.namespace.open(&self.shared.context, path, Want::File).await?;
        let size_bytes = file.entry().size_bytes;
        let offsets = (0..size_bytes).step_by(PAGE_BYTES as usize);
        stream::iter(offsets.map(Ok))
            .try_for_each_concurrent(PAGES, |offset| self.fill(&*file, offset))
            .await?;
        Ok(file.cached(ByteRange::new(0, size_bytes)).kept_bytes)
    }

    async fn fill(&self, file: &dyn OpenFile, offset: u64) -> Result<()> {
        let page = ByteRange::new(offset, PAGE_BYTES).clamp_to(file.entry().size_bytes);
        let fetched = file.fill(page).await?;
        METRICS.load_bytes.with_label_values(&["store"]).inc_by(fetched);
        METRICS.load_bytes.with_label_values(&["cache"]).inc_by(page.len - fetched.min(page.len));
        self.job.count(|totals| totals.fetched_bytes += fetched);
        self.pace.pay(fetched).await;
        Ok(())
    }
}
