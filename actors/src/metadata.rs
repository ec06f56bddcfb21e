//! The metadata store: what the stores of all mounts said of their directories, in one embedded database that outlives
//! the process.
//!
//! Invariants:
//! - Everything here can be asked for again: what is damaged, or was not closed in order, is thrown away and learned anew.
//! - One thread writes; it makes many changes in one transaction. Readers wait for nobody.
//! - What is being changed is not answered ([`listings`]), so nobody waits for the writer, and nothing is stale when it
//!   falls behind or dies.
//! - Without a database that works, all stores are asked, as if nothing was known.

mod chunk;
mod codec;
mod listings;
mod proof;
mod ranges;
mod store;
#[cfg(test)]
mod tests;
mod walk;

use std::collections::VecDeque;
use std::fs::{self, File};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::SystemTime;

use forebay_core::{Error, ErrorKind, Result};
use rustix::fs::FlockOperation;

pub use self::listings::Listings;
pub(crate) use self::listings::{Announced, Outcome};
use self::ranges::{Fact, Range};
use self::store::{Disk, Edit, Place, Store};

/// Pages of listings that wait to be written; more are not kept.
const LEARNING_MAX: usize = 256;
/// Most changes of one transaction.
const BATCH_MAX: usize = 256;
/// Transactions between two that are durable, which is when the database gives space free again.
const DURABLE_EVERY: usize = 256;

/// The open metadata store.
pub struct Metadata {
    shared: Arc<Shared>,
    /// Taken once, to wait for its end.
    writer: Mutex<Option<JoinHandle<()>>>,
    _lock: Option<File>,
}

/// What the mounts share.
struct Shared {
    store: Arc<dyn Store>,
    /// Taken for one look or push.
    queue: Mutex<Queue>,
    /// The queue is not empty, or there will be no more.
    wake: Condvar,
    /// Set once, before anything is told to be done that is not.
    is_broken: AtomicBool,
    is_closed: AtomicBool,
    /// Commits that are announced and not in the database.
    commits: AtomicUsize,
    /// Its being there says that the database was closed in order and has all commits.
    mark: Option<PathBuf>,
}

#[derive(Default)]
struct Queue {
    jobs: VecDeque<Job>,
    learning: usize,
    is_closed: bool,
}

enum Job {
    Learn { listings: Arc<Listings>, token: listings::Token, since: SystemTime, ranges: Vec<Range> },
    Settle { listings: Arc<Listings>, facts: Vec<(String, String, Fact)>, trees: Vec<String> },
}

impl Metadata {
    /// Opens the store in `directory`, making it if missing. Blocks on the disk.
    ///
    /// # Errors
    /// `Busy` when another gateway uses the directory; the disk's.
    pub fn open(directory: &Path) -> Result<Self> {
        let at = |e: io::Error| Error::from(e).at("open metadata store", directory.display());
        fs::create_dir_all(directory).map_err(at)?;
        let lock = File::create(directory.join("lock")).map_err(at)?;
        if let Err(e) = rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            let message = "another gateway uses this metadata store; give each its own `var` directory";
            return Err(Error::new(ErrorKind::Busy, message).because(io::Error::from(e)));
        }
        let (path, mark) = (directory.join("listings.redb"), directory.join("closed"));
        let was_closed = remove(&mark).map_err(at)?;
        // So that the mark cannot come back after a power failure.
        File::open(directory).and_then(|directory| directory.sync_all()).map_err(at)?;
        if !was_closed && remove(&path).map_err(at)? {
            tracing::warn!(
                "the gateway was not stopped in order; what it knew of listings is asked for again"
            );
        }
        let store = Disk::open(&path).or_else(|error| {
            tracing::error!(%error, "what was known of listings is damaged, and asked for again");
            remove(&path).map_err(at)?;
            Disk::open(&path)
        })?;
        Self::over(Arc::new(store), Some(mark), Some(lock))
    }

    fn over(store: Arc<dyn Store>, mark: Option<PathBuf>, lock: Option<File>) -> Result<Self> {
        let shared = Arc::new(Shared {
            store,
            queue: Mutex::default(),
            wake: Condvar::new(),
            is_broken: AtomicBool::new(false),
            is_closed: AtomicBool::new(false),
            commits: AtomicUsize::new(0),
            mark,
        });
        let writing = Arc::clone(&shared);
        let writer = thread::Builder::new().name("metadata".into()).spawn(move || {
            if catch_unwind(AssertUnwindSafe(|| writing.write())).is_err() {
                writing.fail(&Error::new(ErrorKind::Internal, "the writer of the metadata store panicked"));
            }
        })?;
        Ok(Self { shared, writer: Mutex::new(Some(writer)), _lock: lock })
    }

    /// What is known of the store `fingerprint` as it is mounted at `name`.
    pub(crate) fn listings(&self, name: &str, fingerprint: &str, is_hierarchical: bool) -> Arc<Listings> {
        let mut hasher = blake3::Hasher::new();
        hasher
            .update(&(name.len() as u64).to_le_bytes())
            .update(name.as_bytes())
            .update(fingerprint.as_bytes());
        let mut mount = [0; 8];
        mount.copy_from_slice(&hasher.finalize().as_bytes()[..8]);
        Listings::new(Arc::clone(&self.shared), u64::from_le_bytes(mount), is_hierarchical)
    }

    /// Whether nothing waits to be written.
    #[cfg(test)]
    pub(crate) fn is_idle(&self) -> bool {
        let queue = self.shared.queue();
        queue.jobs.is_empty() && queue.learning == 0 && self.shared.commits.load(Ordering::SeqCst) == 0
    }

    /// Writes what is under way and closes the store; nothing is known from then on. Blocks on the disk.
    pub fn close(&self) {
        self.shared.is_closed.store(true, Ordering::SeqCst);
        self.shared.queue().is_closed = true;
        self.shared.wake.notify_all();
        let writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(writer) = writer else { return };
        let is_whole = writer.join().is_ok() && !self.shared.is_broken.load(Ordering::SeqCst);
        let Some(mark) = self.shared.mark.as_ref().filter(|_| is_whole) else { return };
        if let Err(error) = File::create(mark).and_then(|mark| mark.sync_all()) {
            tracing::warn!(%error, "what is known of listings will be asked for again at the next start");
        }
        if self.shared.commits.load(Ordering::SeqCst) > 0 {
            self.shared.distrust();
        }
    }
}

