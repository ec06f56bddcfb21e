//! Loads that the configuration asks for: of mounts, once they are ready, and again and again where it says so.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use forebay_core::{NsPath, Result};
use tokio::time::Instant;

use super::{Loads, Order};
use crate::mounts::Mounts;
use crate::supervisor::{ServiceError, StopSignal, Supervisor};

/// Time between two looks at the mounts.
const LOOK: Duration = Duration::from_secs(1);

/// When each mount's last load was ordered; outlives the actor. Taken for one step at a time.
type Begun = Arc<Mutex<BTreeMap<NsPath, Instant>>>;

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
        for path in due(&mounts, &begun) {
            // One that was open when the gateway ended goes on by itself.
            if loads.is_open(&path) {
                continue;
            }
            let order = Order { path: path.clone(), transfers: None, bandwidth: None };
            match loads.add(order).await {
                Ok(job) => tracing::info!(mount = %path, job = job.id, "preloading"),
                Err(e) => tracing::warn!(mount = %path, error = %e, "not preloaded"),
            }
        }
        tokio::select! {
            () = stop.requested() => return Ok(()),
            () = tokio::time::sleep(LOOK) => {}
        }
    }
}

/// The mounts whose turn it is; they count as begun.
fn due(mounts: &Mounts, begun: &Begun) -> Vec<NsPath> {
    let wanted = mounts.preloads();
    let mut begun = begun.lock().unwrap_or_else(PoisonError::into_inner);
    begun.retain(|path, _| wanted.iter().any(|wanted| wanted.path == *path));
    let mut found = Vec::new();
    for wanted in wanted.iter().filter(|wanted| wanted.is_ready) {
        let is_due = |at: &Instant| wanted.preload.every.is_some_and(|every| at.elapsed() >= every);
        if begun.get(&wanted.path).is_none_or(is_due) {
            begun.insert(wanted.path.clone(), Instant::now());
            found.push(wanted.path.clone());
        }
    }
    found
}
