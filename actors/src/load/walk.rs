//! What a running job does: names in batches, files of a batch side by side, pages of a file a few at a time.

use std::sync::{Arc, Mutex, PoisonError};

use forebay_core::{ByteRange, Entry, ListQuery, METRICS, NsPath, OpenFile, Result, Want};
use futures::{StreamExt, TryStreamExt, stream};

use super::Shared;
use super::contents::{self, Loaded};
use super::job::{Job, JobState};
use super::pace::Pace;
use crate::cache::PAGE_BYTES;
use crate::patience::Patience;
use crate::staging::blocking;

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
    /// What of this batch is in the cache. Held to add to it and to take it.
    loaded: Mutex<Vec<Loaded>>,
}

/// Runs a job to its end.
pub(super) async fn run(shared: Arc<Shared>, job: Arc<Job>) {
    let id = job.status().id;
    let worked = tokio::select! {
        worked = work(&shared, &job) => Some(worked),
        () = job.ended() => None,
    };
    if let Some(worked) = worked {
        let now = shared.clock.now();
        match worked {
            Ok(()) => job.end(JobState::Done, now),
            Err(e) => job.fail(text(&e), now),
        }
        if let Err(e) = shared.store.save(&job).await {
            tracing::error!(job = id, error = %e, "the end of a job is not on the disk: it will be run again");
            return;
        }
    }
    if let Err(e) = shared.store.remove_list(id).await {
        tracing::warn!(job = id, error = %e, "the list of what a load brought stays until the next start");
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
        loaded: Mutex::default(),
    };
    let look = || run.shared.namespace.stat(&run.shared.context, &run.path, Want::Any);
    let entry = run.patience.retry(look).await?;
    if entry.is_directory() {
        run.load_tree(status.cursor).await?;
    } else {
        run.load_one(&entry).await?;
    }
    run.verify().await
}

impl Run {
    async fn load_one(&self, entry: &Entry) -> Result<()> {
        self.job.count(|totals| {
            totals.found_files = 1;
            totals.found_bytes = entry.size_bytes;
            totals.is_walked = true;
        });
        self.load(&self.path).await;
        self.finish_batch(None).await
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
            self.finish_batch(cursor.clone()).await?;
            if !page.is_truncated {
                return Ok(());
            }
            query.start_after = cursor;
        }
    }

    /// Writes down what the files of a batch came to.
    async fn finish_batch(&self, cursor: Option<String>) -> Result<()> {
        let loaded = std::mem::take(&mut *self.loaded.lock().unwrap_or_else(PoisonError::into_inner));
        let (job, count) = (self.job.status(), loaded.len());
        let list = self.shared.store.list(job.id);
        blocking(move || Ok(contents::append(&list, job.listed, &loaded)?)).await?;
        self.job.finish_batch(cursor, count);
        self.shared.store.save(&self.job).await
    }

    /// Asks the cache once more for all that was loaded.
    async fn verify(&self) -> Result<()> {
        let (cache, list) = (self.shared.cache.clone(), self.shared.store.list(self.job.status().id));
        cache.restored().await;
        let evicted_bytes = blocking(move || Ok(contents::lost_bytes(&list, &cache)?)).await?;
        self.job.count(|totals| {
            totals.cached_bytes = totals.cached_bytes.saturating_sub(evicted_bytes);
            totals.evicted_bytes = evicted_bytes;
        });
        Ok(())
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
        let loaded = Loaded::of(&self.shared.cache, file.entry());
        self.loaded.lock().unwrap_or_else(PoisonError::into_inner).extend(loaded);
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
