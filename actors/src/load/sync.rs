//! What a running sync does: its parts side by side, each piece after piece.

use std::sync::Arc;

use forebay_core::{NsPath, Result};
use futures::{StreamExt, stream};

use super::Shared;
use super::job::{Job, SyncPart};
use super::walk::text;
use crate::patience::Patience;

/// Parts compared at once.
pub(super) const PARTS: usize = 4;

/// Compares all parts that are not done; one that fails costs the others nothing.
///
/// # Errors
/// The first that a part met.
pub(super) async fn work(shared: &Arc<Shared>, job: &Arc<Job>) -> Result<()> {
    let parts = job.status().sync.map(|sync| sync.parts).unwrap_or_default();
    let patience = Patience::new();
    let open = parts.iter().enumerate().filter(|(_, part)| !part.is_done);
    let outcomes = stream::iter(open).map(|(number, part)| {
        let patience = &patience;
        async move {
            let path = NsPath::parse(&part.path)?;
            let outcome = compare(shared, job, (number, &path, part), patience).await;
            outcome.inspect_err(|e| job.count_failure(&path, text(e)))
        }
    });
    let outcomes: Vec<Result<()>> = outcomes.buffer_unordered(PARTS).collect().await;
    outcomes.into_iter().collect()
}

async fn compare(
    shared: &Shared,
    job: &Arc<Job>,
    (number, path, part): (usize, &NsPath, &SyncPart),
    patience: &Patience,
) -> Result<()> {
    let mut after = part.after.clone();
    loop {
        let sync = || shared.namespace.sync(&shared.context, path, after.as_deref());
        let page = patience.retry(sync).await?;
        job.synced(number, &page);
        shared.store.save(job).await?;
        if page.is_last {
            return Ok(());
        }
        after = page.after;
    }
}
