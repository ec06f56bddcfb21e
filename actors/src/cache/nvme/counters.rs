//! What happens in the disk tier, over all of its directories.

use forebay_core::METRICS;
use prometheus::IntCounter;

use super::writer::WaitingGauges;

pub(super) struct Counters {
    pub(super) evicted: IntCounter,
    pub(super) evicted_inline: IntCounter,
    pub(super) evicted_version: IntCounter,
    pub(super) evicted_segments: IntCounter,
    pub(super) expired: IntCounter,
    pub(super) refused_full: IntCounter,
    pub(super) refused_queue: IntCounter,
    pub(super) refused_disk: IntCounter,
    pub(super) damaged: IntCounter,
    pub(super) refused_quota: IntCounter,
    pub(super) refused_epoch: IntCounter,
    pub(super) refused_admission: IntCounter,
    pub(super) waiting: WaitingGauges,
}

impl Counters {
    pub(super) fn new() -> Self {
        let evictions = |cause| METRICS.cache_evictions.with_label_values(&["nvme", cause]);
        let refusals = |cause| METRICS.cache_refusals.with_label_values(&["nvme", cause]);
        Self {
            evicted: evictions("watermark"),
            evicted_inline: evictions("inline"),
            evicted_version: evictions("version"),
            evicted_segments: evictions("segment"),
            expired: evictions("expired"),
            refused_full: refusals("full"),
            refused_queue: refusals("queue"),
            refused_disk: refusals("disk"),
            damaged: METRICS.cache_damaged_pages.with_label_values(&["nvme"]),
            refused_quota: refusals("quota"),
            refused_epoch: refusals("epoch"),
            refused_admission: refusals("admission"),
            waiting: WaitingGauges::new(),
        }
    }
}
