//! Loads: content brought into the cache ahead of its readers, as jobs that outlive their clients and the gateway; and
//! syncs, which compare what is known of stores with what these have.
//!
//! Invariants:
//! - A job walks its path once, a batch of names at a time: memory does not grow with the tree.
//! - Readers go first: fetches of loads use few places of a mount while somebody waits for its store.
//! - What is reported as cached was asked of the cache after it was written, file by file, and of all files again at the
//!   end; bytes that were fetched and could not be kept do not count, and what went meanwhile is told.
//! - A job's file says how far its finished batches go and is replaced atomically. After a restart of the gateway, or
//!   of the actor, a job goes on after them; pages that are cached already are not fetched again.
//! - A file that fails is named and counted, and costs nobody else anything.

mod contents;
mod job;
mod pace;
mod preload;
mod store;
mod sync;
#[cfg(test)]
mod tests;
mod walk;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use forebay_core::{
    Clock, Context, Error, ErrorKind, Grant, METRICS, Namespace, NsPath, Permission, Principal, Result,
};
use tokio::sync::Notify;
use tokio::task::JoinSet;

use self::job::Job;
pub use self::job::{Failure, JobState, JobStatus, SyncPart, SyncStatus, Totals};
pub use self::preload::start_preloads;
use self::store::Store;
use crate::cache::Cache;
use crate::supervisor::{ServiceError, StopSignal, Supervisor};

/// Name of the actor that runs the jobs.
pub const ACTOR: &str = "Loads";

/// Jobs that run at once; others wait for their turn.
const RUNNING_MAX: usize = 4;
/// Jobs that wait or run; more are refused.
const OPEN_MAX: usize = 1_000;
/// Jobs that are remembered after their end.
const ENDED_MAX: usize = 100;
/// Files that a job loads at once, unless it is told otherwise.
const FILES: usize = 16;
const FILES_MAX: usize = 256;

/// What to load, and how.
#[derive(Clone, Debug)]
pub struct Order {
    /// Everything at and below it.
    pub path: NsPath,
    /// Files at once; `None` leaves it to the gateway.
    pub transfers: Option<usize>,
    /// Most bytes a second from the stores.
    pub bandwidth: Option<u64>,
}

/// The jobs of one gateway. Clones share them.
#[derive(Clone)]
pub struct Loads(Arc<Shared>);

struct Shared {
    namespace: Arc<Namespace>,
    cache: Cache,
    context: Context,
    store: Store,
    clock: Clock,
    /// Held for a look or one change, never across an await.
    jobs: Mutex<BTreeMap<u64, Arc<Job>>>,
    /// There may be something to start.
    wake: Notify,
}

impl Loads {
    /// The jobs kept in `directory`, which load into `cache`; they go on once [`Loads::start`] has been called.
    ///
    /// # Errors
    /// The directory cannot be made or read.
    pub async fn open(
        namespace: &Arc<Namespace>,
        cache: &Cache,
        directory: &Path,
        clock: Clock,
    ) -> Result<Self> {
        let (store, kept) = Store::open(directory).await?;
        let grants = vec![Grant { prefix: NsPath::root(), permission: Permission::Read }];
        let principal = Principal { name: "load".to_owned(), grants };
        // Shown from the start: a rate of nothing is 0, of what is not there unknown.
        for (outcome, origin) in [("ok", "store"), ("failed", "cache")] {
            METRICS.load_files.with_label_values(&[outcome]);
            METRICS.load_bytes.with_label_values(&[origin]);
        }
        let jobs = kept.into_iter().map(|status| (status.id, Arc::new(Job::new(status))));
        Ok(Self(Arc::new(Shared {
            namespace: Arc::clone(namespace),
            cache: cache.clone(),
            context: Context::new(Arc::new(principal)),
            store,
            clock,
            jobs: Mutex::new(jobs.collect()),
            wake: Notify::new(),
        })))
    }

    /// Starts the actor that runs the jobs.
    ///
    /// # Errors
    /// As [`Supervisor::service`].
    pub async fn start(&self, supervisor: &Supervisor) -> Result<()> {
        let shared = Arc::clone(&self.0);
        supervisor.service(ACTOR, move |stop| Arc::clone(&shared).run(stop)).await
    }

    /// Adds a job; it is on the disk when this returns.
    ///
    /// # Errors
    /// `InvalidArgument` for a bad order, `Busy` when too many are open, `NotFound` when no mount is at or below the path;
    /// the disk's.
    pub async fn add(&self, order: Order) -> Result<JobStatus> {
        let transfers = order.transfers.unwrap_or(FILES);
        if !(1..=FILES_MAX).contains(&transfers) || order.bandwidth == Some(0) {
            let message = format!("a load takes 1 to {FILES_MAX} transfers and a bandwidth above 0");
            return Err(Error::new(ErrorKind::InvalidArgument, message));
        }
        let is_below_mount = self.0.namespace.mount_info(&order.path).is_some();
        if !is_below_mount
            && !self.0.namespace.table().mounts().iter().any(|(at, _)| at.starts_with(&order.path))
        {
            return Err(Error::new(ErrorKind::NotFound, "no mount is here").at("load", &order.path));
        }
        self.insert(JobStatus::new(0, &order, transfers, self.0.clock.now())).await
    }

