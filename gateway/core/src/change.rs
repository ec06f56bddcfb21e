//! Commit events: how a change through one frontend becomes visible in the others before it is acknowledged.

use async_trait::async_trait;

use crate::{NsPath, Origin};

/// What happened to a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ChangeKind {
    /// It exists now, or has another content.
    Written,
    /// Only its attributes changed.
    Attributes,
    /// It is gone, with all below it.
    Removed,
    /// It is now at another path, with all below it; what was there is replaced.
    Renamed {
        /// The new path.
        to: NsPath,
    },
}

/// One committed change.
#[derive(Clone, Debug)]
pub struct Change {
    /// Which session made it; observers skip their own.
    pub origin: Option<Origin>,
    /// Where.
    pub path: NsPath,
    /// What.
    pub kind: ChangeKind,
}

/// Somebody who caches what the namespace says: the kernel behind a FUSE session.
///
/// Called after the commit with no lock held and awaited, up to a deadline, before the change is acknowledged.
#[async_trait]
pub trait CommitObserver: Send + Sync {
    /// Forgets what `change` made wrong.
    async fn committed(&self, change: &Change);
}
