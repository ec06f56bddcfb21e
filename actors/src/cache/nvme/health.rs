//! Whether the disk of a cache directory answers and takes writes: what fails says so here, and the keeper probes.
//!
//! - *ok*: all is used.
//! - *degraded*: something failed lately, or the disk is just back. It is read, takes few writes, and is probed.
//! - *down*: it takes no writes. One that is *silent* (hangs, cannot be read, or the directory is not there) is not read
//!   either; what is cached there keeps its place. A probe that succeeds makes it degraded, another one ok.
//!
//! Readers wait for the disk in turns: none longer than [`DEADLINE`], and no more of them than [`PLACES`] hang. What
//! works in the background is one thread for each kind of work, and waited for with more patience.
//!
//! A full queue is no failure. Below a floor of free space and free inodes, which is left to whatever else lives on the
//! disk, nothing is written, and that is no failure either. A disk that is slow and answers others is not silent.

use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use forebay_core::{DiskTurns, METRICS};
use prometheus::IntGauge;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::{JoinError, JoinHandle};
use tokio::time::{Instant, timeout};

/// Longest wait of a reader for the disk, before it goes to the store.
const DEADLINE: Duration = Duration::from_secs(2);

/// Readers that wait for the disk at once.
const PLACES: usize = 32;

/// Longest time without an answer that background work takes for slowness: a write may wait for what the kernel
/// writes back.
const PATIENCE: Duration = Duration::from_secs(10);

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

/// What failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// It can be read, as far as is known.
    Write,
    /// It cannot.
    Read,
}

impl Failure {
    /// Where a disk ends that fails so.
    fn end(self) -> State {
        match self {
            Self::Write => State::Down,
            Self::Read => State::Silent,
        }
    }
}

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
    /// Whether `state` is ok, where each open finds it.
    is_ok: AtomicBool,
    turns: DiskTurns,
    born: Instant,
    /// Milliseconds after `born`.
    next_check: AtomicU64,
    has_room: AtomicBool,
    gauge: IntGauge,
}

impl Health {
    pub(super) fn new(directory: &str, runtime: Handle) -> Self {
        let gauge = METRICS.cache_disk_state.with_label_values(&[directory]);
        gauge.set(State::Ok.level());
        Self {
            gauge,
            state: watch::Sender::new(State::Ok),
            is_silent: AtomicBool::new(false),
            is_ok: AtomicBool::new(true),
            turns: DiskTurns::new(PLACES, DEADLINE, runtime),
            born: Instant::now(),
            next_check: AtomicU64::new(0),
            has_room: AtomicBool::new(true),
        }
    }

    /// Something failed that should not have.
    pub(super) fn fail(&self, failure: Failure) {
        self.change(|state| match state {
            State::Ok => State::Degraded { failures: 1 },
            State::Degraded { failures } if failures + 1 < FAILURES_MAX => {
                State::Degraded { failures: failures + 1 }
            }
            State::Degraded { .. } | State::Down => failure.end(),
            State::Silent => State::Silent,
        });
    }

    /// The disk does not answer, or the directory is not there.
    pub(super) fn fall_silent(&self) {
        self.change(|_| State::Silent);
    }

    /// Somebody waited in vain. Others may have had an answer.
    pub(super) fn miss_deadline(&self) {
        if self.turns.has_been_stuck_for(DEADLINE) {
            self.fall_silent();
        }
    }

    /// What a probe found of a disk that was in the state `before`: failures since then are newer than the probe.
    pub(super) fn probed(&self, before: State, found: Result<(), Failure>) {
        self.change(|state| match (state, found) {
            (State::Ok, _) => State::Ok,
            (State::Degraded { .. }, Ok(())) if state == before => State::Ok,
            (State::Degraded { .. } | State::Down | State::Silent, Ok(())) => State::Degraded { failures: 0 },
            (State::Silent, Err(_)) => State::Silent,
            (State::Degraded { .. } | State::Down, Err(failure)) => failure.end(),
        });
    }

    /// Where readers wait.
    pub(super) fn turns(&self) -> &DiskTurns {
        &self.turns
    }

