//! What happens in the disk tier, over all of its directories and mounts; the rest is in the tallies of the mounts.

use forebay_core::METRICS;
use prometheus::IntCounter;

use super::writer::WaitingGauges;

pub(super) struct Counters {
    pub(super) damaged: IntCounter,
    pub(super) waiting: WaitingGauges,
}

impl Counters {
    pub(super) fn new() -> Self {
        Self {
            damaged: METRICS.cache_damaged_pages.with_label_values(&["nvme"]),
            waiting: WaitingGauges::new(),
        }
    }
}
