//! Brings what is pending to the stores, what was written longest ago first, for as long as its mount lives.
//!
//! Invariants:
//! - One upload of a name at a time. A name that fails rests, longer each time, and holds up no other.
//! - Asked to stop, it begins nothing and ends what it has begun; what it does not get to is there at the next start.
//! - What there is to do is in the [`Table`](crate::staging::Table) of each mount, so an upload that panics is begun
//!   again, and so are all of them when the actor starts anew.

use std::collections::{HashMap, HashSet};
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use forebay_core::{Error, ErrorKind, METRICS, PendingWrite, Result};
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use futures::{FutureExt, StreamExt};
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use super::Core;
use crate::supervisor::{ServiceError, StopSignal, Supervisor};

/// Contents that are uploaded at once.
const UPLOADS: usize = 16;
/// The same while others are being acknowledged, as long as there is room for what that leaves behind.
const UPLOADS_BESIDE_WRITES: usize = 4;
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
    kind: ErrorKind,
    error: String,
    until: Instant,
}

impl Failures {
    /// Taken for one look or change.
    fn lock(&self) -> MutexGuard<'_, HashMap<String, Failure>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes a failure; whether it is not of the kind of the one before it.
    fn note(&self, name: &str, error: &Error) -> bool {
        let mut failures = self.lock();
        let before = failures.get(name);
        let attempts = before.map_or(0, |failure| failure.attempts) + 1;
        let rest = REST_MIN.saturating_mul(1 << (attempts - 1).min(16)).min(REST_MAX);
        let is_new = before.is_none_or(|failure| failure.kind != error.kind());
        let (kind, error, until) = (error.kind(), error.to_string(), Instant::now() + rest);
        failures.insert(name.to_owned(), Failure { attempts, kind, error, until });
        is_new
    }
}

/// Who waits for what, of one mount.
#[derive(Default)]
pub(super) struct Demand {
    /// Writes that are about to be acknowledged.
    pub(super) keeping: Count,
    /// Those who wait until something is not pending any more.
    pub(super) awaited: Count,
}

/// How many there are now.
#[derive(Default)]
pub(super) struct Count(AtomicUsize);

/// One of them, until it is dropped.
pub(super) struct One<'a>(&'a Count);

impl Count {
    pub(super) fn enter(&self) -> One<'_> {
        self.0.fetch_add(1, Ordering::Relaxed);
        One(self)
    }

    fn is_any(&self) -> bool {
        self.0.load(Ordering::Relaxed) > 0
    }
}

impl Drop for One<'_> {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
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
                if self.failures.note(&name, &error) {
                    tracing::warn!(mount = &*self.label, key = name, %error, "an acknowledged write is not at the store yet");
                }
            }
        }
        name
    }

    /// Whoever waits for an acknowledgement comes before what nobody waits for.
    fn uploads_at_once(&self) -> usize {
        let Demand { keeping, awaited } = &self.demand;
        let is_beside_writes = keeping.is_any() && !awaited.is_any() && self.staging.has_room();
        if is_beside_writes { UPLOADS_BESIDE_WRITES } else { UPLOADS }
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

/// The mounts whose pending writes are uploaded, by the actor `Uploader`. Clones share them.
#[derive(Clone, Default)]
pub struct Uploader(Arc<Shared>);

#[derive(Default)]
struct Shared {
    /// Taken for a look or a change; those that are gone leave it when the next one comes.
    mounts: Mutex<Vec<Weak<Core>>>,
    /// There is one more.
    added: Notify,
    /// Nothing is begun any more.
    is_ending: watch::Sender<bool>,
}

impl Uploader {
    /// Starts the actor.
    ///
    /// # Errors
    /// As [`Supervisor::service`].
    pub async fn start(&self, supervisor: &Supervisor) -> Result<()> {
        let uploader = self.clone();
        let service = move |mut stop: StopSignal| {
            let uploader = uploader.clone();
            async move {
                let mut running = std::pin::pin!(uploader.run());
                tokio::select! {
                    ended = &mut running => ended,
                    () = stop.requested() => {
                        uploader.0.is_ending.send_replace(true);
                        running.await
                    }
                }
            }
        };
        supervisor.service("Uploader", service).await
    }

    pub(super) fn add(&self, core: &Arc<Core>) {
        let mut mounts = self.lock();
        mounts.retain(|mount| mount.strong_count() > 0);
        mounts.push(Arc::downgrade(core));
        self.0.added.notify_one();
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Weak<Core>>> {
        self.0.mounts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Uploads for all mounts, each at its own pace, until it is asked to end or one of them ends in a panic.
    pub(crate) async fn run(&self) -> std::result::Result<(), ServiceError> {
        let (mut served, mut loops) = (Vec::<Weak<Core>>::new(), JoinSet::new());
        let mut is_ending = self.0.is_ending.subscribe();
        while !*is_ending.borrow_and_update() {
            let mut present = self.lock().clone();
            present.retain(|core| core.strong_count() > 0);
            for core in &present {
                if !served.iter().any(|other| other.ptr_eq(core)) {
                    loops.spawn(upload_pending(core.clone(), is_ending.clone()));
                }
            }
            served = present;
            tokio::select! {
                () = self.0.added.notified() => {}
                Some(ended) = loops.join_next() => ended?,
                // Its sender is here.
                _ = is_ending.changed() => {}
            }
        }
        while let Some(ended) = loops.join_next().await {
            ended?;
        }
        Ok(())
    }
}

/// Uploads what is pending of one mount, for as long as it lives and nobody asks for the end.
async fn upload_pending(core: Weak<Core>, mut is_ending: watch::Receiver<bool>) {
    let Some(mut applied) = core.upgrade().map(|core| core.staging.pending().watch()) else { return };
    let mut uploads: FuturesUnordered<BoxFuture<'static, String>> = FuturesUnordered::new();
    let mut flying = HashSet::new();
    while !*is_ending.borrow_and_update() {
        applied.mark_unchanged();
        let rested = {
            let Some(core) = core.upgrade() else { return };
            let (due, rested) = core.due(&flying, core.uploads_at_once().saturating_sub(uploads.len()));
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
            // Its sender outlives this.
            _ = is_ending.changed() => {}
        }
    }
    while uploads.next().await.is_some() {}
}
