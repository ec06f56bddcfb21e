//! What is to be copied: the source's names in order, joined with the target's, a page of each in memory.

use std::cmp::Ordering;
use std::collections::VecDeque;

use forebay_core::{Entry, ListItem, ListQuery, NsPath, Result, Want};
use tokio::sync::mpsc;

use super::{Job, PAGE};

/// One file, or one directory that has no files of its own to appear by.
pub(super) struct Task {
    pub(super) from: NsPath,
    pub(super) to: NsPath,
    pub(super) source: Entry,
    /// What has the name at the target, as its listing shows it.
    pub(super) target: Option<Entry>,
}

/// Sends everything at and below the source, in order.
pub(super) async fn walk(job: &Job, tasks: mpsc::Sender<Task>) -> Result<()> {
    let source = job.namespace.stat(&job.context, &job.from, Want::Any).await?;
    if source.is_directory() {
        walk_tree(job, &tasks).await?;
    } else {
        job.progress.count_found(source.size_bytes);
        let target = job.namespace.stat(&job.context, &job.to, Want::File).await.ok();
        let task = Task { from: job.from.clone(), to: job.to.clone(), source, target };
        // Nobody receives any more when the job is over.
        tasks.send(task).await.unwrap_or(());
    }
    job.progress.set_walked();
    Ok(())
}

async fn walk_tree(job: &Job, tasks: &mpsc::Sender<Task>) -> Result<()> {
    let mut query = ListQuery { prefix: String::new(), shallow: false, start_after: None, limit: PAGE };
    let mut targets = Targets { job, page: VecDeque::new(), after: None, is_done: false };
    loop {
        let list = || job.namespace.list(&job.context, &job.from, &query);
        let page = job.patience.retry(list).await?;
        query.start_after = page.items.last().map(|item| item.name.clone());
        for item in page.items {
            let target = targets.find(&item.name).await?;
            let ListItem { name, entry: source, .. } = item;
            if !source.is_directory() {
                job.progress.count_found(source.size_bytes);
            }
            let name = name.trim_end_matches('/');
            let task = Task { from: job.from.join(name)?, to: job.to.join(name)?, source, target };
            if tasks.send(task).await.is_err() {
                return Ok(());
            }
        }
        if !page.is_truncated {
            return Ok(());
        }
    }
}

/// The target's names, asked for in order.
struct Targets<'a> {
    job: &'a Job,
    page: VecDeque<ListItem>,
    after: Option<String>,
    is_done: bool,
}

impl Targets<'_> {
    /// What the target has under `name`, which comes after all names asked for before.
    async fn find(&mut self, name: &str) -> Result<Option<Entry>> {
        loop {
            while let Some(item) = self.page.front() {
                match item.name.as_str().cmp(name) {
                    Ordering::Less => drop(self.page.pop_front()),
                    Ordering::Equal => return Ok(self.page.pop_front().map(|item| item.entry)),
                    Ordering::Greater => return Ok(None),
                }
            }
            if self.is_done {
                return Ok(None);
            }
            self.load(name).await?;
        }
    }

    async fn load(&mut self, name: &str) -> Result<()> {
        // Shorter by a character: sorts before `name` and after most of what is not asked for.
        let before = name.char_indices().next_back().map(|(end, _)| name[..end].to_owned());
        let start_after = self.after.take().max(before).filter(|after| !after.is_empty());
        let query = ListQuery { prefix: String::new(), shallow: false, start_after, limit: PAGE };
        let list = || self.job.namespace.list(&self.job.context, &self.job.to, &query);
        let page = self.job.patience.retry(list).await?;
        self.after = page.items.last().map(|item| item.name.clone());
        self.is_done = !page.is_truncated;
        self.page = page.items.into();
        Ok(())
    }
}
