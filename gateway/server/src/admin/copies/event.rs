//! What a copy tells while it runs: one JSON object a line.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use serde::{Deserialize, Serialize};

/// One line of `POST /api/v1/copies`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub(crate) enum CopyEvent {
    /// How far it is; several times a second.
    Progress {
        #[serde(flatten)]
        totals: Totals,
    },
    /// One file or directory was not copied. The others go on.
    Failed { path: String, error: String },
    /// The last line: everything was tried. Without it the copy broke off.
    Done {
        #[serde(flatten)]
        totals: Totals,
        seconds: f64,
    },
}

/// Files and bytes so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Totals {
    /// Found at the source so far.
    pub(crate) found_files: u64,
    pub(crate) found_bytes: u64,
    /// Whether the source was walked to its end.
    pub(crate) is_walked: bool,
    /// Copied or moved.
    pub(crate) files: u64,
    /// Written to the target, files in progress included.
    pub(crate) bytes: u64,
    /// There already.
    pub(crate) skipped_files: u64,
    pub(crate) skipped_bytes: u64,
    /// Copied files whose content was compared with the source's.
    pub(crate) verified: u64,
    pub(crate) failed: u64,
}

/// [`Totals`] as they grow.
#[derive(Default)]
pub(super) struct Progress {
    found_files: AtomicU64,
    found_bytes: AtomicU64,
    is_walked: AtomicBool,
    files: AtomicU64,
    bytes: AtomicU64,
    skipped_files: AtomicU64,
    skipped_bytes: AtomicU64,
    verified: AtomicU64,
    failed: AtomicU64,
}

impl Progress {
    pub(super) fn totals(&self) -> Totals {
        let value = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Totals {
            found_files: value(&self.found_files),
            found_bytes: value(&self.found_bytes),
            is_walked: self.is_walked.load(Ordering::Relaxed),
            files: value(&self.files),
            bytes: value(&self.bytes),
            skipped_files: value(&self.skipped_files),
            skipped_bytes: value(&self.skipped_bytes),
            verified: value(&self.verified),
            failed: value(&self.failed),
        }
    }

    pub(super) fn count_found(&self, bytes: u64) {
        self.found_files.fetch_add(1, Ordering::Relaxed);
        self.found_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(super) fn set_walked(&self) {
        self.is_walked.store(true, Ordering::Relaxed);
    }

    pub(super) fn count_written(&self, bytes: u64) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Takes back what an attempt that failed had written.
    pub(super) fn take_back(&self, bytes: u64) {
        self.bytes.fetch_sub(bytes, Ordering::Relaxed);
    }

    pub(super) fn count_copied(&self, is_verified: bool) {
        self.files.fetch_add(1, Ordering::Relaxed);
        self.verified.fetch_add(u64::from(is_verified), Ordering::Relaxed);
    }

    pub(super) fn count_skipped(&self, bytes: u64) {
        self.skipped_files.fetch_add(1, Ordering::Relaxed);
        self.skipped_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// A whole tree or file, moved by one call of its store.
    pub(super) fn count_renamed(&self) {
        self.count_found(0);
        self.set_walked();
        self.count_copied(true);
    }

    pub(super) fn count_failed(&self) {
        self.failed.fetch_add(1, Ordering::Relaxed);
    }
}
