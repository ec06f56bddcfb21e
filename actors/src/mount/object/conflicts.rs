//! Which acknowledged writes found their file changed at the store, for as long as the mount lives: the last ones.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use forebay_core::Conflict;

/// Conflicts that are remembered of a mount.
const REMEMBERED: usize = 100;

/// Those of one mount, the last one at the end. Taken for one look or change.
#[derive(Default)]
pub(super) struct Conflicts(Mutex<VecDeque<Conflict>>);

impl Conflicts {
    fn lock(&self) -> MutexGuard<'_, VecDeque<Conflict>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds one. That its end could not be written down, and it came again, is no other one.
    pub(super) fn note(&self, conflict: Conflict) {
        let mut conflicts = self.lock();
        conflicts.retain(|other| (&other.key, &other.beside) != (&conflict.key, &conflict.beside));
        if conflicts.len() == REMEMBERED {
            conflicts.pop_front();
        }
        conflicts.push_back(conflict);
    }

    pub(super) fn list(&self) -> Vec<Conflict> {
        self.lock().iter().cloned().collect()
    }
}
