//! Sorted names of large directories, kept between the pages of a listing: without them a directory of n names would
//! be read and sorted n / 1000 times.
//!
//! Invariants:
//! - A snapshot is used only while the directory's timestamps are those it was taken under. It is taken only of a
//!   directory that had been left alone for longer than a clock tick, so that no later change can hide behind an
//!   equal timestamp; and of none with links, whose targets change elsewhere.
//! - All snapshots of a mount share one byte budget; the least recently used go first.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use rustix::fs::Statx;

use super::entry::time;

/// Most that the snapshots of a mount take, in bytes: about two million names.
const KEPT_BYTES_MAX: usize = 32 << 20;

/// How long a directory must have been left alone. Kernels before 6.13 stamp in ticks of up to 10 ms.
const QUIET: Duration = Duration::from_secs(1);

/// The kept snapshots; the lock is held to find or to add one.
#[derive(Default)]
pub(super) struct Snapshots(Mutex<VecDeque<(Stamp, Arc<Snapshot>)>>);

/// A directory and the state it was in.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Stamp {
    identity: (u32, u32, u64),
    changed: SystemTime,
    modified: SystemTime,
}

/// The names of a directory in the order of listings.
#[derive(Default)]
pub(super) struct Snapshot {
    text: String,
    /// Where each name starts and ends.
    names: Vec<(u32, u32)>,
}

impl Snapshots {
    /// The names of a directory, if they are known and still true.
    pub(super) fn find(&self, stamp: Stamp) -> Option<Arc<Snapshot>> {
        let mut kept = self.0.lock().expect("no panic under this lock");
        let at = kept.iter().position(|(known, _)| *known == stamp)?;
        let found = kept.remove(at)?;
        let snapshot = Arc::clone(&found.1);
        kept.push_back(found);
        Some(snapshot)
    }

    /// Keeps a finished snapshot, in place of what was known of the directory.
    pub(super) fn keep(&self, stamp: Stamp, snapshot: Snapshot) {
        let mut kept = self.0.lock().expect("no panic under this lock");
        kept.retain(|(known, _)| known.identity != stamp.identity);
        kept.push_back((stamp, Arc::new(snapshot)));
        while kept.iter().map(|(_, snapshot)| snapshot.bytes()).sum::<usize>() > KEPT_BYTES_MAX {
            kept.pop_front();
        }
    }
}

impl Stamp {
    pub(super) fn of(directory: &Statx) -> Self {
        Self {
            identity: identity(directory),
            changed: time(directory.stx_ctime),
            modified: time(directory.stx_mtime),
        }
    }

    /// Whether any later change will show in the stamp.
    pub(super) fn is_settled(&self, now: SystemTime) -> bool {
        let is_quiet = |at: SystemTime| now.duration_since(at).is_ok_and(|age| age > QUIET);
        is_quiet(self.changed) && is_quiet(self.modified)
    }
}

impl Snapshot {
    /// Adds a name in any order; `false` when there are too many to keep.
    pub(super) fn add(&mut self, name: &str) -> bool {
        let start = self.text.len() as u32;
        self.text.push_str(name);
        self.names.push((start, self.text.len() as u32));
        self.bytes() <= KEPT_BYTES_MAX
    }

    /// Brings the names into order.
    pub(super) fn finish(mut self) -> Self {
        let text = &self.text;
        self.names.sort_unstable_by_key(|(start, end)| &text[*start as usize..*end as usize]);
        self.text.shrink_to_fit();
        self.names.shrink_to_fit();
        self
    }

    /// The names from the first for which `is_past` holds; it holds for all that follow, too.
    pub(super) fn from(&self, is_past: impl Fn(&str) -> bool) -> impl Iterator<Item = &str> {
        let start = self.names.partition_point(|range| !is_past(self.name(*range)));
        self.names[start..].iter().map(|range| self.name(*range))
    }

    fn name(&self, (start, end): (u32, u32)) -> &str {
        &self.text[start as usize..end as usize]
    }

    fn bytes(&self) -> usize {
        self.text.capacity() + self.names.capacity() * size_of::<(u32, u32)>()
    }
}

/// Device and inode.
pub(super) fn identity(stat: &Statx) -> (u32, u32, u64) {
    (stat.stx_dev_major, stat.stx_dev_minor, stat.stx_ino)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stamp(inode: u64) -> Stamp {
        Stamp { identity: (0, 0, inode), changed: SystemTime::UNIX_EPOCH, modified: SystemTime::UNIX_EPOCH }
    }

    #[test]
    fn the_budget_holds_and_the_least_recently_used_goes_first() {
        let snapshots = Snapshots::default();
        for inode in 0..4 {
            let mut snapshot = Snapshot::default();
            assert!(snapshot.add(&"x".repeat(10 << 20)));
            snapshots.keep(stamp(inode), snapshot.finish());
            assert!(snapshots.find(stamp(0)).is_some() || inode > 2);
        }
        let kept: Vec<_> = (0..4).filter(|inode| snapshots.find(stamp(*inode)).is_some()).collect();
        assert_eq!(kept, [0, 2, 3]);
        assert!(!Snapshot::default().add(&"x".repeat(KEPT_BYTES_MAX + 1)));
    }

    #[test]
    fn a_stamp_settles_after_a_quiet_second() {
        let stamp = stamp(0);
        assert!(!stamp.is_settled(SystemTime::UNIX_EPOCH + Duration::from_millis(900)));
        assert!(stamp.is_settled(SystemTime::UNIX_EPOCH + Duration::from_millis(1100)));
    }
}
