//! Whether the disk of a cache directory answers and takes writes: what fails says so here, and the keeper probes.
//!
//! - *ok*: all is used.
//! - *degraded*: something failed lately, or the disk is just back. It is read, takes few writes, and is probed.
//! - *down*: it takes no writes. One that is *silent* (hangs, or the directory is not there) is not read either; what is
//!   cached there keeps its place. A probe that succeeds makes it degraded, another one ok.
//!
//! A full queue is no failure. Below a floor of free space and free inodes, which is left to whatever else lives on the
//! disk, nothing is written, and that is no failure either.

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use forebay_core::METRICS;
use prometheus::IntGauge;
use tokio::sync::watch;
use tokio::time::Instant;

/// Failures of a degraded disk between two probes that bring it down.
const FAILURES_MAX: u32 = 3;

/// How long an answer about free space holds.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// Free bytes never used.
const FLOOR_BYTES: u64 = 64 << 20;

/// Share of the disk never used.
const FLOOR_PERCENT: u64 = 2;

/// Share of the inodes never used.
const FLOOR_INODES_PERCENT: u64 = 1;

/// What a disk does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// All.
    Ok,
    /// All, with care.
    Degraded {
        /// Since it was last probed.
        failures: u32,
    },
    /// Nothing but reads.
    Down,
    /// Nothing.
    Silent,
}

impl State {
    /// What the gauge shows.
    fn level(self) -> i64 {
        match self {
            Self::Ok => 0,
            Self::Degraded { .. } => 1,
            Self::Down | Self::Silent => 2,
        }
    }
}

/// The state of the disk under one directory.
pub(super) struct Health {
    state: watch::Sender<State>,
    /// That of `state`, where each hit finds it for one load.
    is_silent: AtomicBool,
    born: Instant,
    /// Milliseconds after `born`.
    next_check: AtomicU64,
    has_room: AtomicBool,
    gauge: IntGauge,
}

impl Health {
    pub(super) fn new(directory: &str) -> Self {
        let gauge = METRICS.cache_disk_state.with_label_values(&[directory]);
        gauge.set(State::Ok.level());
        Self {
            gauge,
            state: watch::Sender::new(State::Ok),
            is_silent: AtomicBool::new(false),
            born: Instant::now(),
            next_check: AtomicU64::new(0),
            has_room: AtomicBool::new(true),
        }
    }

    /// A read or a write failed that should not have.
    pub(super) fn fail(&self) {
        self.change(|state| match state {
            State::Ok => State::Degraded { failures: 1 },
            State::Degraded { failures } if failures + 1 < FAILURES_MAX => {
                State::Degraded { failures: failures + 1 }
            }
            State::Degraded { .. } | State::Down => State::Down,
            State::Silent => State::Silent,
        });
    }

    /// The disk does not answer, or the directory is not there.
    pub(super) fn fall_silent(&self) {
        self.change(|_| State::Silent);
    }

    /// What a probe found of a disk that was in the state `before`: failures since then are newer than the probe.
    pub(super) fn probed(&self, before: State, is_good: bool) {
        self.change(|state| match (state, is_good) {
            (State::Degraded { .. }, true) if state == before => State::Ok,
            (State::Degraded { .. } | State::Down | State::Silent, true) => State::Degraded { failures: 0 },
            (State::Degraded { .. } | State::Down, false) => State::Down,
            (State::Silent, false) => State::Silent,
            (State::Ok, _) => State::Ok,
        });
    }

    /// Hears of every change.
    pub(super) fn subscribe(&self) -> watch::Receiver<State> {
        self.state.subscribe()
    }

    pub(super) fn state(&self) -> State {
        *self.state.borrow()
    }

    /// Whether it takes no writes.
    pub(super) fn is_down(&self) -> bool {
        matches!(self.state(), State::Down | State::Silent)
    }

    /// Whether it must not be read.
    pub(super) fn is_silent(&self) -> bool {
        self.is_silent.load(Ordering::Relaxed)
    }

    pub(super) fn is_degraded(&self) -> bool {
        matches!(self.state(), State::Degraded { .. })
    }

    /// Whether the disk under `directory` may be written to.
    pub(super) fn is_writable(&self, directory: &Path) -> bool {
        let now = self.born.elapsed().as_millis() as u64;
        if now >= self.next_check.load(Ordering::Relaxed) {
            self.next_check.store(now + CHECK_INTERVAL.as_millis() as u64, Ordering::Relaxed);
            let has_room = if let Ok(disk) = rustix::fs::statvfs(directory) {
                is_above_floor(disk.f_blocks * disk.f_frsize, disk.f_bavail * disk.f_frsize)
                    && has_inodes(disk.f_files, disk.f_favail)
            } else {
                self.fail();
                false
            };
            self.has_room.store(has_room, Ordering::Relaxed);
        }
        self.has_room.load(Ordering::Relaxed) && !self.is_down()
    }

    fn change(&self, next: impl FnOnce(State) -> State) {
        self.state.send_if_modified(|state| {
            let before = std::mem::replace(state, next(*state));
            self.is_silent.store(*state == State::Silent, Ordering::Relaxed);
            self.gauge.set(state.level());
            before != *state
        });
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

    #[test]
    fn disk_that_fails_again_and_again_is_down_and_comes_back_by_probes() {
        let health = Health::new("/test");
        health.fail();
        assert!(health.is_degraded() && health.is_writable(Path::new("/")));
        for _ in 1..FAILURES_MAX {
            health.fail();
        }
        assert!(health.is_down() && !health.is_silent(), "what is there may still be read");
        assert!(!health.is_writable(Path::new("/")));
        health.probed(health.state(), false);
        assert!(health.is_down());
        health.probed(health.state(), true);
        assert!(health.is_degraded());
        health.probed(health.state(), true);
        assert_eq!(health.state(), State::Ok);
    }

    #[test]
    fn one_failure_of_a_disk_that_answers_its_probe_costs_nothing_more() {
        let health = Health::new("/test");
        health.fail();
        health.probed(health.state(), true);
        assert_eq!(health.state(), State::Ok);
    }

    #[test]
    fn failure_beside_a_probe_that_succeeds_keeps_the_disk_degraded() {
        let health = Health::new("/test");
        health.fail();
        let before = health.state();
        health.fail();
        health.probed(before, true);
        assert_eq!(health.state(), State::Degraded { failures: 0 });
    }

    #[test]
    fn silent_disk_is_not_read_until_a_probe_succeeds() {
        let health = Health::new("/test");
        health.fall_silent();
        health.fail();
        health.probed(health.state(), false);
        assert!(health.is_silent() && health.is_down());
        health.probed(health.state(), true);
        assert!(!health.is_silent() && health.is_degraded());
    }

    #[test]
    fn inodes_have_a_floor_where_they_are_counted() {
        assert!(has_inodes(0, 0));
        assert!(has_inodes(1_000_000, 10_000));
        assert!(!has_inodes(1_000_000, 9_999));
    }

    #[test]
    fn directory_that_is_gone_takes_no_writes() {
        let health = Health::new("/test");
        assert!(!health.is_writable(Path::new("/nonexistent/forebay")));
        assert!(health.is_degraded());
    }
}
