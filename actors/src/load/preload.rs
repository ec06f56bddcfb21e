//! Loads and syncs that the configuration asks for: of mounts, once they are ready, again and again, or at a time of day.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use forebay_core::{NsPath, Result, calendar};
use tokio::time::Instant;

use super::{Loads, Order};
use crate::config::Preload;
use crate::mounts::{Mounts, Scheduled, Wanted};
use crate::supervisor::{ServiceError, StopSignal, Supervisor};

/// Time between two looks at the mounts.
const LOOK: Duration = Duration::from_secs(1);

/// A day, in seconds.
const DAY_S: u64 = 24 * 60 * 60;

/// What was seen and done of each mount and kind of job; outlives the actor. Taken for one step at a time.
type Begun = Arc<Mutex<BTreeMap<(NsPath, Wanted), Turns>>>;

/// Of one mount and kind.
struct Turns {
    /// When its last job was ordered.
    ordered: Option<Instant>,
    /// Up to when the times of day have had their turn.
    looked: SystemTime,
}

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
        for (path, wanted) in due(mounts.scheduled(), &begun, loads.0.clock.now()) {
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
fn due(scheduled: Vec<Scheduled>, begun: &Begun, now: SystemTime) -> Vec<(NsPath, Wanted)> {
    let mut begun = begun.lock().unwrap_or_else(PoisonError::into_inner);
    begun.retain(|(path, wanted), _| scheduled.iter().any(|one| one.path == *path && one.wanted == *wanted));
    let mut found = Vec::new();
    for Scheduled { path, wanted, when, is_ready } in scheduled {
        let job = (path, wanted);
        let turns = begun.entry(job.clone()).or_insert(Turns { ordered: None, looked: now });
        if !is_ready {
            continue;
        }
        let is_due = match (when, turns.ordered) {
            (Preload::Once, ordered) => ordered.is_none(),
            (Preload::Every(every), ordered) => ordered.is_none_or(|at| at.elapsed() >= every),
            (Preload::Daily(at), _) => days(turns.looked, at) < days(now, at),
        };
        turns.looked = now;
        if is_due {
            turns.ordered = Some(Instant::now());
            found.push(job);
        }
    }
    found
}

/// How often it was `at` after midnight until `time`.
fn days(time: SystemTime, at: Duration) -> u64 {
    let since = calendar(time).duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    (since.as_secs() + DAY_S - at.as_secs()) / DAY_S
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn each_mount_has_its_turn_when_it_is_ready_after_its_time_or_at_its_time_of_day() {
        let begun = Begun::default();
        let minutes = |minutes| Duration::from_mins(minutes);
        let due = |when, is_ready, at: Duration| {
            let path = NsPath::parse("/m").expect("a path");
            let scheduled = vec![Scheduled { path, wanted: Wanted::Load, when, is_ready }];
            let now = SystemTime::UNIX_EPOCH + Duration::from_hours(24 * 20_000) + at;
            !due(scheduled, &begun, now).is_empty()
        };
        assert!(!due(Preload::Once, false, minutes(0)), "it is not ready");
        assert!(due(Preload::Once, true, minutes(0)));
        assert!(!due(Preload::Once, true, minutes(1)));
        let every = Preload::Every(minutes(10));
        assert!(!due(every, true, minutes(1)));
        tokio::time::advance(minutes(10)).await;
        assert!(due(every, true, minutes(11)));
        let daily = Preload::Daily(minutes(150));
        assert!(!due(daily, true, minutes(149)));
        assert!(!due(daily, false, minutes(150)), "it is not ready");
        assert!(due(daily, true, minutes(170)), "it is ready again");
        assert!(!due(daily, true, minutes(171)));
        assert!(!due(Preload::Daily(minutes(200)), true, minutes(199)), "another time is written");
        assert!(due(Preload::Daily(minutes(200)), true, minutes(200)));
        assert!(due(daily, true, minutes(150 + 24 * 60)), "the next day");
        begun.lock().expect("no panic").clear();
        assert!(!due(daily, true, minutes(160)), "a start after that time waits for the next day");
    }
}
