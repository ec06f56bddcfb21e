//! Brings what is pending to the store, what was written longest ago first, for as long as the mount lives.
//!
//! Invariants:
//! - One upload of a name at a time. A name that fails rests, longer each time, and holds up no other.
//! - What there is to do is in the [`Table`](crate::staging::Table), so an upload that panics is begun again.

use std::collections::{HashMap, HashSet};
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use forebay_core::{Error, ErrorKind, METRICS, PendingWrite};
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use futures::{FutureExt, StreamExt};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use super::Core;

/// Contents that are uploaded at once.
const UPLOADS: usize = 16;
/// How long a name rests after a failure; doubled each time.
const REST_MIN: Duration = Duration::from_millis(250);
const REST_MAX: Duration = Duration::from_secs(15);
/// Names that are shown of what is pending.
const SHOWN_NAMES: usize = 1_000;

/// Uploads that failed, by name.
#[derive(Default)]
pub(super) struct Failures(Mutex<HashMap<String, Failure>>);

struct Failure {
    attempts: u32,
    error: String,
    until: Instant,
}

impl Failures {
    /// Taken for one look or change.
    fn lock(&self) -> MutexGuard<'_, HashMap<String, Failure>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note(&self, name: &str, error: &Error) {
        let mut failures = self.lock();
        let attempts = failures.get(name).map_or(0, |failure| failure.attempts) + 1;
        let rest = REST_MIN.saturating_mul(1 << (attempts - 1).min(16)).min(REST_MAX);
        let failure = Failure { attempts, error: error.to_string(), until: Instant::now() + rest };
        failures.insert(name.to_owned(), failure);
    }
}

impl Core {
    /// What is pending, what was written longest ago first, and why it still is.
    pub(super) fn pending_writes(&self) -> Vec<PendingWrite> {
        let table = self.staging.pending();
        let failures = self.failures.lock();
        let names = table.names(SHOWN_NAMES).into_iter();
        names
            .filter_map(|name| {
                let puts = table.of(&name);
                let (first, last) = (puts.first()?, puts.last()?);
                let failure = failures.get(&name);
                Some(PendingWrite {
                    key: name.clone(),
                    size_bytes: last.size_bytes,
                    since: first.modified,
                    attempts: failure.map_or(0, |failure| failure.attempts),
                    error: failure.map(|failure| failure.error.clone()),
                })
            })
            .collect()
    }

    async fn attempt(self: Arc<Self>, name: String) -> String {
        let outcome = AssertUnwindSafe(self.upload(&name)).catch_unwind().await;
        let outcome = outcome.unwrap_or_else(|_| Err(Error::new(ErrorKind::Internal, "an upload panicked")));
        let label = match &outcome {
            Ok(outcome) => *outcome,
            Err(e) => e.kind().as_str(),
        };
        METRICS.writeback_uploads.with_label_values(&[&*self.label, label]).inc();
        match outcome {
            Ok(_) => drop(self.failures.lock().remove(&name)),
            Err(error) => {
                tracing::warn!(mount = &*self.label, key = name, %error, "an acknowledged write is not at the store yet");
                self.failures.note(&name, &error);
            }
        }
        name
    }

    /// Up to `limit` names whose turn it is, and when that of the next one is that rests.
    fn due(&self, flying: &HashSet<String>, limit: usize) -> (Vec<String>, Option<Instant>) {
        let failures = self.failures.lock();
        let (now, mut due, mut next) = (Instant::now(), Vec::new(), None::<Instant>);
        for name in self.staging.pending().names(limit + flying.len() + failures.len()) {
            if flying.contains(&name) || due.len() == limit {
                continue;
            }
            match failures.get(&name).map(|failure| failure.until).filter(|until| *until > now) {
                Some(until) => next = Some(next.map_or(until, |next| next.min(until))),
                None => due.push(name),
            }
        }
        (due, next)
    }
}

/// Uploads what is pending.
pub(super) async fn upload_pending(core: Weak<Core>, mut applied: watch::Receiver<u64>) {
    let mut uploads: FuturesUnordered<BoxFuture<'static, String>> = FuturesUnordered::new();
    let mut flying = HashSet::new();
    loop {
        applied.mark_unchanged();
        let rested = {
            let Some(core) = core.upgrade() else { return };
            let (due, rested) = core.due(&flying, UPLOADS - uploads.len());
            for name in due {
                flying.insert(name.clone());
                uploads.push(Arc::clone(&core).attempt(name).boxed());
            }
            rested
        };
        tokio::select! {
            Some(name) = uploads.next() => drop(flying.remove(&name)),
            changed = applied.changed() => {
                if changed.is_err() {
                    return;
                }
            }
            () = sleep_until(rested.unwrap_or_else(Instant::now)), if rested.is_some() => {}
        }
    }
}
