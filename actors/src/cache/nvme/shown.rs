//! What operators see of the tier's forms, brought up to date with the index log.

use std::sync::atomic::{AtomicI64, Ordering};

use forebay_core::METRICS;
use prometheus::IntGauge;

use super::NvmeTier;
use super::packed::Packed;

/// What one tier adds to gauges that all disks of the kind share.
pub(super) struct Shown {
    file_bytes: Part,
    files: Part,
    segment_bytes: Part,
    objects: Part,
    dead_bytes: Part,
}

/// A part of a gauge; dropping it takes it away.
struct Part {
    gauge: IntGauge,
    value: AtomicI64,
}

impl Part {
    fn of(gauge: IntGauge) -> Self {
        Self { gauge, value: AtomicI64::new(0) }
    }

    fn set(&self, value: u64) {
        let value = i64::try_from(value).unwrap_or(i64::MAX);
        self.gauge.add(value - self.value.swap(value, Ordering::Relaxed));
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        self.set(0);
    }
}

impl Shown {
    pub(super) fn new() -> Self {
        let bytes = |form| Part::of(METRICS.cache_disk_bytes.with_label_values(&["nvme", form]));
        let contents = |form| Part::of(METRICS.cache_disk_contents.with_label_values(&["nvme", form]));
        Self {
            file_bytes: bytes("files"),
            files: contents("files"),
            segment_bytes: bytes("segments"),
            objects: contents("segments"),
            dead_bytes: Part::of(METRICS.cache_dead_bytes.with_label_values(&["nvme"])),
        }
    }
}

impl NvmeTier {
    /// Shows what there is.
    pub(super) fn show(&self) {
        let packed = self.packed.as_ref();
        let segment_bytes = packed.map_or(0, Packed::disk_bytes);
        // Files that went and are still read count as files.
        self.shown.file_bytes.set(self.budget.used().saturating_sub(segment_bytes));
        self.shown.files.set(self.files.len() as u64);
        self.shown.segment_bytes.set(segment_bytes);
        self.shown.objects.set(packed.map_or(0, Packed::objects) as u64);
        self.shown.dead_bytes.set(packed.map_or(0, Packed::dead_bytes));
    }
}
