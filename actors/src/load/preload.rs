//! Loads and syncs that the configuration asks for: of mounts, once they are ready, and again and again where it says so.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use forebay_core::{NsPath, Result};
use tokio::time::Instant;

use super::{Loads, Order};
use crate::mounts::{Mounts, Wanted};
use crate::supervisor::{ServiceError, StopSignal, Supervisor};

/// Time between two looks at the mounts.
const LOOK: Duration = Duration::from_secs(1);

/// When each mount's last load and sync were ordered; outlives the actor. Taken for one step at a time.
type Begun = Arc<Mutex<BTreeMap<(NsPath, Wanted), Instant>>>;

/// Starts the actor that orders them.
///
/// # Errors
/// As [`Supervisor::service`].
pub async fn start_preloads(loads: &Loads, mounts: &Arc<Mounts>, supervisor: &Supervisor) -> Result<()> {
    let (loads, mounts, begun) = (loads.clone(), Arc::clone(mounts), Begun::default());
    let run = move |stop| run(loads.clone(), Arc::clone(&mounts), Arc::clone(&begun), stop);
    supervisor.service("Preloads", run).await
}

async fn run(
    loads: Loads,
    mounts: Arc<Mounts>,
    begun: Begun,
    mut stop: StopSignal,
) -> std::result::Result<(), ServiceError> {
    loop {
        for (path, wanted) in due(&mounts, &begun) {
            // One that was open when the gateway ended goes on by itself.
            if loads.is_open(&path, wanted == Wanted::Sync) {
                continue;
            }
            let added = match wanted {
                Wanted::Load => {
                    loads.add(Order { path: path.clone(), transfers: None, bandwidth: None }).await
                }
                Wanted::Sync => loads.add_sync(path.clone()).await,
            };
            match added {
                Ok(job) => tracing::info!(mount = %path, job = job.id, ?wanted, "a scheduled job begins"),
                Err(e) => tracing::warn!(mount = %path, error = %e, ?wanted, "a scheduled job was refused"),
            }
        }
        tokio::select! {
            () = stop.requested() => return Ok(()),
            () = tokio::time::sleep(LOOK) => {}
        }
    }
}

/// The mounts whose turn it is; they count as begun.
fn due(mounts: &Mounts, begun: &Begun) -> Vec<(NsPath, Wanted)> {
    let scheduled = mounts.scheduled();
    let mut begun = begun.lock().unwrap_or_else(PoisonError::into_inner);
    begun.retain(|(path, wanted), _| scheduled.iter().any(|one| one.path == *path && one.wanted == *wanted));
    let mut found = Vec::new();
    for one in scheduled.into_iter().filter(|one| one.is_ready) {
        let is_due = |at: &Instant| one.every.is_some_and(|every| at.elapsed() >= every);
        let job = (one.path, one.wanted);
        if begun.get(&job).is_none_or(is_due) {
            begun.insert(job.clone(), Instant::now());
            found.push(job);
        }
    }
    found
}
