//! One writer of a path at a time, so that a look before a rename holds among this gateway's writers.

use std::hash::{BuildHasher, RandomState};

use tokio::sync::{Mutex, MutexGuard};

use super::path::Path;

/// Locks; paths that share one merely wait for each other.
const LOCKS: usize = 256;

/// The locks of a store. Each is held for two or three requests, never two at once by one writer; those of an
/// asynchronous mutex, so that whoever waits does not block a worker.
pub(super) struct Turns {
    locks: Box<[Mutex<()>]>,
    hasher: RandomState,
}

impl Default for Turns {
    fn default() -> Self {
        Self { locks: (0..LOCKS).map(|_| Mutex::new(())).collect(), hasher: RandomState::new() }
    }
}

impl Turns {
    pub(super) async fn take(&self, path: &Path) -> MutexGuard<'_, ()> {
        let hash = self.hasher.hash_one(path.as_str()) as usize;
        self.locks[hash % LOCKS].lock().await
    }
}
