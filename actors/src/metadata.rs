//! The metadata store: what the stores of all mounts said of their directories, in one embedded database that outlives
//! the process.
//!
//! Invariants:
//! - Everything in the database can be asked for again; what only we know is in the ledgers (module `ledger`): what is damaged is thrown away and learned anew. After a kill the names of
//!   the last commits are, after a failure of the machine everything (module `journal`).
//! - One thread writes; it makes many changes in one transaction. Readers wait for nobody.
//! - What is being changed is not answered (module `listings`), so nobody waits for the writer, and nothing is stale when it
//!   falls behind or dies.
//! - Without a database that works, all stores are asked, as if nothing was known.
//! - What is known of mounts whose listings are not kept any more, or that are gone, is removed by and by. Until nothing of
//!   a mount is left, its commits are written down.

mod chunk;
mod codec;
mod compare;
mod journal;
mod ledger;
mod listings;
mod proof;
mod ranges;
mod store;
mod sweep;
#[cfg(test)]
mod tests;
mod walk;

use std::collections::{HashMap, VecDeque};
use std::fs::{self, File};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::thread::{self, JoinHandle};
use std::time::{Duration, SystemTime};

use forebay_core::{Error, ErrorKind, Result};
use rustix::fs::FlockOperation;
use tokio::sync::oneshot;

pub(crate) use self::compare::{Compared, Difference, Part};
use self::journal::{Journal, Left, Record};
pub use self::ledger::Ledger;
pub use self::listings::Listings;
pub(crate) use self::listings::{Announced, Outcome};
pub(crate) use self::proof::past_group;
use self::ranges::{Fact, Range};
use self::store::{Disk, Edit, Place, Store};
use self::sweep::Sweeps;
use crate::staging::make_directory;

/// Pages of listings that wait to be written; more are not kept.
const LEARNING_MAX: usize = 256;
/// Most changes of one transaction.
const BATCH_MAX: usize = 256;
/// Transactions between two that are durable, which is when the database gives space free again and the journal begins
/// anew.
const DURABLE_EVERY: usize = 256;
/// The same where nothing more is to be written.
const DURABLE_AFTER: Duration = Duration::from_secs(2);

/// The open metadata store.
pub struct Metadata {
    shared: Arc<Shared>,
    /// Taken once, to wait for its end.
    writer: Mutex<Option<JoinHandle<()>>>,
    directory: PathBuf,
    /// Those in use, by their names. Held while one is opened, off the runtime.
    ledgers: Mutex<HashMap<String, Weak<Ledger>>>,
    _lock: File,
}

/// What the mounts share.
struct Shared {
    store: Arc<dyn Store>,
    journal: Journal,
    /// Those in use. Taken for one look or change.
    mounts: Mutex<HashMap<u64, Weak<Listings>>>,
    /// Taken for one look or push.
    queue: Mutex<Queue>,
    /// The queue is not empty, or there will be no more.
    wake: Condvar,
    /// Set once, before anything is told to be done that is not.
    is_broken: AtomicBool,
    is_closed: AtomicBool,
}

#[derive(Default)]
struct Queue {
    jobs: VecDeque<Job>,
    learning: usize,
    sweeps: Sweeps,
    is_closed: bool,
}

enum Job {
    Learn(Learn),
    Settle { listings: Arc<Listings>, number: u64, facts: Vec<(String, String, Fact)>, trees: Vec<String> },
}

/// What a store said.
struct Learn {
    listings: Arc<Listings>,
    token: listings::Token,
    since: SystemTime,
    ranges: Vec<Range>,
    /// Chunks to be removed and names to be forgotten first, as (directory, name).
    over: Vec<(String, String)>,
    unknown: Vec<(String, String)>,
    /// Told when it is in the database, or never will be.
    done: Option<oneshot::Sender<()>>,
    /// It must be there after a kill: then what was known before would be taken for true.
    is_durable: bool,
}

