//! The time of day as it goes on from what it was at start: content ages by how long it is there, and a wall clock that
//! jumps makes nothing older or younger.
//!
//! What was written by another run is as old as the wall clock of this start says, and as old as can be if that is
//! before it was written.

use std::sync::LazyLock;
use std::time::SystemTime;

use forebay_core::Clock;
use tokio::time::Instant;

/// The time of day at one moment of this run.
static START: LazyLock<(SystemTime, Instant)> = LazyLock::new(|| (Clock::system().now(), Instant::now()));

/// The time of day.
pub(super) fn now() -> SystemTime {
    let (day, moment) = *START;
    day + moment.elapsed()
}
