//! What the tiers let go of one mount and did not take, in the series that operators see.
//!
//! A class has the tally of its mount, see `rules.rs`; what an earlier run left and nobody asked for since has one
//! without a name.

use std::sync::{Arc, LazyLock};

use forebay_core::METRICS;
use prometheus::IntCounter;

static UNCLAIMED: LazyLock<Arc<Tally>> = LazyLock::new(|| Arc::new(Tally::of("")));

/// Of one mount.
pub(super) struct Tally {
    pub(super) memory: MemoryTally,
    pub(super) nvme: NvmeTally,
}

/// Pages.
pub(super) struct MemoryTally {
    pub(super) evicted: IntCounter,
    pub(super) evicted_inline: IntCounter,
    pub(super) evicted_version: IntCounter,
    pub(super) expired: IntCounter,
    pub(super) refused: IntCounter,
}

/// Files and segments that went, pages and small objects that did not come.
pub(super) struct NvmeTally {
    pub(super) evicted: IntCounter,
    pub(super) evicted_inline: IntCounter,
    pub(super) evicted_version: IntCounter,
    pub(super) evicted_segments: IntCounter,
    pub(super) expired: IntCounter,
    pub(super) refused_full: IntCounter,
    pub(super) refused_queue: IntCounter,
    pub(super) refused_disk: IntCounter,
    pub(super) refused_quota: IntCounter,
    pub(super) refused_epoch: IntCounter,
    pub(super) refused_admission: IntCounter,
}

impl Tally {
    pub(super) fn of(mount: &str) -> Self {
        let evictions = |tier, cause| METRICS.cache_evictions.with_label_values(&[mount, tier, cause]);
        let refusals = |tier, cause| METRICS.cache_refusals.with_label_values(&[mount, tier, cause]);
        Self {
            memory: MemoryTally {
                evicted: evictions("memory", "watermark"),
                evicted_inline: evictions("memory", "inline"),
                evicted_version: evictions("memory", "version"),
                expired: evictions("memory", "expired"),
                refused: refusals("memory", "full"),
            },
            nvme: NvmeTally {
                evicted: evictions("nvme", "watermark"),
                evicted_inline: evictions("nvme", "inline"),
                evicted_version: evictions("nvme", "version"),
                evicted_segments: evictions("nvme", "segment"),
                expired: evictions("nvme", "expired"),
                refused_full: refusals("nvme", "full"),
                refused_queue: refusals("nvme", "queue"),
                refused_disk: refusals("nvme", "disk"),
                refused_quota: refusals("nvme", "quota"),
                refused_epoch: refusals("nvme", "epoch"),
                refused_admission: refusals("nvme", "admission"),
            },
        }
    }

    /// Of what belongs to no mount that is known.
    pub(super) fn unclaimed() -> Arc<Self> {
        Arc::clone(&UNCLAIMED)
    }
}