impl Metadata {
    /// Opens the store in `directory`, making it if missing. Blocks on the disk.
    ///
    /// # Errors
    /// `Busy` when another gateway uses the directory; the disk's.
    pub fn open(directory: &Path) -> Result<Self> {
        let at = |e: io::Error| Error::from(e).at("open metadata store", directory.display());
        make_directory(directory, 0o755).map_err(at)?;
        let lock = File::create(directory.join("lock")).map_err(at)?;
        if let Err(e) = rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            let message = "another gateway uses this metadata store; give each its own `var` directory";
            return Err(Error::new(ErrorKind::Busy, message).because(io::Error::from(e)));
        }
        let (path, (journal, left)) = (directory.join("listings.redb"), Journal::open(directory)?);
        if matches!(left, Left::Nothing) && remove(&path).map_err(at)? {
            tracing::warn!("what was known of listings may be old, and is asked for again");
        }
        let store =
            Disk::open(&path).and_then(|store| correct(&store, &left).map(|()| store)).or_else(|error| {
                tracing::error!(%error, "what was known of listings is damaged, and asked for again");
                remove(&path).map_err(at)?;
                Disk::open(&path)
            })?;
        journal.begin()?;
        let shared = Arc::new(Shared {
            store: Arc::new(store),
            journal,
            mounts: Mutex::default(),
            queue: Mutex::default(),
            wake: Condvar::new(),
            is_broken: AtomicBool::new(false),
            is_closed: AtomicBool::new(false),
        });
        let writing = Arc::clone(&shared);
        let writer = thread::Builder::new().name("metadata".into()).spawn(move || {
            if catch_unwind(AssertUnwindSafe(|| writing.write())).is_err() {
                writing.fail(&Error::new(ErrorKind::Internal, "the writer of the metadata store panicked"));
            }
        })?;
        let (directory, ledgers) = (directory.to_owned(), Mutex::default());
        Ok(Self { shared, writer: Mutex::new(Some(writer)), directory, ledgers, _lock: lock })
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
        let mount = u64::from_le_bytes(mount);
        let mut mounts = self.shared.mounts();
        if let Some(listings) = mounts.get(&mount).and_then(Weak::upgrade) {
            return listings;
        }
        mounts.retain(|_, listings| listings.strong_count() > 0);
        let listings = Listings::new(Arc::clone(&self.shared), mount, is_hierarchical);
        mounts.insert(mount, Arc::downgrade(&listings));
        listings
    }

    /// All mounts that there are to be have been opened: what is known of any other is removed, by and by.
    pub(crate) fn prune(&self) {
        self.shared.queue().sweeps.knows_all = true;
        self.shared.sweep_soon();
    }

    /// What only we know of the store `fingerprint`, wherever it is mounted. Blocks on the disk.
    ///
    /// # Errors
    /// The disk's.
    pub(crate) fn ledger(&self, fingerprint: &str) -> Result<Arc<Ledger>> {
        let name = blake3::hash(fingerprint.as_bytes()).to_hex()[..32].to_owned();
        let mut ledgers = self.ledgers();
        if let Some(ledger) = ledgers.get(&name).and_then(Weak::upgrade) {
            return Ok(ledger);
        }
        ledgers.retain(|_, ledger| ledger.strong_count() > 0);
        let ledger = Ledger::open(&self.directory.join("ledgers"), &name)?;
        ledgers.insert(name, Arc::downgrade(&ledger));
        Ok(ledger)
    }

    fn ledgers(&self) -> MutexGuard<'_, HashMap<String, Weak<Ledger>>> {
        self.ledgers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether nothing waits to be written.
    #[cfg(test)]
    pub(crate) fn is_idle(&self) -> bool {
        let queue = self.shared.queue();
        let is_quiet = queue.jobs.is_empty() && queue.learning == 0 && !queue.sweeps.is_due();
        is_quiet && !self.shared.journal.is_busy()
    }

    /// Whether anything is known of any mount.
    #[cfg(test)]
    pub(crate) fn has_chunks(&self) -> bool {
        let view = self.shared.store.view().expect("opens");
        view.mount_from(0).expect("reads").is_some()
    }

    /// Writes what is under way and closes the store; nothing is known from then on. Blocks on the disk.
    pub fn close(&self) {
        self.shared.is_closed.store(true, Ordering::SeqCst);
        self.shared.queue().is_closed = true;
        self.shared.wake.notify_all();
        let writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(writer) = writer else { return };
        for ledger in self.ledgers().values().filter_map(Weak::upgrade) {
            if let Err(error) = ledger.sync_now() {
                tracing::error!(%error, "what was set last would be lost in a power failure");
            }
        }
        let is_joined = writer.join().is_ok();
        if !is_joined || self.shared.is_incomplete() {
            return;
        }
        if let Err(error) = self.shared.journal.close() {
            tracing::warn!(%error, "the metadata store was not closed in order");
        }
        if self.shared.is_incomplete() {
            self.shared.distrust();
        }
    }
}

impl Drop for Metadata {
    fn drop(&mut self) {
        self.close();
    }
}

