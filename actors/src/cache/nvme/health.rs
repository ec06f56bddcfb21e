//! Whether the disk takes writes: not for a while after it failed one, and not below a floor of free space and free
//! inodes that is left to whatever else lives on it.
//!
//! A disk that failed a write is *down* for [`BREAK`] and then *degraded*: the next write is a probe, which brings it
//! back or down again. A full queue is no failure.

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use forebay_core::METRICS;
use prometheus::IntGauge;
use tokio::time::Instant;

/// How long a disk that failed a write gets none.
const BREAK: Duration = Duration::from_secs(30);

/// How long an answer about free space holds.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// Free bytes never used.
const FLOOR_BYTES: u64 = 64 << 20;

/// Share of the disk never used.
const FLOOR_PERCENT: u64 = 2;

/// Share of the inodes never used.
const FLOOR_INODES_PERCENT: u64 = 1;

/// What the gauge shows.
#[derive(Clone, Copy)]
enum State {
    Ok = 0,
    Degraded = 1,
    Down = 2,
}

/// The disk's state, as far as writes go.
pub(super) struct Health {
    born: Instant,
    /// Milliseconds after `born`.
    broken_until: AtomicU64,
    /// Milliseconds after `born`.
    next_check: AtomicU64,
    has_room: AtomicBool,
    gauge: IntGauge,
}

impl Health {
    pub(super) fn new() -> Self {
        let gauge = METRICS.cache_disk_state.with_label_values(&["nvme"]);
        gauge.set(State::Ok as i64);
        Self {
            gauge,
            born: Instant::now(),
            broken_until: AtomicU64::new(0),
            next_check: AtomicU64::new(0),
            has_room: AtomicBool::new(true),
        }
    }

    pub(super) fn break_down(&self) {
        self.broken_until.store(self.now_ms() + BREAK.as_millis() as u64, Ordering::Relaxed);
        self.gauge.set(State::Down as i64);
    }

    /// A write succeeded.
    pub(super) fn recover(&self) {
        if self.broken_until.load(Ordering::Relaxed) > 0 && !self.is_broken() {
            self.broken_until.store(0, Ordering::Relaxed);
            self.gauge.set(State::Ok as i64);
        }
    }

    pub(super) fn is_broken(&self) -> bool {
        let until = self.broken_until.load(Ordering::Relaxed);
        until > 0 && self.now_ms() < until
    }

    /// Whether the disk under `directory` may be written to.
    pub(super) fn is_writable(&self, directory: &Path) -> bool {
        let now = self.now_ms();
        if now >= self.next_check.load(Ordering::Relaxed) {
            self.next_check.store(now + CHECK_INTERVAL.as_millis() as u64, Ordering::Relaxed);
            let has_room = rustix::fs::statvfs(directory).is_ok_and(|disk| {
                is_above_floor(disk.f_blocks * disk.f_frsize, disk.f_bavail * disk.f_frsize)
                    && has_inodes(disk.f_files, disk.f_favail)
            });
            self.has_room.store(has_room, Ordering::Relaxed);
        }
        let is_broken = self.is_broken();
        if !is_broken && self.broken_until.load(Ordering::Relaxed) > 0 {
            self.gauge.set(State::Degraded as i64);
        }
        self.has_room.load(Ordering::Relaxed) && !is_broken
    }

    fn now_ms(&self) -> u64 {
        self.born.elapsed().as_millis() as u64
    }
}

fn is_above_floor(size_bytes: u64, free_bytes: u64) -> bool {
    free_bytes >= FLOOR_BYTES.max(size_bytes / 100 * FLOOR_PERCENT)
}

/// File systems that make inodes as they need them report none at all, used or free.
fn has_inodes(all: u64, free: u64) -> bool {
    all == 0 || free >= all / 100 * FLOOR_INODES_PERCENT
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floor_is_the_larger_of_share_and_bytes() {
        assert!(!is_above_floor(1 << 30, (64 << 20) - 1));
        assert!(is_above_floor(1 << 30, 64 << 20));
        assert!(!is_above_floor(1 << 40, 64 << 20));
        assert!(is_above_floor(1 << 40, 1 << 35));
    }

    #[tokio::test(start_paused = true)]
    async fn broken_disk_is_tried_again_after_a_while() {
        let health = Health::new();
        assert!(!health.is_broken());
        health.break_down();
        assert!(!health.is_writable(Path::new("/")));
        health.recover();
        assert!(health.is_broken(), "a write that began before it broke brings nothing back");
        tokio::time::advance(BREAK).await;
        assert!(!health.is_broken());
        assert!(health.is_writable(Path::new("/")));
        assert!(health.broken_until.load(Ordering::Relaxed) > 0, "degraded until a write succeeds");
        health.recover();
        assert_eq!(health.broken_until.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn inodes_have_a_floor_where_they_are_counted() {
        assert!(has_inodes(0, 0));
        assert!(has_inodes(1_000_000, 10_000));
        assert!(!has_inodes(1_000_000, 9_999));
    }

    #[test]
    fn directory_that_is_gone_takes_no_writes() {
        assert!(!Health::new().is_writable(Path::new("/nonexistent/forebay")));
    }
}
