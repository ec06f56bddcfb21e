//! What a running sync does: its parts side by side, each piece after piece. The rest of a large one is parted once more.

use std::sync::Arc;

use forebay_core::{NsPath, Result, SyncSpan};
use futures::{StreamExt, stream};

use super::Shared;
use super::job::{Job, SyncPart};
use super::walk::text;
use crate::patience::Patience;

/// Parts compared at once, of a sync and of each of these.
pub(super) const PARTS: usize = 4;
/// Pieces after which the rest is parted: before, the requests for that would weigh.
const SPLIT_AFTER: usize = 50;

/// A sync at work.
struct Run<'a> {
    shared: &'a Shared,
    job: &'a Arc<Job>,
    patience: Patience,
}

/// Compares all parts that are not done; one that fails costs the others nothing.
///
/// # Errors
/// The first that a part met.
pub(super) async fn work(shared: &Arc<Shared>, job: &Arc<Job>) -> Result<()> {
    let run = Run { shared, job, patience: Patience::new() };
    let parts = job.status().sync.map(|sync| sync.parts).unwrap_or_default();
    let open = parts.into_iter().enumerate().filter(|(_, part)| !part.is_done);
    let open = open.map(|(number, part)| run.part(number, part));
    let outcomes: Vec<Result<()>> = stream::iter(open).buffer_unordered(PARTS).collect().await;
    outcomes.into_iter().collect()
}

impl Run<'_> {
    /// Compares a part, and side by side what it is parted into.
    async fn part(&self, number: usize, part: SyncPart) -> Result<()> {
        let path = NsPath::parse(&part.path)?;
        let compared = async {
            let pieces = part.span.until.is_none().then_some(SPLIT_AFTER);
            let Some(after) = self.compare(&path, number, part.span, pieces).await? else {
                return Ok(());
            };
            let splits = || self.shared.namespace.sync_splits(&self.shared.context, &path, &after);
            let split = self.job.split(number, &self.patience.retry(splits).await?);
            let rest = split.into_iter().map(|(number, span)| self.compare(&path, number, span, None));
            let outcomes: Vec<_> = stream::iter(rest).buffer_unordered(PARTS).collect().await;
            outcomes.into_iter().try_for_each(|outcome| outcome.map(drop))
        };
        compared.await.inspect_err(|e| self.job.count_failure(&path, text(e)))
    }

    /// Compares a part to its end, or at least `pieces` of it; after which name the rest comes, if there is one.
    async fn compare(
        &self,
        path: &NsPath,
        number: usize,
        mut span: SyncSpan,
        pieces: Option<usize>,
    ) -> Result<Option<String>> {
        let mut done = 0;
        while span.after.is_none() || pieces.is_none_or(|pieces| done < pieces) {
            let sync = || self.shared.namespace.sync(&self.shared.context, path, &span);
            let page = self.patience.retry(sync).await?;
            self.job.synced(number, &page);
            self.shared.store.save(self.job).await?;
            if page.is_last {
                return Ok(None);
            }
            span.after = page.after;
            done += 1;
        }
        Ok(span.after)
    }
}