/// Forgets what the database may be wrong about.
fn correct(store: &dyn Store, left: &Left) -> Result<()> {
    let Left::But(records) = left else { return Ok(()) };
    store.edit(true, &mut |edit| {
        for Record { mount, names, trees } in records {
            for directory in trees {
                edit.remove_tree(Place { mount: *mount, directory }, usize::MAX)?;
            }
            for (directory, name) in names {
                ranges::change(edit, Place { mount: *mount, directory }, name, Fact::Unknown)?;
            }
        }
        Ok(())
    })
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

    fn mounts(&self) -> MutexGuard<'_, HashMap<u64, Weak<Listings>>> {
        self.mounts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_usable(&self) -> bool {
        !self.is_broken.load(Ordering::SeqCst) && !self.is_closed.load(Ordering::SeqCst)
    }

    /// Whether the database lacks commits.
    fn is_incomplete(&self) -> bool {
        self.is_broken.load(Ordering::SeqCst) || self.journal.is_busy()
    }

    /// A commit begins, of which the store is told next; its number in the journal.
    fn begin(&self, record: &Record) -> u64 {
        let number = self.journal.announce(record);
        if self.is_closed.load(Ordering::SeqCst) {
            self.distrust();
        }
        number
    }

    /// The database is not what the next start may believe.
    fn distrust(&self) {
        if let Err(error) = self.journal.distrust() {
            tracing::error!(%error, "remove the metadata store before the next start, or what it shows may be old");
        }
    }

    /// From now on nothing is known.
    fn fail(&self, error: &Error) {
        if !self.is_broken.swap(true, Ordering::SeqCst) {
            let cause = std::error::Error::source(error).map(ToString::to_string).unwrap_or_default();
            tracing::error!(%error, cause, "the metadata store is not used until the next start; stores are asked");
            self.distrust();
        }
    }

    fn has_room(&self) -> bool {
        self.queue().learning < LEARNING_MAX
    }

    fn push(&self, job: Job) {
        let mut queue = self.queue();
        if matches!(job, Job::Learn(_)) {
            queue.learning += 1;
        }
        if queue.is_closed || self.is_broken.load(Ordering::SeqCst) {
            drop(queue);
            if matches!(job, Job::Settle { .. }) {
                self.is_broken.store(true, Ordering::SeqCst);
                self.distrust();
            }
            job.ended(self);
            return;
        }
        queue.jobs.push_back(job);
        drop(queue);
        self.wake.notify_all();
    }

    /// The next jobs, none where it took `patience`; `None` when there will be no more.
    fn next(&self, patience: Duration) -> Option<Vec<Job>> {
        let mut queue = self.queue();
        if queue.jobs.is_empty() && !queue.sweeps.is_due() && !queue.is_closed {
            let woken = self.wake.wait_timeout(queue, patience);
            queue = woken.unwrap_or_else(PoisonError::into_inner).0;
        }
        let count = queue.jobs.len().min(BATCH_MAX);
        (count > 0 || !queue.is_closed).then(|| queue.jobs.drain(..count).collect())
    }

    /// The life of the writer.
    fn write(&self) {
        let mut undurable = 0;
        while let Some(mut jobs) = self.next(DURABLE_AFTER) {
            let is_quiet = jobs.is_empty();
            if !is_quiet {
                undurable += 1;
                self.commit(false, &mut |edit| jobs.iter_mut().try_for_each(|job| job.run(edit)));
                if jobs.iter().any(|job| matches!(job, Job::Learn(learn) if learn.is_durable)) {
                    self.settle();
                    undurable = 0;
                }
            }
            for job in jobs {
                job.ended(self);
            }
            let is_sweep_due = self.queue().sweeps.is_due();
            if is_sweep_due {
                undurable += 1;
                self.sweep();
            }
            if undurable >= DURABLE_EVERY || (is_quiet && !is_sweep_due && undurable > 0) {
                self.settle();
                undurable = 0;
            }
        }
        self.settle();
    }

    /// Makes all that was committed durable.
    fn settle(&self) {
        if self.is_broken.load(Ordering::SeqCst) {
            return;
        }
        let generation = match self.journal.rotate() {
            Ok(generation) => generation,
            Err(error) => return self.fail(&error.into()),
        };
        self.commit(true, &mut |_| Ok(()));
        if !self.is_broken.load(Ordering::SeqCst)
            && let Err(error) = self.journal.rotated(generation)
        {
            self.fail(&error);
        }
    }

    fn commit(&self, is_durable: bool, work: &mut dyn FnMut(&mut dyn Edit) -> Result<()>) {
        if !self.is_broken.load(Ordering::SeqCst)
            && let Err(error) = self.store.edit(is_durable, work)
        {
            self.fail(&error);
        }
    }
}

impl Job {
    fn run(&mut self, edit: &mut dyn Edit) -> Result<()> {
        match self {
            Self::Learn(Learn { listings, token, since, ranges, over, unknown, .. }) => {
                let mount = listings.mount();
                for (directory, first) in over {
                    edit.remove(Place { mount, directory }, first)?;
                }
                for (directory, name) in unknown {
                    ranges::change(edit, Place { mount, directory }, name, Fact::Unknown)?;
                }
                for range in ranges.drain(..).flat_map(|range| listings.uncontested(range, *token)) {
                    ranges::learn(edit, mount, range, *since)?;
                }
                Ok(())
            }
            Self::Settle { listings, facts, trees, .. } => {
                let mount = listings.mount();
                for directory in trees {
                    edit.remove_tree(Place { mount, directory }, usize::MAX)?;
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
            Self::Learn(learn) => {
                shared.queue().learning -= 1;
                if let Some(done) = learn.done {
                    // Nobody may be waiting any more.
                    done.send(()).unwrap_or_default();
                }
            }
            Self::Settle { listings, number, facts, trees } => {
                listings.applied(&facts, &trees);
                shared.journal.end(number);
            }
        }
    }
}
