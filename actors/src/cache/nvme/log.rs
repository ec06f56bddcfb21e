//! The index log: what the disk tier holds, written down so that a restart finds it again.
//!
//! Invariants:
//! - The log may miss changes and may name files that are gone: a restart believes no page before it matched its
//!   checksum. So nothing waits for the log, and losing it costs warmth only.
//! - A change is made first and noted then. So changes noted before the tier is looked at are in what is seen, and
//!   may be forgotten when all of the tier is written.
//! - After an append that failed or panicked the log is written anew, because what follows a torn frame is not read.
//! - Its bytes are reserved from the tier's budget.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::Duration;

use tokio::time::Instant;

use super::blocks;
use super::record::{Record, header};
use crate::cache::budget::{Budget, Reservation};

/// Changes that wait for the logger; with more, it writes all of the tier instead.
const PENDING_MAX: usize = 1 << 16;

/// The log is written anew when it is so many times as long as when it was last written anew, and longer than
/// [`REWRITE_BYTES_MIN`].
const REWRITE_FACTOR: u64 = 4;
const REWRITE_BYTES_MIN: u64 = 1 << 20;

/// Encoded records that are written together.
const BUFFER_BYTES: usize = 256 << 10;

/// How often the log is brought to the disk: not more often, because what a crash of the machine loses is warmth.
const SYNC_INTERVAL: Duration = Duration::from_secs(30);

/// How long a log that cannot be written is left alone.
const RETRY_INTERVAL: Duration = Duration::from_secs(10);

/// The log of one directory.
pub(super) struct IndexLog {
    path: PathBuf,
    pending: Mutex<Pending>,
    /// Taken by the logger, and by who found the log gone.
    written: Mutex<Written>,
}

#[derive(Default)]
struct Pending {
    changes: Vec<Record>,
    /// Some were left out.
    is_incomplete: bool,
}

/// What is on disk.
#[derive(Default)]
struct Written {
    /// `None` before the first record, and while its end is not known.
    tail: Option<Tail>,
    retry_at: Option<Instant>,
}

/// A log that may be appended to.
struct Tail {
    file: File,
    bytes: u64,
    rewrite_bytes: u64,
    synced_at: Instant,
    is_synced: bool,
    space: Reservation,
}

impl IndexLog {
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path, pending: Mutex::default(), written: Mutex::default() }
    }

    /// Notes a change that was made.
    pub(super) fn note(&self, change: Record) {
        let mut pending = self.pending();
        if pending.changes.len() < PENDING_MAX {
            pending.changes.push(change);
        } else {
            pending.is_incomplete = true;
        }
    }

    /// Brings the log up to date; `live` is called if all of the tier must be written. Waits for the disk.
    pub(super) fn write(
        &self,
        budget: &Arc<Budget>,
        live: impl FnOnce(&mut dyn FnMut(Record)),
    ) -> io::Result<()> {
        // Whoever writes just now may hang.
        let mut written = match self.written.try_lock() {
            Ok(written) => written,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return Ok(()),
        };
        if written.retry_at.is_some_and(|at| Instant::now() < at) {
            return Ok(());
        }
        written.retry_at = Some(Instant::now() + RETRY_INTERVAL);
        let Pending { changes, is_incomplete } = std::mem::take(&mut *self.pending());
        let tail = written.tail.take().filter(|tail| !is_incomplete && tail.bytes < tail.rewrite_bytes);
        let mut tail = match tail {
            Some(tail) => tail.append(&changes)?,
            None => self.rewrite(budget, live)?,
        };
        tail.sync()?;
        *written = Written { tail: Some(tail), retry_at: None };
        Ok(())
    }

    /// The log that was appended to is gone: the next one is written anew. Waits for who writes just now.
    pub(super) fn start_over(&self) {
        *self.written() = Written::default();
        *self.pending() = Pending::default();
    }

    /// Writes all of the tier beside the old log and puts it in its place.
    fn rewrite(&self, budget: &Arc<Budget>, live: impl FnOnce(&mut dyn FnMut(Record))) -> io::Result<Tail> {
        let aside = self.path.with_extension("new");
        let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&aside)?;
        let mut tail = Tail::new(file, budget)?;
        let (mut buffer, mut outcome) = (header().to_vec(), Ok(()));
        live(&mut |record| {
            record.encode(&mut buffer);
            if buffer.len() >= BUFFER_BYTES && outcome.is_ok() {
                outcome = tail.push(&std::mem::take(&mut buffer));
            }
        });
        outcome.and_then(|()| tail.push(&buffer))?;
        tail.file.sync_all()?;
        std::fs::rename(&aside, &self.path)?;
        sync_directory(&self.path)?;
        tail.rewrite_bytes = (tail.bytes * REWRITE_FACTOR).max(REWRITE_BYTES_MIN);
        tail.is_synced = true;
        Ok(tail)
    }

    fn written(&self) -> MutexGuard<'_, Written> {
        self.written.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn pending(&self) -> MutexGuard<'_, Pending> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Tail {
    fn new(file: File, budget: &Arc<Budget>) -> io::Result<Self> {
        let space = budget.try_reserve(0).ok_or(io::ErrorKind::StorageFull)?;
        let (bytes, rewrite_bytes) = (0, 0);
        Ok(Self { file, bytes, rewrite_bytes, synced_at: Instant::now(), is_synced: false, space })
    }

    fn append(mut self, changes: &[Record]) -> io::Result<Self> {
        if changes.is_empty() {
            return Ok(self);
        }
        let mut frames = Vec::new();
        for change in changes {
            change.encode(&mut frames);
        }
        self.push(&frames)?;
        self.is_synced = false;
        Ok(self)
    }

    fn push(&mut self, frames: &[u8]) -> io::Result<()> {
        let bytes = self.bytes + frames.len() as u64;
        let missing = blocks(bytes).saturating_sub(self.space.bytes());
        self.space.absorb(self.space.more(missing).ok_or(io::ErrorKind::StorageFull)?);
        self.file.write_all(frames)?;
        self.bytes = bytes;
        Ok(())
    }

    fn sync(&mut self) -> io::Result<()> {
        if !self.is_synced && self.synced_at.elapsed() >= SYNC_INTERVAL {
            self.file.sync_data()?;
            (self.is_synced, self.synced_at) = (true, Instant::now());
        }
        Ok(())
    }
}

