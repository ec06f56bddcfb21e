//! What befell acknowledged writes, for as long as the mount lives: the last of it.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// As much is remembered of a mount.
const REMEMBERED: usize = 100;

/// What happened to one mount, the last at the end. Taken for one look or change.
pub(super) struct Recent<T>(Mutex<VecDeque<T>>);

impl<T> Default for Recent<T> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<T: Clone> Recent<T> {
    fn lock(&self) -> MutexGuard<'_, VecDeque<T>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds one; `false` where it is known. That its end could not be written down, and it came again, is no other one.
    pub(super) fn note(&self, event: T, is_same: impl Fn(&T) -> bool) -> bool {
        let mut events = self.lock();
        if events.iter().any(is_same) {
            return false;
        }
        if events.len() == REMEMBERED {
            events.pop_front();
        }
        events.push_back(event);
        true
    }

    pub(super) fn list(&self) -> Vec<T> {
        self.lock().iter().cloned().collect()
    }
}
