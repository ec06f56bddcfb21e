//! The hard cap of a tier: bytes are reserved before they exist and come back when the reservation is dropped.
//!
//! Invariant: the reserved bytes never exceed the capacity, with or without an evictor.

use std::sync::Arc;

use forebay_core::METRICS;
use prometheus::IntGauge;

use super::class::Class;
use super::evictor::Pressure;
use super::sync::atomic::{AtomicU64, Ordering};
use crate::config::CacheConfig;

/// Bytes of one tier.
pub(super) struct Budget {
    used: AtomicU64,
    capacity: u64,
    high: u64,
    low: u64,
    pressure: Pressure,
    gauge: IntGauge,
    /// The same of one directory of the tier.
    directory_gauge: Option<IntGauge>,
}

impl Budget {
    pub(super) fn new(tier: &'static str, capacity: u64, config: &CacheConfig) -> Self {
        METRICS.cache_capacity_bytes.with_label_values(&[tier]).set(capacity as i64);
        Self::counted(tier, None, capacity, config)
    }

    /// That of one directory of the disk tier.
    pub(super) fn of_directory(path: &str, capacity: u64, config: &CacheConfig) -> Self {
        METRICS.cache_disk_capacity_bytes.with_label_values(&[path]).set(capacity as i64);
        let gauge = METRICS.cache_disk_used_bytes.with_label_values(&[path]);
        Self::counted("nvme", Some(gauge), capacity, config)
    }

    fn counted(
        tier: &'static str,
        directory_gauge: Option<IntGauge>,
        capacity: u64,
        config: &CacheConfig,
    ) -> Self {
        let share = |percent: u8| (u128::from(capacity) * u128::from(percent.min(100)) / 100) as u64;
        Self {
            used: AtomicU64::new(0),
            capacity,
            high: share(config.high_percent),
            low: share(config.low_percent),
            pressure: Pressure::default(),
            gauge: METRICS.cache_used_bytes.with_label_values(&[tier]),
            directory_gauge,
        }
    }

    /// Takes `bytes` if the cap allows; wakes the evictor above the high watermark.
    pub(super) fn try_reserve(self: &Arc<Self>, bytes: u64) -> Option<Reservation> {
        let add = |used: u64| used.checked_add(bytes).filter(|sum| *sum <= self.capacity);
        let before = self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add).ok()?;
        self.show(bytes as i64);
        if before + bytes > self.high {
            self.pressure.raise();
        }
        Some(Reservation { budget: Arc::clone(self), bytes, class: None })
    }

    fn show(&self, change: i64) {
        self.gauge.add(change);
        if let Some(gauge) = &self.directory_gauge {
            gauge.add(change);
        }
    }

    /// How much must go to reach the low watermark.
    pub(super) fn excess(&self) -> u64 {
        self.used().saturating_sub(self.low)
    }

    pub(super) fn capacity(&self) -> u64 {
        self.capacity
    }

    pub(super) fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    pub(super) fn is_above_high(&self) -> bool {
        self.used() > self.high
    }

    pub(super) fn pressure(&self) -> &Pressure {
        &self.pressure
    }
}

/// Reserved bytes; dropping it gives them back.
pub(super) struct Reservation {
    budget: Arc<Budget>,
    bytes: u64,
    /// Whose quota they count against.
    class: Option<Arc<Class>>,
}

impl Reservation {
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// So many bytes more of the same budget, if the cap allows.
    pub(super) fn more(&self, bytes: u64) -> Option<Self> {
        self.budget.try_reserve(bytes)
    }

    /// Counts it against the quota of a class as well; `None`, and all is given back, when that is full.
    pub(super) fn charge(mut self, class: &Arc<Class>) -> Option<Self> {
        if !class.try_take(self.bytes) {
            return None;
        }
        self.class = Some(Arc::clone(class));
        Some(self)
    }

    /// Parts `bytes` of it, for the same class; `None` if it has not so many.
    pub(super) fn split(&mut self, bytes: u64) -> Option<Self> {
        self.bytes = self.bytes.checked_sub(bytes)?;
        Some(Self { budget: Arc::clone(&self.budget), bytes, class: self.class.clone() })
    }

    /// Gives back what is more than `bytes`; of no class.
    pub(super) fn shrink_to(&mut self, bytes: u64) {
        debug_assert!(self.class.is_none(), "of no class");
        let freed = self.bytes.saturating_sub(bytes);
        self.bytes -= freed;
        drop(Self { budget: Arc::clone(&self.budget), bytes: freed, class: None });
    }

    /// Counts it against the quota of another class; `false`, and nothing changes, when that is full.
    pub(super) fn recharge(&mut self, class: &Arc<Class>) -> bool {
        if !class.try_take(self.bytes) {
            return false;
        }
        if let Some(before) = self.class.replace(Arc::clone(class)) {
            before.give_back(self.bytes);
        }
        true
    }

    /// Adds the bytes of another reservation of the same budget and class.
    pub(super) fn absorb(&mut self, mut other: Self) {
        debug_assert!(Arc::ptr_eq(&self.budget, &other.budget), "one budget");
        self.bytes += std::mem::take(&mut other.bytes);
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.budget.used.fetch_sub(self.bytes, Ordering::Relaxed);
        self.budget.show(-(self.bytes as i64));
        if let Some(class) = &self.class {
            class.give_back(self.bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cap_holds_and_dropping_gives_back() {
        let config = CacheConfig { memory_bytes: 100, nvme: None, high_percent: 90, low_percent: 50 };
        let budget = Arc::new(Budget::new("test", 100, &config));
        let first = budget.try_reserve(95).expect("room");
        assert!(budget.try_reserve(6).is_none());
        assert!(budget.try_reserve(u64::MAX).is_none());
        assert!(budget.is_above_high());
        assert_eq!(budget.excess(), 45);
        drop(first);
        assert_eq!(budget.used(), 0);
        assert!(budget.try_reserve(100).is_some());
    }
}