    /// Adds a job that compares what is known of all that lies at and below `path` with what the stores have; it is on
    /// the disk when this returns.
    ///
    /// # Errors
    /// `Busy` when too many are open; as [`Namespace::synced_paths`]; the disk's.
    pub async fn add_sync(&self, path: NsPath) -> Result<JobStatus> {
        let parts = self.0.namespace.synced_paths(&path)?;
        self.insert(JobStatus::sync(&path, &parts, self.0.clock.now())).await
    }

    /// Numbers a job and adds it.
    async fn insert(&self, status: JobStatus) -> Result<JobStatus> {
        let job = {
            let mut jobs = self.0.jobs();
            if jobs.values().filter(|job| !job.is_ended()).count() >= OPEN_MAX {
                return Err(Error::new(ErrorKind::Busy, format!("{OPEN_MAX} jobs are open already")));
            }
            let id = jobs.last_key_value().map_or(1, |(id, _)| id + 1);
            let job = Arc::new(Job::new(JobStatus { id, ..status }));
            jobs.insert(id, Arc::clone(&job));
            job
        };
        let status = job.status();
        if let Err(e) = self.0.store.save(&job).await {
            self.0.jobs().remove(&status.id);
            return Err(e);
        }
        self.0.wake.notify_one();
        Ok(status)
    }

    /// All jobs, the newest last.
    pub fn jobs(&self) -> Vec<JobStatus> {
        self.0.jobs().values().map(|job| job.status()).collect()
    }

    /// Whether a load or a sync of exactly this path waits or runs.
    fn is_open(&self, path: &NsPath, is_sync: bool) -> bool {
        let is_meant = |status: &JobStatus| status.path == path.as_str() && status.sync.is_some() == is_sync;
        self.0.jobs().values().any(|job| !job.is_ended() && is_meant(&job.status()))
    }

    /// One job.
    ///
    /// # Errors
    /// `NotFound`.
    pub fn job(&self, id: u64) -> Result<JobStatus> {
        Ok(self.0.find(id)?.status())
    }

    /// Ends a job that waits or runs; what it did stays. One that has ended is forgotten.
    ///
    /// # Errors
    /// `NotFound`; the disk's.
    pub async fn cancel(&self, id: u64) -> Result<JobStatus> {
        let job = self.0.find(id)?;
        if job.is_ended() {
            self.0.jobs().remove(&id);
            self.0.store.remove(vec![id]).await?;
            return Ok(job.status());
        }
        job.end(JobState::Cancelled, self.0.clock.now());
        self.0.store.save(&job).await?;
        Ok(job.status())
    }
}

impl Shared {
    fn jobs(&self) -> MutexGuard<'_, BTreeMap<u64, Arc<Job>>> {
        // Each change is one insertion or removal.
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn find(&self, id: u64) -> Result<Arc<Job>> {
        let missing = || Error::new(ErrorKind::NotFound, format!("there is no job {id}"));
        self.jobs().get(&id).map(Arc::clone).ok_or_else(missing)
    }

    /// Runs the jobs. What an earlier run of the actor left half done goes on where its last batch ended.
    async fn run(self: Arc<Self>, mut stop: StopSignal) -> std::result::Result<(), ServiceError> {
        let open: Vec<_> = self.jobs().values().filter(|job| !job.is_ended()).cloned().collect();
        for job in open {
            job.rewind();
        }
        let mut running = JoinSet::new();
        loop {
            self.start_due(&mut running);
            tokio::select! {
                () = stop.requested() => return Ok(()),
                () = self.wake.notified() => {}
                Some(ended) = running.join_next() => {
                    self.prune().await;
                    // The panic of a job is this actor's: its restart goes on with all of them.
                    ended?;
                }
            }
        }
    }

    fn start_due(self: &Arc<Self>, running: &mut JoinSet<()>) {
        let jobs = self.jobs();
        for job in jobs.values().filter(|job| job.is_queued()) {
            if running.len() >= RUNNING_MAX {
                return;
            }
            if job.begin() {
                running.spawn(walk::run(Arc::clone(self), Arc::clone(job)));
            }
        }
    }

    /// Forgets the oldest of the jobs that have ended.
    async fn prune(&self) {
        let forgotten: Vec<u64> = {
            let mut jobs = self.jobs();
            let ended: Vec<u64> = jobs.iter().filter(|(_, job)| job.is_ended()).map(|(id, _)| *id).collect();
            let old = ended.len().saturating_sub(ENDED_MAX);
            jobs.retain(|id, _| !ended[..old].contains(id));
            ended[..old].to_vec()
        };
        if let Err(e) = self.store.remove(forgotten).await {
            tracing::warn!(error = %e, "jobs that ended long ago stay on the disk");
        }
    }
}