    /// Runs `work`, which may block on the disk; `None` when the disk does not answer in time, or it panicked.
    pub(super) async fn in_turn<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Option<T> {
        let answer = self.turns.run(work).await;
        if answer.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::TimedOut) {
            self.miss_deadline();
        }
        answer.ok()
    }

    /// Waits for background work for as long as it takes. The disk is silent once it answers nobody meanwhile.
    pub(super) async fn watch_over<T>(&self, mut work: JoinHandle<T>) -> Result<T, JoinError> {
        loop {
            if let Ok(done) = timeout(PATIENCE, &mut work).await {
                self.turns.note_answer();
                return done;
            }
            if self.turns.has_been_stuck_for(PATIENCE) {
                self.fall_silent();
            }
        }
    }

    /// Returns once the disk is silent.
    pub(super) async fn silence(&self) {
        // The sender lives as long as this.
        self.subscribe().wait_for(|state| *state == State::Silent).await.map(drop).unwrap_or_default();
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

    /// Whether nothing failed lately.
    pub(super) fn is_ok(&self) -> bool {
        self.is_ok.load(Ordering::Relaxed)
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
                self.fail(Failure::Write);
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
            self.turns.shut(*state == State::Silent);
            self.is_ok.store(*state == State::Ok, Ordering::Relaxed);
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
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn floor_is_the_larger_of_share_and_bytes() {
        assert!(!is_above_floor(1 << 30, (64 << 20) - 1));
        assert!(is_above_floor(1 << 30, 64 << 20));
        assert!(!is_above_floor(1 << 40, 64 << 20));
        assert!(is_above_floor(1 << 40, 1 << 35));
    }

    fn health() -> Health {
        Health::new("/test", Handle::current())
    }

    #[tokio::test]
    async fn disk_that_fails_again_and_again_is_down_and_comes_back_by_probes() {
        let health = health();
        health.fail(Failure::Write);
        assert!(health.is_degraded() && !health.is_ok() && health.is_writable(Path::new("/")));
        for _ in 1..FAILURES_MAX {
            health.fail(Failure::Write);
        }
        assert!(health.is_down() && !health.is_silent(), "what is there may still be read");
        assert!(!health.is_writable(Path::new("/")));
        health.probed(health.state(), Err(Failure::Write));
        assert!(health.is_down());
        health.probed(health.state(), Ok(()));
        assert!(health.is_degraded());
        health.probed(health.state(), Ok(()));
        assert_eq!(health.state(), State::Ok);
        assert!(health.is_ok());
    }

    #[tokio::test]
    async fn one_failure_of_a_disk_that_answers_its_probe_costs_nothing_more() {
        let health = health();
        health.fail(Failure::Read);
        health.probed(health.state(), Ok(()));
        assert_eq!(health.state(), State::Ok);
    }

    #[tokio::test]
    async fn failure_beside_a_probe_that_succeeds_keeps_the_disk_degraded() {
        let health = health();
        health.fail(Failure::Write);
        let before = health.state();
        health.fail(Failure::Write);
        health.probed(before, Ok(()));
        assert_eq!(health.state(), State::Degraded { failures: 0 });
    }

    #[tokio::test]
    async fn disk_that_cannot_be_read_is_not_read_until_a_probe_succeeds() {
        let health = health();
        health.fail(Failure::Write);
        health.probed(health.state(), Err(Failure::Read));
        assert!(health.is_silent() && health.is_down());
        health.fail(Failure::Write);
        health.probed(health.state(), Err(Failure::Write));
        assert!(health.is_silent(), "nobody has read it since");
        health.probed(health.state(), Ok(()));
        assert!(!health.is_silent() && health.is_degraded());
    }

    #[tokio::test(start_paused = true)]
    async fn reader_of_a_disk_that_hangs_goes_away_after_the_deadline_and_the_next_ones_at_once() {
        let (health, (release, hang)) = (health(), mpsc::channel::<()>());
        let begun = Instant::now();
        let read = health.in_turn(move || hang.recv().is_ok());
        // Paused time stands still while a thread is at work.
        let passes = tokio::time::advance(DEADLINE);
        let (answer, ()) = tokio::join!(read, passes);
        assert!(answer.is_none() && health.is_silent());
        let waited = begun.elapsed();
        assert!(health.in_turn(|| ()).await.is_none());
        assert_eq!(begun.elapsed(), waited);
        drop(release);
    }

    #[tokio::test(start_paused = true)]
    async fn background_work_is_waited_for_but_makes_a_disk_silent_that_answers_nobody() {
        let (health, (release, hang)) = (health(), mpsc::channel::<()>());
        let work = tokio::task::spawn_blocking(move || hang.recv().is_err());
        let time = async {
            tokio::time::advance(PATIENCE).await;
            health.silence().await;
            drop(release);
        };
        let (done, ()) = tokio::join!(health.watch_over(work), time);
        assert!(done.expect("no panic") && health.is_silent());
    }

    #[test]
    fn inodes_have_a_floor_where_they_are_counted() {
        assert!(has_inodes(0, 0));
        assert!(has_inodes(1_000_000, 10_000));
        assert!(!has_inodes(1_000_000, 9_999));
    }

    #[tokio::test]
    async fn directory_that_is_gone_takes_no_writes() {
        let health = health();
        assert!(!health.is_writable(Path::new("/nonexistent/forebay")));
        assert!(health.is_degraded());
    }
}
