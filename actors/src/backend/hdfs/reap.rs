//! Removes what writes of earlier processes left under temporary names.

use std::sync::Arc;
use std::time::SystemTime;

use super::client::Client;
use super::path::Path;

/// Removes all in `own` that was last modified before `limit`. What fails is left to the next start.
pub(super) async fn reap(client: Arc<Client>, own: Path, limit: Option<SystemTime>) {
    let Some(limit) = limit else { return };
    let mut after = String::new();
    loop {
        let batch = match client.list(&own, &after).await {
            Ok(batch) => batch,
            Err(error) => {
                tracing::warn!(%error, "old temporary files in HDFS are not looked for");
                return;
            }
        };
        for status in batch.statuses.iter().filter(|status| status.modified() < limit) {
            if let Err(error) = client.delete(&own.join(&status.path_suffix), true).await {
                tracing::warn!(%error, "an old temporary file stays in HDFS");
            }
        }
        match batch.statuses.last().filter(|_| batch.is_cut) {
            Some(last) => after.clone_from(&last.path_suffix),
            None => return,
        }
    }
}
