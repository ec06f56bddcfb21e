//! The quota of a mount's staging: one counter that is raised before anything is written.

use std::sync::atomic::{AtomicU64, Ordering};

use forebay_core::{Error, ErrorKind, METRICS, Result};
use prometheus::IntGauge;

/// Bytes reserved out of a limit.
pub(super) struct Space {
    limit_bytes: AtomicU64,
    used_bytes: AtomicU64,
    mount: String,
    gauge: IntGauge,
}

impl Space {
    pub(super) fn new(limit_bytes: u64, mount: &str) -> Self {
        let gauge = METRICS.staging_used_bytes.with_label_values(&[mount]);
        gauge.set(0);
        Self {
            limit_bytes: AtomicU64::new(limit_bytes),
            used_bytes: AtomicU64::new(0),
            mount: mount.to_owned(),
            gauge,
        }
    }

    pub(super) fn used_bytes(&self) -> u64 {
        self.used_bytes.load(Ordering::Relaxed)
    }

    pub(super) fn limit_bytes(&self) -> u64 {
        self.limit_bytes.load(Ordering::Relaxed)
    }

    /// Exchanges the limit. What is reserved above a lower one stays.
    pub(super) fn set_limit(&self, limit_bytes: u64) {
        self.limit_bytes.store(limit_bytes, Ordering::Relaxed);
    }

    /// Reserves `bytes` or nothing.
    pub(super) fn reserve(&self, bytes: u64) -> Result<()> {
        let limit_bytes = self.limit_bytes.load(Ordering::Relaxed);
        let fits = |used: u64| used.checked_add(bytes).filter(|sum| *sum <= limit_bytes);
        if self.used_bytes.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits).is_err() {
            let message = format!(
                "the staging quota of {} is full: {bytes} more bytes do not fit into limits.staging_bytes = {limit_bytes}",
                self.mount
            );
            return Err(Error::new(ErrorKind::NoSpace, message));
        }
        self.gauge.add(bytes as i64);
        Ok(())
    }

    /// Counts bytes that are on the disk already, whatever the limit says.
    pub(super) fn take(&self, bytes: u64) {
        self.used_bytes.fetch_add(bytes, Ordering::Relaxed);
        self.gauge.add(bytes as i64);
    }

    /// Gives reserved bytes back.
    pub(super) fn release(&self, bytes: u64) {
        self.used_bytes.fetch_sub(bytes, Ordering::Relaxed);
        self.gauge.sub(bytes as i64);
    }
}