fn sync_directory(path: &Path) -> io::Result<()> {
    path.parent().map_or(Ok(()), |directory| File::open(directory)?.sync_all())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::CacheConfig;

    fn budget(bytes: u64) -> Arc<Budget> {
        let config = CacheConfig { memory_bytes: 0, nvme: None, high_percent: 90, low_percent: 50 };
        Arc::new(Budget::new("log test", bytes, &config))
    }

    fn records(log: &Path) -> Vec<Record> {
        super::super::record::Records::new(&std::fs::read(log).expect("log")[..]).collect()
    }

    const KEPT: Record = Record::Gone { serial: 1 };

    #[test]
    fn log_that_grew_is_written_anew_and_its_bytes_count() {
        let (directory, budget) = (tempfile::tempdir().expect("temporary directory"), budget(8 << 20));
        let log = IndexLog::new(directory.path().join("index"));
        let mut longest = 0;
        for _ in 0..8 {
            for serial in 0..PENDING_MAX as u64 / 4 {
                log.note(Record::Gone { serial });
            }
            log.write(&budget, |note| note(KEPT)).expect("written");
            let bytes = std::fs::metadata(&log.path).expect("log").len();
            assert_eq!(budget.used(), blocks(bytes));
            longest = bytes.max(longest);
        }
        assert!((1 << 20..2 << 20).contains(&longest), "{longest}");
    }

    #[test]
    fn changes_that_did_not_fit_are_made_up_for() {
        let (directory, budget) = (tempfile::tempdir().expect("temporary directory"), budget(8 << 20));
        let log = IndexLog::new(directory.path().join("index"));
        log.write(&budget, |_| ()).expect("written");
        for serial in 0..=PENDING_MAX as u64 {
            log.note(Record::Gone { serial });
        }
        log.write(&budget, |note| note(KEPT)).expect("written");
        assert_eq!(records(&log.path), [KEPT]);
    }

    #[tokio::test(start_paused = true)]
    async fn log_without_room_is_tried_again_later_and_the_old_one_stays() {
        let (directory, budget) = (tempfile::tempdir().expect("temporary directory"), budget(3 * 4096));
        let log = IndexLog::new(directory.path().join("index"));
        log.write(&budget, |note| note(KEPT)).expect("written");
        let taken = budget.try_reserve(8192).expect("room");
        for serial in 0..1000 {
            log.note(Record::Gone { serial });
        }
        assert!(log.write(&budget, |_| ()).is_err());
        assert_eq!(records(&log.path), [KEPT]);
        drop(taken);
        log.write(&budget, |_| panic!("too early")).expect("left alone");
        tokio::time::advance(RETRY_INTERVAL).await;
        log.write(&budget, |note| note(Record::Gone { serial: 2 })).expect("written");
        assert_eq!(records(&log.path), [Record::Gone { serial: 2 }]);
    }
}
