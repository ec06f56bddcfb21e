//! Syncs: what a mount remembers is compared with what its store has, a piece at a time.

use serde::{Deserialize, Serialize};

use crate::Key;

/// Files that a sync met.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SyncTotals {
    /// The store has them.
    pub seen: u64,
    /// Were not known to be there.
    pub added: u64,
    /// Have another content than was known.
    pub changed: u64,
    /// Were known and are gone.
    pub removed: u64,
}

impl SyncTotals {
    /// Adds what another piece met.
    pub fn add(&mut self, other: Self) {
        self.seen += other.seen;
        self.added += other.added;
        self.changed += other.changed;
        self.removed += other.removed;
    }
}

/// What is left of a sync, or of a part of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SyncSpan {
    /// Every name up to this one was compared.
    pub after: Option<String>,
    /// No name after this one belongs to it.
    pub until: Option<String>,
}

/// A finished piece of a sync.
#[derive(Clone, Debug, Default)]
pub struct SyncPage {
    /// What it met.
    pub totals: SyncTotals,
    /// What is to be told: names that show something else now, and whether anything is there. A directory that is gone
    /// stands for all below it.
    pub changes: Vec<(Key, bool)>,
    /// The next piece begins after this name.
    pub after: Option<String>,
    /// There is no next piece.
    pub is_last: bool,
}