impl Drop for Metadata {
    fn drop(&mut self) {
        self.close();
    }
}

/// Whether there was something to remove.
fn remove(path: &Path) -> io::Result<bool> {
    match fs::remove_file(path) {
        Ok(()) => Ok(true),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(e) => Err(e),
    }
}

impl Shared {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_usable(&self) -> bool {
        !self.is_broken.load(Ordering::SeqCst) && !self.is_closed.load(Ordering::SeqCst)
    }

    /// A commit begins, of which the store is told next.
    fn begin(&self) {
        self.commits.fetch_add(1, Ordering::SeqCst);
        if self.is_closed.load(Ordering::SeqCst) {
            self.distrust();
        }
    }

    /// A commit goes on after the database was closed without it.
    fn distrust(&self) {
        if let Some(mark) = &self.mark
            && let Err(error) = remove(mark)
        {
            tracing::error!(%error, mark = %mark.display(), "remove this file before the next start, or what it shows may be old");
        }
    }

    /// From now on nothing is known.
    fn fail(&self, error: &Error) {
        if !self.is_broken.swap(true, Ordering::SeqCst) {
            let cause = std::error::Error::source(error).map(ToString::to_string).unwrap_or_default();
            tracing::error!(%error, cause, "the metadata store is not used until the next start; stores are asked");
        }
    }

    fn has_room(&self) -> bool {
        self.queue().learning < LEARNING_MAX
    }

    fn push(&self, job: Job) {
        let mut queue = self.queue();
        if matches!(job, Job::Learn { .. }) {
            queue.learning += 1;
        }
        if queue.is_closed || self.is_broken.load(Ordering::SeqCst) {
            drop(queue);
            job.ended(self);
            return;
        }
        queue.jobs.push_back(job);
        drop(queue);
        self.wake.notify_all();
    }

    /// The next jobs; `None` when there will be no more.
    fn next(&self) -> Option<Vec<Job>> {
        let mut queue = self.queue();
        while queue.jobs.is_empty() && !queue.is_closed {
            queue = self.wake.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
        let count = queue.jobs.len().min(BATCH_MAX);
        let jobs: Vec<_> = queue.jobs.drain(..count).collect();
        (!jobs.is_empty()).then_some(jobs)
    }

    /// The life of the writer.
    fn write(&self) {
        let mut transactions = 0;
        while let Some(mut jobs) = self.next() {
            transactions += 1;
            let is_durable = transactions % DURABLE_EVERY == 0;
            if !self.is_broken.load(Ordering::SeqCst) {
                self.commit(is_durable, &mut |edit| jobs.iter_mut().try_for_each(|job| job.run(edit)));
            }
            for job in jobs {
                job.ended(self);
            }
        }
        if !self.is_broken.load(Ordering::SeqCst) {
            self.commit(true, &mut |_| Ok(()));
        }
    }

    fn commit(&self, is_durable: bool, work: &mut dyn FnMut(&mut dyn Edit) -> Result<()>) {
        if let Err(error) = self.store.edit(is_durable, work) {
            self.fail(&error);
        }
    }
}

impl Job {
    fn run(&mut self, edit: &mut dyn Edit) -> Result<()> {
        match self {
            Self::Learn { listings, token, since, ranges } => {
                for range in ranges.drain(..).flat_map(|range| listings.uncontested(range, *token)) {
                    ranges::learn(edit, listings.mount(), range, *since)?;
                }
                Ok(())
            }
            Self::Settle { listings, facts, trees } => {
                let mount = listings.mount();
                for directory in trees {
                    edit.remove_tree(Place { mount, directory })?;
                }
                facts.iter().try_for_each(|(directory, name, fact)| {
                    ranges::change(edit, Place { mount, directory }, name, fact.clone())
                })
            }
        }
    }

    /// It is in the database, or never will be.
    fn ended(self, shared: &Shared) {
        match self {
            Self::Learn { .. } => shared.queue().learning -= 1,
            Self::Settle { listings, facts, trees } => {
                listings.applied(&facts, &trees);
                shared.commits.fetch_sub(1, Ordering::SeqCst);
            }
        }
    }
}
